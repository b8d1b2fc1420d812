//! Connections that stop being HTTP: WebSockets, and whatever else both sides agree on.

use axum::body::Body;
use axum::http::header::UPGRADE;
use axum::http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use metrics::gauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::proxy::headers;

/// What a client asked its connection to become.
pub(crate) struct Wanted {
    pub(crate) protocol: HeaderValue,
    pub(crate) client: OnUpgrade,
    pub(crate) place: OwnedSemaphorePermit,
}

/// Counts an open tunnel for as long as it lives.
struct Open;

impl Open {
    fn new() -> Self {
        gauge!("flywheel_serving_upstream_tunnels").increment(1.0);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!("flywheel_serving_upstream_tunnels").decrement(1.0);
    }
}

/// Hands the upstream's agreement on, and joins both connections until one of them ends, or the service.
pub(crate) fn join(
    wanted: Wanted,
    mut answer: Response<Incoming>,
    tunnels: &TaskTracker,
    stop: &CancellationToken,
) -> Response<Body> {
    let Wanted { protocol, client, place } = wanted;
    let upstream = hyper::upgrade::on(&mut answer);
    let (mut head, _) = answer.into_parts();
    let protocol = head.headers.get(UPGRADE).cloned().unwrap_or(protocol);
    headers::strip(&mut head.headers);
    headers::set_upgrade(&mut head.headers, protocol);
    let joined = async move {
        let _open = Open::new();
        let both = tokio::try_join!(client, upstream);
        let (client, upstream) = match both {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "a connection was not upgraded"),
        };
        let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
        // Either side may break off; the other learns it by the end of its connection.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
        drop(place);
    };
    let stop = stop.clone();
    tunnels.spawn(async move {
        stop.run_until_cancelled(joined).await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = head.headers;
    response
}
