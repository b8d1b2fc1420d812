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

use edit_model::ServedWeights;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Deserializer, Serialize};

pub use crate::calibration::{CalibrationBin, Decision, calibration_bins, calibration_error};
pub use crate::language_part::LanguagePart;
use crate::language_part::by_language;
use crate::memorisation::MemorisationReport;

/// Utility of a shown action that matches.
pub const UTILITY_MATCH: f64 = 0.75;
/// Utility of a shown action that does not.
pub const UTILITY_WRONG: f64 = -0.25;

/// What the gate lets through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateLimits {
    /// The weights by which models answer: those that serve.
    pub weights: ServedWeights,
    /// Fewest persons that either set may rest on. Persons are what is resampled: of one alone all resamples are equal,
    /// and of a few an interval says hardly more.
    pub least_persons: usize,
    /// The lower bound of the difference in utility to the parent, and to each rival, must be above this.
    pub least_lower_bound: f64,
    /// Largest relative difference of the shown rate.
    pub shown_rate_tolerance: f64,
    /// Largest loss of utility in the set *general*: the lower bound of the difference must be above its negative.
    pub general_tolerance: f64,
    /// Largest loss of old skills, as a share.
    pub old_skills_tolerance: f64,
    /// Largest relative rise of the bits that a byte of an old task's answer costs, in any language.
    pub bits_per_byte_tolerance: f64,
    /// Largest rise of the share of shown answers to old tasks that break the syntax of what they are written into.
    pub parse_error_tolerance: f64,
    /// Largest calibration error of the decision to speak.
    pub calibration_tolerance: f64,
    /// Markers by which a run is asked what it remembers, see [`crate::memorisation`]; 0: it is not asked. Asking takes a
    /// second training.
    pub markers: usize,
    /// Markers stand in 1 to so many episodes of one person.
    pub marker_episodes: usize,
    /// Markers that are completed more often than controls hold a candidate where chance would do the same with a lower
    /// probability than this.
    pub memorisation_level: f64,
}

impl Default for GateLimits {
    fn default() -> Self {
        Self {
            weights: ServedWeights::Full,
            least_persons: 10,
            least_lower_bound: -0.01,
            shown_rate_tolerance: 0.10,
            general_tolerance: 0.05,
            old_skills_tolerance: 0.05,
            bits_per_byte_tolerance: 0.02,
            parse_error_tolerance: 0.005,
            calibration_tolerance: 0.05,
            markers: 0,
            marker_episodes: 20,
            memorisation_level: 0.05,
        }
    }
}

impl GateLimits {
    /// Whether every limit is usable.
    ///
    /// # Errors
    /// The first that is not, and why.
    pub fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        let share = "expected 0 to 1";
        let is_share = |value: f64| (0.0..=1.0).contains(&value);
        let checks = [
            (self.least_persons > 0, "gate.least_persons", "expected at least 1"),
            ((-1.0..=1.0).contains(&self.least_lower_bound), "gate.least_lower_bound", "expected -1 to 1"),
            (is_share(self.shown_rate_tolerance), "gate.shown_rate_tolerance", share),
            (is_share(self.general_tolerance), "gate.general_tolerance", share),
            (is_share(self.old_skills_tolerance), "gate.old_skills_tolerance", share),
            (is_share(self.bits_per_byte_tolerance), "gate.bits_per_byte_tolerance", share),
            (is_share(self.parse_error_tolerance), "gate.parse_error_tolerance", share),
            (is_share(self.calibration_tolerance), "gate.calibration_tolerance", share),
            (self.markers <= 1000, "gate.markers", "expected 0 to 1000"),
            ((1..=1000).contains(&self.marker_episodes), "gate.marker_episodes", "expected 1 to 1000"),
            (is_share(self.memorisation_level), "gate.memorisation_level", share),
        ];
        checks.into_iter().find(|(holds, ..)| !holds).map_or(Ok(()), |(_, key, reason)| Err((key, reason)))
    }
}

/// Settings of the gate.
#[derive(Debug, Clone, PartialEq)]
pub struct GateConfig {
    /// Fewest opportunities that allow a judgement.
    pub least_opportunities: usize,
    /// Fewest opportunities of the set *general* that bound a loss.
    pub least_general_opportunities: usize,
    /// What is let through.
    pub limits: GateLimits,
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
            limits: GateLimits::default(),
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateOutcome {
    /// The developer, pseudonymous.
    pub person: String,
    /// The language of the document.
    #[serde(default)]
    pub language: String,
    /// What the candidate did.
    pub candidate: Behaviour,
    /// What the parent did.
    pub parent: Behaviour,
    /// What the other models did that the candidate must beat, in the order of the job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rivals: Vec<Behaviour>,
    /// The candidate's estimate that an edit is wanted, and whether one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Whether the names that the developer wrote there are all written by pairs that train; not known of every pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifiers_seen: Option<bool>,
}

/// The candidate beside a model that is not its parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RivalReport {
    /// Digest of the other model.
    pub model_digest: String,
    /// The figures, the other model's as those of a parent.
    #[serde(flatten)]
    pub figures: PartReport,
}

