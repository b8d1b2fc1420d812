//! The report of a demo: what was measured, and whether the claim holds. Documented in `docs/report.md`.

use std::collections::{BTreeMap, BTreeSet};

use events::{Arm, OpportunityOutcome, Sha256Digest, Signal};
use labeler::ledger::LedgerTotals;
use model_registry::policy::RolloutPolicy;
use serde::Serialize;
use simulator::driver::quantile_of;

use super::statistics::{Cluster, Rate, difference, rate};

/// Everything that `--report FILE` writes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) placebo: bool,
    /// Utility and acceptance above the hold-back's at 95%, shown rate not lower by more than 10%.
    pub(crate) claim_met: bool,
    pub(crate) wall_seconds: f64,
    pub(crate) played_on: PlayedOn,
    /// The corpus was split by path hash because it held fewer than two repositories.
    pub(crate) corpus_split_by_hash: bool,
    pub(crate) developers: u32,
    pub(crate) versions: Vec<VersionMeasures>,
    /// The version of the hold-back: 1, unless the platform had lived before.
    pub(crate) reference_version: i64,
    /// The version that is compared with it: the last promoted one (placebo: the last canaried one). None:
    /// there is no such version, the comparisons are empty and nothing is claimed.
    pub(crate) compared_version: Option<i64>,
    pub(crate) holdback_comparison: Vec<Comparison>,
    pub(crate) unseen_identifiers: Vec<Comparison>,
    pub(crate) seen_identifiers: Vec<Comparison>,
    pub(crate) probe: Vec<ProbeResult>,
    pub(crate) baselines: Vec<ProbeResult>,
    pub(crate) turns: Vec<Turn>,
    pub(crate) ledger: Ledger,
    /// Seconds between the oldest usable label that no serving version has seen and the end; 0 when there is none.
    pub(crate) freshness_seconds: f64,
    /// SHA-256 over every closed opportunity with its person, arm, version and judgement: equal for equal seeds.
    pub(crate) outcomes_digest: Sha256Digest,
    /// As the developers' editors measured it, over all shown suggestions.
    pub(crate) first_action_milliseconds: Percentiles,
    pub(crate) stage_seconds: BTreeMap<String, f64>,
    pub(crate) compute_budget: Vec<ComputeBudget>,
    pub(crate) margins: Vec<Margin>,
    pub(crate) corrections: Vec<Correction>,
}

/// The platform on which the demo was played.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PlayedOn {
    /// One that ran already, elsewhere; else one of the demo's own process.
    pub(crate) deployment: bool,
    /// As the configuration calls its parts.
    pub(crate) bus: String,
    pub(crate) database: String,
    pub(crate) artifacts: String,
    /// How many times as fast as the machine's clock its time ran; none: simulated time, which waited for the demo.
    pub(crate) clock_factor: Option<u32>,
}

/// Percentiles; `null` without any value.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: Option<f64>,
    pub(crate) p90: Option<f64>,
    pub(crate) p99: Option<f64>,
}

impl Percentiles {
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|quantile| quantile_of(&sorted, quantile));
        Self { p50, p90, p99 }
    }
}

/// All measures of one version, over every closed opportunity that it decided.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct VersionMeasures {
    pub(crate) version: i64,
    pub(crate) opportunities: u64,
    pub(crate) shown: u64,
    pub(crate) shown_rate: Rate,
    pub(crate) acceptance: Rate,
    #[serde(rename = "yield")]
    pub(crate) yielded: Rate,
    pub(crate) utility: Rate,
    pub(crate) kept_chars_per_opportunity: Rate,
}

/// Last promoted version (placebo: last canaried) minus the hold-back's, same task stream, same period.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Comparison {
    pub(crate) metric: &'static str,
    pub(crate) difference: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) relative: Option<f64>,
    pub(crate) low: Option<f64>,
    pub(crate) high: Option<f64>,
    pub(crate) opportunities_treated: u64,
    pub(crate) opportunities_control: u64,
}

/// How one version (or a learning-free baseline) does on the probe set, which was drawn before the start.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ProbeResult {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<i64>,
    pub(crate) tasks: u64,
    pub(crate) utility: f64,
    /// Share of tasks of each kind whose first action was exactly what was wanted (no edit: silence).
    pub(crate) right: BTreeMap<&'static str, f64>,
    pub(crate) shown_rate: f64,
}

