//! The child's side of a run: opens the sealed data and hands it to the trainer.

use std::path::Path;

use trainer::job::{JobFile, run_job};

use crate::error::OrchestratorError;
use crate::sealed_file;

/// Runs the job of `path`; `secret` is the key that came on standard input.
///
/// # Errors
/// A job file that does not read, data that does not open, or a job that fails.
pub fn run(path: &Path, secret: &str) -> Result<(), OrchestratorError> {
    let text = std::fs::read(path)
        .map_err(|error| OrchestratorError::Job(format!("{} can not be read: {error}", path.display())))?;
    let job: JobFile = serde_json::from_slice(&text)
        .map_err(|error| OrchestratorError::Job(format!("{} is no job file: {error}", path.display())))?;
    let run = job.run_id.parse()?;
    let training = sealed_file::read(&job.training_file, secret, run)?;
    let gate = sealed_file::read(&job.gate_file, secret, run)?;
    run_job(&job, &training, &gate).map_err(|error| OrchestratorError::Job(error.to_string()))?;
    Ok(())
}
