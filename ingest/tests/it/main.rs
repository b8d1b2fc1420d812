//! The door over real HTTP, with the local log, the database and the key store behind it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test may fail loudly"
)]

mod backlog;
mod bad_input;
mod door;
mod leaks;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bus::local::{LocalLog, LocalLogConfig};
use bus::{
    Bus, BusError, History, Loss, LossBook, Position, Positions, PublishError, Record, Retention, StepHandler, StepLag,
    StepSpec, Tail, TopicSpec, TopicStatus,
};
use bytes::Bytes;
use events::wire::TelemetryAnswer;
use events::{ConsentTier, RawEvent, TenantId, TenantSecret, Timestamp, avro, topics};
use ingest::{IngestConfig, IngestDeps};
use parking_lot::Mutex;
use serde_json::{Value, json};
use service::api_keys::{ApiKeys, Scope};
use service::clock::{Clock as _, SimulatedClock};
use service::consent::ConsentStore;
use service::ids::SystemIds;
use service::keys::KeyStore;
use service::readiness::Readiness;
use test_databases::TestDatabase;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) const SESSION: &str = "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d";
pub(crate) const OPPORTUNITY: &str = "0190f3c0-7b5a-7c3e-9d51-000000000001";

/// A running door.
pub(crate) struct Running {
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) http: reqwest::Client,
    pub(crate) keys: KeyStore,
    pub(crate) api_keys: ApiKeys,
    pub(crate) consents: ConsentStore,
    pub(crate) clock: SimulatedClock,
    pub(crate) ids: Arc<SystemIds>,
    pub(crate) bus: Arc<LocalLog>,
    pub(crate) switch: Arc<Switch>,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), ingest::IngestError>>,
    _directory: tempfile::TempDir,
}

/// The local log with faults that a test turns on.
pub(crate) struct Switch {
    log: Arc<LocalLog>,
    pub(crate) failing: Mutex<Option<PublishError>>,
    pub(crate) hanging: Mutex<bool>,
    /// What is asked about the backlog.
    pub(crate) questions: Questions,
}

/// Questions that wait for an answer, which a test holds back.
#[derive(Default)]
pub(crate) struct Questions {
    pub(crate) held_back: watch::Sender<bool>,
    pub(crate) open: AtomicUsize,
    /// At once, and in all.
    pub(crate) most: AtomicUsize,
    pub(crate) all: AtomicUsize,
}

