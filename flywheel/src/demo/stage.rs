//! What a story needs of the platform that it is played on. The story is the same whether the platform stands in this
//! process, where its handles can be asked and its clock waits for the story (`here.rs`), or elsewhere, where doors and
//! database are all that can be reached and time goes on by itself (`elsewhere.rs`).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anonymizer::shape::Shape;
use async_trait::async_trait;
use events::{
    ConsentTier, IdSource, ModelName, ModelVersion, OpportunityId, PersonPseudonym, RolloutId, RunId, Sha256Digest,
    Timestamp,
};
use labeler::lake::LakeReader;
use labeler::ledger;
use model_registry::client::RegistryClient;
use service::consent::ConsentStore;
use simulator::driver::DoorSettings;
use trainer_orchestrator::store::{Run, Store};

use super::progress::Progress;
use super::report::PlayedOn;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::freshness::Freshness;
use crate::{rules, sinks};

/// Longest real wait for one stage to conclude, beyond the windows that it waits for itself. What is slower is stuck.
pub(super) const STUCK: Duration = Duration::from_secs(180);

/// How far the clocks of a deployment's machines may be apart, in its time: where its clock runs fast, a minute of theirs.
const SKEW: Duration = Duration::from_secs(3600);

/// What came of the wish for a training run.
pub(super) enum NextRun {
    /// One began, and has ended.
    Ended(Box<Run>),
    /// None began, and why.
    Nothing(String),
}

/// Where a story is played.
#[async_trait]
pub(super) trait Stage: Send + Sync {
    /// What every platform has.
    fn ground(&self) -> &Ground<'_>;

    /// Pairs of doors; developers are spread over them.
    fn doors(&self) -> Vec<DoorSettings>;

    /// Whether the platform's time goes on while the story is busy.
    fn time_runs(&self) -> bool;

    /// Whether everything that is computed shares the processors with the story.
    fn shares_the_machine(&self) -> bool;

    /// Waits until the log knows what was written to the database for it.
    async fn tell(&self) -> Result<(), Failure>;

    /// Waits until serving follows the newest routing.
    async fn await_serving(&self) -> Result<(), Failure>;

    /// Waits until every exposure is on the log, where that can be seen.
    async fn await_exposures(&self);

    /// Waits until the platform's time is `time`.
    async fn go_to(&self, time: Timestamp) -> Result<(), Failure>;

    /// Waits until every stage has concluded all that it was given: these opportunities are closed and tallied, and no
    /// event is pending in the ledger.
    async fn conclude(&self, played: &BTreeSet<OpportunityId>) -> Result<(), Failure>;

    /// Brings about the next training run, one that is not among the `known`, and follows it to its end.
    async fn next_run(&self, known: &BTreeSet<RunId>, progress: &Progress) -> Result<NextRun, Failure>;

    /// Waits until the candidate serves its share, or its rollout has ended before.
    async fn await_candidate(&self, rollout: RolloutId, version: ModelVersion) -> Result<(), Failure>;

    /// Waits until a block that is over, and whose outcomes have settled, is judged.
    async fn judge(&self, rollout: RolloutId, block: u64) -> Result<(), Failure>;
}

/// What every platform has: the foundation of this process, which reaches database, log, keys and artifacts; and the
/// registry.
pub(super) struct Ground<'a> {
    pub(super) foundation: &'a Foundation,
    pub(super) registry: RegistryClient,
    pub(super) store: Store,
    pub(super) lake: LakeReader,
    pub(super) model: ModelName,
    pub(super) shape: Shape,
    /// When the story began, in the platform's time.
    pub(super) began: Timestamp,
    /// One source for all that it writes down: a seeded one that is begun anew says the same ids again.
    ids: Arc<dyn IdSource>,
    /// Where models are put that the story looks into.
    models: PathBuf,
}

impl<'a> Ground<'a> {
    pub(super) fn new(foundation: &'a Foundation, registry: RegistryClient, models: PathBuf) -> Self {
        let settings = &foundation.settings;
        Self {
            foundation,
            registry,
            store: Store::new(foundation.pool.clone(), settings.tenant.clone(), settings.model.clone()),
            lake: LakeReader::new(foundation.pool.clone(), foundation.artifacts.clone()),
            model: settings.model.clone(),
            shape: Shape::new(&foundation.secret),
            began: foundation.now(),
            ids: foundation.ids("story"),
            models,
        }
    }

    /// Writes down that a repository may be trained on, for the database and the log.
    pub(super) async fn allow_repository(&self, repository: &str) -> Result<(), Failure> {
        let audience = &self.foundation.settings.orchestrator.audience;
        rules::allow(self.foundation, self.ids.as_ref(), repository, audience).await
    }

    /// Writes down that persons agreed to whole events, and that their tenant allows it.
    pub(super) async fn consent_to_code(&self, persons: impl Iterator<Item = &PersonPseudonym>) -> Result<(), Failure> {
        let (tenant, now) = (&self.foundation.settings.tenant, || self.foundation.now());
        let store = ConsentStore::new(self.foundation.pool.clone());
        store.set_ceiling(self.ids.as_ref(), tenant, ConsentTier::Code, now()).await?;
        for person in persons {
            store.decide(self.ids.as_ref(), tenant, person, ConsentTier::Code, now()).await?;
        }
        Ok(())
    }

    /// How many of the story's opportunities are closed and tallied, and how many events still wait to be decided.
    pub(super) async fn concluded(&self, played: &BTreeSet<OpportunityId>) -> Result<(usize, i64), Failure> {
        let (pool, tenant) = (&self.foundation.pool, &self.foundation.settings.tenant);
        let closed = sinks::closed(pool, tenant, self.since()).await?;
        let pending = ledger::totals(pool, tenant).await?.pending;
        Ok((closed.intersection(played).count(), pending))
    }

    /// From when on the story's opportunities were decided.
    pub(super) fn since(&self) -> Timestamp {
        self.began - SKEW
    }

    /// Directory of a registered model.
    pub(super) async fn materialize(&self, digest: Sha256Digest) -> Result<PathBuf, Failure> {
        let target = self.models.join(digest.to_string());
        if !target.exists() {
            std::fs::create_dir_all(&self.models)?;
            artifacts::get_directory(self.foundation.artifacts.as_ref(), &digest, &target).await?;
        }
        Ok(target)
    }

    /// Age of the oldest usable label that is in no data set of a version that serves.
    pub(super) async fn freshness(&self) -> Result<Duration, Failure> {
        Freshness::new(self.foundation)?.age(self.foundation.now()).await
    }

    /// What the platform is made of.
    pub(super) fn played_on(&self, deployment: bool) -> PlayedOn {
        let settings = &self.foundation.settings;
        PlayedOn {
            deployment,
            bus: settings.bus.kind.into(),
            database: settings.database.kind.into(),
            artifacts: settings.artifacts.kind.into(),
            clock_factor: settings.clock.factor.filter(|_| deployment),
        }
    }
}
