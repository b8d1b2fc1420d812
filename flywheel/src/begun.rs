//! Readiness of the services without a door: a gate opens once a service has really begun, which its log can tell.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bus::{
    Bus, BusError, Position, Positions, PublishError, Record, StepHandler, StepLag, StepSpec, Tail, TopicSpec,
    TopicStatus,
};
use bytes::Bytes;
use service::lease::LeaseStore;
use service::readiness::Latch;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause between two looks at something that does not say when it changes.
const LOOK: Duration = Duration::from_millis(50);

/// Releases `latch` once `begun` ends; a service that stops before never was ready.
pub(crate) async fn open_when(begun: impl Future<Output = ()>, latch: Latch, stop: CancellationToken) {
    if stop.run_until_cancelled(begun).await.is_some() {
        latch.release();
    }
}

/// Ends when somebody holds the lease: this process leads, or stands by for another that does.
pub(crate) async fn led(leases: LeaseStore, name: String) {
    while !matches!(leases.holder(&name).await, Ok(Some(_))) {
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(Debug, Default)]
struct Begun {
    steps: BTreeSet<String>,
    /// Reader and topic.
    readers: BTreeSet<(String, String)>,
}

/// The log as one service has it. It remembers which steps were started and which readers are registered through it.
pub(crate) struct Watched {
    bus: Arc<dyn Bus>,
    begun: watch::Sender<Begun>,
}

impl Watched {
    pub(crate) fn new(bus: Arc<dyn Bus>) -> Arc<Self> {
        Arc::new(Self { bus, begun: watch::Sender::default() })
    }

    /// Ends when `step` was started and is known to the log, and every one of `readers` is registered for its topic.
    pub(crate) async fn begun(&self, step: &str, readers: &[(&str, &str)]) {
        let known = |begun: &Begun, (reader, topic): &(&str, &str)| {
            begun.readers.iter().any(|known| known.0 == *reader && known.1 == *topic)
        };
        let mut begun = self.begun.subscribe();
        // The sender lives in `self`, so it cannot be gone.
        let _ = begun
            .wait_for(|begun| begun.steps.contains(step) && readers.iter().all(|reader| known(begun, reader)))
            .await;
        while self.bus.step_lag(step).await.is_err() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[async_trait]
impl Bus for Watched {
    async fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        self.bus.create_topics(specs).await
    }

    async fn partitions(&self, topic: &str) -> Result<u32, BusError> {
        self.bus.partitions(topic).await
    }

    async fn publish(&self, topic: &str, records: Vec<Record>) -> Vec<Result<(u32, Position), PublishError>> {
        self.bus.publish(topic, records).await
    }

    async fn publish_control(&self, topic: &str, kind: &str, subject: &str, value: Bytes) -> Result<(), PublishError> {
        self.bus.publish_control(topic, kind, subject, value).await
    }

    async fn tail(&self, topic: &str, reader: &str, from: Positions) -> Result<Box<dyn Tail>, BusError> {
        let tail = self.bus.tail(topic, reader, from).await?;
        self.begun.send_modify(|begun| {
            begun.readers.insert((reader.to_owned(), topic.to_owned()));
        });
        Ok(tail)
    }

    async fn look(&self, topic: &str, from: Positions) -> Result<Box<dyn Tail>, BusError> {
        self.bus.look(topic, from).await
    }

    async fn forget_reader(&self, topic: &str, reader: &str) -> Result<(), BusError> {
        self.bus.forget_reader(topic, reader).await
    }

    async fn end_positions(&self, topic: &str) -> Result<Positions, BusError> {
        self.bus.end_positions(topic).await
    }

    async fn topic_status(&self, topic: &str) -> Result<TopicStatus, BusError> {
        self.bus.topic_status(topic).await
    }

    async fn step(
        &self,
        spec: StepSpec,
        handler: Arc<dyn StepHandler>,
        shutdown: CancellationToken,
    ) -> Result<(), BusError> {
        self.begun.send_modify(|begun| {
            begun.steps.insert(spec.name.clone());
        });
        self.bus.step(spec, handler, shutdown).await
    }

    async fn step_lag(&self, step: &str) -> Result<StepLag, BusError> {
        self.bus.step_lag(step).await
    }
}

#[cfg(test)]
mod tests {
    use bus::local::{LocalLog, LocalLogConfig};
    use bus::{CommittedRecord, Input, Outcome, Retention, StepContext};
    use events::Timestamp;
    use service::clock::RealClock;
    use service::readiness::Readiness;

    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    struct Idle;

    impl StepHandler for Idle {
        fn handle(&self, _input: Input<'_>, _context: &mut dyn StepContext) -> Outcome {
            Outcome::Ok
        }

        fn partition_time_of(&self, _record: &CommittedRecord) -> Option<Timestamp> {
            None
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_gate_opens_when_step_and_readers_are_there_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus.sqlite");
        let log: Arc<dyn Bus> =
            Arc::new(LocalLog::open(&path, RealClock::shared(), LocalLogConfig::default()).unwrap());
        let topics = ["in", "out", "dead"].map(|name| TopicSpec::new(name, 1, Retention::default()));
        log.create_topics(&topics).await.unwrap();
        let watched = Watched::new(Arc::clone(&log));
        let readiness = Readiness::new();
        let (latch, stop) = (readiness.gate("step"), CancellationToken::new());
        let opening = tokio::spawn({
            let (watched, stop) = (watched.clone(), stop.clone());
            async move { open_when(watched.begun("step", &[("sink", "out"), ("sink", "dead")]), latch, stop).await }
        });
        let spec = StepSpec::new("step", "in", ["out"], "dead");
        let running = tokio::spawn({
            let (watched, stop) = (watched.clone(), stop.clone());
            async move { watched.step(spec, Arc::new(Idle), stop).await }
        });
        let known = async {
            while log.step_lag("step").await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(BOUND, known).await.unwrap();
        let first = watched.tail("out", "sink", Positions::default()).await.unwrap();
        // Somebody else's reader of the topic that is still missing.
        let other = log.tail("dead", "sink", Positions::default()).await.unwrap();
        assert_eq!((readiness.waiting_for(), opening.is_finished()), (vec!["step"], false));
        drop(other);
        let second = watched.tail("dead", "sink", Positions::default()).await.unwrap();
        tokio::time::timeout(BOUND, readiness.ready()).await.unwrap();
        drop((first, second));
        stop.cancel();
        tokio::time::timeout(BOUND, running).await.unwrap().unwrap().unwrap();
        opening.await.unwrap();
    }

    #[tokio::test]
    async fn what_stops_before_it_began_was_never_ready() {
        let readiness = Readiness::new();
        let stop = CancellationToken::new();
        stop.cancel();
        open_when(std::future::pending(), readiness.gate("step"), stop).await;
        assert!(!readiness.is_ready());
    }
}
