//! The evidence that decides a rollout. Pure: from the tallies of complete blocks to a verdict.
//!
//! Persons are the units. A person's value in a block is the mean over its closed opportunities of utility + 0.25, a
//! number in [0, 1]. With delta = candidate's mean value less the current version's:
//!
//! | null hypothesis | payoff of a pair (x canary, y current) | rejected |
//! |---|---|---|
//! | candidate is worse by the margin or more: delta <= -margin | (x - y) + margin | no harm: may be promoted |
//! | candidate is not worse by more than the margin: delta >= -margin | -(x - y) - margin | harm: rolled back |
//! | its shown rate is at least 90% of the current version's | 0.9 s(y) - s(x) | shown less, harm |
//! | it is not worse at all: delta >= 0 | y - x | harm if its acceptance rose meanwhile |
//!
//! The first two are judged at 1/alpha, the last two (guardrails) share alpha and are judged at 2/alpha; a guardrail
//! that is off by its point estimate alone stops no rollout, but keeps it from being promoted at that moment. See
//! [`betting`] for why each is an e-process.
//!
//! A candidate that is not worse at all is rolled back for its utility with probability at most alpha, although two
//! processes may ask for it: bet by bet and pair by pair the factor of *harm*, 1 + b (y - x - margin) / (1 + margin),
//! is at most that of *not worse at all*, 1 + b (y - x), so whenever one of the two reaches its threshold the latter
//! has reached 1/alpha. The shown rate adds alpha/2 at most, and that only for a candidate whose true shown rate is at
//! the limit of 90%.
//!
//! The candidate must also be non-inferior to the pinned reference: hold-back persons against canary persons, each
//! person once (its mean over blocks), Welch's one-sided bound above -margin at one of at most four looks at alpha/4.
//! When the reference is the current version, the first row has said that already, with more persons.
//!
//! Measured on simulated persons (`simulation.rs` has the set-up and the whole table; 60 persons, 12 held back, margin
//! 0.10, four blocks of six opportunities, 2000 runs each): at harm equal to the margin 0.4% are promoted (0.0% against
//! another reference) and 0.2% rolled back; of candidates as good as the current version none is rolled back, and 87%
//! are promoted (46% against another reference, with its 12 persons); at +0.20 utility 100% are promoted, 94% of them
//! after one block; at -0.20, which is 0.10 beyond the margin, 79% are rolled back.

pub mod betting;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod simulation;
mod summary;

use std::collections::BTreeMap;

use events::{Arm, ModelVersion, PersonPseudonym, RolloutId, Timestamp};
use serde::{Deserialize, Serialize};

pub use betting::EProcess;
pub use summary::{ArmSummary, Estimate};

use betting::BlockPairings;

use crate::policy::{REFERENCE_LOOKS, RolloutPolicy};

/// What is added to a utility so that values lie in [0, 1].
pub const VALUE_SHIFT: f64 = 0.25;
/// A candidate must be shown at least this often, relative to the baseline.
const SHOWN_RATE_FLOOR: f64 = 0.9;

/// What one person did in one block in one arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PersonBlock {
    /// The block.
    pub block: i64,
    /// The arm that serving gave.
    pub arm: Arm,
    /// The person.
    pub person: PersonPseudonym,
    /// Closed opportunities, without censored ones; at least 1.
    pub opportunities: i64,
    /// Sum of their utilities.
    pub utility: f64,
    /// How many were shown.
    pub shown: i64,
    /// How many were accepted in whole or part.
    pub accepted: i64,
    /// Characters that stand at close.
    pub kept_characters: i64,
}

impl PersonBlock {
    /// Mean of utility + 0.25, in [0, 1].
    #[must_use]
    pub fn value(&self) -> f64 {
        (self.utility / summary::real(self.opportunities.max(1)) + VALUE_SHIFT).clamp(0.0, 1.0)
    }

    /// Share of opportunities shown.
    fn shown_rate(&self) -> f64 {
        (summary::real(self.shown) / summary::real(self.opportunities.max(1))).clamp(0.0, 1.0)
    }
}

/// What is compared, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The rollout.
    pub rollout_id: RolloutId,
    /// The version on trial.
    pub candidate: ModelVersion,
    /// The current version.
    pub baseline: ModelVersion,
    /// The pinned reference.
    pub reference: Option<ModelVersion>,
    /// How many blocks are complete: ended, closed and settled.
    pub blocks_complete: i64,
    /// When this is judged.
    pub at: Timestamp,
}

