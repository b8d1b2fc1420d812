//! Fenced leases: at most one holder at a time acts, and what a former holder still writes is refused.
//!
//! A lease is a row. Taking it over raises its epoch in one atomic statement, so that of many that try exactly one
//! wins. A holder may be stopped (by a debugger, by the system) and wake up after its lease has gone to another, still
//! believing in it; no time-out can prevent that. Therefore every transaction of a holder calls [`Fence::check`] first:
//! it writes the lease row under the holder's epoch and so either conflicts with the take-over or comes before it.
//! Leases use real time: they guard processes, not data. It is the database's time wherever holders may have clocks of
//! their own, so that a machine whose clock is ahead finds no lease run out before the others do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use events::Timestamp;
use migrations::Backend;
use sqlx::{AnyConnection, AnyPool, AssertSqlSafe, Row};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A lease that cannot be had or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// Another holder has it now; what was about to be written must not be.
    #[error("lease {name}: epoch {epoch} was taken over by another holder")]
    Lost {
        /// Name of the lease.
        name: String,
        /// The epoch that is over.
        epoch: i64,
    },
    /// The database failed.
    #[error("lease: {0}")]
    Database(#[from] sqlx::Error),
}

/// The right to act under a lease, as of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    name: Arc<str>,
    holder: Arc<str>,
    epoch: i64,
    expires_at: Timestamp,
}

impl Fence {
    /// Name of the lease.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The epoch: higher than that of every earlier holder.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// When others may take it, unless renewed. By the clock of the database.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Call first in every transaction that acts under the lease. Holds the lease row until the transaction ends, so
    /// that a take-over comes either before it (and this fails) or after.
    ///
    /// # Errors
    /// The lease was taken over, or the database failed: roll back.
    pub async fn check(&self, transaction: &mut AnyConnection) -> Result<(), LeaseError> {
        let changed = sqlx::query("UPDATE leases SET epoch = epoch WHERE name = $1 AND holder = $2 AND epoch = $3")
            .bind(&*self.name)
            .bind(&*self.holder)
            .bind(self.epoch)
            .execute(transaction)
            .await?
            .rows_affected();
        if changed == 1 { Ok(()) } else { Err(self.lost()) }
    }

    fn lost(&self) -> LeaseError {
        LeaseError::Lost { name: self.name.to_string(), epoch: self.epoch }
    }
}

/// A lease that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// Name of the lease.
    pub name: String,
    /// Who holds it.
    pub holder: String,
    /// How long, unless renewed.
    pub left: Duration,
}

/// Microseconds since 1970, where clocks may differ: as the server has them when the statement runs.
const POSTGRESQL_NOW: &str = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";
/// The same of a file, whose processes share this machine's clock.
const SQLITE_NOW: &str = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)";

/// The lease rows of a database.
#[derive(Debug, Clone)]
pub struct LeaseStore {
    pool: AnyPool,
    /// An expression of the database.
    now: &'static str,
}

impl LeaseStore {
    /// Leases in `pool`'s database.
    #[must_use]
    pub fn new(pool: AnyPool) -> Self {
        let now = match migrations::backend(&pool) {
            Backend::Postgres => POSTGRESQL_NOW,
            Backend::Sqlite => SQLITE_NOW,
        };
        Self { pool, now }
    }

