//! Training as its users meet it: small models, whole runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail like tests")]

mod fixture;
mod job;
mod memorisation;
mod methods;
mod pretraining;
mod resume;
