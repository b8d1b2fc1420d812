//! Parts as rows of the database.

use events::{Sha256Digest, TenantId, Timestamp};
use sqlx::any::AnyRow;
use sqlx::{Any, AnyPool, AssertSqlSafe, Executor, Row, Transaction};

use super::error::LakeError;
use super::group::PartGroup;

/// One part, as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakePart {
    /// Name of the part: derived from what was read for it, or from the parts that it replaced.
    pub part_id: String,
    /// Owner of the data.
    pub tenant: TenantId,
    /// The topic that it was read from.
    pub topic: String,
    /// Partition of the first pair, in the order of partitions and positions.
    pub partition: u32,
    /// Position of its first pair.
    pub first_position: String,
    /// Position of its last pair, in the partition of that one.
    pub last_position: String,
    /// Name of the object.
    pub digest: Sha256Digest,
    /// Number of pairs.
    pub pairs: u64,
    /// Size of the object.
    pub bytes: u64,
    /// Oldest label.
    pub min_labeled_at: Timestamp,
    /// Newest label.
    pub max_labeled_at: Timestamp,
    /// What its pairs have in common; none: an older release wrote it, or too many groups were read at once.
    pub group: Option<PartGroup>,
    /// How often what lies in it was written again.
    pub generation: u32,
    /// How many data keys of the tenant had been destroyed when it was last made sure that nothing in it is sealed
    /// under one of them.
    pub erasures: u64,
}

const COLUMNS: &str = "part_id, tenant, topic, partition_index, first_position, last_position, digest, pairs, bytes, \
     min_labeled_at, max_labeled_at, day, audience, language, generation, erasures";

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn stored(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn part_of(row: &AnyRow) -> Result<LakePart, LakeError> {
    let text = |index: usize| row.try_get::<Option<String>, _>(index);
    let group = match (row.try_get::<Option<i64>, _>(11)?, text(12)?, text(13)?) {
        (Some(day), Some(audience), Some(language)) => Some(PartGroup { day, audience: audience.parse()?, language }),
        _ => None,
    };
    Ok(LakePart {
        part_id: row.try_get(0)?,
        tenant: row.try_get::<String, _>(1)?.parse()?,
        topic: row.try_get(2)?,
        partition: u32::try_from(row.try_get::<i64, _>(3)?).unwrap_or(u32::MAX),
        first_position: row.try_get(4)?,
        last_position: row.try_get(5)?,
        digest: row.try_get::<String, _>(6)?.parse()?,
        pairs: number(row.try_get(7)?),
        bytes: number(row.try_get(8)?),
        min_labeled_at: Timestamp::from_micros(row.try_get(9)?),
        max_labeled_at: Timestamp::from_micros(row.try_get(10)?),
        group,
        generation: u32::try_from(row.try_get::<i64, _>(14)?).unwrap_or(u32::MAX),
        erasures: number(row.try_get(15)?),
    })
}

/// The parts of a tenant, ordered by partition and position of their first pairs: one state of the table.
pub(crate) async fn list(pool: &AnyPool, tenant: &TenantId) -> Result<Vec<LakePart>, LakeError> {
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM lake_parts WHERE tenant = $1 ORDER BY topic, partition_index, first_position"
    )))
    .bind(tenant.as_str())
    .fetch_all(pool)
    .await?;
    rows.iter().map(part_of).collect()
}

/// Whoever has parts.
pub(crate) async fn tenants(pool: &AnyPool) -> Result<Vec<TenantId>, LakeError> {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT tenant FROM lake_parts ORDER BY tenant").fetch_all(pool).await?;
    Ok(names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?)
}

/// Whether the part is still the one that was listed.
pub(crate) async fn is_there(pool: &AnyPool, part: &LakePart) -> Result<bool, sqlx::Error> {
    let found: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM lake_parts WHERE part_id = $1 AND digest = $2")
        .bind(&part.part_id)
        .bind(part.digest.to_string())
        .fetch_one(pool)
        .await?;
    Ok(found > 0)
}

/// In the place of the time at which an object was let go: it is being removed. Before every time that there is.
const CLAIMED: i64 = 0;

/// Writes down that an object of a part is to be removed some day after `at`, unless a row names it then.
pub(crate) async fn let_go(
    transaction: &mut Transaction<'static, Any>,
    (part_id, tenant): (&str, &TenantId),
    object: &Sha256Digest,
    at: Timestamp,
) -> Result<(), LakeError> {
    let written = sqlx::query(
        "INSERT INTO lake_replaced (digest, tenant, part_id, replaced_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (digest) DO UPDATE SET replaced_at = excluded.replaced_at WHERE lake_replaced.replaced_at > $5",
    )
    .bind(object.to_string())
    .bind(tenant.as_str())
    .bind(part_id)
    .bind(at.as_micros())
    .bind(CLAIMED)
    .execute(&mut **transaction)
    .await?;
    is_ours(written.rows_affected(), part_id)
}

fn is_ours(rows: u64, part_id: &str) -> Result<(), LakeError> {
    if rows == 1 { Ok(()) } else { Err(LakeError::ObjectGone { part_id: part_id.to_owned() }) }
}

