//! Between the proto's messages and our types. Reading is strict: what does not fit is named, never repaired.

use events::{Audience, ModelVersion, Sha256Digest, Timestamp};

use crate::policy::RolloutPolicy;
use crate::proto;
use crate::rollout::Rollout;
use crate::routing::{ActiveRollout, RoutingTable, ServedVersion};
use crate::version::{AuditEntry, ModelSummary, NewVersion, Version};

/// A field of a message that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {expected}")]
pub struct InvalidField {
    /// The field.
    pub field: &'static str,
    /// What it should be.
    pub expected: String,
}

pub(crate) fn parse<T>(field: &'static str, text: &str) -> Result<T, InvalidField>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| InvalidField { field, expected: error.to_string() })
}

pub(crate) fn parse_optional<T>(field: &'static str, text: Option<&String>) -> Result<Option<T>, InvalidField>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.map(|text| parse(field, text)).transpose()
}

pub(crate) fn parse_json(field: &'static str, text: &str) -> Result<serde_json::Value, InvalidField> {
    if text.is_empty() {
        return Ok(serde_json::Value::Object(serde_json::Map::new()));
    }
    serde_json::from_str(text).map_err(|_| InvalidField { field, expected: "expected JSON".to_owned() })
}

pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, InvalidField> {
    value.ok_or_else(|| InvalidField { field, expected: "expected a value".to_owned() })
}

pub(crate) fn text<T: ToString>(value: Option<&T>) -> Option<String> {
    value.map(ToString::to_string)
}

pub(crate) fn number(version: Option<ModelVersion>) -> Option<i64> {
    version.map(|version| version.0)
}

impl From<&NewVersion> for proto::RegisterVersionRequest {
    fn from(new: &NewVersion) -> Self {
        Self {
            model: new.model.to_string(),
            artifact_digest: new.artifact_digest.to_string(),
            parent: number(new.parent),
            anchor: number(new.anchor),
            snapshot_digest: text(new.snapshot_digest.as_ref()),
            run_id: text(new.run_id.as_ref()),
            code_version: new.code_version.clone(),
            method: new.method.clone(),
            audience: text(new.audience.as_ref()),
            evaluation_json: new.evaluation.to_string(),
        }
    }
}

impl TryFrom<proto::RegisterVersionRequest> for NewVersion {
    type Error = InvalidField;

    fn try_from(message: proto::RegisterVersionRequest) -> Result<Self, InvalidField> {
        Ok(Self {
            model: parse("model", &message.model)?,
            artifact_digest: parse("artifact_digest", &message.artifact_digest)?,
            parent: message.parent.map(ModelVersion),
            anchor: message.anchor.map(ModelVersion),
            snapshot_digest: parse_optional("snapshot_digest", message.snapshot_digest.as_ref())?,
            run_id: parse_optional("run_id", message.run_id.as_ref())?,
            evaluation: parse_json("evaluation_json", &message.evaluation_json)?,
            audience: parse_optional("audience", message.audience.as_ref())?,
            code_version: message.code_version,
            method: message.method,
        })
    }
}

impl From<&Version> for proto::Version {
    fn from(version: &Version) -> Self {
        Self {
            tenant: version.tenant.to_string(),
            model: version.model.to_string(),
            version: version.version.0,
            artifact_digest: version.artifact_digest.to_string(),
            manifest_json: version.manifest.to_string(),
            parent: number(version.parent),
            anchor: number(version.anchor),
            snapshot_digest: text(version.snapshot_digest.as_ref()),
            run_id: text(version.run_id.as_ref()),
            code_version: version.code_version.clone(),
            method: version.method.clone(),
            audience: text(version.audience.as_ref()),
            evaluation_json: version.evaluation.to_string(),
            registered_at: version.registered_at.as_micros(),
            registered_by: version.registered_by.clone(),
            promoted_at: version.promoted_at.map(Timestamp::as_micros),
            evaluation_digest: version.evaluation_digest.to_string(),
        }
    }
}

impl TryFrom<proto::Version> for Version {
    type Error = InvalidField;

