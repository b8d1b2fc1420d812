//! Whether the log behind the door is read fast enough: new is refused before acknowledged is dropped.
//!
//! Asking the log takes several questions to its brokers, and requests come by the hundred. So one question is under
//! way at a time: whoever comes first asks it, and everybody else goes by the last answer, unless that is too old to say
//! anything about now. A question outlives the request that asked it, so that clients that leave let none begin beside
//! it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{Bus, BusError, TopicStatus};
use events::{Timestamp, topics};
use parking_lot::Mutex;
use service::problem::Problem;
use tokio::sync::OwnedMutexGuard;

use crate::config::IngestConfig;

/// When clients should try again while the log does not answer.
const SILENT_RETRY: Duration = Duration::from_secs(1);
/// When clients should try again while the log is not read fast enough.
const BACKLOG_RETRY: Duration = Duration::from_secs(30);
/// How old an answer may be while the next one is awaited, or does not come.
const LONGEST_STALENESS: Duration = Duration::from_secs(10);

/// How the log is asked.
type Ask = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<TopicStatus, BusError>> + Send>> + Send + Sync>;

/// What was heard of the log.
#[derive(Default)]
struct Heard {
    /// The last answer, and when it came.
    answer: Option<(TopicStatus, Instant)>,
    /// When the last question ended, with an answer or without.
    ended: Option<Instant>,
}

impl Heard {
    /// The last answer, if it came within `age`.
    fn within(&self, age: Duration) -> Option<TopicStatus> {
        self.answer.as_ref().filter(|(_, at)| at.elapsed() < age).map(|(status, _)| status.clone())
    }
}

/// What stands unread in the log, and whether that is too much.
pub(crate) struct Backlog {
    ask: Ask,
    share: f64,
    staleness: Duration,
    longest_staleness: Duration,
    heard: Arc<Mutex<Heard>>,
    /// Had by the question that is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Backlog {
    pub(crate) fn new(bus: Arc<dyn Bus>, config: &IngestConfig) -> Self {
        let ask: Ask = Box::new(move || {
            let bus = Arc::clone(&bus);
            Box::pin(async move { bus.topic_status(topics::TELEMETRY_RAW).await })
        });
        Self {
            ask,
            share: config.backlog_share,
            staleness: config.backlog_staleness(),
            longest_staleness: LONGEST_STALENESS,
            heard: Arc::default(),
            turn: Arc::default(),
        }
    }

    /// Refuses while the oldest unread raw record is older than the share of the topic's retention.
    pub(crate) async fn check(&self, now: Timestamp) -> Result<(), Problem> {
        let Some(status) = self.status(now).await else {
            return Err(Problem::unavailable("log_unavailable", "the log does not answer", SILENT_RETRY));
        };
        if is_behind(&status, now, self.share) {
            metrics::counter!("flywheel_ingest_backlog_refusals_total").increment(1);
            let detail = "what was acknowledged before has not been read yet; new events would put it at risk";
            return Err(Problem::unavailable("backlog", detail, BACKLOG_RETRY));
        }
        Ok(())
    }

    /// What is known of the log; none: it does not say.
    async fn status(&self, now: Timestamp) -> Option<TopicStatus> {
        let came = Instant::now();
        let fresh = self.heard.lock().within(self.staleness);
        // Looked at again also when it was behind, so that the door opens as soon as the readers have caught up.
        if let Some(status) = fresh.filter(|status| !is_behind(status, now, self.share)) {
            return Some(status);
        }
        let turn = match Arc::clone(&self.turn).try_lock_owned() {
            Ok(turn) => turn,
            // Somebody asks already.
            Err(_) => {
                let known = self.heard.lock().within(self.longest_staleness);
                if known.is_some() {
                    return known;
                }
                Arc::clone(&self.turn).lock_owned().await
            }
        };
        // What others who came before have heard meanwhile, if only that there is no answer, need not be asked again.
        let is_heard = self.heard.lock().ended.is_some_and(|ended| ended > came);
        if is_heard {
            drop(turn);
        } else {
            self.hear(turn).await;
        }
        self.heard.lock().within(self.longest_staleness)
    }

    /// Asks the log, and waits until it has answered or failed.
    async fn hear(&self, turn: OwnedMutexGuard<()>) {
        let (asked, heard) = ((self.ask)(), Arc::clone(&self.heard));
        let question = tokio::spawn(async move {
            let answered = asked.await;
            let ended = Instant::now();
            {
                let mut heard = heard.lock();
                heard.ended = Some(ended);
                match answered {
                    Ok(status) => heard.answer = Some((status, ended)),
                    Err(error) => tracing::warn!(%error, "the backlog can not be looked at"),
                }
            }
            drop(turn);
        });
        // Of one that panicked nothing was heard.
        let _ended_somehow = question.await;
    }
}

