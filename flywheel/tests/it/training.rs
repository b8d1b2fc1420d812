//! A training run that a test queues while the platform runs, whatever its trigger says.

use std::sync::Arc;
use std::time::Duration;

use anonymizer::shape::Shape;
use artifacts::{ArtifactStore, LocalArtifacts};
use events::{ModelName, ModelVersion, RunId, TenantId};
use labeler::lake::LakeReader;
use service::clock::{RealClock, real_now};
use service::ids::SystemIds;
use service::keys::KeyStore;
use service::lease::LeaseStore;
use service::repositories::RepositoryStore;
use sqlx::AnyPool;
use trainer_orchestrator::allow_list::AllowList;
use trainer_orchestrator::progress_of;
use trainer_orchestrator::snapshot::{Filters, plan};
use trainer_orchestrator::store::{NewRun, PartRead, Run, Store};

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
    let shape = Shape::new(&keys.tenant_secret(&tenant).await.unwrap());
    let rules = RepositoryStore::new(pool.clone()).list(&tenant).await.unwrap();
    let (plan, parts) = until("pairs to train on", || async {
        let (mut pairs, mut parts) = (Vec::new(), Vec::new());
        for part in lake.parts(&tenant).await.ok()? {
            pairs.extend(lake.read(&part).await.ok()?);
            parts.push(PartRead {
                digest: part.digest,
                partition: i64::from(part.partition),
                first_position: part.first_position.to_string(),
                last_position: part.last_position.to_string(),
            });
        }
        let filters = Filters {
            tenant: tenant.clone(),
            model: "edit".parse().unwrap(),
            audience: "everyone".parse().unwrap(),
            label_policy_version: labeler::policy::LABEL_POLICY_VERSION,
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            maximum_pairs: 100,
            gate_opportunities: trainer_orchestrator::LEAST_GATE_OPPORTUNITIES,
            placebo_exchange_repositories: false,
        };
        let plan = plan(filters, &AllowList::new(&rules, &shape), pairs)?;
        (plan.training.len() >= PAIRS).then_some((plan, parts))
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
