//! Whole platforms of the product's own binary, on embedded parts and on real servers.

mod crowd;
mod deployment;
pub(crate) mod processes;
pub(crate) mod sizing;
mod sizing_report;
mod stage_times;
pub(crate) mod stages;
