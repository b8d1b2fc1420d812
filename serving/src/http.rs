//! `POST /v1/suggestions`: server-sent events over HTTP/1.1 and HTTP/2. Before an upstream everything else is its.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use events::{ModelName, OpportunityId, TenantId};
use metrics::counter;
use model_registry::routing::assign;
use service::body::{BodyLimits, UnreadBody, require_json};
use service::problem::{Problem, unknown_method, unknown_path};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::answer::{Answer, Asked, Frames, context_digest};
use crate::cache::CacheKey;
use crate::engine::{Ask, Decoding, Overloaded, Progress};
use crate::models::ServedModel;
use crate::request::Question;
use crate::state::State;

/// Where suggestions are asked for.
const SUGGESTIONS: &str = "/v1/suggestions";

/// The routes of the completion door.
pub(crate) fn router(state: Arc<State>) -> Router {
    if state.proxy.is_some() {
        // One route for all: a router would add what it knows about methods to answers that are not ours.
        return Router::new().fallback(suggest_or_forward).with_state(state);
    }
    Router::new()
        .route(SUGGESTIONS, post(suggest))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(state)
}

async fn suggest_or_forward(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let is_ours = request.method() == Method::POST && request.uri().path() == SUGGESTIONS;
    if !is_ours && let Some(proxy) = &state.proxy {
        return proxy.forward(request).await;
    }
    suggest(Shared(state), request).await
}

async fn suggest(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let limits = BodyLimits { bytes: state.config.max_body_bytes, timeout: state.config.answer_timeout() };
    let mut body = UnreadBody::new(&parts.headers, body, limits);
    let answered = answer(&state, &parts.headers, &mut body).await;
    body.discard().await;
    match answered {
        Ok(frames) => {
            counter!("flywheel_serving_requests_total", "code" => "ok").increment(1);
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            ];
            (headers, Body::from_stream(frames)).into_response()
        }
        Err(problem) => {
            counter!("flywheel_serving_requests_total", "code" => problem.code()).increment(1);
            problem.into_response()
        }
    }
}

async fn answer(state: &Arc<State>, headers: &HeaderMap, body: &mut UnreadBody) -> Result<Frames, Problem> {
    let started = Instant::now();
    let authorization = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let tenant = state.door.authenticate(authorization).await?;
    require_json(headers)?;
    let body = body.read().await?;
    let (question, unknown) = Question::parse(&body, &state.config)?;
    if unknown.0 > 0 {
        counter!("flywheel_serving_unknown_fields_total").increment(unknown.0);
    }
    let person = tenant.secret.person_pseudonym(&question.person);
    let served = served_model(state, &tenant.id, question.model.as_ref())?;
    let audience = tenant.audience_of(&question.repository);
    let assignment = assign(&served.table, &person, audience.as_ref(), state.clock.now()).ok_or_else(|| {
        Problem::forbidden("no version of this model may answer for this repository").with_code("outside_audience")
    })?;
    let engine = Arc::clone(served.engine(&assignment.artifact_digest).ok_or_else(|| {
        // A table is followed only with all of its versions in memory.
        tracing::error!(version = %assignment.version, "an assigned version is not in memory");
        Problem::internal()
    })?);

    let context = Arc::new(question.context(&tenant.shape));
    let context_digest = context_digest(&tenant, &context);
    let opportunity_id = question.opportunity_id.unwrap_or_else(|| OpportunityId::new(&*state.ids));
    let suggestion_id = state.suggestion_id(&tenant.id, &person, opportunity_id, &context_digest);
    let explores = state.policy.explores(opportunity_id);
    let decoding = Decoding {
        threshold: state.policy.threshold(),
        force_edit: explores,
        max_actions: state.config.max_actions,
        draft_tokens: state.config.draft_tokens,
        batch: state.config.decode_batch,
    };
    let cache_key =
        CacheKey { artifact: assignment.artifact_digest, context: context_digest, forced: decoding.force_edit };

    let cancel = CancellationToken::new();
    let (sender, receiver) = mpsc::channel(state.config.max_actions + 1);
    let fresh_key = if let Some(completion) = state.cache.get(&cache_key) {
        if !explores {
            for action in completion.actions.iter().take(state.config.max_actions) {
                let _ = sender.try_send(Progress::Action(action.clone()));
            }
        }
        let _ = sender.try_send(Progress::Done(Ok(completion)));
        None
    } else {
        let ask = Ask { tenant: tenant.id.clone(), context: Arc::clone(&context), decoding, explores };
        engine.begin(&state.pool, ask, sender, cancel.clone()).map_err(|Overloaded| {
            let wait = Duration::from_secs(u64::from(state.config.retry_after_seconds));
            Problem::unavailable("overloaded", "there is no room for another question", wait)
        })?;
        Some(cache_key)
    };
    let asked = Asked {
        question,
        tenant,
        person,
        served,
        assignment,
        opportunity_id,
        suggestion_id,
        context,
        context_digest,
        started,
    };
    let (answer, frames) = Answer::new(Arc::clone(state), asked, explores, fresh_key, receiver, cancel);
    state.answers.spawn(answer.run());
    Ok(frames)
}

/// The named model, the configured default, or the tenant's only one.
fn served_model(state: &State, tenant: &TenantId, name: Option<&ModelName>) -> Result<Arc<ServedModel>, Problem> {
    let unknown = |detail: &str| {
        Problem::new(StatusCode::NOT_FOUND, "unknown_model", "There is no such model").with_detail(detail)
    };
    let catalog = state.models.catalog();
    if catalog.is_empty() {
        return Err(Problem::unavailable("no_model", "no model is loaded yet", Duration::from_secs(1)));
    }
    if let Some(name) = name.or(state.config.default_model.as_ref()) {
        let key = (tenant.clone(), name.clone());
        return catalog.get(&key).cloned().ok_or_else(|| unknown("the tenant has no served model of that name"));
    }
    let mut own = catalog.iter().filter(|((owner, _), _)| owner == tenant).map(|(_, served)| served);
    match (own.next(), own.next()) {
        (Some(only), None) => Ok(Arc::clone(only)),
        (None, _) => Err(unknown("the tenant has no served model")),
        (Some(_), Some(_)) => Err(unknown("the tenant has several models; the request must name one")),
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
