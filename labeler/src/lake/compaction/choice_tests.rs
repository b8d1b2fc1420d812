use events::{Sha256Digest, TenantId};
use proptest::prelude::*;

use super::*;

const DAY_SECONDS: i64 = 24 * 3600;

fn config() -> CompactionConfig {
    CompactionConfig { parts: 4, part_bytes: 6_400, part_pairs: 1_000, ..CompactionConfig::default() }
}

fn part(number: usize, day: i64, language: Option<&str>, bytes: u64) -> LakePart {
    let group = language.map(|language| PartGroup {
        day,
        audience: "everyone".parse().unwrap(),
        language: language.to_owned(),
    });
    let at = Timestamp::from_seconds(day * DAY_SECONDS);
    LakePart {
        part_id: format!("part {number:04}"),
        tenant: TenantId::default(),
        topic: "preference.pairs.v1".to_owned(),
        partition: 0,
        first_position: format!("{number:020}"),
        last_position: format!("{number:020}"),
        digest: Sha256Digest::of(&number.to_be_bytes()),
        pairs: bytes / 100 + 1,
        bytes,
        min_labeled_at: at,
        max_labeled_at: at,
        group,
        generation: 0,
        erasures: 0,
    }
}

/// What is to be done by the labels alone.
fn chosen(parts: &[LakePart], config: &CompactionConfig, erasures: u64, left_alone: &BTreeSet<String>) -> Vec<Job> {
    choose(parts, config, erasures, left_alone, Timestamp::EPOCH)
}

fn none() -> BTreeSet<String> {
    BTreeSet::new()
}

#[test]
fn of_today_many_small_parts_are_merged_and_of_an_earlier_day_two() {
    let of = |day, count: usize| (0..count).map(|number| part(number, day, Some("rust"), 50)).collect::<Vec<_>>();
    assert_eq!(chosen(&of(9, 3), &config(), 0, &none()), []);
    let jobs = chosen(&of(9, 4), &config(), 0, &none());
    assert_eq!((jobs.len(), jobs[0].reason, jobs[0].parts.len()), (1, Reason::Merge, 4));
    let mut parts = of(8, 2);
    parts.push(part(9, 9, Some("rust"), 50));
    let jobs = chosen(&parts, &config(), 0, &none());
    assert_eq!((jobs.len(), jobs[0].parts.len()), (1, 2));
    let left_alone = [parts[0].part_id.clone()].into_iter().collect();
    assert_eq!(chosen(&parts, &config(), 0, &left_alone), []);
}

#[test]
fn a_large_part_is_not_written_again_for_a_few_small_ones() {
    let mut parts: Vec<_> = (0..4).map(|number| part(number, 9, Some("rust"), 50)).collect();
    parts.push(part(4, 9, Some("rust"), 3_000));
    let jobs = chosen(&parts, &config(), 0, &none());
    assert_eq!(jobs[0].parts, parts[..4]);
    // Small ones that are no smaller than each other, behind one that is much smaller.
    let parts = [10, 1_000, 1_000, 1_000, 1_000].into_iter().enumerate();
    let parts: Vec<_> = parts.map(|(number, bytes)| part(number, 9, Some("rust"), bytes)).collect();
    assert_eq!(chosen(&parts, &config(), 0, &none())[0].parts.len(), 5 - 1);
}

#[test]
fn parts_of_several_groups_are_split_soon_or_when_their_day_is_over() {
    let mut parts: Vec<_> = (0..3).map(|number| part(number, 9, None, 100)).collect();
    assert_eq!(chosen(&parts, &config(), 0, &none()), []);
    parts.push(part(3, 10, Some("rust"), 100));
    let jobs = chosen(&parts, &config(), 0, &none());
    assert_eq!((jobs.len(), jobs[0].reason, jobs[0].parts.len()), (1, Reason::Split, 3));
    // One that is larger than a part should be is split all the same.
    let parts = [part(0, 9, None, 60_000), part(1, 10, Some("rust"), 100)];
    assert_eq!(chosen(&parts, &config(), 0, &none())[0].parts.len(), 1);
}

