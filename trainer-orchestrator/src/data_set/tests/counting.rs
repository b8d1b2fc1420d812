//! What a data set says of itself.

use super::*;

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
