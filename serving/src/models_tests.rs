use std::sync::atomic::{AtomicBool, Ordering};

use events::{Arm, RolloutId};
use model_registry::routing::ActiveRollout;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::{Ask, Asking, Overloaded, Progress};
use crate::pool::DecodePool;
use crate::testing::{Script, World, table};

fn key() -> ModelKey {
    (TenantId::default(), "edit".parse().unwrap())
}

fn models(world: &World) -> Arc<Models> {
    Models::new(world.models.clone(), &world.data_dir(), 4, 0)
}

fn current(models: &Models) -> Option<i64> {
    models.catalog().get(&key()).map(|served| served.table.current.version.0)
}

fn with_candidate(revision: i64, current: ServedVersion, candidate: ServedVersion) -> RoutingTable {
    RoutingTable {
        rollout: Some(ActiveRollout {
            rollout_id: RolloutId::from_uuid(uuid::Uuid::from_bytes([1; 16])),
            candidate,
            canary_share: 0.5,
            started_at: Timestamp::EPOCH,
            block_seconds: 86_400,
        }),
        ..table(revision, current)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_newer_routing_only_and_removes_what_nothing_needs() {
    let world = World::new().await;
    let models = models(&world);
    for (revision, version, expected) in [(1, 1, 1), (3, 3, 3), (2, 2, 3)] {
        world.route(revision, world.version(version, Script::new(0.9, 1)));
        models.refresh(&*world.routing).await.unwrap();
        assert_eq!(current(&models), Some(expected));
    }
    // What serves, and what served before it.
    let directories = std::fs::read_dir(world.data_dir().join("models")).unwrap().count();
    assert_eq!(directories, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_version_leaves_the_last_good_one_and_says_why() {
    let world = World::new().await;
    let models = models(&world);
    world.route(1, world.version(1, Script::new(0.9, 1)));
    models.refresh(&*world.routing).await.unwrap();
    let mut bad = world.version(2, Script::new(0.9, 1));
    bad.artifact_digest = Sha256Digest::of(b"no script for this");
    world.route(2, bad.clone());
    models.refresh(&*world.routing).await.unwrap();
    assert_eq!(current(&models), Some(1));
    assert!(models.failures()[0].1.contains("version 2"), "{:?}", models.failures());
    // Mended under a newer revision, the failure is gone.
    world.route(3, world.version(3, Script::new(0.9, 1)));
    models.refresh(&*world.routing).await.unwrap();
    assert_eq!(current(&models), Some(3));
    assert!(models.failures().is_empty());
}

/// An engine that answers once the test says so.
#[derive(Debug, Default)]
struct Reluctant(AtomicBool);

#[async_trait]
impl Engine for Reluctant {
    fn begin(
        self: Arc<Self>,
        _: &DecodePool<Asking>,
        _: Ask,
        _: mpsc::Sender<Progress>,
        _: CancellationToken,
    ) -> Result<(), Overloaded> {
        Ok(())
    }

    async fn prove(&self) -> Result<(), Unservable> {
        if self.0.load(Ordering::Acquire) { Ok(()) } else { Err(Unservable("it writes nothing".to_owned())) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_answer_is_waited_for_and_is_no_damage() {
    let world = World::new().await;
    let models = models(&world);
    world.route(1, world.version(1, Script::new(0.9, 1)));
    models.refresh(&*world.routing).await.unwrap();
    let engine = Arc::new(Reluctant::default());
    world.route(2, world.version_of(2, engine.clone()));
    models.refresh(&*world.routing).await.unwrap();
    assert_eq!(current(&models), Some(1));
    let failure = models.failures()[0].1.clone();
    assert!(failure.contains("version 2") && failure.contains("writes nothing"), "{failure}");
    // What names its model is on disk and good: nothing is fetched again.
    world.models.is_down.store(true, Ordering::Release);
    engine.0.store(true, Ordering::Release);
    models.failures.lock().clear();
    models.refresh(&*world.routing).await.unwrap();
    assert_eq!(current(&models), Some(2));
    assert!(models.failures().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_starts_later_than_this_process_is_served_without_the_registry() {
    let world = World::new().await;
    let engine = Arc::new(Reluctant(AtomicBool::new(true)));
    world.route(1, world.version_of(1, engine.clone()));
    models(&world).refresh(&*world.routing).await.unwrap();
    world.models.is_down.store(true, Ordering::Release);
    world.routing.is_down.store(true, Ordering::Release);
    engine.0.store(false, Ordering::Release);
    let restarted = models(&world);
    restarted.restore().await;
    assert_eq!(current(&restarted), Some(1));
    assert!(restarted.failures().is_empty());

    // Where another can answer, that one does.
    world.models.is_down.store(false, Ordering::Release);
    world.routing.is_down.store(false, Ordering::Release);
    world.route(2, world.version(2, Script::new(0.9, 1)));
    restarted.refresh(&*world.routing).await.unwrap();
    engine.0.store(true, Ordering::Release);
    world.route(3, world.version_of(1, engine.clone()));
    restarted.refresh(&*world.routing).await.unwrap();
    assert_eq!(current(&restarted), Some(1));
    engine.0.store(false, Ordering::Release);
    let restarted = models(&world);
    restarted.restore().await;
    assert_eq!(current(&restarted), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_models_than_allowed_are_not_loaded() {
    let world = World::new().await;
    let models = Models::new(world.models.clone(), &world.data_dir(), 1, 0);
    world.route(1, world.version(1, Script::new(0.9, 1)));
    models.refresh(&*world.routing).await.unwrap();
    let (one, two) = (world.version(1, Script::new(0.9, 1)), world.version(2, Script::new(0.9, 1)));
    *world.routing.tables.lock() = vec![with_candidate(2, one, two)];
    models.refresh(&*world.routing).await.unwrap();
    assert!(models.catalog()[&key()].table.rollout.is_none());
    assert!(models.failures()[0].1.contains("max_loaded_models"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_everything_down_serves_what_is_good_on_disk() {
    let world = World::new().await;
    let (one, two) = (world.version(1, Script::new(0.9, 1)), world.version(2, Script::new(0.9, 1)));
    *world.routing.tables.lock() = vec![with_candidate(5, one.clone(), two.clone())];
    models(&world).refresh(&*world.routing).await.unwrap();
    world.models.is_down.store(true, Ordering::Release);
    world.routing.is_down.store(true, Ordering::Release);

    let restarted = models(&world);
    restarted.restore().await;
    assert_eq!(restarted.catalog()[&key()].table, world.routing.tables.lock()[0]);
    assert!(restarted.refresh(&*world.routing).await.is_err());

    // The candidate's file is damaged: the current version serves, alone, and every arm says so.
    let file = world.data_dir().join("models").join(two.artifact_digest.to_string()).join("model");
    std::fs::write(&file, "flipped").unwrap();
    let restarted = models(&world);
    restarted.restore().await;
    let served = restarted.catalog()[&key()].clone();
    assert!(served.table.rollout.is_none());
    let person = "00112233445566778899aabbccddeeff".parse().unwrap();
    let assignment = model_registry::routing::assign(&served.table, &person, None, Timestamp::EPOCH).unwrap();
    assert_eq!((assignment.version, assignment.arm), (one.version, Arm::Current));
    assert!(restarted.failures()[0].1.contains("version 2"));

    // When the stores are back, the same revision is followed in full.
    world.models.is_down.store(false, Ordering::Release);
    world.routing.is_down.store(false, Ordering::Release);
    restarted.failures.lock().clear();
    restarted.refresh(&*world.routing).await.unwrap();
    assert!(restarted.catalog()[&key()].table.rollout.is_some());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), two.artifact_digest.to_string());

    // Nothing good left: nothing is served, and it says so.
    std::fs::write(world.data_dir().join("models").join(one.artifact_digest.to_string()).join("model"), "").unwrap();
    world.models.is_down.store(true, Ordering::Release);
    let restarted = models(&world);
    restarted.restore().await;
    assert_eq!(current(&restarted), None);
    assert!(restarted.failures()[0].1.contains("version 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_back_to_the_version_before_when_the_newest_is_damaged() {
    let world = World::new().await;
    let versions: Vec<ServedVersion> = (1..=4).map(|number| world.version(number, Script::new(0.9, 1))).collect();
    let running = models(&world);
    world.route(1, versions[0].clone());
    running.refresh(&*world.routing).await.unwrap();
    // Two candidates come and go; they are no versions to go back to.
    for (revision, candidate) in [(2, &versions[1]), (3, &versions[2])] {
        *world.routing.tables.lock() = vec![with_candidate(revision, versions[0].clone(), candidate.clone())];
        running.refresh(&*world.routing).await.unwrap();
    }
    world.route(4, versions[3].clone());
    running.refresh(&*world.routing).await.unwrap();
    assert_eq!(current(&running), Some(4));

    world.models.is_down.store(true, Ordering::Release);
    let file = world.data_dir().join("models").join(versions[3].artifact_digest.to_string()).join("model");
    std::fs::write(&file, "truncated").unwrap();
    let restarted = models(&world);
    restarted.restore().await;
    assert_eq!(current(&restarted), Some(1));
    assert!(restarted.catalog()[&key()].table.rollout.is_none());
    assert!(restarted.failures()[0].1.contains("version 4"), "{:?}", restarted.failures());

    // When the store is back, the newest is followed again.
    world.models.is_down.store(false, Ordering::Release);
    restarted.failures.lock().clear();
    restarted.refresh(&*world.routing).await.unwrap();
    assert_eq!(current(&restarted), Some(4));
}
