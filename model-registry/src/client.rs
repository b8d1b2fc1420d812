//! The registry as other services call it.

use std::path::PathBuf;
use std::time::Duration;

use events::{ModelName, ModelVersion, PairId, RolloutId, Sha256Digest};
use service::config::Secret;
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
#[cfg(feature = "production")]
use tonic::transport::{Certificate, ClientTlsConfig};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::ERROR_CODE_METADATA;
use crate::convert::{InvalidField, parse_json};
use crate::evidence::RolloutEvidence;
use crate::lineage::{SnapshotMember, Trace, TraceOf, VersionLineage};
use crate::policy::RolloutPolicy;
use crate::proto;
use crate::rollout::Rollout;
use crate::routing::RoutingTable;
use crate::version::{Alias, AuditEntry, ModelSummary, NewVersion, Version};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call may take. Registering verifies every file of an artifact, so this is generous.
const CALL_TIMEOUT: Duration = Duration::from_secs(300);
/// How often a silent connection is checked, so that a watch notices a dead registry.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address or the key cannot be used.
    #[error("registry client: {0}")]
    Config(String),
    /// The registry cannot be reached, or is overloaded: try again.
    #[error("the registry cannot be reached: {0}")]
    Unavailable(String),
    /// The registry refused, for a reason with a stable code.
    #[error("the registry refused ({code}): {message}")]
    Refused {
        /// The stable code; see `RegistryError::code`.
        code: String,
        /// For people.
        message: String,
    },
    /// The registry answered what this release cannot read.
    #[error("the registry's answer cannot be read: {0}")]
    Unreadable(String),
}

impl ClientError {
    /// The stable code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let code = status.metadata().get(ERROR_CODE_METADATA).and_then(|code| code.to_str().ok()).map(str::to_owned);
        match (code, status.code()) {
            (_, Code::Unavailable) | (None, _) => {
                // The transport's own message hides whether it was the network or a certificate.
                let said = format!("{}: {}", status.code(), status.message());
                let cause = std::error::Error::source(&status).map(|cause| innermost(cause).to_string());
                Self::Unavailable(match cause {
                    Some(cause) if !said.contains(&cause) => format!("{said}: {cause}"),
                    _ => said,
                })
            }
            (Some(code), _) => Self::Refused { code, message: status.message().to_owned() },
        }
    }
}

impl From<InvalidField> for ClientError {
    fn from(error: InvalidField) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// How a client knows that it speaks with the registry, at an `https` address.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// PEM: authorities, read when the client is made; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The name that the certificate must have; none: the host in the address.
    pub server_name: Option<String>,
}

/// Adds the key to every call.
#[derive(Clone)]
struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A client of the registry. Clones share one connection, which is opened when it is first needed and again when lost.
#[derive(Clone)]
pub struct RegistryClient {
    calls: proto::registry_client::RegistryClient<InterceptedService<Channel, Bearer>>,
}

impl std::fmt::Debug for RegistryClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RegistryClient").finish_non_exhaustive()
    }
}

impl RegistryClient {
    /// A client of `address` (such as `http://127.0.0.1:7003`) with an API key of scope `registry`. Does not connect
    /// yet.
    ///
    /// # Errors
    /// An address that is no URL, or a key that no header can carry.
    pub fn new(address: &str, api_key: &Secret) -> Result<Self, ClientError> {
        Self::with_trust(address, api_key, &Trust::default())
    }

