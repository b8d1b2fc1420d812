//! The offline gate: may a candidate be shown to developers at all?
//!
//! Held-out opportunities are answered by candidate and parent. Utility per opportunity is +0.75 for a first action
//! that matches what the developer did, -0.25 for one that was shown and does not, 0 for silence. Persons are the
//! units: their opportunities are resampled together.
//!
//! Two sets judge, each what it can: *adapt* (the same repositories, later) whether the candidate gained anything,
//! *general* (repositories and people that train nothing) whether it does harm elsewhere. Gain is an estimate above 0;
//! no harm is a bound on the loss.

use std::collections::BTreeMap;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Utility of a shown action that matches.
pub const UTILITY_MATCH: f64 = 0.75;
/// Utility of a shown action that does not.
pub const UTILITY_WRONG: f64 = -0.25;

/// Settings of the gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GateConfig {
    /// Fewest opportunities that allow a judgement.
    pub least_opportunities: usize,
    /// Fewest opportunities of the set *general* that bound a loss.
    pub least_general_opportunities: usize,
    /// Fewest persons that either set may rest on. Persons are what is resampled: of one alone all resamples are equal,
    /// and of a few an interval says hardly more.
    pub least_persons: usize,
    /// Largest loss of utility in the set *general*: the lower bound of the difference must be above its negative.
    pub general_tolerance: f64,
    /// The lower bound of the difference in utility must be above this.
    pub least_lower_bound: f64,
    /// Largest relative difference of the shown rate.
    pub shown_rate_tolerance: f64,
    /// Largest loss of old skills, as a share.
    pub old_skills_tolerance: f64,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            least_opportunities: 300,
            least_general_opportunities: 100,
            least_persons: 5,
            general_tolerance: 0.05,
            least_lower_bound: -0.05,
            shown_rate_tolerance: 0.10,
            old_skills_tolerance: 0.05,
            resamples: 2000,
            seed: 1,
        }
    }
}

/// What one model did at one opportunity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behaviour {
    /// It spoke.
    pub shown: bool,
    /// What it showed is what the developer wanted there.
    pub matches: bool,
}

impl Behaviour {
    /// Its utility.
    #[must_use]
    pub fn utility(self) -> f64 {
        match (self.shown, self.matches) {
            (false, _) => 0.0,
            (true, true) => UTILITY_MATCH,
            (true, false) => UTILITY_WRONG,
        }
    }
}

/// One held-out opportunity, answered by both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateOutcome {
    /// The developer, pseudonymous.
    pub person: String,
    /// What the candidate did.
    pub candidate: Behaviour,
    /// What the parent did.
    pub parent: Behaviour,
    /// Whether the names that the developer wrote there are all written by pairs that train; not known of every pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifiers_seen: Option<bool>,
}

/// What the gate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateVerdict {
    /// The candidate may be rolled out.
    Eligible,
    /// There is a reason against it.
    Held,
    /// Too few opportunities or persons to judge: held.
    Insufficient,
}

/// Figures of a set of opportunities, or of a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PartReport {
    /// Opportunities judged.
    pub opportunities: usize,
    /// Persons they belong to.
    pub persons: usize,
    /// Mean utility of the candidate.
    pub utility_candidate: f64,
    /// Mean utility of the parent.
    pub utility_parent: f64,
    /// Candidate minus parent.
    pub estimate: f64,
    /// Lower bound of the difference (2.5th percentile over resampled persons).
    pub low: f64,
    /// Upper bound of the difference (97.5th percentile).
    pub high: f64,
}

impl PartReport {
    /// The figures of some opportunities; none of no opportunity.
    fn of(config: &GateConfig, outcomes: &[&GateOutcome]) -> Option<Self> {
        if outcomes.is_empty() {
            return None;
        }
        let count = outcomes.len() as f64;
        let utility_candidate = outcomes.iter().map(|outcome| outcome.candidate.utility()).sum::<f64>() / count;
        let utility_parent = outcomes.iter().map(|outcome| outcome.parent.utility()).sum::<f64>() / count;
        let persons = differences(outcomes.iter().copied());
        let (low, high) = bootstrap(&persons, config.resamples, config.seed);
        Some(Self {
            opportunities: outcomes.len(),
            persons: persons.len(),
            utility_candidate,
            utility_parent,
            estimate: utility_candidate - utility_parent,
            low,
            high,
        })
    }
}