/// Bits that a byte of the answers to old tasks of one language costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LanguageReport {
    /// The language.
    pub language: String,
    /// Bytes of text that the answers write.
    pub bytes: usize,
    /// Bits a byte of the candidate.
    pub bits_per_byte_candidate: f64,
    /// Bits a byte of the parent.
    pub bits_per_byte_parent: f64,
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
    pub(crate) fn of(config: &GateConfig, outcomes: &[&GateOutcome]) -> Option<Self> {
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
    /// Lower bound of the difference (2.5th percentile over resampled persons); minus infinity, in JSON null, where there
    /// are no persons.
    #[serde(deserialize_with = "no_lower_bound")]
    pub low: f64,
    /// Upper bound of the difference (97.5th percentile); infinity, in JSON null, where there are no persons.
    #[serde(deserialize_with = "no_upper_bound")]
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
    /// The same opportunities with another model in the parent's place: what training started from, and the best
    /// earlier version, where they are no parent.
    #[serde(default)]
    pub rivals: Vec<RivalReport>,
    /// Calibration error of the candidate's decision to speak, over the opportunities judged.
    #[serde(default)]
    pub calibration_error: Option<f64>,
    /// What the answers to old tasks cost, by language.
    #[serde(default)]
    pub languages: Vec<LanguageReport>,
    /// The opportunities judged, by the language of the document; diagnosis alone.
    #[serde(default)]
    pub by_language: Vec<LanguagePart>,
    /// What the calibration error is computed from.
    #[serde(default)]
    pub calibration: Vec<CalibrationBin>,
    /// Which markers a run of the same kind remembers; none: it was not asked.
    #[serde(default)]
    pub memorisation: Option<MemorisationReport>,
}

/// JSON has no infinity, and a result that can not be read again would be made again.
fn no_lower_bound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NEG_INFINITY))
}

fn no_upper_bound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
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
    } else if persons.len() < config.limits.least_persons {
        reasons.push("insufficient_persons".to_owned());
        GateVerdict::Insufficient
    } else {
        if estimate <= 0.0 {
            reasons.push("utility_not_better".to_owned());
        }
        if low <= config.limits.least_lower_bound {
            reasons.push("utility_uncertain".to_owned());
        }
        if (shown_rate_candidate - shown_rate_parent).abs() > config.limits.shown_rate_tolerance * shown_rate_parent {
            reasons.push("shown_rate_changed".to_owned());
        }
        if old_skills_candidate < old_skills_parent - config.limits.old_skills_tolerance {
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
        rivals: Vec::new(),
        calibration_error: None,
        languages: Vec::new(),
        by_language: by_language(config, outcomes),
        calibration: Vec::new(),
        memorisation: None,
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
    } else if general.persons < config.limits.least_persons {
        report.reasons.push("insufficient_general_persons".to_owned());
        report.verdict = GateVerdict::Insufficient;
    } else if general.low <= -config.limits.general_tolerance {
        report.hold("general_loss_possible");
    }
}

impl GateReport {
    /// Adds a reason against the candidate, where there is enough to judge it by.
    pub(crate) fn hold(&mut self, reason: &str) {
        if self.verdict != GateVerdict::Insufficient {
            self.reasons.push(reason.to_owned());
            self.verdict = GateVerdict::Held;
        }
    }
}

/// Adds what the opportunities judged say of the candidate beside the models of `digests`, whose behaviour the outcomes
/// hold in this order: versions that each lose a little to the one before, within what chance allows, must not end below
/// the best of them, or below where all began.
pub fn judge_rivals(config: &GateConfig, report: &mut GateReport, outcomes: &[GateOutcome], digests: &[String]) {
    for (place, digest) in digests.iter().enumerate() {
        let beside: Vec<GateOutcome> = outcomes
            .iter()
            .filter_map(|outcome| Some(GateOutcome { parent: *outcome.rivals.get(place)?, ..outcome.clone() }))
            .collect();
        let beside: Vec<&GateOutcome> = beside.iter().collect();
        let Some(figures) = PartReport::of(config, &beside) else { continue };
        if figures.estimate <= 0.0 {
            report.hold("utility_not_better_than_rival");
        }
        if figures.low <= config.limits.least_lower_bound {
            report.hold("utility_uncertain_beside_rival");
        }
        report.rivals.push(RivalReport { model_digest: digest.clone(), figures });
    }
}

