//! The ledger: what became of every event, by distinct event id and hour of `received_at`.
//!
//! At a cut of positions: admitted + filtered at the door + exposed = clean + filtered + quarantined + dead-lettered +
//! erased + lost + pending. The left side is the raw topic; the right side is what the anonymizer decided (clean,
//! quarantine) or its step gave up (dead letters of the raw topic). Duplicates, a second raw record of an id, are
//! counted apart. A disposition without a raw record, or a second disposition of an id, is an anomaly: it must never
//! happen, and is shown when it does. A dead letter is no second one: what was redriven and came through is clean, not
//! dead-lettered. Nor is the same disposition of an id read from the clean topic again: the labeler gave the record up,
//! somebody redrove it, and so the topic holds it twice. Such repeats are counted apart, too.
//!
//! Lost is what retention deleted before the anonymizer read it, once a person let that one pass over it (`losses`).
//! Where the ledger itself was let pass over raw telemetry (`skip`), it does not know that an event entered whose end it
//! reads: an event of an hour up to then that has an end and no raw record counts as `unseen` on the left side, and is no
//! anomaly. Whose end it was let pass over stays pending: it may have been any.
//!
//! The cut is the ledger's own positions. They move in the transaction of the rows, and what stood in the raw topic
//! when a disposition was read is written before it, so the equation holds at every cut.
//!
//! Rows of hours that lie longer back than anything in the log are folded into counts by hour ([`fold_hours`]); the
//! time for it is that of the records. What comes about an id of such an hour that has no row is a repetition: every
//! event of the hour was read and had its end before it was folded.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bus::{CommittedRecord, DeadLetter, Position, Positions};
use events::avro::{self, AvroError, AvroRecord};
use events::topics::{DEAD_LETTERS, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, TELEMETRY_RAW};
use events::{CleanEvent, EventHeader, EventKind, QuarantinedEvent, RawEvent, TenantId, Timestamp};
use metrics::counter;
use migrations::storable;
use serde::{Deserialize, Serialize};
use sqlx::{Any, AnyConnection, AnyPool, Executor, Row, Transaction};

use crate::config::SinkConfig;
use crate::losses::{self, Reader};
use crate::sink::{BatchLimits, Sink, SinkError, stored_positions};

/// Name of the ledger's positions.
pub const SINK: &str = "ledger";

/// What it reads. The raw topic comes first: what a disposition is about is written before it.
const TOPICS: [&str; 4] = [TELEMETRY_RAW, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, DEAD_LETTERS];

/// How an event entered whose raw record the ledger was let pass over.
const UNSEEN: &str = "unseen";

/// Rows in one statement; SQLite takes 32,766 parameters, PostgreSQL 65,535.
const ROWS: usize = 500;

/// Reasons of quarantine of an event whose id may belong to another one, which has a disposition of its own.
const REASONS_OF_REUSED_IDS: [&str; 2] = ["content_conflict", "person_conflict"];

/// The sink over raw, clean, quarantine and dead letters.
#[derive(Debug)]
pub struct Ledger {
    config: SinkConfig,
    /// When the newest record that was written was appended.
    newest: Option<Timestamp>,
    /// All hours before this one were looked at for folding.
    folded_before: Option<Timestamp>,
}

impl Ledger {
    /// A ledger with these batches.
    #[must_use]
    pub fn new(config: SinkConfig) -> Self {
        Self { config, newest: None, folded_before: None }
    }
}

/// Reason under which the anonymizer filters what may be a repetition of an event that has ended already.
const REASON_OF_REPETITIONS: &str = "session_forgotten";

/// What one batch says about one event.
#[derive(Debug, Default)]
struct Entry {
    received_hour: i64,
    entered: Option<&'static str>,
    copies: i64,
    /// Where the copies stand, when all are in one partition.
    place: Option<Place>,
    disposition: Option<String>,
    reason: Option<String>,
    dispositions: i64,
    repeats: i64,
}

