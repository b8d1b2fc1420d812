//! Runs from the lake to a registered version, with real processes, a real registry and real training of a tiny model.

// Helpers of tests are tests: what cannot happen ends them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod crashes;
mod fixture;
mod foreign;
mod lake;
mod refusals;
mod runs;
