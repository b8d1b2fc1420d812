//! Lineage read from the rows; see [`crate::lineage`].

use std::collections::{BTreeMap, BTreeSet};

use events::{ModelName, ModelVersion, PairId, Sha256Digest, TenantId, Timestamp};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AnyPool, AssertSqlSafe, Row};

use crate::error::RegistryError;
use crate::lineage::{
    MemberEntry, Purpose, SnapshotFilters, SnapshotLineage, SnapshotMember, SnapshotPart, Support, Trace, TraceOf,
    TracedSnapshot, TracedVersion, VersionLineage, evaluation_digest, snapshot_digest,
};
use crate::store;
use crate::version::Version;

/// Versions in a chain of anchors that are followed; a registry makes no circles, this makes sure.
const LONGEST_CHAIN: usize = 64;

fn parsed<T: std::str::FromStr>(row: &AnyRow, column: &'static str) -> Result<T, RegistryError> {
    row.try_get::<String, _>(column)?.parse().map_err(|_| RegistryError::Unreadable { what: column })
}

fn time(row: &AnyRow, column: &'static str) -> Result<Timestamp, RegistryError> {
    Ok(Timestamp::from_micros(row.try_get(column)?))
}

/// Members of a snapshot after a pair id, in order of pair ids; nothing for a snapshot of another tenant.
pub(crate) async fn members(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    snapshot: Sha256Digest,
    after: Option<PairId>,
    limit: i64,
) -> Result<Vec<SnapshotMember>, RegistryError> {
    let rows = sqlx::query(
        "SELECT p.pair_id AS pair_id, p.content_digest AS content_digest, p.person AS person, p.purpose AS purpose \
         FROM snapshot_pairs p JOIN snapshots s ON s.snapshot_digest = p.snapshot_digest \
         WHERE s.tenant = $1 AND p.snapshot_digest = $2 AND p.pair_id > $3 ORDER BY p.pair_id LIMIT $4",
    )
    .bind(tenant.as_str())
    .bind(snapshot.to_string())
    .bind(after.map_or_else(String::new, |pair| pair.to_string()))
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(SnapshotMember {
                pair_id: parsed(row, "pair_id")?,
                content_digest: parsed(row, "content_digest")?,
                person: parsed(row, "person")?,
                purpose: parsed(row, "purpose")?,
            })
        })
        .collect()
}

/// Whether a snapshot of this tenant has that digest.
pub(crate) async fn is_known(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    snapshot: Sha256Digest,
) -> Result<bool, RegistryError> {
    let row = sqlx::query("SELECT 1 AS one FROM snapshots WHERE tenant = $1 AND snapshot_digest = $2")
        .bind(tenant.as_str())
        .bind(snapshot.to_string())
        .fetch_optional(connection)
        .await?;
    Ok(row.is_some())
}

/// A snapshot of this tenant, with its digest computed again.
pub(crate) async fn snapshot(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    digest: Sha256Digest,
) -> Result<SnapshotLineage, RegistryError> {
    let row = sqlx::query(
        "SELECT audience, label_policy_version, code_version, filters, first_labeled_at, last_labeled_at \
         FROM snapshots WHERE tenant = $1 AND snapshot_digest = $2",
    )
    .bind(tenant.as_str())
    .bind(digest.to_string())
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(RegistryError::UnknownSnapshot { snapshot: digest })?;
    let (members, persons) = entries(connection, digest).await?;
    let audience = parsed(&row, "audience")?;
    // The audience that decides who is served is a column of its own: it must be the one that the digest covers.
    let is_verified = serde_json::from_str::<SnapshotFilters>(&row.try_get::<String, _>("filters")?)
        .is_ok_and(|filters| filters.audience == audience && snapshot_digest(&filters, &members) == Some(digest));
    let training = members.iter().filter(|member| member.purpose == Purpose::Training).count();
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    Ok(SnapshotLineage {
        digest,
        is_verified,
        audience,
        label_policy_version: row.try_get("label_policy_version")?,
        code_version: row.try_get("code_version")?,
        training_pairs: number(training),
        gate_pairs: number(members.len() - training),
        persons: number(persons),
        first_labeled_at: time(&row, "first_labeled_at")?,
        last_labeled_at: time(&row, "last_labeled_at")?,
        parts: parts(connection, digest).await?,
    })
}