#[async_trait]
impl Bus for Switch {
    async fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), BusError> {
        self.log.create_topics(specs).await
    }
    async fn partitions(&self, topic: &str) -> Result<u32, BusError> {
        self.log.partitions(topic).await
    }
    async fn publish(&self, topic: &str, records: Vec<Record>) -> Vec<Result<(u32, Position), PublishError>> {
        if *self.hanging.lock() {
            std::future::pending::<()>().await;
        }
        let failing = self.failing.lock().clone();
        match failing {
            // Every other record fails, as with a partition without a leader.
            Some(error) => {
                let (good, bad): (Vec<_>, Vec<_>) =
                    records.into_iter().enumerate().partition(|(place, _)| place % 2 == 0);
                let mut published =
                    self.log.publish(topic, good.into_iter().map(|(_, record)| record).collect()).await.into_iter();
                let count = published.len() + bad.len();
                (0..count)
                    .map(|place| if place % 2 == 0 { published.next().unwrap() } else { Err(error.clone()) })
                    .collect()
            }
            None => self.log.publish(topic, records).await,
        }
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
        let Questions { held_back, open, most, all } = &self.questions;
        all.fetch_add(1, Ordering::SeqCst);
        most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        held_back.subscribe().wait_for(|held_back| !held_back).await.unwrap();
        open.fetch_sub(1, Ordering::SeqCst);
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

impl Running {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(adjust: impl FnOnce(&mut IngestConfig)) -> Self {
        let TestDatabase { directory, pool, .. } = TestDatabase::fresh().await;
        let clock = SimulatedClock::new(Timestamp::from_seconds(1_800_000_000));
        let log =
            LocalLog::open(&directory.path().join("bus.sqlite"), clock.shared(), LocalLogConfig::default()).unwrap();
        let log = Arc::new(log);
        let topic = TopicSpec::new(topics::TELEMETRY_RAW, 4, Retention::age(Duration::from_secs(24 * 3600)));
        log.create_topics(&[topic]).await.unwrap();
        let keys = KeyStore::open(pool.clone(), &directory.path().join("master.key")).await.unwrap();
        let tenant = TenantId::default();
        keys.tenant_secret(&tenant).await.unwrap();
        let ids = Arc::new(SystemIds::new(clock.shared()));
        let api_keys = ApiKeys::new(pool.clone(), clock.shared(), ids.clone());
        let (_, key) = api_keys.create(&tenant, "editor", &[Scope::Telemetry]).await.unwrap();
        let consents = ConsentStore::new(pool);
        consents.set_ceiling(&*ids, &tenant, ConsentTier::Code, clock.now()).await.unwrap();
        let mut config = IngestConfig { consent_staleness_ms: 0, backlog_staleness_ms: 0, ..IngestConfig::default() };
        config.http.listen = "127.0.0.1:0".into();
        adjust(&mut config);
        let listener = service::http::bind("ingest", &config.http).await.unwrap();
        let url = format!("http://{}/v1/telemetry", listener.local_addr().unwrap());
        let switch = Arc::new(Switch {
            log: log.clone(),
            failing: Mutex::new(None),
            hanging: Mutex::new(false),
            questions: Questions::default(),
        });
        let deps = IngestDeps {
            bus: switch.clone(),
            clock: clock.shared(),
            keys: keys.clone(),
            api_keys: api_keys.clone(),
            consents: consents.clone(),
        };
        let readiness = Readiness::new();
        let latch = readiness.gate("ingest");
        let stop = CancellationToken::new();
        let server = tokio::spawn(ingest::run(config, deps, listener, latch, stop.clone()));
        tokio::time::timeout(Duration::from_secs(30), readiness.ready()).await.unwrap();
        let key = key.expose_secret().to_owned();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            url,
            key,
            http,
            keys,
            api_keys,
            consents,
            clock,
            ids,
            bus: log,
            switch,
            stop,
            server,
            _directory: directory,
        }
    }

    pub(crate) async fn secret(&self) -> TenantSecret {
        self.keys.tenant_secret(&TenantId::default()).await.unwrap()
    }

    pub(crate) async fn consent(&self, person: &str, tier: ConsentTier) {
        let person = self.secret().await.person_pseudonym(person);
        let now = self.clock.advance(Duration::from_secs(1));
        self.consents.decide(&*self.ids, &TenantId::default(), &person, tier, now).await.unwrap();
    }

    /// Sets the widest tier that the tenant allows.
    pub(crate) async fn ceiling(&self, tier: ConsentTier) {
        let now = self.clock.advance(Duration::from_secs(1));
        self.consents.set_ceiling(&*self.ids, &TenantId::default(), tier, now).await.unwrap();
    }

    pub(crate) async fn send(&self, body: impl Into<reqwest::Body>) -> reqwest::Response {
        let request = self.http.post(&self.url).bearer_auth(&self.key).header("content-type", "application/json");
        request.body(body).send().await.unwrap()
    }

    /// Sends a batch and reads the answer per event.
    pub(crate) async fn results(&self, body: impl Into<reqwest::Body>) -> Vec<(String, Option<String>)> {
        let response = self.send(body).await;
        assert_eq!(response.status(), 200);
        let answer: TelemetryAnswer = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        let status = |status| serde_json::to_value(status).unwrap().as_str().unwrap().to_owned();
        answer.results.into_iter().map(|result| (status(result.status), result.code)).collect()
    }

    /// Status and code of a batch that is refused as a whole.
    pub(crate) async fn problem(&self, body: impl Into<reqwest::Body>) -> (u16, String) {
        problem(self.send(body).await).await
    }

    /// Every record of the raw topic.
    pub(crate) async fn raw(&self) -> Vec<RawEvent> {
        let mut tail = self.bus.tail(topics::TELEMETRY_RAW, "test", Positions::oldest()).await.unwrap();
        let ends = self.bus.end_positions(topics::TELEMETRY_RAW).await.unwrap();
        let mut events = Vec::new();
        while !tail.positions().reached(&ends) {
            let records = tail.next(1000, Duration::from_secs(5)).await.unwrap();
            events.extend(records.iter().map(|record| avro::decode::<RawEvent>(&record.value).unwrap()));
        }
        self.bus.forget_reader(topics::TELEMETRY_RAW, "test").await.unwrap();
        events.sort_by_key(|event| event.header.sequence);
        events
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.server).await.unwrap().unwrap().unwrap();
    }
}

pub(crate) async fn problem(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(body["status"], status);
    (status, body["code"].as_str().unwrap().to_owned())
}

pub(crate) fn batch(person: &str, events: Value) -> String {
    json!({ "person": person, "session_id": SESSION, "events": events }).to_string()
}

pub(crate) fn edit(sequence: u64, text: &str) -> Value {
    json!({
        "sequence": sequence, "monotonic_ms": sequence * 100, "kind": "document_edited", "path": "src/a.rs",
        "start": 0, "end": 0, "old_text": "", "new_text": text, "origin": "typed",
    })
}

pub(crate) fn shown(sequence: u64, receipt: Option<&str>) -> Value {
    json!({
        "sequence": sequence, "monotonic_ms": sequence * 100, "kind": "suggestion_shown",
        "opportunity_id": OPPORTUNITY, "actions_visible": 1, "receipt": receipt,
    })
}
