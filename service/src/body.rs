//! Request bodies as the doors take them: of one media type, of bounded size, within a bounded time.
//!
//! A request that is refused is read to its end all the same, within bounds. A connection that is closed while its
//! client still sends is reset, and with it goes the answer that says why.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use crate::problem::Problem;

/// A body that is not wanted is read and thrown away up to this many bytes.
const DISCARDED_BYTES: usize = 64 << 20;
/// How long a body that is not wanted may take.
const DISCARDING: Duration = Duration::from_secs(2);

/// What a body may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes.
    pub bytes: usize,
    /// Time until its end.
    pub timeout: Duration,
}

/// A body that nobody has read yet. Whoever is done with the request calls [`UnreadBody::discard`] before answering.
#[derive(Debug)]
pub struct UnreadBody {
    body: Option<BodyDataStream>,
    announced_bytes: u64,
    /// The client sends nothing before it is told to: what is not read need not be discarded.
    waits: bool,
    limits: BodyLimits,
}

impl UnreadBody {
    /// The body of a request with these headers.
    #[must_use]
    pub fn new(headers: &HeaderMap, body: Body, limits: BodyLimits) -> Self {
        let announced_bytes = body.size_hint().lower();
        let waits =
            headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self { body: Some(body.into_data_stream()), announced_bytes, waits, limits }
    }

    /// The whole body.
    ///
    /// # Errors
    /// It is larger than the limit, takes longer than allowed, or breaks off.
    pub async fn read(&mut self) -> Result<Bytes, Problem> {
        let limits = self.limits;
        if self.announced_bytes > limits.bytes as u64 {
            return Err(Problem::too_large(limits.bytes));
        }
        let Some(mut body) = self.body.take() else { return Ok(Bytes::new()) };
        self.waits = false;
        let reading = async {
            let mut read = BytesMut::new();
            while let Some(chunk) = next(&mut body).await? {
                if read.len() + chunk.len() > limits.bytes {
                    return Ok(None);
                }
                read.extend_from_slice(&chunk);
            }
            Ok(Some(read.freeze()))
        };
        match tokio::time::timeout(limits.timeout, reading).await {
            Ok(Ok(Some(read))) => Ok(read),
            Ok(Ok(None)) => {
                self.body = Some(body);
                Err(Problem::too_large(limits.bytes))
            }
            Ok(Err(problem)) => Err(problem),
            Err(_) => {
                let title = "The body did not arrive in time";
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", title))
            }
        }
    }

    /// Reads what is left and throws it away, within bounds. Call it before answering.
    pub async fn discard(&mut self) {
        let Some(mut body) = self.body.take().filter(|_| !self.waits) else { return };
        let discarding = async {
            let mut seen = 0_usize;
            while seen <= DISCARDED_BYTES
                && let Ok(Some(chunk)) = next(&mut body).await
            {
                seen = seen.saturating_add(chunk.len());
            }
        };
        // What comes later than this is cut off.
        let _ = tokio::time::timeout(DISCARDING, discarding).await;
    }
}

/// The next piece of the body; none at its end.
async fn next(body: &mut BodyDataStream) -> Result<Option<Bytes>, Problem> {
    let unreadable = |_| Problem::bad_request("the body could not be read").with_code("unreadable_body");
    body.next().await.transpose().map_err(unreadable)
}

/// Refuses a body that is not declared as JSON.
///
/// # Errors
/// Another content type, or none.
pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = sent.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "The body has another content type than application/json",
    ))
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn chunks(count: usize, bytes: usize) -> Body {
        let chunk = Bytes::from(vec![b'x'; bytes]);
        Body::from_stream(stream::iter((0..count).map(move |_| Ok::<_, std::io::Error>(chunk.clone()))))
    }

    fn limits(bytes: usize) -> BodyLimits {
        BodyLimits { bytes, timeout: Duration::from_millis(200) }
    }

    #[tokio::test]
    async fn exactly_the_limit_passes_and_one_byte_more_does_not() {
        assert_eq!(UnreadBody::new(&HeaderMap::new(), chunks(3, 10), limits(30)).read().await.unwrap().len(), 30);
        let problem = UnreadBody::new(&HeaderMap::new(), chunks(3, 10), limits(29)).read().await.unwrap_err();
        assert_eq!((problem.status().as_u16(), problem.code()), (413, "too_large"));
    }

    #[tokio::test]
    async fn what_breaks_off_or_never_ends_has_its_own_code() {
        let broken =
            Body::from_stream(stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("gone"))]));
        assert_eq!(
            UnreadBody::new(&HeaderMap::new(), broken, limits(30)).read().await.unwrap_err().code(),
            "unreadable_body"
        );
        let endless = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(
            UnreadBody::new(&HeaderMap::new(), endless, limits(30)).read().await.unwrap_err().code(),
            "body_timeout"
        );
        // A body without end is not discarded without end.
        let endless = Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(b"xxxx"))));
        UnreadBody::new(&HeaderMap::new(), endless, limits(30)).discard().await;
    }

    #[tokio::test]
    async fn a_client_that_waits_is_refused_without_a_byte_of_its_body() {
        let headers = HeaderMap::from_iter([(header::EXPECT, "100-continue".parse().unwrap())]);
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let noted = asked.clone();
        let body = Body::from_stream(stream::poll_fn(move |_| {
            noted.store(true, std::sync::atomic::Ordering::SeqCst);
            std::task::Poll::Ready(None::<Result<Bytes, std::io::Error>>)
        }));
        let mut body = UnreadBody::new(&headers, body, limits(30));
        body.discard().await;
        assert!(!asked.load(std::sync::atomic::Ordering::SeqCst));
        let announced = UnreadBody::new(&headers, Body::from(vec![0; 31]), limits(30)).read().await.unwrap_err();
        assert_eq!(announced.code(), "too_large");
    }

    #[test]
    fn only_json_passes_with_or_without_parameters() {
        let accepted = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            require_json(&headers).is_ok()
        };
        assert!(accepted("application/json") && accepted("Application/JSON; charset=utf-8"));
        assert!(!accepted("text/plain") && !accepted("application/jsonl"));
        assert_eq!(require_json(&HeaderMap::new()).unwrap_err().code(), "unsupported_media_type");
    }
}
