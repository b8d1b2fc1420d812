//! Settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use service::http::HttpConfig;

/// `[ingest]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// The door's address and connection limits.
    pub http: HttpConfig,
    /// What one request and all of them together may take.
    pub limits: IngestLimits,
    /// How long an answer about a person's consent is believed, in milliseconds.
    pub consent_staleness_ms: u64,
    /// How long publishing may take before its events are answered `unavailable`, in milliseconds.
    pub publish_timeout_ms: u64,
    /// How long a body may take to arrive, in milliseconds.
    pub body_timeout_ms: u64,
    /// New events are refused when the oldest unread raw record is older than this share of the topic's retention.
    pub backlog_share: f64,
    /// How often the backlog is looked at, in milliseconds.
    pub backlog_staleness_ms: u64,
}

/// `[ingest.limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestLimits {
    /// Bytes of one body.
    pub body_bytes: usize,
    /// Events of one batch.
    pub events: usize,
    /// Bytes of one event as JSON.
    pub event_bytes: usize,
    /// Depth of arrays and objects in one event.
    pub json_depth: usize,
    /// Bytes of a path.
    pub path_bytes: usize,
    /// Requests at once; more are answered 503.
    pub in_flight_requests: usize,
    /// Bytes of their bodies; more are answered 503.
    pub in_flight_bytes: usize,
    /// Persons whose consent is remembered.
    pub remembered_consents: usize,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            http: HttpConfig::at("127.0.0.1:7801"),
            limits: IngestLimits::default(),
            consent_staleness_ms: 5_000,
            publish_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            backlog_share: 0.75,
            backlog_staleness_ms: 1_000,
        }
    }
}

impl Default for IngestLimits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            events: 1000,
            event_bytes: 64 << 10,
            json_depth: 32,
            path_bytes: 1024,
            in_flight_requests: 256,
            in_flight_bytes: 64 << 20,
            remembered_consents: 100_000,
        }
    }
}

impl IngestConfig {
    pub(crate) fn publish_timeout(&self) -> Duration {
        Duration::from_millis(self.publish_timeout_ms)
    }

    pub(crate) fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_timeout_ms)
    }

    pub(crate) fn consent_staleness(&self) -> Duration {
        Duration::from_millis(self.consent_staleness_ms)
    }

    pub(crate) fn backlog_staleness(&self) -> Duration {
        Duration::from_millis(self.backlog_staleness_ms)
    }
}
