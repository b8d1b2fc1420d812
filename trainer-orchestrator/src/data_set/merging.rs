//! Equal corrections become one pair that says how many persons stand behind it, and whose weight grows with them alone:
//! whoever makes the same correction on a hundred days has said it once, too. A person's limit would not see to that: it
//! is a share of all pairs, whatever they say.

use std::collections::{HashMap, HashSet};

use events::Sha256Digest;

use super::composition::Reason;
use super::duplicates::rank;
use super::{Entry, LeftOut};

/// Indices of equal corrections. Nearly all stand alone, and allocate nothing.
struct Group {
    first: usize,
    others: Vec<usize>,
}

/// What becomes of an entry.
#[derive(Clone, Copy)]
enum Fate {
    Stays,
    StandsFor { people: u32, repositories: u32 },
    Merged,
}

/// Merges equal corrections into one pair each, whoever made them, where and when.
pub(crate) fn equal_corrections<'a>(entries: Vec<Entry<'a>>, left_out: &mut LeftOut<'a>) -> Vec<Entry<'a>> {
    let mut groups: HashMap<Sha256Digest, Group> = HashMap::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        groups
            .entry(entry.candidate.lesson.correction)
            .and_modify(|group| group.others.push(index))
            .or_insert(Group { first: index, others: Vec::new() });
    }
    let mut fates = vec![Fate::Stays; entries.len()];
    for group in groups.values().filter(|group| !group.others.is_empty()) {
        let indices = || std::iter::once(group.first).chain(group.others.iter().copied());
        let candidates = || indices().map(|index| (index, entries[index].candidate));
        let people: HashSet<_> = candidates().map(|(_, candidate)| &candidate.pair.person).collect();
        let repositories: HashSet<_> = candidates().map(|(_, candidate)| &candidate.pair.repository).collect();
        let Some((best, _)) = candidates().min_by_key(|(_, candidate)| rank(candidate)) else { continue };
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        for index in indices() {
            fates[index] = if index == best {
                Fate::StandsFor { people: count(people.len()), repositories: count(repositories.len()) }
            } else {
                Fate::Merged
            };
        }
    }
    let mut kept = Vec::with_capacity(entries.len());
    for (entry, fate) in entries.into_iter().zip(fates) {
        match fate {
            Fate::Stays => kept.push(entry),
            Fate::StandsFor { people, repositories } => kept.push(Entry { people, repositories, ..entry }),
            Fate::Merged => left_out.leave(entry.candidate, Reason::Merged),
        }
    }
    kept
}
