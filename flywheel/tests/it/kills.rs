//! The great test: `flywheel up` is killed at random moments under load, and log and tables then show that nothing that
//! was promised is missing and nothing is there twice.
//!
//! Time runs faster than the machine's, so that settling and closing happen while the load runs; after the last kill
//! the platform starts once more with a clock that is hours ahead, and concludes everything that waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use artifacts::LocalArtifacts;
use events::{ModelName, ModelVersion, RolloutId, Sha256Digest, TenantId};
use model_registry::client::{ClientError, RegistryClient};
use model_registry::version::Alias;
use model_registry::{Registry, RegistryDeps, RolloutPolicy};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use service::clock::{RealClock, real_now};
use service::config::Secret;
use service::ids::SystemIds;
use sqlx::{AnyPool, Row};
use tokio_util::sync::CancellationToken;
use trainer_orchestrator::store::{Run, RunState};

use crate::harness::{Place, Ports, until};
use crate::load::{self, Promised, person, work};
use crate::versions::like_the_base;
use crate::{audit, replay, training};

const SEED: u64 = 20;
const KILLS: usize = 20;
const DEVELOPERS: usize = 3;
/// How many times as fast as the machine's clock the load's time is.
const FACTOR: u32 = 10;
/// How far ahead the last start is: more than lateness, close and every margin together.
const AHEAD: Duration = Duration::from_secs(4 * 3600);
/// Steps of the training run that is killed: more than a run makes before the kill.
const STEPS: usize = 40;
/// Most events that are acknowledged between readiness and a kill.
const LIFE: usize = 80;
/// Events for which the operator leaves a rollout, and a version that became current, as they are.
const LOOKS: usize = 10;

fn configuration(start_micros: i64, factor: u32) -> String {
    format!(
        "[clock]\nkind = \"scaled\"\nallow_test_time = true\nstart_micros = {start_micros}\nfactor = {factor}\n\
         [orchestrator]\nenabled = false\nsteps = {STEPS}\nbatch = 2\nreplay = 2\ninterval_seconds = 1\n\
         [registry]\nlease_ms = 500\nreconcile_ms = 100\n[labeler.lake]\npart_age_ms = 200\n"
    )
}

/// What was done to the registry and acknowledged.
#[derive(Debug, Default)]
struct Registered {
    /// Digest of every version.
    versions: BTreeMap<ModelVersion, Sha256Digest>,
    /// The last version that became current for certain, and the one that may have.
    current: Option<ModelVersion>,
    attempted: Option<ModelVersion>,
    rollouts: BTreeSet<RolloutId>,
}

/// Waits until ingest has acknowledged so many more events, or until it is enough.
async fn acknowledged(more: usize, promised: &Mutex<Promised>, enough: &CancellationToken) {
    let before = promised.lock().events.len();
    until(&format!("{more} more events to be acknowledged"), || async {
        (enough.is_cancelled() || promised.lock().events.len() >= before + more).then_some(())
    })
    .await;
}

/// Repeats a call until the registry answers.
async fn answered<T, F, Fut>(mut call: F, enough: &CancellationToken) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, ClientError>>,
{
    while !enough.is_cancelled() {
        match call().await {
            Ok(value) => return Some(value),
            Err(error) if matches!(error, ClientError::Unavailable(_)) || error.code() == Some("contended") => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // It was done by the attempt whose answer was lost.
            Err(ClientError::Refused { code, .. }) if code == "illegal_transition" || code == "alias_conflict" => {
                return None;
            }
            Err(error) => panic!("{error}"),
        }
    }
    None
}

/// An operator who registers versions, rolls them out, ends the rollouts and makes versions current, all the time.
async fn operate(
    place_data: std::path::PathBuf,
    address: String,
    registered: Arc<Mutex<Registered>>,
    promised: Arc<Mutex<Promised>>,
    enough: CancellationToken,
) {
    let key = std::fs::read_to_string(place_data.join("keys/internal.key")).unwrap();
    let registry = RegistryClient::new(&address, &Secret::new(key)).unwrap();
    let artifacts = LocalArtifacts::open(place_data.join("artifacts")).unwrap();
    let model: ModelName = "edit".parse().unwrap();
    let base = place_data.join("base");
    let mut current = ModelVersion(1);
    for number in 0_u32.. {
        let new = like_the_base(&base, &artifacts, &format!("candidate {number}")).await;
        let Some(version) = answered(|| registry.register_version(&new), &enough).await else { break };
        registered.lock().versions.insert(version.version, new.artifact_digest);
        let begun = answered(|| registry.start_rollout(&model, version.version, None), &enough).await;
        if let Some(rollout) = begun {
            registered.lock().rollouts.insert(rollout.rollout_id);
            acknowledged(LOOKS, &promised, &enough).await;
            let _done_before =
                answered(|| registry.abort_rollout(rollout.rollout_id, "test", "enough seen"), &enough).await;
        }
        registered.lock().attempted = Some(version.version);
        let set =
            answered(|| registry.set_alias(&model, Alias::Current, version.version, Some(current)), &enough).await;
        if set.is_some() || !enough.is_cancelled() {
            registered.lock().current = Some(version.version);
            current = version.version;
        }
        acknowledged(LOOKS, &promised, &enough).await;
        if enough.is_cancelled() {
            break;
        }
    }
}

