//! From events to pairs, whatever events say: sessions in which everything happens in any order with numbers, ids and
//! texts that contradict each other, and records whose bytes are damaged.
//!
//! No input panics, every one ends as something with a name, a neighbour's pairs stay as they are, and the state of a
//! session stays within its bounds. `LABELER_FUZZ_SEED` chooses the inputs, `LABELER_FUZZ_ROUNDS` how many sessions.

use std::sync::Arc;
use std::time::Duration;

use bus::testing::ReferenceStep;
use bus::{Prepared, Record, RecordKey, StepHandler, partition_for};
use bytes::Bytes;
use events::avro::{self, schema_dependency};
use events::topics::{PREFERENCE_PAIRS, SERVING_OUTCOMES};
use events::{
    ByteRange, CleanEvent, Decision, EventHeader, EventKind, EventText, KeyId, OffsetEncoding, OpportunityOutcome,
    Origin, PreferencePair, SessionId, SuggestionId, TenantId, Timestamp,
};
use labeler::audience::{CONTROL_KIND, subject};
use labeler::config::SessionLimits;
use labeler::keys::LoadedKeys;
use labeler::{LabelPolicy, step};

use crate::kit::{Editor, Person, REPOSITORY, START, Served, World, accepted_and_kept, record_of, session, telling};

/// SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % u64::try_from(end).unwrap()).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

const NUMBERS: [i64; 7] = [i64::MIN, -1, 0, 1, 7, 40_000, i64::MAX];
const SMALL: [Option<i32>; 7] = [None, Some(i32::MIN), Some(-1), Some(0), Some(1), Some(300), Some(i32::MAX)];
const PLACES: [u64; 7] = [0, 1, 13, 14, 40, u64::MAX - 1, u64::MAX];
const ORIGINS: [Origin; 8] = [
    Origin::Typed,
    Origin::Suggestion,
    Origin::Paste,
    Origin::Undo,
    Origin::Redo,
    Origin::Formatter,
    Origin::External,
    Origin::Unknown,
];

fn any_text(random: &mut Random) -> String {
    let pieces = ["", "\0", "😀", "\r\n", "a\u{301}", "get_name", "fn main() {\n", "}}}}((((", "\u{FEFF}", "\t \n"];
    (0..random.below(6)).map(|_| random.pick(&pieces)).collect::<String>() + &"x".repeat(random.pick(&[0, 0, 0, 3000]))
}

/// A session in which everything may happen in any order, as an editor would report it.
fn anything(random: &mut Random, person: &Person, seed: u8) -> Vec<CleanEvent> {
    let mut editor = Editor::new(person, seed);
    let mut asked: Vec<Served> = Vec::new();
    for _ in 0..8 + random.below(24) {
        editor.wait(random.pick(&[0, 40, 300, 2_500, 11_000, 40_000]));
        let name = random.pick(&["get_name", "user", "send", "other"]);
        let stands = editor.document.contains(name);
        let served = (!asked.is_empty()).then(|| random.pick(&asked));
        match (random.below(12), served) {
            (0 | 1, _) | (_, None) => {
                let decision = random.pick(&[Decision::Shown, Decision::Shown, Decision::Silent, Decision::Withheld]);
                let count = if stands { random.below(3) } else { 0 };
                let actions = (0..count).map(|_| editor.action(name, 0, &any_text(random))).collect();
                let again = asked.last().filter(|_| random.one_in(4)).map(|served| served.opportunity);
                asked.push(match again {
                    Some(opportunity) => editor.ask_again(opportunity, decision, actions),
                    None => editor.ask(decision, actions),
                });
            }
            (2, Some(served)) => {
                editor.shown(&served, random.pick(&[1, 2, 9]));
            }
            (3, Some(served)) => {
                editor.hidden(&served, random.pick(&[10, 900]));
            }
            (4, Some(served)) => {
                editor.dismissed(&served, random.pick(&[0, 1]));
            }
            (5 | 6, Some(served)) => {
                let is_there = |action: &events::EditAction| {
                    let place = usize::try_from(action.range.start).unwrap();
                    editor.document.get(place..place + action.old_text.len()) == Some(action.old_text.as_str())
                };
                if served.actions.first().is_some_and(is_there) {
                    editor.accepted(&served, 0, None);
                }
            }
            (7, _) if stands => {
                editor.types(name, 0, "löad😀");
            }
            (8, _) if stands => {
                editor.replace(name, 0, &any_text(random), random.pick(&ORIGINS));
            }
            (9, Some(served)) => {
                editor.look(&served, random.pick(&[30, 120, 300]));
            }
            (10, _) if random.one_in(6) => {
                editor.end();
            }
            (11, _) if stands => {
                let written = editor.document.replacen(name, &any_text(random), 1);
                editor.rewrites(&written, random.pick(&ORIGINS));
            }
            _ => {
                editor.edit(0, 0, "// above 😀\n", Origin::Typed, None);
            }
        }
    }
    editor.events
}

