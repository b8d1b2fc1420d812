//! `flywheel audit`: a platform that did nothing wrong is consistent, whatever is altered is found and named, and what
//! can not be judged is no alarm.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use serde_json::Value;
use service::clock::real_now;
use tokio_util::sync::CancellationToken;

use crate::harness::{Place, Said, finished, until};
use crate::load::{self, Promised, person, work};

const DEVELOPERS: usize = 2;
/// Pairs that are worth an audit.
const PAIRS: i64 = 12;

/// The checks of a report by name.
pub(crate) fn checks(report: &Value) -> BTreeMap<String, Value> {
    let named = |check: &Value| (check["name"].as_str().unwrap().to_owned(), check.clone());
    report["checks"].as_array().unwrap().iter().map(named).collect()
}

/// The report of an audit that found nothing wrong.
pub(crate) fn consistent(place: &Place) -> Value {
    let said = place.say(&["audit", "--json"]);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let report = said.json();
    assert_eq!(report["consistent"], true);
    report
}

/// How many were judged, by check.
fn judged(report: &Value) -> BTreeMap<String, u64> {
    checks(report).into_iter().map(|(name, check)| (name, check["checked"].as_u64().unwrap())).collect()
}

/// The checks that found a difference, with what they say of it.
fn differing(said: &Said) -> BTreeMap<String, Vec<String>> {
    assert_eq!(said.code, Some(1), "{}\n{}", said.stdout, said.stderr);
    let report: Value = serde_json::from_str(&said.stdout).unwrap();
    let differs = |check: &Value| check["result"] == "difference";
    let whats = |check: Value| {
        let what = |one: &Value| one["what"].as_str().unwrap().to_owned();
        check["first"].as_array().unwrap().iter().map(what).collect()
    };
    checks(&report).into_iter().filter(|(_, check)| differs(check)).map(|(name, check)| (name, whats(check))).collect()
}

/// A platform on which developers worked for a while; audited once while it ran. It is stopped, and everything was
/// concluded.
pub(crate) async fn worked() -> Place {
    worked_by(DEVELOPERS).await
}

/// The same with so many developers.
pub(crate) async fn worked_by(developers: usize) -> Place {
    let place = Place::new("");
    let configure = |hours_ahead: u64| {
        let ahead = std::time::Duration::from_secs(hours_ahead * 3600) / 59;
        let start = real_now().as_micros() - i64::try_from(ahead.as_micros()).unwrap();
        place.configure(&format!(
            "[clock]\nkind = \"scaled\"\nallow_test_time = true\nstart_micros = {start}\nfactor = 60\n\
             [orchestrator]\nenabled = false\n[labeler.lake]\npart_age_ms = 200\n"
        ));
    };
    configure(0);
    let running = place.up().await;
    place.agree((0..developers).map(person)).await;
    let (promised, enough) = (Arc::new(Mutex::new(Promised::default())), CancellationToken::new());
    let plan = Arc::new(load::plan(developers));
    let pool = place.database().await;
    let workers: Vec<_> = (0..developers)
        .map(|developer| {
            let doors = load::doors(place.ports.serving, place.ports.ingest, &place.key());
            tokio::spawn(work(developer, doors, Arc::clone(&plan), real_now(), promised.clone(), enough.clone()))
        })
        .collect();
    let pairs = || async {
        let pairs = "SELECT CAST(COALESCE(SUM(pairs), 0) AS BIGINT) FROM lake_parts";
        sqlx::query_scalar::<_, i64>(pairs).fetch_one(&pool).await.unwrap()
    };
    until("a few pairs in the lake", || async { (pairs().await >= PAIRS / 2).then_some(()) }).await;
    let running_report = consistent(&place);
    assert!(judged(&running_report)["clean events"] > 0, "{running_report}");
    until("more pairs in the lake", || async { (pairs().await >= PAIRS).then_some(()) }).await;
    enough.cancel();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(running.stop().await, Some(0));
    configure(4);
    let running = place.up().await;
    until("every stage to conclude", || async {
        let status = place.say(&["status", "--json"]).json();
        let stages = status["backlog"].as_array()?;
        let idle = |stage: &Value| stage["records_behind"] == 0;
        let closed = stages.iter().any(|stage| stage["stage"] == "labeler" && stage["pending_timers"] == 0);
        (status["ledger"]["pending"] == 0 && stages.iter().all(idle) && closed).then_some(())
    })
    .await;
    assert_eq!(running.stop().await, Some(0));
    place
}

