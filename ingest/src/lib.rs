//! The editors' door: authenticate, consent, validate, seal, publish, acknowledge.
//!
//! `POST /v1/telemetry` takes a batch of one session's events and answers every event in input order. *Admitted* and
//! *filtered* are said only after the bus has the record durably; whatever failed before that says so, and the client
//! sends it again under the same sequence number, hence the same id. See `docs/wire.md`.

mod admission;
mod backlog;
mod batch;
mod config;
mod consent;
pub mod event;
mod fields;
mod http;

use std::sync::Arc;

use axum::Router;
use bus::Bus;
use events::topics;
use service::api_keys::ApiKeys;
use service::clock::SharedClock;
use service::consent::ConsentStore;
use service::http::Listener;
use service::keys::KeyStore;
use service::readiness::Latch;
use tokio_util::sync::CancellationToken;

pub use config::{IngestConfig, IngestLimits};

use admission::Admission;
use backlog::Backlog;
use consent::ConsentCache;

/// What the service needs.
#[derive(Clone)]
pub struct IngestDeps {
    /// The log; the topic of raw telemetry exists.
    pub bus: Arc<dyn Bus>,
    /// Stamps what is received.
    pub clock: SharedClock,
    /// Tenants' secrets and persons' data keys.
    pub keys: KeyStore,
    /// Who may call.
    pub api_keys: ApiKeys,
    /// What persons agreed to.
    pub consents: ConsentStore,
}

impl std::fmt::Debug for IngestDeps {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("IngestDeps")
    }
}

/// Why the service cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// The log lacks the topic, or does not answer.
    #[error("ingest: {0}")]
    Bus(#[from] bus::BusError),
}

/// What requests share.
struct Door {
    config: IngestConfig,
    bus: Arc<dyn Bus>,
    clock: SharedClock,
    keys: KeyStore,
    api_keys: ApiKeys,
    consents: ConsentCache,
    admission: Admission,
    backlog: Backlog,
}

/// The door's routes, without a server around them.
pub fn router(config: IngestConfig, deps: IngestDeps) -> Router {
    let limits = &config.limits;
    let door = Door {
        consents: ConsentCache::new(deps.consents, config.consent_staleness(), limits.remembered_consents),
        admission: Admission::new(limits.in_flight_requests, limits.in_flight_bytes),
        backlog: Backlog::new(Arc::clone(&deps.bus), &config),
        bus: deps.bus,
        clock: deps.clock,
        keys: deps.keys,
        api_keys: deps.api_keys,
        config,
    };
    http::router(Arc::new(door))
}

/// Serves the door on `listener` until `shutdown`, then lets requests in flight end. `ready` is released once the log
/// has answered.
///
/// # Errors
/// A log without the topic of raw telemetry.
pub async fn run(
    config: IngestConfig,
    deps: IngestDeps,
    listener: Listener,
    ready: Latch,
    shutdown: CancellationToken,
) -> Result<(), IngestError> {
    deps.bus.partitions(topics::TELEMETRY_RAW).await?;
    let http = config.http.clone();
    let router = router(config, deps);
    ready.release();
    service::http::serve(listener, router, &http, shutdown).await;
    Ok(())
}
