//! The reconciler of rollouts: begins what is pending, judges each block when it is complete, and acts.
//!
//! Blocks are judged one at a time and in order, each on tallies that are frozen with the judgement, so that the
//! verdict depends neither on when this ran nor on outcomes that came later. Every step is a compare-and-set on the
//! model's revision and on the rollout's state and block, which makes two reconcilers harmless; the lease saves work.

use std::time::Duration;

use async_trait::async_trait;
use events::Timestamp;
use service::clock::real_now;
use service::lease::{LeaseError, LeaseHandle};
use service::reconciler::{Next, ReconcileError, Reconciler};

use crate::change::Change;
use crate::error::RegistryError;
use crate::evidence::{RolloutEvidence, Verdict, evaluate};
use crate::policy::Promotion;
use crate::registry::{By, Registry, take_step, trial_of};
use crate::rollout::{Rollout, RolloutState, RolloutStep};
use crate::store;

/// How the audit log calls the reconciler.
pub const ACTOR: &str = "reconciler";

/// Reason of a rollout that had not begun when its turn's deadline passed.
pub const LATE: &str = "deadline";

/// Reason of a rollout whose candidate had shown nobody a suggestion when its turn's deadline passed.
pub const SERVED_NOBODY: &str = "deadline_served_nobody";

/// Begins, judges and ends rollouts. Drive it under the lease [`RolloutReconciler::LEASE`].
#[derive(Debug, Clone)]
pub struct RolloutReconciler {
    registry: Registry,
    lease: Option<LeaseHandle>,
}

#[async_trait]
impl Reconciler for RolloutReconciler {
    fn name(&self) -> &'static str {
        "rollouts"
    }

    async fn activate(&self) -> Result<Next, ReconcileError> {
        self.reconcile().await.map_err(Into::into)
    }
}

/// Why an activation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutReconcileError {
    /// An operation failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Another process leads now.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

impl From<sqlx::Error> for RolloutReconcileError {
    fn from(error: sqlx::Error) -> Self {
        Self::Registry(error.into())
    }
}

impl RolloutReconciler {
    /// The lease of its leader.
    pub const LEASE: &'static str = "rollouts";

    /// A reconciler; with a lease, every transaction of it is fenced.
    #[must_use]
    pub fn new(registry: Registry, lease: Option<LeaseHandle>) -> Self {
        Self { registry, lease }
    }

