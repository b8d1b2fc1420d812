//! What every implementation of the bus must do when records were deleted before a step or a reader read them.

use std::future::Future;
use std::sync::Mutex;

use async_trait::async_trait;
use bus::testing::scripted::{Action, Scripted, scripted};
use bus::{Bus, BusError, Loss, LossBook, Position, Positions, Record};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::suite::{BOUND, Harness, Running, caught_up, key, publish, spec, texts, topics};

/// Keeps what it is asked about, and agrees or does not.
pub(crate) struct Book {
    agrees: bool,
    asked: Mutex<Vec<Loss>>,
}

impl Book {
    pub(crate) fn new(agrees: bool) -> Self {
        Self { agrees, asked: Mutex::default() }
    }
}

#[async_trait]
impl LossBook for Book {
    async fn book(&self, loss: &Loss) -> Result<bool, BusError> {
        self.asked.lock().unwrap().push(loss.clone());
        Ok(self.agrees)
    }
}

/// Skips as the command does, and answers what was found and how often it was asked.
pub(crate) async fn skip(bus: &dyn Bus, agrees: bool) -> (Result<Loss, BusError>, usize) {
    let book = Book::new(agrees);
    let skipped = bus.skip_lost("step", 0, &book).await;
    let asked = book.asked.lock().unwrap().clone();
    if let (Ok(loss), Some(booked)) = (&skipped, asked.first()) {
        assert_eq!(loss, booked);
    }
    (skipped, asked.len())
}

/// `delete` deletes all records of the only partition of `in` before a position, as retention may.
pub(crate) async fn a_step_goes_on_behind_what_was_deleted_when_it_is_told<F: Future<Output = ()>>(
    harness: &impl Harness,
    delete: impl FnOnce(Position) -> F,
) {
    let (bus, handler) = (harness.bus(), Scripted::new("out"));
    topics(&*bus, 1).await;
    publish(&*bus, vec![scripted(key(1), &[Action::Add(1)])]).await;
    let running = Running::start(&bus, &handler);
    let read = caught_up(&*bus).await.partitions[0].position;
    assert_eq!(skip(&*harness.another(), true).await, (Err(owned()), 0), "a step that runs is let be");
    running.stop().await;
    let (nothing, asked) = skip(&*bus, true).await;
    let nothing = nothing.unwrap();
    assert!(nothing.is_nothing() && asked == 0, "{nothing:?}");
    assert!(matches!(bus.skip_lost("step", 1, &Book::new(true)).await, Err(BusError::Invalid(_))));

    publish(&*bus, (0..5).map(|_| scripted(key(1), &[Action::Add(10)])).collect()).await;
    let kept = bus.end_positions("in").await.unwrap().get(0).unwrap();
    publish(&*bus, vec![scripted(key(1), &[Action::Add(100)])]).await;
    delete(kept).await;
    let oldest = bus.oldest_positions("in").await.unwrap().get(0).unwrap();
    let gone = || async {
        let stopped = bus.step(spec(), Scripted::new("out"), CancellationToken::new()).await;
        assert!(matches!(stopped, Err(BusError::PositionGone { partition: 0, .. })), "{stopped:?}");
    };
    gone().await;
    let (found, asked) = skip(&*bus, false).await;
    let found = found.unwrap();
    assert_eq!((found.topic.as_str(), found.partition, found.to, asked), ("in", 0, oldest, 1));
    assert!(found.from >= read && found.positions() >= 5 && !found.is_position_forgotten, "{found:?}");
    gone().await;
    assert_eq!(skip(&*bus, true).await, (Ok(found), 1), "what was only looked at has not moved");
    let (again, asked) = skip(&*bus, true).await;
    assert!(again.unwrap().is_nothing() && asked == 0);

    // The state is what it was, and the next record follows.
    let another = harness.another();
    let running = Running::start(&another, &handler);
    caught_up(&*another).await;
    running.stop().await;
    let found = texts(&*bus).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("sum 1 ") && found[1].starts_with("sum 101 "), "{found:?}");
}

/// What a sink relies on that is let go on: its tail stops for the range that the oldest positions tell, and takes up
/// at these everything that is left. Control records take up positions as records do.
pub(crate) async fn a_reader_goes_on_at_the_oldest_position_behind_what_was_deleted<F: Future<Output = ()>>(
    harness: &impl Harness,
    delete: impl FnOnce(Position) -> F,
) {
    let bus = harness.bus();
    topics(&*bus, 1).await;
    let numbered = |numbers: std::ops::Range<u8>| -> Vec<Record> {
        numbers.map(|number| Record { key: key(1), value: Bytes::from(vec![number]) }).collect()
    };
    publish(&*bus, numbered(0..3)).await;
    let (values, stored) = read_on(&*bus, Positions::oldest()).await;
    assert_eq!(values, [0, 1, 2]);

    publish(&*bus, numbered(3..6)).await;
    bus.publish_control("in", "consent", "ada", Bytes::from_static(b"none")).await.unwrap();
    publish(&*bus, numbered(6..8)).await;
    let kept = bus.end_positions("in").await.unwrap().get(0).unwrap();
    bus.publish_control("in", "consent", "ada", Bytes::from_static(b"usage")).await.unwrap();
    publish(&*bus, numbered(8..9)).await;
    assert!(bus.oldest_positions("in").await.unwrap().get(0).unwrap() <= stored.get(0).unwrap(), "nothing is lost yet");
    delete(kept).await;

    let left = harness.another().oldest_positions("in").await.unwrap();
    let (position, oldest) = (stored.get(0).unwrap(), left.get(0).unwrap());
    let told = bus.tail("in", "sink", stored).await.map(drop);
    assert_eq!(told, Err(BusError::PositionGone { topic: "in".to_owned(), partition: 0, position, oldest }));
    let (values, stored) = read_on(&*bus, left).await;
    assert_eq!(values, [8]);
    assert!(stored.get(0).unwrap() <= bus.end_positions("in").await.unwrap().get(0).unwrap());
}

/// Reads as a sink does, up to the end; what came, and where it goes on.
async fn read_on(bus: &dyn Bus, from: Positions) -> (Vec<u8>, Positions) {
    let end = bus.end_positions("in").await.unwrap();
    let mut tail = bus.tail("in", "sink", from.clone()).await.unwrap();
    let (mut values, mut stored) = (Vec::new(), from);
    while !tail.positions().reached(&end) {
        for record in tail.next(100, BOUND).await.unwrap() {
            values.push(record.value[0]);
            stored.advance_past(&record);
        }
    }
    tail.commit(&stored).await.unwrap();
    (values, stored)
}

fn owned() -> BusError {
    BusError::Owned { step: "step".to_owned(), partition: 0 }
}
