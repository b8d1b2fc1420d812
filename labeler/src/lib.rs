//! Clean events to opportunities to preference pairs; the pair lake, the ledger and the tally of outcomes.

pub mod alignment;
pub mod aspects;
pub mod audience;
pub mod config;
pub mod crowd;
pub mod decision_table;
pub mod divergence;
pub mod document;
pub mod ending;
pub mod episode;
pub mod generated;
pub mod kept;
pub mod keys;
pub mod lake;
pub mod ledger;
pub mod lexing;
pub mod losses;
pub mod policy;
pub mod policy_record;
mod reading;
pub mod replay;
mod run;
pub mod signals;
pub mod sink;
pub mod skip;
mod state;
pub mod statistics;
pub mod step;
pub mod story;
pub mod tally;

pub use config::LabelerConfig;
pub use policy::{LABEL_POLICY_VERSION, LabelPolicy};
pub use run::{Deps, LabelerError, run};
