//! The lake under a run: compacted meanwhile, or with a part that cannot be used.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use artifacts::{ArtifactError, ArtifactStore, LocalArtifacts, Stored};
use async_trait::async_trait;
use bytes::Bytes;
use events::{Sha256Digest, TenantId};
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

use crate::fixture::{Fixture, config, filters, program, wait_for};

fn reader(fixture: &Fixture) -> LakeReader {
    LakeReader::new(fixture.pool.clone(), Arc::new(fixture.artifacts.clone()))
}

/// The data set that would be made now.
async fn planned(sources: &Sources) -> SnapshotPlan {
    let config = config();
    let (rules, sharing) = (sources.rules().await.unwrap(), sources.sharing().await.unwrap());
    sources.plan(filters(&config), &config.data_set, &rules, &sharing).await.unwrap().0
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
    let sources = fixture.sources().watched_by(told.clone());
    let plan = planned(&sources).await;
    let steps = std::mem::take(&mut *told.0.lock().unwrap());
    let [("reading the lake", None, 0), ("opening pairs", Some(of), done), ("choosing pairs", None, 0)] = *steps else {
        panic!("{steps:?}")
    };
    assert!(done == of && of >= plan.members.len() as u64, "{done} of {of}");
    // What was opened once is known.
    planned(&sources).await;
    let again = [("reading the lake", None, 0), ("opening pairs", Some(0), 0), ("choosing pairs", None, 0)];
    assert_eq!(*told.0.lock().unwrap(), again);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_outlives_the_compaction_of_what_its_data_set_was_read_from() {
    let fixture = Fixture::new().await;
    for first in (0..400).step_by(40) {
        fixture.collect(first, 40, "everyone").await;
    }
    let before = planned(&fixture.sources()).await;
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
    assert_eq!(planned(&fixture.sources()).await.digest, before.digest);
    std::fs::write(&compacted, "").unwrap();
    let run = orchestrating.ended().await;
    assert_eq!((run.state, run.attempt), (RunState::Succeeded, 2), "{}", run.detail);
    assert_eq!(run.snapshot_digest, before.digest);
    let detail: serde_json::Value = serde_json::from_str(&run.detail).unwrap();
    assert_eq!((&detail["training_pairs"], &detail["gate"]["opportunities"]), (&100.into(), &300.into()), "{detail}");
    orchestrating.stop().await;
}

/// A store that counts readings, and fails at one of them.
#[derive(Debug)]
struct Counted {
    inner: LocalArtifacts,
    read: AtomicU64,
    fails_at: u64,
}

#[async_trait]
impl ArtifactStore for Counted {
    async fn put(&self, bytes: Bytes) -> Result<Stored, ArtifactError> {
        self.inner.put(bytes).await
    }

    async fn put_file(&self, path: &Path) -> Result<Stored, ArtifactError> {
        self.inner.put_file(path).await
    }

    async fn get(&self, digest: &Sha256Digest) -> Result<Bytes, ArtifactError> {
        let number = self.read.fetch_add(1, Ordering::SeqCst) + 1;
        if number == self.fails_at { Err(ArtifactError::Stopped) } else { self.inner.get(digest).await }
    }

    async fn get_to_file(&self, digest: &Sha256Digest, path: &Path) -> Result<u64, ArtifactError> {
        self.inner.get_to_file(digest, path).await
    }

    async fn exists(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError> {
        self.inner.exists(digest).await
    }

    async fn remove(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError> {
        self.inner.remove(digest).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_that_fails_is_gone_on_with_by_the_next_one() {
    let fixture = Fixture::new().await;
    for first in (0..400).step_by(100) {
        fixture.collect(first, 100, "everyone").await;
    }
    // Four parts are read for what they say, and two for their texts.
    let store = Arc::new(Counted { inner: fixture.artifacts.clone(), read: AtomicU64::new(0), fails_at: 7 });
    let objects: Arc<dyn ArtifactStore> = store.clone();
    let config = config();
    let lake = LakeReader::new(fixture.pool.clone(), objects);
    let sources = Sources::new(&fixture.pool, TenantId::default(), lake, fixture.keys.clone());
    let (rules, sharing) = (sources.rules().await.unwrap(), sources.sharing().await.unwrap());
    let filters = filters(&config);
    let look = async || sources.plan(filters.clone(), &config.data_set, &rules, &sharing).await;
    assert!(look().await.is_err());
    let made = look().await.unwrap().0;
    assert_eq!(store.read.load(Ordering::SeqCst), 7 + 2, "what was read before is known");
    assert_eq!(made.digest, planned(&fixture.sources()).await.digest);
    // Nothing is new: nothing is read.
    look().await.unwrap();
    assert_eq!(store.read.load(Ordering::SeqCst), 9);
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