/// Where the raw records of an event stand.
#[derive(Debug, Clone, Copy)]
struct Place {
    partition: u32,
    first: Position,
    last: Position,
}

/// One more raw record.
fn copied(entry: &mut Entry, record: &CommittedRecord) {
    let (partition, position) = (record.partition, record.position);
    entry.place = match entry.place {
        None if entry.copies == 0 => Some(Place { partition, first: position, last: position }),
        Some(place) if place.partition == partition => {
            Some(Place { partition, first: place.first.min(position), last: place.last.max(position) })
        }
        _ => None,
    };
    entry.copies += 1;
}

type Entries = BTreeMap<(String, String), Entry>;

/// Of several copies the earliest hour counts, however they lie in batches.
fn entry_at(entries: &mut Entries, key: (String, String), hour: i64) -> &mut Entry {
    let entry = entries.entry(key).or_insert_with(|| Entry { received_hour: hour, ..Entry::default() });
    entry.received_hour = entry.received_hour.min(hour);
    entry
}

fn entry<'a>(entries: &'a mut Entries, header: &EventHeader) -> &'a mut Entry {
    let key = (header.tenant.to_string(), header.event_id.to_string());
    entry_at(entries, key, header.received_at.hour().as_micros())
}

/// What the clean topic decides; said again, it is a repeat.
fn decided_or_repeated(entry: &mut Entry, disposition: &str, reason: Option<&str>) {
    if entry.dispositions > 0 && entry.disposition.as_deref() == Some(disposition) {
        entry.repeats += 1;
    } else {
        decided(entry, disposition, reason);
    }
}

fn decided(entry: &mut Entry, disposition: &str, reason: Option<&str>) {
    if entry.dispositions == 0 {
        entry.disposition = Some(storable(disposition).into_owned());
        entry.reason = reason.map(|reason| storable(reason).into_owned());
    }
    entry.dispositions += 1;
}

/// A disposition that holds only while nothing else is decided about the id: the stub of the door (the raw record is
/// its own disposition; the same id may also have come whole), a second event under an id that another one has, what
/// came when its session was forgotten, or a dead letter, which may be redriven.
fn decided_weakly(entry: &mut Entry, disposition: &str, reason: Option<&str>) {
    if entry.disposition.is_none() {
        entry.disposition = Some(storable(disposition).into_owned());
        entry.reason = reason.map(|reason| storable(reason).into_owned());
    }
}

/// Decodes a record; one that cannot be read is skipped and counted, one of a newer release waits.
pub(crate) fn decode<T: AvroRecord>(record: &CommittedRecord) -> Result<Option<T>, SinkError> {
    match avro::decode::<T>(&record.value) {
        Ok(value) => Ok(Some(value)),
        Err(AvroError::UnknownFingerprint(_)) => Err(SinkError::UnknownSchema { topic: record.topic.to_string() }),
        Err(error) => {
            tracing::error!(topic = &*record.topic, position = %record.position, %error, "a sink skips a record");
            counter!("flywheel_labeler_sink_skipped_total", "topic" => record.topic.to_string()).increment(1);
            Ok(None)
        }
    }
}

