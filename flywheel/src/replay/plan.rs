//! What a replay does: everything that its figures follow from, besides the history and the base.

use serde::{Deserialize, Serialize};
use simulator::history::points::PointSettings;
use simulator::history::{HistoryLimits, HistorySummary};
use simulator::source::digest_hex;
use trainer::methods::{Method, MethodConfig};

use super::answers::FEWEST_CHANGES;
use crate::cli::{CODE_VERSION, ReplayArgs};
use crate::failure::Failure;

/// Settings of a replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Windows of the history; the first is learned from alone.
    pub(super) windows: usize,
    /// Most points of a window that count.
    pub(super) points_per_window: usize,
    /// Fewest changes of a window.
    pub(super) least_changes: usize,
    /// How much of the history is read.
    pub(super) limits: HistoryLimits,
    /// How points are drawn.
    pub(super) points: PointSettings,
    /// How each version learns.
    pub(super) training: MethodConfig,
}

impl Plan {
    pub(super) fn of(arguments: &ReplayArgs) -> Result<Self, Failure> {
        // A method is named as in job files.
        let method: Method = serde_json::from_value(serde_json::Value::String(arguments.method.clone()))
            .map_err(|error| Failure::refused(format!("--method {}: {error}", arguments.method)))?;
        Ok(Self {
            windows: arguments.windows as usize,
            points_per_window: arguments.points as usize,
            least_changes: FEWEST_CHANGES,
            limits: HistoryLimits {
                commits: arguments.commits,
                bytes: arguments.megabytes * 1024 * 1024,
                ..HistoryLimits::default()
            },
            points: PointSettings {
                orders: arguments.orders as usize,
                seed: arguments.seed,
                ..PointSettings::default()
            },
            training: MethodConfig {
                method,
                steps: arguments.steps as usize,
                seed: arguments.seed,
                threads: arguments.threads as usize,
                ..MethodConfig::default()
            },
        })
    }

    /// Names the state: the same plan on the same history with the same base and code goes on, every other begins.
    pub(super) fn digest(&self, source: &HistorySummary, base_digest: &str) -> Result<String, Failure> {
        let all = serde_json::to_vec(&(CODE_VERSION, self, &source.repository, &source.head, base_digest))?;
        Ok(digest_hex(&all))
    }
}
