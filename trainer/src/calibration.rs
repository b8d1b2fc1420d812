//! How far the decision to speak is from what would have been right.

use serde::{Deserialize, Serialize};

/// A decision to speak beside what would have been right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Probability that an edit is wanted, before any threshold.
    pub gate_score: f32,
    /// Whether one was.
    pub wants_edit: bool,
}

/// Decisions of neighbouring scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// How many.
    pub decisions: usize,
    /// Mean probability that an edit is wanted, as estimated.
    pub estimated: f64,
    /// Share that wanted one.
    pub right: f64,
}

/// Bins of equally many decisions.
const BINS: usize = 10;
/// A bin of fewer has no variance.
const LEAST_IN_BIN: usize = 2;

/// Bins of equally many decisions by their score, the lowest first; none of too few decisions.
#[must_use]
pub fn calibration_bins(decisions: &[Decision]) -> Vec<CalibrationBin> {
    let mut sorted = decisions.to_vec();
    sorted.sort_by(|left, right| left.gate_score.total_cmp(&right.gate_score));
    let count = sorted.len();
    if count < BINS * LEAST_IN_BIN {
        return Vec::new();
    }
    let of = |decisions: &[Decision]| {
        let size = decisions.len() as f64;
        CalibrationBin {
            decisions: decisions.len(),
            estimated: decisions.iter().map(|decision| f64::from(decision.gate_score)).sum::<f64>() / size,
            right: decisions.iter().filter(|decision| decision.wants_edit).count() as f64 / size,
        }
    };
    (0..BINS).map(|bin| of(&sorted[bin * count / BINS..(bin + 1) * count / BINS])).collect()
}

/// Root of the mean squared difference between what was estimated and what was right over `bins`; the part of it that
/// chance alone would make is taken off (Kumar et al. 2019, "Verified Uncertainty Calibration": the debiased
/// estimator). None of no bins.
#[must_use]
pub fn calibration_error(bins: &[CalibrationBin]) -> Option<f64> {
    if bins.is_empty() {
        return None;
    }
    let count = bins.iter().map(|bin| bin.decisions).sum::<usize>() as f64;
    let mut squared = 0.0;
    for CalibrationBin { decisions, estimated, right } in bins {
        let size = *decisions as f64;
        let chance = right * (1.0 - right) / (size - 1.0);
        squared += size / count * ((estimated - right).powi(2) - chance);
    }
    // Not `max`, which would make a number of what is none.
    Some(if squared < 0.0 { 0.0 } else { squared.sqrt() })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Decisions of which `share_of` the score want an edit, by a fixed sequence that fills the unit interval.
    pub(crate) fn decisions(count: usize, share_of: impl Fn(f64) -> f64) -> Vec<Decision> {
        let fraction = |value: f64| value - value.floor();
        (0..count)
            .map(|index| {
                let score = fraction(index as f64 * 0.618_033_988_749_895);
                let point = fraction(index as f64 * 0.414_213_562_373_095 + 0.5);
                Decision { gate_score: score as f32, wants_edit: point < share_of(score) }
            })
            .collect()
    }

    fn error(decisions: &[Decision]) -> Option<f64> {
        calibration_error(&calibration_bins(decisions))
    }

    #[test]
    fn calibration_is_measured_without_what_chance_adds() {
        let right = error(&decisions(300, |score| score)).unwrap();
        assert!(right < 0.05, "{right}");
        // A score that is always a quarter too high or too low.
        let off = error(&decisions(3000, |score| (score - 0.25).max(0.0))).unwrap();
        assert!((off - 0.24).abs() < 0.03, "{off}");
        assert_eq!(error(&decisions(19, |score| score)), None);
        assert!(error(&[Decision { gate_score: f32::NAN, wants_edit: true }; 40]).unwrap().is_nan());
    }

    #[test]
    fn bins_are_equally_many_neighbours() {
        let bins = calibration_bins(&decisions(305, |score| score));
        assert!(bins.iter().all(|bin| bin.decisions == 30 || bin.decisions == 31), "{bins:?}");
        assert_eq!((bins.len(), bins.iter().map(|bin| bin.decisions).sum::<usize>()), (10, 305));
        assert!(bins.windows(2).all(|two| two[0].estimated < two[1].estimated), "{bins:?}");
        assert!(bins.iter().all(|bin| (bin.estimated - bin.right).abs() < 0.2), "{bins:?}");
    }
}
