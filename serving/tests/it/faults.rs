//! Completions outlive the wheel: whatever is down or damaged, the last good version answers, and nobody waits for a
//! record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bus::{
    Bus, BusError, History, Loss, LossBook, Position, Positions, PublishError, Record, StepHandler, StepLag, StepSpec,
    Tail, TopicSpec, TopicStatus,
};
use bytes::Bytes;
use events::{ConsentTier, ModelVersion};
use parking_lot::Mutex;
use serving::Log;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, REQUEST_PERSON, flip_a_bit, question, truncate};

/// No answer may take longer; what is down takes its callers far longer than that.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is wrong with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Refuses,
    NeverAnswers,
}

/// The local log with a fault that the test turns on.
struct Faulty {
    log: Arc<dyn Bus>,
    fault: Mutex<Fault>,
}

#[async_trait]
impl Bus for Faulty {
    async fn publish(&self, topic: &str, records: Vec<Record>) -> Vec<Result<(u32, Position), PublishError>> {
        let fault = *self.fault.lock();
        match fault {
            Fault::None => self.log.publish(topic, records).await,
            Fault::Refuses => records.iter().map(|_| Err(PublishError::StorageFull)).collect(),
            Fault::NeverAnswers => std::future::pending().await,
        }
    }
    async fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        self.log.create_topics(specs).await
    }
    async fn partitions(&self, topic: &str) -> Result<u32, BusError> {
        self.log.partitions(topic).await
    }
    async fn publish_control(&self, topic: &str, kind: &str, subject: &str, value: Bytes) -> Result<(), PublishError> {
        self.log.publish_control(topic, kind, subject, value).await
    }
    async fn tail(&self, topic: &str, reader: &str, from: Positions) -> Result<Box<dyn Tail>, BusError> {
        self.log.tail(topic, reader, from).await
    }
    async fn look(&self, topic: &str, from: Positions) -> Result<Box<dyn Tail>, BusError> {
        self.log.look(topic, from).await
    }
    async fn forget_reader(&self, topic: &str, reader: &str) -> Result<(), BusError> {
        self.log.forget_reader(topic, reader).await
    }
    async fn oldest_positions(&self, topic: &str) -> Result<Positions, BusError> {
        self.log.oldest_positions(topic).await
    }
    async fn history(&self, topic: &str, from: Positions, to: Positions) -> Result<Box<dyn History>, BusError> {
        self.log.history(topic, from, to).await
    }
    async fn end_positions(&self, topic: &str) -> Result<Positions, BusError> {
        self.log.end_positions(topic).await
    }
    async fn topic_status(&self, topic: &str) -> Result<TopicStatus, BusError> {
        self.log.topic_status(topic).await
    }
    async fn step(
        &self,
        spec: StepSpec,
        handler: Arc<dyn StepHandler>,
        stop: CancellationToken,
    ) -> Result<(), BusError> {
        self.log.step(spec, handler, stop).await
    }
    async fn step_lag(&self, step: &str) -> Result<StepLag, BusError> {
        self.log.step_lag(step).await
    }
    async fn skip_lost(&self, step: &str, partition: u32, book: &dyn LossBook) -> Result<Loss, BusError> {
        self.log.skip_lost(step, partition, book).await
    }
}