/// What the evidence asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not enough yet.
    Continue,
    /// Evidence of no harm.
    Promote,
    /// Evidence of harm.
    Rollback,
    /// Neither within the blocks allowed.
    Hold,
}

impl Verdict {
    /// As reports and metrics write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Hold => "hold",
        }
    }
}

/// The candidate against the pinned reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceComparison {
    /// Whether promotion depends on it: a reference other than the current version is pinned.
    pub required: bool,
    /// Hold-back persons.
    pub holdback_persons: i64,
    /// Canary persons.
    pub canary_persons: i64,
    /// Candidate's mean value less the reference's, each person once; none before the first look.
    pub difference: Option<f64>,
    /// Lower bound at alpha/4 of the latest look.
    pub low: Option<f64>,
    /// Looks so far.
    pub looks: i64,
    /// Whether a look put the bound above -margin.
    pub satisfied: bool,
}

/// The guardrails: rises of acceptance that hide harm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guardrails {
    /// Candidate's shown rate less the baseline's, relative to the baseline's.
    pub shown_rate_change: f64,
    /// More than 10% less, by point estimate.
    pub shown_rate_low: bool,
    /// Acceptance up with lower utility, by point estimates.
    pub acceptance_up_with_lower_utility: bool,
    /// Evidence against "the shown rate is at least 90% of the baseline's".
    pub shown_rate_evidence: EProcess,
    /// Evidence against "utility is not lower"; harm only together with a rise of acceptance.
    pub utility_lower_evidence: EProcess,
}

impl Guardrails {
    /// Off by point estimate: no promotion now.
    #[must_use]
    pub fn off(&self) -> bool {
        self.shown_rate_low || self.acceptance_up_with_lower_utility
    }

    /// Off by evidence: harm.
    #[must_use]
    pub fn harm(&self) -> bool {
        (self.shown_rate_evidence.reached && self.shown_rate_low)
            || (self.utility_lower_evidence.reached && self.acceptance_up_with_lower_utility)
    }
}

/// Everything that is known about a rollout, and what it asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutEvidence {
    /// The rollout.
    pub rollout_id: RolloutId,
    /// The version on trial.
    pub candidate: ModelVersion,
    /// The version that it is compared with.
    pub baseline: ModelVersion,
    /// The pinned reference.
    pub reference: Option<ModelVersion>,
    /// When this was judged.
    pub at: Timestamp,
    /// Complete blocks.
    pub blocks_complete: i64,
    /// Blocks after which a rollout without verdict is held.
    pub max_blocks: i64,
    /// Largest loss that counts as no harm.
    pub margin: f64,
    /// Probability of a wrong verdict of each kind.
    pub alpha: f64,
    /// Distinct persons that each arm needs.
    pub minimum_persons: i64,
    /// The candidate's arm.
    pub canary: ArmSummary,
    /// The current version's arm.
    pub current: ArmSummary,
    /// The reference's persons.
    pub holdback: ArmSummary,
    /// Candidate less current, utility per opportunity, mean over person-blocks; 95%, clustered by person.
    pub utility_difference: Option<Estimate>,
    /// Candidate less reference likewise.
    pub reference_difference: Option<Estimate>,
    /// Evidence that the candidate is not worse by the margin.
    pub no_harm: EProcess,
    /// Evidence that it is worse by more than the margin.
    pub harm: EProcess,
    /// The candidate against the reference.
    pub reference_comparison: ReferenceComparison,
    /// Shown rate and acceptance.
    pub guardrails: Guardrails,
    /// What all this asks for.
    pub verdict: Verdict,
    /// Why, in a few words: a stable code.
    pub reason: String,
}

impl RolloutEvidence {
    /// The verdict in one line for a terminal: numbers first, then what they ask for.
    #[must_use]
    pub fn verdict_sentence(&self) -> String {
        let difference = self.utility_difference.map_or_else(
            || "no comparison yet".to_owned(),
            |estimate| format!("utility {:+.3} [{:+.3}, {:+.3}]", estimate.value, estimate.low, estimate.high),
        );
        let verdict = match self.verdict {
            Verdict::Continue => "goes on",
            Verdict::Promote => "no harm: may be promoted",
            Verdict::Rollback => "harm: rolled back",
            Verdict::Hold => "no verdict in time: held",
        };
        format!(
            "{difference}, {} against {} persons, e-values {:.3} (no harm) and {:.3} (harm) of {:.0}; {verdict} ({})",
            self.canary.persons,
            self.current.persons,
            self.no_harm.largest_e_value.min(1e6),
            self.harm.largest_e_value.min(1e6),
            self.no_harm.threshold,
            self.reason
        )
    }
}