    /// Takes the lease when it is free, expired or held under the same name; `None` when another holds it. `holder`
    /// names this process uniquely.
    ///
    /// # Errors
    /// The database failed.
    pub async fn acquire(&self, name: &str, holder: &str, duration: Duration) -> Result<Option<Fence>, LeaseError> {
        let now = self.now;
        let row = sqlx::query(AssertSqlSafe(format!(
            "INSERT INTO leases (name, holder, epoch, expires_at) VALUES ($1, $2, 1, {now} + $3) \
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = leases.epoch + 1, \
             expires_at = excluded.expires_at \
             WHERE leases.expires_at <= {now} OR leases.holder = excluded.holder \
             RETURNING epoch, expires_at"
        )))
        .bind(name)
        .bind(holder)
        .bind(micros(duration))
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            let expires_at = Timestamp::from_micros(row.try_get(1)?);
            Ok(Fence { name: name.into(), holder: holder.into(), epoch: row.try_get(0)?, expires_at })
        })
        .transpose()
    }

    /// Extends the lease to `duration` from now.
    ///
    /// # Errors
    /// The lease was taken over, or the database failed.
    pub async fn renew(&self, fence: &Fence, duration: Duration) -> Result<Fence, LeaseError> {
        let renewed: Option<i64> = sqlx::query_scalar(AssertSqlSafe(format!(
            "UPDATE leases SET expires_at = {} + $1 WHERE name = $2 AND holder = $3 AND epoch = $4 RETURNING expires_at",
            self.now
        )))
        .bind(micros(duration))
        .bind(&*fence.name)
        .bind(&*fence.holder)
        .bind(fence.epoch)
        .fetch_optional(&self.pool)
        .await?;
        let expires_at = Timestamp::from_micros(renewed.ok_or_else(|| fence.lost())?);
        Ok(Fence { expires_at, ..fence.clone() })
    }

    /// The leases that are held now whose names begin with `prefix`, by name.
    ///
    /// # Errors
    /// The database failed.
    pub async fn held(&self, prefix: &str) -> Result<Vec<HeldLease>, LeaseError> {
        let now = self.now;
        let rows = sqlx::query(AssertSqlSafe(format!(
            "SELECT name, holder, expires_at - {now} FROM leases \
             WHERE substr(name, 1, CAST($1 AS INTEGER)) = $2 AND expires_at > {now} ORDER BY name"
        )))
        .bind(i64::try_from(prefix.chars().count()).unwrap_or(i64::MAX))
        .bind(prefix)
        .fetch_all(&self.pool)
        .await?;
        let held = rows.into_iter().map(|row| {
            let left = Duration::from_micros(u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or(0));
            Ok(HeldLease { name: row.try_get(0)?, holder: row.try_get(1)?, left })
        });
        held.collect()
    }

    /// Gives the lease back, so that the next holder need not wait. A lease that was taken over stays as it is.
    ///
    /// # Errors
    /// The database failed.
    pub async fn release(&self, fence: &Fence) -> Result<(), LeaseError> {
        // The row stays: the epoch must never start over.
        sqlx::query("UPDATE leases SET expires_at = 0 WHERE name = $1 AND holder = $2 AND epoch = $3")
            .bind(&*fence.name)
            .bind(&*fence.holder)
            .bind(fence.epoch)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[derive(Debug, Clone)]
struct Held {
    fence: Fence,
    /// On this process' monotonic clock, and a margin before `expires_at`.
    until: Instant,
}

/// A lease that a background task takes and renews for as long as the process wants it.
#[derive(Debug, Clone)]
pub struct LeaseHandle {
    held: watch::Receiver<Option<Held>>,
}

impl LeaseHandle {
    /// The fence, if this process holds the lease and nothing speaks against it.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        self.held.borrow().as_ref().filter(|held| Instant::now() < held.until).map(|held| held.fence.clone())
    }

    /// Ends when this process holds the lease; `None` when nobody tries any more.
    pub async fn wait(&mut self) -> Option<Fence> {
        loop {
            if let Some(fence) = self.fence() {
                return Some(fence);
            }
            self.held.changed().await.ok()?;
        }
    }
}

/// Returns a handle, and the task that takes the lease `name`, renews it every third of `duration`, tries again when
/// it is lost, and gives it back on `stop`.
pub fn keep(
    store: LeaseStore,
    name: &str,
    holder: &str,
    duration: Duration,
    stop: CancellationToken,
) -> (LeaseHandle, impl Future<Output = ()> + Send + use<>) {
    let (sender, receiver) = watch::channel(None::<Held>);
    let (name, holder) = (name.to_owned(), holder.to_owned());
    let task = async move {
        let period = duration / 3;
        while !stop.is_cancelled() {
            // Taken before the statement: the deadline is never later than the row says.
            let asked_at = Instant::now();
            let held = sender.borrow().clone();
            let asking = async {
                match &held {
                    Some(held) => store.renew(&held.fence, duration).await.map(Some),
                    None => store.acquire(&name, &holder, duration).await,
                }
            };
            // A server that vanished without a word never answers; before the lease ends there is time to ask another.
            let result = match tokio::time::timeout(period, asking).await {
                Ok(result) => result,
                Err(_) => Err(LeaseError::Database(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))),
            };
            match result {
                Ok(Some(fence)) => {
                    // The margin keeps a holder with a slow clock from acting when others already may.
                    let until = asked_at + duration - duration / 10;
                    sender.send_replace(Some(Held { fence, until }));
                }
                Ok(None) => {}
                Err(LeaseError::Lost { .. }) => {
                    tracing::warn!(lease = %name, "lease lost");
                    sender.send_replace(None);
                    // Not our turn; the other one has just begun.
                }
                Err(error) => {
                    // Whether the row was renewed is unknown: the deadline in `Held` decides.
                    tracing::warn!(lease = %name, %error, "lease could not be renewed");
                }
            }
            stop.run_until_cancelled(tokio::time::sleep(period)).await;
        }
        let held = sender.send_replace(None);
        if let Some(held) = held {
            match tokio::time::timeout(period, store.release(&held.fence)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(lease = %name, %error, "lease could not be given back; it will expire");
                }
                Err(_) => tracing::warn!(lease = %name, "lease could not be given back in time; it will expire"),
            }
        }
    };
    (LeaseHandle { held: receiver }, task)
}
