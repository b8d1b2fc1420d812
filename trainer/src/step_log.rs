//! What every step did, as JSON lines for machines.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use edit_model::write_whole;

use crate::error::TrainerError;
use crate::methods::TrainingProgress;

/// A file with one line a step, in order and without gaps, however often a run was killed.
#[derive(Debug)]
pub(crate) struct StepLog {
    path: PathBuf,
    file: File,
}

impl StepLog {
    /// Goes on behind `first_step`: what a killed run wrote of later steps is dropped, because they are done again.
    ///
    /// # Errors
    /// [`TrainerError::File`] or [`TrainerError::NoSpace`].
    pub(crate) fn open(path: &Path, first_step: usize) -> Result<Self, TrainerError> {
        let failed = |source| TrainerError::file(path, source);
        let written = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let is_kept = |line: &&[u8]| {
            line.ends_with(b"\n")
                && serde_json::from_slice::<TrainingProgress>(line).is_ok_and(|progress| progress.step <= first_step)
        };
        let kept: Vec<u8> = written.split_inclusive(|byte| *byte == b'\n').filter(is_kept).flatten().copied().collect();
        write_whole(path, &kept)?;
        let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes the line of a step.
    ///
    /// # Errors
    /// [`TrainerError::File`].
    pub(crate) fn write(&mut self, progress: &TrainingProgress) -> Result<(), TrainerError> {
        let mut line =
            serde_json::to_vec(progress).map_err(|error| TrainerError::damaged(&self.path, error.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|source| TrainerError::file(&self.path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(step: usize) -> TrainingProgress {
        TrainingProgress {
            step,
            steps: 9,
            loss: 0.5,
            preference_loss: 0.25,
            likelihood_loss: 1.5,
            gradient_norm: 2.0,
            margin_at_divergence: Some(0.75),
            accuracy: None,
            kl: None,
            tokens: 100,
            seconds: 1.0,
            tokens_per_second: 100.0,
            eta_seconds: 8.0,
        }
    }

    fn steps(path: &Path) -> Vec<usize> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str::<TrainingProgress>(line).unwrap().step).collect()
    }

    #[test]
    fn a_run_that_goes_on_writes_every_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("steps.jsonl");
        let mut log = StepLog::open(&path, 0).unwrap();
        for step in 1..6 {
            log.write(&progress(step)).unwrap();
        }
        // Killed in the middle of a line; the last checkpoint is of step 3.
        log.file.write_all(b"{\"step\": 2, \"st").unwrap();
        let mut log = StepLog::open(&path, 3).unwrap();
        assert_eq!(steps(&path), [1, 2, 3]);
        log.write(&progress(4)).unwrap();
        assert_eq!(steps(&path), [1, 2, 3, 4]);
        // Without a checkpoint the run begins again.
        StepLog::open(&path, 0).unwrap();
        assert_eq!(steps(&path), Vec::<usize>::new());
    }
}
