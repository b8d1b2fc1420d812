//! Versions, aliases, routing and the door.

use std::collections::BTreeSet;

use events::{ModelName, ModelVersion, TenantId};
use model_registry::lineage::Purpose;
use model_registry::{Alias, ClientError, NewVersion, RegistryClient};
use service::api_keys::Scope;
use service::config::Secret;
use tokio_stream::StreamExt;

use crate::fixture::{Fixture, code, model};

test_databases::on_both_databases! {
    registers_serves_and_tells,
    a_tampered_or_missing_artifact_is_refused,
    lineage_is_checked_and_audiences_never_widen,
    aliases_move_by_compare_and_set,
    a_watcher_sees_every_newest_table,
    strangers_are_refused_and_tenants_do_not_see_each_other,
    versions_registered_at_once_are_numbered_without_gaps,
    readings_of_pairs_stand_in_the_audit_log,
}

async fn registers_serves_and_tells() {
    let fixture = Fixture::with_versions(2).await;
    let client = &fixture.client;
    let versions = client.list_versions(&model()).await.unwrap();
    assert_eq!(versions.iter().map(|version| version.version.0).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(client.get_version(&model(), ModelVersion(2)).await.unwrap(), versions[0]);
    assert_eq!(versions[0].parent, Some(ModelVersion(1)));
    assert_eq!(versions[0].evaluation["gate"], "passed");
    assert_eq!(versions[0].manifest["files"].as_array().unwrap().len(), 2);

    let table = client.get_routing(&model()).await.unwrap();
    assert_eq!((table.current.version, table.rollout.is_none()), (ModelVersion(1), true));
    assert_eq!(table.reference.unwrap().version, ModelVersion(1));
    let models = client.list_models().await.unwrap();
    assert_eq!((models[0].versions, models[0].current, models[0].revision), (2, Some(ModelVersion(1)), 4));
    assert_eq!(
        fixture.assert_audit_is_complete().await,
        [
            "version_registered by key test",
            "alias_set by key test",
            "alias_set by key test",
            "version_registered by key test"
        ]
    );

    // Once more is no change.
    let first = fixture.new_version("v1").await;
    let summary = client.ensure_first_version(&first).await.unwrap();
    assert_eq!((summary.versions, summary.revision), (2, 4));
    assert_eq!(client.register_version(&first).await.unwrap().version, ModelVersion(1));
    fixture.assert_audit_is_complete().await;
    fixture.shut_down().await;
}

async fn a_tampered_or_missing_artifact_is_refused() {
    let fixture = Fixture::with_versions(1).await;
    let new = fixture.new_version("tampered").await;
    let manifest = artifacts::get_manifest(&fixture.artifacts, &new.artifact_digest).await.unwrap();
    let weights = fixture.object(manifest.file("model.safetensors").unwrap().sha256);
    let good = std::fs::read(&weights).unwrap();

    let mut flipped = good.clone();
    flipped[123] ^= 1;
    std::fs::write(&weights, &flipped).unwrap();
    assert_eq!(code(fixture.client.register_version(&new).await), "artifact_corrupt");
    std::fs::write(&weights, &good[..good.len() - 1]).unwrap();
    assert_eq!(code(fixture.client.register_version(&new).await), "artifact_corrupt");
    std::fs::remove_file(&weights).unwrap();
    assert_eq!(code(fixture.client.register_version(&new).await), "artifact_missing");
    std::fs::write(&weights, &good).unwrap();
    assert_eq!(fixture.client.register_version(&new).await.unwrap().version, ModelVersion(2));

    // A digest that names an object which is no manifest.
    let other = NewVersion { artifact_digest: manifest.files()[0].sha256, ..new.clone() };
    assert_eq!(code(fixture.client.register_version(&other).await), "artifact_corrupt");
    let nothing = NewVersion { artifact_digest: events::Sha256Digest::of(b"nothing"), ..new };
    assert_eq!(code(fixture.client.register_version(&nothing).await), "artifact_missing");
    fixture.assert_audit_is_complete().await;
}

async fn lineage_is_checked_and_audiences_never_widen() {
    let fixture = Fixture::with_versions(1).await;
    let snapshot = fixture.snapshot("payments", &[("a", 1, Purpose::Training)]).await;
    let base = fixture.new_version("learned").await;
    let run = events::RunId::from_uuid("0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d".parse().unwrap());
    let learned = NewVersion {
        parent: Some(ModelVersion(1)),
        anchor: Some(ModelVersion(1)),
        snapshot_digest: Some(snapshot),
        run_id: Some(run),
        audience: Some("payments".parse().unwrap()),
        method: "actionrl".to_owned(),
        ..base.clone()
    };
    let client = &fixture.client;
    let wide = NewVersion { audience: None, ..learned.clone() };
    assert_eq!(code(client.register_version(&wide).await), "audience_mismatch");
    let unknown = NewVersion { snapshot_digest: Some(events::Sha256Digest::of(b"other")), ..learned.clone() };
    assert_eq!(code(client.register_version(&unknown).await), "unknown_snapshot");
    let orphan = NewVersion { anchor: Some(ModelVersion(9)), ..learned.clone() };
    assert_eq!(code(client.register_version(&orphan).await), "unknown_version");
    let no_evaluation = NewVersion { evaluation: serde_json::json!([1]), ..learned.clone() };
    assert_eq!(code(client.register_version(&no_evaluation).await), "invalid_argument");

    let version = client.register_version(&learned).await.unwrap();
    assert_eq!(client.register_version(&learned).await.unwrap(), version);
    let changed = NewVersion { artifact_digest: fixture.artifact("else").await, ..learned.clone() };
    assert_eq!(code(client.register_version(&changed).await), "version_conflict");
    // Weights that learned from payments stay with payments.
    let chained = NewVersion {
        anchor: Some(version.version),
        snapshot_digest: None,
        run_id: None,
        audience: None,
        ..fixture.new_version("chained").await
    };
    assert_eq!(code(client.register_version(&chained).await), "audience_mismatch");
    fixture.assert_audit_is_complete().await;
}

async fn aliases_move_by_compare_and_set() {
    let fixture = Fixture::with_versions(9).await;
    let client = &fixture.client;
    let missing = client.set_alias(&model(), Alias::Current, ModelVersion(77), Some(ModelVersion(1))).await;
    assert_eq!(code(missing), "unknown_version");
    let tries = (2..=9).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            client.set_alias(&model(), Alias::Current, ModelVersion(number), Some(ModelVersion(1))).await
        })
    });
    let mut won = Vec::new();
    let mut lost = BTreeSet::new();
    for task in tries.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(revision) => won.push(revision),
            Err(error) => {
                lost.insert(error.code().unwrap().to_owned());
            }
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(lost.into_iter().collect::<Vec<_>>(), ["alias_conflict"]);
    let table = client.get_routing(&model()).await.unwrap();
    assert_eq!(table.revision, won[0]);
    // Both are for everybody, so the older promotion is never chosen again.
    assert_eq!(table.promoted, std::slice::from_ref(&table.current));
    fixture.assert_audit_is_complete().await;
}