fn collect(records: &[CommittedRecord]) -> Result<(Entries, Vec<(String, Entry)>), SinkError> {
    let mut entries = Entries::new();
    let mut of_unknown_tenant = Vec::new();
    for record in records {
        if record.topic.ends_with(TELEMETRY_RAW) {
            let Some(event) = decode::<RawEvent>(record)? else { continue };
            let entry = entry(&mut entries, &event.header);
            copied(entry, record);
            if let Some(reason) = &event.filtered_at_door {
                entry.entered.get_or_insert("filtered_at_door");
                decided_weakly(entry, "filtered", Some(reason));
            } else {
                let is_exposure = event.header.kind == EventKind::Exposure;
                entry.entered.get_or_insert(if is_exposure { "exposed" } else { "admitted" });
            }
        } else if record.topic.ends_with(TELEMETRY_CLEAN) {
            let Some(event) = decode::<CleanEvent>(record)? else { continue };
            let (disposition, reason) = (event.disposition.as_str(), event.reason.as_deref());
            let entry = entry(&mut entries, &event.header);
            if reason == Some(REASON_OF_REPETITIONS) {
                decided_weakly(entry, disposition, reason);
            } else {
                decided_or_repeated(entry, disposition, reason);
            }
        } else if record.topic.ends_with(TELEMETRY_QUARANTINE) {
            let Some(event) = decode::<QuarantinedEvent>(record)? else { continue };
            let entry = entry(&mut entries, &event.header);
            if REASONS_OF_REUSED_IDS.contains(&event.reason.as_str()) {
                decided_weakly(entry, "quarantined", Some(&event.reason));
            } else {
                decided(entry, "quarantined", Some(&event.reason));
            }
        } else if record.topic.ends_with(DEAD_LETTERS) {
            let Some(letter) = decode::<DeadLetter>(record)? else { continue };
            // Letters of later steps are about events that have their disposition.
            if !letter.topic.ends_with(TELEMETRY_RAW) {
                continue;
            }
            for affected in letter.affected {
                let mut entry = Entry { received_hour: affected.received_at.hour().as_micros(), ..Entry::default() };
                decided_weakly(&mut entry, "dead_lettered", Some(&letter.reason));
                of_unknown_tenant.push((storable(&affected.event_id).into_owned(), entry));
            }
        }
    }
    Ok((entries, of_unknown_tenant))
}

#[async_trait]
impl Sink for Ledger {
    fn name(&self) -> &str {
        SINK
    }

    fn topics(&self) -> Vec<String> {
        TOPICS.map(str::to_owned).to_vec()
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits {
            records: self.config.batch_records,
            bytes: 16 << 20,
            age: Duration::from_millis(self.config.wait_ms),
        }
    }

    async fn write(
        &mut self,
        transaction: &mut Transaction<'static, Any>,
        records: &[CommittedRecord],
    ) -> Result<(), SinkError> {
        let (mut entries, letters) = collect(records)?;
        for (event_id, entry) in letters {
            // A dead letter names ids only; the raw record, which is always read first, knows the tenant.
            let tenant: Option<String> =
                sqlx::query_scalar("SELECT tenant FROM ledger_events WHERE event_id = $1 ORDER BY tenant LIMIT 1")
                    .bind(&event_id)
                    .fetch_optional(&mut **transaction)
                    .await?;
            let tenant = tenant.unwrap_or_else(|| TenantId::default().to_string());
            let known = entry_at(&mut entries, (tenant, event_id), entry.received_hour);
            decided_weakly(known, "dead_lettered", entry.reason.as_deref());
        }
        let entries = without_folded(transaction, entries).await?;
        let entries: Vec<((String, String), Entry)> = entries.into_iter().collect();
        for chunk in entries.chunks(ROWS) {
            upsert(transaction, chunk).await?;
        }
        losses::book_late(transaction, records).await?;
        self.newest = self.newest.max(records.iter().map(|record| record.appended_at).max());
        Ok(())
    }

    /// Folds once an hour of the log's time. Everything that stood in the raw topic is written, so an hour without
    /// pending events is complete.
    async fn caught_up(&mut self, pool: &AnyPool) -> Result<(), SinkError> {
        let Some(newest) = self.newest.filter(|_| self.config.fold_after_hours > 0) else { return Ok(()) };
        let before = (newest - Duration::from_secs(self.config.fold_after_hours.saturating_mul(3600))).hour();
        if self.folded_before.is_some_and(|folded| folded >= before) {
            return Ok(());
        }
        let folded = fold_hours(pool, before).await?;
        self.folded_before = Some(before);
        counter!("flywheel_labeler_ledger_events_folded_total").increment(folded);
        Ok(())
    }
}