/// A judgement with its figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateReport {
    /// What the gate says.
    pub verdict: GateVerdict,
    /// Stable codes of what speaks against the candidate.
    pub reasons: Vec<String>,
    /// Opportunities judged.
    pub opportunities: usize,
    /// Persons they belong to.
    pub persons: usize,
    /// Mean utility of the candidate.
    pub utility_candidate: f64,
    /// Mean utility of the parent.
    pub utility_parent: f64,
    /// Candidate minus parent.
    pub estimate: f64,
    /// Lower bound of the difference (2.5th percentile over resampled persons).
    pub low: f64,
    /// Upper bound of the difference (97.5th percentile).
    pub high: f64,
    /// Share of opportunities at which the candidate spoke.
    pub shown_rate_candidate: f64,
    /// Share at which the parent spoke.
    pub shown_rate_parent: f64,
    /// Share of old tasks that the candidate answers exactly.
    pub old_skills_candidate: f64,
    /// Share that the parent answers exactly.
    pub old_skills_parent: f64,
    /// Of the opportunities judged, those where the developer wrote only names that training pairs write.
    #[serde(default)]
    pub seen_identifiers: Option<PartReport>,
    /// Those where the developer wrote a name that no training pair writes.
    #[serde(default)]
    pub unseen_identifiers: Option<PartReport>,
    /// The set *general*; none while too few repositories train for one to be held out.
    #[serde(default)]
    pub general: Option<PartReport>,
}

impl GateReport {
    /// Whether the candidate may be rolled out.
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.verdict == GateVerdict::Eligible
    }

    /// What speaks against it, in one word; `eligible` when nothing does.
    #[must_use]
    pub fn reason(&self) -> String {
        if self.reasons.is_empty() { "eligible".to_owned() } else { self.reasons.join(", ") }
    }
}

/// Judges a candidate from what both models did.
#[must_use]
pub fn judge(
    config: &GateConfig,
    outcomes: &[GateOutcome],
    old_skills_candidate: f64,
    old_skills_parent: f64,
) -> GateReport {
    let count = outcomes.len();
    let mean = |value: &dyn Fn(&GateOutcome) -> f64| {
        if count == 0 { 0.0 } else { outcomes.iter().map(value).sum::<f64>() / count as f64 }
    };
    let utility_candidate = mean(&|outcome| outcome.candidate.utility());
    let utility_parent = mean(&|outcome| outcome.parent.utility());
    let shown_rate_candidate = mean(&|outcome| f64::from(u8::from(outcome.candidate.shown)));
    let shown_rate_parent = mean(&|outcome| f64::from(u8::from(outcome.parent.shown)));
    let estimate = utility_candidate - utility_parent;
    let persons = differences(outcomes.iter());
    let (low, high) = bootstrap(&persons, config.resamples, config.seed);
    let mut reasons = Vec::new();
    let verdict = if count < config.least_opportunities {
        reasons.push("insufficient_opportunities".to_owned());
        GateVerdict::Insufficient
    } else if persons.len() < config.least_persons {
        reasons.push("insufficient_persons".to_owned());
        GateVerdict::Insufficient
    } else {
        if estimate <= 0.0 {
            reasons.push("utility_not_better".to_owned());
        }
        if low <= config.least_lower_bound {
            reasons.push("utility_uncertain".to_owned());
        }
        if (shown_rate_candidate - shown_rate_parent).abs() > config.shown_rate_tolerance * shown_rate_parent {
            reasons.push("shown_rate_changed".to_owned());
        }
        if old_skills_candidate < old_skills_parent - config.old_skills_tolerance {
            reasons.push("old_skills_lost".to_owned());
        }
        if reasons.is_empty() { GateVerdict::Eligible } else { GateVerdict::Held }
    };
    let part = |seen: bool| {
        let of_part: Vec<_> = outcomes.iter().filter(|outcome| outcome.identifiers_seen == Some(seen)).collect();
        PartReport::of(config, &of_part)
    };
    GateReport {
        seen_identifiers: part(true),
        unseen_identifiers: part(false),
        general: None,
        verdict,
        reasons,
        opportunities: count,
        persons: persons.len(),
        utility_candidate,
        utility_parent,
        estimate,
        low,
        high,
        shown_rate_candidate,
        shown_rate_parent,
        old_skills_candidate,
        old_skills_parent,
    }
}

