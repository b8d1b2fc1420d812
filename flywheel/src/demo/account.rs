//! What a story came to: the outcomes of all that was played, the probe, the ledger, the compute.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use edit_model::EditModel;
use events::{EditContext, ModelVersion, OpportunityOutcome};
use labeler::ledger;
use model_registry::policy::RolloutPolicy;
use simulator::{PlannedTask, baseline};

use super::probe::{self, Answers};
use super::report::{
    ComputeBudget, Correction, Ledger, Percentiles, ProbeResult, Report, Turn, claim_met, compare, margins,
    outcomes_digest, versions,
};
use super::story::{ROUND, Story};
use super::{ROUNDS_AFTER, ROUNDS_BEFORE};
use crate::cli::DemoArgs;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::sinks;

/// Corrections that the report shows.
const CORRECTIONS: usize = 3;
/// Opportunities that two cores are planned to play in a second.
const PLANNED_OPPORTUNITIES_PER_SECOND: f64 = 30.0;
/// What a training step is planned to take.
const PLANNED_SECONDS_PER_STEP: f64 = 1.4;
/// What the answers to the gate's opportunities and the old skills are planned to take in a turn.
const PLANNED_EVALUATION_SECONDS: f64 = 20.0;

impl Story<'_> {
    /// Everything that was measured; the last period began with round `period`.
    pub(super) async fn report(&mut self, started: Instant, turns: Vec<Turn>, period: u32) -> Result<Report, Failure> {
        let stage = self.stage;
        let (ground, reference) = (stage.ground(), self.reference);
        let Foundation { pool, settings, .. } = ground.foundation;
        let mut outcomes = sinks::outcomes(pool, &settings.tenant, ground.since()).await?;
        // Others may be at work on the same platform.
        let played = self.crowd.played();
        outcomes.retain(|outcome| played.contains(&outcome.opportunity_id));
        let compared = self.version_to_compare(&turns);
        let probe_tasks = self.plan.probe()?;
        let since = Instant::now();
        let trained: BTreeSet<i64> = turns.iter().filter_map(|turn| turn.version).collect();
        let (probe, corrections) = self.probe(&probe_tasks, trained, compared.unwrap_or(reference)).await?;
        self.spent("probe", since);
        let learning_free: Answers =
            probe_tasks.iter().map(|planned| baseline::repeat_last_substitution(&planned.task.context)).collect();
        let baselines = vec![probe::judge_answers("repeat the last substitution", None, &probe_tasks, &learning_free)];

        let totals = ledger::totals(pool, &settings.tenant).await?;
        let freshness_seconds = ground.freshness().await?.as_secs_f64();
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
            compared.map(|version| compare(&of, version, reference)).unwrap_or_default()
        };
        let all: Vec<&OpportunityOutcome> = outcomes.iter().filter(in_period).collect();
        // Without a version beside the first there is nothing to compare, and nothing is claimed.
        let holdback_comparison = compared.map(|version| compare(&all, version, reference)).unwrap_or_default();
        Ok(Report {
            seed: self.arguments.seed,
            placebo: self.is_placebo(),
            claim_met: claim_met(&holdback_comparison),
            wall_seconds: started.elapsed().as_secs_f64(),
            played_on: ground.played_on(!stage.shares_the_machine()),
            corpus_split_by_hash: self.plan.corpus().was_split,
            developers: self.arguments.developers,
            versions: versions(&outcomes),
            unseen_identifiers: split(true),
            seen_identifiers: split(false),
            holdback_comparison,
            reference_version: reference,
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
    /// they, the doors and the steps behind them share the processors then. How fast another platform's machines are
    /// nobody here knows, so nothing is planned of them.
    fn compute_budget(&self) -> Vec<ComputeBudget> {
        let DemoArgs { developers, blocks, turns, .. } = *self.arguments;
        let steps = f64::from(turns) * self.settings().orchestrator.steps as f64;
        let is_planned = self.stage.shares_the_machine();
        let rounds = |rounds: u32| f64::from(rounds * developers) * ROUND as f64 / PLANNED_OPPORTUNITIES_PER_SECOND;
        let planned = [
            ("serving", rounds(ROUNDS_BEFORE + ROUNDS_AFTER), ["collect", "final_period"].as_slice()),
            ("training", steps * PLANNED_SECONDS_PER_STEP, &["training"]),
            ("evaluation", f64::from(turns) * PLANNED_EVALUATION_SECONDS, &["evaluation"]),
            ("canary", rounds(turns * blocks), &["canary"]),
        ];
        let taken = |stages: &[&str]| stages.iter().filter_map(|stage| self.stages.get(*stage)).sum();
        planned
            .into_iter()
            .map(|(purpose, planned_seconds, stages)| ComputeBudget {
                purpose,
                planned_seconds: is_planned.then_some(planned_seconds),
                actual_seconds: taken(stages),
            })
            .collect()
    }

    fn is_placebo(&self) -> bool {
        self.settings().orchestrator.placebo_exchange_repositories
    }

    /// The last promoted version; for the placebo the last that was canaried.
    fn version_to_compare(&self, turns: &[Turn]) -> Option<i64> {
        let wanted = |turn: &&Turn| {
            if self.is_placebo() { turn.turn_seconds.is_some() } else { turn.outcome == "promoted" }
        };
        turns.iter().rev().find(wanted).and_then(|turn| turn.version)
    }

    /// Asks the hold-back's version and those of the turns every probe task.
    async fn probe(
        &self,
        tasks: &[PlannedTask],
        trained: BTreeSet<i64>,
        last: i64,
    ) -> Result<(Vec<ProbeResult>, Vec<Correction>), Failure> {
        let ground = self.stage.ground();
        let threshold = self.settings().serving.threshold as f32;
        let mut results = Vec::new();
        let mut answers: BTreeMap<i64, Answers> = BTreeMap::new();
        let versions: BTreeSet<i64> = trained.into_iter().chain([self.reference]).collect();
        for number in versions {
            let version = ground.registry.get_version(&ground.model, ModelVersion(number)).await?;
            let directory = ground.materialize(version.artifact_digest).await?;
            let (shape, asked) = (ground.shape.clone(), tasks.to_vec());
            let said = tokio::task::spawn_blocking(move || {
                let model = EditModel::load(&directory)?;
                let render = |context: &EditContext| {
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
        let corrections = match (answers.get(&self.reference), answers.get(&last)) {
            (Some(before), Some(after)) => probe::corrections(tasks, before, after, CORRECTIONS),
            _ => Vec::new(),
        };
        Ok((results, corrections))
    }
}