/// Takes out what is about events without a row in hours that were folded, and counts it there as repetitions.
async fn without_folded(transaction: &mut Transaction<'static, Any>, entries: Entries) -> Result<Entries, SinkError> {
    let mut is_folded: BTreeMap<(String, i64), bool> = BTreeMap::new();
    let mut kept = Entries::new();
    for ((tenant, event_id), entry) in entries {
        let hour = (tenant.clone(), entry.received_hour);
        let folded = match is_folded.get(&hour) {
            Some(folded) => *folded,
            None => {
                let found: Option<i64> = sqlx::query_scalar(
                    "SELECT received_hour FROM ledger_hours WHERE tenant = $1 AND received_hour = $2 LIMIT 1",
                )
                .bind(&tenant)
                .bind(entry.received_hour)
                .fetch_optional(&mut **transaction)
                .await?;
                is_folded.insert(hour, found.is_some());
                found.is_some()
            }
        };
        if !folded || has_row(transaction, &tenant, &event_id).await? {
            kept.insert((tenant, event_id), entry);
            continue;
        }
        sqlx::query(
            "INSERT INTO ledger_hours \
             (tenant, received_hour, entered, disposition, reason, events, copies, dispositions, repeats) \
             VALUES ($1, $2, '', '', '', 0, $3, 0, $4) \
             ON CONFLICT (tenant, received_hour, entered, disposition, reason) DO UPDATE SET \
             copies = ledger_hours.copies + excluded.copies, repeats = ledger_hours.repeats + excluded.repeats",
        )
        .bind(&tenant)
        .bind(entry.received_hour)
        .bind(entry.copies)
        .bind(entry.dispositions + entry.repeats)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(kept)
}

async fn has_row(transaction: &mut Transaction<'static, Any>, tenant: &str, event_id: &str) -> Result<bool, SinkError> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT received_hour FROM ledger_events WHERE tenant = $1 AND event_id = $2")
            .bind(tenant)
            .bind(event_id)
            .fetch_optional(&mut **transaction)
            .await?;
    Ok(found.is_some())
}

async fn upsert(
    transaction: &mut Transaction<'static, Any>,
    chunk: &[((String, String), Entry)],
) -> Result<(), SinkError> {
    let mut statement = String::from(
        "INSERT INTO ledger_events \
         (tenant, event_id, received_hour, entered, copies, disposition, reason, dispositions, repeats, \
         raw_partition, raw_first, raw_last) VALUES ",
    );
    for row in 0..chunk.len() {
        let at = row * 12;
        let separator = if row == 0 { "" } else { ", " };
        statement.push_str(&format!(
            "{separator}(${}, ${}, ${}, ${}, ${}, ${}, ${}, ${}, ${}, ${}, ${}, ${})",
            at + 1,
            at + 2,
            at + 3,
            at + 4,
            at + 5,
            at + 6,
            at + 7,
            at + 8,
            at + 9,
            at + 10,
            at + 11,
            at + 12
        ));
    }
    // Said again, a disposition of the clean topic is a repeat; what else is decided about an id that has its end is an
    // anomaly.
    const IS_REPEAT: &str = "ledger_events.dispositions > 0 AND excluded.dispositions > 0 \
         AND excluded.disposition = ledger_events.disposition AND excluded.disposition <> 'quarantined'";
    // What was lost and comes again is as if it had come for the first time.
    const IS_OPEN: &str = "ledger_events.disposition IS NULL \
         OR (ledger_events.dispositions = 0 AND excluded.dispositions > 0) \
         OR (ledger_events.disposition = 'lost' AND excluded.copies > 0)";
    // Copies of an older release have no place, and so has what stands in two partitions.
    const IS_TOGETHER: &str = "ledger_events.raw_partition = excluded.raw_partition";
    statement.push_str(&format!(
        " ON CONFLICT (tenant, event_id) DO UPDATE SET \
         entered = COALESCE(ledger_events.entered, excluded.entered), \
         copies = ledger_events.copies + excluded.copies, \
         received_hour = CASE WHEN excluded.received_hour < ledger_events.received_hour \
         THEN excluded.received_hour ELSE ledger_events.received_hour END, \
         reason = CASE WHEN {IS_OPEN} THEN excluded.reason ELSE ledger_events.reason END, \
         disposition = CASE WHEN {IS_OPEN} THEN excluded.disposition ELSE ledger_events.disposition END, \
         raw_partition = CASE WHEN ledger_events.copies = 0 THEN excluded.raw_partition \
         WHEN excluded.copies = 0 OR {IS_TOGETHER} THEN ledger_events.raw_partition END, \
         raw_first = CASE WHEN ledger_events.copies = 0 OR excluded.raw_first < ledger_events.raw_first \
         THEN excluded.raw_first ELSE ledger_events.raw_first END, \
         raw_last = CASE WHEN ledger_events.copies = 0 OR excluded.raw_last > ledger_events.raw_last \
         THEN excluded.raw_last ELSE ledger_events.raw_last END, \
         dispositions = ledger_events.dispositions + excluded.dispositions \
         - CASE WHEN {IS_REPEAT} THEN 1 ELSE 0 END, \
         repeats = ledger_events.repeats + excluded.repeats + CASE WHEN {IS_REPEAT} THEN 1 ELSE 0 END"
    ));
    let mut query = sqlx::query(sqlx::AssertSqlSafe(statement));
    for ((tenant, event_id), entry) in chunk {
        query = query
            .bind(tenant)
            .bind(event_id)
            .bind(entry.received_hour)
            .bind(entry.entered)
            .bind(entry.copies)
            .bind(&entry.disposition)
            .bind(&entry.reason)
            .bind(entry.dispositions)
            .bind(entry.repeats)
            .bind(entry.place.map(|place| i64::from(place.partition)))
            .bind(entry.place.map(|place| place.first.to_string()))
            .bind(entry.place.map(|place| place.last.to_string()));
    }
    query.execute(&mut **transaction).await?;
    Ok(())
}

/// The equation of guarantee 4 for one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerTotals {
    /// Events that the door admitted.
    pub admitted: i64,
    /// Content-free stubs of events that consent filtered at the door.
    pub filtered_at_door: i64,
    /// Exposures that serving published.
    pub exposed: i64,
    /// Decided, and entered where the ledger was let pass over raw telemetry by a named person's word.
    #[serde(default)]
    pub unseen: i64,
    /// Scrubbed and published.
    pub clean: i64,
    /// Left out on purpose after the door.
    pub filtered: i64,
    /// Refused by scrubbing.
    pub quarantined: i64,
    /// Given up by the anonymizer's step.
    pub dead_lettered: i64,
    /// Removed with their person.
    pub erased: i64,
    /// Deleted by retention before the anonymizer read them, and passed over by a named person's word.
    pub lost: i64,
    /// Without a disposition yet.
    pub pending: i64,
    /// Further raw records of an id that was there already.
    pub duplicates: i64,
    /// Further clean records of an id that had the same disposition already: redriven dead letters of a later step.
    #[serde(default)]
    pub repeats: i64,
    /// Dispositions without a raw record and second, other dispositions; always 0.
    pub anomalies: i64,
    /// Counts by disposition and reason.
    pub reasons: BTreeMap<String, BTreeMap<String, i64>>,
}

