//! The training job: methods, offline evaluation, checkpoints, and the contract by which a job is started and watched.

mod calibration;
mod checkpoint;
mod device;
mod engine;
mod error;
mod examples;
mod habit;
mod language_part;
mod method;
mod objective;
mod optimizer;
mod pairs;
mod prepared;
mod step_log;

pub mod convention;
pub mod evaluation;
pub mod gate;
pub mod job;
pub mod memorisation;
pub mod methods;
pub mod pretrain;
pub mod syntax;

#[cfg(test)]
mod parity;

pub use checkpoint::{Checkpoint, CheckpointHeader};
pub use device::{backends, probe};
pub use edit_model::Device;
pub use engine::{Engine, Group, StepReport, log_probabilities};
pub use error::TrainerError;
pub use examples::{BaseTask, TokenWeights, base_group, read_tasks, write_tasks};
pub use objective::{
    ComparedSide, LossParts, Objective, PreferenceLoss, Role, TrainingSequence, distance_to_reference,
};
pub use optimizer::{AdamW, OptimizerConfig, Schedule, Segment, Treatment, global_norm};
pub use pairs::{TrainingPair, balance_silence, exchange_repositories, read_pairs, write_pairs};
pub use prepared::PairCensus;
