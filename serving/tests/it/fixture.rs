//! The neighbours, and a client.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anonymizer::shape::Shape;
use artifacts::{ArtifactStore, LocalArtifacts, get_manifest, put_directory};
use bus::local::{LocalLog, LocalLogConfig};
use bus::{Bus, Positions, Retention, TopicSpec};
use edit_model::{CodeTokenizer, DecodeOptions, EditModel, ModelConfig, ModelManifest, Network};
use events::topics::TELEMETRY_RAW;
use events::wire::{ActionEvent, EndEvent};
use events::{
    ConsentTier, EditContext, ModelName, ModelVersion, RawEvent, Sha256Digest, TenantId, TenantSecret, Timestamp,
    Window,
};
use ingest::{IngestConfig, IngestDeps};
use model_registry::{Alias, NewVersion, RegistryClient, RegistryConfig, RegistryDeps, RoutingTable, RunningRegistry};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use service::api_keys::{ApiKeys, Scope};
use service::clock::{Clock, SimulatedClock};
use service::config::Secret;
use service::consent::ConsentStore;
use service::http::{HttpConfig, bind};
use service::ids::{SeededIds, SystemIds};
use service::keys::{KeyStore, KeyStoreOptions};
use service::readiness::Readiness;
use serving::{Database, Log, Serving, ServingConfig, ServingDeps};
use sqlx::AnyPool;
use test_databases::TestDatabase;
use tokio_util::sync::CancellationToken;

const TEXT: &str = "let user = users.get(1);\nlet name = get_name(user);\nprintln!(name);\n";
const REPOSITORY: &str = "acme/shop";
const PATH: &str = "src/users.rs";
pub(crate) const REQUEST_PERSON: &str = "ada";

pub(crate) fn question(person: &str) -> Value {
    json!({
        "person": person,
        "session_id": "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d",
        "repository": REPOSITORY,
        "path": PATH,
        "language": "rust",
        "document": { "text": TEXT },
        "cursor": 30,
    })
}

/// Flips one bit in the middle of a file.
pub(crate) fn flip_a_bit(path: &Path) {
    damage(path, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
}

/// Takes the last byte of a file away.
pub(crate) fn truncate(path: &Path) {
    damage(path, |bytes| {
        bytes.pop();
    });
}

fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    let mut permissions = std::fs::metadata(path).unwrap().permissions();
    #[cfg(unix)]
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(path, permissions).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Two small models with random weights that have something to say about [`question`]. Found once: every fixture has
/// the same tenant secret, and with it the same rendering of names.
fn talkative_models(shape: &Shape) -> Vec<EditModel> {
    static FOUND: OnceLock<Vec<EditModel>> = OnceLock::new();
    FOUND.get_or_init(|| find_talkative_models(shape, 2)).clone()
}

fn find_talkative_models(shape: &Shape, count: usize) -> Vec<EditModel> {
    let tokenizer = CodeTokenizer::train(std::iter::repeat_n(TEXT, 3), 330).unwrap();
    let special = tokenizer.special();
    let mut config = ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop);
    config.hidden_size = 16;
    config.intermediate_size = 24;
    config.num_hidden_layers = 1;
    config.num_attention_heads = 2;
    config.num_key_value_heads = 2;
    let context = EditContext {
        repository: shape.repository(REPOSITORY),
        path: shape.path(PATH),
        language: "rust".to_owned(),
        recent_edits: Vec::new(),
        window: Window { start_byte: 0, first_line: 0, text: TEXT.to_owned() },
        cursor_byte: 30,
    };
    let models: Vec<EditModel> = (0..5000)
        .map(|seed| {
            let network = Network::new(config.clone()).unwrap();
            let weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(seed));
            EditModel::new(config.clone(), weights, tokenizer.clone()).unwrap().in_served_precision().unwrap()
        })
        .filter(|model| {
            let answer = model.complete(&context, &DecodeOptions::default(), &|| false, &mut |_| {}).unwrap();
            !answer.actions.is_no_edit()
        })
        .take(count)
        .collect();
    assert_eq!(models.len(), count, "no random model has anything to say");
    models
}

