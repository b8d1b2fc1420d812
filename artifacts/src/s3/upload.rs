//! Objects on their way up.
//!
//! Every request carries the SHA-256 of its bytes, which the store compares before anything is visible. A small object
//! is one request, always sent: it costs no more than asking whether it is needed, replaces the object as a whole, and
//! so heals it whatever was wrong. A large one goes up in parts, and first it is asked for: the store keeps the digest
//! of the digests of the parts, so when length and that digest are the ones that we would send, these very bytes were
//! stored, and gigabytes stay at home. Bytes that rotted below the store, so that it still vouches for them, are healed
//! by removing the object first.
//!
//! A large put is a task of its own: whoever waits for it may be dropped, and the parts that the store holds by then must
//! be given back all the same.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use events::Sha256Digest;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::S3Artifacts;
use super::failure::is_absent;
use crate::local::blocking;
use crate::{ArtifactError, Stored};

/// What is done, for errors.
const WRITE: &str = "put objects";
/// How long parts on their way may take to arrive once another has failed.
const ENDING: Duration = Duration::from_secs(5);
/// S3 takes no more parts than these of one object.
const MOST_PARTS: u64 = 10_000;

/// What goes up.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Memory(Bytes),
    File(Arc<PathBuf>),
}

impl Content {
    /// The bytes of one part. A file is opened anew each time, so that nothing is shared between parts; that it is
    /// still the same file shows in the digest.
    async fn part(&self, from: u64, bytes: u64) -> Result<Bytes, ArtifactError> {
        match self {
            Self::Memory(content) => {
                let range = usize::try_from(from).ok().zip(usize::try_from(from + bytes).ok());
                let part = range.filter(|(_, end)| *end <= content.len()).map(|(start, end)| content.slice(start..end));
                Ok(part.unwrap_or_default())
            }
            Self::File(path) => {
                let path = Arc::clone(path);
                blocking(move || {
                    let read = || -> std::io::Result<Vec<u8>> {
                        let mut file = File::open(&*path)?;
                        file.seek(SeekFrom::Start(from))?;
                        let mut part = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
                        file.take(bytes).read_to_end(&mut part)?;
                        Ok(part)
                    };
                    read().map(Bytes::from).map_err(ArtifactError::io("read", &*path))
                })
                .await
            }
        }
    }

    /// What was read again is not what was read first.
    pub(super) fn changed(&self) -> ArtifactError {
        let path = match self {
            Self::Memory(_) => PathBuf::from("memory"),
            Self::File(path) => path.to_path_buf(),
        };
        ArtifactError::Changed { path }
    }
}

/// The digests of an object and its parts, taken before anything is sent. What is read again later must have them, or a
/// file that somebody writes to would be stored under the name of other bytes.
#[derive(Debug)]
pub(super) struct Plan {
    digest: Sha256Digest,
    bytes: u64,
    part_bytes: u64,
    parts: Vec<Sha256Digest>,
}

impl Plan {
    /// Reads all of `from`, of which `expected` bytes are expected.
    pub(super) fn of(from: &mut impl Read, expected: u64, part_bytes: u64) -> std::io::Result<Self> {
        /// Both digests of what goes through.
        struct Both<'a>(&'a mut Sha256, Sha256);
        impl Write for Both<'_> {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.update(bytes);
                self.1.update(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let part_bytes = part_bytes.max(expected.div_ceil(MOST_PARTS)).max(1);
        let (mut whole, mut parts, mut bytes) = (Sha256::new(), Vec::new(), 0);
        loop {
            let mut both = Both(&mut whole, Sha256::new());
            let count = std::io::copy(&mut from.by_ref().take(part_bytes), &mut both)?;
            if count == 0 {
                break;
            }
            parts.push(Sha256Digest::from_bytes(both.1.finalize().into()));
            bytes += count;
        }
        Ok(Self { digest: Sha256Digest::from_bytes(whole.finalize().into()), bytes, part_bytes, parts })
    }

