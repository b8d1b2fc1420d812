//! Files of a run: one directory an attempt, so that a job which does not know yet that nobody waits for it (its
//! orchestrator was stopped, or killed a moment ago) can never write into the files of its successor.
//!
//! What an attempt leaves to the next one is its checkpoint, copied under the same name; what it leaves to the next
//! orchestrator is its result, which is adopted instead of being computed once more.

use std::path::{Path, PathBuf};

use trainer::job::{JobFile, JobProgress, JobResult};

use crate::error::OrchestratorError;

const CHECKPOINT: &str = "model.checkpoint";
/// What is of no use once the run has ended; the log, the job file and the result stay.
const LARGE: [&str; 4] = ["training.sealed", "gate.sealed", "general.sealed", CHECKPOINT];

/// The directory of a run.
#[derive(Debug, Clone)]
pub(crate) struct RunDirectory {
    path: PathBuf,
}

/// The directory of one attempt at it.
#[derive(Debug, Clone)]
pub(crate) struct AttemptDirectory {
    path: PathBuf,
}

/// An attempt that was finished.
#[derive(Debug)]
pub(crate) struct FinishedAttempt {
    pub(crate) directory: AttemptDirectory,
    pub(crate) job: JobFile,
    pub(crate) result: JobResult,
}

impl RunDirectory {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Attempts that left a directory, oldest first.
    fn attempts(&self) -> Vec<(i64, AttemptDirectory)> {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().filter_map(Result::ok);
        let mut attempts: Vec<_> = entries
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                Some((number, AttemptDirectory { path: entry.path() }))
            })
            .collect();
        attempts.sort_by_key(|(number, _)| *number);
        attempts
    }

    /// Makes the directory of attempt `number`, with the newest checkpoint of an earlier one.
    pub(crate) fn begin(&self, number: i64) -> Result<AttemptDirectory, OrchestratorError> {
        let earlier = self.attempts();
        let attempt = AttemptDirectory { path: self.path.join(number.to_string()) };
        std::fs::create_dir_all(&attempt.path)?;
        let checkpoints = earlier.iter().rev().filter(|(other, _)| *other < number);
        if let Some((_, from)) = checkpoints.into_iter().find(|(_, other)| other.file(CHECKPOINT).exists()) {
            // It is replaced atomically, so a copy is whole; a job verifies it before it goes on from it.
            std::fs::copy(from.file(CHECKPOINT), attempt.file(CHECKPOINT))?;
        }
        Ok(attempt)
    }

    /// The newest attempt that has a result.
    pub(crate) fn finished(&self) -> Option<FinishedAttempt> {
        self.attempts().into_iter().rev().find_map(|(_, attempt)| attempt.finished())
    }

    /// Removes what is large or secret once the run has ended.
    pub(crate) fn clean(&self) {
        for (_, attempt) in self.attempts() {
            for name in LARGE {
                // What stays behind is sealed under a key that nobody has any more.
                let _removed = std::fs::remove_file(attempt.file(name));
            }
            let _removed = std::fs::remove_dir_all(attempt.model());
        }
    }
}

impl AttemptDirectory {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The attempt with its result, once there is one that reads back.
    pub(crate) fn finished(&self) -> Option<FinishedAttempt> {
        let result = serde_json::from_slice(&std::fs::read(self.file("result.json")).ok()?).ok()?;
        let job = serde_json::from_slice(&std::fs::read(self.file("job.json")).ok()?).ok()?;
        Some(FinishedAttempt { directory: self.clone(), job, result })
    }

    /// Where the job writes its model.
    pub(crate) fn model(&self) -> PathBuf {
        self.file("model")
    }

    /// A result that was refused is no result.
    pub(crate) fn discard_result(&self) -> Result<(), OrchestratorError> {
        Ok(std::fs::rename(self.file("result.json"), self.file("refused.json"))?)
    }
}

/// How far the newest attempt at the run in `directory` is; none before it says so.
#[must_use]
pub fn progress_of(directory: &Path) -> Option<JobProgress> {
    let (_, attempt) = RunDirectory::new(directory.to_path_buf()).attempts().pop()?;
    serde_json::from_slice(&std::fs::read(attempt.file("progress.json")).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_checkpoint_goes_on_and_attempts_are_ordered_by_number() {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDirectory::new(directory.path().to_path_buf());
        for number in [2, 9] {
            let attempt = run.begin(number).unwrap();
            std::fs::write(attempt.file(CHECKPOINT), format!("checkpoint {number}")).unwrap();
            std::fs::write(attempt.file("progress.json"), progress(number)).unwrap();
        }
        // Neither the name order (10 before 9) nor a directory that is no attempt decides.
        std::fs::create_dir_all(directory.path().join("notes")).unwrap();
        let next = run.begin(10).unwrap();
        assert_eq!(std::fs::read_to_string(next.file(CHECKPOINT)).unwrap(), "checkpoint 9");
        assert!(progress_of(directory.path()).is_none());
        std::fs::write(next.file("progress.json"), progress(10)).unwrap();
        assert_eq!(progress_of(directory.path()).unwrap().step, 10);
        run.clean();
        assert!(!next.file(CHECKPOINT).exists() && next.file("progress.json").exists());
    }

    fn progress(step: i64) -> String {
        format!(r#"{{"stage":"train","step":{step},"steps":24,"loss":null,"evaluated":0,"to_evaluate":0}}"#)
    }
}
