//! What is published is read again, in its order, by whoever may: tails, history, and what is refused.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::control::Control;
use bus::{BusError, HistoryEntry, Positions, PublishError, Record, RecordKey, Retention, TopicSpec, partition_for};
use bytes::Bytes;

use super::{BOUND, Harness, eventually, key, key_in, publish, read_all, start, topics};

pub(crate) async fn publishes_and_tails_in_order(harness: impl Harness) {
    let bus = harness.bus();
    topics(&*bus, 4).await;
    assert_eq!(bus.partitions("in").await, Ok(4));
    let records: Vec<Record> =
        (0..200_u8).map(|number| Record { key: key(number % 7), value: Bytes::from(vec![number]) }).collect();
    let results = bus.publish("in", records.clone()).await;
    let mut places = BTreeSet::new();
    for (record, result) in records.iter().zip(results) {
        let (partition, position) = result.unwrap();
        assert_eq!(partition, partition_for(&record.key, 4));
        assert!(places.insert((partition, position)));
    }
    let read = read_all(&*bus, "in").await;
    assert_eq!(read.iter().map(|record| (record.partition, record.position)).collect::<BTreeSet<_>>(), places);
    assert!(read.iter().all(|record| record.appended_at == start() && &*record.topic == "in"));
    for number in 0..7 {
        let of_key = |key_of: &RecordKey| *key_of == key(number);
        let expected: Vec<&Bytes> =
            records.iter().filter(|record| of_key(&record.key)).map(|record| &record.value).collect();
        let found: Vec<&Bytes> = read.iter().filter(|record| of_key(&record.key)).map(|record| &record.value).collect();
        assert_eq!(found, expected);
    }
    for partition in 0..4 {
        let positions: Vec<_> =
            read.iter().filter(|record| record.partition == partition).map(|record| record.position).collect();
        assert!(positions.is_sorted_by(|a, b| a < b));
    }
}

pub(crate) async fn a_tail_goes_on_where_its_owner_says(harness: impl Harness) {
    let bus = harness.bus();
    topics(&*bus, 2).await;
    publish(&*bus, (0..20).map(|number| Record { key: key(number), value: Bytes::from(vec![number]) }).collect()).await;
    let mut tail = bus.tail("in", "sink", Positions::oldest()).await.unwrap();
    let mut owned = Positions::oldest();
    let mut read = BTreeSet::new();
    for record in tail.next(7, BOUND).await.unwrap() {
        owned.advance_past(&record);
        read.insert(record.value);
    }
    assert!(!read.is_empty() && read.len() <= 7);
    tail.commit(&owned).await.unwrap();
    drop(tail);
    let text: Vec<(u32, String)> =
        owned.iter().map(|(partition, position)| (partition, position.to_string())).collect();
    let stored: Positions = text.iter().map(|(partition, text)| (*partition, text.parse().unwrap())).collect();
    let mut tail = harness.another().tail("in", "sink", stored).await.unwrap();
    while read.len() < 20 {
        for record in tail.next(3, BOUND).await.unwrap() {
            assert!(read.insert(record.value), "read twice");
        }
    }
    assert!(tail.next(3, Duration::ZERO).await.unwrap().is_empty());
    assert_eq!(tail.positions(), bus.end_positions("in").await.unwrap());
}

