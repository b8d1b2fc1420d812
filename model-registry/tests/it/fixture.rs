//! A registry on loopback with a database, an artifact store and a clock of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use artifacts::{LocalArtifacts, put_directory};
use events::{
    Arm, ModelName, ModelVersion, PairId, PersonPseudonym, RolloutId, RunId, Sha256Digest, TenantId, Timestamp,
};
use model_registry::lineage::{FORMULA, MemberEntry, Purpose, SnapshotFilters, Support, snapshot_digest};
use model_registry::{
    ClientError, NewVersion, RegistryClient, RegistryConfig, RegistryDeps, Rollout, RolloutPolicy, RolloutState,
    RunningRegistry, Trust, assign, run,
};
use service::api_keys::{ApiKeys, Scope};
use service::clock::SimulatedClock;
use service::config::Secret;
use service::http::{HttpConfig, bind};
use service::ids::SeededIds;
use service::readiness::Readiness;
use sqlx::AnyPool;
use test_databases::TestDatabase;
use tokio_util::sync::CancellationToken;

pub(crate) struct Fixture {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) pool: AnyPool,
    pub(crate) clock: SimulatedClock,
    pub(crate) artifacts: LocalArtifacts,
    pub(crate) running: RunningRegistry,
    pub(crate) client: RegistryClient,
    pub(crate) address: String,
    pub(crate) secret: Secret,
    pub(crate) keys: ApiKeys,
    pub(crate) stop: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<()>,
    opportunities: AtomicU64,
}

pub(crate) fn model() -> ModelName {
    "edit".parse().unwrap()
}

pub(crate) fn start_time() -> Timestamp {
    Timestamp::from_seconds(1_800_000_000)
}

pub(crate) fn person_of(number: u64) -> PersonPseudonym {
    format!("{number:032x}").parse().unwrap()
}

/// The stable code of a refusal.
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    result.unwrap_err().code().unwrap_or("no code").to_owned()
}

/// The run that made version `number`.
pub(crate) fn run_id(number: i64) -> RunId {
    format!("0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c{number:02x}").parse().unwrap()
}

pub(crate) fn pair_id(name: &str) -> PairId {
    Sha256Digest::of(format!("pair {name}").as_bytes()).to_string().parse().unwrap()
}

