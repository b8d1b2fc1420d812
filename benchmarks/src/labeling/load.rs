//! Clean telemetry in any amount: sessions of many editors at once, each replaying scenes of the simulator under ids,
//! keys and times of its own. Everything is made when it is asked for, so a load of any size takes the memory of its
//! open sessions alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use anyhow::Context as _;
use bus::{Record, RecordKey};
use bytes::Bytes;
use events::avro;
use events::ids::uuid_v7;
use events::{
    CleanEvent, EventHeader, EventId, EventKind, EventText, OpportunityId, ScrubWitness, ScrubbedText, SessionId,
    SuggestionId, Timestamp,
};
use simulator::behaviour::OPPORTUNITY_MS;
use simulator::random::Dice;
use simulator::{Meaning, SceneSettings};

use super::office::{Office, Opportunity, Person, START};
use super::scenes::{corpus, makers};
use super::wheel::text_of;

const SEED: u64 = 17;
/// Opportunities of a session before the editor starts the next one.
const PER_SESSION: u32 = 20;
/// How long of every [`OPPORTUNITY_MS`] an opportunity is open: until its last look.
const OPEN_MS: u64 = 300_000;

/// An event as it was reported once.
struct TemplateEvent {
    /// After the request.
    at: Duration,
    header: EventHeader,
    text: Option<EventText>,
}

/// What is reported about one opportunity, exposure first.
struct Template {
    asked_at: Timestamp,
    events: Vec<TemplateEvent>,
}

/// Scenes of every meaning, ready to be replayed.
pub(crate) struct Templates(Vec<Template>);

impl Templates {
    /// `rounds` scenes of every meaning, of windows of so many lines.
    pub(crate) fn new(office: &Office, window_lines: usize, rounds: usize) -> anyhow::Result<Self> {
        let corpus = corpus()?;
        let person = office.persons.first().context("nobody is in the office")?;
        let makers = makers(&corpus, SceneSettings { window_lines, ..SceneSettings::default() })?;
        let mut templates = Vec::new();
        for (number, meaning) in Meaning::ALL.repeat(rounds).into_iter().enumerate() {
            let maker = &makers[number % makers.len()];
            let mut dice = Dice::new(SEED, "template", &[window_lines as u64, number as u64]);
            let scene = maker.scene(meaning, &mut dice).context("no scene fits the corpus")?;
            let (_, raw) = office.session(0, number as u64, START)?.play(&Opportunity::of(&scene))?;
            let asked_at = raw.first().context("nothing was reported")?.header.received_at;
            let events = raw
                .into_iter()
                .map(|event| {
                    let text = text_of(&event, &person.key)?;
                    Ok(TemplateEvent { at: event.header.received_at.since(asked_at), header: event.header, text })
                })
                .collect::<anyhow::Result<Vec<_>>>()?;
            templates.push(Template { asked_at, events });
        }
        Ok(Self(templates))
    }

    /// Events of an opportunity, on average.
    pub(crate) fn events_each(&self) -> f64 {
        self.0.iter().map(|template| template.events.len()).sum::<usize>() as f64 / self.0.len().max(1) as f64
    }
}

/// An editor that is at work.
struct Editor {
    person: usize,
    template: usize,
    session: SessionId,
    key: RecordKey,
    /// Opportunities so far, of all its sessions.
    opportunities: u32,
    session_begins: Timestamp,
    asked_at: Timestamp,
    next_sequence: i64,
    opportunity: OpportunityId,
    suggestion: SuggestionId,
}

/// Sessions of many editors, interleaved as time goes.
pub(crate) struct Stream<'t> {
    office: &'t Office,
    templates: &'t Templates,
    editors: Vec<Editor>,
    /// When an editor reports next, and which event of its template.
    next: BinaryHeap<Reverse<(Timestamp, usize, usize)>>,
    /// Opportunities that were begun, and most that may be.
    begun: u64,
    most: u64,
}