#[test]
fn after_an_erasure_every_settled_part_is_looked_at_once() {
    let mut parts = vec![part(0, 8, Some("rust"), 5_000), part(1, 9, Some("rust"), 5_000)];
    parts[1].generation = 1;
    parts.push(part(2, 9, Some("rust"), 5_000));
    let jobs = chosen(&parts, &config(), 3, &none());
    let looked_at: Vec<&str> = jobs.iter().map(|job| job.parts[0].part_id.as_str()).collect();
    assert!(jobs.iter().all(|job| job.reason == Reason::Erase && job.parts.len() == 1));
    assert_eq!(looked_at, ["part 0000", "part 0001"], "what is new is merged first");
    parts.iter_mut().for_each(|part| part.erasures = 3);
    assert_eq!(chosen(&parts, &config(), 3, &none()), []);
}

#[test]
fn a_day_after_which_nobody_works_is_over_as_well() {
    let on = |day| Timestamp::from_seconds(day * DAY_SECONDS);
    let two: Vec<_> = (0..2).map(|number| part(number, 9, Some("rust"), 50)).collect();
    let large = vec![part(0, 9, Some("rust"), 5_000)];
    for day in [9, 10] {
        assert_eq!(choose(&two, &config(), 0, &none(), on(day)), []);
        assert_eq!(choose(&large, &config(), 3, &none(), on(day)), []);
    }
    let reason = |parts: &[LakePart], erasures| choose(parts, &config(), erasures, &none(), on(11))[0].reason;
    assert_eq!(reason(&two, 0), Reason::Merge);
    // Else the pairs of an erased person would stay for as long as nobody makes others.
    assert_eq!(reason(&large, 3), Reason::Erase);
}

/// What the lake holds after a job that merges.
fn merged(parts: &[LakePart], job: &Job, number: usize) -> Vec<LakePart> {
    let mut after: Vec<LakePart> = parts.iter().filter(|part| !job.parts.contains(part)).cloned().collect();
    let first = &job.parts[0];
    let sum = |of: fn(&LakePart) -> u64| job.parts.iter().map(of).sum::<u64>();
    after.push(LakePart {
        part_id: format!("merged {number:04}"),
        bytes: sum(|part| part.bytes),
        pairs: sum(|part| part.pairs),
        generation: job.parts.iter().map(|part| part.generation).max().unwrap() + 1,
        ..first.clone()
    });
    after
}

proptest! {
    #[test]
    fn merging_ends_and_writes_nothing_again_in_vain(
        sizes in prop::collection::vec((1..4_000_u64, 7..10_i64, 0..2_usize), 1..120),
    ) {
        let config = config();
        let new = sizes.iter().enumerate();
        let languages = ["rust", "python"];
        let mut parts: Vec<_> = new
            .map(|(number, (bytes, day, language))| part(number, *day, Some(languages[*language]), *bytes))
            .collect();
        let count = parts.len();
        let mut number = 0;
        loop {
            let jobs = chosen(&parts, &config, 0, &none());
            if jobs.is_empty() {
                break;
            }
            let mut seen = BTreeSet::new();
            for job in jobs {
                prop_assert!(job.reason == Reason::Merge && job.parts.len() > 1);
                let bytes: u64 = job.parts.iter().map(|part| part.bytes).sum();
                let pairs: u64 = job.parts.iter().map(|part| part.pairs).sum();
                prop_assert!(bytes <= config.part_bytes && pairs <= config.part_pairs);
                let today = parts.iter().map(|part| part.max_labeled_at.day()).max().unwrap();
                for part in &job.parts {
                    prop_assert!(seen.insert(part.part_id.clone()), "one part in two jobs");
                    prop_assert_eq!(&part.group, &job.parts[0].group);
                    let is_over = part.group.as_ref().unwrap().day < today;
                    prop_assert!(is_over || part.bytes <= config.part_bytes / 64 || 2 * bytes >= 3 * part.bytes);
                }
                parts = merged(&parts, &job, number);
                number += 1;
                prop_assert!(number < count, "each merging makes at least one part fewer");
            }
        }
        let today = parts.iter().map(|part| part.max_labeled_at.day()).max().unwrap();
        for day in 7..today {
            for language in languages {
                let is_small = |part: &&LakePart| {
                    let is_of = |group: &PartGroup| group.day == day && group.language == language;
                    part.group.as_ref().is_some_and(is_of)
                        && part.bytes < config.part_bytes / 2
                        && part.pairs < config.part_pairs / 2
                };
                prop_assert!(parts.iter().filter(is_small).count() <= 1);
            }
        }
    }
}
