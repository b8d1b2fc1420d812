//! The Hugging Face layout on disk: what is written, what other writers may write, what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use edit_model::{CodeTokenizer, EditModel, ModelError, ModelManifest, Network};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest as _, Sha256};

use crate::model;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn saved() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    model(1).save(folder.path(), ModelManifest::new("test", "pretrain", "0")).unwrap();
    folder
}

/// Replaces a file and lets the manifest vouch for it, as another writer of the layout would.
fn replace(folder: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(folder.join(name), bytes).unwrap();
    let mut manifest = ModelManifest::read(folder).unwrap();
    manifest.files.insert(name.to_owned(), hex::encode(Sha256::digest(bytes)));
    std::fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(folder: &Path) -> Tensors {
    let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect()
}

fn serialized(tensors: &Tensors) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

fn floats(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(2).map(|bytes| half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()).collect()
}

fn refused(folder: &Path, wanted: &str) {
    let error = EditModel::load(folder).unwrap_err();
    assert!(matches!(&error, ModelError::Damaged { path, .. } if path.ends_with(WEIGHTS)), "{error}");
    assert!(error.to_string().contains(wanted), "{error}");
}

#[test]
fn a_directory_is_what_llama_readers_expect() {
    let folder = saved();
    let tensors = tensors(folder.path());
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"], serde_json::json!(["LlamaForCausalLM"]));
    assert_eq!(config["rope_theta"], config["rope_parameters"]["rope_theta"]);
    let (width, inner) = (32, 48);
    let mut expected = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![config["vocab_size"].as_u64().unwrap() as usize, width]),
        ("model.norm.weight".to_owned(), vec![width]),
    ]);
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", vec![width]),
            ("self_attn.q_proj", vec![width, width]),
            ("self_attn.k_proj", vec![width, width]),
            ("self_attn.v_proj", vec![width, width]),
            ("self_attn.o_proj", vec![width, width]),
            ("post_attention_layernorm", vec![width]),
            ("mlp.gate_proj", vec![inner, width]),
            ("mlp.up_proj", vec![inner, width]),
            ("mlp.down_proj", vec![width, inner]),
        ] {
            expected.insert(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    let found: BTreeMap<String, Vec<usize>> =
        tensors.iter().map(|(name, (_, shape, _))| (name.clone(), shape.clone())).collect();
    assert_eq!(found, expected);
    assert!(tensors.values().all(|(dtype, _, _)| *dtype == Dtype::BF16));
    assert!(folder.path().join("tokenizer.json").exists());
}

#[test]
fn other_number_formats_and_repeated_tensors_are_read() {
    let folder = saved();
    let stored = EditModel::load(folder.path()).unwrap();
    let original = tensors(folder.path());
    let convert = |dtype: Dtype, bytes: &dyn Fn(f32) -> Vec<u8>| -> Tensors {
        let change = |(_, shape, data): &(Dtype, Vec<usize>, Vec<u8>)| {
            (dtype, shape.clone(), floats(data).into_iter().flat_map(bytes).collect())
        };
        original.iter().map(|(name, tensor)| (name.clone(), change(tensor))).collect()
    };
    replace(folder.path(), WEIGHTS, &serialized(&convert(Dtype::F32, &|value| value.to_le_bytes().to_vec())));
    assert_eq!(EditModel::load(folder.path()).unwrap().weights(), stored.weights());
    let sixteen = convert(Dtype::F16, &|value| half::f16::from_f32(value).to_le_bytes().to_vec());
    replace(folder.path(), WEIGHTS, &serialized(&sixteen));
    let loaded = EditModel::load(folder.path()).unwrap();
    assert!(loaded.weights().iter().zip(stored.weights()).all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs() + 1e-6));
    let mut tied = original.clone();
    let embedding = tied["model.embed_tokens.weight"].clone();
    tied.insert("lm_head.weight".to_owned(), embedding);
    replace(folder.path(), WEIGHTS, &serialized(&tied));
    assert_eq!(EditModel::load(folder.path()).unwrap().weights(), stored.weights());
}