impl<'t> Stream<'t> {
    /// So many opportunities open at any time, evenly spread.
    pub(crate) fn new(office: &'t Office, templates: &'t Templates, open: usize) -> Self {
        let count = (open as u64 * OPPORTUNITY_MS).div_ceil(OPEN_MS).max(1);
        let (editors, next) = (Vec::new(), BinaryHeap::new());
        let mut stream = Self { office, templates, editors, next, begun: 0, most: u64::MAX };
        for number in 0..count {
            let begins = START + Duration::from_millis(number * OPPORTUNITY_MS / count);
            let editor = usize::try_from(number).unwrap_or(usize::MAX);
            stream.editors.push(Editor {
                person: editor % office.persons.len().max(1),
                template: editor % templates.0.len().max(1),
                session: SessionId::from_uuid(uuid_v7(begins, unique(number, 0, 0))),
                key: RecordKey([0; 16]),
                opportunities: 0,
                session_begins: begins,
                asked_at: begins,
                next_sequence: 1,
                opportunity: OpportunityId::from_uuid(uuid_v7(begins, unique(number, 0, 1))),
                suggestion: SuggestionId::from_uuid(uuid_v7(begins, unique(number, 0, 2))),
            });
            stream.begin(editor, begins);
        }
        stream
    }

    /// The same, with one opportunity of every editor and no more.
    pub(crate) fn once(mut self) -> Self {
        self.most = self.begun;
        self
    }

    /// The next opportunity of an editor, in a new session when its time has come.
    fn begin(&mut self, number: usize, asked_at: Timestamp) {
        if self.begun >= self.most {
            return;
        }
        let (secret, templates) = (&self.office.secret, self.templates.0.len().max(1));
        let Some(editor) = self.editors.get_mut(number) else { return };
        let opportunities = editor.opportunities;
        let of = |kind: u8| unique(number as u64, opportunities, kind);
        if opportunities.is_multiple_of(PER_SESSION) {
            editor.session = SessionId::from_uuid(uuid_v7(asked_at, of(0)));
            editor.key = RecordKey(secret.record_key(editor.session));
            (editor.session_begins, editor.next_sequence) = (asked_at, 1);
        }
        editor.opportunity = OpportunityId::from_uuid(uuid_v7(asked_at, of(1)));
        editor.suggestion = SuggestionId::from_uuid(uuid_v7(asked_at, of(2)));
        editor.template = (editor.template + 1) % templates;
        editor.opportunities += 1;
        editor.asked_at = asked_at;
        self.begun += 1;
        self.next.push(Reverse((asked_at, number, 0)));
    }

    /// The next record of the clean topic, in the order of the times at which events were received; none once nobody is
    /// at work any more.
    pub(crate) fn record(&mut self) -> anyhow::Result<Option<Record>> {
        let Some(Reverse((_, number, index))) = self.next.pop() else { return Ok(None) };
        let editor = self.editors.get_mut(number).context("no such editor")?;
        let template = self.templates.0.get(editor.template).context("no such template")?;
        let event = template.events.get(index).context("no such event")?;
        let person = self.office.persons.get(editor.person).context("no such person")?;
        let header = editor.header(&event.header, template.asked_at, person);
        let record = Record { key: editor.key, value: Bytes::from(encoded(header, event.text.as_ref(), person)?) };
        let asked_at = editor.asked_at;
        match template.events.get(index + 1) {
            Some(following) => self.next.push(Reverse((asked_at + following.at, number, index + 1))),
            None => self.begin(number, asked_at + Duration::from_millis(OPPORTUNITY_MS)),
        }
        Ok(Some(record))
    }

    /// So many records, or as many as there are.
    pub(crate) fn records(&mut self, count: usize) -> anyhow::Result<Vec<Record>> {
        (0..count).filter_map(|_| self.record().transpose()).collect()
    }
}

