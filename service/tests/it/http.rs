//! The HTTP server: two protocols on one port, limits, and a drain that finishes what it began.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use service::drain::Drain;
use service::http::{HttpConfig, bind, bind_plain_text, serve};
use service::readiness::Readiness;
use service::{admin, metrics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::database::eventually;

struct Server {
    address: String,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start(router: Router, config: HttpConfig) -> Server {
    let listener = bind("test", &config).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let stop = stop.clone();
        async move { serve(listener, router, &config, stop).await }
    });
    Server { address, stop, task }
}

fn client(http2: bool) -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy();
    if http2 { builder.http2_prior_knowledge() } else { builder.http1_only() }.build().unwrap()
}

/// `/slow` says when it has begun and ends when it is told to.
#[derive(Clone, Default)]
struct Slow {
    begun: Arc<Notify>,
    may_end: Arc<Notify>,
}

impl Slow {
    fn router(&self) -> Router {
        let slow = self.clone();
        let handler = move || {
            let slow = slow.clone();
            async move {
                slow.begun.notify_one();
                slow.may_end.notified().await;
                "done"
            }
        };
        Router::new()
            .route("/hello", get(|| async { "hello" }))
            .route("/slow", get(handler))
            .route("/panic", get(|| async { if true { panic!("on purpose") } else { "never" } }))
    }
}

#[tokio::test]
async fn both_protocols_are_served_on_one_port_and_panics_stay_alone() {
    let behaviour = Slow::default();
    let server = start(behaviour.router(), HttpConfig::default()).await;
    for http2 in [false, true] {
        let client = client(http2);
        let url = |path: &str| format!("http://{}{path}", server.address);
        let slow = tokio::spawn(client.get(url("/slow")).send());
        behaviour.begun.notified().await;
        let response = client.get(url("/panic")).send().await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let response = client.get(url("/hello")).send().await.unwrap();
        assert_eq!(response.version(), if http2 { reqwest::Version::HTTP_2 } else { reqwest::Version::HTTP_11 });
        assert_eq!(response.text().await.unwrap(), "hello");
        behaviour.may_end.notify_one();
        assert_eq!(slow.await.unwrap().unwrap().text().await.unwrap(), "done");
    }
}

#[tokio::test]
async fn a_drain_lets_requests_in_flight_end() {
    for http2 in [false, true] {
        let behaviour = Slow::default();
        let server = start(behaviour.router(), HttpConfig::default()).await;
        let slow = tokio::spawn(client(http2).get(format!("http://{}/slow", server.address)).send());
        behaviour.begun.notified().await;
        server.stop.cancel();
        let refused = || async { TcpStream::connect(&server.address).await.is_err() };
        eventually("new connections are refused", refused).await;
        behaviour.may_end.notify_one();
        assert_eq!(slow.await.unwrap().unwrap().text().await.unwrap(), "done");
        server.task.await.unwrap();
    }
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut_off() {
    let behaviour = Slow::default();
    let server = start(behaviour.router(), HttpConfig { drain_ms: 50, ..HttpConfig::default() }).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    behaviour.begun.notified().await;
    server.stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), server.task).await.unwrap().unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn connections_that_say_too_little_are_closed() {
    let server = start(Slow::default().router(), HttpConfig { header_timeout_ms: 200, ..HttpConfig::default() }).await;
    // Nothing; the beginning of a preface; half a header; a preface without a request.
    let beginnings: [&[u8]; 4] =
        [b"", b"PRI * HT", b"GET /hello HTTP/1.1\r\nhost: ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"];
    for beginning in beginnings {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "{beginning:?} keeps its connection");
    }
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_their_turn() {
    let server = start(Slow::default().router(), HttpConfig { max_connections: 1, ..HttpConfig::default() }).await;
    let request = b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut first = TcpStream::connect(&server.address).await.unwrap();
    first.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    let mut second = TcpStream::connect(&server.address).await.unwrap();
    second.write_all(request).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), second.read_exact(&mut answer)).await.is_err());
    drop(first);
    tokio::time::timeout(Duration::from_secs(10), second.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn doors_that_cannot_open_say_so_in_one_sentence() {
    let taken = bind("ingest", &HttpConfig::default()).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut texts = Vec::new();
    for listen in ["", "8080", "127.0.0.1", "127.0.0.1:99999", "example.org:80", "0.0.0.0:0", "[::]:0"] {
        texts.push(bind("ingest", &HttpConfig::at(listen)).await.unwrap_err().to_string());
    }
    let in_use = bind("serving", &HttpConfig::at(format!("127.0.0.1:{port}"))).await.unwrap_err().to_string();
    texts.push(in_use.replace(&port.to_string(), "PORT"));
    insta::assert_snapshot!(texts.join("\n"));
    bind("ingest", &HttpConfig::at("localhost:0")).await.unwrap();
    bind("ingest", &HttpConfig { tls_terminated: true, ..HttpConfig::at("0.0.0.0:0") }).await.unwrap();
    bind_plain_text("admin", &HttpConfig::at("0.0.0.0:0")).await.unwrap();
}

#[tokio::test]
async fn the_admin_port_tells_life_readiness_and_metrics() {
    let readiness = Readiness::new();
    let (database, model) = (readiness.gate("database"), readiness.gate("model"));
    let handle = metrics::install().unwrap();
    ::metrics::counter!("flywheel_service_test_total").increment(3);
    ::metrics::histogram!("flywheel_service_test_seconds").record(0.3);
    ::metrics::counter!("flywheel_service_test_total", "kind" => "odd", "code" => "7").increment(2);
    assert_eq!(handle.counter("flywheel_service_test_total", &[]), 3);
    assert_eq!(handle.counter("flywheel_service_test_total", &[("kind", "odd"), ("code", "7")]), 2);
    assert_eq!(handle.counter("flywheel_service_test_total", &[("kind", "even")]), 0);
    let server = start(admin::router(readiness.clone(), handle), HttpConfig::default()).await;
    let get = async |path: &str| {
        let response = client(false).get(format!("http://{}{path}", server.address)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(get("/healthz").await.0, 200);
    let (status, body) = get("/readyz").await;
    assert_eq!(status, 503);
    insta::assert_snapshot!(body);
    database.release();
    model.release();
    assert_eq!(get("/readyz").await.0, 200);
    let (_, text) = get("/metrics").await;
    assert!(text.contains("flywheel_service_test_total 3"), "{text}");
    assert!(text.contains("flywheel_service_test_seconds_bucket{le=\"0.5\"} 1"), "{text}");
    let (status, body) = get("/other").await;
    assert_eq!(status, 404);
    insta::assert_snapshot!(body);
    readiness.drain();
    assert_eq!(get("/readyz").await.0, 503);
}

#[tokio::test]
async fn a_server_ends_within_a_drain() {
    let drain = Drain::new(Duration::from_secs(10));
    let config = HttpConfig::default();
    let listener = bind("test", &config).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = drain.token();
    drain.spawn("http", async move {
        serve(listener, Slow::default().router(), &config, stop).await;
        Ok(())
    });
    let up = || async { client(true).get(format!("http://{address}/hello")).send().await.is_ok() };
    eventually("the server answers", up).await;
    drain.begin();
    drain.finish().await.unwrap();
}
