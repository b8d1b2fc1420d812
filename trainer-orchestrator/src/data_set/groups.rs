//! A set told apart by what its pairs are about, as far as no person can be told from it.

use std::collections::BTreeMap;

use events::EditPattern;
use labeler::crowd::{Crowd, Told, along, apart};
use serde::{Deserialize, Serialize};

use super::entry::Entry;

/// Where buckets of lengths begin, after the first one, in characters.
const LENGTHS: [u32; 6] = [1, 16, 64, 256, 1024, 4096];

/// What a pair is called that wants no change.
const NO_EDIT: &str = "no_edit";

/// Pairs that have something in common, of at least five persons.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupCount {
    /// What they have in common.
    pub name: String,
    /// How many there are.
    pub pairs: usize,
    /// Of them, by the row of the label table; rows of fewer than five persons are merged.
    pub by_reason: BTreeMap<String, usize>,
}

/// A set told apart. Each list adds up to the pairs that have what it tells apart, and is empty where fewer than five
/// persons stand behind all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SetGroups {
    /// By the row of the label table.
    pub reasons: Vec<GroupCount>,
    /// By language.
    pub languages: Vec<GroupCount>,
    /// By what was wanted (of a rejection alone: by what was not): `insert`, `delete`, `replace`, `several_places` or
    /// `no_edit`.
    pub patterns: Vec<GroupCount>,
    /// By the characters that the chosen side writes from the divergence on.
    pub chosen_characters: Vec<GroupCount>,
    /// By those of the rejected side.
    pub rejected_characters: Vec<GroupCount>,
}

/// Persons by their numbers, each one bit.
#[derive(Default)]
struct Persons(Vec<u64>);

impl Persons {
    fn insert(&mut self, person: u32) {
        let word = (person / u64::BITS) as usize;
        self.make_room(word + 1);
        self.0[word] |= 1_u64 << (person % u64::BITS);
    }

    fn make_room(&mut self, words: usize) {
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
    }

    fn merge(&mut self, others: &Self) {
        self.make_room(others.0.len());
        for (own, theirs) in self.0.iter_mut().zip(&others.0) {
            *own |= theirs;
        }
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

#[derive(Default)]
struct PairsOfReason {
    persons: Persons,
    pairs: usize,
}

impl Crowd for PairsOfReason {
    fn persons(&self) -> usize {
        self.persons.count()
    }

    fn merge(&mut self, others: Self) {
        self.persons.merge(&others.persons);
        self.pairs += others.pairs;
    }
}

#[derive(Default)]
struct Pairs {
    persons: Persons,
    by_reason: BTreeMap<&'static str, PairsOfReason>,
}

impl Pairs {
    fn add(&mut self, person: u32, reason: &'static str) {
        self.persons.insert(person);
        let of_reason = self.by_reason.entry(reason).or_default();
        of_reason.persons.insert(person);
        of_reason.pairs += 1;
    }
}

impl Crowd for Pairs {
    fn persons(&self) -> usize {
        self.persons.count()
    }

    fn merge(&mut self, others: Self) {
        self.persons.merge(&others.persons);
        for (reason, pairs) in others.by_reason {
            self.by_reason.entry(reason).or_default().merge(pairs);
        }
    }
}

fn count(name: String, told: Told<Pairs>) -> GroupCount {
    let reasons = apart(told.crowd.by_reason.into_iter().map(|(reason, pairs)| (reason.to_owned(), pairs)));
    let by_reason: BTreeMap<String, usize> =
        reasons.into_iter().map(|told| (told.name().to_owned(), told.crowd.pairs)).collect();
    GroupCount { name, pairs: by_reason.values().sum(), by_reason }
}

/// The largest first.
fn unordered<K: ToString>(groups: BTreeMap<K, Pairs>) -> Vec<GroupCount> {
    let told = apart(groups.into_iter().map(|(name, pairs)| (name.to_string(), pairs)));
    let mut counts: Vec<GroupCount> = told.into_iter().map(|told| count(told.name().to_owned(), told)).collect();
    counts.sort_by_key(|count| std::cmp::Reverse(count.pairs));
    counts
}

fn ordered(groups: BTreeMap<usize, Pairs>) -> Vec<GroupCount> {
    let told = along(groups.into_iter().map(|(bucket, pairs)| (length_name(bucket), pairs)));
    told.into_iter().map(|told| count(told.span(), told)).collect()
}

fn length_bucket(characters: u32) -> usize {
    LENGTHS.partition_point(|begin| *begin <= characters)
}

fn length_name(bucket: usize) -> String {
    let begin = bucket.checked_sub(1).and_then(|before| LENGTHS.get(before)).copied().unwrap_or(0);
    match LENGTHS.get(bucket) {
        Some(end) if end - begin == 1 => begin.to_string(),
        Some(end) => format!("{begin}-{}", end - 1),
        None => format!("{begin} and more"),
    }
}

impl SetGroups {
    pub(crate) fn of(entries: &[Entry<'_>]) -> Self {
        let [mut reasons, mut languages, mut patterns]: [BTreeMap<&str, Pairs>; 3] = Default::default();
        let (mut chosen, mut rejected): (BTreeMap<usize, Pairs>, BTreeMap<usize, Pairs>) = Default::default();
        for entry in entries {
            let (pair, lesson) = (&entry.candidate.pair, &entry.candidate.lesson);
            let person = entry.person;
            let reason = pair.reason.as_str();
            reasons.entry(reason).or_default().add(person, reason);
            languages.entry(pair.language.as_str()).or_default().add(person, reason);
            let pattern = lesson.pattern.map_or(NO_EDIT, EditPattern::as_str);
            patterns.entry(pattern).or_default().add(person, reason);
            for (lengths, characters) in
                [(&mut chosen, lesson.chosen_characters), (&mut rejected, lesson.rejected_characters)]
            {
                if let Some(characters) = characters {
                    lengths.entry(length_bucket(characters)).or_default().add(person, reason);
                }
            }
        }
        Self {
            reasons: unordered(reasons),
            languages: unordered(languages),
            patterns: unordered(patterns),
            chosen_characters: ordered(chosen),
            rejected_characters: ordered(rejected),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn persons_are_a_set(
            own in prop::collection::vec(0..300_u32, 0..40),
            others in prop::collection::vec(0..300_u32, 0..40),
        ) {
            let (mut persons, mut more) = (Persons::default(), Persons::default());
            own.iter().for_each(|person| persons.insert(*person));
            others.iter().for_each(|person| more.insert(*person));
            prop_assert_eq!(persons.count(), own.iter().collect::<BTreeSet<_>>().len());
            persons.merge(&more);
            prop_assert_eq!(persons.count(), own.iter().chain(&others).collect::<BTreeSet<_>>().len());
        }
    }

    #[test]
    fn lengths_fall_into_buckets_that_say_so() {
        let name = |characters| length_name(length_bucket(characters));
        let names = [0, 1, 15, 16, 1023, 1024, 5000].map(name);
        assert_eq!(names, ["0", "1-15", "1-15", "16-63", "256-1023", "1024-4095", "4096 and more"]);
    }
}
