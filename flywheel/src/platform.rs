//! Every service in one process: what `up` keeps running and `demo` tells its story on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use artifacts::{ArtifactStore, put_directory};
use events::ModelName;
use model_registry::client::{ClientError, RegistryClient};
use model_registry::version::NewVersion;
use service::api_keys::{ApiKeyError, Scope};
use service::drain::Drain;
use service::reconciler::ReconcilerHandle;
use service::telemetry::{LogTarget, TelemetryOptions};
use service::tls::TlsConfig;

use crate::artifact_store::Reach;
use crate::cli::{Common, DemoArgs};
use crate::data_dir::{DataDir, write_whole};
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::glance;
use crate::services;
use crate::settings::{ArtifactsSettings, DatabaseSettings, Settings};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Where the doors are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DoorAddresses {
    pub(crate) serving: SocketAddr,
    pub(crate) ingest: SocketAddr,
    pub(crate) registry: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// A running platform.
pub(crate) struct Platform {
    pub(crate) doors: DoorAddresses,
    pub(crate) model: ModelName,
    pub(crate) registry: RegistryClient,
    pub(crate) orchestrator: trainer_orchestrator::Handle,
    /// Made on the first start; opens the doors to editors.
    pub(crate) client_key: String,
    /// Whether this start made the key.
    pub(crate) is_first_start: bool,
    pub(crate) foundation: Foundation,
    pub(crate) serving: serving::ServingHandle,
    pub(crate) rollouts: ReconcilerHandle,
    pub(crate) outbox: ReconcilerHandle,
}

/// Starts tracing first, so that whatever goes wrong later shows.
pub(crate) fn start_tracing(common: &Common, file: Option<PathBuf>) -> Result<(), Failure> {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let mut options = TelemetryOptions::from_environment(environment).map_err(Failure::refuse)?;
    if let Some(filter) = &common.log {
        options.filter.clone_from(filter);
    }
    if let Some(file) = file {
        options.target = LogTarget::File(file);
    }
    service::telemetry::init(&options).map_err(Failure::refuse)
}

/// Waits for a signal (see [`Drain::begin_on_signal`]) or the failure of a task, then drains.
pub(crate) async fn until_stopped(drain: Drain) -> Result<ExitCode, Failure> {
    drain.finish().await?;
    Ok(ExitCode::SUCCESS)
}

/// The settings of a demo: simulated time, free ports, everything else as the sizes of the demo need it.
pub(crate) fn demo_settings(common: &Common, data: &DataDir, arguments: &DemoArgs) -> Result<Settings, Failure> {
    let free = || "127.0.0.1:0".to_owned();
    let text = |value: &dyn std::fmt::Display| value.to_string();
    let overrides: Vec<(&str, String)> = vec![
        ("clock.kind", "simulated".to_owned()),
        // A Monday morning; simulated days begin at midnight.
        ("clock.start_micros", text(&1_798_444_800_000_000_i64)),
        ("clock.allow_test_time", "true".to_owned()),
        ("seed", text(&arguments.seed)),
        ("admin.listen", free()),
        ("registry.http.listen", free()),
        ("ingest.http.listen", free()),
        ("serving.http.listen", free()),
        ("serving.routing_poll_ms", "100".to_owned()),
        // The verdict must not depend on which of two equal questions came first.
        ("serving.result_cache_entries", "0".to_owned()),
        // Barriers jump by 1500 s: the labeler may conclude only in a later jump than the anonymizer's last release.
        ("labeler.policy.timer_margin", "1800".to_owned()),
        // A barrier waits for the lake; nobody reads small parts a second time.
        ("labeler.lake.part_age_ms", "200".to_owned()),
        // Rollouts are judged when the demo says so: a block must not be frozen while its outcomes are still drained.
        ("registry.reconcile_ms", "3600000".to_owned()),
        ("orchestrator.enabled", "false".to_owned()),
        // A story of a few minutes with 60 people: what would hold a version of a company may not hold one of these.
        ("orchestrator.gate.least_persons", "5".to_owned()),
        ("orchestrator.gate.least_lower_bound", "-0.05".to_owned()),
        ("orchestrator.gate.bits_per_byte_tolerance", "1.0".to_owned()),
        ("orchestrator.gate.parse_error_tolerance", "1.0".to_owned()),
        ("orchestrator.gate.calibration_tolerance", "1.0".to_owned()),
        ("orchestrator.steps", text(&arguments.steps)),
        ("orchestrator.seed", text(&arguments.seed)),
        ("orchestrator.placebo_exchange_repositories", text(&arguments.placebo)),
        ("registry.rollout.canary_share", "0.4".to_owned()),
        ("registry.rollout.holdback_share", "0.2".to_owned()),
        ("registry.rollout.margin", "0.10".to_owned()),
        ("registry.rollout.max_blocks", text(&arguments.blocks)),
        ("registry.rollout.promotion", "automatic".to_owned()),
        ("registry.rollout.observe_only", text(&arguments.placebo)),
    ];
    let mut settings = Settings::load(common, &overrides)?;
    settings.data_dir = data.root().to_path_buf();
    // Invented people belong into nobody's database or bucket.
    (settings.database, settings.artifacts) = (DatabaseSettings::default(), ArtifactsSettings::default());
    // Its doors are on loopback and its own: certificates and names of a configuration are for doors on a network.
    for http in
        [&mut settings.admin, &mut settings.registry.http, &mut settings.ingest.http, &mut settings.serving.http]
    {
        http.tls = TlsConfig::default();
    }
    (settings.registry.address, settings.registry.ca_file) = (None, None);
    Ok(settings)
}

impl Platform {
    /// Starts every service on loopback and registers `base` as version 1 if there is none.
    pub(crate) async fn start(settings: &Settings, data: &DataDir, base: &Path) -> Result<Self, Failure> {
        // Before any service runs that would have to be stopped again.
        settings.orchestrator.check_device().map_err(Failure::refuse)?;
        let foundation = Foundation::open(settings, data, Reach::Now).await?;
        let first = base_version(foundation.artifacts.as_ref(), &settings.model, base).await?;
        let starting = foundation.readiness.gate(services::START);
        foundation.watch_database();
        foundation.watch_log();
        foundation.watch_artifacts();
        let admin = services::admin(&foundation).await?;
        let outbox = services::outbox(&foundation);
        let (registry_address, rollouts) = services::registry(&foundation).await?;
        let registry = services::registry_client(settings, &foundation.internal_key, &registry_address.to_string())?;
        let ingest = services::ingest(&foundation).await?;
        services::anonymizer(&foundation);
        services::labeler(&foundation);
        wait_for(Duration::from_secs(30), "the registry", || async { Ok(register_first(&registry, &first).await?) })
            .await?;
        let orchestrator = services::orchestrator(&foundation, registry.clone(), base)?;
        let (serving_address, serving) = services::serving(&foundation, registry.clone()).await?;
        let doors = DoorAddresses { serving: serving_address, ingest, registry: registry_address, admin };
        let (client_key, is_first_start) = client_key(&foundation).await?;
        glance::keep(&foundation)?;
        starting.release();
        let ready = tokio::time::timeout(Duration::from_secs(60), foundation.readiness.ready()).await;
        if ready.is_err() {
            let waiting = foundation.readiness.waiting_for().join(", ");
            return Err(Failure::refused(format!("the services are not ready after 60 s; waiting for: {waiting}")));
        }
        Ok(Self {
            doors,
            model: settings.model.clone(),
            registry,
            orchestrator,
            client_key,
            is_first_start,
            foundation,
            serving,
            rollouts,
            outbox,
        })
    }

    /// Drains every service.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        self.foundation.drain.begin();
        self.foundation.drain.finish().await?;
        Ok(())
    }

    /// Runs until a signal or a failing task.
    pub(crate) async fn wait(self) -> Result<ExitCode, Failure> {
        until_stopped(self.foundation.drain).await
    }

    /// From now on a signal stops it.
    pub(crate) fn stop_on_signal(&self) -> Result<(), Failure> {
        Ok(self.foundation.drain.begin_on_signal()?)
    }
}

