//! What unit tests share: real stores in a temporary directory, and an engine that follows a script, because only a
//! script can stop in the middle of a suggestion until the test says so.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bus::local::{LocalLog, LocalLogConfig};
use bus::{Bus, Positions, Retention, TopicSpec};
use events::topics::TELEMETRY_RAW;
use events::{
    ByteRange, ConsentTier, DataKey, EditAction, EditContext, PersonPseudonym, RawEvent, Sha256Digest, TenantId,
    TenantSecret, Timestamp,
};
use model_registry::routing::{RoutingTable, ServedVersion};
use parking_lot::{Condvar, Mutex};
use service::api_keys::{ApiKeys, Scope};
use service::clock::{SharedClock, SimulatedClock};
use service::ids::SeededIds;
use service::keys::{KeyStore, KeyStoreOptions};
use service::repositories::RepositoryRule;
use sqlx::AnyPool;

use crate::database::{DatabaseDirectory, Directory, Grant};
use crate::engine::{Asking, Completion, Engine, Model};
use crate::exposure::{People, Unavailable};
use crate::models::{ModelKey, ModelSource, RoutingSource, Unservable};
use crate::running::Sources;
use crate::{Database, Log, Serving, ServingConfig};

/// How long a test waits for a condition before it fails.
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// Waits for a condition and fails with its last value.
pub(crate) async fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let mut last = String::new();
    for _ in 0..3000 {
        match look() {
            Ok(value) => return value,
            Err(status) => last = status,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: last seen {last}")
}

/// A gate that an engine passes when the test opens it.
#[derive(Debug, Default)]
pub(crate) struct Turnstile(Mutex<bool>, Condvar);

impl Turnstile {
    pub(crate) fn open(&self) {
        *self.0.lock() = true;
        self.1.notify_all();
    }
}

/// An engine that answers by script.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) gate_score: f32,
    pub(crate) actions: usize,
    /// Passed after the first action; looks whether it is cancelled while it waits.
    pub(crate) turnstile: Option<Arc<Turnstile>>,
    /// Set when decoding saw that it was cancelled.
    pub(crate) saw_cancel: Arc<AtomicBool>,
    pub(crate) panics: bool,
    /// Text of the new side.
    pub(crate) new_text: String,
    /// Whose questions it was asked.
    pub(crate) asked_by: Arc<Mutex<Vec<TenantId>>>,
}

impl Script {
    pub(crate) fn new(gate_score: f32, actions: usize) -> Self {
        Self {
            gate_score,
            actions,
            turnstile: None,
            saw_cancel: Arc::default(),
            panics: false,
            new_text: "renamed".to_owned(),
            asked_by: Arc::default(),
        }
    }
}

impl Script {
    fn complete(&self, asking: &Asking) -> Completion {
        assert!(!self.panics, "on purpose");
        let (context, decoding) = (&asking.ask.context, asking.ask.decoding);
        self.asked_by.lock().push(asking.ask.tenant.clone());
        let mut completion =
            Completion { actions: Vec::new(), gate_score: self.gate_score, log_p_text: -0.5, cancelled: false };
        if !decoding.force_edit && self.gate_score < decoding.threshold {
            return completion;
        }
        for (index, word) in words(context).into_iter().take(self.actions.min(decoding.max_actions)).enumerate() {
            if index == 1
                && let Some(turnstile) = &self.turnstile
            {
                let mut open = turnstile.0.lock();
                while !*open && !asking.cancel.is_cancelled() {
                    turnstile.1.wait_for(&mut open, Duration::from_millis(5));
                }
            }
            if asking.cancel.is_cancelled() {
                self.saw_cancel.store(true, Ordering::Release);
                completion.cancelled = true;
                break;
            }
            let action = EditAction {
                path: context.path.clone(),
                range: word.0,
                old_text: word.1,
                new_text: self.new_text.clone(),
            };
            completion.actions.push(action.clone());
            asking.show(action);
        }
        completion
    }
}

impl Model for Script {
    fn answer(&self, _: usize, next: &mut dyn FnMut() -> Option<Asking>) {
        if let Some(asking) = next() {
            let started = Instant::now();
            let completion = self.complete(&asking);
            asking.end(started, Ok(completion));
        }
    }
}

/// The words of the window with their places.
fn words(context: &EditContext) -> Vec<(ByteRange, String)> {
    let text = &context.window.text;
    let base = context.window.start_byte;
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| {
            let start = base + (word.as_ptr() as usize - text.as_ptr() as usize) as u64;
            (ByteRange::new(start, start + word.len() as u64), word.to_owned())
        })
        .collect()
}

/// Models by script: an artifact is the number of its script, a model directory one file with that digest in it.
#[derive(Debug, Default)]
pub(crate) struct ScriptedModels {
    pub(crate) scripts: Mutex<HashMap<Sha256Digest, Script>>,
    /// Engines that are no scripts.
    pub(crate) engines: Mutex<HashMap<Sha256Digest, Arc<dyn Engine>>>,
    pub(crate) is_down: AtomicBool,
}

