//! Which event ends which wait, and how long a stage took from there.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::ensure;
use events::wire::{ClientEvent, ClientEventBody};
use events::{EventId, OpportunityId, SessionId};

use crate::series::Series;

/// `anonymizer.settle_s`: quiet after which a group of events is settled, by the client's clock.
const SETTLE_MS: u64 = 10_000;
/// `anonymizer.longest_group_s`.
const LONGEST_GROUP_MS: u64 = 120_000;
/// The look that closes an opportunity.
const LAST_LOOK_S: u32 = 300;

/// When what could be read.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) raw: HashMap<EventId, Instant>,
    pub(crate) clean: HashMap<EventId, Instant>,
    pub(crate) outcomes: HashMap<OpportunityId, Instant>,
}

/// One event as it was reported.
#[derive(Debug, Clone, Copy)]
struct Reported {
    id: EventId,
    due: Instant,
    monotonic_ms: u64,
    /// The opportunity that it closes.
    closes: Option<OpportunityId>,
}

/// What a session has reported, in order.
#[derive(Debug)]
pub(crate) struct Session {
    id: SessionId,
    events: Vec<Reported>,
}

impl Session {
    pub(crate) const fn new(id: SessionId) -> Self {
        Self { id, events: Vec::new() }
    }

    /// A report of these events was due then.
    pub(crate) fn reported(&mut self, due: Instant, events: &[ClientEvent]) {
        for event in events {
            let closes = match &event.body {
                ClientEventBody::RegionLook { suggestion, look_delay_s, .. } => {
                    (*look_delay_s >= LAST_LOOK_S).then_some(suggestion.opportunity_id)
                }
                _ => None,
            };
            let id = EventId::of_client_event(self.id, event.sequence);
            self.events.push(Reported { id, due, monotonic_ms: event.monotonic_ms, closes });
        }
    }

    /// For every event the one that ends its wait in the anonymizer: the first of the next group.
    fn with_ends(&self) -> impl Iterator<Item = (Reported, Reported)> + '_ {
        let mut firsts: Vec<usize> = Vec::new();
        let (mut first_ms, mut last_ms) = (0, 0);
        for (place, event) in self.events.iter().enumerate() {
            let quiet = event.monotonic_ms.saturating_sub(last_ms) > SETTLE_MS;
            let long = event.monotonic_ms.saturating_sub(first_ms) > LONGEST_GROUP_MS;
            if place == 0 || quiet || long {
                firsts.push(place);
                first_ms = event.monotonic_ms;
                last_ms = event.monotonic_ms;
            }
            last_ms = last_ms.max(event.monotonic_ms);
        }
        firsts.windows(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>().into_iter().flat_map(|(first, next)| {
            let end = self.events.get(next).copied();
            let group = self.events.get(first..next).unwrap_or_default();
            group.iter().filter_map(move |event| Some((*event, end?)))
        })
    }
}

/// Milliseconds of every stage.
#[derive(Debug, Default)]
pub(crate) struct Times {
    pub(crate) ingest: Series,
    pub(crate) anonymizer: Series,
    pub(crate) labeler: Series,
    pub(crate) whole: Series,
    /// Waits that were over before the event came that should have ended them.
    pub(crate) by_timer: u64,
}

/// Compares what was reported with what could be read.
///
/// # Errors
/// An event is missing in a topic.
pub(crate) fn times(sessions: &[Session], seen: &Seen) -> anyhow::Result<Times> {
    let mut times = Times::default();
    let milliseconds =
        |from: Instant, to: Instant| to.checked_duration_since(from).map(|time| time.as_secs_f64() * 1000.0);
    let mut missing = 0_u64;
    for session in sessions {
        for event in &session.events {
            match seen.raw.get(&event.id) {
                Some(raw) => times.ingest.push(milliseconds(event.due, *raw).unwrap_or_default()),
                None => missing += 1,
            }
        }
        for (event, end) in session.with_ends() {
            let (Some(ended), Some(clean)) = (seen.raw.get(&end.id), seen.clean.get(&event.id)) else {
                missing += 1;
                continue;
            };
            let Some(anonymizing) = milliseconds(*ended, *clean) else {
                times.by_timer += 1;
                continue;
            };
            times.anonymizer.push(anonymizing);
            let Some(outcome) = event.closes.map(|opportunity| seen.outcomes.get(&opportunity)) else { continue };
            let Some(outcome) = outcome else {
                missing += 1;
                continue;
            };
            times.labeler.push(milliseconds(*clean, *outcome).unwrap_or_default());
            times.whole.push(milliseconds(end.due, *outcome).unwrap_or_default());
        }
    }
    ensure!(missing == 0, "{missing} events or outcomes did not come out");
    ensure!(times.labeler.len() > 0, "no opportunity was closed by an event");
    Ok(times)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use events::wire::SuggestionReference;

    use super::*;

    fn id<T: std::str::FromStr>() -> T
    where
        T::Err: std::fmt::Debug,
    {
        "0190f3c0-7b5a-7c3e-9d51-000000000001".parse().unwrap()
    }

    fn event(sequence: u64, monotonic_ms: u64, look: Option<u32>) -> ClientEvent {
        let suggestion = SuggestionReference { opportunity_id: id(), suggestion_id: None, receipt: None };
        let (path, text) = ("a.rs".to_owned(), String::new());
        let body = match look {
            Some(look_delay_s) => ClientEventBody::RegionLook { suggestion, look_delay_s, path, text },
            None => ClientEventBody::SuggestionShown { suggestion, actions_visible: 1 },
        };
        ClientEvent { sequence, monotonic_ms, body }
    }

    #[test]
    fn a_wait_is_ended_by_the_first_event_of_the_next_group() {
        let (begun, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut session = Session::new(id());
        session.reported(begun, &[event(1, 0, None), event(2, 5_000, None), event(3, 300_000, Some(300))]);
        session.reported(later, &[event(4, 330_000, None)]);
        let of = |sequence| EventId::of_client_event(id(), sequence);
        let ends: Vec<_> = session.with_ends().map(|(event, end)| (event.id, end.id)).collect();
        assert_eq!(ends, [(of(1), of(3)), (of(2), of(3)), (of(3), of(4))]);

        let at = |millis| begun + Duration::from_millis(millis);
        let raw = (1..=4).map(|sequence| (of(sequence), at(if sequence == 4 { 1_010 } else { 10 }))).collect();
        let clean = HashMap::from([(of(1), at(30)), (of(2), at(5)), (of(3), at(1_050))]);
        let seen = Seen { raw, clean, outcomes: HashMap::from([(id(), at(1_080))]) };
        let times = times(&[session], &seen).unwrap();
        let whole = |series: Series| series.into_values().into_iter().map(f64::round).collect::<Vec<_>>();
        assert_eq!((whole(times.anonymizer), times.by_timer), (vec![20.0, 40.0], 1));
        assert_eq!((whole(times.labeler), times.ingest.len()), (vec![30.0], 4));
        assert!((times.whole.maximum() - 80.0).abs() < 1.0);
    }

    #[test]
    fn what_did_not_come_out_is_an_error() {
        let mut session = Session::new(id());
        session.reported(Instant::now(), &[event(1, 0, None)]);
        assert!(times(&[session], &Seen::default()).unwrap_err().to_string().starts_with("1 events"));
    }
}
