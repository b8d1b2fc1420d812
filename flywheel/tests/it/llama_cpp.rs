//! llama.cpp serves what we export, and writes what we would.

use std::path::{Path, PathBuf};
use std::process::Command;

use edit_model::{CodeTokenizer, EditModel, Family, GgufWeights, Lora, LoraConfig, ModelConfig, Network};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Tokens that continue each prompt.
const COUNT: usize = 16;
/// Nearer than this, the two likeliest tokens are as good as each other: llama.cpp computes some functions in f16.
const TIE: f32 = 0.05;
const TEXT: &str = "fn get_name(user: &User) -> String {\n    let x = user.name1;\r\n}\n\n  été = [12, 345]\n";

fn of_edit_model(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model").join(path)
}

/// A random model whose layers say more than its embedding, so that what it writes depends on all that it read.
fn random(family: Family, is_tied: bool, tokenizer: CodeTokenizer) -> EditModel {
    let special = tokenizer.special();
    let mut config = ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop).of_family(family);
    config.written_vocab_size = Some(tokenizer.written_size());
    config.hidden_size = 64;
    config.head_dim = Some(24);
    config.intermediate_size = 96;
    config.num_hidden_layers = 2;
    config.num_attention_heads = 4;
    config.num_key_value_heads = 2;
    config.tie_word_embeddings = is_tied;
    let network = Network::new(config.clone()).unwrap();
    let mut generator = ChaCha8Rng::seed_from_u64(11);
    let mut weights = network.initialize(&mut generator);
    for tensor in network.tensors() {
        let factor = match tensor.name.as_str() {
            "model.embed_tokens.weight" | "lm_head.weight" => 20.0,
            name if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => 6.0,
            _ => 1.0,
        };
        let is_bias = tensor.name.ends_with(".bias");
        for weight in &mut weights[tensor.range] {
            *weight = if is_bias { generator.random::<f32>() - 0.5 } else { *weight * factor };
        }
    }
    EditModel::new(config, weights, tokenizer).unwrap()
}

fn prompts(model: &EditModel) -> Vec<Vec<u32>> {
    let mut generator = ChaCha8Rng::seed_from_u64(12);
    let most = u32::try_from(model.tokenizer().written_size()).unwrap();
    let lengths = [1_usize, 7, 33, 64, 120];
    lengths.map(|length| (0..length).map(|_| generator.random_range(0..most)).collect()).to_vec()
}

/// What is never written here or there: whatever stands for no text.
fn barred(model: &EditModel) -> Vec<u32> {
    let tokenizer = model.tokenizer();
    let count = u32::try_from(tokenizer.vocabulary_size()).unwrap();
    (0..count).filter(|token| tokenizer.token_bytes(*token).is_none()).collect()
}

/// The likeliest tokens, one after the other, each with its lead over the next.
fn greedy(model: &EditModel, weights: &[f32], prompt: &[u32]) -> Vec<(u32, f32)> {
    let written = model.tokenizer().written_size();
    let (mut tokens, mut answer) = (prompt.to_vec(), Vec::new());
    for _ in 0..COUNT {
        let logits = model.network().all_logits(weights, &tokens).unwrap();
        let last = logits.chunks_exact(written).next_back().unwrap().iter();
        let mut order: Vec<(u32, f32)> = (0..).zip(last.copied()).collect();
        order.retain(|(token, _)| model.tokenizer().token_bytes(*token).is_some());
        order.sort_by(|left, right| right.1.total_cmp(&left.1));
        answer.push((order[0].0, order[0].1 - order[1].1));
        tokens.push(order[0].0);
    }
    answer
}

/// What llama.cpp writes, and how it reads [`TEXT`].
fn served(folder: &Path, model: &Path, adapter: Option<&Path>, of: &EditModel) -> (Vec<Vec<u32>>, Vec<u32>) {
    let (questions, answers) = (folder.join("questions.json"), folder.join("answers.json"));
    let asked = json!({ "prompts": prompts(of), "count": COUNT, "barred": barred(of), "text": TEXT });
    std::fs::write(&questions, asked.to_string()).unwrap();
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/llama_cpp.py")).arg(model);
    command.arg(adapter.unwrap_or(Path::new("-"))).arg(&questions).arg(&answers);
    let output = command.env("PYTHONPATH", test_servers::llama_cpp()).env("HOME", folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Value = serde_json::from_slice(&std::fs::read(&answers).unwrap()).unwrap();
    let tokens = |value: &Value| serde_json::from_value::<Vec<u32>>(value.clone()).unwrap();
    (answers["written"].as_array().unwrap().iter().map(tokens).collect(), tokens(&answers["tokens"]))
}

/// Holds what was served against what we write with `weights`.
fn assert_greedy(name: &str, model: &EditModel, weights: &[f32], served: &[Vec<u32>]) {
    let prompts = prompts(model);
    assert_eq!(served.len(), prompts.len(), "{name}");
    let mut alike = 0;
    for (prompt, served) in prompts.iter().zip(served) {
        assert_eq!(served.len(), COUNT, "{name}");
        let ours = greedy(model, weights, prompt);
        let common = ours.iter().zip(served).take_while(|((ours, _), theirs)| ours == *theirs).count();
        // From where one of two equals was taken, they write different texts.
        let lead = ours.get(common).map_or(0.0, |(_, lead)| *lead);
        assert!(lead < TIE, "{name}: token {common} behind {} tokens, which leads by {lead}", prompt.len());
        alike += common;
    }
    assert!(10 * alike >= 8 * COUNT * prompts.len(), "{name}: {alike} tokens");
}

#[test]
fn what_llama_cpp_writes_is_what_we_write() {
    if !test_servers::full_wanted() {
        return;
    }
    let ours = || CodeTokenizer::train(std::iter::repeat_n(TEXT, 4), 340).unwrap();
    let qwen = std::fs::read(of_edit_model("tests/fixtures/qwen2.5-coder/tokenizer.json")).unwrap();
    let (qwen, _) = CodeTokenizer::adopt(&qwen, 1 << 17).unwrap();
    let models = [
        ("base", EditModel::load(&of_edit_model("base")).unwrap()),
        ("llama", random(Family::Llama, false, ours())),
        ("llama, tied", random(Family::Llama, true, ours())),
        ("qwen2", random(Family::Qwen2, true, qwen)),
        ("qwen3", random(Family::Qwen3, false, ours())),
    ];
    for (name, model) in models {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let made = model.export_gguf(&path, name, GgufWeights::F32).unwrap();
        let (plain, tokens) = served(folder.path(), &path, None, &model);
        assert_greedy(name, &model, model.weights(), &plain);
        assert_eq!(made.splits_alike, name == "qwen2");
        if made.splits_alike {
            assert_eq!(tokens, model.tokenizer().encode(TEXT).unwrap(), "{name}");
        }

        let lora = Lora::new(LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() }, model.network()).unwrap();
        let mut generator = ChaCha8Rng::seed_from_u64(13);
        let adapter: Vec<f32> = (0..lora.parameter_count()).map(|_| 0.3 * (generator.random::<f32>() - 0.5)).collect();
        let adapter_path = folder.path().join("adapter.gguf");
        lora.export_gguf(&adapter, model.network(), &adapter_path, "adapter").unwrap();
        let (adapted, _) = served(folder.path(), &path, Some(&adapter_path), &model);
        let mut weights = model.weights().to_vec();
        lora.add_to(&mut weights, &adapter).unwrap();
        assert_greedy(name, &model, &weights, &adapted);
        assert_ne!(plain, adapted, "{name}: the adapter changes nothing");
    }
}
