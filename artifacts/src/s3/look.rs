//! What a store says beside its answers.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use parking_lot::Mutex;

use super::S3Artifacts;
use super::failure::is_absent;
use crate::ArtifactError;

/// A header tells whole seconds.
const SECOND: Duration = Duration::from_secs(1);

/// Takes the date out of the head of an answer.
#[derive(Debug, Clone, Default)]
struct ReadDate(Arc<Mutex<Option<DateTime>>>);

impl Intercept for ReadDate {
    fn name(&self) -> &'static str {
        "ReadDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        *self.0.lock() = date.and_then(|text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok());
        Ok(())
    }
}

impl S3Artifacts {
    /// How much later the store's clock is than ours, in microseconds, and by how much that may be wrong; none: it does
    /// not say what time it is.
    ///
    /// # Errors
    /// No answer about the bucket.
    pub async fn clock_difference(&self) -> Result<Option<(i64, Duration)>, ArtifactError> {
        let date = ReadDate::default();
        let (begun, before) = (Instant::now(), SystemTime::now());
        let looked =
            self.client().head_bucket().bucket(self.bucket()).customize().interceptor(date.clone()).send().await;
        let took = begun.elapsed();
        match looked {
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(self.place().failed("look for objects", &error)),
        }
        let Some(theirs) = *date.0.lock() else { return Ok(None) };
        let ours = (before + took / 2).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // The part of a second that the header left out is half a second on the average.
        let theirs = theirs.secs().saturating_mul(1_000_000).saturating_add(500_000);
        let difference = theirs.saturating_sub(i64::try_from(ours.as_micros()).unwrap_or(i64::MAX));
        Ok(Some((difference, SECOND / 2 + took / 2)))
    }
}