/// Serving answers a question that nobody asked before.
async fn serving_answers(place: &Place, number: usize) {
    place.ask(&place.key(), &format!("let sum = cart.total_{number}();\n")).await;
}

/// Starts the platform and kills it at once, or as soon as one of its doors is open.
async fn dies_while_it_starts(place: &Place, dice: &mut ChaCha8Rng) {
    let running = place.start(&["up"]);
    let Ports { admin, registry, ingest, serving } = place.ports;
    let doors = [None, Some(admin), Some(registry), Some(ingest), Some(serving)];
    if let Some(port) = doors[dice.random_range(0..doors.len())] {
        until("a door to open", || async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok() }).await;
    }
    running.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_under_load_lose_nothing_and_repeat_nothing() {
    let mut dice = ChaCha8Rng::seed_from_u64(SEED);
    let started = real_now();
    let place = Place::new(&configuration(started.as_micros(), FACTOR));
    let mut running = place.up().await;
    place.agree((0..DEVELOPERS).map(person)).await;

    let plan = Arc::new(load::plan(DEVELOPERS));
    let doors = load::doors(place.ports.serving, place.ports.ingest, &place.key());
    let (promised, registered) =
        (Arc::new(Mutex::new(Promised::default())), Arc::new(Mutex::new(Registered::default())));
    let enough = CancellationToken::new();
    let mut crowd = tokio::task::JoinSet::new();
    for developer in 0..DEVELOPERS {
        crowd.spawn(work(developer, doors.clone(), plan.clone(), started, promised.clone(), enough.clone()));
    }
    let registry_address = format!("http://127.0.0.1:{}", place.ports.registry);
    crowd.spawn(operate(place.data(), registry_address, registered.clone(), promised.clone(), enough.clone()));

    // The first kill meets a job that computes.
    let pool = place.database().await;
    let run = training::begun(&place, &pool).await;
    assert_eq!(training::run(&pool, run).await.state, RunState::Running);
    for kill in 0..KILLS {
        // One in four dies again while it starts; the others after some work, the first at once.
        if kill > 0 && kill % 4 != 3 {
            acknowledged(dice.random_range(1..=LIFE), &promised, &enough).await;
        }
        running.kill();
        if kill % 4 == 3 {
            dies_while_it_starts(&place, &mut dice).await;
        }
        running = place.up().await;
        serving_answers(&place, kill).await;
    }

    enough.cancel();
    while let Some(ended) = crowd.join_next().await {
        ended.unwrap();
    }
    let (played, repeated) = {
        let promised = promised.lock();
        (promised.opportunities.len(), promised.repeated)
    };
    assert!(played >= KILLS && repeated > 0, "too little load: {played} opportunities, {repeated} repeated requests");
    assert_eq!(running.stop().await, Some(0));

    // The same platform, hours later: what waits, a run that was interrupted too, comes to its end.
    let later = |starts: u32| {
        let elapsed = (AHEAD * starts + real_now().since(started) * FACTOR) / 59;
        let earlier = real_now().as_micros() - i64::try_from(elapsed.as_micros()).unwrap();
        place.configure(&configuration(earlier, 60));
    };
    later(1);
    let running = place.up().await;
    serving_answers(&place, KILLS).await;
    let trained = until("the interrupted run to end", || async {
        let run = training::run(&pool, run).await;
        run.finished_at.is_some().then_some(run)
    })
    .await;
    assert_eq!(running.stop().await, Some(0));
    later(2);
    let running = place.up().await;
    let status = until("every stage to conclude", || async {
        let status = place.say(&["status", "--json"]).json();
        let backlog = status["backlog"].as_array()?;
        let settled = status["ledger"]["pending"] == 0
            && backlog.iter().all(|stage| stage["records_behind"] == 0)
            // Every opportunity was closed, and every session forgotten.
            && backlog.iter().any(|stage| stage["stage"] == labeler::step::STEP && stage["pending_timers"] == 0);
        settled.then_some(status)
    })
    .await;
    assert_eq!(
        (&status["ledger"]["balanced"], &status["ledger"]["dead_lettered"]),
        (&true.into(), &0.into()),
        "{status}"
    );
    the_run_came_to_one_version(&pool, &trained).await;
    let registered = std::mem::take(&mut *registered.lock());
    registry_is_consistent(&place, &pool, &registered).await;
    assert_eq!(running.stop().await, Some(0));

    let promised = std::mem::take(&mut *promised.lock());
    nothing_is_missing_or_there_twice(&place, &pool, &promised).await;
}

