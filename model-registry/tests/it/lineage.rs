//! From a person to every version that learned from it, and back.

use events::{ModelVersion, Sha256Digest};
use model_registry::lineage::{Purpose, evaluation_digest};
use model_registry::{Alias, NewVersion, RolloutState, TraceOf};
use service::api_keys::Scope;

use crate::fixture::{Fixture, code, model, pair_id, person_of, policy};

test_databases::on_both_databases! {
    from_a_person_forward_to_every_data_set_and_version,
    from_a_version_back_to_its_pairs_and_persons,
    a_data_set_that_was_altered_can_neither_be_registered_nor_served,
    a_version_whose_evaluation_or_weights_were_altered_does_not_become_current,
}

/// Version 2 learned from the first data set, 3 from the second, 4 went on from 2 with the second.
async fn family() -> (Fixture, Sha256Digest, Sha256Digest) {
    let fixture = Fixture::with_versions(1).await;
    let first = fixture.snapshot("everyone", &[("a", 1, Purpose::Training), ("b", 2, Purpose::Gate)]).await;
    let second = fixture.snapshot("everyone", &[("b", 2, Purpose::Training), ("c", 3, Purpose::Training)]).await;
    for (number, anchor, snapshot) in [(2, 1, first), (3, 1, second), (4, 2, second)] {
        let new = NewVersion {
            evaluation: serde_json::json!({ "low": 0.1 + 0.2, "gate": "eligible", "number": number }),
            ..fixture.learned(number, anchor, snapshot).await
        };
        assert_eq!(fixture.client.register_version(&new).await.unwrap().version, ModelVersion(number));
    }
    (fixture, first, second)
}

async fn from_a_person_forward_to_every_data_set_and_version() {
    let (fixture, first, second) = family().await;
    let went = async |of: TraceOf| {
        let trace = fixture.client.trace_data(&of).await.unwrap();
        let snapshots: Vec<_> =
            trace.snapshots.iter().map(|one| (one.digest, one.training_pairs, one.gate_pairs)).collect();
        let versions: Vec<_> = trace.versions.iter().map(|one| (one.version.0, one.through.0)).collect();
        (snapshots, versions)
    };
    // Into version 2, and through its weights into version 4.
    assert_eq!(went(TraceOf::Person(person_of(1))).await, (vec![(first, 1, 0)], vec![(2, 2), (4, 2)]));
    // What only judged version 2 is not in its weights.
    let mut both = vec![(first, 0, 1), (second, 1, 0)];
    both.sort_by_key(|one| one.0.to_string());
    assert_eq!(went(TraceOf::Person(person_of(2))).await, (both.clone(), vec![(3, 3), (4, 4)]));
    assert_eq!(went(TraceOf::Pair(pair_id("b"))).await, (both, vec![(3, 3), (4, 4)]));
    assert_eq!(went(TraceOf::Pair(pair_id("c"))).await, (vec![(second, 1, 0)], vec![(3, 3), (4, 4)]));
    assert_eq!(went(TraceOf::Person(person_of(9))).await, (vec![], vec![]));

    // What serves has learned from nobody yet; version 4 would have from both data sets, through its anchor too.
    let served = async || model_registry::served_snapshots(&fixture.pool, &Default::default(), &model()).await.unwrap();
    assert!(served().await.is_empty());
    fixture.client.set_alias(&model(), Alias::Current, ModelVersion(4), Some(ModelVersion(1))).await.unwrap();
    assert_eq!(served().await, [first, second].into());
    fixture.client.set_alias(&model(), Alias::Current, ModelVersion(3), Some(ModelVersion(4))).await.unwrap();
    assert_eq!(served().await, [second].into());
    let trace = fixture.client.trace_data(&TraceOf::Person(person_of(3))).await.unwrap();
    let versions: Vec<_> = trace.versions.iter().map(|one| (one.version.0, one.is_served)).collect();
    assert_eq!(versions, [(3, true), (4, false)]);

    // A pair that was merged into one that trains gave that one weight; what was left out with it gave none.
    fixture.merged(first, "d", 4, Some("a")).await;
    fixture.merged(first, "e", 5, None).await;
    assert_eq!(went(TraceOf::Person(person_of(4))).await, (vec![(first, 1, 0)], vec![(2, 2), (4, 2)]));
    assert_eq!(went(TraceOf::Pair(pair_id("d"))).await, (vec![(first, 1, 0)], vec![(2, 2), (4, 2)]));
    assert_eq!(went(TraceOf::Person(person_of(5))).await, (vec![], vec![]));
    // Who has a member and a merged pair in one data set is found with both.
    fixture.merged(second, "f", 3, Some("c")).await;
    assert_eq!(went(TraceOf::Person(person_of(3))).await, (vec![(second, 2, 0)], vec![(3, 3), (4, 4)]));

    let other = fixture.client_with("other", &[Scope::Registry]).await;
    assert_eq!(other.trace_data(&TraceOf::Person(person_of(1))).await.unwrap(), Default::default());
    assert_eq!(code(other.list_snapshot_pairs(first, None).await), "unknown_snapshot");
}

