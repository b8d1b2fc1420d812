//! Whether the log answers: readiness follows it, liveness does not.
//!
//! Clients of brokers connect again by themselves, so nothing has to be started anew once the fault is mended.

use std::sync::Arc;
use std::time::Duration;

use service::readiness::{Latch, Readiness};
use tokio_util::sync::CancellationToken;

use crate::error::BusError;
use crate::interface::Bus;

/// What `/readyz` says is awaited while the log can not be used.
pub const GATE: &str = "log";
/// A broker that is replaced by another may leave one look without an answer: so many in a row count. A refusal counts at
/// once.
const MISSES: u32 = 2;
/// How often it is asked, and how long an answer may take. Real time.
const PERIOD: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(4);

/// Asks the log again and again until `stop`. While it does not answer, or does not let us in, the process takes no new
/// work.
pub async fn watch(bus: Arc<dyn Bus>, readiness: Readiness, stop: CancellationToken) {
    let mut away: Option<Latch> = None;
    let mut misses = 0;
    loop {
        let Some(looked) = stop.run_until_cancelled(tokio::time::timeout(PATIENCE, bus.check())).await else { return };
        let why = match looked {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                misses = if matches!(error, BusError::NotAdmitted(_)) { MISSES } else { misses + 1 };
                Some(error.to_string())
            }
            Err(_) => {
                misses += 1;
                Some(format!("no answer within {} s", PATIENCE.as_secs()))
            }
        };
        away = match (why, away) {
            (None, away) => {
                misses = 0;
                if let Some(latch) = away {
                    tracing::info!("the log can be used again");
                    latch.release();
                }
                None
            }
            (Some(why), None) if misses >= MISSES => {
                tracing::warn!(%why, "the log can not be used; no new work is taken until it can");
                Some(readiness.gate(GATE))
            }
            (Some(_), away) => away,
        };
        metrics::gauge!("flywheel_bus_up").set(if away.is_none() { 1.0 } else { 0.0 });
        if stop.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_none() {
            return;
        }
    }
}
