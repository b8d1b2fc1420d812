//! A story on a platform of this process: its handles are asked, and its clock stands still until the story moves it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_trait::async_trait;
use events::{ModelVersion, OpportunityId, RolloutId, RunId, Timestamp};
use simulator::driver::DoorSettings;
use trainer_orchestrator::store::Run;

use super::progress::Progress;
use super::stage::{Ground, NextRun, STUCK, Stage};
use super::story::fail;
use crate::failure::Failure;
use crate::platform::{Platform, wait_for};
use crate::sinks;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Pause between looks at a run.
const RUN_LOOK: Duration = Duration::from_millis(200);
/// One step of simulated time at a barrier: longer than close and lateness together.
const STEP: Duration = Duration::from_secs(1500);
/// Steps within which every stage must have concluded.
const STEPS: u32 = 12;
/// A barrier ends on a multiple of this: more than all steps, so that the time at which the next work begins is no
/// matter of how often a stage had to be looked at.
const BARRIER: Duration = Duration::from_secs(6 * 3600);

/// A platform of this process.
pub(super) struct Here<'a> {
    ground: Ground<'a>,
    platform: &'a Platform,
}

impl<'a> Here<'a> {
    pub(super) fn new(platform: &'a Platform) -> Self {
        let models = platform.foundation.data.root().join("models");
        Self { ground: Ground::new(&platform.foundation, platform.registry.clone(), models), platform }
    }

    fn now(&self) -> Timestamp {
        self.platform.foundation.now()
    }

    /// Lets simulated time pass.
    fn advance(&self, duration: Duration) {
        if let Some(clock) = &self.platform.foundation.simulated {
            clock.advance(duration);
        }
    }

    /// Waits until the anonymizer and the labeler have done all that is due by now, and the sinks all that came of it.
    async fn settle(&self) -> Result<(), Failure> {
        let foundation = &self.platform.foundation;
        for step in [anonymizer::STEP, labeler::step::STEP] {
            let reached = self.now() - bus::IDLE_AFTER;
            wait_for(STUCK, step, || async {
                let lag = foundation.bus.step_lag(step).await?;
                if lag.settled_at(reached) {
                    return Ok(Some(()));
                }
                // A partition that was read to its end only after the jump is idle from now on: let it be so.
                if lag.records_behind() == 0 {
                    self.advance(bus::IDLE_AFTER + LOOK);
                }
                Ok(None)
            })
            .await?;
        }
        wait_for(STUCK, "the sinks", || async {
            let behind = sinks::behind(foundation.bus.as_ref(), &foundation.pool).await;
            Ok((behind.map_err(Failure::into_error)? == 0).then_some(()))
        })
        .await
    }

    async fn follow_run(&self, known: &BTreeSet<RunId>, progress: &Progress) -> Result<Option<Run>, Failure> {
        let begun = Instant::now();
        let orchestrator = &self.platform.orchestrator;
        let limit = Duration::from_secs(self.platform.foundation.settings.orchestrator.deadline_seconds) + STUCK;
        let mut look = Box::pin(orchestrator.look());
        let mut looked = false;
        loop {
            let runs = orchestrator.store.runs(10).await?;
            match runs.into_iter().find(|run| !known.contains(&run.run_id)) {
                Some(run) if run.finished_at.is_some() => return Ok(Some(run)),
                Some(run) => self.show_run(&run, progress),
                // The look ended before the runs were read: there is none.
                None if looked => return Ok(None),
                None => {}
            }
            if begun.elapsed() > limit {
                return Err(fail("the training run did not end by its deadline"));
            }
            tokio::select! {
                result = &mut look, if !looked => match result {
                    Ok(()) => looked = true,
                    Err(error) => {
                        tracing::warn!(%error, "the orchestrator could not look; it looks again");
                        tokio::time::sleep(RUN_LOOK).await;
                        look = Box::pin(orchestrator.look());
                    }
                },
                () = tokio::time::sleep(RUN_LOOK) => {}
            }
        }
    }

