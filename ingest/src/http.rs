//! The door itself: `POST /v1/telemetry`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bus::{PublishError, Record, RecordKey};
use events::wire::{EventResult, EventStatus, TelemetryAnswer};
use events::{ConsentTier, TenantId, avro, topics};
use service::api_keys::Scope;
use service::body::{UnreadBody, require_json};
use service::problem::{self, Problem};

use crate::Door;
use crate::batch::{self, BatchError, Entry};
use crate::event::{CONSENT_NONE, Sender, has_text};

/// When clients should try again after a failure that will pass.
const RETRY: Duration = Duration::from_secs(2);

/// The door's routes.
pub(crate) fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/v1/telemetry", post(telemetry))
        .method_not_allowed_fallback(problem::unknown_method)
        .fallback(problem::unknown_path)
        .with_state(door)
}

async fn telemetry(State(door): State<Arc<Door>>, request: Request) -> Response {
    let start = Instant::now();
    let (parts, body) = request.into_parts();
    let mut body = UnreadBody::new(&parts.headers, body, door.config.body_limits());
    let answered = answer(&door, &parts.headers, &mut body).await;
    body.discard().await;
    let code = answered.as_ref().map_or_else(|problem| problem.code(), |_| "ok");
    metrics::counter!("flywheel_ingest_requests_total", "code" => code).increment(1);
    metrics::histogram!("flywheel_ingest_request_seconds").record(start.elapsed().as_secs_f64());
    match answered {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn answer(door: &Door, headers: &HeaderMap, body: &mut UnreadBody) -> Result<TelemetryAnswer, Problem> {
    let key = door.api_keys.verify_headers(headers, Scope::Telemetry).await?;
    require_json(headers)?;
    let limit = door.config.limits.body_bytes;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let _place = door.admission.enter(announced.map_or(limit, |announced: usize| announced.min(limit)))?;
    // Inside, so that a log that does not answer lets no more wait than may be in flight.
    door.backlog.check(door.clock.now()).await?;
    let body = body.read().await?;
    metrics::histogram!("flywheel_ingest_body_bytes").record(body.len() as f64);
    let batch = batch::parse(&body, &door.config.limits).map_err(batch_problem)?;
    if batch.unknown_fields > 0 {
        metrics::counter!("flywheel_ingest_unknown_fields_total").increment(batch.unknown_fields);
    }
    let results = take_in(door, key.tenant, batch).await?;
    for result in &results {
        let code = result.code.clone().unwrap_or_default();
        metrics::counter!("flywheel_ingest_events_total", "status" => status_name(result.status), "code" => code)
            .increment(1);
    }
    Ok(TelemetryAnswer { results })
}

fn status_name(status: EventStatus) -> &'static str {
    match status {
        EventStatus::Admitted => "admitted",
        EventStatus::Filtered => "filtered",
        EventStatus::Refused => "refused",
        EventStatus::Unavailable => "unavailable",
    }
}

fn batch_problem(error: BatchError) -> Problem {
    let detail = error.to_string();
    match error {
        BatchError::InvalidJson => Problem::invalid_json().with_detail(detail),
        BatchError::InvalidText => Problem::bad_request(detail).with_code("invalid_text"),
        BatchError::Shape { field, .. } => Problem::invalid_shape(detail).with_member("field", field),
        BatchError::TooManyEvents { limit, .. } => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_events", "The batch has more events than the limit")
                .with_detail(detail)
                .with_member("limit_events", limit)
        }
    }
}

