//! A record whose schema only a later release knows, in the log or in keyed state: its partition waits there and says
//! for what, the others go on, and with that release everything goes on where it stood. It is never a dead letter.

use std::collections::BTreeSet;
use std::time::Duration;

use anonymizer::AnonymizerConfig;
use bus::{IDLE_AFTER, Position, Record, RecordKey};
use bytes::Bytes;
use events::avro::{self, schema_dependency};
use events::topics::{DEAD_LETTERS, PREFERENCE_PAIRS, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, TELEMETRY_RAW};
use events::{CleanEvent, PreferencePair, SessionId, TenantId};
use labeler::ledger;

use crate::kit::{Person, REPOSITORY, accepted_and_kept, record_of, session};
use crate::rig::{BOUND, Rig};

/// The fingerprint of a schema that nobody has, as a record holds it (behind two bytes that mark the encoding).
const FINGERPRINT: [u8; 8] = [0xAB; 8];

fn of_a_newer_release(value: &Bytes) -> Bytes {
    let mut value = value.to_vec();
    value[2..10].copy_from_slice(&FINGERPRINT);
    value.into()
}

async fn labeled(rig: &Rig) -> BTreeSet<SessionId> {
    let pairs: Vec<PreferencePair> = rig.decoded(PREFERENCE_PAIRS).await;
    pairs.iter().map(|pair| pair.session_id).collect()
}

/// A topic, the step that reads it, and what makes its records.
struct Stage {
    topic: &'static str,
    step: &'static str,
    waits_for: String,
    record: fn(&Rig, &Person, &CleanEvent) -> Record,
}

fn anonymizing() -> Stage {
    Stage {
        topic: TELEMETRY_RAW,
        step: anonymizer::STEP,
        waits_for: schema_dependency(&hex::encode(FINGERPRINT)),
        record: |rig, person, event| {
            let value = avro::encode(&person.raw(event, |text| text)).unwrap();
            Record { key: RecordKey(rig.world.secret.record_key(event.header.session_id)), value: value.into() }
        },
    }
}

fn labeling() -> Stage {
    Stage {
        topic: TELEMETRY_CLEAN,
        step: labeler::step::STEP,
        waits_for: schema_dependency(&hex::encode(FINGERPRINT)),
        record: |rig, _, event| record_of(event, &rig.world.secret),
    }
}

impl Stage {
    async fn rig(&self) -> (Rig, Person) {
        let rig = Rig::new(AnonymizerConfig::default()).await;
        // The editors' records as they are have no other name for the repository.
        let audience = "repository:a".parse().unwrap();
        labeler::audience::publish_rule(&*rig.log, &TenantId::default(), REPOSITORY, Some(&audience)).await.unwrap();
        let person = rig.world.person("someone").await;
        (rig, person)
    }

    fn records(&self, rig: &Rig, person: &Person, seed: u8) -> Vec<Record> {
        accepted_and_kept(person, seed).iter().map(|event| (self.record)(rig, person, event)).collect()
    }

    async fn publish(&self, rig: &Rig, records: Vec<Record>) -> Vec<(u32, Position)> {
        rig.log.publish(self.topic, records).await.into_iter().map(Result::unwrap).collect()
    }

    /// The partition says what it waits for, and nothing is given up.
    async fn waits(&self, rig: &Rig) {
        rig.until(self.step, |lag| lag.paused().eq([(0, self.waits_for.as_str())])).await;
        for topic in [DEAD_LETTERS, TELEMETRY_QUARANTINE] {
            assert!(rig.records(topic).await.is_empty(), "{topic}");
        }
    }

    /// All that these sessions reported is concluded.
    async fn goes_on(&self, rig: &mut Rig, sessions: &[u8]) {
        rig.reopen();
        let running = rig.start();
        rig.settle(Duration::from_secs(3600)).await;
        rig.sunk().await;
        running.stop().await;
        assert_eq!(labeled(rig).await, sessions.iter().map(|seed| session(*seed)).collect());
        assert!(rig.records(DEAD_LETTERS).await.is_empty());
        if self.topic == TELEMETRY_RAW {
            let totals = ledger::statement(&rig.world.pool, &TenantId::default()).await.unwrap().totals;
            assert!(totals.holds() && totals.clean == totals.entered(), "{totals:?}");
        }
    }
}