/// Adds how far the candidate's decisions to speak are from what would have been right.
pub fn judge_calibration(config: &GateConfig, report: &mut GateReport, outcomes: &[GateOutcome]) {
    let decisions: Vec<Decision> = outcomes.iter().filter_map(|outcome| outcome.decision).collect();
    let bins = calibration_bins(&decisions);
    report.calibration_error = calibration_error(&bins);
    // JSON has no number that is none.
    report.calibration = bins.into_iter().filter(|bin| bin.estimated.is_finite()).collect();
    // Written so that what is no number is held, too.
    if report.calibration_error.is_some_and(|error| !(0.0..=config.limits.calibration_tolerance).contains(&error)) {
        report.hold("calibration_off");
    }
}

/// Adds what the answers to old tasks cost in each language.
pub fn judge_languages(config: &GateConfig, report: &mut GateReport, languages: Vec<LanguageReport>) {
    for language in &languages {
        let most = language.bits_per_byte_parent * (1.0 + config.limits.bits_per_byte_tolerance);
        if !(0.0..=most).contains(&language.bits_per_byte_candidate) {
            report.hold(&format!("bits_per_byte_rose_{}", language.language));
        }
    }
    report.languages = languages;
}

/// Holds a candidate whose share of shown answers that break syntax is above the parent's.
pub fn judge_syntax(config: &GateConfig, report: &mut GateReport, candidate: f64, parent: f64) {
    if !(0.0..=parent + config.limits.parse_error_tolerance).contains(&candidate) {
        report.hold("parse_errors_rose");
    }
}

/// Sum of differences in utility and number of opportunities of each person.
pub(crate) fn differences<'a>(outcomes: impl Iterator<Item = &'a GateOutcome>) -> Vec<(f64, f64)> {
    let mut by_person: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for outcome in outcomes {
        let entry = by_person.entry(&outcome.person).or_default();
        entry.0 += outcome.candidate.utility() - outcome.parent.utility();
        entry.1 += 1.0;
    }
    by_person.into_values().collect()
}