/// One turn of the wheel.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Turn {
    /// The version that was trained; none when no model came of it.
    pub(crate) version: Option<i64>,
    /// `promoted`, `held`, `rolled_back`, `aborted`, `awaiting_approval`, `undecided` or `not_eligible`.
    pub(crate) outcome: String,
    /// Why, in a code and numbers.
    pub(crate) reason: String,
    pub(crate) snapshot_digest: Option<String>,
    pub(crate) training_pairs: u64,
    /// Wall seconds from the last signal used to the first served suggestion of the version.
    pub(crate) turn_seconds: Option<f64>,
    /// ... and to its promotion.
    pub(crate) promoted_seconds: Option<f64>,
    /// Waiting (blocks of the rollout, windows that must close) in the platform's time. Simulated time passes in no
    /// time at all; on a clock that only runs faster, this is a part of the wall time too.
    pub(crate) simulated_wait_seconds: f64,
    /// Wall seconds of each stage of this turn.
    pub(crate) stage_seconds: BTreeMap<String, f64>,
    /// The gate's figures as the training job reported them.
    pub(crate) gate: serde_json::Value,
    /// The evidence on which the rollout was decided.
    pub(crate) evidence: serde_json::Value,
}

impl Turn {
    /// A turn from which no version came that may be shown to developers.
    pub(crate) fn not_eligible(reason: &str) -> Self {
        Self {
            version: None,
            outcome: "not_eligible".to_owned(),
            reason: reason.to_owned(),
            snapshot_digest: None,
            training_pairs: 0,
            turn_seconds: None,
            promoted_seconds: None,
            simulated_wait_seconds: 0.0,
            stage_seconds: BTreeMap::new(),
            gate: serde_json::Value::Null,
            evidence: serde_json::Value::Null,
        }
    }
}

/// The ledger's equation: admitted + filtered_at_door + exposed + unseen = everything else; and nothing was decided that
/// never may be, which the ledger counts beside the equation.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Ledger {
    pub(crate) admitted: u64,
    pub(crate) filtered_at_door: u64,
    pub(crate) exposed: u64,
    /// Decided, and entered where the ledger was let pass over raw telemetry.
    pub(crate) unseen: u64,
    pub(crate) clean: u64,
    pub(crate) filtered: u64,
    pub(crate) quarantined: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) erased: u64,
    pub(crate) lost: u64,
    pub(crate) pending: u64,
    /// Events that were decided and never entered, or decided in two ways.
    pub(crate) anomalies: u64,
    /// Whether the equation holds and there are no anomalies.
    pub(crate) balanced: bool,
}

impl Ledger {
    pub(crate) fn new(totals: &LedgerTotals) -> Self {
        let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
        Self {
            admitted: unsigned(totals.admitted),
            filtered_at_door: unsigned(totals.filtered_at_door),
            exposed: unsigned(totals.exposed),
            unseen: unsigned(totals.unseen),
            clean: unsigned(totals.clean),
            filtered: unsigned(totals.filtered),
            quarantined: unsigned(totals.quarantined),
            dead_lettered: unsigned(totals.dead_lettered),
            erased: unsigned(totals.erased),
            lost: unsigned(totals.lost),
            pending: unsigned(totals.pending),
            anomalies: unsigned(totals.anomalies),
            balanced: totals.holds(),
        }
    }

    /// The equation in words. What is unseen is named where there is some: nearly no ledger was let pass over anything.
    pub(crate) fn equation(&self) -> String {
        let unseen = if self.unseen > 0 { format!(" + {} unseen", self.unseen) } else { String::new() };
        format!(
            "{} admitted + {} filtered at the door + {} exposed{unseen} = {} clean + {} filtered + {} quarantined + \
             {} dead-lettered + {} erased + {} lost + {} pending",
            self.admitted,
            self.filtered_at_door,
            self.exposed,
            self.clean,
            self.filtered,
            self.quarantined,
            self.dead_lettered,
            self.erased,
            self.lost,
            self.pending
        )
    }
}

/// Wall seconds of the machine by purpose.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ComputeBudget {
    pub(crate) purpose: &'static str,
    /// None for a deployment: the plan is for a platform that shares two processors with the demo.
    pub(crate) planned_seconds: Option<f64>,
    pub(crate) actual_seconds: f64,
}

/// A setting of the rollout that differs from production's default.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Margin {
    /// As the configuration calls it.
    pub(crate) setting: &'static str,
    pub(crate) demo: String,
    pub(crate) production: String,
}

