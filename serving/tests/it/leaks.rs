//! Code, names and keys reach neither a refusal, nor the log at its most talkative, nor a metric, nor the disk in
//! clear.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use events::ConsentTier;
use serde_json::{Value, json};

use crate::fixture::{Fixture, question};

/// In everything that the test sends, and in nothing that anybody else may see.
const CANARY: &str = "c4narySecr3t";

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Everything that this process logs from the first call on.
fn captured() -> Captured {
    static CAPTURED: OnceLock<Captured> = OnceLock::new();
    CAPTURED
        .get_or_init(|| {
            let captured = Captured::default();
            let writer = captured.clone();
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_writer(move || writer.clone())
                .with_ansi(false)
                .init();
            captured
        })
        .clone()
}

fn canary_question() -> Value {
    let mut question = question(&format!("ada {CANARY}"));
    let text = question["document"]["text"].as_str().unwrap();
    question["document"]["text"] = json!(format!("{text}let {CANARY} = 1;\n"));
    question["repository"] = json!(format!("acme/{CANARY}"));
    question["path"] = json!(format!("src/{CANARY}.rs"));
    question["recent_edits"] = json!([{ "path": format!("{CANARY}.rs"), "old_text": "a", "new_text": CANARY }]);
    question[CANARY] = json!(CANARY);
    question
}

fn assert_absent(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_absent(&path);
        } else {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_asked_is_told_to_anybody_else() {
    let captured = captured();
    let metrics = service::metrics::install().unwrap();
    let fixture = Fixture::new().await;
    let served = fixture.serve().await;
    for (cursor, tier) in [ConsentTier::Code, ConsentTier::Usage, ConsentTier::None].into_iter().enumerate() {
        fixture.consent(&format!("ada {CANARY}"), tier).await;
        let mut body = canary_question();
        // Another cursor, or the answer would come from memory.
        body["cursor"] = json!(cursor);
        served.ask(&fixture, &body).await;
    }
    served.serving.settled().await;
    assert_eq!(fixture.exposures().await.len(), 3);

    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = canary_question();
        change(&mut body);
        body.to_string().into_bytes()
    };
    let good = canary_question().to_string();
    let bodies = [
        with(&|body| body["cursor"] = json!(CANARY)),
        with(&|body| body["cursor"] = json!(100_000)),
        with(&|body| body["model"] = json!("nobody")),
        with(&|body| body["model"] = json!(CANARY)),
        with(&|body| body["document"] = json!(CANARY)),
        with(&|body| body["document"][CANARY.repeat(10)] = json!(CANARY)),
        with(&|body| body["recent_edits"] = json!([{ CANARY: CANARY }])),
        with(&|body| body["session_id"] = json!(CANARY)),
        with(&|body| body["offset_encoding"] = json!(CANARY)),
        with(&|body| body["path"] = json!(CANARY.repeat(1000))),
        with(&|body| body["person"] = json!(format!("{CANARY}\n"))),
        with(&|body| body["document"]["text"] = json!(format!("{CANARY}\u{0}"))),
        with(&|body| body["document"]["text"] = json!(CANARY.repeat(100_000))),
        good.as_bytes()[..good.len() - 1].to_vec(),
        [good.as_bytes(), b"\xff"].concat(),
        CANARY.as_bytes().to_vec(),
    ];
    let client = reqwest::Client::new();
    let send = |key: String, body: Vec<u8>| {
        let request = client.post(format!("{}/v1/suggestions", served.address)).bearer_auth(key);
        request.header("content-type", "application/json").body(body).send()
    };
    let mut refusals = Vec::new();
    for body in bodies {
        let response = send(fixture.api_key.clone(), body).await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        // One of them is good but for a field that nobody knows.
        if status != 200 {
            assert!(status.is_client_error(), "{text}");
            refusals.push(text);
        }
    }
    assert_eq!(refusals.len(), 15);
    let response = send(format!("fw_{CANARY}"), good.into_bytes()).await.unwrap();
    assert_eq!(response.status(), 401);
    refusals.push(response.text().await.unwrap());
    served.serving.settled().await;
    served.stop().await;

    for refusal in &refusals {
        assert!(!refusal.contains(CANARY), "{refusal}");
    }
    let rendered = metrics.render();
    assert!(rendered.contains("flywheel_serving_decisions_total") && !rendered.contains(CANARY), "{rendered}");
    let log = captured.0.lock().unwrap();
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("routing followed"), "the log was not captured");
    if let Some(line) = log.lines().find(|line| line.contains(CANARY)) {
        panic!("{line}");
    }
    assert_absent(fixture.directory.path());
}