/// Every file below a directory, with its content.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(next) = directories.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            // What SQLite keeps beside a file for whoever reads it.
            } else if !path.extension().is_some_and(|kind| kind.to_string_lossy().starts_with("sqlite-")) {
                files.insert(path.display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Keeps a copy of what a test alters, and brings it back.
struct Kept(std::path::PathBuf, Vec<u8>);

impl Kept {
    fn of(path: std::path::PathBuf) -> Self {
        let content = std::fs::read(&path).unwrap();
        Self(path, content)
    }

    fn restore(&self) {
        for suffix in ["-wal", "-shm"] {
            let _absent = std::fs::remove_file(format!("{}{suffix}", self.0.display()));
        }
        std::fs::write(&self.0, &self.1).unwrap();
    }
}

/// Alters a SQLite file of a stopped platform, for good.
fn alter(path: &Path, statements: &str) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(statements).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE;").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_finds_what_is_altered_and_nothing_else() {
    let place = worked().await;
    let (log, database) = (place.data().join("bus.sqlite"), place.data().join("flywheel.sqlite"));
    // Folded into the files, so that they can be copied.
    for path in [&log, &database] {
        alter(path, "");
    }
    let before = files(&place.data());
    let report = consistent(&place);
    assert_eq!(files(&place.data()).keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert!(files(&place.data()) == before, "an audit changes nothing");
    // A container may have no place for temporary files but the data directory.
    let mut homeless = place.command(&["audit", "--json"]);
    homeless.env("TMPDIR", place.path().join("absent"));
    assert_eq!(finished(homeless).json()["consistent"], true);
    assert!(files(&place.data()) == before, "an audit leaves nothing behind");
    let judged = judged(&report);
    for name in [
        "clean events",
        "preference pairs",
        "outcomes",
        "ledger: rows against the log",
        "ledger: its equation",
        "tally: rows against the log",
        "lake: parts by rows",
        "lake: pairs against the log",
        "registry: artifacts",
        "registry: lineage",
        "registry: current versions",
    ] {
        assert!(judged[name] > 0, "{name}: {report}");
    }
    assert_eq!(judged["clean events"] + judged["quarantined events"], judged["ledger: its equation"], "{report}");
    assert!(checks(&report).values().all(|check| check["not_covered"] == 0), "{report}");
    let text = place.say(&["audit"]).stdout;
    assert!(text.contains("\nconsistent, as of ") && text.contains("telemetry.raw.v1 0: 0-"), "{text}");

    let (kept_log, kept_database) = (Kept::of(log.clone()), Kept::of(database.clone()));
    let in_topic = |topic: &str| {
        format!(
            "id >> 40 IN (SELECT partitions.id FROM partitions JOIN topics ON topics.id = partitions.topic \
             WHERE topics.name = '{topic}') AND control = 0"
        )
    };
    let log_alterations = [
        // A pair is there twice, and another one is not.
        (
            format!(
                "UPDATE records SET value = (SELECT value FROM records WHERE {0} ORDER BY id LIMIT 1), \
                 key = (SELECT key FROM records WHERE {0} ORDER BY id LIMIT 1) \
                 WHERE id = (SELECT id FROM records WHERE {0} ORDER BY id DESC LIMIT 1)",
                in_topic("preference.pairs.v1")
            ),
            vec![
                ("preference pairs", "missing"),
                ("preference pairs", "there_twice"),
                ("lake: pairs against the log", "differs"),
            ],
        ),
        // An event was scrubbed and emitted once more than it came.
        (
            format!(
                "INSERT INTO records SELECT (partitions.id << 40) | partitions.next, 0, appended_at, key, value \
                 FROM records JOIN partitions ON partitions.id = records.id >> 40 WHERE records.id = \
                 (SELECT MAX(id) FROM records WHERE {0}); UPDATE partitions SET next = next + 1 WHERE id = \
                 (SELECT id >> 40 FROM records WHERE {0} ORDER BY id DESC LIMIT 1)",
                in_topic("telemetry.clean.v1")
            ),
            vec![("clean events", "there_twice")],
        ),
        // An outcome says something else than it was.
        (
            format!(
                "UPDATE records SET value = (SELECT value FROM records WHERE {0} ORDER BY id DESC LIMIT 1) \
                 WHERE id = (SELECT id FROM records WHERE {0} ORDER BY id LIMIT 1)",
                in_topic("serving.outcomes.v1")
            ),
            vec![("outcomes", "missing"), ("tally: rows against the log", "not_in_the_log")],
        ),
    ];
    for (statements, expected) in &log_alterations {
        alter(&log, statements);
        let found = differing(&place.say(&["audit", "--json"]));
        for (check, what) in expected {
            let whats = found.get(*check).unwrap_or_else(|| panic!("{check} after {statements}: {found:?}"));
            assert!(whats.iter().any(|one| one == what), "{check} {what}: {found:?}");
        }
        kept_log.restore();
    }
    let database_alterations = [
        (
            "DELETE FROM ledger_events WHERE rowid = (SELECT MIN(rowid) FROM ledger_events)",
            "ledger: rows against the log",
            "not_in_the_ledger",
        ),
        (
            "UPDATE ledger_events SET disposition = 'filtered', reason = 'late' WHERE rowid = \
             (SELECT MIN(rowid) FROM ledger_events WHERE disposition = 'clean')",
            "ledger: rows against the log",
            "ended_otherwise",
        ),
        (
            "INSERT INTO ledger_events (tenant, event_id, received_hour, entered, copies, disposition, reason, \
             dispositions, repeats) SELECT tenant, '00000000-0000-8000-8000-000000000000', received_hour, entered, \
             copies, disposition, reason, dispositions, repeats FROM ledger_events LIMIT 1",
            "ledger: rows against the log",
            "not_in_the_log",
        ),
        (
            "UPDATE ledger_events SET dispositions = 2 WHERE rowid = (SELECT MIN(rowid) FROM ledger_events)",
            "ledger: its equation",
            "1",
        ),
        (
            "DELETE FROM lake_parts WHERE rowid = (SELECT MIN(rowid) FROM lake_parts)",
            "lake: pairs against the log",
            "in_no_part",
        ),
        (
            "UPDATE lake_parts SET pairs = pairs + 1 WHERE rowid = (SELECT MIN(rowid) FROM lake_parts)",
            "lake: parts by rows",
            "not_what_its_row_says",
        ),
        (
            "UPDATE opportunity_outcomes SET utility = utility + 1 WHERE rowid = (SELECT MIN(rowid) FROM opportunity_outcomes)",
            "tally: rows against the log",
            "differs",
        ),
        ("UPDATE model_versions SET evaluation = '{\"better\":1}'", "registry: lineage", "evaluation_corrupt"),
    ];
    for (statements, check, what) in database_alterations {
        alter(&database, statements);
        let found = differing(&place.say(&["audit", "--json"]));
        let whats = found.get(check).unwrap_or_else(|| panic!("{check} after {statements}: {found:?}"));
        assert!(whats.iter().any(|one| one == what), "{check} {what}: {found:?}");
        kept_database.restore();
    }
    // A part that left the lake because of its age, and was written down, is no loss.
    alter(
        &database,
        "INSERT INTO lake_expired (tenant, labeled_until) SELECT tenant, max_labeled_at FROM lake_parts WHERE rowid = \
         (SELECT MIN(rowid) FROM lake_parts); DELETE FROM lake_parts WHERE rowid = (SELECT MIN(rowid) FROM lake_parts)",
    );
    consistent(&place);
    kept_database.restore();
    // An object of the lake is not what it was, and then gone.
    let objects = files(&place.data().join("artifacts"));
    let parts: String = Connection::open(&database)
        .unwrap()
        .query_row("SELECT digest FROM lake_parts ORDER BY part_id LIMIT 1", [], |row| row.get(0))
        .unwrap();
    let (path, content) = objects.iter().find(|(path, _)| path.ends_with(&parts)).unwrap();
    for (alteration, what) in [(Some(&b"PAR1"[..]), "object_corrupt"), (None, "object_missing")] {
        match alteration {
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
        let found = differing(&place.say(&["audit", "--json"]));
        assert_eq!(found["lake: parts by rows"], [what], "{found:?}");
        std::fs::write(path, content).unwrap();
    }
    consistent(&place);
    the_beginning_of_the_log_goes(&place, &log);
}

/// Retention deletes the older half of the raw telemetry, then also of the clean one: what is left is audited, and the
/// rest is no alarm.
fn the_beginning_of_the_log_goes(place: &Place, log: &Path) {
    let mut before = judged(&consistent(place));
    for topic in ["telemetry.raw.v1", "telemetry.clean.v1"] {
        alter(
            log,
            &format!(
                "UPDATE partitions SET oldest = (oldest + next) / 2 WHERE topic = (SELECT id FROM topics WHERE name = '{topic}'); \
                 DELETE FROM records WHERE EXISTS (SELECT 1 FROM partitions WHERE partitions.id = records.id >> 40 \
                 AND (records.id & ((1 << 40) - 1)) < partitions.oldest)"
            ),
        );
        let report = consistent(place);
        let now = judged(&report);
        let kind = if topic.contains("raw") { "clean events" } else { "preference pairs" };
        assert!(now[kind] < before[kind], "{report}");
        let check = &checks(&report)[kind];
        let reasons: Vec<&String> = check["reasons"].as_object().unwrap().keys().collect();
        assert!(
            reasons.iter().all(|reason| ["begins_before_the_log", "earlier_rules_unknown"].contains(&reason.as_str())),
            "{report}"
        );
        assert!(check["not_covered"].as_u64().unwrap() > 0, "{report}");
        assert!(!report["covered"][topic]["truncated"].as_array().unwrap().is_empty(), "{report}");
        before = now;
    }
}

#[test]
fn an_audit_without_a_platform_is_refused() {
    let place = Place::new("");
    assert!(place.say(&["audit"]).sentence().contains("holds no platform"));
    assert!(!place.data().exists());
}
