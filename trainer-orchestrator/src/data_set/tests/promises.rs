//! What holds for every data set, whatever the pairs.

use super::*;

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
    fn one_stands_for_all_that_comparing_all_with_all_finds_equal(pairs in many()) {
        let candidates: Vec<_> = pairs.into_iter().enumerate().map(|(index, pair)| told(index, pair)).collect();
        let entries = newest_first(&candidates);
        let by_rank = |one: &&Entry<'_>, other: &&Entry<'_>| duplicates::rank(one).cmp(&duplicates::rank(other));
        let ids = |entries: &[Entry<'_>]| -> Vec<PairId> {
            entries.iter().map(|entry| entry.candidate.pair.pair_id).collect()
        };
        let is_one = |one: &Entry<'_>, other: &Entry<'_>| one.candidate.pair.pair_id == other.candidate.pair.pair_id;
        let say_the_same =
            |one: &Entry<'_>, other: &Entry<'_>| one.candidate.lesson.correction == other.candidate.lesson.correction;
        let of_one_day = |one: &Entry<'_>, other: &Entry<'_>| {
            let (one, other) = (&one.candidate.pair, &other.candidate.pair);
            one.person == other.person && one.opened_at.day() == other.opened_at.day()
        };
        let stays = |entry: &&Entry<'_>| {
            let equals = entries.iter().filter(|other| say_the_same(entry, other) && of_one_day(entry, other));
            equals.min_by(by_rank).is_some_and(|first| is_one(first, entry))
        };
        let expected: Vec<Entry<'_>> = entries.iter().filter(stays).copied().collect();
        let mut left_out = LeftOut::default();
        let once = duplicates::within_person_and_day(entries.clone(), &mut left_out);
        prop_assert_eq!(ids(&once), ids(&expected));
        let stays = |entry: &&Entry<'_>| {
            let equals = once.iter().filter(|other| say_the_same(entry, other));
            equals.min_by(by_rank).is_some_and(|first| is_one(first, entry))
        };
        let expected: Vec<Entry<'_>> = once.iter().filter(stays).copied().collect();
        let merged = merging::equal_corrections(once.clone(), &mut left_out);
        prop_assert_eq!(ids(&merged), ids(&expected));
        for entry in &merged {
            let equals = || once.iter().filter(|other| say_the_same(entry, other)).map(|other| &other.candidate.pair);
            let people: BTreeSet<_> = equals().map(|pair| &pair.person).collect();
            let repositories: BTreeSet<_> = equals().map(|pair| &pair.repository).collect();
            prop_assert_eq!((entry.people as usize, entry.repositories as usize), (people.len(), repositories.len()));
        }
        prop_assert_eq!(merged.len() + left_out.0.len(), candidates.len());
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
