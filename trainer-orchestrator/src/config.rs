//! `[orchestrator]`: when to train, on what, how long.

use std::path::PathBuf;

use events::{Audience, ModelName, TenantId};
use model_registry::lineage::{FORMULA, SnapshotFilters};
use serde::{Deserialize, Serialize};
use trainer::Device;
use trainer::gate::GateLimits;
use trainer::methods::{Method, MethodConfig};

use crate::data_set::policy::DataSetPolicy;
use crate::error::OrchestratorError;

/// Fewer opportunities judge nobody.
pub const LEAST_GATE_OPPORTUNITIES: usize = 300;
/// Longest chain of versions that train from one another.
pub const MOST_CHAIN_DEPTH: u32 = 3;

/// When a run starts, what it is given, and by when it must be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OrchestratorConfig {
    /// Whether runs start by themselves. Off: only on request.
    pub enabled: bool,
    /// The model that is trained.
    pub model: String,
    /// Whose pairs go into a snapshot: exactly one audience.
    pub audience: String,
    /// A run starts when this many pairs are new since the last snapshot.
    pub minimum_new_pairs: usize,
    /// ... or when the oldest new pair is older than this and at least `minimum_pairs` are new. Seconds.
    pub maximum_age_seconds: u64,
    /// Fewest new pairs for any run.
    pub minimum_pairs: usize,
    /// Newest pairs that train and go into one snapshot, and as many again of weight 0; older ones are left out. Bounds
    /// memory and turn time.
    pub maximum_pairs: usize,
    /// Opportunities that the gate judges, held out by time: the newest of which it is known what the developer wanted.
    /// At least [`LEAST_GATE_OPPORTUNITIES`].
    pub gate_opportunities: usize,
    /// How a version learns: one of the names in `docs/methods.md`.
    pub method: String,
    /// Optimizer steps.
    pub steps: usize,
    /// Pairs in a step.
    pub batch: usize,
    /// Replayed base examples in a step.
    pub replay: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// What a run computes on: `cpu`, or `cuda` in a build with the cargo feature `cuda`.
    pub device: Device,
    /// Seed of batching and replay.
    pub seed: u64,
    /// Absolute limit of a turn from the newest signal that it learns from to the first serving of its candidate:
    /// labels, waiting, queueing and retries included. Seconds of real time.
    pub deadline_seconds: u64,
    /// What a run is left at least, however old its newest signal is; never more than `deadline_seconds`.
    pub deadline_minimum_seconds: u64,
    /// A job whose heartbeat is older than this is dead. Seconds of real time.
    pub heartbeat_seconds: u64,
    /// Failed attempts before a run fails. An attempt that ended because this service ended is none.
    pub maximum_attempts: u32,
    /// After a run that failed, none starts by itself for this long; on request one does. Seconds.
    pub pause_after_failure_seconds: u64,
    /// How many versions may train from one another. 0: every version trains from the base, so that what one of them
    /// forgot is not handed on.
    pub chain_depth: u32,
    /// How often the reconciler looks by itself. Seconds of real time.
    pub interval_seconds: u64,
    /// Program that is started for a run (`PROGRAM train --job FILE`); this binary when absent.
    pub program: Option<PathBuf>,
    /// Trains with the repository name of each prompt exchanged for another one: the placebo of an experiment.
    pub placebo_exchange_repositories: bool,
    /// How pairs are capped, held out and weighted.
    pub data_set: DataSetPolicy,
    /// What the gate lets through.
    pub gate: GateLimits,
}

impl Default for OrchestratorConfig {
    fn default() -> Self {
        // What `benchmarks/run methods` found best.
        let learning = MethodConfig::default();
        Self {
            enabled: true,
            model: "edit".to_owned(),
            audience: "everyone".to_owned(),
            minimum_new_pairs: 500,
            maximum_age_seconds: 6 * 3600,
            minimum_pairs: 120,
            maximum_pairs: 20_000,
            gate_opportunities: LEAST_GATE_OPPORTUNITIES,
            method: learning.method.name().to_owned(),
            steps: learning.steps,
            batch: learning.batch_pairs,
            replay: learning.batch_replay,
            learning_rate: learning.learning_rate,
            device: Device::Cpu,
            seed: 1,
            deadline_seconds: 3600,
            deadline_minimum_seconds: 1800,
            heartbeat_seconds: 120,
            maximum_attempts: 3,
            pause_after_failure_seconds: 900,
            chain_depth: 0,
            interval_seconds: 5,
            program: None,
            placebo_exchange_repositories: false,
            data_set: DataSetPolicy::default(),
            gate: GateLimits::default(),
        }
    }
}

