//! Between the proto's messages about lineage and our types.

use events::{ModelVersion, Timestamp};

use crate::convert::{InvalidField, number, parse, parse_optional, required, text};
use crate::lineage::{
    SnapshotLineage, SnapshotMember, SnapshotPart, Trace, TraceOf, TracedSnapshot, TracedVersion, VersionLineage,
};
use crate::proto;

impl From<&VersionLineage> for proto::VersionLineage {
    fn from(link: &VersionLineage) -> Self {
        Self {
            version: link.version.0,
            artifact_digest: link.artifact_digest.to_string(),
            parent: number(link.parent),
            anchor: number(link.anchor),
            code_version: link.code_version.clone(),
            method: link.method.clone(),
            run_id: text(link.run_id.as_ref()),
            evaluation_digest: link.evaluation_digest.to_string(),
            is_evaluation_verified: link.is_evaluation_verified,
            snapshot: link.snapshot.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::VersionLineage> for VersionLineage {
    type Error = InvalidField;

    fn try_from(message: proto::VersionLineage) -> Result<Self, InvalidField> {
        Ok(Self {
            version: ModelVersion(message.version),
            artifact_digest: parse("artifact_digest", &message.artifact_digest)?,
            parent: message.parent.map(ModelVersion),
            anchor: message.anchor.map(ModelVersion),
            code_version: message.code_version,
            method: message.method,
            run_id: parse_optional("run_id", message.run_id.as_ref())?,
            evaluation_digest: parse("evaluation_digest", &message.evaluation_digest)?,
            is_evaluation_verified: message.is_evaluation_verified,
            snapshot: message.snapshot.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&SnapshotLineage> for proto::SnapshotLineage {
    fn from(snapshot: &SnapshotLineage) -> Self {
        let part = |part: &SnapshotPart| proto::SnapshotPart {
            digest: part.digest.to_string(),
            partition: part.partition,
            first_position: part.first_position.clone(),
            last_position: part.last_position.clone(),
        };
        Self {
            digest: snapshot.digest.to_string(),
            is_verified: snapshot.is_verified,
            audience: snapshot.audience.to_string(),
            label_policy_version: snapshot.label_policy_version,
            code_version: snapshot.code_version.clone(),
            training_pairs: snapshot.training_pairs,
            gate_pairs: snapshot.gate_pairs,
            persons: snapshot.persons,
            first_labeled_at: snapshot.first_labeled_at.as_micros(),
            last_labeled_at: snapshot.last_labeled_at.as_micros(),
            parts: snapshot.parts.iter().map(part).collect(),
        }
    }
}

impl TryFrom<proto::SnapshotLineage> for SnapshotLineage {
    type Error = InvalidField;

    fn try_from(message: proto::SnapshotLineage) -> Result<Self, InvalidField> {
        let part = |part: proto::SnapshotPart| {
            Ok(SnapshotPart {
                digest: parse("part.digest", &part.digest)?,
                partition: part.partition,
                first_position: part.first_position,
                last_position: part.last_position,
            })
        };
        Ok(Self {
            digest: parse("snapshot.digest", &message.digest)?,
            is_verified: message.is_verified,
            audience: parse("audience", &message.audience)?,
            label_policy_version: message.label_policy_version,
            code_version: message.code_version,
            training_pairs: message.training_pairs,
            gate_pairs: message.gate_pairs,
            persons: message.persons,
            first_labeled_at: Timestamp::from_micros(message.first_labeled_at),
            last_labeled_at: Timestamp::from_micros(message.last_labeled_at),
            parts: message.parts.into_iter().map(part).collect::<Result<_, InvalidField>>()?,
        })
    }
}

impl From<&SnapshotMember> for proto::SnapshotPair {
    fn from(member: &SnapshotMember) -> Self {
        Self {
            pair_id: member.pair_id.to_string(),
            content_digest: member.content_digest.to_string(),
            person: member.person.to_string(),
            purpose: member.purpose.as_str().to_owned(),
        }
    }
}

impl TryFrom<proto::SnapshotPair> for SnapshotMember {
    type Error = InvalidField;

    fn try_from(message: proto::SnapshotPair) -> Result<Self, InvalidField> {
        Ok(Self {
            pair_id: parse("pair_id", &message.pair_id)?,
            content_digest: parse("content_digest", &message.content_digest)?,
            person: parse("person", &message.person)?,
            purpose: parse("purpose", &message.purpose)?,
        })
    }
}

impl From<&TraceOf> for proto::TraceDataRequest {
    fn from(of: &TraceOf) -> Self {
        use proto::trace_data_request::Of;
        let of = match of {
            TraceOf::Person(person) => Of::Person(person.to_string()),
            TraceOf::Pair(pair) => Of::PairId(pair.to_string()),
        };
        Self { of: Some(of) }
    }
}

impl TryFrom<proto::TraceDataRequest> for TraceOf {
    type Error = InvalidField;

    fn try_from(message: proto::TraceDataRequest) -> Result<Self, InvalidField> {
        use proto::trace_data_request::Of;
        match required("person or pair_id", message.of)? {
            Of::Person(person) => Ok(Self::Person(parse("person", &person)?)),
            Of::PairId(pair) => Ok(Self::Pair(parse("pair_id", &pair)?)),
        }
    }
}

impl From<&Trace> for proto::TraceDataResponse {
    fn from(trace: &Trace) -> Self {
        let snapshot = |snapshot: &TracedSnapshot| proto::TracedSnapshot {
            digest: snapshot.digest.to_string(),
            model: snapshot.model.to_string(),
            training_pairs: snapshot.training_pairs,
            gate_pairs: snapshot.gate_pairs,
        };
        let version = |version: &TracedVersion| proto::TracedVersion {
            model: version.model.to_string(),
            version: version.version.0,
            artifact_digest: version.artifact_digest.to_string(),
            snapshot_digest: version.snapshot_digest.to_string(),
            through: version.through.0,
            is_served: version.is_served,
        };
        Self {
            snapshots: trace.snapshots.iter().map(snapshot).collect(),
            versions: trace.versions.iter().map(version).collect(),
        }
    }
}

impl TryFrom<proto::TraceDataResponse> for Trace {
    type Error = InvalidField;

    fn try_from(message: proto::TraceDataResponse) -> Result<Self, InvalidField> {
        let snapshot = |snapshot: proto::TracedSnapshot| {
            Ok(TracedSnapshot {
                digest: parse("snapshot.digest", &snapshot.digest)?,
                model: parse("model", &snapshot.model)?,
                training_pairs: snapshot.training_pairs,
                gate_pairs: snapshot.gate_pairs,
            })
        };
        let version = |version: proto::TracedVersion| {
            Ok(TracedVersion {
                model: parse("model", &version.model)?,
                version: ModelVersion(version.version),
                artifact_digest: parse("artifact_digest", &version.artifact_digest)?,
                snapshot_digest: parse("snapshot_digest", &version.snapshot_digest)?,
                through: ModelVersion(version.through),
                is_served: version.is_served,
            })
        };
        Ok(Self {
            snapshots: message.snapshots.into_iter().map(snapshot).collect::<Result<_, InvalidField>>()?,
            versions: message.versions.into_iter().map(version).collect::<Result<_, InvalidField>>()?,
        })
    }
}
