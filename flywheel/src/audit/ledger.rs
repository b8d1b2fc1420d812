//! The ledger, counted once more from the log, against the rows of the database.
//!
//! Every distinct event id entered in one of three ways and has at most one end that counts; see `labeler::ledger` for
//! what is weak, repeated or an anomaly. Both sides are taken at the ledger's own positions.

use events::{CleanEvent, EventKind, QuarantinedEvent, RawEvent, Timestamp};
use labeler::ledger::{LedgerTotals, Statement};
use migrations::storable;
use rusqlite::params;

use super::report::{Check, SHOWN};
use super::scratch::{Named, Scratch, reason};

/// Under these reasons an id is quarantined that may belong to another event, which has an end of its own.
const OF_REUSED_IDS: [&str; 2] = ["content_conflict", "person_conflict"];
/// Under this one what may be a repetition of an event that has ended is filtered.
const OF_REPETITIONS: &str = "session_forgotten";

/// An end of an event.
struct End<'a> {
    disposition: &'a str,
    reason: Option<&'a str>,
    is_clean: bool,
    /// It counts only while nothing else is decided about the id.
    is_weak: bool,
}

impl Scratch {
    pub(crate) fn entered(&self, event: &RawEvent, partition: u32) -> anyhow::Result<()> {
        let header = &event.header;
        let entered = match (&event.filtered_at_door, header.kind) {
            (Some(_), _) => "filtered_at_door",
            (None, EventKind::Exposure) => "exposed",
            (None, _) => "admitted",
        };
        self.connection
            .prepare_cached(
                "INSERT INTO events (tenant, event_id, partition, entered, copies, hour, dispositions, repeats) \
                 VALUES (?1, ?2, ?3, ?4, 1, ?5, 0, 0) ON CONFLICT DO UPDATE SET copies = copies + 1, \
                 entered = COALESCE(entered, excluded.entered), hour = MIN(hour, excluded.hour)",
            )?
            .execute(params![
                header.tenant.as_str(),
                header.event_id.to_string(),
                partition,
                entered,
                header.received_at.hour().as_micros()
            ])?;
        if let Some(reason) = &event.filtered_at_door {
            let end = End { disposition: "filtered", reason: Some(reason), is_clean: false, is_weak: true };
            self.ended(header.tenant.as_str(), &header.event_id.to_string(), header.received_at, &end)?;
        }
        Ok(())
    }

    pub(crate) fn cleaned(&self, event: &CleanEvent) -> anyhow::Result<()> {
        let (header, reason) = (&event.header, event.reason.as_deref());
        let is_weak = reason == Some(OF_REPETITIONS);
        let end = End { disposition: event.disposition.as_str(), reason, is_clean: true, is_weak };
        self.ended(header.tenant.as_str(), &header.event_id.to_string(), header.received_at, &end)
    }

    pub(crate) fn quarantined(&self, event: &QuarantinedEvent) -> anyhow::Result<()> {
        let (header, reason) = (&event.header, event.reason.as_str());
        let is_weak = OF_REUSED_IDS.contains(&reason);
        let end = End { disposition: "quarantined", reason: Some(reason), is_clean: false, is_weak };
        self.ended(header.tenant.as_str(), &header.event_id.to_string(), header.received_at, &end)
    }

    /// An event that a dead letter of the anonymizer names.
    pub(crate) fn given_up(&self, event_id: &str, reason: &str, received_at: Timestamp) -> anyhow::Result<()> {
        self.connection
            .prepare_cached("INSERT INTO letters (event_id, reason, hour) VALUES (?1, ?2, ?3)")?
            .execute(params![event_id, storable(reason), received_at.hour().as_micros()])?;
        Ok(())
    }

