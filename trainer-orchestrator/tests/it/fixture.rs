//! A platform that is small enough for a test: a database, keys, a lake of pairs, a registry with a tiny base model.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anonymizer::shape::Shape;
use artifacts::{LocalArtifacts, put_directory};
use bytes::Bytes;
use edit_model::{CodeTokenizer, EditModel, ModelConfig, ModelManifest, Network};
use events::topics::PREFERENCE_PAIRS;
use events::{
    ActionList, ByteRange, EditAction, EditContext, ModelName, ModelVersion, OpportunityId, PairId, PairReason,
    PairText, PersonPseudonym, PreferencePair, Probabilities, RecentEdit, SessionId, SuggestionId, TenantId, Timestamp,
    Window,
};
use labeler::config::LakeConfig;
use labeler::lake::{LakeReader, PairPlace, PartMetadata, PlacedPair, content_digest, write_part};
use model_registry::lineage::SnapshotFilters;
use model_registry::{NewVersion, Promotion, RegistryClient, RegistryConfig, RegistryDeps, RolloutPolicy, Version};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use service::api_keys::{ApiKeys, Scope};
use service::clock::{Clock as _, SimulatedClock};
use service::config::Secret;
use service::http::{HttpConfig, bind};
use service::ids::{SeededIds, SystemIds};
use service::keys::{KeyStore, KeyStoreOptions};
use service::readiness::Readiness;
use service::repositories::RepositoryStore;
use sqlx::AnyPool;
use test_databases::TestDatabase;
use tokio_util::sync::CancellationToken;
use trainer_orchestrator::data_set::sources::Sources;
use trainer_orchestrator::store::Run;
use trainer_orchestrator::{Deps, Handle, OrchestratorConfig};

const NAMES: [&str; 8] = ["load", "store", "parse", "render", "open", "close", "merge", "split"];
/// What the runs of the tests are made by.
pub(crate) const CODE_VERSION: &str = "0.1.0+0123456789ab";
pub(crate) const REPOSITORY: &str = "shop";
const REASON: PairReason = PairReason::DismissedThenTyped;
/// A bound for whatever a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn model() -> ModelName {
    "edit".parse().unwrap()
}

pub(crate) fn start_time() -> Timestamp {
    Timestamp::from_seconds(1_800_000_000)
}

/// What several processes of a test share.
pub(crate) struct Platform {
    pub(crate) root: PathBuf,
    pub(crate) pool: AnyPool,
    pub(crate) keys: KeyStore,
    pub(crate) artifacts: LocalArtifacts,
    pub(crate) client: RegistryClient,
    pub(crate) clock: SimulatedClock,
}

/// Where a second process finds the platform.
pub(crate) struct Address {
    pub(crate) root: PathBuf,
    pub(crate) database: String,
    pub(crate) registry: String,
    pub(crate) secret: String,
}

impl Platform {
    pub(crate) async fn open(address: &Address) -> Self {
        let root = address.root.clone();
        let pool = migrations::connect(&address.database, 8).await.unwrap();
        Self {
            // Seeded, so that the same pairs are the same bytes in every test.
            keys: KeyStore::open_with(
                pool.clone(),
                &root.join("master.key"),
                KeyStoreOptions { seed: Some(7), ..KeyStoreOptions::default() },
            )
            .await
            .unwrap(),
            artifacts: LocalArtifacts::open(root.join("artifacts")).unwrap(),
            client: RegistryClient::new(&address.registry, &Secret::new(address.secret.clone())).unwrap(),
            clock: SimulatedClock::new(start_time() + Duration::from_secs(1_000)),
            root,
            pool,
        }
    }

    /// Starts an orchestrator; it runs until the token is cancelled or the task is aborted.
    pub(crate) fn orchestrate(&self, config: OrchestratorConfig, holder: &str) -> Orchestrating {
        let deps = Deps {
            pool: self.pool.clone(),
            clock: self.clock.shared(),
            ids: Arc::new(SystemIds::new(service::clock::RealClock::shared())),
            keys: self.keys.clone(),
            artifacts: Arc::new(self.artifacts.clone()),
            lake: LakeReader::new(self.pool.clone(), Arc::new(self.artifacts.clone())),
            registry: self.client.clone(),
            tenant: TenantId::default(),
            runs: self.runs(),
            replay: self.root.join("replay.jsonl"),
            old_skills: self.root.join("replay.jsonl"),
            rollout: RolloutPolicy { promotion: Promotion::Automatic, ..RolloutPolicy::default() },
            holder: holder.to_owned(),
            code_version: CODE_VERSION.to_owned(),
            label_policy_version: 1,
        };
        let stop = CancellationToken::new();
        let (handle, task) = trainer_orchestrator::run(config, deps, stop.clone()).unwrap();
        Orchestrating { handle, stop, task: tokio::spawn(task) }
    }

