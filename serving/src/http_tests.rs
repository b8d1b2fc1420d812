//! The door over real sockets, with engines that follow a script.

use std::sync::atomic::Ordering;

use events::wire::{ActionEvent, EndEvent};
use events::{ConsentTier, Decision, EventText, ModelVersion, RawEvent, Receipt, ReceiptState};
use futures::StreamExt;
use reqwest::StatusCode;
use serde_json::{Value, json};
use service::api_keys::Scope;
use service::http::{HttpConfig, bind};
use service::readiness::Readiness;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::testing::{Script, Turnstile, WAIT, World, eventually, plain_config};
use crate::{Serving, ServingConfig};

const TEXT: &str = "fn alpha() {\n    beta(gamma);\n}\n";

/// A served world and a client of it.
struct Door {
    world: World,
    serving: Arc<Serving>,
    address: String,
    client: reqwest::Client,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Door {
    async fn open(config: ServingConfig, script: Script) -> Self {
        let world = World::new().await;
        world.route(1, world.version(1, script));
        Self::open_in(world, config).await
    }

    async fn open_in(world: World, config: ServingConfig) -> Self {
        let serving = world.serve(config).await;
        let listener = bind("serving", &HttpConfig::default()).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let server = {
            let (router, stop) = (serving.router(), stop.clone());
            tokio::spawn(async move {
                service::http::serve(listener, router, &HttpConfig::default(), stop).await;
            })
        };
        let client = reqwest::Client::builder().timeout(WAIT).build().unwrap();
        Self { world, serving, address, client, stop, server }
    }

    fn request(&self, body: &Value) -> reqwest::RequestBuilder {
        self.raw(&self.world.api_key, "application/json", body.to_string())
    }

    fn raw(&self, key: &str, content_type: &str, body: String) -> reqwest::RequestBuilder {
        let request = self.client.post(format!("{}/v1/suggestions", self.address));
        request.bearer_auth(key).header("content-type", content_type).body(body)
    }

    async fn ask(&self, body: &Value) -> Answered {
        let response = self.request(body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
        Answered::read(&response.text().await.unwrap())
    }

    async fn refused(&self, request: reqwest::RequestBuilder) -> (u16, String) {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["status"], status);
        (status, problem["code"].as_str().unwrap().to_owned())
    }

    async fn exposures(&self) -> Vec<RawEvent> {
        tokio::time::timeout(WAIT, async {
            self.serving.state_for_tests().answers.close();
            self.serving.state_for_tests().answers.wait().await;
            self.serving.settled().await;
        })
        .await
        .unwrap();
        self.world.exposures().await
    }

    async fn open_text(&self, event: &RawEvent) -> EventText {
        let header = &event.header;
        let key = self.world.keys.data_key(&header.tenant, &header.person).await.unwrap();
        let sealed = event.sealed.as_ref().unwrap();
        serde_json::from_slice(&key.open(header.event_id, events::topics::TELEMETRY_RAW, sealed).unwrap()).unwrap()
    }
}

#[derive(Debug)]
struct Answered {
    actions: Vec<ActionEvent>,
    end: Option<EndEvent>,
    error: Option<Value>,
}

impl Answered {
    fn read(text: &str) -> Self {
        let mut answered = Self { actions: Vec::new(), end: None, error: None };
        for event in text.split("\n\n").filter(|event| !event.is_empty()) {
            let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            assert!(answered.end.is_none(), "nothing follows the end");
            match name {
                "action" => answered.actions.push(serde_json::from_str(data).unwrap()),
                "end" => answered.end = Some(serde_json::from_str(data).unwrap()),
                "error" => answered.error = Some(serde_json::from_str(data).unwrap()),
                other => panic!("unknown event {other}"),
            }
        }
        answered
    }

