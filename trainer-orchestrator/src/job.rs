//! The child's side of a run: opens the sealed data and hands it to the trainer.

use std::io::{BufRead, Read};
use std::path::Path;

use trainer::job::{JobFile, JobWatch, run_job};

use crate::error::OrchestratorError;
use crate::sealed_file;

/// Exit status of a job that nobody waits for any more.
pub const EXIT_ABANDONED: i32 = 75;
/// A key has 64 characters; whoever sends more is no orchestrator.
const LONGEST_KEY_LINE: u64 = 1024;

/// Runs the job of `path` as a process of its own: the first line of standard input is the key of its data, and the end
/// of standard input ends the process at once. The orchestrator that held the other end is gone; its successor begins
/// another attempt, from the last checkpoint. `watch` sees how far it is.
///
/// # Errors
/// As [`run`].
pub fn run_as_process(path: &Path, watch: &mut JobWatch<'_>) -> Result<(), OrchestratorError> {
    let mut secret = String::new();
    std::io::stdin().lock().take(LONGEST_KEY_LINE).read_line(&mut secret)?;
    std::thread::spawn(|| {
        let mut rest = std::io::stdin().lock();
        let mut buffer = [0_u8; 64];
        // An error is an end, too.
        while rest.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
        // Checkpoints and results are replaced atomically, so any moment is as good as another.
        std::process::exit(EXIT_ABANDONED);
    });
    run(path, secret.trim(), watch)
}

/// Runs the job of `path`; `secret` is the key of its data.
///
/// # Errors
/// A job file that does not read, data that does not open, or a job that fails.
pub fn run(path: &Path, secret: &str, watch: &mut JobWatch<'_>) -> Result<(), OrchestratorError> {
    let text = std::fs::read(path)
        .map_err(|error| OrchestratorError::Job(format!("{} can not be read: {error}", path.display())))?;
    let job: JobFile = serde_json::from_slice(&text)
        .map_err(|error| OrchestratorError::Job(format!("{} is no job file: {error}", path.display())))?;
    let run = job.run_id.parse()?;
    let training = sealed_file::read(&job.training_file, secret, run)?;
    let gate = sealed_file::read(&job.gate_file, secret, run)?;
    let general = match &job.general_file {
        Some(file) => sealed_file::read(file, secret, run)?,
        None => Vec::new(),
    };
    run_job(&job, &training, &gate, &general, watch).map_err(|error| OrchestratorError::Job(error.to_string()))?;
    Ok(())
}
