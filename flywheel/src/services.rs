//! The services, each started on a foundation; and each alone in its own process.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anonymizer::AnonymizerDeps;
use bytes::Bytes;
use ingest::IngestDeps;
use model_registry::RegistryDeps;
use model_registry::client::{RegistryClient, Trust};
use model_registry::version::NewVersion;
use service::config::Secret;
use service::consent::ConsentStore;
use service::drain::{Drain, TaskError};
use service::http::{self, BindError};
use service::lease::{self, LeaseStore};
use service::metrics::MetricsHandle;
use service::outbox::{OutboxKind, OutboxMessage, OutboxPublisher, OutboxRelay, PublishError};
use service::readiness::Readiness;
use service::reconciler::{ReconcilerHandle, Schedule, drive};
use serving::{Database, Log, Serving, ServingDeps, ServingHandle, Upstream};
use std::net::SocketAddr;
use std::path::Path;

use crate::artifact_store::Reach;
use crate::cli::{CODE_VERSION, Common};
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::settings::{ADMIN, Settings};
use crate::table::print;
use crate::{embedded, failure, glance, platform, serving_alone};

/// How long a leader that vanished keeps a lease. Real time.
const LEASE: Duration = Duration::from_secs(15);
/// How long a service that runs alone waits to hear where the registry is.
const REGISTRY_LIMIT: Duration = Duration::from_secs(60);
/// Pause between attempts to reach a registry that does not answer yet.
const REGISTRY_RETRY: Duration = Duration::from_millis(250);

/// What readiness waits for until every gate of a process is there: nothing is ready before it has said for what it
/// waits.
pub(crate) const START: &str = "start";

/// Name of the completion door.
pub(crate) const SERVING: &str = "serving";
/// Name of the editors' door.
pub(crate) const INGEST: &str = "ingest";
/// Name of the registry's door.
pub(crate) const REGISTRY: &str = "registry";
/// Name of the admin port of a whole platform.
pub(crate) const ADMIN_DOOR: &str = "admin";

/// A service that can run alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Ingest,
    Anonymizer,
    Labeler,
    Registry,
    Orchestrator,
    Serving,
}

impl Service {
    /// As its subcommand and its door are called.
    fn name(self) -> &'static str {
        match self {
            Self::Ingest => INGEST,
            Self::Anonymizer => "anonymizer",
            Self::Labeler => "labeler",
            Self::Registry => REGISTRY,
            Self::Orchestrator => "orchestrator",
            Self::Serving => SERVING,
        }
    }

    /// Its admin port when it runs alone and nothing else is said: services of one machine would quarrel about one
    /// port.
    fn admin_alone(self) -> &'static str {
        match self {
            Self::Ingest => "127.0.0.1:7811",
            Self::Serving => "127.0.0.1:7812",
            Self::Registry => "127.0.0.1:7813",
            Self::Anonymizer => "127.0.0.1:7814",
            Self::Labeler => "127.0.0.1:7815",
            Self::Orchestrator => "127.0.0.1:7816",
        }
    }
}

/// Runs one service until it is told to stop.
pub(crate) async fn run(common: &Common, service: Service) -> Result<ExitCode, Failure> {
    platform::start_tracing(common, None)?;
    let mut settings = Settings::load(common, &[])?;
    if settings.admin.listen == ADMIN {
        settings.admin.listen = service.admin_alone().to_owned();
    }
    let data = DataDir::open(&settings.data_dir)?;
    let _share = data.share()?;
    data.take_temporary_files();
    failure::about_disk(&data, run_on(&settings, &data, service).await)
}

