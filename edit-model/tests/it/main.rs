//! The model as its users meet it: a directory on disk, questions, answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail like tests")]

mod adopt;
mod decoders;
mod decoding;
mod gguf;
mod layout;
mod lora;

use edit_model::{
    CodeTokenizer, DecodeOptions, EditModel, ModelConfig, ModelError, ModelManifest, Network, StopReason,
};
use events::{EditContext, RecentEdit, Window, apply_actions};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

const TEXT: &str = "let user = users.get(1);\nlet name = get_name(user);\nprintln!(name);\n";

fn context() -> EditContext {
    EditContext {
        repository: "acme/shop".to_owned(),
        path: "src/users.rs".to_owned(),
        language: "rust".to_owned(),
        recent_edits: vec![RecentEdit {
            path: "src/users.rs".to_owned(),
            old_text: "fn get_name(user: &User) -> String {".to_owned(),
            new_text: "fn get_display_name(user: &User) -> String {".to_owned(),
        }],
        window: Window { start_byte: 500, first_line: 20, text: TEXT.to_owned() },
        cursor_byte: 530,
    }
}

fn model(seed: u64) -> EditModel {
    let tokenizer = CodeTokenizer::train(std::iter::repeat_n(TEXT, 3), 330).unwrap();
    let special = tokenizer.special();
    let mut config = ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop);
    config.hidden_size = 32;
    config.intermediate_size = 48;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 2;
    config.num_key_value_heads = 2;
    let network = Network::new(config.clone()).unwrap();
    let weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(seed));
    EditModel::new(config, weights, tokenizer).unwrap()
}

fn ask(model: &EditModel, options: &DecodeOptions) -> edit_model::Completion {
    model.complete(&context(), options, &|| false, &mut |_| {}).unwrap()
}

#[test]
fn a_saved_model_reads_back_and_answers_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(1).in_served_precision().unwrap();
    let manifest = model.save(folder.path(), ModelManifest::new("test", "pretrain", "0")).unwrap();
    assert_eq!(manifest.files.len(), 3);
    let (again, read) = EditModel::load_with_manifest(folder.path()).unwrap();
    assert_eq!(read, manifest);
    assert_eq!(again.weights(), model.weights());
    let options = DecodeOptions { force_edit: true, ..DecodeOptions::default() };
    assert_eq!(ask(&again, &options), ask(&model, &options));
    manifest.verify(folder.path()).unwrap();
}

#[test]
fn a_damaged_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    model(1).save(folder.path(), ModelManifest::new("test", "pretrain", "0")).unwrap();
    for name in ["model.safetensors", "tokenizer.json", "config.json", "manifest.json"] {
        let path = folder.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x10;
        for bytes in [flipped.as_slice(), &whole[..middle], &[]] {
            std::fs::write(&path, bytes).unwrap();
            let Err(error) = EditModel::load(folder.path()) else {
                // A flipped letter inside a name of the manifest can leave a model that is whole.
                assert_eq!(name, "manifest.json");
                continue;
            };
            assert!(matches!(error, ModelError::Damaged { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(name) || name == "manifest.json", "{text}");
        }
        std::fs::write(&path, &whole).unwrap();
    }
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert!(matches!(EditModel::load(folder.path()), Err(ModelError::File { .. })));
}

#[test]
fn whatever_the_weights_answers_stay_inside_the_grammar() {
    for seed in 0..12 {
        let model = model(seed);
        for temperature in [0.0, 1.5] {
            let options = DecodeOptions { force_edit: true, temperature, seed, ..DecodeOptions::default() };
            let mut flushed = Vec::new();
            let completion =
                model.complete(&context(), &options, &|| false, &mut |action| flushed.push(action)).unwrap();
            assert_eq!(flushed, completion.actions.actions);
            assert!(apply_actions(500, TEXT, &flushed).is_some());
            assert!(flushed.len() <= options.max_actions && completion.generated_tokens <= options.max_tokens);
            assert!((0.0..=1.0).contains(&completion.gate_score) && completion.log_p_text <= 0.0);
        }
    }
}

#[test]
fn the_threshold_closes_the_gate_and_force_opens_it() {
    let model = model(3);
    let silent = ask(&model, &DecodeOptions { threshold: 1.1, ..DecodeOptions::default() });
    assert_eq!(silent.stopped_reason, StopReason::NoEdit);
    assert!(silent.actions.is_no_edit() && silent.actions.closed);
    let forced = ask(&model, &DecodeOptions { threshold: 1.1, force_edit: true, ..DecodeOptions::default() });
    assert_ne!(forced.stopped_reason, StopReason::NoEdit);
    assert!((forced.gate_score - silent.gate_score).abs() < 1e-6);
}

#[test]
fn a_caller_that_leaves_stops_the_decoding() {
    let model = model(4);
    let asked = std::cell::Cell::new(0);
    let leaves = || {
        asked.set(asked.get() + 1);
        asked.get() > 3
    };
    let options = DecodeOptions { force_edit: true, ..DecodeOptions::default() };
    let completion = model.complete(&context(), &options, &leaves, &mut |_| {}).unwrap();
    assert_eq!(completion.stopped_reason, StopReason::Cancelled);
    assert_eq!(completion.generated_tokens, 3);
}

#[test]
fn a_model_is_shared_between_threads() {
    let model = model(5);
    let options = DecodeOptions { force_edit: true, ..DecodeOptions::default() };
    let expected = ask(&model, &options);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(ask(&model, &options), expected));
        }
    });
}

#[test]
fn shapes_that_are_not_implemented_are_refused() {
    let mut config = ModelConfig::base(100, 0, 1);
    config.num_key_value_heads = 4;
    assert!(matches!(Network::new(config), Err(ModelError::Config(_))));
    let mut config = ModelConfig::base(100, 0, 1);
    config.mlp_bias = true;
    assert!(matches!(Network::new(config), Err(ModelError::Config(_))));
}