#[test]
fn weights_that_do_not_fit_are_refused_by_name() {
    let folder = saved();
    let original = tensors(folder.path());
    let changed = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = original.clone();
        change(&mut tensors);
        serialized(&tensors)
    };
    let norm = "model.layers.1.input_layernorm.weight";
    let cases = [
        (changed(&|tensors| drop(tensors.remove(norm))), norm),
        (changed(&|tensors| tensors.get_mut(norm).unwrap().1 = vec![2, 16]), norm),
        (changed(&|tensors| tensors.get_mut(norm).unwrap().0 = Dtype::I16), norm),
        (changed(&|tensors| tensors.get_mut(norm).unwrap().2[..2].copy_from_slice(&[0xC0, 0x7F])), norm),
        (
            changed(&|tensors| {
                let bias = tensors[norm].clone();
                tensors.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), bias);
            }),
            "q_proj.bias",
        ),
    ];
    for (bytes, wanted) in cases {
        replace(folder.path(), WEIGHTS, &bytes);
        refused(folder.path(), wanted);
    }
}

#[test]
fn a_truncated_file_is_refused_even_when_the_manifest_vouches_for_it() {
    let folder = saved();
    let whole = std::fs::read(folder.path().join(WEIGHTS)).unwrap();
    let mut longer = whole.clone();
    longer.push(0);
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for length in [0, 1, 7, 8, 9, header - 1, header, header + 1, whole.len() / 2, whole.len() - 1] {
        replace(folder.path(), WEIGHTS, &whole[..length]);
        refused(folder.path(), "is damaged");
    }
    replace(folder.path(), WEIGHTS, &longer);
    refused(folder.path(), "is damaged");
    let mut endless = whole.clone();
    endless[..8].fill(0xFF);
    replace(folder.path(), WEIGHTS, &endless);
    refused(folder.path(), "is damaged");
}

/// A model in parts of at most 20,000 bytes.
fn saved_in_parts() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    model(1).save_in_parts(folder.path(), ModelManifest::new("test", "pretrain", "0"), 20_000).unwrap();
    folder
}

fn weights_files(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.contains("safetensors")).collect();
    names.sort();
    names
}

#[test]
fn a_model_in_parts_is_the_same_model() {
    let whole = EditModel::load(saved().path()).unwrap();
    let folder = saved_in_parts();
    let (model, manifest) = EditModel::load_with_manifest(folder.path()).unwrap();
    assert_eq!(model.weights(), whole.weights());
    let files = weights_files(folder.path());
    assert!(files.len() > 3 && files.contains(&INDEX.to_owned()), "{files:?}");
    assert!(files.iter().all(|name| manifest.files.contains_key(name)));
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path().join(INDEX)).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 2 * model.weights().len());
    let (network, weights) = Network::load(folder.path()).unwrap();
    assert_eq!((network.config(), weights.as_slice()), (model.network().config(), model.weights()));

    // One is saved where the other was: a reader without a manifest must not find both.
    model.save(folder.path(), ModelManifest::new("test", "pretrain", "0")).unwrap();
    assert_eq!(weights_files(folder.path()), [WEIGHTS]);
    model.save_in_parts(folder.path(), manifest, 20_000).unwrap();
    assert_eq!(weights_files(folder.path()), files);
}

