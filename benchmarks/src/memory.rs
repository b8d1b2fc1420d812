//! What the system's process table says of the memory of processes.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Of this process.
const OURS: &str = "/proc/self/status";

/// The most that this process has had in memory, MiB.
pub(crate) fn own_peak() -> anyhow::Result<f64> {
    peak(Path::new(OURS))
}

/// What this process has in memory now, MiB.
pub(crate) fn own_resident() -> anyhow::Result<f64> {
    mebibytes(&status(Path::new(OURS))?, "VmRSS:")
}

/// The most that a process has had in memory, MiB; `file` is what `/proc/ID/status` said of it.
pub(crate) fn peak(file: &Path) -> anyhow::Result<f64> {
    mebibytes(&status(file)?, "VmHWM:")
}

/// What the hidden benchmark `name` measures first, in a process of its own: its peak is nobody else's.
pub(crate) fn apart(name: &str) -> anyhow::Result<f64> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("apart.json");
    let ran =
        Command::new(std::env::current_exe()?).args([name, "--json"]).arg(&file).stdout(Stdio::null()).status()?;
    if !ran.success() {
        bail!("{name} could not be measured");
    }
    let measured: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    measured.pointer("/0/ours").and_then(Value::as_f64).with_context(|| format!("{name} told no figure"))
}

fn status(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).context("memory is read from the system's process table")
}

fn mebibytes(status: &str, field: &str) -> anyhow::Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    let kibibytes: f64 = number.with_context(|| format!("no {field} in the process table"))?.parse()?;
    Ok(kibibytes / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_told_from_the_other() {
        let status = "Name:\tfly\nVmHWM:\t    4096 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(mebibytes(status, "VmHWM:").unwrap(), 4.0);
        assert_eq!(mebibytes(status, "VmRSS:").unwrap(), 2.0);
        assert!(mebibytes(status, "VmSwap:").is_err());
        assert!(own_resident().unwrap() <= own_peak().unwrap() + 1.0);
    }
}
