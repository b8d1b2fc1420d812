//! One HTTP server for every door: HTTP/1.1 and HTTP/2 on one port, with TLS or without (h2c, as gRPC uses it).
//!
//! Limits are explicit. A connection costs memory before it has said anything, so their number is bounded, and one that
//! has sent no complete request head in time is closed: this covers the protocol's preface and headers that trickle.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;

use crate::config::Invalid;
use crate::problem::Problem;
use crate::tls::{Acceptor, TlsConfig, TlsError};

/// How long the accept loop pauses when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Settings that every door has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port, like `127.0.0.1:8080`. Port 0 takes a free one.
    pub listen: String,
    /// Says that something in front of us speaks TLS: required for addresses other than loopback, unless `tls` is set.
    pub tls_terminated: bool,
    /// The certificate with which the door speaks TLS itself.
    pub tls: TlsConfig,
    /// Connections at once; more wait in the system's queue.
    pub max_connections: usize,
    /// A connection without a complete request head after this time is closed; also between requests of HTTP/1.1.
    pub header_timeout_ms: u64,
    /// Bytes of all headers of a request; at least 8192 over HTTP/1.1.
    pub max_header_bytes: u32,
    /// Requests at once on one HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// How often an idle HTTP/2 peer is asked whether it lives.
    pub keep_alive_ms: u64,
    /// How long requests in flight may take after the server was asked to stop.
    pub drain_ms: u64,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:0".to_owned(),
            tls_terminated: false,
            tls: TlsConfig::default(),
            max_connections: 1024,
            header_timeout_ms: 10_000,
            max_header_bytes: 32 * 1024,
            max_concurrent_streams: 256,
            keep_alive_ms: 20_000,
            drain_ms: 10_000,
        }
    }
}

impl HttpConfig {
    /// The defaults, listening at `listen`.
    #[must_use]
    pub fn at(listen: impl Into<String>) -> Self {
        Self { listen: listen.into(), ..Self::default() }
    }

    /// Refuses values that make no door. `section` is where these settings stand, such as `ingest.http`.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn validate(&self, section: &str) -> Result<(), Invalid> {
        let check =
            |holds: bool, key: &str, expected: &str| Invalid::unless(holds, format!("{section}.{key}"), expected);
        self.tls.validate(section, self.tls_terminated)?;
        check(self.max_connections >= 1, "max_connections", "at least 1")?;
        check(self.header_timeout_ms >= 1, "header_timeout_ms", "at least 1")?;
        check(self.max_header_bytes >= 1024, "max_header_bytes", "at least 1024")?;
        check(self.max_concurrent_streams >= 1, "max_concurrent_streams", "at least 1")?;
        check(self.keep_alive_ms >= 1, "keep_alive_ms", "at least 1")
    }

    /// How addresses of the door begin: `https` when it speaks TLS itself, else `http`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_set() { "https" } else { "http" }
    }
}

/// A door that cannot be opened. One sentence with the address; the process ends with exit code 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Not an address with a port.
    #[error("{door}: \"{address}\" is no address to listen on; expected something like 127.0.0.1:8080 or [::1]:8080")]
    BadAddress {
        /// Which door.
        door: String,
        /// What was configured.
        address: String,
    },
    /// Plain text on a network.
    #[error(
        "{door}: {address} is not a loopback address; set tls.certificate_file and tls.key_file, or put TLS in front \
         and set tls_terminated = true, or listen on 127.0.0.1"
    )]
    NeedsTls {
        /// Which door.
        door: String,
        /// What was configured.
        address: SocketAddr,
    },
    /// Settings of TLS that contradict each other.
    #[error("{door}: {source}")]
    Settings {
        /// Which door.
        door: String,
        /// Which key, and what was expected.
        source: Invalid,
    },
    /// A certificate that cannot be used.
    #[error("{door}: {source}")]
    Tls {
        /// Which door.
        door: String,
        /// Which file, and why.
        source: TlsError,
    },
    /// Somebody else listens there.
    #[error("{door}: cannot listen on {address}: the port is already in use")]
    InUse {
        /// Which door.
        door: String,
        /// What was configured.
        address: SocketAddr,
    },
    /// The system refuses.
    #[error("{door}: cannot listen on {address}: {source}")]
    Refused {
        /// Which door.
        door: String,
        /// What was configured.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// An open port, and the certificate of its door if it speaks TLS.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    tls: Option<Acceptor>,
}

