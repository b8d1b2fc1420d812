//! What happens in a demo, in order: base, rounds of work, turns of the wheel, a last period, the report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use events::{ModelVersion, RolloutId, RunId, Timestamp};
use model_registry::evidence::RolloutEvidence;
use model_registry::policy::RolloutPolicy;
use model_registry::rollout::{Rollout, RolloutState};
use simulator::DemoPlan;
use simulator::driver::Doors;
use trainer_orchestrator::store::RunState;

use super::crowd::{Crowd, members};
use super::progress::Progress;
use super::report::{Report, Turn};
use super::stage::{NextRun, Stage};
use super::watch::Watch;
use super::{ROUNDS_AFTER, ROUNDS_BEFORE};
use crate::cli::DemoArgs;
use crate::failure::Failure;
use crate::settings::Settings;

/// Opportunities of a round.
pub(super) const ROUND: usize = 6;

/// A demo under way.
pub(super) struct Story<'a> {
    pub(super) stage: &'a dyn Stage,
    pub(super) arguments: &'a DemoArgs,
    pub(super) plan: Arc<DemoPlan>,
    pub(super) crowd: Arc<Crowd>,
    progress: &'a Progress,
    /// Wall seconds by stage.
    pub(super) stages: BTreeMap<String, f64>,
    round: u32,
    /// How long the last round took, in the platform's time.
    round_took: Duration,
    /// Time spent waiting, whole run, in the platform's time.
    waited: Duration,
    pub(super) policy: RolloutPolicy,
    /// When the developers sent their last signal, and how much time every stage had taken by then.
    last_signal: (Instant, BTreeMap<String, f64>),
    /// Whether there was work since the last turn began.
    has_new_work: bool,
    /// Runs that are no turn's any more: those from before the story, and those that a turn has followed.
    known_runs: BTreeSet<RunId>,
    /// The version that the hold-back keeps.
    pub(super) reference: i64,
}

/// Plays the demo where `stage` is.
pub(super) async fn tell(
    stage: &dyn Stage,
    arguments: &DemoArgs,
    plan: Arc<DemoPlan>,
    progress: &Progress,
    started: Instant,
) -> Result<Report, Failure> {
    let ground = stage.ground();
    let policy = ground.foundation.settings.registry.rollout.clone();
    let (crowd, reference) = gather(stage, &plan, &policy).await?;
    let known_runs = ground.store.runs(100).await?.into_iter().map(|run| run.run_id).collect();
    let mut story = Story {
        stage,
        arguments,
        plan,
        crowd,
        progress,
        stages: BTreeMap::new(),
        round: 0,
        round_took: Duration::ZERO,
        waited: Duration::ZERO,
        policy,
        last_signal: (started, BTreeMap::new()),
        has_new_work: false,
        known_runs,
        reference,
    };
    story.run(started).await
}

/// Writes rules and consents down, and chooses the developers. Also returns the version that the hold-back keeps.
async fn gather(stage: &dyn Stage, plan: &Arc<DemoPlan>, policy: &RolloutPolicy) -> Result<(Arc<Crowd>, i64), Failure> {
    let ground = stage.ground();
    let mut table = ground.registry.get_routing(&ground.model).await?;
    table.holdback_share = policy.holdback_share;
    let chosen = members(plan, plan.settings().developers, &ground.foundation.secret, &table)?;
    for repository in &plan.corpus().repositories {
        ground.allow_repository(&repository.name).await?;
    }
    ground.consent_to_code(chosen.iter().map(|member| &member.pseudonym)).await?;
    stage.tell().await?;
    let doors = stage.doors().into_iter().map(Doors::new).collect::<Result<Vec<_>, _>>().map_err(Failure::refuse)?;
    let crowd = Crowd::new(Arc::clone(plan), doors, chosen, ground.began, stage.time_runs());
    let reference = table.reference.as_ref().unwrap_or(&table.current).version;
    Ok((Arc::new(crowd), reference.0))
}

