//! `flywheel demo`: the whole wheel on real code, with simulated developers, a hold-back and a report that can say no.

mod crowd;
mod probe;
mod progress;
mod report;
mod screen;
mod statistics;
mod story;
mod watch;

pub(crate) use progress::Progress;
pub(crate) use report::Ledger;

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use service::drain::stop_signal;
use simulator::convention::most_conflicting;
use simulator::{Corpus, DemoPlan, PlanSettings};

use crate::cli::{Common, DemoArgs};
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::{embedded, platform};

/// Opportunities that everybody meets before the first turn: three rounds of six.
const ROUNDS_BEFORE: u32 = 3;
/// Rounds of six of the last period, in which the hold-back is compared with the last version. The twelve persons of the
/// hold-back are the units: one round of each leaves a standard error of 5% of the shown rate, half of what the claim
/// allows to be lost (docs/adr/0008-last-period.md).
const ROUNDS_AFTER: u32 = 3;

/// Runs the demo and prints its report.
pub(crate) async fn run(common: &Common, arguments: &DemoArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let progress = progress::Progress::new();
    // A report that can not be written is told before the minutes that it takes to make it.
    if let Some(path) = &arguments.report {
        check_writable(path)?;
    }
    let temporary = match &common.data_dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("flywheel-demo-").tempdir().map_err(|error| {
            Failure::refused(format!("no temporary directory can be made: {error}; name one with --data-dir"))
        })?),
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
    progress.say(&format!("data in {}", data.root().display()));

    let corpus_dir = match &arguments.corpus {
        Some(directory) => directory.clone(),
        None => embedded::corpus(&data)?,
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
    if arguments.placebo && !plan.all_conflict() {
        return Err(Failure::refused(format!(
            "a placebo exchanges repositories whose conventions conflict; at most {} can conflict, and {} holds {}",
            most_conflicting(),
            corpus_dir.display(),
            corpus.repositories.len()
        )));
    }
    let base = match &arguments.base {
        Some(directory) => directory.clone(),
        None => embedded::base(&data)?,
    };

    let settings = platform::demo_settings(common, &data, arguments)?;
    platform::start_tracing(common, Some(data.root().join("flywheel.log")))?;
    let outcome = tokio::select! {
        outcome = story::tell(&settings, &data, arguments, plan, &base, &progress, started) => outcome,
        signal = stop_signal() => {
            // Nothing of a demo has to survive; a training job ends with its parent.
            progress.finish();
            return Err(Failure::refused(format!("interrupted by {}; nothing is reported", signal?)));
        }
    };
    progress.finish();
    drop(claim);
    let report = match outcome {
        Ok(report) => report,
        Err(failure) => {
            if let Some(temporary) = temporary {
                let kept = temporary.keep();
                progress.say(&format!("the data is kept for a look: {}", kept.display()));
            }
            return Err(failure);
        }
    };
    screen::print(&report)?;
    if let Some(path) = &arguments.report {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        // Through whatever stands there: a link, a pipe or a device is not replaced by a file.
        std::fs::write(path, text).map_err(|error| unwritable(path, &error))?;
    }
    if let Some(temporary) = temporary.filter(|_| arguments.keep) {
        progress.say(&format!("data kept in {}", temporary.keep().display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses a file that can not be written, and leaves what is there as it is.
fn check_writable(path: &Path) -> Result<(), Failure> {
    // A link that leads nowhere yet stays, and so does the file that it is opened to.
    let is_new = path.symlink_metadata().is_err();
    File::options()
        .append(true)
        .create(true)
        .open(path)
        .and_then(|_| if is_new { std::fs::remove_file(path) } else { Ok(()) })
        .map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::refused(format!("the report can not be written to {}: {error}", path.display()))
}
