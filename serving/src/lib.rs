//! Completions: `POST /v1/suggestions`, streamed, routed by rollout, hot-swapped, recorded; they outlive the wheel.
//!
//! What a completion waits for is in this process: a verified key, a routing table, a loaded model, a free thread. The
//! registry, the database, the bus and the object store are asked behind its back, and what they said last is on disk.

mod answer;
mod bounded;
mod cache;
mod config;
mod database;
mod decision;
mod disk;
mod door;
mod engine;
mod error;
mod exposure;
mod http;
mod log;
mod models;
mod offsets;
mod pool;
mod registry;
mod request;
mod running;
mod state;
#[cfg(test)]
mod testing;

pub use config::ServingConfig;
pub use database::Database;
pub use decision::DecisionPolicy;
pub use error::ServingError;
pub use log::{Log, OpenLog};
pub use offsets::{OffsetError, byte_at, units};
pub use running::{
    ModelStatus, RoutingFailure, Serving, ServingDeps, ServingHandle, ServingStatus, VersionStatus, run,
};
