//! Whether the database answers.

use std::time::Duration;

use migrations::MigrationsError;
use sqlx::AnyPool;
use tokio_util::sync::CancellationToken;

use crate::readiness::Readiness;
use crate::surroundings::{self, Found, Watched};

/// What `/readyz` says is awaited while the database does not answer.
pub const GATE: &str = "database";

/// Asks the database again and again until `stop`. While it does not answer, or is no longer one that this release may
/// work on, the process takes no new work.
pub async fn watch(pool: AnyPool, readiness: Readiness, stop: CancellationToken) {
    let watched = Watched {
        gate: GATE,
        up: metrics::gauge!("flywheel_service_database_up"),
        period: Duration::from_secs(1),
        patience: Duration::from_secs(4),
        // A busy pool may let one look wait too long.
        misses: 3,
    };
    let look = || async {
        match migrations::check(&pool).await {
            Ok(()) => Found::Fine,
            Err(MigrationsError::Database(error @ sqlx::Error::PoolTimedOut)) => Found::Busy(error.to_string()),
            Err(error) => Found::Away(error.to_string()),
        }
    };
    surroundings::watch(watched, look, readiness, stop).await;
}
