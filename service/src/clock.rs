//! The one injected clock. Everything that decides about data asks it; leases, heartbeats, training deadlines and
//! network time-outs use real time directly, because they guard processes and not data.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use events::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::config::Invalid;

/// A boxed future that ends when a clock says so. Dropping it forgets the wait.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// The clock as it is handed around.
pub type SharedClock = Arc<dyn Clock>;

/// The largest factor of a scaled clock: beyond it, real delays would look like long silences of an editor.
pub const LARGEST_SCALE: u32 = 60;

/// What time it is, and waiting for a time.
pub trait Clock: Send + Sync + Debug {
    /// The current time.
    fn now(&self) -> Timestamp;

    /// Ends once `now()` is at or after `deadline`.
    fn sleep_until(&self, deadline: Timestamp) -> Sleep;

    /// Ends once `duration` of this clock's time has passed.
    fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }
}

/// The time of the machine, whatever clock is injected.
#[must_use]
pub fn real_now() -> Timestamp {
    let micros = match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    };
    Timestamp::from_micros(micros)
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealClock;

impl RealClock {
    /// The machine's clock, ready to be injected.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        real_now()
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        Box::pin(async move {
            // The wall clock may be set back while we wait.
            loop {
                let remaining = deadline.since(real_now());
                if remaining.is_zero() {
                    return;
                }
                tokio::time::sleep(remaining).await;
            }
        })
    }
}

/// A clock that stands still until it is advanced, for tests and for the demo: one process only.
#[derive(Debug, Clone)]
pub struct SimulatedClock {
    time: Arc<watch::Sender<Timestamp>>,
}

impl SimulatedClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self { time: Arc::new(watch::Sender::new(start)) }
    }

    /// This clock, ready to be injected; it stays under the caller's control through `self`.
    #[must_use]
    pub fn shared(&self) -> SharedClock {
        Arc::new(self.clone())
    }

    /// Moves forward by `duration`, wakes every sleeper whose time has come, and returns the new time.
    pub fn advance(&self, duration: Duration) -> Timestamp {
        self.time.send_modify(|now| *now = *now + duration);
        *self.time.borrow()
    }

    /// Moves forward to `time`; a time that has passed changes nothing, because no clock of ours runs backwards.
    pub fn set(&self, time: Timestamp) {
        self.time.send_if_modified(|now| {
            let later = time > *now;
            if later {
                *now = time;
            }
            later
        });
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        *self.time.borrow()
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        let mut time = self.time.subscribe();
        Box::pin(async move {
            // An error means that the clock is gone: nobody will ever advance it, so this wait never ends.
            if time.wait_for(|now| *now >= deadline).await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// A clock that runs `factor` times as fast as the machine's from `start` on. Processes that share `start` and
/// `factor` agree on the time.
#[derive(Debug, Clone, Copy)]
pub struct ScaledClock {
    start: Timestamp,
    factor: u32,
}

impl ScaledClock {
    /// A clock that equals the machine's at `start` and is `factor` times as fast.
    ///
    /// # Errors
    /// A factor outside 1 to [`LARGEST_SCALE`], or a start that is still to come.
    pub fn new(start: Timestamp, factor: u32) -> Result<Self, ClockError> {
        if !(1..=LARGEST_SCALE).contains(&factor) {
            return Err(ClockError::Factor { factor });
        }
        if start > real_now() {
            return Err(ClockError::StartInFuture { start });
        }
        Ok(Self { start, factor })
    }
}

impl Clock for ScaledClock {
    fn now(&self) -> Timestamp {
        self.start + real_now().since(self.start).saturating_mul(self.factor)
    }

    fn sleep_until(&self, deadline: Timestamp) -> Sleep {
        let clock = *self;
        Box::pin(async move {
            loop {
                let remaining = deadline.since(clock.now());
                if remaining.is_zero() {
                    return;
                }
                tokio::time::sleep((remaining / clock.factor).max(Duration::from_micros(1))).await;
            }
        })
    }
}

/// Which clock a process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockKind {
    /// The machine's.
    #[default]
    Real,
    /// One that the process itself advances.
    Simulated,
    /// A faster one, the same in several processes.
    Scaled,
}

/// `[clock]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockConfig {
    /// Which clock.
    pub kind: ClockKind,
    /// Start of a simulated or scaled clock, microseconds since 1970 UTC. A simulated clock may go without.
    pub start_micros: Option<i64>,
    /// How many times as fast as the machine's clock a scaled clock runs, 1 to 60.
    pub factor: Option<u32>,
    /// Says that time other than the machine's is meant: required for `simulated` and `scaled`.
    pub allow_test_time: bool,
}

/// A clock that cannot be made as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClockError {
    /// A factor out of bounds.
    #[error("clock.factor = {factor}: expected 1 to {LARGEST_SCALE}")]
    Factor {
        /// The factor asked for.
        factor: u32,
    },
    /// A start that is still to come.
    #[error("clock.start_micros is {start}, which is still to come")]
    StartInFuture {
        /// The start asked for.
        start: Timestamp,
    },
    /// A clock for tests without saying so.
    #[error("clock.kind = \"{kind}\" is for tests: it needs clock.allow_test_time = true")]
    TestTimeNotAllowed {
        /// The kind asked for.
        kind: &'static str,
    },
    /// A setting is missing.
    #[error("clock.kind = \"scaled\" needs clock.{missing}")]
    Missing {
        /// Its name.
        missing: &'static str,
    },
}

