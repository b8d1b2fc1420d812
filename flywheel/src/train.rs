//! `flywheel train`: one training job, started by the orchestrator.

use std::process::ExitCode;

use crate::cli::TrainArgs;
use crate::failure::Failure;

/// Reads the key of the job's data from standard input and runs the job to its end, or to the end of that input.
pub(crate) fn run(arguments: &TrainArgs) -> Result<ExitCode, Failure> {
    match trainer_orchestrator::job::run_as_process(&arguments.job) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::Broke(anyhow::Error::new(error))),
    }
}