/// In a table of the log, a value becomes another one.
async fn exchange(rig: &Rig, table: &str, value: &Bytes, other: &Bytes) {
    let file = rig.log_file().await;
    let exchanged = sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE {table} SET value = $1 WHERE value = $2")))
        .bind(other.to_vec())
        .bind(value.to_vec())
        .execute(&file)
        .await
        .unwrap();
    assert_eq!(exchanged.rows_affected(), 1);
    file.close().await;
}

async fn a_record_waits(stage: Stage) {
    let (mut rig, person) = stage.rig().await;
    // The first session has a newer record in its middle, the second one lies behind it, the third one elsewhere.
    let stuck: Vec<u8> = rig.seeds_in(0).take(2).collect();
    let free = rig.seeds_in(1).next().unwrap();
    let mut first = stage.records(&rig, &person, stuck[0]);
    let known = first[2].value.clone();
    let newer = of_a_newer_release(&known);
    first[2].value = newer.clone();
    let (_, position) = stage.publish(&rig, first).await[2];
    for seed in [stuck[1], free] {
        stage.publish(&rig, stage.records(&rig, &person, seed)).await;
    }

    let running = rig.start();
    let bound = tokio::time::Instant::now() + BOUND;
    while labeled(&rig).await.is_empty() {
        assert!(tokio::time::Instant::now() < bound, "{:?}", rig.log.step_lag(stage.step).await);
        rig.clock.advance(IDLE_AFTER);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.waits(&rig).await;
    let lag = rig.log.step_lag(stage.step).await.unwrap();
    assert_eq!((lag.partitions[0].position, lag.partitions[1].records_behind), (position, 0));
    running.stop().await;
    assert_eq!(labeled(&rig).await, [session(free)].into());
    if stage.topic == TELEMETRY_RAW {
        let clean: Vec<CleanEvent> = rig.decoded(TELEMETRY_CLEAN).await;
        assert!(clean.iter().all(|event| event.header.session_id == session(free)), "what is held stays held");
        let statement = ledger::statement(&rig.world.pool, &TenantId::default()).await.unwrap();
        assert!(statement.totals.holds(), "{statement:?}");
    }
    exchange(&rig, "records", &newer, &known).await;
    stage.goes_on(&mut rig, &[stuck[0], stuck[1], free]).await;
}

/// What a newer release read and holds, and this one finds when it takes over again.
async fn what_is_held_waits(stage: Stage) {
    let (mut rig, person) = stage.rig().await;
    let seed = rig.seeds_in(0).next().unwrap();
    let mut held = stage.records(&rig, &person, seed);
    let looks = held.split_off(4);
    let known = held[2].value.clone();
    let newer = of_a_newer_release(&known);
    let running = rig.start();
    stage.publish(&rig, held).await;
    rig.read().await;
    running.stop().await;
    exchange(&rig, "state", &known, &newer).await;

    rig.reopen();
    let running = rig.start();
    stage.publish(&rig, looks).await;
    stage.waits(&rig).await;
    running.stop().await;
    assert!(labeled(&rig).await.is_empty());
    exchange(&rig, "state", &newer, &known).await;
    stage.goes_on(&mut rig, &[seed]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_raw_record_makes_its_partition_of_the_anonymizer_wait() {
    a_record_waits(anonymizing()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_clean_record_makes_its_partition_of_the_labeler_wait() {
    a_record_waits(labeling()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_record_that_the_anonymizer_holds_makes_its_partition_wait() {
    what_is_held_waits(anonymizing()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_record_that_the_labeler_holds_makes_its_partition_wait() {
    what_is_held_waits(labeling()).await;
}
