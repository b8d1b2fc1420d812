//! Keyed state that cannot be decoded any more. In the anonymizer the session ends, each event that is held ends as a
//! dead letter, and nothing is shown that was to be replaced; in the labeler no label comes of it. Neighbours notice
//! nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anonymizer::AnonymizerConfig;
use bus::{DeadLetter, DeadLetterKind, Record};
use events::topics::{DEAD_LETTERS, PREFERENCE_PAIRS, SERVING_OUTCOMES, TELEMETRY_CLEAN};
use events::{
    CleanEvent, Decision, EventId, EventKind, OpportunityOutcome, Origin, PreferencePair, RawEvent, TenantId,
};
use labeler::ledger;

use crate::kit::{DOCUMENT, Editor, Person, REPOSITORY, accepted_and_kept, record_of, session};
use crate::rig::Rig;

/// So many events come before the first look, and are held together.
const HELD: usize = 4;

fn accepted(person: &Person, seed: u8) -> Vec<RawEvent> {
    accepted_and_kept(person, seed).iter().map(|event| person.raw(event, |text| text)).collect()
}

fn ids<'a>(events: impl IntoIterator<Item = &'a RawEvent>) -> BTreeSet<EventId> {
    events.into_iter().map(|event| event.header.event_id).collect()
}

/// Overwrites what a step keeps of a session under these names.
async fn overwrite(rig: &Rig, step: &str, seed: u8, names: &str, value: &str) {
    let file = rig.log_file().await;
    let statement = format!(
        "UPDATE state SET value = {value} WHERE key = $1 AND name LIKE $2 AND slot IN \
         (SELECT slots.id FROM slots JOIN steps ON steps.id = slots.step WHERE steps.name = $3)"
    );
    let overwritten = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(rig.key_of(seed).0.to_vec())
        .bind(names)
        .bind(step)
        .execute(&file)
        .await
        .unwrap();
    assert!(overwritten.rows_affected() > 0, "{names} of session {seed}");
    file.close().await;
}

