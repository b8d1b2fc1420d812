//! Tests of the bus from outside: the suite that every implementation must pass, and what only the local log can do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "production")]
mod kafka;
#[cfg(feature = "production")]
mod kafka_brokers;
#[cfg(feature = "production")]
mod kafka_doors;
#[cfg(feature = "production")]
mod kafka_faults;
#[cfg(feature = "production")]
mod kafka_owners;
#[cfg(feature = "production")]
mod kafka_registry;
#[cfg(feature = "production")]
mod kafka_rights;
#[cfg(feature = "production")]
mod kafka_tokens;
#[cfg(feature = "production")]
mod kafka_topics;
mod local;
mod losses;
mod overload;
mod power_cut;
mod processes;
mod suite;
