//! Python programs that are asked what we are asked.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

/// What `script` of the folder `peers` says when it is started with `arguments`.
pub(crate) fn run(script: &str, arguments: &[&OsStr]) -> anyhow::Result<Vec<u8>> {
    let packages = std::env::var_os("BENCHMARK_PEERS")
        .context("BENCHMARK_PEERS names no packages; start this with benchmarks/run")?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script);
    let mut command = Command::new("python3");
    command.arg(path).args(arguments).env("PYTHONPATH", packages);
    let output = command.output().context("the peers do not start")?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        bail!("{script} failed: {}", told.lines().last().unwrap_or_default());
    }
    Ok(output.stdout)
}
