//! From the events kept in state to a story: decoded, opened, in the client's order.
//!
//! An opportunity is looked at several times, and what was kept of it changes by an event or two in between. So events
//! are remembered as they were decoded and opened. That is no state: what is remembered of a value counts for the same
//! bytes alone, and only while its person's key is there, so a story is the same with it and without. What nobody asks for
//! goes in time: text must not outlive its key because there is room for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{RecordKey, StepContext};
use bytes::Bytes;
use events::avro::{self, AvroError};
use events::topics::TELEMETRY_CLEAN;
use events::{
    CleanEvent, EventKind, EventText, KeyId, OffsetEncoding, OpportunityId, Origin, Receipt, SessionId, SuggestionId,
    Timestamp,
};
use parking_lot::Mutex;

use crate::keys::{LoadedKeys, Unloaded};
use crate::state::{EDITS, SessionState, edit_of, facts_prefix};
use crate::story::{Answer, EditText, ExposureText, Fact, Story, What, opened_ms};

/// Why a story cannot be read now.
pub(crate) enum ReadError {
    /// A key must be loaded first, or a newer release must read it.
    Unloaded(Unloaded),
    /// The state of that name is not what was put there.
    Undecodable(String),
}

/// How long before the first signal an edit that came from the suggestion may have been made.
const EDIT_MARGIN_MS: i64 = 10_000;

/// Bytes that are remembered of events, about, by all partitions together.
const REMEMBERED_BYTES: usize = 32 << 20;

/// Bytes that an event costs besides what it holds, which is there sealed and opened.
const REMEMBERED_OVERHEAD: usize = 1 << 10;

/// How long is remembered what nobody asks for, at most. The first input after that ends it, and the last one of every
/// session is the timer that forgets it. Half of it is longer than most opportunities are open.
const REMEMBERED_FOR: Duration = Duration::from_secs(20 * 60);

/// What a story needs of an event.
struct Report {
    session_id: SessionId,
    /// The key that its text is sealed under.
    key_id: Option<KeyId>,
    receipt: Option<Receipt>,
    encoding: OffsetEncoding,
    received_at: Timestamp,
    is_exposure: bool,
    exposure: Option<ExposureText>,
    fact: Option<Fact>,
}

/// Whose state, and its name there.
type Place = (RecordKey, String);

#[derive(Clone)]
struct Read {
    /// What was decoded.
    value: Bytes,
    report: Arc<Report>,
}

impl Read {
    fn bytes(&self) -> usize {
        REMEMBERED_OVERHEAD + 2 * self.value.len()
    }
}

/// Events as they were read, bounded: when the young ones fill half of it, or half of the time is over, they become the
/// old ones, and those that nobody asked for since the last time are dropped.
#[derive(Default)]
pub(crate) struct Remembered {
    young: HashMap<Place, Read>,
    young_bytes: usize,
    /// When the time of the young ones began.
    young_since: Option<Instant>,
    old: HashMap<Place, Read>,
}

impl Remembered {
    /// Drops what nobody asked for in time. In real time: erasures wait for no log.
    pub(crate) fn grow_old(&mut self, now: Instant) {
        let age = now.saturating_duration_since(*self.young_since.get_or_insert(now));
        if age < REMEMBERED_FOR / 2 {
            return;
        }
        self.young_since = Some(now);
        self.turn();
        if age >= REMEMBERED_FOR {
            self.old = HashMap::new();
        }
    }

    fn turn(&mut self) {
        self.young_bytes = 0;
        self.old = std::mem::take(&mut self.young);
    }

    fn get(&mut self, place: &Place) -> Option<Read> {
        if let Some(read) = self.young.get(place) {
            return Some(read.clone());
        }
        let (place, read) = self.old.remove_entry(place)?;
        self.insert(place, read.clone());
        Some(read)
    }

    fn insert(&mut self, place: Place, read: Read) {
        self.remove(&place);
        if self.young_bytes + read.bytes() > REMEMBERED_BYTES / 2 {
            self.turn();
        }
        self.young_bytes += read.bytes();
        self.young.insert(place, read);
    }

    fn remove(&mut self, place: &Place) {
        if let Some(read) = self.young.remove(place) {
            self.young_bytes -= read.bytes();
        }
        self.old.remove(place);
    }
}

/// Reads stories.
#[derive(Clone, Copy)]
pub(crate) struct StoryReader<'a> {
    keys: &'a LoadedKeys,
    remembered: &'a Mutex<Remembered>,
}

impl<'a> StoryReader<'a> {
    pub(crate) fn new(keys: &'a LoadedKeys, remembered: &'a Mutex<Remembered>) -> Self {
        Self { keys, remembered }
    }

