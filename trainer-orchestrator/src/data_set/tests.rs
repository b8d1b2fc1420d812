use std::collections::{BTreeMap, BTreeSet};

use events::{
    DataKey, DivergencePoint, EditPattern, EventId, KeyId, ModelVersion, OpportunityId, PairId, PairReason,
    PersonPseudonym, Probabilities, SessionId, Sha256Digest, SuggestionId, TenantId, Timestamp,
};
use labeler::crowd::MERGED;
use model_registry::lineage::FORMULA;
use proptest::prelude::*;

use super::candidates::choose;
use super::groups::{GroupCount, SetGroups};
use super::lesson::Silence;
use super::*;
use crate::allow_list::AllowList;

const PARTED: DivergencePoint = DivergencePoint { action_index: 0, byte: 0 };
const DAY_SECONDS: i64 = 86_400;

fn uuid(number: u32) -> String {
    format!("{:032x}", u128::from(number) << 96)
}

fn person(number: u32) -> PersonPseudonym {
    format!("{number:032x}").parse().unwrap()
}

fn pair(number: u32, reason: PairReason) -> PreferencePair {
    let opportunity_id: OpportunityId = uuid(number).parse().unwrap();
    let suggestion_id: SuggestionId = uuid(number).parse().unwrap();
    let pair_id = PairId::derive(&TenantId::default(), opportunity_id, Some(suggestion_id), 0, reason.as_str(), 1);
    let key_id: KeyId = uuid(number).parse().unwrap();
    let event_id: EventId = PreferencePair::event_id_of(pair_id);
    let session_id: SessionId = uuid(number).parse().unwrap();
    PreferencePair {
        pair_id,
        tenant: TenantId::default(),
        person: person(number),
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
            p_show: 0.98,
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

fn lesson(number: u32, reason: PairReason) -> Lesson {
    Lesson {
        correction: Sha256Digest::of(&number.to_be_bytes()),
        file: Sha256Digest::of(b"one file"),
        silence: match reason {
            PairReason::Dismissed | PairReason::SilenceConfirmed => Some(Silence::Chosen),
            PairReason::Missed => Some(Silence::Rejected),
            _ => None,
        },
        judges: true,
        shingles: (0..10).map(|gram| number * 100 + gram).collect(),
        identifiers: vec![u64::from(number % 4)],
        pattern: (reason != PairReason::Dismissed).then_some(EditPattern::Replace),
        chosen_characters: Some(number),
        rejected_characters: (reason != PairReason::AcceptedKept).then_some(20),
        fault: None,
    }
}

pub(super) fn candidate(number: u32, reason: PairReason) -> Candidate {
    Candidate { pair: pair(number, reason), lesson: Arc::new(lesson(number, reason)) }
}

/// The same correction as `number`'s, of another person in another place.
fn again(number: u32, by: u32, repository: &str, correction: u32) -> Candidate {
    let mut candidate = candidate(number, PairReason::DismissedThenTyped);
    candidate.pair.person = person(by);
    candidate.pair.repository = repository.to_owned();
    Arc::make_mut(&mut candidate.lesson).correction = Sha256Digest::of(&correction.to_be_bytes());
    candidate
}

fn filters() -> SnapshotFilters {
    SnapshotFilters {
        tenant: TenantId::default(),
        model: "edit".parse().unwrap(),
        audience: "everyone".parse().unwrap(),
        label_policy_version: 1,
        code_version: "test".to_owned(),
        maximum_pairs: 1000,
        gate_opportunities: 2,
        placebo_exchange_repositories: false,
        formula: FORMULA,
        policy: serde_json::Value::Null,
    }
}

fn build_with(filters: SnapshotFilters, candidates: &[Candidate]) -> Result<SnapshotPlan, DataSetError> {
    build(filters, &DataSetPolicy::default(), candidates, &Census::new())
}

fn build_all(candidates: &[Candidate]) -> SnapshotPlan {
    build_with(filters(), candidates).unwrap()
}

/// When the opportunities of a set's pairs opened, in seconds.
fn opened(plan: &SnapshotPlan, candidates: &[Candidate], purpose: Purpose) -> Vec<i64> {
    let by_id: BTreeMap<PairId, &Candidate> =
        candidates.iter().map(|candidate| (candidate.pair.pair_id, candidate)).collect();
    let members = plan.members.iter().filter(|member| member.entry.purpose == purpose);
    let mut opened: Vec<i64> =
        members.map(|member| by_id[&member.entry.pair_id].pair.opened_at.as_micros() / 1_000_000).collect();
    opened.sort_unstable();
    opened
}

fn left_out(plan: &SnapshotPlan) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for pair in &plan.left_out {
        *counts.entry(pair.reason.as_str()).or_default() += 1;
    }
    counts
}

#[test]
fn the_newest_opportunities_are_held_out() {
    let candidates: Vec<_> = (1..=6).map(|number| candidate(number, PairReason::DismissedThenTyped)).collect();
    let plan = build_all(&candidates);
    assert_eq!(opened(&plan, &candidates, Purpose::Gate), [5, 6]);
    assert_eq!(opened(&plan, &candidates, Purpose::Training), [1, 2, 3, 4]);
    assert_eq!(plan.last_signal_at, Timestamp::from_seconds(26));
    assert_eq!((plan.composition.read, plan.composition.adapt_identifiers_seen), (6, 2));
}

#[test]
fn a_set_is_told_apart_only_where_five_persons_stand_behind_each_group() {
    let mut candidates: Vec<_> = (1..=12).map(|number| candidate(number, PairReason::DismissedThenTyped)).collect();
    candidates[..3].iter_mut().for_each(|candidate| candidate.pair.language = "python".to_owned());
    candidates[3..5].iter_mut().for_each(|candidate| candidate.pair.language = "go".to_owned());
    let training = build_all(&candidates).composition.training;
    let told = |groups: &[GroupCount]| {
        groups.iter().map(|group| (group.name.clone(), group.pairs)).collect::<Vec<(String, usize)>>()
    };
    let named = |name: &str, pairs| (name.to_owned(), pairs);
    assert_eq!(told(&training.groups.languages), [named("rust", 5), named(MERGED, 5)]);
    assert_eq!(told(&training.groups.patterns), [named("replace", 10)]);
    assert_eq!(told(&training.groups.chosen_characters), [named("1-15", 10)]);
    assert_eq!(told(&training.groups.rejected_characters), [named("16-63", 10)]);
    assert_eq!(training.groups.languages[1].by_reason, training.groups.languages[0].by_reason);
    assert_eq!(training.by_language, BTreeMap::from([named("rust", 5), named(MERGED, 5)]));
    assert_eq!(training.by_reason, BTreeMap::from([named("dismissed_then_typed", 10)]));
    // Nor is a row of the label table, in the set or in a language of it.
    let mut others: Vec<_> = (1..=12).map(|number| candidate(number, PairReason::DismissedThenTyped)).collect();
    others[0] = candidate(1, PairReason::Missed);
    let one_missed = build_all(&others).composition.training;
    assert_eq!(one_missed.by_reason, BTreeMap::from([named(MERGED, 10)]));
    assert_eq!(one_missed.groups.languages[0].by_reason, one_missed.by_reason);
    // Four persons together are too few for any group.
    let few = build_all(&candidates[..6]).composition.training;
    assert!(few.by_language.is_empty() && few.by_reason.is_empty());
    assert_eq!((few.pairs, few.groups), (4, SetGroups::default()));
}

#[test]
fn a_composition_of_an_earlier_release_has_no_groups() {
    let candidates: Vec<_> = (1..=8).map(|number| candidate(number, PairReason::AcceptedKept)).collect();
    let composition = build_all(&candidates).composition;
    let mut value = serde_json::to_value(&composition).unwrap();
    assert_eq!(serde_json::from_value::<Composition>(value.clone()).unwrap(), composition);
    for set in ["training", "adapt", "general"] {
        value[set].as_object_mut().unwrap().remove("groups").unwrap();
    }
    let earlier: Composition = serde_json::from_value(value).unwrap();
    assert_eq!((earlier.training.groups, earlier.training.pairs), (SetGroups::default(), composition.training.pairs));
}

#[test]
fn exactly_as_many_are_held_out_as_can_be_judged_by() {
    // Of the newest, 12 and 10 say only what was not wanted; 11 has two pairs.
    let mut candidates: Vec<_> = (1..=9).map(|number| candidate(number, PairReason::AcceptedKept)).collect();
    for (number, reason) in [(10, PairReason::Dismissed), (12, PairReason::AcceptedThenUndone)] {
        let mut silent = candidate(number, reason);
        silent.pair.divergence = None;
        candidates.push(silent);
    }
    let eleventh = candidate(11, PairReason::Missed);
    let mut twin = eleventh.clone();
    twin.pair.pair_id = PairId::derive(&TenantId::default(), twin.pair.opportunity_id, None, 1, "missed", 1);
    twin.pair.action_index = 1;
    Arc::make_mut(&mut twin.lesson).correction = Sha256Digest::of(b"another");
    candidates.extend([twin, eleventh]);
    // An older pair of a held-out opportunity trains as little as a newer one.
    let mut ninth = candidate(9, PairReason::Missed);
    ninth.pair.opened_at = Timestamp::from_seconds(1);
    Arc::make_mut(&mut ninth.lesson).correction = Sha256Digest::of(b"one more");
    candidates.push(ninth);
    let plan = build_all(&candidates);
    assert_eq!(opened(&plan, &candidates, Purpose::Gate), [9, 11]);
    assert!(plan.can_be_judged(&DataSetPolicy::default()));
    assert_eq!(opened(&plan, &candidates, Purpose::Training), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(left_out(&plan), BTreeMap::from([("held_out_without_judging", 4)]));
}

#[test]
fn while_there_are_too_few_half_of_them_train_and_nothing_can_be_judged() {
    let five: Vec<_> = (1..=5).map(|number| candidate(number, PairReason::DismissedThenTyped)).collect();
    let wanted = |gate_opportunities| {
        let plan = build_with(SnapshotFilters { gate_opportunities, ..filters() }, &five).unwrap();
        let can_be_judged = plan.can_be_judged(&DataSetPolicy::default());
        (plan.count(Purpose::Training), plan.count(Purpose::Gate), can_be_judged)
    };
    assert_eq!(wanted(300), (3, 2, false));
    assert_eq!(wanted(4), (1, 4, true));
    let policy = DataSetPolicy { require_general: true, ..DataSetPolicy::default() };
    assert!(!build(filters(), &policy, &five, &Census::new()).unwrap().can_be_judged(&policy));
}

#[test]
fn silence_never_outnumbers_what_was_missed() {
    let mut candidates: Vec<_> = (1..=5).map(|number| candidate(number, PairReason::Dismissed)).collect();
    candidates.extend((6..=7).map(|number| candidate(number, PairReason::Missed)));
    candidates.push(candidate(8, PairReason::SilenceConfirmed));
    candidates.extend((20..=21).map(|number| candidate(number, PairReason::AcceptedKept)));
    let plan = build_all(&candidates);
    let training = &plan.composition.training;
    assert_eq!((training.choosing_no_edit, training.rejecting_no_edit, training.pairs), (2, 2, 4));
    assert_eq!(left_out(&plan), BTreeMap::from([("calibration_only", 1), ("no_edit_outnumbers", 3)]));
}

#[test]
fn only_what_rules_and_consent_of_now_allow_is_asked() {
    let everyone = AllowList::everything_for("everyone".parse().unwrap());
    let sharing: BTreeSet<_> = (1..=8).map(person).collect();
    let mut pairs: Vec<_> = (1..=8).map(|number| pair(number, PairReason::AcceptedKept)).collect();
    pairs[0].model = "other".parse().unwrap();
    pairs[1].audience = "payments".parse().unwrap();
    pairs[2].label_policy_version = 2;
    pairs[3].sealed = None;
    pairs.push(pairs[7].clone());
    let asked = |allowed: &AllowList, sharing: &BTreeSet<PersonPseudonym>, maximum_pairs| {
        let filters = SnapshotFilters { maximum_pairs, ..filters() };
        let (chosen, census) = choose(&filters, &DataSetPolicy::default(), allowed, sharing, pairs.clone());
        let numbers: Vec<i64> = chosen.iter().map(|pair| pair.opened_at.as_micros() / 1_000_000).collect();
        let census: Vec<_> = census.into_iter().map(|(reason, count)| (reason.as_str(), count)).collect();
        (numbers, census)
    };
    let wrong =
        [("another_tenant_or_model", 1), ("another_audience", 1), ("another_label_policy", 1), ("without_text", 1)];
    assert_eq!(asked(&everyone, &sharing, 100), (vec![8, 7, 6, 5], wrong.to_vec()));
    let (numbers, census) = asked(&everyone, &(1..=6).map(person).collect(), 1);
    assert_eq!(numbers, [6]);
    assert_eq!(census[4..], [("without_consent", 2), ("older_than_the_newest", 1)]);
    let none = [("another_tenant_or_model", 1), ("repository_without_rule", 7)];
    assert_eq!(asked(&AllowList::default(), &sharing, 100), (Vec::new(), none.to_vec()));
    let moved = AllowList::everything_for("payments".parse().unwrap());
    assert_eq!(asked(&moved, &sharing, 100).0, [0_i64; 0]);
}

#[test]
fn one_person_who_runs_away_and_silence_displace_nobody() {
    // Fifty persons with a hundred pairs each; then one with ten times as many as fit; then silence, more than fits.
    let steady = (0..5_000).map(|number| (number, number % 50, PairReason::DismissedThenTyped));
    let runaway = (5_000..35_000).map(|number| (number, 50, PairReason::DismissedThenTyped));
    let silence = (35_000..41_000).map(|number| (number, number % 51, PairReason::SilenceConfirmed));
    let pairs: Vec<_> = steady
        .chain(runaway)
        .chain(silence)
        .map(|(number, by, reason)| PreferencePair { person: person(by), ..pair(number, reason) })
        .collect();
    let everyone = AllowList::everything_for("everyone".parse().unwrap());
    let sharing: BTreeSet<_> = (0..51).map(person).collect();
    let filters = SnapshotFilters { maximum_pairs: 5_500, ..filters() };
    let (chosen, census) = choose(&filters, &DataSetPolicy::default(), &everyone, &sharing, pairs);
    let of = |by: u32, trains: bool| {
        chosen.iter().filter(|pair| pair.person == person(by) && (pair.weight > 0.0) == trains).count()
    };
    assert!((0..50).all(|by| of(by, true) == 100), "{census:?}");
    // Three times the mean of what fits.
    assert_eq!(of(50, true), 3 * 5_500 / 51);
    assert_eq!((0..51).map(|by| of(by, false)).sum::<usize>(), 5_500);
    assert!(chosen.is_sorted_by_key(candidates::newest_first));
    let expected = [(Reason::BeyondShareOfNewest, 30_000 - 323), (Reason::OlderThanTheNewest, 500)];
    assert_eq!(census, Census::from(expected));
}

#[test]
fn faults_are_left_out_and_a_data_set_without_a_pair_says_why() {
    let mut candidates: Vec<_> = (1..=3).map(|number| candidate(number, PairReason::AcceptedKept)).collect();
    let faults = [Reason::ParseErrors, Reason::Generated, Reason::Minified];
    for (candidate, fault) in candidates.iter_mut().zip(faults) {
        Arc::make_mut(&mut candidate.lesson).fault = Some(fault);
    }
    let before = Census::from([(Reason::WithoutConsent, 4)]);
    let refused = build(filters(), &DataSetPolicy::default(), &candidates, &before).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "data set: no pair is left to train on; left out: 4 without_consent, 1 parse_errors, 1 generated, 1 minified"
    );
}

#[test]
fn one_loud_person_does_not_outvote_five() {
    // The same correction, day after day, again and again; and another one, once each by five persons in two
    // repositories. Both are older than what is held out.
    let loud = (0..40).map(|number| {
        let mut candidate = again(number, 1, "r", 1000);
        candidate.pair.opened_at = Timestamp::from_seconds(i64::from(number / 4) * DAY_SECONDS + i64::from(number));
        candidate
    });
    let five = (100..105).map(|number| {
        let mut candidate = again(number, number, if number == 100 { "other" } else { "r" }, 2000);
        candidate.pair.opened_at = Timestamp::from_seconds(i64::from(number));
        candidate
    });
    let others = (200..320).map(|number| {
        let mut candidate = candidate(number, PairReason::AcceptedKept);
        candidate.pair.opened_at = Timestamp::from_seconds(i64::from(number) * DAY_SECONDS);
        candidate
    });
    let candidates: Vec<_> = loud.chain(five).chain(others).collect();
    let policy = DataSetPolicy { most_of_repository_permille: 1000, ..DataSetPolicy::default() };
    let plan = build(filters(), &policy, &candidates, &Census::new()).unwrap();
    let left_out = left_out(&plan);
    // Ten days, one pair each; of those three times the mean of all persons.
    assert_eq!((left_out["duplicate"], left_out["merged"], left_out["beyond_person"]), (30, 6, 7));
    let merged: Vec<_> = plan.members.iter().filter(|member| member.entry.support.people > 1).collect();
    assert_eq!(merged.len(), 1);
    let support = merged[0].entry.support;
    assert_eq!((support.people, support.repositories), (5, 2));
    // log2(1 + 5); and what the loud person said counts once.
    assert_eq!(support.weight_millionths, Some(2_584_963));
    let loud: Vec<_> = plan.members.iter().filter(|member| member.person == person(1)).collect();
    assert_eq!(loud.len(), 1);
    assert_eq!((loud[0].entry.support.people, loud[0].entry.support.weight_millionths), (1, Some(1_000_000)));
    // The one that stands for all is the oldest.
    assert_eq!(merged[0].person, person(100));
    let training = &plan.composition.training;
    assert_eq!((training.merged, training.most_support_people, training.most_support_repositories), (1, 5, 2));
}

#[test]
fn what_judges_is_near_nothing_that_trains_as_long_as_enough_remains() {
    let candidates = |near: std::ops::RangeInclusive<u32>| -> Vec<Candidate> {
        (1..=20)
            .map(|number| {
                let mut candidate = candidate(number, PairReason::DismissedThenTyped);
                if near.contains(&number) {
                    // Nine of the ten shingles of the first.
                    Arc::make_mut(&mut candidate.lesson).shingles = (100..109).collect();
                }
                candidate
            })
            .collect()
    };
    let few = candidates(18..=19);
    let plan = build_with(SnapshotFilters { gate_opportunities: 4, ..filters() }, &few).unwrap();
    assert_eq!(opened(&plan, &few, Purpose::Gate), [15, 16, 17, 20]);
    assert_eq!(opened(&plan, &few, Purpose::Training), (1..=14).collect::<Vec<_>>());
    assert_eq!(left_out(&plan), BTreeMap::from([("near_duplicate", 2)]));
    // At most half is held out for it; what remains then has to do.
    let many = candidates(10..=20);
    let plan = build_with(SnapshotFilters { gate_opportunities: 4, ..filters() }, &many).unwrap();
    assert_eq!((plan.count(Purpose::Training), plan.count(Purpose::Gate)), (10, 0));
    let policy = DataSetPolicy { near_duplicate_permille: 0, ..DataSetPolicy::default() };
    let filters = SnapshotFilters { gate_opportunities: 4, ..filters() };
    assert_eq!(build(filters, &policy, &many, &Census::new()).unwrap().count(Purpose::Gate), 4);
}

#[test]
fn benefit_is_judged_only_where_something_trains() {
    // Of the newest, 19 and 20 are of a repository that has nothing older.
    let candidates: Vec<_> =
        (1..=20).map(|number| again(number, number, if number > 18 { "new" } else { "r" }, number)).collect();
    let plan = build_with(SnapshotFilters { gate_opportunities: 4, ..filters() }, &candidates).unwrap();
    assert_eq!(opened(&plan, &candidates, Purpose::Gate), [15, 16, 17, 18]);
    assert_eq!(opened(&plan, &candidates, Purpose::Training), (1..=14).collect::<Vec<_>>());
    assert_eq!(left_out(&plan), BTreeMap::from([("held_out_without_judging", 2)]));
}

#[test]
fn who_is_held_out_raises_no_weight() {
    // The same correction of the three oldest and the two newest.
    let same = [1, 2, 3, 19, 20];
    let candidates: Vec<_> = (1..=20)
        .map(|number| {
            let mut candidate = again(number, number, "r", number);
            if same.contains(&number) {
                candidate.lesson = Arc::new(lesson(1, PairReason::DismissedThenTyped));
            }
            candidate
        })
        .collect();
    let plan = build_all(&candidates);
    assert_eq!(opened(&plan, &candidates, Purpose::Gate), [17, 18]);
    assert_eq!(opened(&plan, &candidates, Purpose::Training), std::iter::once(1).chain(4..=16).collect::<Vec<_>>());
    assert_eq!(left_out(&plan), BTreeMap::from([("merged", 2), ("near_duplicate", 2)]));
    let first = plan.members.iter().find(|member| member.person == person(1)).unwrap().entry.support;
    // log2(1 + 3).
    assert_eq!((first.people, first.weight_millionths), (3, Some(2_000_000)));
}

#[test]
fn weights_by_inverse_probability_need_chance_and_are_clipped() {
    let mut candidates: Vec<_> = (1..=8).map(|number| candidate(number, PairReason::DismissedThenTyped)).collect();
    let policy = DataSetPolicy { inverse_p_show: true, ..DataSetPolicy::default() };
    let built = |candidates: &[Candidate]| build(filters(), &policy, candidates, &Census::new());
    // Chance in one decision says nothing of the others.
    candidates[0].pair.probabilities.explored = true;
    candidates[0].pair.probabilities.p_show = 0.02;
    candidates[1].pair.probabilities.p_show = 1.0;
    candidates[4].pair.probabilities.p_show = 0.0;
    let refused = built(&candidates).unwrap_err();
    assert_eq!(refused, DataSetError::NoRandomisation { certain: 2, pairs: 6 });
    assert!(refused.to_string().contains("that of 2 of the 6 that train was not left to chance"), "{refused}");
    candidates[4].pair.probabilities.p_show = 0.98;
    candidates[1].pair.probabilities.p_show = 0.5;
    let mut missed = candidate(3, PairReason::Missed);
    missed.pair.probabilities.p_show = 0.75;
    candidates[2] = missed;
    let plan = built(&candidates).unwrap();
    let weight = |candidate: &Candidate| {
        let member = plan.members.iter().find(|member| member.entry.pair_id == candidate.pair.pair_id).unwrap();
        member.entry.support.weight_millionths.unwrap()
    };
    assert_eq!([0, 1, 2, 3].map(|index| weight(&candidates[index])), [20_000_000, 2_000_000, 4_000_000, 1_020_408]);
    let weights = plan.composition.weights;
    assert_eq!((weights.clipped, weights.largest), (1, 20.0));
    let (sum, squares) = (26.0 + 3.0 * 1.020_408, 420.0 + 3.0 * 1.020_408 * 1.020_408);
    assert!((weights.effective_sample_size - sum * sum / squares).abs() < 1e-9);
    // Without such weights every pair counts once.
    let plain = build_all(&candidates).composition.weights;
    assert!((plain.effective_sample_size - 6.0).abs() < 1e-12);
}

#[test]
fn what_several_stand_behind_is_no_persons_own_and_of_one_file() {
    // Twenty of one file, taken from one person of five; and forty persons with one pair and file each.
    let candidates: Vec<_> = (1..=60)
        .map(|number| {
            let mut candidate = again(number, number.max(20), "r", number);
            Arc::make_mut(&mut candidate.lesson).file = Sha256Digest::of(&number.max(20).to_be_bytes());
            candidate
        })
        .collect();
    let merged = |entry: Entry<'_>| entry.candidate.pair.person == person(20);
    let mut entries = newest_first(&candidates);
    for entry in entries.iter_mut().filter(|entry| merged(**entry)) {
        entry.people = 5;
    }
    let mut left_out = LeftOut::default();
    let kept = caps::apply(&DataSetPolicy::default(), entries, &mut left_out);
    assert_eq!((kept.len(), left_out.0.len()), (43, 17));
    assert!(left_out.0.iter().all(|(_, reason)| *reason == Reason::BeyondFile));
}

/// A company: twelve repositories of two teams, forty persons who each work in one of them and now and then elsewhere.
fn company() -> Vec<Candidate> {
    (0..2400)
        .map(|number| {
            let by = number % 40;
            let repository = if number % 11 == 0 { (by + 1) % 12 } else { by % 12 };
            let name = format!("team{}/repository{repository}", repository % 2);
            let mut candidate = again(number, by, &name, number);
            Arc::make_mut(&mut candidate.lesson).file = Sha256Digest::of(&(number % 300).to_be_bytes());
            candidate
        })
        .collect()
}

#[test]
fn harm_is_judged_where_nothing_trains() {
    let candidates = company();
    let policy = DataSetPolicy { general_permille: 200, general_opportunities: 50, ..DataSetPolicy::default() };
    let filters = SnapshotFilters { gate_opportunities: 100, ..filters() };
    let plan = build(filters.clone(), &policy, &candidates, &Census::new()).unwrap();
    let by_id: BTreeMap<PairId, &Candidate> =
        candidates.iter().map(|candidate| (candidate.pair.pair_id, candidate)).collect();
    let of = |purpose: Purpose| -> (BTreeSet<&str>, BTreeSet<&PersonPseudonym>) {
        let members = plan.members.iter().filter(|member| member.entry.purpose == purpose);
        let pairs = members.map(|member| &by_id[&member.entry.pair_id].pair);
        pairs.map(|pair| (pair.repository.as_str(), &pair.person)).unzip()
    };
    let (training, adapt, general) = (of(Purpose::Training), of(Purpose::Gate), of(Purpose::General));
    assert!(plan.count(Purpose::General) >= 50 && plan.count(Purpose::Gate) == 100);
    for trains in [&training, &adapt] {
        assert!(general.0.is_disjoint(&trains.0) && general.1.is_disjoint(&trains.1));
    }
    assert!(plan.composition.left_out(Reason::HeldOutRepository) > 0);
    assert!(plan.composition.left_out(Reason::HeldOutPerson) > 0);
    // A set that would be too small is none, and costs nothing.
    let large = DataSetPolicy { general_opportunities: 500, ..policy };
    let without = build(filters, &large, &candidates, &Census::new()).unwrap();
    assert_eq!((without.count(Purpose::General), without.composition.left_out(Reason::HeldOutPerson)), (0, 0));
}

#[test]
fn the_release_before_can_read_a_data_set_of_the_first_formula() {
    let mut candidates = company();
    // A correction that two persons made, and a pair whose label counts for less.
    let first = candidates[0].lesson.correction;
    Arc::make_mut(&mut candidates[1].lesson).correction = first;
    candidates[2].pair.weight = 0.5;
    // Nothing was explored: weights by inverse probability would be refused.
    let policy = DataSetPolicy { general_opportunities: 50, inverse_p_show: true, ..DataSetPolicy::default() };
    let filters = SnapshotFilters { gate_opportunities: 100, formula: FIRST_FORMULA, ..filters() };
    let plan = build(filters, &policy, &candidates, &Census::new()).unwrap();
    assert_eq!((plan.filters.formula, &plan.filters.policy), (FIRST_FORMULA, &serde_json::Value::Null));
    assert_eq!((plan.count(Purpose::General), plan.count(Purpose::Gate)), (0, 100));
    assert!(plan.count(Purpose::Training) > 0);
    assert!(plan.members.iter().all(|member| member.entry.support == Support::default()));
    assert_eq!(plan.composition.left_out(Reason::Merged), 1);
    // What a data set says of its weights is what labels say.
    let by_id: BTreeMap<PairId, &Candidate> =
        candidates.iter().map(|candidate| (candidate.pair.pair_id, candidate)).collect();
    let training = plan.members.iter().filter(|member| member.entry.purpose == Purpose::Training);
    let labels: f64 = training.map(|member| by_id[&member.entry.pair_id].pair.weight).sum();
    assert!((plan.composition.weights.sum - labels).abs() < 1e-6);
    let manifest = plan.manifest();
    manifest.verify().unwrap();
    let mut of_today = manifest;
    of_today.filters.formula = FORMULA;
    assert!(matches!(of_today.verify(), Err(DataSetError::WrongDigest { .. })));
}

#[test]
fn where_much_or_all_would_be_held_out_there_is_no_general() {
    // Two repositories of which the names hold out the first; then that one alone.
    let name = |held_out: bool| -> String {
        let mut names = (0..).map(|number| format!("team/repository{number}"));
        names.find(|name| hold_out::is_unseen(100, name) == held_out).unwrap()
    };
    let names = [name(true), name(false)];
    let policy = DataSetPolicy { general_opportunities: 1, ..DataSetPolicy::default() };
    let counts = |candidates: &[Candidate]| {
        let plan = build(filters(), &policy, candidates, &Census::new()).unwrap();
        [Purpose::General, Purpose::Gate, Purpose::Training].map(|purpose| plan.count(purpose))
    };
    for repositories in [1, 2] {
        let candidates: Vec<_> =
            (1..=40).map(|number| again(number, number % 8, &names[number as usize % repositories], number)).collect();
        assert_eq!(counts(&candidates), [0, 2, 38]);
    }
    // Where it costs little, there is one: two of forty-two.
    let mut candidates: Vec<_> = (1..=40).map(|number| again(number, number % 8, &names[1], number)).collect();
    candidates.extend((41..=42).map(|number| again(number, 9, &names[0], number)));
    assert_eq!(counts(&candidates), [2, 2, 38]);
}

#[test]
fn harm_is_judged_by_nothing_that_nearly_trained() {
    let mut candidates = company();
    let policy = DataSetPolicy { general_permille: 200, general_opportunities: 50, ..DataSetPolicy::default() };
    let filters = SnapshotFilters { gate_opportunities: 100, ..filters() };
    let general = |candidates: &[Candidate]| -> BTreeSet<PairId> {
        let plan = build(filters.clone(), &policy, candidates, &Census::new()).unwrap();
        let members = plan.members.iter().filter(|member| member.entry.purpose == Purpose::General);
        members.map(|member| member.entry.pair_id).collect()
    };
    let before = general(&candidates);
    assert_eq!(before.len(), 100);
    // Half of what judged is now nearly what the oldest pair of another repository trains.
    let trained: Vec<u32> = (0..9).collect();
    assert!(!hold_out::is_unseen(200, &candidates[0].pair.repository) && candidates[0].lesson.shingles[..9] == trained);
    let near: BTreeSet<PairId> = before.iter().copied().step_by(2).collect();
    for candidate in candidates.iter_mut().filter(|candidate| near.contains(&candidate.pair.pair_id)) {
        Arc::make_mut(&mut candidate.lesson).shingles.clone_from(&trained);
    }
    let after = general(&candidates);
    // Older ones judge in their place.
    assert_eq!(after.len(), 100);
    assert!(after.is_disjoint(&near) && before.difference(&near).all(|pair_id| after.contains(pair_id)));
}

/// Pairs by person, those that several stand behind left out, and how many there are with those.
fn voices(plan: &SnapshotPlan) -> (BTreeMap<&PersonPseudonym, usize>, usize) {
    let training = || plan.members.iter().filter(|member| member.entry.purpose == Purpose::Training);
    let mut counts = BTreeMap::new();
    for member in training().filter(|member| member.entry.support.people == 1) {
        *counts.entry(&member.person).or_default() += 1;
    }
    (counts, training().count())
}

#[test]
fn limits_hold_for_what_trains() {
    // Ten persons with one old pair each, and eight more of the first; a hundred newer ones of ten others, who judge.
    // Three times the mean of all is 17, of those who train 3.
    let old = (1..=10).map(|number| (number, number % 10));
    let loud = (11..=18).map(|number| (number, 0));
    let newer = (101..=200).map(|number| (number, 10 + number % 10));
    let candidates: Vec<_> = old.chain(loud).chain(newer).map(|(number, by)| again(number, by, "r", number)).collect();
    let plan = build_with(SnapshotFilters { gate_opportunities: 100, ..filters() }, &candidates).unwrap();
    let (counts, pairs) = voices(&plan);
    assert_eq!((counts[&person(0)], counts.len(), pairs), (3, 10, 12));
    assert_eq!((plan.count(Purpose::Gate), left_out(&plan)), (100, BTreeMap::from([("beyond_person", 6)])));
}

/// Who, where, which correction, on which day, and which row of the label table.
type Told = (u32, u32, u32, u32, u8);

fn told(index: usize, (by, repository, correction, day, reason): Told) -> Candidate {
    let number = u32::try_from(index).unwrap() + 1;
    let reason = match reason {
        0 | 1 => PairReason::Dismissed,
        2 => PairReason::Missed,
        3 => PairReason::SilenceConfirmed,
        _ => PairReason::AcceptedKept,
    };
    let mut candidate = candidate(number, reason);
    candidate.pair.person = person(by);
    candidate.pair.repository = format!("t{}/r{repository}", repository % 2);
    candidate.pair.opened_at = Timestamp::from_seconds(i64::from(day) * DAY_SECONDS + i64::from(number));
    let lesson = Arc::make_mut(&mut candidate.lesson);
    lesson.correction = Sha256Digest::of(&[correction.to_be_bytes(), [0, 0, 0, reason as u8]].concat());
    lesson.file = Sha256Digest::of(&correction.to_be_bytes());
    // Every second correction nearly equals the one before: 19 of 21 shingles are those of both.
    let first = correction / 2 * 100 + correction % 2;
    lesson.shingles = (first..first + 20).collect();
    candidate
}

fn many() -> impl Strategy<Value = Vec<Told>> {
    prop::collection::vec((0..8_u32, 0..5_u32, 0..30_u32, 0..4_u32, 0..8_u8), 1..120)
}

proptest! {
    #[test]
    fn a_data_set_keeps_its_promises(
        pairs in many(),
        gate_opportunities in 0..12_usize,
        general_opportunities in 0..6_usize,
        permille in 1..=1000_u32,
    ) {
        let candidates: Vec<_> = pairs.into_iter().enumerate().map(|(index, pair)| told(index, pair)).collect();
        let policy = DataSetPolicy {
            most_of_person_permille: permille,
            general_permille: 300,
            general_opportunities,
            ..DataSetPolicy::default()
        };
        let filters = SnapshotFilters { gate_opportunities, ..filters() };
        let plan = match build(filters, &policy, &candidates, &Census::new()) {
            Ok(plan) => plan,
            Err(DataSetError::Empty { left_out }) => {
                let lost: usize = left_out.iter().map(|(_, count)| count).sum();
                prop_assert!(lost <= candidates.len());
                return Ok(());
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        // Everything is accounted for, once.
        let mut ids: Vec<PairId> = plan.members.iter().map(|member| member.entry.pair_id).collect();
        ids.extend(plan.left_out.iter().map(|pair| pair.pair_id));
        ids.sort_unstable();
        let mut all: Vec<PairId> = candidates.iter().map(|candidate| candidate.pair.pair_id).collect();
        all.sort_unstable();
        prop_assert_eq!(ids, all);
        let stages = &plan.composition.stages;
        prop_assert!(stages.is_sorted_by(|one, next| one.kept == next.entered));
        prop_assert_eq!(stages.last().map(|stage| stage.kept), Some(plan.members.len()));
        // What is said of silence, and of how much of what trains is one person's.
        let training = &plan.composition.training;
        prop_assert!(training.choosing_no_edit <= training.rejecting_no_edit);
        let (voices, training) = voices(&plan);
        let most = caps::share(training, voices.len(), permille as usize);
        prop_assert!(voices.values().all(|pairs| *pairs <= most), "{:?} beyond {}", voices, most);
        // Nothing that trains is newer than what judges by time, or of the same opportunity, or nearly the same.
        let by_id: BTreeMap<PairId, &Candidate> =
            candidates.iter().map(|candidate| (candidate.pair.pair_id, candidate)).collect();
        let of = |purpose: Purpose| -> Vec<&Candidate> {
            let members = plan.members.iter().filter(|member| member.entry.purpose == purpose);
            members.map(|member| by_id[&member.entry.pair_id]).collect()
        };
        let (training, adapt, general) = (of(Purpose::Training), of(Purpose::Gate), of(Purpose::General));
        prop_assert!(adapt.len() <= gate_opportunities);
        prop_assert!(training.iter().all(|candidate| candidate.pair.weight > 0.0));
        for judging in &adapt {
            prop_assert!(judging.judges());
            prop_assert!(training.iter().any(|candidate| candidate.pair.repository == judging.pair.repository));
            for candidate in &training {
                prop_assert!(candidate.pair.opened_at < judging.pair.opened_at);
                prop_assert!(candidate.pair.opportunity_id != judging.pair.opportunity_id);
            }
        }
        for judging in adapt.iter().chain(&general) {
            for candidate in &training {
                let (one, other) = (&judging.lesson.shingles, &candidate.lesson.shingles);
                prop_assert!(!minhash::are_similar(one, other, policy.near_duplicate_permille), "{:?} {:?}", one, other);
            }
        }
        for judging in &general {
            for candidate in training.iter().chain(&adapt) {
                prop_assert!(candidate.pair.repository != judging.pair.repository);
                prop_assert!(candidate.pair.person != judging.pair.person);
            }
        }
        // No two that train say the same; behind one that judges stands one person.
        let mut corrections = BTreeSet::new();
        for member in &plan.members {
            if member.entry.purpose != Purpose::Training {
                prop_assert_eq!(member.entry.support.people, 1);
                continue;
            }
            prop_assert!(corrections.insert(by_id[&member.entry.pair_id].lesson.correction));
        }
        prop_assert!(plan.manifest().verify().is_ok());
    }

    #[test]
    fn what_others_do_moves_no_repository_into_or_out_of_the_held_out_side(
        pairs in prop::collection::vec((0..30_u32, 0..20_u32), 40..120),
        others in prop::collection::vec((0..60_u32, 20..60_u32), 0..200),
    ) {
        // Every number is a pair of its own, so that nothing but where a pair is from decides.
        let candidates: Vec<_> = pairs
            .iter()
            .chain(&others)
            .zip(1..)
            .map(|((by, repository), number)| again(number, *by, &format!("team/{repository}"), number))
            .collect();
        let policy = DataSetPolicy { general_permille: 400, general_opportunities: 1, ..DataSetPolicy::default() };
        let sides = |candidates: &[Candidate]| {
            let mut left_out = LeftOut::default();
            let parted = hold_out::general(&policy, 1000, newest_first(candidates), &mut left_out);
            let of = |entries: &[Entry<'_>]| -> BTreeSet<String> {
                entries.iter().map(|entry| entry.candidate.pair.repository.clone()).collect()
            };
            (of(&parted.held_out), of(&parted.rest))
        };
        let (held_out, rest) = sides(&candidates[..pairs.len()]);
        let (held_out_later, rest_later) = sides(&candidates);
        // Where there is no such set yet, or none any more, everything trains.
        if !held_out.is_empty() && !held_out_later.is_empty() {
            prop_assert!(held_out.is_disjoint(&rest_later), "{:?} {:?}", held_out, rest_later);
            prop_assert!(rest.is_disjoint(&held_out_later), "{:?} {:?}", rest, held_out_later);
        }
    }

    #[test]
    fn limits_hold_for_what_enters_the_hold_outs(pairs in many(), permille in 1..=1000_u32) {
        let candidates: Vec<_> = pairs.into_iter().enumerate().map(|(index, pair)| told(index, pair)).collect();
        let policy = DataSetPolicy {
            most_of_person_permille: permille,
            most_of_team_permille: 1000 - permille / 2,
            most_of_repository_permille: permille,
            most_of_file_permille: permille / 3,
            ..DataSetPolicy::default()
        };
        let mut left_out = LeftOut::default();
        let kept = caps::apply(&policy, newest_first(&candidates), &mut left_out);
        prop_assert_eq!(kept.len() + left_out.0.len(), candidates.len());
        let permilles = [permille, 1000 - permille / 2, permille, permille / 3];
        let keys: [fn(&Candidate) -> String; 4] = [
            |candidate| candidate.pair.person.to_string(),
            |candidate| caps::team(&candidate.pair.repository).to_owned(),
            |candidate| candidate.pair.repository.clone(),
            |candidate| candidate.lesson.file.to_string(),
        ];
        for (permille, key) in permilles.into_iter().zip(keys) {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for entry in &kept {
                *counts.entry(key(entry.candidate)).or_default() += 1;
            }
            let most = (kept.len() * permille as usize / 1000).max(3 * kept.len() / counts.len());
            prop_assert!(counts.values().all(|count| *count <= most), "{:?} beyond {}", counts, most);
        }
    }

    #[test]
    fn the_digest_names_the_set_and_not_its_order(
        (pairs, order) in many().prop_flat_map(|pairs| {
            let order = Just((0..pairs.len()).collect::<Vec<_>>()).prop_shuffle();
            (Just(pairs), order)
        }),
    ) {
        let sorted: Vec<_> = pairs.into_iter().enumerate().map(|(index, pair)| told(index, pair)).collect();
        let shuffled: Vec<_> = order.iter().map(|index| sorted[*index].clone()).collect();
        let (Ok(one), Ok(other)) = (build_with(filters(), &sorted), build_with(filters(), &shuffled)) else {
            prop_assert_eq!(
                build_with(filters(), &sorted).map(|plan| plan.digest),
                build_with(filters(), &shuffled).map(|plan| plan.digest)
            );
            return Ok(());
        };
        prop_assert_eq!(one.manifest(), other.manifest());
        let renamed = SnapshotFilters { code_version: "other".to_owned(), ..filters() };
        prop_assert_ne!(build_with(renamed, &sorted).unwrap().digest, one.digest);
        let policy = DataSetPolicy { most_inverse_p_show: 7, ..DataSetPolicy::default() };
        prop_assert_ne!(build(filters(), &policy, &sorted, &Census::new()).unwrap().digest, one.digest);
        let mut edited = sorted;
        let member = one.members[0].entry.pair_id;
        for candidate in edited.iter_mut().filter(|candidate| candidate.pair.pair_id == member) {
            candidate.pair.content_digest = Sha256Digest::of(b"another text under the same id");
        }
        prop_assert_ne!(build_with(filters(), &edited).unwrap().digest, one.digest);
    }
}
