//! The door as `curl` sees it.

use model_registry::{Promotion, RolloutPolicy, RolloutState};
use service::api_keys::Scope;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fixture::{Fixture, policy};

/// One request as `curl` sends it; status and body.
async fn ask(
    fixture: &Fixture,
    method: &str,
    path: &str,
    key: Option<&str>,
    body: Option<serde_json::Value>,
) -> (u16, serde_json::Value) {
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    send(fixture, method, path, key, "application/json", body.as_bytes()).await
}

/// One request with any body; status and answer.
async fn send(
    fixture: &Fixture,
    method: &str,
    path: &str,
    key: Option<&str>,
    content_type: &str,
    body: &[u8],
) -> (u16, serde_json::Value) {
    let host = fixture.address.strip_prefix("http://").unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    if let Some(key) = key {
        request.push_str(&format!("Authorization: Bearer {key}\r\n"));
    }
    request.push_str(&format!("Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n", body.len()));
    let mut connection = tokio::net::TcpStream::connect(host).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    connection.write_all(body).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

async fn get(fixture: &Fixture, path: &str) -> (u16, serde_json::Value) {
    ask(fixture, "GET", path, Some(fixture.secret.expose_secret()), None).await
}

#[tokio::test]
async fn everything_that_can_be_asked_can_be_asked_with_curl() {
    let fixture = Fixture::with_versions(2).await;
    let (_, models) = get(&fixture, "/v1/models").await;
    assert_eq!((models[0]["model"].as_str(), models[0]["current"].as_i64()), (Some("edit"), Some(1)));
    let (_, versions) = get(&fixture, "/v1/models/edit/versions").await;
    assert_eq!(versions.as_array().unwrap().len(), 2);
    let (_, version) = get(&fixture, "/v1/models/edit/versions/2").await;
    assert_eq!(version, versions[0]);
    let (_, lineage) = get(&fixture, "/v1/models/edit/versions/2/lineage").await;
    assert_eq!((lineage[0]["version"].as_i64(), lineage[1]["version"].as_i64()), (Some(2), Some(1)));
    let (_, routing) = get(&fixture, "/v1/models/edit/routing").await;
    assert_eq!(routing["current"]["version"], 1);
    let (_, audit) = get(&fixture, "/v1/models/edit/audit?after_revision=3").await;
    assert_eq!((audit.as_array().unwrap().len(), audit[0]["action"].as_str()), (1, Some("version_registered")));

    let refused = async |path: &str| {
        let (status, problem) = get(&fixture, path).await;
        (status, problem["code"].as_str().unwrap_or_default().to_owned())
    };
    let code = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(refused("/v1/models/edit/versions/9").await, code(404, "unknown_version"));
    assert_eq!(refused("/v1/models/other/routing").await, code(404, "unknown_model"));
    assert_eq!(refused("/v1/models/edit/versions/two").await, code(400, "invalid_path"));
    assert_eq!(refused("/v1/models/edit/audit?after_revision=x").await, code(400, "invalid_query"));
    assert_eq!(refused("/v1/rollouts/0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d").await, code(404, "unknown_rollout"));
    let without = ask(&fixture, "GET", "/v1/models", None, None).await;
    assert_eq!((without.0, without.1["code"].as_str()), (401, Some("unauthorized")));
    let (_, other) = fixture.keys.create(&"other".parse().unwrap(), "other", &[Scope::Suggest]).await.unwrap();
    let scope = ask(&fixture, "GET", "/v1/models", Some(other.expose_secret()), None).await;
    assert_eq!((scope.0, scope.1["code"].as_str()), (403, Some("missing_scope")));
    assert_eq!(ask(&fixture, "DELETE", "/v1/models", None, None).await.0, 405);
    // gRPC answers at the same address.
    assert_eq!(fixture.client.list_models().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_named_person_decides_with_curl_and_the_audit_log_names_person_and_key() {
    let fixture = Fixture::with_versions(2).await;
    let rollout = fixture.begin(2, &RolloutPolicy { promotion: Promotion::Approval, ..policy() }).await;
    let (_, list) = get(&fixture, "/v1/rollouts?model=edit").await;
    assert_eq!(list[0]["rollout_id"], rollout.to_string());
    let (_, view) = get(&fixture, &format!("/v1/rollouts/{rollout}")).await;
    assert_eq!(
        (view["rollout"]["state"].as_str(), view["evidence"]["verdict"].as_str()),
        (Some("canary"), Some("continue"))
    );

    let post = async |step: &str, body: serde_json::Value| {
        let path = format!("/v1/rollouts/{rollout}/{step}");
        let (status, body) = ask(&fixture, "POST", &path, Some(fixture.secret.expose_secret()), Some(body)).await;
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    let ada = serde_json::json!({ "decided_by": "Ada Lovelace", "reason": "complaints" });
    assert_eq!(post("approve", ada.clone()).await, (409, "illegal_transition".to_owned()));
    assert_eq!(post("abort", serde_json::json!({ "decided_by": " " })).await, (422, "invalid_argument".to_owned()));
    assert_eq!(post("abort", serde_json::json!({})).await, (422, "invalid_shape".to_owned()));
    assert_eq!(post("promote", ada.clone()).await, (404, "unknown_path".to_owned()));
    assert_eq!(post("abort", ada).await, (200, String::new()));
    assert_eq!(fixture.rollout(rollout).await.state, RolloutState::Aborted);
    let (_, audit) = get(&fixture, "/v1/models/edit/audit?after_revision=6").await;
    assert_eq!(
        (audit[0]["actor"].as_str(), audit[0]["detail"]["key"].as_str()),
        (Some("Ada Lovelace"), Some("key test"))
    );
}

#[tokio::test]
async fn each_bad_body_has_its_problem_and_changes_nothing() {
    let fixture = Fixture::with_versions(2).await;
    let rollout = fixture.begin(2, &policy()).await;
    let path = format!("/v1/rollouts/{rollout}/abort");
    let key = Some(fixture.secret.expose_secret());
    let good = serde_json::json!({ "decided_by": "Ada Lovelace", "reason": "complaints" }).to_string();
    let not_utf8 = |text: &str| text.bytes().map(|byte| if byte == b'#' { 0xff } else { byte }).collect::<Vec<u8>>();
    let deep = format!("{{\"decided_by\": \"Ada\", \"x\": {}", "[".repeat(10_000));
    let table: Vec<(&str, Vec<u8>, (u16, &str))> = vec![
        ("empty", Vec::new(), (400, "invalid_json")),
        ("cut off", good.as_bytes()[..good.len() - 1].to_vec(), (400, "invalid_json")),
        ("more behind it", format!("{good}{good}").into_bytes(), (400, "invalid_json")),
        ("no JSON", b"\x00\x01".to_vec(), (400, "invalid_json")),
        ("a name that is not UTF-8", not_utf8("{\"decided_by\": \"A#a\"}"), (400, "invalid_json")),
        (
            "an unknown field that is not UTF-8",
            not_utf8("{\"decided_by\": \"Ada\", \"x\": \"#\"}"),
            (400, "invalid_json"),
        ),
        ("a deep body", deep.into_bytes(), (400, "invalid_json")),
        ("an array", b"[\"Ada\", \"why\"]".to_vec(), (422, "invalid_shape")),
        ("another type", b"{\"decided_by\": 5}".to_vec(), (422, "invalid_shape")),
        ("the name twice", b"{\"decided_by\": \"Ada\", \"decided_by\": \"Eve\"}".to_vec(), (422, "invalid_shape")),
        ("a huge body", vec![b' '; 4 << 20], (413, "too_large")),
        ("a body just too large", vec![b' '; (64 << 10) + 1], (413, "too_large")),
    ];
    for (name, body, expected) in table {
        let (status, problem) = send(&fixture, "POST", &path, key, "application/json", &body).await;
        assert_eq!((status, problem["code"].as_str().unwrap_or_default()), expected, "{name}: {problem}");
        assert_eq!(problem["status"], status, "{name}");
        assert!(!problem.to_string().contains("Ada"), "{name} is repeated: {problem}");
    }
    let (status, problem) = send(&fixture, "POST", &path, key, "text/plain", good.as_bytes()).await;
    assert_eq!((status, problem["code"].as_str()), (415, Some("unsupported_media_type")));
    assert_eq!(fixture.rollout(rollout).await.state, RolloutState::Canary);
}

#[tokio::test]
async fn unknown_fields_are_dropped_and_counted() {
    let metrics = service::metrics::install().unwrap();
    let counted = || metrics.counter("flywheel_registry_unknown_fields_total", &[]);
    let fixture = Fixture::with_versions(2).await;
    let rollout = fixture.begin(2, &policy()).await;
    let before = counted();
    let body = serde_json::json!({ "decided_by": "Ada Lovelace", "mood": "calm", "later": { "deep": [1, 2] } });
    let path = format!("/v1/rollouts/{rollout}/abort");
    let (status, answer) = ask(&fixture, "POST", &path, Some(fixture.secret.expose_secret()), Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    // Other tests of this process may send some as well.
    assert!(counted() - before >= 2);
    assert_eq!(fixture.rollout(rollout).await.state, RolloutState::Aborted);
}
