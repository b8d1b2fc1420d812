//! A trainer that is not ours: it knows the job contract (docs/job-contract.md) and nothing of this code.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::Path;

use events::ModelVersion;
use model_registry::lineage::Purpose;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use trainer_orchestrator::OrchestratorConfig;
use trainer_orchestrator::data_set::hold_out::is_unseen;
use trainer_orchestrator::data_set::policy::DataSetPolicy;
use trainer_orchestrator::store::RunState;

use crate::fixture::{Fixture, config, model};

/// What the trainer says of its gate is as in [`trainer_process`], but for `gate`.
fn program(fixture: &Fixture, gate: &Value) -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    let call = format!(
        "FLYWHEEL_TEST_JOB=\"$3\" FLYWHEEL_TEST_GATE='{gate}' \
         exec {} --exact foreign::trainer_process --ignored --nocapture",
        test.display()
    );
    fixture.script("foreign", &call)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_program_that_obeys_the_contract_can_be_the_trainer() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let config = OrchestratorConfig { program: Some(program(&fixture, &json!({}))), ..config() };
    let orchestrating = fixture.orchestrate(config.clone(), "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    assert_eq!((run.state, run.outcome.as_deref()), (RunState::Succeeded, Some("eligible")), "{}", run.detail);
    let rollouts = fixture.client.list_rollouts(Some(&model())).await.unwrap();
    assert_eq!((rollouts.len(), rollouts[0].candidate), (1, ModelVersion(2)));
    assert_eq!(run.rollout_id, Some(rollouts[0].rollout_id.to_string()));
    orchestrating.stop().await;

    // The process dies after the rollout was started, before the run's row was written: no second rollout, even though
    // the first one has ended by then.
    fixture.client.abort_rollout(rollouts[0].rollout_id, "Ada Lovelace", "").await.unwrap();
    fixture.forget_the_end().await;
    let orchestrating = fixture.orchestrate(config, "second");
    let again = orchestrating.ended().await;
    assert_eq!((again.version, again.rollout_id, again.attempt), (run.version, run.rollout_id, 1));
    assert_eq!(fixture.client.list_rollouts(Some(&model())).await.unwrap().len(), 1);
    orchestrating.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_that_saw_too_few_opportunities_is_held_whatever_it_says() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let config = OrchestratorConfig { program: Some(program(&fixture, &json!({ "opportunities": 299 }))), ..config() };
    let orchestrating = fixture.orchestrate(config, "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    assert_eq!((run.outcome.as_deref(), run.version, run.rollout_id), (Some("held"), Some(2), None));
    assert!(run.detail.contains("insufficient_opportunities"), "{}", run.detail);
    assert!(fixture.client.list_rollouts(Some(&model())).await.unwrap().is_empty());
    orchestrating.stop().await;
}

/// A data set with a set *general* of 60 opportunities, beside 370 in the repository that trains.
async fn with_general(fixture: &Fixture) -> OrchestratorConfig {
    let data_set = DataSetPolicy { general_permille: 200, general_opportunities: 50, ..DataSetPolicy::default() };
    let mut names = [String::new(), String::new()];
    for number in 0.. {
        let name = format!("repository {number}");
        let side = usize::from(is_unseen(data_set.general_permille, &fixture.rendered(&name).await));
        names[side] = name;
        if names.iter().all(|name| !name.is_empty()) {
            break;
        }
    }
    let [trains, judges] = names;
    for name in [&trains, &judges] {
        fixture.allow(name, "everyone").await;
    }
    fixture.collect_in(&trains, "person", 0, 370, "everyone").await;
    fixture.collect_in(&judges, "other person", 370, 60, "everyone").await;
    OrchestratorConfig { data_set, ..config() }
}

#[tokio::test(flavor = "multi_thread")]
async fn harm_is_judged_by_the_general_set_from_the_data_set_to_the_verdict() {
    let fixture = Fixture::new().await;
    let config = with_general(&fixture).await;
    let orchestrating = fixture.orchestrate(config, "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    assert_eq!(run.state, RunState::Succeeded, "{}", run.detail);
    let members = fixture.client.list_snapshot_pairs(run.snapshot_digest, None).await.unwrap();
    let general: Vec<_> = members.iter().filter(|member| member.purpose == Purpose::General).collect();
    assert_eq!(general.len(), 60);
    let others = members.iter().filter(|member| member.purpose != Purpose::General);
    let others: BTreeSet<_> = others.map(|member| &member.person).collect();
    assert!(general.iter().all(|member| !others.contains(&member.person)));
    let gate = &fixture.trained().await[0].evaluation["gate"];
    assert_eq!((&gate["opportunities"], &gate["persons"]), (&300.into(), &20.into()), "{gate}");
    let general = &gate["general"];
    assert_eq!((&general["opportunities"], &general["persons"]), (&60.into(), &20.into()), "{gate}");
    orchestrating.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_the_general_set_out_starts_no_rollout() {
    let fixture = Fixture::new().await;
    let config = with_general(&fixture).await;
    let config = OrchestratorConfig { program: Some(program(&fixture, &json!({ "general": null }))), ..config };
    let orchestrating = fixture.orchestrate(config, "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    assert_eq!((run.outcome.as_deref(), run.version, run.rollout_id), (Some("held"), Some(2), None), "{}", run.detail);
    assert!(run.detail.contains("insufficient_general_opportunities"), "{}", run.detail);
    orchestrating.stop().await;
}

/// Not a test: the foreign trainer. It "trains" by turning one bit of the anchor's weights.
#[test]
#[ignore = "started by another test"]
fn trainer_process() {
    let Ok(path) = std::env::var("FLYWHEEL_TEST_JOB") else { return };
    let mut key = [0_u8; 65];
    std::io::stdin().read_exact(&mut key).unwrap();
    assert_eq!(key[64], b'\n');
    let read = |path: &Path| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();
    let job = read(Path::new(&path));
    let file = |name: &str| Path::new(job[name].as_str().unwrap()).to_path_buf();
    std::fs::write(file("heartbeat_file"), "alive").unwrap();
    assert_eq!(opened(&job, "training_file", &key[..64]).lines().count(), 70);
    assert_eq!(opened(&job, "gate_file", &key[..64]).lines().count(), 300);

    let (anchor, output) = (file("anchor"), file("output"));
    std::fs::create_dir_all(&output).unwrap();
    let mut manifest = read(&anchor.join("manifest.json"));
    let anchor_digest = digest(&manifest["files"]);
    for (name, sha256) in manifest["files"].as_object_mut().unwrap() {
        let mut bytes = std::fs::read(anchor.join(name)).unwrap();
        if name == "model.safetensors" {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        std::fs::File::create(output.join(name)).unwrap().write_all(&bytes).unwrap();
        *sha256 = hex::encode(Sha256::digest(&bytes)).into();
    }
    let parent_digest = digest(&read(&file("parent").join("manifest.json"))["files"]);
    manifest["method"] = job["config"]["method"].clone();
    manifest["snapshot_digest"] = job["snapshot_digest"].clone();
    std::fs::write(output.join("manifest.json"), manifest.to_string()).unwrap();
    let said: Value = serde_json::from_str(&std::env::var("FLYWHEEL_TEST_GATE").unwrap()).unwrap();
    let mut gate = json!({
        "verdict": "eligible", "reasons": [], "opportunities": 300, "persons": 20,
        "utility_candidate": 0.3, "utility_parent": 0.1, "estimate": 0.2, "low": 0.1, "high": 0.3,
        "shown_rate_candidate": 0.6, "shown_rate_parent": 0.6,
        "old_skills_candidate": 0.5, "old_skills_parent": 0.5,
    });
    gate.as_object_mut().unwrap().extend(said.as_object().unwrap().clone());
    let skills =
        json!({ "edits": 1, "exact": 0.5, "first_matches": 0.5, "edits_shown": 1.0, "silences": 0, "silent": 0.0 });
    let result = json!({
        "run_id": job["run_id"], "method": job["config"]["method"], "model_digest": digest(&manifest["files"]),
        "files": manifest["files"], "anchor_digest": anchor_digest, "parent_digest": parent_digest,
        "training_pairs": 70,
        "census": { "preferences": 70, "positives": 0, "without_lesson": 0, "without_divergence": 0, "unwritable": 0 },
        "chosen_log_p_before": -2.0, "chosen_log_p_after": -1.0, "last_loss": 0.5, "training_seconds": 1.0,
        "training_tokens": 100, "evaluation_seconds": 1.0,
        "gate": gate,
        "old_skills_candidate": skills, "old_skills_parent": skills,
    });
    std::fs::write(file("result_file"), result.to_string()).unwrap();
}

/// Opens sealed data as the contract says: AES-256-GCM, twelve bytes of nonce first, bound to the run.
fn opened(job: &Value, name: &str, key: &[u8]) -> String {
    use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
    let sealed = std::fs::read(job[name].as_str().unwrap()).unwrap();
    let key: [u8; 32] = hex::decode(key).unwrap().try_into().unwrap();
    let run: String = job["run_id"].as_str().unwrap().replace('-', "");
    let mut bound = hex::decode(run).unwrap();
    bound.extend_from_slice(b"training job data");
    let nonce: [u8; 12] = sealed[..12].try_into().unwrap();
    let cipher = aes_gcm::Aes256Gcm::new(&key.into());
    String::from_utf8(cipher.decrypt(&nonce.into(), Payload { msg: &sealed[12..], aad: &bound }).unwrap()).unwrap()
}

/// Digest of a model: over name and digest of each file in order of names, each ended by a zero byte.
fn digest(files: &Value) -> String {
    let mut hash = Sha256::new();
    for (name, sha256) in files.as_object().unwrap() {
        for text in [name.as_str(), sha256.as_str().unwrap()] {
            hash.update(text.as_bytes());
            hash.update([0]);
        }
    }
    hex::encode(hash.finalize())
}
