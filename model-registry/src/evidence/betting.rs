//! The e-process: betting on paired differences of bounded values, with persons as units.
//!
//! # What is bet on
//!
//! In block b every person who is not held back is in the canary or in the current arm, by an independent draw that is
//! redrawn for each block, and has one value in [0, 1]. A *pairing* matches every person of the smaller arm with
//! another person of the larger one, at random (by hash, blind to outcomes). A pair gives a payoff g, for example
//! g = (x - y) + margin for a canary value x and a current value y, with g >= -L and a mean of at most 0 under the null
//! hypothesis.
//!
//! For one pairing and one bet lambda in (0, 1/L) the block's factor is `prod (1 + lambda g)`. It is at least 0, and
//! its expectation, given all earlier blocks, is at most 1 under the null hypothesis: drawing arms and then a random
//! pairing is the same as drawing unordered pairs first and then, for each pair alone, by a fair coin which of the two
//! is in the canary. Given the unordered pairs the factors are independent, and the mean of x - y over the coin is the
//! mean of both persons' own effects of the candidate: whatever persons are like, and however often the same ones
//! return, their own levels cancel. (Effects that differ between persons: pairs are drawn without replacement, and by
//! Hoeffding 1963, theorem 4, the expectation of the product is at most the one with replacement,
//! `(1 + lambda mean)^n`.)
//!
//! # How it is put together
//!
//! Means of e-values are e-values, and products over blocks of conditional e-values are test martingales, so
//!
//! ```text
//! E_b(lambda) = mean over pairings of  prod over pairs of (1 + lambda g)
//! E           = sum over bets of weight(lambda) * prod over blocks of E_b(lambda)
//! ```
//!
//! is an e-process: by Ville's inequality it ever reaches 1/alpha with probability at most alpha under the null
//! hypothesis, however often it is looked at. It is the betting construction of Waudby-Smith and Ramdas ("Estimating
//! means of bounded random variables by betting", 2023) with a mixture over fixed bets instead of one predictable
//! plug-in bet: with a handful of blocks there is little past to predict from, and the mixture loses at most the
//! logarithm of a weight against the best bet of the grid, whatever the variance turns out to be.

use events::{PersonPseudonym, RolloutId, Sha256Digest};
use serde::{Deserialize, Serialize};

/// The bets as shares of the largest possible one, with their weights. Large bets win fast when persons are alike and
/// the effect is large, small ones when many noisy persons show a small one.
const BETS: [(f64, f64); 6] = [(0.96, 0.35), (0.6, 0.25), (0.3, 0.15), (0.15, 0.1), (0.07, 0.075), (0.03, 0.075)];
/// Pairings that are averaged in a block of few pairs, and at least in one of many.
const MOST_PAIRINGS: usize = 64;
const FEWEST_PAIRINGS: usize = 4;
/// Pairs times pairings beyond which fewer pairings are drawn; more of them change nothing with many pairs.
const PAIR_BUDGET: usize = 1 << 16;

/// One e-process so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EProcess {
    /// Its value after the last complete block, at most 1e300.
    pub e_value: f64,
    /// Its largest value after any block; the verdict may use it at any time.
    pub largest_e_value: f64,
    /// The value that decides.
    pub threshold: f64,
    /// Whether it was ever reached.
    pub reached: bool,
    /// Values after each block.
    pub by_block: Vec<f64>,
}

/// A matching of the persons of a block, several times over.
#[derive(Debug, Clone)]
pub(super) struct BlockPairings {
    /// Indices into the canary's and the current arm's values.
    pairings: Vec<Vec<(usize, usize)>>,
}

impl BlockPairings {
    /// Draws pairings from persons alone. `canary` and `current` must be sorted by person.
    pub(super) fn draw(
        rollout: RolloutId,
        block: i64,
        canary: &[&PersonPseudonym],
        current: &[&PersonPseudonym],
    ) -> Self {
        let pairs = canary.len().min(current.len());
        if pairs == 0 {
            return Self { pairings: Vec::new() };
        }
        let mut parts: Vec<&[u8]> = vec![rollout.as_bytes()];
        let block = block.to_be_bytes();
        parts.push(&block);
        parts.extend(canary.iter().chain(current).map(|person| person.as_str().as_bytes()));
        let mut random = Random::new(Sha256Digest::of_parts("flywheel evidence pairing", &parts));
        let mut longer: Vec<usize> = (0..canary.len().max(current.len())).collect();
        let count = (PAIR_BUDGET / pairs).clamp(FEWEST_PAIRINGS, MOST_PAIRINGS);
        let pairings = (0..count)
            .map(|_| {
                random.shuffle(&mut longer);
                let of_longer = longer.iter().copied().take(pairs).enumerate();
                if canary.len() <= current.len() {
                    of_longer.collect()
                } else {
                    of_longer.map(|(current, canary)| (canary, current)).collect()
                }
            })
            .collect();
        Self { pairings }
    }

    /// `ln E_b(lambda)`.
    fn ln_factor(&self, lambda: f64, payoff: &dyn Fn(usize, usize) -> f64) -> f64 {
        if self.pairings.is_empty() {
            return 0.0;
        }
        let logarithms: Vec<f64> = self
            .pairings
            .iter()
            .map(|pairing| {
                pairing.iter().map(|(canary, current)| (lambda * payoff(*canary, *current)).ln_1p()).sum::<f64>()
            })
            .collect();
        ln_weighted_mean(logarithms.iter().map(|logarithm| (1.0, *logarithm)))
    }
}