    fn ended(&self, tenant: &str, event_id: &str, received_at: Timestamp, end: &End<'_>) -> anyhow::Result<()> {
        let (disposition, reason) = (storable(end.disposition), end.reason.map(storable));
        let hour = received_at.hour().as_micros();
        let statement = if end.is_weak {
            "INSERT INTO events (tenant, event_id, copies, hour, dispositions, repeats, weak, weak_reason) \
             VALUES (?1, ?2, 0, ?3, 0, 0, ?4, ?5) ON CONFLICT DO UPDATE SET hour = MIN(hour, excluded.hour), \
             weak_is_unclear = weak IS NOT NULL AND (weak_is_unclear OR weak <> excluded.weak \
             OR weak_reason IS NOT excluded.weak_reason), weak_reason = CASE WHEN weak IS NULL THEN excluded.weak_reason ELSE weak_reason END, \
             weak = COALESCE(weak, excluded.weak)"
        } else {
            // The same end, said again by the clean topic, is a repeat; any other second end an anomaly.
            "INSERT INTO events (tenant, event_id, copies, hour, dispositions, repeats, strong, strong_reason, \
             strong_is_clean) VALUES (?1, ?2, 0, ?3, 1, 0, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET \
             hour = MIN(hour, excluded.hour), \
             repeats = repeats + (strong = excluded.strong AND strong_is_clean AND excluded.strong_is_clean) IS TRUE, \
             dispositions = dispositions \
             + ((strong = excluded.strong AND strong_is_clean AND excluded.strong_is_clean) IS NOT TRUE), \
             strong_reason = CASE WHEN strong IS NULL THEN excluded.strong_reason ELSE strong_reason END, \
             strong_is_clean = COALESCE(strong_is_clean, excluded.strong_is_clean), \
             strong = COALESCE(strong, excluded.strong)"
        };
        let mut statement = self.connection.prepare_cached(statement)?;
        if end.is_weak {
            statement.execute(params![tenant, event_id, hour, disposition, reason])?;
        } else {
            statement.execute(params![tenant, event_id, hour, disposition, reason, end.is_clean])?;
        }
        Ok(())
    }

    /// Dead letters name no tenant: they count for whoever has the id. Called when everything else was seen.
    pub(crate) fn letters_arrive(&self) -> anyhow::Result<()> {
        self.connection.execute_batch(
            "CREATE INDEX letters_by_event ON letters (event_id); \
             CREATE INDEX events_by_id ON events (event_id); \
             INSERT INTO events (tenant, event_id, copies, hour, dispositions, repeats) \
             SELECT DISTINCT '', event_id, 0, hour, 0, 0 FROM letters \
             WHERE NOT EXISTS (SELECT 1 FROM events WHERE events.event_id = letters.event_id) ON CONFLICT DO NOTHING; \
             UPDATE events SET weak_is_unclear = 1 WHERE weak IS NOT NULL AND event_id IN (SELECT event_id FROM letters) \
             OR (SELECT COUNT(DISTINCT reason) FROM letters WHERE letters.event_id = events.event_id) > 1; \
             UPDATE events SET weak = 'dead_lettered', weak_reason = (SELECT reason FROM letters \
             WHERE letters.event_id = events.event_id ORDER BY letters.rowid LIMIT 1) \
             WHERE weak IS NULL AND event_id IN (SELECT event_id FROM letters);",
        )?;
        Ok(())
    }
}

/// Which hours both sides know as a whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hours {
    /// Rows from this hour on were read from the database.
    pub(crate) read_from: i64,
    /// Every raw record received from this hour on is in the log.
    pub(crate) whole_from: i64,
    /// Ends may be missing in the log: the topics of ends begin later than they began.
    pub(crate) ends_deleted: bool,
}

