//! Completions: `POST /v1/suggestions`, streamed, routed by rollout, hot-swapped, recorded; they outlive the wheel.
//!
//! What a completion waits for is in this process: a verified key, a routing table, a loaded model, a free thread. The
//! registry, the database, the bus and the object store are asked behind its back, and what they said last is on disk.
//! A version may be served by an engine that others run; its answers come from there, or not at all.
//!
//! With an upstream it is also a reverse proxy before a completion server that is there already: everything but our own
//! door passes, and what passes is observed.

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
mod outgoing;
mod pool;
mod proxy;
mod registry;
mod request;
mod running;
mod state;
mod target;
#[cfg(test)]
mod testing;

pub use config::ServingConfig;
pub use database::Database;
pub use decision::DecisionPolicy;
pub use engine::EngineConfig;
pub use error::ServingError;
pub use log::{Log, OpenLog};
pub use offsets::{OffsetError, byte_at, units};
pub use proxy::{NoSuchMode, Upstream, UpstreamConfig, UpstreamMode};
pub use running::{
    ModelStatus, RoutingFailure, Serving, ServingDeps, ServingHandle, ServingStatus, VersionStatus, run,
};