/// The run whose job was killed has ended well, and made one version.
async fn the_run_came_to_one_version(pool: &AnyPool, run: &Run) {
    assert_eq!((run.state, run.outcome.as_deref()), (RunState::Succeeded, Some("held")), "{run:?}");
    let made: Vec<i64> = sqlx::query("SELECT version FROM model_versions WHERE run_id = $1")
        .bind(run.run_id.to_string())
        .fetch_all(pool)
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(made, [run.version.unwrap()]);
}

/// Every version's files are what their digests say, what was acknowledged is there, exactly one version is promoted,
/// and serving is told of it.
async fn registry_is_consistent(place: &Place, pool: &AnyPool, registered: &Registered) {
    let tenant = TenantId::default();
    let model: ModelName = "edit".parse().unwrap();
    let deps = RegistryDeps {
        pool: pool.clone(),
        clock: RealClock::shared(),
        ids: Arc::new(SystemIds::new(RealClock::shared())),
        artifacts: Arc::new(LocalArtifacts::open(place.data().join("artifacts")).unwrap()),
    };
    let registry = Registry::new(deps, RolloutPolicy::default()).unwrap();
    let versions = registry.versions(&tenant, &model).await.unwrap();
    assert!(registered.versions.len() > 1, "the operator came to nothing");
    let numbers: Vec<i64> = versions.iter().rev().map(|version| version.version.0).collect();
    assert_eq!(numbers, (1..=i64::try_from(versions.len()).unwrap()).collect::<Vec<_>>());
    for version in &versions {
        registry.verify_artifact(version.artifact_digest).await.unwrap();
        if let Some(digest) = registered.versions.get(&version.version) {
            assert_eq!(*digest, version.artifact_digest);
        }
    }
    assert!(registered.versions.keys().all(|version| numbers.contains(&version.0)), "an acknowledged version is gone");
    let digests: BTreeSet<Sha256Digest> = versions.iter().map(|version| version.artifact_digest).collect();
    assert_eq!(digests.len(), versions.len(), "an artifact is registered twice");

    let aliases: Vec<(String, i64)> =
        sqlx::query("SELECT alias, version FROM model_aliases WHERE model = 'edit' ORDER BY alias")
            .fetch_all(pool)
            .await
            .unwrap()
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
    let names: Vec<&str> = aliases.iter().map(|(alias, _)| alias.as_str()).collect();
    assert_eq!(names, ["current", "reference"], "exactly one promoted version");
    let routing = registry.routing(&tenant, &model).await.unwrap();
    assert_eq!(routing.current.version.0, aliases[0].1);
    assert!([registered.current, registered.attempted].contains(&Some(routing.current.version)), "{registered:?}");
    let rollouts = registry.rollouts(&tenant, None).await.unwrap();
    let known: BTreeSet<RolloutId> = rollouts.iter().map(|rollout| rollout.rollout_id).collect();
    assert!(registered.rollouts.is_subset(&known), "an acknowledged rollout is gone");
    assert!(rollouts.iter().filter(|rollout| rollout.state.is_active()).count() <= 1);
}

async fn nothing_is_missing_or_there_twice(place: &Place, pool: &AnyPool, promised: &Promised) {
    replay::promises_are_kept(replay::open(&place.data()).as_ref(), pool, promised).await;
    // Pairs, outcomes, ledger, lake and registry: what the product itself says of them, from empty state.
    let report = audit::consistent(place);
    let checks = audit::checks(&report);
    assert!(checks.values().all(|check| check["not_covered"] == 0), "{report}");
    let judged = |name: &str| checks[name]["checked"].as_u64().unwrap();
    assert!(judged("preference pairs") >= u64::try_from(KILLS).unwrap(), "too few pairs to say anything: {report}");
    assert_eq!(judged("preference pairs"), judged("lake: pairs against the log"), "{report}");
}
