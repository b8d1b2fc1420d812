//! Which earlier version a candidate is judged beside, apart from its parent and from what it was trained from.

use std::collections::BTreeMap;

use events::ModelVersion;
use model_registry::{Rollout, RolloutState, Version};

/// The eligible version that stands highest, unless it is `parent` or `anchor`, which every candidate is judged beside. One
/// that did harm when it was rolled out is none, however it was judged before: what looked better in it was not.
///
/// Estimates of different data sets are no measure of two versions: each is a difference to a parent. Along a line of
/// parents they add up to a difference to where the line began, and that is how high a version stands. Of equals the
/// oldest.
pub(crate) fn best_earlier(
    versions: &[Version],
    rollouts: &[Rollout],
    parent: ModelVersion,
    anchor: ModelVersion,
) -> Option<ModelVersion> {
    let by_number: BTreeMap<i64, &Version> = versions.iter().map(|version| (version.version.0, version)).collect();
    let standing = |version: &Version| {
        let mut sum = 0.0;
        let mut next = Some(version);
        while let Some(version) = next {
            sum += estimate(version).unwrap_or(0.0);
            // A parent is older, so that a line ends.
            let older = version.parent.filter(|parent| parent.0 < version.version.0);
            next = older.and_then(|parent| by_number.get(&parent.0).copied());
        }
        sum
    };
    let did_harm = |version: &Version| {
        let of_it = |rollout: &&Rollout| rollout.candidate == version.version;
        rollouts.iter().filter(of_it).any(|rollout| rollout.state == RolloutState::RolledBack)
    };
    let stands = |version: &&Version| version.version == parent || (is_eligible(version) && !did_harm(version));
    let judged = by_number.values().copied().filter(stands);
    let best = judged
        .map(|version| (standing(version), version.version))
        .reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map(|(_, version)| version).filter(|version| *version != parent && *version != anchor)
}

fn is_eligible(version: &Version) -> bool {
    version.evaluation.pointer("/gate/verdict").and_then(serde_json::Value::as_str) == Some("eligible")
}

fn estimate(version: &Version) -> Option<f64> {
    version.evaluation.pointer("/gate/estimate").and_then(serde_json::Value::as_f64)
}

#[cfg(test)]
mod tests {
    use events::{Sha256Digest, TenantId, Timestamp};
    use model_registry::RolloutPolicy;
    use serde_json::json;

    use super::*;

    fn version(number: i64, parent: Option<i64>, verdict: &str, estimate: f64) -> Version {
        Version {
            tenant: TenantId::default(),
            model: "edit".parse().unwrap(),
            version: ModelVersion(number),
            artifact_digest: Sha256Digest::of(b""),
            manifest: serde_json::Value::Null,
            parent: parent.map(ModelVersion),
            anchor: None,
            snapshot_digest: None,
            run_id: None,
            code_version: String::new(),
            method: String::new(),
            audience: None,
            evaluation: json!({ "gate": { "verdict": verdict, "estimate": estimate } }),
            evaluation_digest: Sha256Digest::of(b""),
            registered_at: Timestamp::EPOCH,
            registered_by: String::new(),
            promoted_at: None,
        }
    }

    fn rollout(candidate: i64, state: RolloutState) -> Rollout {
        Rollout {
            rollout_id: "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d".parse().unwrap(),
            tenant: TenantId::default(),
            model: "edit".parse().unwrap(),
            candidate: ModelVersion(candidate),
            baseline: ModelVersion(1),
            reference: None,
            policy: RolloutPolicy::default(),
            state,
            created_at: Timestamp::EPOCH,
            started_at: None,
            finished_at: None,
            blocks_complete: 0,
            projected_blocks: None,
            reason: String::new(),
            decided_by: None,
        }
    }

    fn base() -> Version {
        Version { evaluation: serde_json::Value::Null, ..version(1, None, "", 0.0) }
    }

    fn best(versions: &[Version], rollouts: &[Rollout], parent: i64) -> Option<i64> {
        best_earlier(versions, rollouts, ModelVersion(parent), ModelVersion(1)).map(|version| version.0)
    }

    #[test]
    fn what_did_harm_is_no_rival() {
        let versions = [base(), version(2, Some(1), "eligible", 0.2), version(3, Some(1), "eligible", 0.5)];
        let ended = |state| [rollout(2, RolloutState::Promoted), rollout(3, state)];
        assert_eq!(best(&versions, &ended(RolloutState::Held), 1), Some(3));
        assert_eq!(best(&versions, &ended(RolloutState::RolledBack), 1), Some(2));
        // It serves again by a person's word: every candidate is judged beside it, and no other stands higher.
        assert_eq!(best(&versions, &ended(RolloutState::RolledBack), 3), None);
    }

    #[test]
    fn of_equals_the_oldest_is_the_rival() {
        let versions = [base(), version(2, Some(1), "eligible", 0.2), version(3, Some(1), "eligible", 0.2)];
        assert_eq!(best(&versions, &[], 1), Some(2));
    }

    #[test]
    fn a_parent_that_was_not_eligible_stands_among_the_others() {
        let versions = [base(), version(2, Some(1), "eligible", 0.2), version(3, Some(1), "held", 0.5)];
        assert_eq!((best(&versions, &[], 3), best(&versions, &[], 1)), (None, Some(2)));
    }

    #[test]
    fn the_best_earlier_version_stands_highest_along_its_line() {
        let best = |versions: &[Version], parent: i64| best(versions, &[], parent);
        assert_eq!(best(&[base()], 1), None);
        // 2 stands at 0.2 and 3, made of it, at 0.25; 4 was held, and 5 made of 2 stands at 0.22.
        let mut versions = vec![
            base(),
            version(2, Some(1), "eligible", 0.2),
            version(3, Some(2), "eligible", 0.05),
            version(4, Some(2), "held", 0.9),
            version(5, Some(2), "eligible", 0.02),
        ];
        assert_eq!(best(&versions, 5), Some(3));
        // The parent itself is the best.
        assert_eq!(best(&versions, 3), None);
        // A base that serves again stands lower than what was eligible once.
        assert_eq!(best(&versions, 1), Some(3));
        // A line that bites its tail ends all the same.
        versions[1].parent = Some(ModelVersion(3));
        assert_eq!(best(&versions, 5), Some(3));
    }
}
