//! What every service of one process shares: bus, database, keys, artifacts, clock, admin port, drain.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use artifacts::ArtifactStore;
use bus::local::{LocalLog, LocalLogConfig};
use bus::{Bus, Retention, StepSpec, TopicSpec};
use events::{IdSource, TenantSecret, Timestamp, topics};
use labeler::lake::LakeReader;
use service::api_keys::{ApiKeys, Scope};
use service::clock::{RealClock, SharedClock, SimulatedClock};
use service::config::Secret;
use service::drain::Drain;
use service::ids::{SeededIds, SystemIds};
use service::keys::{KeyStore, KeyStoreOptions};
use service::metrics::MetricsHandle;
use service::readiness::Readiness;
use sqlx::AnyPool;
use trainer_orchestrator::data_set::sources::REMEMBERED_PAIRS;

use crate::artifact_store::{self, Reach};
use crate::data_dir::{DataDir, write_whole};
use crate::failure::Failure;
use crate::parts::{ArtifactsKind, BusKind};
use crate::settings::Settings;
use crate::{database, sinks};

const DAY: Duration = Duration::from_secs(86_400);
/// How often the internal key can be revoked.
const MOST_INTERNAL_KEYS: u32 = 1000;

/// Opened once a process, handed to every service in it.
pub(crate) struct Foundation {
    pub(crate) settings: Settings,
    pub(crate) data: DataDir,
    pub(crate) clock: SharedClock,
    pub(crate) simulated: Option<SimulatedClock>,
    ids: Ids,
    /// Names this process among all that share the database, on whatever machine they run.
    process: String,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) pool: AnyPool,
    /// Where the key is that wraps all others.
    pub(crate) key_file: PathBuf,
    pub(crate) keys: KeyStore,
    pub(crate) api_keys: ApiKeys,
    pub(crate) artifacts: Arc<dyn ArtifactStore>,
    /// What it remembers of the lake is shared by all who look at it again and again.
    pub(crate) lake: LakeReader,
    pub(crate) secret: TenantSecret,
    /// Opens the registry to the services of this platform.
    pub(crate) internal_key: Secret,
    pub(crate) metrics: MetricsHandle,
    pub(crate) readiness: Readiness,
    pub(crate) drain: Drain,
}

/// Who opens everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Service,
    /// It makes nothing at servers that it only looks at.
    Command,
}

enum Ids {
    System(Arc<SystemIds>),
    Seeded(SeededIds),
}

impl Ids {
    /// A source of its own for each user, so that a seeded run does not depend on who asks first.
    fn child(&self, label: &str) -> Arc<dyn IdSource> {
        match self {
            Self::System(ids) => Arc::clone(ids) as Arc<dyn IdSource>,
            Self::Seeded(ids) => Arc::new(ids.child(label)),
        }
    }
}

/// The steps of a platform.
pub(crate) fn steps() -> [StepSpec; 2] {
    [anonymizer::step_spec(), labeler::step::spec()]
}

/// Topics that are published to beside the steps: by the doors and the registry, by commands and through the outbox.
#[cfg(feature = "production")]
pub(crate) const PUBLISHED: [&str; 3] = [topics::TELEMETRY_RAW, topics::TELEMETRY_CLEAN, topics::FLYWHEEL_EVENTS];

/// The topics, and who must see every record of them: a service that has not run yet, or runs elsewhere, loses nothing.
pub(crate) fn topics_of(settings: &Settings) -> Vec<TopicSpec> {
    let bus = &settings.bus;
    let kept = |name: &str, age: Duration| {
        let spec = TopicSpec::new(name, bus.partitions, Retention::age(age));
        let reading = steps().into_iter().filter(|step| step.input == name);
        sinks::read_by_sinks(reading.fold(spec, |spec, step| spec.read_by_step(step.name)))
    };
    let days = |days: u64| DAY * u32::try_from(days).unwrap_or(u32::MAX);
    vec![
        kept(topics::TELEMETRY_RAW, Duration::from_secs(bus.raw_hours * 3600)),
        kept(topics::TELEMETRY_CLEAN, days(bus.clean_days)),
        kept(topics::TELEMETRY_QUARANTINE, days(bus.quarantine_days)),
        kept(topics::DEAD_LETTERS, days(bus.quarantine_days)),
        kept(topics::PREFERENCE_PAIRS, days(bus.pairs_days)),
        kept(topics::SERVING_OUTCOMES, days(bus.outcomes_days)),
        kept(topics::FLYWHEEL_EVENTS, days(bus.outcomes_days)),
    ]
}

