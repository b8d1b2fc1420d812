//! What a client is told where the upstream gives no answer.

use std::error::Error;
use std::io::ErrorKind;

use axum::http::StatusCode;
use hyper_util::client::legacy;
use service::problem::Problem;

/// What a client is told when there is no answer. What the transport says names addresses at most.
pub(crate) fn problem_of(error: &legacy::Error) -> Problem {
    let transport = error.source().and_then(|source| source.downcast_ref::<hyper::Error>());
    if transport.is_some_and(hyper::Error::is_user) {
        return Problem::bad_request("the body could not be read").with_code("unreadable_body");
    }
    if is_timeout(error) {
        return late("no connection in time");
    }
    if error.is_connect() {
        let title = "The server behind this one can not be reached";
        return Problem::new(StatusCode::BAD_GATEWAY, "upstream_unreachable", title);
    }
    let title = "The server behind this one broke off before it answered";
    Problem::new(StatusCode::BAD_GATEWAY, "upstream_failed", title)
}

/// Whether the connection ended before anything was answered, as one does that was kept and is given up by the upstream
/// in the moment in which it is used again.
pub(crate) fn broke_off(error: &legacy::Error) -> bool {
    if error.is_connect() {
        return false;
    }
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(transport) = error.downcast_ref::<hyper::Error>()
            && (transport.is_incomplete_message() || transport.is_canceled() || transport.is_closed())
        {
            return true;
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(io.kind(), ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The upstream took too long.
pub(crate) fn late(detail: &str) -> Problem {
    let title = "The server behind this one does not answer in time";
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", title).with_detail(detail)
}

fn is_timeout(error: &legacy::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let is_late = |error: &std::io::Error| error.kind() == std::io::ErrorKind::TimedOut;
        if error.downcast_ref::<std::io::Error>().is_some_and(is_late) {
            return true;
        }
        cause = error.source();
    }
    false
}
