//! What passes, and what a client is told when nothing can.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::{any, get};
use events::Sha256Digest;
use futures::StreamExt;
use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::Log;
use crate::proxy::testing::{Front, client, raw, read_head, read_to_close, serve};
use crate::running::Sources;
use crate::testing::{WAIT, World};

/// Says what it was asked, but for what belongs to a connection.
async fn echo(request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let mut fields: Vec<String> = head
        .headers
        .iter()
        .filter(|(name, _)| !["host", "connection", "via", "transfer-encoding"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    fields.sort();
    let said = format!(
        "{} {}\n{}\n{}",
        head.method,
        head.uri.path_and_query().unwrap(),
        fields.join("\n"),
        Sha256Digest::of(&body)
    );
    Response::new(Body::from(said))
}

fn answer(status: u16, fields: &[(&'static str, &'static str)], body: &'static [u8]) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in fields {
        response.headers_mut().append(*name, value.parse().unwrap());
    }
    response
}

fn upstream_routes() -> Router {
    let chunks =
        || futures::stream::iter([&b"one"[..], b"", b"two"].map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk))));
    Router::new()
        .route("/cookies", get(|| async { answer(200, &[("set-cookie", "a=1"), ("set-cookie", "b=2")], b"two") }))
        .route("/gone", get(|| async { answer(302, &[("location", "/elsewhere?x=1")], b"") }))
        .route("/nothing", get(|| async { answer(204, &[], b"") }))
        .route("/same", get(|| async { answer(304, &[("etag", "\"1\"")], b"") }))
        .route("/busy", any(|| async { answer(429, &[("retry-after", "7")], b"later") }))
        .route("/broken", any(|| async { answer(500, &[("x-why", "because")], b"\x00\xff") }))
        .route("/packed", get(|| async { answer(200, &[("content-encoding", "gzip")], b"\x1f\x8b not really") }))
        .route("/chunked", get(move || async move { Body::from_stream(chunks()) }))
        .route("/large", get(|| async { Body::from(vec![b'x'; 3_000_000]) }))
        .route("/v1/completions", any(echo))
        .fallback(echo)
}