impl Foundation {
    /// Opens or makes everything for a service; `reach` says whether the artifacts are needed at once.
    pub(crate) async fn open(settings: &Settings, data: &DataDir, reach: Reach) -> Result<Self, Failure> {
        Self::open_as(settings, data, reach, Role::Service).await
    }

    /// Opens everything for a command, which may run beside services and with other settings.
    pub(crate) async fn open_to_command(settings: &Settings, data: &DataDir) -> Result<Self, Failure> {
        Self::open_as(settings, data, Reach::Later, Role::Command).await
    }

    async fn open_as(settings: &Settings, data: &DataDir, reach: Reach, role: Role) -> Result<Self, Failure> {
        let configured = settings.clock.build().map_err(Failure::refuse)?;
        let clock = configured.clock;
        let ids = match settings.seed {
            Some(seed) => Ids::Seeded(SeededIds::new(seed, clock.now())),
            None => Ids::System(Arc::new(SystemIds::new(Arc::clone(&clock)))),
        };
        let key_file = master_key_file(settings, data)?;
        let pool = database::open(&settings.database, data).await?;
        let bus = open_log(settings, data, Arc::clone(&clock), Some(&pool), role).await?;
        let topics = topics_of(settings);
        let ready = match role {
            Role::Service => bus.create_topics(&topics).await,
            Role::Command => bus.use_topics(&topics).await,
        };
        ready.map_err(Failure::refuse)?;
        let options = KeyStoreOptions {
            clock: Arc::clone(&clock),
            ids: ids.child("keys"),
            seed: settings.seed,
            ..KeyStoreOptions::default()
        };
        let keys = KeyStore::open_with(pool.clone(), &key_file, options).await.map_err(Failure::refuse)?;
        let secret = keys.tenant_secret(&settings.tenant).await?;
        let api_keys = ApiKeys::new(pool.clone(), Arc::clone(&clock), ids.child("api keys"));
        let internal_key = internal_key(&api_keys, settings, &secret, &data.internal_key()).await?;
        let artifacts = artifact_store::open(&settings.artifacts, data, reach).await?;
        let lake = LakeReader::new(pool.clone(), Arc::clone(&artifacts)).remembering(REMEMBERED_PAIRS);
        Ok(Self {
            settings: settings.clone(),
            data: data.clone(),
            clock,
            simulated: configured.simulated,
            ids,
            process: format!("{}/{}", std::process::id(), SystemIds::new(RealClock::shared()).next_uuid()),
            bus,
            pool,
            key_file,
            keys,
            api_keys,
            artifacts,
            lake,
            secret,
            internal_key,
            metrics: service::metrics::install()?,
            readiness: Readiness::new(),
            drain: Drain::new(Duration::from_secs(settings.grace_seconds)),
        })
    }

    /// A source of ids for one user.
    pub(crate) fn ids(&self, label: &str) -> Arc<dyn IdSource> {
        self.ids.child(label)
    }

    /// Names this process in leases. In containers every process has the same number, and two that share a name would
    /// both lead.
    pub(crate) fn holder(&self, service: &str) -> String {
        format!("{service}/{}", self.process)
    }

    /// Lets readiness follow the database, where it can go away while the process stays.
    pub(crate) fn watch_database(&self) {
        if self.settings.database.kind.is_server() {
            let watching = service::database::watch(self.pool.clone(), self.readiness.clone(), self.drain.token());
            self.drain.spawn("database", async move {
                watching.await;
                Ok(())
            });
        }
    }

    /// Lets readiness follow the log, where it can go away while the process stays.
    pub(crate) fn watch_log(&self) {
        if self.settings.bus.kind.is_server() {
            let watching = bus::watch::watch(Arc::clone(&self.bus), self.readiness.clone(), self.drain.token());
            self.drain.spawn("log", async move {
                watching.await;
                Ok(())
            });
        }
    }