impl LedgerTotals {
    /// Left side of the equation.
    #[must_use]
    pub fn entered(&self) -> i64 {
        self.admitted + self.filtered_at_door + self.exposed + self.unseen
    }

    /// Right side of the equation.
    #[must_use]
    pub fn accounted(&self) -> i64 {
        self.clean + self.filtered + self.quarantined + self.dead_lettered + self.erased + self.lost + self.pending
    }

    /// Whether the equation holds and nothing happened that never may.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.entered() == self.accounted() && self.anomalies == 0
    }

    fn add(&mut self, entered: Option<&str>, disposition: Option<&str>, reason: Option<&str>, counts: &Counts) {
        let events = counts.events;
        self.anomalies += counts.dispositions_beyond_one;
        self.duplicates += counts.copies_beyond_one;
        self.repeats += counts.repeats;
        match entered {
            Some("admitted") => self.admitted += events,
            Some("filtered_at_door") => self.filtered_at_door += events,
            Some("exposed") => self.exposed += events,
            Some(UNSEEN) => self.unseen += events,
            // A disposition of an event that never entered stands on neither side.
            _ => {
                self.anomalies += events;
                return;
            }
        }
        match disposition {
            Some("clean") => self.clean += events,
            Some("filtered") => self.filtered += events,
            Some("quarantined") => self.quarantined += events,
            Some("dead_lettered") => self.dead_lettered += events,
            Some("erased") => self.erased += events,
            Some("lost") => self.lost += events,
            Some(_) => self.anomalies += events,
            None => self.pending += events,
        }
        if let Some((disposition, reason)) = disposition.zip(reason) {
            *self.reasons.entry(disposition.to_owned()).or_default().entry(reason.to_owned()).or_default() += events;
        }
    }
}