pub(crate) struct Fixture {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) pool: AnyPool,
    keys: KeyStore,
    pub(crate) clock: SimulatedClock,
    pub(crate) bus: Arc<dyn Bus>,
    artifacts: Arc<LocalArtifacts>,
    models: Vec<EditModel>,
    pub(crate) client: RegistryClient,
    pub(crate) registry: RunningRegistry,
    stop_registry: CancellationToken,
    registry_task: parking_lot::Mutex<Option<tokio::task::JoinHandle<()>>>,
    /// Opens both doors.
    pub(crate) api_key: String,
    stop_ingest: CancellationToken,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop_ingest.cancel();
    }
}

impl Fixture {
    /// Everything, with version 1 registered, current and the reference.
    pub(crate) async fn new() -> Self {
        let TestDatabase { directory, pool, .. } = TestDatabase::fresh().await;
        let at = |name: &str| directory.path().join(name);
        let clock = SimulatedClock::new(Timestamp::from_seconds(1_800_000_000));
        let ids = Arc::new(SeededIds::new(7, clock.now()));
        let options = KeyStoreOptions { clock: clock.shared(), seed: Some(7), ..KeyStoreOptions::default() };
        let keys = KeyStore::open_with(pool.clone(), &at("master.key"), options).await.unwrap();
        let secret = keys.tenant_secret(&TenantId::default()).await.unwrap();
        let bus = LocalLog::open(&at("log.sqlite"), clock.shared(), LocalLogConfig::default()).unwrap();
        let retention = Retention { age: Some(Duration::from_secs(86_400)), partition_bytes: Some(1 << 30) };
        bus.create_topics(&[TopicSpec::new(TELEMETRY_RAW, 2, retention)]).await.unwrap();
        let artifacts = Arc::new(LocalArtifacts::open(at("artifacts")).unwrap());
        let api_keys = ApiKeys::new(pool.clone(), clock.shared(), Arc::new(ids.child("keys")));
        let tenant = TenantId::default();
        let (_, registry_key) = api_keys.create(&tenant, "serving", &[Scope::Registry]).await.unwrap();
        let (_, api_key) = api_keys.create(&tenant, "editor", &[Scope::Suggest, Scope::Telemetry]).await.unwrap();

        let http = HttpConfig::at("127.0.0.1:0");
        let listener = bind("registry", &http).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let config = RegistryConfig { http, reconcile_ms: 3_600_000, ..RegistryConfig::default() };
        let deps = RegistryDeps {
            pool: pool.clone(),
            clock: clock.shared(),
            ids: Arc::new(ids.child("rollouts")),
            artifacts: artifacts.clone(),
        };
        let stop_registry = CancellationToken::new();
        let latch = Readiness::new().gate("registry");
        let (registry, task) =
            model_registry::run(config, deps, "test", listener, latch, stop_registry.clone()).unwrap();
        let registry_task = parking_lot::Mutex::new(Some(tokio::spawn(task)));
        let fixture = Self {
            pool,
            keys,
            clock,
            bus: Arc::new(bus),
            artifacts,
            models: talkative_models(&Shape::new(&secret)),
            client: RegistryClient::new(&address, &registry_key).unwrap(),
            registry,
            stop_registry,
            registry_task,
            api_key: api_key.expose_secret().to_owned(),
            stop_ingest: CancellationToken::new(),
            directory,
        };
        let first = fixture.new_version(1).await;
        fixture.client.ensure_first_version(&first).await.unwrap();
        fixture
    }

    pub(crate) fn model(&self) -> ModelName {
        "edit".parse().unwrap()
    }

    pub(crate) async fn secret(&self) -> TenantSecret {
        self.keys.tenant_secret(&TenantId::default()).await.unwrap()
    }

    async fn artifact(&self, number: usize) -> Sha256Digest {
        let folder = self.directory.path().join(format!("model-{number}"));
        self.models[number - 1].save(&folder, ModelManifest::new("edit", "pretrain", "0")).unwrap();
        put_directory(&*self.artifacts, &folder).await.unwrap().digest()
    }

