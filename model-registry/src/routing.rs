//! Who is served which version. Pure, and the same code in the registry, in serving and in tests.
//!
//! All draws are hashes, so that every serving process gives a person the same arm without asking anybody:
//!
//! * hold-back: `hash(tenant, model name, reference, person) < holdback_share`. No rollout is in the hash, so a person
//!   stays held back over all rollouts until the reference is pinned anew; a larger share keeps all who were in a
//!   smaller one.
//! * arm: `hash(rollout, block, person)`, fixed within a block and redrawn for the next. Arms that stay would repeat
//!   the same persons' effects in every block.
//!
//! Shares are shares of all persons: canary 40% and hold-back 20% leave 40% to the current version.
//!
//! A version is served inside its audience only. A request that the candidate may not answer is in no rollout at all,
//! in neither arm, so that both arms of a rollout see the same kind of requests.

use std::collections::BTreeMap;

use events::{Arm, Audience, ModelName, ModelVersion, PersonPseudonym, RolloutId, Sha256Digest, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// A version as far as routing needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedVersion {
    /// Its number.
    pub version: ModelVersion,
    /// Digest of its artifact's manifest, verified when it is loaded.
    pub artifact_digest: Sha256Digest,
    /// Who may be served; none: everybody.
    pub audience: Option<Audience>,
}

impl ServedVersion {
    /// Whether this version may answer a request of `audience` (none: a repository without a rule).
    #[must_use]
    pub fn admits(&self, audience: Option<&Audience>) -> bool {
        match &self.audience {
            None => true,
            Some(own) => audience == Some(own),
        }
    }
}

/// The part of a running rollout that decides about requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActiveRollout {
    /// Its id; the arms hang on it.
    pub rollout_id: RolloutId,
    /// The version on trial.
    pub candidate: ServedVersion,
    /// Share of all persons that the candidate serves in a block.
    pub canary_share: f64,
    /// Start of block 0.
    pub started_at: Timestamp,
    /// Length of a block in seconds.
    pub block_seconds: i64,
}

impl ActiveRollout {
    /// The block that `now` lies in: `floor((now - started_at) / block_seconds)`, and 0 for a clock that is behind.
    #[must_use]
    pub fn block_at(&self, now: Timestamp) -> i64 {
        let micros = now.as_micros().saturating_sub(self.started_at.as_micros());
        micros.div_euclid(self.block_seconds.max(1).saturating_mul(1_000_000)).max(0)
    }
}

/// Everything that serving needs to choose a version of one model. It survives on serving's disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoutingTable {
    /// Owner.
    pub tenant: TenantId,
    /// The model.
    pub model: ModelName,
    /// Grows with every change; of two tables the one with the larger revision is newer.
    pub revision: i64,
    /// The promoted version.
    pub current: ServedVersion,
    /// The pinned version that the hold-back keeps using.
    pub reference: Option<ServedVersion>,
    /// Share of all persons held back.
    pub holdback_share: f64,
    /// The newest promoted version of each audience, newest promotion first.
    pub promoted: Vec<ServedVersion>,
    /// The rollout that runs, if one does.
    pub rollout: Option<ActiveRollout>,
}

impl RoutingTable {
    /// Every version that this table can choose, once each: what serving keeps loaded.
    #[must_use]
    pub fn versions(&self) -> Vec<&ServedVersion> {
        let all = std::iter::once(&self.current)
            .chain(self.reference.as_ref())
            .chain(self.rollout.as_ref().map(|rollout| &rollout.candidate))
            .chain(&self.promoted);
        all.map(|served| (served.version, served)).collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// The version for `audience` outside of every rollout: current if it may answer, else the newest promoted version
    /// that may.
    #[must_use]
    pub fn promoted_for(&self, audience: Option<&Audience>) -> Option<&ServedVersion> {
        std::iter::once(&self.current).chain(&self.promoted).find(|served| served.admits(audience))
    }

    /// Whether `person` belongs to the hold-back.
    #[must_use]
    pub fn is_held_back(&self, person: &PersonPseudonym) -> bool {
        self.reference.as_ref().is_some_and(|reference| {
            let draw = uniform(
                "flywheel holdback",
                &[
                    self.tenant.as_str().as_bytes(),
                    self.model.as_str().as_bytes(),
                    &reference.version.0.to_be_bytes(),
                    person.as_str().as_bytes(),
                ],
            );
            draw < self.holdback_share
        })
    }
}

/// What a request gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The version that answers.
    pub version: ModelVersion,
    /// Digest of its artifact.
    pub artifact_digest: Sha256Digest,
    /// The side of the rollout; outside of one, `holdback` or `current`.
    pub arm: Arm,
    /// The block within which the arm is fixed; none without a rollout.
    pub block: Option<i64>,
    /// The rollout that this request counts for.
    pub rollout_id: Option<RolloutId>,
    /// How probable this arm was for a person about whom nothing is known.
    pub arm_probability: f64,
}

/// Chooses the version for a request of `person` in a repository of `audience`. None when no version may answer it.
#[must_use]
pub fn assign(
    table: &RoutingTable,
    person: &PersonPseudonym,
    audience: Option<&Audience>,
    now: Timestamp,
) -> Option<Assignment> {
    let rollout = table.rollout.as_ref().filter(|rollout| rollout.candidate.admits(audience));
    let block = rollout.map(|rollout| rollout.block_at(now));
    let rollout_id = rollout.map(|rollout| rollout.rollout_id);
    let fallback = table.promoted_for(audience);
    let served = |served: &ServedVersion, arm, arm_probability| Assignment {
        version: served.version,
        artifact_digest: served.artifact_digest,
        arm,
        block,
        rollout_id,
        arm_probability,
    };

    let holdback_share = if table.reference.is_some() { table.holdback_share.clamp(0.0, 1.0) } else { 0.0 };
    if table.is_held_back(person) {
        let reference = table.reference.as_ref().filter(|reference| reference.admits(audience)).or(fallback)?;
        return Some(served(reference, Arm::Holdback, holdback_share));
    }
    let remaining = 1.0 - holdback_share;
    if let (Some(rollout), Some(block)) = (rollout, block) {
        let canary_share = rollout.canary_share.clamp(0.0, remaining);
        let draw =
            uniform("flywheel arm", &[rollout.rollout_id.as_bytes(), &block.to_be_bytes(), person.as_str().as_bytes()]);
        // `draw < share / remaining`, without a division by zero.
        if draw * remaining < canary_share {
            return Some(served(&rollout.candidate, Arm::Canary, canary_share));
        }
        return Some(served(fallback?, Arm::Current, remaining - canary_share));
    }
    Some(served(fallback?, Arm::Current, remaining))
}

/// A number in [0, 1) from a SHA-256: its first 53 bits, which an f64 holds exactly.
fn uniform(domain: &str, parts: &[&[u8]]) -> f64 {
    let digest = Sha256Digest::of_parts(domain, parts);
    let mut leading = [0_u8; 8];
    leading.copy_from_slice(&digest.as_bytes()[..8]);
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let numerator = (u64::from_be_bytes(leading) >> 11) as f64;
    numerator / 9_007_199_254_740_992.0
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;