    /// What the store makes of the digests of all parts.
    fn checksum(&self) -> String {
        let mut hasher = Sha256::new();
        for part in &self.parts {
            hasher.update(part.as_bytes());
        }
        format!("{}-{}", STANDARD.encode(hasher.finalize()), self.parts.len())
    }
}

/// A digest as S3 writes it.
fn base64_of(digest: &Sha256Digest) -> String {
    STANDARD.encode(digest.as_bytes())
}

impl S3Artifacts {
    /// One request.
    pub(super) async fn put_small(&self, bytes: Bytes) -> Result<Stored, ArtifactError> {
        let stored = Stored { digest: Sha256Digest::of(&bytes), bytes: bytes.len() as u64 };
        self.put_with(self.client(), &self.key(&stored.digest), &stored.digest, bytes).await?;
        Ok(stored)
    }

    /// Puts bytes of this digest at a key.
    pub(super) async fn put_with(
        &self,
        client: &Client,
        key: &str,
        digest: &Sha256Digest,
        bytes: Bytes,
    ) -> Result<(), ArtifactError> {
        let request = client.put_object().bucket(self.bucket()).key(key).checksum_sha256(base64_of(digest));
        match request.body(ByteStream::from(bytes)).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.place().failed(WRITE, &error)),
        }
    }

    /// As many requests as there are parts, for content of so many bytes.
    pub(super) async fn put_large(&self, content: Content, bytes: u64) -> Result<Stored, ArtifactError> {
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
            if plan.bytes == bytes { Ok((plan, content)) } else { Err(content.changed()) }
        })
        .await?;
        let (_waiting, given_up) = oneshot::channel::<Infallible>();
        let store = self.clone();
        let putting = tokio::spawn(async move { store.put_planned(content, plan, given_up).await });
        putting.await.unwrap_or(Err(ArtifactError::Stopped))
    }

    /// Puts everything or leaves nothing; `given_up` ends when nobody waits for it any more.
    async fn put_planned(
        &self,
        content: Content,
        plan: Plan,
        given_up: oneshot::Receiver<Infallible>,
    ) -> Result<Stored, ArtifactError> {
        let stored = Stored { digest: plan.digest, bytes: plan.bytes };
        let key = self.key(&plan.digest);
        if self.holds(&key, &plan).await? {
            return Ok(stored);
        }
        let request = self.client().create_multipart_upload().bucket(self.bucket()).key(&key);
        let upload = match request.checksum_algorithm(ChecksumAlgorithm::Sha256).send().await {
            Ok(begun) => begun.upload_id().unwrap_or_default().to_owned(),
            Err(error) => return Err(self.place().failed(WRITE, &error)),
        };
        let upload = Upload { key, id: upload };
        let put = match self.put_parts(&content, &plan, &upload, given_up).await {
            Ok(parts) => self.complete(&upload, parts).await,
            Err(error) => Err(error),
        };
        let Err(error) = put else { return Ok(stored) };
        // The object may be there all the same, when only the answer was lost. The upload is gone then, and giving it up
        // does no harm.
        let is_there = self.holds(&upload.key, &plan).await.unwrap_or(false);
        self.abort(&upload).await;
        if is_there { Ok(stored) } else { Err(error) }
    }

    /// Whether the store vouches for these very bytes.
    async fn holds(&self, key: &str, plan: &Plan) -> Result<bool, ArtifactError> {
        let request = self.client().head_object().bucket(self.bucket()).key(key);
        match request.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(found) => {
                let bytes = found.content_length().and_then(|bytes| u64::try_from(bytes).ok());
                Ok(bytes == Some(plan.bytes) && found.checksum_sha256() == Some(plan.checksum().as_str()))
            }
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(self.place().failed("look for objects", &error)),
        }
    }

    /// All parts, a few at once; they may arrive in any order. None any more when nobody waits for them.
    async fn put_parts(
        &self,
        content: &Content,
        plan: &Plan,
        upload: &Upload,
        mut given_up: oneshot::Receiver<Infallible>,
    ) -> Result<Vec<CompletedPart>, ArtifactError> {
        let (mut waiting, mut running, mut done) =
            (plan.parts.iter().copied().zip(0_u64..), JoinSet::new(), Vec::<CompletedPart>::new());
        let failed = loop {
            while running.len() < self.parallel_parts()
                && let Some((digest, index)) = waiting.next()
            {
                let from = index * plan.part_bytes;
                let bytes = plan.part_bytes.min(plan.bytes - from);
                let (store, content, upload) = (self.clone(), content.clone(), upload.clone());
                running.spawn(async move { store.put_part(&content, &upload, index, from, bytes, digest).await });
            }
            let ended = tokio::select! {
                ended = running.join_next() => ended,
                _ = &mut given_up => break Some(ArtifactError::Stopped),
            };
            match ended {
                Some(Ok(Ok(part))) => done.push(part),
                Some(Ok(Err(error))) => break Some(error),
                Some(Err(_)) => break Some(ArtifactError::Stopped),
                None => break None,
            }
        };
        // Nothing may arrive any more once the upload is given up: a part that the store is still busy with would bring it
        // back.
        let ending = async { while running.join_next().await.is_some() {} };
        let _those_that_hang_are_left = tokio::time::timeout(ENDING, ending).await;
        running.shutdown().await;
        match failed {
            Some(error) => Err(error),
            None => {
                done.sort_by_key(|part| part.part_number());
                Ok(done)
            }
        }
    }

    async fn put_part(
        &self,
        content: &Content,
        upload: &Upload,
        index: u64,
        from: u64,
        bytes: u64,
        digest: Sha256Digest,
    ) -> Result<CompletedPart, ArtifactError> {
        let part = content.part(from, bytes).await?;
        if part.len() as u64 != bytes || Sha256Digest::of(&part) != digest {
            return Err(content.changed());
        }
        // At most MOST_PARTS of them.
        let number = i32::try_from(index + 1).unwrap_or(i32::MAX);
        let checksum = base64_of(&digest);
        let request = self.client().upload_part().bucket(self.bucket()).key(&upload.key).upload_id(&upload.id);
        let request = request.part_number(number).checksum_sha256(&checksum).body(ByteStream::from(part));
        match request.send().await {
            Ok(put) => {
                let part = CompletedPart::builder().part_number(number).checksum_sha256(checksum);
                Ok(part.set_e_tag(put.e_tag().map(str::to_owned)).build())
            }
            Err(error) => Err(self.place().failed(WRITE, &error)),
        }
    }

    async fn complete(&self, upload: &Upload, parts: Vec<CompletedPart>) -> Result<(), ArtifactError> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client().complete_multipart_upload().bucket(self.bucket()).key(&upload.key);
        match request.upload_id(&upload.id).multipart_upload(parts).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.place().failed(WRITE, &error)),
        }
    }

    /// Gives the parts back. When that fails too, they are left to the rule of the bucket for unfinished uploads, as
    /// are those of a process that was killed.
    async fn abort(&self, upload: &Upload) {
        let request = self.client().abort_multipart_upload().bucket(self.bucket()).key(&upload.key);
        let _why_it_failed_is_told_already = request.upload_id(&upload.id).send().await;
    }
}

/// An object whose parts are on their way.
#[derive(Debug, Clone)]
struct Upload {
    key: String,
    id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_the_digests_of_the_whole_and_of_every_part() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let plan = Plan::of(&mut &bytes[..], 1000, 300).unwrap();
        assert_eq!((plan.digest, plan.bytes, plan.part_bytes), (Sha256Digest::of(&bytes), 1000, 300));
        let parts: Vec<Sha256Digest> = bytes.chunks(300).map(Sha256Digest::of).collect();
        assert_eq!(plan.parts, parts);
        assert!(plan.checksum().ends_with("=-4"), "{}", plan.checksum());
        // No part is empty where the object ends with one.
        assert_eq!(Plan::of(&mut &bytes[..], 1000, 500).unwrap().parts.len(), 2);
    }

    #[test]
    fn parts_grow_with_the_object() {
        let plan = Plan::of(&mut std::io::empty(), 100 << 30, 8 << 20).unwrap();
        assert!(plan.part_bytes * MOST_PARTS >= 100 << 30, "{}", plan.part_bytes);
    }
}
