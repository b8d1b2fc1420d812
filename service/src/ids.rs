//! Sources of fresh identifiers: random ones, and ones that a seed determines.

use std::sync::atomic::{AtomicI64, Ordering};

use events::{IdSource, Sha256Digest, Timestamp, uuid_v7};
use parking_lot::Mutex;
use rand::RngExt;
use uuid::Uuid;

use crate::clock::SharedClock;

/// Largest value of the 12 bits that RFC 9562 leaves for a counter after the milliseconds.
const LARGEST_COUNTER: u16 = 0x0fff;

/// Random UUIDv7s. Ids of one source are strictly ascending, also within a millisecond and when the clock stands still
/// or is set back.
#[derive(Debug)]
pub struct SystemIds {
    clock: SharedClock,
    last: Mutex<(i64, u16)>,
}

impl SystemIds {
    /// A source that reads `clock`.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, last: Mutex::new((i64::MIN, 0)) }
    }
}

impl IdSource for SystemIds {
    fn next_uuid(&self) -> Uuid {
        let mut random: [u8; 10] = rand::rng().random();
        let now = self.clock.now().as_millis();
        let (millis, counter) = {
            let mut last = self.last.lock();
            *last = match *last {
                (millis, _) if now > millis => (now, 0),
                (millis, counter) if counter < LARGEST_COUNTER => (millis, counter + 1),
                (millis, _) => (millis.saturating_add(1), 0),
            };
            *last
        };
        let [high, low] = counter.to_be_bytes();
        random[0] = high;
        random[1] = low;
        uuid_v7(Timestamp::from_micros(millis.saturating_mul(1000)), random)
    }
}

/// UUIDv7s that depend on nothing but a seed, a label and how many came before. Tasks that run at the same time take
/// a child each, so that the schedule does not decide who gets which id.
#[derive(Debug)]
pub struct SeededIds {
    seed: Sha256Digest,
    start_millis: i64,
    counter: AtomicI64,
}

impl SeededIds {
    /// The first id carries `start`, every further one a millisecond more.
    #[must_use]
    pub fn new(seed: u64, start: Timestamp) -> Self {
        let seed = Sha256Digest::of_parts("flywheel seeded ids", &[&seed.to_be_bytes()]);
        Self { seed, start_millis: start.as_millis(), counter: AtomicI64::new(0) }
    }

    /// An independent source, the same for the same label.
    #[must_use]
    pub fn child(&self, label: &str) -> Self {
        let seed = Sha256Digest::of_parts("flywheel seeded ids child", &[self.seed.as_bytes(), label.as_bytes()]);
        Self { seed, start_millis: self.start_millis, counter: AtomicI64::new(0) }
    }
}

impl IdSource for SeededIds {
    fn next_uuid(&self) -> Uuid {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        let digest = Sha256Digest::of_parts("flywheel seeded id", &[self.seed.as_bytes(), &count.to_be_bytes()]);
        let mut random = [0_u8; 10];
        random.copy_from_slice(&digest.as_bytes()[..10]);
        let millis = self.start_millis.saturating_add(count);
        uuid_v7(Timestamp::from_micros(millis.saturating_mul(1000)), random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimulatedClock;

    #[test]
    fn system_ids_ascend_while_the_clock_stands_still() {
        let clock = SimulatedClock::new(Timestamp::from_seconds(1_700_000_000));
        let ids = SystemIds::new(clock.shared());
        let made: Vec<Uuid> = (0..10_000).map(|_| ids.next_uuid()).collect();
        assert!(made.is_sorted_by(|a, b| a < b));
        assert!(made.iter().all(|id| id.get_version_num() == 7));
    }

    #[test]
    fn seeded_ids_repeat_and_children_differ() {
        let make = |label: &str| {
            let source = SeededIds::new(7, Timestamp::from_seconds(1_700_000_000)).child(label);
            (0..3).map(|_| source.next_uuid()).collect::<Vec<_>>()
        };
        assert_eq!(make("developer 1"), make("developer 1"));
        assert_ne!(make("developer 1"), make("developer 2"));
        assert!(make("developer 1").is_sorted());
    }
}
