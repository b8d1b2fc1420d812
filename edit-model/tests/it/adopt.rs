//! A model that others made becomes one of ours: what it knows stays, what it has never seen is told apart.

use std::collections::BTreeSet;

use edit_model::dialect::MAX_SEQUENCE_TOKENS;
use edit_model::{DecodeOptions, EditModel, Family, ModelConfig, ModelError, ModelManifest, Network};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::{TEXT, ask};

/// A tokenizer that is built as Qwen2.5-Coder's: 365 tokens and 22 control tokens.
const TOKENIZER: &[u8] = include_bytes!("../fixtures/qwen2.5-coder/tokenizer.json");
const OWN: usize = 387;

/// A directory as a team brings it: random weights of `family` with `vocab_size` rows, and `tokenizer`.
fn brought(family: Family, is_tied: bool, vocab_size: usize, tokenizer: &[u8]) -> tempfile::TempDir {
    brought_with_room(1024, family, is_tied, vocab_size, tokenizer)
}

fn brought_with_room(
    positions: usize,
    family: Family,
    is_tied: bool,
    vocab_size: usize,
    tokenizer: &[u8],
) -> tempfile::TempDir {
    let mut config = ModelConfig::base(vocab_size, 0, 1).of_family(family);
    config.hidden_size = 32;
    config.head_dim = Some(8);
    config.intermediate_size = 48;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.max_position_embeddings = positions;
    config.tie_word_embeddings = is_tied;
    let network = Network::new(config).unwrap();
    let weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(5));
    let folder = tempfile::tempdir().unwrap();
    network.save(&weights, folder.path(), 40_000).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
    folder
}

fn changed_tokenizer(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut tokenizer: Value = serde_json::from_slice(TOKENIZER).unwrap();
    change(&mut tokenizer);
    serde_json::to_vec(&tokenizer).unwrap()
}

#[test]
fn what_a_model_knows_of_its_own_tokens_stays() {
    for (family, is_tied) in [(Family::Qwen2, true), (Family::Qwen3, false), (Family::Llama, false)] {
        // Rows beyond the tokenizer's, as published models have.
        let folder = brought(family, is_tied, OWN + 13, TOKENIZER);
        let (network, weights) = Network::load(folder.path()).unwrap();
        let adopted = EditModel::adopt(folder.path(), 7).unwrap();
        assert_eq!(adopted.network().config().vocab_size, adopted.tokenizer().vocabulary_size());
        let tokens = adopted.tokenizer().encode(TEXT).unwrap();
        assert!(tokens.iter().all(|token| (*token as usize) < OWN));
        let before = network.all_logits(&weights, &tokens).unwrap();
        let after = adopted.network().all_logits(adopted.weights(), &tokens).unwrap();
        let (old, new) = (network.config().written(), adopted.network().config().written());
        for (before, after) in before.chunks_exact(old).zip(after.chunks_exact(new)) {
            let worst = before[..OWN].iter().zip(after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{family:?}: {worst}");
        }
    }
}

#[test]
fn new_tokens_are_told_apart_and_habits_are_alike() {
    let folder = brought(Family::Qwen2, true, OWN + 13, TOKENIZER);
    let adopted = EditModel::adopt(folder.path(), 7).unwrap();
    let row = |token: u32| -> Vec<u32> {
        adopted.weights()[token as usize * 32..][..32].iter().map(|value| value.to_bits()).collect()
    };
    let special = adopted.tokenizer().special();
    let mut written: BTreeSet<Vec<u32>> = (OWN as u32..adopted.tokenizer().written_size() as u32).map(row).collect();
    assert_eq!(written.len(), adopted.tokenizer().written_size() - OWN);
    written.extend(special.untaught.iter().map(|token| row(*token)));
    assert_eq!(written.len(), adopted.tokenizer().written_size() - OWN + special.untaught.len());
    for (untaught, token) in special.habits.iter().flat_map(|habit| special.untaught.iter().zip(habit)) {
        assert_eq!(row(*untaught), row(*token));
    }
    let again = EditModel::adopt(folder.path(), 7).unwrap();
    assert_eq!(again.weights(), adopted.weights());
    assert_ne!(EditModel::adopt(folder.path(), 8).unwrap().weights(), adopted.weights());
}

#[test]
fn an_adopted_model_is_saved_loaded_and_asked_like_ours() {
    for (family, is_tied) in [(Family::Qwen2, true), (Family::Qwen3, false)] {
        let brought = brought(family, is_tied, OWN, TOKENIZER);
        let adopted = EditModel::adopt(brought.path(), 7).unwrap().in_served_precision().unwrap();
        let folder = tempfile::tempdir().unwrap();
        adopted.save(folder.path(), ModelManifest::new("brought", "adopt", "0")).unwrap();
        let again = EditModel::load(folder.path()).unwrap();
        let options = DecodeOptions { force_edit: true, ..DecodeOptions::default() };
        assert_eq!(ask(&again, &options), ask(&adopted, &options));
        // Adopted once more it is the same: nothing is missing from its tokenizer.
        let twice = EditModel::adopt(folder.path(), 9).unwrap();
        assert_eq!(twice.tokenizer().vocabulary_size(), adopted.tokenizer().vocabulary_size());
        assert_eq!(twice.weights(), adopted.weights());
    }
}

#[test]
fn what_a_model_was_taught_here_is_still_there_when_it_is_adopted_again() {
    let brought = brought(Family::Qwen2, true, OWN, TOKENIZER);
    let adopted = EditModel::adopt(brought.path(), 7).unwrap();
    let mut weights = adopted.weights().to_vec();
    for token in adopted.tokenizer().special().habits[3] {
        weights[adopted.network().output_row(token)].fill(0.25);
    }
    let taught = adopted.with_weights(weights).unwrap().in_served_precision().unwrap();
    let folder = tempfile::tempdir().unwrap();
    taught.save(folder.path(), ModelManifest::new("taught", "sft", "0")).unwrap();
    assert_eq!(EditModel::adopt(folder.path(), 9).unwrap().weights(), taught.weights());
}

#[test]
fn a_model_that_the_dialect_does_not_fit_into_is_refused() {
    let adopted = |positions| {
        let folder = brought_with_room(positions, Family::Qwen2, true, OWN, TOKENIZER);
        EditModel::adopt(folder.path(), 7)
    };
    let error = adopted(MAX_SEQUENCE_TOKENS - 1).unwrap_err();
    assert!(matches!(error, ModelError::Room { needed: MAX_SEQUENCE_TOKENS }), "{error}");
    adopted(MAX_SEQUENCE_TOKENS).unwrap();
}

#[test]
fn control_tokens_and_composed_letters_are_text() {
    let folder = brought(Family::Qwen2, true, OWN, TOKENIZER);
    let adopted = EditModel::adopt(folder.path(), 7).unwrap();
    let tokenizer = adopted.tokenizer();
    for text in ["<|fim_prefix|>", "<tool_call>x</tool_call>", "<|endoftext|><stop><habit 3.1>", "e\u{301} \u{e9}\r\n"]
    {
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&tokens).as_deref(), Some(text));
        assert!(tokens.iter().all(|token| tokenizer.token_bytes(*token).is_some()));
    }
    assert!((365..OWN as u32).all(|control| tokenizer.token_bytes(control).is_none()));
}

