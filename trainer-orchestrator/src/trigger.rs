//! When to train: a pure decision over what is new.

use std::time::Duration;

use events::Timestamp;

use crate::config::OrchestratorConfig;

/// What a data set made now would hold that none before did. Pairs that no data set takes (another audience, no rule
/// for their repository, beyond a limit) are not counted: they would start a run again and again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewEvidence {
    /// Pairs of weight above zero that are in no snapshot of a run that did not fail.
    pub pairs: usize,
    /// Label time of the oldest of them.
    pub oldest: Option<Timestamp>,
    /// When the newest run failed, unless one after it did not.
    pub last_failure: Option<Timestamp>,
    /// Whether enough would be held out for a judgement: without one a version is held, whatever it learned.
    pub can_be_judged: bool,
}

/// Why a run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Enough new pairs.
    Pairs,
    /// The oldest new pair has waited long enough.
    Age,
    /// Somebody asked.
    Requested,
}

impl Trigger {
    /// The code in tables and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Age => "age",
            Self::Requested => "requested",
        }
    }
}

/// Decides whether to train now.
#[must_use]
pub fn decide(config: &OrchestratorConfig, evidence: NewEvidence, requested: bool, now: Timestamp) -> Option<Trigger> {
    if requested && evidence.pairs > 0 {
        return Some(Trigger::Requested);
    }
    if !config.enabled || !evidence.can_be_judged || evidence.pairs < config.minimum_pairs.max(1) {
        return None;
    }
    // What failed a moment ago most likely fails again: a broken trainer must not keep the machine busy.
    let pause = Duration::from_secs(config.pause_after_failure_seconds);
    if evidence.last_failure.is_some_and(|failed_at| now.since(failed_at) < pause) {
        return None;
    }
    if evidence.pairs >= config.minimum_new_pairs {
        return Some(Trigger::Pairs);
    }
    let age = evidence.oldest.map_or(Duration::ZERO, |oldest| now.since(oldest));
    (age >= Duration::from_secs(config.maximum_age_seconds)).then_some(Trigger::Age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> OrchestratorConfig {
        OrchestratorConfig { minimum_new_pairs: 100, minimum_pairs: 10, maximum_age_seconds: 60, ..Default::default() }
    }

    fn evidence(pairs: usize) -> NewEvidence {
        NewEvidence { pairs, oldest: Some(Timestamp::from_seconds(1000)), last_failure: None, can_be_judged: true }
    }

    #[test]
    fn after_a_failure_only_a_request_starts_one_at_once() {
        let config = OrchestratorConfig { pause_after_failure_seconds: 100, ..config() };
        let failed = NewEvidence { last_failure: Some(Timestamp::from_seconds(2000)), ..evidence(1000) };
        assert_eq!(decide(&config, failed, false, Timestamp::from_seconds(2099)), None);
        assert_eq!(decide(&config, failed, true, Timestamp::from_seconds(2099)), Some(Trigger::Requested));
        assert_eq!(decide(&config, failed, false, Timestamp::from_seconds(2100)), Some(Trigger::Pairs));
    }

    #[test]
    fn enough_pairs_or_age_or_a_request_start_a_run() {
        let soon = Timestamp::from_seconds(1001);
        let later = Timestamp::from_seconds(1060);
        assert_eq!(decide(&config(), evidence(100), false, soon), Some(Trigger::Pairs));
        assert_eq!(decide(&config(), evidence(99), false, soon), None);
        assert_eq!(decide(&config(), evidence(10), false, later), Some(Trigger::Age));
        assert_eq!(decide(&config(), evidence(9), false, later), None);
        assert_eq!(decide(&config(), evidence(1), true, soon), Some(Trigger::Requested));
        assert_eq!(decide(&config(), NewEvidence::default(), true, soon), None);
    }

    #[test]
    fn what_could_not_be_judged_is_trained_on_request_only() {
        let few = NewEvidence { can_be_judged: false, ..evidence(1000) };
        assert_eq!(decide(&config(), few, false, Timestamp::from_seconds(9999)), None);
        assert_eq!(decide(&config(), few, true, Timestamp::from_seconds(9999)), Some(Trigger::Requested));
    }

    #[test]
    fn disabled_runs_start_on_request_only() {
        let config = OrchestratorConfig { enabled: false, ..config() };
        assert_eq!(decide(&config, evidence(1000), false, Timestamp::from_seconds(9999)), None);
        assert_eq!(decide(&config, evidence(1000), true, Timestamp::from_seconds(9999)), Some(Trigger::Requested));
    }
}
