//! Objects in a bucket of S3, or of a store that speaks its protocol.
//!
//! `<prefix>objects/ab/abcd...` holds the object of digest `abcd...`, as in the local directory. An object of S3
//! becomes visible as a whole or not at all, and what a `PUT` answered is durable; so there is nothing here like
//! `incoming/`. Nothing is trusted on the way back: every byte that is delivered went through the digest, so the
//! checksums of the SDK are left out when reading.

mod config;
mod download;
mod failure;
mod look;
mod policy;
mod upload;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use bytes::{Bytes, BytesMut};
use events::Sha256Digest;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

pub use config::{S3Config, S3Credentials};
pub use policy::bucket_policy;

use self::download::Download;
use self::failure::{Place, is_absent};
use self::upload::{Content, Plan};
use crate::local::{blocking, deliver, neighbour};
use crate::{ArtifactError, ArtifactStore, Stored};

/// The region of stores that do not care.
const NO_REGION: &str = "us-east-1";
/// Behind the prefix: where objects are, and the one that shows what is allowed.
const OBJECTS: &str = "objects/";
const PROBE: &str = "probe";
/// Chunks between the network and the disk.
const CHUNKS: usize = 16;
/// Memory that is taken on the word of the store, before the bytes are there.
const TRUSTED_BYTES: u64 = 64 << 20;

/// Objects in a bucket. Any number of processes may share it.
#[derive(Debug, Clone)]
pub struct S3Artifacts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    config: S3Config,
    place: Place,
}

impl S3Artifacts {
    /// Gets ready to speak to the bucket, without doing so: what is wrong shows in the first call, or in
    /// [`S3Artifacts::check`].
    ///
    /// # Errors
    /// Settings that make no store.
    pub async fn connect(mut config: S3Config) -> Result<Self, ArtifactError> {
        let setting = |reason: &str| Err(ArtifactError::Setting { reason: reason.to_owned() });
        if config.bucket.is_empty() {
            return setting("its bucket has no name");
        }
        config.prefix = config.key_prefix();
        let http = http_client(&config)?;
        let timeouts =
            TimeoutConfig::builder().connect_timeout(config.connect_timeout).read_timeout(config.read_timeout).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(RetryConfig::standard().with_max_attempts(config.attempts.max(1)))
            .timeout_config(timeouts);
        if let Some(endpoint) = &config.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        // Without a region the SDK would ask around in the network for one, which says nothing of a store of one's own.
        let region = config.region.clone().or_else(|| config.endpoint.is_some().then(|| NO_REGION.to_owned()));
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        if let Some(credentials) = &config.credentials {
            loader = loader.credentials_provider(credentials.provider());
        }
        let shared = loader.load().await;
        let Some(region) = shared.region() else {
            return setting("it has neither a region nor an endpoint");
        };
        let endpoint = match config.endpoint.as_deref().or(shared.endpoint_url()) {
            // It is shown in errors.
            Some(endpoint) if endpoint.contains('@') => {
                return setting("its endpoint must be an address without credentials");
            }
            Some(endpoint) => endpoint.to_owned(),
            None => format!("Amazon S3 in {region}"),
        };
        let s3 = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(config.path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let place = Place { bucket: config.bucket.clone(), endpoint };
        Ok(Self { inner: Arc::new(Inner { client: Client::from_conf(s3), config, place }) })
    }

    /// Whether the bucket is there and these credentials may do everything that a platform does: puts, reads and
    /// removes the small object `<prefix>probe`.
    ///
    /// # Errors
    /// What a person has to mend, told in one sentence.
    pub async fn check(&self) -> Result<(), ArtifactError> {
        let key = format!("{}{PROBE}", self.inner.config.prefix);
        let bytes = Bytes::from_static(b"flywheel was here");
        match self.put_at(&key, &Sha256Digest::of(&bytes), bytes).await {
            Ok(()) => {}
            Err(denied @ ArtifactError::Denied { .. }) => {
                let readable = self.client().head_bucket().bucket(self.bucket()).send().await.is_ok();
                let Place { bucket, endpoint } = self.inner.place.clone();
                return Err(if readable { ArtifactError::ReadOnly { bucket, endpoint } } else { denied });
            }
            Err(error) => return Err(error),
        }
        match self.client().get_object().bucket(self.bucket()).key(&key).send().await {
            Ok(_) => {}
            // Another process that checks at the same time has removed it.
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(self.place().failed("read objects", &error)),
        }
        match self.client().delete_object().bucket(self.bucket()).key(&key).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.place().failed("remove objects", &error)),
        }
    }

    fn client(&self) -> &Client {
        &self.inner.client
    }

    fn bucket(&self) -> &str {
        &self.inner.config.bucket
    }

    fn place(&self) -> &Place {
        &self.inner.place
    }

    fn attempts(&self) -> u32 {
        self.inner.config.attempts
    }

    fn parallel_parts(&self) -> usize {
        self.inner.config.parallel_parts.max(1)
    }

    fn key(&self, digest: &Sha256Digest) -> String {
        let name = digest.to_string();
        format!("{}{OBJECTS}{}/{name}", self.inner.config.prefix, name.get(..2).unwrap_or_default())
    }

    /// Whether an object is there; an answer that may mean a missing bucket is looked into.
    async fn look(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError> {
        const LOOK: &str = "look for objects";
        match self.client().head_object().bucket(self.bucket()).key(self.key(digest)).send().await {
            Ok(_) => return Ok(true),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(self.place().failed(LOOK, &error)),
        }
        match self.client().head_bucket().bucket(self.bucket()).send().await {
            Ok(_) => Ok(false),
            Err(error) if is_absent(&error) => {
                let Place { bucket, endpoint } = self.inner.place.clone();
                Err(ArtifactError::BucketMissing { bucket, endpoint })
            }
            Err(error) => Err(self.place().failed(LOOK, &error)),
        }
    }

    /// Puts what is larger than one request.
    async fn put_planned(&self, content: Content, bytes: u64) -> Result<Stored, ArtifactError> {
        let part_bytes = self.inner.config.part_bytes;
        let (plan, content) = blocking(move || {
            let plan = match &content {
                Content::Memory(content) => Plan::of(&mut &content[..], bytes, part_bytes),
                Content::File(path) => File::open(&**path).and_then(|mut file| Plan::of(&mut file, bytes, part_bytes)),
            };
            let path: &Path = match &content {
                Content::Memory(_) => Path::new("memory"),
                Content::File(path) => path,
            };
            let plan = plan.map_err(ArtifactError::io("read", path))?;
            if plan.bytes() != bytes {
                return Err(content.changed());
            }
            Ok((plan, content))
        })
        .await?;
        self.put_large(content, plan).await
    }
}

