//! What is recorded of what passes: over real sockets, from a client's request to the bus.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode, header};
use axum::routing::post;
use axum::{Json, Router};
use events::{ConsentTier, Decision, EventHeader, EventKind, RawEvent, ReceiptState, Sha256Digest};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::proxy::testing::{Front, serve};

const KEY: &str = "auth_ada";
const CANARY: &str = "canaryclipboard";

/// A server that answers as Tabby does, or as vLLM when asked so. Who shows the key `stranger` is refused.
async fn tabby() -> SocketAddr {
    let count = Arc::new(AtomicU64::new(0));
    let complete = move |request: Request| {
        let count = Arc::clone(&count);
        async move {
            let is_stranger = request.headers().get(header::AUTHORIZATION).is_some_and(|key| key == "Bearer stranger");
            let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
            let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
            let id = format!("cmpl-{}", count.fetch_add(1, Ordering::AcqRel));
            let text = asked["say"].as_str().unwrap_or("return n").to_owned();
            if is_stranger {
                return answer(StatusCode::UNAUTHORIZED, "text/plain", String::new());
            }
            if asked["stream"] == json!(true) {
                let chunk = json!({ "id": id, "choices": [{ "index": 0, "text": text }] });
                return answer(
                    StatusCode::OK,
                    "text/event-stream; charset=utf-8",
                    format!("data: {chunk}\n\ndata: [DONE]\n\n"),
                );
            }
            let said = json!({ "id": id, "choices": [{ "index": 0, "text": text }], "mode": "standard" });
            answer(StatusCode::OK, "application/json", said.to_string())
        }
    };
    let note = |Json(event): Json<Value>| async move {
        if event["type"] == "strange" { StatusCode::BAD_REQUEST } else { StatusCode::OK }
    };
    let routes = Router::new().route("/v1/completions", post(complete)).route("/v1/events", post(note));
    serve(routes, CancellationToken::new()).await
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, content_type);
    response.body(Body::from(body)).unwrap()
}

fn question(prefix: &str) -> Value {
    json!({ "language": "python", "segments": {
        "prefix": prefix, "suffix": "\n", "filepath": "src/secretname.py", "git_url": "git@x:acme/secretname.git",
        "clipboard": CANARY } })
}

impl Front {
    async fn tabby() -> Self {
        Self::of(tabby().await).await
    }

