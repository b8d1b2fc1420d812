//! Snapshots and runs in the database.

use events::{ModelName, RunId, Sha256Digest, TenantId, Timestamp};
use migrations::begin_write;
use serde::Serialize;
use sqlx::{AnyPool, AssertSqlSafe, Row};

use crate::error::OrchestratorError;
use crate::snapshot::{Purpose, SnapshotPlan};

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
    /// `eligible`, `held` or `failed`, once it ended.
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

/// Rows of one tenant's model.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    tenant: TenantId,
    model: ModelName,
}

const RUN_COLUMNS: &str = "run_id, snapshot_digest, parent_version, anchor_version, method, seed, state, outcome, detail, attempt, \
     last_signal_at, deadline_at, created_at, finished_at, version, rollout_id";

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

    /// Ids of all pairs that some snapshot of this model already trains on or holds out.
    pub async fn used_pairs(&self) -> Result<std::collections::HashSet<String>, OrchestratorError> {
        let rows = sqlx::query(
            "SELECT DISTINCT p.pair_id AS pair_id FROM snapshot_pairs p JOIN snapshots s ON s.snapshot_digest = p.snapshot_digest \
             WHERE s.tenant = $1 AND s.model = $2",
        )
        .bind(self.tenant.as_str().to_owned())
        .bind(self.model.as_str().to_owned())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(row.try_get::<String, _>("pair_id")?)).collect()
    }

    /// Stores a snapshot (once; the same digest is the same snapshot) and queues a run on it, in one transaction.
    pub async fn queue(&self, plan: &SnapshotPlan, parts: &[PartRead], run: &NewRun) -> Result<(), OrchestratorError> {
        let mut transaction = begin_write(&self.pool).await?;
        let digest = plan.digest.to_string();
        let exists = sqlx::query("SELECT 1 AS one FROM snapshots WHERE snapshot_digest = $1")
            .bind(digest.clone())
            .fetch_optional(&mut *transaction)
            .await?
            .is_some();
        if !exists {
            sqlx::query(
                "INSERT INTO snapshots (snapshot_digest, tenant, model, audience, label_policy_version, code_version, filters, \
                 training_pairs, gate_pairs, first_labeled_at, last_labeled_at, last_signal_at, created_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            )
            .bind(digest.clone())
            .bind(self.tenant.as_str().to_owned())
            .bind(self.model.as_str().to_owned())
            .bind(plan.filters.audience.as_str().to_owned())
            .bind(i64::from(plan.filters.label_policy_version))
            .bind(plan.filters.code_version.clone())
            .bind(serde_json::to_string(&plan.filters)?)
            .bind(i64::try_from(plan.training.len()).unwrap_or(i64::MAX))
            .bind(i64::try_from(plan.gate.len()).unwrap_or(i64::MAX))
            .bind(plan.first_labeled_at.as_micros())
            .bind(plan.last_labeled_at.as_micros())
            .bind(plan.last_signal_at.as_micros())
            .bind(run.created_at.as_micros())
            .execute(&mut *transaction)
            .await?;
            let members = plan
                .training
                .iter()
                .map(|pair| (pair, Purpose::Training))
                .chain(plan.gate.iter().map(|pair| (pair, Purpose::Gate)));
            for (pair, purpose) in members {
                sqlx::query(
                    "INSERT INTO snapshot_pairs (snapshot_digest, pair_id, content_digest, person, purpose) VALUES ($1, $2, $3, $4, $5)",
                )
                .bind(digest.clone())
                .bind(pair.pair_id.to_string())
                .bind(pair.content_digest.to_string())
                .bind(pair.person.as_str().to_owned())
                .bind(purpose.as_str().to_owned())
                .execute(&mut *transaction)
                .await?;
            }
            for part in parts {
                sqlx::query(
                    "INSERT INTO snapshot_parts (snapshot_digest, part_digest, partition, first_position, last_position) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                )
                .bind(digest.clone())
                .bind(part.digest.to_string())
                .bind(part.partition)
                .bind(part.first_position.clone())
                .bind(part.last_position.clone())
                .execute(&mut *transaction)
                .await?;
            }
        }
        sqlx::query(
            "INSERT INTO training_runs (run_id, tenant, model, snapshot_digest, parent_version, anchor_version, method, seed, state, \
             detail, attempt, owner_epoch, last_signal_at, deadline_at, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'queued', '{}', 0, 0, $9, $10, $11)",
        )
        .bind(run.run_id.to_string())
        .bind(self.tenant.as_str().to_owned())
        .bind(self.model.as_str().to_owned())
        .bind(digest)
        .bind(run.parent_version)
        .bind(run.anchor_version)
        .bind(run.method.clone())
        .bind(run.seed)
        .bind(plan.last_signal_at.as_micros())
        .bind(run.deadline_at.as_micros())
        .bind(run.created_at.as_micros())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The run that is queued or running, if any.
    pub async fn active(&self) -> Result<Option<Run>, OrchestratorError> {
        let row = sqlx::query(AssertSqlSafe(format!(
            "SELECT {RUN_COLUMNS} FROM training_runs WHERE tenant = $1 AND model = $2 AND state IN ('queued', 'running')"
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
            "SELECT {RUN_COLUMNS} FROM training_runs WHERE tenant = $1 AND model = $2 ORDER BY created_at DESC, run_id DESC LIMIT $3"
        )))
        .bind(self.tenant.as_str().to_owned())
        .bind(self.model.as_str().to_owned())
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(run_of).collect()
    }

    /// Members of a snapshot with their purpose.
    pub async fn members(&self, snapshot: Sha256Digest) -> Result<Vec<(String, Purpose)>, OrchestratorError> {
        let rows =
            sqlx::query("SELECT pair_id, purpose FROM snapshot_pairs WHERE snapshot_digest = $1 ORDER BY pair_id")
                .bind(snapshot.to_string())
                .fetch_all(&self.pool)
                .await?;
        rows.iter()
            .map(|row| {
                let purpose = match row.try_get::<String, _>("purpose")?.as_str() {
                    "gate" => Purpose::Gate,
                    _ => Purpose::Training,
                };
                Ok((row.try_get::<String, _>("pair_id")?, purpose))
            })
            .collect()
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
    pub async fn finish(
        &self,
        (run, epoch): (RunId, i64),
        state: RunState,
        outcome: &str,
        detail: &serde_json::Value,
        result: (Option<i64>, Option<String>),
        now: Timestamp,
    ) -> Result<bool, OrchestratorError> {
        let done = sqlx::query(
            "UPDATE training_runs SET state = $3, outcome = $4, detail = $5, finished_at = $6, version = $7, rollout_id = $8 \
             WHERE run_id = $1 AND owner_epoch = $2 AND state IN ('queued', 'running')",
        )
        .bind(run.to_string())
        .bind(epoch)
        .bind(state.as_str().to_owned())
        .bind(outcome.to_owned())
        .bind(detail.to_string())
        .bind(now.as_micros())
        .bind(result.0)
        .bind(result.1)
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
