//! The binary as its users meet it: started as a process, spoken to over loopback, stopped and killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod adopt;
mod alone;
mod audit;
mod commands;
mod dataset;
mod demo;
mod deployment;
mod doctor;
#[cfg(feature = "production")]
mod doctor_servers;
mod export_gguf;
#[cfg(feature = "production")]
mod faults;
#[cfg(feature = "production")]
mod fleet;
mod harness;
mod history;
mod kills;
mod llama_cpp;
mod load;
mod pairs;
#[cfg(feature = "production")]
mod postgresql;
mod refusals;
#[cfg(feature = "production")]
mod releases;
mod replay;
#[cfg(feature = "production")]
mod s3;
#[cfg(feature = "production")]
mod servers;
#[cfg(feature = "production")]
mod tls;
mod training;
mod trajectories;
#[cfg(feature = "production")]
mod trial;
mod up;
mod versions;
#[cfg(feature = "production")]
mod wire;