/// Where a rollout differs from production's defaults, and by how much.
pub(crate) fn margins(demo: &RolloutPolicy, production: &RolloutPolicy) -> Vec<Margin> {
    let share = |value: f64| format!("{:.0}%", value * 100.0);
    let settings = [
        ("margin", demo.margin.to_string(), production.margin.to_string()),
        ("alpha", demo.alpha.to_string(), production.alpha.to_string()),
        ("canary_share", share(demo.canary_share), share(production.canary_share)),
        ("holdback_share", share(demo.holdback_share), share(production.holdback_share)),
        ("block_seconds", demo.block_seconds.to_string(), production.block_seconds.to_string()),
        ("settle_seconds", demo.settle_seconds.to_string(), production.settle_seconds.to_string()),
        ("max_blocks", demo.max_blocks.to_string(), production.max_blocks.to_string()),
        ("minimum_persons", demo.minimum_persons.to_string(), production.minimum_persons.to_string()),
        ("promotion", demo.promotion.to_string(), production.promotion.to_string()),
        ("observe_only", demo.observe_only.to_string(), production.observe_only.to_string()),
    ];
    settings
        .into_iter()
        .filter(|(_, demo, production)| demo != production)
        .map(|(setting, demo, production)| Margin { setting, demo, production })
        .collect()
}

/// What `outcomes_digest` is taken of.
pub(crate) fn outcomes_digest(outcomes: &[OpportunityOutcome]) -> Sha256Digest {
    let mut lines: Vec<String> = outcomes
        .iter()
        .map(|outcome| {
            format!(
                "{} {} {:?} {} {} {:?} {}\n",
                outcome.opportunity_id,
                outcome.person,
                outcome.arm,
                outcome.model_version.0,
                outcome.shown,
                outcome.signal,
                outcome.utility
            )
        })
        .collect();
    lines.sort_unstable();
    Sha256Digest::of(lines.concat().as_bytes())
}

/// One task, answered by two versions.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Correction {
    pub(crate) repository: String,
    pub(crate) line: String,
    pub(crate) wanted: String,
    pub(crate) before: String,
    pub(crate) after: String,
}

fn clusters<'a>(
    outcomes: impl Iterator<Item = &'a OpportunityOutcome>,
    numerator: impl Fn(&OpportunityOutcome) -> f64,
    denominator: impl Fn(&OpportunityOutcome) -> f64,
) -> Vec<Cluster> {
    let mut by_person: BTreeMap<&str, Cluster> = BTreeMap::new();
    for outcome in outcomes {
        let cluster = by_person.entry(outcome.person.as_str()).or_insert(Cluster { sum: 0.0, count: 0.0 });
        cluster.sum += numerator(outcome);
        cluster.count += denominator(outcome);
    }
    by_person.into_values().collect()
}

