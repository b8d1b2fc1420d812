//! Models that are not what they should be.

use events::ModelVersion;
use trainer_orchestrator::OrchestratorConfig;
use trainer_orchestrator::store::RunState;

use crate::fixture::{Fixture, config, model, program};

async fn fails_with(fixture: &Fixture, config: OrchestratorConfig) -> String {
    fixture.collect(0, 370, "everyone").await;
    let orchestrating = fixture.orchestrate(OrchestratorConfig { maximum_attempts: 1, ..config }, "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    orchestrating.stop().await;
    assert_eq!((run.state, run.outcome.as_deref()), (RunState::Failed, Some("failed")), "{}", run.detail);
    assert!(fixture.trained().await.is_empty());
    let detail: serde_json::Value = serde_json::from_str(&run.detail).unwrap();
    detail["reason"].as_str().unwrap().to_owned()
}

async fn job_then(damage: &str) -> String {
    let fixture = Fixture::new().await;
    let script = fixture.script("damages", &format!("{} \"$@\" || exit 1\n{damage}", program().display()));
    fails_with(&fixture, OrchestratorConfig { program: Some(script), ..config() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_or_altered_model_is_not_registered() {
    let truncated = job_then("truncate -s -7 \"$DIRECTORY/model/model.safetensors\"").await;
    assert!(truncated.contains("model.safetensors is missing, truncated or altered"), "{truncated}");
    let flipped = "printf X | dd of=\"$DIRECTORY/model/model.safetensors\" bs=1 seek=3000 conv=notrunc 2> /dev/null";
    let flipped = job_then(flipped).await;
    assert!(flipped.contains("model.safetensors is missing, truncated or altered"), "{flipped}");
    let missing = job_then("rm \"$DIRECTORY/model/tokenizer.json\"").await;
    assert!(missing.contains("tokenizer.json is missing"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_speaks_of_something_else_is_not_registered() {
    let other =
        "sed -i 's/\"snapshot_digest\": \"[0-9a-f]*\"/\"snapshot_digest\": \"00\"/' \"$DIRECTORY/model/manifest.json\"";
    let other = job_then(other).await;
    assert!(other.contains("snapshot_digest of the job's result"), "{other}");
    let broken = job_then("echo '{' > \"$DIRECTORY/result.json\"").await;
    assert!(broken.contains("without a result that reads back"), "{broken}");
    let silent = job_then("rm \"$DIRECTORY/result.json\"; exit 0").await;
    assert!(silent.contains("without a result that reads back"), "{silent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_rotted_is_named_before_anything_trains() {
    let fixture = Fixture::new().await;
    let base = fixture.client.get_version(&model(), ModelVersion(1)).await.unwrap();
    let manifest = artifacts::get_manifest(&fixture.artifacts, &base.artifact_digest).await.unwrap();
    let object = fixture.artifacts.path_of(&manifest.file("model.safetensors").unwrap().sha256);
    let bytes = std::fs::read(&object).unwrap();
    std::fs::write(&object, &bytes[..bytes.len() - 1]).unwrap();
    let reason = fails_with(&fixture, config()).await;
    assert!(reason.contains("version 1 can not be loaded"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetched_base_that_was_altered_is_fetched_again() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let base = fixture.client.get_version(&model(), ModelVersion(1)).await.unwrap();
    let fetched = fixture.runs().join("models").join(base.artifact_digest.to_string());
    artifacts::get_directory(&fixture.artifacts, &base.artifact_digest, &fetched).await.unwrap();
    std::fs::write(fetched.join("model.safetensors"), b"altered").unwrap();
    let orchestrating = fixture.orchestrate(config(), "first");
    orchestrating.handle.request();
    let run = orchestrating.ended().await;
    assert_eq!(run.state, RunState::Succeeded, "{}", run.detail);
    orchestrating.stop().await;
}
