//! The same correction of one person on one day counts once: who does the same thing all day long has said it once.

use std::cmp::Reverse;
use std::collections::HashMap;

use events::{PairId, Timestamp};

use super::composition::Reason;
use super::{Candidate, Entry, LeftOut};

/// Of equal corrections the first by this stands for all: the one of the greatest weight, then the oldest.
pub(crate) fn rank(candidate: &Candidate) -> (Reverse<u64>, Timestamp, PairId) {
    let pair = &candidate.pair;
    // The bits of numbers that are not negative are in the order of the numbers.
    (Reverse(pair.weight.max(0.0).to_bits()), pair.opened_at, pair.pair_id)
}

/// Leaves one pair of every correction, person and day (UTC, by when the opportunity opened).
pub(crate) fn within_person_and_day<'a>(entries: Vec<Entry<'a>>, left_out: &mut LeftOut<'a>) -> Vec<Entry<'a>> {
    let key = |candidate: &'a Candidate| {
        (candidate.lesson.correction, candidate.pair.opened_at.day(), &candidate.pair.person)
    };
    let mut first: HashMap<_, &'a Candidate> = HashMap::with_capacity(entries.len());
    for entry in &entries {
        first
            .entry(key(entry.candidate))
            .and_modify(|known| {
                if rank(entry.candidate) < rank(known) {
                    *known = entry.candidate;
                }
            })
            .or_insert(entry.candidate);
    }
    left_out.retain(entries, |entry| match first.get(&key(entry.candidate)) {
        Some(known) if known.pair.pair_id != entry.candidate.pair.pair_id => Err(Reason::Duplicate),
        _ => Ok(()),
    })
}
