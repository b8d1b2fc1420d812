//! The door: gRPC around [`Registry`]. Authenticates, converts, measures; decides nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use events::{ModelName, ModelVersion, RolloutId, TenantId};
use service::api_keys::{ApiKey, ApiKeyError, ApiKeys, Scope};
use service::reconciler::ReconcilerHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status};

use crate::ERROR_CODE_METADATA;
use crate::convert::{self, InvalidField, parse};
use crate::error::RegistryError;
use crate::proto;
use crate::registry::Registry;
use crate::rollout::{Rollout, RolloutStep};
use crate::version::{Alias, NewVersion};

/// Tables that wait for a slow watcher; more are skipped, since only the newest counts.
const WATCH_BUFFER: usize = 1;

/// The gRPC service.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) registry: Registry,
    pub(crate) keys: ApiKeys,
    pub(crate) reconciler: ReconcilerHandle,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) watch_poll: Duration,
    pub(crate) stop: CancellationToken,
}

fn status(code: Code, stable: &'static str, message: impl Into<String>) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(ERROR_CODE_METADATA, MetadataValue::from_static(stable));
    Status::with_metadata(code, message, metadata)
}

impl RegistryError {
    /// What a caller is told at either door: the class of the error and a message. What failed here is logged.
    pub(crate) fn answer(&self) -> (Code, String) {
        let code = match self {
            Self::UnknownModel { .. }
            | Self::UnknownVersion { .. }
            | Self::UnknownRollout { .. }
            | Self::UnknownSnapshot { .. } => Code::NotFound,
            Self::NoCurrentVersion { .. }
            | Self::AudienceMismatch { .. }
            | Self::ArtifactMissing { .. }
            | Self::AliasConflict { .. }
            | Self::RolloutActive { .. }
            | Self::AlreadyCurrent { .. }
            | Self::IllegalTransition(_) => Code::FailedPrecondition,
            Self::VersionConflict { .. } => Code::AlreadyExists,
            Self::ArtifactCorrupt { .. } | Self::SnapshotCorrupt { .. } | Self::EvaluationCorrupt { .. } => {
                Code::DataLoss
            }
            Self::Policy(_) | Self::InvalidArgument { .. } => Code::InvalidArgument,
            Self::Contended => Code::Aborted,
            Self::ArtifactUnavailable { .. } | Self::Database(_) => Code::Unavailable,
            Self::Unreadable { .. } | Self::Event(_) => Code::Internal,
        };
        if matches!(code, Code::Unavailable | Code::Internal | Code::DataLoss) {
            tracing::error!(error = %self, code = self.code(), "a call failed");
        }
        // What the database says is for the log: it may name hosts and files.
        let message = match self {
            Self::Database(_) => "the registry's database does not answer".to_owned(),
            _ => self.to_string(),
        };
        (code, message)
    }
}

impl From<RegistryError> for Status {
    fn from(error: RegistryError) -> Self {
        let (code, message) = error.answer();
        status(code, error.code(), message)
    }
}

impl From<InvalidField> for Status {
    fn from(error: InvalidField) -> Self {
        status(Code::InvalidArgument, "invalid_argument", error.to_string())
    }
}

impl Door {
    async fn caller<T>(&self, request: &Request<T>) -> Result<ApiKey, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("");
        let key = match header.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim(),
            _ => "",
        };
        self.keys.verify(key, Scope::Registry).await.map_err(|error| match &error {
            ApiKeyError::MissingScope { .. } => status(Code::PermissionDenied, "missing_scope", error.to_string()),
            ApiKeyError::Database(_) => {
                tracing::error!(%error, "API keys cannot be looked up");
                status(Code::Unavailable, "keys_unavailable", "API keys cannot be looked up at the moment")
            }
            _ => status(Code::Unauthenticated, "unauthorized", error.to_string()),
        })
    }

    async fn decide(
        &self,
        request: Request<proto::DecideRolloutRequest>,
        step: RolloutStep,
    ) -> Result<Response<proto::Rollout>, Status> {
        let key = self.caller(&request).await?;
        let message = request.into_inner();
        let rollout: RolloutId = parse("rollout_id", &message.rollout_id)?;
        let decided = self.registry.decide(&key, rollout, step, &message.decided_by, &message.reason).await?;
        Ok(Response::new((&decided).into()))
    }
}

/// The audit log's name of a key. Names of keys are chosen by operators and are no secrets.
pub(crate) fn actor(key: &ApiKey) -> String {
    format!("key {}", key.name)
}

async fn measured<T>(
    method: &'static str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<Response<T>, Status> {
    let started = Instant::now();
    let result = call.await;
    let code = match &result {
        Ok(_) => "ok".to_owned(),
        Err(status) => status
            .metadata()
            .get(ERROR_CODE_METADATA)
            .and_then(|code| code.to_str().ok())
            .unwrap_or("internal")
            .to_owned(),
    };
    metrics::counter!("flywheel_registry_requests_total", "method" => method, "code" => code).increment(1);
    metrics::histogram!("flywheel_registry_request_seconds", "method" => method)
        .record(started.elapsed().as_secs_f64());
    result
}

