//! Adapters: what PEFT computes with them, we compute too; what we save has the tensors and the settings that it saved.

use std::path::PathBuf;
use std::sync::Arc;

use edit_model::{
    CpuBackend, Lora, LoraBackend, LoraConfig, ModelError, Network, NetworkBackend, Projection, Sequence,
};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::decoders::{assert_gradients, fixture, tensors};

const FAMILIES: [&str; 2] = ["qwen2", "qwen3"];

fn adapter_of(family: &str) -> PathBuf {
    fixture(family).join("adapter")
}

#[test]
fn logits_with_an_adapter_are_those_of_peft() {
    for family in FAMILIES {
        let (network, mut weights) = Network::load(&fixture(family)).unwrap();
        let (lora, adapter) = Lora::load(&adapter_of(family), &network).unwrap();
        lora.add_to(&mut weights, &adapter).unwrap();
        let expected = tensors(&adapter_of(family), |name| name == "expected.safetensors");
        let (shape, tokens) = &expected["tokens"];
        let size = shape[1] * network.config().vocab_size;
        for (row, want) in tokens.chunks_exact(shape[1]).zip(expected["logits"].1.chunks_exact(size)) {
            let tokens: Vec<u32> = row.iter().map(|token| *token as u32).collect();
            let got = network.all_logits(&weights, &tokens).unwrap();
            let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{family}: logits differ by {worst}");
        }
    }
}

#[test]
fn gradients_of_an_adapter_are_those_of_peft() {
    for family in FAMILIES {
        let (network, weights) = Network::load(&fixture(family)).unwrap();
        let (lora, adapter) = Lora::load(&adapter_of(family), &network).unwrap();
        let expected = tensors(&adapter_of(family), |name| name == "expected.safetensors");
        let (shape, tokens) = &expected["tokens"];
        let tokens: Vec<u32> = tokens.iter().map(|token| *token as u32).collect();
        let target_positions: Vec<u32> = (0..shape[1] as u32 - 1).collect();
        let sequences: Vec<Sequence<'_>> = tokens
            .chunks_exact(shape[1])
            .map(|tokens| Sequence { tokens, target_positions: &target_positions })
            .collect();
        let mut backend = LoraBackend::new(lora.clone(), Arc::new(weights), Box::new(CpuBackend::new(network)));
        backend.forward(&adapter, &sequences).unwrap();
        let mut gradients = vec![0.0; adapter.len()];
        backend.backward(&adapter, &expected["coefficients"].1, &mut gradients).unwrap();
        assert_gradients(family, lora.tensors(), &gradients, &expected, 1e-3);
    }
}

#[test]
fn what_is_saved_is_what_peft_saved() {
    for family in FAMILIES {
        let (network, _) = Network::load(&fixture(family)).unwrap();
        let (lora, adapter) = Lora::load(&adapter_of(family), &network).unwrap();
        let folder = tempfile::tempdir().unwrap();
        lora.save(&adapter, folder.path(), family).unwrap();
        let of = |name: &str| name == "adapter_model.safetensors";
        assert_eq!(tensors(folder.path(), of), tensors(&adapter_of(family), of));
        let config = |folder: PathBuf| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
        };
        let (ours, theirs) = (config(folder.path().to_owned()), config(adapter_of(family)));
        for (name, value) in ours.as_object().unwrap() {
            match name.as_str() {
                // Dropout is for training alone.
                "lora_dropout" => assert_eq!(value.as_f64(), Some(0.0)),
                "lora_alpha" => assert_eq!(value.as_f64(), theirs[name].as_f64()),
                "target_modules" => {
                    let mut modules: Vec<&str> =
                        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
                    modules.sort_unstable();
                    assert_eq!(Value::from(modules), theirs[name]);
                }
                _ => assert_eq!(value, &theirs[name], "{family}: {name}"),
            }
        }
        let (again, read) = Lora::load(folder.path(), &network).unwrap();
        assert_eq!((again.config(), read), (lora.config(), adapter));
    }
}

