//! Settings of the labeler.

use serde::{Deserialize, Serialize};

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

/// When a Parquet part is closed: at whichever comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LakeConfig {
    /// Bytes of records read.
    pub part_bytes: usize,
    /// Records read.
    pub part_records: usize,
    /// Real time since the first of them was read, in milliseconds.
    pub part_age_ms: u64,
}

impl Default for LakeConfig {
    fn default() -> Self {
        Self { part_bytes: 16 << 20, part_records: 20_000, part_age_ms: 2_000 }
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
