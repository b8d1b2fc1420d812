//! Weights in Hugging Face's layout: `model.safetensors`, or parts of at most so many bytes with an index that says which
//! tensor lies in which. bf16, f16 and f32 are read, bf16 is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::network::{NamedTensor, Network, OUTPUT};

/// All weights in one file.
pub(crate) const WEIGHTS_FILE: &str = "model.safetensors";
/// Which tensor lies in which part.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// Bytes of the largest part that is written, where a tensor is not larger by itself.
pub(crate) const PART_BYTES: u64 = 2 << 30;

#[derive(Serialize, Deserialize)]
struct Index {
    #[serde(default)]
    metadata: Map<String, Value>,
    weight_map: BTreeMap<String, String>,
}

/// Whether a file of this name holds weights or says where they are.
pub(crate) fn is_weights_file(name: &str) -> bool {
    name == WEIGHTS_FILE || name == INDEX_FILE || (name.starts_with("model-") && name.ends_with(".safetensors"))
}

/// Whether a name is that of a file in the directory itself.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

/// What some writers store although it follows from the rest: the output layer of a tied model, rotary frequencies.
fn is_repeated(network: &Network, name: &str) -> bool {
    (network.config().tie_word_embeddings && name == OUTPUT) || name.ends_with(".rotary_emb.inv_freq")
}

/// Weights from one file, or from the parts of an index; `read` gives the content of a file of `directory`.
///
/// # Errors
/// What `read` returns; [`ModelError::Damaged`] for a file that is malformed, and for a tensor that is missing, unknown,
/// of another shape, stored in another format or not finite.
pub(crate) fn read_weights(
    network: &Network,
    directory: &Path,
    is_in_parts: bool,
    read: &dyn Fn(&str) -> Result<Vec<u8>, ModelError>,
) -> Result<Vec<f32>, ModelError> {
    let tensors = network.tensors();
    let known: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let check_known = |path: &Path, name: &str| {
        if known.contains(name) || is_repeated(network, name) {
            return Ok(());
        }
        Err(ModelError::damaged(path, format!("it holds {name}, which the architecture of config.json does not have")))
    };
    let mut parts: BTreeMap<String, Vec<&NamedTensor>> = BTreeMap::new();
    if is_in_parts {
        let path = directory.join(INDEX_FILE);
        let index: Index = serde_json::from_slice(&read(INDEX_FILE)?)
            .map_err(|error| ModelError::damaged(&path, format!("not an index of weights: {error}")))?;
        for (name, file) in &index.weight_map {
            check_known(&path, name)?;
            if !is_plain(file) {
                return Err(ModelError::damaged(&path, format!("it places {name} outside the directory")));
            }
        }
        for tensor in &tensors {
            let file = index.weight_map.get(&tensor.name);
            let file = file.ok_or_else(|| ModelError::damaged(&path, format!("it does not name {}", tensor.name)))?;
            parts.entry(file.clone()).or_default().push(tensor);
        }
    } else {
        parts.insert(WEIGHTS_FILE.to_owned(), tensors.iter().collect());
    }
    // Before so much memory is asked for: no number takes less than two bytes.
    let mut stored = 0;
    for file in parts.keys() {
        let path = directory.join(file);
        stored += std::fs::metadata(&path).map_err(|source| ModelError::File { path, source })?.len();
    }
    let is_allocated = network.parameter_count() as u64 <= stored / 2;
    let mut weights = if is_allocated { vec![0.0_f32; network.parameter_count()] } else { Vec::new() };
    for (file, tensors) in parts {
        let path = directory.join(&file);
        let bytes = read(&file)?;
        let content =
            SafeTensors::deserialize(&bytes).map_err(|error| ModelError::damaged(&path, error.to_string()))?;
        for name in content.names() {
            check_known(&path, name)?;
        }
        for tensor in tensors {
            let view = content.tensor(&tensor.name).map_err(|error| ModelError::damaged(&path, error.to_string()))?;
            if view.shape() != tensor.shape {
                let (found, wanted) = (view.shape(), &tensor.shape);
                let reason =
                    format!("{} has the shape {found:?}; by config.json it has another, {wanted:?}", tensor.name);
                return Err(ModelError::damaged(&path, reason));
            }
            if is_allocated {
                decode(&path, &tensor.name, &view, &mut weights[tensor.range.clone()])?;
            }
        }
    }
    if is_allocated {
        return Ok(weights);
    }
    Err(ModelError::damaged(
        directory,
        format!("its files are too small for the {} weights of config.json", network.parameter_count()),
    ))
}

