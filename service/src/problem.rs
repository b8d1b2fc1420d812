//! RFC 9457 problem details: the one shape of every HTTP error, with codes that clients may rely on.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

/// An HTTP error. `code` is stable; `title` explains the code; `detail` explains this occurrence and never repeats a
/// secret, code text or a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: Option<String>,
    retry_after: Option<Duration>,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem of a kind.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, title: &'static str) -> Self {
        Self { status, code, title, detail: None, retry_after: None, members: Map::new() }
    }

    /// 400: the request cannot be understood.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", "The request cannot be understood").with_detail(detail)
    }

    /// 400: the body is no JSON.
    #[must_use]
    pub fn invalid_json() -> Self {
        Self::bad_request("the body is no valid JSON in UTF-8").with_code("invalid_json")
    }

    /// 401: no key, or none that we know.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid API key is needed").with_detail(detail)
    }

    /// 403: the key may not do this.
    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "The API key does not allow this").with_detail(detail)
    }

    /// 404: nothing here.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such thing").with_detail(detail)
    }

    /// 409: it changed meanwhile.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "The current state does not allow this").with_detail(detail)
    }

    /// 413: more than the limit.
    #[must_use]
    pub fn too_large(limit_bytes: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The request is larger than the limit")
            .with_detail(format!("at most {limit_bytes} bytes are accepted"))
            .with_member("limit_bytes", limit_bytes)
    }

    /// 422: understood, and not possible.
    #[must_use]
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "unprocessable",
            "The request is well-formed and cannot be carried out",
        )
        .with_detail(detail)
    }

    /// 422: the body is JSON, and not what is documented.
    #[must_use]
    pub fn invalid_shape(detail: impl Into<String>) -> Self {
        Self::unprocessable(detail).with_code("invalid_shape")
    }

    /// 429: too fast.
    #[must_use]
    pub fn too_many_requests(retry_after: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests").with_retry_after(retry_after)
    }

    /// 500: our fault. The cause belongs into the log, not here.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The server failed")
    }

    /// 503: later.
    #[must_use]
    pub fn unavailable(code: &'static str, detail: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, "The server cannot take this now")
            .with_detail(detail)
            .with_retry_after(retry_after)
    }

    /// Explains this occurrence.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Another code of the same status.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// When trying again makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// An extension member.
    #[must_use]
    pub fn with_member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What happened this time.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut object = self.members.clone();
        object.insert("type".to_owned(), format!("urn:flywheel:problem:{}", self.code).into());
        object.insert("title".to_owned(), self.title.into());
        object.insert("status".to_owned(), self.status.as_u16().into());
        object.insert("code".to_owned(), self.code.into());
        if let Some(detail) = &self.detail {
            object.insert("detail".to_owned(), detail.clone().into());
        }
        Value::Object(object)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_json())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after {
            // Rounded up: a client that comes back on the second must not be early.
            headers.insert(header::RETRY_AFTER, (after.as_secs() + u64::from(after.subsec_nanos() > 0)).into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Answers any path that no route knows.
pub async fn unknown_path() -> Problem {
    Problem::not_found("no such path").with_code("unknown_path")
}

/// Answers a known path with another method.
pub async fn unknown_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "The path does not support this method")
}

impl From<QueryRejection> for Problem {
    fn from(_: QueryRejection) -> Self {
        Self::bad_request("the query parameters do not have the documented shape").with_code("invalid_query")
    }
}

impl From<PathRejection> for Problem {
    fn from(_: PathRejection) -> Self {
        Self::bad_request("the path parameters do not have the documented shape").with_code("invalid_path")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_the_rfc_says() {
        let problem =
            Problem::unavailable("log_full", "the oldest unread record is too old", Duration::from_millis(1500))
                .with_member("oldest_seconds", 7);
        insta::assert_json_snapshot!(problem.to_json());
        let response = problem.into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