    /// The story of an opportunity; none when nothing of it is kept.
    pub(crate) fn read(
        self,
        session: &SessionState,
        context: &mut dyn StepContext,
        opportunity: OpportunityId,
    ) -> Result<Option<Story>, ReadError> {
        let mut answers: BTreeMap<Option<SuggestionId>, Answer> = BTreeMap::new();
        let mut facts = Vec::new();
        let mut key_id = None;
        let mut session_id = None;
        let key = context.key();
        for (name, value) in context.entries(&facts_prefix(opportunity)) {
            let report = self.report((key, name), value)?;
            session_id = Some(report.session_id);
            key_id = key_id.or(report.key_id);
            let Some(receipt) = &report.receipt else { continue };
            let answer = answers.entry(receipt.suggestion_id).or_insert_with(|| Answer {
                receipt: receipt.clone(),
                encoding: report.encoding,
                exposed: false,
                first_received_at: report.received_at,
                text: None,
            });
            if report.is_exposure {
                answer.exposed = true;
                answer.encoding = report.encoding;
                answer.first_received_at = report.received_at;
                answer.text.clone_from(&report.exposure);
                key_id = report.key_id.or(key_id);
            } else if !answer.exposed {
                answer.first_received_at = answer.first_received_at.min(report.received_at);
            }
            facts.extend(report.fact.clone());
        }
        let mut answers: Vec<Answer> = answers.into_values().collect();
        answers.sort_by_key(|answer| (answer.receipt.issued_at, answer.receipt.suggestion_id));
        let Some((answer, session_id)) = answers.pop().zip(session_id) else { return Ok(None) };
        let from_ms = opened_ms(facts.iter()).map_or(i64::MIN, |opened| opened.saturating_sub(EDIT_MARGIN_MS));
        let until_ms = facts.iter().map(|fact| fact.monotonic_ms.saturating_add(EDIT_MARGIN_MS)).max();
        let first = facts.iter().map(|fact| fact.sequence).min().unwrap_or(i64::MAX);
        // Before the first report time tells what belongs to the opportunity, from there on order does: a clock that
        // went back must hide no edit.
        let belongs = |sequence: i64, monotonic_ms: i64| {
            sequence > first || (monotonic_ms >= from_ms && until_ms.is_none_or(|until| monotonic_ms <= until))
        };
        // Names say it, so the edits of what was before are not read at all.
        let mut names = context.names(EDITS);
        names.retain(|name| edit_of(name).is_none_or(|(sequence, monotonic_ms)| belongs(sequence, monotonic_ms)));
        for name in names {
            let Some(value) = context.get(&name) else { return Err(ReadError::Undecodable(name)) };
            let report = self.report((key, name), value)?;
            facts.extend(report.fact.clone().filter(|fact| belongs(fact.sequence, fact.monotonic_ms)));
        }
        facts.sort_by_key(|fact| fact.sequence);
        let gaps = session.gaps(facts.iter().map(|fact| fact.sequence));
        Ok(Some(Story {
            session_id,
            key_id,
            answer,
            earlier: answers,
            facts,
            gaps,
            known_until_ms: session.latest_ms,
            ended: session.ended,
        }))
    }

    /// Remembers an event that is kept under a name, which was decoded to be handled. Not a look: it is as large as the
    /// window, and often nobody asks for it before the opportunity closes.
    pub(crate) fn remember(self, key: RecordKey, name: String, value: &Bytes, event: &CleanEvent) {
        if event.header.kind == EventKind::RegionLook {
            return;
        }
        // Without its key it is opened when it is asked for.
        if let Ok(report) = self.opened(event) {
            self.remembered.lock().insert((key, name), Read { value: value.clone(), report: Arc::new(report) });
        }
    }

    /// Nobody will ask for these any more.
    pub(crate) fn forget(self, key: RecordKey, names: impl IntoIterator<Item = String>) {
        let mut remembered = self.remembered.lock();
        for name in names {
            remembered.remove(&(key, name));
        }
    }

    fn report(self, place: Place, value: Bytes) -> Result<Arc<Report>, ReadError> {
        let known = self.remembered.lock().get(&place);
        if let Some(known) = known.filter(|known| known.value == value) {
            let is_erased = match known.report.key_id {
                Some(key_id) => self.keys.data_key(key_id).map_err(ReadError::Unloaded)?.is_none(),
                None => false,
            };
            if !is_erased {
                return Ok(known.report);
            }
        }
        let report = Arc::new(self.decode(&place.1, &value)?);
        self.remembered.lock().insert(place, Read { value, report: Arc::clone(&report) });
        Ok(report)
    }

    fn decode(self, name: &str, value: &[u8]) -> Result<Report, ReadError> {
        let event: CleanEvent = avro::decode(value).map_err(|error| match error {
            AvroError::UnknownFingerprint(fingerprint) => ReadError::Unloaded(Unloaded::schema(&fingerprint)),
            _ => ReadError::Undecodable(name.to_owned()),
        })?;
        self.opened(&event)
    }

    fn opened(self, event: &CleanEvent) -> Result<Report, ReadError> {
        let header = &event.header;
        let text = self.text(event)?;
        let is_exposure = header.kind == EventKind::Exposure;
        let (exposure, fact) = if is_exposure {
            (text.and_then(|text| exposure_text(text, event.altered)), None)
        } else {
            (None, fact(event, text))
        };
        Ok(Report {
            session_id: header.session_id,
            key_id: event.sealed().map(|sealed| sealed.key_id),
            receipt: header.receipt.clone(),
            encoding: header.offset_encoding,
            received_at: header.received_at,
            is_exposure,
            exposure,
            fact,
        })
    }

