//! Data sets in the database.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use events::{PairId, Sha256Digest, TenantId, Timestamp};
use migrations::{begin_write, commit, retried};
use model_registry::lineage::{Purpose, SnapshotFilters, Support};
use serde::Serialize;
use sqlx::any::AnyRow;
use sqlx::{Any, AnyPool, AssertSqlSafe, Row, Transaction};

use super::composition::{Composition, Reason};
use super::manifest::{DataSetError, Manifest, ManifestMember, SnapshotPlan};
use crate::error::OrchestratorError;
use crate::store::{PartRead, purpose_of};

/// Rows in one statement; SQLite takes 32,766 parameters, PostgreSQL 65,535.
const ROWS: usize = 500;

/// A data set in one line.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotSummary {
    /// Its name.
    pub digest: Sha256Digest,
    /// The model that it trains.
    pub model: String,
    /// Who may be served what is learned from it.
    pub audience: String,
    /// Pairs that train.
    pub training_pairs: i64,
    /// Pairs that judge.
    pub gate_pairs: i64,
    /// Oldest label.
    pub first_labeled_at: Timestamp,
    /// Newest label.
    pub last_labeled_at: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
}

/// `($1, $2, $3), ($1, $4, $5)`: values of `rows` rows that begin with the same one and have `own` of their own.
fn values(rows: usize, own: usize) -> String {
    let row = |number: usize| {
        let places: Vec<String> = (0..own).map(|place| format!("${}", number * own + place + 2)).collect();
        format!("($1, {})", places.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

/// Stores a data set, once; the same digest is the same data set.
pub(crate) async fn keep(
    transaction: &mut Transaction<'static, Any>,
    plan: &SnapshotPlan,
    parts: &[PartRead],
    created_at: Timestamp,
) -> Result<(), OrchestratorError> {
    let digest = plan.digest.to_string();
    let exists = sqlx::query("SELECT 1 AS one FROM snapshots WHERE snapshot_digest = $1")
        .bind(digest.clone())
        .fetch_optional(&mut **transaction)
        .await?
        .is_some();
    if exists {
        return Ok(());
    }
    let training = plan.composition.training.pairs;
    sqlx::query(
        "INSERT INTO snapshots (snapshot_digest, tenant, model, audience, label_policy_version, code_version, \
         filters, training_pairs, gate_pairs, first_labeled_at, last_labeled_at, last_signal_at, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(digest.clone())
    .bind(plan.filters.tenant.as_str().to_owned())
    .bind(plan.filters.model.as_str().to_owned())
    .bind(plan.filters.audience.as_str().to_owned())
    .bind(i64::from(plan.filters.label_policy_version))
    .bind(plan.filters.code_version.clone())
    .bind(serde_json::to_string(&plan.filters)?)
    .bind(i64::try_from(training).unwrap_or(i64::MAX))
    .bind(i64::try_from(plan.members.len() - training).unwrap_or(i64::MAX))
    .bind(plan.first_labeled_at.as_micros())
    .bind(plan.last_labeled_at.as_micros())
    .bind(plan.last_signal_at.as_micros())
    .bind(created_at.as_micros())
    .execute(&mut **transaction)
    .await?;
    // Many in one statement: the lease's row is held meanwhile, and each statement is a journey to a server.
    for chunk in plan.members.chunks(ROWS) {
        let statement = format!(
            "INSERT INTO snapshot_pairs (snapshot_digest, pair_id, content_digest, person, purpose, support_people, \
             support_repositories, weight_millionths) VALUES {}",
            values(chunk.len(), 7)
        );
        let mut query = sqlx::query(AssertSqlSafe(statement)).bind(digest.clone());
        for member in chunk {
            query = query
                .bind(member.entry.pair_id.to_string())
                .bind(member.entry.content_digest.to_string())
                .bind(member.person.as_str().to_owned())
                .bind(member.entry.purpose.as_str().to_owned())
                .bind(i64::from(member.entry.support.people))
                .bind(i64::from(member.entry.support.repositories))
                .bind(member.entry.support.weight_millionths);
        }
        query.execute(&mut **transaction).await?;
    }
    for chunk in plan.left_out.chunks(ROWS) {
        let statement = format!(
            "INSERT INTO snapshot_left_out (snapshot_digest, pair_id, person, reason, merged_into) VALUES {}",
            values(chunk.len(), 4)
        );
        let mut query = sqlx::query(AssertSqlSafe(statement)).bind(digest.clone());
        for pair in chunk {
            query = query
                .bind(pair.pair_id.to_string())
                .bind(pair.person.as_str().to_owned())
                .bind(pair.reason.as_str().to_owned())
                .bind(pair.merged_into.map(|pair| pair.to_string()));
        }
        query.execute(&mut **transaction).await?;
    }
    sqlx::query("INSERT INTO snapshot_compositions (snapshot_digest, composition) VALUES ($1, $2)")
        .bind(digest.clone())
        .bind(serde_json::to_string(&plan.composition)?)
        .execute(&mut **transaction)
        .await?;
    for part in parts {
        sqlx::query(
            "INSERT INTO snapshot_parts (snapshot_digest, part_digest, partition, first_position, \
             last_position) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
        )
        .bind(digest.clone())
        .bind(part.digest.to_string())
        .bind(part.partition)
        .bind(part.first_position.clone())
        .bind(part.last_position.clone())
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

/// Stores a data set that no run asked for.
///
/// # Errors
/// A database that fails.
pub async fn keep_alone(
    pool: &AnyPool,
    plan: &SnapshotPlan,
    parts: &[PartRead],
    created_at: Timestamp,
) -> Result<(), OrchestratorError> {
    retried(|| try_keep_alone(pool, plan, parts, created_at)).await
}

async fn try_keep_alone(
    pool: &AnyPool,
    plan: &SnapshotPlan,
    parts: &[PartRead],
    created_at: Timestamp,
) -> Result<(), OrchestratorError> {
    let mut transaction = begin_write(pool).await?;
    keep(&mut transaction, plan, parts, created_at).await?;
    commit(transaction).await?;
    Ok(())
}

/// The data sets of a tenant, newest first.
///
/// # Errors
/// A database that fails or holds something that it may not.
pub async fn list(pool: &AnyPool, tenant: &TenantId, limit: i64) -> Result<Vec<SnapshotSummary>, OrchestratorError> {
    let rows = sqlx::query(
        "SELECT snapshot_digest, model, audience, training_pairs, gate_pairs, first_labeled_at, last_labeled_at, \
         created_at FROM snapshots WHERE tenant = $1 ORDER BY created_at DESC, snapshot_digest LIMIT $2",
    )
    .bind(tenant.as_str().to_owned())
    .bind(limit)
    .fetch_all(pool)
    .await?;
    rows.iter().map(summary_of).collect()
}

/// The digests that begin with `digits`; of several, two.
///
/// # Errors
/// A database that fails or holds something that it may not.
pub async fn beginning_with(
    pool: &AnyPool,
    tenant: &TenantId,
    digits: &str,
) -> Result<Vec<Sha256Digest>, OrchestratorError> {
    // Nothing else is in a digest, and some of it means something to LIKE.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(Vec::new());
    }
    let found: Vec<String> = sqlx::query_scalar(
        "SELECT snapshot_digest FROM snapshots WHERE tenant = $1 AND snapshot_digest LIKE $2 LIMIT 2",
    )
    .bind(tenant.as_str().to_owned())
    .bind(format!("{}%", digits.to_ascii_lowercase()))
    .fetch_all(pool)
    .await?;
    found.iter().map(|digest| Ok(digest.parse()?)).collect()
}

/// One of them.
///
/// # Errors
/// [`DataSetError::Unknown`], or a database that fails or holds something that it may not.
pub async fn summary(
    pool: &AnyPool,
    tenant: &TenantId,
    digest: Sha256Digest,
) -> Result<SnapshotSummary, OrchestratorError> {
    let row = sqlx::query(
        "SELECT snapshot_digest, model, audience, training_pairs, gate_pairs, first_labeled_at, last_labeled_at, \
         created_at FROM snapshots WHERE tenant = $1 AND snapshot_digest = $2",
    )
    .bind(tenant.as_str().to_owned())
    .bind(digest.to_string())
    .fetch_optional(pool)
    .await?;
    summary_of(&row.ok_or(DataSetError::Unknown { digest })?)
}

fn summary_of(row: &AnyRow) -> Result<SnapshotSummary, OrchestratorError> {
    let time = |name: &str| row.try_get::<i64, _>(name).map(Timestamp::from_micros);
    Ok(SnapshotSummary {
        digest: row.try_get::<String, _>("snapshot_digest")?.parse()?,
        model: row.try_get("model")?,
        audience: row.try_get("audience")?,
        training_pairs: row.try_get("training_pairs")?,
        gate_pairs: row.try_get("gate_pairs")?,
        first_labeled_at: time("first_labeled_at")?,
        last_labeled_at: time("last_labeled_at")?,
        created_at: time("created_at")?,
    })
}

/// A data set of a tenant, once its rows were found to be what its digest names.
///
/// # Errors
/// [`DataSetError::Unknown`], what [`Manifest::verify`] says, or a database that fails.
pub async fn manifest(pool: &AnyPool, tenant: &TenantId, digest: Sha256Digest) -> Result<Manifest, OrchestratorError> {
    let filters: Option<String> =
        sqlx::query_scalar("SELECT filters FROM snapshots WHERE tenant = $1 AND snapshot_digest = $2")
            .bind(tenant.as_str().to_owned())
            .bind(digest.to_string())
            .fetch_optional(pool)
            .await?;
    let filters = filters.ok_or(DataSetError::Unknown { digest })?;
    // What does not read is not what was named either.
    let filters: SnapshotFilters =
        serde_json::from_str(&filters).map_err(|_| DataSetError::WrongDigest { expected: digest, actual: None })?;
    let rows = sqlx::query(
        "SELECT pair_id, content_digest, purpose, support_people, support_repositories, weight_millionths \
         FROM snapshot_pairs WHERE snapshot_digest = $1 ORDER BY pair_id",
    )
    .bind(digest.to_string())
    .fetch_all(pool)
    .await?;
    let mut members = Vec::with_capacity(rows.len());
    for row in &rows {
        let number = |name: &str| row.try_get::<i64, _>(name).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        members.push(ManifestMember {
            pair_id: row.try_get::<String, _>("pair_id")?.parse()?,
            content_digest: row.try_get::<String, _>("content_digest")?.parse()?,
            purpose: purpose_of(row)?,
            support: Support {
                people: number("support_people")?,
                repositories: number("support_repositories")?,
                weight_millionths: row.try_get("weight_millionths")?,
            },
        });
    }
    let rows = sqlx::query("SELECT pair_id, reason FROM snapshot_left_out WHERE snapshot_digest = $1")
        .bind(digest.to_string())
        .fetch_all(pool)
        .await?;
    let mut left_out: BTreeMap<PairId, String> = BTreeMap::new();
    for row in &rows {
        left_out.insert(row.try_get::<String, _>("pair_id")?.parse()?, row.try_get("reason")?);
    }
    let composition = composition(pool, digest).await?;
    let manifest = Manifest { digest, filters, members, left_out, composition };
    manifest.verify()?;
    Ok(manifest)
}

/// Counts of every stage of a data set; none of one of an earlier release.
async fn composition(pool: &AnyPool, digest: Sha256Digest) -> Result<Option<Composition>, OrchestratorError> {
    let composition: Option<String> =
        sqlx::query_scalar("SELECT composition FROM snapshot_compositions WHERE snapshot_digest = $1")
            .bind(digest.to_string())
            .fetch_optional(pool)
            .await?;
    Ok(composition.map(|text| serde_json::from_str(&text)).transpose()?)
}

/// What data sets have decided about.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// Pairs that train or judge, and candidates that were left out for a reason.
    pub(crate) pairs: HashSet<PairId>,
    /// The newest label that the newest one saw which had no room for all, or could not read all. Of which pairs that is so
    /// is stored nowhere, as there may be any number of them: it has passed over whatever was labeled until then. When it
    /// was made says nothing: labels have the time of the log, and come while it is made.
    pub(crate) passed_over_until: Option<Timestamp>,
}

/// What `snapshots` have decided about.
pub(crate) async fn decided(pool: &AnyPool, snapshots: &BTreeSet<Sha256Digest>) -> Result<Decided, OrchestratorError> {
    let mut decided = Decided::default();
    for digest in snapshots {
        let rows = sqlx::query(
            "SELECT pair_id FROM snapshot_pairs WHERE snapshot_digest = $1 \
             UNION ALL SELECT pair_id FROM snapshot_left_out WHERE snapshot_digest = $1",
        )
        .bind(digest.to_string())
        .fetch_all(pool)
        .await?;
        for row in &rows {
            decided.pairs.insert(row.try_get::<String, _>("pair_id")?.parse()?);
        }
        let unnamed = [Reason::BeyondShareOfNewest, Reason::OlderThanTheNewest, Reason::Unreadable];
        let Some(composition) = composition(pool, *digest).await? else { continue };
        if unnamed.iter().any(|reason| composition.left_out(*reason) > 0) {
            let seen = match composition.last_labeled_at {
                Some(seen) => seen,
                None => newest_label_inside(pool, *digest).await?,
            };
            decided.passed_over_until = decided.passed_over_until.max(Some(seen));
        }
    }
    Ok(decided)
}

async fn newest_label_inside(pool: &AnyPool, digest: Sha256Digest) -> Result<Timestamp, OrchestratorError> {
    let micros: i64 = sqlx::query_scalar("SELECT last_labeled_at FROM snapshots WHERE snapshot_digest = $1")
        .bind(digest.to_string())
        .fetch_one(pool)
        .await?;
    Ok(Timestamp::from_micros(micros))
}

/// Whether any pair of a data set serves `purpose`.
pub(crate) async fn holds(pool: &AnyPool, snapshot: Sha256Digest, purpose: Purpose) -> Result<bool, OrchestratorError> {
    let row = sqlx::query("SELECT 1 AS one FROM snapshot_pairs WHERE snapshot_digest = $1 AND purpose = $2 LIMIT 1")
        .bind(snapshot.to_string())
        .bind(purpose.as_str())
        .fetch_optional(pool)
        .await?;
    Ok(row.is_some())
}
