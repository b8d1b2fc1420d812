//! What a step or a sink was let pass over, and what becomes of it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bus::{BusError, Position};
use events::TenantId;
use events::avro;
use events::topics::{PREFERENCE_PAIRS, TELEMETRY_CLEAN, TELEMETRY_RAW};
use labeler::config::SinkConfig;
use labeler::lake::{self, LakeReader};
use labeler::ledger::{self, Ledger};
use labeler::losses::{self, LostRange, Reader};
use labeler::sink::{SinkError, run_sink};
use labeler::skip::{Decision, Place, SkipError, skip_lost};
use service::lease::LeaseStore;
use tokio_util::sync::CancellationToken;

use crate::kit::START;
use crate::sinks::{Bench, bench, events_of, labeled, raw, totals};

test_databases::on_both_databases! {
    what_a_step_was_let_pass_over_is_lost_until_it_comes_again,
    a_sink_goes_on_behind_what_was_deleted_when_it_is_told,
    the_ledger_counts_what_it_was_let_pass_over_as_unseen_or_pending,
}

impl Bench {
    /// Deletes what stands in a partition before a position, as retention may. The file of the local log is changed
    /// beside it: its retention waits for readers.
    async fn delete_before(&self, topic: &str, partition: u32, position: Position) {
        let path = self.world.directory.path().join("log.sqlite");
        let file = migrations::connect(&migrations::sqlite_url(&path), 1).await.unwrap();
        let position: i64 = position.to_string().parse().unwrap();
        let id: i64 = sqlx::query_scalar(
            "SELECT partitions.id FROM partitions JOIN topics ON topics.id = partitions.topic \
             WHERE topics.name = $1 AND partitions.partition = $2",
        )
        .bind(topic.to_owned())
        .bind(i64::from(partition))
        .fetch_one(&file)
        .await
        .unwrap();
        let delete = "DELETE FROM records WHERE id >= $1 AND id < $2";
        sqlx::query(delete).bind(id << 40).bind((id << 40) + position).execute(&file).await.unwrap();
        let begin = "UPDATE partitions SET oldest = $1 WHERE id = $2";
        sqlx::query(begin).bind(position).bind(id).execute(&file).await.unwrap();
        file.close().await;
    }

    /// Where the partition ends in which everything of a topic stands.
    async fn end(&self, topic: &str) -> (u32, Position) {
        let ends = self.log.end_positions(topic).await.unwrap();
        ends.iter().max_by_key(|(_, end)| *end).unwrap()
    }
}

async fn what_a_step_was_let_pass_over_is_lost_until_it_comes_again() {
    let bench = bench().await;
    let pool = &bench.world.pool;
    let events = events_of(&bench.world).await;
    let end = || bench.end(TELEMETRY_RAW);
    let copies = |range: Range<usize>| events[range].iter().map(|event| (1, raw(event, None))).collect::<Vec<_>>();
    bench.publish(TELEMETRY_RAW, copies(0..2)).await;
    let (partition, from) = end().await;
    bench.publish(TELEMETRY_RAW, copies(1..6)).await;
    let to = end().await.1;
    bench.publish(TELEMETRY_RAW, copies(5..8)).await;
    let follow = || bench.follow(Box::new(Ledger::new(SinkConfig { batch_records: 3, ..SinkConfig::default() })));
    follow().await;
    let (reader, topic, by) = (Reader::Step("anonymizer".to_owned()), TELEMETRY_RAW.to_owned(), "ada".to_owned());
    let range = LostRange { reader, topic, partition, from, to, skipped_at: START, skipped_by: by };
    // Events 1 and 5 have a copy outside of the range.
    assert_eq!(losses::write_down(pool, &range).await.unwrap(), 3);
    assert_eq!(losses::write_down(pool, &range).await.unwrap(), 0, "written down again it changes nothing");
    assert_eq!(losses::ranges(pool).await.unwrap(), std::slice::from_ref(&range));
    let found = totals(pool).await;
    assert_eq!((found.lost, found.pending, found.reasons["lost"]["deleted_unread"]), (3, 5, 3));
    assert!(found.holds(), "{found:?}");

    // The editor sends one again, and somebody had read another one after all.
    bench.publish(TELEMETRY_RAW, copies(2..3)).await;
    bench.publish(TELEMETRY_CLEAN, vec![(1, avro::encode(&events[3]).unwrap())]).await;
    follow().await;
    let found = totals(pool).await;
    assert_eq!((found.lost, found.pending, found.clean), (1, 6, 1));
    assert!(found.holds(), "{found:?}");

    // What the ledger writes only when the range is written down already.
    let from = end().await.1;
    bench.publish(TELEMETRY_RAW, copies(8..10)).await;
    let to = end().await.1;
    assert_eq!(losses::write_down(pool, &LostRange { from, to, ..range }).await.unwrap(), 0);
    follow().await;
    let found = totals(pool).await;
    assert_eq!((found.lost, found.pending, found.clean), (3, 6, 1));
    assert!(found.holds(), "{found:?}");
}