/// Runs the e-process of one hypothesis. `payoff(block, canary, current)` is at least `-largest_loss` and has a mean of
/// at most 0 under the null hypothesis.
pub(super) fn run(
    blocks: &[BlockPairings],
    largest_loss: f64,
    threshold: f64,
    payoff: &dyn Fn(usize, usize, usize) -> f64,
) -> EProcess {
    let mut wealth = [0.0_f64; BETS.len()];
    let mut by_block = Vec::with_capacity(blocks.len());
    for (index, block) in blocks.iter().enumerate() {
        for (logarithm, (bet, _)) in wealth.iter_mut().zip(BETS) {
            *logarithm += block.ln_factor(bet / largest_loss, &|canary, current| payoff(index, canary, current));
        }
        let ln_mixture = ln_weighted_mean(BETS.iter().zip(wealth).map(|((_, weight), logarithm)| (*weight, logarithm)));
        // JSON knows no infinity.
        by_block.push(ln_mixture.exp().min(1e300));
    }
    let largest = by_block.iter().copied().fold(1.0, f64::max);
    EProcess {
        e_value: by_block.last().copied().unwrap_or(1.0),
        largest_e_value: largest,
        threshold,
        reached: largest >= threshold,
        by_block,
    }
}

/// Pairs after which the wealth is expected to reach `threshold` when a pair's payoff is `margin` plus a difference of
/// mean 0 and this standard deviation (two-point); none when no bet of the grid grows.
pub(super) fn expected_pairs(margin: f64, deviation: f64, threshold: f64) -> Option<f64> {
    let pairs = |(bet, weight): &(f64, f64)| {
        let lambda = bet / (1.0 - margin);
        let growth = 0.5 * ((lambda * (margin + deviation)).ln_1p() + (lambda * (margin - deviation)).ln_1p());
        (growth > 0.0).then(|| (threshold / weight).ln() / growth)
    };
    BETS.iter().filter_map(pairs).min_by(f64::total_cmp)
}

/// `ln (sum of weight * exp(logarithm) / sum of weight)` without overflow.
fn ln_weighted_mean(terms: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let largest = terms.clone().map(|(_, logarithm)| logarithm).fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return largest;
    }
    let (sum, weights) = terms.fold((0.0, 0.0), |(sum, weights), (weight, logarithm)| {
        (sum + weight * (logarithm - largest).exp(), weights + weight)
    });
    largest + (sum / weights).ln()
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same pairings on every machine and in every release.
struct Random(u64);

impl Random {
    fn new(seed: Sha256Digest) -> Self {
        let mut leading = [0_u8; 8];
        leading.copy_from_slice(&seed.as_bytes()[..8]);
        Self(u64::from_be_bytes(leading))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound` by multiplication; the bias of 2^-64 * bound is of no account here.
    fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next()) * u128::try_from(bound).unwrap_or(1);
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// Fisher-Yates.
    fn shuffle(&mut self, items: &mut [usize]) {
        for last in (1..items.len()).rev() {
            let chosen = self.below(last + 1);
            items.swap(last, chosen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn person(number: usize) -> PersonPseudonym {
        format!("{number:032x}").parse().unwrap()
    }

    #[test]
    fn weights_sum_to_one_and_no_bet_can_lose_everything() {
        assert!((BETS.iter().map(|(_, weight)| weight).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(BETS.iter().all(|(bet, _)| *bet > 0.0 && *bet < 1.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_pairing_uses_everybody_of_the_smaller_arm_once(canary in 0_usize..40, current in 0_usize..40) {
            let people: Vec<PersonPseudonym> = (0..80).map(person).collect();
            let side = |range: std::ops::Range<usize>| people[range].iter().collect::<Vec<_>>();
            let (left, right) = (side(0..canary), side(40..40 + current));
            let drawn = BlockPairings::draw("0".repeat(32).parse().unwrap(), 3, &left, &right);
            for pairing in &drawn.pairings {
                prop_assert_eq!(pairing.len(), canary.min(current));
                let mut left: Vec<usize> = pairing.iter().map(|pair| pair.0).collect();
                let mut right: Vec<usize> = pairing.iter().map(|pair| pair.1).collect();
                left.sort_unstable();
                right.sort_unstable();
                left.dedup();
                right.dedup();
                prop_assert_eq!((left.len(), right.len()), (pairing.len(), pairing.len()));
                prop_assert!(left.iter().all(|index| *index < canary) && right.iter().all(|index| *index < current));
            }
            prop_assert_eq!(drawn.pairings.is_empty(), canary.min(current) == 0);
        }

        #[test]
        fn wealth_stays_finite_and_positive(losses in prop::collection::vec(-1.0..=1.0_f64, 1..200)) {
            let people: Vec<PersonPseudonym> = (0..losses.len() * 2).map(person).collect();
            let side = |range: std::ops::Range<usize>| people[range].iter().collect::<Vec<_>>();
            let (left, right) = (side(0..losses.len()), side(losses.len()..people.len()));
            let drawn = BlockPairings::draw("1".repeat(32).parse().unwrap(), 0, &left, &right);
            let process = run(&[drawn.clone(), drawn], 1.0, 20.0, &|_, canary, _| losses[canary]);
            prop_assert!(process.e_value.is_finite() && process.e_value >= 0.0);
            prop_assert!(process.largest_e_value >= process.e_value);
            prop_assert_eq!(process.by_block.len(), 2);
        }
    }
}
