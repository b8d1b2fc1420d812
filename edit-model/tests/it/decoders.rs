//! What `transformers` computes with tiny decoders of each family, we compute too: logits, and gradients of every tensor;
//! and what we save holds the tensors that it saved. `tests/fixtures/make-decoders` wrote the fixtures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use edit_model::{NamedTensor, Network, Sequence, Workspace};
use safetensors::tensor::{Dtype, SafeTensors};

const FAMILIES: [&str; 4] = ["llama", "llama-3", "qwen2", "qwen3"];

pub(crate) fn fixture(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoders").join(family)
}

/// Shape and values of every tensor in the safetensors files of `directory` that `is_wanted` names.
pub(crate) fn tensors(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut tensors = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.ends_with(".safetensors") || !is_wanted(name) {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let four = |bytes: &[u8]| [bytes[0], bytes[1], bytes[2], bytes[3]];
            let values = match view.dtype() {
                Dtype::F32 => view.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(four(bytes))).collect(),
                Dtype::I32 => view.data().chunks_exact(4).map(|bytes| i32::from_le_bytes(four(bytes)) as f32).collect(),
                Dtype::BF16 => {
                    let values = view.data().chunks_exact(2);
                    values.map(|bytes| half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()).collect()
                }
                Dtype::F16 => {
                    let values = view.data().chunks_exact(2);
                    values.map(|bytes| half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()).collect()
                }
                other => panic!("{name} is {other:?}"),
            };
            tensors.insert(name.to_owned(), (view.shape().to_vec(), values));
        }
    }
    tensors
}

pub(crate) fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// Wants of every one of `named` the gradient that `expected` holds, and that it is at least `least` of all of them
/// together: one that is nearly nothing says nothing.
pub(crate) fn assert_gradients(
    family: &str,
    named: Vec<NamedTensor>,
    gradients: &[f32],
    expected: &BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    least: f64,
) {
    let wanted = expected.keys().filter(|name| name.starts_with("gradient.")).count();
    assert_eq!(named.len(), wanted, "{family}");
    let whole = norm(gradients);
    for tensor in named {
        let (shape, want) = &expected[&format!("gradient.{}", tensor.name)];
        assert_eq!(shape, &tensor.shape, "{family}: {}", tensor.name);
        let difference: Vec<f32> = gradients[tensor.range].iter().zip(want).map(|(a, b)| a - b).collect();
        let (error, size) = (norm(&difference), norm(want));
        assert!(error < 1e-4 * size + 1e-6 * whole, "{family}: {}: {error} of {size}", tensor.name);
        assert!(size > least * whole, "{family}: the gradient of {} says nothing", tensor.name);
    }
}

#[test]
fn logits_are_those_of_transformers() {
    for family in FAMILIES {
        let (network, weights) = Network::load(&fixture(family)).unwrap();
        let expected = tensors(&fixture(family), |name| name == "expected.safetensors");
        let (shape, tokens) = &expected["tokens"];
        let vocabulary = network.config().vocab_size;
        for (row, want) in tokens.chunks_exact(shape[1]).zip(expected["logits"].1.chunks_exact(shape[1] * vocabulary)) {
            let tokens: Vec<u32> = row.iter().map(|token| *token as u32).collect();
            let got = network.all_logits(&weights, &tokens).unwrap();
            assert_eq!(got.len(), want.len());
            let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{family}: logits differ by {worst}");
            // They are not at rest, or all would agree.
            assert!(norm(want) > 0.5 * (want.len() as f64).sqrt(), "{family}");
        }
    }
}

#[test]
fn gradients_are_those_of_transformers() {
    for family in FAMILIES {
        let (network, weights) = Network::load(&fixture(family)).unwrap();
        let expected = tensors(&fixture(family), |name| name == "expected.safetensors");
        let (shape, tokens) = &expected["tokens"];
        let tokens: Vec<u32> = tokens.iter().map(|token| *token as u32).collect();
        let target_positions: Vec<u32> = (0..shape[1] as u32 - 1).collect();
        let sequences: Vec<Sequence<'_>> = tokens
            .chunks_exact(shape[1])
            .map(|tokens| Sequence { tokens, target_positions: &target_positions })
            .collect();
        let mut workspace = Workspace::default();
        network.forward(&weights, &sequences, &mut workspace).unwrap();
        let mut gradients = vec![0.0; weights.len()];
        network.backward(&weights, &expected["coefficients"].1, &mut workspace, &mut gradients).unwrap();
        assert_gradients(family, network.tensors(), &gradients, &expected, 1e-4);
    }
}

#[test]
fn what_is_saved_has_the_tensors_of_transformers() {
    for family in FAMILIES {
        let theirs = tensors(&fixture(family), |name| name.starts_with("model"));
        let (network, weights) = Network::load(&fixture(family)).unwrap();
        for part_bytes in [u64::MAX, 5_000] {
            let folder = tempfile::tempdir().unwrap();
            let files = network.save(&weights, folder.path(), part_bytes).unwrap();
            assert_eq!(files.len() > 2, part_bytes < u64::MAX, "{family}: {files:?}");
            let ours = tensors(folder.path(), |name| name.starts_with("model"));
            assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{family}");
            for (name, (shape, values)) in &ours {
                assert_eq!(shape, &theirs[name].0, "{family}: {name}");
                let rounded = theirs[name].1.iter().map(|value| half::bf16::from_f32(*value).to_f32());
                assert!(values.iter().copied().eq(rounded), "{family}: {name}");
            }
            let (again, read) = Network::load(folder.path()).unwrap();
            assert_eq!(again.config().as_written(), network.config().as_written(), "{family}");
            let rounded = weights.iter().map(|value| half::bf16::from_f32(*value).to_f32());
            assert!(read.iter().copied().eq(rounded), "{family}");
        }
    }
}
