//! `flywheel up` under load: latency of the first action, and memory.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;
use service::clock::real_now;
use simulator::driver::{DoorSettings, Doors, LoadReport, LoadSettings, run_load};
use simulator::{Corpus, DemoPlan, PlanSettings};

use crate::demo::binary;
use crate::measurement::Measurement;

/// Editors at the same time.
const SESSIONS: usize = 4;
/// Opportunities of each.
const OPPORTUNITIES: usize = 60;
/// Longest load.
const LONGEST: Duration = Duration::from_secs(120);

struct Up {
    child: Child,
    _directory: tempfile::TempDir,
    peak_file: std::path::PathBuf,
    doors: Doors,
}

impl Drop for Up {
    fn drop(&mut self) {
        // It is our child; a platform survives kill -9 by design.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

fn start() -> anyhow::Result<Up> {
    let directory = tempfile::tempdir()?;
    let child = Command::new(binary()?)
        .arg("up")
        .arg("--data-dir")
        .arg(directory.path())
        .args(["--set", "admin.listen=127.0.0.1:0", "--set", "registry.http.listen=127.0.0.1:0"])
        .args(["--set", "ingest.http.listen=127.0.0.1:0", "--set", "serving.http.listen=127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let peak_file = Path::new("/proc").join(child.id().to_string()).join("status");
    let doors_file = directory.path().join("doors.json");
    let begun = Instant::now();
    let doors: Value = loop {
        if let Some(doors) = std::fs::read(&doors_file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            break doors;
        }
        if begun.elapsed() > Duration::from_secs(60) {
            bail!("`flywheel up` opened no doors within 60 s");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let door = |name: &str| -> anyhow::Result<String> {
        Ok(format!("http://{}", doors.get(name).and_then(Value::as_str).context("a door without an address")?))
    };
    let key = std::fs::read_to_string(directory.path().join("keys/client.key"))?;
    let settings = DoorSettings::new(door("serving")?, door("ingest")?, key.trim());
    Ok(Up { child, peak_file, doors: Doors::new(settings)?, _directory: directory })
}

fn load(up: &Up) -> anyhow::Result<LoadReport> {
    let corpus = Corpus::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/corpus"))?;
    let settings = PlanSettings { developers: SESSIONS, opportunities: OPPORTUNITIES, ..PlanSettings::default() };
    let plan = Arc::new(DemoPlan::new(9, Arc::new(corpus), settings)?);
    let load = LoadSettings {
        sessions: SESSIONS,
        opportunities: OPPORTUNITIES,
        session_number: 1,
        started: real_now(),
        longest: LONGEST,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build()?;
    let report = runtime.block_on(run_load(&up.doors, plan, &load, &tokio_util::sync::CancellationToken::new()))?;
    if report.failures > 0 {
        bail!("{} requests failed under load", report.failures);
    }
    Ok(report)
}

/// First-action latency as the editor sees it.
pub(crate) fn latency() -> anyhow::Result<Vec<Measurement>> {
    let up = start()?;
    let report = load(&up)?;
    let note = format!(
        "{SESSIONS} editors at once on the same 2 cores as the server, {} opportunities, {:.1} a second",
        report.opportunities,
        report.opportunities as f64 / report.wall_seconds
    );
    [("P50", 0.5), ("P90", 0.9), ("P99", 0.99)]
        .into_iter()
        .map(|(name, quantile)| {
            let milliseconds = report.first_action_quantile(quantile).context("no action was served")?;
            Ok(Measurement::new(format!("first action {name}"), milliseconds, "ms", note.clone()))
        })
        .collect()
}

/// Peak resident memory of the whole platform in one process.
pub(crate) fn memory() -> anyhow::Result<Vec<Measurement>> {
    let up = start()?;
    let report = load(&up)?;
    let status = std::fs::read_to_string(&up.peak_file).context("the peak is read from the system's process table")?;
    let kibibytes: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next())
        .context("no peak in the process table")?
        .parse()?;
    let note = format!("every service in one process, after {} opportunities", report.opportunities);
    Ok(vec![Measurement::new("peak memory of up", kibibytes / 1024.0, "MiB", note)])
}