#[test]
fn an_interrupted_save_is_never_taken_for_an_adapter() {
    let (network, _) = Network::load(&fixture("qwen2")).unwrap();
    let (lora, adapter) = Lora::load(&adapter_of("qwen2"), &network).unwrap();
    let folder = tempfile::tempdir().unwrap();
    lora.save(&adapter, folder.path(), "before").unwrap();
    // Nothing can be put where a directory is.
    let weights = folder.path().join("adapter_model.safetensors");
    std::fs::remove_file(&weights).unwrap();
    std::fs::create_dir(&weights).unwrap();
    assert!(matches!(lora.save(&adapter, folder.path(), "after"), Err(ModelError::File { .. })));
    let error = Lora::load(folder.path(), &network).unwrap_err();
    assert!(matches!(&error, ModelError::File { path, .. } if path.ends_with("adapter_config.json")), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// A fresh adapter changes nothing; several over one base add up; each entry is the sum that the formula says.
    #[test]
    fn changes_are_products_and_add_up(
        rank in 1..9_usize,
        alpha in 0.5..40.0_f64,
        projections in prop::collection::btree_set(prop::sample::select(Projection::ALL.to_vec()), 1..8),
        seed: u64,
    ) {
        let (network, base) = Network::load(&fixture("qwen3")).unwrap();
        let lora = Lora::new(LoraConfig { rank, alpha, projections }, &network).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let fresh = lora.initialize(&mut random);
        let mut same = base.clone();
        lora.add_to(&mut same, &fresh).unwrap();
        prop_assert_eq!(&same, &base);
        prop_assert!(fresh.iter().any(|value| *value != 0.0));

        let mut draw = || -> Vec<f32> { fresh.iter().map(|_| random.random::<f32>() - 0.5).collect() };
        let (first, second) = (draw(), draw());
        let added = |order: [&[f32]; 2]| {
            let mut weights = base.clone();
            for adapter in order {
                lora.add_to(&mut weights, adapter).unwrap();
            }
            weights
        };
        let (one_way, other_way) = (added([&first, &second]), added([&second, &first]));
        prop_assert!(one_way.iter().zip(&other_way).all(|(a, b)| (a - b).abs() < 1e-4));

        let mut expected = base.clone();
        let (scale, places) = (alpha / rank as f64, lora.tensors());
        for pair in places.chunks_exact(2) {
            let name = pair[0].name.trim_start_matches("base_model.model.").replace(".lora_A", "");
            let matrix = network.tensors().into_iter().find(|tensor| tensor.name == name).unwrap();
            let (rows, columns) = (matrix.shape[0], matrix.shape[1]);
            for adapter in [&first, &second] {
                let (a, b) = (&adapter[pair[0].range.clone()], &adapter[pair[1].range.clone()]);
                for row in 0..rows {
                    for column in 0..columns {
                        let sum: f64 =
                            (0..rank).map(|r| f64::from(b[row * rank + r]) * f64::from(a[r * columns + column])).sum();
                        expected[matrix.range.start + row * columns + column] += (scale * sum) as f32;
                    }
                }
            }
        }
        prop_assert!(one_way.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 2e-3));
        // What the adapter does not name stays bit for bit.
        let changed = one_way.iter().zip(&base).filter(|(a, b)| a != b).count();
        let named: usize = places.chunks_exact(2).map(|pair| pair[0].shape[1] * pair[1].shape[0]).sum();
        prop_assert!(changed <= named);
    }
}

#[test]
fn an_adapter_that_would_be_computed_wrongly_is_refused_by_name() {
    let (network, _) = Network::load(&fixture("qwen2")).unwrap();
    let (other, _) = Network::load(&fixture("qwen3")).unwrap();
    let original: Value =
        serde_json::from_slice(&std::fs::read(adapter_of("qwen2").join("adapter_config.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(adapter_of("qwen2").join(file), folder.path().join(file)).unwrap();
    }
    let refusals = [
        ("peft_type", Value::from("IA3"), "peft_type"),
        ("modules_to_save", Value::from(vec!["lm_head"]), "modules_to_save"),
        ("bias", Value::from("all"), "bias"),
        ("use_dora", Value::from(true), "use_dora"),
        ("use_rslora", Value::from(true), "use_rslora"),
        ("init_lora_weights", Value::from("pissa"), "init_lora_weights"),
        ("init_lora_weights", Value::from("loftq"), "init_lora_weights"),
        ("rank_pattern", serde_json::json!({ "q_proj": 8 }), "rank_pattern"),
        ("layers_to_transform", Value::from(vec![0]), "layers_to_transform"),
        ("target_modules", Value::from(vec!["lm_head"]), "target_modules"),
        ("target_modules", Value::Null, "target_modules"),
        ("target_modules", Value::Array(Vec::new()), "no projection"),
        ("r", Value::from(0), "rank"),
        ("r", Value::Null, "r of the adapter"),
        ("lora_alpha", Value::from(-1.0), "lora_alpha"),
    ];
    for (name, value, wanted) in refusals {
        let mut config = original.clone();
        config[name] = value;
        std::fs::write(folder.path().join("adapter_config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        let error = Lora::load(folder.path(), &network).unwrap_err();
        assert!(matches!(error, ModelError::Config(_)), "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    // How it began makes no difference where the base stayed as it was.
    for value in [Value::from(true), Value::from(false), Value::from("gaussian"), Value::Null] {
        let mut config = original.clone();
        config["init_lora_weights"] = value;
        std::fs::write(folder.path().join("adapter_config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        Lora::load(folder.path(), &network).unwrap();
    }
    // Another rank, fewer modules, another model: tensors do not fit.
    for (name, value, wanted) in [
        ("r", Value::from(8), "shape"),
        ("target_modules", Value::from(vec!["q_proj"]), "which the adapter does not have"),
    ] {
        let mut config = original.clone();
        config[name] = value;
        std::fs::write(folder.path().join("adapter_config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        let error = Lora::load(folder.path(), &network).unwrap_err();
        assert!(matches!(error, ModelError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    let error = Lora::load(&adapter_of("qwen2"), &other).unwrap_err();
    assert!(matches!(error, ModelError::Damaged { .. }), "{error}");
    let (lora, adapter) = Lora::load(&adapter_of("qwen2"), &network).unwrap();
    let mut few = vec![0.0; 5];
    assert!(matches!(lora.add_to(&mut few, &adapter), Err(ModelError::Sequence(_))));
    assert!(matches!(lora.save(&adapter[1..], folder.path(), "x"), Err(ModelError::Sequence(_))));
}