#[test]
fn no_text_is_cut_or_filled_up() {
    let tokenizer = changed_tokenizer(|tokenizer| {
        tokenizer["truncation"] =
            serde_json::json!({ "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0 });
        tokenizer["padding"] = serde_json::json!({ "strategy": { "Fixed": 9 }, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 365, "pad_type_id": 0, "pad_token": "<|endoftext|>" });
    });
    let folder = brought(Family::Qwen2, true, OWN, &tokenizer);
    let adopted = EditModel::adopt(folder.path(), 7).unwrap();
    for text in [TEXT, "x"] {
        let tokens = adopted.tokenizer().encode(text).unwrap();
        assert_eq!(adopted.tokenizer().decode(&tokens).as_deref(), Some(text));
    }
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused_with_the_reason() {
    let folder = brought(Family::Qwen2, true, OWN - 1, TOKENIZER);
    let error = EditModel::adopt(folder.path(), 7).unwrap_err();
    assert!(matches!(error, ModelError::Vocabulary { tokens: OWN, vocab_size } if vocab_size == OWN - 1), "{error}");

    let last = |tokenizer: &mut Value| -> String {
        let vocab = tokenizer["model"]["vocab"].as_object().unwrap();
        vocab.iter().find(|(_, id)| id.as_u64() == Some(364)).unwrap().0.clone()
    };
    let cases = [
        (changed_tokenizer(|tokenizer| tokenizer["decoder"] = Value::Null), "byte-level"),
        (
            changed_tokenizer(|tokenizer| {
                let name = last(tokenizer);
                tokenizer["model"]["vocab"][name] = Value::from(9_999);
            }),
            "gaps",
        ),
        (
            changed_tokenizer(|tokenizer| {
                tokenizer["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = Value::from(true);
            }),
            "give back",
        ),
        (b"{}".to_vec(), "tokenizer"),
    ];
    for (tokenizer, wanted) in cases {
        let folder = brought(Family::Qwen2, true, OWN + 13, &tokenizer);
        let error = EditModel::adopt(folder.path(), 7).unwrap_err();
        assert!(matches!(error, ModelError::Tokenizer(_)), "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn a_directory_that_lacks_a_file_is_refused_by_its_name() {
    for name in ["config.json", "tokenizer.json", "model.safetensors.index.json"] {
        let folder = brought(Family::Qwen3, false, OWN, TOKENIZER);
        std::fs::remove_file(folder.path().join(name)).unwrap();
        let error = EditModel::adopt(folder.path(), 7).unwrap_err();
        let missing = if name.ends_with("index.json") { "model.safetensors" } else { name };
        assert!(matches!(&error, ModelError::File { path, .. } if path.ends_with(missing)), "{error}");
    }
}
