//! One run: attempts until one succeeds, too many have failed, or the deadline has passed.
//!
//! Whoever leads takes the run up from what the last one left: a finished result is adopted, a checkpoint is gone on
//! from, and failures are counted over all leaders (they are in the run's row). An attempt that ended because its
//! orchestrator did is no failure.

use std::time::{Duration, Instant};

use service::clock::real_now;
use tokio_util::sync::CancellationToken;

use crate::attempts::RunDirectory;
use crate::conclude::conclude;
use crate::data::prepare;
use crate::error::OrchestratorError;
use crate::process::{self, JobEnd};
use crate::reconcile::Orchestrator;
use crate::store::{Ending, Run, RunState};

/// Between a failed attempt and the next one; doubled with each.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whether a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finished {
    /// Its row says how.
    Yes,
    /// This service stops or another one leads now; the next leader takes it up.
    Stopped,
}

/// Works a run to its end.
pub(crate) async fn work(
    this: &Orchestrator,
    run: &Run,
    epoch: i64,
    stop: &CancellationToken,
) -> Result<Finished, OrchestratorError> {
    let directory = RunDirectory::new(this.deps.runs.join(run.run_id.to_string()));
    let (mut failures, mut last) = run.failures();
    loop {
        // The fence first: whoever does not own the run does nothing.
        if !this.store.own(run.run_id, epoch).await? {
            return Ok(Finished::Stopped);
        }
        let ended = if real_now() >= run.deadline_at {
            Some(("deadline", format!("deadline: {last}")))
        } else if failures >= i64::from(this.config.maximum_attempts) {
            Some(("failed", format!("{failures} attempts failed: {last}")))
        } else {
            None
        };
        if let Some((outcome, reason)) = ended {
            return end(this, run, epoch, outcome, &reason, &directory).await;
        }
        let failed = if let Some(finished) = directory.finished() {
            match conclude(this, run, epoch, &finished).await {
                Ok(Finished::Yes) => {
                    directory.clean();
                    return Ok(Finished::Yes);
                }
                Ok(Finished::Stopped) => return Ok(Finished::Stopped),
                Err(OrchestratorError::Result(reason)) => {
                    finished.directory.discard_result()?;
                    Some(reason)
                }
                Err(error) => return Err(error),
            }
        } else {
            match attempt(this, run, epoch, &directory, stop).await? {
                Attempted::Finished => None,
                Attempted::Stopped => return Ok(Finished::Stopped),
                Attempted::Failed(reason) => Some(reason),
            }
        };
        if let Some(reason) = failed {
            failures += 1;
            last = reason;
            metrics::counter!("flywheel_orchestrator_attempts_failed_total").increment(1);
            tracing::warn!(run = %run.run_id, failures, reason = last, "an attempt failed");
            this.store.record_failure(run.run_id, epoch, failures, &last).await?;
            if failures < i64::from(this.config.maximum_attempts) {
                let pause = pause_after(failures).min(left(run));
                if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return Ok(Finished::Stopped);
                }
            }
        }
    }
}

fn pause_after(failures: i64) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(LONGEST_PAUSE)
}

fn left(run: &Run) -> Duration {
    run.deadline_at.since(real_now())
}

enum Attempted {
    /// There is a result.
    Finished,
    /// It failed, and why.
    Failed(String),
    /// This service stops or another one leads now.
    Stopped,
}

async fn attempt(
    this: &Orchestrator,
    run: &Run,
    epoch: i64,
    directory: &RunDirectory,
    stop: &CancellationToken,
) -> Result<Attempted, OrchestratorError> {
    let Some(number) = this.store.begin_attempt(run.run_id, epoch, this.deps.clock.now()).await? else {
        return Ok(Attempted::Stopped);
    };
    let attempt = directory.begin(number)?;
    let job = match prepare(this, run, &attempt).await {
        Ok(job) => job,
        // A model, a part or a data set that does not hold what its digest promises fails the attempt by name.
        Err(error @ (OrchestratorError::Job(_) | OrchestratorError::Lake(_) | OrchestratorError::DataSet(_))) => {
            return Ok(Attempted::Failed(error.to_string()));
        }
        Err(error) => return Err(error),
    };
    let begun = Instant::now();
    let ended = process::run(&job, stop, || this.leads(epoch)).await;
    metrics::histogram!("flywheel_orchestrator_attempt_seconds").record(begun.elapsed().as_secs_f64());
    let ended = match ended {
        Ok(ended) => ended,
        Err(OrchestratorError::Job(reason)) => return Ok(Attempted::Failed(reason)),
        Err(error) => return Err(error),
    };
    Ok(match ended {
        JobEnd::Succeeded if attempt.finished().is_some() => Attempted::Finished,
        JobEnd::Succeeded => Attempted::Failed("the job ended well without a result that reads back".to_owned()),
        JobEnd::Stopped => Attempted::Stopped,
        JobEnd::Deadline => Attempted::Failed("the job was still running".to_owned()),
        JobEnd::Hung => Attempted::Failed("the job's heartbeat stopped".to_owned()),
        JobEnd::Failed(message) => Attempted::Failed(message),
    })
}

/// Ends a run without a version.
async fn end(
    this: &Orchestrator,
    run: &Run,
    epoch: i64,
    outcome: &'static str,
    reason: &str,
    directory: &RunDirectory,
) -> Result<Finished, OrchestratorError> {
    let detail = serde_json::json!({ "reason": reason });
    let ending = Ending { state: RunState::Failed, outcome, detail: &detail, version: None, rollout_id: None };
    if !this.store.finish(run.run_id, epoch, &ending, this.deps.clock.now()).await? {
        return Ok(Finished::Stopped);
    }
    directory.clean();
    metrics::counter!("flywheel_orchestrator_runs_finished_total", "outcome" => outcome).increment(1);
    tracing::error!(run = %run.run_id, outcome, reason, "a training run failed");
    Ok(Finished::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let pauses: Vec<u128> =
            [1, 2, 3, 7, 8, 400].into_iter().map(|failures| pause_after(failures).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 30_000, 30_000, 30_000]);
    }
}