fn is_behind(status: &TopicStatus, now: Timestamp, share: f64) -> bool {
    match (status.oldest_unread, status.retention.age) {
        (Some(oldest), Some(retention)) => now.since(oldest) > retention.mul_f64(share.clamp(0.0, 1.0)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use bus::Retention;
    use tokio::sync::Semaphore;
    use tokio::task::{JoinSet, yield_now};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Timestamp = Timestamp::from_seconds(1000);

    fn status(oldest_unread: Option<Timestamp>) -> TopicStatus {
        let retention = Retention::age(Duration::from_secs(100));
        TopicStatus { partitions: 4, records: 1, bytes: 1, oldest_unread, retention }
    }

    /// A log that answers as often as it may, and counts who asks.
    struct Log {
        asked: AtomicUsize,
        may_answer: Semaphore,
        fails: AtomicBool,
    }

    impl Log {
        fn new() -> Arc<Self> {
            Arc::new(Self { asked: AtomicUsize::new(0), may_answer: Semaphore::new(0), fails: AtomicBool::new(false) })
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        /// One question ends.
        fn answer(&self) {
            self.may_answer.add_permits(1);
        }

        fn backlog(self: &Arc<Self>, staleness: Duration, longest_staleness: Duration) -> Arc<Backlog> {
            let log = Arc::clone(self);
            let ask: Ask = Box::new(move || {
                let log = Arc::clone(&log);
                Box::pin(async move {
                    log.asked.fetch_add(1, Ordering::SeqCst);
                    log.may_answer.acquire().await.unwrap().forget();
                    let fails = log.fails.load(Ordering::SeqCst);
                    if fails { Err(BusError::Storage("gone".to_owned())) } else { Ok(status(None)) }
                })
            });
            let (heard, turn) = (Arc::default(), Arc::default());
            Arc::new(Backlog { ask, share: 0.75, staleness, longest_staleness, heard, turn })
        }
    }

    /// What a request is told: the code of its problem, if it has one.
    async fn told(backlog: Arc<Backlog>) -> Option<&'static str> {
        backlog.check(NOW).await.err().map(|problem| problem.code())
    }

    fn crowd(backlog: &Arc<Backlog>, requests: usize) -> JoinSet<Option<&'static str>> {
        (0..requests).map(|_| told(Arc::clone(backlog))).collect()
    }

    /// Everybody goes as far as possible: all tasks of these tests are on this thread.
    async fn all_wait() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    #[test]
    fn three_quarters_of_the_retention_are_the_limit() {
        let behind = status(Some(Timestamp::from_seconds(0)));
        assert!(!is_behind(&behind, Timestamp::from_seconds(75), 0.75));
        assert!(is_behind(&behind, Timestamp::from_seconds(76), 0.75));
        assert!(!is_behind(&status(None), Timestamp::from_seconds(1000), 0.75));
    }

    #[tokio::test]
    async fn who_comes_at_once_asks_one_question() {
        let log = Log::new();
        let backlog = log.backlog(HOUR, HOUR);
        let crowd = crowd(&backlog, 50);
        all_wait().await;
        assert_eq!(log.asked(), 1);
        log.answer();
        assert!(crowd.join_all().await.iter().all(Option::is_none));
        assert_eq!(told(backlog).await, None);
        assert_eq!(log.asked(), 1, "the answer is fresh");
    }

    #[tokio::test]
    async fn everybody_else_goes_by_the_last_answer_while_one_asks() {
        let log = Log::new();
        // Nothing is ever fresh.
        let backlog = log.backlog(Duration::ZERO, HOUR);
        log.answer();
        assert_eq!(told(Arc::clone(&backlog)).await, None);
        let mut asking = crowd(&backlog, 1);
        all_wait().await;
        assert_eq!(log.asked(), 2);
        for _ in 0..50 {
            assert_eq!(told(Arc::clone(&backlog)).await, None);
        }
        // A client that leaves does not take its question with it.
        asking.shutdown().await;
        assert_eq!(told(Arc::clone(&backlog)).await, None);
        assert_eq!(log.asked(), 2);
        // Without an answer the last one still counts.
        log.fails.store(true, Ordering::SeqCst);
        log.answer();
        all_wait().await;
        log.answer();
        assert_eq!((told(backlog).await, log.asked()), (None, 3));
    }

    #[tokio::test]
    async fn an_answer_that_is_too_old_says_nothing() {
        let log = Log::new();
        let backlog = log.backlog(Duration::ZERO, Duration::ZERO);
        log.fails.store(true, Ordering::SeqCst);
        let waiting = crowd(&backlog, 50);
        all_wait().await;
        // No failure is asked for twice either.
        assert_eq!(log.asked(), 1);
        log.answer();
        let told = waiting.join_all().await;
        assert!(told.iter().all(|code| *code == Some("log_unavailable")), "{told:?}");
        assert_eq!(log.asked(), 1);
    }
}