#[test]
fn parts_that_do_not_fit_are_refused_by_name() {
    let folder = saved_in_parts();
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path().join(INDEX)).unwrap()).unwrap();
    let norm = "model.layers.1.input_layernorm.weight";
    let other = index["weight_map"]["model.embed_tokens.weight"].as_str().unwrap();
    assert_ne!(index["weight_map"][norm], other);
    let changed = |change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut index = index.clone();
        change(index["weight_map"].as_object_mut().unwrap());
        serde_json::to_vec(&index).unwrap()
    };
    let cases = [
        (changed(&|map| drop(map.remove(norm))), norm),
        (changed(&|map| drop(map.insert(norm.to_owned(), other.into()))), norm),
        (changed(&|map| drop(map.insert(norm.to_owned(), "../model.safetensors".into()))), "outside the directory"),
        (changed(&|map| drop(map.insert(norm.to_owned(), "/model.safetensors".into()))), "outside the directory"),
        (changed(&|map| drop(map.insert("lm_head.bias".to_owned(), other.into()))), "lm_head.bias"),
        (b"[]".to_vec(), "not an index"),
        (b"{".to_vec(), "not an index"),
    ];
    for (bytes, wanted) in cases {
        replace(folder.path(), INDEX, &bytes);
        let error = EditModel::load(folder.path()).unwrap_err();
        assert!(matches!(error, ModelError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    replace(folder.path(), INDEX, &serde_json::to_vec(&index).unwrap());
    EditModel::load(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join(other)).unwrap();
    assert!(matches!(EditModel::load(folder.path()), Err(ModelError::File { path, .. }) if path.ends_with(other)));
}

#[test]
fn sizes_that_no_file_bears_out_ask_for_no_memory() {
    let folder = saved();
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["intermediate_size"] = serde_json::Value::from(1 << 17);
    config["num_hidden_layers"] = serde_json::Value::from(256);
    replace(folder.path(), "config.json", &serde_json::to_vec(&config).unwrap());
    refused(folder.path(), "gate_proj");
}

// /dev/full is a disk without space.
#[cfg(target_os = "linux")]
#[test]
fn without_space_no_part_of_a_model_is_taken_for_one() {
    // By the order in which they are written.
    for (name, has_config) in [(WEIGHTS, false), ("config.json", false), ("tokenizer.json", true)] {
        let folder = saved();
        std::os::unix::fs::symlink("/dev/full", folder.path().join(format!("{name}.part"))).unwrap();
        let error = model(2).save(folder.path(), ModelManifest::new("test", "pretrain", "0")).unwrap_err();
        assert!(matches!(&error, ModelError::NoSpace { path, .. } if path.ends_with(name)), "{error:?}");
        assert!(error.to_string().contains("no space for"), "{error}");
        let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: BTreeSet<String> = entries.map(|name| name.into_string().unwrap()).collect();
        let kept = [WEIGHTS, "tokenizer.json"].into_iter().chain(has_config.then_some("config.json"));
        assert_eq!(left, kept.map(str::to_owned).collect());
        assert!(matches!(EditModel::load(folder.path()), Err(ModelError::File { .. })));
        assert_eq!(Network::load(folder.path()).is_ok(), has_config);
        // With space again the next one is written.
        model(2).save(folder.path(), ModelManifest::new("test", "pretrain", "0")).unwrap();
        let expected = model(2).in_served_precision().unwrap();
        assert_eq!(EditModel::load(folder.path()).unwrap().weights(), expected.weights());
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused_with_both_sizes() {
    let folder = saved();
    let stored = EditModel::load(folder.path()).unwrap();
    let other = CodeTokenizer::train(std::iter::once("a b"), 290).unwrap();
    replace(folder.path(), "tokenizer.json", other.to_json().unwrap().as_bytes());
    let error = EditModel::load(folder.path()).unwrap_err();
    assert!(
        matches!(error, ModelError::Vocabulary { tokens, vocab_size }
            if tokens == other.vocabulary_size() && vocab_size == stored.network().config().vocab_size),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_flipped_bit_and_any_cut_is_refused(place: prop::sample::Index, bit in 0..8_u8, cut: prop::sample::Index) {
        let folder = saved();
        let path = folder.path().join(WEIGHTS);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[place.index(whole.len())] ^= 1 << bit;
        std::fs::write(&path, &flipped).unwrap();
        refused(folder.path(), "truncated or altered");
        std::fs::write(&path, &whole[..cut.index(whole.len())]).unwrap();
        refused(folder.path(), "truncated or altered");
        std::fs::write(&path, &whole).unwrap();
        EditModel::load(folder.path()).unwrap();
    }
}

#[test]
fn the_base_of_this_repository_is_whole_and_small() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("base");
    let base = EditModel::load(&folder).unwrap();
    assert_eq!(base.in_served_precision().unwrap().weights(), base.weights());
    assert!(std::fs::metadata(folder.join(WEIGHTS)).unwrap().len() <= 12_000_000);
}