async fn run_on(settings: &Settings, data: &DataDir, service: Service) -> Result<ExitCode, Failure> {
    // Whoever came first would make it in a directory that no other machine sees, and that may go with its container.
    if settings.database.kind.is_server() && settings.keys.master_key_file.is_none() {
        return Err(Failure::refused(
            "services that run alone on a server's database need `keys.master_key_file`, the file with the key that \
             wraps all others, the same on every machine; `flywheel keys master FILE` makes one"
                .to_owned(),
        ));
    }
    if service == Service::Orchestrator {
        settings.orchestrator.check_device().map_err(Failure::refuse)?;
    }
    // Who reads and writes no artifacts, or can begin without, does not wait for the bucket.
    let reach = match service {
        Service::Ingest | Service::Anonymizer => Reach::Later,
        Service::Serving if serving_alone::is_possible(settings, data) => Reach::Later,
        _ => Reach::Now,
    };
    let foundation = match Foundation::open(settings, data, reach).await {
        // Completions outlive the wheel.
        Err(down) if service == Service::Serving && serving_alone::is_possible(settings, data) => {
            return serving_alone::run(settings, data, down).await;
        }
        foundation => foundation?,
    };
    let starting = foundation.readiness.gate(START);
    // Completions outlive database and log, and so does their readiness.
    if service != Service::Serving {
        foundation.watch_database();
        foundation.watch_log();
    }
    // As at the start: who begins without the bucket goes on without it. A version that serving has can be served, and one
    // that it lacks is fetched again and again until it comes.
    if matches!(service, Service::Labeler | Service::Registry | Service::Orchestrator) {
        foundation.watch_artifacts();
    }
    let mut doors = vec![(format!("admin-{}", service.name()), admin(&foundation).await?)];
    match service {
        Service::Ingest => doors.push((INGEST.to_owned(), ingest(&foundation).await?)),
        Service::Anonymizer => anonymizer(&foundation),
        Service::Labeler => labeler(&foundation),
        Service::Registry => {
            outbox(&foundation);
            doors.push((REGISTRY.to_owned(), registry(&foundation).await?.0));
        }
        Service::Orchestrator => {
            let base = embedded::base(data)?;
            let first = platform::base_version(foundation.artifacts.as_ref(), &settings.model, &base).await?;
            let registry = registry_elsewhere(&foundation).await?;
            first_version(&foundation, registry.clone(), first);
            orchestrator(&foundation, registry, &base)?;
            glance::keep(&foundation)?;
        }
        Service::Serving => {
            let registry = registry_elsewhere(&foundation).await?;
            doors.push((SERVING.to_owned(), serving(&foundation, registry).await?.0));
        }
    }
    foundation.drain.begin_on_signal()?;
    starting.release();
    serve(settings, data, &doors, foundation.drain).await
}

/// Says where the doors of a service are, and waits for its end.
pub(crate) async fn serve(
    settings: &Settings,
    data: &DataDir,
    doors: &[(String, SocketAddr)],
    drain: Drain,
) -> Result<ExitCode, Failure> {
    let _announced = data.announce(doors)?;
    for (name, address) in doors {
        print(&format!("{name}: {}", settings.url(name, *address)))?;
    }
    platform::until_stopped(drain).await
}

/// The registry of another process: where the configuration finds it, or, when that leaves the port to the system,
/// where it says that it is. Nothing here needs the registry to answer yet.
pub(crate) async fn registry_elsewhere(foundation: &Foundation) -> Result<RegistryClient, Failure> {
    let Foundation { settings, internal_key, .. } = foundation;
    if settings.registry.address.is_some() || !settings.registry.http.listen.ends_with(":0") {
        return configured_registry(settings, internal_key);
    }
    let address = platform::wait_for(REGISTRY_LIMIT, "the registry to say where it is", || async {
        Ok(foundation.data.announced(REGISTRY))
    });
    registry_client(settings, internal_key, &address.await?.to_string())
}

/// The registry where the configuration finds it.
pub(crate) fn configured_registry(settings: &Settings, key: &Secret) -> Result<RegistryClient, Failure> {
    let registry = &settings.registry;
    let Some(address) = &registry.address else {
        return registry_client(settings, key, &registry.http.listen);
    };
    let trust = Trust { ca_file: registry.ca_file.clone(), server_name: None };
    RegistryClient::with_trust(address, key, &trust).map_err(Failure::refuse)
}

/// Registers the base model as version 1 as soon as the registry answers; whoever comes second finds it done.
fn first_version(foundation: &Foundation, registry: RegistryClient, first: NewVersion) {
    let stop = foundation.drain.token();
    foundation.drain.spawn("first version", async move {
        while platform::register_first(&registry, &first).await?.is_none() {
            tokio::select! {
                () = tokio::time::sleep(REGISTRY_RETRY) => {}
                () = stop.cancelled() => break,
            }
        }
        Ok(())
    });
}

/// The registry of this machine that listens at `address`; its certificate is made out to the name by which others
/// find it.
pub(crate) fn registry_client(settings: &Settings, key: &Secret, address: &str) -> Result<RegistryClient, Failure> {
    let registry = &settings.registry;
    let trust = Trust { ca_file: registry.ca_file.clone(), server_name: registry.host() };
    let address = format!("{}://{address}", registry.http.scheme());
    RegistryClient::with_trust(&address, key, &trust).map_err(Failure::refuse)
}

/// What an admin port tells of.
pub(crate) struct AdminPort<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) readiness: &'a Readiness,
    pub(crate) metrics: &'a MetricsHandle,
    pub(crate) drain: &'a Drain,
}

