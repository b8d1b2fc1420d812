//! What a service stands on: config, clock, tracing, metrics, health, drain, reconciler driver, outbox, keys.

pub mod admin;
pub mod api_keys;
pub mod body;
pub mod bucket;
pub mod clock;
pub mod config;
pub mod consent;
pub mod database;
pub mod drain;
pub mod finding;
pub mod http;
pub mod ids;
pub mod keys;
pub mod lease;
pub mod metrics;
pub mod outbox;
pub mod problem;
mod process;
pub mod readiness;
pub mod reconciler;
pub mod repositories;
pub mod settings;
pub mod surroundings;
pub mod telemetry;
pub mod tls;
