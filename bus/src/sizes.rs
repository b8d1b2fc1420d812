//! How large records and values may be, by where they lie.
//!
//! An event as its client sends it is smaller than a record of the door, that is smaller than what a step may make of
//! it, a value of keyed state is larger still, and a dead letter holds any of them with its reasons. So whatever was
//! taken in at the door can go all the way, and nothing fails half-way for its size.

use crate::StepLimits;

/// Dead letters of every service lie in topics of such names.
const DEAD_LETTERS: &str = "dead";

/// Limits of values in bytes, in the order of the way of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// A record of the door.
    pub(crate) raw: usize,
    /// What a step makes of records, and what the control plane says.
    pub(crate) derived: usize,
    /// A value of keyed state.
    pub(crate) state: usize,
    /// A dead letter.
    pub(crate) dead_letter: usize,
}

impl Sizes {
    /// Those of a log whose door takes records of up to `record_bytes`.
    pub(crate) fn of(record_bytes: usize) -> Self {
        let state = record_bytes.saturating_mul(4).max(StepLimits::default().state_value_bytes);
        Self { raw: record_bytes, derived: record_bytes.saturating_mul(2), state, dead_letter: state.saturating_mul(2) }
    }

    /// Largest record of a topic.
    pub(crate) fn of_topic(self, topic: &str) -> usize {
        match topic {
            events::topics::TELEMETRY_RAW => self.raw,
            name if name.contains(DEAD_LETTERS) => self.dead_letter,
            _ => self.derived,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_taken_in_fits_all_the_way() {
        for record_bytes in [1, 1_000, 1 << 20, 8 << 20] {
            let Sizes { raw, derived, state, dead_letter } = Sizes::of(record_bytes);
            let sizes = [raw, derived, state, dead_letter];
            assert!(sizes.is_sorted_by(|less, more| less < more), "{sizes:?}");
        }
        let sizes = Sizes::of(1 << 20);
        assert_eq!(sizes.of_topic(events::topics::TELEMETRY_RAW), sizes.raw);
        assert_eq!(sizes.of_topic(events::topics::PREFERENCE_PAIRS), sizes.derived);
        assert_eq!(sizes.of_topic(events::topics::DEAD_LETTERS), sizes.dead_letter);
    }
}