/// 95% interval of a mean by resampling clusters (persons; commits of a history) with all that is theirs: each a sum and
/// the number of its opportunities. The percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap",
/// 1993, chapter 13); of no cluster nothing is known. The same seed gives the same interval.
#[must_use]
pub fn bootstrap(persons: &[(f64, f64)], resamples: usize, seed: u64) -> (f64, f64) {
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
    use crate::calibration::tests::decisions;

    #[test]
    fn a_report_of_nobody_is_read_as_it_was_written() {
        let config = GateConfig { least_opportunities: 1, ..GateConfig::default() };
        let report = judge(&config, &[], 0.5, 0.5);
        assert_eq!((report.low, report.high), (f64::NEG_INFINITY, f64::INFINITY));
        let written = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<GateReport>(&written).unwrap(), report);
    }

    fn outcomes(
        count: usize,
        candidate: impl Fn(usize) -> (bool, bool),
        parent: impl Fn(usize) -> (bool, bool),
    ) -> Vec<GateOutcome> {
        let behaviour = |(shown, matches)| Behaviour { shown, matches };
        (0..count)
            .map(|index| GateOutcome {
                person: format!("p{}", index % 30),
                language: "rust".to_owned(),
                candidate: behaviour(candidate(index)),
                parent: behaviour(parent(index)),
                rivals: Vec::new(),
                decision: None,
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
        assert_eq!(judged(10, 10), (GateVerdict::Eligible, "eligible".to_owned()));
        assert_eq!(judged(9, 10), (GateVerdict::Insufficient, "insufficient_persons".to_owned()));
        // All resamples of one person are equal: the bound would say that there is no loss.
        for few in [1, 9] {
            assert_eq!(judged(10, few), (GateVerdict::Insufficient, "insufficient_general_persons".to_owned()));
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

    #[test]
    fn a_candidate_below_a_rival_is_held_however_it_beats_its_parent() {
        let mut better = outcomes(300, |i| (true, i % 2 == 0), |i| (true, i % 4 == 0));
        let judged = |outcomes: &[GateOutcome], digests: &[&str]| {
            let digests: Vec<String> = digests.iter().map(|digest| (*digest).to_owned()).collect();
            let mut report = judge(&GateConfig::default(), outcomes, 0.7, 0.7);
            judge_rivals(&GateConfig::default(), &mut report, outcomes, &digests);
            let rivals: Vec<_> = report.rivals.iter().map(|rival| rival.model_digest.clone()).collect();
            (report.verdict, report.reason(), rivals.join(" "))
        };
        let eligible = |rivals: &str| (GateVerdict::Eligible, "eligible".to_owned(), rivals.to_owned());
        assert_eq!(judged(&better, &[]), eligible(""));
        for (index, outcome) in better.iter_mut().enumerate() {
            outcome.rivals.push(Behaviour { shown: true, matches: index % 4 == 0 });
        }
        assert_eq!(judged(&better, &["base"]), eligible("base"));
        for outcome in &mut better {
            outcome.rivals.push(Behaviour { shown: true, matches: true });
        }
        let reasons = "utility_not_better_than_rival, utility_uncertain_beside_rival".to_owned();
        assert_eq!(judged(&better, &["base", "best"]), (GateVerdict::Held, reasons, "base best".to_owned()));
    }

    #[test]
    fn a_rival_reads_back_from_json() {
        let better = outcomes(300, |i| (true, i % 2 == 0), |i| (true, i % 4 == 0));
        let mut report = judge(&GateConfig::default(), &better, 0.7, 0.7);
        let figures = PartReport::of(&GateConfig::default(), &better.iter().collect::<Vec<_>>()).unwrap();
        report.rivals = vec![RivalReport { model_digest: "abc".to_owned(), figures }];
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["rivals"][0]["model_digest"], &json["rivals"][0]["persons"]), (&"abc".into(), &30.into()));
        let read: GateReport = serde_json::from_value(json).unwrap();
        assert_eq!(read.rivals[0].figures.persons, 30);
    }

    #[test]
    fn what_old_tasks_cost_may_rise_in_no_language() {
        let judged = |rust: f64, python: f64| {
            let better = outcomes(300, |i| (true, i % 2 == 0), |i| (true, i % 4 == 0));
            let mut report = judge(&GateConfig::default(), &better, 0.7, 0.7);
            let language = |language: &str, bits_per_byte_candidate| LanguageReport {
                language: language.to_owned(),
                bytes: 1000,
                bits_per_byte_candidate,
                bits_per_byte_parent: 1.0,
            };
            judge_languages(
                &GateConfig::default(),
                &mut report,
                vec![language("rust", rust), language("python", python)],
            );
            report.reason()
        };
        assert_eq!(judged(1.019, 0.5), "eligible");
        assert_eq!(judged(1.021, 0.5), "bits_per_byte_rose_rust");
        assert_eq!(judged(1.0, f64::NAN), "bits_per_byte_rose_python");
    }

    #[test]
    fn broken_syntax_may_not_become_more_frequent() {
        let judged = |candidate: f64, parent: f64| {
            let better = outcomes(300, |i| (true, i % 2 == 0), |i| (true, i % 4 == 0));
            let mut report = judge(&GateConfig::default(), &better, 0.7, 0.7);
            judge_syntax(&GateConfig::default(), &mut report, candidate, parent);
            report.reason()
        };
        assert_eq!(judged(0.054, 0.05), "eligible");
        assert_eq!(judged(0.056, 0.05), "parse_errors_rose");
        assert_eq!(judged(0.0, 0.05), "eligible");
    }

    #[test]
    fn decisions_that_are_off_hold_and_their_curve_is_kept() {
        let mut with_decisions = outcomes(300, |i| (true, i % 2 == 0), |i| (true, i % 4 == 0));
        let judged = |outcomes: &[GateOutcome]| {
            let mut report = judge(&GateConfig::default(), outcomes, 0.7, 0.7);
            judge_calibration(&GateConfig::default(), &mut report, outcomes);
            report.reason()
        };
        assert_eq!(judged(&with_decisions), "eligible");
        for (outcome, decision) in with_decisions.iter_mut().zip(decisions(300, |_| 0.2)) {
            outcome.decision = Some(decision);
        }
        assert_eq!(judged(&with_decisions), "calibration_off");
        let mut report = judge(&GateConfig::default(), &with_decisions, 0.7, 0.7);
        judge_calibration(&GateConfig::default(), &mut report, &with_decisions);
        assert_eq!(report.calibration.iter().map(|bin| bin.decisions).sum::<usize>(), 300);
        assert_eq!(report.calibration_error, calibration_error(&report.calibration));
        for outcome in &mut with_decisions {
            outcome.decision = Some(Decision { gate_score: f32::NAN, wants_edit: true });
        }
        judge_calibration(&GateConfig::default(), &mut report, &with_decisions);
        let read: GateReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!((read.calibration, read.calibration_error), (Vec::new(), None));
    }

    #[test]
    fn limits_that_let_everything_or_nothing_through_by_mistake_are_refused() {
        GateLimits::default().validate().unwrap();
        let refused = |limits: GateLimits| limits.validate().unwrap_err().0;
        assert_eq!(refused(GateLimits { least_persons: 0, ..GateLimits::default() }), "gate.least_persons");
        let limits = GateLimits { calibration_tolerance: f64::NAN, ..GateLimits::default() };
        assert_eq!(refused(limits), "gate.calibration_tolerance");
    }
}
