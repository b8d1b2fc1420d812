//! Whether the bucket of the artifacts answers.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::readiness::Readiness;
use crate::surroundings::{self, Found, Watched};

/// What `/readyz` says is awaited while the bucket does not answer.
pub const GATE: &str = "bucket";

/// Asks the bucket again and again until `stop`, by `look`: one request, which says in a sentence why it can not be used.
/// While it can not, the process takes no new work.
pub async fn watch<Look>(mut look: impl FnMut() -> Look, readiness: Readiness, stop: CancellationToken)
where
    Look: Future<Output = Result<(), String>>,
{
    let watched = Watched {
        gate: GATE,
        up: metrics::gauge!("flywheel_service_bucket_up"),
        // Requests cost money at some.
        period: Duration::from_secs(5),
        patience: Duration::from_secs(15),
        misses: 1,
    };
    let look = || {
        let looking = look();
        async move {
            match looking.await {
                Ok(()) => Found::Fine,
                Err(why) => Found::Away(why),
            }
        }
    };
    surroundings::watch(watched, look, readiness, stop).await;
}