async fn a_watcher_sees_every_newest_table() {
    let fixture = Fixture::with_versions(3).await;
    let mut tables = fixture.client.watch_routing(&model()).await.unwrap();
    assert_eq!(tables.next().await.unwrap().unwrap().current.version, ModelVersion(1));
    for (from, to) in [(1, 2), (2, 3)] {
        fixture.client.set_alias(&model(), Alias::Current, ModelVersion(to), Some(ModelVersion(from))).await.unwrap();
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), tables.next()).await.unwrap();
        assert_eq!(next.unwrap().unwrap().current.version, ModelVersion(to));
    }
    fixture.shut_down().await;
    assert!(!matches!(tables.next().await, Some(Ok(_))));
}

async fn strangers_are_refused_and_tenants_do_not_see_each_other() {
    let fixture = Fixture::with_versions(1).await;
    let stranger = RegistryClient::new(&fixture.address, &Secret::new("fw_nonsense")).unwrap();
    assert_eq!(code(stranger.list_models().await), "unauthorized");
    assert_eq!(code(stranger.get_routing(&model()).await), "unauthorized");
    let suggest = fixture.client_with("default", &[Scope::Suggest]).await;
    assert_eq!(code(suggest.get_routing(&model()).await), "missing_scope");

    let other = fixture.client_with("other", &[Scope::Registry]).await;
    assert_eq!(other.list_models().await.unwrap(), []);
    assert_eq!(code(other.get_routing(&model()).await), "unknown_model");
    assert_eq!(code(other.watch_routing(&model()).await.map(|_| ())), "unknown_model");
    let gone = RegistryClient::new("http://127.0.0.1:1", &Secret::new("fw_x")).unwrap();
    assert!(matches!(gone.list_models().await, Err(ClientError::Unavailable(_))));
}

async fn versions_registered_at_once_are_numbered_without_gaps() {
    let fixture = Fixture::with_versions(1).await;
    let mut registering = Vec::new();
    for number in 2..=9 {
        let (client, new) = (fixture.client.clone(), fixture.new_version(&format!("v{number}")).await);
        // Two of each: the same artifact is the same version.
        for client in [client.clone(), client] {
            let new = new.clone();
            registering.push(tokio::spawn(async move { client.register_version(&new).await.unwrap().version }));
        }
    }
    let mut numbers = Vec::new();
    for pair in registering.chunks_mut(2) {
        let (one, other) = ((&mut pair[0]).await.unwrap(), (&mut pair[1]).await.unwrap());
        assert_eq!(one, other);
        numbers.push(one);
    }
    numbers.sort();
    assert_eq!(numbers, (2..=9).map(ModelVersion).collect::<Vec<_>>());
    fixture.assert_audit_is_complete().await;
}

/// Many at once: none is lost, and the changes of the model keep their numbers without a hole.
async fn readings_of_pairs_stand_in_the_audit_log() {
    let fixture = Fixture::with_versions(2).await;
    let registry = fixture.running.registry.clone();
    let (key, _) = fixture.keys.create(&TenantId::default(), "ada", &[Scope::PairsRead]).await.unwrap();
    let before = fixture.assert_audit_is_complete().await.len();
    let routing = registry.routing(&TenantId::default(), &model()).await.unwrap();
    let detail = serde_json::json!({ "pairs": 1 });
    let readings: Vec<_> = (0..6)
        .map(|_| {
            let (registry, key, detail) = (registry.clone(), key.clone(), detail.clone());
            tokio::spawn(async move {
                registry.record_reading(&key, &model(), "pair_text_shown", "the first pair", &detail).await
            })
        })
        .collect();
    for reading in readings {
        reading.await.unwrap().unwrap();
    }
    let told = fixture.assert_audit_is_complete().await;
    assert_eq!(told.len(), before + 6);
    assert!(told[before..].iter().all(|entry| entry == "pair_text_shown by key ada"), "{told:?}");
    let after = registry.routing(&TenantId::default(), &model()).await.unwrap();
    assert_eq!(after.versions(), routing.versions(), "nothing of the model has changed");
    let absent: ModelName = "absent".parse().unwrap();
    let nobodys = registry.record_reading(&key, &absent, "pair_text_shown", "a pair", &detail).await;
    assert!(nobodys.is_err());
}