/// Adds what the set *general* says of harm: a loss that can not be ruled out speaks against the candidate, and too few
/// opportunities or persons to rule it out decide nothing. Without any such set old skills alone stand for it.
pub fn judge_harm(config: &GateConfig, report: &mut GateReport, outcomes: &[GateOutcome]) {
    let outcomes: Vec<_> = outcomes.iter().collect();
    report.general = PartReport::of(config, &outcomes);
    let Some(general) = report.general else { return };
    if general.opportunities < config.least_general_opportunities {
        report.reasons.push("insufficient_general_opportunities".to_owned());
        report.verdict = GateVerdict::Insufficient;
    } else if general.persons < config.least_persons {
        report.reasons.push("insufficient_general_persons".to_owned());
        report.verdict = GateVerdict::Insufficient;
    } else if general.low <= -config.general_tolerance {
        report.reasons.push("general_loss_possible".to_owned());
        if report.verdict == GateVerdict::Eligible {
            report.verdict = GateVerdict::Held;
        }
    }
}

/// Sum of differences in utility and number of opportunities of each person.
fn differences<'a>(outcomes: impl Iterator<Item = &'a GateOutcome>) -> Vec<(f64, f64)> {
    let mut by_person: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for outcome in outcomes {
        let entry = by_person.entry(&outcome.person).or_default();
        entry.0 += outcome.candidate.utility() - outcome.parent.utility();
        entry.1 += 1.0;
    }
    by_person.into_values().collect()
}