#[async_trait]
impl ModelSource for ScriptedModels {
    async fn fetch(&self, digest: Sha256Digest, directory: &Path) -> Result<(), Unservable> {
        if self.is_down.load(Ordering::Acquire) {
            return Err(Unservable("the store is down".to_owned()));
        }
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("model"), digest.to_string()).unwrap();
        Ok(())
    }

    async fn load(&self, digest: Sha256Digest, directory: &Path) -> Result<Arc<dyn Engine>, Unservable> {
        let content = std::fs::read_to_string(directory.join("model")).unwrap_or_default();
        if content != digest.to_string() {
            return Err(Unservable(format!("{}: truncated or altered", directory.display())));
        }
        if let Some(engine) = self.engines.lock().get(&digest) {
            return Ok(Arc::clone(engine));
        }
        let scripts = self.scripts.lock();
        let script = scripts.get(&digest).ok_or_else(|| Unservable("no such script".to_owned()))?;
        Ok(Arc::new(script.clone()))
    }
}

/// Tables that the test sets.
#[derive(Debug, Default)]
pub(crate) struct SetRouting {
    pub(crate) tables: Mutex<Vec<RoutingTable>>,
    pub(crate) is_down: AtomicBool,
}

#[async_trait]
impl RoutingSource for SetRouting {
    async fn changed(&self, known: &BTreeMap<ModelKey, i64>) -> Result<Vec<RoutingTable>, Unservable> {
        if self.is_down.load(Ordering::Acquire) {
            return Err(Unservable("the registry is down".to_owned()));
        }
        let tables = self.tables.lock();
        let is_changed =
            |table: &&RoutingTable| known.get(&(table.tenant.clone(), table.model.clone())) != Some(&table.revision);
        Ok(tables.iter().filter(is_changed).cloned().collect())
    }
}

/// A database that the test can take away.
pub(crate) struct Switched {
    pub(crate) real: DatabaseDirectory,
    pub(crate) is_down: AtomicBool,
}

impl Switched {
    fn check(&self) -> Result<(), Unavailable> {
        if self.is_down.load(Ordering::Acquire) { Err(Unavailable) } else { Ok(()) }
    }
}

#[async_trait]
impl Directory for Switched {
    async fn grant(&self, key_sha256: &str) -> Result<Option<Grant>, Unavailable> {
        self.check()?;
        self.real.grant(key_sha256).await
    }

    async fn tenant_secret(&self, tenant: &TenantId) -> Result<TenantSecret, Unavailable> {
        self.check()?;
        self.real.tenant_secret(tenant).await
    }

    async fn repository_rules(&self, tenant: &TenantId) -> Result<Vec<RepositoryRule>, Unavailable> {
        self.check()?;
        self.real.repository_rules(tenant).await
    }
}

#[async_trait]
impl People for Switched {
    async fn consent(&self, tenant: &TenantId, person: &PersonPseudonym) -> Result<ConsentTier, Unavailable> {
        self.check()?;
        self.real.consent(tenant, person).await
    }

    async fn data_key(&self, tenant: &TenantId, person: &PersonPseudonym) -> Result<Arc<DataKey>, Unavailable> {
        self.check()?;
        self.real.data_key(tenant, person).await
    }
}

/// Everything around a service under test.
pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) pool: AnyPool,
    pub(crate) keys: KeyStore,
    pub(crate) database: Arc<Switched>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) clock: SimulatedClock,
    pub(crate) models: Arc<ScriptedModels>,
    pub(crate) routing: Arc<SetRouting>,
    /// A key with the scope `suggest`.
    pub(crate) api_key: String,
}

