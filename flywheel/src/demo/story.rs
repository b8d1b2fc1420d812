//! What happens in a demo, in order: base, rounds of work, turns of the wheel, a last period, the report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use edit_model::EditModel;
use events::{ModelVersion, OpportunityOutcome, RolloutId, Timestamp};
use labeler::ledger;
use model_registry::evidence::RolloutEvidence;
use model_registry::policy::RolloutPolicy;
use model_registry::rollout::{Rollout, RolloutState};
use simulator::driver::{DoorSettings, Doors};
use simulator::{DemoPlan, baseline};
use trainer_orchestrator::store::{Run, RunState};

use super::crowd::{Crowd, members};
use super::probe::{self, Answers};
use super::progress::Progress;
use super::report::{
    ComputeBudget, Ledger, Percentiles, Report, Turn, claim_met, compare, margins, outcomes_digest, versions,
};
use super::watch::Watch;
use super::{ROUNDS_AFTER, ROUNDS_BEFORE};
use crate::cli::DemoArgs;
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::platform::Platform;
use crate::settings::Settings;
use crate::sinks;

/// Opportunities of a round.
const ROUND: usize = 6;
/// Longest real wait for one stage to conclude. A demo that is slower than this is stuck.
const STUCK: Duration = Duration::from_secs(180);
/// Pause between looks at a run.
const LOOK: Duration = Duration::from_millis(200);
/// Corrections that the report shows.
const CORRECTIONS: usize = 3;
/// Opportunities that two cores are planned to play in a second.
const PLANNED_OPPORTUNITIES_PER_SECOND: f64 = 30.0;
/// What a training step is planned to take.
const PLANNED_SECONDS_PER_STEP: f64 = 1.4;
/// What the answers to the gate's opportunities and the old skills are planned to take in a turn.
const PLANNED_EVALUATION_SECONDS: f64 = 20.0;

struct Story<'a> {
    platform: &'a Platform,
    arguments: &'a DemoArgs,
    plan: Arc<DemoPlan>,
    crowd: Arc<Crowd>,
    progress: &'a Progress,
    stages: BTreeMap<String, f64>,
    round: u32,
    /// Simulated time spent waiting, whole run.
    waited: Duration,
    policy: RolloutPolicy,
    /// When the developers sent their last signal, and how much time every stage had taken by then.
    last_signal: (Instant, BTreeMap<String, f64>),
    /// Whether there was work since the last turn began.
    has_new_work: bool,
}

/// Runs the demo on a platform that it starts and stops.
pub(crate) async fn tell(
    settings: &Settings,
    data: &DataDir,
    arguments: &DemoArgs,
    plan: Arc<DemoPlan>,
    base: &Path,
    progress: &Progress,
    started: Instant,
) -> Result<Report, Failure> {
    let platform = Platform::start(settings, data, base).await?;
    progress.say(&format!(
        "every service is up: suggestions {}, telemetry {}, registry {}",
        platform.doors.serving, platform.doors.ingest, platform.doors.registry
    ));
    let told = async {
        let crowd = gather(&platform, &plan).await?;
        let mut story = Story {
            platform: &platform,
            arguments,
            plan,
            crowd,
            progress,
            stages: BTreeMap::new(),
            round: 0,
            waited: Duration::ZERO,
            policy: settings.registry.rollout.clone(),
            last_signal: (started, BTreeMap::new()),
            has_new_work: false,
        };
        story.run(started).await
    }
    .await;
    let stopped = platform.stop().await;
    let report = told?;
    stopped?;
    Ok(report)
}

/// Makes keys, rules and consents, and chooses the developers.
async fn gather(platform: &Platform, plan: &Arc<DemoPlan>) -> Result<Arc<Crowd>, Failure> {
    let mut table = platform.registry.get_routing(&platform.model).await?;
    table.holdback_share = platform.rollout.holdback_share;
    let chosen = members(plan, plan.settings().developers, &platform.secret, &table)?;
    for repository in &plan.corpus().repositories {
        platform.allow_repository(&repository.name).await?;
    }
    platform.consent_to_code(chosen.iter().map(|member| &member.pseudonym)).await?;
    let key = platform.client_key.clone();
    let doors = DoorSettings::new(
        format!("http://{}", platform.doors.serving),
        format!("http://{}", platform.doors.ingest),
        key,
    );
    Ok(Arc::new(Crowd::new(Arc::clone(plan), Arc::new(Doors::new(doors)?), chosen)))
}

