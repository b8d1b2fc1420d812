//! Means, ratios and intervals of the arms, clustered by person.

use std::collections::BTreeMap;

use events::{Arm, PersonPseudonym};
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF as _, StudentsT};

use super::{PersonBlock, VALUE_SHIFT};

/// What one arm did, over all complete blocks.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ArmSummary {
    /// Distinct persons with at least one closed opportunity.
    pub persons: i64,
    /// Person-blocks: the units of the e-process.
    pub person_blocks: i64,
    /// Closed opportunities, censored ones left out.
    pub opportunities: i64,
    /// Shown ones.
    pub shown: i64,
    /// Accepted in whole or part.
    pub accepted: i64,
    /// shown / opportunities.
    pub shown_rate: f64,
    /// accepted / shown.
    pub acceptance: f64,
    /// Mean over person-blocks of the mean utility.
    pub utility: f64,
    /// Kept characters per opportunity.
    pub kept_chars_per_opportunity: f64,
}

/// An estimate with a 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

#[expect(clippy::cast_precision_loss, reason = "counts of opportunities are far below 2^53")]
pub(super) fn real(count: i64) -> f64 {
    count as f64
}

fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator > 0.0 { numerator / denominator } else { 0.0 }
}

pub(super) fn summarise<'a>(tallies: impl Iterator<Item = &'a PersonBlock>) -> ArmSummary {
    let mut summary = ArmSummary::default();
    let mut persons = std::collections::BTreeSet::new();
    let mut kept = 0_i64;
    for tally in tallies {
        persons.insert(&tally.person);
        summary.person_blocks += 1;
        summary.opportunities += tally.opportunities;
        summary.shown += tally.shown;
        summary.accepted += tally.accepted;
        kept += tally.kept_characters;
        summary.utility += tally.value() - VALUE_SHIFT;
    }
    summary.persons = i64::try_from(persons.len()).unwrap_or(i64::MAX);
    summary.utility = ratio(summary.utility, real(summary.person_blocks));
    summary.shown_rate = ratio(real(summary.shown), real(summary.opportunities));
    summary.acceptance = ratio(real(summary.accepted), real(summary.shown));
    summary.kept_chars_per_opportunity = ratio(real(kept), real(summary.opportunities));
    summary
}

/// The `probability` quantile of Student's t distribution; none for degrees of freedom that are none.
fn quantile(probability: f64, degrees: f64) -> Option<f64> {
    StudentsT::new(0.0, 1.0, degrees).ok().map(|distribution| distribution.inverse_cdf(probability))
}

/// Difference of the mean values of two arms over person-blocks, with a 95% interval that knows that a person appears
/// in several blocks and, over time, in both arms (linearisation, one residual sum a person; Student's t with one
/// degree of freedom less than there are persons).
pub(super) fn clustered_difference(tallies: &[PersonBlock], arm: Arm, against: Arm) -> Option<Estimate> {
    let side = |wanted: Arm| tallies.iter().filter(move |tally| tally.arm == wanted);
    let mean = |wanted: Arm| {
        let (sum, count) = side(wanted).fold((0.0, 0_i64), |(sum, count), tally| (sum + tally.value(), count + 1));
        (count > 0).then(|| (sum / real(count), real(count)))
    };
    let ((mean_arm, count_arm), (mean_against, count_against)) = (mean(arm)?, mean(against)?);
    let mut residuals: BTreeMap<&PersonPseudonym, f64> = BTreeMap::new();
    for tally in side(arm) {
        *residuals.entry(&tally.person).or_default() += (tally.value() - mean_arm) / count_arm;
    }
    for tally in side(against) {
        *residuals.entry(&tally.person).or_default() -= (tally.value() - mean_against) / count_against;
    }
    let persons = real(i64::try_from(residuals.len()).unwrap_or(i64::MAX));
    if persons < 3.0 {
        return None;
    }
    let variance = residuals.values().map(|residual| residual * residual).sum::<f64>() * persons / (persons - 1.0);
    let value = mean_arm - mean_against;
    let half = quantile(0.975, persons - 1.0)? * variance.sqrt();
    Some(Estimate { value, low: value - half, high: value + half })
}

/// Each person's mean over the blocks in which it was in `arm`.
pub(super) fn person_means(tallies: &[PersonBlock], arm: Arm) -> Vec<f64> {
    let mut means: BTreeMap<&PersonPseudonym, (f64, i64)> = BTreeMap::new();
    for tally in tallies.iter().filter(|tally| tally.arm == arm) {
        let entry = means.entry(&tally.person).or_default();
        entry.0 += tally.value();
        entry.1 += 1;
    }
    means.into_values().map(|(sum, count)| sum / real(count)).collect()
}

/// One-sided lower Welch bound at level `alpha` for mean(left) - mean(right), and the difference itself.
///
/// A variance is never believed to be below 0.25 / n: with a handful of persons who all happened to have the same
/// value (all zero errors, say) the plain estimate is 0, and the bound would be certain of what it cannot know.
pub(super) fn welch_lower_bound(left: &[f64], right: &[f64], alpha: f64) -> Option<(f64, f64)> {
    let moments = |values: &[f64]| {
        let count = real(i64::try_from(values.len()).ok()?);
        if count < 2.0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count;
        let spread = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Some((mean, spread.max(0.25 / count) / count, count))
    };
    let (mean_left, error_left, count_left) = moments(left)?;
    let (mean_right, error_right, count_right) = moments(right)?;
    let error = error_left + error_right;
    // Welch and Satterthwaite's degrees of freedom.
    let degrees = error.powi(2) / (error_left.powi(2) / (count_left - 1.0) + error_right.powi(2) / (count_right - 1.0));
    let difference = mean_left - mean_right;
    Some((difference, difference - quantile(1.0 - alpha, degrees.max(1.0))? * error.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_printed_tables() {
        for (probability, degrees, expected) in [
            (0.95, 1.0, 6.313_752),
            (0.975, 5.0, 2.570_582),
            (0.975, 10.0, 2.228_139),
            (0.9875, 20.0, 2.423_117),
            (0.99, 30.0, 2.457_262),
            (0.975, 1e4, 1.960_201),
        ] {
            let value = quantile(probability, degrees).unwrap();
            assert!((value - expected).abs() < 2e-4, "{probability} {degrees}: {value} instead of {expected}");
        }
        assert_eq!(quantile(0.975, 0.0), None);
    }
}