/// Waits for a condition, with a bound; says what it waited for.
pub(crate) async fn wait_for<T, F, Fut>(limit: Duration, what: &str, mut look: F) -> Result<T, Failure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<Option<T>>>,
{
    let begun = Instant::now();
    loop {
        if let Some(value) = look().await? {
            return Ok(value);
        }
        if begun.elapsed() > limit {
            let stuck = || -> anyhow::Result<T> { bail!("waited {} s for {what}", limit.as_secs()) };
            return Ok(stuck()?);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// `base` as the first version of `model`, stored as an artifact.
pub(crate) async fn base_version(
    artifacts: &dyn ArtifactStore,
    model: &ModelName,
    base: &Path,
) -> Result<NewVersion, Failure> {
    let (_, manifest) = edit_model::EditModel::load_with_manifest(base)
        .map_err(|error| Failure::refused(format!("the base model {} can not be used: {error}", base.display())))?;
    let directory = put_directory(artifacts, base).await?;
    Ok(NewVersion {
        model: model.clone(),
        artifact_digest: directory.digest(),
        parent: None,
        anchor: None,
        snapshot_digest: None,
        run_id: None,
        code_version: manifest.code_version.clone(),
        method: manifest.method.clone(),
        audience: None,
        evaluation: serde_json::json!({}),
    })
}

/// Registers `first`, unless there is a version already. None: the registry does not answer yet.
pub(crate) async fn register_first(registry: &RegistryClient, first: &NewVersion) -> Result<Option<()>, ClientError> {
    match registry.ensure_first_version(first).await {
        Ok(_) => Ok(Some(())),
        // Or others changed it all the time.
        Err(error @ ClientError::Unavailable(_)) => {
            tracing::debug!(%error, "the first version is registered later");
            Ok(None)
        }
        Err(error) if error.code() == Some("contended") => Ok(None),
        Err(error) => Err(error),
    }
}

/// The editors' key: made on the first start, kept where only this user can read it. One that is no longer valid
/// (revoked, or its file was lost) is replaced.
async fn client_key(foundation: &Foundation) -> Result<(String, bool), Failure> {
    let path = foundation.data.client_key();
    if let Ok(text) = std::fs::read_to_string(&path) {
        let key = text.trim();
        match foundation.api_keys.verify(key, Scope::Suggest).await {
            Ok(_) => return Ok((key.to_owned(), false)),
            Err(error @ ApiKeyError::Database(_)) => return Err(error.into()),
            Err(error) => tracing::warn!(%error, "the editors' key is not valid any more; a new one is made"),
        }
    }
    let scopes = [Scope::Telemetry, Scope::Suggest];
    let (_, key) = foundation.api_keys.create(&foundation.settings.tenant, "editors", &scopes).await?;
    write_whole(&path, key.expose_secret().as_bytes(), 0o600)?;
    Ok((key.expose_secret().to_owned(), true))
}
