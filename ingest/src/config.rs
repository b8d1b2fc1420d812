//! Settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use service::body::BodyLimits;
use service::config::Invalid;
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
    /// Refuses values that make no door.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.http.validate("ingest.http")?;
        let positive = |value: usize, key: &str| Invalid::unless(value >= 1, key, "at least 1");
        let limits = &self.limits;
        Invalid::unless(limits.body_bytes >= 1024, "ingest.limits.body_bytes", "at least 1024")?;
        Invalid::unless(limits.event_bytes >= 256, "ingest.limits.event_bytes", "at least 256")?;
        // Beyond this the parser itself would refuse what the limit lets pass.
        Invalid::unless((1..=120).contains(&limits.json_depth), "ingest.limits.json_depth", "1 to 120")?;
        positive(limits.events, "ingest.limits.events")?;
        positive(limits.path_bytes, "ingest.limits.path_bytes")?;
        positive(limits.in_flight_requests, "ingest.limits.in_flight_requests")?;
        positive(limits.in_flight_bytes, "ingest.limits.in_flight_bytes")?;
        positive(limits.remembered_consents, "ingest.limits.remembered_consents")?;
        Invalid::unless(self.publish_timeout_ms >= 1, "ingest.publish_timeout_ms", "at least 1")?;
        Invalid::unless(self.body_timeout_ms >= 1, "ingest.body_timeout_ms", "at least 1")?;
        let share = self.backlog_share;
        Invalid::unless(share > 0.0 && share <= 1.0, "ingest.backlog_share", "above 0, at most 1")
    }

    pub(crate) fn publish_timeout(&self) -> Duration {
        Duration::from_millis(self.publish_timeout_ms)
    }

    pub(crate) fn body_limits(&self) -> BodyLimits {
        BodyLimits { bytes: self.limits.body_bytes, timeout: Duration::from_millis(self.body_timeout_ms) }
    }

    pub(crate) fn consent_staleness(&self) -> Duration {
        Duration::from_millis(self.consent_staleness_ms)
    }

    pub(crate) fn backlog_staleness(&self) -> Duration {
        Duration::from_millis(self.backlog_staleness_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_and_bad_values_name_their_key() {
        IngestConfig::default().validate().unwrap();
        let with = |change: fn(&mut IngestConfig)| {
            let mut config = IngestConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert_eq!(with(|config| config.limits.events = 0), "`ingest.limits.events`: expected at least 1");
        assert_eq!(
            with(|config| config.backlog_share = f64::NAN),
            "`ingest.backlog_share`: expected above 0, at most 1"
        );
        assert!(with(|config| config.http.max_connections = 0).starts_with("`ingest.http.max_connections`"));
        assert!(with(|config| config.limits.json_depth = 128).starts_with("`ingest.limits.json_depth`"));
    }
}
