//! The same correction of one person on one day counts once: who does the same thing all day long has said it once.

use std::cmp::Reverse;
use std::collections::HashMap;

use events::{PairId, Timestamp};

use super::composition::Reason;
use super::entry::{ByNumber, Entry, LeftOut};

/// Of equal corrections the first by this stands for all: the one of the greatest weight, then the oldest.
pub(crate) fn rank(entry: &Entry<'_>) -> (Reverse<u64>, Timestamp, PairId) {
    // The bits of numbers that are not negative are in the order of the numbers.
    (Reverse(entry.weight.max(0.0).to_bits()), entry.opened_at, entry.candidate.pair.pair_id)
}

/// How many of `entries` make each correction.
pub(crate) fn makers(entries: &[Entry<'_>]) -> ByNumber<u32> {
    let mut counts: ByNumber<u32> = ByNumber::default();
    for entry in entries {
        *counts.of(entry.correction) += 1;
    }
    counts
}

/// Leaves one pair of every correction, person and day (UTC, by when the opportunity opened).
pub(crate) fn within_person_and_day<'a>(entries: Vec<Entry<'a>>, left_out: &mut LeftOut<'a>) -> Vec<Entry<'a>> {
    let key = |entry: &Entry<'a>| (entry.correction, entry.opened_at.day(), entry.person);
    // Most corrections are made once, and no duplicate of anything.
    let makers = makers(&entries);
    let is_repeated = |entry: &Entry<'a>| makers.get(entry.correction) > 1;
    let mut first: HashMap<_, Entry<'a>> = HashMap::new();
    for entry in entries.iter().filter(|entry| is_repeated(entry)) {
        first
            .entry(key(entry))
            .and_modify(|known| {
                if rank(entry) < rank(known) {
                    *known = *entry;
                }
            })
            .or_insert(*entry);
    }
    left_out.retain(entries, |entry| {
        if !is_repeated(entry) {
            return Ok(());
        }
        match first.get(&key(entry)) {
            Some(known) if known.candidate.pair.pair_id != entry.candidate.pair.pair_id => Err(Reason::Duplicate),
            _ => Ok(()),
        }
    })
}
