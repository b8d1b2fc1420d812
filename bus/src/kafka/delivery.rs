//! What became of messages that were handed to the client, many at a time: they share one place where it is written down,
//! and whoever waits for them is woken once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message as _, ToBytes};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use super::client::Context;

/// A producer whose messages belong to batches. It ends with the last handle.
pub(super) type OurProducer = Arc<ThreadedProducer<Context>>;

/// A message with its place in a batch.
pub(super) type Message<'a, K, P> = BaseRecord<'a, K, P, Box<Ticket>>;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is in the log, at this offset.
    Written(u64),
    /// Why it is not in the log, or not known to be.
    Failed(RDKafkaErrorCode),
    /// The client never took it, or gave it up without a word.
    Forgotten,
}

/// What the client says when it has no room.
pub(super) const QUEUE_FULL: KafkaError = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);

/// How often a full queue is looked at again.
const QUEUE_LOOK: Duration = Duration::from_millis(1);

/// Messages that are waited for together, by one who waits.
#[derive(Debug)]
pub(super) struct Batch {
    state: Mutex<State>,
    /// Of who waits asynchronously.
    settled: Notify,
    /// Of who blocks.
    all_known: Condvar,
}

#[derive(Debug)]
struct State {
    fates: Vec<Fate>,
    waiting: usize,
}

impl Batch {
    pub(super) fn new(messages: usize) -> Arc<Self> {
        let state = State { fates: Vec::with_capacity(messages), waiting: 0 };
        Arc::new(Self { state: Mutex::new(state), settled: Notify::new(), all_known: Condvar::new() })
    }

    /// The next place.
    pub(super) fn ticket(self: &Arc<Self>) -> Box<Ticket> {
        let mut state = self.state.lock();
        state.fates.push(Fate::Forgotten);
        state.waiting += 1;
        Box::new(Ticket { batch: Arc::clone(self), place: state.fates.len() - 1, fate: Fate::Forgotten })
    }

    fn settle(&self, place: usize, fate: Fate) {
        let mut state = self.state.lock();
        if let Some(known) = state.fates.get_mut(place) {
            *known = fate;
        }
        state.waiting -= 1;
        if state.waiting == 0 {
            drop(state);
            self.settled.notify_one();
            self.all_known.notify_one();
        }
    }

    /// The fates in the order of the tickets, once all are known.
    pub(super) async fn fates(&self) -> Vec<Fate> {
        loop {
            {
                let mut state = self.state.lock();
                if state.waiting == 0 {
                    return std::mem::take(&mut state.fates);
                }
            }
            self.settled.notified().await;
        }
    }

    /// The same for who may block; none when some are not known by `deadline`.
    pub(super) fn fates_until(&self, deadline: Instant) -> Option<Vec<Fate>> {
        let mut state = self.state.lock();
        while state.waiting > 0 {
            if self.all_known.wait_until(&mut state, deadline).timed_out() && state.waiting > 0 {
                return None;
            }
        }
        Some(std::mem::take(&mut state.fates))
    }
}

/// A message's place in its batch. Whatever happens to it settles the place, also that it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    batch: Arc<Batch>,
    place: usize,
    fate: Fate,
}

