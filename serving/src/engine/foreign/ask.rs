//! One question to one address.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use super::config::EngineConfig;
use super::stream::{BadStream, Written};
use crate::outgoing::Client;

/// Why an address gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    #[error("there is no connection")]
    Unreachable,
    #[error("it does not answer in time")]
    Late,
    #[error("it has too much to do")]
    Busy(Option<Duration>),
    #[error("it refuses the question with {0}")]
    Refused(StatusCode),
    #[error("it fails with {0}")]
    Failed(StatusCode),
    #[error("its answer is no stream of events")]
    NoStream,
    #[error("it closed before it answered")]
    Closed,
    #[error("what it writes can not be read")]
    Garbage,
    #[error("it stopped in the middle of its answer")]
    Stalled,
    #[error("it broke off in the middle of its answer")]
    BrokeOff,
    #[error("it reported a failure in the middle of its answer")]
    Reported,
}

impl Failure {
    /// Whether the answer had begun: nobody else is asked then.
    pub(super) fn had_begun(self) -> bool {
        matches!(self, Self::Garbage | Self::Stalled | Self::BrokeOff | Self::Reported)
    }

    /// Whether it asked to be left alone for a while.
    pub(super) fn is_wish(self) -> bool {
        matches!(self, Self::Busy(_))
    }

    /// Whether the engine is at fault, so that it may not be asked any more. A question that it refuses says nothing of it.
    pub(super) fn is_fault(self) -> bool {
        !matches!(self, Self::Busy(_) | Self::Refused(_))
    }

    /// For counts.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Late => "late",
            Self::Busy(_) => "busy",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
            Self::NoStream => "no_stream",
            Self::Closed => "closed",
            Self::Garbage => "garbage",
            Self::Stalled => "stalled",
            Self::BrokeOff => "broke_off",
            Self::Reported => "reported",
        }
    }
}

impl From<BadStream> for Failure {
    fn from(bad: BadStream) -> Self {
        match bad {
            BadStream::Garbage => Self::Garbage,
            BadStream::Reported => Self::Reported,
        }
    }
}

/// Asks, and reads until the answer has ended, or what was written so far `is_over`. Dropping an answer that has not ended
/// closes its connection, which is how an engine hears that nobody wants it any more.
pub(super) async fn ask(
    client: &Client,
    address: &Uri,
    authorization: Option<&HeaderValue>,
    question: Bytes,
    config: &EngineConfig,
    is_over: impl Fn(&str) -> bool,
) -> Result<Written, Failure> {
    let mut request = Request::new(Body::from(question));
    *request.method_mut() = axum::http::Method::POST;
    *request.uri_mut() = address.clone();
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    let first_byte = Instant::now() + config.first_byte_timeout();
    let response = timeout_at(first_byte, client.request(request))
        .await
        .map_err(|_| Failure::Late)?
        .map_err(|error| if error.is_connect() { Failure::Unreachable } else { Failure::Closed })?;
    check_head(response.status(), response.headers())?;
    let mut body = response.into_body();
    let (mut written, mut has_begun, mut until) = (Written::default(), false, first_byte);
    loop {
        let failure = match timeout_at(until, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                has_begun |= !data.is_empty();
                written.take(&data)?;
                if is_over(written.text()) {
                    return Ok(written);
                }
                until = Instant::now() + config.idle_timeout();
                continue;
            }
            Ok(_) if has_begun => Failure::BrokeOff,
            Ok(_) => Failure::Closed,
            Err(_) if has_begun => Failure::Stalled,
            Err(_) => Failure::Late,
        };
        return if written.is_whole() { Ok(written) } else { Err(failure) };
    }
}

/// Whether an answer follows.
fn check_head(status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
    let wait = || {
        let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    };
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(Failure::Busy(wait()));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE
        && let Some(wait) = wait()
    {
        return Err(Failure::Busy(Some(wait)));
    }
    if status.is_client_error() {
        return Err(Failure::Refused(status));
    }
    if !status.is_success() {
        return Err(Failure::Failed(status));
    }
    let is_stream = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/event-stream");
    if headers.get(CONTENT_TYPE).is_some_and(is_stream) { Ok(()) } else { Err(Failure::NoStream) }
}