fn indicator(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

fn accepted(outcome: &OpportunityOutcome) -> bool {
    matches!(outcome.signal, Signal::Accepted | Signal::PartiallyEdited)
}

/// Measures of every version that decided at least one closed opportunity; censored ones are in no rate.
pub(crate) fn versions(outcomes: &[OpportunityOutcome]) -> Vec<VersionMeasures> {
    let numbers: BTreeSet<i64> = outcomes.iter().map(|outcome| outcome.model_version.0).collect();
    numbers
        .into_iter()
        .map(|version| {
            let of = || outcomes.iter().filter(move |outcome| outcome.model_version.0 == version && !outcome.censored);
            let one = |_: &OpportunityOutcome| 1.0;
            VersionMeasures {
                version,
                opportunities: of().count() as u64,
                shown: of().filter(|outcome| outcome.shown).count() as u64,
                shown_rate: rate(&clusters(of(), |outcome| indicator(outcome.shown), one)),
                acceptance: rate(&clusters(
                    of(),
                    |outcome| indicator(accepted(outcome)),
                    |outcome| indicator(outcome.shown),
                )),
                yielded: rate(&clusters(of(), |outcome| indicator(accepted(outcome)), one)),
                utility: rate(&clusters(of(), |outcome| outcome.utility, one)),
                kept_chars_per_opportunity: rate(&clusters(of(), |outcome| outcome.kept_characters as f64, one)),
            }
        })
        .collect()
}

/// The causal comparison: persons who had `version` against persons of the hold-back, who kept `reference`, in the same
/// period.
pub(crate) fn compare(outcomes: &[&OpportunityOutcome], version: i64, reference: i64) -> Vec<Comparison> {
    let treated: Vec<&OpportunityOutcome> = outcomes
        .iter()
        .copied()
        .filter(|outcome| !outcome.censored && outcome.arm != Arm::Holdback && outcome.model_version.0 == version)
        .collect();
    let control: Vec<&OpportunityOutcome> = outcomes
        .iter()
        .copied()
        .filter(|outcome| !outcome.censored && outcome.arm == Arm::Holdback && outcome.model_version.0 == reference)
        .collect();
    let one = |_: &OpportunityOutcome| 1.0;
    let shown = |outcome: &OpportunityOutcome| indicator(outcome.shown);
    type Measure<'a> = &'a dyn Fn(&OpportunityOutcome) -> f64;
    let acceptance: Measure<'_> = &|outcome| indicator(accepted(outcome));
    let measures: [(&'static str, Measure<'_>, Measure<'_>); 3] = [
        ("utility", &|outcome| outcome.utility, &one),
        ("acceptance", acceptance, &shown),
        ("shown_rate", &shown, &one),
    ];
    measures
        .into_iter()
        .map(|(metric, numerator, denominator)| {
            let (a, b) = (
                clusters(treated.iter().copied(), numerator, denominator),
                clusters(control.iter().copied(), numerator, denominator),
            );
            let result = difference(&a, &b);
            let base = rate(&b).value;
            let relative = (metric == "shown_rate" && base > 0.0).then(|| result.value / base);
            Comparison {
                metric,
                difference: result.value,
                relative,
                low: result.low,
                high: result.high,
                opportunities_treated: treated.len() as u64,
                opportunities_control: control.len() as u64,
            }
        })
        .collect()
}

/// Utility and acceptance above zero at 95%, shown rate not lower by more than 10%. No evidence, no claim.
pub(crate) fn claim_met(comparison: &[Comparison]) -> bool {
    let above_zero =
        |metric: &str| comparison.iter().any(|entry| entry.metric == metric && entry.low.is_some_and(|low| low > 0.0));
    let still_speaks = comparison
        .iter()
        .any(|entry| entry.metric == "shown_rate" && entry.relative.is_some_and(|relative| relative >= -0.10));
    above_zero("utility") && above_zero("acceptance") && still_speaks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(metric: &'static str, low: f64, relative: Option<f64>) -> Comparison {
        Comparison {
            metric,
            difference: low + 0.1,
            relative,
            low: Some(low),
            high: Some(low + 0.2),
            opportunities_treated: 10,
            opportunities_control: 10,
        }
    }

    #[test]
    fn only_what_differs_from_production_is_named() {
        let production = RolloutPolicy::default();
        let demo = RolloutPolicy { margin: 0.1, ..production.clone() };
        let named: Vec<_> = margins(&demo, &production).iter().map(|margin| margin.setting).collect();
        assert_eq!(named, ["margin"]);
    }

    #[test]
    fn a_ledger_with_an_anomaly_or_a_missing_event_is_not_balanced() {
        let whole = LedgerTotals { admitted: 3, exposed: 1, clean: 3, pending: 1, ..LedgerTotals::default() };
        assert!(Ledger::new(&whole).balanced);
        let impossible = Ledger::new(&LedgerTotals { anomalies: 1, ..whole.clone() });
        assert_eq!((impossible.balanced, impossible.anomalies), (false, 1));
        assert!(!Ledger::new(&LedgerTotals { pending: 0, ..whole }).balanced);
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        let Percentiles { p50, p90, p99 } = Percentiles::of(&values);
        assert_eq!((p50, p90, p99), (Some(50.0), Some(90.0), Some(99.0)));
        assert_eq!(Percentiles::of(&[]).p50, None);
    }

    #[test]
    fn the_claim_needs_all_three() {
        let met =
            [entry("utility", 0.01, None), entry("acceptance", 0.01, None), entry("shown_rate", -0.3, Some(-0.1))];
        assert!(claim_met(&met));
        for broken in 0..3 {
            let mut comparison = met.to_vec();
            comparison[broken] = match broken {
                0 => entry("utility", -0.01, None),
                1 => entry("acceptance", -0.01, None),
                _ => entry("shown_rate", 0.0, Some(-0.11)),
            };
            assert!(!claim_met(&comparison), "{broken}");
        }
        assert!(!claim_met(&[]));
    }
}
