//! The labeler from the outside: clean events in, pairs and outcomes out, rows and parts behind the sinks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test may fail loudly"
)]

mod aspects;
mod faults;
mod fuzz;
mod kit;
mod labels;
mod lake;
mod lake_readers;
mod losses;
mod messy;
mod newer;
mod off_policy;
mod orders;
mod outcome_detail;
mod rig;
mod secrets;
mod sinks;
mod undecodable;
mod wheel;
