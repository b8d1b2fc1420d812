//! The models that answer: which versions the registry wants served, loaded, verified and swapped in one step.
//!
//! A routing table is followed only when every version that it can choose is in memory. Until then, and when a file is
//! truncated, altered or gone, the last good table with its models stays: a request holds both by one pointer, so a
//! swap drops nobody. What serves, and what served before it, is kept on disk (`routing.json`, `models/<digest>/`), so
//! that a restart with everything down serves it again, and the version before when the newest is damaged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use events::{ModelName, ModelVersion, Sha256Digest, TenantId, Timestamp};
use metrics::{counter, gauge};
use model_registry::routing::{RoutingTable, ServedVersion};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::disk;
use crate::engine::Engine;

/// A table that could not be followed is not tried again before this time has passed.
const RETRY: Duration = Duration::from_secs(15);

/// A model of a tenant.
pub(crate) type ModelKey = (TenantId, ModelName);
/// What is served: for every model its table and the versions that the table can choose.
pub(crate) type Catalog = BTreeMap<ModelKey, Arc<ServedModel>>;

/// A table with everything that it can choose.
pub(crate) struct ServedModel {
    pub(crate) table: RoutingTable,
    engines: HashMap<Sha256Digest, Arc<dyn Engine>>,
}

impl ServedModel {
    pub(crate) fn engine(&self, digest: &Sha256Digest) -> Option<&Arc<dyn Engine>> {
        self.engines.get(digest)
    }
}

/// Why a version cannot be served. Names files and digests, never content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unservable(pub(crate) String);

/// Where model directories come from, and what a good one is.
#[async_trait]
pub(crate) trait ModelSource: Send + Sync {
    /// Brings the artifact into `directory`, which does not exist yet.
    async fn fetch(&self, digest: Sha256Digest, directory: &Path) -> Result<(), Unservable>;
    /// Verifies every byte of the directory against `digest` and loads the model, off this thread.
    async fn load(&self, digest: Sha256Digest, directory: &Path) -> Result<Arc<dyn Engine>, Unservable>;
}

/// Where routing tables come from.
#[async_trait]
pub(crate) trait RoutingSource: Send + Sync {
    /// The tables whose revision differs from the known one.
    async fn changed(&self, known: &BTreeMap<ModelKey, i64>) -> Result<Vec<RoutingTable>, Unservable>;
}

/// A version of a model of a tenant.
pub(crate) type VersionKey = (TenantId, ModelName, ModelVersion);

/// `routing.json`.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// What serves.
    tables: Vec<RoutingTable>,
    /// For each model whose current version changed: the table before.
    previous: Vec<RoutingTable>,
}

/// Where a table comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The registry.
    Registry,
    /// What the last run left on disk.
    Disk,
    /// The same, when no other table on disk has answered.
    LastOnDisk,
}

struct Failure {
    revision: i64,
    reason: Unservable,
    at: Instant,
}

/// The models of this process.
pub(crate) struct Models {
    catalog: ArcSwap<Catalog>,
    /// Whether any model is served.
    ready: watch::Sender<bool>,
    source: Arc<dyn ModelSource>,
    directory: PathBuf,
    routing_file: PathBuf,
    max_loaded: usize,
    keep_directories: usize,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
    failures: Mutex<BTreeMap<ModelKey, Failure>>,
    /// What was served before the current version of each model.
    previous: Mutex<BTreeMap<ModelKey, RoutingTable>>,
    first_served: Mutex<BTreeMap<VersionKey, Timestamp>>,
}

