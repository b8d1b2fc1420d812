//! Whether the bucket can be used: asked in full at the start, and cheaply from then on.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use bytes::Bytes;
use events::Sha256Digest;

use super::failure::{Place, is_absent};
use super::{PROBE, S3Artifacts, S3Config};
use crate::ArtifactError;

/// How long all of a check may take.
const CHECK: Duration = Duration::from_secs(15);
/// Whoever waits for these answers is not as patient as who moves gigabytes. Two attempts fit into [`CHECK`]: what fails
/// says so in its own words before the time is up.
const ATTEMPTS: u32 = 2;
const ATTEMPT: Duration = Duration::from_secs(6);
const CONNECT: Duration = Duration::from_secs(3);
/// The content of an object that nobody ever puts.
const NEVER_PUT: &[u8] = b"flywheel asks for this object, which is not there";

impl S3Artifacts {
    /// The same client, for short questions.
    pub(super) fn hasty(client: &Client, config: &S3Config) -> Client {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(config.connect_timeout.min(CONNECT))
            .read_timeout(config.read_timeout.min(ATTEMPT))
            .operation_attempt_timeout(config.read_timeout.min(ATTEMPT))
            .build();
        let attempts = config.attempts.clamp(1, ATTEMPTS);
        let hasty = client.config().to_builder().timeout_config(timeouts);
        Client::from_conf(hasty.retry_config(RetryConfig::standard().with_max_attempts(attempts)).build())
    }

    /// Whether the bucket is there and these credentials may do everything that a platform does: puts, reads and
    /// removes the small object `<prefix>probe`, and asks for one that is absent.
    ///
    /// # Errors
    /// What a person has to mend, told in one sentence.
    pub async fn check(&self) -> Result<(), ArtifactError> {
        self.in_time(self.check_all()).await
    }

    /// Whether the bucket is there and these credentials may read it: asks for an object that is absent. Changes nothing,
    /// and needs no right to.
    ///
    /// # Errors
    /// What a person has to mend, told in one sentence.
    pub async fn check_to_read(&self) -> Result<(), ArtifactError> {
        self.in_time(self.check_reading()).await
    }

    async fn in_time(&self, checking: impl Future<Output = Result<(), ArtifactError>>) -> Result<(), ArtifactError> {
        match tokio::time::timeout(CHECK, checking).await {
            Ok(checked) => checked,
            Err(_) => {
                let Place { bucket, endpoint } = self.place().clone();
                let reason = format!("it answers too slowly: a small object took more than {} s", CHECK.as_secs());
                Err(ArtifactError::Unreachable { bucket, endpoint, reason })
            }
        }
    }

    async fn check_all(&self) -> Result<(), ArtifactError> {
        let client = &self.inner.hasty;
        let key = format!("{}{PROBE}", self.inner.config.prefix);
        let bytes = Bytes::from_static(b"flywheel was here");
        match self.put_with(client, &key, &Sha256Digest::of(&bytes), bytes).await {
            Ok(()) => {}
            Err(denied @ ArtifactError::Denied { .. }) => {
                let readable = client.head_bucket().bucket(self.bucket()).send().await.is_ok();
                let Place { bucket, endpoint } = self.place().clone();
                return Err(if readable { ArtifactError::ReadOnly { bucket, endpoint } } else { denied });
            }
            Err(error) => return Err(error),
        }
        match client.get_object().bucket(self.bucket()).key(&key).send().await {
            Ok(_) => {}
            // Another process that checks at the same time has removed it.
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(self.place().failed("read objects", &error)),
        }
        if let Err(error) = client.delete_object().bucket(self.bucket()).key(&key).send().await {
            return Err(self.place().failed("remove objects", &error));
        }
        self.check_listing().await
    }

    async fn check_reading(&self) -> Result<(), ArtifactError> {
        let absent = self.key(&Sha256Digest::of(NEVER_PUT));
        match self.inner.hasty.get_object().bucket(self.bucket()).key(absent).send().await {
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => {
                let failed = self.place().failed("read objects", &error);
                // To whoever may not list, Amazon forbids what is absent.
                let is_denied = matches!(failed, ArtifactError::Denied { .. });
                if !is_denied || self.look_at_bucket().await.is_ok() {
                    return Err(failed);
                }
            }
        }
        self.check_listing().await
    }

    async fn check_listing(&self) -> Result<(), ArtifactError> {
        match self.look_with(&self.inner.hasty, &Sha256Digest::of(NEVER_PUT)).await {
            Err(ArtifactError::Denied { bucket, endpoint, .. }) => {
                // Without it Amazon hides what is absent behind what is forbidden.
                let action = "list objects (s3:ListBucket, which tells absent objects from forbidden ones)";
                Err(ArtifactError::Denied { action, bucket, endpoint })
            }
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// One small question, which needs the bucket and the right to look for objects in it.
    pub(super) async fn look_at_bucket(&self) -> Result<(), ArtifactError> {
        match self.inner.hasty.head_bucket().bucket(self.bucket()).send().await {
            Ok(_) => Ok(()),
            Err(error) if is_absent(&error) => {
                let Place { bucket, endpoint } = self.place().clone();
                Err(ArtifactError::BucketMissing { bucket, endpoint })
            }
            Err(error) => Err(self.place().failed("look for objects", &error)),
        }
    }
}
