//! By when a turn is over: from the newest signal that it learns from to the first time that its candidate serves.

use std::time::Duration;

use events::Timestamp;

use crate::config::OrchestratorConfig;

/// The deadline of a run that is queued at `now` by the injected clock, which is `real_now` by the real one.
///
/// What has passed since the newest signal is spent already: outcomes that were awaited, labels, a trigger that waited.
/// A run that the age of its pairs started would have nothing left, so a minimum is left to every one; its deadline
/// then lies later than the limit after its newest signal.
#[must_use]
pub fn deadline(
    config: &OrchestratorConfig,
    last_signal_at: Timestamp,
    now: Timestamp,
    real_now: Timestamp,
) -> Timestamp {
    let limit = Duration::from_secs(config.deadline_seconds);
    let least = limit.min(Duration::from_secs(config.deadline_minimum_seconds));
    real_now + limit.saturating_sub(now.since(last_signal_at)).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_counts_from_the_newest_signal_and_leaves_a_minimum() {
        let config = OrchestratorConfig { deadline_seconds: 100, deadline_minimum_seconds: 30, ..Default::default() };
        let signal = Timestamp::from_seconds(1_000);
        // The two clocks have nothing in common but their pace.
        let real = Timestamp::from_seconds(9_000);
        let left = |config: &OrchestratorConfig, passed: u64| {
            deadline(config, signal, signal + Duration::from_secs(passed), real).since(real).as_secs()
        };
        assert_eq!([0, 40, 70, 71, 100, 100_000].map(|passed| left(&config, passed)), [100, 60, 30, 30, 30, 30]);
        // A signal from a clock that is ahead gives no time as a present.
        assert_eq!(deadline(&config, signal, Timestamp::from_seconds(900), real).since(real).as_secs(), 100);
        let short = OrchestratorConfig { deadline_seconds: 3, ..Default::default() };
        assert_eq!(left(&short, 100_000), 3, "the minimum is never more than the limit");
    }
}
