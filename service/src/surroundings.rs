//! What a process needs and does not own: readiness follows whether it answers, liveness does not.
//!
//! Whoever asks opens its connections again by itself, so nothing has to be started anew once the other side is back.

use std::time::Duration;

use metrics::Gauge;
use tokio_util::sync::CancellationToken;

use crate::readiness::{Latch, Readiness};

/// What is watched, and how. Times are real.
#[derive(Debug)]
pub struct Watched {
    /// What `/readyz` says is awaited while it can not be used, and how sentences call it.
    pub gate: &'static str,
    /// 1 while it can be used, else 0.
    pub up: Gauge,
    /// Pause between two looks.
    pub period: Duration,
    /// How long one look may take.
    pub patience: Duration,
    /// So many looks in a row that do not come to an end, or find it busy, count.
    pub misses: u32,
}

/// What one look has found.
#[derive(Debug)]
pub enum Found {
    /// It can be used.
    Fine,
    /// Perhaps: ours may have been the look too many.
    Busy(String),
    /// It can not, and why.
    Away(String),
}

/// Looks again and again until `stop`. While the watched can not be used the process takes no new work.
pub async fn watch<Look>(
    watched: Watched,
    mut look: impl FnMut() -> Look,
    readiness: Readiness,
    stop: CancellationToken,
) where
    Look: Future<Output = Found>,
{
    let Watched { gate, up, period, patience, misses: most } = watched;
    let mut away: Option<Latch> = None;
    let mut misses = 0;
    loop {
        let Some(looked) = stop.run_until_cancelled(tokio::time::timeout(patience, look())).await else { return };
        let found = looked.unwrap_or_else(|_| Found::Busy(format!("no answer within {} s", patience.as_secs())));
        misses = if matches!(found, Found::Busy(_)) { misses + 1 } else { 0 };
        away = match (found, away) {
            (Found::Fine, Some(latch)) => {
                tracing::info!("the {gate} answers again");
                latch.release();
                None
            }
            (Found::Busy(_), away) if misses < most => away,
            (Found::Busy(why) | Found::Away(why), None) => {
                tracing::warn!(%why, "the {gate} can not be used; no new work is taken until it can");
                Some(readiness.gate(gate))
            }
            (_, away) => away,
        };
        up.set(if away.is_none() { 1.0 } else { 0.0 });
        if stop.run_until_cancelled(tokio::time::sleep(period)).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Mutex, mpsc};

    use super::*;

    const GATE: &str = "what a test watches";

    /// Answers looks one by one; each is asked for once the one before has had its effect.
    struct Answers {
        asked: mpsc::UnboundedReceiver<()>,
        found: mpsc::UnboundedSender<Found>,
    }

    impl Answers {
        async fn give(&mut self, found: Found) {
            self.found.send(found).unwrap();
            self.asked.recv().await.unwrap();
        }
    }

    #[tokio::test]
    async fn readiness_goes_when_a_look_counts_and_comes_back_by_itself() {
        let watched = Watched {
            gate: GATE,
            up: metrics::gauge!("flywheel_service_database_up"),
            period: Duration::from_millis(1),
            patience: Duration::from_secs(60),
            misses: 3,
        };
        let (asking, asked) = mpsc::unbounded_channel();
        let (found, finding) = mpsc::unbounded_channel();
        let (finding, mut answers) = (Arc::new(Mutex::new(finding)), Answers { asked, found });
        let look = move || {
            asking.send(()).unwrap();
            let finding = Arc::clone(&finding);
            async move { finding.lock().await.recv().await.unwrap() }
        };
        let (readiness, stop) = (Readiness::new(), CancellationToken::new());
        let watching = tokio::spawn(watch(watched, look, readiness.clone(), stop.clone()));
        answers.asked.recv().await.unwrap();
        let busy = || Found::Busy("busy".to_owned());
        for found in [busy(), busy(), Found::Fine, busy(), busy()] {
            answers.give(found).await;
            assert!(readiness.is_ready(), "what may pass counts only when it stays");
        }
        for found in [busy(), busy(), Found::Away("gone".to_owned())] {
            answers.give(found).await;
            assert_eq!(readiness.waiting_for(), [GATE]);
        }
        answers.give(Found::Fine).await;
        assert!(readiness.is_ready());
        answers.give(Found::Away("gone".to_owned())).await;
        assert_eq!(readiness.waiting_for(), [GATE]);
        stop.cancel();
        watching.await.unwrap();
    }
}