    async fn new_version(&self, number: usize) -> NewVersion {
        NewVersion {
            model: self.model(),
            artifact_digest: self.artifact(number).await,
            parent: None,
            anchor: None,
            snapshot_digest: None,
            run_id: None,
            code_version: "0".to_owned(),
            method: "base".to_owned(),
            audience: None,
            evaluation: json!({}),
        }
    }

    pub(crate) async fn register(&self, number: usize) -> ModelVersion {
        let new = self.new_version(number).await;
        self.client.register_version(&new).await.unwrap().version
    }

    pub(crate) async fn promote(&self, version: ModelVersion) {
        self.client.set_alias(&self.model(), Alias::Current, version, Some(ModelVersion(1))).await.unwrap();
    }

    /// The routing once the reconciler, which leads soon after the start, has begun the rollout.
    pub(crate) async fn routing_with_rollout(&self) -> RoutingTable {
        let mut last = String::new();
        for _ in 0..1000 {
            if let Err(error) = self.registry.reconciler.request().await {
                last = error.to_string();
            }
            let table = self.client.get_routing(&self.model()).await.unwrap();
            if table.rollout.is_some() {
                return table;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the rollout has not begun: {last}")
    }

    /// Where the store keeps a file of a version.
    pub(crate) async fn object_of(&self, version: ModelVersion, file: &str) -> PathBuf {
        let digest = self.client.get_version(&self.model(), version).await.unwrap().artifact_digest;
        let manifest = get_manifest(&*self.artifacts, &digest).await.unwrap();
        self.artifacts.path_of(&manifest.file(file).unwrap().sha256)
    }

    /// Where serving keeps a file of the only version that it has.
    pub(crate) fn served_file(&self, file: &str) -> PathBuf {
        find(&self.directory.path().join("serving"), file).unwrap()
    }

    pub(crate) async fn consent(&self, person: &str, tier: ConsentTier) {
        let store = ConsentStore::new(self.pool.clone());
        let pseudonym = self.secret().await.person_pseudonym(person);
        let ids = SystemIds::new(self.clock.shared());
        store.set_ceiling(&ids, &TenantId::default(), ConsentTier::Code, self.clock.now()).await.unwrap();
        store.decide(&ids, &TenantId::default(), &pseudonym, tier, self.clock.now()).await.unwrap();
    }

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

    pub(crate) async fn stop_registry(&self) {
        self.stop_registry.cancel();
        let task = self.registry_task.lock().take();
        task.unwrap().await.unwrap();
    }

    /// The other door, and its address.
    pub(crate) async fn ingest(&self) -> String {
        let config = IngestConfig { http: HttpConfig::at("127.0.0.1:0"), ..IngestConfig::default() };
        let listener = bind("ingest", &config.http).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let ids = Arc::new(SystemIds::new(self.clock.shared()));
        let deps = IngestDeps {
            bus: Arc::clone(&self.bus),
            clock: self.clock.shared(),
            keys: self.keys.clone(),
            api_keys: ApiKeys::new(self.pool.clone(), self.clock.shared(), ids),
            consents: ConsentStore::new(self.pool.clone()),
        };
        let latch = Readiness::new().gate("ingest");
        tokio::spawn(ingest::run(config, deps, listener, latch, self.stop_ingest.clone()));
        address
    }

    /// Serving among its neighbours. It asks the registry when the test says so.
    pub(crate) async fn serve(&self) -> Served {
        self.serve_with(Log::Open(Arc::clone(&self.bus)), |_| ()).await
    }

    /// [`Fixture::serve`] with another log and other settings.
    pub(crate) async fn serve_with(&self, log: Log, adjust: impl FnOnce(&mut ServingConfig)) -> Served {
        let database = Database::Open { pool: self.pool.clone(), keys: self.keys.clone() };
        let served = self.start(log, database, self.client.clone(), self.artifacts.clone(), adjust).await;
        assert!(served.serving.refresh().await);
        served
    }

    /// Serving with nobody around: no registry, no log, no database, no artifacts.
    pub(crate) async fn serve_alone(&self) -> Served {
        let nowhere = self.directory.path().join("no such directory");
        std::fs::write(&nowhere, "a file, so that no database can be made below it").unwrap();
        let database = Database::Later {
            url: service::config::Secret::new(migrations::sqlite_url(&nowhere.join("flywheel.sqlite"))),
            max_connections: 1,
            key_file: self.directory.path().join("master.key"),
            options: KeyStoreOptions::default(),
        };
        let registry = RegistryClient::new("http://127.0.0.1:1", &Secret::new("fw_nobody")).unwrap();
        let empty = LocalArtifacts::open(self.directory.path().join("empty")).unwrap();
        let log = Log::Later(Arc::new(|| Box::pin(async { Err("the log is down".to_owned()) })));
        self.start(log, database, registry, Arc::new(empty), |_| ()).await
    }

    async fn start(
        &self,
        log: Log,
        database: Database,
        registry: RegistryClient,
        artifacts: Arc<dyn ArtifactStore>,
        adjust: impl FnOnce(&mut ServingConfig),
    ) -> Served {
        let mut config = ServingConfig {
            exploration: 0.0,
            routing_poll_ms: 3_600_000,
            exposure_attempts: 2,
            exposure_retry_ms: 10,
            ..ServingConfig::default()
        };
        adjust(&mut config);
        let deps = ServingDeps {
            log,
            clock: self.clock.shared(),
            ids: Arc::new(SystemIds::new(self.clock.shared())),
            database,
            key_file: self.directory.path().join("master.key"),
            registry: vec![registry],
            artifacts,
            data_dir: self.directory.path().join("serving"),
            upstream: None,
        };
        let serving = Serving::start(config, deps).await.unwrap();
        let listener = bind("serving", &HttpConfig::at("127.0.0.1:0")).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let (router, until) = (serving.router(), stop.clone());
        let server = tokio::spawn(async move {
            service::http::serve(listener, router, &HttpConfig::default(), until).await;
        });
        Served { serving, address, stop, server, client: reqwest::Client::new() }
    }
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(directory).ok()?.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) }
    })
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) actions: Vec<ActionEvent>,
    pub(crate) end: EndEvent,
}