    fn try_from(message: proto::Version) -> Result<Self, InvalidField> {
        Ok(Self {
            tenant: parse("tenant", &message.tenant)?,
            model: parse("model", &message.model)?,
            version: ModelVersion(message.version),
            artifact_digest: parse("artifact_digest", &message.artifact_digest)?,
            manifest: parse_json("manifest_json", &message.manifest_json)?,
            parent: message.parent.map(ModelVersion),
            anchor: message.anchor.map(ModelVersion),
            snapshot_digest: parse_optional("snapshot_digest", message.snapshot_digest.as_ref())?,
            run_id: parse_optional("run_id", message.run_id.as_ref())?,
            code_version: message.code_version,
            method: message.method,
            audience: parse_optional("audience", message.audience.as_ref())?,
            evaluation: parse_json("evaluation_json", &message.evaluation_json)?,
            evaluation_digest: parse("evaluation_digest", &message.evaluation_digest)?,
            registered_at: Timestamp::from_micros(message.registered_at),
            registered_by: message.registered_by,
            promoted_at: message.promoted_at.map(Timestamp::from_micros),
        })
    }
}

impl From<&ModelSummary> for proto::Model {
    fn from(model: &ModelSummary) -> Self {
        Self {
            tenant: model.tenant.to_string(),
            model: model.model.to_string(),
            versions: model.versions,
            current: number(model.current),
            reference: number(model.reference),
            holdback_share: model.holdback_share,
            active_rollout_id: text(model.active_rollout.as_ref()),
            revision: model.revision,
        }
    }
}

impl TryFrom<proto::Model> for ModelSummary {
    type Error = InvalidField;

    fn try_from(message: proto::Model) -> Result<Self, InvalidField> {
        Ok(Self {
            tenant: parse("tenant", &message.tenant)?,
            model: parse("model", &message.model)?,
            versions: message.versions,
            current: message.current.map(ModelVersion),
            reference: message.reference.map(ModelVersion),
            holdback_share: message.holdback_share,
            active_rollout: parse_optional("active_rollout_id", message.active_rollout_id.as_ref())?,
            revision: message.revision,
        })
    }
}

impl From<&ServedVersion> for proto::ServedVersion {
    fn from(served: &ServedVersion) -> Self {
        Self {
            version: served.version.0,
            artifact_digest: served.artifact_digest.to_string(),
            audience: text(served.audience.as_ref()),
        }
    }
}

impl TryFrom<proto::ServedVersion> for ServedVersion {
    type Error = InvalidField;

    fn try_from(message: proto::ServedVersion) -> Result<Self, InvalidField> {
        Ok(Self {
            version: ModelVersion(message.version),
            artifact_digest: parse::<Sha256Digest>("artifact_digest", &message.artifact_digest)?,
            audience: parse_optional::<Audience>("audience", message.audience.as_ref())?,
        })
    }
}

impl From<&RoutingTable> for proto::RoutingTable {
    fn from(table: &RoutingTable) -> Self {
        Self {
            tenant: table.tenant.to_string(),
            model: table.model.to_string(),
            revision: table.revision,
            current: Some((&table.current).into()),
            reference: table.reference.as_ref().map(Into::into),
            holdback_share: table.holdback_share,
            promoted: table.promoted.iter().map(Into::into).collect(),
            rollout: table.rollout.as_ref().map(|rollout| proto::ActiveRollout {
                rollout_id: rollout.rollout_id.to_string(),
                candidate: Some((&rollout.candidate).into()),
                canary_share: rollout.canary_share,
                started_at: rollout.started_at.as_micros(),
                block_seconds: rollout.block_seconds,
            }),
        }
    }
}

impl TryFrom<proto::RoutingTable> for RoutingTable {
    type Error = InvalidField;

    fn try_from(message: proto::RoutingTable) -> Result<Self, InvalidField> {
        let rollout = message.rollout.map(|rollout| {
            Ok(ActiveRollout {
                rollout_id: parse("rollout_id", &rollout.rollout_id)?,
                candidate: required("candidate", rollout.candidate)?.try_into()?,
                canary_share: rollout.canary_share,
                started_at: Timestamp::from_micros(rollout.started_at),
                block_seconds: rollout.block_seconds,
            })
        });
        Ok(Self {
            tenant: parse("tenant", &message.tenant)?,
            model: parse("model", &message.model)?,
            revision: message.revision,
            current: required("current", message.current)?.try_into()?,
            reference: message.reference.map(TryInto::try_into).transpose()?,
            holdback_share: message.holdback_share,
            promoted: message.promoted.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            rollout: rollout.transpose()?,
        })
    }
}

