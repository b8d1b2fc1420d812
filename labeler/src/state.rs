//! Keyed state of a session. What was read is kept as it was read (Avro, text sealed), so that a label is a function of
//! events and not of what an earlier release made of them; only small bookkeeping is our own.
//!
//! Names: `session` (bookkeeping), `f/OPPORTUNITY/...` (exposures and signals), `e/...` (edits of the session),
//! `c/OPPORTUNITY` (closed).

use std::collections::BTreeMap;

use bus::StepContext;
use bytes::Bytes;
use events::{OpportunityId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// Name of the bookkeeping.
pub(crate) const SESSION: &str = "session";
/// Name of the timer that forgets a session.
pub(crate) const FORGET_TIMER: &str = "forget";
const CLOSE_TIMER: &str = "close/";
/// Prefix of the edits of a session.
pub(crate) const EDITS: &str = "e/";

/// How many ranges of numbers a session remembers. Up to where more of them were, it is only known that reports are
/// missing.
const MOST_RANGES: usize = 64;

/// An opportunity that is open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Open {
    /// When serving signed its first answer.
    pub issued_at: Timestamp,
    /// Client's time of the decision, once a signal told.
    pub opened_ms: Option<i64>,
    /// Whether its pair was emitted, or it is certain that there is none.
    pub concluded: bool,
    /// Whether something was reported since it was last judged.
    pub unjudged: bool,
    /// Bytes of its entries.
    pub bytes: usize,
}

/// Bookkeeping of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SessionState {
    pub tenant: TenantId,
    pub open: BTreeMap<OpportunityId, Open>,
    /// Latest time of the client's clock.
    pub latest_ms: i64,
    /// Client's time of the last edit.
    pub last_edit_ms: Option<i64>,
    pub latest_received_at: Timestamp,
    /// Client's time and `received_at` of the session's end.
    pub ended: Option<(i64, Timestamp)>,
    pub edits: usize,
    pub edit_bytes: usize,
    /// Numbers of the client's events that came: first and last of ranges that do not touch, in order. A release before
    /// this one leaves it out; then it begins anew, which makes no gap.
    #[serde(default)]
    pub received: Vec<(i64, i64)>,
    /// The first number behind the ranges that are not remembered any more: before each number up to it a report may be
    /// missing.
    #[serde(default)]
    pub forgotten_until: Option<i64>,
}

/// State that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Undecodable(pub String);

impl SessionState {
    pub(crate) fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            open: BTreeMap::new(),
            latest_ms: 0,
            last_edit_ms: None,
            latest_received_at: Timestamp::EPOCH,
            ended: None,
            edits: 0,
            edit_bytes: 0,
            received: Vec::new(),
            forgotten_until: None,
        }
    }

    /// A client's event of that number came.
    pub(crate) fn note(&mut self, sequence: i64) {
        let at = self.received.partition_point(|(_, last)| last.saturating_add(1) < sequence);
        match self.received.get_mut(at) {
            Some((first, last)) if first.saturating_sub(1) <= sequence => {
                *first = sequence.min(*first);
                *last = sequence.max(*last);
            }
            _ => self.received.insert(at, (sequence, sequence)),
        }
        if let (Some((_, last)), Some((next_first, next_last))) =
            (self.received.get(at).copied(), self.received.get(at + 1).copied())
            && next_first <= last.saturating_add(1)
        {
            self.received[at].1 = last.max(next_last);
            self.received.remove(at + 1);
        }
        if self.received.len() > MOST_RANGES {
            self.received.remove(0);
            self.forgotten_until = self.forgotten_until.max(self.received.first().map(|(first, _)| *first));
        }
    }

    /// Numbers that came although the ones before them are missing, in order. Of the numbers of which that is not known
    /// any more, those that are asked about count as such.
    pub(crate) fn gaps(&self, asked: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let known = self.received.iter().skip(1).map(|(first, _)| *first);
        let forgotten = asked.into_iter().filter(|number| Some(*number) <= self.forgotten_until);
        let mut gaps: Vec<i64> = known.chain(forgotten).chain(self.forgotten_until).collect();
        gaps.sort_unstable();
        gaps.dedup();
        gaps
    }

    pub(crate) fn load(context: &mut dyn StepContext) -> Result<Option<Self>, Undecodable> {
        let Some(bytes) = context.get(SESSION) else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| Undecodable(SESSION.to_owned()))
    }

    pub(crate) fn store(&self, context: &mut dyn StepContext) {
        // Maps with string keys, numbers and ids always serialize.
        if let Ok(bytes) = serde_json::to_vec(self) {
            context.put(SESSION, Bytes::from(bytes));
        }
    }

    /// Bytes of records kept of the session.
    pub(crate) fn bytes(&self) -> usize {
        self.open.values().map(|open| open.bytes).sum::<usize>() + self.edit_bytes
    }

    /// Removes the oldest edits until both bounds hold, and those too old for any opportunity.
    pub(crate) fn prune_edits(&mut self, context: &mut dyn StepContext, bounds: &EditBounds) {
        let oldest_ms = self.latest_ms.saturating_sub(bounds.age_ms);
        for name in context.names(EDITS) {
            let too_old = edit_of(&name).is_some_and(|(_, monotonic_ms)| monotonic_ms < oldest_ms);
            if !too_old && self.edits <= bounds.count && self.edit_bytes <= bounds.bytes {
                break;
            }
            let bytes = context.get(&name).map_or(0, |value| value.len());
            context.delete(&name);
            self.edits = self.edits.saturating_sub(1);
            self.edit_bytes = self.edit_bytes.saturating_sub(bytes);
        }
    }
}

