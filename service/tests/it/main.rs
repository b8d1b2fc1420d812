//! Tests of what services stand on, through its public interface only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test may fail loudly"
)]

mod api_keys;
mod config;
mod database;
#[cfg(unix)]
mod full_disk;
mod http;
mod keys;
mod lease;
mod metrics;
mod outbox;
mod readiness;
mod stores;
mod tls;
