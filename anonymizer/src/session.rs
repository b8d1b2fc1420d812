//! The order of one session: what is expected next, what is held, and when what is held may be concluded.
//!
//! Pure bookkeeping without text. Which events form a group depends on sequence numbers and client times alone;
//! partition time decides only when the last group, a gap or a missing exposure is waited for no longer.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use events::{EventId, PersonPseudonym, SessionId, Timestamp};
use serde::{Deserialize, Serialize};
use service::consent::ConsentDecision;

use crate::config::AnonymizerConfig;

/// What is known of a held event without opening it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    #[serde(rename = "r")]
    pub(crate) received_at: Timestamp,
    #[serde(rename = "m")]
    pub(crate) monotonic_ms: i64,
    #[serde(rename = "b")]
    pub(crate) bytes: usize,
    /// The exposure that it should come after.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub(crate) exposure: Option<EventId>,
}

/// Consecutive events that are concluded together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) first: i64,
    pub(crate) last: i64,
    first_monotonic_ms: i64,
    last_monotonic_ms: i64,
    pub(crate) last_received_at: Timestamp,
    bytes: usize,
    /// Nothing joins it any more.
    closed: bool,
}

impl Group {
    fn events(&self) -> usize {
        usize::try_from(self.last - self.first + 1).unwrap_or(usize::MAX)
    }
}

/// An exposure that a held event waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Awaited {
    #[serde(rename = "s")]
    sequence: i64,
    #[serde(rename = "d")]
    due: Timestamp,
}

/// Why a group is concluded before it settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Early {
    Events,
    Bytes,
}

impl Early {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Events => "held_events",
            Self::Bytes => "held_bytes",
        }
    }
}

/// The state of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) person: PersonPseudonym,
    /// Gives held events their ids if they cannot be decoded any more. State of an older release does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session_id: Option<SessionId>,
    pub(crate) forget_at: Timestamp,
    next: i64,
    /// Held events beyond a gap.
    ahead: BTreeMap<i64, Held>,
    groups: VecDeque<Group>,
    awaited: BTreeMap<EventId, Awaited>,
    held_events: usize,
    held_bytes: usize,
    /// When the exposures arrived that are held.
    pub(crate) exposures: BTreeMap<EventId, Timestamp>,
    /// Client time of the first event.
    pub(crate) first_monotonic_ms: Option<i64>,
    /// Until when it may last by what its events say. State of an older release does not say; then its exposures do not
    /// end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    may_last_until: Option<Timestamp>,
    /// Sequence number of the event that ended the session.
    pub(crate) ended_at: Option<i64>,
    /// When that event was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end_received_at: Option<Timestamp>,
    pub(crate) memory_until: Option<Timestamp>,
    /// The person's latest choice seen; control records may be repeated late.
    pub(crate) consent: Option<ConsentDecision>,
    /// The tenant's latest ceiling seen.
    pub(crate) ceiling: Option<ConsentDecision>,
}

impl Session {
    pub(crate) fn new(person: PersonPseudonym, received_at: Timestamp, config: &AnonymizerConfig) -> Self {
        Self {
            person,
            session_id: None,
            forget_at: received_at + config.forget_after(),
            next: 1,
            ahead: BTreeMap::new(),
            groups: VecDeque::new(),
            awaited: BTreeMap::new(),
            held_events: 0,
            held_bytes: 0,
            exposures: BTreeMap::new(),
            first_monotonic_ms: None,
            may_last_until: None,
            ended_at: None,
            end_received_at: None,
            memory_until: None,
            consent: None,
            ceiling: None,
        }
    }

    /// Learns from an event until when the session may last: what is left of its time by the client's clock, which stands
    /// still while a machine sleeps.
    pub(crate) fn goes_on(&mut self, received_at: Timestamp, left: Duration) {
        self.may_last_until = self.may_last_until.max(Some(received_at + left));
    }

    /// When the session was over at the latest, by the clock of those who receive: its end was received, or there was no
    /// time left by any of its events. What is served later is served under the id of a session that ended.
    pub(crate) fn over_at(&self) -> Option<Timestamp> {
        self.end_received_at.into_iter().chain(self.may_last_until).min()
    }

    /// Whether the sequence has gone past this number.
    pub(crate) fn is_past(&self, sequence: i64) -> bool {
        sequence < self.next
    }

    /// Holds an event that is not past and not held yet. Its exposure, if it waits for one, has not arrived.
    pub(crate) fn hold(&mut self, sequence: i64, held: Held, config: &AnonymizerConfig) {
        self.held_events += 1;
        self.held_bytes += held.bytes;
        if let Some(exposure) = held.exposure {
            let due = held.received_at + config.lateness();
            let awaited = self.awaited.entry(exposure).or_insert(Awaited { sequence, due });
            awaited.sequence = awaited.sequence.min(sequence);
        }
        self.ahead.insert(sequence, held);
        self.take_in_order(config);
    }