/// `/healthz`, `/readyz`, `/metrics` of a process with a foundation.
pub(crate) async fn admin(foundation: &Foundation) -> Result<SocketAddr, Failure> {
    let Foundation { settings, readiness, metrics, drain, .. } = foundation;
    admin_port(AdminPort { settings, readiness, metrics, drain }).await
}

/// `/healthz`, `/readyz`, `/metrics`.
pub(crate) async fn admin_port(port: AdminPort<'_>) -> Result<SocketAddr, Failure> {
    let config = port.settings.admin.clone();
    let listener = if port.settings.admin_plain_text {
        http::bind_plain_text(ADMIN_DOOR, &config).await.map_err(Failure::refuse)?
    } else {
        http::bind(ADMIN_DOOR, &config).await.map_err(|error| match error {
            BindError::NeedsTls { .. } => Failure::refused(format!(
                "{error}; or set admin_plain_text = true when nobody but your own machines reaches this port"
            )),
            error => Failure::refuse(error),
        })?
    };
    let address = listener.local_addr()?;
    let router = service::admin::router(port.readiness.clone(), port.metrics.clone());
    let (stop, metrics) = (port.drain.token(), port.metrics.clone());
    port.drain.spawn("admin", async move {
        tokio::join!(http::serve(listener, router, &config, stop.clone()), metrics.upkeep(stop));
        Ok(())
    });
    Ok(address)
}

/// The editors' door.
pub(crate) async fn ingest(foundation: &Foundation) -> Result<SocketAddr, Failure> {
    let config = foundation.settings.ingest.clone();
    let listener = http::bind("ingest", &config.http).await.map_err(Failure::refuse)?;
    let address = listener.local_addr()?;
    let deps = IngestDeps {
        bus: Arc::clone(&foundation.bus),
        clock: Arc::clone(&foundation.clock),
        keys: foundation.keys.clone(),
        api_keys: foundation.api_keys.clone(),
        consents: ConsentStore::new(foundation.pool.clone()),
    };
    let (ready, stop) = (foundation.readiness.gate("ingest"), foundation.drain.token());
    foundation.drain.spawn("ingest", async move {
        ingest::run(config, deps, listener, ready, stop).await.map_err(TaskError::from)
    });
    Ok(address)
}

/// Raw to clean.
pub(crate) fn anonymizer(foundation: &Foundation) {
    let config = foundation.settings.anonymizer.clone();
    let deps = AnonymizerDeps { bus: Arc::clone(&foundation.bus), keys: foundation.keys.clone() };
    let (ready, stop) = (foundation.readiness.gate("anonymizer"), foundation.drain.token());
    foundation
        .drain
        .spawn("anonymizer", async move { anonymizer::run(config, deps, ready, stop).await.map_err(TaskError::from) });
}

/// Clean to pairs and outcomes; the lake, the ledger and the tally.
pub(crate) fn labeler(foundation: &Foundation) {
    let config = foundation.settings.labeler.clone();
    let deps = labeler::Deps {
        bus: Arc::clone(&foundation.bus),
        keys: foundation.keys.clone(),
        pool: foundation.pool.clone(),
        artifacts: Arc::clone(&foundation.artifacts),
        clock: Arc::clone(&foundation.clock),
        holder: foundation.holder("labeler"),
    };
    let (ready, stop) = (foundation.readiness.gate("labeler"), foundation.drain.token());
    foundation
        .drain
        .spawn("labeler", async move { labeler::run(config, deps, ready, stop).await.map_err(TaskError::from) });
}

/// Versions and rollouts. Returns the address and the handle of the rollout reconciler.
pub(crate) async fn registry(foundation: &Foundation) -> Result<(SocketAddr, ReconcilerHandle), Failure> {
    let config = foundation.settings.registry.clone();
    let listener = http::bind("registry", &config.http).await.map_err(Failure::refuse)?;
    let address = listener.local_addr()?;
    let deps = RegistryDeps {
        pool: foundation.pool.clone(),
        artifacts: Arc::clone(&foundation.artifacts),
        clock: Arc::clone(&foundation.clock),
        ids: foundation.ids("registry"),
    };
    let (ready, stop) = (foundation.readiness.gate("registry"), foundation.drain.token());
    let (running, task) =
        model_registry::server::run(config, deps, &foundation.holder("registry"), listener, ready, stop)
            .map_err(Failure::refuse)?;
    foundation.drain.spawn("registry", async move {
        task.await;
        Ok(())
    });
    Ok((address, running.reconciler))
}

