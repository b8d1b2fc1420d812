//! The outbox: what was committed is published, in order, once for everybody who knows ids.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use events::{IdSource, Timestamp};
use parking_lot::Mutex;
use service::clock::{Clock, RealClock};
use service::ids::{SeededIds, SystemIds};
use service::outbox::{OutboxKind, OutboxMessage, OutboxPublisher, OutboxRelay, PublishError, append};
use service::reconciler::{Next, Reconciler};
use uuid::Uuid;

use crate::database::{Database, database};

test_databases::on_both_databases! {
    crashes_at_every_place_lose_nothing_and_repeat_only_the_same_id,
    records_and_control_records_arrive_as_written,
    relays_that_race_lose_nothing,
}

/// An in-memory log. It keeps what it was given and, on request, dies before or after it has it.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) records: Mutex<Vec<OutboxMessage>>,
    calls: AtomicU32,
    /// Which calls hang: before (`false`) or after (`true`) the record is kept. The test then drops the relay's
    /// activation, as a crash would.
    hang: HashMap<u32, bool>,
    fail: Vec<u32>,
}

#[async_trait]
impl OutboxPublisher for Log {
    async fn publish(&self, message: &OutboxMessage) -> Result<(), PublishError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let hang = self.hang.get(&call).copied();
        if hang == Some(false) {
            std::future::pending::<()>().await;
        }
        if self.fail.contains(&call) {
            return Err("the bus is away".into());
        }
        self.records.lock().push(message.clone());
        if hang == Some(true) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

async fn fill(database: &Database, count: i64) -> Vec<Uuid> {
    let ids = SeededIds::new(1, Timestamp::from_seconds(1_700_000_000));
    let mut made = Vec::new();
    for number in 0..count {
        let now = Timestamp::from_seconds(number / 3);
        let value = number.to_string().into_bytes();
        let message = if number % 2 == 0 {
            OutboxMessage::record(&ids, now, "flywheel.events.v1", [7; 16], value)
        } else {
            OutboxMessage::control(&ids, now, "telemetry.raw.v1", "consent", "default/x", value)
        };
        let mut transaction = migrations::begin_write(&database.pool).await.unwrap();
        append(&mut transaction, &message).await.unwrap();
        if number % 5 == 4 {
            transaction.rollback().await.unwrap();
        } else {
            transaction.commit().await.unwrap();
            made.push(message.id);
        }
    }
    made
}

async fn crashes_at_every_place_lose_nothing_and_repeat_only_the_same_id() {
    let database = database().await;
    let committed = fill(&database, 30).await;
    let hang = BTreeMap::from([(0, false), (3, true), (4, true), (10, false), (17, true), (18, false)]);
    let log = Arc::new(Log { hang: hang.into_iter().collect(), fail: vec![7, 20, 21], ..Log::default() });
    let mut activations = 0;
    loop {
        let relay = OutboxRelay::new(database.pool.clone(), log.clone(), None);
        // A hanging activation is dropped: the crash.
        let before = log.calls.load(Ordering::SeqCst);
        let outcome = tokio::select! {
            outcome = relay.activate() => Some(outcome),
            () = crashed(&log, before) => None,
        };
        activations += 1;
        assert!(activations < 50, "no end");
        if matches!(outcome, Some(Ok(Next::Period))) {
            break;
        }
    }
    let records: Vec<_> = log.records.lock().iter().map(|record| record.id).collect();
    let mut distinct = Vec::new();
    for id in &records {
        if !distinct.contains(id) {
            distinct.push(*id);
        }
    }
    assert_eq!(distinct, committed, "every committed message, none of those rolled back, in order");
    assert!(records.len() > distinct.len(), "no message was repeated: the crashes did not happen");
    assert_eq!(OutboxRelay::new(database.pool.clone(), log.clone(), None).waiting().await.unwrap(), 0);
}

/// Ends when a call after the first `before` ones hangs.
async fn crashed(log: &Log, before: u32) {
    loop {
        let calls = log.calls.load(Ordering::SeqCst);
        if calls > before && log.hang.contains_key(&(calls - 1)) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn records_and_control_records_arrive_as_written() {
    let database = database().await;
    let ids = SystemIds::new(RealClock::shared());
    let now = RealClock.now();
    let messages = [
        OutboxMessage::record(&ids, now, "flywheel.events.v1", *b"0123456789abcdef", vec![0, 1, 255]),
        OutboxMessage::control(&ids, now, "telemetry.raw.v1", "erasure", "default/p", Vec::new()),
    ];
    let mut transaction = migrations::begin_write(&database.pool).await.unwrap();
    for message in &messages {
        append(&mut transaction, message).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let log = Arc::new(Log::default());
    OutboxRelay::new(database.pool.clone(), log.clone(), None).activate().await.unwrap();
    assert_eq!(*log.records.lock(), messages);
    assert!(matches!(messages[1].kind, OutboxKind::Control { .. }));
    assert_ne!(ids.next_uuid(), messages[0].id);
}

/// A lease keeps one of them away; without it they only repeat each other.
async fn relays_that_race_lose_nothing() {
    let database = database().await;
    let mut committed = fill(&database, 40).await;
    let log = Arc::new(Log::default());
    let mut relays = Vec::new();
    for _ in 0..4 {
        let relay = OutboxRelay::new(database.connect().await, log.clone(), None);
        relays.push(tokio::spawn(async move { relay.activate().await.unwrap() }));
    }
    for relay in relays {
        assert_eq!(relay.await.unwrap(), Next::Period);
    }
    let mut published: Vec<_> = log.records.lock().iter().map(|record| record.id).collect();
    published.sort();
    published.dedup();
    committed.sort();
    assert_eq!(published, committed);
    assert_eq!(OutboxRelay::new(database.pool.clone(), log.clone(), None).waiting().await.unwrap(), 0);
}