    /// Asks, and returns the completion's id.
    async fn complete(&self, key: &str, body: &Value) -> String {
        let request = self.client.post(self.url("/v1/completions")).bearer_auth(key);
        let response = request.json(body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Says something of a completion, and returns what the upstream made of it.
    async fn say(&self, key: &str, query: &str, event: Value) -> u16 {
        let request = self.client.post(self.url(&format!("/v1/events{query}"))).bearer_auth(key);
        request.json(&event).send().await.unwrap().status().as_u16()
    }
}

fn event(kind: &str, id: &str, elapsed: Option<u32>) -> Value {
    json!({ "type": kind, "completion_id": id, "choice_index": 0, "view_id": "view-1", "elapsed": elapsed })
}

fn headers(events: &[RawEvent]) -> Vec<&EventHeader> {
    let mut headers: Vec<&EventHeader> = events.iter().map(|event| &event.header).collect();
    headers.sort_by_key(|header| header.sequence);
    headers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_and_what_is_said_of_it_reach_the_bus_without_text() {
    let front = Front::tabby().await;
    let person = front.world.secret().await.person_pseudonym(&format!("upstream:{}", Sha256Digest::of(KEY.as_bytes())));
    // Whoever agreed to more gives no more here.
    front.world.consent(&format!("upstream:{}", Sha256Digest::of(KEY.as_bytes())), ConsentTier::Code).await;
    let id = front.complete(KEY, &question("def fib(n):\n    ")).await;
    assert_eq!(front.say(KEY, "", event("view", &id, None)).await, 200);
    assert_eq!(front.say(KEY, "?select_kind=line", event("select", &id, Some(900))).await, 200);
    assert_eq!(front.say(KEY, "", event("select", &id, Some(1900))).await, 200);
    let other = front.complete(KEY, &question("def fib(n):\n    return n\n\n")).await;
    assert_eq!(front.say(KEY, "", event("dismiss", &other, Some(249))).await, 200);
    let events = front.events(6).await;
    assert_eq!(events.len(), 6);
    let headers = headers(&events);
    assert!(headers.iter().all(|header| header.person == person && header.receipt_state == ReceiptState::Valid));
    assert!(headers.iter().all(|header| header.session_id == headers[0].session_id));
    let kinds: Vec<_> = headers.iter().map(|header| (header.sequence, header.kind)).collect();
    let expected = [
        (0, EventKind::Exposure),
        (0, EventKind::Exposure),
        (1, EventKind::SuggestionShown),
        (2, EventKind::SuggestionAccepted),
        (3, EventKind::SuggestionAccepted),
        (4, EventKind::SuggestionHidden),
    ];
    assert_eq!(kinds, expected);
    let receipt = headers[2].receipt.as_ref().unwrap();
    assert_eq!((receipt.model.as_str(), receipt.model_version.0, receipt.decision), ("upstream", 0, Decision::Shown));
    assert_eq!(receipt.session_id, headers[0].session_id);
    assert_eq!(headers[2].suggestion_id, receipt.suggestion_id);
    assert!(headers[..2].iter().any(|exposure| exposure.receipt.as_ref() == Some(receipt)));
    assert_eq!(
        (headers[2].actions_visible, headers[3].accepted_length, headers[4].accepted_length),
        (Some(1), Some(1), None)
    );
    assert_eq!((headers[3].action_index, headers[5].visible_ms), (Some(0), Some(249)));
    assert_ne!(headers[5].opportunity_id, headers[4].opportunity_id);
    assert!(headers.windows(2).skip(2).all(|pair| pair[0].monotonic_ms <= pair[1].monotonic_ms));
    for event in &events {
        assert!(event.sealed.is_none() && event.filtered_at_door.is_none());
        let value = events::avro::encode(event).unwrap();
        for word in [CANARY, "fib", "secretname", KEY, "return"] {
            assert!(!value.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_agreed_to_nothing_leaves_stubs() {
    let front = Front::tabby().await;
    front.world.consent(&format!("upstream:{}", Sha256Digest::of(KEY.as_bytes())), ConsentTier::None).await;
    let id = front.complete(KEY, &question("a")).await;
    assert_eq!(front.say(KEY, "", event("select", &id, Some(5))).await, 200);
    let events = front.events(2).await;
    for event in &events {
        assert_eq!(event.filtered_at_door.as_deref(), Some("consent_none"));
        let header = &event.header;
        assert!(header.receipt.is_none() && header.opportunity_id.is_none() && header.suggestion_id.is_none());
        assert_eq!((header.monotonic_ms, header.action_index), (0, None));
    }
    assert_eq!(headers(&events)[1].kind, EventKind::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_at_a_place_is_one_decision_and_silence_is_one_too() {
    let front = Front::tabby().await;
    front.complete(KEY, &question("a\nb")).await;
    front.complete(KEY, &question("a\nbc")).await;
    let mut silent = question("a\nbcd");
    silent["say"] = json!(" \n");
    front.complete(KEY, &silent).await;
    front.complete("auth_bob", &question("a\nb")).await;
    let events = front.events(4).await;
    let opportunities: std::collections::BTreeSet<_> =
        events.iter().map(|event| event.header.opportunity_id.unwrap()).collect();
    assert_eq!(opportunities.len(), 2, "another client's decision is another");
    let silent: Vec<_> = events.iter().filter(|event| event.header.suggestion_id.is_none()).collect();
    assert_eq!(silent.len(), 1);
    assert_eq!(silent[0].header.receipt.as_ref().unwrap().decision, Decision::Silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_acceptance_the_next_answer_is_another_decision() {
    let front = Front::tabby().await;
    let id = front.complete(KEY, &question("a\nb")).await;
    assert_eq!(front.say(KEY, "", event("select", &id, None)).await, 200);
    front.complete(KEY, &question("a\nbcd")).await;
    let events = front.events(3).await;
    let exposures = events.iter().filter(|event| event.header.kind == EventKind::Exposure);
    let opportunities: std::collections::BTreeSet<_> =
        exposures.map(|event| event.header.opportunity_id.unwrap()).collect();
    assert_eq!(opportunities.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_clients_are_recorded_apart_as_documents_and_as_streams() {
    let front = Front::tabby().await;
    front.complete(KEY, &json!({ "prompt": "def a" })).await;
    let body = json!({ "prompt": "def a", "stream": true });
    let response = front.client.post(front.url("/v1/completions")).json(&body).send().await.unwrap();
    assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    let events = front.events(2).await;
    for event in &events {
        let receipt = event.header.receipt.as_ref().unwrap();
        assert_eq!((receipt.model.as_str(), receipt.decision), ("upstream-openai", Decision::Shown));
    }
    // One showed a key, the other none.
    assert_ne!(events[0].header.person, events[1].header.person);
    assert_ne!(events[0].header.opportunity_id, events[1].header.opportunity_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_passes_and_is_counted() {
    let metrics = service::metrics::install().unwrap();
    let invalid = |reason: &'static str| {
        metrics.counter("flywheel_serving_upstream_signals_invalid_total", &[("reason", reason)])
    };
    let tapped = |kind: &'static str, outcome: &'static str| {
        metrics.counter("flywheel_serving_upstream_tapped_total", &[("kind", kind), ("outcome", outcome)])
    };
    let counts = || {
        [
            invalid("receipt_unknown"),
            invalid("choice_unknown"),
            invalid("unmeasured"),
            invalid("unreadable"),
            tapped("event", "refused"),
            tapped("completion", "refused"),
            tapped("completion", "both"),
            tapped("completion", "neither"),
        ]
    };
    let before = counts();
    let front = Front::tabby().await;
    let id = front.complete(KEY, &question("a")).await;
    assert_eq!(front.say(KEY, "", event("view", "cmpl-none", None)).await, 200);
    assert_eq!(front.say("auth_bob", "", event("view", &id, None)).await, 200);
    let mut second = event("select", &id, None);
    second["choice_index"] = json!(1);
    assert_eq!(front.say(KEY, "", second).await, 200);
    assert_eq!(front.say(KEY, "", event("dismiss", &id, None)).await, 200);
    assert_eq!(front.say(KEY, "", json!({ "type": "view" })).await, 200);
    assert_eq!(front.say(KEY, "", event("strange", &id, None)).await, 400);
    let asked = [
        (json!({ "prompt": "a", "segments": { "prefix": "a" } }), KEY, 200),
        (json!({ "messages": [] }), KEY, 200),
        (question("a"), "stranger", 401),
    ];
    for (body, key, status) in asked {
        let request = front.client.post(front.url("/v1/completions")).bearer_auth(key).json(&body);
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    // Behind all of it in the queue.
    assert_eq!(front.say(KEY, "", event("view", &id, None)).await, 200);
    let events = front.events(2).await;
    assert_eq!(events.len(), 2, "only the completion and its last signal");
    let last = headers(&events)[1];
    assert_eq!((last.kind, last.sequence), (EventKind::SuggestionShown, 1), "what says nothing takes no number");
    // Other tests of this process may count as well.
    let grown: Vec<u64> = counts().iter().zip(before).map(|(now, before)| now - before).collect();
    let least = [2, 1, 1, 1, 1, 1, 1, 1];
    assert!(grown.iter().zip(least).all(|(grown, least)| *grown >= least), "{grown:?}");
}
