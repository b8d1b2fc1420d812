use events::{DataKey, EventId, KeyId, ModelVersion, OpportunityId, PairId, Probabilities, SessionId, SuggestionId};
use proptest::prelude::*;

use super::*;

fn uuid(number: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn pair(number: u32, reason: PairReason) -> PreferencePair {
    let opportunity_id: OpportunityId = format!("{:032x}", u128::from_be_bytes(uuid(number))).parse().unwrap();
    let suggestion_id: SuggestionId = opportunity_id.to_string().parse().unwrap();
    let pair_id = PairId::derive(&TenantId::default(), opportunity_id, Some(suggestion_id), 0, reason.as_str(), 1);
    let key_id: KeyId = opportunity_id.to_string().parse().unwrap();
    let event_id: EventId = PreferencePair::event_id_of(pair_id);
    let session_id: SessionId = opportunity_id.to_string().parse().unwrap();
    PreferencePair {
        pair_id,
        tenant: TenantId::default(),
        person: format!("{number:032x}").parse().unwrap(),
        session_id,
        opportunity_id,
        suggestion_id: Some(suggestion_id),
        action_index: 0,
        reason,
        label_policy_version: 1,
        weight: if reason == PairReason::SilenceConfirmed { 0.0 } else { 1.0 },
        divergence: None,
        audience: "everyone".parse().unwrap(),
        repository: "r".to_owned(),
        language: "rust".to_owned(),
        model: "edit".parse().unwrap(),
        model_version: ModelVersion(1),
        probabilities: Probabilities {
            arm_probability: 1.0,
            p_show: 1.0,
            log_p_text: -1.0,
            gate_score: 0.9,
            threshold: 0.5,
            explored: false,
        },
        altered: false,
        opened_at: Timestamp::from_seconds(i64::from(number)),
        labeled_at: Timestamp::from_seconds(i64::from(number) + 400),
        last_signal_at: Timestamp::from_seconds(i64::from(number) + 20),
        event_id,
        content_digest: Sha256Digest::of(&number.to_be_bytes()),
        sealed: Some(DataKey::new(key_id, [1; 32]).seal(event_id, "t", b"{}")),
    }
}

fn filters() -> Filters {
    Filters {
        tenant: TenantId::default(),
        model: "edit".parse().unwrap(),
        audience: "everyone".parse().unwrap(),
        label_policy_version: 1,
        code_version: "test".to_owned(),
        maximum_pairs: 1000,
        gate_opportunities: 2,
        placebo_exchange_repositories: false,
    }
}

#[test]
fn the_newest_opportunities_are_held_out() {
    let pairs = (1..=6).map(|number| pair(number, PairReason::DismissedThenTyped)).collect();
    let plan = plan(filters(), pairs).unwrap();
    let mut gate: Vec<_> = plan.gate.iter().map(|pair| pair.opened_at.as_micros() / 1_000_000).collect();
    gate.sort_unstable();
    assert_eq!(gate, [5, 6]);
    assert_eq!(plan.training.len(), 4);
    assert_eq!(plan.last_signal_at, Timestamp::from_seconds(26));
}

#[test]
fn silence_never_outnumbers_what_was_missed() {
    let mut pairs: Vec<_> = (1..=5).map(|number| pair(number, PairReason::Dismissed)).collect();
    pairs.extend((6..=7).map(|number| pair(number, PairReason::Missed)));
    pairs.push(pair(8, PairReason::SilenceConfirmed));
    pairs.extend((20..=21).map(|number| pair(number, PairReason::AcceptedKept)));
    let plan = plan(filters(), pairs).unwrap();
    let count = |reason| plan.training.iter().filter(|pair| pair.reason == reason).count();
    assert_eq!(count(PairReason::Dismissed), 2);
    assert_eq!(count(PairReason::Missed), 2);
    assert_eq!(plan.left_out, BTreeMap::from([("no_edit_outnumbers", 3), ("calibration_only", 1)]));
}

#[test]
fn another_audience_never_enters() {
    let mut other = pair(1, PairReason::AcceptedKept);
    other.audience = "payments".parse().unwrap();
    assert!(plan(Filters { gate_opportunities: 0, ..filters() }, vec![other]).is_none());
}

proptest! {
    #[test]
    fn the_digest_names_the_set_and_not_its_order(order in Just((1..=12_u32).collect::<Vec<_>>()).prop_shuffle(), twice in 0..12_usize) {
        let reason = |number: u32| if number.is_multiple_of(3) { PairReason::Missed } else { PairReason::AcceptedKept };
        let sorted = plan(filters(), (1..=12).map(|number| pair(number, reason(number))).collect()).unwrap();
        let mut shuffled: Vec<_> = order.iter().map(|number| pair(*number, reason(*number))).collect();
        shuffled.push(shuffled[twice].clone());
        prop_assert_eq!(plan(filters(), shuffled).unwrap().digest, sorted.digest);
        let fewer = plan(filters(), (2..=12).map(|number| pair(number, reason(number))).collect()).unwrap();
        prop_assert_ne!(fewer.digest, sorted.digest);
        let other = Filters { placebo_exchange_repositories: true, ..filters() };
        let placebo = plan(other, (1..=12).map(|number| pair(number, reason(number))).collect()).unwrap();
        prop_assert_ne!(placebo.digest, sorted.digest);
    }
}