/// Judges the complete blocks. Tallies of later blocks are left out.
#[must_use]
pub fn evaluate(trial: &Trial, policy: &RolloutPolicy, tallies: &[PersonBlock]) -> RolloutEvidence {
    let mut tallies: Vec<PersonBlock> = tallies
        .iter()
        .filter(|tally| (0..trial.blocks_complete).contains(&tally.block) && tally.opportunities > 0)
        .cloned()
        .collect();
    // The order of rows in a database must not change a pairing.
    tallies.sort_by(|left, right| (left.block, &left.person).cmp(&(right.block, &right.person)));

    let mut sides: BTreeMap<i64, (Vec<&PersonBlock>, Vec<&PersonBlock>)> = BTreeMap::new();
    for block in 0..trial.blocks_complete {
        sides.entry(block).or_default();
    }
    for tally in &tallies {
        let (canary, current) = sides.entry(tally.block).or_default();
        match tally.arm {
            Arm::Canary => canary.push(tally),
            Arm::Current => current.push(tally),
            _ => {}
        }
    }
    let blocks: Vec<BlockPairings> = sides
        .iter()
        .map(|(block, (canary, current))| {
            let persons = |side: &[&PersonBlock]| side.iter().map(|tally| tally.person.clone()).collect::<Vec<_>>();
            let (canary, current) = (persons(canary), persons(current));
            BlockPairings::draw(
                trial.rollout_id,
                *block,
                &canary.iter().collect::<Vec<_>>(),
                &current.iter().collect::<Vec<_>>(),
            )
        })
        .collect();
    let columns = |of: fn(&PersonBlock) -> f64| -> Vec<(Vec<f64>, Vec<f64>)> {
        let column = |side: &[&PersonBlock]| side.iter().map(|tally| of(tally)).collect();
        sides.values().map(|(canary, current)| (column(canary), column(current))).collect()
    };
    let values = columns(PersonBlock::value);
    let shown = columns(PersonBlock::shown_rate);
    let difference = |block: usize, canary: usize, current: usize| values[block].0[canary] - values[block].1[current];

    let margin = policy.margin;
    let threshold = 1.0 / policy.alpha;
    let no_harm = betting::run(&blocks, 1.0 - margin, threshold, &|b, x, y| difference(b, x, y) + margin);
    let harm = betting::run(&blocks, 1.0 + margin, threshold, &|b, x, y| -difference(b, x, y) - margin);
    let shown_rate_evidence = betting::run(&blocks, 1.0, 2.0 * threshold, &|block, x, y| {
        SHOWN_RATE_FLOOR * shown[block].1[y] - shown[block].0[x]
    });
    let utility_lower_evidence = betting::run(&blocks, 1.0, 2.0 * threshold, &|b, x, y| -difference(b, x, y));

    let summary = |arm: Arm| summary::summarise(tallies.iter().filter(|tally| tally.arm == arm));
    let (canary, current, holdback) = (summary(Arm::Canary), summary(Arm::Current), summary(Arm::Holdback));
    let shown_rate_change = if current.shown_rate > 0.0 { canary.shown_rate / current.shown_rate - 1.0 } else { 0.0 };
    let guardrails = Guardrails {
        shown_rate_change,
        shown_rate_low: canary.shown_rate < SHOWN_RATE_FLOOR * current.shown_rate,
        acceptance_up_with_lower_utility: canary.acceptance > current.acceptance && canary.utility < current.utility,
        shown_rate_evidence,
        utility_lower_evidence,
    };
    let reference_comparison = compare_reference(trial, policy, &tallies);

    let mut evidence = RolloutEvidence {
        rollout_id: trial.rollout_id,
        candidate: trial.candidate,
        baseline: trial.baseline,
        reference: trial.reference,
        at: trial.at,
        blocks_complete: trial.blocks_complete,
        max_blocks: policy.max_blocks,
        margin,
        alpha: policy.alpha,
        minimum_persons: policy.minimum_persons,
        canary,
        current,
        holdback,
        utility_difference: summary::clustered_difference(&tallies, Arm::Canary, Arm::Current),
        reference_difference: summary::clustered_difference(&tallies, Arm::Canary, Arm::Holdback),
        no_harm,
        harm,
        reference_comparison,
        guardrails,
        verdict: Verdict::Continue,
        reason: String::new(),
    };
    let (verdict, reason) = judge(&evidence);
    evidence.verdict = verdict;
    evidence.reason = reason.to_owned();
    evidence
}

