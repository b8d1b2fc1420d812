//! Guarantee 3 from the outside: canaries are planted wherever a developer may write, and then every byte is searched
//! that the platform keeps: the log with its topics, state and dead letters, the database, the object store, what was
//! logged and what was measured.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anonymizer::AnonymizerConfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bus::DeadLetter;
use events::topics::{DEAD_LETTERS, PREFERENCE_PAIRS, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, TELEMETRY_RAW};
use events::{
    CleanEvent, ConsentTier, Decision, EventId, EventText, Origin, PreferencePair, QuarantinedEvent, RawEvent,
    TenantId, avro,
};
use labeler::lake::LakeReader;
use service::clock::Clock as _;
use service::consent::{self, ConsentDecision};

use crate::kit::Editor;
use crate::rig::Rig;

/// What must not be found, put together at run time so that no scanner takes this file for a leak.
struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    fn new() -> Self {
        let random = |seed: u64, count: usize| -> String {
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let characters = (0..count).map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                char::from(alphabet[usize::try_from(state % 62).unwrap()])
            });
            characters.collect()
        };
        Self(vec![
            ("key in the window", random(1, 24)),
            ("password in the window", random(2, 14)),
            ("address in the window", ["jane.canary", "corp-mail.com"].join("@")),
            ("key in a suggestion", format!("{}{}", ["AK", "IA"].concat(), random(3, 16).to_uppercase())),
            ("token typed letter by letter", random(4, 22)),
            ("token in an event too large", random(5, 30)),
            ("token in a broken text", random(6, 30)),
            ("token under a used id", random(7, 30)),
            ("token without consent", random(8, 30)),
            ("token that came late", random(9, 30)),
            ("name of the repository", "canaryrepository".to_owned()),
            ("name of the file", "canaryledger".to_owned()),
            ("name of the person", "jane.canary.person".to_owned()),
        ])
    }

    fn get(&self, name: &str) -> &str {
        &self.0.iter().find(|(known, _)| *known == name).unwrap().1
    }

    /// The canaries in `bytes`: plain, as hexadecimal digits or as base64 at any alignment.
    fn found_in(&self, bytes: &[u8]) -> Vec<&'static str> {
        let found = |form: &[u8]| memchr::memmem::find(bytes, form).is_some();
        let is_there = |canary: &str| {
            let digits = hex::encode(canary);
            let in_base64 = (0..3).any(|pad| {
                let encoded = STANDARD_NO_PAD.encode([&b"xx"[..pad], canary.as_bytes()].concat());
                // The first and the last characters depend on the neighbours.
                found(&encoded.as_bytes()[[0, 2, 3][pad]..encoded.len() - 1])
            });
            found(canary.as_bytes()) || found(digits.as_bytes()) || found(digits.to_uppercase().as_bytes()) || in_base64
        };
        self.0.iter().filter(|(_, canary)| is_there(canary)).map(|(name, _)| *name).collect()
    }
}

/// Everything that this process logs, at the finest level.
fn logged() -> &'static Mutex<Vec<u8>> {
    static LOGGED: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    LOGGED.get_or_init(|| {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_writer(move || Lines(Arc::clone(&into)))
            .init();
        bytes
    })
}

/// The canaries found anywhere, with the place.
async fn leaks(rig: &Rig, canaries: &Canaries) -> Vec<String> {
    let mut places = rig.everything_stored().await;
    places.insert("what was logged".to_owned(), logged().lock().unwrap().clone());
    places.insert("what was measured".to_owned(), service::metrics::install().unwrap().render().into_bytes());
    let found = |(place, bytes): (&String, &Vec<u8>)| {
        canaries.found_in(bytes).into_iter().map(|name| format!("{name} in {place}")).collect::<Vec<_>>()
    };
    places.iter().flat_map(found).collect()
}