impl ClockError {
    fn invalid(&self) -> Invalid {
        let (key, expected) = match self {
            Self::Factor { .. } => ("factor", format!("1 to {LARGEST_SCALE}")),
            Self::StartInFuture { .. } => ("start_micros", "a time that has passed".to_owned()),
            Self::TestTimeNotAllowed { kind } => {
                ("allow_test_time", format!("true, because clock.kind = \"{kind}\" is for tests"))
            }
            Self::Missing { missing } => (*missing, "a value, because clock.kind = \"scaled\" needs it".to_owned()),
        };
        Invalid { key: format!("clock.{key}"), expected }
    }
}

/// A clock made from configuration.
#[derive(Debug, Clone)]
pub struct ConfiguredClock {
    /// The clock to inject.
    pub clock: SharedClock,
    /// The handle that advances it, when it is simulated.
    pub simulated: Option<SimulatedClock>,
}

impl ClockConfig {
    /// Makes the clock.
    ///
    /// # Errors
    /// A combination of settings that makes no clock.
    pub fn build(&self) -> Result<ConfiguredClock, ClockError> {
        match self.kind {
            ClockKind::Real => Ok(ConfiguredClock { clock: RealClock::shared(), simulated: None }),
            ClockKind::Simulated => {
                self.require_permission("simulated")?;
                let clock = SimulatedClock::new(self.start_micros.map_or_else(real_now, Timestamp::from_micros));
                Ok(ConfiguredClock { clock: clock.shared(), simulated: Some(clock) })
            }
            ClockKind::Scaled => {
                self.require_permission("scaled")?;
                let start = self.start_micros.ok_or(ClockError::Missing { missing: "start_micros" })?;
                let factor = self.factor.ok_or(ClockError::Missing { missing: "factor" })?;
                let clock = ScaledClock::new(Timestamp::from_micros(start), factor)?;
                Ok(ConfiguredClock { clock: Arc::new(clock), simulated: None })
            }
        }
    }

    /// Refuses settings that make no clock.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.build().map(drop).map_err(|error| error.invalid())
    }

    fn require_permission(&self, kind: &'static str) -> Result<(), ClockError> {
        if self.allow_test_time { Ok(()) } else { Err(ClockError::TestTimeNotAllowed { kind }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_simulated_sleep_ends_exactly_when_its_time_has_come() {
        let clock = SimulatedClock::new(Timestamp::from_seconds(100));
        let shared = clock.shared();
        let mut sleep = tokio::spawn(shared.sleep(Duration::from_secs(10)));
        clock.advance(Duration::from_micros(9_999_999));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut sleep).await.is_err());
        clock.advance(Duration::from_micros(1));
        tokio::time::timeout(Duration::from_secs(10), sleep).await.unwrap().unwrap();
        assert_eq!(shared.now(), Timestamp::from_seconds(110));
        tokio::time::timeout(Duration::from_secs(10), shared.sleep_until(Timestamp::EPOCH)).await.unwrap();
    }

    #[test]
    fn a_simulated_clock_never_runs_backwards() {
        let clock = SimulatedClock::new(Timestamp::from_seconds(100));
        clock.set(Timestamp::from_seconds(99));
        assert_eq!(clock.now(), Timestamp::from_seconds(100));
        clock.set(Timestamp::from_seconds(101));
        assert_eq!(clock.now(), Timestamp::from_seconds(101));
    }

    #[tokio::test]
    async fn a_scaled_clock_runs_faster_and_agrees_with_its_twin() {
        let start = real_now() - Duration::from_secs(1000);
        let clock = ScaledClock::new(start, 60).unwrap();
        let twin = ScaledClock::new(start, 60).unwrap();
        let before = clock.now();
        assert!(before.since(start) >= Duration::from_secs(60_000));
        assert!(twin.now().since(before) < Duration::from_secs(60));
        clock.sleep(Duration::from_secs(3)).await;
        assert!(clock.now().since(before) >= Duration::from_secs(3));
    }

    #[test]
    fn test_time_must_be_asked_for() {
        let config = ClockConfig { kind: ClockKind::Scaled, ..ClockConfig::default() };
        assert_eq!(config.build().unwrap_err(), ClockError::TestTimeNotAllowed { kind: "scaled" });
        let config = ClockConfig { allow_test_time: true, start_micros: Some(0), factor: Some(61), ..config };
        assert_eq!(config.build().unwrap_err(), ClockError::Factor { factor: 61 });
        let config = ClockConfig { kind: ClockKind::Simulated, factor: None, ..config };
        assert_eq!(config.build().unwrap().clock.now(), Timestamp::EPOCH);
        assert!(ClockConfig::default().build().unwrap().simulated.is_none());
        let config =
            ClockConfig { kind: ClockKind::Scaled, factor: Some(61), start_micros: Some(0), allow_test_time: true };
        assert_eq!(config.validate().unwrap_err().to_string(), "`clock.factor`: expected 1 to 60");
    }
}
