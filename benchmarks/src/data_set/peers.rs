//! Programs in Python that are asked the same: DuckDB and datasketch, in an environment of their own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

/// What `peers/data_set.py` answers to a question about a file or a folder.
pub(super) fn ask<T: DeserializeOwned>(question: &str, about: &Path) -> anyhow::Result<T> {
    let python = std::env::var_os("BENCHMARK_PEERS_PYTHON")
        .context("BENCHMARK_PEERS_PYTHON names no Python; start this with benchmarks/run")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/data_set.py");
    let mut command = Command::new(python);
    command.arg(script).arg(question).arg(about);
    let output = command.output().context("the peers do not start")?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        bail!("the peers failed to answer \"{question}\": {}", told.lines().last().unwrap_or_default());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("the peers do not answer \"{question}\""))
}
