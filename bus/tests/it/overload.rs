//! What every implementation of the bus must do when more is published than it can write.

use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, PublishError, Record};
use bytes::Bytes;

use crate::suite::{key, publish, read_all, topics};

/// How many bytes may be in flight on a bus that is given to [`what_there_is_no_room_for_is_refused_in_order`].
pub(crate) const ROOM: usize = 100_000;
/// How long it lets calls wait for room.
pub(crate) const PUBLISH_WAIT_MS: u64 = 100;

/// More than half of the room for a call, so that no two have it together.
const CALL_RECORDS: u32 = 7;
const RECORD_BYTES: usize = 10_000;
const MOST_CALLS: u32 = 30;
/// A call that was refused has its answer before that; one that was taken waits for its own.
const ANSWERED: Duration = Duration::from_secs(1);

fn record(number: u32) -> Record {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(RECORD_BYTES, 0);
    Record { key: key(1), value: Bytes::from(value) }
}

fn numbers(call: u32) -> std::ops::Range<u32> {
    call * CALL_RECORDS..(call + 1) * CALL_RECORDS
}

/// A bus that holds little, and whose log is kept from taking anything from `stop_up` until `let_go`: what there is no
/// room for is refused, record by record and none before one that was taken; what was taken is there once it can be,
/// and what was refused is not, until it is published again.
pub(crate) async fn what_there_is_no_room_for_is_refused_in_order(
    bus: &Arc<dyn Bus>,
    stop_up: impl FnOnce(),
    let_go: impl FnOnce(),
) {
    topics(&**bus, 1).await;
    publish(&**bus, numbers(0).map(record).collect()).await;
    let mut expected: Vec<u32> = numbers(0).collect();
    stop_up();
    let mut waiting = Vec::new();
    let mut call = 0;
    let refused = loop {
        call += 1;
        assert!(call <= MOST_CALLS, "there is room for everything");
        let bus = Arc::clone(bus);
        let mut calling = tokio::spawn(async move { bus.publish("in", numbers(call).map(record).collect()).await });
        match tokio::time::timeout(ANSWERED, &mut calling).await {
            Ok(results) => break results.unwrap(),
            Err(_) => waiting.push((call, calling)),
        }
    };
    assert!(!waiting.is_empty(), "nothing was taken: {refused:?}");
    assert_eq!(refused, vec![Err(PublishError::Overloaded); CALL_RECORDS as usize]);
    let_go();

    let mut again: Vec<u32> = Vec::new();
    for (call, calling) in waiting {
        let results = calling.await.unwrap();
        assert_eq!(results.len(), CALL_RECORDS as usize);
        let taken = results.iter().take_while(|result| result.is_ok()).count();
        let rest = &results[taken..];
        assert!(rest.iter().all(|result| *result == Err(PublishError::Overloaded)), "call {call}: {results:?}");
        expected.extend(numbers(call).take(taken));
        again.extend(numbers(call).skip(taken));
    }
    again.extend(numbers(call));
    // There is room again, and what is tried again follows.
    for call in again.chunks(CALL_RECORDS as usize) {
        publish(&**bus, call.iter().copied().map(record).collect()).await;
    }
    expected.extend(again);
    let read = read_all(&**bus, "in").await;
    let found: Vec<u32> = read.iter().map(|record| u32::from_be_bytes(*record.value.first_chunk().unwrap())).collect();
    assert_eq!(found, expected);
}
