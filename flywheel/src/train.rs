//! `flywheel train`: one training job, started by the orchestrator.

use std::process::ExitCode;

use trainer::job::JobProgress;

use crate::cli::TrainArgs;
use crate::failure::Failure;
use crate::progress::Progress;

/// Reads the key of the job's data from standard input and runs the job to its end, or to the end of that input. On a
/// terminal a bar shows how far it is.
pub(crate) fn run(arguments: &TrainArgs) -> Result<ExitCode, Failure> {
    let bar = Progress::new();
    let mut stage = String::new();
    let ended = trainer_orchestrator::job::run_as_process(&arguments.job, &mut |progress| {
        show(&bar, &mut stage, progress);
    });
    bar.finish();
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::Broke(anyhow::Error::new(error))),
    }
}

fn show(bar: &Progress, stage: &mut String, progress: &JobProgress) {
    let (what, of, reached) = match progress.stage.as_str() {
        "train" => ("training steps", Some(progress.steps), progress.step),
        "evaluate" => ("held-out opportunities", Some(progress.to_evaluate), progress.evaluated),
        _ => ("preparing", None, 0),
    };
    if *stage != progress.stage {
        stage.clone_from(&progress.stage);
        bar.begin(what, of.map(|count| count as u64));
    }
    bar.reached(reached as u64);
}