/// What the digest of a snapshot covers of its members, and how many persons they are of.
async fn entries(
    connection: &mut AnyConnection,
    snapshot: Sha256Digest,
) -> Result<(Vec<MemberEntry>, usize), RegistryError> {
    let rows = sqlx::query(
        "SELECT pair_id, content_digest, person, purpose, support_people, support_repositories, weight_millionths \
         FROM snapshot_pairs WHERE snapshot_digest = $1",
    )
    .bind(snapshot.to_string())
    .fetch_all(connection)
    .await?;
    let mut persons = BTreeSet::new();
    let mut entries = Vec::with_capacity(rows.len());
    let number = |row: &AnyRow, column: &'static str| -> Result<u32, RegistryError> {
        u32::try_from(row.try_get::<i64, _>(column)?).map_err(|_| RegistryError::Unreadable { what: column })
    };
    for row in &rows {
        persons.insert(row.try_get::<String, _>("person")?);
        entries.push(MemberEntry {
            pair_id: parsed(row, "pair_id")?,
            content_digest: parsed(row, "content_digest")?,
            purpose: parsed(row, "purpose")?,
            support: Support {
                people: number(row, "support_people")?,
                repositories: number(row, "support_repositories")?,
                weight_millionths: row.try_get("weight_millionths")?,
            },
        });
    }
    Ok((entries, persons.len()))
}

async fn parts(connection: &mut AnyConnection, snapshot: Sha256Digest) -> Result<Vec<SnapshotPart>, RegistryError> {
    let rows = sqlx::query(
        "SELECT part_digest, partition, first_position, last_position FROM snapshot_parts WHERE snapshot_digest = $1 \
         ORDER BY partition, first_position, part_digest",
    )
    .bind(snapshot.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(SnapshotPart {
                digest: parsed(row, "part_digest")?,
                partition: row.try_get("partition")?,
                first_position: row.try_get("first_position")?,
                last_position: row.try_get("last_position")?,
            })
        })
        .collect()
}

/// The chain of weights that ends in `version`: itself first, its base last.
pub(crate) async fn back(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    version: ModelVersion,
) -> Result<Vec<VersionLineage>, RegistryError> {
    let mut chain: Vec<VersionLineage> = Vec::new();
    let mut next = Some(version);
    while let Some(number) = next.filter(|_| chain.len() < LONGEST_CHAIN) {
        let found = store::version(connection, tenant, model, number).await?;
        let snapshot = match found.snapshot_digest {
            Some(digest) => Some(snapshot(connection, tenant, digest).await?),
            None => None,
        };
        next = found.anchor;
        chain.push(VersionLineage {
            version: found.version,
            artifact_digest: found.artifact_digest,
            parent: found.parent,
            anchor: found.anchor,
            code_version: found.code_version,
            method: found.method,
            run_id: found.run_id,
            is_evaluation_verified: evaluation_digest(&found.evaluation) == found.evaluation_digest,
            evaluation_digest: found.evaluation_digest,
            snapshot,
        });
    }
    Ok(chain)
}

