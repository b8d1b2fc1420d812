//! The real parts behind each other: local log, anonymizer, labeler with its sinks, database and object store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anonymizer::shape::Shape;
use anonymizer::{AnonymizerConfig, AnonymizerDeps};
use artifacts::{ArtifactStore, LocalArtifacts};
use bus::local::{LocalLog, LocalLogConfig};
use bus::{
    Bus, CommittedRecord, IDLE_AFTER, Positions, Record, RecordKey, Retention, StepLag, TopicSpec, partition_for,
};
use bytes::Bytes;
use events::topics::{
    DEAD_LETTERS, PREFERENCE_PAIRS, SERVING_OUTCOMES, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, TELEMETRY_RAW,
};
use events::{ConsentTier, RawEvent, TenantId, avro};
use labeler::LabelerConfig;
use labeler::config::{LakeConfig, SinkConfig};
use service::clock::{Clock as _, SharedClock, SimulatedClock};
use service::consent::{self, ConsentDecision};
use service::readiness::Readiness;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::kit::{REPOSITORY, START, World, session};

const TOPICS: [&str; 6] =
    [TELEMETRY_RAW, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, DEAD_LETTERS, PREFERENCE_PAIRS, SERVING_OUTCOMES];

/// Partitions of each of them.
const PARTITIONS: u32 = 2;

/// Real time that anything may take.
pub(crate) const BOUND: Duration = Duration::from_secs(90);

pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) clock: SimulatedClock,
    pub(crate) log: Arc<dyn Bus>,
    pub(crate) artifacts: Arc<dyn ArtifactStore>,
    pub(crate) anonymizer: AnonymizerConfig,
}

/// The services of a rig.
pub(crate) struct Running {
    stop: CancellationToken,
    readiness: Readiness,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Lets them end by themselves, once they have begun.
    pub(crate) async fn stop(self) {
        tokio::time::timeout(BOUND, self.readiness.ready()).await.expect("they become ready");
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    /// Drops them in the middle of whatever they do.
    pub(crate) async fn kill(self) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            let _ = task.await;
        }
        self.stop.cancel();
    }
}

impl Rig {
    pub(crate) async fn new(anonymizer: AnonymizerConfig) -> Self {
        Self::over(World::new().await, anonymizer).await
    }

    pub(crate) async fn over(world: World, anonymizer: AnonymizerConfig) -> Self {
        let clock = SimulatedClock::new(START);
        let log = open_log(&world, clock.shared());
        create_topics(&*log).await;
        let artifacts: Arc<dyn ArtifactStore> =
            Arc::new(LocalArtifacts::open(world.directory.path().join("artifacts")).unwrap());
        let repository = Shape::new(&world.secret).repository(REPOSITORY);
        let audience = "repository:a".parse().unwrap();
        labeler::audience::publish_rule(&*log, &TenantId::default(), &repository, Some(&audience)).await.unwrap();
        let ceiling = consent::ceiling_subject(&TenantId::default());
        let decision = ConsentDecision { tier: ConsentTier::Code, decided_at: START };
        let decision = serde_json::to_vec(&decision).unwrap().into();
        log.publish_control(TELEMETRY_RAW, consent::CONTROL_KIND, &ceiling, decision).await.unwrap();
        Self { world, clock, log, artifacts, anonymizer }
    }

    /// Another handle of the same log, as a process has that was started again.
    pub(crate) fn reopen(&mut self) {
        self.log = open_log(&self.world, self.clock.shared());
    }