struct Counts {
    events: i64,
    copies_beyond_one: i64,
    dispositions_beyond_one: i64,
    repeats: i64,
}

/// The equation of a tenant and the cut at which it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Up to where the ledger has read each of its topics.
    pub cut: BTreeMap<String, Positions>,
    /// The equation there.
    pub totals: LedgerTotals,
}

/// Totals and cut as one state of the database.
///
/// # Errors
/// A database that fails, or a stored position that cannot be read.
pub async fn statement(pool: &AnyPool, tenant: &TenantId) -> Result<Statement, SinkError> {
    let mut transaction = migrations::begin_read(pool).await?;
    let statement = statement_within(&mut transaction, tenant).await?;
    transaction.commit().await?;
    Ok(statement)
}

/// [`statement`], beside whatever else the transaction reads.
///
/// # Errors
/// As [`statement`].
pub async fn statement_within(connection: &mut AnyConnection, tenant: &TenantId) -> Result<Statement, SinkError> {
    let mut cut = BTreeMap::new();
    for topic in TOPICS {
        cut.insert(topic.to_owned(), stored_positions(&mut *connection, SINK, topic).await?);
    }
    let hours = by_hour(&mut *connection, tenant, None).await?;
    Ok(Statement { cut, totals: hours.into_values().fold(LedgerTotals::default(), merged) })
}

/// The totals of a tenant over all hours.
///
/// # Errors
/// A database that fails.
pub async fn totals(pool: &AnyPool, tenant: &TenantId) -> Result<LedgerTotals, sqlx::Error> {
    Ok(by_hour(pool, tenant, None).await?.into_values().fold(LedgerTotals::default(), merged))
}

/// The totals of a tenant by hour of `received_at`, for all hours or from `from` on.
///
/// # Errors
/// A database that fails.
pub async fn hours(
    pool: &AnyPool,
    tenant: &TenantId,
    from: Option<Timestamp>,
) -> Result<BTreeMap<Timestamp, LedgerTotals>, sqlx::Error> {
    by_hour(pool, tenant, from).await
}

