//! `flywheel adopt`: a checkpoint that others published becomes a base model, or one sentence says why not.

use std::path::{Path, PathBuf};

use edit_model::EditModel;
use serde_json::Value;

use crate::harness::say;

fn of_edit_model(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model").join(path)
}

/// A checkpoint with `files` of `edit-model/`, each under the last part of its name.
fn checkpoint(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let source = of_edit_model(file);
        std::fs::copy(&source, folder.path().join(source.file_name().unwrap())).unwrap();
    }
    folder
}

fn adopt(model: &Path, output: &Path) -> crate::harness::Said {
    say(&["adopt", "--model", model.to_str().unwrap(), "--output", output.to_str().unwrap(), "--json"])
}

#[test]
fn a_checkpoint_becomes_a_base_model() {
    let brought = checkpoint(&["base/config.json", "base/model.safetensors", "base/tokenizer.json"]);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("made");
    let said = adopt(brought.path(), &output);
    assert_eq!(said.code, Some(0), "{said:?}");
    let made: Value = serde_json::from_str(&said.stdout).unwrap();
    let (model, manifest) = EditModel::load_with_manifest(&output).unwrap();
    assert_eq!(made["digest"], manifest.digest());
    assert_eq!((&made["family"], manifest.method.as_str()), (&Value::from("llama"), "adopt"));
    assert_eq!(made["parameters"], model.network().parameter_count());
    // It has our tokens already, so nothing had to grow.
    assert_eq!(model.weights(), EditModel::load(&of_edit_model("base")).unwrap().weights());
    for tasks in ["replay.jsonl", "old_skills.jsonl"] {
        assert_eq!(
            std::fs::read(output.join(tasks)).unwrap(),
            std::fs::read(of_edit_model("base").join(tasks)).unwrap()
        );
    }
}

#[test]
fn what_can_not_be_adopted_is_refused_in_one_sentence_and_nothing_is_written() {
    let tokenizer = "tests/fixtures/qwen2.5-coder/tokenizer.json";
    let llama = ["tests/fixtures/decoders/llama/config.json", "tests/fixtures/decoders/llama/model.safetensors"];
    let other = checkpoint(&[llama[0], llama[1], tokenizer]);
    let without = checkpoint(&[llama[0], llama[1]]);
    let unknown = checkpoint(&[tokenizer]);
    std::fs::write(unknown.path().join("config.json"), "{\"model_type\": \"gpt2\"}").unwrap();
    let cases =
        [(&other, "387 tokens and config.json a vocab_size of 72"), (&without, "tokenizer.json"), (&unknown, "gpt2")];
    for (brought, wanted) in cases {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("made");
        let said = adopt(brought.path(), &output);
        assert!(said.sentence().contains("can not be used") && said.sentence().contains(wanted), "{said:?}");
        assert!(!output.exists());
    }
    let said = adopt(other.path(), other.path());
    assert!(said.sentence().contains("is not empty"), "{said:?}");
}
