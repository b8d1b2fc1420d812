//! Exact resumption: weights, both moments and the step in one file, written beside its place and renamed into it.

use std::io::ErrorKind;
use std::path::Path;

use edit_model::write_whole;
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
    /// Writes the state of a run in place of an earlier one.
    ///
    /// # Errors
    /// [`TrainerError::NoSpace`] or [`TrainerError::File`]; the earlier state stands then.
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
        Ok(write_whole(path, &bytes)?)
    }

    /// Reads a checkpoint; `None` when there is none.
    ///
    /// # Errors
    /// [`TrainerError::Damaged`] when it is truncated or altered, [`TrainerError::File`] when it cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, TrainerError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
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
        if header.weights.checked_mul(12) != Some(numbers.len()) {
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

    // /dev/full is a disk without space.
    #[cfg(target_os = "linux")]
    #[test]
    fn without_space_the_earlier_checkpoint_stands_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let optimizer = AdamW::new(OptimizerConfig::default(), 3);
        Checkpoint::write(&path, 1, "abc", &[1.0, 2.0, 3.0], &optimizer).unwrap();
        std::os::unix::fs::symlink("/dev/full", folder.path().join("checkpoint.part")).unwrap();
        let error = Checkpoint::write(&path, 2, "abc", &[4.0, 5.0, 6.0], &optimizer).unwrap_err();
        assert!(matches!(error, TrainerError::NoSpace { bytes, .. } if bytes > 36), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("no space for") && message.contains("checkpoint: "), "{message}");
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["checkpoint"]);
        assert_eq!(Checkpoint::read(&path).unwrap().unwrap().header.step, 1);
        // With space again the next one is written.
        Checkpoint::write(&path, 3, "abc", &[4.0, 5.0, 6.0], &optimizer).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap().unwrap().weights, [4.0, 5.0, 6.0]);
    }
}
