//! When to retrain, on which immutable data set, by which deadline: a reconciler between the lake and the registry.
//!
//! One activation compares what should be with what is: a run that is queued or running is taken up (after a crash
//! too), otherwise the trigger decides whether new evidence is worth a run. A run is a row, a snapshot and a child
//! process; everything that it decides is written under the fence of the leader's lease.

pub mod allow_list;
mod attempts;
mod conclude;
pub mod config;
mod data;
pub mod data_set;
pub mod deadline;
mod erasure;
pub mod error;
pub mod freshness;
pub mod job;
pub mod process;
mod reconcile;
mod requests;
mod rivals;
mod run;
mod sealed_file;
pub mod store;
pub mod trigger;

pub use attempts::progress_of;
pub use config::{LEAST_GATE_OPPORTUNITIES, OrchestratorConfig};
pub use error::OrchestratorError;
pub use reconcile::{Deps, Handle, run};