/// The demo's shape: 40% canary, 20% held back, four blocks of an hour, promoted automatically.
pub(crate) fn policy() -> RolloutPolicy {
    RolloutPolicy {
        canary_share: 0.4,
        holdback_share: 0.2,
        margin: 0.1,
        block_seconds: 3_600,
        max_blocks: 4,
        settle_seconds: 60,
        promotion: model_registry::Promotion::Automatic,
        ..RolloutPolicy::default()
    }
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with_door(HttpConfig::at("127.0.0.1:0"), &Trust::default()).await
    }

    /// A registry with a door of these settings, and how its client knows it.
    pub(crate) async fn with_door(http: HttpConfig, trust: &Trust) -> Self {
        let TestDatabase { directory, pool, .. } = TestDatabase::fresh().await;
        let artifacts = LocalArtifacts::open(directory.path().join("artifacts")).unwrap();
        let clock = SimulatedClock::new(start_time());
        let ids = Arc::new(SeededIds::new(7, start_time()));
        let keys = ApiKeys::new(pool.clone(), clock.shared(), Arc::new(ids.child("keys")));
        let (_, secret) = keys.create(&TenantId::default(), "test", &[Scope::Registry]).await.unwrap();
        let stop = CancellationToken::new();
        let listener = bind("registry", &http).await.unwrap();
        let address = format!("{}://{}", http.scheme(), listener.local_addr().unwrap());
        // The reconciler looks when it is asked, so that every test says when.
        let config = RegistryConfig { http, reconcile_ms: 3_600_000, lease_ms: 60_000, ..RegistryConfig::default() };
        let deps = RegistryDeps {
            pool: pool.clone(),
            clock: clock.shared(),
            ids: Arc::new(ids.child("rollouts")),
            artifacts: Arc::new(artifacts.clone()),
        };
        let ready = Readiness::new();
        let (running, task) = run(config, deps, "test", listener, ready.gate("registry"), stop.clone()).unwrap();
        let task = tokio::spawn(task);
        let client = RegistryClient::with_trust(&address, &secret, trust).unwrap();
        Self {
            directory,
            pool,
            clock,
            artifacts,
            running,
            client,
            address,
            secret,
            keys,
            stop,
            task,
            opportunities: AtomicU64::new(0),
        }
    }

    /// Stores a model of a few files; what is in it depends on `content`.
    pub(crate) async fn artifact(&self, content: &str) -> Sha256Digest {
        let source = self.directory.path().join(format!("source-{content}"));
        std::fs::create_dir_all(&source).unwrap();
        std::fs::write(source.join("config.json"), format!("{{\"model\":\"{content}\"}}")).unwrap();
        std::fs::write(source.join("model.safetensors"), content.repeat(1000)).unwrap();
        put_directory(&self.artifacts, &source).await.unwrap().digest()
    }

    /// Where the store keeps an object.
    pub(crate) fn object(&self, digest: Sha256Digest) -> PathBuf {
        self.artifacts.path_of(&digest)
    }

    pub(crate) async fn new_version(&self, content: &str) -> NewVersion {
        NewVersion {
            model: model(),
            artifact_digest: self.artifact(content).await,
            parent: None,
            anchor: None,
            snapshot_digest: None,
            run_id: None,
            code_version: "0.1.0".to_owned(),
            method: "base".to_owned(),
            audience: None,
            evaluation: serde_json::json!({ "gate": "passed" }),
        }
    }

    /// What [`run_id`] made of `snapshot`, which everyone may be served.
    pub(crate) async fn learned(&self, number: i64, anchor: i64, snapshot: Sha256Digest) -> NewVersion {
        NewVersion {
            parent: Some(ModelVersion(1)),
            anchor: Some(ModelVersion(anchor)),
            snapshot_digest: Some(snapshot),
            run_id: Some(run_id(number)),
            audience: Some("everyone".parse().unwrap()),
            method: "sft".to_owned(),
            ..self.new_version(&format!("v{number}")).await
        }
    }

    /// A data set as the orchestrator stores it: (pair, person, purpose) each.
    pub(crate) async fn snapshot(&self, audience: &str, members: &[(&str, u64, Purpose)]) -> Sha256Digest {
        let filters = SnapshotFilters {
            tenant: TenantId::default(),
            model: model(),
            audience: audience.parse().unwrap(),
            label_policy_version: 1,
            code_version: "0.1.0".to_owned(),
            maximum_pairs: 100,
            gate_opportunities: 300,
            placebo_exchange_repositories: false,
            formula: FORMULA,
            policy: serde_json::json!({ "near_duplicate_permille": 700 }),
        };
        let list: Vec<_> = members
            .iter()
            .map(|(pair, _, purpose)| MemberEntry {
                pair_id: pair_id(pair),
                content_digest: Sha256Digest::of(pair.as_bytes()),
                purpose: *purpose,
                support: Support::default(),
            })
            .collect();
        let digest = snapshot_digest(&filters, &list).unwrap();
        sqlx::query(
            "INSERT INTO snapshots (snapshot_digest, tenant, model, audience, label_policy_version, code_version, \
             filters, training_pairs, gate_pairs, first_labeled_at, last_labeled_at, last_signal_at, created_at) \
             VALUES ($1, 'default', 'edit', $2, 1, '0.1.0', $3, 1, 1, 5, 6, 7, 8)",
        )
        .bind(digest.to_string())
        .bind(audience)
        .bind(serde_json::to_string(&filters).unwrap())
        .execute(&self.pool)
        .await
        .unwrap();
        for (pair, person, purpose) in members {
            sqlx::query(
                "INSERT INTO snapshot_pairs (snapshot_digest, pair_id, content_digest, person, purpose) \
                 VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(digest.to_string())
            .bind(pair_id(pair).to_string())
            .bind(Sha256Digest::of(pair.as_bytes()).to_string())
            .bind(person_of(*person).to_string())
            .bind(purpose.as_str())
            .execute(&self.pool)
            .await
            .unwrap();
        }
        sqlx::query("INSERT INTO snapshot_parts VALUES ($1, $2, 3, '10', '20')")
            .bind(digest.to_string())
            .bind(Sha256Digest::of(b"part").to_string())
            .execute(&self.pool)
            .await
            .unwrap();
        digest
    }

    /// A candidate of a data set that was merged into another one, or left out with that.
    pub(crate) async fn merged(&self, snapshot: Sha256Digest, pair: &str, person: u64, into: Option<&str>) {
        sqlx::query(
            "INSERT INTO snapshot_left_out (snapshot_digest, pair_id, person, reason, merged_into) \
             VALUES ($1, $2, $3, 'merged', $4)",
        )
        .bind(snapshot.to_string())
        .bind(pair_id(pair).to_string())
        .bind(person_of(person).to_string())
        .bind(into.map(|pair| pair_id(pair).to_string()))
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// Version 1 current and reference, versions 2 to `count` registered.
    pub(crate) async fn with_versions(count: i64) -> Self {
        let fixture = Self::new().await;
        let first = fixture.new_version("v1").await;
        fixture.client.ensure_first_version(&first).await.unwrap();
        for number in 2..=count {
            let new = NewVersion {
                parent: Some(ModelVersion(1)),
                anchor: Some(ModelVersion(1)),
                method: "sft".to_owned(),
                ..fixture.new_version(&format!("v{number}")).await
            };
            fixture.client.register_version(&new).await.unwrap();
        }
        fixture
    }

    /// Lets the reconciler look, as soon as it leads.
    pub(crate) async fn reconcile(&self) {
        for _ in 0..600 {
            match self.running.reconciler.request().await {
                Err(service::reconciler::RequestError::NotLeader { .. }) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                result => return result.unwrap(),
            }
        }
        panic!("the reconciler never led");
    }

    /// Starts a rollout and lets it begin.
    pub(crate) async fn begin(&self, version: i64, policy: &RolloutPolicy) -> RolloutId {
        let started = self.client.start_rollout(&model(), ModelVersion(version), Some(policy)).await.unwrap();
        self.reconcile().await;
        assert_eq!(self.rollout(started.rollout_id).await.state, RolloutState::Canary);
        started.rollout_id
    }

    pub(crate) async fn rollout(&self, rollout: RolloutId) -> Rollout {
        self.client.get_rollout(rollout).await.unwrap().0
    }

    /// What happens in the block that runs: each of 60 persons meets 6 opportunities with the version that the routing
    /// table gives them; `accepts` says how many of six a version's suggestions are accepted. Then the block ends,
    /// closes and settles, and the reconciler looks.
    pub(crate) async fn play_block(&self, accepts: impl Fn(ModelVersion) -> u32) {
        self.outcomes(accepts).await;
        self.end_block().await;
    }

    pub(crate) async fn end_block(&self) {
        // The block, its close and its settling. Later blocks are played a little later within them.
        self.clock.advance(Duration::from_secs(3_600 + 360));
        self.reconcile().await;
    }

    pub(crate) fn clock_now(&self) -> Timestamp {
        use service::clock::Clock;
        self.clock.now()
    }

    pub(crate) async fn outcomes(&self, accepts: impl Fn(ModelVersion) -> u32) {
        let table = self.client.get_routing(&model()).await.unwrap();
        // Everybody asks from where the candidate may answer.
        let audience = table.rollout.as_ref().and_then(|rollout| rollout.candidate.audience.clone());
        let now = self.clock_now();
        for number in 0..60_u64 {
            let person = person_of(number);
            let given = assign(&table, &person, audience.as_ref(), now).unwrap();
            for index in 0..6 {
                // A third of persons takes one more or one less, for ever.
                let level = i64::from(accepts(given.version)) + (number % 3) as i64 - 1;
                let accepted = index < level;
                self.outcome(&person, &given, now, accepted).await;
            }
        }
    }

    pub(crate) async fn outcome(
        &self,
        person: &PersonPseudonym,
        given: &model_registry::Assignment,
        now: Timestamp,
        accepted: bool,
    ) {
        let opportunity = self.opportunities.fetch_add(1, Ordering::Relaxed);
        let arm = match given.arm {
            Arm::Canary => "canary",
            Arm::Holdback => "holdback",
            _ => "current",
        };
        sqlx::query(
            "INSERT INTO opportunity_outcomes (tenant, opportunity_id, person, model, model_version, rollout_id, arm, \
             block, decision, signal, utility, shown, accepted, kept_characters, censored, exposure_missing, explored, \
             repository, exposed_at, closed_at) VALUES ('default', $1, $2, 'edit', $3, $4, $5, $6, 'shown', $7, $8, 1, \
             $9, 10, 0, 0, 0, 'repository', $10, $11)",
        )
        .bind(format!("{opportunity:032x}"))
        .bind(person.as_str())
        .bind(given.version.0)
        .bind(given.rollout_id.map(|rollout| rollout.to_string()))
        .bind(arm)
        .bind(given.block)
        .bind(if accepted { "accepted" } else { "ignored" })
        .bind(if accepted { 0.75 } else { -0.25 })
        .bind(i64::from(accepted))
        .bind(now.as_micros())
        .bind((now + Duration::from_secs(300)).as_micros())
        .execute(&self.pool)
        .await
        .unwrap();
    }

    /// The audit log has a row for every revision, and the outbox a message for each.
    pub(crate) async fn assert_audit_is_complete(&self) -> Vec<String> {
        let entries = self.client.list_audit(&model(), 0).await.unwrap();
        let models = self.client.list_models().await.unwrap();
        let revisions: Vec<i64> = entries.iter().map(|entry| entry.revision).collect();
        assert_eq!(revisions, (1..=models[0].revision).collect::<Vec<_>>());
        let told: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM outbox WHERE topic = 'flywheel.events.v1'")
            .fetch_one(&self.pool)
            .await
            .unwrap();
        assert_eq!(told, models[0].revision);
        entries.into_iter().map(|entry| format!("{} by {}", entry.action, entry.actor)).collect()
    }

    pub(crate) async fn client_with(&self, tenant: &str, scopes: &[Scope]) -> RegistryClient {
        let (_, secret): (_, Secret) = self.keys.create(&tenant.parse().unwrap(), "other", scopes).await.unwrap();
        RegistryClient::new(&self.address, &secret).unwrap()
    }

    pub(crate) async fn shut_down(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.task).await.unwrap().unwrap();
    }
}
