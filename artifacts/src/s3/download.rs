//! Objects on their way down.

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use events::Sha256Digest;

use super::S3Artifacts;
use super::failure::{Place, is_absent};
use crate::ArtifactError;

/// What is done, for errors.
const READ: &str = "read objects";

/// The bytes of an object, not verified yet. A connection that breaks is taken up where it broke: of a model of
/// gigabytes, what has come need not come again.
pub(super) struct Download<'a> {
    store: &'a S3Artifacts,
    digest: Sha256Digest,
    body: ByteStream,
    /// What the store says of its length.
    expected: Option<u64>,
    received: u64,
    attempts_left: u32,
}

impl<'a> Download<'a> {
    pub(super) async fn open(store: &'a S3Artifacts, digest: &Sha256Digest) -> Result<Self, ArtifactError> {
        let (body, expected) = request(store, digest, 0).await?;
        let attempts_left = store.attempts().saturating_sub(1);
        Ok(Self { store, digest: *digest, body, expected, received: 0, attempts_left })
    }

    /// What the store says of the object's length.
    pub(super) fn expected_bytes(&self) -> Option<u64> {
        self.expected
    }

    /// The next bytes; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ArtifactError> {
        loop {
            match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.received += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                None => return Ok(None),
                Some(Err(error)) => {
                    if self.attempts_left == 0 || self.expected.is_some_and(|expected| expected <= self.received) {
                        return Err(self.store.place().unanswered(&error));
                    }
                    self.attempts_left -= 1;
                    (self.body, _) = request(self.store, &self.digest, self.received).await?;
                }
            }
        }
    }
}

/// The body of an object from a byte on, and how long it is.
async fn request(
    store: &S3Artifacts,
    digest: &Sha256Digest,
    from: u64,
) -> Result<(ByteStream, Option<u64>), ArtifactError> {
    let range = (from > 0).then(|| format!("bytes={from}-"));
    let answer =
        store.client().get_object().bucket(store.bucket()).key(store.key(digest)).set_range(range).send().await;
    match answer {
        Ok(answer) => {
            // Whatever stands between may not know ranges: its answer would be taken for a corrupt object.
            if from > 0 && answer.content_range().and_then(first_of) != Some(from) {
                let Place { bucket, endpoint } = store.place().clone();
                let said = answer.content_range().unwrap_or("the whole object");
                let reason = format!("it was asked for the bytes from {from} on, and sends others ({said})");
                return Err(ArtifactError::Store { action: READ, bucket, endpoint, reason });
            }
            let bytes = answer.content_length().and_then(|bytes| u64::try_from(bytes).ok());
            Ok((answer.body, bytes))
        }
        Err(error) if is_absent(&error) => Err(ArtifactError::NotFound { digest: *digest }),
        Err(error) => Err(store.place().failed(READ, &error)),
    }
}

/// The first byte of a range such as `bytes 100-199/200`.
fn first_of(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