/// Seals and publishes what is well-formed, and answers every event in input order.
async fn take_in(door: &Door, tenant: TenantId, batch: batch::Batch) -> Result<Vec<EventResult>, Problem> {
    let keys_failed = |error: service::keys::KeyStoreError| {
        tracing::warn!(%error, "keys can not be looked up");
        Problem::unavailable("keys_unavailable", "keys can not be looked up at the moment", RETRY)
    };
    let secret = door.keys.tenant_secret(&tenant).await.map_err(keys_failed)?;
    let person = secret.person_pseudonym(&batch.person);
    let consent = door.consents.tier(&tenant, &person).await.map_err(|error| {
        tracing::warn!(%error, "consent can not be looked up");
        Problem::unavailable("consent_unavailable", "consent can not be looked up at the moment", RETRY)
    })?;
    let seals =
        consent == ConsentTier::Code && batch.entries.iter().any(|entry| entry.event.as_ref().is_ok_and(has_text));
    let key = if seals { Some(door.keys.data_key(&tenant, &person).await.map_err(keys_failed)?) } else { None };
    let sender = Sender {
        tenant,
        secret: &secret,
        person,
        session_id: batch.session_id,
        offset_encoding: batch.offset_encoding,
        consent,
        received_at: door.clock.now(),
    };
    let record_key = RecordKey(secret.record_key(batch.session_id));
    let published = if consent == ConsentTier::None { EventStatus::Filtered } else { EventStatus::Admitted };
    let mut results: Vec<EventResult> = Vec::with_capacity(batch.entries.len());
    let mut records = Vec::new();
    let mut places = Vec::new();
    for Entry { sequence, event } in batch.entries {
        let event_id = sequence.map(|sequence| sender.event_id(sequence));
        let mut result = EventResult { sequence, event_id, status: published, code: None, detail: None };
        match event {
            Ok(event) => match sender.record(event, key.as_deref()).ok().and_then(|raw| avro::encode(&raw).ok()) {
                Some(value) => {
                    places.push(results.len());
                    records.push(Record { key: record_key, value: value.into() });
                }
                None => refuse(&mut result, EventStatus::Refused, "unencodable", "the event can not be stored"),
            },
            Err(refusal) => refuse(&mut result, EventStatus::Refused, refusal.code, &refusal.detail),
        }
        results.push(result);
    }
    let outcomes = publish(door, records).await;
    // A bus that answers less than it was asked has not acknowledged the rest.
    let outcomes = outcomes.into_iter().chain(std::iter::repeat_with(|| Err(PublishError::Closed)));
    for (place, outcome) in places.into_iter().zip(outcomes) {
        let Some(result) = results.get_mut(place) else { continue };
        match outcome {
            Ok(()) if published == EventStatus::Filtered => {
                result.code = Some(CONSENT_NONE.to_owned());
                result.detail = Some("this person has not agreed to telemetry".to_owned());
            }
            Ok(()) => {}
            Err(error) => {
                let (status, code, detail) = publish_failure(&error);
                refuse(result, status, code, detail);
            }
        }
    }
    Ok(results)
}

fn refuse(result: &mut EventResult, status: EventStatus, code: &str, detail: &str) {
    result.status = status;
    result.code = Some(code.to_owned());
    result.detail = Some(detail.to_owned());
}

async fn publish(door: &Door, records: Vec<Record>) -> Vec<Result<(), PublishError>> {
    let count = records.len();
    if count == 0 {
        return Vec::new();
    }
    // Published by a task of its own: a client that leaves must not cut a publish in half.
    let bus = Arc::clone(&door.bus);
    let publishing = tokio::spawn(async move { bus.publish(topics::TELEMETRY_RAW, records).await });
    match tokio::time::timeout(door.config.publish_timeout(), publishing).await {
        Ok(Ok(published)) => published.into_iter().map(|result| result.map(drop)).collect(),
        Ok(Err(_)) => vec![Err(PublishError::Closed); count],
        Err(_) => vec![Err(PublishError::Overloaded); count],
    }
}

fn publish_failure(error: &PublishError) -> (EventStatus, &'static str, &'static str) {
    let later = EventStatus::Unavailable;
    match error {
        PublishError::RecordTooLarge { .. } => {
            (EventStatus::Refused, "event_too_large", "the log does not take records of this size")
        }
        PublishError::BatchTooLarge { .. } => (later, "batch_too_large", "send fewer events at once"),
        PublishError::Overloaded => (later, "log_overloaded", "the log did not take the event in time; send it again"),
        PublishError::StorageFull => (later, "log_full", "the log's storage is full; send the event again later"),
        PublishError::UnknownTopic(_) | PublishError::Storage(_) | PublishError::Closed => {
            tracing::error!(%error, "an event can not be published");
            (later, "log_unavailable", "the log does not take the event; send it again")
        }
    }
}
