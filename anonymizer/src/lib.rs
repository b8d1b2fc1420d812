//! Raw to clean: order, secrets, personal data, pseudonyms; the only maker of scrubbed events.
//!
//! One stateful step of the bus reads `telemetry.raw.v1` and writes `telemetry.clean.v1` and `telemetry.quarantine.v1`.
//!
//! # What becomes of a raw record
//!
//! Every distinct event id that is no stub ends as exactly one of: *clean*, *filtered* (why) or *erased*, all three as
//! a record of the clean topic; *quarantined* (why), as a record of the quarantine topic; *dead-lettered*, by the bus.
//! The record is written in the transaction that decides.
//!
//! - A stub (consent was `none` at the door) keeps its place in the sequence and is emitted nowhere: the raw record
//!   itself is its disposition, *filtered at the door*.
//! - State of a session that cannot be decoded ends the session: every event that it held is dead-lettered by its id,
//!   and so is what comes later, until the key is released.
//! - What comes when its session was forgotten is *filtered*; for an id that has ended already the ledger counts the
//!   first end, so a repetition after days is one.
//! - A repeated id with the same content is dropped and counted as a duplicate. A repeated id with other content is
//!   quarantined as `content_conflict`; its id has then two records, and the ledger, whose unit is the distinct id,
//!   counts the first.
//!
//! # Order of emission
//!
//! Within a session, client events are emitted in the order of their sequence numbers. An exposure is emitted before
//! the first event that names its opportunity and before the first event received after it. A signal whose receipt
//! holds waits for its exposure as long as for a gap, then goes without.
//!
//! # What is held, and for how long
//!
//! Events whose client times are less than 10 s apart form a group (at most 120 s long). A group is concluded, that is
//! scrubbed as one document and emitted, once a later group begins or partition time is 10 s past its last event. What
//! is held is sealed as it arrived.

mod config;
mod document;
mod error;
#[cfg(test)]
mod fixture;
mod rules;
mod scene;
mod scrub;
mod session;
pub mod shape;
pub mod step;
mod substitute;

use std::sync::Arc;

use bus::{Bus, StepSpec};
use events::topics;
use service::keys::KeyStore;
use service::readiness::Latch;
use tokio_util::sync::CancellationToken;

pub use config::AnonymizerConfig;
pub use error::AnonymizerError;
pub use rules::Rules;
pub use scrub::{ScrubError, Scrubbed, Scrubber};

/// The step's name: the identity of its positions, state and timers.
pub const STEP: &str = "anonymizer";

/// What the service needs.
#[derive(Clone)]
pub struct AnonymizerDeps {
    /// The log.
    pub bus: Arc<dyn Bus>,
    /// Tenants' secrets and persons' data keys.
    pub keys: KeyStore,
}

impl std::fmt::Debug for AnonymizerDeps {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("AnonymizerDeps")
    }
}

/// The step as the bus runs it.
#[must_use]
pub fn step_spec() -> StepSpec {
    StepSpec::new(
        STEP,
        topics::TELEMETRY_RAW,
        [topics::TELEMETRY_CLEAN, topics::TELEMETRY_QUARANTINE],
        topics::DEAD_LETTERS,
    )
}

/// Runs the step until `shutdown`; `ready` is released once nothing is left that could refuse it.
///
/// # Errors
/// A configuration that cannot work, or a bus on which the step cannot run.
pub async fn run(
    config: AnonymizerConfig,
    deps: AnonymizerDeps,
    ready: Latch,
    shutdown: CancellationToken,
) -> Result<(), AnonymizerError> {
    let handler = step::handler(config, deps.keys)?;
    ready.release();
    Ok(deps.bus.step(step_spec(), handler, shutdown).await?)
}