/// Exposures of this process that were dropped for a reason.
fn dropped(reason: &str) -> u64 {
    service::metrics::install().unwrap().counter("flywheel_serving_exposures_dropped_total", &[("reason", reason)])
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_may_go_down_under_a_running_service_and_stay_down_over_its_restart() {
    service::metrics::install().unwrap();
    let fixture = Fixture::new().await;
    fixture.consent(REQUEST_PERSON, ConsentTier::Code).await;
    let faulty = Arc::new(Faulty { log: Arc::clone(&fixture.bus), fault: Mutex::new(Fault::None) });
    let log: Arc<dyn Bus> = faulty.clone();
    let served = fixture
        .serve_with(Log::Open(log), |config| {
            config.exposure_queue = 4;
            config.exposure_batch = 2;
            config.exposure_timeout_ms = 1000;
            config.consent_refresh_seconds = 0;
            config.drain_ms = 100;
        })
        .await;
    let before = served.ask(&fixture, &question(REQUEST_PERSON)).await;
    served.serving.settled().await;
    assert_eq!(fixture.exposures().await.len(), 1);

    // The log first, in both ways in which it can be down; ingest never ran.
    for fault in [Fault::Refuses, Fault::NeverAnswers] {
        *faulty.fault.lock() = fault;
        let (full, all) = (dropped("queue_full"), dropped("queue_full") + dropped("bus"));
        for _ in 0..20 {
            let started = Instant::now();
            let answered = served.ask(&fixture, &question(REQUEST_PERSON)).await;
            assert_eq!(answered.end.model_version, ModelVersion(1));
            assert!(started.elapsed() < PATIENCE, "{fault:?}: an answer waited");
        }
        tokio::time::timeout(Duration::from_secs(60), served.serving.settled()).await.unwrap();
        // No other test of this process drops for one of these reasons.
        assert_eq!(dropped("queue_full") + dropped("bus"), all + 20, "{fault:?}: every record is accounted for");
        if fault == Fault::NeverAnswers {
            assert!(dropped("queue_full") > full, "the queue is bounded");
        }
    }
    assert_eq!(fixture.exposures().await.len(), 1);

    // Then registry, database and object store as well.
    fixture.stop_registry().await;
    fixture.pool.close().await;
    std::fs::remove_dir_all(fixture.directory.path().join("artifacts")).unwrap();
    for _ in 0..5 {
        let started = Instant::now();
        assert_eq!(served.ask(&fixture, &question(REQUEST_PERSON)).await.end.model_version, ModelVersion(1));
        assert!(started.elapsed() < PATIENCE, "an answer waited");
    }
    assert!(!served.serving.refresh().await);
    served.stop().await;

    // A restart finds nobody and serves the last good version from its disk.
    let served = fixture.serve_alone().await;
    let again = served.ask(&fixture, &question(REQUEST_PERSON)).await;
    assert_eq!(again.end.model_version, ModelVersion(1));
    assert_eq!(again.new_texts(), before.new_texts());
    tokio::time::timeout(Duration::from_secs(60), served.serving.settled()).await.unwrap();
    served.stop().await;

    // The same, with a damaged file: a clear reason, and no answer from a model that is not what it should be.
    let file = fixture.served_file("model.safetensors");
    let good = std::fs::read(&file).unwrap();
    for damage in [flip_a_bit, truncate] {
        damage(&file);
        let served = fixture.serve_alone().await;
        let status = served.serving.status();
        assert!(status.models.is_empty());
        assert!(status.failures[0].reason.contains("model.safetensors"), "{status:?}");
        assert_eq!(served.refused(&fixture, &question(REQUEST_PERSON)).await, (503, "no_model".to_owned()));
        served.stop().await;
        std::fs::write(&file, &good).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_opens_later_gets_what_waited_for_it() {
    let fixture = Fixture::new().await;
    let (bus, attempts) = (Arc::clone(&fixture.bus), Arc::new(Mutex::new(0)));
    let log = Log::Later(Arc::new(move || {
        let (bus, attempts) = (Arc::clone(&bus), Arc::clone(&attempts));
        Box::pin(async move {
            *attempts.lock() += 1;
            if *attempts.lock() < 3 { Err("not yet".to_owned()) } else { Ok(bus) }
        })
    }));
    let served = fixture.serve_with(log, |config| config.exposure_attempts = 5).await;
    served.ask(&fixture, &question(REQUEST_PERSON)).await;
    served.serving.settled().await;
    assert_eq!(fixture.exposures().await.len(), 1);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_model_in_the_store_is_refused_and_the_last_good_version_serves_on() {
    for damage in [flip_a_bit, truncate] {
        for file in ["model.safetensors", "tokenizer.json", "config.json"] {
            let fixture = Fixture::new().await;
            let served = fixture.serve().await;
            let second = fixture.register(2).await;
            let object = fixture.object_of(second, file).await;
            // The registry would not promote what is damaged: it happens between its look and ours.
            fixture.promote(second).await;
            damage(&object);
            assert!(!served.serving.refresh().await, "{file}");
            let status = served.serving.status();
            assert_eq!(status.models[0].current, ModelVersion(1));
            let reason = &status.failures[0].reason;
            assert!(reason.contains("version 2") && reason.contains("corrupt"), "{file}: {reason}");
            assert_eq!(served.ask(&fixture, &question(REQUEST_PERSON)).await.end.model_version, ModelVersion(1));
            served.stop().await;
        }
    }
}