impl Editor {
    /// A template's header under this editor's ids and times.
    fn header(&mut self, template: &EventHeader, asked_at: Timestamp, person: &Person) -> EventHeader {
        let mut header = template.clone();
        let suggestion = |id: Option<SuggestionId>| id.map(|_| self.suggestion);
        header.received_at = self.asked_at + template.received_at.since(asked_at);
        header.person = person.pseudonym.clone();
        header.session_id = self.session;
        header.suggestion_id = suggestion(template.suggestion_id);
        header.opportunity_id = template.opportunity_id.map(|_| self.opportunity);
        if let Some(receipt) = &mut header.receipt {
            receipt.person = person.pseudonym.clone();
            receipt.session_id = self.session;
            receipt.opportunity_id = self.opportunity;
            receipt.suggestion_id = suggestion(receipt.suggestion_id);
            receipt.issued_at = self.asked_at;
        }
        if header.kind == EventKind::Exposure {
            let suggestion = header.receipt.as_ref().and_then(|receipt| receipt.suggestion_id);
            header.event_id = EventId::of_exposure(self.opportunity, suggestion);
        } else {
            header.sequence = self.next_sequence;
            header.event_id = EventId::of_client_event(self.session, self.next_sequence.unsigned_abs());
            // A client's clock begins with its session.
            let since = self.asked_at.since(self.session_begins).as_millis();
            header.monotonic_ms = template.monotonic_ms + i64::try_from(since).unwrap_or(i64::MAX / 2);
            self.next_sequence += 1;
        }
        header
    }
}

#[expect(clippy::disallowed_methods, reason = "the benchmark plays the anonymizer over public code")]
fn encoded(header: EventHeader, text: Option<&EventText>, person: &Person) -> anyhow::Result<Vec<u8>> {
    let text = text.map(|text| ScrubbedText::declare(text.clone(), false, &ScrubWitness::issue()));
    Ok(avro::encode(&CleanEvent::scrubbed(header, text.as_ref(), Some(&person.key)))?)
}

/// Ten bytes that nothing else of the stream has.
fn unique(editor: u64, opportunity: u32, kind: u8) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..5].copy_from_slice(&editor.to_be_bytes()[3..]);
    bytes[5..9].copy_from_slice(&opportunity.to_be_bytes());
    bytes[9] = kind;
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[tokio::test]
    async fn a_stream_is_in_order_of_time_and_without_gaps() {
        let office = Office::open(2, 3).await.unwrap();
        let templates = Templates::new(&office, 30, 1).unwrap();
        let mut stream = Stream::new(&office, &templates, 20);
        let (mut last, mut sequences, mut ids) = (START, BTreeMap::new(), std::collections::BTreeSet::new());
        for record in stream.records(2_000).unwrap() {
            let event: CleanEvent = avro::decode(&record.value).unwrap();
            let header = &event.header;
            assert!(header.received_at >= last);
            last = header.received_at;
            assert_eq!(record.key.0, office.secret.record_key(header.session_id));
            assert!(ids.insert(header.event_id), "every event has its own id");
            if header.kind != EventKind::Exposure {
                let sequence = sequences.entry(header.session_id).or_insert(0_i64);
                *sequence += 1;
                assert_eq!(header.sequence, *sequence);
            }
            if let Some(sealed) = event.sealed() {
                let person = office.persons.iter().find(|person| person.key.id() == sealed.key_id).unwrap();
                assert_eq!(person.pseudonym, header.person);
                assert!(person.key.open(header.event_id, events::topics::TELEMETRY_CLEAN, sealed).is_ok());
            }
        }
        // Nobody stands still: most of them are in their second opportunity or later.
        assert!(stream.begun > 40, "{}", stream.begun);
    }

    #[tokio::test]
    async fn once_means_one_opportunity_of_every_editor() {
        let office = Office::open(2, 3).await.unwrap();
        let templates = Templates::new(&office, 30, 1).unwrap();
        let mut stream = Stream::new(&office, &templates, 20).once();
        let mut opportunities = std::collections::BTreeSet::new();
        while let Some(record) = stream.record().unwrap() {
            let event: CleanEvent = avro::decode(&record.value).unwrap();
            opportunities.extend(event.header.opportunity_id);
        }
        assert_eq!(opportunities.len() as u64, stream.begun);
    }
}
