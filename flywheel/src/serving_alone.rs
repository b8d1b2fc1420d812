//! Completion serving with nothing else standing: what it kept on its own disk answers, and log and database are opened
//! when they come back. Artifacts are asked for again whenever one is needed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use service::config::Secret;
use service::drain::Drain;
use service::http;
use service::ids::SystemIds;
use service::keys::KeyStoreOptions;
use service::readiness::Readiness;
use serving::{Database, Log, OpenLog, Serving, ServingDeps, Upstream};

use crate::artifact_store::{self, Reach};
use crate::data_dir::DataDir;
use crate::database;
use crate::failure::Failure;
use crate::foundation::{Role, master_key_file, open_log};
use crate::services::{AdminPort, SERVING, admin_port, configured_registry, serve};
use crate::settings::Settings;

/// Whether there is something to serve from: a routing that was followed once, or an upstream; and the keys.
pub(crate) fn is_possible(settings: &Settings, data: &DataDir) -> bool {
    let can_answer = settings.upstream.url.is_some() || data.serving().join("routing.json").is_file();
    let has_keys = || master_key_file(settings, data).is_ok_and(|path| path.is_file());
    can_answer && data.internal_key().is_file() && has_keys()
}

/// Serves until told to stop. `down` is why the rest does not stand.
pub(crate) async fn run(settings: &Settings, data: &DataDir, down: Failure) -> Result<ExitCode, Failure> {
    let why = down.into_error();
    tracing::warn!("log, database or artifacts can not be opened; serving the last good version alone: {why:#}");
    let clock = settings.clock.build().map_err(Failure::refuse)?.clock;
    let ids = Arc::new(SystemIds::new(Arc::clone(&clock)));
    let (readiness, drain) = (Readiness::new(), Drain::new(Duration::from_secs(settings.grace_seconds)));
    drain.begin_on_signal()?;
    let metrics = service::metrics::install()?;
    let port = AdminPort { settings, readiness: &readiness, metrics: &metrics, drain: &drain };
    let admin = admin_port(port).await?;

    let mut config = settings.serving.clone();
    config.default_model.get_or_insert_with(|| settings.model.clone());
    let listener = http::bind(SERVING, &config.http).await.map_err(Failure::refuse)?;
    let address = listener.local_addr()?;
    let (log_settings, log_data, log_clock) = (settings.clone(), data.clone(), Arc::clone(&clock));
    let open: OpenLog = Arc::new(move || {
        let (settings, data, clock) = (log_settings.clone(), log_data.clone(), Arc::clone(&log_clock));
        Box::pin(async move {
            // It publishes only, and must not wait for the database to do that.
            let log = open_log(&settings, &data, clock, None, Role::Service).await;
            log.map_err(|failure| failure.into_error().to_string())
        })
    });
    let key = std::fs::read_to_string(data.internal_key())?;
    let registry = configured_registry(settings, &Secret::new(key.trim().to_owned()))?;
    let key_file = master_key_file(settings, data)?;
    let deps = ServingDeps {
        log: Log::Later(open),
        clock: Arc::clone(&clock),
        ids: ids.clone(),
        database: Database::Later {
            url: database::url(&settings.database, data),
            max_connections: settings.database.max_connections,
            key_file: key_file.clone(),
            options: KeyStoreOptions { clock, ids, ..KeyStoreOptions::default() },
        },
        key_file,
        registry: vec![registry],
        artifacts: artifact_store::open(&settings.artifacts, data, Reach::Later).await?,
        data_dir: data.serving(),
        upstream: Upstream::configured(&settings.upstream, &settings.tenant),
    };
    let (ready, stop) = (readiness.gate(SERVING), drain.token());
    let service = Serving::start(config, deps).await.map_err(Failure::refuse)?;
    drain.spawn(SERVING, async move {
        service.run(listener, ready, stop).await;
        Ok(())
    });
    let doors = [(format!("admin-{SERVING}"), admin), (SERVING.to_owned(), address)];
    serve(settings, data, &doors, drain).await
}
