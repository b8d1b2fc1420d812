//! Settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::AnonymizerError;
use crate::scene::SceneLimits;

/// `[anonymizer]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnonymizerConfig {
    /// How long a gap in the sequence, or a signal without its exposure, is waited for, in seconds of partition time.
    pub lateness_s: u64,
    /// Quiet after which a group of events is settled, in seconds.
    pub settle_s: u64,
    /// How long an episode lasts, in seconds; with `lateness_s` on top, the substitution map is kept so long.
    pub close_s: u64,
    /// Longest group of events, in seconds of the client's clock.
    pub longest_group_s: u64,
    /// Longest session, in seconds of the client's clock.
    pub longest_session_s: u64,
    /// How long after its first event a session is forgotten, with the digests that tell duplicates, in seconds.
    pub forget_after_s: u64,
    /// How long a forgotten session is still known to have been one, so that what a client repeats after days counts as
    /// a repetition, in seconds.
    pub mark_for_s: u64,
    /// Events held per session; beyond it the oldest are concluded early.
    pub held_events: usize,
    /// Bytes of records held per session; beyond it the oldest are concluded early.
    pub held_bytes: usize,
    /// Bytes of one event's text; a larger one is quarantined.
    pub event_text_bytes: usize,
    /// Characters scanned for one group, all passes together; a group that needs more is quarantined.
    pub scanned_characters: usize,
    /// Characters of documents that are remembered between groups of a session.
    pub remembered_characters: usize,
    /// Pairs of the substitution map that are remembered between groups of a session.
    pub remembered_pairs: usize,
}

impl Default for AnonymizerConfig {
    fn default() -> Self {
        Self {
            lateness_s: 15 * 60,
            settle_s: 10,
            close_s: 300,
            longest_group_s: 120,
            longest_session_s: 24 * 3600,
            forget_after_s: 49 * 3600,
            mark_for_s: 60 * 86_400,
            held_events: 4096,
            held_bytes: 8 << 20,
            event_text_bytes: 512 << 10,
            scanned_characters: 64 << 20,
            remembered_characters: 64 << 10,
            remembered_pairs: 256,
        }
    }
}

impl AnonymizerConfig {
    /// Refuses values that make no step.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn check(&self) -> Result<(), AnonymizerError> {
        let rules: [(bool, &'static str, &'static str); 5] = [
            (self.settle_s > 0, "settle_s", "at least 1"),
            (self.longest_group_s >= self.settle_s, "longest_group_s", "at least settle_s"),
            (self.held_events > 0, "held_events", "at least 1"),
            (self.held_bytes > 0, "held_bytes", "at least 1"),
            (
                self.forget_after_s >= self.longest_session_s + self.lateness_s,
                "forget_after_s",
                "at least longest_session_s and lateness_s together",
            ),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, key, expected)) => Err(AnonymizerError::Setting { key, expected }),
            None => Ok(()),
        }
    }

    pub(crate) fn lateness(&self) -> Duration {
        Duration::from_secs(self.lateness_s)
    }

    pub(crate) fn settle(&self) -> Duration {
        Duration::from_secs(self.settle_s)
    }

    pub(crate) fn memory(&self) -> Duration {
        Duration::from_secs(self.close_s + self.lateness_s)
    }

    pub(crate) fn forget_after(&self) -> Duration {
        Duration::from_secs(self.forget_after_s)
    }

    pub(crate) fn mark_for(&self) -> Duration {
        Duration::from_secs(self.mark_for_s)
    }

    pub(crate) fn scene_limits(&self) -> SceneLimits {
        SceneLimits {
            event_bytes: self.event_text_bytes,
            scanned_characters: self.scanned_characters,
            remembered_characters: self.remembered_characters,
            remembered_pairs: self.remembered_pairs,
        }
    }
}
