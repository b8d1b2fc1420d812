//! A model of an engine that does what the test says, over real sockets.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use events::{Decision, Receipt, Window};
use service::http::{HttpConfig, bind};

use super::testing::{Act, FakeEngine};
use super::*;
use crate::engine::Decoding;
use crate::testing::{WAIT, World, eventually, plain_config};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../edit-model/tests/fixtures/qwen2.5-coder");
const TEXT: &str = "fn one() {\n    let name = ;\n}\n";

/// Engine `big` at these addresses, which has time: nothing is late that does not hang.
fn config_of(addresses: &[SocketAddr]) -> EngineConfig {
    let urls: Vec<String> = addresses.iter().map(|address| format!("http://{address}")).collect();
    let minute = 60_000;
    EngineConfig {
        urls: urls.join(","),
        first_byte_timeout_ms: minute,
        idle_timeout_ms: minute,
        deadline_ms: minute,
        ..EngineConfig::default()
    }
}

async fn load(config: &EngineConfig) -> Result<Arc<ForeignModel>, Unservable> {
    let engines = BTreeMap::from([("big".to_owned(), ForeignEngine::new("big", config).unwrap())]);
    let [engine, model, dialect] = ["big", "qwen", "qwen2.5-coder-fim"].map(str::to_owned);
    let model = ForeignModel::load(&engines, Description { engine, model, dialect }, Path::new(FIXTURE)).await?;
    model.prove().await?;
    Ok(model)
}

async fn model_at(addresses: &[SocketAddr]) -> Arc<ForeignModel> {
    load(&config_of(addresses)).await.unwrap()
}

fn context() -> EditContext {
    EditContext {
        window: Window { start_byte: 100, first_line: 8, text: TEXT.to_owned() },
        cursor_byte: 100 + TEXT.find(';').unwrap() as u64,
        ..warm_context()
    }
}

fn question(explores: bool) -> Ask {
    let decoding = Decoding { threshold: 0.5, force_edit: explores, max_actions: 4, draft_tokens: 0, batch: 1 };
    Ask { tenant: TenantId::default(), context: Arc::new(context()), decoding, explores }
}

/// What a model answers, with the texts of the actions that it showed on the way.
async fn answer(model: &Arc<ForeignModel>, explores: bool) -> (Vec<String>, Result<Completion, EngineError>) {
    let threads = DecodePool::start(1, 1).unwrap();
    let (sender, mut receiver) = mpsc::channel(5);
    Arc::clone(model).begin(&threads, question(explores), sender, CancellationToken::new()).unwrap();
    let mut shown = Vec::new();
    let ended = async {
        while let Some(progress) = receiver.recv().await {
            match progress {
                Progress::Action(action) => shown.push(action.new_text),
                Progress::Done(result) => return result,
            }
        }
        panic!("an answer without an end")
    };
    let result = tokio::time::timeout(WAIT, ended).await.unwrap();
    (shown, result)
}

async fn text_of(model: &Arc<ForeignModel>) -> String {
    let (shown, result) = answer(model, false).await;
    result.unwrap();
    shown.concat()
}