/// Puts a part into the lake. Its object was let go before it was stored, and is kept from now on.
pub(crate) async fn insert(transaction: &mut Transaction<'static, Any>, part: &LakePart) -> Result<(), LakeError> {
    let kept = sqlx::query("DELETE FROM lake_replaced WHERE digest = $1 AND replaced_at > $2")
        .bind(part.digest.to_string())
        .bind(CLAIMED)
        .execute(&mut **transaction)
        .await?;
    is_ours(kept.rows_affected(), &part.part_id)?;
    let group = part.group.as_ref();
    sqlx::query(
        "INSERT INTO lake_parts (part_id, tenant, topic, partition_index, first_position, last_position, digest, \
         pairs, bytes, min_labeled_at, max_labeled_at, day, audience, language, generation, erasures) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
    )
    .bind(&part.part_id)
    .bind(part.tenant.as_str())
    .bind(&part.topic)
    .bind(i64::from(part.partition))
    .bind(&part.first_position)
    .bind(&part.last_position)
    .bind(part.digest.to_string())
    .bind(stored(part.pairs))
    .bind(stored(part.bytes))
    .bind(part.min_labeled_at.as_micros())
    .bind(part.max_labeled_at.as_micros())
    .bind(group.map(|group| group.day))
    .bind(group.map(|group| group.audience.to_string()))
    .bind(group.map(|group| group.language.clone()))
    .bind(i64::from(part.generation))
    .bind(stored(part.erasures))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Takes a part out of the lake, and writes down that its object is to be removed some day. False: it is not there any
/// more, or not the one that was listed.
pub(crate) async fn replace(
    transaction: &mut Transaction<'static, Any>,
    part: &LakePart,
    now: Timestamp,
) -> Result<bool, LakeError> {
    let deleted = sqlx::query("DELETE FROM lake_parts WHERE part_id = $1 AND digest = $2")
        .bind(&part.part_id)
        .bind(part.digest.to_string())
        .execute(&mut **transaction)
        .await?;
    if deleted.rows_affected() != 1 {
        return Ok(false);
    }
    let_go(transaction, (part.part_id.as_str(), &part.tenant), &part.digest, now).await?;
    Ok(true)
}

/// Parts of which every pair was labeled before `before`, of all tenants: the oldest first, as many as one transaction
/// takes out.
pub(crate) async fn labeled_before(pool: &AnyPool, before: Timestamp) -> Result<Vec<LakePart>, LakeError> {
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM lake_parts WHERE max_labeled_at < $1 ORDER BY max_labeled_at, part_id LIMIT 200"
    )))
    .bind(before.as_micros())
    .fetch_all(pool)
    .await?;
    rows.iter().map(part_of).collect()
}

/// Writes down that a pair that was labeled then has left the lake because of its age.
pub(crate) async fn expire_until(
    transaction: &mut Transaction<'static, Any>,
    tenant: &TenantId,
    labeled_at: Timestamp,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO lake_expired (tenant, labeled_until) VALUES ($1, $2) ON CONFLICT (tenant) \
         DO UPDATE SET labeled_until = excluded.labeled_until \
         WHERE lake_expired.labeled_until < excluded.labeled_until",
    )
    .bind(tenant.as_str())
    .bind(labeled_at.as_micros())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Writes down that nothing in the part is sealed under one of the first `erasures` keys that were destroyed.
pub(crate) async fn mark(
    transaction: &mut Transaction<'static, Any>,
    part: &LakePart,
    erasures: u64,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE lake_parts SET erasures = $1 WHERE part_id = $2 AND digest = $3 AND erasures < $1")
        .bind(stored(erasures))
        .bind(&part.part_id)
        .bind(part.digest.to_string())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Objects that were let go before `until`, the oldest first, a bounded number of them.
pub(crate) async fn replaced_before(pool: &AnyPool, until: Timestamp) -> Result<Vec<Sha256Digest>, LakeError> {
    let digests: Vec<String> = sqlx::query_scalar(
        "SELECT digest FROM lake_replaced WHERE replaced_at < $1 ORDER BY replaced_at, digest LIMIT 1000",
    )
    .bind(until.as_micros())
    .fetch_all(pool)
    .await?;
    Ok(digests.iter().map(|digest| digest.parse()).collect::<Result<_, _>>()?)
}

/// Claims an object that was let go before `until`, to remove it: from here on no row can come to name it, and nobody can
/// begin to store it, until it is forgotten. False: a row names it, or somebody is about to store it anew.
pub(crate) async fn claim(
    transaction: &mut Transaction<'static, Any>,
    object: &Sha256Digest,
    until: Timestamp,
) -> Result<bool, sqlx::Error> {
    let claimed = sqlx::query("UPDATE lake_replaced SET replaced_at = $1 WHERE digest = $2 AND replaced_at < $3")
        .bind(CLAIMED)
        .bind(object.to_string())
        .bind(until.as_micros())
        .execute(&mut **transaction)
        .await?;
    if claimed.rows_affected() != 1 {
        return Ok(false);
    }
    let parts: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM lake_parts WHERE digest = $1")
        .bind(object.to_string())
        .fetch_one(&mut **transaction)
        .await?;
    if parts > 0 {
        forget(&mut **transaction, object).await?;
    }
    Ok(parts == 0)
}

/// Forgets an object that was claimed: it is gone, or a row names it.
pub(crate) async fn forget<'c>(
    database: impl Executor<'c, Database = Any>,
    object: &Sha256Digest,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM lake_replaced WHERE digest = $1 AND replaced_at = $2")
        .bind(object.to_string())
        .bind(CLAIMED)
        .execute(database)
        .await?;
    Ok(())
}