/// 95% interval of the mean difference by resampling persons with all their opportunities.
fn bootstrap(persons: &[(f64, f64)], resamples: usize, seed: u64) -> (f64, f64) {
    if persons.is_empty() || resamples == 0 {
        return (f64::NEG_INFINITY, f64::INFINITY);
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..resamples)
        .map(|_| {
            let (mut sum, mut count) = (0.0, 0.0);
            for _ in 0..persons.len() {
                let (difference, opportunities) = persons[random.random_range(0..persons.len())];
                sum += difference;
                count += opportunities;
            }
            sum / f64::max(count, 1.0)
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((share * resamples as f64) as usize).min(resamples - 1)];
    (at(0.025), at(0.975))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(
        count: usize,
        candidate: impl Fn(usize) -> (bool, bool),
        parent: impl Fn(usize) -> (bool, bool),
    ) -> Vec<GateOutcome> {
        let behaviour = |(shown, matches)| Behaviour { shown, matches };
        (0..count)
            .map(|index| GateOutcome {
                person: format!("p{}", index % 30),
                candidate: behaviour(candidate(index)),
                parent: behaviour(parent(index)),
                identifiers_seen: None,
            })
            .collect()
    }

    #[test]
    fn a_better_candidate_is_eligible() {
        let outcomes = outcomes(300, |i| (i % 3 != 0, i % 3 == 1 || i % 5 == 0), |i| (i % 3 != 0, i % 3 == 1));
        let report = judge(&GateConfig::default(), &outcomes, 0.70, 0.72);
        assert!(report.is_eligible(), "{report:?}");
        assert!(report.low <= report.estimate && report.estimate <= report.high);
    }

    #[test]
    fn silence_does_not_pass() {
        let outcomes = outcomes(300, |_| (false, false), |i| (true, i % 6 == 0));
        let report = judge(&GateConfig::default(), &outcomes, 0.7, 0.7);
        assert_eq!(report.verdict, GateVerdict::Held);
        assert!(report.reasons.contains(&"shown_rate_changed".to_owned()));
    }

    #[test]
    fn what_is_lost_or_not_gained_is_named() {
        let same = outcomes(300, |i| (true, i % 2 == 0), |i| (true, i % 2 == 0));
        assert_eq!(judge(&GateConfig::default(), &same, 0.7, 0.7).reason(), "utility_not_better");
        let better = outcomes(300, |i| (true, i % 2 == 0), |i| (true, i % 4 == 0));
        assert_eq!(judge(&GateConfig::default(), &better, 0.6, 0.7).reason(), "old_skills_lost");
    }

    #[test]
    fn too_few_opportunities_decide_nothing() {
        let few = outcomes(299, |_| (true, true), |_| (true, false));
        let report = judge(&GateConfig::default(), &few, 0.7, 0.7);
        assert_eq!(report.verdict, GateVerdict::Insufficient);
        assert!(!report.is_eligible());
        assert_eq!(judge(&GateConfig::default(), &[], 0.7, 0.7).verdict, GateVerdict::Insufficient);
    }

    #[test]
    fn benefit_and_harm_are_decided_by_sets_of_their_own() {
        let better = outcomes(300, |i| (true, i % 2 == 0), |i| (true, i % 4 == 0));
        let judged = |general: &[GateOutcome]| {
            let mut report = judge(&GateConfig::default(), &better, 0.7, 0.7);
            judge_harm(&GateConfig::default(), &mut report, general);
            (report.verdict, report.reason(), report.general.map(|general| general.opportunities))
        };
        assert_eq!(judged(&[]), (GateVerdict::Eligible, "eligible".to_owned(), None));
        let same = outcomes(120, |i| (true, i % 2 == 0), |i| (true, i % 2 == 0));
        assert_eq!(judged(&same), (GateVerdict::Eligible, "eligible".to_owned(), Some(120)));
        let worse = outcomes(120, |i| (true, i % 4 == 0), |i| (true, i % 2 == 0));
        assert_eq!(judged(&worse), (GateVerdict::Held, "general_loss_possible".to_owned(), Some(120)));
        let few = judged(&same[..99]);
        assert_eq!(few, (GateVerdict::Insufficient, "insufficient_general_opportunities".to_owned(), Some(99)));
    }

    #[test]
    fn a_few_persons_decide_nothing() {
        let of_persons = |count: usize, mut outcomes: Vec<GateOutcome>| {
            for (index, outcome) in outcomes.iter_mut().enumerate() {
                outcome.person = format!("p{}", index % count);
            }
            outcomes
        };
        let better = || outcomes(300, |i| (true, i % 2 == 0), |i| (true, i % 4 == 0));
        let same = || outcomes(120, |i| (true, i % 2 == 0), |i| (true, i % 2 == 0));
        let judged = |persons: usize, general_persons: usize| {
            let mut report = judge(&GateConfig::default(), &of_persons(persons, better()), 0.7, 0.7);
            judge_harm(&GateConfig::default(), &mut report, &of_persons(general_persons, same()));
            (report.verdict, report.reason())
        };
        assert_eq!(judged(5, 5), (GateVerdict::Eligible, "eligible".to_owned()));
        assert_eq!(judged(4, 5), (GateVerdict::Insufficient, "insufficient_persons".to_owned()));
        // All resamples of one person are equal: the bound would say that there is no loss.
        for few in [1, 4] {
            assert_eq!(judged(5, few), (GateVerdict::Insufficient, "insufficient_general_persons".to_owned()));
        }
    }

    #[test]
    fn names_that_training_writes_are_reported_apart() {
        let mut mixed = outcomes(300, |i| (true, i % 3 == 0), |i| (true, i % 3 == 1));
        for (index, outcome) in mixed.iter_mut().enumerate() {
            outcome.identifiers_seen = Some(index % 3 == 0);
        }
        let report = judge(&GateConfig::default(), &mixed, 0.7, 0.7);
        let (seen, unseen) = (report.seen_identifiers.unwrap(), report.unseen_identifiers.unwrap());
        assert_eq!((seen.opportunities, unseen.opportunities), (100, 200));
        assert!((seen.estimate - 1.0).abs() < 1e-12 && (unseen.estimate + 0.5).abs() < 1e-12);
        assert!(seen.low <= seen.estimate && seen.estimate <= seen.high);
    }

    #[test]
    fn one_person_is_one_unit() {
        // All of the gain comes from one of two persons: the interval must be wide.
        let mut outcomes = outcomes(300, |_| (true, true), |_| (true, false));
        for (index, outcome) in outcomes.iter_mut().enumerate() {
            outcome.person = if index < 150 { "a".to_owned() } else { "b".to_owned() };
            if index >= 150 {
                outcome.parent.matches = true;
            }
        }
        let report = judge(&GateConfig::default(), &outcomes, 0.7, 0.7);
        assert!(report.low <= 0.0 && report.high >= 0.99, "{report:?}");
    }
}