pub(crate) async fn history_shows_control_records_between_two_positions(harness: impl Harness) {
    let bus = harness.bus();
    topics(&*bus, 2).await;
    assert_eq!(bus.oldest_positions("in").await, bus.end_positions("in").await);
    let texts = |entries: Vec<HistoryEntry>| {
        let mut by_partition = vec![Vec::new(); 2];
        for entry in entries {
            let text = match Control::decode(&entry.value).filter(|_| entry.is_control) {
                Some(control) => format!("{}/{}", control.kind, control.subject),
                None => String::from_utf8(entry.value.to_vec()).unwrap(),
            };
            by_partition[entry.partition as usize].push((text, entry.key, entry.appended_at));
        }
        by_partition
    };
    let record = |partition, text: &'static str| Record { key: key_in(partition, 2), value: Bytes::from(text) };
    publish(&*bus, vec![record(0, "before"), record(1, "before")]).await;
    let from = bus.end_positions("in").await.unwrap();
    publish(&*bus, vec![record(0, "first")]).await;
    bus.publish_control("in", "consent", "ada", Bytes::from_static(b"x")).await.unwrap();
    publish(&*bus, vec![record(0, "second"), record(1, "second")]).await;
    let other = harness.another();
    let read = async |until: &Positions| {
        let mut history = other.history("in", from.clone(), until.clone()).await.unwrap();
        let mut entries = Vec::new();
        loop {
            let next = history.next().await.unwrap();
            if next.is_empty() {
                // Nothing is left.
                assert_eq!(history.next().await, Ok(Vec::new()));
                return entries;
            }
            entries.extend(next);
        }
    };
    // What is published is not always read at once: a broker shows the end of a transaction a moment later.
    let until = eventually("everything is to be read", || async {
        let until = bus.end_positions("in").await.unwrap();
        let entries = read(&until).await;
        if entries.len() == 5 { Ok(until) } else { Err(entries) }
    })
    .await;
    publish(&*bus, vec![record(0, "after"), record(1, "after")]).await;
    let entries = read(&until).await;
    let control = ("consent/ada".to_owned(), RecordKey([0; 16]), start());
    let text = |partition, text: &str| (text.to_owned(), key_in(partition, 2), start());
    let [first, second] = &texts(entries)[..] else { panic!("two partitions") };
    assert_eq!(*first, [text(0, "first"), control.clone(), text(0, "second")]);
    assert_eq!(*second, [control, text(1, "second")]);
    // Nothing is asked for.
    assert_eq!(bus.history("in", until.clone(), until).await.unwrap().next().await, Ok(Vec::new()));
    assert_eq!(bus.history("in", from, Positions::oldest()).await.unwrap().next().await, Ok(Vec::new()));
}

pub(crate) async fn a_waiting_tail_is_woken(harness: impl Harness) {
    let (bus, another) = (harness.bus(), harness.another());
    topics(&*bus, 2).await;
    for publisher in [&bus, &another] {
        let mut tail = bus.tail("in", "sink", bus.end_positions("in").await.unwrap()).await.unwrap();
        let waiting = tokio::spawn(async move { tail.next(10, BOUND).await.unwrap().len() });
        tokio::task::yield_now().await;
        publish(&**publisher, vec![Record { key: key(1), value: Bytes::from_static(b"x") }]).await;
        assert_eq!(waiting.await.unwrap(), 1);
    }
}

pub(crate) async fn refuses_what_cannot_be(harness: impl Harness) {
    let bus = harness.bus();
    let unknown = bus.publish("nowhere", vec![Record { key: key(1), value: Bytes::new() }]).await;
    assert_eq!(unknown, vec![Err(PublishError::UnknownTopic("nowhere".into()))]);
    assert_eq!(bus.partitions("nowhere").await, Err(BusError::UnknownTopic("nowhere".into())));
    assert!(bus.tail("nowhere", "sink", Positions::oldest()).await.is_err());
    assert_eq!(bus.step_lag("nothing").await, Err(BusError::UnknownStep("nothing".into())));
    topics(&*bus, 2).await;
    topics(&*bus, 2).await;
    let other = bus.create_topics(&[TopicSpec::new("in", 3, Retention::default())]).await;
    assert_eq!(other, Err(BusError::PartitionsDiffer { topic: "in".into(), expected: 3, actual: 2 }));
    assert!(bus.create_topics(&[TopicSpec::new("none", 0, Retention::default())]).await.is_err());

    // A record that is too large is refused; its neighbours are not.
    let limit = harness.record_bytes();
    let records = vec![
        Record { key: key(1), value: Bytes::from_static(b"before") },
        Record { key: key(1), value: Bytes::from(vec![0; limit + 1]) },
        Record { key: key(1), value: Bytes::from_static(b"after") },
    ];
    let results = bus.publish("in", records).await;
    assert!(results[0].is_ok() && results[2].is_ok());
    assert_eq!(results[1], Err(PublishError::RecordTooLarge { bytes: limit + 1, limit }));
    assert_eq!(read_all(&*bus, "in").await.len(), 2);
    assert!(bus.publish("in", vec![]).await.is_empty());
}