/// Numbers of a stored tensor, which has as many as `target`.
pub(crate) fn decode(path: &Path, name: &str, view: &TensorView<'_>, target: &mut [f32]) -> Result<(), ModelError> {
    let data = view.data();
    match view.dtype() {
        Dtype::BF16 => {
            for (value, bytes) in target.iter_mut().zip(data.as_chunks::<2>().0) {
                *value = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        Dtype::F16 => {
            for (value, bytes) in target.iter_mut().zip(data.as_chunks::<2>().0) {
                *value = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        Dtype::F32 => {
            for (value, bytes) in target.iter_mut().zip(data.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        other => {
            return Err(ModelError::damaged(
                path,
                format!("{name} is stored as {other:?}; bf16, f16 and f32 are read"),
            ));
        }
    }
    if target.iter().any(|value| !value.is_finite()) {
        return Err(ModelError::damaged(path, format!("{name} holds a number that is not finite")));
    }
    Ok(())
}

/// Takes the name and the content of a file.
type WriteFile<'a> = dyn FnMut(&str, &[u8]) -> Result<(), ModelError> + 'a;

/// Writes all weights in bf16: one file where `part_bytes` suffice, else parts and their index. `write` takes the name
/// and the content of each file.
///
/// # Errors
/// What `write` returns.
pub(crate) fn write_weights(
    network: &Network,
    weights: &[f32],
    part_bytes: u64,
    write: &mut WriteFile<'_>,
) -> Result<(), ModelError> {
    let bytes_of = |tensor: &NamedTensor| 2 * tensor.range.len() as u64;
    let mut parts: Vec<Vec<NamedTensor>> = vec![Vec::new()];
    let mut room = part_bytes;
    for tensor in network.tensors() {
        let bytes = bytes_of(&tensor);
        if bytes > room && parts.last().is_some_and(|part| !part.is_empty()) {
            parts.push(Vec::new());
            room = part_bytes;
        }
        room = room.saturating_sub(bytes);
        if let Some(part) = parts.last_mut() {
            part.push(tensor);
        }
    }
    if let [whole] = parts.as_slice() {
        return write(WEIGHTS_FILE, &encode(WEIGHTS_FILE, whole, weights, Dtype::BF16, as_bf16)?);
    }
    let total: u64 = parts.iter().flatten().map(bytes_of).sum();
    let mut index = Index {
        metadata: [("total_size".to_owned(), Value::from(total))].into_iter().collect(),
        weight_map: BTreeMap::new(),
    };
    for (number, part) in parts.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, parts.len());
        write(&file, &encode(&file, part, weights, Dtype::BF16, as_bf16)?)?;
        index.weight_map.extend(part.iter().map(|tensor| (tensor.name.clone(), file.clone())));
    }
    let index = serde_json::to_vec_pretty(&index)
        .map_err(|error| ModelError::damaged(Path::new(INDEX_FILE), error.to_string()))?;
    write(INDEX_FILE, &index)
}

fn as_bf16(value: f32) -> [u8; 2] {
    bf16::from_f32(value).to_le_bytes()
}

/// The content of one safetensors file, in which `bytes` makes numbers of the type `dtype` of our weights.
pub(crate) fn encode<const BYTES: usize>(
    file: &str,
    tensors: &[NamedTensor],
    weights: &[f32],
    dtype: Dtype,
    bytes: fn(f32) -> [u8; BYTES],
) -> Result<Vec<u8>, ModelError> {
    let path = Path::new(file);
    let stored: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| weights[tensor.range.clone()].iter().flat_map(|value| bytes(*value)).collect())
        .collect();
    let mut views = Vec::with_capacity(stored.len());
    for (tensor, bytes) in tensors.iter().zip(&stored) {
        let view = TensorView::new(dtype, tensor.shape.clone(), bytes)
            .map_err(|error| ModelError::damaged(path, format!("{}: {error}", tensor.name)))?;
        views.push((tensor.name.as_str(), view));
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    safetensors::serialize(views, Some(metadata)).map_err(|error| ModelError::damaged(path, error.to_string()))
}
