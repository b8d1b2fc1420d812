//! The door for people with `curl`: the same operations as JSON over HTTP. Reading, and the three words of a named
//! person.
//!
//! ```text
//! GET  /v1/models                                        GET  /v1/rollouts?model=MODEL
//! GET  /v1/models/MODEL/versions                         GET  /v1/rollouts/ID
//! GET  /v1/models/MODEL/versions/VERSION                 POST /v1/rollouts/ID/approve | abort | rollback
//! GET  /v1/models/MODEL/versions/VERSION/lineage              {"decided_by": "a name", "reason": "why"}
//! GET  /v1/models/MODEL/routing
//! GET  /v1/models/MODEL/audit?after_revision=REVISION
//! ```
//!
//! Fields of a body that nobody knows are dropped and counted, as at the other doors.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use events::{ModelName, ModelVersion, RolloutId};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use service::api_keys::{ApiKey, ApiKeys, Scope};
use service::body::{BodyLimits, UnreadBody, require_json};
use service::problem::Problem;
use tonic::Code;

use crate::error::RegistryError;
use crate::evidence::RolloutEvidence;
use crate::lineage::VersionLineage;
use crate::registry::Registry;
use crate::rollout::{Rollout, RolloutStep};
use crate::routing::RoutingTable;
use crate::version::{AuditEntry, ModelSummary, Version};

/// A decision is a name and a reason.
const DECISION_LIMITS: BodyLimits = BodyLimits { bytes: 64 << 10, timeout: Duration::from_secs(10) };

/// What the routes stand on.
#[derive(Debug, Clone)]
pub(crate) struct HttpDoor {
    pub(crate) registry: Registry,
    pub(crate) keys: ApiKeys,
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let (code, message) = error.answer();
        let problem = |status, title| Self::new(status, error.code(), title).with_detail(message.clone());
        match code {
            Code::NotFound => problem(StatusCode::NOT_FOUND, "There is no such thing"),
            Code::InvalidArgument => {
                problem(StatusCode::UNPROCESSABLE_ENTITY, "The request is well-formed and cannot be carried out")
            }
            Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => {
                problem(StatusCode::CONFLICT, "The current state does not allow this")
            }
            Code::Unavailable => Self::unavailable(error.code(), message, Duration::from_secs(1)),
            _ => problem(StatusCode::INTERNAL_SERVER_ERROR, "The server failed"),
        }
    }
}

type Answer<T> = Result<Json<T>, Problem>;

/// The routes. Everything else that comes to this address is gRPC.
pub(crate) fn router(door: HttpDoor) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{model}/versions", get(versions))
        .route("/v1/models/{model}/versions/{version}", get(version))
        .route("/v1/models/{model}/versions/{version}/lineage", get(lineage))
        .route("/v1/models/{model}/routing", get(routing))
        .route("/v1/models/{model}/audit", get(audit))
        .route("/v1/rollouts", get(rollouts))
        .route("/v1/rollouts/{rollout}", get(rollout))
        .route("/v1/rollouts/{rollout}/{step}", post(decide))
        .method_not_allowed_fallback(service::problem::unknown_method)
        .with_state(door)
}

impl HttpDoor {
    async fn caller(&self, headers: &HeaderMap) -> Result<ApiKey, Problem> {
        Ok(self.keys.verify_headers(headers, Scope::Registry).await?)
    }
}

async fn models(State(door): State<HttpDoor>, headers: HeaderMap) -> Answer<Vec<ModelSummary>> {
    let key = door.caller(&headers).await?;
    Ok(Json(door.registry.models(&key.tenant).await?))
}

async fn versions(
    State(door): State<HttpDoor>,
    headers: HeaderMap,
    path: Result<Path<ModelName>, PathRejection>,
) -> Answer<Vec<Version>> {
    let key = door.caller(&headers).await?;
    Ok(Json(door.registry.versions(&key.tenant, &path?.0).await?))
}

type VersionPath = Result<Path<(ModelName, i64)>, PathRejection>;

async fn version(State(door): State<HttpDoor>, headers: HeaderMap, path: VersionPath) -> Answer<Version> {
    let key = door.caller(&headers).await?;
    let (model, version) = path?.0;
    Ok(Json(door.registry.version(&key.tenant, &model, ModelVersion(version)).await?))
}

