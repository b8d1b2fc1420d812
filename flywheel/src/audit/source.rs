//! A platform, opened to be read: the database, the log and the artifact store each refuse or are never asked to write.

use std::fs::File;
use std::sync::Arc;

use artifacts::ArtifactStore;
use bus::Bus;
use labeler::policy_record::VersionedPolicy;
use model_registry::{Registry, RegistryDeps};
use service::clock::{RealClock, SharedClock};
use service::ids::SystemIds;
use service::keys::KeyStore;
use sqlx::AnyPool;

use crate::cli::Common;
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::{artifact_store, database, foundation, operations};

/// What is audited.
pub(crate) struct Source {
    pub(crate) settings: Settings,
    pub(crate) clock: SharedClock,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) pool: AnyPool,
    pub(crate) keys: KeyStore,
    pub(crate) artifacts: Arc<dyn ArtifactStore>,
    /// The label policy that holds until the log names one.
    pub(crate) label_policy: VersionedPolicy,
    /// What is copied is in the data directory, on which a platform may start meanwhile.
    _kept: Option<File>,
}

impl Source {
    pub(crate) async fn open(common: &Common) -> Result<Self, Failure> {
        let settings = Settings::load(common, &[])?;
        operations::must_exist(&settings)?;
        let data = DataDir::open(&settings.data_dir)?;
        data.take_temporary_files();
        let kept = data.keep_temporary_files();
        let clock = settings.clock.build().map_err(Failure::refuse)?.clock;
        let pool = database::open_to_read(&settings.database, &data).await?;
        let bus = foundation::open_log_to_read(&settings, &data, Arc::clone(&clock)).await?;
        let keys = KeyStore::open(pool.clone(), &foundation::master_key_file(&settings, &data)?)
            .await
            .map_err(Failure::refuse)?;
        let artifacts = artifact_store::open_to_read(&settings.artifacts, &data).await?;
        let label_policy = VersionedPolicy::configured(&pool, settings.labeler.policy.clone()).await?;
        Ok(Self { settings, clock, bus, pool, keys, artifacts, label_policy, _kept: kept })
    }

    /// The registry, to be read.
    pub(crate) fn registry(&self) -> Result<Registry, Failure> {
        let deps = RegistryDeps {
            pool: self.pool.clone(),
            clock: Arc::clone(&self.clock),
            ids: Arc::new(SystemIds::new(RealClock::shared())),
            artifacts: Arc::clone(&self.artifacts),
        };
        Registry::new(deps, self.settings.registry.rollout.clone()).map_err(Failure::refuse)
    }
}
