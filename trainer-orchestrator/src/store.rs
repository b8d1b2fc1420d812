//! Snapshots and runs in the database.

use events::{EventId, FlywheelEvent, ModelName, RunId, Sha256Digest, TenantId, Timestamp, topics, uuid_v7};
use migrations::{begin_write, commit, retried};
use model_registry::lineage::Purpose;
use serde::Serialize;
use service::lease::Fence;
use service::outbox::{self, OutboxKind, OutboxMessage};
use sqlx::{AnyPool, AssertSqlSafe, Row};

use crate::data_set::manifest::SnapshotPlan;
use crate::data_set::stored;
use crate::error::OrchestratorError;

/// A lake part that a snapshot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRead {
    /// Digest of the Parquet object.
    pub digest: Sha256Digest,
    /// Partition of the pair topic.
    pub partition: i64,
    /// First position inside.
    pub first_position: String,
    /// Last position inside.
    pub last_position: String,
}

/// States of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Stored, no job yet.
    Queued,
    /// A job works on it.
    Running,
    /// The job ended well; `outcome` says what came of it.
    Succeeded,
    /// No attempt succeeded before the deadline.
    Failed,
}

impl RunState {
    /// The symbol in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    fn from_symbol(text: &str) -> Self {
        match text {
            "queued" => Self::Queued,
            "running" => Self::Running,
            "succeeded" => Self::Succeeded,
            _ => Self::Failed,
        }
    }
}

/// A training run as stored.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Its id.
    pub run_id: RunId,
    /// The data set.
    pub snapshot_digest: Sha256Digest,
    /// Version that served when it was planned; the candidate is judged against it.
    pub parent_version: i64,
    /// Version whose weights it starts from.
    pub anchor_version: i64,
    /// `sft`, `dpo` or `actionrl`.
    pub method: String,
    /// Seed of batching.
    pub seed: i64,
    /// Where it stands.
    pub state: RunState,
    /// `eligible`, `held`, `failed` or `deadline`, once it ended.
    pub outcome: Option<String>,
    /// Numbers and codes as JSON.
    pub detail: String,
    /// Attempts so far.
    pub attempt: i64,
    /// Newest signal in the data set.
    pub last_signal_at: Timestamp,
    /// Absolute, real time.
    pub deadline_at: Timestamp,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// The version that it became.
    pub version: Option<i64>,
    /// The rollout that it started.
    pub rollout_id: Option<String>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ending<'a> {
    pub(crate) state: RunState,
    pub(crate) outcome: &'a str,
    pub(crate) detail: &'a serde_json::Value,
    pub(crate) version: Option<i64>,
    pub(crate) rollout_id: Option<String>,
}

impl Run {
    /// How many attempts failed so far, and why the last one did.
    pub(crate) fn failures(&self) -> (i64, String) {
        let detail: serde_json::Value = serde_json::from_str(&self.detail).unwrap_or_default();
        let count = detail.get("failures").and_then(serde_json::Value::as_i64).unwrap_or(0);
        let reason = detail.get("reason").and_then(serde_json::Value::as_str).unwrap_or("no attempt has failed");
        (count, reason.to_owned())
    }
}

/// Rows of one tenant's model.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    tenant: TenantId,
    model: ModelName,
}

const RUN_COLUMNS: &str = "run_id, snapshot_digest, parent_version, anchor_version, method, seed, state, outcome, \
     detail, attempt, last_signal_at, deadline_at, created_at, finished_at, version, rollout_id";

/// What a row says that its pair is used for.
pub(crate) fn purpose_of(row: &sqlx::any::AnyRow) -> Result<Purpose, OrchestratorError> {
    let text: String = row.try_get("purpose")?;
    Ok(text.parse::<Purpose>()?)
}

fn run_of(row: &sqlx::any::AnyRow) -> Result<Run, OrchestratorError> {
    let text = |name: &str| row.try_get::<String, _>(name);
    Ok(Run {
        run_id: text("run_id")?.parse()?,
        snapshot_digest: text("snapshot_digest")?.parse()?,
        parent_version: row.try_get("parent_version")?,
        anchor_version: row.try_get("anchor_version")?,
        method: text("method")?,
        seed: row.try_get("seed")?,
        state: RunState::from_symbol(&text("state")?),
        outcome: row.try_get("outcome")?,
        detail: text("detail")?,
        attempt: row.try_get("attempt")?,
        last_signal_at: Timestamp::from_micros(row.try_get("last_signal_at")?),
        deadline_at: Timestamp::from_micros(row.try_get("deadline_at")?),
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
        finished_at: row.try_get::<Option<i64>, _>("finished_at")?.map(Timestamp::from_micros),
        version: row.try_get("version")?,
        rollout_id: row.try_get("rollout_id")?,
    })
}

