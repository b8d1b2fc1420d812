//! The outbox: what the database must tell the bus.
//!
//! A row is written in the caller's transaction, so it exists exactly if the change it tells of does. A relay publishes
//! rows in order and deletes each one after the bus has it. A crash between the two publishes a row again; it does so
//! under the same id, so the effect is once for everybody who knows ids. Order holds as well: rows leave oldest first,
//! and one that cannot be published holds back those after it. A former leader that wakes up late may still repeat one
//! old row after newer ones; therefore a value that overrules others carries the time of its decision.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use events::{IdSource, Timestamp};
use sqlx::{AnyConnection, AnyPool, Row};
use uuid::Uuid;

use crate::lease::LeaseHandle;
use crate::reconciler::{Next, ReconcileError, Reconciler};

/// What a message becomes on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxKind {
    /// One record in the partition of its key.
    Record {
        /// The key.
        key: [u8; 16],
    },
    /// One control record in every partition.
    Control {
        /// What it is about: consent, erasure, policy.
        kind: String,
        /// Whom or what it concerns.
        subject: String,
    },
}

/// A message on its way from the database to the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxMessage {
    /// The same for every attempt.
    pub id: Uuid,
    /// Where it goes.
    pub topic: String,
    /// As what.
    pub kind: OutboxKind,
    /// Its content.
    pub value: Bytes,
    /// When it was written. Messages leave in this order.
    pub created_at: Timestamp,
}

impl OutboxMessage {
    /// A record.
    #[must_use]
    pub fn record(ids: &dyn IdSource, now: Timestamp, topic: &str, key: [u8; 16], value: impl Into<Bytes>) -> Self {
        Self {
            id: ids.next_uuid(),
            topic: topic.to_owned(),
            kind: OutboxKind::Record { key },
            value: value.into(),
            created_at: now,
        }
    }

    /// A control record.
    #[must_use]
    pub fn control(
        ids: &dyn IdSource,
        now: Timestamp,
        topic: &str,
        kind: &str,
        subject: &str,
        value: impl Into<Bytes>,
    ) -> Self {
        Self {
            id: ids.next_uuid(),
            topic: topic.to_owned(),
            kind: OutboxKind::Control { kind: kind.to_owned(), subject: subject.to_owned() },
            value: value.into(),
            created_at: now,
        }
    }
}

/// An error of a publisher, whatever its type.
pub type PublishError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The bus, as the outbox needs it.
#[async_trait]
pub trait OutboxPublisher: Send + Sync {
    /// Publishes one message; durable when `Ok`. May be called again with the same id.
    ///
    /// # Errors
    /// The bus does not have it, as far as is known.
    async fn publish(&self, message: &OutboxMessage) -> Result<(), PublishError>;
}

/// Writes `message` in the caller's transaction. Notify the relay after the commit; otherwise it finds the row at its
/// next look.
///
/// # Errors
/// The database failed: roll back.
pub async fn append(transaction: &mut AnyConnection, message: &OutboxMessage) -> Result<(), sqlx::Error> {
    let (key, kind, subject) = match &message.kind {
        OutboxKind::Record { key } => (Some(key.to_vec()), None, None),
        OutboxKind::Control { kind, subject } => (None, Some(kind.as_str()), Some(subject.as_str())),
    };
    sqlx::query(
        "INSERT INTO outbox (id, topic, record_key, control_kind, control_subject, value, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(message.id.to_string())
    .bind(&*message.topic)
    .bind(key)
    .bind(kind)
    .bind(subject)
    .bind(message.value.to_vec())
    .bind(message.created_at.as_micros())
    .execute(transaction)
    .await?;
    Ok(())
}

/// A row of the outbox that this program cannot have written.
#[derive(Debug, thiserror::Error)]
#[error("outbox row {id} is malformed: {what}")]
pub struct MalformedRow {
    id: String,
    what: &'static str,
}

/// Publishes the outbox, oldest first. Drive it with [`crate::reconciler::drive`] under the lease
/// [`OutboxRelay::LEASE`].
pub struct OutboxRelay {
    pool: AnyPool,
    publisher: Arc<dyn OutboxPublisher>,
    lease: Option<LeaseHandle>,
    batch: i64,
}

impl std::fmt::Debug for OutboxRelay {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OutboxRelay").field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl OutboxRelay {
    /// The lease that its leader holds.
    pub const LEASE: &'static str = "outbox";
    /// How often it looks when nobody notifies it.
    pub const PERIOD: Duration = Duration::from_secs(1);
    /// How many rows it reads at once.
    const BATCH: i64 = 100;

    /// A relay; with a lease it stops in the middle of a batch when the lease is gone.
    #[must_use]
    pub fn new(pool: AnyPool, publisher: Arc<dyn OutboxPublisher>, lease: Option<LeaseHandle>) -> Self {
        Self { pool, publisher, lease, batch: Self::BATCH }
    }

    /// How many messages wait.
    ///
    /// # Errors
    /// The database failed.
    pub async fn waiting(&self) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar("SELECT COUNT(*) FROM outbox").fetch_one(&self.pool).await
    }

    async fn next_batch(&self) -> Result<Vec<OutboxMessage>, ReconcileError> {
        let rows = sqlx::query(
            "SELECT id, topic, record_key, control_kind, control_subject, value, created_at FROM outbox \
             ORDER BY created_at, id LIMIT $1",
        )
        .bind(self.batch)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(message).collect()
    }
}

fn message(row: &sqlx::any::AnyRow) -> Result<OutboxMessage, ReconcileError> {
    let id: String = row.try_get("id")?;
    let malformed = |what| MalformedRow { id: id.clone(), what };
    let kind: Option<String> = row.try_get("control_kind")?;
    let kind = match kind {
        Some(kind) => OutboxKind::Control { kind, subject: row.try_get("control_subject")? },
        None => {
            let key: Vec<u8> = row.try_get("record_key")?;
            OutboxKind::Record { key: key.try_into().map_err(|_| malformed("its key has not 16 bytes"))? }
        }
    };
    let value: Vec<u8> = row.try_get("value")?;
    Ok(OutboxMessage {
        id: Uuid::try_parse(&id).map_err(|_| malformed("its id is no UUID"))?,
        topic: row.try_get("topic")?,
        kind,
        value: value.into(),
        created_at: Timestamp::from_micros(row.try_get("created_at")?),
    })
}

#[async_trait]
impl Reconciler for OutboxRelay {
    fn name(&self) -> &'static str {
        "outbox"
    }

    async fn activate(&self) -> Result<Next, ReconcileError> {
        let started = Instant::now();
        let messages = self.next_batch().await?;
        let full = i64::try_from(messages.len()).unwrap_or(i64::MAX) >= self.batch;
        for message in &messages {
            if self.lease.as_ref().is_some_and(|lease| lease.fence().is_none()) {
                return Ok(Next::Period);
            }
            self.publisher.publish(message).await?;
            sqlx::query("DELETE FROM outbox WHERE id = $1").bind(message.id.to_string()).execute(&self.pool).await?;
            metrics::counter!("flywheel_service_outbox_published_total").increment(1);
        }
        if !messages.is_empty() {
            tracing::debug!(messages = messages.len(), elapsed = ?started.elapsed(), "outbox published");
        }
        Ok(if full { Next::Now } else { Next::Period })
    }
}
