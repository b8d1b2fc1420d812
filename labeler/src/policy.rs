//! The numbers of the label policy. Changing what a number means, or a default, is a new label policy version.

use std::time::Duration;

use events::Sha256Digest;
use serde::{Deserialize, Serialize};

/// Version of the label table with its default numbers; part of every pair's id. 2: every action is judged by itself,
/// comments and strings are compared by their text, and what contradicts itself, or may miss a report, teaches nothing.
pub const LABEL_POLICY_VERSION: i32 = 2;

/// Versions of other numbers begin here; below are the releases' own.
const FIRST_DERIVED_VERSION: u32 = 1_000_000;

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
    /// How late an event may come (the anonymizer's `lateness`): an episode that no event closes waits that much
    /// longer.
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
    /// The version under which pairs of this policy have their ids: the release's own for the default numbers, else one
    /// that is derived from the numbers, so that pairs of different policies never share an id.
    ///
    /// `lateness` and `timer_margin` are no part of it. No verdict reads them: given the same facts, an episode is
    /// judged the same. They say until when facts are awaited, and so which of them are known when a timer closes an
    /// episode that no event did. Within one log that is settled once for every opportunity, at one position and by one
    /// policy (the control record carries both settings), so two different pairs under one id cannot come of it.
    #[must_use]
    pub fn version(&self) -> i32 {
        let judging = |policy: &Self| Self { lateness: Duration::ZERO, timer_margin: Duration::ZERO, ..policy.clone() };
        let own = judging(self);
        if own == judging(&Self::default()) {
            return LABEL_POLICY_VERSION;
        }
        // Numbers of a policy always serialize; if they did not, debug text would still tell policies apart.
        let numbers = serde_json::to_vec(&own).unwrap_or_else(|_| format!("{own:?}").into_bytes());
        let digest = Sha256Digest::of_parts("label policy", &[&LABEL_POLICY_VERSION.to_be_bytes(), &numbers]);
        let [one, two, three, four, ..] = *digest.as_bytes();
        let range = i32::MAX.unsigned_abs() - FIRST_DERIVED_VERSION;
        let derived = FIRST_DERIVED_VERSION + u32::from_be_bytes([one, two, three, four]) % range;
        i32::try_from(derived).unwrap_or(i32::MAX)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_numbers_are_another_version_and_other_waits_are_not() {
        let default = LabelPolicy::default();
        assert_eq!(default.version(), LABEL_POLICY_VERSION);
        let patient =
            LabelPolicy { timer_margin: Duration::from_secs(1800), lateness: Duration::ZERO, ..default.clone() };
        assert_eq!(patient.version(), LABEL_POLICY_VERSION);
        let others = [
            LabelPolicy { settle_ms: 9_999, ..default.clone() },
            LabelPolicy { close_ms: 300_001, ..default.clone() },
            LabelPolicy { typed_through_weight: 0.25, ..default.clone() },
            LabelPolicy { typed_against_weight: 0.25, ..default.clone() },
            LabelPolicy { no_edit_for_dismissed: false, ..default.clone() },
        ];
        let mut versions: Vec<i32> = others.iter().map(LabelPolicy::version).collect();
        assert!(versions.iter().all(|version| *version >= 1_000_000), "{versions:?}");
        assert_eq!(versions, others.iter().map(LabelPolicy::version).collect::<Vec<_>>());
        versions.sort_unstable();
        versions.dedup();
        assert_eq!(versions.len(), others.len());
    }
}
