//! What an audit has seen, in a SQLite file of a temporary directory: however long the log is, memory stays bounded.
//!
//! Nothing of it has to survive, so nothing is synchronised; one transaction is open from beginning to end, and what does
//! not fit into the page cache goes to the file.

use std::collections::BTreeMap;
use std::path::Path;

use bus::{HistoryEntry, RecordKey};
use events::{OpportunityId, Timestamp};
use rusqlite::{Connection, params};
use tempfile::TempDir;

use super::items::Item;
use super::stage::{Kind, Stage};

/// Memory for pages, in KiB.
const CACHE_KIBIBYTES: i64 = 64 << 10;

const TABLES: &str = "
-- Sessions in the input of a step. `begins`: its first event is there.
CREATE TABLE keys (
    stage INTEGER, key BLOB, partition INTEGER, first_position TEXT, first_appended INTEGER, tenant TEXT, person TEXT,
    begins INTEGER, PRIMARY KEY (stage, key)
) WITHOUT ROWID;
-- The first control record about a subject in a partition.
CREATE TABLE controls (
    stage INTEGER, partition INTEGER, kind TEXT, subject TEXT, first_position TEXT,
    PRIMARY KEY (stage, partition, kind, subject)
) WITHOUT ROWID;
-- What control records said that retention may have deleted, from the database. `decided_at`: NULL, nobody knows.
CREATE TABLE seeds (
    stage INTEGER, kind TEXT, subject TEXT, value BLOB, decided_at INTEGER, PRIMARY KEY (stage, kind, subject)
) WITHOUT ROWID;
CREATE TABLE opportunities (id TEXT PRIMARY KEY, key BLOB) WITHOUT ROWID;
-- Why what a key came to can not be judged.
CREATE TABLE skipped (stage INTEGER, key BLOB, reason TEXT, PRIMARY KEY (stage, key)) WITHOUT ROWID;
CREATE TABLE killers (stage INTEGER, key BLOB, PRIMARY KEY (stage, key)) WITHOUT ROWID;
-- Records of output topics. `side`: see SIDES.
CREATE TABLE items (
    side INTEGER, kind TEXT, id TEXT, digest BLOB, partition INTEGER, key BLOB, times INTEGER, required INTEGER,
    PRIMARY KEY (side, kind, id, digest)
) WITHOUT ROWID;
CREATE TABLE differences (
    kind TEXT, id TEXT, partition INTEGER, key BLOB, missing INTEGER, extra INTEGER, verdict TEXT, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE TABLE reopened (key BLOB PRIMARY KEY) WITHOUT ROWID;
-- The ledger, counted from the log.
CREATE TABLE events (
    tenant TEXT, event_id TEXT, partition INTEGER, entered TEXT, copies INTEGER, hour INTEGER,
    strong TEXT, strong_reason TEXT, strong_is_clean INTEGER, dispositions INTEGER, repeats INTEGER,
    weak TEXT, weak_reason TEXT, weak_is_unclear INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (tenant, event_id)
) WITHOUT ROWID;
CREATE TABLE letters (event_id TEXT, reason TEXT, hour INTEGER);
-- The ledger, as the database has it.
CREATE TABLE ledger_rows (
    tenant TEXT, event_id TEXT, hour INTEGER, entered TEXT, copies INTEGER, disposition TEXT, reason TEXT,
    dispositions INTEGER, repeats INTEGER, PRIMARY KEY (tenant, event_id)
) WITHOUT ROWID;
CREATE TABLE outcome_rows (id TEXT PRIMARY KEY, digest BLOB, closed_at INTEGER) WITHOUT ROWID;
CREATE TABLE outcome_log (id TEXT PRIMARY KEY, digest BLOB) WITHOUT ROWID;
CREATE TABLE parts (
    number INTEGER PRIMARY KEY, part_id TEXT, tenant TEXT, topic TEXT, partition INTEGER, first_position TEXT,
    last_position TEXT, digest TEXT, pairs INTEGER, bytes INTEGER, min_labeled_at INTEGER, max_labeled_at INTEGER,
    day INTEGER, audience TEXT, language TEXT, generation INTEGER
);
-- `may_be_gone`: why the lake need not hold it any more, if so.
CREATE TABLE pair_log (
    partition INTEGER, position TEXT, pair_id TEXT, digest BLOB, may_be_gone TEXT, PRIMARY KEY (partition, position)
) WITHOUT ROWID;
CREATE TABLE pair_rows (partition INTEGER, position TEXT, pair_id TEXT, digest BLOB, part INTEGER);
";

/// Whose an item is: the platform's within the cut, the platform's behind it, or that of a replay, the first one first.
pub(crate) const PLATFORM: i64 = 0;
pub(crate) const LATER: i64 = 1;
pub(crate) const FIRST_REPLAY: i64 = 2;

/// Why something can not be judged: stable codes of the report.
pub(crate) mod reason {
    /// Its session begins before what the log still holds.
    pub(crate) const BEFORE: &str = "begins_before_the_log";
    /// What was agreed to, allowed or in force before a change is not in the log any more.
    pub(crate) const RULES: &str = "earlier_rules_unknown";
    /// A step gave up something of its session; what an operator did about it is not in the log.
    pub(crate) const GIVEN_UP: &str = "given_up_by_a_step";
    /// Its person was erased.
    pub(crate) const ERASED: &str = "erased";
    /// It was labeled longer ago than the lake keeps pairs.
    pub(crate) const RETENTION: &str = "past_retention";
    /// What it came to has been deleted from the log by now.
    pub(crate) const DELETED: &str = "deleted_from_the_log";
    /// It depends on when the step read it, which the log does not tell.
    pub(crate) const TIMING: &str = "depends_on_time";
    /// A sink was let pass over it, by a named person's word.
    pub(crate) const PASSED_OVER: &str = "passed_over_unread";
    /// Read by nobody when the audit was taken.
    pub(crate) const PENDING: &str = "pending";
}

/// The scratch.
pub(crate) struct Scratch {
    pub(crate) connection: Connection,
    directory: TempDir,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) id: String,
    pub(crate) what: String,
}