async fn lineage(State(door): State<HttpDoor>, headers: HeaderMap, path: VersionPath) -> Answer<Vec<VersionLineage>> {
    let key = door.caller(&headers).await?;
    let (model, version) = path?.0;
    Ok(Json(door.registry.lineage(&key.tenant, &model, ModelVersion(version)).await?))
}

async fn routing(
    State(door): State<HttpDoor>,
    headers: HeaderMap,
    path: Result<Path<ModelName>, PathRejection>,
) -> Answer<RoutingTable> {
    let key = door.caller(&headers).await?;
    Ok(Json(door.registry.routing(&key.tenant, &path?.0).await?))
}

#[derive(Debug, Deserialize)]
struct AuditQuery {
    #[serde(default)]
    after_revision: i64,
}

async fn audit(
    State(door): State<HttpDoor>,
    headers: HeaderMap,
    path: Result<Path<ModelName>, PathRejection>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Answer<Vec<AuditEntry>> {
    let key = door.caller(&headers).await?;
    Ok(Json(door.registry.audit(&key.tenant, &path?.0, query?.after_revision, 0).await?))
}

#[derive(Debug, Deserialize)]
struct RolloutsQuery {
    model: Option<ModelName>,
}

async fn rollouts(
    State(door): State<HttpDoor>,
    headers: HeaderMap,
    query: Result<Query<RolloutsQuery>, QueryRejection>,
) -> Answer<Vec<Rollout>> {
    let key = door.caller(&headers).await?;
    Ok(Json(door.registry.rollouts(&key.tenant, query?.model.as_ref()).await?))
}

/// A rollout with its evidence so far.
#[derive(Debug, Serialize)]
struct RolloutView {
    rollout: Rollout,
    evidence: RolloutEvidence,
}

async fn rollout(
    State(door): State<HttpDoor>,
    headers: HeaderMap,
    path: Result<Path<RolloutId>, PathRejection>,
) -> Answer<RolloutView> {
    let key = door.caller(&headers).await?;
    let id = path?.0;
    let rollout = door.registry.rollout(&key.tenant, id).await?;
    Ok(Json(RolloutView { rollout, evidence: door.registry.evidence(&key.tenant, id).await? }))
}

#[derive(Debug, Deserialize)]
struct Decision {
    decided_by: String,
    #[serde(default)]
    reason: String,
    /// What this release does not know.
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

impl Decision {
    fn parse(body: &[u8]) -> Result<Self, Problem> {
        let text = std::str::from_utf8(body).map_err(|_| Problem::invalid_json())?;
        let decision: Self = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => Problem::invalid_shape("the JSON does not have the documented shape"),
            _ => Problem::invalid_json(),
        })?;
        if !decision.unknown.is_empty() {
            metrics::counter!("flywheel_registry_unknown_fields_total").increment(decision.unknown.len() as u64);
        }
        Ok(decision)
    }
}

async fn decide(
    State(door): State<HttpDoor>,
    path: Result<Path<(RolloutId, String)>, PathRejection>,
    request: Request,
) -> Answer<Rollout> {
    let (parts, body) = request.into_parts();
    let mut body = UnreadBody::new(&parts.headers, body, DECISION_LIMITS);
    let answered = decided(&door, &parts.headers, path, &mut body).await;
    body.discard().await;
    answered
}

async fn decided(
    door: &HttpDoor,
    headers: &HeaderMap,
    path: Result<Path<(RolloutId, String)>, PathRejection>,
    body: &mut UnreadBody,
) -> Answer<Rollout> {
    let key = door.caller(headers).await?;
    let (rollout, step) = path?.0;
    let step = match step.as_str() {
        "approve" => RolloutStep::Approve,
        "abort" => RolloutStep::Abort,
        "rollback" => RolloutStep::RollBack,
        _ => return Err(Problem::not_found("expected approve, abort or rollback").with_code("unknown_path")),
    };
    require_json(headers)?;
    let Decision { decided_by, reason, .. } = Decision::parse(&body.read().await?)?;
    Ok(Json(door.registry.decide(&key, rollout, step, &decided_by, &reason).await?))
}
