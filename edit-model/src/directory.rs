//! A model on disk: a Hugging Face directory (`config.json`, `model.safetensors` in bf16, `tokenizer.json`) and our
//! `manifest.json` with the digest of every file, verified before anything is used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::model::EditModel;
use crate::network::Network;
use crate::tokenizer::CodeTokenizer;

/// Name of the manifest in a model directory.
pub const MANIFEST_FILE: &str = "manifest.json";
const CONFIG_FILE: &str = "config.json";
const WEIGHTS_FILE: &str = "model.safetensors";
const TOKENIZER_FILE: &str = "tokenizer.json";
/// Files larger than this are not models of this crate.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// What a model is and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelManifest {
    /// Name of the model.
    pub name: String,
    /// How it was made: `pretrain`, `sft`, `dpo`, `actionrl`.
    pub method: String,
    /// Digest of the version it was trained from, if any.
    #[serde(default)]
    pub parent_digest: Option<String>,
    /// Digest of the anchor that served as its reference, if any.
    #[serde(default)]
    pub anchor_digest: Option<String>,
    /// Digest of the snapshot of pairs it learned from, if any.
    #[serde(default)]
    pub snapshot_digest: Option<String>,
    /// Version of the code that made it.
    pub code_version: String,
    /// What else describes the run: seed, steps, settings.
    #[serde(default)]
    pub details: BTreeMap<String, serde_json::Value>,
    /// SHA-256 (lower-case hexadecimal) of every file, by name. Filled when the model is saved.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

impl ModelManifest {
    /// A manifest for a model made by `method`; files are filled in by [`EditModel::save`].
    #[must_use]
    pub fn new(name: &str, method: &str, code_version: &str) -> Self {
        Self {
            name: name.to_owned(),
            method: method.to_owned(),
            parent_digest: None,
            anchor_digest: None,
            snapshot_digest: None,
            code_version: code_version.to_owned(),
            details: BTreeMap::new(),
            files: BTreeMap::new(),
        }
    }

    /// Digest of the model: over the names and digests of its files, so that it does not depend on the description.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, digest) in &self.files {
            hash.update(name.as_bytes());
            hash.update([0]);
            hash.update(digest.as_bytes());
            hash.update([0]);
        }
        hex::encode(hash.finalize())
    }

    /// Reads the manifest of a model directory without checking the files.
    ///
    /// # Errors
    /// [`ModelError::File`] or [`ModelError::Damaged`].
    pub fn read(directory: &Path) -> Result<Self, ModelError> {
        let path = directory.join(MANIFEST_FILE);
        let bytes = read_file(&path)?;
        serde_json::from_slice(&bytes).map_err(|error| damaged(&path, format!("not a manifest: {error}")))
    }

    /// Checks every file against its digest.
    ///
    /// # Errors
    /// [`ModelError::File`] for a missing file, [`ModelError::Damaged`] for an altered one.
    pub fn verify(&self, directory: &Path) -> Result<(), ModelError> {
        for (name, digest) in &self.files {
            let path = directory.join(name);
            check_digest(&path, &read_file(&path)?, digest)?;
        }
        Ok(())
    }
}

fn damaged(path: &Path, reason: impl Into<String>) -> ModelError {
    ModelError::Damaged { path: path.to_owned(), reason: reason.into() }
}

