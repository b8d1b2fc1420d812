//! Versions that nobody trained.

use std::path::Path;

use artifacts::{ArtifactStore, put_directory};
use events::ModelVersion;
use model_registry::NewVersion;

/// A version with the weights of the base, and notes that make another artifact of it, which is stored.
pub(crate) async fn like_the_base(base: &Path, artifacts: &dyn ArtifactStore, notes: &str) -> NewVersion {
    let copy = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "manifest.json"] {
        std::fs::copy(base.join(name), copy.path().join(name)).unwrap();
    }
    std::fs::write(copy.path().join("notes.txt"), notes).unwrap();
    NewVersion {
        model: "edit".parse().unwrap(),
        artifact_digest: put_directory(artifacts, copy.path()).await.unwrap().digest(),
        parent: Some(ModelVersion(1)),
        anchor: Some(ModelVersion(1)),
        snapshot_digest: None,
        run_id: None,
        code_version: "test".to_owned(),
        method: "sft".to_owned(),
        audience: None,
        evaluation: serde_json::json!({}),
    }
}
