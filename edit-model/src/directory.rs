//! A model on disk: a Hugging Face directory (`config.json`, `model.safetensors` in bf16 or parts of it with an index,
//! `tokenizer.json`) and our `manifest.json` with the digest of every file, verified before anything is used.

use std::collections::BTreeMap;
use std::path::Path;

use half::bf16;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::checkpoint::{INDEX_FILE, PART_BYTES, WEIGHTS_FILE, is_weights_file, read_weights, write_weights};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::model::EditModel;
use crate::network::Network;
use crate::tokenizer::CodeTokenizer;
use crate::whole::{remove_file, write_whole};

/// Name of the manifest in a model directory.
pub const MANIFEST_FILE: &str = "manifest.json";
const CONFIG_FILE: &str = "config.json";
pub(crate) const TOKENIZER_FILE: &str = "tokenizer.json";
/// Files larger than this are not read: 1.5 billion weights in f32 are 6 GB.
const MAX_FILE_BYTES: u64 = 16 << 30;

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
        serde_json::from_slice(&bytes).map_err(|error| ModelError::damaged(&path, format!("not a manifest: {error}")))
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

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, ModelError> {
    let file = |source| ModelError::File { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(file)?.len();
    if length > MAX_FILE_BYTES {
        return Err(ModelError::damaged(path, "larger than any model of this kind"));
    }
    std::fs::read(path).map_err(file)
}

/// Removes weights that an earlier model of this directory left: readers without a manifest would take them.
fn remove_other_weights(directory: &Path, files: &BTreeMap<String, String>) -> Result<(), ModelError> {
    let failed = |source| ModelError::File { path: directory.to_owned(), source };
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if is_weights_file(name) && !files.contains_key(name) {
            remove_file(&directory.join(name))?;
        }
    }
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn check_digest(path: &Path, bytes: &[u8], digest: &str) -> Result<(), ModelError> {
    let found = sha256(bytes);
    if found == *digest {
        return Ok(());
    }
    Err(ModelError::damaged(path, format!("its digest is {found}, the manifest says {digest} (truncated or altered)")))
}

impl Network {
    /// The decoder and the weights of a Hugging Face directory that others wrote: `config.json` and `model.safetensors`,
    /// or its parts with their index. There is no manifest, so nothing vouches for them.
    ///
    /// # Errors
    /// [`ModelError::Config`] for an architecture that is not computed, [`ModelError::File`] for a missing file,
    /// [`ModelError::Damaged`] for a malformed one and for tensors that do not fit.
    pub fn load(directory: &Path) -> Result<(Self, Vec<f32>), ModelError> {
        let read = |name: &str| read_file(&directory.join(name));
        let network = Self::new(ModelConfig::from_json(&read(CONFIG_FILE)?)?)?;
        let is_in_parts = !directory.join(WEIGHTS_FILE).exists() && directory.join(INDEX_FILE).exists();
        let weights = read_weights(&network, directory, is_in_parts, &read)?;
        Ok((network, weights))
    }

    /// Writes `config.json` and `weights` as `transformers` loads them, in parts of at most `part_bytes` bytes unless one
    /// tensor is larger; weights that an earlier model left there are removed. The `config.json` that was there before goes
    /// first and the new one is written last, so that weights of one model are never read as those of another. Returns the
    /// SHA-256 of every file by name.
    ///
    /// # Errors
    /// [`ModelError::File`] or [`ModelError::NoSpace`] when a file cannot be written, [`ModelError::Sequence`] for weights of
    /// another architecture.
    pub fn save(
        &self,
        weights: &[f32],
        directory: &Path,
        part_bytes: u64,
    ) -> Result<BTreeMap<String, String>, ModelError> {
        if weights.len() != self.parameter_count() {
            return Err(ModelError::Sequence("the weights do not fit the architecture"));
        }
        std::fs::create_dir_all(directory).map_err(|source| ModelError::File { path: directory.to_owned(), source })?;
        let config = serde_json::to_string_pretty(&self.config().as_written())
            .map_err(|error| ModelError::Config(error.to_string()))?;
        remove_file(&directory.join(CONFIG_FILE))?;
        let mut files = BTreeMap::new();
        let write = |files: &mut BTreeMap<String, String>, name: &str, bytes: &[u8]| -> Result<(), ModelError> {
            write_whole(&directory.join(name), bytes)?;
            files.insert(name.to_owned(), sha256(bytes));
            Ok(())
        };
        write_weights(self, weights, part_bytes, &mut |name, bytes| write(&mut files, name, bytes))?;
        remove_other_weights(directory, &files)?;
        write(&mut files, CONFIG_FILE, (config + "\n").as_bytes())?;
        Ok(files)
    }
}

impl EditModel {
    /// Loads and verifies a model directory.
    ///
    /// # Errors
    /// [`ModelError::Config`] for an architecture that is not computed, [`ModelError::File`] for a missing file,
    /// [`ModelError::Damaged`] for a truncated or altered one, [`ModelError::Vocabulary`] for a tokenizer of another
    /// model.
    pub fn load(directory: &Path) -> Result<Self, ModelError> {
        Ok(Self::load_with_manifest(directory)?.0)
    }

    /// Loads and verifies a model directory; also returns its manifest.
    ///
    /// # Errors
    /// As [`EditModel::load`].
    pub fn load_with_manifest(directory: &Path) -> Result<(Self, ModelManifest), ModelError> {
        let manifest = ModelManifest::read(directory)?;
        let read = |name: &str| -> Result<Vec<u8>, ModelError> {
            let path = directory.join(name);
            let digest = manifest.files.get(name).ok_or_else(|| {
                ModelError::damaged(&directory.join(MANIFEST_FILE), format!("it does not name {name}"))
            })?;
            let bytes = read_file(&path)?;
            check_digest(&path, &bytes, digest)?;
            Ok(bytes)
        };
        let config = ModelConfig::from_json(&read(CONFIG_FILE)?)?;
        let tokenizer = CodeTokenizer::from_bytes(&read(TOKENIZER_FILE)?)?;
        let network = Network::new(config.clone())?;
        let weights = read_weights(&network, directory, manifest.files.contains_key(INDEX_FILE), &read)?;
        Ok((Self::new(config, weights, tokenizer)?, manifest))
    }

    /// Writes the model directory with `manifest`, whose files are filled in, and returns the manifest as written. The
    /// manifest of what was there before goes first and the new one is written last, so that an interrupted save is never
    /// taken for a model.
    ///
    /// # Errors
    /// [`ModelError::File`] or [`ModelError::NoSpace`] when a file cannot be written.
    pub fn save(&self, directory: &Path, manifest: ModelManifest) -> Result<ModelManifest, ModelError> {
        self.save_in_parts(directory, manifest, PART_BYTES)
    }

    /// The same, with weights in parts of at most `part_bytes` bytes, unless one tensor is larger.
    ///
    /// # Errors
    /// As [`EditModel::save`].
    pub fn save_in_parts(
        &self,
        directory: &Path,
        mut manifest: ModelManifest,
        part_bytes: u64,
    ) -> Result<ModelManifest, ModelError> {
        remove_file(&directory.join(MANIFEST_FILE))?;
        manifest.files = self.network().save(self.weights(), directory, part_bytes)?;
        let tokenizer = self.tokenizer().to_json()?;
        write_whole(&directory.join(TOKENIZER_FILE), tokenizer.as_bytes())?;
        manifest.files.insert(TOKENIZER_FILE.to_owned(), sha256(tokenizer.as_bytes()));
        let text = serde_json::to_string_pretty(&manifest).map_err(|error| ModelError::Config(error.to_string()))?;
        write_whole(&directory.join(MANIFEST_FILE), (text + "\n").as_bytes())?;
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