/// One thing about an event is not as it was.
fn distort(random: &mut Random, header: &mut EventHeader, text: &mut Option<EventText>) {
    match random.below(16) {
        0 => header.monotonic_ms = random.pick(&NUMBERS),
        1 => header.sequence = random.pick(&NUMBERS),
        2 => header.action_index = random.pick(&SMALL),
        3 => header.actions_visible = random.pick(&SMALL),
        4 => header.accepted_length = Some(random.pick(&NUMBERS)),
        5 => header.visible_ms = Some(random.pick(&NUMBERS)),
        6 => header.look_delay_s = random.pick(&SMALL),
        7 => header.suggestion_id = Some(SuggestionId::from_uuid(uuid::Uuid::from_bytes([9; 16]))),
        8 => header.opportunity_id = None,
        9 => header.receipt = None,
        10 => header.kind = random.pick(EventKind::ALL),
        11 => {
            header.offset_encoding =
                random.pick(&[OffsetEncoding::Utf8, OffsetEncoding::Utf16, OffsetEncoding::Unknown]);
        }
        12 => header.origin = Some(random.pick(&ORIGINS)),
        13 => *text = None,
        _ => {
            if let Some(text) = text {
                distort_text(random, text);
            }
        }
    }
}

fn distort_text(random: &mut Random, text: &mut EventText) {
    match text {
        EventText::Exposure { context, actions, window_start_offset, .. } => match random.below(8) {
            0 => *window_start_offset = random.pick(&PLACES),
            1 => context.window.start_byte = random.pick(&PLACES),
            2 => context.window.text = any_text(random),
            3 => actions.extend(actions.clone()),
            4 => actions.iter_mut().for_each(|action| {
                action.range = ByteRange::new(random.pick(&PLACES), random.pick(&PLACES));
            }),
            5 => actions.iter_mut().for_each(|action| action.path = "other.rs".to_owned()),
            6 => actions.iter_mut().for_each(|action| action.old_text = any_text(random)),
            _ => actions.iter_mut().for_each(|action| action.new_text = any_text(random)),
        },
        EventText::Edit { path, start, end, old_text, new_text } => match random.below(5) {
            0 => "other.rs".clone_into(path),
            1 => *start = random.pick(&PLACES),
            2 => *end = random.pick(&PLACES),
            3 => *old_text = any_text(random),
            _ => *new_text = any_text(random),
        },
        EventText::Look { text, .. } => *text = any_text(random),
    }
}

/// An edit that is whole: with it the step looks at the session.
fn last_edit(person: &Person, seed: u8) -> CleanEvent {
    let mut editor = Editor::new(person, seed);
    editor.wait(500_000).edit(0, 0, "\n", Origin::Typed, None);
    editor.events.remove(0)
}