/// What a new run is stored with.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its id.
    pub run_id: RunId,
    /// Version that serves now.
    pub parent_version: i64,
    /// Version whose weights it starts from.
    pub anchor_version: i64,
    /// `sft`, `dpo` or `actionrl`.
    pub method: String,
    /// Seed of batching.
    pub seed: i64,
    /// Absolute, real time.
    pub deadline_at: Timestamp,
    /// Now.
    pub created_at: Timestamp,
}

impl Store {
    /// A store over `pool`.
    #[must_use]
    pub fn new(pool: AnyPool, tenant: TenantId, model: ModelName) -> Self {
        Self { pool, tenant, model }
    }

    /// Ids of all pairs that the snapshot of a run which did not fail trains on or holds out.
    pub async fn used_pairs(&self) -> Result<std::collections::HashSet<String>, OrchestratorError> {
        let rows = sqlx::query(
            "SELECT DISTINCT p.pair_id AS pair_id FROM snapshot_pairs p \
             JOIN training_runs r ON r.snapshot_digest = p.snapshot_digest \
             WHERE r.tenant = $1 AND r.model = $2 AND r.state <> 'failed'",
        )
        .bind(self.tenant.as_str().to_owned())
        .bind(self.model.as_str().to_owned())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(row.try_get::<String, _>("pair_id")?)).collect()
    }

    /// When the newest run ended, if it failed.
    pub async fn last_failure(&self) -> Result<Option<Timestamp>, OrchestratorError> {
        let newest = self.runs(1).await?.pop();
        Ok(newest.filter(|run| run.state == RunState::Failed).and_then(|run| run.finished_at))
    }

    /// Stores a snapshot (once; the same digest is the same snapshot) and queues a run on it, in one transaction under
    /// `fence`.
    pub async fn queue(
        &self,
        fence: &Fence,
        plan: &SnapshotPlan,
        parts: &[PartRead],
        run: &NewRun,
    ) -> Result<(), OrchestratorError> {
        retried(|| self.try_queue(fence, plan, parts, run)).await
    }

    async fn try_queue(
        &self,
        fence: &Fence,
        plan: &SnapshotPlan,
        parts: &[PartRead],
        run: &NewRun,
    ) -> Result<(), OrchestratorError> {
        let mut transaction = begin_write(&self.pool).await?;
        fence.check(&mut transaction).await?;
        stored::keep(&mut transaction, plan, parts, run.created_at).await?;
        sqlx::query(
            "INSERT INTO training_runs (run_id, tenant, model, snapshot_digest, parent_version, anchor_version, \
             method, seed, state, detail, attempt, owner_epoch, last_signal_at, deadline_at, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'queued', '{}', 0, 0, $9, $10, $11)",
        )
        .bind(run.run_id.to_string())
        .bind(self.tenant.as_str().to_owned())
        .bind(self.model.as_str().to_owned())
        .bind(plan.digest.to_string())
        .bind(run.parent_version)
        .bind(run.anchor_version)
        .bind(run.method.clone())
        .bind(run.seed)
        .bind(plan.last_signal_at.as_micros())
        .bind(run.deadline_at.as_micros())
        .bind(run.created_at.as_micros())
        .execute(&mut *transaction)
        .await?;
        let detail = serde_json::json!({
            "snapshot_digest": plan.digest, "parent": run.parent_version, "anchor": run.anchor_version,
            "method": run.method, "deadline_at": run.deadline_at,
        });
        outbox::append(&mut transaction, &self.told(run.run_id, "run_queued", run.created_at, &detail)?).await?;
        commit(transaction).await?;
        Ok(())
    }

    /// A fact for `flywheel.events.v1`. Its id depends on what it tells of alone, so that a repeated message is
    /// recognised.
    fn told(
        &self,
        run: RunId,
        kind: &str,
        at: Timestamp,
        detail: &serde_json::Value,
    ) -> Result<OutboxMessage, OrchestratorError> {
        let digest = Sha256Digest::of_parts("flywheel run", &[run.as_bytes(), kind.as_bytes()]);
        let mut random = [0_u8; 10];
        random.copy_from_slice(&digest.as_bytes()[..10]);
        let id = uuid_v7(at, random);
        let mut key = [0_u8; 16];
        let (tenant, model) = (self.tenant.as_str().as_bytes(), self.model.as_str().as_bytes());
        key.copy_from_slice(&Sha256Digest::of_parts("flywheel model", &[tenant, model]).as_bytes()[..16]);
        let event = FlywheelEvent {
            event_id: EventId::from_uuid(id),
            tenant: self.tenant.clone(),
            at,
            kind: kind.to_owned(),
            subject: run.to_string(),
            detail: serde_json::json!({ "model": self.model, "detail": detail }).to_string(),
        };
        Ok(OutboxMessage {
            id,
            topic: topics::FLYWHEEL_EVENTS.to_owned(),
            kind: OutboxKind::Record { key },
            value: events::avro::encode(&event)?.into(),
            created_at: at,
        })
    }

    /// The run that is queued or running, if any.
    pub async fn active(&self) -> Result<Option<Run>, OrchestratorError> {
        let row = sqlx::query(AssertSqlSafe(format!(
            "SELECT {RUN_COLUMNS} FROM training_runs \
             WHERE tenant = $1 AND model = $2 AND state IN ('queued', 'running')"
        )))
        .bind(self.tenant.as_str().to_owned())
        .bind(self.model.as_str().to_owned())
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(run_of).transpose()
    }

    /// The newest runs first.
    pub async fn runs(&self, limit: i64) -> Result<Vec<Run>, OrchestratorError> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT {RUN_COLUMNS} FROM training_runs WHERE tenant = $1 AND model = $2 \
             ORDER BY created_at DESC, run_id DESC LIMIT $3"
        )))
        .bind(self.tenant.as_str().to_owned())
        .bind(self.model.as_str().to_owned())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(run_of).collect()
    }

    /// Makes `epoch` the owner of an active run, unless a later one is; whether it is the owner now.
    pub async fn own(&self, run: RunId, epoch: i64) -> Result<bool, OrchestratorError> {
        let done = sqlx::query(
            "UPDATE training_runs SET owner_epoch = $2 \
             WHERE run_id = $1 AND owner_epoch <= $2 AND state IN ('queued', 'running')",
        )
        .bind(run.to_string())
        .bind(epoch)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Whether `epoch` is the owner of an active run.
    pub async fn owns(&self, run: RunId, epoch: i64) -> Result<bool, OrchestratorError> {
        let row = sqlx::query(
            "SELECT 1 AS one FROM training_runs \
             WHERE run_id = $1 AND owner_epoch = $2 AND state IN ('queued', 'running')",
        )
        .bind(run.to_string())
        .bind(epoch)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.is_some())
    }

    /// Remembers that an attempt failed, for whoever leads next.
    pub(crate) async fn record_failure(
        &self,
        run: RunId,
        epoch: i64,
        failures: i64,
        reason: &str,
    ) -> Result<(), OrchestratorError> {
        let detail = serde_json::json!({ "failures": failures, "reason": reason });
        sqlx::query(
            "UPDATE training_runs SET detail = $3 \
             WHERE run_id = $1 AND owner_epoch = $2 AND state IN ('queued', 'running')",
        )
        .bind(run.to_string())
        .bind(epoch)
        .bind(detail.to_string())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Begins an attempt under a fence; `None` if another owner has a newer one.
    pub async fn begin_attempt(
        &self,
        run: RunId,
        epoch: i64,
        now: Timestamp,
    ) -> Result<Option<i64>, OrchestratorError> {
        let row = sqlx::query(
            "UPDATE training_runs SET state = 'running', attempt = attempt + 1, owner_epoch = $2, \
             started_at = COALESCE(started_at, $3) \
             WHERE run_id = $1 AND owner_epoch <= $2 AND state IN ('queued', 'running') RETURNING attempt",
        )
        .bind(run.to_string())
        .bind(epoch)
        .bind(now.as_micros())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| row.try_get("attempt")).transpose()?)
    }

    /// Ends a run, if `epoch` still owns it. Returns whether it did.
    pub(crate) async fn finish(
        &self,
        run: RunId,
        epoch: i64,
        ending: &Ending<'_>,
        now: Timestamp,
    ) -> Result<bool, OrchestratorError> {
        retried(|| self.try_finish(run, epoch, ending, now)).await
    }

    async fn try_finish(
        &self,
        run: RunId,
        epoch: i64,
        ending: &Ending<'_>,
        now: Timestamp,
    ) -> Result<bool, OrchestratorError> {
        let mut transaction = begin_write(&self.pool).await?;
        let done = sqlx::query(
            "UPDATE training_runs SET state = $3, outcome = $4, detail = $5, finished_at = $6, version = $7, \
             rollout_id = $8 WHERE run_id = $1 AND owner_epoch = $2 AND state IN ('queued', 'running')",
        )
        .bind(run.to_string())
        .bind(epoch)
        .bind(ending.state.as_str().to_owned())
        .bind(ending.outcome.to_owned())
        .bind(ending.detail.to_string())
        .bind(now.as_micros())
        .bind(ending.version)
        .bind(ending.rollout_id.clone())
        .execute(&mut *transaction)
        .await?;
        if done.rows_affected() != 1 {
            return Ok(false);
        }
        let detail = serde_json::json!({
            "outcome": ending.outcome, "version": ending.version, "rollout": ending.rollout_id,
            "reason": ending.detail.get("reason"),
        });
        outbox::append(&mut transaction, &self.told(run, "run_ended", now, &detail)?).await?;
        commit(transaction).await?;
        Ok(true)
    }
}