impl Story<'_> {
    async fn run(&mut self, started: Instant) -> Result<Report, Failure> {
        let watch = Watch::start(self.stage.ground(), self.progress.clone());
        for _ in 0..ROUNDS_BEFORE {
            self.work("collect").await?;
        }
        let mut turns = Vec::new();
        for number in 1..=self.arguments.turns {
            self.progress.say(&format!("turn {number} of the wheel"));
            if !self.has_new_work {
                self.work("collect").await?;
            }
            turns.push(self.turn().await?);
        }
        let period = self.round;
        self.progress.say("last period: the hold-back beside the last version");
        for _ in 0..ROUNDS_AFTER {
            self.work("final_period").await?;
        }
        // The placebo stays at its canary share to the end; ending it now changes nothing that is reported.
        let report = self.report(started, turns, period).await?;
        watch.stop().await;
        Ok(report)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.stage.ground().foundation.settings
    }

    fn now(&self) -> Timestamp {
        self.stage.ground().foundation.now()
    }

    pub(super) fn spent(&mut self, stage: &str, since: Instant) -> f64 {
        let seconds = since.elapsed().as_secs_f64();
        *self.stages.entry(stage.to_owned()).or_default() += seconds;
        seconds
    }

    /// One round of everybody, then a barrier at which every stage concludes.
    async fn work(&mut self, stage: &str) -> Result<(), Failure> {
        // What was promoted a moment ago serves from the first question on, whatever the machine's speed.
        self.stage.await_serving().await?;
        let (since, begun) = (Instant::now(), self.now());
        let first = usize::try_from(self.round).unwrap_or(0) * ROUND;
        self.crowd.round(self.round, first, ROUND, self.progress).await?;
        self.round += 1;
        self.stage.await_exposures().await;
        self.round_took = self.now().since(begun);
        self.spent(stage, since);
        self.has_new_work = true;
        self.last_signal = (Instant::now(), self.stages.clone());
        let since = Instant::now();
        self.conclude().await?;
        self.spent("scrub_and_label", since);
        Ok(())
    }

    async fn conclude(&mut self) -> Result<(), Failure> {
        let begun = self.now();
        self.stage.conclude(&self.crowd.played()).await?;
        self.waited += self.now().since(begun);
        Ok(())
    }

    async fn go_to(&mut self, time: Timestamp) -> Result<(), Failure> {
        let begun = self.now();
        self.stage.go_to(time).await?;
        self.waited += self.now().since(begun);
        Ok(())
    }

    async fn turn(&mut self) -> Result<Turn, Failure> {
        // Scrubbing and labeling of the last signals is part of the turn that learns from them.
        let (last_signal, stages_before) = self.last_signal.clone();
        self.has_new_work = false;
        let waited_before = self.waited;
        let since = Instant::now();
        let run = match self.stage.next_run(&self.known_runs, self.progress).await? {
            NextRun::Ended(run) => *run,
            NextRun::Nothing(why) => {
                let turn = Turn::not_eligible(&why);
                self.progress.say(&format!("turn ends: {} ({})", turn.outcome, turn.reason));
                return Ok(turn);
            }
        };
        self.known_runs.insert(run.run_id);
        self.spent("train_and_evaluate", since);
        let detail: serde_json::Value = serde_json::from_str(&run.detail).unwrap_or_default();
        for (stage, pointer) in [("training", "/training_seconds"), ("evaluation", "/evaluation_seconds")] {
            if let Some(seconds) = detail.pointer(pointer).and_then(serde_json::Value::as_f64) {
                *self.stages.entry(stage.to_owned()).or_default() += seconds;
            }
        }
        let reason = detail.get("reason").and_then(|reason| reason.as_str()).unwrap_or_default();
        let mut turn = Turn {
            version: run.version,
            snapshot_digest: Some(run.snapshot_digest.to_string()),
            training_pairs: detail.get("training_pairs").and_then(serde_json::Value::as_u64).unwrap_or(0),
            gate: detail.get("gate").cloned().unwrap_or_default(),
            ..Turn::not_eligible(&self.in_words(reason, &detail))
        };
        if run.state == RunState::Failed {
            return Err(fail(format!("the training run failed: {}", turn.reason)));
        }
        if let (Some(version), Some(rollout)) = (run.version, &run.rollout_id) {
            let rollout: RolloutId = rollout.parse()?;
            self.progress.say(&format!("version {version} passed the gate: {}; rollout begins", turn.reason));
            let (ended, evidence) = self.roll_out(rollout, version).await?;
            let first_served = self.crowd.diary.lock().first_served.get(&version).copied();
            turn.turn_seconds = first_served.map(|at| at.duration_since(last_signal).as_secs_f64());
            turn.outcome = outcome(&ended).to_owned();
            if ended.state == RolloutState::Promoted {
                turn.promoted_seconds = Some(last_signal.elapsed().as_secs_f64());
            }
            turn.reason = format!("{} after {} blocks", evidence.verdict_sentence(), evidence.blocks_complete);
            turn.evidence = serde_json::to_value(&evidence)?;
        }
        turn.simulated_wait_seconds = (self.waited - waited_before).as_secs_f64();
        turn.stage_seconds = self
            .stages
            .iter()
            .map(|(stage, seconds)| (stage.clone(), seconds - stages_before.get(stage).copied().unwrap_or(0.0)))
            .filter(|(_, seconds)| *seconds > 0.0)
            .collect();
        self.progress.say(&format!("turn ends: {} ({})", turn.outcome, turn.reason));
        Ok(turn)
    }

    /// Why a candidate was held, with the figure that a reader asks for next.
    fn in_words(&self, reason: &str, detail: &serde_json::Value) -> String {
        if reason != "insufficient_opportunities" {
            return reason.to_owned();
        }
        let judged = detail.pointer("/gate/opportunities").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let wanted = self.settings().orchestrator.gate_opportunities;
        format!(
            "insufficient_opportunities: {judged} were held out and judged, the gate decides on {wanted}; \
             more --developers meet more"
        )
    }

    /// Plays a round in each block until the rollout is decided, or the rounds are used up.
    async fn roll_out(&mut self, rollout: RolloutId, version: i64) -> Result<(Rollout, RolloutEvidence), Failure> {
        let stage = self.stage;
        let registry = &stage.ground().registry;
        stage.await_candidate(rollout, ModelVersion(version)).await?;
        let mut next_block = 0;
        for _ in 0..self.arguments.blocks {
            let (before, evidence) = registry.get_rollout(rollout).await?;
            if is_over(&before) {
                return Ok((before, evidence));
            }
            let start = before.started_at.context("a rollout that serves has begun")?;
            let length = Duration::from_secs(u64::try_from(before.policy.block_seconds).unwrap_or(86_400).max(1));
            let after = |blocks: u64| start + length.saturating_mul(u32::try_from(blocks).unwrap_or(u32::MAX));
            let block = self.block_for_a_round(start, length).max(next_block);
            next_block = block + 1;
            self.go_to(after(block)).await?;
            self.work("canary").await?;
            // The verdict on a block falls once the block is over and its last exposure has closed and settled.
            let settled = before.policy.settle_seconds + model_registry::policy::CLOSE_SECONDS + 60;
            self.go_to(after(block + 1) + Duration::from_secs(u64::try_from(settled).unwrap_or(0))).await?;
            self.conclude().await?;
            stage.judge(rollout, block).await?;
            let (state, evidence) = registry.get_rollout(rollout).await?;
            self.progress.canary(block + 1, evidence.verdict_sentence());
            self.progress.say(&format!("block {}: {}", block + 1, evidence.verdict_sentence()));
            if is_over(&state) {
                return Ok((state, evidence));
            }
        }
        Ok(registry.get_rollout(rollout).await?)
    }

    /// The block in which a round can be played from now on: the one that is under way, if as much of it is left as the
    /// last round took (none, where time waits for the story).
    fn block_for_a_round(&self, start: Timestamp, length: Duration) -> u64 {
        let passed = self.now().since(start);
        let block = u64::try_from(passed.as_micros() / length.as_micros()).unwrap_or(u64::MAX);
        let left = length.as_micros() - passed.as_micros() % length.as_micros();
        if left >= self.round_took.as_micros() { block } else { block.saturating_add(1) }
    }
}

/// Whether nothing that the story does moves the rollout on.
fn is_over(rollout: &Rollout) -> bool {
    !rollout.state.is_active() || rollout.state == RolloutState::AwaitingApproval
}

/// What came of a rollout, in the report's words.
fn outcome(rollout: &Rollout) -> &'static str {
    match rollout.state {
        RolloutState::Promoted => "promoted",
        RolloutState::RolledBack => "rolled_back",
        RolloutState::Aborted => "aborted",
        RolloutState::AwaitingApproval => "awaiting_approval",
        RolloutState::Held => "held",
        // A rollout that is only observed is never decided.
        RolloutState::Pending | RolloutState::Canary if rollout.policy.observe_only => "held",
        RolloutState::Pending | RolloutState::Canary => "undecided",
    }
}

/// A story that can not go on, in one sentence.
pub(super) fn fail(sentence: impl Into<String>) -> Failure {
    let sentence: String = sentence.into();
    Failure::from(anyhow!(sentence))
}
