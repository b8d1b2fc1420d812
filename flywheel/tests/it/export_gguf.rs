//! `flywheel export-gguf`: a file for llama.cpp, or one sentence says why not.

use std::path::{Path, PathBuf};

use edit_model::{EditModel, Lora, LoraConfig};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::harness::say;

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model/base")
}

fn export(model: &Path, output: &Path, more: &[&str]) -> crate::harness::Said {
    let mut arguments = vec!["export-gguf", "--model", model.to_str().unwrap()];
    arguments.extend(["--output", output.to_str().unwrap(), "--json"]);
    arguments.extend(more);
    say(&arguments)
}

#[test]
fn the_base_model_and_an_adapter_over_it_become_files() {
    let folder = tempfile::tempdir().unwrap();
    let (model, manifest) = EditModel::load_with_manifest(&base()).unwrap();
    let output = folder.path().join("base.gguf");
    let made = export(&base(), &output, &[]).json();
    let weights = 2 * model.weights().len() as u64;
    let bytes = std::fs::metadata(&output).unwrap().len();
    assert_eq!(made["bytes"], bytes);
    assert!(bytes > weights && bytes < weights + 400_000, "{bytes}");
    assert_eq!((&made["name"], &made["model"]), (&Value::from(manifest.name.clone()), &Value::from(manifest.digest())));
    assert_eq!(made["written_tokens"], model.network().config().written());
    assert_eq!((&made["pre_tokenizer"], &made["splits_alike"]), (&Value::from("gpt-2"), &Value::from(false)));
    assert_eq!(&std::fs::read(&output).unwrap()[..8], b"GGUF\x03\0\0\0");

    let adapter = folder.path().join("habit");
    let lora = Lora::new(LoraConfig::default(), model.network()).unwrap();
    lora.save(&lora.initialize(&mut ChaCha8Rng::seed_from_u64(1)), &adapter, "base").unwrap();
    let output = folder.path().join("habit.gguf");
    let made = export(&base(), &output, &["--adapter", adapter.to_str().unwrap()]).json();
    assert_eq!((&made["name"], &made["tensors"]), (&Value::from("habit"), &Value::from(lora.tensors().len())));
    assert_eq!(made["bytes"], std::fs::metadata(&output).unwrap().len());
}

#[test]
fn what_can_not_be_written_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there.gguf");
    std::fs::write(&there, "mine").unwrap();
    assert!(export(&base(), &there, &[]).sentence().contains("is there already"));
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "mine");
    let output = folder.path().join("made.gguf");
    assert!(export(folder.path(), &output, &[]).sentence().contains("can not be used"));
    let no_adapter = export(&base(), &output, &["--adapter", folder.path().to_str().unwrap()]);
    assert!(no_adapter.sentence().contains("adapter") && no_adapter.sentence().contains("can not be used"));
    assert!(export(&base(), &folder.path().join("absent/made.gguf"), &[]).sentence().contains("absent"));
    assert!(!output.exists());
}
