//! `flywheel train`: one training job, started by the orchestrator.

use std::io::Read as _;
use std::process::ExitCode;

use crate::cli::TrainArgs;
use crate::failure::Failure;

/// Reads the key of the job's data from standard input and runs the job to its end.
pub(crate) fn run(arguments: &TrainArgs) -> Result<ExitCode, Failure> {
    let mut secret = String::new();
    std::io::stdin().take(1024).read_to_string(&mut secret)?;
    match trainer_orchestrator::job::run(&arguments.job, secret.trim()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::Broke(anyhow::Error::new(error))),
    }
}
