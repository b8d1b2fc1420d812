//! Which pairs are asked at all.

use super::*;

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