impl Ticket {
    /// Where its fate stands.
    pub(super) fn place(&self) -> usize {
        self.place
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.batch.settle(self.place, self.fate);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, mut ticket: Box<Ticket>) {
        ticket.fate = match result {
            Ok(message) => Fate::Written(u64::try_from(message.offset()).unwrap_or(0)),
            Err((error, _)) => Fate::Failed(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
    }
}

/// Hands a message to the client, waiting until `deadline` for room: the client sends what it has meanwhile. When there is
/// none, [`QUEUE_FULL`].
pub(super) async fn send<K, P>(
    producer: &OurProducer,
    mut message: Message<'_, K, P>,
    deadline: Instant,
) -> Result<(), KafkaError>
where
    K: ToBytes + ?Sized,
    P: ToBytes + ?Sized,
{
    while let Some(again) = try_send(producer, message, deadline)? {
        message = again;
        tokio::time::sleep(QUEUE_LOOK).await;
    }
    Ok(())
}

/// The same for who may block.
pub(super) fn send_blocking<K, P>(
    producer: &OurProducer,
    mut message: Message<'_, K, P>,
    deadline: Instant,
) -> Result<(), KafkaError>
where
    K: ToBytes + ?Sized,
    P: ToBytes + ?Sized,
{
    while let Some(again) = try_send(producer, message, deadline)? {
        message = again;
        std::thread::sleep(QUEUE_LOOK);
    }
    Ok(())
}

/// The message, when there is no room for it and time is left.
fn try_send<'a, K, P>(
    producer: &OurProducer,
    message: Message<'a, K, P>,
    deadline: Instant,
) -> Result<Option<Message<'a, K, P>>, KafkaError>
where
    K: ToBytes + ?Sized,
    P: ToBytes + ?Sized,
{
    match producer.send(message) {
        Ok(()) => Ok(None),
        Err((QUEUE_FULL, again)) if Instant::now() < deadline => Ok(Some(again)),
        Err((error, _)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::task::{Context as Task, Poll, Wake, Waker};

    use super::*;

    fn told(mut ticket: Ticket, fate: Fate) {
        ticket.fate = fate;
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Sleeper(AtomicUsize);

    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_waits_is_woken_once_and_learns_of_all_in_their_order_also_of_what_was_dropped() {
        let batch = Batch::new(3);
        let (first, second, third) = (batch.ticket(), batch.ticket(), batch.ticket());
        assert_eq!((first.place(), second.place(), third.place()), (0, 1, 2));
        let sleeper = Arc::new(Sleeper::default());
        let waker = Waker::from(Arc::clone(&sleeper));
        let mut task = Task::from_waker(&waker);
        let mut waiting = pin!(batch.fates());
        assert!(waiting.as_mut().poll(&mut task).is_pending());
        told(*third, Fate::Written(7));
        drop(first);
        assert_eq!(sleeper.0.load(Ordering::Relaxed), 0, "not before all are known");
        assert!(batch.fates_until(Instant::now()).is_none());
        told(*second, Fate::Failed(RDKafkaErrorCode::PurgeQueue));
        assert_eq!(sleeper.0.load(Ordering::Relaxed), 1);
        let fates = vec![Fate::Forgotten, Fate::Failed(RDKafkaErrorCode::PurgeQueue), Fate::Written(7)];
        assert_eq!(waiting.as_mut().poll(&mut task), Poll::Ready(fates));
    }

    /// Nobody is told that one blocks: so it is tried often, and most times the last word comes while it does.
    #[test]
    fn whoever_blocks_is_woken_also_when_the_batch_was_empty_for_a_while() {
        const ROUNDS: u64 = 200;
        let (done, finished) = mpsc::channel();
        std::thread::spawn(move || {
            for round in 0..ROUNDS {
                let batch = Batch::new(2);
                told(*batch.ticket(), Fate::Written(round));
                let last = batch.ticket();
                let (begins, begun) = mpsc::channel();
                let blocked = std::thread::spawn(move || {
                    begins.send(()).unwrap();
                    // Longer than this test may take: nothing but a word ends it.
                    batch.fates_until(Instant::now() + Duration::from_secs(3600))
                });
                begun.recv().unwrap();
                std::thread::yield_now();
                told(*last, Fate::Written(round + 1));
                let fates = blocked.join().unwrap().unwrap();
                assert_eq!(fates, [Fate::Written(round), Fate::Written(round + 1)]);
            }
            done.send(()).unwrap();
        });
        finished.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(Batch::new(0).fates_until(Instant::now()), Some(Vec::new()));
    }
}