    /// As [`Self::new`], for an address that may begin with `https`. A certificate that is not trusted shows as a
    /// registry that cannot be reached, with the reason.
    ///
    /// # Errors
    /// As [`Self::new`]; authorities that cannot be read; `https` in a build without the cargo feature `production`.
    pub fn with_trust(address: &str, api_key: &Secret, trust: &Trust) -> Result<Self, ClientError> {
        let mut endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|_| ClientError::Config("the address is no URL like http://127.0.0.1:7003".to_owned()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        // Else the transport would speak plain text to an address that promises more.
        if endpoint.uri().scheme_str() == Some("https") {
            endpoint = encrypted(endpoint, trust)?;
        }
        let mut bearer = MetadataValue::try_from(format!("Bearer {}", api_key.expose_secret()))
            .map_err(|_| ClientError::Config("the API key has characters that no header can carry".to_owned()))?;
        bearer.set_sensitive(true);
        let calls = proto::registry_client::RegistryClient::with_interceptor(endpoint.connect_lazy(), Bearer(bearer));
        Ok(Self { calls })
    }

    /// Registers a version. The same training run and artifact give the same version again.
    ///
    /// # Errors
    /// `artifact_missing`, `artifact_corrupt`, `unknown_version`, `unknown_snapshot`, `audience_mismatch`,
    /// `version_conflict`, or the registry cannot be reached.
    pub async fn register_version(&self, new: &NewVersion) -> Result<Version, ClientError> {
        let request = timed(proto::RegisterVersionRequest::from(new));
        Ok(self.calls.clone().register_version(request).await?.into_inner().try_into()?)
    }

    /// Makes sure that the model has a first version that is current and the reference. Whatever is there already
    /// stays as it is.
    ///
    /// # Errors
    /// As [`Self::register_version`] and [`Self::set_alias`].
    pub async fn ensure_first_version(&self, new: &NewVersion) -> Result<ModelSummary, ClientError> {
        let summary = |models: Vec<ModelSummary>| models.into_iter().find(|model| model.model == new.model);
        let known = summary(self.list_models().await?);
        if known.as_ref().is_none_or(|model| model.versions == 0) {
            self.register_version(new).await?;
        }
        for (alias, set) in [
            (Alias::Current, known.as_ref().and_then(|model| model.current)),
            (Alias::Reference, known.as_ref().and_then(|model| model.reference)),
        ] {
            if set.is_none() {
                match self.set_alias(&new.model, alias, ModelVersion(1), None).await {
                    Ok(_) => {}
                    // Somebody else was faster.
                    Err(error) if error.code() == Some("alias_conflict") => {}
                    Err(error) => return Err(error),
                }
            }
        }
        summary(self.list_models().await?).ok_or_else(|| ClientError::Unreadable("the model is gone".to_owned()))
    }

    /// One version.
    ///
    /// # Errors
    /// `unknown_version`, or the registry cannot be reached.
    pub async fn get_version(&self, model: &ModelName, version: ModelVersion) -> Result<Version, ClientError> {
        let request = timed(proto::GetVersionRequest { model: model.to_string(), version: version.0 });
        Ok(self.calls.clone().get_version(request).await?.into_inner().try_into()?)
    }

    /// All models of the key's tenant.
    ///
    /// # Errors
    /// The registry cannot be reached.
    pub async fn list_models(&self) -> Result<Vec<ModelSummary>, ClientError> {
        let answer = self.calls.clone().list_models(timed(proto::ListModelsRequest {})).await?.into_inner();
        Ok(answer.models.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
    }

    /// All versions of a model, newest first.
    ///
    /// # Errors
    /// The registry cannot be reached.
    pub async fn list_versions(&self, model: &ModelName) -> Result<Vec<Version>, ClientError> {
        let request = timed(proto::ListVersionsRequest { model: model.to_string() });
        let answer = self.calls.clone().list_versions(request).await?.into_inner();
        Ok(answer.versions.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
    }

    /// Where a version comes from: the chain of weights that ends in it, itself first.
    ///
    /// # Errors
    /// `unknown_version`, or the registry cannot be reached.
    pub async fn get_lineage(
        &self,
        model: &ModelName,
        version: ModelVersion,
    ) -> Result<Vec<VersionLineage>, ClientError> {
        let request = timed(proto::GetVersionRequest { model: model.to_string(), version: version.0 });
        let answer = self.calls.clone().get_lineage(request).await?.into_inner();
        Ok(answer.versions.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
    }

    /// Pairs of a snapshot with their persons, after a pair, in order of pair ids; at most 1000.
    ///
    /// # Errors
    /// `unknown_snapshot`, or the registry cannot be reached.
    pub async fn list_snapshot_pairs(
        &self,
        snapshot: Sha256Digest,
        after: Option<PairId>,
    ) -> Result<Vec<SnapshotMember>, ClientError> {
        let request = timed(proto::ListSnapshotPairsRequest {
            snapshot_digest: snapshot.to_string(),
            after_pair_id: after.map(|pair| pair.to_string()),
            limit: 0,
        });
        let answer = self.calls.clone().list_snapshot_pairs(request).await?.into_inner();
        Ok(answer.pairs.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
    }

    /// Every data set and version that a person's pairs, or one pair, went into.
    ///
    /// # Errors
    /// The registry cannot be reached.
    pub async fn trace_data(&self, of: &TraceOf) -> Result<Trace, ClientError> {
        let answer = self.calls.clone().trace_data(timed(proto::TraceDataRequest::from(of))).await?.into_inner();
        Ok(answer.try_into()?)
    }

    /// Points `alias` to `version` if it points to `expected` now (none: if it does not exist). Returns the model's
    /// new revision.
    ///
    /// # Errors
    /// `alias_conflict`, `unknown_version`, `rollout_active`, or the registry cannot be reached.
    pub async fn set_alias(
        &self,
        model: &ModelName,
        alias: Alias,
        version: ModelVersion,
        expected: Option<ModelVersion>,
    ) -> Result<i64, ClientError> {
        let request = timed(proto::SetAliasRequest {
            model: model.to_string(),
            alias: alias.to_string(),
            version: version.0,
            expected: expected.map(|version| version.0),
        });
        Ok(self.calls.clone().set_alias(request).await?.into_inner().revision)
    }

    /// Which version is served to whom.
    ///
    /// # Errors
    /// `unknown_model`, `no_current_version`, or the registry cannot be reached.
    pub async fn get_routing(&self, model: &ModelName) -> Result<RoutingTable, ClientError> {
        let request = timed(proto::GetRoutingRequest { model: model.to_string() });
        Ok(self.calls.clone().get_routing(request).await?.into_inner().try_into()?)
    }

    /// The routing table at once and after every change, until the registry stops or the connection is lost; then
    /// call again.
    ///
    /// # Errors
    /// As [`Self::get_routing`].
    pub async fn watch_routing(
        &self,
        model: &ModelName,
    ) -> Result<impl Stream<Item = Result<RoutingTable, ClientError>> + Send + Unpin + use<>, ClientError> {
        let request = proto::GetRoutingRequest { model: model.to_string() };
        let tables = self.calls.clone().watch_routing(request).await?.into_inner();
        Ok(tables.map(|table| Ok(table?.try_into()?)))
    }

    /// Starts a rollout; at most one runs per model. None as policy: the registry's defaults. Asking again for the
    /// candidate and policy that are being rolled out gives the rollout that runs.
    ///
    /// # Errors
    /// `rollout_active`, `unknown_version`, `already_current`, `no_current_version`, `invalid_argument`, or the
    /// registry cannot be reached.
    pub async fn start_rollout(
        &self,
        model: &ModelName,
        version: ModelVersion,
        policy: Option<&RolloutPolicy>,
    ) -> Result<Rollout, ClientError> {
        let request = timed(proto::StartRolloutRequest {
            model: model.to_string(),
            version: version.0,
            policy: policy.map(Into::into),
        });
        Ok(self.calls.clone().start_rollout(request).await?.into_inner().try_into()?)
    }

    /// Rollouts, newest first: of one model, or of all.
    ///
    /// # Errors
    /// The registry cannot be reached.
    pub async fn list_rollouts(&self, model: Option<&ModelName>) -> Result<Vec<Rollout>, ClientError> {
        let request = timed(proto::ListRolloutsRequest { model: model.map(ToString::to_string) });
        let answer = self.calls.clone().list_rollouts(request).await?.into_inner();
        Ok(answer.rollouts.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
    }

    /// One rollout with the evidence so far.
    ///
    /// # Errors
    /// `unknown_rollout`, or the registry cannot be reached.
    pub async fn get_rollout(&self, rollout: RolloutId) -> Result<(Rollout, RolloutEvidence), ClientError> {
        let request = timed(proto::GetRolloutRequest { rollout_id: rollout.to_string() });
        let answer = self.calls.clone().get_rollout(request).await?.into_inner();
        let rollout = answer.rollout.ok_or_else(|| ClientError::Unreadable("no rollout in it".to_owned()))?;
        let evidence = parse_json("evidence_json", &answer.evidence_json)?;
        let evidence = serde_json::from_value(evidence).map_err(|error| ClientError::Unreadable(error.to_string()))?;
        Ok((rollout.try_into()?, evidence))
    }

    /// A named person lets the candidate become current.
    ///
    /// # Errors
    /// `unknown_rollout`, `illegal_transition`, `alias_conflict`, `invalid_argument`, or the registry cannot be
    /// reached.
    pub async fn approve_rollout(&self, rollout: RolloutId, person: &str, why: &str) -> Result<Rollout, ClientError> {
        let request = decision(rollout, person, why);
        Ok(self.calls.clone().approve_rollout(request).await?.into_inner().try_into()?)
    }

    /// A named person ends a rollout without a verdict.
    ///
    /// # Errors
    /// As [`Self::approve_rollout`].
    pub async fn abort_rollout(&self, rollout: RolloutId, person: &str, why: &str) -> Result<Rollout, ClientError> {
        let request = decision(rollout, person, why);
        Ok(self.calls.clone().abort_rollout(request).await?.into_inner().try_into()?)
    }

    /// A named person decides against the candidate; while it is current, the version before becomes current again.
    ///
    /// # Errors
    /// As [`Self::approve_rollout`].
    pub async fn rollback_rollout(&self, rollout: RolloutId, person: &str, why: &str) -> Result<Rollout, ClientError> {
        let request = decision(rollout, person, why);
        Ok(self.calls.clone().rollback_rollout(request).await?.into_inner().try_into()?)
    }

    /// Changes of a model after a revision, oldest first.
    ///
    /// # Errors
    /// The registry cannot be reached.
    pub async fn list_audit(&self, model: &ModelName, after_revision: i64) -> Result<Vec<AuditEntry>, ClientError> {
        let request = timed(proto::ListAuditRequest { model: model.to_string(), after_revision, limit: 0 });
        let answer = self.calls.clone().list_audit(request).await?.into_inner();
        Ok(answer.entries.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
    }
}

#[cfg(feature = "production")]
fn encrypted(endpoint: Endpoint, trust: &Trust) -> Result<Endpoint, ClientError> {
    let mut tls = ClientTlsConfig::new().timeout(CONNECT_TIMEOUT);
    tls = match &trust.ca_file {
        Some(path) => {
            let refused =
                |reason: &str| ClientError::Config(format!("`registry.ca_file`: {} {reason}", path.display()));
            let pem = std::fs::read_to_string(path).map_err(|error| refused(&format!("cannot be read: {error}")))?;
            if !pem.contains("-----BEGIN CERTIFICATE-----") {
                return Err(refused("holds no certificate in PEM form"));
            }
            tls.ca_certificate(Certificate::from_pem(pem))
        }
        None => tls.with_native_roots(),
    };
    if let Some(name) = &trust.server_name {
        tls = tls.domain_name(name);
    }
    endpoint
        .tls_config(tls)
        .map_err(|error| ClientError::Config(format!("TLS cannot be set up: {}", innermost(&error))))
}

#[cfg(not(feature = "production"))]
fn encrypted(_: Endpoint, _: &Trust) -> Result<Endpoint, ClientError> {
    let missing = "https needs the cargo feature `production`, which this build does not have";
    Err(ClientError::Config(missing.to_owned()))
}

/// The end of a chain of errors, which says what really happened.
fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

/// A call with a time-out. A watch has none.
fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

fn decision(rollout: RolloutId, person: &str, why: &str) -> Request<proto::DecideRolloutRequest> {
    timed(proto::DecideRolloutRequest {
        rollout_id: rollout.to_string(),
        decided_by: person.to_owned(),
        reason: why.to_owned(),
    })
}