#[tonic::async_trait]
impl proto::registry_server::Registry for Door {
    async fn register_version(
        &self,
        request: Request<proto::RegisterVersionRequest>,
    ) -> Result<Response<proto::Version>, Status> {
        measured("register_version", async {
            let key = self.caller(&request).await?;
            let new: NewVersion = request.into_inner().try_into()?;
            let version = self.registry.register_version(&key.tenant, &actor(&key), &new).await?;
            Ok(Response::new((&version).into()))
        })
        .await
    }

    async fn get_version(
        &self,
        request: Request<proto::GetVersionRequest>,
    ) -> Result<Response<proto::Version>, Status> {
        measured("get_version", async {
            let key = self.caller(&request).await?;
            let message = request.into_inner();
            let model: ModelName = parse("model", &message.model)?;
            let version = self.registry.version(&key.tenant, &model, ModelVersion(message.version)).await?;
            Ok(Response::new((&version).into()))
        })
        .await
    }

    async fn list_models(
        &self,
        request: Request<proto::ListModelsRequest>,
    ) -> Result<Response<proto::ListModelsResponse>, Status> {
        measured("list_models", async {
            let key = self.caller(&request).await?;
            let models = self.registry.models(&key.tenant).await?;
            Ok(Response::new(proto::ListModelsResponse { models: models.iter().map(Into::into).collect() }))
        })
        .await
    }

    async fn list_versions(
        &self,
        request: Request<proto::ListVersionsRequest>,
    ) -> Result<Response<proto::ListVersionsResponse>, Status> {
        measured("list_versions", async {
            let key = self.caller(&request).await?;
            let model: ModelName = parse("model", &request.into_inner().model)?;
            let versions = self.registry.versions(&key.tenant, &model).await?;
            Ok(Response::new(proto::ListVersionsResponse { versions: versions.iter().map(Into::into).collect() }))
        })
        .await
    }

    async fn set_alias(
        &self,
        request: Request<proto::SetAliasRequest>,
    ) -> Result<Response<proto::SetAliasResponse>, Status> {
        measured("set_alias", async {
            let key = self.caller(&request).await?;
            let message = request.into_inner();
            let model: ModelName = parse("model", &message.model)?;
            let alias: Alias = parse("alias", &message.alias)?;
            let (version, expected) = (ModelVersion(message.version), message.expected.map(ModelVersion));
            let revision = self.registry.set_alias(&key.tenant, &actor(&key), &model, alias, version, expected).await?;
            Ok(Response::new(proto::SetAliasResponse { revision }))
        })
        .await
    }

    async fn get_routing(
        &self,
        request: Request<proto::GetRoutingRequest>,
    ) -> Result<Response<proto::RoutingTable>, Status> {
        measured("get_routing", async {
            let key = self.caller(&request).await?;
            let model: ModelName = parse("model", &request.into_inner().model)?;
            let table = self.registry.routing(&key.tenant, &model).await?;
            Ok(Response::new((&table).into()))
        })
        .await
    }

    type WatchRoutingStream = Pin<Box<dyn Stream<Item = Result<proto::RoutingTable, Status>> + Send>>;

    async fn watch_routing(
        &self,
        request: Request<proto::GetRoutingRequest>,
    ) -> Result<Response<Self::WatchRoutingStream>, Status> {
        measured("watch_routing", async {
            let key = self.caller(&request).await?;
            let model: ModelName = parse("model", &request.into_inner().model)?;
            let place = self
                .watches
                .clone()
                .try_acquire_owned()
                .map_err(|_| status(Code::ResourceExhausted, "too_many_watches", "too many watches at once"))?;
            // A model that cannot be routed is an error of the call, not of the stream.
            self.registry.routing(&key.tenant, &model).await?;
            let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
            tokio::spawn(self.clone().watch(key.tenant, model, sender, place));
            let tables: Self::WatchRoutingStream = Box::pin(ReceiverStream::new(receiver).map(|item| item));
            Ok(Response::new(tables))
        })
        .await
    }

    async fn start_rollout(
        &self,
        request: Request<proto::StartRolloutRequest>,
    ) -> Result<Response<proto::Rollout>, Status> {
        measured("start_rollout", async {
            let key = self.caller(&request).await?;
            let message = request.into_inner();
            let model: ModelName = parse("model", &message.model)?;
            let policy = convert::policy(message.policy, self.registry.default_policy())?;
            let candidate = ModelVersion(message.version);
            let rollout = self.registry.start_rollout(&key.tenant, &actor(&key), &model, candidate, &policy).await?;
            self.reconciler.notify();
            Ok(Response::new((&rollout).into()))
        })
        .await
    }

    async fn list_rollouts(
        &self,
        request: Request<proto::ListRolloutsRequest>,
    ) -> Result<Response<proto::ListRolloutsResponse>, Status> {
        measured("list_rollouts", async {
            let key = self.caller(&request).await?;
            let message = request.into_inner();
            let model: Option<ModelName> = message.model.map(|model| parse("model", &model)).transpose()?;
            let rollouts = self.registry.rollouts(&key.tenant, model.as_ref()).await?;
            Ok(Response::new(proto::ListRolloutsResponse { rollouts: rollouts.iter().map(Into::into).collect() }))
        })
        .await
    }

