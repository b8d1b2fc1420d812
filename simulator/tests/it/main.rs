//! The room as a whole, on its own corpus.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod base;
mod corpus;
mod developer;
mod driver;
mod plan;

use simulator::{Corpus, DemoPlan, PlanSettings};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

fn corpus_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// Parsing takes a second: once for all tests.
fn corpus() -> Arc<Corpus> {
    static CORPUS: OnceLock<Arc<Corpus>> = OnceLock::new();
    CORPUS.get_or_init(|| Arc::new(Corpus::load(&corpus_folder()).unwrap())).clone()
}

fn settings() -> PlanSettings {
    PlanSettings { developers: 6, opportunities: 24, probe: 12, gate: 12, ..PlanSettings::default() }
}

fn plan(seed: u64) -> DemoPlan {
    DemoPlan::new(seed, corpus(), settings()).unwrap()
}