impl Answered {
    /// What the actions would write.
    pub(crate) fn new_texts(&self) -> Vec<&str> {
        self.actions.iter().map(|action| action.new_text.as_str()).collect()
    }
}

/// Reads a whole stream of events.
pub(crate) fn parse_events(text: &str) -> Answered {
    let (mut actions, mut end) = (Vec::new(), None);
    for event in text.split("\n\n").filter(|event| !event.is_empty()) {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        match name {
            "action" => actions.push(serde_json::from_str(data).unwrap()),
            "end" => end = Some(serde_json::from_str(data).unwrap()),
            other => panic!("{other}: {data}"),
        }
    }
    Answered { actions, end: end.unwrap() }
}

/// A running service and a client of it.
pub(crate) struct Served {
    pub(crate) serving: Serving,
    pub(crate) address: String,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    client: reqwest::Client,
}

impl Served {
    async fn send(&self, fixture: &Fixture, body: &Value) -> reqwest::Response {
        self.client
            .post(format!("{}/v1/suggestions", self.address))
            .bearer_auth(&fixture.api_key)
            .header("content-type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn ask(&self, fixture: &Fixture, body: &Value) -> Answered {
        let response = self.send(fixture, body).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, reqwest::StatusCode::OK, "{text}");
        parse_events(&text)
    }

    pub(crate) async fn refused(&self, fixture: &Fixture, body: &Value) -> (u16, String) {
        let response = self.send(fixture, body).await;
        let status = response.status().as_u16();
        let problem: Value = response.json().await.unwrap();
        (status, problem["code"].as_str().unwrap().to_owned())
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.server.await.unwrap();
    }
}
