//! Rows of the registry's tables, read and written inside the caller's transaction or on a connection of a pool.

use events::{Arm, ModelName, ModelVersion, RolloutId, TenantId, Timestamp};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use crate::error::RegistryError;
use crate::evidence::PersonBlock;
use crate::policy::CLOSE_SECONDS;
use crate::rollout::{Rollout, RolloutState};
use crate::routing::{ActiveRollout, RoutingTable, ServedVersion};
use crate::version::{Alias, AuditEntry, ModelSummary, NewVersion, Version};

/// The row of a model.
#[derive(Debug, Clone)]
pub(crate) struct ModelRow {
    pub(crate) revision: i64,
    pub(crate) last_version: i64,
    pub(crate) holdback_share: f64,
    pub(crate) routing: Option<String>,
}

const VERSION_COLUMNS: &str = "tenant, model, version, artifact_digest, manifest, parent, anchor, snapshot_digest, \
     run_id, code_version, method, audience, evaluation, evaluation_digest, registered_at, registered_by, promoted_at";
const ROLLOUT_COLUMNS: &str = "rollout_id, tenant, model, candidate, baseline, reference, policy, state, created_at, \
     started_at, finished_at, blocks_complete, projected_blocks, reason, decided_by";

fn unreadable<E>(what: &'static str) -> impl FnOnce(E) -> RegistryError {
    move |_| RegistryError::Unreadable { what }
}

fn parsed<T: std::str::FromStr>(row: &AnyRow, column: &'static str) -> Result<T, RegistryError> {
    row.try_get::<String, _>(column)?.parse().map_err(unreadable(column))
}

fn parsed_optional<T: std::str::FromStr>(row: &AnyRow, column: &'static str) -> Result<Option<T>, RegistryError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| text.parse().map_err(unreadable(column))).transpose()
}

fn json(row: &AnyRow, column: &'static str) -> Result<serde_json::Value, RegistryError> {
    serde_json::from_str(&row.try_get::<String, _>(column)?).map_err(unreadable(column))
}

fn time_optional(row: &AnyRow, column: &'static str) -> Result<Option<Timestamp>, RegistryError> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_micros))
}

fn version_optional(row: &AnyRow, column: &'static str) -> Result<Option<ModelVersion>, RegistryError> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(ModelVersion))
}

fn version_of(row: &AnyRow) -> Result<Version, RegistryError> {
    Ok(Version {
        tenant: parsed(row, "tenant")?,
        model: parsed(row, "model")?,
        version: ModelVersion(row.try_get("version")?),
        artifact_digest: parsed(row, "artifact_digest")?,
        manifest: json(row, "manifest")?,
        parent: version_optional(row, "parent")?,
        anchor: version_optional(row, "anchor")?,
        snapshot_digest: parsed_optional(row, "snapshot_digest")?,
        run_id: parsed_optional(row, "run_id")?,
        code_version: row.try_get("code_version")?,
        method: row.try_get("method")?,
        audience: parsed_optional(row, "audience")?,
        evaluation: json(row, "evaluation")?,
        evaluation_digest: parsed(row, "evaluation_digest")?,
        registered_at: Timestamp::from_micros(row.try_get("registered_at")?),
        registered_by: row.try_get("registered_by")?,
        promoted_at: time_optional(row, "promoted_at")?,
    })
}

fn rollout_of(row: &AnyRow) -> Result<Rollout, RegistryError> {
    let policy: String = row.try_get("policy")?;
    Ok(Rollout {
        rollout_id: parsed(row, "rollout_id")?,
        tenant: parsed(row, "tenant")?,
        model: parsed(row, "model")?,
        candidate: ModelVersion(row.try_get("candidate")?),
        baseline: ModelVersion(row.try_get("baseline")?),
        reference: version_optional(row, "reference")?,
        policy: serde_json::from_str(&policy).map_err(unreadable("policy"))?,
        state: parsed(row, "state")?,
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        started_at: time_optional(row, "started_at")?,
        finished_at: time_optional(row, "finished_at")?,
        blocks_complete: row.try_get("blocks_complete")?,
        projected_blocks: row.try_get("projected_blocks")?,
        reason: row.try_get("reason")?,
        decided_by: row.try_get("decided_by")?,
    })
}

