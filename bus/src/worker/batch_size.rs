//! How many records a batch takes, so that no transaction waits long for what it is to write.

use std::time::Duration;

/// Records of a first batch at most. What they take is not known yet; and the first batch of an owner is the one whose
/// inputs are handled one by one when its process ends with it.
const FIRST: usize = 512;

/// How many records the next batch of a partition has at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchSize {
    records: usize,
    most: usize,
    longest: Duration,
}

impl BatchSize {
    /// At most `most` records, and as few as it takes to handle a batch within `longest`. Where more than a first batch
    /// may have are waiting, each batch that was full and took less than half of that time is followed by a larger one.
    pub(crate) fn new(most: usize, longest: Duration) -> Self {
        let most = most.max(1);
        Self { records: most.min(FIRST), most, longest }
    }

    /// Records that the next batch may have.
    pub(crate) const fn records(&self) -> usize {
        self.records
    }

    /// So many records were handled in this time.
    pub(crate) fn handled(&mut self, records: usize, took: Duration) {
        if records == 0 {
            return;
        }
        if took > self.longest {
            let share = self.longest.as_secs_f64() / took.as_secs_f64();
            self.records = ((records as f64 * share) as usize).clamp(1, self.most);
        } else if records >= self.records && took < self.longest / 2 {
            // Twice as many still fit.
            self.records = self.records.saturating_mul(2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONGEST: Duration = Duration::from_millis(500);

    proptest! {
        #[test]
        fn batches_come_to_fit_and_stay_large(micros in 1_u64..2_000_000, most in 1_usize..5_000) {
            let each = Duration::from_micros(micros);
            let mut size = BatchSize::new(most, LONGEST);
            for round in 0..20 {
                let records = size.records();
                prop_assert!((1..=most).contains(&records));
                let took = each * u32::try_from(records).unwrap();
                prop_assert!(round == 0 || records == 1 || took <= LONGEST, "{records} took {took:?}");
                size.handled(records, took);
            }
            // More than half of what fits.
            let fits = (LONGEST.as_micros() / each.as_micros()).clamp(1, most as u128);
            prop_assert!(size.records() as u128 * 2 >= fits, "{} of {fits}", size.records());
        }
    }

    #[test]
    fn batches_grow_while_more_is_waiting_and_time_is_left() {
        let mut size = BatchSize::new(2_048, LONGEST);
        let mut sizes = Vec::new();
        for took in [249, 100, 249, 400, 10].map(Duration::from_millis) {
            sizes.push(size.records());
            size.handled(size.records(), took);
        }
        assert_eq!(sizes, [512, 1_024, 2_048, 2_048, 2_048]);
        // Nothing was left behind: whatever is next is as small as what comes.
        size.handled(3, Duration::from_millis(1));
        assert_eq!(size.records(), 2_048);
        size.handled(2_048, Duration::from_secs(1));
        assert_eq!(size.records(), 1_024);
        let slow = |took| {
            let mut size = BatchSize::new(2_048, LONGEST);
            size.handled(512, took);
            size.records()
        };
        assert_eq!([250, 500, 1_000].map(|took| slow(Duration::from_millis(took))), [512, 512, 256]);
    }

    #[test]
    fn a_slow_spell_passes() {
        let mut size = BatchSize::new(512, LONGEST);
        size.handled(512, Duration::from_secs(50));
        assert_eq!(size.records(), 5);
        // A batch that was not full says nothing of larger ones.
        size.handled(1, Duration::from_micros(1));
        assert_eq!(size.records(), 5);
        for _ in 0..7 {
            size.handled(size.records(), Duration::from_millis(1));
        }
        assert_eq!(size.records(), 512);
    }
}