    pub(crate) fn start(&self) -> Running {
        let stop = CancellationToken::new();
        let deps = AnonymizerDeps { bus: Arc::clone(&self.log), keys: self.world.keys.clone() };
        let readiness = Readiness::new();
        let (config, ready, token) = (self.anonymizer.clone(), readiness.gate("anonymizer"), stop.clone());
        let anonymizer = tokio::spawn(async move { anonymizer::run(config, deps, ready, token).await.unwrap() });
        let deps = labeler::Deps {
            bus: Arc::clone(&self.log),
            pool: self.world.pool.clone(),
            keys: self.world.keys.clone(),
            artifacts: Arc::clone(&self.artifacts),
            clock: self.clock.shared(),
            holder: format!("labeler/{}", uuid::Uuid::now_v7()),
        };
        let config = LabelerConfig {
            lake: LakeConfig { part_age_ms: 20, ..LakeConfig::default() },
            sinks: SinkConfig { batch_records: 7, wait_ms: 10, ..SinkConfig::default() },
            ..LabelerConfig::default()
        };
        let (ready, token) = (readiness.gate("labeler"), stop.clone());
        let labeler = tokio::spawn(async move { labeler::run(config, deps, ready, token).await.unwrap() });
        Running { stop, readiness, tasks: vec![anonymizer, labeler] }
    }

    pub(crate) async fn publish(&self, events: &[RawEvent]) {
        let values = events.iter().map(|event| (event, avro::encode(event).unwrap())).collect();
        self.publish_bytes(values).await;
    }

