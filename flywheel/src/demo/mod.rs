//! `flywheel demo`: the whole wheel on real code, with simulated developers, a hold-back and a report that can say no.

mod account;
mod crowd;
mod elsewhere;
mod here;
mod probe;
mod progress;
mod report;
mod screen;
mod stage;
mod statistics;
mod story;
mod watch;

pub(crate) use report::Ledger;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use service::drain::stop_signal;
use simulator::convention::most_conflicting;
use simulator::{Corpus, DemoPlan, PlanSettings};
use tempfile::TempDir;

use self::elsewhere::Elsewhere;
use self::here::Here;
use self::progress::Progress;
use self::report::Report;
use crate::cli::{Common, DemoArgs};
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::platform::Platform;
use crate::settings::Settings;
use crate::{embedded, operations, platform};

/// Opportunities that everybody meets before the first turn: three rounds of six.
const ROUNDS_BEFORE: u32 = 3;
/// Rounds of six of the last period, in which the hold-back is compared with the last version. The twelve persons of the
/// hold-back are the units: one round of each leaves a standard error of 5% of the shown rate, half of what the claim
/// allows to be lost (docs/adr/0008-last-period.md).
const ROUNDS_AFTER: u32 = 3;

/// Runs the demo and prints its report.
pub(crate) async fn run(common: &Common, arguments: &DemoArgs) -> Result<ExitCode, Failure> {
    let (started, progress) = (Instant::now(), Progress::new());
    // A report that can not be written is told before the minutes that it takes to make it.
    if let Some(path) = &arguments.report {
        crate::report::check_writable(path)?;
    }
    let report = match &arguments.on {
        Some(file) => on_a_deployment(common, arguments, file, &progress, started).await?,
        None => in_this_process(common, arguments, &progress, started).await?,
    };
    screen::print(&report)?;
    if let Some(path) = &arguments.report {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        crate::report::put(path, &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Plays the demo on a platform that it starts and stops.
async fn in_this_process(
    common: &Common,
    arguments: &DemoArgs,
    progress: &Progress,
    started: Instant,
) -> Result<Report, Failure> {
    let temporary = match &common.data_dir {
        Some(_) => None,
        None => Some(scratch("; name one with --data-dir")?),
    };
    let root = match (&common.data_dir, &temporary) {
        (Some(root), _) => root.clone(),
        (None, Some(temporary)) => temporary.path().to_path_buf(),
        (None, None) => return Err(Failure::refused("no data directory")),
    };
    let data = DataDir::open(&root)?;
    if data.bus().exists() {
        return Err(Failure::refused(format!(
            "{} already holds the data of an earlier run; a demo starts on an empty directory",
            data.root().display()
        )));
    }
    let claim = data.claim()?;
    data.take_temporary_files();
    progress.say(&format!("data in {}", data.root().display()));
    let plan = plan(arguments, &data, arguments.placebo)?;
    let base = match &arguments.base {
        Some(directory) => directory.clone(),
        None => embedded::base(&data)?,
    };
    let settings = platform::demo_settings(common, &data, arguments)?;
    platform::start_tracing(common, Some(data.root().join("flywheel.log")))?;
    let telling = async {
        let platform = Platform::start(&settings, &data, &base).await?;
        progress.say(&format!(
            "every service is up: suggestions {}, telemetry {}, registry {}",
            platform.doors.serving, platform.doors.ingest, platform.doors.registry
        ));
        let told = story::tell(&Here::new(&platform), arguments, plan, progress, started).await;
        let stopped = platform.stop().await;
        let report = told?;
        stopped?;
        Ok(report)
    };
    // Nothing of a demo has to survive; a training job ends with its parent.
    let told = uninterrupted(telling).await;
    progress.finish();
    drop(claim);
    let told = told?;
    if let Some(temporary) = temporary {
        if told.is_err() {
            progress.say(&format!("the data is kept for a look: {}", temporary.keep().display()));
        } else if arguments.keep {
            progress.say(&format!("data kept in {}", temporary.keep().display()));
        }
    }
    told
}

/// Plays the demo on a deployment that runs already.
async fn on_a_deployment(
    common: &Common,
    arguments: &DemoArgs,
    file: &Path,
    progress: &Progress,
    started: Instant,
) -> Result<Report, Failure> {
    let common = Common { config: Some(file.to_path_buf()), ..common.clone() };
    let settings = Settings::load(&common, &[])?;
    elsewhere::check(&settings, file)?;
    operations::must_exist(&settings)?;
    let data = DataDir::open(&settings.data_dir)?;
    data.take_temporary_files();
    // A service may start on the same directory meanwhile.
    let _kept = data.keep_temporary_files();
    // The corpus, the models that are looked into and our own log; nothing of the deployment.
    let scratch = scratch("")?;
    let place = DataDir::open(scratch.path())?;
    let plan = plan(arguments, &place, settings.orchestrator.placebo_exchange_repositories)?;
    let log = place.root().join("flywheel.log");
    platform::start_tracing(&common, Some(log))?;
    let foundation = operations::open_platform(&settings).await?;
    let told = async {
        let models = place.root().join("models");
        let deployment = uninterrupted(Elsewhere::enter(&foundation, arguments, progress, models)).await??;
        let told = uninterrupted(story::tell(&deployment, arguments, plan, progress, started)).await;
        // The key is taken back however it ended.
        let left = deployment.leave().await;
        let report = told??;
        left?;
        Ok(report)
    }
    .await;
    progress.finish();
    if told.is_err() {
        let log = scratch.keep().join("flywheel.log");
        progress.say(&format!("the demo's own log is kept for a look: {}", log.display()));
    }
    told
}

/// Does it, unless a signal comes before the end.
async fn uninterrupted<T>(doing: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::select! {
        done = doing => Ok(done),
        signal = stop_signal() => Err(Failure::refused(format!("interrupted by {}; nothing is reported", signal?))),
    }
}

fn scratch(otherwise: &str) -> Result<TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("flywheel-demo-")
        .tempdir()
        .map_err(|error| Failure::refused(format!("no temporary directory can be made: {error}{otherwise}")))
}

/// Reads the corpus, and makes the tasks of all developers.
fn plan(arguments: &DemoArgs, data: &DataDir, placebo: bool) -> Result<Arc<DemoPlan>, Failure> {
    let corpus_dir = match &arguments.corpus {
        Some(directory) => directory.clone(),
        None => embedded::corpus(data)?,
    };
    let corpus = Arc::new(Corpus::load(&corpus_dir).map_err(Failure::refuse)?);
    let most =
        usize::try_from(6 * (ROUNDS_BEFORE + arguments.turns * arguments.blocks + ROUNDS_AFTER)).unwrap_or(usize::MAX);
    let settings = PlanSettings {
        developers: usize::try_from(arguments.developers).unwrap_or(usize::MAX),
        opportunities: most,
        ..PlanSettings::default()
    };
    let plan = Arc::new(DemoPlan::new(arguments.seed, Arc::clone(&corpus), settings).map_err(Failure::refuse)?);
    if placebo && !plan.all_conflict() {
        return Err(Failure::refused(format!(
            "a placebo exchanges repositories whose conventions conflict; at most {} can conflict, and {} holds {}",
            most_conflicting(),
            corpus_dir.display(),
            corpus.repositories.len()
        )));
    }
    Ok(plan)
}