/// Names that a client may report, in place of the test's own.
fn renamed(canaries: &Canaries) -> impl Fn(EventText) -> EventText + Copy {
    let (repository, file) = (canaries.get("name of the repository"), canaries.get("name of the file"));
    move |text| {
        let renamed = format!("src/{file}/a.rs");
        match text {
            EventText::Exposure { mut context, mut actions, window_start_offset, altered, first_action_ms } => {
                context.repository = repository.to_owned();
                context.path.clone_from(&renamed);
                actions.iter_mut().for_each(|action| action.path.clone_from(&renamed));
                EventText::Exposure { context, actions, window_start_offset, altered, first_action_ms }
            }
            EventText::Edit { start, end, old_text, new_text, .. } => {
                EventText::Edit { path: renamed, start, end, old_text, new_text }
            }
            EventText::Look { text, .. } => EventText::Look { path: renamed, text },
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_canary_is_found_in_any_byte_that_is_kept() {
    logged();
    service::metrics::install().unwrap();
    let canaries = Canaries::new();
    let config = AnonymizerConfig { event_text_bytes: 3_000, ..AnonymizerConfig::default() };
    let rig = Rig::new(config).await;
    let repository =
        anonymizer::shape::Shape::new(&rig.world.secret).repository(canaries.get("name of the repository"));
    let audience = "repository:a".parse().unwrap();
    labeler::audience::publish_rule(&*rig.log, &TenantId::default(), &repository, Some(&audience)).await.unwrap();
    let person = rig.world.person(canaries.get("name of the person")).await;

    let document = crate::kit::DOCUMENT.replace(
        "    send(a, b);",
        &format!(
            "    let api_key = \"{}\";\n    connect(\"postgres://app:{}@db.internal:5432/x\");\n\
             \x20   // ask {}\n    send(a, b);",
            canaries.get("key in the window"),
            canaries.get("password in the window"),
            canaries.get("address in the window"),
        ),
    );
    let mut editor = Editor::over(&person, 41, &document);
    let suggested = format!("fetch_name(user, \"{}\")", canaries.get("key in a suggestion"));
    let action = editor.action("get_name(user)", 0, &suggested);
    let served = editor.ask(Decision::Shown, vec![action]);
    let opened = editor.now_ms;
    editor.shown(&served, 1).wait(900).dismissed(&served, 0).wait(500).types("get_name", 0, "load_name");
    let typed = format!("let token = \"{}\";\n    let b", canaries.get("token typed letter by letter"));
    editor.types("let b", 0, &typed).wait(2_000);
    let large = format!("// {}\n{}", canaries.get("token in an event too large"), "// filler\n".repeat(400));
    let end = editor.document.len();
    editor.edit(end, end, &large, Origin::Paste, None).looks(&served, opened);
    let mut raw: Vec<RawEvent> = editor.events.iter().map(|event| person.raw(event, renamed(&canaries))).collect();
    let told: usize = raw.iter().filter(|event| event.sealed.is_some()).count();
    let spoken = |event: &RawEvent| person.open(event.header.event_id, TELEMETRY_RAW, event.sealed.as_ref().unwrap());
    let sent: Vec<u8> = raw.iter().filter(|event| event.sealed.is_some()).flat_map(spoken).collect();
    assert!(told > 30 && canaries.found_in(&sent).len() >= 6, "the canaries are in what is sent");

    // What scrubbing can not read, and what is not the first under its id.
    let broken = |seed: u8, sequence: i64, canary: &str| {
        let mut event = raw[3].clone();
        event.header.session_id = crate::kit::session(seed);
        event.header.sequence = sequence;
        event.header.event_id = EventId::of_client_event(event.header.session_id, u64::try_from(sequence).unwrap());
        event.header.content_digest = format!("{seed:032x}");
        event.sealed = person.seal(event.header.event_id, canaries.get(canary).as_bytes());
        event
    };
    let mut again = raw[5].clone();
    again.header.content_digest = "f".repeat(32);
    again.sealed = person.seal(again.header.event_id, canaries.get("token under a used id").as_bytes());
    let mut foreign = broken(42, 2, "token in a broken text");
    foreign.sealed = person.seal(raw[0].header.event_id, canaries.get("token in a broken text").as_bytes());
    let unreadable = broken(42, 1, "token in a broken text");
    let undecodable = broken(43, 1, "token in a broken text");
    let mut cut_off = avro::encode(&undecodable).unwrap();
    cut_off.push(0);
    // Somebody who takes consent back while events are held.
    let other = rig.world.person("somebody else").await;
    let mut editor = Editor::new(&other, 44);
    editor.ask(Decision::Silent, vec![]);
    editor.wait(100).types("user", 0, canaries.get("token without consent"));
    let withdrawn: Vec<RawEvent> = editor.events.iter().map(|event| other.raw(event, renamed(&canaries))).collect();
    // A gap that is given up before its event comes.
    let mut editor = Editor::new(&person, 45);
    let late = format!("let token = \"{}\";", canaries.get("token that came late"));
    editor.replace("send(a, b);", 0, &late, Origin::Typed).wait(100).replace("user", 0, "owner", Origin::Typed);
    let late: Vec<RawEvent> = editor.events.iter().map(|event| person.raw(event, renamed(&canaries))).collect();

    let running = rig.start();
    raw.extend([unreadable, foreign, again, late[1].clone()]);
    rig.publish(&withdrawn).await;
    let subject = consent::control_subject(&TenantId::default(), &other.pseudonym);
    let decision = ConsentDecision { tier: ConsentTier::None, decided_at: rig.clock.now() };
    let decision = serde_json::to_vec(&decision).unwrap().into();
    rig.log.publish_control(TELEMETRY_RAW, consent::CONTROL_KIND, &subject, decision).await.unwrap();
    rig.publish(&raw).await;
    rig.publish_bytes(vec![(&undecodable, cut_off)]).await;
    // Everything is held now, in keyed state.
    rig.read().await;
    assert_eq!(leaks(&rig, &canaries).await, Vec::<String>::new());
    rig.settle(Duration::from_secs(1_300)).await;
    assert_eq!(leaks(&rig, &canaries).await, Vec::<String>::new());
    rig.publish(&late[..1]).await;
    rig.settle(Duration::from_secs(3_600)).await;
    rig.sunk().await;
    running.stop().await;
    assert_eq!(leaks(&rig, &canaries).await, Vec::<String>::new());

    // The search can find: ids are readable where they should be.
    let id = raw[0].header.session_id.to_string();
    assert!(rig.everything_stored().await.values().any(|bytes| memchr::memmem::find(bytes, id.as_bytes()).is_some()));
    assert!(logged().lock().unwrap().len() > 1_000);

    // What was made readable for those who hold the key is scrubbed.
    let mut opened = Vec::new();
    let clean: Vec<CleanEvent> = rig.decoded(TELEMETRY_CLEAN).await;
    for event in clean.iter().filter(|event| event.header.person == person.pseudonym) {
        opened.extend(
            event.sealed().into_iter().map(|sealed| person.open(event.header.event_id, TELEMETRY_CLEAN, sealed)),
        );
    }
    let pairs: Vec<PreferencePair> = rig.decoded(PREFERENCE_PAIRS).await;
    assert!(pairs.iter().any(|pair| pair.reason.as_str() == "dismissed_then_typed"), "{pairs:?}");
    for pair in &pairs {
        opened.push(person.open(pair.event_id, PREFERENCE_PAIRS, pair.sealed.as_ref().unwrap()));
    }
    assert!(opened.len() > 30);
    for text in &opened {
        let found = canaries.found_in(text);
        assert_eq!(found, Vec::<&str>::new(), "{}", String::from_utf8_lossy(text));
    }

    // Each ended as it should.
    let quarantined: Vec<QuarantinedEvent> = rig.decoded(TELEMETRY_QUARANTINE).await;
    let mut reasons: Vec<&str> = quarantined.iter().map(|event| event.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["content_conflict", "seal_broken", "text_too_large", "text_undecodable"]);
    let mut filtered: Vec<&str> = clean.iter().filter_map(|event| event.reason.as_deref()).collect();
    filtered.sort_unstable();
    filtered.dedup();
    assert_eq!(filtered, ["consent_withdrawn", "late"]);
    let letters = rig.records(DEAD_LETTERS).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(DeadLetter::decode(&letters[0].value).unwrap().payload, None, "nothing is kept of what is no event");
    let reader = LakeReader::new(rig.world.pool.clone(), Arc::clone(&rig.artifacts));
    let mut in_lake = 0;
    for part in reader.parts(&TenantId::default()).await.unwrap() {
        let pairs = reader.read(&part).await.unwrap();
        in_lake += pairs.len();
        let shown = format!("{pairs:?}");
        assert_eq!(canaries.found_in(shown.as_bytes()), Vec::<&str>::new());
    }
    assert_eq!(in_lake, pairs.len());
}
