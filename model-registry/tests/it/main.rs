//! The registry over loopback, end to end.

// Helpers of tests are tests: what cannot happen ends them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod consistency;
mod fixture;
mod http;
mod lineage;
mod rollouts;
#[cfg(feature = "production")]
mod tls;
mod versions;
