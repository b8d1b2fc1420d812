//! Exact resumption: weights, both moments and the step in one file, written beside its place and renamed into it.

use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::TrainerError;
use crate::optimizer::{AdamW, OptimizerConfig};

const MAGIC: &[u8; 8] = b"FLYCKPT1";

/// What stands before the numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointHeader {
    /// Steps done.
    pub step: usize,
    /// Number of weights.
    pub weights: usize,
    /// Steps of the optimiser.
    pub optimizer_steps: u64,
    /// Settings of the optimiser.
    pub optimizer: OptimizerConfig,
    /// Digest of everything that must not change between runs (configuration, data, seed): randomness is a function of
    /// seed and step, so nothing else has to be stored.
    pub run_digest: String,
}

/// A run that can go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What stands before the numbers.
    pub header: CheckpointHeader,
    /// All weights.
    pub weights: Vec<f32>,
    /// The optimiser with its moments.
    pub optimizer: AdamW,
}

impl Checkpoint {
    /// Writes the state of a run.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub fn write(
        path: &Path,
        step: usize,
        run_digest: &str,
        weights: &[f32],
        optimizer: &AdamW,
    ) -> Result<(), TrainerError> {
        let header = CheckpointHeader {
            step,
            weights: weights.len(),
            optimizer_steps: optimizer.steps,
            optimizer: optimizer.config().clone(),
            run_digest: run_digest.to_owned(),
        };
        let header = serde_json::to_vec(&header).map_err(|error| TrainerError::damaged(path, error.to_string()))?;
        let mut bytes = Vec::with_capacity(weights.len() * 12 + header.len() + 64);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(header.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&header);
        for values in [weights, &optimizer.mean, &optimizer.square] {
            for value in values {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        write_atomically(path, &bytes)
    }

    /// Reads a checkpoint; `None` when there is none.
    ///
    /// # Errors
    /// [`TrainerError::Damaged`] when it is truncated or altered, [`TrainerError::File`] when it cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, TrainerError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(TrainerError::file(path, error)),
        };
        let bad = || TrainerError::damaged(path, "not a whole checkpoint");
        let (content, digest) = bytes.split_last_chunk::<32>().ok_or_else(bad)?;
        if Sha256::digest(content).as_slice() != digest {
            return Err(TrainerError::damaged(path, "its digest does not fit its content"));
        }
        let rest = content.strip_prefix(MAGIC.as_slice()).ok_or_else(bad)?;
        let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(bad)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| bad())?;
        let (header, numbers) = rest.split_at_checked(length).ok_or_else(bad)?;
        let header: CheckpointHeader = serde_json::from_slice(header).map_err(|_| bad())?;
        if numbers.len() != header.weights * 12 {
            return Err(bad());
        }
        let mut parts = numbers
            .chunks_exact((header.weights * 4).max(1))
            .map(|part| part.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<f32>>());
        let weights = parts.next().ok_or_else(bad)?;
        let mut optimizer = AdamW::new(header.optimizer.clone(), header.weights);
        optimizer.mean = parts.next().ok_or_else(bad)?;
        optimizer.square = parts.next().ok_or_else(bad)?;
        optimizer.steps = header.optimizer_steps;
        Ok(Some(Self { header, weights, optimizer }))
    }
}

/// Writes a file so that a reader sees the old or the new content, never a part.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainerError> {
    let failed = |source| TrainerError::file(path, source);
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = std::path::PathBuf::from(name);
    let mut file = std::fs::File::create(&part).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&part, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        assert!(Checkpoint::read(&path).unwrap().is_none());
        let mut optimizer = AdamW::new(OptimizerConfig::default(), 5);
        let mut weights = vec![1.0, -2.0, 3.5, 0.0, 9.0];
        optimizer.step(&mut weights, &[0.1, 0.2, 0.3, 0.4, 0.5], 1.0, &crate::optimizer::Treatment::uniform(5, true));
        Checkpoint::write(&path, 17, "abc", &weights, &optimizer).unwrap();
        let read = Checkpoint::read(&path).unwrap().unwrap();
        assert_eq!((read.header.step, &read.weights, &read.optimizer), (17, &weights, &optimizer));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(Checkpoint::read(&path), Err(TrainerError::Damaged { .. })));
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(matches!(Checkpoint::read(&path), Err(TrainerError::Damaged { .. })));
    }
}
