//! Equal corrections become one pair that says how many persons stand behind it, and whose weight grows with them alone:
//! whoever makes the same correction on a hundred days has said it once, too. A person's limit would not see to that: it
//! is a share of all pairs, whatever they say.

use std::collections::HashSet;

use super::composition::Reason;
use super::duplicates::{makers, rank};
use super::entry::{Entry, LeftOut};

/// What becomes of an entry.
#[derive(Clone, Copy)]
enum Fate {
    Stays,
    StandsFor { people: u32, repositories: u32 },
    Merged,
}

/// Merges equal corrections into one pair each, whoever made them, where and when.
pub(crate) fn equal_corrections<'a>(entries: Vec<Entry<'a>>, left_out: &mut LeftOut<'a>) -> Vec<Entry<'a>> {
    // Nearly all stand alone.
    let makers = makers(&entries);
    let is_repeated = |entry: &Entry<'a>| makers.get(entry.correction) > 1;
    let mut repeated: Vec<(u32, usize)> = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| is_repeated(entry))
        .map(|(index, entry)| (entry.correction, index))
        .collect();
    repeated.sort_unstable();
    let mut fates = vec![Fate::Stays; entries.len()];
    for group in repeated.chunk_by(|(one, _), (other, _)| one == other) {
        let equals = || group.iter().map(|(_, index)| (*index, &entries[*index]));
        let people: HashSet<u32> = equals().map(|(_, entry)| entry.person).collect();
        let repositories: HashSet<u32> = equals().map(|(_, entry)| entry.repository).collect();
        let Some((best, _)) = equals().min_by_key(|(_, entry)| rank(entry)) else { continue };
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        for (index, _) in equals() {
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
            Fate::Merged => left_out.leave(entry, Reason::Merged),
        }
    }
    kept
}
