//! The code that simulated developers work on, and what they meet in it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use simulator::{Corpus, SceneMaker, SceneSettings};

/// Between the first sessions of two persons.
pub(crate) const STAGGER: Duration = Duration::from_millis(1_733);

/// The simulator's code.
pub(crate) fn corpus() -> anyhow::Result<Corpus> {
    Ok(Corpus::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/corpus"))?)
}

/// A maker of scenes for each of its repositories.
pub(crate) fn makers(corpus: &Corpus, settings: SceneSettings) -> anyhow::Result<Vec<SceneMaker<'_>>> {
    (0..corpus.repositories.len())
        .map(|repository| SceneMaker::new(corpus, repository, settings).context("a repository has no usable line"))
        .collect()
}