    /// Lets readiness follow the bucket, where there is one.
    pub(crate) fn watch_artifacts(&self) {
        if self.settings.artifacts.kind != ArtifactsKind::Local {
            let (artifacts, readiness) = (Arc::clone(&self.artifacts), self.readiness.clone());
            let stop = self.drain.token();
            self.drain.spawn("bucket", async move {
                let look = || async { artifacts.answers().await.map_err(|error| error.to_string()) };
                service::bucket::watch(look, readiness, stop).await;
                Ok(())
            });
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Opens the log of a platform to read it: nothing is published, and no step can run.
pub(crate) async fn open_log_to_read(
    settings: &Settings,
    data: &DataDir,
    clock: SharedClock,
) -> Result<Arc<dyn Bus>, Failure> {
    match settings.bus.kind {
        BusKind::Local => {
            let local = LocalLogConfig { prefix: settings.bus.prefix.clone(), ..settings.bus.local.clone() };
            let log = LocalLog::open_to_read(&data.bus(), clock, local).map_err(|error| {
                Failure::refused(format!("the log {} can not be read: {error}", data.bus().display()))
            })?;
            Ok(Arc::new(log))
        }
        #[cfg(feature = "production")]
        BusKind::Kafka => open_log(settings, data, clock, None, Role::Command).await,
    }
}

/// Opens the log: that of a data directory, made when it is absent, or brokers. Without a database no step can run on
/// brokers, since partitions are leased there.
pub(crate) async fn open_log(
    settings: &Settings,
    data: &DataDir,
    clock: SharedClock,
    pool: Option<&AnyPool>,
    role: Role,
) -> Result<Arc<dyn Bus>, Failure> {
    #[cfg(not(feature = "production"))]
    let _only_brokers_need_it = (pool, role);
    match settings.bus.kind {
        BusKind::Local => {
            let local = LocalLogConfig { prefix: settings.bus.prefix.clone(), ..settings.bus.local.clone() };
            let log = LocalLog::open(&data.bus(), clock, local).map_err(|error| {
                Failure::refused(format!("the log {} can not be opened: {error}", data.bus().display()))
            })?;
            Ok(Arc::new(log))
        }
        #[cfg(feature = "production")]
        BusKind::Kafka => {
            let config = settings.bus.brokers();
            let steps = pool.map(|pool| bus::kafka::KafkaSteps {
                leases: service::lease::LeaseStore::new(pool.clone()),
                state_dir: data.steps(),
            });
            let brokers = config.bootstrap_servers.clone();
            let opened = match role {
                Role::Service => bus::kafka::KafkaBus::open(config, clock, steps).await,
                Role::Command => bus::kafka::KafkaBus::open_to_look(config, clock, steps).await,
            };
            let refused = |error| Failure::refused(format!("the log at {brokers} can not be opened: {error}"));
            Ok(Arc::new(opened.map_err(refused)?))
        }
    }
}

/// The key with which the platform's own services call the registry. It follows from the tenant's secret, so that all
/// processes on any machine have the same one without handing it around; one that was revoked is followed by the next.
/// The file is for serving, which must find it without the database, and for whoever administers this machine.
async fn internal_key(
    api_keys: &ApiKeys,
    settings: &Settings,
    secret: &TenantSecret,
    path: &Path,
) -> Result<Secret, Failure> {
    for number in 0..MOST_INTERNAL_KEYS {
        let bytes = secret.derive(&format!("internal key {number}"));
        let scopes = [Scope::Admin, Scope::Registry];
        if let Some(key) = api_keys.shared(&settings.tenant, "internal", &scopes, &bytes).await? {
            let is_kept = std::fs::read_to_string(path).is_ok_and(|text| text.trim() == key.expose_secret());
            if !is_kept {
                write_whole(path, key.expose_secret().as_bytes(), 0o600)?;
            }
            return Ok(key);
        }
    }
    Err(Failure::refused(format!("{MOST_INTERNAL_KEYS} keys named `internal` were revoked; there are no more of them")))
}

/// The file with the key that wraps all others: the configured one, which is never made, or that of the data directory.
pub(crate) fn master_key_file(settings: &Settings, data: &DataDir) -> Result<PathBuf, Failure> {
    let Some(path) = &settings.keys.master_key_file else { return Ok(data.key_file()) };
    if path.exists() {
        return Ok(path.clone());
    }
    Err(Failure::refused(format!(
        "`keys.master_key_file`: {path} does not exist; bring the one that the database was made with, or, for a new \
         platform, make it once with `flywheel keys master {path}` and keep a copy apart from the data",
        path = path.display()
    )))
}
