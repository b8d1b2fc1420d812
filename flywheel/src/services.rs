//! The services, each started on a foundation; and each alone in its own process.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anonymizer::AnonymizerDeps;
use bytes::Bytes;
use ingest::IngestDeps;
use model_registry::RegistryDeps;
use model_registry::client::RegistryClient;
use service::consent::ConsentStore;
use service::drain::TaskError;
use service::http;
use service::lease::{self, LeaseStore};
use service::outbox::{OutboxKind, OutboxMessage, OutboxPublisher, OutboxRelay, PublishError};
use service::reconciler::{ReconcilerHandle, Schedule, drive};
use serving::{Database, Log, Serving, ServingDeps, ServingHandle};
use std::net::SocketAddr;
use std::path::Path;

use crate::cli::Common;
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::settings::Settings;
use crate::{embedded, platform};

/// How long a leader that vanished keeps a lease. Real time.
const LEASE: Duration = Duration::from_secs(15);

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

/// Runs one service until it is told to stop.
pub(crate) async fn run(common: &Common, service: Service) -> Result<ExitCode, Failure> {
    platform::start_tracing(common, None)?;
    let settings = Settings::load(common, &[])?;
    let data = DataDir::open(&settings.data_dir)?;
    let _share = data.share()?;
    let foundation = Foundation::open(&settings, &data).await?;
    admin(&foundation).await?;
    let address = match service {
        Service::Ingest => Some(ingest(&foundation).await?),
        Service::Anonymizer => {
            anonymizer(&foundation);
            None
        }
        Service::Labeler => {
            labeler(&foundation);
            None
        }
        Service::Registry => {
            outbox(&foundation);
            Some(registry(&foundation).await?.0)
        }
        Service::Orchestrator => {
            let base = embedded::base(&data)?;
            let registry = registry_client(&foundation, &foundation.settings.registry.http.listen)?;
            orchestrator(&foundation, registry, &base)?;
            None
        }
        Service::Serving => {
            let registry = registry_client(&foundation, &foundation.settings.registry.http.listen)?;
            Some(serving(&foundation, registry).await?.0)
        }
    };
    if let Some(address) = address {
        tracing::info!(%address, ?service, "listening");
    }
    platform::until_stopped(foundation.drain).await
}

/// The registry as another service of this platform sees it.
pub(crate) fn registry_client(foundation: &Foundation, address: &str) -> Result<RegistryClient, Failure> {
    RegistryClient::new(&format!("http://{address}"), &foundation.internal_key).map_err(Failure::refuse)
}

/// `/healthz`, `/readyz`, `/metrics`.
pub(crate) async fn admin(foundation: &Foundation) -> Result<SocketAddr, Failure> {
    let config = foundation.settings.admin.clone();
    let listener = http::bind("admin", &config).await.map_err(Failure::refuse)?;
    let address = listener.local_addr()?;
    let router = service::admin::router(foundation.readiness.clone(), foundation.metrics.clone());
    let (stop, metrics) = (foundation.drain.token(), foundation.metrics.clone());
    foundation.drain.spawn("admin", async move {
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
    let stop = foundation.drain.token();
    foundation
        .drain
        .spawn("anonymizer", async move { anonymizer::run(config, deps, stop).await.map_err(TaskError::from) });
}

/// Clean to pairs and outcomes; the lake, the ledger and the tally.
pub(crate) fn labeler(foundation: &Foundation) {
    let config = foundation.settings.labeler.clone();
    let deps = labeler::Deps {
        bus: Arc::clone(&foundation.bus),
        keys: foundation.keys.clone(),
        pool: foundation.pool.clone(),
        artifacts: Arc::clone(&foundation.artifacts),
    };
    let stop = foundation.drain.token();
    foundation.drain.spawn("labeler", async move { labeler::run(config, deps, stop).await.map_err(TaskError::from) });
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
        registry,
        tenant: foundation.settings.tenant.clone(),
        runs: foundation.data.runs(),
        replay: base.join("replay.jsonl"),
        old_skills: base.join("old_skills.jsonl"),
        rollout: foundation.settings.registry.rollout.clone(),
        holder: foundation.holder("orchestrator"),
    };
    let config = foundation.settings.orchestrator.clone();
    let (handle, task) = trainer_orchestrator::run(config, deps, foundation.drain.token()).map_err(Failure::refuse)?;
    foundation.drain.spawn("orchestrator", async move {
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
        key_file: foundation.data.key_file(),
        registry: vec![registry],
        artifacts: Arc::clone(&foundation.artifacts),
        data_dir: foundation.data.serving(),
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
