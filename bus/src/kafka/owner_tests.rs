//! Owners of a partition whose lease is over, which they may learn late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use test_servers::servers_wanted;
use tokio_util::sync::CancellationToken;

use super::changelog::{PROGRESS, Progress};
use super::model_tests::{BOUND, Kafka, RECORD_BYTES, leased, runtime};
use super::slot::Lease;
use super::step::{GivenUp, work};
use super::topics::changelog_of;
use crate::error::BusError;
use crate::model_tests::clock;
use crate::step::{StepHandler, StepSpec};
use crate::testing::scripted::Scripted;
use crate::worker::log::{PartitionLog as _, StepWrite};
use crate::worker::{PartitionWorker, StepShared};

/// A lease that is over so long from now.
fn lasting(time: Duration) -> Lease {
    Lease::new((Instant::now() + time).into())
}

#[test]
fn an_owner_that_begins_anew_asks_whether_it_still_is_one() {
    if !servers_wanted() {
        return;
    }
    let runtime = runtime();
    // What is closed here may need it.
    let _entered = runtime.enter();
    let (kafka, before) = (Kafka::new(&runtime, &clock()), Instant::now());
    let lease = lasting(Duration::from_secs(3_600));
    let mut stopped = leased(&kafka.handles[0].inner, 0, 1, &lease);
    stopped.load().unwrap();
    stopped.load().unwrap();
    *lease.lock() = before;
    let mut next = leased(&kafka.handles[1].inner, 0, 2, &lasting(Duration::from_secs(3_600)));
    let (loaded, suspicion) = next.load().unwrap();
    let begun = stopped.load().map(drop);
    assert!(matches!(begun, Err(BusError::Fenced { .. })), "{begun:?}");
    // And it has not put an end to what the next one does.
    let position = loaded.position;
    next.commit(StepWrite { position, time: None, paused: None, suspicion, pending: Arc::default() }).unwrap();
}

/// The changelog hides what it holds until the lease is over: as if the owner had been stopped after it had asked for the
/// position, and another one had gone on meanwhile.
#[test]
fn what_does_not_fit_when_the_lease_is_over_is_no_reason_to_stop_the_step() {
    if !servers_wanted() {
        return;
    }
    let runtime = runtime();
    // What is closed here may need it.
    let _entered = runtime.enter();
    let kafka = Kafka::new(&runtime, &clock());
    let stored = |name: &str| kafka.config.stored_name(name);
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &kafka.config.bootstrap_servers).set("transactional.id", stored("another"));
    let another: BaseProducer = client.create().unwrap();
    another.init_transactions(BOUND).unwrap();
    another.begin_transaction().unwrap();
    let progress = serde_json::to_vec(&Progress { position: 1 << 40, ..Progress::default() }).unwrap();
    let changelog = stored(&changelog_of("step"));
    let message = BaseRecord::<[u8], [u8]>::to(&changelog).partition(0).key(PROGRESS).payload(&progress);
    another.send(message).unwrap();
    another.flush(BOUND).unwrap();

    let lease = lasting(Duration::from_secs(3));
    let log = leased(&kafka.handles[0].inner, 0, 1, &lease);
    let handler: Arc<dyn StepHandler> = Scripted::new("out");
    let spec = StepSpec::new("step", "in", ["out"], "dead");
    let shared = Arc::new(StepShared::new(spec, handler, kafka.clock.shared(), RECORD_BYTES));
    let worker = PartitionWorker::new(log, Arc::clone(&shared));
    let given_up = GivenUp { token: CancellationToken::new(), patience: BOUND };
    let working = runtime.spawn(async move { work(&shared, worker, given_up).await });
    while Instant::now() <= *lease.lock() {
        std::thread::sleep(Duration::from_millis(20));
    }
    another.commit_transaction(BOUND).unwrap();
    let ended = runtime.block_on(working).unwrap();
    assert!(matches!(ended, Err(BusError::Fenced { .. })), "{ended:?}");
}
