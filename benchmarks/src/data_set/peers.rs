//! Python packages that are asked the same: DuckDB and datasketch.

use std::path::Path;

use anyhow::Context as _;
use serde::de::DeserializeOwned;

/// What `peers/data_set.py` answers to a question about a file or a folder.
pub(super) fn ask<T: DeserializeOwned>(question: &str, about: &Path) -> anyhow::Result<T> {
    let answer = crate::peers::run("data_set.py", &[question.as_ref(), about.as_ref()])
        .with_context(|| format!("the peers do not answer \"{question}\""))?;
    serde_json::from_slice(&answer).with_context(|| format!("the peers do not answer \"{question}\""))
}