/// TLS by rustls and ring, with the certificates that this machine trusts. Where no TLS will be spoken they are not
/// loaded: a small container has none, and the SDK minds.
fn http_client(config: &S3Config) -> Result<SharedHttpClient, ArtifactError> {
    let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    let in_clear = config.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    // Credentials that are looked for may come from elsewhere, over TLS.
    if !in_clear || config.credentials.is_none() {
        return Ok(builder.build_https());
    }
    let context = TlsContext::builder().with_trust_store(TrustStore::empty()).build();
    let context = context.map_err(|error| ArtifactError::Setting { reason: error.to_string() })?;
    Ok(builder.tls_context(context).build_https())
}

#[async_trait]
impl ArtifactStore for S3Artifacts {
    async fn put(&self, bytes: Bytes) -> Result<Stored, ArtifactError> {
        let length = bytes.len() as u64;
        if length > self.inner.config.multipart_bytes {
            self.put_planned(Content::Memory(bytes), length).await
        } else {
            self.put_small(bytes).await
        }
    }

    async fn put_file(&self, path: &Path) -> Result<Stored, ArtifactError> {
        let (path, most) = (Arc::new(path.to_path_buf()), self.inner.config.multipart_bytes);
        let reading = Arc::clone(&path);
        // A small file is read once, so that nothing can change under it.
        let (small, length) = blocking(move || {
            let read = || -> std::io::Result<(Option<Vec<u8>>, u64)> {
                let file = File::open(&*reading)?;
                let length = file.metadata()?.len();
                let mut bytes = Vec::new();
                if length <= most {
                    file.take(most + 1).read_to_end(&mut bytes)?;
                }
                let small = length <= most && bytes.len() as u64 <= most;
                Ok((small.then_some(bytes), length))
            };
            read().map_err(ArtifactError::io("read", &*reading))
        })
        .await?;
        match small {
            Some(bytes) => self.put_small(bytes.into()).await,
            None => self.put_planned(Content::File(path), length).await,
        }
    }

    async fn get(&self, digest: &Sha256Digest) -> Result<Bytes, ArtifactError> {
        let mut download = Download::open(self, digest).await?;
        let expected = download.expected_bytes().unwrap_or_default().min(TRUSTED_BYTES);
        let mut bytes = BytesMut::with_capacity(usize::try_from(expected).unwrap_or_default());
        let mut hasher = Sha256::new();
        while let Some(chunk) = download.next().await? {
            hasher.update(&chunk);
            bytes.extend_from_slice(&chunk);
        }
        let found = Sha256Digest::from_bytes(hasher.finalize().into());
        if found == *digest {
            Ok(bytes.freeze())
        } else {
            Err(ArtifactError::Corrupt { digest: *digest, found, bytes: bytes.len() as u64 })
        }
    }

    async fn get_to_file(&self, digest: &Sha256Digest, path: &Path) -> Result<u64, ArtifactError> {
        let mut download = Download::open(self, digest).await?;
        let (sender, mut receiver) = mpsc::channel::<Bytes>(CHUNKS);
        let target = path.to_path_buf();
        let writing = tokio::spawn(blocking(move || {
            let (mut file, mut hasher, mut bytes) = (neighbour(&target)?, Sha256::new(), 0);
            while let Some(chunk) = receiver.blocking_recv() {
                hasher.update(&chunk);
                file.write_all(&chunk).map_err(ArtifactError::io("write", &target))?;
                bytes += chunk.len() as u64;
            }
            Ok((file, Sha256Digest::from_bytes(hasher.finalize().into()), bytes))
        }));
        let received = loop {
            match download.next().await {
                Ok(Some(chunk)) => {
                    if sender.send(chunk).await.is_err() {
                        // The writer is gone, and says itself why.
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(sender);
        let written = writing.await.unwrap_or(Err(ArtifactError::Stopped));
        received?;
        let (file, found, bytes) = written?;
        if found != *digest {
            return Err(ArtifactError::Corrupt { digest: *digest, found, bytes });
        }
        let target = path.to_path_buf();
        blocking(move || deliver(file, &target)).await?;
        Ok(bytes)
    }

    async fn exists(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError> {
        self.look(digest).await
    }

    async fn remove(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError> {
        // S3 does not say whether there was one.
        if !self.look(digest).await? {
            return Ok(false);
        }
        match self.client().delete_object().bucket(self.bucket()).key(self.key(digest)).send().await {
            Ok(_) => Ok(true),
            Err(error) => Err(self.place().failed("remove objects", &error)),
        }
    }
}
