//! Where artifacts and lake parts are: a folder of the data directory, or a bucket.

use std::path::PathBuf;
use std::sync::Arc;
#[cfg(feature = "production")]
use std::time::Duration;

use artifacts::{ArtifactStore, LocalArtifacts};
#[cfg(feature = "production")]
use artifacts::{S3Artifacts, S3Config, S3Credentials};
use serde::{Deserialize, Serialize};
use service::config::{Invalid, Secret};

use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::parts::ArtifactsKind;
use crate::settings::ArtifactsSettings;

/// `[artifacts.s3]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct S3Settings {
    /// Where objects are. It must exist.
    bucket: String,
    /// The store's address; none: Amazon's.
    endpoint: Option<String>,
    /// What requests are signed for.
    region: Option<String>,
    /// Authorities of the store's certificate; none: those that this machine trusts.
    ca_file: Option<PathBuf>,
    /// Stands before the keys of all objects, for platforms that share a bucket.
    prefix: String,
    /// Whether the bucket is named in the path, not in the host.
    path_style: bool,
    /// An access key; none: the credentials that the environment gives to this process.
    #[serde(skip_serializing)]
    access_key_id: Option<Secret>,
    #[serde(skip_serializing)]
    secret_access_key: Option<Secret>,
    /// How often a request is tried in all.
    attempts: u32,
    /// How long a connection may take to open.
    connect_timeout_ms: u64,
    /// How long the first byte of an answer may take.
    read_timeout_ms: u64,
}

impl Default for S3Settings {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            endpoint: None,
            region: None,
            ca_file: None,
            prefix: String::new(),
            path_style: true,
            access_key_id: None,
            secret_access_key: None,
            attempts: 5,
            connect_timeout_ms: 3_000,
            read_timeout_ms: 60_000,
        }
    }
}

impl ArtifactsSettings {
    /// Refuses what names no store. Says nothing of whether it answers.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let S3Settings { bucket, endpoint, ca_file, access_key_id, secret_access_key, .. } = &self.s3;
        Invalid::unless(
            self.kind == ArtifactsKind::Local || !bucket.is_empty(),
            "artifacts.s3.bucket",
            "the name of a bucket",
        )?;
        let is_address = |endpoint: &String| {
            ["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) && !endpoint.contains('@')
        };
        Invalid::unless(
            endpoint.as_ref().is_none_or(is_address),
            "artifacts.s3.endpoint",
            "an address such as https://s3.example.com, without credentials",
        )?;
        Invalid::unless(
            ca_file.is_none() || endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https://")),
            "artifacts.s3.ca_file",
            "none, since `artifacts.s3.endpoint` does not begin with https://",
        )?;
        // A key without its other half would be signed with what the environment happens to have.
        Invalid::unless(
            access_key_id.is_some() == secret_access_key.is_some(),
            "artifacts.s3.secret_access_key",
            "both `access_key_id` and `secret_access_key`, or none of them",
        )?;
        for (value, name) in [
            (u64::from(self.s3.attempts), "attempts"),
            (self.s3.connect_timeout_ms, "connect_timeout_ms"),
            (self.s3.read_timeout_ms, "read_timeout_ms"),
        ] {
            Invalid::unless(value >= 1, format!("artifacts.s3.{name}"), "at least 1")?;
        }
        Ok(())
    }
}

/// Whether a store must answer to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// A bucket that is missing, or takes nothing, is told now.
    Now,
    /// It may come back later.
    Later,
}

/// Opens the configured store.
pub(crate) async fn open(
    settings: &ArtifactsSettings,
    data: &DataDir,
    reach: Reach,
) -> Result<Arc<dyn ArtifactStore>, Failure> {
    match (settings.kind, reach) {
        (ArtifactsKind::Local, _) => Ok(Arc::new(LocalArtifacts::open(data.artifacts()).map_err(Failure::refuse)?)),
        #[cfg(feature = "production")]
        (ArtifactsKind::S3, reach) => {
            let store = S3Artifacts::connect(bucket(&settings.s3)).await.map_err(Failure::refuse)?;
            if reach == Reach::Now {
                store.check().await.map_err(Failure::refuse)?;
            }
            Ok(Arc::new(store))
        }
    }
}

/// Opens the configured store to read it. A bucket that is missing, or can not be read, is told now; that it takes nothing
/// is no fault.
pub(crate) async fn open_to_read(
    settings: &ArtifactsSettings,
    data: &DataDir,
) -> Result<Arc<dyn ArtifactStore>, Failure> {
    match settings.kind {
        ArtifactsKind::Local => Ok(Arc::new(LocalArtifacts::open_to_read(data.artifacts()).map_err(Failure::refuse)?)),
        #[cfg(feature = "production")]
        ArtifactsKind::S3 => {
            let store = S3Artifacts::connect(bucket(&settings.s3)).await.map_err(Failure::refuse)?;
            store.check_to_read().await.map_err(Failure::refuse)?;
            Ok(Arc::new(store))
        }
    }
}

/// How the bucket is spoken to.
#[cfg(feature = "production")]
pub(crate) fn bucket(settings: &S3Settings) -> S3Config {
    let key = settings.access_key_id.as_ref().zip(settings.secret_access_key.as_ref());
    S3Config {
        endpoint: settings.endpoint.clone(),
        region: settings.region.clone(),
        ca_file: settings.ca_file.clone(),
        prefix: settings.prefix.clone(),
        path_style: settings.path_style,
        credentials: key.map(|(id, secret)| S3Credentials::new(id.expose_secret(), secret.expose_secret())),
        attempts: settings.attempts,
        connect_timeout: Duration::from_millis(settings.connect_timeout_ms),
        read_timeout: Duration::from_millis(settings.read_timeout_ms),
        ..S3Config::new(&settings.bucket)
    }
}