    fn end(&self) -> &EndEvent {
        self.end.as_ref().unwrap()
    }
}

fn question() -> Value {
    json!({
        "person": "ada",
        "session_id": "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d",
        "repository": "engine",
        "path": "src/ledger.rs",
        "language": "rust",
        "document": { "text": TEXT },
        "cursor": 17,
    })
}

/// An opportunity whose draw is, or is not, below a rate of one half.
fn opportunity(explored: bool) -> (ServingConfig, String) {
    let config = ServingConfig { exploration: 0.5, ..plain_config() };
    let policy = crate::DecisionPolicy::new(config.threshold, config.exploration);
    let mut ids = (1_u128..).map(|number| OpportunityId::from_uuid(uuid::Uuid::from_u128(number)));
    let id = ids.find(|id| policy.explores(*id) == explored).unwrap();
    (config, id.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_action_arrives_before_the_end_and_everything_is_recorded() {
    let turnstile = Arc::new(Turnstile::default());
    let script = Script { turnstile: Some(turnstile.clone()), ..Script::new(0.9, 2) };
    let asked_by = Arc::clone(&script.asked_by);
    let door = Door::open(plain_config(), script).await;
    door.world.consent("ada", ConsentTier::Code).await;
    let response = door.request(&question()).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.bytes_stream();
    // The model stands between its first and its second action until the test lets it go on.
    let first = String::from_utf8(body.next().await.unwrap().unwrap().to_vec()).unwrap();
    assert!(
        first.starts_with("event: action\n") && first.ends_with("\n\n") && !first.contains("event: end"),
        "{first}"
    );
    turnstile.open();
    let mut text = first;
    while let Some(chunk) = body.next().await {
        text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
    }
    let answered = Answered::read(&text);
    assert_eq!(answered.actions.len(), 2);
    assert_eq!(answered.actions[0].path, "src/ledger.rs");
    for action in &answered.actions {
        assert_eq!(&TEXT[action.start as usize..action.end as usize], action.old_text);
    }
    let end = answered.end();
    assert_eq!((end.decision, end.actions, end.model_version), (Decision::Shown, 2, ModelVersion(1)));
    let secret = door.world.secret().await;
    let receipt = Receipt::verify(&end.receipt, &secret).unwrap();
    // Engines keep apart what tenants asked.
    assert_eq!(*asked_by.lock(), std::slice::from_ref(&receipt.tenant));
    assert_eq!(receipt.suggestion_id, end.suggestion_id);
    assert_eq!(receipt.person, secret.person_pseudonym("ada"));
    assert_eq!(json!(receipt.session_id), question()["session_id"]);
    assert!((receipt.probabilities.p_show - 1.0).abs() < 1e-12);
    assert!((receipt.probabilities.gate_score - f64::from(0.9_f32)).abs() < 1e-12);
    assert!((receipt.probabilities.log_p_text + 0.5).abs() < 1e-12);
    assert!(!receipt.probabilities.explored);

    let exposures = door.exposures().await;
    assert_eq!(exposures.len(), 1);
    let header = &exposures[0].header;
    assert_eq!(header.receipt.as_ref(), Some(&receipt));
    assert_eq!((header.sequence, header.receipt_state), (0, ReceiptState::Valid));
    let EventText::Exposure { context, actions, first_action_ms, .. } = door.open_text(&exposures[0]).await else {
        panic!("no exposure")
    };
    assert_eq!((actions.len(), first_action_ms.is_some()), (2, true));
    assert_eq!(context.window.text, TEXT);
    // Real names never leave serving.
    assert!(context.path.starts_with("src/") && !context.path.contains("ledger"), "{}", context.path);
    assert!(!context.repository.contains("engine"));
    let status = door.serving.status();
    assert_eq!(status.models[0].first_served[0].version, ModelVersion(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_dropped_and_counted() {
    let metrics = service::metrics::install().unwrap();
    let counted = || metrics.counter("flywheel_serving_unknown_fields_total", &[]);
    let before = counted();
    let door = Door::open(plain_config(), Script::new(0.9, 1)).await;
    let mut body = question();
    body["colour"] = json!({ "deep": [1, 2] });
    body["document"]["mood"] = json!(1);
    assert_eq!(door.ask(&body).await.end().decision, Decision::Shown);
    // Other tests of this process may send some as well.
    assert!(counted() - before >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_a_decision_with_receipt_and_exposure() {
    let door = Door::open(plain_config(), Script::new(0.2, 2)).await;
    let answered = door.ask(&question()).await;
    assert!(answered.actions.is_empty());
    assert_eq!((answered.end().decision, answered.end().suggestion_id), (Decision::Silent, None));
    let receipt = Receipt::verify(&answered.end().receipt, &door.world.secret().await).unwrap();
    assert!(receipt.probabilities.p_show.abs() < 1e-12);
    let exposures = door.exposures().await;
    assert_eq!(exposures.len(), 1);
    assert_eq!(exposures[0].header.suggestion_id, None);
    // Never asked for consent: counted, and the code stays here.
    assert!(exposures[0].sealed.is_none());
    assert!(door.serving.status().models[0].first_served.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn exploration_shows_what_would_be_silent_and_withholds_what_would_be_shown() {
    for (gate_score, explored, expected, p_show) in [
        (0.2, true, Decision::Shown, 0.5),
        (0.2, false, Decision::Silent, 0.5),
        (0.9, true, Decision::Withheld, 0.5),
        (0.9, false, Decision::Shown, 0.5),
    ] {
        let (config, id) = opportunity(explored);
        let door = Door::open(config, Script::new(gate_score, 2)).await;
        door.world.consent("ada", ConsentTier::Code).await;
        let mut body = question();
        body["opportunity_id"] = json!(id);
        let answered = door.ask(&body).await;
        assert_eq!(answered.end().decision, expected);
        assert_eq!(answered.end().opportunity_id.to_string(), id);
        assert_eq!(answered.actions.len(), if expected == Decision::Shown { 2 } else { 0 });
        let receipt = Receipt::verify(&answered.end().receipt, &door.world.secret().await).unwrap();
        assert_eq!(receipt.probabilities.explored, explored);
        assert!((receipt.probabilities.p_show - p_show).abs() < 1e-12);
        let exposures = door.exposures().await;
        let EventText::Exposure { actions, first_action_ms, .. } = door.open_text(&exposures[0]).await else {
            panic!("no exposure")
        };
        // What was proposed is recorded also when it was withheld.
        assert_eq!(actions.len(), if expected == Decision::Silent { 0 } else { 2 });
        assert_eq!(first_action_ms.is_some(), expected == Decision::Shown);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_nothing_to_say_is_silent_whatever_its_gate() {
    let (config, id) = opportunity(true);
    for (config, id) in [(plain_config(), None), (config, Some(id))] {
        let door = Door::open(config, Script::new(0.9, 0)).await;
        let mut body = question();
        body["opportunity_id"] = json!(id);
        let answered = door.ask(&body).await;
        assert_eq!(answered.end().decision, Decision::Silent);
        let receipt = Receipt::verify(&answered.end().receipt, &door.world.secret().await).unwrap();
        assert!(receipt.probabilities.p_show.abs() < 1e-12 && !receipt.probabilities.explored);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_come_back_as_the_client_counts() {
    let door = Door::open(plain_config(), Script::new(0.9, 1)).await;
    let text = "😀é alpha\n";
    let mut body = question();
    body["offset_encoding"] = json!("utf16");
    body["document"] = json!({ "start": 1000, "first_line": 3, "text": text });
    body["cursor"] = json!(1004);
    let answered = door.ask(&body).await;
    let action = &answered.actions[0];
    let units: Vec<u16> = text.encode_utf16().collect();
    let range = (action.start - 1000) as usize..(action.end - 1000) as usize;
    assert_eq!(String::from_utf16(&units[range]).unwrap(), action.old_text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stops_its_decoding_over_both_protocols() {
    for http2 in [false, true] {
        let script = Script { turnstile: Some(Arc::default()), ..Script::new(0.9, 2) };
        let mut door = Door::open(plain_config(), script.clone()).await;
        door.world.consent("ada", ConsentTier::Code).await;
        if http2 {
            door.client = reqwest::Client::builder().http2_prior_knowledge().timeout(WAIT).build().unwrap();
        }
        let response = door.request(&question()).send().await.unwrap();
        let version = if http2 { reqwest::Version::HTTP_2 } else { reqwest::Version::HTTP_11 };
        assert_eq!(response.version(), version);
        let mut body = response.bytes_stream();
        body.next().await.unwrap().unwrap();
        drop(body);
        eventually("decoding saw that the client left", || {
            if script.saw_cancel.load(Ordering::Acquire) { Ok(()) } else { Err("still decoding".to_owned()) }
        })
        .await;
        // What was flushed before is an exposure.
        let exposures = door.exposures().await;
        assert_eq!(exposures.len(), 1);
        assert_eq!(exposures[0].header.receipt.as_ref().unwrap().decision, Decision::Shown);
        let EventText::Exposure { actions, .. } = door.open_text(&exposures[0]).await else { panic!("no exposure") };
        assert_eq!(actions.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let turnstile = Arc::new(Turnstile::default());
    let script = Script { turnstile: Some(turnstile.clone()), ..Script::new(0.9, 2) };
    let door = Door::open(ServingConfig { threads: 1, queue: 1, ..plain_config() }, script).await;
    let mut running = door.request(&question()).send().await.unwrap().bytes_stream();
    running.next().await.unwrap().unwrap();
    let waiting = door.request(&question()).send().await.unwrap();
    let refused = door.request(&question()).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "overloaded");
    turnstile.open();
    assert_eq!(Answered::read(&waiting.text().await.unwrap()).actions.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_have_stable_codes() {
    let door = Door::open(ServingConfig { max_body_bytes: 4096, ..plain_config() }, Script::new(0.9, 1)).await;
    let with = |change: fn(&mut Value)| {
        let mut body = question();
        change(&mut body);
        door.request(&body)
    };
    let refused = |request| door.refused(request);
    let code = |status, code: &str| (status, code.to_owned());
    assert_eq!(refused(door.request(&question()).body("{")).await, code(400, "invalid_json"));
    assert_eq!(refused(with(|body| body["cursor"] = json!("x"))).await, code(422, "invalid_shape"));
    assert_eq!(refused(with(|body| body["cursor"] = json!(9999))).await, code(422, "offset_outside_document"));
    assert_eq!(refused(with(|body| body["model"] = json!("other"))).await, code(404, "unknown_model"));
    assert_eq!(refused(with(|body| body["person"] = json!("x".repeat(300)))).await, code(422, "invalid_field"));
    assert_eq!(refused(with(|body| body["document"]["text"] = json!("x".repeat(5000)))).await, code(413, "too_large"));
    assert_eq!(
        refused(door.raw(&door.world.api_key, "text/plain", question().to_string())).await,
        code(415, "unsupported_media_type")
    );
    assert_eq!(
        refused(door.raw("fw_forged", "application/json", question().to_string())).await,
        code(401, "unauthorized")
    );
    let telemetry = door.world.create_key(&[Scope::Telemetry]).await;
    let url = format!("{}/v1/suggestions", door.address);
    assert_eq!(refused(door.client.post(&url).bearer_auth(telemetry)).await, code(403, "missing_scope"));
    assert_eq!(refused(door.client.post(&url)).await, code(401, "unauthorized"));
    assert_eq!(refused(door.client.get(&url)).await, code(405, "method_not_allowed"));
    assert_eq!(refused(door.client.get(format!("{}/v2", door.address))).await, code(404, "unknown_path"));
    // The neighbour is unharmed.
    let answered = door.ask(&question()).await;
    assert_eq!(answered.actions.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_decoding_costs_one_answer() {
    let world = World::new().await;
    let bad = world.version(1, Script { panics: true, ..Script::new(0.9, 1) });
    world.route(1, bad);
    let door = Door::open_in(world, ServingConfig { threads: 1, ..plain_config() }).await;
    for _ in 0..2 {
        let answered = door.ask(&question()).await;
        assert_eq!(answered.error.unwrap()["code"], "decoding_failed");
    }
    door.world.route(2, door.world.version(2, Script::new(0.9, 1)));
    door.serving.refresh().await;
    assert_eq!(door.ask(&question()).await.actions.len(), 1);
    assert_eq!(door.exposures().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_swap_under_load_drops_nobody() {
    let world = World::new().await;
    world.route(1, world.version(1, Script::new(0.9, 2)));
    let door = Arc::new(Door::open_in(world, ServingConfig { queue: 1000, ..plain_config() }).await);
    let stop = CancellationToken::new();
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (door, stop) = (door.clone(), stop.clone());
            tokio::spawn(async move {
                let mut newest = 0;
                let mut answers = 0;
                while !stop.is_cancelled() {
                    let answered = door.ask(&question()).await;
                    assert_eq!(answered.actions.len(), 2);
                    let version = answered.end().model_version.0;
                    assert!(version >= newest, "a swap went backwards");
                    newest = version;
                    answers += 1;
                }
                (answers, newest)
            })
        })
        .collect();
    for version in 2..=12 {
        door.world.route(version, door.world.version(version, Script::new(0.9, 2)));
        assert!(door.serving.refresh().await);
        // Every client gets an answer of its own by this version before the next one comes.
        for _ in 0..3 {
            assert_eq!(door.ask(&question()).await.end().model_version.0, version);
        }
    }
    stop.cancel();
    let mut total = 0;
    for client in clients {
        let (answers, newest) = client.await.unwrap();
        assert!(answers > 0 && newest >= 1);
        total += answers;
    }
    assert!(total > 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_outlive_database_registry_and_store() {
    let world = World::new().await;
    world.route(1, world.version(1, Script::new(0.9, 1)));
    let door = Door::open_in(world, plain_config()).await;
    assert_eq!(door.ask(&question()).await.actions.len(), 1);
    let Door { world, serving, stop, server, .. } = door;
    world.database.is_down.store(true, Ordering::Release);
    world.models.is_down.store(true, Ordering::Release);
    world.routing.is_down.store(true, Ordering::Release);
    stop.cancel();
    server.await.unwrap();
    drop(serving);

    let door = Door::open_in(world, ServingConfig { exposure_attempts: 1, ..plain_config() }).await;
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(door.ask(&question()).await.actions.len(), 1);
    }
    assert!(started.elapsed() < WAIT / 3, "no answer waited for what is down");
    let before = door.exposures().await.len();
    assert!(before <= 1, "nothing leaves while consent cannot be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_question_keeps_its_opportunity_and_gets_a_suggestion_of_its_own() {
    let door = Door::open(ServingConfig { result_cache_entries: 10, ..plain_config() }, Script::new(0.9, 1)).await;
    let mut body = question();
    body["opportunity_id"] = json!("0190f3c0-7b5a-7c3e-9d51-000000000001");
    let (one, two) = (door.ask(&body).await, door.ask(&body).await);
    assert_eq!(one.end().opportunity_id, two.end().opportunity_id);
    assert_ne!(one.end().suggestion_id, two.end().suggestion_id);
    assert_eq!(one.actions[0].new_text, two.actions[0].new_text);
    assert_eq!(door.exposures().await.len(), 2);
    let (three, four) = (door.ask(&question()).await, door.ask(&question()).await);
    assert_ne!(three.end().opportunity_id, four.end().opportunity_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_once_a_model_is_loaded_and_stopped_without_loss() {
    let world = World::new().await;
    let serving = Serving::start_with(plain_config(), world.sources()).await.unwrap();
    let readiness = Readiness::new();
    let latch = readiness.gate("model");
    let listener = bind("serving", &HttpConfig::default()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(serving.run(listener, latch, stop.clone()));
    let client = reqwest::Client::new();
    let ask = || {
        let request = client.post(format!("http://{address}/v1/suggestions")).bearer_auth(&world.api_key);
        request.header("content-type", "application/json").body(question().to_string()).send()
    };
    let early = ask().await.unwrap();
    assert_eq!(early.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(early.json::<Value>().await.unwrap()["code"], "no_model");
    assert!(!readiness.is_ready());
    world.route(1, world.version(1, Script::new(0.9, 1)));
    tokio::time::timeout(WAIT, readiness.ready()).await.unwrap();
    let answered = Answered::read(&ask().await.unwrap().text().await.unwrap());
    assert_eq!(answered.actions.len(), 1);
    stop.cancel();
    tokio::time::timeout(WAIT, running).await.unwrap().unwrap();
    assert_eq!(world.exposures().await.len(), 1);
}
