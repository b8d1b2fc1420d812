//! `[orchestrator]`: when to train, on what, how long.

use std::path::PathBuf;

use serde::Deserialize;

/// When a run starts, what it is given, and by when it must be done.
#[derive(Debug, Clone, PartialEq, Deserialize)]
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
    /// Newest pairs that go into one snapshot; older ones are left out. Bounds memory and turn time.
    pub maximum_pairs: usize,
    /// Opportunities held out by time for the gate.
    pub gate_opportunities: usize,
    /// `sft`, `dpo` or `actionrl`.
    pub method: String,
    /// Optimizer steps.
    pub steps: usize,
    /// Pairs in a step.
    pub batch: usize,
    /// Replayed base examples in a step.
    pub replay: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Seed of batching and replay.
    pub seed: u64,
    /// Absolute limit of a turn from the trigger on, queueing and retries included. Seconds of real time.
    pub deadline_seconds: u64,
    /// A job whose heartbeat is older than this is dead. Seconds of real time.
    pub heartbeat_seconds: u64,
    /// Attempts before a run fails.
    pub maximum_attempts: u32,
    /// How often the reconciler looks by itself. Seconds of real time.
    pub interval_seconds: u64,
    /// Program that is started for a run (`PROGRAM train --job FILE`); this binary when absent.
    pub program: Option<PathBuf>,
    /// Trains with the repository name of each prompt exchanged for another one: the placebo of an experiment.
    pub placebo_exchange_repositories: bool,
}

impl Default for OrchestratorConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            model: "edit".to_owned(),
            audience: "everyone".to_owned(),
            minimum_new_pairs: 500,
            maximum_age_seconds: 6 * 3600,
            minimum_pairs: 120,
            maximum_pairs: 20_000,
            gate_opportunities: 300,
            method: "sft".to_owned(),
            steps: 32,
            batch: 20,
            replay: 12,
            learning_rate: 3e-4,
            seed: 1,
            deadline_seconds: 3600,
            heartbeat_seconds: 120,
            maximum_attempts: 3,
            interval_seconds: 5,
            program: None,
            placebo_exchange_repositories: false,
        }
    }
}
