//! The lake under a run: compacted meanwhile, or with a part that cannot be used.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use events::TenantId;
use labeler::config::{CompactionConfig, LakeConfig};
use labeler::lake::LakeReader;
use labeler::lake::compaction::{Compacted, Compactor, LEASE_NAME};
use service::clock::{RealClock, real_now};
use service::lease::LeaseStore;
use service::reconciler::RequestError;
use trainer_orchestrator::OrchestratorConfig;
use trainer_orchestrator::data_set::manifest::SnapshotPlan;
use trainer_orchestrator::data_set::sources::Sources;
use trainer_orchestrator::data_set::watch::Watch;
use trainer_orchestrator::store::RunState;

use crate::fixture::{CODE_VERSION, Fixture, config, model, program, wait_for};

fn reader(fixture: &Fixture) -> LakeReader {
    LakeReader::new(fixture.pool.clone(), Arc::new(fixture.artifacts.clone()))
}

fn sources(fixture: &Fixture) -> Sources {
    Sources::new(&fixture.pool, TenantId::default(), reader(fixture), fixture.keys.clone())
}

/// The data set that would be made now.
async fn planned(sources: &Sources) -> SnapshotPlan {
    let (tenant, config) = (TenantId::default(), config());
    let (rules, sharing) = (sources.rules().await.unwrap(), sources.sharing().await.unwrap());
    let filters = config.filters(tenant, model(), "everyone".parse().unwrap(), 1, CODE_VERSION);
    sources.plan(filters, &config.data_set, &rules, &sharing).await.unwrap().0
}

/// Compacts until nothing is left to do, the removal of what was replaced included.
async fn compact(fixture: &Fixture) {
    let leases = LeaseStore::new(fixture.pool.clone());
    let fence = leases.acquire(LEASE_NAME, "test", Duration::from_secs(600)).await.unwrap().unwrap();
    let compaction = CompactionConfig { parts: 2, keep_replaced_hours: 0, ..CompactionConfig::default() };
    let config = LakeConfig { compaction, ..LakeConfig::default() };
    let artifacts = Arc::new(fixture.artifacts.clone());
    let (pool, keys) = (fixture.pool.clone(), fixture.keys.clone());
    let compactor = Compactor::new(pool, artifacts, keys, RealClock::shared(), config);
    while compactor.compact(&fence, real_now()).await.unwrap() != Compacted::default() {}
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM lake_replaced").fetch_one(&fixture.pool).await.unwrap();
    assert_eq!(kept, 0);
}

/// A step in the making of a data set, how many pairs it has, and how many were done.
type Step = (&'static str, Option<u64>, u64);

#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<Step>>>);

impl Watch for Told {
    fn begin(&self, what: &'static str, of: Option<u64>) {
        self.0.lock().unwrap().push((what, of, 0));
    }

    fn advance(&self, count: u64) {
        self.0.lock().unwrap().last_mut().unwrap().2 += count;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_data_set_sees_how_far_it_is() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    let told = Told::default();
    let sources = sources(&fixture).watched_by(told.clone());
    let plan = planned(&sources).await;
    let steps = std::mem::take(&mut *told.0.lock().unwrap());
    let [("reading the lake", None, 0), ("opening pairs", Some(of), done), ("choosing pairs", None, 0)] = *steps else {
        panic!("{steps:?}")
    };
    assert!(done == of && of >= plan.members.len() as u64, "{done} of {of}");
    // What was opened once is known, and counts like the others.
    planned(&sources).await;
    assert_eq!(*told.0.lock().unwrap(), steps);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_outlives_the_compaction_of_what_its_data_set_was_read_from() {
    let fixture = Fixture::new().await;
    for first in (0..400).step_by(40) {
        fixture.collect(first, 40, "everyone").await;
    }
    let before = planned(&sources(&fixture)).await;
    // The lake is compacted after the data set was chosen; the attempt that meets it begins afterwards.
    let (gone, compacted) = (fixture.root.join("gone"), fixture.root.join("compacted"));
    let script = fixture.script(
        "compacted-first",
        &format!(
            "test -e {compacted} && exec {program} \"$@\"\necho > {gone}\n\
             until test -e {compacted}; do sleep 0.1; done\nexit 9",
            compacted = compacted.display(),
            gone = gone.display(),
            program = program().display(),
        ),
    );
    let orchestrating = fixture.orchestrate(OrchestratorConfig { program: Some(script), ..config() }, "first");
    orchestrating.handle.request();
    wait_for("the first attempt", async || gone.exists().then_some(())).await;
    compact(&fixture).await;
    assert_eq!(reader(&fixture).parts(&TenantId::default()).await.unwrap().len(), 1);
    assert_eq!(planned(&sources(&fixture)).await.digest, before.digest);
    std::fs::write(&compacted, "").unwrap();
    let run = orchestrating.ended().await;
    assert_eq!((run.state, run.attempt), (RunState::Succeeded, 2), "{}", run.detail);
    assert_eq!(run.snapshot_digest, before.digest);
    let detail: serde_json::Value = serde_json::from_str(&run.detail).unwrap();
    assert_eq!((&detail["training_pairs"], &detail["gate"]["opportunities"]), (&100.into(), &300.into()), "{detail}");
    orchestrating.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_data_set_is_made_of_a_part_of_the_lake() {
    let fixture = Fixture::new().await;
    fixture.collect(0, 370, "everyone").await;
    fixture.collect(370, 30, "everyone").await;
    let parts = reader(&fixture).parts(&TenantId::default()).await.unwrap();
    let object = fixture.artifacts.path_of(&parts[1].digest);
    let bytes = std::fs::read(&object).unwrap();
    std::fs::write(&object, &bytes[..bytes.len() / 2]).unwrap();
    let orchestrating = fixture.orchestrate(config(), "first");
    orchestrating.handle.request();
    // The other part alone would have been enough.
    let refusal = wait_for("a look that fails", async || match orchestrating.handle.look().await {
        Err(RequestError::Failed { message, .. }) => Some(message),
        _ => None,
    })
    .await;
    assert!(refusal.contains("1 parts of the lake, with 30 pairs, cannot be used"), "{refusal}");
    assert!(refusal.contains("lake part part 370: its object is corrupt"), "{refusal}");
    assert!(orchestrating.handle.store.runs(1).await.unwrap().is_empty());
    // Restored, it is read, and the request is answered.
    std::fs::write(&object, &bytes).unwrap();
    assert_eq!(orchestrating.ended().await.state, RunState::Succeeded);
    orchestrating.stop().await;
}