    /// Holds an exposure; nobody waits for it any more.
    pub(crate) fn hold_exposure(&mut self, event: EventId, received_at: Timestamp, bytes: usize) {
        self.awaited.remove(&event);
        self.exposures.insert(event, received_at);
        self.held_events += 1;
        self.held_bytes += bytes;
    }

    /// An exposure is held no longer.
    pub(crate) fn release_exposure(&mut self, event: EventId, bytes: usize) {
        if self.exposures.remove(&event).is_some() {
            self.held_events = self.held_events.saturating_sub(1);
            self.held_bytes = self.held_bytes.saturating_sub(bytes);
        }
    }

    fn take_in_order(&mut self, config: &AnonymizerConfig) {
        while let Some(held) = self.ahead.remove(&self.next) {
            let settle_ms = i64::try_from(config.settle_s.saturating_mul(1000)).unwrap_or(i64::MAX);
            let longest_ms = i64::try_from(config.longest_group_s.saturating_mul(1000)).unwrap_or(i64::MAX);
            let joins = |group: &&mut Group| {
                !group.closed
                    && held.monotonic_ms.saturating_sub(group.last_monotonic_ms) <= settle_ms
                    && held.monotonic_ms.saturating_sub(group.first_monotonic_ms) <= longest_ms
                    && group.events() < (config.held_events / 2).max(1)
                    && group.bytes + held.bytes <= (config.held_bytes / 2).max(1)
            };
            match self.groups.back_mut().filter(joins) {
                Some(group) => {
                    group.last = self.next;
                    group.last_monotonic_ms = group.last_monotonic_ms.max(held.monotonic_ms);
                    group.last_received_at = group.last_received_at.max(held.received_at);
                    group.bytes += held.bytes;
                }
                None => self.groups.push_back(Group {
                    first: self.next,
                    last: self.next,
                    first_monotonic_ms: held.monotonic_ms,
                    last_monotonic_ms: held.monotonic_ms,
                    last_received_at: held.received_at,
                    bytes: held.bytes,
                    closed: false,
                }),
            }
            self.next = self.next.saturating_add(1);
        }
    }

    /// Whether more is held than allowed.
    pub(crate) fn over_bounds(&self, config: &AnonymizerConfig) -> Option<Early> {
        if self.held_events > config.held_events {
            Some(Early::Events)
        } else if self.held_bytes > config.held_bytes {
            Some(Early::Bytes)
        } else {
            None
        }
    }

    /// Gives the oldest gap up, when it was waited for long enough or `force`d, and says how many events are missing.
    pub(crate) fn skip_gap(&mut self, time: Timestamp, force: bool, config: &AnonymizerConfig) -> Option<u64> {
        if !(force || self.gap_due(config).is_some_and(|due| due <= time)) {
            return None;
        }
        let (&first, _) = self.ahead.first_key_value()?;
        let missing = u64::try_from(first - self.next).unwrap_or(0);
        if let Some(group) = self.groups.back_mut() {
            // Groups are consecutive, so that their events can be counted by number.
            group.closed = true;
        }
        self.next = first;
        self.take_in_order(config);
        Some(missing)
    }

    /// Takes the oldest group out, when it may be concluded, or `force`d.
    pub(crate) fn conclude(&mut self, time: Timestamp, force: bool, config: &AnonymizerConfig) -> Option<Group> {
        if !(force || self.group_due(config).is_some_and(|due| due <= time)) {
            return None;
        }
        let group = self.groups.pop_front()?;
        self.awaited.retain(|_, awaited| awaited.sequence > group.last);
        self.held_events = self.held_events.saturating_sub(group.events());
        self.held_bytes = self.held_bytes.saturating_sub(group.bytes);
        Some(group)
    }

    /// Whether exposures wait that no held client event precedes, and are settled.
    pub(crate) fn lone_exposures_due(&self, config: &AnonymizerConfig) -> Option<Timestamp> {
        if !self.groups.is_empty() || !self.ahead.is_empty() {
            return None;
        }
        self.exposures.values().min().map(|received_at| *received_at + config.settle())
    }

    /// When there is something to do if nothing arrives.
    pub(crate) fn next_wake(&self, config: &AnonymizerConfig) -> Timestamp {
        [self.gap_due(config), self.group_due(config), self.lone_exposures_due(config), self.memory_until]
            .into_iter()
            .flatten()
            .fold(self.forget_at, Timestamp::min)
    }

    fn gap_due(&self, config: &AnonymizerConfig) -> Option<Timestamp> {
        self.ahead.values().map(|held| held.received_at).min().map(|oldest| oldest + config.lateness())
    }

    fn group_due(&self, config: &AnonymizerConfig) -> Option<Timestamp> {
        let group = self.groups.front()?;
        let settled = if group.closed || self.groups.len() > 1 {
            Timestamp::EPOCH
        } else {
            group.last_received_at + config.settle()
        };
        let awaited = self.awaited.values().filter(|awaited| awaited.sequence <= group.last).map(|awaited| awaited.due);
        Some(awaited.fold(settled, Timestamp::max))
    }
}