/// How many edits a session keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EditBounds {
    pub count: usize,
    pub bytes: usize,
    pub age_ms: i64,
}

/// Name of an edit; sorts as the client's order does.
pub(crate) fn edit_name(sequence: i64, monotonic_ms: i64) -> String {
    format!("{EDITS}{sequence:019}/{monotonic_ms:019}")
}

/// The number and the client's time of an edit, as its name says them.
pub(crate) fn edit_of(name: &str) -> Option<(i64, i64)> {
    let (sequence, monotonic_ms) = name.strip_prefix(EDITS)?.split_once('/')?;
    Some((sequence.parse().ok()?, monotonic_ms.parse().ok()?))
}

/// Prefix of everything reported about an opportunity.
pub(crate) fn facts_prefix(opportunity: OpportunityId) -> String {
    format!("f/{opportunity}/")
}

/// Name of one event about an opportunity.
pub(crate) fn fact_name(opportunity: OpportunityId, sequence: i64, event: events::EventId) -> String {
    format!("f/{opportunity}/{sequence:019}/{event}")
}

/// Name of the mark that an opportunity is closed.
pub(crate) fn closed_name(opportunity: OpportunityId) -> String {
    format!("c/{opportunity}")
}

/// Name of the timer that closes an opportunity.
pub(crate) fn close_timer(opportunity: OpportunityId) -> String {
    format!("{CLOSE_TIMER}{opportunity}")
}

/// The opportunity that a timer closes.
pub(crate) fn opportunity_of_timer(name: &str) -> Option<OpportunityId> {
    name.strip_prefix(CLOSE_TIMER)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gaps_are_where_numbers_are_missing(numbers in prop::collection::vec(1_i64..40, 0..60)) {
            let mut session = SessionState::new(TenantId::default());
            for number in &numbers {
                session.note(*number);
            }
            let came = |number: i64| numbers.contains(&number);
            let first = numbers.iter().min().copied().unwrap_or(0);
            let expected: Vec<i64> = (first + 1..40).filter(|number| came(*number) && !came(number - 1)).collect();
            prop_assert_eq!(session.gaps(1..40), expected);
        }
    }

    proptest! {
        #[test]
        fn the_name_of_an_edit_says_its_number_and_time(sequence: i64, monotonic_ms: i64) {
            prop_assert_eq!(edit_of(&edit_name(sequence, monotonic_ms)), Some((sequence, monotonic_ms)));
        }
    }

    #[test]
    fn what_is_remembered_of_numbers_is_bounded() {
        let mut session = SessionState::new(TenantId::default());
        for number in [i64::MAX, i64::MIN].into_iter().chain((0..1_000).map(|number| number * 2)) {
            session.note(number);
        }
        assert!(session.received.len() <= MOST_RANGES);
    }

    #[test]
    fn a_gap_that_is_not_remembered_is_one_before_every_number() {
        let mut session = SessionState::new(TenantId::default());
        let most = i64::try_from(MOST_RANGES).unwrap();
        for number in 0..most {
            session.note(number * 10);
        }
        let known: Vec<i64> = (1..most).map(|number| number * 10).collect();
        assert_eq!(session.gaps([0, 5, 25]), known);
        session.note(most * 10);
        let more = [vec![0, 5], known, vec![most * 10]].concat();
        assert_eq!(session.gaps([0, 5, 25]), more);
        // What came late, behind what is not remembered, closes no gap.
        session.note(1);
        assert_eq!(session.gaps([0, 5, 25]), more);
    }
}
