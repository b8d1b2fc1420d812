//! `flywheel status`: the wheel at a glance.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bus::Positions;
use events::{ModelVersion, topics};
use labeler::ledger;
use labeler::losses::{self, LostRange};
use model_registry::{RegistryError, RoutingTable, Version};
use serde::Serialize;
use trainer_orchestrator::store::{Run, Store};

use crate::cli::{Common, ListArgs};
use crate::data_dir::DataDir;
use crate::demo::Ledger;
use crate::failure::Failure;
use crate::freshness::Freshness;
use crate::operations::{open, registry};
use crate::settings::Settings;
use crate::shell::{program, quoted};
use crate::sinks;
use crate::table::{print, print_json, rows_text};

/// How long a door may take to take a connection.
const CONNECT: Duration = Duration::from_millis(500);

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
    /// Whether a platform, or a service of it, runs on this data.
    running: bool,
    /// Doors that answer, by name.
    doors: BTreeMap<String, SocketAddr>,
    versions: Vec<VersionLine>,
    active_rollout: Option<String>,
    backlog: Vec<Backlog>,
    last_run: Option<Run>,
    freshness_seconds: f64,
    ledger: Ledger,
    /// Up to where the ledger has read each topic: the cut at which its equation is taken.
    ledger_cut: BTreeMap<String, Positions>,
    /// What steps and sinks were let pass over.
    lost_ranges: Vec<LostRange>,
    dead_letters: u64,
}

#[derive(Debug, Serialize)]
struct VersionLine {
    version: i64,
    method: String,
    serves: String,
}

/// The announced doors at which somebody listens. A platform that was killed leaves its announcements behind.
async fn open_doors(data: &DataDir) -> BTreeMap<String, SocketAddr> {
    let mut open = BTreeMap::new();
    for (name, address) in data.doors() {
        let connecting = tokio::net::TcpStream::connect(address);
        if tokio::time::timeout(CONNECT, connecting).await.is_ok_and(|connected| connected.is_ok()) {
            open.insert(name, address);
        }
    }
    open
}