/// When to train.
pub(crate) fn orchestrator(
    foundation: &Foundation,
    registry: RegistryClient,
    base: &Path,
) -> Result<trainer_orchestrator::Handle, Failure> {
    let deps = trainer_orchestrator::Deps {
        pool: foundation.pool.clone(),
        clock: Arc::clone(&foundation.clock),
        ids: foundation.ids("orchestrator"),
        keys: foundation.keys.clone(),
        artifacts: Arc::clone(&foundation.artifacts),
        lake: foundation.lake.clone(),
        registry,
        tenant: foundation.settings.tenant.clone(),
        runs: foundation.data.runs(),
        replay: base.join("replay.jsonl"),
        old_skills: base.join("old_skills.jsonl"),
        rollout: foundation.settings.registry.rollout.clone(),
        holder: foundation.holder("orchestrator"),
        code_version: CODE_VERSION.to_owned(),
        label_policy_version: foundation.settings.labeler.policy.version(),
    };
    let config = foundation.settings.orchestrator.clone();
    let ready = foundation.readiness.gate("orchestrator");
    let (handle, task) = trainer_orchestrator::run(config, deps, foundation.drain.token()).map_err(Failure::refuse)?;
    foundation.drain.spawn("orchestrator", async move {
        ready.release();
        task.await;
        Ok(())
    });
    Ok(handle)
}

/// Completions.
pub(crate) async fn serving(
    foundation: &Foundation,
    registry: RegistryClient,
) -> Result<(SocketAddr, ServingHandle), Failure> {
    let mut config = foundation.settings.serving.clone();
    config.default_model.get_or_insert_with(|| foundation.settings.model.clone());
    let listener = http::bind("serving", &config.http).await.map_err(Failure::refuse)?;
    let address = listener.local_addr()?;
    let deps = ServingDeps {
        log: Log::Open(Arc::clone(&foundation.bus)),
        clock: Arc::clone(&foundation.clock),
        ids: foundation.ids("serving"),
        database: Database::Open { pool: foundation.pool.clone(), keys: foundation.keys.clone() },
        key_file: foundation.key_file.clone(),
        registry: vec![registry],
        artifacts: Arc::clone(&foundation.artifacts),
        data_dir: foundation.data.serving(),
        upstream: Upstream::configured(&foundation.settings.upstream, &foundation.settings.tenant),
    };
    let (ready, stop) = (foundation.readiness.gate("serving"), foundation.drain.token());
    let service = Serving::start(config, deps).await.map_err(Failure::refuse)?;
    let handle = service.handle();
    foundation.drain.spawn("serving", async move {
        service.run(listener, ready, stop).await;
        Ok(())
    });
    Ok((address, handle))
}

/// Tells the bus what the database decided.
pub(crate) fn outbox(foundation: &Foundation) -> ReconcilerHandle {
    let stop = foundation.drain.token();
    let (leading, keeping) = lease::keep(
        LeaseStore::new(foundation.pool.clone()),
        OutboxRelay::LEASE,
        &foundation.holder("outbox"),
        LEASE,
        stop.clone(),
    );
    let publisher = Arc::new(BusPublisher { bus: Arc::clone(&foundation.bus) });
    let relay = Arc::new(OutboxRelay::new(foundation.pool.clone(), publisher, Some(leading.clone())));
    let (handle, driving) = drive(relay, Schedule::every(OutboxRelay::PERIOD), Some(leading), stop);
    foundation.drain.spawn("outbox", async move {
        tokio::join!(keeping, driving);
        Ok(())
    });
    handle
}

struct BusPublisher {
    bus: Arc<dyn bus::Bus>,
}

#[async_trait::async_trait]
impl OutboxPublisher for BusPublisher {
    async fn publish(&self, message: &OutboxMessage) -> Result<(), PublishError> {
        let value = Bytes::clone(&message.value);
        match &message.kind {
            OutboxKind::Record { key } => {
                let record = bus::Record { key: bus::RecordKey(*key), value };
                for result in self.bus.publish(&message.topic, vec![record]).await {
                    result?;
                }
                Ok(())
            }
            OutboxKind::Control { kind, subject } => {
                Ok(self.bus.publish_control(&message.topic, kind, subject, value).await?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_labeler_follows_the_anonymizer() {
        let spec = labeler::step::spec();
        assert_eq!(spec.follows.as_deref(), Some(anonymizer::STEP));
        assert!(anonymizer::step_spec().outputs.contains(&spec.input));
    }
}
