//! Objects in a bucket of S3, or of a store that speaks its protocol.
//!
//! `<prefix>objects/ab/abcd...` holds the object of digest `abcd...`, as in the local directory. An object of S3
//! becomes visible as a whole or not at all, and what a `PUT` answered is durable; so there is nothing here like
//! `incoming/`. Nothing is trusted on the way back: every byte that is delivered went through the digest, so the
//! checksums of the SDK are left out when reading.

mod check;
mod config;
mod connect;
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
use aws_sdk_s3::Client;
use bytes::{Bytes, BytesMut};
use events::Sha256Digest;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

pub use config::{S3Config, S3Credentials};
pub use policy::bucket_policy;

use self::download::Download;
use self::failure::{Place, is_absent};
use self::upload::Content;
use crate::local::{blocking, deliver, neighbour};
use crate::{ArtifactError, ArtifactStore, Stored};

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
    /// The same for short questions.
    hasty: Client,
    config: S3Config,
    place: Place,
}

impl S3Artifacts {
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
    async fn look_with(&self, client: &Client, digest: &Sha256Digest) -> Result<bool, ArtifactError> {
        match client.head_object().bucket(self.bucket()).key(self.key(digest)).send().await {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => self.look_at_bucket().await.map(|()| false),
            Err(error) => Err(self.place().failed("look for objects", &error)),
        }
    }

    async fn look(&self, digest: &Sha256Digest) -> Result<bool, ArtifactError> {
        self.look_with(self.client(), digest).await
    }
}

#[async_trait]
impl ArtifactStore for S3Artifacts {
    async fn put(&self, bytes: Bytes) -> Result<Stored, ArtifactError> {
        let length = bytes.len() as u64;
        if length > self.inner.config.multipart_bytes {
            self.put_large(Content::Memory(bytes), length).await
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
            None => self.put_large(Content::File(path), length).await,
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

    async fn answers(&self) -> Result<(), ArtifactError> {
        self.look_at_bucket().await
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
