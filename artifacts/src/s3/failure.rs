//! What the store or the network said, as a sentence that names the bucket and says what to do.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::ArtifactError;

/// Names the bucket in errors: never with credentials.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) endpoint: String,
}

impl Place {
    /// The error of a request, by what can be done about it.
    pub(super) fn failed<E>(&self, action: &'static str, error: &SdkError<E>) -> ArtifactError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error {
            SdkError::ServiceError(_) | SdkError::ResponseError(_) => self.refused(
                action,
                error.code(),
                error.message(),
                error.raw_response().map(|answer| answer.status().as_u16()),
            ),
            SdkError::ConstructionFailure(_) if !is_about_credentials(error) => {
                let Self { bucket, endpoint } = self.clone();
                ArtifactError::Store { action, bucket, endpoint, reason: innermost(error) }
            }
            SdkError::TimeoutError(_) => self.silent(),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => self.silent(),
            _ => self.unanswered(error),
        }
    }

    /// There was no answer within the time that is given to one.
    fn silent(&self) -> ArtifactError {
        let Self { bucket, endpoint } = self.clone();
        ArtifactError::Unreachable { bucket, endpoint, reason: "it does not answer in time".to_owned() }
    }

    /// There was an answer.
    fn refused(
        &self,
        action: &'static str,
        code: Option<&str>,
        message: Option<&str>,
        status: Option<u16>,
    ) -> ArtifactError {
        let Self { bucket, endpoint } = self.clone();
        match (code, status) {
            (Some("NoSuchBucket"), _) => ArtifactError::BucketMissing { bucket, endpoint },
            (
                Some(
                    reason @ ("InvalidAccessKeyId"
                    | "SignatureDoesNotMatch"
                    | "InvalidToken"
                    | "ExpiredToken"
                    | "InvalidClientTokenId"
                    | "XAdminUserNotFound"
                    | "UnrecognizedClientException"),
                ),
                _,
            ) => ArtifactError::BadCredentials { bucket, endpoint, reason: reason.to_owned() },
            (Some("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed"), _) | (_, Some(301)) => {
                let reason = "the bucket is in another region; name the right one".to_owned();
                ArtifactError::Store { action, bucket, endpoint, reason }
            }
            // A full bucket and a wrong clock are answered with 403 as well, so the status counts only without a code.
            (Some("AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "MethodNotAllowed"), _)
            | (None, Some(401 | 403)) => ArtifactError::Denied { action, bucket, endpoint },
            (Some("RequestTimeTooSkewed"), _) => {
                let reason = "this machine's clock and the store's differ too much; set the clock".to_owned();
                ArtifactError::Store { action, bucket, endpoint, reason }
            }
            (Some(code @ ("QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull")), _) => {
                let reason = format!("it is full ({code}); make room and try again");
                ArtifactError::Store { action, bucket, endpoint, reason }
            }
            (code, status) => {
                let status = || status.map_or_else(|| "no answer".to_owned(), |status| format!("status {status}"));
                let code = code.map_or_else(status, str::to_owned);
                let reason = message.map_or_else(|| code.clone(), |message| format!("{code}, {message}"));
                ArtifactError::Store { action, bucket, endpoint, reason }
            }
        }
    }

    /// There was no answer, or it broke off.
    pub(super) fn unanswered(&self, error: &(dyn Error + 'static)) -> ArtifactError {
        let Self { bucket, endpoint } = self.clone();
        let reason = innermost(error);
        if reason.contains("certificate") {
            let (action, reason) =
                ("reach objects", format!("its certificate is not trusted ({reason}); name its authority"));
            ArtifactError::Store { action, bucket, endpoint, reason }
        } else if is_about_credentials(error) {
            ArtifactError::NoCredentials { bucket, endpoint, reason }
        } else {
            ArtifactError::Unreachable { bucket, endpoint, reason }
        }
    }
}

/// An error and what it came from.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Where it began: what the network or the system said.
fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn is_about_credentials(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<CredentialsError>())
}

/// Whether the store says that there is no such object. The answer to a `HEAD` has no body that could say what is
/// missing: it may be the bucket.
pub(super) fn is_absent<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    match error.code() {
        Some("NoSuchKey" | "NotFound") => true,
        Some(_) => false,
        None => error.raw_response().is_some_and(|answer| answer.status().as_u16() == 404),
    }
}