/// What a session ended with, and the ids of all events that ended with it and after it.
fn ended(rig: &Rig, letters: &[DeadLetter], seed: u8) -> (DeadLetterKind, BTreeSet<EventId>) {
    let letters: Vec<&DeadLetter> = letters.iter().filter(|letter| letter.key == rig.key_of(seed)).collect();
    let poisoned: Vec<&&DeadLetter> = letters.iter().filter(|letter| letter.key_poisoned).collect();
    assert_eq!(poisoned.len(), 1, "{letters:?}");
    assert_eq!(poisoned[0].reason, "undecodable_state");
    let affected = letters.iter().flat_map(|letter| &letter.affected);
    (poisoned[0].kind, affected.map(|affected| affected.event_id.parse().unwrap()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_held_is_accounted_for_and_neighbours_are_unharmed() {
    let mut rig = Rig::new(AnonymizerConfig::default()).await;
    let person = rig.world.person("someone").await;
    // What is overwritten, and whether a record or a timer comes upon it.
    let damages: [(&[&str], DeadLetterKind); 7] = [
        (&["session"], DeadLetterKind::Record),
        (&["session"], DeadLetterKind::Timer),
        (&["e/%2"], DeadLetterKind::Record),
        (&["e/%2"], DeadLetterKind::Timer),
        (&["x/%"], DeadLetterKind::Timer),
        (&["session", "x/%", "e/%1"], DeadLetterKind::Timer),
        (&["e/%", "x/%"], DeadLetterKind::Timer),
    ];
    let seeds: Vec<u8> = rig.seeds_in(0).take(damages.len() + 1).collect();
    let (victims, neighbours) = (&seeds[..damages.len()], [seeds[damages.len()], rig.seeds_in(1).next().unwrap()]);
    let sessions = |seeds: &[u8]| seeds.iter().map(|seed| accepted(&person, *seed)).collect::<Vec<_>>();
    let (broken, whole) = (sessions(victims), sessions(&neighbours));

    let running = rig.start();
    for events in broken.iter().chain(&whole) {
        rig.publish(&events[..HELD]).await;
    }
    rig.read().await;
    running.stop().await;
    assert!(rig.records(TELEMETRY_CLEAN).await.is_empty(), "everything is held");
    for (seed, (names, _)) in victims.iter().zip(&damages) {
        for names in *names {
            overwrite(&rig, anonymizer::STEP, *seed, names, "X'FF'").await;
        }
    }

    rig.reopen();
    let running = rig.start();
    let mut published = broken;
    for (events, (_, found_by)) in published.iter_mut().zip(&damages) {
        // The first look comes so early that no timer is due before it, the others come to a session that has ended.
        events[HELD].header.received_at = events[HELD - 1].header.received_at + Duration::from_secs(1);
        if *found_by == DeadLetterKind::Timer {
            events.truncate(HELD);
        }
    }
    for events in published.iter().filter(|events| events.len() > HELD) {
        rig.publish(&events[HELD..=HELD]).await;
    }
    rig.read().await;
    for events in published.iter().filter(|events| events.len() > HELD) {
        rig.publish(&events[HELD + 1..]).await;
    }
    for events in &whole {
        rig.publish(&events[HELD..]).await;
    }
    rig.settle(Duration::from_secs(3600)).await;
    rig.sunk().await;
    running.stop().await;

    let letters: Vec<DeadLetter> = rig.decoded(DEAD_LETTERS).await;
    for ((seed, published), (names, found_by)) in victims.iter().zip(&published).zip(&damages) {
        assert_eq!(ended(&rig, &letters, *seed), (*found_by, ids(published)), "{names:?}");
    }
    let clean: Vec<CleanEvent> = rig.decoded(TELEMETRY_CLEAN).await;
    let of_neighbours = ids(whole.iter().flatten());
    assert_eq!(clean.len(), of_neighbours.len());
    assert_eq!(clean.iter().map(|event| event.header.event_id).collect::<BTreeSet<_>>(), of_neighbours);
    let labeled: Vec<PreferencePair> = rig.decoded(PREFERENCE_PAIRS).await;
    let labeled: BTreeSet<_> = labeled.iter().map(|pair| pair.session_id).collect();
    assert_eq!(labeled, neighbours.map(session).into());
    let totals = ledger::statement(&rig.world.pool, &TenantId::default()).await.unwrap().totals;
    let dead_lettered: usize = published.iter().map(Vec::len).sum();
    assert!(totals.holds(), "{totals:?}");
    assert_eq!((totals.pending, totals.clean), (0, i64::try_from(of_neighbours.len()).unwrap()), "{totals:?}");
    assert_eq!(totals.dead_lettered, i64::try_from(dead_lettered).unwrap(), "{totals:?}");
}

/// A secret is known by what stands around it. What was found before is remembered for later looks, which show less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_memory_a_session_shows_nothing_more() {
    let mut rig = Rig::new(AnonymizerConfig::default()).await;
    let person = rig.world.person("someone").await;
    // Too short; sealed under a key that nobody has; not what was sealed.
    let damages = ["X'FF'", "zeroblob(64)", "substr(value, 1, 40)"];
    let seeds = [1, 2, 3, 4];
    let document = DOCUMENT.replace("send(a, b);", "let password = \"Tr0ub4dor9x\"; send(a, b);");
    let sessions = seeds.map(|seed| {
        let mut editor = Editor::over(&person, seed, &document);
        let served = editor.ask(Decision::Silent, vec![]);
        editor.wait(100).replace("user", 0, "owner", Origin::Typed);
        // Another group, so that the first one is concluded and remembered.
        editor.wait(20_000).replace("owner", 0, "user", Origin::Typed).wait(10_000).look(&served, 30);
        editor.events.iter().map(|event| person.raw(event, |text| text)).collect::<Vec<_>>()
    });
    let running = rig.start();
    for events in &sessions {
        rig.publish(&events[..3]).await;
    }
    rig.read().await;
    running.stop().await;
    for (seed, value) in seeds.iter().zip(damages) {
        overwrite(&rig, anonymizer::STEP, *seed, "memory", value).await;
    }

    rig.reopen();
    let running = rig.start();
    for events in &sessions {
        rig.publish(&events[3..]).await;
    }
    rig.settle(Duration::from_secs(3600)).await;
    rig.sunk().await;
    running.stop().await;
    let letters: Vec<DeadLetter> = rig.decoded(DEAD_LETTERS).await;
    for (seed, events) in seeds.iter().zip(&sessions).take(damages.len()) {
        assert_eq!(ended(&rig, &letters, *seed).1, ids(&events[2..]));
    }
    // The last one has its memory.
    let clean: Vec<CleanEvent> = rig.decoded(TELEMETRY_CLEAN).await;
    let looks = clean.iter().filter(|event| event.header.kind == EventKind::RegionLook);
    assert_eq!(looks.map(|event| event.header.session_id).collect::<Vec<_>>(), [session(seeds[damages.len()])]);
    let totals = ledger::statement(&rig.world.pool, &TenantId::default()).await.unwrap().totals;
    assert!(totals.holds(), "{totals:?}");
    assert_eq!((totals.pending, totals.dead_lettered, totals.clean), (0, 6, 10), "{totals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_label_comes_of_what_the_labeler_cannot_decode() {
    let mut rig = Rig::new(AnonymizerConfig::default()).await;
    let audience = "repository:a".parse().unwrap();
    labeler::audience::publish_rule(&*rig.log, &TenantId::default(), REPOSITORY, Some(&audience)).await.unwrap();
    let person = rig.world.person("someone").await;
    let damages = ["session", "f/%", "e/%"];
    let seeds: Vec<u8> = rig.seeds_in(0).take(damages.len() + 1).collect();
    let neighbour = seeds[damages.len()];
    let sessions: Vec<Vec<Record>> = seeds
        .iter()
        .map(|seed| accepted_and_kept(&person, *seed).iter().map(|event| record_of(event, &rig.world.secret)).collect())
        .collect();
    let running = rig.start();
    for records in &sessions {
        rig.log.publish(TELEMETRY_CLEAN, records[..HELD].to_vec()).await;
    }
    rig.read().await;
    running.stop().await;
    for (seed, names) in seeds.iter().zip(damages) {
        overwrite(&rig, labeler::step::STEP, *seed, names, "X'FF'").await;
    }

    rig.reopen();
    let running = rig.start();
    for records in &sessions {
        rig.log.publish(TELEMETRY_CLEAN, records[HELD..].to_vec()).await;
    }
    rig.settle(Duration::from_secs(3600)).await;
    running.stop().await;
    let letters: Vec<DeadLetter> = rig.decoded(DEAD_LETTERS).await;
    for seed in seeds.iter().take(damages.len()) {
        // They were counted as clean already.
        assert_eq!(ended(&rig, &letters, *seed), (DeadLetterKind::Record, BTreeSet::new()));
    }
    let pairs: Vec<PreferencePair> = rig.decoded(PREFERENCE_PAIRS).await;
    assert_eq!(pairs.iter().map(|pair| pair.session_id).collect::<Vec<_>>(), [session(neighbour)]);
    let outcomes: Vec<OpportunityOutcome> = rig.decoded(SERVING_OUTCOMES).await;
    assert_eq!(outcomes.iter().map(|outcome| outcome.opportunity_id).collect::<Vec<_>>(), [pairs[0].opportunity_id]);
}
