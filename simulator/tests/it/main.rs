//! The room as a whole, on its own corpus.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod base;
mod corpus;
mod developer;
mod driver;
mod history;
mod judge;
mod plan;
mod scene;
mod trajectories;
mod trajectory_patterns;
mod trajectory_tasks;

use simulator::{Corpus, DemoPlan, EditTask, Language, PlanSettings};
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

/// What the window shows is what stands there in the document.
fn assert_window_is_of_its_document(task: &EditTask) {
    let window = &task.context.window;
    let start = usize::try_from(window.start_byte).unwrap();
    assert_eq!(task.base_document.get(start..start + window.text.len()), Some(window.text.as_str()));
}

/// Whether `document` says what is wanted, token by token.
fn says_what_is_wanted(task: &EditTask, document: &str) -> bool {
    let language = Language::of_id(&task.context.language).unwrap();
    simulator::judge::same(language, document, &task.after_document())
}