fn judge(evidence: &RolloutEvidence) -> (Verdict, &'static str) {
    let enough = evidence.canary.persons.min(evidence.current.persons) >= evidence.minimum_persons;
    let out_of_blocks = evidence.blocks_complete >= evidence.max_blocks;
    let wait = |reason| if out_of_blocks { (Verdict::Hold, reason) } else { (Verdict::Continue, reason) };
    if !enough {
        return wait("too_few_persons");
    }
    if evidence.harm.reached {
        return (Verdict::Rollback, "harm");
    }
    if evidence.guardrails.harm() {
        return (Verdict::Rollback, "guardrail_harm");
    }
    if !evidence.no_harm.reached {
        return wait("no_evidence_yet");
    }
    if evidence.reference_comparison.required && !evidence.reference_comparison.satisfied {
        // A look needs enough hold-back persons.
        let looked = evidence.reference_comparison.looks > 0;
        return wait(if looked { "not_shown_non_inferior_to_reference" } else { "reference_not_compared_yet" });
    }
    if evidence.guardrails.off() {
        return wait("guardrail_off");
    }
    (Verdict::Promote, "no_harm")
}

/// Every look that has passed is done over again from the blocks complete then, so that the verdict does not depend on
/// when somebody asked.
fn compare_reference(trial: &Trial, policy: &RolloutPolicy, tallies: &[PersonBlock]) -> ReferenceComparison {
    let count = |values: &[f64]| i64::try_from(values.len()).unwrap_or(i64::MAX);
    let mut comparison = ReferenceComparison {
        required: trial.reference.is_some_and(|reference| reference != trial.baseline),
        holdback_persons: count(&summary::person_means(tallies, Arm::Holdback)),
        canary_persons: count(&summary::person_means(tallies, Arm::Canary)),
        difference: None,
        low: None,
        looks: 0,
        satisfied: false,
    };
    #[expect(clippy::cast_precision_loss, reason = "4")]
    let alpha = policy.alpha / REFERENCE_LOOKS as f64;
    for blocks in (1..=trial.blocks_complete.min(policy.max_blocks)).filter(|blocks| policy.is_reference_look(*blocks))
    {
        let seen: Vec<PersonBlock> = tallies.iter().filter(|tally| tally.block < blocks).cloned().collect();
        let canary = summary::person_means(&seen, Arm::Canary);
        let holdback = summary::person_means(&seen, Arm::Holdback);
        if count(&canary).min(count(&holdback)) < policy.minimum_persons {
            continue;
        }
        if let Some((difference, low)) = summary::welch_lower_bound(&canary, &holdback, alpha) {
            comparison.looks += 1;
            comparison.difference = Some(difference);
            comparison.low = Some(low);
            comparison.satisfied |= low > -policy.margin;
        }
    }
    comparison
}

/// Standard deviation of a pair's difference that the projection assumes: persons with some six opportunities a block.
const ASSUMED_DEVIATION: f64 = 0.3;

/// How many blocks a candidate exactly as good as the current version is expected to take until there is evidence of
/// no harm, when `persons` take part; none without persons. By expected logarithmic growth of the best bet.
#[must_use]
pub fn projected_blocks(policy: &RolloutPolicy, persons: i64) -> Option<i64> {
    let smaller_share = policy.canary_share.min(1.0 - policy.holdback_share - policy.canary_share);
    let pairs = (summary::real(persons) * smaller_share).floor();
    if pairs < 1.0 {
        return None;
    }
    let blocks = betting::expected_pairs(policy.margin, ASSUMED_DEVIATION, 1.0 / policy.alpha)? / pairs;
    // At least as many as there can be, at most what anybody would read.
    #[expect(clippy::cast_possible_truncation, reason = "between 1 and 1e6")]
    Some(blocks.ceil().clamp(1.0, 1e6) as i64)
}