impl World {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = SimulatedClock::new(Timestamp::from_seconds(1_700_000_000));
        let url = migrations::sqlite_url(&directory.path().join("flywheel.sqlite"));
        let pool = migrations::connect(&url, 4).await.unwrap();
        migrations::migrate(&pool).await.unwrap();
        let options = KeyStoreOptions { clock: clock.shared(), ..KeyStoreOptions::default() };
        let key_file = directory.path().join("master.key");
        let keys = KeyStore::open_with(pool.clone(), &key_file, options).await.unwrap();
        let bus = LocalLog::open(&directory.path().join("log.sqlite"), clock.shared(), LocalLogConfig::default());
        let bus: Arc<dyn Bus> = Arc::new(bus.unwrap());
        let retention = Retention { age: Some(Duration::from_secs(86_400)), partition_bytes: Some(1 << 30) };
        bus.create_topics(&[TopicSpec::new(TELEMETRY_RAW, 2, retention)]).await.unwrap();
        let database = Arc::new(Switched {
            real: DatabaseDirectory::new(
                Database::Open { pool: pool.clone(), keys: keys.clone() },
                Duration::from_millis(1),
            ),
            is_down: AtomicBool::new(false),
        });
        let mut world = Self {
            directory,
            pool,
            keys,
            database,
            bus,
            clock,
            models: Arc::default(),
            routing: Arc::default(),
            api_key: String::new(),
        };
        world.api_key = world.create_key(&[Scope::Suggest]).await;
        world
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.directory.path().join("master.key")
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("serving")
    }

    pub(crate) fn api_keys(&self) -> ApiKeys {
        let clock: SharedClock = self.clock.shared();
        ApiKeys::new(self.pool.clone(), clock, Arc::new(SeededIds::new(1, Timestamp::EPOCH)))
    }

    pub(crate) async fn create_key(&self, scopes: &[Scope]) -> String {
        let ids = Arc::new(service::ids::SystemIds::new(self.clock.shared()));
        let keys = ApiKeys::new(self.pool.clone(), self.clock.shared(), ids);
        let (_, secret) = keys.create(&TenantId::default(), "test", scopes).await.unwrap();
        secret.expose_secret().to_owned()
    }

    /// The tenant's secret.
    pub(crate) async fn secret(&self) -> TenantSecret {
        self.keys.tenant_secret(&TenantId::default()).await.unwrap()
    }

    /// Sets what person `person` agreed to.
    pub(crate) async fn consent(&self, person: &str, tier: ConsentTier) {
        let pseudonym = self.secret().await.person_pseudonym(person);
        let store = service::consent::ConsentStore::new(self.pool.clone());
        let ids = service::ids::SystemIds::new(self.clock.shared());
        use service::clock::Clock;
        store.set_ceiling(&ids, &TenantId::default(), ConsentTier::Code, self.clock.now()).await.unwrap();
        store.decide(&ids, &TenantId::default(), &pseudonym, tier, self.clock.now()).await.unwrap();
    }

    /// Makes version `number` answer by `script`.
    pub(crate) fn version(&self, number: i64, script: Script) -> ServedVersion {
        let artifact_digest = Sha256Digest::of(&number.to_be_bytes());
        self.models.scripts.lock().insert(artifact_digest, script);
        ServedVersion { version: events::ModelVersion(number), artifact_digest, audience: None }
    }

    /// Makes version `number` answer by an engine.
    pub(crate) fn version_of(&self, number: i64, engine: Arc<dyn Engine>) -> ServedVersion {
        let artifact_digest = Sha256Digest::of(&number.to_be_bytes());
        self.models.engines.lock().insert(artifact_digest, engine);
        ServedVersion { version: events::ModelVersion(number), artifact_digest, audience: None }
    }

    /// Routes the model `edit` to `current`.
    pub(crate) fn route(&self, revision: i64, current: ServedVersion) {
        *self.routing.tables.lock() = vec![table(revision, current)];
    }

    pub(crate) fn sources(&self) -> Sources {
        Sources {
            directory: self.database.clone(),
            people: self.database.clone(),
            models: self.models.clone(),
            routing: self.routing.clone(),
            log: Log::Open(Arc::clone(&self.bus)),
            clock: self.clock.shared(),
            ids: Arc::new(SeededIds::new(7, Timestamp::from_seconds(1_700_000_000))),
            key_file: self.key_file(),
            data_dir: self.data_dir(),
            upstream: None,
        }
    }

    /// Starts the service and waits until it follows the routing that is set.
    pub(crate) async fn serve(&self, config: ServingConfig) -> Arc<Serving> {
        let serving = Serving::start_with(config, self.sources()).await.unwrap();
        serving.refresh().await;
        Arc::new(serving)
    }

    /// Every exposure on the bus, in order of publication within its partition.
    pub(crate) async fn exposures(&self) -> Vec<RawEvent> {
        let mut tail = self.bus.tail(TELEMETRY_RAW, "test", Positions::default()).await.unwrap();
        let mut events = Vec::new();
        loop {
            let records = tail.next(100, Duration::from_millis(50)).await.unwrap();
            if records.is_empty() {
                return events;
            }
            events.extend(records.iter().map(|record| events::avro::decode::<RawEvent>(&record.value).unwrap()));
        }
    }
}

/// A table without rollout.
pub(crate) fn table(revision: i64, current: ServedVersion) -> RoutingTable {
    RoutingTable {
        tenant: TenantId::default(),
        model: "edit".parse().unwrap(),
        revision,
        current,
        reference: None,
        holdback_share: 0.0,
        promoted: Vec::new(),
        rollout: None,
    }
}

/// A configuration without chance: nothing is explored, nothing is cached.
pub(crate) fn plain_config() -> ServingConfig {
    ServingConfig {
        exploration: 0.0,
        result_cache_entries: 0,
        routing_poll_ms: 20,
        exposure_retry_ms: 10,
        drain_ms: 500,
        ..ServingConfig::default()
    }
}