/// What differs between an event of the log and its row. Of several weak ends of an event the first that the ledger has
/// read stands in its row, and which topic it read first nobody knows.
const DIFFERENCE: &str = "CASE \
     WHEN rows.event_id IS NULL THEN 'not_in_the_ledger' \
     WHEN rows.entered IS NOT events.entered THEN 'entered_otherwise' \
     WHEN rows.copies < events.copies OR (NOT ?2 AND rows.copies <> events.copies) THEN 'copies_differ' \
     WHEN COALESCE(events.strong, events.weak) IS NULL AND rows.disposition IS NOT NULL \
     THEN CASE WHEN ?3 THEN NULL ELSE 'end_not_in_the_log' END \
     WHEN events.strong IS NULL AND events.weak_is_unclear AND rows.dispositions = 0 THEN NULL \
     WHEN rows.disposition IS NOT COALESCE(events.strong, events.weak) THEN 'ended_otherwise' \
     WHEN rows.reason IS NOT CASE WHEN events.strong IS NULL THEN events.weak_reason ELSE events.strong_reason END \
     THEN 'ended_otherwise' \
     WHEN events.dispositions > 1 OR rows.dispositions > 1 THEN 'ended_twice' \
     WHEN NOT ?3 AND (rows.dispositions <> events.dispositions OR rows.repeats <> events.repeats) \
     THEN 'counted_otherwise' END";

/// Every event of the log against its row, and every row against the log.
pub(crate) fn against_the_log(scratch: &Scratch, hours: Hours) -> anyhow::Result<Check> {
    let is_cut_off = hours.whole_from > i64::MIN;
    let differing = format!(
        "SELECT events.event_id AS id, {DIFFERENCE} AS what FROM events LEFT JOIN ledger_rows AS rows \
         ON rows.tenant = events.tenant AND rows.event_id = events.event_id \
         WHERE events.entered IS NOT NULL AND events.hour >= ?1 \
         UNION ALL SELECT event_id, 'never_entered' FROM events WHERE entered IS NULL AND hour >= ?4 \
         UNION ALL SELECT rows.event_id, 'not_in_the_log' FROM ledger_rows AS rows WHERE rows.hour >= ?4 \
         AND NOT EXISTS (SELECT 1 FROM events WHERE events.tenant = rows.tenant AND events.event_id = rows.event_id)"
    );
    let parameters = (hours.read_from, is_cut_off, hours.ends_deleted, hours.whole_from);
    let differences =
        scratch.count(&format!("SELECT COUNT(*) FROM ({differing}) WHERE what IS NOT NULL"), parameters)?;
    let first = scratch.named(
        &format!("SELECT id, what FROM ({differing}) WHERE what IS NOT NULL ORDER BY id LIMIT {SHOWN}"),
        parameters,
    )?;
    let checked =
        scratch.count("SELECT COUNT(*) FROM events WHERE entered IS NOT NULL AND hour >= ?1", [hours.read_from])?;
    let before = scratch.count(
        "SELECT COUNT(*) FROM events WHERE (entered IS NULL AND hour < ?2) OR (entered IS NOT NULL AND hour < ?1)",
        [hours.read_from, hours.whole_from],
    )?;
    let reasons = (before > 0).then(|| (reason::BEFORE.to_owned(), before)).into_iter().collect();
    let name = "ledger: rows against the log".to_owned();
    Ok(Check { name, checked, differences, not_covered: before, reasons, first, ..Check::default() })
}

/// The equation of guarantee 4, over all hours.
pub(crate) fn equation(statement: &Statement) -> Check {
    let totals: &LedgerTotals = &statement.totals;
    let off = totals.entered().abs_diff(totals.accounted());
    let anomalies = u64::try_from(totals.anomalies).unwrap_or(0);
    let unseen = u64::try_from(totals.unseen).unwrap_or(0);
    let mut first = Vec::new();
    if off > 0 {
        let what = format!("{} entered, {} accounted for", totals.entered(), totals.accounted());
        first.push(Named { id: "equation".to_owned(), what });
    }
    if anomalies > 0 {
        first.push(Named { id: "anomalies".to_owned(), what: anomalies.to_string() });
    }
    Check {
        name: "ledger: its equation".to_owned(),
        checked: u64::try_from(totals.entered()).unwrap_or(0).saturating_sub(unseen),
        differences: off + anomalies,
        not_covered: unseen,
        reasons: (unseen > 0).then(|| (reason::PASSED_OVER.to_owned(), unseen)).into_iter().collect(),
        first,
        ..Check::default()
    }
}
