//! Whether the brokers are new enough.
//!
//! The client tells nobody which requests a broker knows, but it says so in its log, when it is asked to. What we need
//! came with Kafka 2.5: positions that a transaction commits are not told before it is settled, and a stopped owner's
//! transaction is ended by the one who takes its name. An older broker would answer, and be wrong.
//!
//! When the log does not read as it does in the version of the client that we are built with, nothing is known, and
//! nothing is refused; a test holds that it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::Consumer;

use super::client::{Context, Isolation, QUESTIONS, consumer, listen};
use super::config::KafkaConfig;
use crate::error::BusError;

/// The oldest Kafka that will do.
pub(super) const OLDEST: &str = "2.5";

/// Requests by name, with their number and the least version of them that we need.
const NEEDED: [(&str, i16, i16); 3] = [("OffsetFetch", 9, 7), ("InitProducerId", 22, 3), ("TxnOffsetCommit", 28, 3)];

/// Under what the client logs what a broker knows.
const FACILITY: &str = "APIVERSION";

/// The greatest version of each request that a broker knows, by the request's number.
pub(super) type Known = Arc<Mutex<BTreeMap<i16, i16>>>;

/// Takes a line of the client's log.
pub(super) fn hear(known: &Known, facility: &str, message: &str) {
    if facility == FACILITY
        && let Some((request, greatest)) = read(message)
    {
        known.lock().insert(request, greatest);
    }
}

/// Reads `...: ApiKey OffsetFetch (9) Versions 0..8`.
fn read(message: &str) -> Option<(i16, i16)> {
    let (_, rest) = message.split_once("ApiKey ")?;
    let (_, rest) = rest.split_once('(')?;
    let (request, rest) = rest.split_once(')')?;
    let (_, greatest) = rest.trim().strip_prefix("Versions ")?.split_once("..")?;
    Some((request.trim().parse().ok()?, greatest.trim().parse().ok()?))
}

/// Refuses brokers that are too old. Blocks.
pub(super) fn check(config: &KafkaConfig, context: &Context) -> Result<(), BusError> {
    if !judge(config, context)? {
        tracing::debug!("which requests the Kafka brokers know is not known");
    }
    Ok(())
}

/// Whether the brokers are known to be new enough; false: nothing is known of them. Blocks.
///
/// # Errors
/// They are too old, or do not answer.
pub(super) fn judge(config: &KafkaConfig, context: &Context) -> Result<bool, BusError> {
    let known = ask(config, context)?;
    match missing(&known) {
        Some(request) => Err(BusError::Invalid(format!(
            "the Kafka brokers at {} are older than {OLDEST}, which is needed: they do not know {request}",
            config.bootstrap_servers
        ))),
        None => Ok(!known.is_empty()),
    }
}

/// Connects a client of its own that says what it is told.
fn ask(config: &KafkaConfig, context: &Context) -> Result<BTreeMap<i16, i16>, BusError> {
    let known = Known::default();
    let listening = context.listening(&known);
    let client = consumer(config, &listening, QUESTIONS, Isolation::Committed, |client| {
        client.set("debug", "feature").set_log_level(RDKafkaLogLevel::Debug);
    })?;
    let timeout = Duration::from_millis(config.request_timeout_ms);
    let answered = client.fetch_metadata(Some(&config.stored_name(events::topics::TELEMETRY_RAW)), timeout);
    answered.map_err(|error| context.error("the Kafka brokers do not answer", &error))?;
    // What the client logs is handed over when it is polled, and it logged this before the answer came.
    listen(&client, Duration::from_millis(10));
    let known = known.lock().clone();
    Ok(known)
}

/// The first request that we need and the brokers do not know; none also when nothing is known of them.
fn missing(known: &BTreeMap<i16, i16>) -> Option<&'static str> {
    if known.is_empty() {
        return None;
    }
    let knows = |number: i16, least: i16| known.get(&number).is_some_and(|greatest| *greatest >= least);
    NEEDED.iter().find(|(_, number, least)| !knows(*number, *least)).map(|(name, ..)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_knows_is_read_from_the_log_of_the_client() {
        let line = "[thrd:127.0.0.1:9092/bootstrap]: 127.0.0.1:9092/bootstrap:   ApiKey OffsetFetch (9) Versions 1..10";
        assert_eq!(read(line), Some((9, 10)));
        assert_eq!(read(" Feature KafkaVersion: ApiVersion (0..3) supported by broker"), None);
        let known = Known::default();
        hear(&known, "FEATURE", line);
        assert!(known.lock().is_empty());
        hear(&known, FACILITY, line);
        assert_eq!(known.lock().get(&9), Some(&10));
    }

    #[test]
    fn brokers_that_lack_a_request_are_too_old_and_unknown_ones_are_not() {
        let new: BTreeMap<i16, i16> = NEEDED.iter().map(|(_, number, least)| (*number, *least)).collect();
        assert_eq!((missing(&new), missing(&BTreeMap::new())), (None, None));
        for (name, number, least) in NEEDED {
            let old = BTreeMap::from_iter(new.clone().into_iter().chain([(number, least - 1)]));
            assert_eq!(missing(&old), Some(name));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_broker_says_what_it_knows() {
        if !test_servers::servers_wanted() {
            return;
        }
        let server = test_servers::kafka().await;
        let config = KafkaConfig { bootstrap_servers: server.bootstrap, ..KafkaConfig::default() };
        let known = tokio::task::spawn_blocking(move || {
            let context = Context::default();
            check(&config, &context).unwrap();
            ask(&config, &context).unwrap()
        });
        let known = known.await.unwrap();
        for (name, number, least) in NEEDED {
            assert!(known.get(&number).is_some_and(|greatest| *greatest >= least), "{name}: {known:?}");
        }
    }
}
