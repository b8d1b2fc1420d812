//! Load on both doors: many sessions at once, bounded in number and time.

use super::doors::{Doors, DriverError};
use super::session::ClientSession;
use crate::developer::Developer;
use crate::plan::DemoPlan;
use events::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How much load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadSettings {
    /// Sessions at the same time.
    pub sessions: usize,
    /// Opportunities of each session.
    pub opportunities: usize,
    /// Number of the first session: another one makes new ids.
    pub session_number: u64,
    /// What the ids are dated with.
    pub started: Timestamp,
    /// Stops by itself after this.
    pub longest: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct LoadReport {
    /// Opportunities that were answered and reported.
    pub opportunities: u64,
    /// Those with a visible suggestion.
    pub shown: u64,
    /// Events that ingest acknowledged.
    pub events: u64,
    /// Requests that came to nothing.
    pub failures: u64,
    /// Wall time.
    pub wall_seconds: f64,
    /// Milliseconds to the first action, sorted; answers without one are not in it.
    pub first_action_ms: Vec<f64>,
}

/// The value at a quantile (0 to 1) of sorted values, one of them; none without any.
#[must_use]
pub fn quantile_of(sorted: &[f64], quantile: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * quantile.clamp(0.0, 1.0)).round() as usize).copied()
}

impl LoadReport {
    /// A quantile of the time to the first action (0.5, 0.9, 0.99), ms.
    #[must_use]
    pub fn first_action_quantile(&self, quantile: f64) -> Option<f64> {
        quantile_of(&self.first_action_ms, quantile)
    }

    fn add(&mut self, other: Self) {
        self.opportunities += other.opportunities;
        self.shown += other.shown;
        self.events += other.events;
        self.failures += other.failures;
        self.first_action_ms.extend(other.first_action_ms);
    }
}

/// Runs sessions of the plan's developers against the doors until all are done, `longest` has passed or `shutdown`.
///
/// # Errors
/// When not one opportunity could be played: the first failure.
pub async fn run_load(
    doors: &Doors,
    plan: Arc<DemoPlan>,
    settings: &LoadSettings,
    shutdown: &CancellationToken,
) -> Result<LoadReport, DriverError> {
    let start = Instant::now();
    let mut sessions = tokio::task::JoinSet::new();
    for developer in 0..settings.sessions {
        let (doors, plan, settings, shutdown) = (doors.clone(), plan.clone(), settings.clone(), shutdown.clone());
        sessions.spawn(async move { one_session(&doors, &plan, developer, &settings, start, &shutdown).await });
    }
    let (mut report, mut first_failure) = (LoadReport::default(), None);
    while let Some(joined) = sessions.join_next().await {
        match joined {
            Ok((part, failure)) => {
                report.add(part);
                first_failure = first_failure.or(failure);
            }
            Err(_) => report.failures += 1,
        }
    }
    report.wall_seconds = start.elapsed().as_secs_f64();
    report.first_action_ms.sort_by(f64::total_cmp);
    match first_failure {
        Some(failure) if report.opportunities == 0 => Err(failure),
        _ => Ok(report),
    }
}

async fn one_session(
    doors: &Doors,
    plan: &DemoPlan,
    developer: usize,
    settings: &LoadSettings,
    start: Instant,
    shutdown: &CancellationToken,
) -> (LoadReport, Option<DriverError>) {
    let (mut report, mut first_failure) = (LoadReport::default(), None);
    let person = format!("load-{developer}");
    let mut session =
        ClientSession::new(plan.seed(), developer as u64, person, settings.session_number, settings.started);
    let habits = Developer::default();
    for opportunity in 0..settings.opportunities {
        if shutdown.is_cancelled() || start.elapsed() >= settings.longest {
            break;
        }
        let Ok(planned) = plan.task(developer, opportunity) else { break };
        let outcome = async {
            let played = session.play(doors, &habits, &planned.task).await?;
            session.send(doors, played.episode.events()).await?;
            Ok(played)
        };
        match outcome.await {
            Ok(played) => {
                report.opportunities += 1;
                report.shown += u64::from(!played.served.actions.is_empty());
                report.events += played.episode.events().len() as u64;
                report.first_action_ms.extend(played.answer.first_action.map(|time| time.as_secs_f64() * 1000.0));
            }
            Err(failure) => {
                report.failures += 1;
                first_failure = first_failure.or(Some(failure));
            }
        }
    }
    (report, first_failure)
}
