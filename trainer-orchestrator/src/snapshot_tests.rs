use events::{
    DataKey, DivergencePoint, EventId, KeyId, ModelVersion, OpportunityId, PairId, Probabilities, SessionId,
    SuggestionId, TenantId,
};
use proptest::prelude::*;

use super::*;

const PARTED: DivergencePoint = DivergencePoint { action_index: 0, byte: 0 };

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
        // As the labeler: what stands alone parts nowhere.
        divergence: (!matches!(reason, PairReason::AcceptedKept | PairReason::SilenceConfirmed)).then_some(PARTED),
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
        off_policy: false,
        opened_at: Timestamp::from_seconds(i64::from(number)),
        labeled_at: Timestamp::from_seconds(i64::from(number) + 400),
        last_signal_at: Timestamp::from_seconds(i64::from(number) + 20),
        event_id,
        content_digest: Sha256Digest::of(&number.to_be_bytes()),
        sealed: Some(DataKey::new(key_id, [1; 32]).seal(event_id, "t", b"{}")),
    }
}

fn plan(filters: Filters, pairs: Vec<PreferencePair>) -> Option<SnapshotPlan> {
    super::plan(filters, &AllowList::everything_for("everyone".parse().unwrap()), pairs)
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
fn exactly_as_many_are_held_out_as_can_be_judged_by() {
    // Of the newest, 12 and 10 say only what was not wanted; 11 has two pairs.
    let mut pairs: Vec<_> = (1..=9).map(|number| pair(number, PairReason::AcceptedKept)).collect();
    for (number, reason) in [(10, PairReason::Dismissed), (12, PairReason::AcceptedThenUndone)] {
        pairs.push(PreferencePair { divergence: None, ..pair(number, reason) });
    }
    let eleventh = pair(11, PairReason::Missed);
    let twin = PairId::derive(&TenantId::default(), eleventh.opportunity_id, None, 1, "missed", 1);
    pairs.push(PreferencePair { pair_id: twin, action_index: 1, ..eleventh.clone() });
    pairs.push(eleventh);
    // An older pair of a held-out opportunity trains as little as a newer one.
    let ninth = pair(9, PairReason::Missed);
    pairs.push(PreferencePair { opened_at: Timestamp::from_seconds(1), ..ninth });
    let plan = plan(filters(), pairs).unwrap();
    let mut gate: Vec<_> =
        plan.gate.iter().map(|pair| (pair.opened_at.as_micros() / 1_000_000, pair.action_index)).collect();
    gate.sort_unstable();
    assert_eq!(gate, [(9, 0), (11, 0)]);
    assert!(plan.can_be_judged());
    let mut training: Vec<_> = plan.training.iter().map(|pair| pair.opened_at.as_micros() / 1_000_000).collect();
    training.sort_unstable();
    assert_eq!(training, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(plan.left_out, BTreeMap::from([("held_out_without_judging", 4)]));
}

#[test]
fn while_there_are_too_few_half_of_them_train_and_nothing_can_be_judged() {
    let five = || (1..=5).map(|number| pair(number, PairReason::DismissedThenTyped)).collect();
    let wanted = |gate_opportunities| plan(Filters { gate_opportunities, ..filters() }, five()).unwrap();
    let too_few = wanted(300);
    assert_eq!((too_few.training.len(), too_few.gate.len(), too_few.can_be_judged()), (3, 2, false));
    assert_eq!((wanted(4).training.len(), wanted(4).gate.len(), wanted(4).can_be_judged()), (1, 4, true));
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

#[test]
fn a_repository_without_a_rule_or_with_another_audience_by_now_never_enters() {
    let pairs = || (1..=6).map(|number| pair(number, PairReason::AcceptedKept)).collect::<Vec<_>>();
    assert!(super::plan(filters(), &AllowList::default(), pairs()).is_none());
    let moved = AllowList::everything_for("payments".parse().unwrap());
    assert!(super::plan(filters(), &moved, pairs()).is_none());
    assert_eq!(plan(filters(), pairs()).unwrap().training.len(), 4);
}

#[test]
fn the_digest_is_final() {
    // Versions name their data sets by it: a change of the formula breaks the lineage of everything that is registered.
    let plan = plan(filters(), (1..=6).map(|number| pair(number, PairReason::AcceptedKept)).collect()).unwrap();
    insta::assert_snapshot!(plan.digest.to_string());
}

proptest! {
    #[test]
    fn a_data_set_keeps_its_promises(
        kinds in prop::collection::vec((0..6_u8, 0..3_u8), 1..80),
        gate_opportunities in 0..12_usize,
        maximum_pairs in 1..100_usize,
    ) {
        let pairs: Vec<_> = kinds.iter().zip(1..).map(|((reason, audience), number)| {
            let reason = match reason {
                0 | 1 => PairReason::Dismissed,
                2 => PairReason::Missed,
                3 => PairReason::SilenceConfirmed,
                _ => PairReason::AcceptedKept,
            };
            let mut pair = pair(number, reason);
            if number % 3 == 0 && pair.reason == PairReason::Dismissed {
                pair.divergence = None;
            }
            if *audience == 0 {
                pair.audience = "payments".parse().unwrap();
            }
            pair
        }).collect();
        let Some(plan) = plan(Filters { gate_opportunities, maximum_pairs, ..filters() }, pairs) else { return Ok(()) };
        let count = |reason| plan.training.iter().filter(|pair| pair.reason == reason).count();
        prop_assert!(count(PairReason::Dismissed) <= count(PairReason::Missed));
        prop_assert_eq!(count(PairReason::SilenceConfirmed), 0);
        prop_assert!(plan.training.len() + plan.gate.len() <= maximum_pairs);
        prop_assert!(plan.training.iter().chain(&plan.gate).all(|pair| pair.audience.as_str() == "everyone"));
        prop_assert!(plan.gate.len() <= gate_opportunities && plan.gate.iter().all(says_what_was_wanted));
        let opportunities =
            |pairs: &[PreferencePair]| pairs.iter().map(|pair| pair.opportunity_id).collect::<BTreeSet<_>>();
        prop_assert_eq!(opportunities(&plan.gate).len(), plan.gate.len());
        prop_assert!(opportunities(&plan.gate).is_disjoint(&opportunities(&plan.training)));
        // Held out by time: nothing that trains is newer than anything that judges.
        let newest = plan.training.iter().map(|pair| pair.opened_at).max();
        let oldest = plan.gate.iter().map(|pair| pair.opened_at).min();
        prop_assert!(oldest.is_none() || newest < oldest);
    }

    #[test]
    fn the_digest_names_the_set_and_not_its_order(
        order in Just((1..=12_u32).collect::<Vec<_>>()).prop_shuffle(),
        twice in 0..12_usize,
    ) {
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
        let another = Filters { audience: "everyone".parse().unwrap(), code_version: "other".to_owned(), ..filters() };
        let another = plan(another, (1..=12).map(|number| pair(number, reason(number))).collect()).unwrap();
        prop_assert_ne!(another.digest, sorted.digest);
        let mut edited: Vec<_> = (1..=12).map(|number| pair(number, reason(number))).collect();
        edited[0].content_digest = Sha256Digest::of(b"another text under the same id");
        prop_assert_ne!(plan(filters(), edited).unwrap().digest, sorted.digest);
    }
}