/// Everything of an answer that is its own.
async fn taken(request: reqwest::RequestBuilder) -> (u16, Vec<(String, Vec<u8>)>, Vec<u8>) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let mut fields: Vec<(String, Vec<u8>)> = response
        .headers()
        .iter()
        .filter(|(name, _)| !["date", "connection", "transfer-encoding"].contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    fields.sort();
    (status, fields, response.bytes().await.unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_the_upstreams_byte_for_byte() {
    let stop = CancellationToken::new();
    let upstream = serve(upstream_routes(), stop.clone()).await;
    let front = Front::of(upstream).await;
    let http2 = reqwest::Client::builder()
        .http2_prior_knowledge()
        .timeout(WAIT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let asked: [(Method, &str, &'static [u8]); 16] = [
        (Method::GET, "/cookies", b""),
        (Method::GET, "/gone", b""),
        (Method::GET, "/nothing", b""),
        (Method::GET, "/same", b""),
        (Method::GET, "/busy", b""),
        (Method::POST, "/broken", b"{"),
        (Method::GET, "/packed", b""),
        (Method::GET, "/chunked", b""),
        (Method::GET, "/large", b""),
        (Method::HEAD, "/cookies", b""),
        (Method::PUT, "/v1beta/unknown//path/%2F?a=%00&b", b"\xff\xfe no json"),
        (Method::DELETE, "/v1/suggestions", b""),
        (Method::POST, "/v1/completions", b"{\"prompt\": \"a\", \"segments\": {}}"),
        (Method::POST, "/v1/completions", b"{}"),
        (Method::POST, "/v1/completions", b"\xff"),
        (Method::GET, "/v1/completions?x", b""),
    ];
    let http1 = client();
    for (method, path, body) in &asked {
        let request = |client: &reqwest::Client, address: SocketAddr| {
            let request = client.request(method.clone(), format!("http://{address}{path}")).body(*body);
            let request = request.header("authorization", "Bearer secret").header("cookie", "a=1; b=2");
            let strange = reqwest::header::HeaderValue::from_bytes(b"\xc3\xa9").unwrap();
            taken(request.header("x-mine", strange).header("proxy-authorization", "Basic x"))
        };
        // The upstream is always asked over HTTP/1.1, and may answer otherwise over HTTP/2.
        let direct = request(&http1, upstream).await;
        for client in [&http1, &http2] {
            assert_eq!(request(client, front.address).await, direct, "{method} {path}");
        }
    }
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_is_told_who_was_asked_and_by_which_way() {
    let told = |headers: HeaderMap| async move {
        let field = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        format!("{} {} {}", field("host"), field("via"), field("x-hop"))
    };
    let upstream = serve(Router::new().fallback(told), CancellationToken::new()).await;
    let front = Front::of(upstream).await;
    let request = front.client.get(front.url("/")).header("connection", "x-hop").header("x-hop", "1");
    let text = request.send().await.unwrap().text().await.unwrap();
    assert!(text.starts_with(&format!("{} 1.1 flywheel-", front.address)) && text.ends_with(' '), "{text}");
    let other = Front::with(upstream, |config| config.host = Some("tabby.example.com".to_owned())).await;
    let text = other.client.get(other.url("/")).send().await.unwrap().text().await.unwrap();
    assert!(text.starts_with("tabby.example.com 1.1 "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_that_http2_takes_apart_arrive_as_one() {
    let told = |headers: HeaderMap| async move {
        let cookies: Vec<&str> = headers.get_all("cookie").iter().map(|value| value.to_str().unwrap()).collect();
        cookies.join(" | ")
    };
    let upstream = serve(Router::new().fallback(told), CancellationToken::new()).await;
    let front = Front::of(upstream).await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().timeout(WAIT).build().unwrap();
    let request = http2.get(front.url("/")).header("cookie", "a=1").header("cookie", "b=2");
    assert_eq!(request.send().await.unwrap().text().await.unwrap(), "a=1; b=2");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_door_stays_ours() {
    let upstream = serve(upstream_routes(), CancellationToken::new()).await;
    let front = Front::of(upstream).await;
    let response = front.client.post(front.url("/v1/suggestions")).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(response.json::<Value>().await.unwrap()["code"], "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_passes_piece_by_piece_over_both_protocols() {
    let told = Arc::new(Notify::new());
    let told_upstream = Arc::clone(&told);
    let upstream = raw(move |mut stream| {
        let told = Arc::clone(&told_upstream);
        async move {
            read_head(&mut stream).await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n";
            let head = format!("{head}transfer-encoding: chunked\r\n\r\n");
            stream.write_all(format!("{head}9\r\ndata: 1\n\n\r\n").as_bytes()).await.unwrap();
            // The second piece is not sent before the client has the first.
            told.notified().await;
            stream.write_all(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n").await.unwrap();
            read_to_close(&mut stream).await;
        }
    })
    .await;
    let front = Front::of(upstream).await;
    let http2 = reqwest::Client::builder().http2_prior_knowledge().timeout(WAIT).build().unwrap();
    for client in [&front.client, &http2] {
        for path in ["/v1/completions", "/v1/chat/completions"] {
            let response = client.post(front.url(path)).body(r#"{"prompt":"a"}"#).send().await.unwrap();
            let mut body = response.bytes_stream();
            assert_eq!(body.next().await.unwrap().unwrap(), "data: 1\n\n");
            told.notify_one();
            assert_eq!(body.next().await.unwrap().unwrap(), "data: 2\n\n");
            // HTTP/2 may end a stream with a piece that is empty.
            let rest: Vec<_> = body.collect().await;
            assert!(rest.iter().all(|piece| piece.as_ref().is_ok_and(|piece| piece.is_empty())), "{rest:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_carries_whatever_both_sides_say() {
    let upstream = raw(|mut stream| async move {
        let head = read_head(&mut stream).await.to_lowercase();
        assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: parrot\r\n"), "{head}");
        assert!(head.contains("sec-websocket-key: abc\r\n"), "{head}");
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: parrot\r\nx-bird: 1\r\n\r\nhello";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        tokio::io::copy(&mut reading, &mut writing).await.unwrap();
    })
    .await;
    let front = Front::with(upstream, |config| config.tunnels = 1).await;
    let asked = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: parrot\r\n";
    let asked = format!("{asked}sec-websocket-key: abc\r\n\r\n");
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut read = read_head(&mut stream).await;
    assert!(read.starts_with("HTTP/1.1 101 ") && read.to_lowercase().contains("upgrade: parrot\r\n"), "{read}");
    assert!(read.contains("x-bird: 1\r\n") && !read.contains("content-length"), "{read}");
    let mut greeting = read.split_off(read.find("\r\n\r\n").unwrap() + 4).into_bytes();
    while greeting.len() < 5 {
        assert_ne!(stream.read_buf(&mut greeting).await.unwrap(), 0);
    }
    assert_eq!(greeting, b"hello");
    let mut bytes = [0; 5];
    for word in ["\0\u{1}abc", "parse"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, word.as_bytes());
    }
    // There is a place for one only.
    let mut second = TcpStream::connect(front.address).await.unwrap();
    second.write_all(asked.as_bytes()).await.unwrap();
    let refused = read_head(&mut second).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    stream.shutdown().await.unwrap();
    read_to_close(&mut stream).await;
}

/// The status and the code of a refusal.
async fn refusal(front: &Front, path: &str) -> (u16, String) {
    let response = front.client.post(front.url(path)).body("{}").send().await.unwrap();
    let status = response.status().as_u16();
    let problem: Value = response.json().await.unwrap();
    (status, problem["code"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_why_there_is_no_answer() {
    let nobody = TcpStream::connect("127.0.0.1:1").await.is_err().then(|| "127.0.0.1:1".parse().unwrap());
    if let Some(nobody) = nobody {
        let front = Front::of(nobody).await;
        assert_eq!(refusal(&front, "/v1/completions").await, (502, "upstream_unreachable".to_owned()));
        assert_eq!(refusal(&front, "/anything").await, (502, "upstream_unreachable".to_owned()));
    }
    let silent = raw(|mut stream| async move { read_to_close(&mut stream).await }).await;
    let front = Front::with(silent, |config| config.answer_timeout_ms = 200).await;
    assert_eq!(refusal(&front, "/v1/completions").await, (504, "upstream_timeout".to_owned()));
    for said in ["", "HTTP/1.1 200 OK\r\ncontent-le", "220 mail.example.com ESMTP\r\n\r\n"] {
        let broken = raw(move |mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(said.as_bytes()).await.unwrap();
        })
        .await;
        let front = Front::of(broken).await;
        assert_eq!(refusal(&front, "/v1/events").await, (502, "upstream_failed".to_owned()), "{said}");
    }
}

/// Reads a head, and all of the body whose length it says.
async fn read_question(stream: &mut TcpStream) -> String {
    let mut read = read_head(stream).await;
    if let Some(end) = read.find("\r\n\r\n") {
        let length = read.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let mut rest = vec![0; (end + 4 + length).saturating_sub(read.len())];
        stream.read_exact(&mut rest).await.unwrap();
        read.push_str(&String::from_utf8(rest).unwrap());
    }
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_the_upstream_gives_up_fails_no_question() {
    // Every connection answers once and is closed under the next question.
    let upstream = raw(|mut stream| async move {
        read_question(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        read_question(&mut stream).await;
    })
    .await;
    let front = Front::of(upstream).await;
    for _ in 0..10 {
        let completion = front.client.post(front.url("/v1/completions")).body(r#"{"prompt":"a"}"#);
        for request in [completion, front.client.get(front.url("/v1/models"))] {
            let response = request.send().await.unwrap();
            assert_eq!((response.status().as_u16(), response.text().await.unwrap()), (200, "ok".to_owned()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changes_nothing_is_asked_again_and_only_once() {
    let (asked, mut heads) = mpsc::unbounded_channel();
    let upstream = raw(move |mut stream| {
        let asked = asked.clone();
        async move {
            asked.send(read_question(&mut stream).await).unwrap();
        }
    })
    .await;
    let front = Front::of(upstream).await;
    let times = [
        (Method::GET, "/v1/models", "", 2),
        (Method::POST, "/v1/completions", r#"{"prompt":"a"}"#, 2),
        (Method::POST, "/v1/events", "{}", 1),
        (Method::DELETE, "/v1/models/a", "", 1),
        (Method::GET, "/v1/models", "{}", 1),
    ];
    for (method, path, body, expected) in times {
        let request = front.client.request(method.clone(), front.url(path)).body(body);
        assert_eq!(request.send().await.unwrap().status(), 502, "{method} {path}");
        let mut heard = Vec::new();
        while let Ok(head) = heads.try_recv() {
            heard.push(head);
        }
        assert_eq!(heard.len(), expected, "{method} {path}: {heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    let begun = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello";
    for closes in [true, false] {
        let upstream = raw(move |mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(begun.as_bytes()).await.unwrap();
            if !closes {
                read_to_close(&mut stream).await;
            }
        })
        .await;
        let front = Front::with(upstream, |config| config.idle_timeout_ms = 200).await;
        let response = front.client.get(front.url("/")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.bytes_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "hello");
        assert!(body.next().await.unwrap().is_err(), "what is missing must not look like an end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_chunks_cuts_nothing_off() {
    let upstream = raw(|mut stream| async move {
        read_head(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        stream.write_all(format!("{head}5\r\nhello\r\n0\r\n\r\n").as_bytes()).await.unwrap();
    })
    .await;
    let front = Front::of(upstream).await;
    let response = front.client.get(front.url("/")).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_request_at_the_upstream() {
    for begins in [false, true] {
        let (saw, mut seen) = mpsc::unbounded_channel();
        let upstream = raw(move |mut stream| {
            let saw = saw.clone();
            async move {
                read_head(&mut stream).await;
                if begins {
                    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
                    stream.write_all(head).await.unwrap();
                }
                saw.send("asked").unwrap();
                read_to_close(&mut stream).await;
                saw.send("closed").unwrap();
            }
        })
        .await;
        let front = Front::of(upstream).await;
        let asked = tokio::spawn(front.client.post(front.url("/v1/completions")).body(r#"{"prompt":"a"}"#).send());
        assert_eq!(seen.recv().await, Some("asked"));
        if begins {
            let mut body = asked.await.unwrap().unwrap().bytes_stream();
            assert_eq!(body.next().await.unwrap().unwrap(), "one");
            drop(body);
        } else {
            asked.abort();
        }
        let closed = tokio::time::timeout(WAIT, seen.recv()).await.unwrap();
        assert_eq!(closed, Some("closed"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_passes_untouched_and_is_counted() {
    let metrics = service::metrics::install().unwrap();
    let labels = [("kind", "completion"), ("outcome", "too_large")];
    let counted = || metrics.counter("flywheel_serving_upstream_tapped_total", &labels);
    let before = counted();
    let upstream = serve(upstream_routes(), CancellationToken::new()).await;
    let front = Front::of(upstream).await;
    let body = format!("{{\"prompt\": \"{}\"}}", "x".repeat(8_000_000));
    let digest = Sha256Digest::of(body.as_bytes()).to_string();
    let response = front.client.post(front.url("/v1/completions")).body(body).send().await.unwrap();
    assert!(response.text().await.unwrap().ends_with(&digest));
    // No other test sends so much.
    assert_eq!(counted() - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_in_front_of_itself_is_no_endless_way() {
    let (asked, mut times) = mpsc::unbounded_channel();
    let upstream = raw(move |mut stream| {
        let asked = asked.clone();
        async move {
            let head = read_head(&mut stream).await;
            let via = head.lines().find_map(|line| line.strip_prefix("via: ")).unwrap().to_owned();
            asked.send(via).unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let front = Front::of(upstream).await;
    assert_eq!(front.client.get(front.url("/")).send().await.unwrap().status(), 204);
    let via = times.recv().await.unwrap();
    let response = front.client.get(front.url("/")).header("via", via).send().await.unwrap();
    assert_eq!(response.status(), 508);
    assert_eq!(response.json::<Value>().await.unwrap()["code"], "upstream_loop");
    assert!(times.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_everything_else_dead_the_same_bytes_pass_and_no_request_fails() {
    let upstream = serve(upstream_routes(), CancellationToken::new()).await;
    let world = World::new().await;
    world.database.is_down.store(true, Ordering::Release);
    world.routing.is_down.store(true, Ordering::Release);
    world.models.is_down.store(true, Ordering::Release);
    let down: crate::OpenLog = Arc::new(|| Box::pin(async { Err("the log is down".to_owned()) }));
    let sources = Sources { log: Log::Later(down), ..world.sources() };
    // One place in the queue: what is not recorded must not be waited for either.
    let front = Front::standing(world, sources, upstream, |config| config.record_queue = 1).await;
    let body = r#"{"segments":{"prefix":"a"}}"#;
    let asked = |address: SocketAddr, path: &'static str| {
        let request = front.client.post(format!("http://{address}{path}"));
        taken(request.header("authorization", "Bearer a").body(body))
    };
    for path in ["/v1/completions", "/v1/events?select_kind=line", "/busy", "/elsewhere"] {
        let direct = asked(upstream, path).await;
        let passed = futures::future::join_all((0..50).map(|_| asked(front.address, path))).await;
        assert!(passed.iter().all(|answer| *answer == direct), "{path}");
    }
}