fn is_unanswered(result: &Result<Completion, EngineError>) -> bool {
    matches!(result, Err(EngineError::Unanswered(engine)) if engine == "big")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_at_the_cursor_is_one_action() {
    let engine = FakeEngine::start(|_| Act::Write(&["get_", "name()", "  \n"])).await;
    let config = EngineConfig { api_key: Some(Secret::new("sesame")), ..config_of(&[engine.address]) };
    let model = load(&config).await.unwrap();
    let (shown, result) = answer(&model, false).await;
    let completion = result.unwrap();
    let at_cursor = ByteRange::new(context().cursor_byte, context().cursor_byte);
    let [path, old_text, new_text] = ["warm.rs", "", "get_name()"].map(str::to_owned);
    let action = EditAction { path, range: at_cursor, old_text, new_text };
    assert_eq!(shown, ["get_name()"]);
    let expected = Completion { actions: vec![action], gate_score: 1.0, log_p_text: -1.5, cancelled: false };
    assert_eq!(completion, expected);

    let asked = engine.seen.questions.lock()[0].clone();
    assert_eq!((&asked["model"], &asked["temperature"], &asked["max_tokens"]), (&json!("qwen"), &json!(0), &json!(96)));
    let prompt = asked["prompt"].as_str().unwrap();
    assert!(prompt.ends_with("let name = <|fim_suffix|>;\n}\n<|fim_middle|>"), "{prompt}");
    assert!(engine.seen.heads.lock().iter().all(|head| head.contains("authorization: bearer sesame")));

    // An engine that shares what it computed shares it within a tenant.
    let salt_of = |tenant: &str| {
        let body = model.question(&tenant.parse().unwrap(), &context(), 1).unwrap();
        serde_json::from_slice::<serde_json::Value>(&body).unwrap()["cache_salt"].clone()
    };
    assert_eq!(asked["cache_salt"], salt_of("default"));
    assert_ne!(asked["cache_salt"], salt_of("other"));

    // What is explored is not shown before it is decided.
    let (shown, result) = answer(&model, true).await;
    assert_eq!((shown.len(), result.unwrap()), (0, expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_again() {
    let engine = FakeEngine::start(|_| Act::Write(&["again"])).await;
    let model = model_at(&[engine.address]).await;
    for _ in 0..20 {
        assert_eq!(text_of(&model).await, "again");
    }
    // A connection is given back a moment after its answer; sometimes the next question does not wait for it.
    let connections = engine.seen.connections.load(Ordering::Acquire);
    assert!(connections <= 10, "{connections} connections for 21 questions");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_whole_text_is_proposed() {
    let texts: [(Act, &str); 5] = [
        (Act::WriteToTheLimit(&["one();\n", "    tw"]), "one();"),
        (Act::WriteToTheLimit(&["one_very_long_na"]), ""),
        (Act::Write(&["one()", "<|file_sep|>other.rs\nfn"]), "one()"),
        (Act::Write(&["  \n", "\n"]), ""),
        (Act::Write(&[]), ""),
    ];
    let engine = FakeEngine::start(move |number| texts[number].0).await;
    let model = model_at(&[engine.address]).await;
    for (act, expected) in texts {
        let (shown, result) = answer(&model, false).await;
        let completion = result.unwrap();
        assert_eq!(shown.concat(), expected, "{act:?}");
        assert_eq!((completion.actions.len(), completion.gate_score), (shown.len(), 1.0), "{act:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_byte_the_next_address_is_asked() {
    let failures = [
        Act::Status(500, ""),
        Act::Status(404, ""),
        Act::Status(429, "retry-after: 0\r\n"),
        Act::Page,
        Act::Close,
        Act::Hang,
        Act::HangAfterHead,
    ];
    for failure in failures {
        let first = FakeEngine::start(move |_| failure).await;
        let second = FakeEngine::start(|_| Act::Write(&["second"])).await;
        let mut config = config_of(&[first.address, second.address]);
        if matches!(failure, Act::Hang | Act::HangAfterHead) {
            config.first_byte_timeout_ms = 2000;
        }
        let model = load(&config).await.unwrap();
        assert_eq!(text_of(&model).await, "second", "{failure:?}");
        assert_eq!((first.seen.asked(), second.seen.asked()), (1, 1), "{failure:?}");
    }
    // Nobody listens there any more.
    let gone = FakeEngine::start(|_| Act::Close).await.address;
    let second = FakeEngine::start(|_| Act::Write(&["second"])).await;
    assert_eq!(text_of(&model_at(&[gone, second.address]).await).await, "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_first_byte_nobody_else_is_asked() {
    for failure in [Act::CloseInPart, Act::Garbage, Act::Report, Act::HangAfterPart] {
        let first = FakeEngine::start(move |_| failure).await;
        let second = FakeEngine::start(|_| Act::Write(&["second"])).await;
        let mut config = config_of(&[first.address, second.address]);
        if matches!(failure, Act::HangAfterPart) {
            config.idle_timeout_ms = 2000;
        }
        let (shown, result) = answer(&load(&config).await.unwrap(), false).await;
        assert!(shown.is_empty() && is_unanswered(&result), "{failure:?}: {result:?}");
        assert_eq!((first.seen.asked(), second.seen.asked()), (1, 0), "{failure:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_fails_again_and_again_is_not_asked_any_more() {
    let texts = Act::Write(&["second"]);
    let cases = [
        (Act::Status(500, ""), 3),
        (Act::Page, 3),
        // It refuses this question, and lives.
        (Act::Status(404, ""), 6),
        // It wants to be left alone.
        (Act::Status(429, "retry-after: 60\r\n"), 1),
        (Act::Status(503, "retry-after: 60\r\n"), 1),
        (Act::Status(429, ""), 1),
    ];
    for (act, expected) in cases {
        let first = FakeEngine::start(move |_| act).await;
        let second = FakeEngine::start(move |_| texts).await;
        let hour = 3_600_000;
        let config = EngineConfig {
            breaker_failures: 3,
            breaker_pause_ms: hour,
            breaker_longest_pause_ms: hour,
            ..config_of(&[first.address, second.address])
        };
        let model = load(&config).await.unwrap();
        for _ in 0..6 {
            assert_eq!(text_of(&model).await, "second");
        }
        assert_eq!((first.seen.asked(), second.seen.asked()), (expected, 6), "{act:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_asked_again_once_it_writes() {
    let first = FakeEngine::start(|number| if number == 0 { Act::Close } else { Act::Write(&["first"]) }).await;
    let second = FakeEngine::start(|_| Act::Write(&["second"])).await;
    let config = EngineConfig {
        breaker_failures: 1,
        breaker_pause_ms: 20,
        breaker_longest_pause_ms: 50,
        ..config_of(&[first.address, second.address])
    };
    let model = load(&config).await.unwrap();
    first.seen.is_well.store(false, Ordering::Release);
    let looked = first.seen.probes.load(Ordering::Acquire);
    assert_eq!(text_of(&model).await, "second");
    let again = || match first.seen.probes.load(Ordering::Acquire) - looked {
        0..3 => Err("not looked at often enough".to_owned()),
        _ => Ok(()),
    };
    eventually("somebody looks", again).await;
    assert_eq!(text_of(&model).await, "second", "it does not write yet");
    assert_eq!(first.seen.asked(), 1, "health checks ask, and nobody else");
    first.seen.is_well.store(true, Ordering::Release);
    let until_first = async { while text_of(&model).await != "first" {} };
    tokio::time::timeout(WAIT, until_first).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_down_at_first_is_not_waited_for() {
    let first = FakeEngine::start(|_| Act::Hang).await;
    first.seen.is_well.store(false, Ordering::Release);
    let second = FakeEngine::start(|_| Act::Write(&["second"])).await;
    let model = model_at(&[first.address, second.address]).await;
    assert_eq!(text_of(&model).await, "second");
    assert_eq!(first.seen.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_of_which_nobody_hears_must_write_a_token() {
    let engine = FakeEngine::start(|_| Act::Hang).await;
    let model = load(&EngineConfig { health_interval_ms: 40, ..config_of(&[engine.address]) }).await.unwrap();
    let looked = || match engine.seen.probes.load(Ordering::Acquire) {
        0..3 => Err("not looked at often enough".to_owned()),
        _ => Ok(()),
    };
    eventually("somebody looks", looked).await;
    engine.seen.is_well.store(false, Ordering::Release);
    let out = || if model.gates[0].breaker.lock().is_open() { Ok(()) } else { Err("still in".to_owned()) };
    eventually("it is out", out).await;
    // At once, and without a question to an engine that would not answer.
    assert!(is_unanswered(&answer(&model, false).await.1));
    assert_eq!(engine.seen.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_at_its_deadline() {
    let engine = FakeEngine::start(|_| Act::WriteForever).await;
    let model = load(&EngineConfig { deadline_ms: 2000, ..config_of(&[engine.address]) }).await.unwrap();
    let (shown, result) = answer(&model, false).await;
    assert!(shown.is_empty() && is_unanswered(&result), "{result:?}");
    let left = || if engine.seen.left.load(Ordering::Acquire) == 1 { Ok(()) } else { Err("writes on".to_owned()) };
    eventually("the engine stops", left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_stops_when_nobody_wants_its_answer() {
    for act in [Act::WriteForever, Act::Hang] {
        let engine = FakeEngine::start(move |_| act).await;
        let model = model_at(&[engine.address]).await;
        let (sender, mut receiver) = mpsc::channel(5);
        let (threads, cancel) = (DecodePool::start(1, 1).unwrap(), CancellationToken::new());
        Arc::clone(&model).begin(&threads, question(false), sender, cancel.clone()).unwrap();
        let is_asked = || match (act, engine.seen.asked(), engine.seen.parts.load(Ordering::Acquire)) {
            (Act::WriteForever, _, 0) | (_, 0, _) => Err("not asked yet".to_owned()),
            _ => Ok(()),
        };
        eventually("the engine is asked", is_asked).await;
        cancel.cancel();
        let ended = tokio::time::timeout(WAIT, receiver.recv()).await.unwrap();
        assert!(matches!(ended, Some(Progress::Done(Ok(completion))) if completion.cancelled), "{act:?}");
        let left = || if engine.seen.left.load(Ordering::Acquire) == 1 { Ok(()) } else { Err("works on".to_owned()) };
        eventually("the engine stops", left).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_question_too_many_is_refused_at_once() {
    let engine = FakeEngine::start(|_| Act::Hang).await;
    let model = load(&EngineConfig { concurrency: 1, ..config_of(&[engine.address]) }).await.unwrap();
    let (threads, cancel) = (DecodePool::start(1, 1).unwrap(), CancellationToken::new());
    let begin = || {
        let (sender, receiver) = mpsc::channel(5);
        let begun = Arc::clone(&model).begin(&threads, question(false), sender, cancel.clone());
        begun.map(|()| receiver)
    };
    let mut first = begin().unwrap();
    assert_eq!(begin().err(), Some(Overloaded));
    cancel.cancel();
    tokio::time::timeout(WAIT, first.recv()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_writes_nothing_is_not_served() {
    let engine = FakeEngine::start(|_| Act::Write(&[])).await;
    engine.seen.is_well.store(false, Ordering::Release);
    let refused = load(&config_of(&[engine.address])).await.unwrap_err();
    assert!(refused.0.contains("engine big") && refused.0.contains("500"), "{refused}");
    let description = |engine: &str, dialect: &str| {
        let [engine, model, dialect] = [engine, "qwen", dialect].map(str::to_owned);
        Description { engine, model, dialect }
    };
    let engines = BTreeMap::from([("big".to_owned(), ForeignEngine::new("big", &EngineConfig::default()).unwrap())]);
    for (description, why) in [
        (description("small", "qwen2.5-coder-fim"), "no engine small"),
        (description("big", "region-rewrite"), "does not fill in"),
        (description("big", "starcoder-fim"), "<fim_prefix>"),
    ] {
        let refused = ForeignModel::load(&engines, description, Path::new(FIXTURE)).await.unwrap_err();
        assert!(refused.0.contains(why), "{refused}");
    }
}

/// What a client of serving reads, and how many exposures there are then.
async fn through_the_door(act: Act) -> (String, World, usize) {
    let engine = FakeEngine::start(move |_| act).await;
    let model = model_at(&[engine.address]).await;
    let world = World::new().await;
    world.route(1, world.version_of(1, model));
    let serving = world.serve(plain_config()).await;
    let listener = bind("serving", &HttpConfig::default()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (router, stop) = (serving.router(), CancellationToken::new());
    let stopped = stop.clone();
    let door =
        tokio::spawn(async move { service::http::serve(listener, router, &HttpConfig::default(), stopped).await });
    let question = json!({
        "person": "ada",
        "session_id": "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d",
        "repository": "engine",
        "path": "src/ledger.rs",
        "language": "rust",
        "document": { "text": TEXT },
        "cursor": TEXT.find(';').unwrap(),
    });
    let client = reqwest::Client::builder().timeout(WAIT).build().unwrap();
    let request = client.post(format!("http://{address}/v1/suggestions")).bearer_auth(&world.api_key).json(&question);
    let text = request.send().await.unwrap().text().await.unwrap();
    let state = serving.state_for_tests();
    state.answers.close();
    tokio::time::timeout(WAIT, async {
        state.answers.wait().await;
        serving.settled().await;
    })
    .await
    .unwrap();
    stop.cancel();
    drop(client);
    tokio::time::timeout(WAIT, door).await.unwrap().unwrap();
    let exposures = world.exposures().await.len();
    (text, world, exposures)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_an_engine_is_recorded_as_what_it_is() {
    let (text, world, exposures) = through_the_door(Act::Write(&["get_name()"])).await;
    assert_eq!(exposures, 1);
    let data = text.split("event: end\ndata: ").nth(1).unwrap();
    let end: events::wire::EndEvent = serde_json::from_str(data.trim()).unwrap();
    assert_eq!((end.decision, end.actions), (Decision::Shown, 1));
    let receipt = Receipt::verify(&end.receipt, &world.secret().await).unwrap();
    let probabilities = receipt.probabilities;
    assert_eq!((probabilities.gate_score, probabilities.p_show, probabilities.log_p_text), (1.0, 1.0, -0.5));
    let (text, world, exposures) = through_the_door(Act::Write(&[])).await;
    assert_eq!(exposures, 1);
    let data = text.split("event: end\ndata: ").nth(1).unwrap();
    let end: events::wire::EndEvent = serde_json::from_str(data.trim()).unwrap();
    let receipt = Receipt::verify(&end.receipt, &world.secret().await).unwrap();
    assert_eq!((end.decision, receipt.probabilities.p_show), (Decision::Silent, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_engine_answers_the_answer_is_empty_and_no_decision() {
    for act in [Act::Status(500, ""), Act::CloseInPart] {
        let (text, _, exposures) = through_the_door(act).await;
        let data = text.strip_prefix("event: error\ndata: ").unwrap_or_else(|| panic!("{text}"));
        let problem: serde_json::Value = serde_json::from_str(data.trim()).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&json!("engine_unavailable"), &json!(503)), "{act:?}");
        assert_eq!(exposures, 0, "{act:?}");
    }
}