    /// Shows how far a run is.
    fn show_run(&self, run: &Run, progress: &Progress) {
        let directory = self.platform.foundation.data.runs().join(run.run_id.to_string());
        if let Some(state) = trainer_orchestrator::progress_of(&directory) {
            progress.training(state.step as u64, state.steps as u64, state.loss);
            if state.to_evaluate > 0 {
                progress.evaluation(state.evaluated as u64, state.to_evaluate as u64);
            }
        }
    }
}

#[async_trait]
impl Stage for Here<'_> {
    fn ground(&self) -> &Ground<'_> {
        &self.ground
    }

    fn doors(&self) -> Vec<DoorSettings> {
        let doors = &self.platform.doors;
        let (serving, ingest) = (format!("http://{}", doors.serving), format!("http://{}", doors.ingest));
        vec![DoorSettings::new(serving, ingest, self.platform.client_key.clone())]
    }

    fn time_runs(&self) -> bool {
        false
    }

    fn shares_the_machine(&self) -> bool {
        true
    }

    async fn tell(&self) -> Result<(), Failure> {
        self.platform.outbox.request().await.context("the outbox can not be relayed")?;
        Ok(())
    }

    async fn await_serving(&self) -> Result<(), Failure> {
        wait_for(STUCK, "serving to load the newest versions", || async {
            Ok(self.platform.serving.refresh().await.then_some(()))
        })
        .await
    }

    async fn await_exposures(&self) {
        self.platform.serving.settled().await;
    }

    async fn go_to(&self, time: Timestamp) -> Result<(), Failure> {
        self.advance(time.since(self.now()));
        Ok(())
    }

    /// Lets simulated time pass until it is so; then until the next [`BARRIER`].
    async fn conclude(&self, played: &BTreeSet<OpportunityId>) -> Result<(), Failure> {
        let begun = self.now();
        for _ in 0..STEPS {
            self.advance(STEP);
            self.settle().await?;
            let (closed, pending) = self.ground.concluded(played).await?;
            if closed == played.len() && pending == 0 {
                let barrier = i64::try_from(BARRIER.as_micros()).unwrap_or(i64::MAX);
                let now = self.now().as_micros();
                let rest = Duration::from_micros(u64::try_from(barrier - now.rem_euclid(barrier)).unwrap_or(0));
                self.advance(rest);
                return Ok(());
            }
        }
        let passed = self.now().since(begun);
        Err(fail(format!("stages have not concluded after {} s of simulated time", passed.as_secs())))
    }

    async fn next_run(&self, known: &BTreeSet<RunId>, progress: &Progress) -> Result<NextRun, Failure> {
        let orchestrator = &self.platform.orchestrator;
        orchestrator.request();
        let followed = self.follow_run(known, progress).await;
        // While a rollout is under way the request would wait for its end, and the run begin in the middle of what is
        // played then.
        orchestrator.withdraw();
        let nothing = "there is nothing new to learn from, or the last rollout is still under way";
        Ok(followed?.map_or_else(|| NextRun::Nothing(nothing.to_owned()), |run| NextRun::Ended(Box::new(run))))
    }

    async fn await_candidate(&self, _rollout: RolloutId, version: ModelVersion) -> Result<(), Failure> {
        self.platform.rollouts.request().await.context("the rollout can not begin")?;
        wait_for(STUCK, "the candidate in the routing table", || async {
            let table = self.ground.registry.get_routing(&self.ground.model).await?;
            Ok(table.rollout.filter(|rollout| rollout.candidate.version == version).map(|_| ()))
        })
        .await?;
        self.await_serving().await
    }

    async fn judge(&self, _rollout: RolloutId, _block: u64) -> Result<(), Failure> {
        self.platform.rollouts.request().await.context("the rollout can not be decided")?;
        Ok(())
    }
}
