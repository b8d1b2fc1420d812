//! What judges, and what it is kept apart from.

use super::*;

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