    /// Does all that is due now. A rollout that fails keeps no other one waiting; the first error is returned last.
    ///
    /// # Errors
    /// The database failed, or the lease was lost.
    pub async fn reconcile(&self) -> Result<Next, RolloutReconcileError> {
        let active = store::active_rollouts(&mut *self.registry.pool().acquire().await?).await?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("flywheel_registry_rollouts_active").set(active.len() as f64);
        let mut first_error = None;
        for rollout in active {
            match self.advance(rollout).await {
                // Somebody else took a step: the next activation sees it.
                Ok(()) | Err(RolloutReconcileError::Registry(RegistryError::Contended)) => {}
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(Next::Period), Err)
    }

    /// Takes every step that is due; each is a transaction of its own, done again where it meets another one.
    async fn advance(&self, mut rollout: Rollout) -> Result<(), RolloutReconcileError> {
        if rollout.state == RolloutState::Pending {
            rollout = migrations::retried(|| self.begin(rollout.clone())).await?;
        }
        if rollout.state == RolloutState::Canary && self.served_nobody_in_time(&rollout).await? {
            rollout = migrations::retried(|| self.end_unserved(rollout.clone())).await?;
        }
        while rollout.state.is_serving() {
            let now = self.registry.now();
            if rollout.complete_blocks_at(now) <= rollout.blocks_complete {
                break;
            }
            rollout = migrations::retried(|| self.judge_next_block(rollout.clone(), now)).await?;
        }
        Ok(())
    }

    async fn change(&self, rollout: &Rollout) -> Result<(Change, Rollout), RolloutReconcileError> {
        let now = self.registry.now();
        let mut change = Change::begin(self.registry.pool(), &rollout.tenant, &rollout.model, now).await?;
        if let Some(lease) = &self.lease {
            match lease.fence() {
                Some(fence) => fence.check(change.connection()).await?,
                None => return Err(RegistryError::Contended.into()),
            }
        }
        let found = store::rollout(change.connection(), rollout.rollout_id).await?;
        // What this was going to act on is no longer so.
        if found.state != rollout.state || found.blocks_complete != rollout.blocks_complete {
            return Err(RegistryError::Contended.into());
        }
        Ok((change, found))
    }

    /// Verifies artifact, data set and evaluation once more, and lets the candidate serve; one that does not hold ends
    /// the rollout, and so does one whose turn is over: the deadline of its training run binds until it has served.
    async fn begin(&self, rollout: Rollout) -> Result<Rollout, RolloutReconcileError> {
        let verified = self.registry.verify_version(&rollout.tenant, &rollout.model, rollout.candidate).await;
        let (step, reason) = match verified {
            Ok(()) => (RolloutStep::Begin, "verified"),
            Err(error) if error.is_corrupt() => {
                tracing::error!(rollout = %rollout.rollout_id, %error, "a rollout ends before it began");
                (RolloutStep::Abort, error.code())
            }
            Err(error) => return Err(error.into()),
        };
        let (mut change, mut found) = self.change(&rollout).await?;
        let deadline = store::deadline_of_turn(change.connection(), &found).await?;
        // Real time, as the training run's.
        let (step, reason) = match deadline {
            Some(deadline) if step == RolloutStep::Begin && real_now() >= deadline => {
                tracing::warn!(rollout = %found.rollout_id, candidate = %found.candidate, "a rollout began too late");
                (RolloutStep::Abort, LATE)
            }
            _ => (step, reason),
        };
        found.reason = reason.to_owned();
        let begun = take_step(change, found, step, By::Reconciler, None).await?;
        self.registry.stepped();
        Ok(begun)
    }

    /// Whether the turn's deadline passed and the candidate has shown nobody a suggestion; once it has, the deadline
    /// binds no more. Closed opportunities tell it, so the answer is no until one that was shown at the last moment
    /// must have closed and settled. One that was shown later and has closed by then counts as well: its time is the
    /// platform's, which can not be compared with the deadline's.
    async fn served_nobody_in_time(&self, rollout: &Rollout) -> Result<bool, RolloutReconcileError> {
        let mut connection = self.registry.pool().acquire().await?;
        let deadline = store::deadline_of_turn(&mut connection, rollout).await?;
        let (Some(deadline), Some(started_at)) = (deadline, rollout.started_at) else { return Ok(false) };
        let known_after = Duration::from_secs(rollout.policy.known_after_seconds().unsigned_abs());
        // The deadline is of real time; opportunities close by the platform's, which need not have moved.
        let is_known = real_now() >= deadline + known_after && self.registry.now() >= started_at + known_after;
        Ok(is_known && !store::candidate_was_served(&mut connection, rollout).await?)
    }

    async fn end_unserved(&self, rollout: Rollout) -> Result<Rollout, RolloutReconcileError> {
        let (change, mut found) = self.change(&rollout).await?;
        tracing::warn!(rollout = %found.rollout_id, candidate = %found.candidate, "a candidate served nobody in time");
        found.reason = SERVED_NOBODY.to_owned();
        let ended = take_step(change, found, RolloutStep::Abort, By::Reconciler, None).await?;
        self.registry.stepped();
        Ok(ended)
    }

    async fn judge_next_block(&self, rollout: Rollout, now: Timestamp) -> Result<Rollout, RolloutReconcileError> {
        let (mut change, mut found) = self.change(&rollout).await?;
        let block = found.blocks_complete;
        store::freeze_block(change.connection(), &found, block, now).await?;
        let tallies = store::frozen_tallies(change.connection(), found.rollout_id).await?;
        let evidence = evaluate(&trial_of(&found, block + 1, now), &found.policy, &tallies);
        report(&found, &evidence);
        let Some(step) = step_for(&found, &evidence) else {
            found.blocks_complete = block + 1;
            found.reason.clone_from(&evidence.reason);
            let text = serde_json::to_string(&evidence).map_err(|_| RegistryError::Unreadable { what: "evidence" })?;
            if !store::update_rollout(change.connection(), &found, found.state, block, Some(&text)).await? {
                return Err(RegistryError::Contended.into());
            }
            change.commit_evidence().await?;
            return Ok(found);
        };
        found.reason.clone_from(&evidence.reason);
        let stepped = take_step(change, found, step, By::Reconciler, Some(&evidence)).await?;
        tracing::info!(
            rollout = %stepped.rollout_id, model = %stepped.model, candidate = %stepped.candidate,
            state = %stepped.state, reason = %stepped.reason, blocks = stepped.blocks_complete, "a rollout moved on"
        );
        self.registry.stepped();
        Ok(stepped)
    }
}

/// What the evidence asks for from where the rollout stands; none: go on.
fn step_for(rollout: &Rollout, evidence: &RolloutEvidence) -> Option<RolloutStep> {
    if rollout.policy.observe_only {
        return None;
    }
    match (rollout.state, evidence.verdict) {
        (_, Verdict::Rollback) => Some(RolloutStep::RollBack),
        // Evidence of no harm was there already; only a person or harm ends the wait.
        (RolloutState::AwaitingApproval, _) | (_, Verdict::Continue) => None,
        (_, Verdict::Promote) => Some(match rollout.policy.promotion {
            Promotion::Automatic => RolloutStep::Promote,
            Promotion::Approval => RolloutStep::RequestApproval,
        }),
        (_, Verdict::Hold) => Some(RolloutStep::Hold),
    }
}

fn report(rollout: &Rollout, evidence: &RolloutEvidence) {
    let labels = |test: &'static str| {
        [("tenant", rollout.tenant.to_string()), ("model", rollout.model.to_string()), ("test", test.to_owned())]
    };
    for (test, process) in [
        ("no_harm", &evidence.no_harm),
        ("harm", &evidence.harm),
        ("shown_rate", &evidence.guardrails.shown_rate_evidence),
        ("utility_lower", &evidence.guardrails.utility_lower_evidence),
    ] {
        metrics::gauge!("flywheel_registry_rollout_e_value", &labels(test)).set(process.e_value);
    }
    metrics::counter!("flywheel_registry_blocks_judged_total", "verdict" => evidence.verdict.as_str()).increment(1);
}