fn read_file(path: &Path) -> Result<Vec<u8>, ModelError> {
    let file = |source| ModelError::File { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(file)?.len();
    if length > MAX_FILE_BYTES {
        return Err(damaged(path, "larger than any model of this kind"));
    }
    std::fs::read(path).map_err(file)
}

fn write_file(path: &PathBuf, bytes: &[u8]) -> Result<(), ModelError> {
    std::fs::write(path, bytes).map_err(|source| ModelError::File { path: path.clone(), source })
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn check_digest(path: &Path, bytes: &[u8], digest: &str) -> Result<(), ModelError> {
    let found = sha256(bytes);
    if found == *digest {
        return Ok(());
    }
    Err(damaged(path, format!("its digest is {found}, the manifest says {digest} (truncated or altered)")))
}

/// The content of `model.safetensors`: every tensor in bf16.
fn weights_to_bytes(network: &Network, weights: &[f32]) -> Result<Vec<u8>, ModelError> {
    let path = Path::new(WEIGHTS_FILE);
    let stored: Vec<(String, Vec<usize>, Vec<u8>)> = network
        .tensors()
        .into_iter()
        .map(|tensor| {
            let bytes = weights[tensor.range].iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
            (tensor.name, tensor.shape, bytes)
        })
        .collect();
    let mut views = Vec::with_capacity(stored.len());
    for (name, shape, bytes) in &stored {
        let view = TensorView::new(Dtype::BF16, shape.clone(), bytes)
            .map_err(|error| damaged(path, format!("{name}: {error}")))?;
        views.push((name.as_str(), view));
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    safetensors::serialize(views, Some(metadata)).map_err(|error| damaged(path, error.to_string()))
}

/// Weights from the content of a safetensors file in bf16, f16 or f32.
fn weights_from_bytes(network: &Network, path: &Path, bytes: &[u8]) -> Result<Vec<f32>, ModelError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(path, error.to_string()))?;
    let tensors = network.tensors();
    let known: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    // Of a tied model some writers store the output layer again, and old ones the rotary frequencies.
    let repeated = |name: &str| name == "lm_head.weight" || name.ends_with(".rotary_emb.inv_freq");
    if let Some(name) = file.names().into_iter().find(|name| !known.contains(*name) && !repeated(name)) {
        return Err(damaged(path, format!("it holds {name}, which the architecture of config.json does not have")));
    }
    let mut weights = vec![0.0_f32; network.parameter_count()];
    for tensor in tensors {
        let view = file.tensor(&tensor.name).map_err(|error| damaged(path, error.to_string()))?;
        if view.shape() != tensor.shape {
            return Err(damaged(path, format!("{} has another shape than config.json says", tensor.name)));
        }
        let target = &mut weights[tensor.range];
        let data = view.data();
        match view.dtype() {
            Dtype::BF16 => {
                for (value, bytes) in target.iter_mut().zip(data.as_chunks::<2>().0) {
                    *value = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            Dtype::F16 => {
                for (value, bytes) in target.iter_mut().zip(data.as_chunks::<2>().0) {
                    *value = half::f16::from_le_bytes(*bytes).to_f32();
                }
            }
            Dtype::F32 => {
                for (value, bytes) in target.iter_mut().zip(data.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            other => return Err(damaged(path, format!("{} is stored as {other:?}", tensor.name))),
        }
        if target.iter().any(|value| !value.is_finite()) {
            return Err(damaged(path, format!("{} holds a number that is not finite", tensor.name)));
        }
    }
    Ok(weights)
}

impl EditModel {
    /// Loads and verifies a model directory.
    ///
    /// # Errors
    /// [`ModelError::File`] for a missing file, [`ModelError::Damaged`] for a truncated or altered one.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        Ok(Self::load_with_manifest(directory)?.0)
    }

    /// Loads and verifies a model directory; also returns its manifest.
    ///
    /// # Errors
    /// As [`EditModel::load`].
    pub fn load_with_manifest(directory: &Path) -> Result<(Self, ModelManifest), ModelError> {
        let manifest = ModelManifest::read(directory)?;
        let read = |name: &str| {
            let path = directory.join(name);
            let digest = manifest
                .files
                .get(name)
                .ok_or_else(|| damaged(&directory.join(MANIFEST_FILE), format!("it does not name {name}")))?;
            let bytes = read_file(&path)?;
            check_digest(&path, &bytes, digest)?;
            Ok::<_, ModelError>((path, bytes))
        };
        let (config_path, config_bytes) = read(CONFIG_FILE)?;
        let config: ModelConfig =
            serde_json::from_slice(&config_bytes).map_err(|error| damaged(&config_path, error.to_string()))?;
        let (_, tokenizer_bytes) = read(TOKENIZER_FILE)?;
        let tokenizer = CodeTokenizer::from_bytes(&tokenizer_bytes)?;
        let network = Network::new(config.clone())?;
        let (weights_path, weights_bytes) = read(WEIGHTS_FILE)?;
        let weights = weights_from_bytes(&network, &weights_path, &weights_bytes)?;
        Ok((Self::new(config, weights, tokenizer)?, manifest))
    }

    /// Writes the model directory with `manifest`, whose files are filled in, and returns the manifest as written. The
    /// manifest is written last, so that an interrupted save is never taken for a model.
    ///
    /// # Errors
    /// [`ModelError::File`] when a file cannot be written.
    pub fn save(&self, directory: &Path, mut manifest: ModelManifest) -> Result<ModelManifest, ModelError> {
        std::fs::create_dir_all(directory).map_err(|source| ModelError::File { path: directory.to_owned(), source })?;
        let config = serde_json::to_string_pretty(self.network().config())
            .map_err(|error| ModelError::Config(error.to_string()))?;
        let contents = [
            (CONFIG_FILE, (config + "\n").into_bytes()),
            (TOKENIZER_FILE, self.tokenizer().to_json()?.into_bytes()),
            (WEIGHTS_FILE, weights_to_bytes(self.network(), self.weights())?),
        ];
        manifest.files.clear();
        for (name, bytes) in contents {
            write_file(&directory.join(name), &bytes)?;
            manifest.files.insert(name.to_owned(), sha256(&bytes));
        }
        let text = serde_json::to_string_pretty(&manifest).map_err(|error| ModelError::Config(error.to_string()))?;
        write_file(&directory.join(MANIFEST_FILE), (text + "\n").as_bytes())?;
        Ok(manifest)
    }

    /// The model as it is served: its weights rounded to what is stored.
    ///
    /// # Errors
    /// [`ModelError::Config`] never in practice: the number of weights is the same.
    pub fn in_served_precision(&self) -> Result<Self, ModelError> {
        self.with_weights(self.weights().iter().map(|value| bf16::from_f32(*value).to_f32()).collect())
    }
}
