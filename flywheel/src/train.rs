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
    let Some((what, of, reached)) = shown(progress) else { return bar.finish() };
    if *stage != progress.stage {
        stage.clone_from(&progress.stage);
        bar.begin(what, of.map(|count| count as u64));
    }
    bar.reached(reached as u64);
}

/// What a job does, of how many, and how many are done; none: nothing any more.
fn shown(progress: &JobProgress) -> Option<(&'static str, Option<usize>, usize)> {
    match progress.stage.as_str() {
        "train" => Some(("training steps", Some(progress.steps), progress.step)),
        "evaluate" => Some(("held-out opportunities", Some(progress.to_evaluate), progress.evaluated)),
        "done" => None,
        _ => Some(("preparing", None, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_done_prepares_nothing() {
        let at = |stage: &str| {
            shown(&JobProgress {
                stage: stage.to_owned(),
                step: 2,
                steps: 3,
                loss: None,
                eta_seconds: None,
                evaluated: 4,
                to_evaluate: 5,
            })
        };
        assert_eq!(at("prepare"), Some(("preparing", None, 0)));
        assert_eq!(at("train"), Some(("training steps", Some(3), 2)));
        assert_eq!(at("evaluate"), Some(("held-out opportunities", Some(5), 4)));
        assert_eq!(at("done"), None);
    }
}
