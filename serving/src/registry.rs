//! The registry and the artifact store, as serving asks them.
//!
//! A model on disk is `models/<digest>/artifact.json` (the artifact's manifest, whose SHA-256 is that digest) beside
//! `models/<digest>/files/` (the Hugging Face directory, or what names a model of an engine that others run). Every byte is
//! verified against the digest before it is loaded, without asking anybody.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use artifacts::{ArtifactStore, DirectoryManifest, get_directory, verify_directory};
use async_trait::async_trait;
use events::Sha256Digest;
use model_registry::client::RegistryClient;
use model_registry::routing::RoutingTable;

use crate::disk;
use crate::engine::{self, Description, Engine, ForeignEngines, ForeignModel, Loading};
use crate::models::{ModelKey, ModelSource, RoutingSource, Unservable};

const MANIFEST: &str = "artifact.json";
const FILES: &str = "files";

/// Models from the artifact store.
pub(crate) struct ArtifactModels {
    store: Arc<dyn ArtifactStore>,
    loading: Loading,
    engines: ForeignEngines,
}

impl ArtifactModels {
    /// An artifact with weights is loaded as `loading` says; one without names one of `engines`.
    pub(crate) fn new(store: Arc<dyn ArtifactStore>, loading: Loading, engines: ForeignEngines) -> Self {
        Self { store, loading, engines }
    }
}

#[async_trait]
impl ModelSource for ArtifactModels {
    async fn fetch(&self, digest: Sha256Digest, directory: &Path) -> Result<(), Unservable> {
        let manifest = get_directory(&*self.store, &digest, &directory.join(FILES))
            .await
            .map_err(|error| Unservable(format!("it can not be fetched: {error}")))?;
        let (path, bytes) = (directory.join(MANIFEST), manifest.to_bytes());
        let failed = |error: std::io::Error| Unservable(format!("{}: {error}", directory.join(MANIFEST).display()));
        let written = tokio::task::spawn_blocking(move || disk::write(&path, &bytes)).await;
        written.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(failed)
    }

    async fn load(&self, digest: Sha256Digest, directory: &Path) -> Result<Arc<dyn Engine>, Unservable> {
        let path = directory.join(MANIFEST);
        let bytes = tokio::fs::read(&path).await.map_err(|error| Unservable(format!("{}: {error}", path.display())))?;
        if Sha256Digest::of(&bytes) != digest {
            return Err(Unservable(format!("{} is truncated or altered", path.display())));
        }
        let unservable = |error: &dyn std::fmt::Display| Unservable(error.to_string());
        let manifest = DirectoryManifest::from_bytes(digest, &bytes).map_err(|error| unservable(&error))?;
        let files = directory.join(FILES);
        verify_directory(&files, &manifest).await.map_err(|error| unservable(&error))?;
        if let Some(description) = Description::read(&files).await? {
            let model: Arc<dyn Engine> = ForeignModel::load(&self.engines, description, &files).await?;
            return Ok(model);
        }
        let loading = self.loading;
        let loaded = tokio::task::spawn_blocking(move || engine::load(&files, loading)).await;
        let model = loaded.map_err(|_| Unservable("loading panicked".to_owned()))?;
        Ok(Arc::new(model.map_err(|error| unservable(&error))?))
    }
}

/// Routing from the registry: one client for each tenant that is served here.
pub(crate) struct Registry {
    clients: Vec<RegistryClient>,
    timeout: Duration,
}

impl Registry {
    pub(crate) fn new(clients: Vec<RegistryClient>, timeout: Duration) -> Self {
        Self { clients, timeout }
    }

    async fn changed_of(
        client: &RegistryClient,
        known: &BTreeMap<ModelKey, i64>,
    ) -> Result<Vec<RoutingTable>, Unservable> {
        let failed = |error: model_registry::client::ClientError| Unservable(error.to_string());
        let mut tables = Vec::new();
        for model in client.list_models().await.map_err(failed)? {
            let is_known = known.get(&(model.tenant.clone(), model.model.clone())) == Some(&model.revision);
            if model.current.is_some() && !is_known {
                tables.push(client.get_routing(&model.model).await.map_err(failed)?);
            }
        }
        Ok(tables)
    }
}

#[async_trait]
impl RoutingSource for Registry {
    async fn changed(&self, known: &BTreeMap<ModelKey, i64>) -> Result<Vec<RoutingTable>, Unservable> {
        let mut tables = Vec::new();
        let mut failure = None;
        for client in &self.clients {
            let asked = tokio::time::timeout(self.timeout, Self::changed_of(client, known)).await;
            match asked.unwrap_or_else(|_| Err(Unservable("the registry does not answer in time".to_owned()))) {
                Ok(changed) => tables.extend(changed),
                Err(error) => failure = Some(error),
            }
        }
        // What one tenant's registry said is followed even when another's is silent.
        match failure {
            Some(error) if tables.is_empty() => Err(error),
            _ => Ok(tables),
        }
    }
}