/// The data sets of all versions which may be served now, and of their anchors.
///
/// # Errors
/// The database failed.
pub async fn served_snapshots(
    pool: &AnyPool,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<BTreeSet<Sha256Digest>, RegistryError> {
    let mut connection = pool.acquire().await?;
    let Some(table) = store::routing(&mut connection, tenant, model).await? else { return Ok(BTreeSet::new()) };
    let all = store::all_versions(&mut connection, tenant, model).await?;
    let by_number: BTreeMap<ModelVersion, &Version> = all.iter().map(|version| (version.version, version)).collect();
    let mut waiting: Vec<ModelVersion> = table.versions().into_iter().map(|served| served.version).collect();
    let mut seen = BTreeSet::new();
    let mut snapshots = BTreeSet::new();
    while let Some(number) = waiting.pop() {
        let Some(version) = by_number.get(&number).filter(|_| seen.insert(number)) else { continue };
        waiting.extend(version.anchor);
        snapshots.extend(version.snapshot_digest);
    }
    Ok(snapshots)
}

/// Every data set and version that a person's pairs, or one pair, went into.
pub(crate) async fn forward(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    of: &TraceOf,
) -> Result<Trace, RegistryError> {
    let (column, value) = match of {
        TraceOf::Person(person) => ("person", person.to_string()),
        TraceOf::Pair(pair) => ("pair_id", pair.to_string()),
    };
    // A pair that was merged into one that trains gave that one weight: as far as its person goes, it trains.
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT p.snapshot_digest AS snapshot_digest, s.model AS model, \
         CAST(SUM(CASE WHEN p.purpose = 'training' THEN 1 ELSE 0 END) AS BIGINT) AS training_pairs, \
         CAST(SUM(CASE WHEN p.purpose IN ('gate', 'general') THEN 1 ELSE 0 END) AS BIGINT) AS gate_pairs \
         FROM (SELECT snapshot_digest, purpose FROM snapshot_pairs WHERE {column} = $2 \
         UNION ALL SELECT snapshot_digest, 'training' AS purpose FROM snapshot_left_out \
         WHERE {column} = $2 AND merged_into IS NOT NULL) p \
         JOIN snapshots s ON s.snapshot_digest = p.snapshot_digest \
         WHERE s.tenant = $1 GROUP BY p.snapshot_digest, s.model ORDER BY p.snapshot_digest"
    )))
    .bind(tenant.as_str())
    .bind(value)
    .fetch_all(&mut *connection)
    .await?;
    let snapshots: Vec<TracedSnapshot> = rows
        .iter()
        .map(|row| {
            Ok(TracedSnapshot {
                digest: parsed(row, "snapshot_digest")?,
                model: parsed(row, "model")?,
                training_pairs: row.try_get("training_pairs")?,
                gate_pairs: row.try_get("gate_pairs")?,
            })
        })
        .collect::<Result<_, RegistryError>>()?;
    let mut versions = Vec::new();
    let models: BTreeSet<ModelName> = snapshots.iter().map(|snapshot| snapshot.model.clone()).collect();
    for model in models {
        versions.extend(learned(connection, tenant, &model, &snapshots).await?);
    }
    Ok(Trace { snapshots, versions })
}

/// Versions of `model` that trained on one of `snapshots`, or descend from one that did.
async fn learned(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    snapshots: &[TracedSnapshot],
) -> Result<Vec<TracedVersion>, RegistryError> {
    let served: BTreeSet<ModelVersion> = match store::routing(connection, tenant, model).await? {
        Some(table) => table.versions().into_iter().map(|served| served.version).collect(),
        None => BTreeSet::new(),
    };
    let mut all = store::all_versions(connection, tenant, model).await?;
    // A version comes after its anchor, so one pass in order finds every descendant.
    all.sort_by_key(|version| version.version);
    let mut traced: Vec<TracedVersion> = Vec::new();
    for version in all {
        let own = version.snapshot_digest.filter(|digest| {
            // What only judged a version has left nothing in its weights.
            snapshots.iter().any(|snapshot| snapshot.digest == *digest && snapshot.training_pairs > 0)
        });
        let mut sources: Vec<(Sha256Digest, ModelVersion)> =
            own.map(|digest| (digest, version.version)).into_iter().collect();
        let inherited = traced.iter().filter(|known| Some(known.version) == version.anchor);
        sources.extend(inherited.map(|known| (known.snapshot_digest, known.through)));
        for (snapshot_digest, through) in sources {
            traced.push(TracedVersion {
                model: model.clone(),
                version: version.version,
                artifact_digest: version.artifact_digest,
                snapshot_digest,
                through,
                is_served: served.contains(&version.version),
            });
        }
    }
    Ok(traced)
}
