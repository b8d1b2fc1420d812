//! Settings of the labeler.

use std::time::Duration;

use events::Timestamp;
use serde::{Deserialize, Serialize};

use crate::lake::RowGroupLimits;
use crate::policy::LabelPolicy;

/// `[labeler]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelerConfig {
    /// Numbers of the label table.
    pub policy: LabelPolicy,
    /// Bounds of keyed state.
    pub limits: SessionLimits,
    /// The pair lake.
    pub lake: LakeConfig,
    /// Ledger and tally.
    pub sinks: SinkConfig,
}

/// Bounds of what is kept of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionLimits {
    /// Opportunities open at once; beyond it the oldest is closed.
    pub open_opportunities: usize,
    /// Events kept about one opportunity; what comes beyond is dropped and counted.
    pub opportunity_bytes: usize,
    /// Bytes kept of all open opportunities and edits together; beyond it the oldest opportunity is closed.
    pub session_bytes: usize,
    /// Edits kept.
    pub edits: usize,
    /// Bytes of edits kept.
    pub edit_bytes: usize,
    /// Quiet after which a session is over, in seconds.
    pub session_quiet_s: u64,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            open_opportunities: 32,
            opportunity_bytes: 256 << 10,
            session_bytes: 4 << 20,
            edits: 4096,
            edit_bytes: 1 << 20,
            session_quiet_s: 30 * 60,
        }
    }
}

/// When a Parquet part is closed (at whichever comes first), how it is made, and when small ones become large.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LakeConfig {
    /// Bytes of records read.
    pub part_bytes: usize,
    /// Records read.
    pub part_records: usize,
    /// Real time since the first of them was read, in milliseconds.
    pub part_age_ms: u64,
    /// Parts, each of one day, audience and language, that are made of what was read of a partition; whatever belongs
    /// to further ones lies together in one more until it is compacted.
    pub part_groups: usize,
    /// Pairs of a row group.
    pub row_group_pairs: usize,
    /// Bytes of a row group before compression, about.
    pub row_group_bytes: usize,
    /// Days that pairs stay in the lake after they were labeled, by the platform's clock; 0: for ever.
    pub keep_days: u64,
    /// Few large parts of many small ones.
    pub compaction: CompactionConfig,
}

impl Default for LakeConfig {
    fn default() -> Self {
        Self {
            part_bytes: 16 << 20,
            part_records: 20_000,
            part_age_ms: 2_000,
            part_groups: 16,
            row_group_pairs: 10_000,
            row_group_bytes: 8 << 20,
            keep_days: 180,
            compaction: CompactionConfig::default(),
        }
    }
}

impl LakeConfig {
    /// When a row group is closed.
    #[must_use]
    pub fn row_groups(&self) -> RowGroupLimits {
        RowGroupLimits { pairs: self.row_group_pairs, bytes: self.row_group_bytes }
    }

    /// Pairs that were labeled before then are past retention `now`; none: no pair ever is.
    #[must_use]
    pub fn labels_kept_from(&self, now: Timestamp) -> Option<Timestamp> {
        (self.keep_days > 0).then(|| now - Duration::from_secs(self.keep_days.saturating_mul(86_400)))
    }
}

/// Compaction of the lake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompactionConfig {
    /// Whether this process compacts. It takes part in retention all the same.
    pub enabled: bool,
    /// Real time between two looks, in seconds.
    pub interval_s: u64,
    /// Small parts of a day, audience and language that are merged while the day goes on; of an earlier day, two are
    /// enough.
    pub parts: usize,
    /// Bytes of a part that is made; one of half of it or more is not small.
    pub part_bytes: u64,
    /// Pairs of a part that is made; one of half of them or more is not small.
    pub part_pairs: u64,
    /// How long the objects of parts that were replaced are kept, in hours of real time. Longer than anybody goes on
    /// reading what was listed once, and than the oldest backup of the database is old.
    pub keep_replaced_hours: u64,
}

impl Default for CompactionConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            interval_s: 60,
            parts: 8,
            part_bytes: 32 << 20,
            part_pairs: 100_000,
            keep_replaced_hours: 7 * 24,
        }
    }
}

/// Batches of the sinks that write rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SinkConfig {
    /// Records in one transaction.
    pub batch_records: usize,
    /// Real time that a sink waits for more, in milliseconds.
    pub wait_ms: u64,
    /// Hours after which the ledger's rows of an hour without pending events become counts; 0: never. Longer than
    /// anything of the raw topic and of quarantine is kept.
    pub fold_after_hours: u64,
}

impl Default for SinkConfig {
    fn default() -> Self {
        Self { batch_records: 1_000, wait_ms: 200, fold_after_hours: 15 * 24 }
    }
}