/// The same session, contradicting itself: events are lost, repeated, exchanged and distorted.
fn contradicting(random: &mut Random, person: &Person, seed: u8) -> Vec<CleanEvent> {
    let mut events = Vec::new();
    for mut event in anything(random, person, seed) {
        if random.one_in(12) {
            continue;
        }
        if random.one_in(3) {
            event = person.changed(&event, |header, text| distort(random, header, text));
        }
        // The door stamps it; what is late beyond that is another test's.
        event.header.received_at = START + Duration::from_secs(random.number() % 600);
        for _ in 0..=usize::from(random.one_in(10)) {
            events.push(event.clone());
        }
    }
    for _ in 0..random.below(4) {
        if events.len() > 1 {
            let (one, other) = (random.below(events.len()), random.below(events.len()));
            events.swap(one, other);
        }
    }
    events
}

fn limits() -> SessionLimits {
    SessionLimits {
        open_opportunities: 4,
        opportunity_bytes: 16 << 10,
        edits: 64,
        edit_bytes: 32 << 10,
        ..SessionLimits::default()
    }
}

struct Fuzzed {
    step: ReferenceStep,
    handler: Arc<dyn StepHandler>,
}

impl Fuzzed {
    fn new(world: &World) -> Self {
        let keys = Arc::new(LoadedKeys::new(world.keys.clone()));
        let handler = step::handler(keys, telling(LabelPolicy::default()), limits());
        let mut step = ReferenceStep::new(step::spec(), Arc::clone(&handler), PARTITIONS);
        let rule = Bytes::from_static(b"repository:a");
        step.publish_control(CONTROL_KIND, &subject(&TenantId::default(), REPOSITORY), rule);
        Self { step, handler }
    }

    /// Handles all that was published; whatever is waited for can be had.
    async fn run(&mut self) {
        for _ in 0..8 {
            let paused = self.step.run();
            if paused.is_empty() {
                return;
            }
            for paused in paused {
                self.handler.make_available(&paused.dependencies).await;
            }
        }
        assert_eq!(self.step.run(), [], "what it waits for does not come");
    }

    /// Nothing happens any more for so long that every timer fires.
    async fn finish(&mut self) {
        self.run().await;
        for hours in [1, 2, 40, 80] {
            assert_eq!(self.step.advance_to(START + Duration::from_secs(hours * 3600)), []);
        }
    }

    /// Pairs of a session and their outcomes, as they were written.
    fn concluded(&self, session: SessionId) -> Vec<Bytes> {
        let pairs = self.step.emitted(PREFERENCE_PAIRS).into_iter().map(|record| record.value);
        let mut values: Vec<Bytes> =
            pairs.filter(|value| avro::decode::<PreferencePair>(value).unwrap().session_id == session).collect();
        let opportunities: Vec<_> =
            values.iter().map(|value| avro::decode::<PreferencePair>(value).unwrap().opportunity_id).collect();
        let outcomes = self.step.emitted(SERVING_OUTCOMES).into_iter().map(|record| record.value);
        values.extend(outcomes.filter(|value| {
            opportunities.contains(&avro::decode::<OpportunityOutcome>(value).unwrap().opportunity_id)
        }));
        values
    }

    fn assert_bounded(&self, key: &RecordKey, told: &str) {
        let limits = limits();
        let most = limits.open_opportunities * limits.opportunity_bytes + limits.edit_bytes + (16 << 10);
        let bytes: usize = self.step.state(key).iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(bytes <= most, "{bytes} bytes of state, at most {most}: {told}");
        // One for each opportunity that is open or remembered as closed, and one that forgets the session.
        let closed = self.step.state(key).iter().filter(|(name, _)| name.starts_with(CLOSED)).count();
        let timers = self.step.timers(key).len();
        assert!(timers <= limits.open_opportunities + closed + 1, "{timers} timers, {closed} closed: {told}");
    }
}

const PARTITIONS: u32 = 2;

/// What the names begin with under which closed opportunities are remembered.
const CLOSED: &str = "c/";

/// Sessions by seed: one that is fuzzed, a neighbour in its partition, and one in the other.
fn seeds(world: &World, round: u64) -> [u8; 3] {
    // Editors with even seeds count in UTF-16.
    let fuzzed = if round.is_multiple_of(2) { 2 } else { 1 };
    let partition = |seed: u8| partition_for(&key_of(world, seed), PARTITIONS);
    let other = |is_near: bool| (3..=u8::MAX).find(|seed| (partition(*seed) == partition(fuzzed)) == is_near).unwrap();
    [fuzzed, other(true), other(false)]
}

