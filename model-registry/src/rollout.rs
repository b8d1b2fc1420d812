//! A rollout and its state machine. Which step is taken is decided by evidence (the reconciler) or by a named person;
//! which steps exist is decided here.
//!
//! ```text
//! pending -> canary (block 0, 1, ...) -> promoted | rolled_back | held | aborted
//!                     \-> awaiting_approval -> promoted | rolled_back | aborted
//! promoted -> rolled_back, while the candidate is still current
//! ```

use std::fmt;
use std::str::FromStr;

use events::{ModelName, ModelVersion, RolloutId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::policy::RolloutPolicy;

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Asked for; the artifact is verified once more before anybody is served by it.
    Pending,
    /// The candidate serves its share.
    Canary,
    /// There is evidence of no harm; a named person has the word. The candidate goes on serving its share.
    AwaitingApproval,
    /// The candidate became current.
    Promoted,
    /// The candidate did harm, by evidence or by a person's word.
    RolledBack,
    /// No verdict within the blocks allowed.
    Held,
    /// Ended without a verdict.
    Aborted,
}

impl RolloutState {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Canary,
        Self::AwaitingApproval,
        Self::Promoted,
        Self::RolledBack,
        Self::Held,
        Self::Aborted,
    ];

    /// As SQL, proto and metrics write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Canary => "canary",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Held => "held",
            Self::Aborted => "aborted",
        }
    }

    /// Whether the rollout is still running; a model has at most one such.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Pending | Self::Canary | Self::AwaitingApproval)
    }

    /// Whether the candidate serves its share.
    #[must_use]
    pub const fn is_serving(self) -> bool {
        matches!(self, Self::Canary | Self::AwaitingApproval)
    }

    /// The state after `step`.
    ///
    /// # Errors
    /// There is no such step from here.
    pub const fn after(self, step: RolloutStep) -> Result<Self, IllegalTransition> {
        match (self, step) {
            (Self::Pending, RolloutStep::Begin) => Ok(Self::Canary),
            (Self::Canary, RolloutStep::RequestApproval) => Ok(Self::AwaitingApproval),
            (Self::Canary, RolloutStep::Promote) | (Self::AwaitingApproval, RolloutStep::Approve) => Ok(Self::Promoted),
            (Self::Canary | Self::AwaitingApproval | Self::Promoted, RolloutStep::RollBack) => Ok(Self::RolledBack),
            (Self::Canary, RolloutStep::Hold) => Ok(Self::Held),
            (Self::Pending | Self::Canary | Self::AwaitingApproval, RolloutStep::Abort) => Ok(Self::Aborted),
            (state, step) => Err(IllegalTransition { state, step }),
        }
    }
}

impl fmt::Display for RolloutState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A text that names no state; a newer release wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown rollout state")]
pub struct UnknownState;

impl FromStr for RolloutState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(UnknownState)
    }
}

/// What moves a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStep {
    /// The artifact holds: the candidate begins to serve.
    Begin,
    /// Evidence of no harm, and a person has the word.
    RequestApproval,
    /// Evidence of no harm, and promotion is automatic.
    Promote,
    /// A named person approves.
    Approve,
    /// Evidence of harm, or a named person's word.
    RollBack,
    /// Out of blocks.
    Hold,
    /// A named person ends it, or what it would serve does not hold, or the deadline of its turn passed.
    Abort,
}

impl RolloutStep {
    /// All steps.
    pub const ALL: [Self; 7] =
        [Self::Begin, Self::RequestApproval, Self::Promote, Self::Approve, Self::RollBack, Self::Hold, Self::Abort];

    /// As errors and the audit write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::RequestApproval => "request_approval",
            Self::Promote => "promote",
            Self::Approve => "approve",
            Self::RollBack => "roll_back",
            Self::Hold => "hold",
            Self::Abort => "abort",
        }
    }

    /// The stable code under which the audit log and `flywheel.events.v1` tell of it.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::Begin => "rollout_began",
            Self::RequestApproval => "rollout_awaits_approval",
            Self::Promote => "rollout_promoted",
            Self::Approve => "rollout_approved",
            Self::RollBack => "rollout_rolled_back",
            Self::Hold => "rollout_held",
            Self::Abort => "rollout_aborted",
        }
    }
}

impl fmt::Display for RolloutStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A step that a rollout in this state cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rollout that is {state} cannot {step}")]
pub struct IllegalTransition {
    /// Where it stands.
    pub state: RolloutState,
    /// What was asked for.
    pub step: RolloutStep,
}

/// A rollout as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its id; arms hang on it.
    pub rollout_id: RolloutId,
    /// Owner.
    pub tenant: TenantId,
    /// The model.
    pub model: ModelName,
    /// The version on trial.
    pub candidate: ModelVersion,
    /// The version that was current when it began.
    pub baseline: ModelVersion,
    /// The pinned reference.
    pub reference: Option<ModelVersion>,
    /// How it is run and judged.
    pub policy: RolloutPolicy,
    /// Where it stands.
    pub state: RolloutState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Start of block 0.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Blocks whose evidence is complete.
    pub blocks_complete: i64,
    /// Blocks that promotion of a candidate as good as the current version is expected to take, from the number of
    /// persons seen lately; none when nobody was.
    pub projected_blocks: Option<i64>,
    /// Why it stands where it does: a stable code, or the words of the person who decided.
    pub reason: String,
    /// The person who decided, if one did.
    pub decided_by: Option<String>,
}

impl Rollout {
    /// How many blocks are complete at `now`: ended, their last exposure closed, and settled.
    #[must_use]
    pub fn complete_blocks_at(&self, now: Timestamp) -> i64 {
        let Some(started_at) = self.started_at else { return 0 };
        let wait = self.policy.known_after_seconds().saturating_mul(1_000_000);
        let seen = now.as_micros().saturating_sub(started_at.as_micros()).saturating_sub(wait);
        seen.div_euclid(self.policy.block_seconds.max(1).saturating_mul(1_000_000)).max(0)
    }

    /// When the next block will be complete, if the rollout is running.
    #[must_use]
    pub fn next_completion(&self) -> Option<Timestamp> {
        let started_at = self.started_at.filter(|_| self.state.is_serving())?;
        let seconds = (self.blocks_complete + 1)
            .saturating_mul(self.policy.block_seconds)
            .saturating_add(self.policy.known_after_seconds());
        Some(Timestamp::from_micros(started_at.as_micros().saturating_add(seconds.saturating_mul(1_000_000))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [RolloutStep; 7] = [
        RolloutStep::Begin,
        RolloutStep::RequestApproval,
        RolloutStep::Promote,
        RolloutStep::Approve,
        RolloutStep::RollBack,
        RolloutStep::Hold,
        RolloutStep::Abort,
    ];

    #[test]
    fn the_whole_table_of_transitions() {
        let mut table = String::new();
        for state in RolloutState::ALL {
            for step in STEPS {
                if let Ok(next) = state.after(step) {
                    table.push_str(&format!("{state} --{step}--> {next}\n"));
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn states_that_ended_stay_ended() {
        for state in RolloutState::ALL.into_iter().filter(|state| !state.is_active()) {
            for step in STEPS {
                let allowed = state == RolloutState::Promoted && step == RolloutStep::RollBack;
                assert_eq!(state.after(step).is_ok(), allowed, "{state} {step}");
            }
        }
        assert!("newer".parse::<RolloutState>().is_err());
    }
}
