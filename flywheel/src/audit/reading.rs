//! Reading the topics of the platform once, each from the oldest position to the cut.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bus::control::Control;
use bus::{Bus, DeadLetter, HistoryEntry, Positions, REASON_KILLED_PROCESS};
use events::topics::{DEAD_LETTERS, PREFERENCE_PAIRS, TELEMETRY_CLEAN, TELEMETRY_QUARANTINE, TELEMETRY_RAW};
use events::{CleanEvent, PreferencePair, QuarantinedEvent, RawEvent, Timestamp};
use labeler::ledger::Statement;
use rusqlite::params;

use super::cut::Cut;
use super::items::{Items, decode};
use super::replay::Visitor;
use super::scratch::{LATER, PLATFORM, Scratch, reason};
use super::stage::{Kind, Stage};
use super::tables::Tables;
use crate::progress::Progress;

/// When the first entry that is left was appended, in the partitions whose beginning retention has deleted.
pub(crate) async fn first_entries(
    bus: &dyn Bus,
    topic: &str,
    from: &Positions,
    truncated: &BTreeSet<u32>,
) -> anyhow::Result<BTreeMap<u32, Timestamp>> {
    let ends = bus.end_positions(topic).await?;
    let mut first = BTreeMap::new();
    for partition in truncated {
        let one = |positions: &Positions| positions.get(*partition).map(|at| (*partition, at)).into_iter().collect();
        let mut history = bus.history(topic, one(from), one(&ends)).await?;
        // A partition of which nothing is left tells of no time.
        if let Some(entry) = history.next().await?.first() {
            first.insert(*partition, entry.appended_at);
        }
    }
    Ok(first)
}

/// What sees the platform's records.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) bus: &'a dyn Bus,
    pub(crate) cut: &'a Cut,
    pub(crate) tables: &'a Tables,
    pub(crate) scratch: &'a Scratch,
    pub(crate) items: &'a Items,
    pub(crate) progress: &'a Progress,
}

fn is_before(positions: Option<&Positions>, entry: &HistoryEntry) -> bool {
    positions.and_then(|positions| positions.get(entry.partition)).is_some_and(|end| entry.position < end)
}

