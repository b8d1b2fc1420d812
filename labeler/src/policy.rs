//! The numbers of the label policy. Changing what a number means is a new label policy version.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Version of the label table and its numbers; part of every pair's id.
pub const LABEL_POLICY_VERSION: i32 = 1;

/// When the looks of an episode are taken, in seconds after the decision.
pub const LOOKS_S: [i32; 3] = [30, 120, 300];

/// Settings of the label table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelPolicy {
    /// Quiet in the region after which an episode settles, by the client's monotonic clock.
    pub settle_ms: i64,
    /// Age at which an episode closes, by the client's monotonic clock.
    pub close_ms: i64,
    /// How much later than its time the last look may be taken.
    pub look_grace_ms: i64,
    /// A suggestion that was visible for less is superseded.
    pub superseded_below_ms: i64,
    /// Chosen text is at most that long in the making.
    pub editing_ms: i64,
    /// A pause within longer editing that counts as the boundary of an action.
    pub boundary_ms: i64,
    /// Chosen text is at most that many times as long as the suggestion.
    pub length_factor: usize,
    /// A suggestion shorter than this (or none) counts as this long for the limit, in bytes.
    pub length_floor_bytes: usize,
    /// How many lines around the suggestion belong to its region, each way.
    pub region_lines: usize,
    /// Weight of what was typed by hand although it was suggested.
    pub typed_through_weight: f64,
    /// Weight of what was typed against a visible suggestion.
    pub typed_against_weight: f64,
    /// Whether Esc and then nothing also teaches `NO_EDIT`.
    pub no_edit_for_dismissed: bool,
    /// How late an event may come (the anonymizer's `lateness`): an episode that no event closes waits that much longer.
    #[serde(with = "seconds")]
    pub lateness: Duration,
    /// Added to `lateness`, for the way through the door and the anonymizer.
    #[serde(with = "seconds")]
    pub timer_margin: Duration,
}

impl Default for LabelPolicy {
    fn default() -> Self {
        Self {
            settle_ms: 10_000,
            close_ms: 300_000,
            look_grace_ms: 5_000,
            superseded_below_ms: 250,
            editing_ms: 30_000,
            boundary_ms: 2_000,
            length_factor: 3,
            length_floor_bytes: 48,
            region_lines: 1,
            typed_through_weight: 0.5,
            typed_against_weight: 0.5,
            no_edit_for_dismissed: true,
            lateness: Duration::from_secs(15 * 60),
            timer_margin: Duration::from_secs(60),
        }
    }
}

impl LabelPolicy {
    /// When an opportunity closes that no event closes, after serving answered.
    #[must_use]
    pub fn close_by_timer_after(&self) -> Duration {
        let close = u64::try_from(self.close_ms.saturating_add(self.look_grace_ms)).unwrap_or(0);
        Duration::from_millis(close) + self.lateness + self.timer_margin
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(duration.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}
