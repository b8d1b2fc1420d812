//! Tests of the bus from outside: the suite that every implementation must pass, and what only the local log can do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "production")]
mod kafka;
#[cfg(feature = "production")]
mod kafka_faults;
#[cfg(feature = "production")]
mod kafka_owners;
mod local;
mod processes;
mod suite;
