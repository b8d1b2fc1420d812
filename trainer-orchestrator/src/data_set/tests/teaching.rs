//! What trains, and how much it counts.

use events::Window;

use super::*;
use crate::data_set::header::Header;

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
fn what_a_file_says_of_its_licence_leaves_its_pairs_out() {
    let mut candidates: Vec<_> = (1..=6).map(|number| candidate(number, PairReason::AcceptedKept)).collect();
    for (candidate, head) in candidates.iter_mut().zip(["// SPDX-License-Identifier: MPL-2.0\n", "// MPL-2.0\n"]) {
        let window = Window { start_byte: 0, first_line: 0, text: head.to_owned() };
        Arc::make_mut(&mut candidate.lesson).header = Header::of(&window).map(Box::new);
    }
    let left_out_by =
        |policy: DataSetPolicy| left_out(&build(filters(), &policy, &candidates, &Census::new()).unwrap());
    assert_eq!(left_out_by(DataSetPolicy::default()), BTreeMap::from([("header_licence", 1)]));
    let also = DataSetPolicy { also_allowed_licences: "mpl-2.0".to_owned(), ..DataSetPolicy::default() };
    assert_eq!(left_out_by(also), BTreeMap::new());
    let unasked = DataSetPolicy { refuse_header_licences: false, ..DataSetPolicy::default() };
    assert_eq!(left_out_by(unasked), BTreeMap::new());
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
    // The one that stands for all is the oldest, and the others say so.
    assert_eq!(merged[0].person, person(100));
    let said = |persons: std::ops::Range<u32>| {
        let persons: BTreeSet<_> = persons.map(person).collect();
        let pairs = plan.left_out.iter().filter(|pair| pair.reason == Reason::Merged && persons.contains(&pair.person));
        pairs.map(|pair| pair.merged_into).collect::<Vec<_>>()
    };
    assert_eq!(said(100..105), [Some(merged[0].entry.pair_id); 4]);
    assert_eq!(said(1..2), [Some(loud[0].entry.pair_id); 2]);
    let training = &plan.composition.training;
    assert_eq!((training.merged, training.most_support_people, training.most_support_repositories), (1, 5, 2));
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
