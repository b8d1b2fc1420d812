//! `flywheel up` under load: latency of the first action, and memory.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use edit_model::{DecodeOptions, EditModel};
use service::clock::real_now;
use simulator::driver::{DoorSettings, Doors, LoadReport, LoadSettings, quantile_of, run_load};
use simulator::{DemoPlan, PlanSettings};

use crate::demo::binary;
use crate::labeling::scenes::corpus;
use crate::measurement::Measurement;
use crate::memory::{apart, own_peak, peak};

/// The hidden benchmark that is [`memory`]'s baseline.
pub(crate) const ALONE: &str = "model-alone";
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
    // `up` announces a door once it is open, and the key before all of them.
    let announced = |name: &str| std::fs::read_to_string(directory.path().join("doors").join(name)).ok();
    let begun = Instant::now();
    let (serving, ingest) = loop {
        if let (Some(serving), Some(ingest)) = (announced("serving"), announced("ingest")) {
            break (serving, ingest);
        }
        if begun.elapsed() > Duration::from_secs(60) {
            bail!("`flywheel up` opened no doors within 60 s");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let key = std::fs::read_to_string(directory.path().join("keys/client.key"))?;
    let settings = DoorSettings::new(format!("http://{serving}"), format!("http://{ingest}"), key.trim());
    Ok(Up { child, peak_file, doors: Doors::new(settings)?, _directory: directory })
}

fn plan() -> anyhow::Result<Arc<DemoPlan>> {
    let corpus = corpus()?;
    let settings = PlanSettings { developers: SESSIONS, opportunities: OPPORTUNITIES, ..PlanSettings::default() };
    Ok(Arc::new(DemoPlan::new(9, Arc::new(corpus), settings)?))
}

fn load(up: &Up) -> anyhow::Result<LoadReport> {
    let plan = plan()?;
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

/// The plan's tasks as `SESSIONS` threads ask them of the base model itself, with neither door nor platform:
/// milliseconds to the first action, sorted.
fn asked_in_process() -> anyhow::Result<Vec<f64>> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model/base");
    let model = EditModel::load(&base).context("the base model")?;
    let plan = plan()?;
    let options = DecodeOptions::default();
    let one = |developer: usize| -> anyhow::Result<Vec<f64>> {
        let mut milliseconds = Vec::new();
        for opportunity in 0..OPPORTUNITIES {
            let task = plan.task(developer, opportunity)?.task;
            let started = Instant::now();
            let mut first = None;
            model.complete(&task.context, &options, &|| false, &mut |_| {
                first = first.or_else(|| Some(started.elapsed().as_secs_f64() * 1000.0));
            })?;
            milliseconds.extend(first);
        }
        Ok(milliseconds)
    };
    let mut all = Vec::new();
    let parts: Vec<anyhow::Result<Vec<f64>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..SESSIONS).map(|developer| scope.spawn(move || one(developer))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| bail!("a thread of the baseline panicked")))
            .collect()
    });
    for part in parts {
        all.extend(part?);
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

/// First-action latency as the editor sees it.
pub(crate) fn latency() -> anyhow::Result<Vec<Measurement>> {
    let alone = asked_in_process()?;
    let up = start()?;
    let report = load(&up)?;
    let note = format!(
        "{SESSIONS} editors at once on the same 2 cores as the server, {} opportunities, {:.1} a second, {} first \
         actions; baseline: {SESSIONS} threads ask the model in process, without door, telemetry or platform",
        report.opportunities,
        report.opportunities as f64 / report.wall_seconds,
        report.first_action_ms.len(),
    );
    [("P50", 0.5), ("P90", 0.9), ("P99", 0.99)]
        .into_iter()
        .map(|(name, share)| {
            let milliseconds = report.first_action_quantile(share).context("no action was served")?;
            let baseline = quantile_of(&alone, share).context("the model proposed nothing")?;
            Ok(Measurement::new(format!("latency: first action {name}"), milliseconds, "ms", note.clone())
                .beside(baseline))
        })
        .collect()
}

/// The baseline of [`memory`]: this process asks the model and tells its own peak.
pub(crate) fn alone() -> anyhow::Result<Vec<Measurement>> {
    asked_in_process()?;
    let note = "the model and the tasks alone in a process";
    Ok(vec![Measurement::new("memory: peak of the model alone", own_peak()?, "MiB", note)])
}

/// Peak resident memory of the whole platform in one process.
pub(crate) fn memory() -> anyhow::Result<Vec<Measurement>> {
    let baseline = apart(ALONE)?;
    let up = start()?;
    let report = load(&up)?;
    let note = format!(
        "every service in one process, after {} opportunities, a training job apart; baseline: a process that only \
         asks the model the same",
        report.opportunities
    );
    Ok(vec![Measurement::new("memory: peak of up", peak(&up.peak_file)?, "MiB", note).beside(baseline)])
}