async fn by_hour<'c>(
    database: impl Executor<'c, Database = Any>,
    tenant: &TenantId,
    from: Option<Timestamp>,
) -> Result<BTreeMap<Timestamp, LedgerTotals>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT received_hour, CASE WHEN entered IS NULL AND received_hour <= \
         (SELECT MAX(skipped_at) FROM lost_ranges WHERE step = $3 AND topic = $4) THEN $5 ELSE entered END, \
         disposition, reason, CAST(COUNT(*) AS BIGINT) AS events, \
         CAST(SUM(CASE WHEN copies > 1 THEN copies - 1 ELSE 0 END) AS BIGINT) AS copies_beyond, \
         CAST(SUM(CASE WHEN dispositions > 1 THEN dispositions - 1 ELSE 0 END) AS BIGINT) AS dispositions_beyond, \
         CAST(SUM(repeats) AS BIGINT) AS repeats_of_all \
         FROM ledger_events WHERE tenant = $1 AND received_hour >= $2 \
         GROUP BY received_hour, entered, disposition, reason \
         UNION ALL \
         SELECT received_hour, NULLIF(entered, ''), NULLIF(disposition, ''), NULLIF(reason, ''), events, copies, \
         dispositions, repeats FROM ledger_hours WHERE tenant = $1 AND received_hour >= $2",
    )
    .bind(tenant.as_str())
    .bind(from.map_or(i64::MIN, |from| from.hour().as_micros()))
    .bind(Reader::Sink(SINK.to_owned()).stored())
    .bind(TELEMETRY_RAW)
    .bind(UNSEEN)
    .fetch_all(database)
    .await?;
    let mut hours: BTreeMap<Timestamp, LedgerTotals> = BTreeMap::new();
    for row in rows {
        let text = |index: usize| row.try_get::<Option<String>, _>(index);
        let counts = Counts {
            events: row.try_get(4)?,
            copies_beyond_one: row.try_get(5)?,
            dispositions_beyond_one: row.try_get(6)?,
            repeats: row.try_get(7)?,
        };
        let (entered, disposition, reason) = (text(1)?, text(2)?, text(3)?);
        hours.entry(Timestamp::from_micros(row.try_get(0)?)).or_default().add(
            entered.as_deref(),
            disposition.as_deref(),
            reason.as_deref(),
            &counts,
        );
    }
    Ok(hours)
}

fn merged(mut sum: LedgerTotals, hour: LedgerTotals) -> LedgerTotals {
    sum.admitted += hour.admitted;
    sum.filtered_at_door += hour.filtered_at_door;
    sum.exposed += hour.exposed;
    sum.unseen += hour.unseen;
    sum.clean += hour.clean;
    sum.filtered += hour.filtered;
    sum.quarantined += hour.quarantined;
    sum.dead_lettered += hour.dead_lettered;
    sum.erased += hour.erased;
    sum.lost += hour.lost;
    sum.pending += hour.pending;
    sum.duplicates += hour.duplicates;
    sum.repeats += hour.repeats;
    sum.anomalies += hour.anomalies;
    for (disposition, reasons) in hour.reasons {
        let known = sum.reasons.entry(disposition).or_default();
        for (reason, events) in reasons {
            *known.entry(reason).or_default() += events;
        }
    }
    sum
}

/// The rows to fold before the hour `$1`. The subquery names nothing of the row, so it runs once and not for every row
/// (a write transaction waits for it); neither of its columns is ever NULL, so `NOT IN` says what it seems to say.
const SETTLED: &str = "received_hour < $1 AND disposition <> 'dead_lettered' \
     AND (tenant, received_hour) NOT IN (SELECT tenant, received_hour FROM ledger_events \
     WHERE received_hour < $1 AND (disposition IS NULL OR entered IS NULL))";

/// Folds all hours before `before` in which nothing is pending: their counts stay, their ids go. What was dead-lettered
/// keeps its id: it may be redriven and end otherwise. Call it with a time that no record of the raw topic or of
/// quarantine can be older than, when everything in the raw topic was written. Returns how many events were folded.
///
/// # Errors
/// A database that fails; nothing is changed then.
pub async fn fold_hours(pool: &AnyPool, before: Timestamp) -> Result<u64, sqlx::Error> {
    migrations::retried(|| try_fold_hours(pool, before)).await
}