async fn from_a_version_back_to_its_pairs_and_persons() {
    let (fixture, first, second) = family().await;
    let chain = fixture.client.get_lineage(&model(), ModelVersion(4)).await.unwrap();
    let links: Vec<_> =
        chain.iter().map(|link| (link.version.0, link.snapshot.as_ref().map(|snapshot| snapshot.digest))).collect();
    assert_eq!(links, [(4, Some(second)), (2, Some(first)), (1, None)]);
    let version = fixture.client.get_version(&model(), ModelVersion(4)).await.unwrap();
    assert_eq!(chain[0].evaluation_digest, evaluation_digest(&version.evaluation));
    assert_eq!((chain[0].artifact_digest, chain[0].run_id), (version.artifact_digest, version.run_id));
    assert!(chain.iter().all(|link| link.is_evaluation_verified));
    let snapshot = chain[0].snapshot.as_ref().unwrap();
    assert!(snapshot.is_verified);
    assert_eq!((snapshot.training_pairs, snapshot.gate_pairs, snapshot.persons), (2, 0, 2));
    assert_eq!((snapshot.parts[0].partition, snapshot.parts[0].first_position.as_str()), (3, "10"));

    let pairs = fixture.client.list_snapshot_pairs(second, None).await.unwrap();
    let persons: std::collections::BTreeSet<_> = pairs.iter().map(|pair| pair.person.clone()).collect();
    assert_eq!(persons, [person_of(2), person_of(3)].into());
    let rest = fixture.client.list_snapshot_pairs(second, Some(pairs[0].pair_id)).await.unwrap();
    assert_eq!(rest, pairs[1..]);
}

async fn a_data_set_that_was_altered_can_neither_be_registered_nor_served() {
    let (fixture, _, second) = family().await;
    // Somebody takes a pair out of a data set that versions 3 and 4 are said to have learned from.
    sqlx::query("DELETE FROM snapshot_pairs WHERE snapshot_digest = $1 AND pair_id = $2")
        .bind(second.to_string())
        .bind(pair_id("c").to_string())
        .execute(&fixture.pool)
        .await
        .unwrap();
    let new = NewVersion {
        snapshot_digest: Some(second),
        audience: Some("everyone".parse().unwrap()),
        ..fixture.new_version("v5").await
    };
    assert_eq!(code(fixture.client.register_version(&new).await), "snapshot_corrupt");
    let alias = fixture.client.set_alias(&model(), Alias::Current, ModelVersion(3), Some(ModelVersion(1))).await;
    assert_eq!(code(alias), "snapshot_corrupt");
    let rollout = fixture.client.start_rollout(&model(), ModelVersion(3), Some(&policy())).await.unwrap();
    fixture.reconcile().await;
    let ended = fixture.rollout(rollout.rollout_id).await;
    assert_eq!((ended.state, ended.reason.as_str()), (RolloutState::Aborted, "snapshot_corrupt"));
    let chain = fixture.client.get_lineage(&model(), ModelVersion(4)).await.unwrap();
    let verified: Vec<_> = chain.iter().filter_map(|link| link.snapshot.as_ref()).map(|one| one.is_verified).collect();
    assert_eq!(verified, [false, true]);

    // An audience that was widened behind the digest's back.
    let narrow = fixture.snapshot("payments", &[("d", 4, Purpose::Training)]).await;
    sqlx::query("UPDATE snapshots SET audience = 'everyone' WHERE snapshot_digest = $1")
        .bind(narrow.to_string())
        .execute(&fixture.pool)
        .await
        .unwrap();
    let wide = NewVersion { snapshot_digest: Some(narrow), ..new };
    assert_eq!(code(fixture.client.register_version(&wide).await), "snapshot_corrupt");
}

async fn a_version_whose_evaluation_or_weights_were_altered_does_not_become_current() {
    let (fixture, ..) = family().await;
    sqlx::query("UPDATE model_versions SET evaluation = '{\"gate\":\"better than it was\"}' WHERE version = 2")
        .execute(&fixture.pool)
        .await
        .unwrap();
    let to = async |version: i64| {
        fixture.client.set_alias(&model(), Alias::Current, ModelVersion(version), Some(ModelVersion(1))).await
    };
    assert_eq!(code(to(2).await), "evaluation_corrupt");
    assert!(!fixture.client.get_lineage(&model(), ModelVersion(2)).await.unwrap()[0].is_evaluation_verified);

    let version = fixture.client.get_version(&model(), ModelVersion(3)).await.unwrap();
    let manifest = artifacts::get_manifest(&fixture.artifacts, &version.artifact_digest).await.unwrap();
    let weights = fixture.object(manifest.file("model.safetensors").unwrap().sha256);
    let good = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &good[..good.len() / 2]).unwrap();
    assert_eq!(code(to(3).await), "artifact_corrupt");
    std::fs::write(&weights, &good).unwrap();
    to(3).await.unwrap();
    fixture.assert_audit_is_complete().await;
}