    async fn get_rollout(
        &self,
        request: Request<proto::GetRolloutRequest>,
    ) -> Result<Response<proto::GetRolloutResponse>, Status> {
        measured("get_rollout", async {
            let key = self.caller(&request).await?;
            let rollout: RolloutId = parse("rollout_id", &request.into_inner().rollout_id)?;
            let found: Rollout = self.registry.rollout(&key.tenant, rollout).await?;
            let evidence = self.registry.evidence(&key.tenant, rollout).await?;
            let evidence_json = serde_json::to_string(&evidence)
                .map_err(|_| Status::from(RegistryError::Unreadable { what: "evidence" }))?;
            Ok(Response::new(proto::GetRolloutResponse { rollout: Some((&found).into()), evidence_json }))
        })
        .await
    }

    async fn approve_rollout(
        &self,
        request: Request<proto::DecideRolloutRequest>,
    ) -> Result<Response<proto::Rollout>, Status> {
        measured("approve_rollout", self.decide(request, RolloutStep::Approve)).await
    }

    async fn abort_rollout(
        &self,
        request: Request<proto::DecideRolloutRequest>,
    ) -> Result<Response<proto::Rollout>, Status> {
        measured("abort_rollout", self.decide(request, RolloutStep::Abort)).await
    }

    async fn rollback_rollout(
        &self,
        request: Request<proto::DecideRolloutRequest>,
    ) -> Result<Response<proto::Rollout>, Status> {
        measured("rollback_rollout", self.decide(request, RolloutStep::RollBack)).await
    }

    async fn get_lineage(
        &self,
        request: Request<proto::GetVersionRequest>,
    ) -> Result<Response<proto::GetLineageResponse>, Status> {
        measured("get_lineage", async {
            let key = self.caller(&request).await?;
            let message = request.into_inner();
            let model: ModelName = parse("model", &message.model)?;
            let chain = self.registry.lineage(&key.tenant, &model, ModelVersion(message.version)).await?;
            Ok(Response::new(proto::GetLineageResponse { versions: chain.iter().map(Into::into).collect() }))
        })
        .await
    }

    async fn list_snapshot_pairs(
        &self,
        request: Request<proto::ListSnapshotPairsRequest>,
    ) -> Result<Response<proto::ListSnapshotPairsResponse>, Status> {
        measured("list_snapshot_pairs", async {
            let key = self.caller(&request).await?;
            let message = request.into_inner();
            let snapshot = parse("snapshot_digest", &message.snapshot_digest)?;
            let after = message.after_pair_id.map(|pair| parse("after_pair_id", &pair)).transpose()?;
            let limit = i64::from(message.limit);
            let members = self.registry.snapshot_members(&key.tenant, snapshot, after, limit).await?;
            Ok(Response::new(proto::ListSnapshotPairsResponse { pairs: members.iter().map(Into::into).collect() }))
        })
        .await
    }

    async fn trace_data(
        &self,
        request: Request<proto::TraceDataRequest>,
    ) -> Result<Response<proto::TraceDataResponse>, Status> {
        measured("trace_data", async {
            let key = self.caller(&request).await?;
            let of = request.into_inner().try_into()?;
            let trace = self.registry.trace(&key.tenant, &of).await?;
            Ok(Response::new((&trace).into()))
        })
        .await
    }

    async fn list_audit(
        &self,
        request: Request<proto::ListAuditRequest>,
    ) -> Result<Response<proto::ListAuditResponse>, Status> {
        measured("list_audit", async {
            let key = self.caller(&request).await?;
            let message = request.into_inner();
            let model: ModelName = parse("model", &message.model)?;
            let limit = i64::from(message.limit);
            let entries = self.registry.audit(&key.tenant, &model, message.after_revision, limit).await?;
            Ok(Response::new(proto::ListAuditResponse { entries: entries.iter().map(Into::into).collect() }))
        })
        .await
    }
}

impl Door {
    /// Sends the table at once and whenever its revision grew. Changes of this process are seen at once, those of
    /// others at the next poll. Ends with the process or with the watcher.
    async fn watch(
        self,
        tenant: TenantId,
        model: ModelName,
        sender: mpsc::Sender<Result<proto::RoutingTable, Status>>,
        _place: OwnedSemaphorePermit,
    ) {
        let mut changes = self.registry.changes();
        let mut sent = -1;
        loop {
            changes.mark_unchanged();
            match self.registry.routing(&tenant, &model).await {
                Ok(table) if table.revision > sent => {
                    sent = table.revision;
                    if sender.send(Ok((&table).into())).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    // The watcher keeps its table and asks again.
                    let _ = sender.send(Err(error.into())).await;
                    return;
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sender.closed() => return,
                // The sender of changes lives in `self.registry`.
                _ = changes.changed() => {}
                () = tokio::time::sleep(self.watch_poll) => {}
            }
        }
    }
}
