//! The behaviour that every artifact store must have, and what is special about each of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test may fail loudly"
)]

#[cfg(unix)]
mod full_disk;
mod local;
#[cfg(feature = "production")]
mod s3;
#[cfg(feature = "production")]
mod s3_faults;
mod suite;
#[cfg(feature = "production")]
mod wire;
