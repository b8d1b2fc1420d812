//! Python packages that are asked the same: DuckDB and datasketch.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

/// What `peers/data_set.py` answers to a question about a file or a folder.
pub(super) fn ask<T: DeserializeOwned>(question: &str, about: &Path) -> anyhow::Result<T> {
    let packages = std::env::var_os("BENCHMARK_PEERS")
        .context("BENCHMARK_PEERS names no packages; start this with benchmarks/run")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/data_set.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(question).arg(about).env("PYTHONPATH", packages);
    let output = command.output().context("the peers do not start")?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        bail!("the peers failed to answer \"{question}\": {}", told.lines().last().unwrap_or_default());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("the peers do not answer \"{question}\""))
}