    pub(crate) async fn publish_bytes(&self, values: Vec<(&RawEvent, Vec<u8>)>) {
        let record = |(event, value): (&RawEvent, Vec<u8>)| {
            let key = RecordKey(self.world.secret.record_key(event.header.session_id));
            Record { key, value: Bytes::from(value) }
        };
        let results = self.log.publish(TELEMETRY_RAW, values.into_iter().map(record).collect()).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    /// The record key of a session.
    pub(crate) fn key_of(&self, seed: u8) -> RecordKey {
        RecordKey(self.world.secret.record_key(session(seed)))
    }

    /// Seeds of editors whose sessions lie in a partition.
    pub(crate) fn seeds_in(&self, partition: u32) -> impl Iterator<Item = u8> {
        (1..=u8::MAX).filter(move |seed| partition_for(&self.key_of(*seed), PARTITIONS) == partition)
    }

    /// The file of the log, to do to it what nothing of ours does. The services do not run meanwhile, and the log is
    /// opened anew afterwards.
    pub(crate) async fn log_file(&self) -> sqlx::AnyPool {
        let path = self.world.directory.path().join("log.sqlite");
        migrations::connect(&migrations::sqlite_url(&path), 1).await.unwrap()
    }

    /// Waits until a step stands as it should; the clock stands still.
    pub(crate) async fn until(&self, step: &str, reached: impl Fn(&StepLag) -> bool) {
        let bound = tokio::time::Instant::now() + BOUND;
        loop {
            let lag = self.log.step_lag(step).await;
            if lag.as_ref().is_ok_and(&reached) {
                return;
            }
            assert!(tokio::time::Instant::now() < bound, "{step}: {lag:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until both steps have read everything; the clock stands still.
    pub(crate) async fn read(&self) {
        for step in [anonymizer::STEP, labeler::step::STEP] {
            self.until(step, |lag| lag.records_behind() == 0).await;
        }
    }

    /// Waits until both steps have read everything and, with `passed` on the clock, will do nothing more.
    pub(crate) async fn settle(&self, passed: Duration) {
        self.clock.advance(passed);
        let reached = self.clock.now() - IDLE_AFTER;
        for step in [anonymizer::STEP, labeler::step::STEP] {
            let bound = tokio::time::Instant::now() + BOUND;
            loop {
                let lag = self.log.step_lag(step).await;
                if lag.as_ref().is_ok_and(|lag| lag.settled_at(reached)) {
                    break;
                }
                assert!(tokio::time::Instant::now() < bound, "{step}: {lag:?}");
                if lag.is_ok_and(|lag| lag.records_behind() == 0) {
                    // A partition is idle once the clock went on after it was read to its end.
                    self.clock.advance(IDLE_AFTER);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Waits until the sinks have written everything that stands in their topics.
    pub(crate) async fn sunk(&self) {
        self.ledger_sunk().await;
        self.read_by(labeler::lake::SINK, &[PREFERENCE_PAIRS]).await;
        self.read_by(labeler::tally::SINK, &[SERVING_OUTCOMES]).await;
    }

    /// The same for the ledger alone.
    pub(crate) async fn ledger_sunk(&self) {
        let topics = [TELEMETRY_RAW, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, DEAD_LETTERS];
        self.read_by(labeler::ledger::SINK, &topics).await;
    }

    async fn read_by(&self, sink: &str, topics: &[&str]) {
        let bound = tokio::time::Instant::now() + BOUND;
        for topic in topics {
            loop {
                let stored = labeler::sink::stored_positions(&self.world.pool, sink, topic).await.unwrap();
                let records = self.records(topic).await;
                let is_behind =
                    |record: &&CommittedRecord| stored.get(record.partition).is_none_or(|next| record.position >= next);
                let behind = records.iter().filter(is_behind).count();
                if behind == 0 {
                    break;
                }
                assert!(tokio::time::Instant::now() < bound, "{sink}: {behind} records of {topic} behind");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Everything that stands in a topic, in order.
    pub(crate) async fn records(&self, topic: &str) -> Vec<CommittedRecord> {
        let end = self.log.end_positions(topic).await.unwrap();
        let mut tail = self.log.tail(topic, "test", Positions::oldest()).await.unwrap();
        let mut records = Vec::new();
        loop {
            let more = tail.next(1000, Duration::ZERO).await.unwrap();
            if more.is_empty() && tail.positions().reached(&end) {
                break;
            }
            records.extend(more);
        }
        self.log.forget_reader(topic, "test").await.unwrap();
        records
    }

    /// The values of a topic, decoded.
    pub(crate) async fn decoded<T: avro::AvroRecord>(&self, topic: &str) -> Vec<T> {
        self.records(topic).await.iter().map(|record| avro::decode(&record.value).unwrap()).collect()
    }

    /// Every value of every column of every table of the log and of the database, and every file, by name.
    pub(crate) async fn everything_stored(&self) -> BTreeMap<String, Vec<u8>> {
        let directory = self.world.directory.path();
        let mut stored = BTreeMap::new();
        let mut folders = vec![directory.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(bytes) = std::fs::read(&path) {
                    stored.insert(path.strip_prefix(directory).unwrap().display().to_string(), bytes);
                }
            }
        }
        // A value that lies across pages is in no file in one piece.
        for database in ["log.sqlite", "flywheel.sqlite"] {
            let pool = migrations::connect(&migrations::sqlite_url(&directory.join(database)), 1).await.unwrap();
            let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table'")
                .fetch_all(&pool)
                .await
                .unwrap();
            for table in tables {
                let columns: Vec<String> =
                    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT name FROM pragma_table_info('{table}')")))
                        .fetch_all(&pool)
                        .await
                        .unwrap();
                for column in columns {
                    let query = format!("SELECT COALESCE(hex(CAST(\"{column}\" AS BLOB)), '') FROM \"{table}\"");
                    let values: Vec<String> =
                        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(&pool).await.unwrap();
                    let mut bytes = Vec::new();
                    for value in values {
                        bytes.extend(hex::decode(value).unwrap());
                        bytes.push(b'\n');
                    }
                    stored.insert(format!("{database} {table}.{column}"), bytes);
                }
            }
            pool.close().await;
        }
        stored
    }
}

pub(crate) fn open_log(world: &World, clock: SharedClock) -> Arc<dyn Bus> {
    let path = world.directory.path().join("log.sqlite");
    Arc::new(LocalLog::open(&path, clock, LocalLogConfig::default()).unwrap())
}

pub(crate) async fn create_topics(log: &dyn Bus) {
    let topics = TOPICS.map(|topic| TopicSpec::new(topic, PARTITIONS, Retention::default()));
    log.create_topics(&topics).await.unwrap();
}