fn key_of(world: &World, seed: u8) -> RecordKey {
    RecordKey(world.secret.record_key(session(seed)))
}

/// What a session concludes by itself.
async fn alone(world: &World, events: &[CleanEvent]) -> Vec<Bytes> {
    let mut fuzzed = Fuzzed::new(world);
    for event in events {
        fuzzed.step.publish(record_of(event, &world.secret));
    }
    fuzzed.finish().await;
    let concluded = fuzzed.concluded(events[0].header.session_id);
    assert_eq!(concluded.len(), 2, "a pair and its outcome");
    concluded
}

#[tokio::test]
async fn a_session_that_contradicts_itself_harms_nobody() {
    let (seed, rounds) = (setting("LABELER_FUZZ_SEED", 1), setting("LABELER_FUZZ_ROUNDS", 120));
    println!("LABELER_FUZZ_SEED={seed} LABELER_FUZZ_ROUNDS={rounds}");
    let world = World::new().await;
    let (person, neighbour) = (world.person("someone").await, world.person("neighbour").await);
    let mut concluded = 0;
    for round in 0..rounds {
        let told = format!("LABELER_FUZZ_SEED={seed}, round {round}");
        let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(round));
        let [fuzzed, near, far] = seeds(&world, round);
        let quiet = [near, far].map(|seed| accepted_and_kept(&neighbour, seed));
        let mut fuzz = Fuzzed::new(&world);
        let mut waiting = quiet.clone().map(Vec::into_iter);
        for event in contradicting(&mut random, &person, fuzzed) {
            fuzz.step.publish(record_of(&event, &world.secret));
            let next = if random.one_in(2) { waiting[random.below(2)].next() } else { None };
            if let Some(event) = next {
                fuzz.step.publish(record_of(&event, &world.secret));
            }
            if random.one_in(4) {
                fuzz.run().await;
            }
        }
        fuzz.step.publish(record_of(&last_edit(&person, fuzzed), &world.secret));
        fuzz.run().await;
        fuzz.assert_bounded(&key_of(&world, fuzzed), &told);
        for event in waiting.into_iter().flatten() {
            fuzz.step.publish(record_of(&event, &world.secret));
        }
        fuzz.finish().await;
        // Whatever an event says, it was read: kept, or dropped and counted; and nothing of it is left at the end.
        assert_eq!(fuzz.step.dead_letters(), [], "{told}");
        assert!(fuzz.step.state(&key_of(&world, fuzzed)).is_empty(), "{told}");
        assert!(fuzz.step.timers(&key_of(&world, fuzzed)).is_empty(), "{told}");
        for events in &quiet {
            let session = events[0].header.session_id;
            assert_eq!(fuzz.concluded(session), alone(&world, events).await, "{told}");
        }
        concluded += fuzz.step.emitted(SERVING_OUTCOMES).len() - 2;
    }
    assert!(rounds == 0 || concluded > 0, "nothing was ever concluded");
}

/// Some bytes of a record are others, missing, or too many.
fn damaged(random: &mut Random, value: &Bytes) -> Bytes {
    let mut bytes = value.to_vec();
    match random.below(8) {
        0 => bytes.truncate(random.below(bytes.len())),
        1 => bytes.extend((0..=random.below(40)).map(|place| u8::try_from(place).unwrap())),
        2 => bytes[random.below(10)] ^= 1 << random.below(8),
        _ => {
            for _ in 0..=random.below(3) {
                let place = 10 + random.below(bytes.len() - 10);
                bytes[place] = if random.one_in(2) { bytes[place] ^ (1 << random.below(8)) } else { 0xFF };
            }
        }
    }
    bytes.into()
}

/// What becomes of a record before its session is looked at.
enum End {
    /// Given up, with the reason.
    Refused(String),
    /// The partition waits, for these.
    Waits(Vec<String>),
    /// Handled.
    Read(Box<CleanEvent>),
}

