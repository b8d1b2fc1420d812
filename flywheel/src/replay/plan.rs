//! What a replay does: everything that its figures follow from, besides the history and the base.

use edit_model::DecodeOptions;
use serde::{Deserialize, Serialize};
use simulator::history::points::PointSettings;
use simulator::history::{HistoryLimits, HistorySummary};
use simulator::source::digest_hex;
use trainer::gate::GateLimits;
use trainer::methods::{Method, MethodConfig};
use trainer_orchestrator::OrchestratorConfig;
use trainer_orchestrator::data_set::policy::DataSetPolicy;

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
    /// Least gate score at which versions speak: that of serving, which has one for all of them.
    pub(super) threshold: f32,
    /// Opportunities that the gate judges.
    pub(super) gate_opportunities: usize,
    /// What the gate lets through.
    pub(super) gate: GateLimits,
    /// How pairs become a data set.
    pub(super) data_set: DataSetPolicy,
}

impl Plan {
    pub(super) fn of(arguments: &ReplayArgs) -> Result<Self, Failure> {
        // A method is named as in job files.
        let method: Method = serde_json::from_value(serde_json::Value::String(arguments.method.clone()))
            .map_err(|error| Failure::refused(format!("--method {}: {error}", arguments.method)))?;
        let wheel = OrchestratorConfig::default();
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
            threshold: DecodeOptions::default().threshold,
            gate_opportunities: wheel.gate_opportunities,
            gate: wheel.gate,
            data_set: wheel.data_set,
        })
    }

    /// Names the state: the same plan on the same history with the same base and code goes on, every other begins.
    pub(super) fn digest(&self, source: &HistorySummary, base_digest: &str) -> Result<String, Failure> {
        let all = serde_json::to_vec(&(CODE_VERSION, self, &source.repository, &source.head, base_digest))?;
        Ok(digest_hex(&all))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: ReplayArgs,
    }

    /// What a replay does unless it is told otherwise.
    pub(crate) fn plan() -> Plan {
        Plan::of(&Line::parse_from(["replay", "--repo", "."]).arguments).unwrap()
    }

    #[test]
    fn versions_speak_as_serving_lets_them() {
        let plan = plan();
        assert!((f64::from(plan.threshold) - serving::ServingConfig::default().threshold).abs() < 1e-9);
        assert_eq!(plan.training, MethodConfig::default());
    }
}