impl Scratch {
    /// Makes one below `parent`, or where temporary files are.
    pub(crate) fn open(parent: Option<&Path>) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("flywheel-audit-");
        let directory = match parent {
            Some(parent) => builder.tempdir_in(parent)?,
            None => builder.tempdir()?,
        };
        let connection = Connection::open(directory.path().join("audit.sqlite"))?;
        connection.set_prepared_statement_cache_capacity(64);
        for (name, value) in [("journal_mode", "OFF"), ("synchronous", "OFF"), ("locking_mode", "EXCLUSIVE")] {
            connection.pragma_update(None, name, value)?;
        }
        connection.pragma_update(None, "cache_size", -CACHE_KIBIBYTES)?;
        // What connections of this process sort beyond their memory goes there too: a container may have no other place.
        if let Some(directory) = directory.path().to_str() {
            connection.pragma_update(None, "temp_store_directory", directory)?;
        }
        connection.execute_batch("BEGIN")?;
        connection.execute_batch(TABLES)?;
        Ok(Self { connection, directory })
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn run(&self, statement: &str, parameters: impl rusqlite::Params) -> anyhow::Result<usize> {
        Ok(self.connection.prepare_cached(statement)?.execute(parameters)?)
    }

    /// A number that a query counts.
    pub(crate) fn count(&self, query: &str, parameters: impl rusqlite::Params) -> anyhow::Result<u64> {
        let count: i64 = self.connection.prepare_cached(query)?.query_row(parameters, |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Counts by reason.
    pub(crate) fn by_reason(
        &self,
        query: &str,
        parameters: impl rusqlite::Params,
    ) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut query = self.connection.prepare_cached(query)?;
        let rows = query.query_map(parameters, |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
        rows.map(|row| row.map(|(reason, count)| (reason, u64::try_from(count).unwrap_or(0))).map_err(Into::into))
            .collect()
    }

    /// The first few of what a query names.
    pub(crate) fn named(&self, query: &str, parameters: impl rusqlite::Params) -> anyhow::Result<Vec<Named>> {
        let mut query = self.connection.prepare_cached(query)?;
        let rows = query.query_map(parameters, |row| Ok(Named { id: row.get(0)?, what: row.get(1)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// A record of a step's input. `owner`: whose session it is, if the record tells.
    pub(crate) fn saw_input(
        &self,
        stage: Stage,
        entry: &HistoryEntry,
        owner: Option<(&str, &str)>,
        begins: bool,
    ) -> anyhow::Result<()> {
        let (tenant, person) = owner.unzip();
        self.run(
            "INSERT INTO keys (stage, key, partition, first_position, first_appended, tenant, person, begins) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET begins = MAX(begins, excluded.begins)",
            params![
                stage.number(),
                entry.key.0,
                entry.partition,
                entry.position.to_string(),
                entry.appended_at.as_micros(),
                tenant,
                person,
                begins
            ],
        )?;
        Ok(())
    }

    pub(crate) fn saw_control(
        &self,
        stage: Stage,
        entry: &HistoryEntry,
        kind: &str,
        subject: &str,
    ) -> anyhow::Result<()> {
        self.run(
            "INSERT INTO controls (stage, partition, kind, subject, first_position) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT DO NOTHING",
            params![stage.number(), entry.partition, kind, subject, entry.position.to_string()],
        )?;
        Ok(())
    }

    pub(crate) fn saw_opportunity(&self, id: OpportunityId, key: &RecordKey) -> anyhow::Result<()> {
        let insert = "INSERT INTO opportunities (id, key) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        self.run(insert, params![id.to_string(), key.0])?;
        Ok(())
    }

    pub(crate) fn saw_item(&self, side: i64, item: &Item, partition: u32, is_required: bool) -> anyhow::Result<()> {
        if let (true, Some(key)) = (item.is_erased, &item.key) {
            self.skip(item.kind.stage(), key, reason::ERASED)?;
        }
        self.run(
            "INSERT INTO items (side, kind, id, digest, partition, key, times, required) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7) \
             ON CONFLICT DO UPDATE SET times = times + 1, required = required + excluded.required",
            params![
                side,
                item.kind.as_str(),
                item.id,
                item.digest,
                partition,
                item.key.map(|key| key.0),
                i64::from(is_required)
            ],
        )?;
        Ok(())
    }

    /// What the key came to can not be judged; the first reason stays.
    pub(crate) fn skip(&self, stage: Stage, key: &RecordKey, reason: &str) -> anyhow::Result<()> {
        let insert = "INSERT INTO skipped (stage, key, reason) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
        self.run(insert, params![stage.number(), key.0, reason])?;
        Ok(())
    }

    /// A record of this key has ended processes: it must not end this one.
    pub(crate) fn must_not_replay(&self, stage: Stage, key: &RecordKey) -> anyhow::Result<()> {
        let insert = "INSERT INTO killers (stage, key) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        self.run(insert, params![stage.number(), key.0])?;
        Ok(())
    }

    pub(crate) fn never_replayed(&self, stage: Stage) -> anyhow::Result<Vec<RecordKey>> {
        self.keys_of("SELECT key FROM killers WHERE stage = ?1", params![stage.number()])
    }

    pub(crate) fn keys_of(&self, query: &str, parameters: impl rusqlite::Params) -> anyhow::Result<Vec<RecordKey>> {
        let mut query = self.connection.prepare_cached(query)?;
        let rows = query.query_map(parameters, |row| Ok(RecordKey(row.get(0)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    pub(crate) fn saw_seed(
        &self,
        stage: Stage,
        (kind, subject): (&str, &str),
        value: &[u8],
        decided_at: Option<Timestamp>,
    ) -> anyhow::Result<()> {
        self.run(
            "INSERT INTO seeds (stage, kind, subject, value, decided_at) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT DO NOTHING",
            params![stage.number(), kind, subject, value, decided_at.map(Timestamp::as_micros)],
        )?;
        Ok(())
    }

    /// Every seed of a step: kind, subject and value.
    pub(crate) fn seeds(&self, stage: Stage) -> anyhow::Result<Vec<(String, String, Vec<u8>)>> {
        let mut query = self.connection.prepare_cached("SELECT kind, subject, value FROM seeds WHERE stage = ?1")?;
        let rows = query.query_map([stage.number()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Outcomes are keyed by person; their session is known from the input of the step.
    pub(crate) fn place_outcomes(&self) -> anyhow::Result<()> {
        let place = "UPDATE items SET key = (SELECT key FROM opportunities WHERE opportunities.id = items.id) \
             WHERE kind = ?1 AND key IS NULL";
        self.run(place, [Kind::Outcome.as_str()])?;
        Ok(())
    }
}
