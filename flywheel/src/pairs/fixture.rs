//! A pair and a part for tests.

use events::topics::PREFERENCE_PAIRS;
use events::{
    DivergencePoint, ModelVersion, OpportunityId, PairId, PairReason, PreferencePair, Probabilities, Sha256Digest,
    TenantId, Timestamp,
};
use labeler::lake::{LakePart, PartGroup};

/// A pair that parts at this byte, if at any.
pub(super) fn pair(reason: PairReason, byte: Option<u32>) -> PreferencePair {
    let opportunity: OpportunityId = "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d".parse().unwrap();
    let pair_id = PairId::derive(&TenantId::default(), opportunity, None, -1, reason.as_str(), 1);
    let event_id = PreferencePair::event_id_of(pair_id);
    PreferencePair {
        pair_id,
        tenant: TenantId::default(),
        person: "00000000000000000000000000000001".parse().unwrap(),
        session_id: "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3e".parse().unwrap(),
        opportunity_id: opportunity,
        suggestion_id: None,
        action_index: -1,
        reason,
        label_policy_version: 1,
        weight: 0.5,
        divergence: byte.map(|byte| DivergencePoint { action_index: 0, byte }),
        audience: "everyone".parse().unwrap(),
        repository: "acme/shop".to_owned(),
        language: "rust".to_owned(),
        model: "edit".parse().unwrap(),
        model_version: ModelVersion(1),
        probabilities: Probabilities {
            arm_probability: 1.0,
            p_show: 1.0,
            log_p_text: 0.0,
            gate_score: 0.5,
            threshold: 0.5,
            explored: false,
        },
        altered: false,
        off_policy: false,
        opened_at: Timestamp::from_seconds(1_800_000_000),
        labeled_at: Timestamp::from_seconds(1_800_000_300),
        last_signal_at: Timestamp::from_seconds(1_800_000_100),
        event_id,
        content_digest: Sha256Digest::of(b"text"),
        sealed: None,
    }
}

/// A part of such pairs, labeled between these seconds.
pub(super) fn part(first: i64, last: i64) -> LakePart {
    LakePart {
        part_id: format!("part {first} {last}"),
        tenant: TenantId::default(),
        topic: PREFERENCE_PAIRS.to_owned(),
        partition: 0,
        first_position: "1".to_owned(),
        last_position: "1".to_owned(),
        digest: Sha256Digest::of(b"part"),
        pairs: 1,
        bytes: 1,
        min_labeled_at: Timestamp::from_seconds(first),
        max_labeled_at: Timestamp::from_seconds(last),
        group: Some(PartGroup { day: 0, audience: "everyone".parse().unwrap(), language: "rust".to_owned() }),
        generation: 0,
        erasures: 0,
    }
}