impl From<&RolloutPolicy> for proto::RolloutPolicy {
    fn from(policy: &RolloutPolicy) -> Self {
        Self {
            canary_share: Some(policy.canary_share),
            holdback_share: Some(policy.holdback_share),
            margin: Some(policy.margin),
            alpha: Some(policy.alpha),
            minimum_persons: Some(policy.minimum_persons),
            block_seconds: Some(policy.block_seconds),
            max_blocks: Some(policy.max_blocks),
            settle_seconds: Some(policy.settle_seconds),
            promotion: Some(policy.promotion.to_string()),
            observe_only: Some(policy.observe_only),
        }
    }
}

/// The policy of a message, with absent fields taken from `defaults`.
pub(crate) fn policy(
    message: Option<proto::RolloutPolicy>,
    defaults: &RolloutPolicy,
) -> Result<RolloutPolicy, InvalidField> {
    let Some(message) = message else { return Ok(defaults.clone()) };
    let policy = RolloutPolicy {
        canary_share: message.canary_share.unwrap_or(defaults.canary_share),
        holdback_share: message.holdback_share.unwrap_or(defaults.holdback_share),
        margin: message.margin.unwrap_or(defaults.margin),
        alpha: message.alpha.unwrap_or(defaults.alpha),
        minimum_persons: message.minimum_persons.unwrap_or(defaults.minimum_persons),
        block_seconds: message.block_seconds.unwrap_or(defaults.block_seconds),
        max_blocks: message.max_blocks.unwrap_or(defaults.max_blocks),
        settle_seconds: message.settle_seconds.unwrap_or(defaults.settle_seconds),
        promotion: match &message.promotion {
            Some(text) => parse("policy.promotion", text)?,
            None => defaults.promotion,
        },
        observe_only: message.observe_only.unwrap_or(defaults.observe_only),
    };
    policy.validate().map_err(|error| InvalidField { field: "policy", expected: error.to_string() })?;
    Ok(policy)
}

impl From<&Rollout> for proto::Rollout {
    fn from(rollout: &Rollout) -> Self {
        Self {
            rollout_id: rollout.rollout_id.to_string(),
            tenant: rollout.tenant.to_string(),
            model: rollout.model.to_string(),
            candidate: rollout.candidate.0,
            baseline: rollout.baseline.0,
            reference: number(rollout.reference),
            policy: Some((&rollout.policy).into()),
            state: rollout.state.to_string(),
            created_at: rollout.created_at.as_micros(),
            started_at: rollout.started_at.map(Timestamp::as_micros),
            finished_at: rollout.finished_at.map(Timestamp::as_micros),
            blocks_complete: rollout.blocks_complete,
            projected_blocks: rollout.projected_blocks,
            reason: rollout.reason.clone(),
            decided_by: rollout.decided_by.clone(),
        }
    }
}

impl TryFrom<proto::Rollout> for Rollout {
    type Error = InvalidField;

    fn try_from(message: proto::Rollout) -> Result<Self, InvalidField> {
        Ok(Self {
            rollout_id: parse("rollout_id", &message.rollout_id)?,
            tenant: parse("tenant", &message.tenant)?,
            model: parse("model", &message.model)?,
            candidate: ModelVersion(message.candidate),
            baseline: ModelVersion(message.baseline),
            reference: message.reference.map(ModelVersion),
            policy: policy(message.policy, &RolloutPolicy::default())?,
            state: parse("state", &message.state)?,
            created_at: Timestamp::from_micros(message.created_at),
            started_at: message.started_at.map(Timestamp::from_micros),
            finished_at: message.finished_at.map(Timestamp::from_micros),
            blocks_complete: message.blocks_complete,
            projected_blocks: message.projected_blocks,
            reason: message.reason,
            decided_by: message.decided_by,
        })
    }
}

impl From<&AuditEntry> for proto::AuditEntry {
    fn from(entry: &AuditEntry) -> Self {
        Self {
            tenant: entry.tenant.to_string(),
            model: entry.model.to_string(),
            revision: entry.revision,
            at: entry.at.as_micros(),
            actor: entry.actor.clone(),
            action: entry.action.clone(),
            subject: entry.subject.clone(),
            detail_json: entry.detail.to_string(),
        }
    }
}

impl TryFrom<proto::AuditEntry> for AuditEntry {
    type Error = InvalidField;

    fn try_from(message: proto::AuditEntry) -> Result<Self, InvalidField> {
        Ok(Self {
            tenant: parse("tenant", &message.tenant)?,
            model: parse("model", &message.model)?,
            revision: message.revision,
            at: Timestamp::from_micros(message.at),
            actor: message.actor,
            action: message.action,
            subject: message.subject,
            detail: parse_json("detail_json", &message.detail_json)?,
        })
    }
}
