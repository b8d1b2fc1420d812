//! What a well-behaved editor meets.

use std::time::Duration;

use bus::PublishError;
use events::{
    Arm, ConsentTier, Decision, EventText, ModelVersion, OpportunityId, Probabilities, Receipt, ReceiptState,
    SessionId, Sha256Digest, TenantId, TenantSecret, Timestamp, topics,
};
use serde_json::json;
use service::api_keys::Scope;

use crate::{OPPORTUNITY, Running, SESSION, batch, edit, problem, shown};

test_databases::on_both_databases! {
    what_is_admitted_is_in_the_log_sealed,
    consent_filters_at_the_door,
    receipts_are_verified_and_forged_ones_are_admitted_as_invalid,
    keys_open_the_door,
    what_the_log_did_not_take_is_not_acknowledged,
    new_is_refused_although_no_reader_has_ever_come,
    new_is_refused_before_acknowledged_is_at_risk,
}

fn admitted() -> (String, Option<String>) {
    ("admitted".into(), None)
}

async fn what_is_admitted_is_in_the_log_sealed() {
    let door = Running::start().await;
    door.consent("jane", ConsentTier::Code).await;
    let results = door.results(batch("jane", json!([edit(2, "let a = 1;"), shown(1, None)]))).await;
    assert_eq!(results, [admitted(), admitted()]);
    let raw = door.raw().await;
    assert_eq!(raw.iter().map(|event| event.header.sequence).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(raw[1].header.consent, ConsentTier::Code);
    assert_eq!(raw[1].header.received_at, Timestamp::from_seconds(1_800_000_001));
    let person = door.secret().await.person_pseudonym("jane");
    assert_eq!(raw[1].header.person, person);
    let key = door.keys.data_key(&TenantId::default(), &person).await.unwrap();
    let plaintext = key.open(raw[1].header.event_id, topics::TELEMETRY_RAW, raw[1].sealed.as_ref().unwrap()).unwrap();
    let text = serde_json::from_slice(&plaintext).unwrap();
    assert!(matches!(text, EventText::Edit { new_text, .. } if new_text == "let a = 1;"));
    // The same event again has the same id and digest.
    door.results(batch("jane", json!([edit(2, "let a = 1;")]))).await;
    let raw = door.raw().await;
    assert_eq!(raw.len(), 3);
    assert_eq!(raw[1].header.event_id, raw[2].header.event_id);
    assert_eq!(raw[1].header.content_digest, raw[2].header.content_digest);
    door.stop().await;
}

async fn consent_filters_at_the_door() {
    let door = Running::start().await;
    // Nobody asked yet: usage.
    assert_eq!(door.results(batch("john", json!([edit(1, "code")]))).await, [admitted()]);
    assert!(door.raw().await[0].sealed.is_none());
    door.consent("john", ConsentTier::None).await;
    let results = door.results(batch("john", json!([edit(2, "code"), shown(3, None)]))).await;
    assert_eq!(results, vec![("filtered".to_owned(), Some("consent_none".to_owned())); 2]);
    let raw = door.raw().await;
    assert_eq!(raw[2].filtered_at_door.as_deref(), Some("consent_none"));
    assert!(raw[2].header.opportunity_id.is_none());
    // The tenant's ceiling is below the person's choice.
    door.consent("john", ConsentTier::Code).await;
    door.ceiling(ConsentTier::Usage).await;
    door.results(batch("john", json!([edit(4, "code")]))).await;
    assert!(door.raw().await[3].sealed.is_none());
    door.stop().await;
}

async fn receipts_are_verified_and_forged_ones_are_admitted_as_invalid() {
    let door = Running::start().await;
    let secret = door.secret().await;
    let receipt = Receipt {
        tenant: TenantId::default(),
        person: secret.person_pseudonym("jane"),
        session_id: SESSION.parse::<SessionId>().unwrap(),
        opportunity_id: OPPORTUNITY.parse::<OpportunityId>().unwrap(),
        suggestion_id: None,
        model: "edit".parse().unwrap(),
        model_version: ModelVersion(1),
        rollout_id: None,
        arm: Arm::Current,
        block: None,
        decision: Decision::Silent,
        probabilities: Probabilities {
            arm_probability: 1.0,
            p_show: 0.0,
            log_p_text: 0.0,
            gate_score: 0.1,
            threshold: 0.5,
            explored: false,
        },
        context_digest: Sha256Digest::of(b"c"),
        actions_digest: Sha256Digest::of(b"a"),
        issued_at: Timestamp::from_seconds(1),
    };
    let tokens = [receipt.sign(&secret), receipt.sign(&TenantSecret::new([9; 32])), "nonsense".to_owned()];
    let mut events: Vec<_> = (1..).zip(&tokens).map(|(number, token)| shown(number, Some(token))).collect();
    events.push(shown(4, None));
    assert_eq!(door.results(batch("jane", json!(events))).await, vec![admitted(); 4]);
    // Another person's receipt.
    assert_eq!(door.results(batch("john", json!([shown(5, Some(&tokens[0]))]))).await, [admitted()]);
    let states: Vec<_> = door.raw().await.iter().map(|event| event.header.receipt_state).collect();
    use ReceiptState::{Absent, Invalid, Valid};
    assert_eq!(states, [Valid, Invalid, Invalid, Absent, Invalid]);
    door.stop().await;
}

async fn keys_open_the_door() {
    let door = Running::start().await;
    let body = batch("jane", json!([edit(1, "a")]));
    let send = |key: Option<String>| {
        let mut request = door.http.post(&door.url).header("content-type", "application/json").body(body.clone());
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        async move { problem(request.send().await.unwrap()).await }
    };
    assert_eq!(send(None).await, (401, "unauthorized".into()));
    assert_eq!(send(Some("fw_wrong".into())).await, (401, "unauthorized".into()));
    let (_, other) = door.api_keys.create(&TenantId::default(), "other", &[Scope::Suggest]).await.unwrap();
    assert_eq!(send(Some(other.expose_secret().to_owned())).await, (403, "missing_scope".into()));
    assert!(door.raw().await.is_empty());
    door.stop().await;
}

async fn what_the_log_did_not_take_is_not_acknowledged() {
    let door = Running::with(|config| config.publish_timeout_ms = 300).await;
    let body = batch("jane", json!([edit(1, "a"), edit(2, "b"), { "sequence": 3 }, edit(4, "d")]));
    *door.switch.failing.lock() = Some(PublishError::StorageFull);
    let full = ("unavailable".to_owned(), Some("log_full".to_owned()));
    let refused = ("refused".to_owned(), Some("missing_field".to_owned()));
    assert_eq!(door.results(body.clone()).await, [admitted(), full, refused.clone(), admitted()]);
    *door.switch.failing.lock() = None;
    assert_eq!(door.raw().await.len(), 2);
    *door.switch.hanging.lock() = true;
    let late = ("unavailable".to_owned(), Some("log_overloaded".to_owned()));
    assert_eq!(door.results(body.clone()).await, [late.clone(), late.clone(), refused.clone(), late]);
    *door.switch.hanging.lock() = false;
    assert_eq!(door.results(body).await, [admitted(), admitted(), refused, admitted()]);
    door.stop().await;
}

/// The steps and sinks behind the door have never run: what was acknowledged is unread all the same.
async fn new_is_refused_although_no_reader_has_ever_come() {
    let door = Running::start().await;
    let retention = bus::Retention::age(Duration::from_secs(24 * 3600));
    let spec = bus::TopicSpec::new(topics::TELEMETRY_RAW, 4, retention).read_by_step("anonymizer").read_by("ledger");
    bus::Bus::create_topics(&*door.bus, &[spec]).await.unwrap();
    assert_eq!(door.results(batch("jane", json!([edit(1, "a")]))).await, [admitted()]);
    door.clock.advance(Duration::from_secs(19 * 3600));
    assert_eq!(problem(door.send(batch("jane", json!([edit(2, "a")]))).await).await, (503, "backlog".into()));
    assert_eq!(door.raw().await.len(), 1);
    door.stop().await;
}

async fn new_is_refused_before_acknowledged_is_at_risk() {
    let door = Running::start().await;
    // Somebody is registered and does not read.
    let _reader = bus::Bus::tail(&*door.bus, topics::TELEMETRY_RAW, "slow", bus::Positions::oldest()).await.unwrap();
    assert_eq!(door.results(batch("jane", json!([edit(1, "a")]))).await, [admitted()]);
    door.clock.advance(Duration::from_secs(17 * 3600));
    assert_eq!(door.results(batch("jane", json!([edit(2, "a")]))).await, [admitted()]);
    door.clock.advance(Duration::from_secs(2 * 3600));
    let response = door.send(batch("jane", json!([edit(3, "a")]))).await;
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(problem(response).await, (503, "backlog".into()));
    bus::Bus::forget_reader(&*door.bus, topics::TELEMETRY_RAW, "slow").await.unwrap();
    assert_eq!(door.results(batch("jane", json!([edit(3, "a")]))).await, [admitted()]);
    door.stop().await;
}