async fn try_fold_hours(pool: &AnyPool, before: Timestamp) -> Result<u64, sqlx::Error> {
    let mut transaction = migrations::begin_write(pool).await?;
    let before = before.hour().as_micros();
    // Whoever writes the ledger moves its positions first; until this commits nobody does.
    sqlx::query("UPDATE sink_positions SET next_position = next_position WHERE sink = $1")
        .bind(SINK)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "INSERT INTO ledger_hours \
         (tenant, received_hour, entered, disposition, reason, events, copies, dispositions, repeats) \
         SELECT tenant, received_hour, COALESCE(entered, ''), COALESCE(disposition, ''), COALESCE(reason, ''), \
         COUNT(*), SUM(CASE WHEN copies > 1 THEN copies - 1 ELSE 0 END), \
         SUM(CASE WHEN dispositions > 1 THEN dispositions - 1 ELSE 0 END), SUM(repeats) \
         FROM ledger_events WHERE {SETTLED} \
         GROUP BY tenant, received_hour, COALESCE(entered, ''), COALESCE(disposition, ''), COALESCE(reason, '') \
         ON CONFLICT (tenant, received_hour, entered, disposition, reason) DO UPDATE SET \
         events = ledger_hours.events + excluded.events, copies = ledger_hours.copies + excluded.copies, \
         dispositions = ledger_hours.dispositions + excluded.dispositions, \
         repeats = ledger_hours.repeats + excluded.repeats"
    )))
    .bind(before)
    .execute(&mut *transaction)
    .await?;
    let folded = sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM ledger_events WHERE {SETTLED}")))
        .bind(before)
        .execute(&mut *transaction)
        .await?;
    migrations::commit(transaction).await?;
    Ok(folded.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: i64 = 10;

    async fn database() -> (AnyPool, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let pool =
            migrations::connect(&migrations::sqlite_url(&directory.path().join("test.sqlite")), 1).await.unwrap();
        migrations::migrate(&pool).await.unwrap();
        (pool, directory)
    }

    async fn settled(pool: &AnyPool) -> Vec<String> {
        let query = format!("SELECT event_id FROM ledger_events WHERE {SETTLED} ORDER BY event_id");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).bind(BEFORE).fetch_all(pool).await.unwrap()
    }

    #[tokio::test]
    async fn an_hour_is_settled_when_nothing_in_it_is_pending() {
        let (pool, _directory) = database().await;
        let (clean, letter, entered) = (Some("clean"), Some("dead_lettered"), Some("admitted"));
        for (event, tenant, hour, entered, disposition) in [
            ("a1", "a", 1, entered, clean),
            ("a2", "a", 1, entered, letter),
            ("a3", "a", 2, entered, clean),
            ("a4", "a", 2, entered, None),
            ("a5", "a", 3, entered, clean),
            ("a6", "a", 3, None, clean),
            ("a7", "a", BEFORE, entered, clean),
            ("a8", "a", BEFORE, entered, None),
            // The hours of another tenant are its own.
            ("b1", "b", 1, entered, None),
            ("b2", "b", 1, entered, clean),
            ("b3", "b", 2, entered, clean),
        ] {
            sqlx::query(
                "INSERT INTO ledger_events \
                 (tenant, event_id, received_hour, entered, copies, disposition, reason, dispositions, repeats) \
                 VALUES ($1, $2, $3, $4, 1, $5, NULL, 1, 0)",
            )
            .bind(tenant)
            .bind(event)
            .bind(hour)
            .bind(entered)
            .bind(disposition)
            .execute(&pool)
            .await
            .unwrap();
        }
        assert_eq!(settled(&pool).await, ["a1", "b3"]);
    }

    /// A subquery that names the row runs for every row: quadratic, within a write transaction.
    #[tokio::test]
    async fn what_is_pending_is_looked_up_once() {
        let (pool, _directory) = database().await;
        let query = format!("EXPLAIN QUERY PLAN DELETE FROM ledger_events WHERE {SETTLED}");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query)).bind(BEFORE).fetch_all(&pool).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.try_get("detail").unwrap()).collect();
        assert!(plan.iter().any(|line| line.contains("LIST SUBQUERY")), "{plan:?}");
        assert!(!plan.iter().any(|line| line.contains("CORRELATED")), "{plan:?}");
    }
}