impl Reading<'_> {
    /// Whether the ledger has read this entry.
    fn in_ledger(&self, topic: &str, entry: &HistoryEntry) -> bool {
        let Statement { cut, .. } = &self.tables.statement;
        is_before(cut.get(topic), entry)
    }

    fn side(&self, topic: &str, entry: &HistoryEntry) -> i64 {
        if is_before(self.cut.ends.get(topic), entry) { PLATFORM } else { LATER }
    }

    async fn item(&self, kind: Kind, entry: &HistoryEntry) -> anyhow::Result<()> {
        let item = self.items.read(kind, entry).await?;
        self.scratch.saw_item(self.side(kind.topic(), entry), &item, entry.partition, false)
    }

    /// What stands between two positions, without control records.
    async fn records(
        &self,
        topic: &str,
        from: Positions,
        until: Positions,
        mut see: impl AsyncFnMut(&HistoryEntry) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut history = self.bus.history(topic, from, until).await?;
        loop {
            let entries = history.next().await?;
            if entries.is_empty() {
                return Ok(());
            }
            self.progress.advance(entries.len() as u64);
            for entry in entries.iter().filter(|entry| !entry.is_control) {
                see(entry).await?;
            }
        }
    }

    async fn whole(
        &self,
        topic: &'static str,
        see: impl AsyncFnMut(&HistoryEntry) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let from = self.cut.from.get(topic).cloned().unwrap_or_default();
        self.records(topic, from, self.cut.until(topic), see).await
    }

    /// Dead letters come first: they say which sessions can not be judged, and which must not be replayed.
    pub(crate) async fn dead_letters(&self) -> anyhow::Result<()> {
        self.whole(DEAD_LETTERS, async |entry| {
            let Some(letter) = decode::<DeadLetter>(DEAD_LETTERS, &entry.value)? else { return Ok(()) };
            for stage in Stage::ALL.into_iter().filter(|stage| stage.step() == letter.step) {
                if letter.reason == REASON_KILLED_PROCESS {
                    self.scratch.must_not_replay(stage, &letter.key)?;
                }
                self.scratch.skip(stage, &letter.key, reason::GIVEN_UP)?;
                if stage == Stage::Labeler {
                    // Redriven, it stands in the clean topic once more.
                    self.scratch.skip(Stage::Anonymizer, &letter.key, reason::GIVEN_UP)?;
                }
            }
            if letter.topic == TELEMETRY_RAW && self.in_ledger(DEAD_LETTERS, entry) {
                for affected in &letter.affected {
                    self.scratch.given_up(&affected.event_id, &letter.reason, affected.received_at)?;
                }
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn quarantine(&self) -> anyhow::Result<()> {
        self.whole(TELEMETRY_QUARANTINE, async |entry| {
            self.item(Kind::Quarantined, entry).await?;
            if self.in_ledger(TELEMETRY_QUARANTINE, entry)
                && let Some(event) = decode::<QuarantinedEvent>(TELEMETRY_QUARANTINE, &entry.value)?
            {
                self.scratch.quarantined(&event)?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn pairs(&self) -> anyhow::Result<()> {
        self.whole(PREFERENCE_PAIRS, async |entry| {
            let item = self.items.read(Kind::Pair, entry).await?;
            self.scratch.saw_item(self.side(PREFERENCE_PAIRS, entry), &item, entry.partition, false)?;
            if is_before(Some(&self.tables.lake), entry)
                && let Some(pair) = decode::<PreferencePair>(PREFERENCE_PAIRS, &entry.value)?
            {
                let (id, digest) = (pair.pair_id.to_string(), self.items.stored(&pair)?);
                let is_expired = self.tables.expired.get(&pair.tenant).is_some_and(|until| pair.labeled_at <= *until);
                let may_be_gone = match (item.is_erased, is_expired) {
                    (true, _) => Some(reason::ERASED),
                    (false, true) => Some(reason::RETENTION),
                    (false, false) => None,
                };
                self.scratch
                    .connection
                    .prepare_cached(
                        "INSERT INTO pair_log (partition, position, pair_id, digest, may_be_gone) \
                         VALUES (?1, ?2, ?3, ?4, ?5)",
                    )?
                    .execute(params![entry.partition, entry.position.to_string(), id, digest, may_be_gone])?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn outcomes(&self) -> anyhow::Result<()> {
        let topic = Kind::Outcome.topic();
        self.whole(topic, async |entry| {
            let item = self.items.read(Kind::Outcome, entry).await?;
            self.scratch.saw_item(self.side(topic, entry), &item, entry.partition, false)?;
            if is_before(Some(&self.tables.tally), entry) {
                let insert = "INSERT INTO outcome_log (id, digest) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
                self.scratch.connection.prepare_cached(insert)?.execute(params![item.id, item.digest])?;
            }
            Ok(())
        })
        .await
    }

    /// What was put out while the audit went on: it may be what a replay says must be there. (On Kafka the end of a
    /// transaction may be seen a moment after the position that it moved.)
    pub(crate) async fn what_came_since(&self) -> anyhow::Result<()> {
        for kind in Stage::ALL.into_iter().flat_map(Stage::kinds) {
            let (topic, from) = (kind.topic(), self.cut.until(kind.topic()));
            let until = self.bus.end_positions(topic).await?;
            self.records(topic, from, until, async |entry| self.item(kind, entry).await).await?;
        }
        Ok(())
    }
}

/// Sees the raw topic while it is copied.
#[async_trait(?Send)]
impl Visitor for RawReader<'_> {
    async fn visit(&mut self, entry: &HistoryEntry) -> anyhow::Result<()> {
        let Reading { scratch, .. } = self.0;
        if entry.is_control {
            return saw_control(scratch, Stage::Anonymizer, entry);
        }
        let Some(event) = decode::<RawEvent>(TELEMETRY_RAW, &entry.value)? else {
            return scratch.saw_input(Stage::Anonymizer, entry, None, false);
        };
        let (header, begins) = (&event.header, event.header.sequence == 1);
        let owner = (header.tenant.as_str(), header.person.as_str());
        scratch.saw_input(Stage::Anonymizer, entry, Some(owner), begins)?;
        if self.0.in_ledger(TELEMETRY_RAW, entry) {
            scratch.entered(&event, entry.partition)?;
        }
        Ok(())
    }
}

/// Sees the clean topic while it is copied: what one step put out, and the other one reads.
#[async_trait(?Send)]
impl Visitor for CleanReader<'_> {
    async fn visit(&mut self, entry: &HistoryEntry) -> anyhow::Result<()> {
        let Reading { scratch, .. } = self.0;
        if entry.is_control {
            return saw_control(scratch, Stage::Labeler, entry);
        }
        self.0.item(Kind::Clean, entry).await?;
        let Some(event) = decode::<CleanEvent>(TELEMETRY_CLEAN, &entry.value)? else {
            return scratch.saw_input(Stage::Labeler, entry, None, false);
        };
        let (header, begins) = (&event.header, event.header.sequence == 1);
        let owner = (header.tenant.as_str(), header.person.as_str());
        scratch.saw_input(Stage::Labeler, entry, Some(owner), begins)?;
        for opportunity in header.receipt.iter().map(|receipt| receipt.opportunity_id).chain(header.opportunity_id) {
            scratch.saw_opportunity(opportunity, &entry.key)?;
        }
        if self.0.in_ledger(TELEMETRY_CLEAN, entry) {
            scratch.cleaned(&event)?;
        }
        Ok(())
    }
}

/// [`Visitor`] of the raw topic.
pub(crate) struct RawReader<'a>(pub(crate) Reading<'a>);
/// [`Visitor`] of the clean topic.
pub(crate) struct CleanReader<'a>(pub(crate) Reading<'a>);

fn saw_control(scratch: &Scratch, stage: Stage, entry: &HistoryEntry) -> anyhow::Result<()> {
    match Control::decode(&entry.value) {
        Some(control) => scratch.saw_control(stage, entry, &control.kind, &control.subject),
        None => Ok(()),
    }
}
