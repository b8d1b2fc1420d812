//! `flywheel status`: the wheel at a glance.

use std::process::ExitCode;

use events::topics;
use labeler::lake::LakeReader;
use labeler::ledger;
use serde::Serialize;
use trainer_orchestrator::store::{Run, Store};

use crate::cli::{Common, ListArgs};
use crate::failure::Failure;
use crate::operations::{doors, open};
use crate::platform::DoorAddresses;
use crate::services::registry_client;
use crate::sinks;
use crate::table::{print, print_json, print_rows};

/// How far one stage is behind.
#[derive(Debug, Serialize)]
struct Backlog {
    stage: &'static str,
    records_behind: u64,
    pending_timers: u64,
    paused: Vec<String>,
}

/// Everything that `flywheel status` shows.
#[derive(Debug, Serialize)]
struct Status {
    running: bool,
    doors: Option<DoorAddresses>,
    versions: Vec<VersionLine>,
    active_rollout: Option<String>,
    backlog: Vec<Backlog>,
    last_run: Option<Run>,
    freshness_seconds: f64,
    ledger: crate::demo::Ledger,
}

#[derive(Debug, Serialize)]
struct VersionLine {
    version: i64,
    method: String,
    serves: String,
}

pub(crate) async fn run(common: &Common, list: &ListArgs) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    let settings = &foundation.settings;
    // The lock says whether a platform runs, whatever an address file of a killed one claims.
    let running = foundation.data.claim().is_err();
    let doors = doors(&foundation.data).filter(|_| running);
    let mut versions = Vec::new();
    let mut active_rollout = None;
    if let Some(doors) = &doors {
        let registry = registry_client(&foundation, &doors.registry.to_string())?;
        let routing = registry.get_routing(&settings.model).await.ok();
        for version in registry.list_versions(&settings.model).await.unwrap_or_default() {
            let mut serves = Vec::new();
            if let Some(table) = &routing {
                let canary = table.rollout.as_ref();
                active_rollout = canary.map(|rollout| rollout.rollout_id.to_string());
                if table.current.version == version.version {
                    serves.push("current".to_owned());
                }
                if table.reference.as_ref().is_some_and(|reference| reference.version == version.version) {
                    serves.push(format!("hold-back {:.0}%", table.holdback_share * 100.0));
                }
                if let Some(rollout) = canary.filter(|rollout| rollout.candidate.version == version.version) {
                    serves.push(format!("canary {:.0}%", rollout.canary_share * 100.0));
                }
            }
            versions.push(VersionLine {
                version: version.version.0,
                method: version.method.clone(),
                serves: if serves.is_empty() { "-".to_owned() } else { serves.join(", ") },
            });
        }
    }
    let mut backlog = Vec::new();
    for stage in [anonymizer::STEP, labeler::step::STEP] {
        // A step that never ran has no backlog to show.
        if let Ok(lag) = foundation.bus.step_lag(stage).await {
            backlog.push(Backlog {
                stage,
                records_behind: lag.records_behind(),
                pending_timers: lag.pending_timers(),
                paused: lag.paused().map(|(partition, why)| format!("{partition}: {why}")).collect(),
            });
        }
    }
    backlog.push(Backlog {
        stage: "sinks",
        records_behind: sinks::behind(foundation.bus.as_ref(), &foundation.pool).await?,
        pending_timers: 0,
        paused: Vec::new(),
    });
    let store = Store::new(foundation.pool.clone(), settings.tenant.clone(), settings.model.clone());
    let lake = LakeReader::new(foundation.pool.clone(), foundation.artifacts.clone());
    let oldest =
        trainer_orchestrator::freshness::oldest_unserved(&foundation.pool, &lake, &settings.tenant, &settings.model)
            .await?;
    let status = Status {
        running,
        doors,
        versions,
        active_rollout,
        backlog,
        last_run: store.runs(1).await?.into_iter().next(),
        freshness_seconds: oldest.map_or(0.0, |oldest| foundation.now().since(oldest).as_secs_f64()),
        ledger: crate::demo::Ledger::new(&ledger::totals(&foundation.pool, &settings.tenant).await?),
    };
    let dead = foundation.bus.topic_status(topics::DEAD_LETTERS).await?.records;
    if list.json {
        print_json(&status)?;
    } else {
        show(&status, dead)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(status: &Status, dead_letters: u64) -> Result<(), Failure> {
    match &status.doors {
        Some(doors) => print(&format!(
            "running: suggestions {}, telemetry {}, registry {}, admin {}\n",
            doors.serving, doors.ingest, doors.registry, doors.admin
        ))?,
        None if status.running => print("running\n")?,
        None => print("not running\n")?,
    }
    let rows = status
        .versions
        .iter()
        .map(|line| vec![line.version.to_string(), line.method.clone(), line.serves.clone()])
        .collect();
    print_rows(&["version", "method", "serves"], rows, "versions are shown while the platform runs")?;
    let rows = status
        .backlog
        .iter()
        .map(|line| {
            let paused = if line.paused.is_empty() { "-".to_owned() } else { line.paused.join("; ") };
            vec![line.stage.to_owned(), line.records_behind.to_string(), line.pending_timers.to_string(), paused]
        })
        .collect();
    print("")?;
    print_rows(&["stage", "records behind", "timers", "paused"], rows, "")?;
    let run = status.last_run.as_ref().map_or("none yet".to_owned(), |run| {
        let outcome = run.outcome.clone().unwrap_or_else(|| "under way".to_owned());
        let version = run.version.map_or(String::new(), |version| format!(", version {version}"));
        format!("{} {}{version}", run.run_id, outcome)
    });
    print(&format!("\nlast run: {run}"))?;
    print(&format!("freshness: {:.0} s; dead letters: {dead_letters}", status.freshness_seconds))?;
    let ledger = &status.ledger;
    print(&format!(
        "ledger: {} admitted + {} filtered at the door + {} exposed = {} clean + {} filtered + {} quarantined + \
         {} dead-lettered + {} erased + {} lost + {} pending ({})",
        ledger.admitted,
        ledger.filtered_at_door,
        ledger.exposed,
        ledger.clean,
        ledger.filtered,
        ledger.quarantined,
        ledger.dead_lettered,
        ledger.erased,
        ledger.lost,
        ledger.pending,
        if ledger.balanced { "balanced" } else { "NOT BALANCED" }
    ))
}
