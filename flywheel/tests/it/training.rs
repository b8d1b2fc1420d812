//! A training run that a test queues while the platform runs, whatever its trigger says.

use std::sync::Arc;
use std::time::Duration;

use artifacts::{ArtifactStore, LocalArtifacts};
use events::{ModelName, ModelVersion, RunId, TenantId};
use labeler::lake::LakeReader;
use model_registry::lineage::Purpose;
use service::clock::{RealClock, real_now};
use service::ids::SystemIds;
use service::keys::KeyStore;
use service::lease::LeaseStore;
use sqlx::AnyPool;
use trainer_orchestrator::data_set::sources::Sources;
use trainer_orchestrator::store::{NewRun, Run, Store};
use trainer_orchestrator::{OrchestratorConfig, progress_of};

use crate::harness::{Place, until};

/// Fewest pairs that a run is worth.
const PAIRS: usize = 6;

/// The runs of the model `edit`.
pub(crate) fn store(pool: &AnyPool) -> Store {
    Store::new(pool.clone(), TenantId::default(), "edit".parse::<ModelName>().unwrap())
}

/// The run of that id.
pub(crate) async fn run(pool: &AnyPool, id: RunId) -> Run {
    store(pool).runs(100).await.unwrap().into_iter().find(|run| run.run_id == id).unwrap()
}

/// Waits until the lake holds some pairs, queues a run on them, and waits until its job computes.
pub(crate) async fn begun(place: &Place, pool: &AnyPool) -> RunId {
    let tenant = TenantId::default();
    let artifacts: Arc<dyn ArtifactStore> = Arc::new(LocalArtifacts::open(place.data().join("artifacts")).unwrap());
    let lake = LakeReader::new(pool.clone(), artifacts);
    let keys = KeyStore::open(pool.clone(), &place.data().join("keys/master.key")).await.unwrap();
    let sources = Sources::new(pool, tenant.clone(), lake, keys);
    let config = OrchestratorConfig { maximum_pairs: 100, ..OrchestratorConfig::default() };
    let filters = config.filters(
        tenant,
        "edit".parse().unwrap(),
        "everyone".parse().unwrap(),
        labeler::policy::LABEL_POLICY_VERSION,
        env!("CARGO_PKG_VERSION"),
    );
    let (plan, parts) = until("pairs to train on", || async {
        let (rules, sharing) = (sources.rules().await.ok()?, sources.sharing().await.ok()?);
        let planned = sources.plan(filters.clone(), &config.data_set, &rules, &sharing).await.ok()?;
        (planned.0.count(Purpose::Training) >= PAIRS).then_some(planned)
    })
    .await;
    let now = real_now();
    let run_id = RunId::new(&SystemIds::new(RealClock::shared()));
    let new = NewRun {
        run_id,
        parent_version: ModelVersion(1).0,
        anchor_version: ModelVersion(1).0,
        method: "sft".to_owned(),
        seed: 1,
        deadline_at: now + Duration::from_secs(3600),
        created_at: now,
    };
    let fence = LeaseStore::new(pool.clone()).acquire("test", "test", Duration::from_secs(60)).await.unwrap().unwrap();
    store(pool).queue(&fence, &plan, &parts, &new).await.unwrap();
    until("the job to compute", || async {
        let progress = progress_of(&place.data().join("runs").join(run_id.to_string()))?;
        (progress.stage == "train" && progress.step > 0).then_some(())
    })
    .await;
    run_id
}
