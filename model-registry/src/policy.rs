//! How a rollout is run and judged.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The time from an exposure to its close; only exposures older than this count.
pub const CLOSE_SECONDS: i64 = 300;
/// The reference is compared at most this many times, each at alpha divided by this.
pub const REFERENCE_LOOKS: i64 = 4;

/// Who turns evidence of no harm into a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promotion {
    /// The reconciler itself.
    Automatic,
    /// A named person.
    Approval,
}

impl Promotion {
    /// As the proto writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Approval => "approval",
        }
    }
}

impl fmt::Display for Promotion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Promotion {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        match text {
            "automatic" => Ok(Self::Automatic),
            "approval" => Ok(Self::Approval),
            _ => Err(InvalidPolicy { field: "promotion", expected: "\"automatic\" or \"approval\"" }),
        }
    }
}

/// A policy that makes no rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("policy.{field}: expected {expected}")]
pub struct InvalidPolicy {
    /// The field.
    pub field: &'static str,
    /// What would be valid.
    pub expected: &'static str,
}

/// How a rollout is run and judged. Kept with the rollout, so that a later change of defaults changes no verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutPolicy {
    /// Share of all persons that the candidate serves in a block.
    pub canary_share: f64,
    /// Share of all persons that keep the reference, over all rollouts.
    pub holdback_share: f64,
    /// Largest loss of utility per opportunity that still counts as no harm.
    pub margin: f64,
    /// Probability of a wrong verdict of each kind.
    pub alpha: f64,
    /// Distinct persons that each arm needs before any verdict.
    pub minimum_persons: i64,
    /// Length of a block, within which a person's arm is fixed.
    pub block_seconds: i64,
    /// Blocks after which a rollout without verdict is held.
    pub max_blocks: i64,
    /// How long after the close of a block's last exposure its outcomes are awaited: lateness and the pipeline's delay.
    /// Under a simulated clock: advance beyond end and close, let everything drain, and only then advance by this.
    pub settle_seconds: i64,
    /// Who promotes.
    pub promotion: Promotion,
    /// Report the evidence, never act on it: the candidate stays at its share until a person ends the rollout.
    pub observe_only: bool,
}

impl Default for RolloutPolicy {
    fn default() -> Self {
        Self {
            canary_share: 0.25,
            holdback_share: 0.05,
            margin: 0.02,
            alpha: 0.05,
            minimum_persons: 10,
            block_seconds: 86_400,
            max_blocks: 28,
            // The lateness of 15 minutes that a gap in a session may take, and 5 for the steps after it.
            settle_seconds: 1_200,
            promotion: Promotion::Approval,
            observe_only: false,
        }
    }
}

impl RolloutPolicy {
    /// Refuses what no rollout can be judged by.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        let check = |holds: bool, field, expected| if holds { Ok(()) } else { Err(InvalidPolicy { field, expected }) };
        check(self.canary_share > 0.0 && self.canary_share <= 1.0, "canary_share", "above 0, at most 1")?;
        check((0.0..1.0).contains(&self.holdback_share), "holdback_share", "at least 0, below 1")?;
        check(
            self.canary_share + self.holdback_share < 1.0,
            "canary_share",
            "canary_share + holdback_share below 1: the current version must be compared at the same time",
        )?;
        check(self.margin > 0.0 && self.margin <= 0.5, "margin", "above 0, at most 0.5")?;
        check(self.alpha > 0.0 && self.alpha <= 0.2, "alpha", "above 0, at most 0.2")?;
        check((2..=1_000_000).contains(&self.minimum_persons), "minimum_persons", "2 to 1000000")?;
        check((1..=31_536_000).contains(&self.block_seconds), "block_seconds", "1 to 31536000")?;
        check((1..=1_000).contains(&self.max_blocks), "max_blocks", "1 to 1000")?;
        check((0..=604_800).contains(&self.settle_seconds), "settle_seconds", "0 to 604800")
    }

    /// Seconds from an exposure until what came of it is known: its close, and settling.
    pub(crate) fn known_after_seconds(&self) -> i64 {
        CLOSE_SECONDS.saturating_add(self.settle_seconds)
    }

    /// Whether the reference is looked at once `blocks` are complete. The looks are spread evenly up to the last block.
    #[must_use]
    pub fn is_reference_look(&self, blocks: i64) -> bool {
        (1..=REFERENCE_LOOKS).any(|look| (self.max_blocks * look + REFERENCE_LOOKS - 1) / REFERENCE_LOOKS == blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_at_most_four_looks_and_the_last_block_is_one() {
        for max_blocks in 1..=60 {
            let policy = RolloutPolicy { max_blocks, ..RolloutPolicy::default() };
            let looks: Vec<i64> = (1..=max_blocks).filter(|blocks| policy.is_reference_look(*blocks)).collect();
            assert!(looks.len() <= 4 && looks.last() == Some(&max_blocks), "{max_blocks}: {looks:?}");
        }
    }

    #[test]
    fn defaults_are_the_design_and_bad_shares_are_refused() {
        let policy = RolloutPolicy::default();
        policy.validate().unwrap();
        assert_eq!(
            (policy.alpha, policy.margin, policy.minimum_persons, policy.holdback_share),
            (0.05, 0.02, 10, 0.05)
        );
        assert!(RolloutPolicy { canary_share: 0.95, ..policy.clone() }.validate().is_err());
        assert!(RolloutPolicy { margin: f64::NAN, ..policy.clone() }.validate().is_err());
        assert!(RolloutPolicy { canary_share: f64::NAN, ..policy }.validate().is_err());
    }
}