impl OrchestratorConfig {
    /// Model and audience, once everything else was found usable.
    ///
    /// # Errors
    /// The first key that is not, and why.
    pub fn validate(&self) -> Result<(ModelName, Audience), OrchestratorError> {
        let refuse = |key, reason: String| OrchestratorError::Config { key, reason };
        let check = |holds: bool, key, reason: &str| if holds { Ok(()) } else { Err(refuse(key, reason.to_owned())) };
        let model = self.model.parse().map_err(|error| refuse("model", format!("{error}")))?;
        let audience = self.audience.parse().map_err(|error| refuse("audience", format!("{error}")))?;
        self.method.parse::<Method>().map_err(|reason| refuse("method", reason))?;
        check(self.steps > 0, "steps", "expected at least 1")?;
        check(self.batch > 0, "batch", "expected at least 1")?;
        check(
            self.gate_opportunities >= LEAST_GATE_OPPORTUNITIES,
            "gate_opportunities",
            "expected at least 300: fewer judge nobody",
        )?;
        check(self.maximum_pairs > 0, "maximum_pairs", "expected at least 1")?;
        check(self.maximum_attempts > 0, "maximum_attempts", "expected at least 1")?;
        check(self.deadline_seconds > 0, "deadline_seconds", "expected at least 1")?;
        check(self.deadline_minimum_seconds > 0, "deadline_minimum_seconds", "expected at least 1")?;
        check(self.heartbeat_seconds > 0, "heartbeat_seconds", "expected at least 1")?;
        check(self.chain_depth <= MOST_CHAIN_DEPTH, "chain_depth", "expected at most 3")?;
        self.data_set.validate().map_err(|(key, reason)| refuse(key, reason.to_owned()))?;
        self.gate.validate().map_err(|(key, reason)| refuse(key, reason.to_owned()))?;
        Ok((model, audience))
    }

    /// What decides which pairs a data set made now holds, by the formula of this release.
    #[must_use]
    pub fn filters(
        &self,
        tenant: TenantId,
        model: ModelName,
        audience: Audience,
        label_policy_version: i32,
        code_version: &str,
    ) -> SnapshotFilters {
        SnapshotFilters {
            tenant,
            model,
            audience,
            label_policy_version,
            code_version: code_version.to_owned(),
            maximum_pairs: self.maximum_pairs,
            gate_opportunities: self.gate_opportunities,
            placebo_exchange_repositories: self.placebo_exchange_repositories,
            formula: FORMULA,
            policy: self.data_set.value(),
        }
    }

    /// Whether a run has what it would compute on. To be asked where training can start and nowhere else: it asks the
    /// machine, and many a command reads these settings on a machine that trains nothing.
    ///
    /// # Errors
    /// What the build or the machine lacks, by the key `device`.
    pub fn check_device(&self) -> Result<(), OrchestratorError> {
        // Another program has its own build; this one's must be able to do what it will be asked.
        if self.program.is_some() {
            return Ok(());
        }
        trainer::probe(self.device)
            .map_err(|error| OrchestratorError::Config { key: "device", reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_and_what_does_not_is_named() {
        OrchestratorConfig::default().validate().unwrap();
        let named = |config: OrchestratorConfig| config.validate().unwrap_err().to_string();
        let refusals = [
            named(OrchestratorConfig { gate_opportunities: 299, ..Default::default() }),
            named(OrchestratorConfig { method: "magic".to_owned(), ..Default::default() }),
            named(OrchestratorConfig { audience: String::new(), ..Default::default() }),
            named(OrchestratorConfig { chain_depth: 4, ..Default::default() }),
            named(OrchestratorConfig { steps: 0, ..Default::default() }),
            named(OrchestratorConfig {
                data_set: DataSetPolicy { general_permille: 501, ..Default::default() },
                ..Default::default()
            }),
        ];
        insta::assert_snapshot!(refusals.join("\n"));
    }

    // A build with the feature asks the machine instead.
    #[test]
    fn a_device_that_is_not_there_is_refused_unless_another_program_trains() {
        OrchestratorConfig::default().check_device().unwrap();
        let asked = OrchestratorConfig { device: Device::Cuda, ..Default::default() };
        asked.validate().unwrap();
        if trainer::probe(Device::Cuda).is_err() {
            assert!(asked.check_device().unwrap_err().to_string().starts_with("orchestrator.device: "));
        }
        OrchestratorConfig { program: Some("/opt/trainer".into()), ..asked }.check_device().unwrap();
    }
}