fn share(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// Who is served what, in the words of the table.
fn version_lines(versions: &[Version], routing: Option<&RoutingTable>) -> Vec<VersionLine> {
    let serves = |version: ModelVersion| {
        let Some(table) = routing else { return "-".to_owned() };
        let mut serves = Vec::new();
        let rollout = table.rollout.as_ref();
        let canary_share = rollout.map_or(0.0, |rollout| rollout.canary_share);
        let held_back = if table.reference.is_some() { table.holdback_share } else { 0.0 };
        if table.current.version == version {
            serves.push(format!("current {}", share(1.0 - held_back - canary_share)));
        }
        if table.reference.as_ref().is_some_and(|reference| reference.version == version) {
            serves.push(format!("hold-back {}", share(held_back)));
        }
        if rollout.is_some_and(|rollout| rollout.candidate.version == version) {
            serves.push(format!("canary {}", share(canary_share)));
        }
        if serves.is_empty() { "-".to_owned() } else { serves.join(", ") }
    };
    versions
        .iter()
        .map(|version| VersionLine {
            version: version.version.0,
            method: version.method.clone(),
            serves: serves(version.version),
        })
        .collect()
}

pub(crate) async fn run(common: &Common, list: &ListArgs) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    let settings = &foundation.settings;
    let running = foundation.data.is_in_use()?;
    let doors = if running { open_doors(&foundation.data).await } else { BTreeMap::new() };
    let registry = registry(&foundation)?;
    let versions = match registry.versions(&settings.tenant, &settings.model).await {
        Err(RegistryError::UnknownModel { .. }) => Vec::new(),
        versions => versions?,
    };
    let routing = match registry.routing(&settings.tenant, &settings.model).await {
        Err(RegistryError::UnknownModel { .. } | RegistryError::NoCurrentVersion { .. }) => None,
        routing => Some(routing?),
    };
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
    for (stage, records_behind) in sinks::behind_each(foundation.bus.as_ref(), &foundation.pool).await? {
        backlog.push(Backlog { stage, records_behind, pending_timers: 0, paused: Vec::new() });
    }
    let store = Store::new(foundation.pool.clone(), settings.tenant.clone(), settings.model.clone());
    let freshness = Freshness::new(&foundation)?.age(foundation.now()).await?;
    let statement = ledger::statement(&foundation.pool, &settings.tenant).await?;
    let status = Status {
        running,
        doors,
        versions: version_lines(&versions, routing.as_ref()),
        active_rollout: routing.and_then(|table| table.rollout).map(|rollout| rollout.rollout_id.to_string()),
        backlog,
        last_run: store.runs(1).await?.into_iter().next(),
        freshness_seconds: freshness.as_secs_f64(),
        ledger: Ledger::new(&statement.totals),
        ledger_cut: statement.cut,
        lost_ranges: losses::ranges(&foundation.pool).await?,
        dead_letters: sinks::records_from(foundation.bus.as_ref(), topics::DEAD_LETTERS, Positions::oldest()).await?,
    };
    if list.json {
        print_json(&status)?;
    } else {
        print(&text(&status, settings, &foundation.data))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(status: &Status, settings: &Settings, data: &DataDir) -> String {
    let mut text = if !status.running {
        "not running\n".to_owned()
    } else if status.doors.is_empty() {
        "running, no door is open yet\n".to_owned()
    } else {
        let doors: Vec<String> =
            status.doors.iter().map(|(name, address)| format!("{name} {}", settings.url(name, *address))).collect();
        format!("running: {}\n", doors.join(", "))
    };
    let rows = status
        .versions
        .iter()
        .map(|line| vec![line.version.to_string(), line.method.clone(), line.serves.clone()])
        .collect();
    text += &format!("\n{}\n", rows_text(&["version", "method", "serves"], rows, "no versions yet"));
    if let Some(rollout) = &status.active_rollout {
        let (program, directory) = (quoted(program()), quoted(data.root()));
        text += &format!("rollout under way: {program} rollout show {rollout} --data-dir {directory}\n");
    }
    let rows = status
        .backlog
        .iter()
        .map(|line| {
            let paused = if line.paused.is_empty() { "-".to_owned() } else { line.paused.join("; ") };
            vec![line.stage.to_owned(), line.records_behind.to_string(), line.pending_timers.to_string(), paused]
        })
        .collect();
    text += &format!("\n{}\n", rows_text(&["stage", "records behind", "timers", "paused"], rows, "no stage ran yet"));
    let run = status.last_run.as_ref().map_or("none yet".to_owned(), |run| {
        let outcome = run.outcome.clone().unwrap_or_else(|| "under way".to_owned());
        let version = run.version.map_or(String::new(), |version| format!(", version {version}"));
        format!("{} {outcome}{version}", run.run_id)
    });
    text += &format!("\nlast run: {run}\n");
    text += &format!("freshness: {:.0} s; dead letters: {}\n", status.freshness_seconds, status.dead_letters);
    text += &ledger_text(&status.ledger);
    for LostRange { reader, topic, partition, from, to, skipped_at, skipped_by } in &status.lost_ranges {
        text += &format!(
            "\n{reader} passed over {topic}/{partition} from {from} to {to}, deleted unread ({skipped_by}, {skipped_at})"
        );
    }
    text
}

/// The ledger's equation, and what else it found.
fn ledger_text(ledger: &Ledger) -> String {
    let verdict = match (ledger.balanced, ledger.anomalies) {
        (true, _) => "balanced".to_owned(),
        (false, 0) => "NOT BALANCED".to_owned(),
        (false, anomalies) => format!("NOT BALANCED; decided twice or never entered: {anomalies}"),
    };
    format!("ledger: {} ({verdict})", ledger.equation())
}

#[cfg(test)]
mod tests {
    use labeler::ledger::LedgerTotals;

    use super::*;

    #[test]
    fn a_ledger_that_does_not_balance_is_shown_with_what_it_found() {
        let whole = LedgerTotals { admitted: 2, clean: 1, pending: 1, ..LedgerTotals::default() };
        let shown = |totals: &LedgerTotals| ledger_text(&Ledger::new(totals));
        assert!(shown(&whole).ends_with("1 pending (balanced)"), "{}", shown(&whole));
        let missing = shown(&LedgerTotals { pending: 0, ..whole.clone() });
        assert!(missing.ends_with("0 pending (NOT BALANCED)"), "{missing}");
        let unseen = shown(&LedgerTotals { unseen: 1, clean: 2, ..whole.clone() });
        assert!(unseen.contains(" 0 exposed + 1 unseen = 2 clean ") && unseen.ends_with("(balanced)"), "{unseen}");
        assert!(!shown(&whole).contains("unseen"));
        let impossible = shown(&LedgerTotals { anomalies: 1, ..whole });
        assert!(impossible.ends_with("(NOT BALANCED; decided twice or never entered: 1)"), "{impossible}");
    }
}
