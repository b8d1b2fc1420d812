//! How much a pair counts: what its label says, times log2(1 + people) for those who stand behind it, times (by policy)
//! how unlikely its decision was.
//!
//! The logarithm keeps one pair of five persons above one of a loud person and below five pairs; to base 2, so that one
//! person counts once. The inverse probability is that of the decision alone, `p_show` or `1 - p_show`: texts are drawn
//! too rarely for theirs to be of use. It says something only where every decision was left to chance, and its variance
//! is bounded by a clip.

use events::PairReason;

use super::Candidate;
use super::composition::WeightStatistics;
use super::entry::Entry;
use super::manifest::DataSetError;
use super::policy::DataSetPolicy;

const MILLION: f64 = 1e6;

/// The weights of the pairs that train, in millionths and in their order.
///
/// # Errors
/// [`DataSetError::NoRandomisation`].
pub(crate) fn of(policy: &DataSetPolicy, training: &[Entry<'_>]) -> Result<(Vec<i64>, WeightStatistics), DataSetError> {
    if policy.inverse_p_show {
        let was_left_to_chance = |entry: &&Entry<'_>| {
            let p_show = entry.candidate.pair.probabilities.p_show;
            p_show > 0.0 && p_show < 1.0
        };
        let certain = training.len() - training.iter().filter(was_left_to_chance).count();
        if certain > 0 {
            return Err(DataSetError::NoRandomisation { certain, pairs: training.len() });
        }
    }
    let mut statistics = WeightStatistics::default();
    let mut squares = 0.0;
    let mut weights = Vec::with_capacity(training.len());
    for entry in training {
        let mut weight = entry.weight * f64::from(entry.people).ln_1p() / std::f64::consts::LN_2;
        if policy.inverse_p_show {
            let most = f64::from(policy.most_inverse_p_show);
            let inverse = decision_probability(entry.candidate).recip();
            statistics.clipped += usize::from(inverse > most);
            weight *= inverse.min(most);
        }
        // What trains has a weight above zero, however small.
        let millionths = (weight * MILLION).round().max(1.0) as i64;
        let weight = millionths as f64 / MILLION;
        statistics.sum += weight;
        statistics.largest = statistics.largest.max(weight);
        squares += weight * weight;
        weights.push(millionths);
    }
    if squares > 0.0 {
        statistics.effective_sample_size = statistics.sum * statistics.sum / squares;
    }
    Ok((weights, statistics))
}

/// How likely it was that this was decided: to show, or to stay silent.
fn decision_probability(candidate: &Candidate) -> f64 {
    let pair = &candidate.pair;
    let was_silent = matches!(pair.reason, PairReason::Missed | PairReason::SilenceConfirmed);
    let p_show = pair.probabilities.p_show;
    (if was_silent { 1.0 - p_show } else { p_show }).clamp(f64::MIN_POSITIVE, 1.0)
}