impl Listener {
    /// Where the door is.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Opens the port of `door` ("ingest", "admin", ...), and reads its certificate. Connections queue until [`serve`]
/// accepts them.
///
/// # Errors
/// See [`BindError`].
pub async fn bind(door: &str, config: &HttpConfig) -> Result<Listener, BindError> {
    open(door, config, false).await
}

/// [`bind`] for a port that asks for no keys and tells nothing about persons or code: it may speak plain text on a
/// network, once somebody has said so.
///
/// # Errors
/// See [`BindError`].
pub async fn bind_plain_text(door: &str, config: &HttpConfig) -> Result<Listener, BindError> {
    open(door, config, true).await
}

async fn open(door: &str, config: &HttpConfig, is_plain_text_meant: bool) -> Result<Listener, BindError> {
    let door = door.to_owned();
    let address: SocketAddr = match config.listen.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}").parse(),
        None => config.listen.parse(),
    }
    .map_err(|_| BindError::BadAddress { door: door.clone(), address: config.listen.clone() })?;
    // Also here: half of a certificate must never make a door without TLS.
    config
        .tls
        .validate(&door, config.tls_terminated)
        .map_err(|source| BindError::Settings { door: door.clone(), source })?;
    let tls = match config.tls.files() {
        Some(files) => {
            let opened = Acceptor::open(&door, files, config.max_connections).await;
            Some(opened.map_err(|source| BindError::Tls { door: door.clone(), source })?)
        }
        None => None,
    };
    let is_safe = is_loopback(address.ip()) || config.tls_terminated || tls.is_some();
    if !is_safe && !is_plain_text_meant {
        return Err(BindError::NeedsTls { door, address });
    }
    let bound = TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => BindError::InUse { door, address },
        _ => BindError::Refused { door, address, source },
    });
    Ok(Listener { socket: bound?, tls })
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Serves `router` until `stop`; then accepts nothing new, lets requests in flight end within `drain_ms`, and cuts off
/// the rest. A panic of a handler answers 500 and harms no other request.
pub async fn serve(listener: Listener, router: Router, config: &HttpConfig, stop: CancellationToken) {
    let Listener { socket, tls } = listener;
    let follow_files = async {
        if let Some(tls) = &tls {
            // A file system that does not answer holds up no end.
            stop.run_until_cancelled(tls.follow_files(stop.clone())).await;
        }
    };
    tokio::join!(serve_connections(socket, tls.as_ref(), router, config, &stop), follow_files);
}

async fn serve_connections(
    socket: TcpListener,
    tls: Option<&Acceptor>,
    router: Router,
    config: &HttpConfig,
    stop: &CancellationToken,
) {
    let router = router.layer(CatchPanicLayer::custom(panicked));
    let server = Arc::new(server(config));
    let places = Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    let cut_off = CancellationToken::new();
    let header_timeout = Duration::from_millis(config.header_timeout_ms);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&socket, &places) => accepted,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        let connection = Connection {
            server: server.clone(),
            router: router.clone(),
            peer,
            header_timeout,
            stop: stop.clone(),
            cut_off: cut_off.clone(),
        };
        let tls = tls.cloned();
        connections.spawn(async move {
            match tls {
                None => connection.run(stream).await,
                Some(tls) => connection.run_over_tls(&tls, stream).await,
            }
            drop(place);
        });
    }
    drop(socket);
    connections.close();
    if tokio::time::timeout(Duration::from_millis(config.drain_ms), connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "cutting off connections after the drain period");
        cut_off.cancel();
        connections.wait().await;
    }
}

fn server(config: &HttpConfig) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(config.header_timeout_ms))
        // Hyper's minimum is 8 KiB. The same buffer reads bodies, in pieces.
        .max_buf_size((config.max_header_bytes as usize).max(8192));
    server
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(config.max_header_bytes)
        .max_concurrent_streams(config.max_concurrent_streams)
        .keep_alive_interval(Duration::from_millis(config.keep_alive_ms))
        .keep_alive_timeout(Duration::from_millis(config.keep_alive_ms));
    server
}

async fn accept(
    socket: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    // The place comes first: what we cannot serve stays in the system's queue, which is bounded too.
    let place = places.clone().acquire_owned().await.ok()?;
    match socket.accept().await {
        Ok((stream, peer)) => {
            // Small flushes of a stream of events must not wait for acknowledgements.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, place))
        }
        Err(error) => {
            // A peer that gave up already says nothing about us; anything else will not pass at once.
            if !matches!(error.kind(), std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset) {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

struct Connection {
    server: Arc<auto::Builder<TokioExecutor>>,
    router: Router,
    peer: SocketAddr,
    header_timeout: Duration,
    stop: CancellationToken,
    cut_off: CancellationToken,
}

impl Connection {
    async fn run_over_tls(self, tls: &Acceptor, stream: TcpStream) {
        // Nothing was asked before the handshake is done, so it ends at once when the door closes.
        let stop = self.stop.clone();
        if let Some(Some(stream)) = stop.run_until_cancelled(tls.accept(stream)).await {
            self.run(stream).await;
        }
    }

    async fn run(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let seen_request = Arc::new(AtomicBool::new(false));
        let service = {
            let (router, peer, seen_request) = (self.router, self.peer, seen_request.clone());
            hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
                seen_request.store(true, Ordering::Relaxed);
                let mut request: Request = request.map(axum::body::Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                router.clone().oneshot(request)
            })
        };
        let connection = self.server.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let first_request = tokio::time::sleep(self.header_timeout);
        tokio::pin!(first_request);
        let (mut waits_for_first, mut stopping) = (true, false);
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a connection ended with an error");
                    }
                    return;
                }
                () = &mut first_request, if waits_for_first => {
                    if !seen_request.load(Ordering::Relaxed) {
                        return;
                    }
                    waits_for_first = false;
                }
                () = self.stop.cancelled(), if !stopping => {
                    connection.as_mut().graceful_shutdown();
                    stopping = true;
                }
                () = self.cut_off.cancelled() => return,
            }
        }
    }
}

fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    // The panic hook has logged where; the payload may hold what must not be logged.
    metrics::counter!("flywheel_service_handler_panics_total").increment(1);
    Problem::internal().into_response()
}
