//! What every implementation of the bus must do when records were deleted before a step read them.

use std::future::Future;
use std::sync::Mutex;

use async_trait::async_trait;
use bus::testing::scripted::{Action, Scripted, scripted};
use bus::{Bus, BusError, Loss, LossBook, Position};
use tokio_util::sync::CancellationToken;

use crate::suite::{Harness, Running, caught_up, key, publish, spec, texts, topics};

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

fn owned() -> BusError {
    BusError::Owned { step: "step".to_owned(), partition: 0 }
}