impl Story<'_> {
    async fn run(&mut self, started: Instant) -> Result<Report, Failure> {
        let watch = Watch::start(self.platform, self.progress.clone());
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

    fn spent(&mut self, stage: &str, since: Instant) -> f64 {
        let seconds = since.elapsed().as_secs_f64();
        *self.stages.entry(stage.to_owned()).or_default() += seconds;
        seconds
    }

    /// One round of everybody, then a barrier at which every stage concludes.
    async fn work(&mut self, stage: &str) -> Result<(), Failure> {
        // What was promoted a moment ago serves from the first question on, whatever the machine's speed.
        self.platform.await_serving(STUCK).await?;
        let since = Instant::now();
        let first = usize::try_from(self.round).unwrap_or(0) * ROUND;
        self.crowd.round(self.round, first, ROUND, self.progress).await?;
        self.round += 1;
        self.platform.await_exposures().await;
        self.spent(stage, since);
        self.has_new_work = true;
        self.last_signal = (Instant::now(), self.stages.clone());
        let since = Instant::now();
        self.waited += self.platform.conclude(self.played(), STUCK).await?;
        self.spent("scrub_and_label", since);
        Ok(())
    }

    async fn turn(&mut self) -> Result<Turn, Failure> {
        // Scrubbing and labeling of the last signals is part of the turn that learns from them.
        let (last_signal, stages_before) = self.last_signal.clone();
        self.has_new_work = false;
        let waited_before = self.waited;
        let known: BTreeSet<_> =
            self.platform.orchestrator.store.runs(100).await?.into_iter().map(|run| run.run_id).collect();
        let since = Instant::now();
        let Some(run) = self.await_run(&known).await? else {
            let turn = Turn::not_eligible("there is nothing new to learn from, or the last rollout is still under way");
            self.progress.say(&format!("turn ends: {} ({})", turn.outcome, turn.reason));
            return Ok(turn);
        };
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
            bail_user(format!("the training run failed: {}", turn.reason))?;
        }
        if let (Some(version), Some(rollout)) = (run.version, &run.rollout_id) {
            let rollout: RolloutId = rollout.parse()?;
            self.progress.say(&format!("version {version} passed the gate: {}; rollout begins", turn.reason));
            let (ended, evidence) = self.roll_out(rollout, version).await?;
            let first_served = self.crowd.diary.lock().first_served.get(&version).copied();
            turn.turn_seconds = first_served.map(|at| at.duration_since(last_signal).as_secs_f64());
            turn.outcome = match ended.state {
                RolloutState::Promoted => "promoted",
                RolloutState::RolledBack => "rolled_back",
                _ => "held",
            }
            .to_owned();
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

    /// Asks for a training run and follows it to its end; none when the orchestrator looked and began none.
    async fn await_run(&self, known: &BTreeSet<events::RunId>) -> Result<Option<Run>, Failure> {
        let orchestrator = &self.platform.orchestrator;
        orchestrator.request();
        let awaited = self.follow_run(known).await;
        // While a rollout is under way the request would wait for its end, and the run begin in the middle of what is
        // played then.
        orchestrator.withdraw();
        awaited
    }

    async fn follow_run(&self, known: &BTreeSet<events::RunId>) -> Result<Option<Run>, Failure> {
        let begun = Instant::now();
        let orchestrator = &self.platform.orchestrator;
        let limit = Duration::from_secs(self.platform.settings.orchestrator.deadline_seconds) + STUCK;
        let mut look = Box::pin(orchestrator.look());
        let mut looked = false;
        loop {
            let runs = orchestrator.store.runs(10).await?;
            match runs.into_iter().find(|run| !known.contains(&run.run_id)) {
                Some(run) if run.finished_at.is_some() => return Ok(Some(run)),
                Some(run) => self.platform.show_run(&run, self.progress),
                // The look ended before the runs were read: there is none.
                None if looked => return Ok(None),
                None => {}
            }
            if begun.elapsed() > limit {
                bail_user("the training run did not end by its deadline")?;
            }
            tokio::select! {
                result = &mut look, if !looked => match result {
                    Ok(()) => looked = true,
                    Err(error) => {
                        tracing::warn!(%error, "the orchestrator could not look; it looks again");
                        tokio::time::sleep(LOOK).await;
                        look = Box::pin(orchestrator.look());
                    }
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Why a candidate was held, with the figure that a reader asks for next.
    fn in_words(&self, reason: &str, detail: &serde_json::Value) -> String {
        if reason != "insufficient_opportunities" {
            return reason.to_owned();
        }
        let judged = detail.pointer("/gate/opportunities").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let wanted = self.platform.settings.orchestrator.gate_opportunities;
        format!(
            "insufficient_opportunities: {judged} were held out and judged, the gate decides on {wanted}; \
             more --developers meet more"
        )
    }

    /// Plays blocks until the rollout is decided, or the blocks are used up.
    async fn roll_out(&mut self, rollout: RolloutId, version: i64) -> Result<(Rollout, RolloutEvidence), Failure> {
        self.platform.await_candidate(ModelVersion(version), STUCK).await?;
        for block in 0..self.arguments.blocks {
            let (before, _) = self.platform.registry.get_rollout(rollout).await?;
            let start = before.started_at.context("a rollout that serves has begun")?;
            self.go_to(start + Duration::from_secs(u64::from(block) * self.block_seconds()));
            self.work("canary").await?;
            // The verdict on a block falls once the block is over and its last exposure has closed and settled.
            let settled = self.policy.settle_seconds + model_registry::policy::CLOSE_SECONDS + 60;
            let end = Duration::from_secs((u64::from(block) + 1) * self.block_seconds());
            self.go_to(start + end + Duration::from_secs(u64::try_from(settled).unwrap_or(0)));
            self.waited += self.platform.conclude(self.played(), STUCK).await?;
            self.platform.decide_rollouts().await?;
            let (state, evidence) = self.platform.registry.get_rollout(rollout).await?;
            self.progress.canary(u64::from(block) + 1, evidence.verdict_sentence());
            self.progress.say(&format!("block {}: {}", block + 1, evidence.verdict_sentence()));
            if !state.state.is_active() {
                return Ok((state, evidence));
            }
        }
        Ok(self.platform.registry.get_rollout(rollout).await?)
    }

    /// How many opportunities there were so far.
    fn played(&self) -> usize {
        self.crowd.diary.lock().tasks.len()
    }

    fn block_seconds(&self) -> u64 {
        u64::try_from(self.policy.block_seconds).unwrap_or(86_400)
    }

    fn go_to(&mut self, time: Timestamp) {
        let ahead = time.since(self.platform.clock.now());
        self.waited += ahead;
        self.platform.advance(ahead);
    }

    async fn report(&mut self, started: Instant, turns: Vec<Turn>, period: u32) -> Result<Report, Failure> {
        let platform = self.platform;
        let outcomes = sinks::outcomes(&platform.pool, &platform.tenant).await?;
        let compared = self.version_to_compare(&turns);
        let probe_tasks = self.plan.probe()?;
        let since = Instant::now();
        let (probe, corrections) = self.probe(&probe_tasks, compared.unwrap_or(1)).await?;
        self.spent("probe", since);
        let learning_free: Answers =
            probe_tasks.iter().map(|planned| baseline::repeat_last_substitution(&planned.task.context)).collect();
        let baselines = vec![probe::judge_answers("repeat the last substitution", None, &probe_tasks, &learning_free)];

        let totals = ledger::totals(&platform.pool, &platform.tenant).await?;
        let freshness_seconds = platform.freshness().await?.as_secs_f64();
        let diary = self.crowd.diary.lock();
        let in_period = |outcome: &&OpportunityOutcome| {
            diary.tasks.get(&outcome.opportunity_id).is_some_and(|task| task.round >= period)
        };
        let split = |unseen: bool| {
            let of: Vec<&OpportunityOutcome> = outcomes
                .iter()
                .filter(in_period)
                .filter(|outcome| diary.tasks.get(&outcome.opportunity_id).is_some_and(|task| task.is_unseen == unseen))
                .collect();
            compared.map(|version| compare(&of, version)).unwrap_or_default()
        };
        let all: Vec<&OpportunityOutcome> = outcomes.iter().filter(in_period).collect();
        // Without a version beside the first there is nothing to compare, and nothing is claimed.
        let holdback_comparison = compared.map(|version| compare(&all, version)).unwrap_or_default();
        Ok(Report {
            seed: self.arguments.seed,
            placebo: self.arguments.placebo,
            claim_met: claim_met(&holdback_comparison),
            wall_seconds: started.elapsed().as_secs_f64(),
            corpus_split_by_hash: self.plan.corpus().was_split,
            developers: self.arguments.developers,
            versions: versions(&outcomes),
            unseen_identifiers: split(true),
            seen_identifiers: split(false),
            holdback_comparison,
            compared_version: compared,
            outcomes_digest: outcomes_digest(&outcomes),
            probe,
            baselines,
            turns,
            ledger: Ledger::new(&totals),
            freshness_seconds,
            first_action_milliseconds: Percentiles::of(&diary.first_action_milliseconds),
            compute_budget: self.compute_budget(),
            stage_seconds: self.stages.clone(),
            margins: margins(&self.policy, &RolloutPolicy::default()),
            corrections,
        })
    }

    /// What was planned for these sizes, and what it took. Serving and canary are the rounds in which developers work;
    /// they, the doors and the steps behind them share the processors then.
    fn compute_budget(&self) -> Vec<ComputeBudget> {
        let DemoArgs { developers, blocks, steps, turns, .. } = *self.arguments;
        let rounds = |rounds: u32| f64::from(rounds * developers) * ROUND as f64 / PLANNED_OPPORTUNITIES_PER_SECOND;
        let planned = [
            ("serving", rounds(ROUNDS_BEFORE + ROUNDS_AFTER), ["collect", "final_period"].as_slice()),
            ("training", f64::from(turns * steps) * PLANNED_SECONDS_PER_STEP, &["training"]),
            ("evaluation", f64::from(turns) * PLANNED_EVALUATION_SECONDS, &["evaluation"]),
            ("canary", rounds(turns * blocks), &["canary"]),
        ];
        let taken = |stages: &[&str]| stages.iter().filter_map(|stage| self.stages.get(*stage)).sum();
        planned
            .into_iter()
            .map(|(purpose, planned_seconds, stages)| ComputeBudget {
                purpose,
                planned_seconds,
                actual_seconds: taken(stages),
            })
            .collect()
    }

    /// The last promoted version; for the placebo the last that was canaried.
    fn version_to_compare(&self, turns: &[Turn]) -> Option<i64> {
        let wanted = |turn: &&Turn| {
            if self.arguments.placebo { turn.turn_seconds.is_some() } else { turn.outcome == "promoted" }
        };
        turns.iter().rev().find(wanted).and_then(|turn| turn.version)
    }

    async fn probe(
        &self,
        tasks: &[simulator::PlannedTask],
        last: i64,
    ) -> Result<(Vec<super::report::ProbeResult>, Vec<super::report::Correction>), Failure> {
        let platform = self.platform;
        let threshold = platform.settings.serving.threshold as f32;
        let mut results = Vec::new();
        let mut answers: BTreeMap<i64, Answers> = BTreeMap::new();
        let mut versions = platform.registry.list_versions(&platform.model).await?;
        versions.sort_by_key(|version| version.version);
        for version in versions {
            let directory = platform.materialize(version.artifact_digest).await?;
            let (shape, asked) = (platform.shape.clone(), tasks.to_vec());
            let number = version.version.0;
            let said = tokio::task::spawn_blocking(move || {
                let model = EditModel::load(&directory)?;
                let render = |context: &events::EditContext| {
                    let mut rendered = context.clone();
                    rendered.repository = shape.repository(&context.repository);
                    rendered.path = shape.path(&context.path);
                    for edit in &mut rendered.recent_edits {
                        edit.path = shape.path(&edit.path);
                    }
                    rendered
                };
                probe::ask(&model, &asked, &render, threshold)
            })
            .await??;
            results.push(probe::judge_answers(&format!("version {number}"), Some(number), tasks, &said));
            answers.insert(number, said);
        }
        let corrections = match (answers.get(&1), answers.get(&last)) {
            (Some(before), Some(after)) => probe::corrections(tasks, before, after, CORRECTIONS),
            _ => Vec::new(),
        };
        Ok((results, corrections))
    }
}

fn bail_user(sentence: impl Into<String>) -> Result<(), Failure> {
    let sentence: String = sentence.into();
    let fail = || -> anyhow::Result<()> { bail!(sentence) };
    Ok(fail()?)
}