impl Models {
    pub(crate) fn new(
        source: Arc<dyn ModelSource>,
        data_dir: &Path,
        max_loaded: usize,
        keep_directories: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            catalog: ArcSwap::from_pointee(Catalog::new()),
            ready: watch::Sender::new(false),
            source,
            directory: data_dir.join("models"),
            routing_file: data_dir.join("routing.json"),
            max_loaded,
            keep_directories,
            changing: tokio::sync::Mutex::new(()),
            failures: Mutex::new(BTreeMap::new()),
            previous: Mutex::new(BTreeMap::new()),
            first_served: Mutex::new(BTreeMap::new()),
        })
    }

    /// What is served now.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    /// Ends when any model is served.
    pub(crate) async fn ready(&self) {
        // The sender lives in `self`, so it cannot be gone.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Why the newest table of a model is not followed.
    pub(crate) fn failures(&self) -> Vec<(ModelKey, String)> {
        self.failures.lock().iter().map(|(key, failure)| (key.clone(), failure.reason.to_string())).collect()
    }

    /// When each version first showed a suggestion in this process.
    pub(crate) fn first_served(&self) -> BTreeMap<VersionKey, Timestamp> {
        self.first_served.lock().clone()
    }

    /// Notes that a version showed a suggestion.
    pub(crate) fn served(&self, table: &RoutingTable, version: ModelVersion, now: Timestamp) {
        let key = (table.tenant.clone(), table.model.clone(), version);
        let mut first_served = self.first_served.lock();
        if first_served.contains_key(&key) {
            return;
        }
        tracing::info!(model = %table.model, %version, "first suggestion of this version served");
        gauge!(
            "flywheel_serving_first_served_timestamp_seconds",
            "tenant" => table.tenant.to_string(),
            "model" => table.model.to_string(),
            "version" => version.to_string()
        )
        .set(now.as_micros() as f64 / 1e6);
        first_served.insert(key, now);
    }

    /// Serves again what the last run served, as far as its files are good; where they are not, what served before.
    pub(crate) async fn restore(&self) {
        let kept: Kept = disk::read_json(&self.routing_file).unwrap_or_default();
        let previous = kept.previous.into_iter().map(|table| (key_of(&table), table));
        *self.previous.lock() = previous.collect();
        for table in kept.tables {
            let key = key_of(&table);
            // Its rollout is over.
            let before = self.previous.lock().get(&key).map(|before| RoutingTable { rollout: None, ..before.clone() });
            let Some(before) = before else {
                self.follow(table, Origin::LastOnDisk).await;
                continue;
            };
            for origin in [Origin::Disk, Origin::LastOnDisk] {
                self.follow(table.clone(), origin).await;
                if !self.catalog().contains_key(&key) {
                    tracing::error!(model = %key.1, version = %before.current.version, "going back to the version before");
                    self.follow(before.clone(), origin).await;
                }
                if self.catalog().contains_key(&key) {
                    break;
                }
            }
        }
    }

    /// Asks `source` for changed tables and follows them. Idempotent.
    pub(crate) async fn refresh(&self, source: &dyn RoutingSource) -> Result<(), Unservable> {
        let known = self.catalog().iter().map(|(key, served)| (key.clone(), served.table.revision)).collect();
        for table in source.changed(&known).await? {
            let key = key_of(&table);
            let failed_lately = self
                .failures
                .lock()
                .get(&key)
                .is_some_and(|failure| failure.revision == table.revision && failure.at.elapsed() < RETRY);
            if !failed_lately {
                self.follow(table, Origin::Registry).await;
            }
        }
        Ok(())
    }

    /// Loads what `table` needs and serves by it, or keeps what is served and says why.
    async fn follow(&self, table: RoutingTable, origin: Origin) {
        let _one_at_a_time = self.changing.lock().await;
        let key = key_of(&table);
        let catalog = self.catalog();
        let previous = catalog.get(&key);
        if previous.is_some_and(|previous| previous.table.revision >= table.revision) {
            return;
        }
        let revision = table.revision;
        match self.load(&catalog, &key, table, previous.is_none(), origin).await {
            Ok((served, complete)) => {
                let mut next = Catalog::clone(&catalog);
                tracing::info!(
                    model = %key.1,
                    revision,
                    current = %served.table.current.version,
                    canary = served.table.rollout.as_ref().map(|rollout| rollout.candidate.version.0),
                    "routing followed"
                );
                next.insert(key.clone(), Arc::new(served));
                gauge!("flywheel_serving_models_loaded").set(digests(&next).len() as f64);
                let next = Arc::new(next);
                self.catalog.store(Arc::clone(&next));
                self.ready.send_replace(true);
                if origin == Origin::Registry {
                    if let (Some(previous), Some(now)) = (previous, next.get(&key))
                        && previous.table.current != now.table.current
                    {
                        self.previous.lock().insert(key.clone(), previous.table.clone());
                    }
                    self.keep(next).await;
                }
                match complete {
                    // The failure of a newer table stays told.
                    Ok(()) => self.failures.lock().retain(|of, failure| *of != key || failure.revision > revision),
                    Err(reason) => self.failed(key, revision, reason),
                }
            }
            Err(reason) => self.failed(key, revision, reason),
        }
    }

    fn failed(&self, key: ModelKey, revision: i64, reason: Unservable) {
        tracing::error!(model = %key.1, revision, %reason, "routing not followed; the last good version serves on");
        counter!("flywheel_serving_model_load_failures_total", "model" => key.1.to_string()).increment(1);
        self.failures.lock().insert(key, Failure { revision, reason, at: Instant::now() });
    }

    /// Everything that `table` can choose, in memory. With `first`, when nothing else could answer, a table whose
    /// current version is good is served without those that are not; the second result says which and why. The current
    /// version of the last table on disk needs good files and no more: an engine that starts later than this process is
    /// asked as soon as it writes, also when the registry is down and tells nobody to try again.
    async fn load(
        &self,
        catalog: &Catalog,
        key: &ModelKey,
        mut table: RoutingTable,
        first: bool,
        origin: Origin,
    ) -> Result<(ServedModel, Result<(), Unservable>), Unservable> {
        let others = catalog.iter().filter(|(other, _)| *other != key).flat_map(|(_, served)| served.engines.keys());
        let wanted: BTreeSet<Sha256Digest> =
            others.copied().chain(table.versions().into_iter().map(|version| version.artifact_digest)).collect();
        if wanted.len() > self.max_loaded {
            return Err(Unservable(format!(
                "{} models would be in memory, at most {} are allowed (serving.max_loaded_models)",
                wanted.len(),
                self.max_loaded
            )));
        }
        let mut engines = HashMap::new();
        let mut complete = Ok(());
        let versions: Vec<ServedVersion> = table.versions().into_iter().cloned().collect();
        for version in versions {
            let digest = version.artifact_digest;
            let loaded = catalog.values().find_map(|served| served.engine(&digest)).cloned();
            let engine = match loaded {
                Some(engine) => Ok(engine),
                None if origin == Origin::LastOnDisk && digest == table.current.artifact_digest => {
                    self.bring(digest).await
                }
                None => self.bring_proven(digest).await,
            };
            match engine {
                Ok(engine) => {
                    engines.insert(digest, engine);
                }
                Err(reason) => {
                    let reason = Unservable(format!("version {}: {reason}", version.version));
                    if !first || version.artifact_digest == table.current.artifact_digest {
                        return Err(reason);
                    }
                    complete = Err(reason);
                }
            }
        }
        if complete.is_err() {
            let is_good = |version: &ServedVersion| engines.contains_key(&version.artifact_digest);
            table.rollout = table.rollout.filter(|rollout| is_good(&rollout.candidate));
            table.reference = table.reference.filter(is_good);
            table.promoted.retain(is_good);
            // The whole table, when it can be had, is newer than this remainder of it.
            table.revision -= 1;
        }
        Ok((ServedModel { table, engines }, complete))
    }

    /// The model of an artifact, which has answered once.
    async fn bring_proven(&self, digest: Sha256Digest) -> Result<Arc<dyn Engine>, Unservable> {
        let engine = self.bring(digest).await?;
        // Its directory is good, whatever the engine says.
        engine.prove().await?;
        Ok(engine)
    }

    /// The model of an artifact: from its directory, or fetched when that is absent or damaged.
    async fn bring(&self, digest: Sha256Digest) -> Result<Arc<dyn Engine>, Unservable> {
        let directory = self.directory.join(digest.to_string());
        let on_disk = if directory.exists() {
            match self.source.load(digest, &directory).await {
                Ok(engine) => return Ok(engine),
                Err(reason) => {
                    tracing::error!(%digest, %reason, "a model directory is damaged; fetching it again");
                    counter!("flywheel_serving_model_damages_total").increment(1);
                    Some(reason)
                }
            }
        } else {
            None
        };
        let failed = |reason: Unservable| match &on_disk {
            Some(damage) => Unservable(format!("{damage}; and {reason}")),
            None => reason,
        };
        let fresh = self.directory.join(format!("{digest}.new"));
        let _ = tokio::fs::remove_dir_all(&fresh).await;
        let io = |error: std::io::Error| Unservable(format!("{}: {error}", self.directory.display()));
        tokio::fs::create_dir_all(&self.directory).await.map_err(io)?;
        self.source.fetch(digest, &fresh).await.map_err(failed)?;
        let engine = match self.source.load(digest, &fresh).await {
            Ok(engine) => engine,
            Err(reason) => {
                let _ = tokio::fs::remove_dir_all(&fresh).await;
                return Err(failed(reason));
            }
        };
        // A damaged directory stays for a look until a good one takes its place.
        let _ = tokio::fs::remove_dir_all(&directory).await;
        tokio::fs::rename(&fresh, &directory).await.map_err(io)?;
        disk::sync_directory(self.directory.clone()).await.map_err(io)?;
        Ok(engine)
    }

    /// Writes down what serves, and removes directories that nothing needs.
    async fn keep(&self, catalog: Arc<Catalog>) {
        let (routing_file, directory, keep) =
            (self.routing_file.clone(), self.directory.clone(), self.keep_directories);
        let kept = Kept {
            tables: catalog.values().map(|served| served.table.clone()).collect(),
            previous: self.previous.lock().values().cloned().collect(),
        };
        let mut used = digests(&catalog);
        used.extend(kept.previous.iter().map(|table| table.current.artifact_digest));
        let written = tokio::task::spawn_blocking(move || {
            let written = disk::write_json(&routing_file, &kept);
            if written.is_ok() {
                prune(&directory, &used, keep);
            }
            written
        })
        .await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the routing could not be kept for the next start");
            counter!("flywheel_serving_disk_failures_total").increment(1);
        }
    }
}

fn key_of(table: &RoutingTable) -> ModelKey {
    (table.tenant.clone(), table.model.clone())
}

fn digests(catalog: &Catalog) -> BTreeSet<Sha256Digest> {
    catalog.values().flat_map(|served| served.engines.keys().copied()).collect()
}

/// Removes model directories not in use, except the `keep` that changed last.
fn prune(directory: &Path, used: &BTreeSet<Sha256Digest>, keep: usize) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut unused: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter(|entry| {
            let digest = entry.file_name().to_str().and_then(|name| name.parse().ok());
            digest.is_some_and(|digest| !used.contains(&digest))
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    unused.sort();
    let surplus = unused.len().saturating_sub(keep);
    for (_, path) in unused.into_iter().take(surplus) {
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "an unused model directory could not be removed");
        }
    }
}

#[cfg(test)]
#[path = "models_tests.rs"]
mod tests;