pub(crate) async fn model_row(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Option<ModelRow>, RegistryError> {
    let row = sqlx::query(
        "SELECT revision, last_version, holdback_share, routing FROM models WHERE tenant = $1 AND model = $2",
    )
    .bind(tenant.as_str())
    .bind(model.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(ModelRow {
            revision: row.try_get("revision")?,
            last_version: row.try_get("last_version")?,
            holdback_share: row.try_get("holdback_share")?,
            routing: row.try_get("routing")?,
        })
    })
    .transpose()
}

/// Makes the row of a model at revision 0, unless there is one.
pub(crate) async fn create_model(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    holdback_share: f64,
    now: Timestamp,
) -> Result<(), RegistryError> {
    sqlx::query(
        "INSERT INTO models (tenant, model, revision, last_version, holdback_share, created_at) \
         VALUES ($1, $2, 0, 0, $3, $4) ON CONFLICT (tenant, model) DO NOTHING",
    )
    .bind(tenant.as_str())
    .bind(model.as_str())
    .bind(holdback_share)
    .bind(now.as_micros())
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes the model's row if its revision is still `row.revision`; whether it was.
pub(crate) async fn advance_model(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    row: &ModelRow,
) -> Result<bool, RegistryError> {
    let changed = sqlx::query(
        "UPDATE models SET revision = $1, last_version = $2, holdback_share = $3, routing = $4 \
         WHERE tenant = $5 AND model = $6 AND revision = $7",
    )
    .bind(row.revision + 1)
    .bind(row.last_version)
    .bind(row.holdback_share)
    .bind(row.routing.as_deref())
    .bind(tenant.as_str())
    .bind(model.as_str())
    .bind(row.revision)
    .execute(connection)
    .await?
    .rows_affected();
    Ok(changed == 1)
}

pub(crate) async fn insert_version(connection: &mut AnyConnection, version: &Version) -> Result<(), RegistryError> {
    sqlx::query(
        "INSERT INTO model_versions (tenant, model, version, artifact_digest, manifest, parent, anchor, \
         snapshot_digest, run_id, code_version, method, audience, evaluation, registered_at, registered_by, \
         evaluation_digest) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
    )
    .bind(version.tenant.as_str())
    .bind(version.model.as_str())
    .bind(version.version.0)
    .bind(version.artifact_digest.to_string())
    .bind(version.manifest.to_string())
    .bind(version.parent.map(|version| version.0))
    .bind(version.anchor.map(|version| version.0))
    .bind(version.snapshot_digest.map(|digest| digest.to_string()))
    .bind(version.run_id.map(|run| run.to_string()))
    .bind(&version.code_version)
    .bind(&version.method)
    .bind(version.audience.as_ref().map(ToString::to_string))
    .bind(version.evaluation.to_string())
    .bind(version.registered_at.as_micros())
    .bind(&version.registered_by)
    .bind(version.evaluation_digest.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn version(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    version: ModelVersion,
) -> Result<Version, RegistryError> {
    let statement =
        format!("SELECT {VERSION_COLUMNS} FROM model_versions WHERE tenant = $1 AND model = $2 AND version = $3");
    let row = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(tenant.as_str())
        .bind(model.as_str())
        .bind(version.0)
        .fetch_optional(connection)
        .await?;
    match row {
        Some(row) => version_of(&row),
        None => Err(RegistryError::UnknownVersion { model: model.clone(), version }),
    }
}

/// The version that was registered for the same run (or, without a run, the same artifact and no run).
pub(crate) async fn same_registration(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    new: &NewVersion,
) -> Result<Option<Version>, RegistryError> {
    let by = match new.run_id {
        Some(_) => "run_id = $3",
        None => "run_id IS NULL AND artifact_digest = $3",
    };
    let statement = format!(
        "SELECT {VERSION_COLUMNS} FROM model_versions WHERE tenant = $1 AND model = $2 AND {by} \
         ORDER BY version LIMIT 1"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(tenant.as_str())
        .bind(new.model.as_str())
        .bind(new.run_id.map_or_else(|| new.artifact_digest.to_string(), |run| run.to_string()))
        .fetch_optional(connection)
        .await?;
    row.map(|row| version_of(&row)).transpose()
}

pub(crate) async fn versions(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Vec<Version>, RegistryError> {
    let statement = format!(
        "SELECT {VERSION_COLUMNS} FROM model_versions WHERE tenant = $1 AND model = $2 ORDER BY version DESC LIMIT 1000"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(tenant.as_str())
        .bind(model.as_str())
        .fetch_all(connection)
        .await?;
    rows.iter().map(version_of).collect()
}

/// All versions of a model, in no order.
pub(crate) async fn all_versions(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Vec<Version>, RegistryError> {
    let statement = format!("SELECT {VERSION_COLUMNS} FROM model_versions WHERE tenant = $1 AND model = $2");
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(tenant.as_str())
        .bind(model.as_str())
        .fetch_all(connection)
        .await?;
    rows.iter().map(version_of).collect()
}

/// The routing table that is served now.
pub(crate) async fn routing(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Option<RoutingTable>, RegistryError> {
    let text = model_row(connection, tenant, model).await?.and_then(|row| row.routing);
    text.map(|text| serde_json::from_str(&text).map_err(unreadable("routing"))).transpose()
}

pub(crate) async fn alias(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    alias: Alias,
) -> Result<Option<ModelVersion>, RegistryError> {
    let version: Option<i64> =
        sqlx::query_scalar("SELECT version FROM model_aliases WHERE tenant = $1 AND model = $2 AND alias = $3")
            .bind(tenant.as_str())
            .bind(model.as_str())
            .bind(alias.as_str())
            .fetch_optional(connection)
            .await?;
    Ok(version.map(ModelVersion))
}

/// Points an alias to `version`; a version that becomes current is promoted as of `now`. The model's revision orders
/// promotions.
pub(crate) async fn set_alias(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    alias: Alias,
    version: ModelVersion,
    now: Timestamp,
    revision: i64,
) -> Result<(), RegistryError> {
    sqlx::query(
        "INSERT INTO model_aliases (tenant, model, alias, version, updated_at) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (tenant, model, alias) DO UPDATE SET version = excluded.version, updated_at = excluded.updated_at",
    )
    .bind(tenant.as_str())
    .bind(model.as_str())
    .bind(alias.as_str())
    .bind(version.0)
    .bind(now.as_micros())
    .execute(&mut *connection)
    .await?;
    if alias == Alias::Current {
        sqlx::query(
            "UPDATE model_versions SET promoted_at = $1, promotion = $2 \
             WHERE tenant = $3 AND model = $4 AND version = $5",
        )
        .bind(now.as_micros())
        .bind(revision)
        .bind(tenant.as_str())
        .bind(model.as_str())
        .bind(version.0)
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// A version that was taken back serves no audience any more, not even as the newest of its own.
pub(crate) async fn withdraw_promotion(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    version: ModelVersion,
) -> Result<(), RegistryError> {
    sqlx::query(
        "UPDATE model_versions SET promoted_at = NULL, promotion = NULL \
         WHERE tenant = $1 AND model = $2 AND version = $3",
    )
    .bind(tenant.as_str())
    .bind(model.as_str())
    .bind(version.0)
    .execute(connection)
    .await?;
    Ok(())
}

/// The routing table as the rows say it; none before there is a current version.
pub(crate) async fn build_routing(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    row: &ModelRow,
) -> Result<Option<RoutingTable>, RegistryError> {
    let Some(current) = alias(connection, tenant, model, Alias::Current).await? else { return Ok(None) };
    let reference = alias(connection, tenant, model, Alias::Reference).await?;
    let current = version(connection, tenant, model, current).await?;
    let reference = match reference {
        Some(reference) => Some(version(connection, tenant, model, reference).await?),
        None => None,
    };
    let statement = format!(
        "SELECT {VERSION_COLUMNS} FROM model_versions WHERE tenant = $1 AND model = $2 AND promotion IS NOT NULL \
         ORDER BY promotion DESC"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(tenant.as_str())
        .bind(model.as_str())
        .fetch_all(&mut *connection)
        .await?;
    let mut promoted: Vec<ServedVersion> = Vec::new();
    for row in &rows {
        let candidate = served(&version_of(row)?);
        // An older one of the same audience is never chosen.
        if promoted.iter().all(|newer| newer.audience != candidate.audience) {
            promoted.push(candidate);
        }
    }
    let rollout = match active_rollout(connection, tenant, model).await? {
        Some(rollout) if rollout.state.is_serving() => {
            let candidate = version(connection, tenant, model, rollout.candidate).await?;
            rollout.started_at.map(|started_at| ActiveRollout {
                rollout_id: rollout.rollout_id,
                candidate: served(&candidate),
                canary_share: rollout.policy.canary_share,
                started_at,
                block_seconds: rollout.policy.block_seconds,
            })
        }
        _ => None,
    };
    Ok(Some(RoutingTable {
        tenant: tenant.clone(),
        model: model.clone(),
        revision: row.revision + 1,
        current: served(&current),
        reference: reference.as_ref().map(served),
        holdback_share: row.holdback_share,
        promoted,
        rollout,
    }))
}

fn served(version: &Version) -> ServedVersion {
    ServedVersion {
        version: version.version,
        artifact_digest: version.artifact_digest,
        audience: version.audience.clone(),
    }
}

pub(crate) async fn insert_rollout(connection: &mut AnyConnection, rollout: &Rollout) -> Result<(), RegistryError> {
    let policy = serde_json::to_string(&rollout.policy).map_err(unreadable("policy"))?;
    sqlx::query(
        "INSERT INTO rollouts (rollout_id, tenant, model, candidate, baseline, reference, policy, state, created_at, \
         blocks_complete, projected_blocks, reason) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11)",
    )
    .bind(rollout.rollout_id.to_string())
    .bind(rollout.tenant.as_str())
    .bind(rollout.model.as_str())
    .bind(rollout.candidate.0)
    .bind(rollout.baseline.0)
    .bind(rollout.reference.map(|version| version.0))
    .bind(policy)
    .bind(rollout.state.as_str())
    .bind(rollout.created_at.as_micros())
    .bind(rollout.projected_blocks)
    .bind(&rollout.reason)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes what changes in a rollout, if it is still in state `before` with `blocks_before` complete blocks; whether it
/// was.
pub(crate) async fn update_rollout(
    connection: &mut AnyConnection,
    rollout: &Rollout,
    before: RolloutState,
    blocks_before: i64,
    evidence: Option<&str>,
) -> Result<bool, RegistryError> {
    let changed = sqlx::query(
        "UPDATE rollouts SET state = $1, started_at = $2, finished_at = $3, blocks_complete = $4, reason = $5, \
         decided_by = $6, evidence = COALESCE($7, evidence) \
         WHERE rollout_id = $8 AND state = $9 AND blocks_complete = $10",
    )
    .bind(rollout.state.as_str())
    .bind(rollout.started_at.map(Timestamp::as_micros))
    .bind(rollout.finished_at.map(Timestamp::as_micros))
    .bind(rollout.blocks_complete)
    .bind(&rollout.reason)
    .bind(rollout.decided_by.as_deref())
    .bind(evidence)
    .bind(rollout.rollout_id.to_string())
    .bind(before.as_str())
    .bind(blocks_before)
    .execute(connection)
    .await?
    .rows_affected();
    Ok(changed == 1)
}

pub(crate) async fn rollout(connection: &mut AnyConnection, rollout: RolloutId) -> Result<Rollout, RegistryError> {
    let statement = format!("SELECT {ROLLOUT_COLUMNS} FROM rollouts WHERE rollout_id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(rollout.to_string()).fetch_optional(connection).await?;
    match row {
        Some(row) => rollout_of(&row),
        None => Err(RegistryError::UnknownRollout { rollout }),
    }
}

/// The deadline (real time) of the turn that a rollout belongs to: that of its candidate's training run, if the run
/// started the rollout or is about to say so. A rollout that somebody starts of an old version has none.
pub(crate) async fn deadline_of_turn(
    connection: &mut AnyConnection,
    rollout: &Rollout,
) -> Result<Option<Timestamp>, RegistryError> {
    let deadline: Option<i64> = sqlx::query_scalar(
        "SELECT training_runs.deadline_at FROM model_versions JOIN training_runs \
         ON training_runs.run_id = model_versions.run_id AND training_runs.tenant = model_versions.tenant \
         WHERE model_versions.tenant = $1 AND model_versions.model = $2 AND model_versions.version = $3 \
         AND (training_runs.rollout_id = $4 OR training_runs.state IN ('queued', 'running'))",
    )
    .bind(rollout.tenant.as_str())
    .bind(rollout.model.as_str())
    .bind(rollout.candidate.0)
    .bind(rollout.rollout_id.to_string())
    .fetch_optional(connection)
    .await?;
    Ok(deadline.map(Timestamp::from_micros))
}

/// Whether a closed opportunity tells that the candidate showed somebody a suggestion in this rollout.
pub(crate) async fn candidate_was_served(
    connection: &mut AnyConnection,
    rollout: &Rollout,
) -> Result<bool, RegistryError> {
    let served = sqlx::query(
        "SELECT opportunity_id FROM opportunity_outcomes WHERE tenant = $1 AND rollout_id = $2 AND arm = 'canary' \
         AND model_version = $3 AND decision = 'shown' LIMIT 1",
    )
    .bind(rollout.tenant.as_str())
    .bind(rollout.rollout_id.to_string())
    .bind(rollout.candidate.0)
    .fetch_optional(connection)
    .await?;
    Ok(served.is_some())
}

pub(crate) async fn active_rollout(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Option<Rollout>, RegistryError> {
    let statement = format!(
        "SELECT {ROLLOUT_COLUMNS} FROM rollouts WHERE tenant = $1 AND model = $2 \
         AND state IN ('pending', 'canary', 'awaiting_approval')"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(tenant.as_str())
        .bind(model.as_str())
        .fetch_optional(connection)
        .await?;
    row.map(|row| rollout_of(&row)).transpose()
}

/// Running rollouts of all tenants, oldest first: the reconciler's work.
pub(crate) async fn active_rollouts(connection: &mut AnyConnection) -> Result<Vec<Rollout>, RegistryError> {
    let statement = format!(
        "SELECT {ROLLOUT_COLUMNS} FROM rollouts WHERE state IN ('pending', 'canary', 'awaiting_approval') \
         ORDER BY created_at, rollout_id"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement)).fetch_all(connection).await?;
    rows.iter().map(rollout_of).collect()
}

pub(crate) async fn rollouts(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: Option<&ModelName>,
) -> Result<Vec<Rollout>, RegistryError> {
    // An empty text is no model's name.
    let statement = format!(
        "SELECT {ROLLOUT_COLUMNS} FROM rollouts WHERE tenant = $1 AND ($2 = '' OR model = $2) \
         ORDER BY created_at DESC, rollout_id DESC LIMIT 1000"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(tenant.as_str())
        .bind(model.map_or("", ModelName::as_str))
        .fetch_all(connection)
        .await?;
    rows.iter().map(rollout_of).collect()
}

/// All rollouts of a model, oldest first.
pub(crate) async fn all_rollouts(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
) -> Result<Vec<Rollout>, RegistryError> {
    let statement = format!(
        "SELECT {ROLLOUT_COLUMNS} FROM rollouts WHERE tenant = $1 AND model = $2 ORDER BY created_at, rollout_id"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(tenant.as_str())
        .bind(model.as_str())
        .fetch_all(connection)
        .await?;
    rows.iter().map(rollout_of).collect()
}

/// What each person did, from closed opportunities. Canary rows count only if the candidate really answered, hold-back
/// rows only if the reference did. An exposure counts when it is older than the close at `cut`.
const TALLY: &str = "SELECT block, arm, person, COUNT(*) AS opportunities, SUM(utility) AS utility, \
     CAST(SUM(shown) AS BIGINT) AS shown, CAST(SUM(accepted) AS BIGINT) AS accepted, \
     CAST(SUM(kept_characters) AS BIGINT) AS kept_characters FROM opportunity_outcomes \
     WHERE tenant = $1 AND rollout_id = $2 AND block >= $3 AND block < $4 AND exposed_at <= $5 AND censored = 0 \
     AND (arm = 'current' OR (arm = 'canary' AND model_version = $6) OR (arm = 'holdback' AND model_version = $7)) \
     GROUP BY block, arm, person";

fn tally_of(row: &AnyRow) -> Result<PersonBlock, RegistryError> {
    Ok(PersonBlock {
        block: row.try_get("block")?,
        arm: Arm::from_symbol(&row.try_get::<String, _>("arm")?),
        person: parsed(row, "person")?,
        opportunities: row.try_get("opportunities")?,
        utility: row.try_get("utility")?,
        shown: row.try_get("shown")?,
        accepted: row.try_get("accepted")?,
        kept_characters: row.try_get("kept_characters")?,
    })
}

fn close_cut(cut: Timestamp) -> i64 {
    cut.as_micros().saturating_sub(CLOSE_SECONDS * 1_000_000)
}

/// The version that a hold-back row must come from; without a reference nobody is held back.
fn reference_of(rollout: &Rollout) -> i64 {
    rollout.reference.map_or(0, |version| version.0)
}

/// Tallies of the blocks from `first` to before `end`, straight from the outcomes.
pub(crate) async fn live_tallies(
    connection: &mut AnyConnection,
    rollout: &Rollout,
    first: i64,
    end: i64,
    cut: Timestamp,
) -> Result<Vec<PersonBlock>, RegistryError> {
    let rows = sqlx::query(TALLY)
        .bind(rollout.tenant.as_str())
        .bind(rollout.rollout_id.to_string())
        .bind(first)
        .bind(end)
        .bind(close_cut(cut))
        .bind(rollout.candidate.0)
        .bind(reference_of(rollout))
        .fetch_all(connection)
        .await?;
    rows.iter().map(tally_of).collect()
}

/// Keeps the tallies of `block` as they are now.
pub(crate) async fn freeze_block(
    connection: &mut AnyConnection,
    rollout: &Rollout,
    block: i64,
    cut: Timestamp,
) -> Result<(), RegistryError> {
    let statement = format!(
        "INSERT INTO rollout_tallies (rollout_id, block, arm, person, opportunities, utility, shown, accepted, \
         kept_characters) SELECT $8, block, arm, person, opportunities, utility, shown, accepted, kept_characters \
         FROM ({TALLY}) AS tally"
    );
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(rollout.tenant.as_str())
        .bind(rollout.rollout_id.to_string())
        .bind(block)
        .bind(block + 1)
        .bind(close_cut(cut))
        .bind(rollout.candidate.0)
        .bind(reference_of(rollout))
        .bind(rollout.rollout_id.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

pub(crate) async fn frozen_tallies(
    connection: &mut AnyConnection,
    rollout: RolloutId,
) -> Result<Vec<PersonBlock>, RegistryError> {
    let rows = sqlx::query(
        "SELECT block, arm, person, opportunities, utility, shown, accepted, kept_characters FROM rollout_tallies \
         WHERE rollout_id = $1",
    )
    .bind(rollout.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(tally_of).collect()
}

/// Persons with a closed opportunity of this model since a moment.
pub(crate) async fn persons_since(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    since: Timestamp,
) -> Result<i64, RegistryError> {
    Ok(sqlx::query_scalar(
        "SELECT COUNT(DISTINCT person) FROM opportunity_outcomes WHERE tenant = $1 AND model = $2 AND exposed_at >= $3",
    )
    .bind(tenant.as_str())
    .bind(model.as_str())
    .bind(since.as_micros())
    .fetch_one(connection)
    .await?)
}

pub(crate) async fn insert_audit(connection: &mut AnyConnection, entry: &AuditEntry) -> Result<(), RegistryError> {
    sqlx::query(
        "INSERT INTO audit_log (tenant, model, revision, at, actor, action, subject, detail) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(entry.tenant.as_str())
    .bind(entry.model.as_str())
    .bind(entry.revision)
    .bind(entry.at.as_micros())
    .bind(&entry.actor)
    .bind(&entry.action)
    .bind(&entry.subject)
    .bind(entry.detail.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

pub(crate) async fn audit(
    connection: &mut AnyConnection,
    tenant: &TenantId,
    model: &ModelName,
    after_revision: i64,
    limit: i64,
) -> Result<Vec<AuditEntry>, RegistryError> {
    let rows = sqlx::query(
        "SELECT tenant, model, revision, at, actor, action, subject, detail FROM audit_log \
         WHERE tenant = $1 AND model = $2 AND revision > $3 ORDER BY revision LIMIT $4",
    )
    .bind(tenant.as_str())
    .bind(model.as_str())
    .bind(after_revision)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(AuditEntry {
                tenant: parsed(row, "tenant")?,
                model: parsed(row, "model")?,
                revision: row.try_get("revision")?,
                at: Timestamp::from_micros(row.try_get("at")?),
                actor: row.try_get("actor")?,
                action: row.try_get("action")?,
                subject: row.try_get("subject")?,
                detail: json(row, "detail")?,
            })
        })
        .collect()
}

/// Most models of a list.
const MOST_MODELS: usize = 1000;

pub(crate) async fn models(
    connection: &mut AnyConnection,
    tenant: &TenantId,
) -> Result<Vec<ModelSummary>, RegistryError> {
    let rows = sqlx::query(
        "SELECT m.tenant AS tenant, m.model AS model, m.revision AS revision, m.last_version AS last_version, \
         m.holdback_share AS holdback_share, c.version AS current_version, r.version AS reference_version, \
         o.rollout_id AS rollout_id FROM models m \
         LEFT JOIN model_aliases c ON c.tenant = m.tenant AND c.model = m.model AND c.alias = 'current' \
         LEFT JOIN model_aliases r ON r.tenant = m.tenant AND r.model = m.model AND r.alias = 'reference' \
         LEFT JOIN rollouts o ON o.tenant = m.tenant AND o.model = m.model \
         AND o.state IN ('pending', 'canary', 'awaiting_approval') \
         WHERE m.tenant = $1",
    )
    .bind(tenant.as_str())
    .fetch_all(connection)
    .await?;
    let mut models = (rows.iter())
        .map(|row| {
            Ok(ModelSummary {
                tenant: parsed(row, "tenant")?,
                model: parsed(row, "model")?,
                versions: row.try_get("last_version")?,
                current: version_optional(row, "current_version")?,
                reference: version_optional(row, "reference_version")?,
                holdback_share: row.try_get("holdback_share")?,
                active_rollout: parsed_optional(row, "rollout_id")?,
                revision: row.try_get("revision")?,
            })
        })
        .collect::<Result<Vec<ModelSummary>, RegistryError>>()?;
    // Here and not by the database, whose order of texts is a setting.
    models.sort_by(|left, right| left.model.as_str().cmp(right.model.as_str()));
    models.truncate(MOST_MODELS);
    Ok(models)
}