    /// The text of an event; none when it has none, or its person was erased.
    fn text(self, event: &CleanEvent) -> Result<Option<EventText>, ReadError> {
        let Some(sealed) = event.sealed() else { return Ok(None) };
        let Some(key) = self.keys.data_key(sealed.key_id).map_err(ReadError::Unloaded)? else { return Ok(None) };
        let opened = key.open(event.header.event_id, TELEMETRY_CLEAN, sealed).ok();
        Ok(opened.and_then(|plaintext| serde_json::from_slice(&plaintext).ok()))
    }
}

fn exposure_text(text: EventText, event_altered: bool) -> Option<ExposureText> {
    match text {
        EventText::Exposure { context, actions, window_start_offset, altered, first_action_ms } => Some(ExposureText {
            context,
            actions,
            window_start_offset,
            altered: altered || event_altered,
            first_action_ms,
        }),
        EventText::Edit { .. } | EventText::Look { .. } => None,
    }
}

/// The fact that an event reports; none for exposures and for what a newer release reports.
fn fact(event: &CleanEvent, text: Option<EventText>) -> Option<Fact> {
    let header = &event.header;
    let what = match header.kind {
        EventKind::SuggestionShown => What::Shown { actions_visible: header.actions_visible.unwrap_or(1) },
        EventKind::SuggestionHidden => What::Hidden { visible_ms: header.visible_ms.unwrap_or_default() },
        EventKind::SuggestionAccepted => What::Accepted {
            action_index: header.action_index.unwrap_or_default(),
            accepted_length: header.accepted_length,
        },
        EventKind::SuggestionDismissed => What::Dismissed { action_index: header.action_index.unwrap_or_default() },
        EventKind::RegionLook => What::Look {
            delay_s: header.look_delay_s.unwrap_or_default(),
            text: match text {
                Some(EventText::Look { text, .. }) => Some(text),
                _ => None,
            },
        },
        EventKind::DocumentEdited => What::Edit {
            origin: header.origin.unwrap_or(Origin::Unknown),
            text: match text {
                Some(EventText::Edit { path, start, end, old_text, new_text }) => {
                    Some(EditText { path, start, end, old_text, new_text })
                }
                _ => None,
            },
        },
        EventKind::Exposure | EventKind::SessionEnded | EventKind::Unknown => return None,
    };
    Some(Fact {
        sequence: header.sequence,
        monotonic_ms: header.monotonic_ms,
        received_at: header.received_at,
        suggestion_id: header.suggestion_id.or(header.receipt.as_ref().and_then(|receipt| receipt.suggestion_id)),
        altered: event.altered,
        what,
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn read(bytes: usize) -> Read {
        let report = Report {
            session_id: SessionId::from_uuid(Uuid::from_bytes([1; 16])),
            key_id: None,
            receipt: None,
            encoding: OffsetEncoding::Utf8,
            received_at: Timestamp::EPOCH,
            is_exposure: false,
            exposure: None,
            fact: None,
        };
        Read { value: Bytes::from(vec![0; bytes]), report: Arc::new(report) }
    }

    fn place(number: usize) -> Place {
        (RecordKey([7; 16]), number.to_string())
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_asked_for_stays() {
        let mut remembered = Remembered::default();
        let many = 4 * REMEMBERED_BYTES / read(10_000).bytes();
        for number in 0..many {
            remembered.insert(place(number), read(10_000));
            assert!(remembered.get(&place(0)).is_some(), "{number}");
            let held = remembered.young.values().chain(remembered.old.values()).map(Read::bytes).sum::<usize>();
            assert!(held <= REMEMBERED_BYTES);
            assert_eq!(remembered.young.values().map(Read::bytes).sum::<usize>(), remembered.young_bytes);
        }
        assert!(remembered.get(&place(1)).is_none());
        assert!(remembered.get(&place(many - 1)).is_some());
        remembered.remove(&place(many - 1));
        assert!(remembered.get(&place(many - 1)).is_none());
    }

    #[test]
    fn what_nobody_asks_for_is_dropped_in_time_however_much_room_there_is() {
        let mut remembered = Remembered::default();
        let start = Instant::now();
        remembered.grow_old(start);
        remembered.insert(place(0), read(10));
        remembered.insert(place(1), read(10));
        remembered.grow_old(start + REMEMBERED_FOR / 2);
        assert!(remembered.get(&place(0)).is_some());
        remembered.grow_old(start + REMEMBERED_FOR);
        assert!(remembered.get(&place(0)).is_some() && remembered.get(&place(1)).is_none());
        // Nothing came in for long.
        remembered.grow_old(start + REMEMBERED_FOR * 3);
        assert!(remembered.get(&place(0)).is_none());
        assert_eq!((remembered.young.len(), remembered.old.len(), remembered.young_bytes), (0, 0, 0));
    }
}