async fn end_of(fuzz: &Fuzzed, scratch: &mut ReferenceStep, record: &Record) -> End {
    let committed = scratch.publish(record.clone());
    let prepare = || fuzz.handler.prepare(std::slice::from_ref(&committed)).pop().unwrap();
    let mut prepared = prepare();
    for _ in 0..2 {
        if let Prepared::Unavailable(names) = &prepared {
            fuzz.handler.make_available(names).await;
            prepared = prepare();
        }
    }
    match prepared {
        Prepared::Poison(reason) => End::Refused(reason),
        Prepared::Unavailable(names) => End::Waits(names),
        prepared => End::Read(Box::new(prepared.take().unwrap())),
    }
}

/// Times that our own door and serving can have stamped. Partition time follows them, so others are another matter.
fn is_plausible(event: &CleanEvent) -> bool {
    let latest = START + Duration::from_secs(24 * 3600);
    let issued_at = event.header.receipt.as_ref().map_or(START, |receipt| receipt.issued_at);
    [event.header.received_at, issued_at].iter().all(|time: &Timestamp| *time <= latest)
}

#[tokio::test]
async fn a_damaged_record_ends_as_something_with_a_name() {
    let (seed, rounds) = (setting("LABELER_FUZZ_SEED", 1), setting("LABELER_FUZZ_ROUNDS", 120) / 3);
    println!("LABELER_FUZZ_SEED={seed} LABELER_FUZZ_ROUNDS={}", rounds * 3);
    let world = World::new().await;
    let (person, neighbour) = (world.person("someone").await, world.person("neighbour").await);
    let (mut refused, mut waiting, mut read) = (0, 0, 0);
    for round in 0..rounds {
        let told = format!("LABELER_FUZZ_SEED={seed}, round {round}");
        let mut random = Random(seed.wrapping_mul(2_000_003).wrapping_add(round));
        let [fuzzed, _, far] = seeds(&world, round);
        let key = key_of(&world, fuzzed);
        let quiet = accepted_and_kept(&neighbour, far);
        let mut fuzz = Fuzzed::new(&world);
        let mut scratch = ReferenceStep::new(step::spec(), Arc::clone(&fuzz.handler), PARTITIONS);
        let mut letters = 0;
        for event in contradicting(&mut random, &person, fuzzed) {
            let mut record = record_of(&event, &world.secret);
            if random.one_in(2) {
                record.value = damaged(&mut random, &record.value);
            }
            match end_of(&fuzz, &mut scratch, &record).await {
                End::Refused(reason) => {
                    assert_eq!(reason, "malformed_record", "{told}");
                    (refused, letters) = (refused + 1, letters + 1);
                }
                End::Waits(names) => {
                    let of_schema = schema_dependency("");
                    let is_known = |name: &String| name.starts_with(&of_schema) || name.parse::<KeyId>().is_ok();
                    assert!(!names.is_empty() && names.iter().all(is_known), "{names:?}: {told}");
                    waiting += 1;
                    continue;
                }
                End::Read(event) if is_plausible(&event) => read += 1,
                End::Read(_) => continue,
            }
            fuzz.step.publish(record);
            fuzz.run().await;
        }
        for event in quiet.iter().chain([&last_edit(&person, fuzzed)]) {
            fuzz.step.publish(record_of(event, &world.secret));
        }
        fuzz.run().await;
        assert!(fuzz.step.dead_letters().iter().all(|letter| letter.reason == "malformed_record"), "{told}");
        assert_eq!(fuzz.step.dead_letters().len(), letters, "{told}");
        assert!(!fuzz.step.is_poisoned(&key), "{told}");
        fuzz.assert_bounded(&key, &told);
        fuzz.finish().await;
        assert_eq!(fuzz.concluded(session(far)), alone(&world, &quiet).await, "{told}");
    }
    let is_short = rounds < 10;
    assert!(is_short || (refused > 0 && waiting > 0 && read > 0), "{refused} refused, {waiting} waiting, {read} read");
}
