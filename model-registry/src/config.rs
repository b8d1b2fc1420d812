//! `[registry]`.

use serde::{Deserialize, Serialize};
use service::http::HttpConfig;

use crate::policy::RolloutPolicy;

/// Settings of the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// The door.
    pub http: HttpConfig,
    /// The policy of rollouts that bring none.
    pub rollout: RolloutPolicy,
    /// How often rollouts are looked at when nobody asks, in milliseconds of real time.
    pub reconcile_ms: u64,
    /// How long the leader of the reconciler may be silent, in milliseconds of real time.
    pub lease_ms: u64,
    /// How often a watch looks for changes that another process made, in milliseconds of real time.
    pub watch_poll_ms: u64,
    /// Watches at once.
    pub max_watches: usize,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            http: HttpConfig::at("127.0.0.1:7003"),
            rollout: RolloutPolicy::default(),
            reconcile_ms: 1_000,
            lease_ms: 10_000,
            watch_poll_ms: 1_000,
            max_watches: 1_024,
        }
    }
}
