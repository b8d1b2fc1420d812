//! Whether the database answers: readiness follows it, liveness does not.
//!
//! A pool opens its connections again by itself, so nothing has to be started anew once the server is back.

use std::time::Duration;

use migrations::MigrationsError;
use sqlx::AnyPool;
use tokio_util::sync::CancellationToken;

use crate::readiness::{Latch, Readiness};

/// What `/readyz` says is awaited while the database does not answer.
pub const GATE: &str = "database";
/// A busy pool may let one look wait too long: so many in a row that get no answer count.
const MISSES: u32 = 3;
/// How often it is asked, and how long an answer may take. Real time.
const PERIOD: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(4);

/// Asks the database again and again until `stop`. While it does not answer, or is no longer one that this release may
/// work on, the process takes no new work.
pub async fn watch(pool: AnyPool, readiness: Readiness, stop: CancellationToken) {
    let mut away: Option<Latch> = None;
    let mut misses = 0;
    loop {
        let look = tokio::time::timeout(PATIENCE, migrations::check(&pool));
        let Some(looked) = stop.run_until_cancelled(look).await else { return };
        let busy = |why: String, misses: &mut u32| {
            *misses += 1;
            (*misses >= MISSES).then_some(why)
        };
        let why = match looked {
            Ok(Ok(())) => {
                misses = 0;
                None
            }
            Ok(Err(MigrationsError::Database(error @ sqlx::Error::PoolTimedOut))) => {
                busy(error.to_string(), &mut misses)
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => busy(format!("no answer within {} s", PATIENCE.as_secs()), &mut misses),
        };
        let is_waiting = misses > 0 && misses < MISSES;
        metrics::gauge!("flywheel_service_database_up").set(if why.is_none() && away.is_none() { 1.0 } else { 0.0 });
        away = match (why, away) {
            (None, Some(latch)) if !is_waiting => {
                tracing::info!("the database answers again");
                latch.release();
                None
            }
            (Some(why), None) => {
                tracing::warn!(%why, "the database can not be used; no new work is taken until it can");
                Some(readiness.gate(GATE))
            }
            (_, away) => away,
        };
        if stop.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_none() {
            return;
        }
    }
}