async fn a_sink_goes_on_behind_what_was_deleted_when_it_is_told() {
    let bench = bench().await;
    let pool = &bench.world.pool;
    let (pairs, _) = labeled(&bench.world, 9).await;
    let publish = |range: Range<usize>| {
        bench.publish(PREFERENCE_PAIRS, pairs[range].iter().map(|pair| (1, avro::encode(pair).unwrap())).collect())
    };
    let skip = async |partition: u32, by: Option<&str>| {
        let place = Place { sink: lake::SINK, topic: PREFERENCE_PAIRS, partition };
        skip_lost(&*bench.log, pool, place, "a command", by.map(|by| Decision { by, at: START })).await
    };
    publish(0..2).await;
    bench.follow(bench.lake()).await;
    let (partition, from) = bench.end(PREFERENCE_PAIRS).await;
    let nothing = skip(partition, Some("ada")).await.unwrap();
    assert!(nothing.is_nothing() && nothing.from == from, "{nothing:?}");
    // One of which nothing was read has lost nothing either.
    assert!(skip(1 - partition, Some("ada")).await.unwrap().is_nothing());
    assert!(matches!(skip(2, None).await, Err(SkipError::Sink(SinkError::Bus(BusError::Invalid(_))))));

    publish(2..5).await;
    let to = bench.end(PREFERENCE_PAIRS).await.1;
    publish(5..6).await;
    bench.delete_before(PREFERENCE_PAIRS, partition, to).await;
    let stopped = async || {
        let stop = CancellationToken::new();
        let stopped = run_sink(Arc::clone(&bench.log), pool.clone(), bench.lake(), stop).await;
        assert!(matches!(stopped, Err(SinkError::Bus(BusError::PositionGone { .. }))), "{stopped:?}");
    };
    stopped().await;
    let found = skip(partition, None).await.unwrap();
    assert_eq!((found.from, found.to, found.positions(), found.is_position_forgotten), (from, to, 3, false));
    stopped().await;
    assert!(losses::ranges(pool).await.unwrap().is_empty(), "what was only looked at has not moved");

    let leases = LeaseStore::new(pool.clone());
    let lead = || leases.acquire("sink/lake", "a labeler", Duration::from_secs(600));
    let fence = lead().await.unwrap().expect("a command gives the lease back");
    for by in [None, Some("ada")] {
        assert!(matches!(skip(partition, by).await, Err(SkipError::Owned { .. })), "a sink that runs is let be");
    }
    leases.release(&fence).await.unwrap();
    assert!(losses::ranges(pool).await.unwrap().is_empty());

    assert_eq!(skip(partition, Some("ada")).await.unwrap(), found);
    let (reader, topic, by) = (Reader::Sink("lake".to_owned()), PREFERENCE_PAIRS.to_owned(), "ada".to_owned());
    let range = LostRange { reader, topic, partition, from, to, skipped_at: START, skipped_by: by };
    assert_eq!(losses::ranges(pool).await.unwrap(), [range]);
    assert!(skip(partition, Some("bob")).await.unwrap().is_nothing());
    assert!(lead().await.unwrap().is_some_and(|next| next.epoch() > fence.epoch()));

    publish(6..9).await;
    bench.follow(bench.lake()).await;
    let reader = LakeReader::new(pool.clone(), Arc::clone(&bench.artifacts));
    assert_eq!(reader.extent(&TenantId::default()).await.unwrap().pairs, 6);
}

async fn the_ledger_counts_what_it_was_let_pass_over_as_unseen_or_pending() {
    let bench = bench().await;
    let pool = &bench.world.pool;
    let events = events_of(&bench.world).await;
    let enter = |range: Range<usize>| {
        bench.publish(TELEMETRY_RAW, events[range].iter().map(|event| (1, raw(event, None))).collect())
    };
    let decide = |range: Range<usize>| {
        let clean = events[range].iter().map(|event| (1, avro::encode(event).unwrap())).collect();
        bench.publish(TELEMETRY_CLEAN, clean)
    };
    let follow = || bench.follow(Box::new(Ledger::new(SinkConfig { batch_records: 3, ..SinkConfig::default() })));
    // Deletes everything that stands in a topic and lets the ledger pass over it.
    let pass_over = async |topic: &str| {
        let (partition, end) = bench.end(topic).await;
        bench.delete_before(topic, partition, end).await;
        let place = Place { sink: ledger::SINK, topic, partition };
        let decision = Decision { by: "ada", at: START + Duration::from_secs(60) };
        skip_lost(&*bench.log, pool, place, "a command", Some(decision)).await.unwrap().positions()
    };
    enter(0..4).await;
    decide(0..1).await;
    follow().await;

    // Events 4 to 6 entered there, and one of them once more since.
    enter(4..7).await;
    assert_eq!(pass_over(TELEMETRY_RAW).await, 3);
    enter(6..9).await;
    decide(1..8).await;
    follow().await;
    let found = totals(pool).await;
    assert_eq!((found.exposed, found.admitted, found.unseen, found.clean, found.pending), (1, 6, 2, 8, 1));
    assert!(found.holds() && found.lost == 0, "{found:?}");

    // What is to be known of the end of event 8 is gone; nobody may call it lost.
    decide(8..9).await;
    assert_eq!(pass_over(TELEMETRY_CLEAN).await, 1);
    enter(9..10).await;
    decide(9..10).await;
    follow().await;
    let found = totals(pool).await;
    assert_eq!((found.admitted, found.unseen, found.clean, found.pending), (7, 2, 9, 1));
    assert!(found.holds() && found.lost == 0, "{found:?}");
    let later = START + Duration::from_secs(7200);
    assert_eq!(ledger::fold_hours(pool, later).await.unwrap(), 0, "its hour stays as it is");

    // An event that came afterwards and never entered is what it always was.
    let mut stranger = events[10].clone();
    stranger.header.event_id = events::EventId::of_client_event(stranger.header.session_id, 999);
    stranger.header.received_at = later;
    bench.publish(TELEMETRY_CLEAN, vec![(1, avro::encode(&stranger).unwrap())]).await;
    follow().await;
    let found = totals(pool).await;
    assert_eq!((found.unseen, found.anomalies), (2, 1));
    assert!(!found.holds());
}