    /// As if the process had died after everything else that a run's end takes, before its row was written.
    pub(crate) async fn forget_the_end(&self) {
        for statement in [
            "UPDATE training_runs SET state = 'running', outcome = NULL, version = NULL, rollout_id = NULL, \
             finished_at = NULL",
            "DELETE FROM outbox",
        ] {
            sqlx::query(statement).execute(&self.pool).await.unwrap();
        }
    }

    /// What data sets are made of.
    pub(crate) fn sources(&self) -> Sources {
        let lake = LakeReader::new(self.pool.clone(), Arc::new(self.artifacts.clone()));
        Sources::new(&self.pool, TenantId::default(), lake, self.keys.clone())
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Versions that some run became.
    pub(crate) async fn trained(&self) -> Vec<Version> {
        let versions = self.client.list_versions(&model()).await.unwrap();
        versions.into_iter().filter(|version| version.run_id.is_some()).collect()
    }
}

/// An orchestrator at work.
pub(crate) struct Orchestrating {
    pub(crate) handle: Handle,
    pub(crate) stop: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

impl Orchestrating {
    /// The newest run once it has ended.
    pub(crate) async fn ended(&self) -> Run {
        wait_for("a run that ended", async || {
            self.handle.store.runs(1).await.unwrap().pop().filter(|run| run.finished_at.is_some())
        })
        .await
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

/// A platform with its registry running in this process.
pub(crate) struct Fixture {
    pub(crate) platform: Platform,
    pub(crate) address: Address,
    _directory: tempfile::TempDir,
}

impl std::ops::Deref for Fixture {
    type Target = Platform;

    fn deref(&self) -> &Platform {
        &self.platform
    }
}

impl Fixture {
    /// A platform whose base is version 1 and whose repository may be trained on for everyone.
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::fresh().await;
        let url = database.url().to_owned();
        let TestDatabase { directory, pool, .. } = database;
        let root = directory.path().to_path_buf();
        let clock = SimulatedClock::new(start_time() + Duration::from_secs(1_000));
        let ids = Arc::new(SeededIds::new(7, start_time()));
        let (_, secret) = ApiKeys::new(pool.clone(), clock.shared(), Arc::new(ids.child("keys")))
            .create(&TenantId::default(), "test", &[Scope::Registry])
            .await
            .unwrap();
        let http = HttpConfig::at("127.0.0.1:0");
        let listener = bind("registry", &http).await.unwrap();
        let registry = format!("http://{}", listener.local_addr().unwrap());
        let deps = RegistryDeps {
            pool: pool.clone(),
            clock: clock.shared(),
            ids: Arc::new(ids.child("rollouts")),
            artifacts: Arc::new(LocalArtifacts::open(root.join("artifacts")).unwrap()),
        };
        let config = RegistryConfig { http, reconcile_ms: 3_600_000, ..RegistryConfig::default() };
        let gate = Readiness::new().gate("registry");
        let stop = CancellationToken::new();
        let (_, task) = model_registry::run(config, deps, "test", listener, gate, stop).unwrap();
        tokio::spawn(task);
        let address =
            Address { root: root.clone(), database: url, registry, secret: secret.expose_secret().to_owned() };
        let platform = Platform { clock, ..Platform::open(&address).await };
        let fixture = Self { platform, address, _directory: directory };
        fixture.register_base().await;
        fixture.allow(REPOSITORY, "everyone").await;
        fixture
    }

    async fn register_base(&self) {
        let base = self.root.join("base");
        tiny_model().save(&base, ModelManifest::new("edit", "pretrain", "0.1.0")).unwrap();
        let tasks: String = (0..12).map(|number| format!("{}\n", task(number))).collect();
        std::fs::write(self.root.join("replay.jsonl"), tasks).unwrap();
        let stored = put_directory(&self.artifacts, &base).await.unwrap();
        let new = NewVersion {
            model: model(),
            artifact_digest: stored.digest(),
            parent: None,
            anchor: None,
            snapshot_digest: None,
            run_id: None,
            code_version: "0.1.0".to_owned(),
            method: "pretrain".to_owned(),
            audience: None,
            evaluation: serde_json::json!({}),
        };
        self.client.ensure_first_version(&new).await.unwrap();
    }

    pub(crate) async fn allow(&self, repository: &str, audience: &str) {
        let rules = RepositoryStore::new(self.pool.clone());
        rules.allow(&TenantId::default(), repository, &audience.parse().unwrap(), self.clock.now()).await.unwrap();
    }

    /// The name that pairs have for a repository.
    pub(crate) async fn rendered(&self, repository: &str) -> String {
        Shape::new(&self.keys.tenant_secret(&TenantId::default()).await.unwrap()).repository(repository)
    }

    /// Puts corrections `first` to `first + count` of 20 persons into the lake, as one part.
    pub(crate) async fn collect(&self, first: u64, count: u64, audience: &str) {
        self.collect_in(REPOSITORY, "person", first, count, audience).await;
    }

    /// The same of 20 `people` in a repository.
    pub(crate) async fn collect_in(&self, repository: &str, people: &str, first: u64, count: u64, audience: &str) {
        let tenant = TenantId::default();
        let secret = self.keys.tenant_secret(&tenant).await.unwrap();
        let repository = self.rendered(repository).await;
        let mut pairs = Vec::new();
        for number in first..first + count {
            let person = secret.person_pseudonym(&format!("{people} {}", number % 20));
            let key = self.keys.data_key(&tenant, &person).await.unwrap();
            let text = correction(number, &repository);
            let (opportunity, suggestion) = asked(number);
            let session: SessionId = opportunity.to_string().parse().unwrap();
            let pair_id = pair_id(number);
            let event_id = PreferencePair::event_id_of(pair_id);
            let bytes = serde_json::to_vec(&text).unwrap();
            let at = start_time() + Duration::from_secs(number);
            let pair = PreferencePair {
                pair_id,
                tenant: tenant.clone(),
                person,
                session_id: session,
                opportunity_id: opportunity,
                suggestion_id: Some(suggestion),
                action_index: 0,
                reason: REASON,
                label_policy_version: 1,
                weight: 1.0,
                divergence: None,
                audience: audience.parse().unwrap(),
                repository: repository.clone(),
                language: "rust".to_owned(),
                model: model(),
                model_version: ModelVersion(1),
                probabilities: Probabilities {
                    arm_probability: 1.0,
                    p_show: 1.0,
                    log_p_text: -1.0,
                    gate_score: 0.9,
                    threshold: 0.5,
                    explored: false,
                },
                altered: false,
                off_policy: false,
                opened_at: at,
                labeled_at: at,
                last_signal_at: at,
                event_id,
                content_digest: content_digest(&secret, &bytes),
                sealed: Some(key.seal(event_id, PREFERENCE_PAIRS, &bytes)),
            };
            pairs.push((PairPlace { partition: 0, position: format!("{number:020}") }, pair));
        }
        self.store_part(first, &pairs).await;
        let persons: BTreeSet<PersonPseudonym> = pairs.into_iter().map(|(_, pair)| pair.person).collect();
        self.consent(&persons).await;
    }

    /// Who is labeled has agreed that code is used.
    async fn consent(&self, persons: &BTreeSet<PersonPseudonym>) {
        let ceiling = "UPDATE tenants SET consent_ceiling = 'code' WHERE tenant = 'default'";
        sqlx::query(ceiling).execute(&self.pool).await.unwrap();
        for person in persons {
            sqlx::query(
                "INSERT INTO consents (tenant, person, tier, decided_at) VALUES ('default', $1, 'code', 1) \
                 ON CONFLICT (tenant, person) DO NOTHING",
            )
            .bind(person.as_str().to_owned())
            .execute(&self.pool)
            .await
            .unwrap();
        }
    }

    async fn store_part(&self, first: u64, pairs: &[PlacedPair]) {
        use artifacts::ArtifactStore as _;
        let metadata = PartMetadata::of(PREFERENCE_PAIRS, None, 0, pairs).unwrap();
        let bytes: Bytes = write_part(&metadata, pairs, LakeConfig::default().row_groups()).unwrap();
        let object = self.artifacts.put(bytes).await.unwrap();
        sqlx::query(
            "INSERT INTO lake_parts (part_id, tenant, topic, partition_index, first_position, last_position, digest, \
             pairs, bytes, min_labeled_at, max_labeled_at) VALUES ($1, 'default', $2, 0, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(format!("part {first}"))
        .bind(PREFERENCE_PAIRS)
        .bind(&metadata.first_position)
        .bind(&metadata.last_position)
        .bind(object.digest.to_string())
        .bind(pairs.len() as i64)
        .bind(object.bytes as i64)
        .bind(pairs[0].1.labeled_at.as_micros())
        .bind(pairs[pairs.len() - 1].1.labeled_at.as_micros())
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// An executable shell script. `$3` is the job file; the directory of the attempt is in `$DIRECTORY`.
    pub(crate) fn script(&self, name: &str, body: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.root.join(name);
        std::fs::write(&path, format!("#!/bin/sh\nDIRECTORY=$(dirname \"$3\")\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

fn asked(number: u64) -> (OpportunityId, SuggestionId) {
    let id = format!("{:032x}", u128::from(number) + 1);
    (id.parse().unwrap(), id.parse().unwrap())
}

/// The pair of correction `number`.
pub(crate) fn pair_id(number: u64) -> PairId {
    let (opportunity, suggestion) = asked(number);
    PairId::derive(&TenantId::default(), opportunity, Some(suggestion), 0, REASON.as_str(), 1)
}

/// Where the attempts at a run lie.
pub(crate) fn attempt(platform: &Platform, run: &Run, number: i64) -> PathBuf {
    platform.runs().join(run.run_id.to_string()).join(number.to_string())
}

/// The training program itself.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_training-job"))
}

/// A small run on request only.
pub(crate) fn config() -> OrchestratorConfig {
    OrchestratorConfig {
        enabled: false,
        steps: 12,
        batch: 2,
        replay: 1,
        interval_seconds: 1,
        maximum_attempts: 2,
        program: Some(program()),
        ..OrchestratorConfig::default()
    }
}

/// What chooses the pairs of such a run.
pub(crate) fn filters(config: &OrchestratorConfig) -> SnapshotFilters {
    config.filters(TenantId::default(), model(), "everyone".parse().unwrap(), 1, CODE_VERSION)
}

pub(crate) async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn wait_for_file(path: &Path) {
    wait_for(&path.display().to_string(), async || path.exists().then_some(())).await;
}

/// Sends SIGKILL.
pub(crate) fn kill(pid: &str) {
    let status = std::process::Command::new("kill").args(["-9", pid.trim()]).status().unwrap();
    assert!(status.success());
}

/// Whether a process runs; one that waits to be reaped does not.
pub(crate) fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

fn tiny_model() -> EditModel {
    let text = NAMES.join("_value(item);\nlet x = ") + "fn (item: &Item) fetch_";
    let tokenizer = CodeTokenizer::train(std::iter::repeat_n(text.as_str(), 4), 330).unwrap();
    let special = tokenizer.special();
    let mut config = ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop);
    config.hidden_size = 32;
    config.intermediate_size = 64;
    config.num_hidden_layers = 1;
    config.num_attention_heads = 2;
    config.num_key_value_heads = 2;
    let network = Network::new(config.clone()).unwrap();
    let weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(1));
    EditModel::new(config, weights, tokenizer).unwrap()
}

/// As the job contract writes it.
fn task(number: u64) -> serde_json::Value {
    let (context, action) = rename(number, "one/two");
    serde_json::json!({ "context": context, "wanted": ActionList { actions: vec![action], closed: true } })
}

fn rename(number: u64, repository: &str) -> (EditContext, EditAction) {
    // Every task is about a function of its own: none repeats another one.
    let old = format!("{}_value_{number}", NAMES[(number % 8) as usize]);
    let new = format!("{}_value_{number}", NAMES[((number / 8 % 7 + number % 8 + 1) % 8) as usize]);
    let context = EditContext {
        repository: repository.to_owned(),
        path: "a.rs".to_owned(),
        language: "rust".to_owned(),
        recent_edits: vec![RecentEdit {
            path: "a.rs".to_owned(),
            old_text: format!("fn {old}(item: &Item)"),
            new_text: format!("fn {new}(item: &Item)"),
        }],
        window: Window { start_byte: 0, first_line: 0, text: format!("let x = {old}(item);\n") },
        cursor_byte: 8,
    };
    let action = EditAction {
        path: "a.rs".to_owned(),
        range: ByteRange::new(8, 8 + old.len() as u64),
        old_text: old,
        new_text: new,
    };
    (context, action)
}

/// The model proposed the rename, the team wanted `fetch_` before it.
fn correction(number: u64, repository: &str) -> PairText {
    let (context, action) = rename(number, repository);
    let mut wanted = action.clone();
    wanted.new_text = format!("fetch_{}", action.new_text);
    PairText {
        context,
        shared: Vec::new(),
        chosen: Some(ActionList { actions: vec![wanted], closed: false }),
        rejected: Some(ActionList { actions: vec![action], closed: true }),
    }
}
