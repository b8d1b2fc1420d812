//! Batches whose inputs take long become smaller, and none is larger than the file's writer likes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use events::Timestamp;

use super::model_tests::Local;
use crate::model_tests::{self, Owners as _};
use crate::partition::partition_for;
use crate::record::{CommittedRecord, Record, RecordKey};
use crate::step::{Input, Outcome, Prepared, StepContext, StepHandler, StepLimits, StepSpec};

const FULL: usize = 100;

/// Takes a while for each record.
struct Takes(Duration);

impl StepHandler for Takes {
    fn handle(&self, _: Input<'_>, _: &mut dyn StepContext) -> Outcome {
        std::thread::sleep(self.0);
        Outcome::Ok
    }

    fn partition_time_of(&self, _: &CommittedRecord, _: &Prepared) -> Option<Timestamp> {
        None
    }
}

/// How many records each of the first two batches has.
fn batches(records: usize, takes: Duration, limits: StepLimits) -> [u64; 2] {
    let clock = model_tests::clock();
    let mut log = Local::new(&clock);
    let key = RecordKey([1; 16]);
    let records = vec![Record { key, value: Bytes::from_static(b"value") }; records];
    for result in log.runtime().block_on(log.bus().publish("in", records)) {
        result.unwrap();
    }
    let spec = StepSpec { limits, ..StepSpec::new("step", "in", ["out"], "dead") };
    let mut workers = log.claim(&spec, Arc::new(Takes(takes)));
    let worker = workers.get_mut(&partition_for(&key, model_tests::PARTITIONS)).unwrap();
    let mut before = 0;
    [(); 2].map(|()| {
        worker.turn().unwrap();
        worker.position() - std::mem::replace(&mut before, worker.position())
    })
}

#[test]
fn a_batch_that_took_too_long_is_followed_by_a_smaller_one() {
    let within = |batch_time| StepLimits { batch_records: FULL, batch_time, ..StepLimits::default() };
    // A hundred of a millisecond each take a hundred times as long as they may.
    assert_eq!(batches(2 * FULL, Duration::from_millis(1), within(Duration::from_millis(1))), [100, 1]);
    assert_eq!(batches(2 * FULL, Duration::ZERO, within(Duration::from_secs(3_600))), [100, 100]);
}

#[test]
fn no_batch_of_the_file_is_larger_than_512_records_whatever_a_step_allows() {
    let limits = StepLimits { batch_time: Duration::from_secs(3_600), ..StepLimits::default() };
    assert!(limits.batch_records > 512);
    assert_eq!(batches(1_100, Duration::ZERO, limits), [512, 512]);
}
