//! Clients of the brokers, and what their errors mean to us.

use std::error::Error;
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::bindings;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::config::KafkaConfig;
use super::forbidden::{self, Forbidden, Need};
use super::refusal::Entering;
use super::rights::Operation;
use super::token::{Token, Tokens};
use super::versions::{self, Known};
use crate::error::BusError;

/// How long the first question about topics may take before it is looked at what the client has to say; the next ones
/// may take twice as long each.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// The groups of consumers that only ask, only look, read what was, or build state: they commit nothing.
pub(super) const QUESTIONS: &str = "questions";
pub(super) const LOOK: &str = "look";
pub(super) const HISTORY: &str = "history";
pub(super) const RESTORE: &str = "restore";
pub(super) const GROUPS_WITHOUT_POSITIONS: [&str; 4] = [QUESTIONS, LOOK, HISTORY, RESTORE];

/// How soon a question is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// What a client says while it works. Why the brokers do not let it in is told here and nowhere else: the call that
/// failed knows only that no broker could be reached.
#[derive(Debug, Clone, Default)]
pub(super) struct Context {
    entering: Arc<Entering>,
    heard: Arc<Mutex<Heard>>,
    /// What our user may not do.
    pub(super) forbidden: Arc<Forbidden>,
    quiet: bool,
    /// What we enter with, when that is a token.
    tokens: Option<Arc<Tokens>>,
    /// What the brokers know, for a client that was made to find that out.
    known: Option<Known>,
}

/// What clients said.
#[derive(Debug, Default)]
struct Heard {
    /// Why the brokers do not let us in.
    refused: Option<String>,
    /// Why one of them could not be reached last, and when that was said.
    trouble: Option<(Instant, String)>,
}

/// What happened before that does not explain what happens now. The client repeats itself every 30 s at most.
const TROUBLE_LASTS: Duration = Duration::from_secs(60);

/// Under what the client logs why it gave a connection up. Some of it it tells nowhere else.
const FAILURES: &str = "FAIL";

impl Context {
    pub(super) fn new(config: &KafkaConfig) -> Result<Self, BusError> {
        let (entering, tokens) = (Arc::new(Entering::by(config)), Tokens::of(config)?);
        Ok(Self { entering, tokens, ..Self::default() })
    }

    /// Gets a new token when it is time to; whether there is one to be given to clients.
    pub(super) async fn renew_token(&self) -> Result<bool, BusError> {
        match &self.tokens {
            Some(tokens) => tokens.renew().await.map_err(BusError::NotAdmitted),
            None => Ok(false),
        }
    }

    /// Gives a client the token of now. One that is polled asks for it by itself; others would never have any.
    pub(super) fn give_token<C: ClientContext>(&self, client: &Client<C>) -> Result<(), BusError> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        set_token(client, &tokens.current().map_err(BusError::NotAdmitted)?)
    }

    /// One that has heard nothing, shares what it hears with nobody, and says nothing aloud.
    pub(super) fn apart(&self) -> Self {
        Self { heard: Arc::default(), known: None, quiet: true, ..self.clone() }
    }

    /// The same for a client that says what the brokers know.
    pub(super) fn listening(&self, known: &Known) -> Self {
        Self { known: Some(Arc::clone(known)), ..self.clone() }
    }

    /// Who we are, as sentences name us.
    pub(super) fn who(&self) -> String {
        self.entering.who()
    }

    /// Why the brokers do not let us in, if they do not.
    pub(super) fn refused(&self) -> Option<String> {
        self.heard.lock().refused.clone()
    }

    /// A client that was made just now was let in.
    pub(super) fn admitted(&self) {
        let mut heard = self.heard.lock();
        heard.trouble = None;
        if heard.refused.take().is_some() {
            tracing::info!("the Kafka brokers let us in again");
        }
    }

    /// An error of a client, with the reason why brokers can not be reached, if that is known.
    pub(super) fn error(&self, doing: &str, error: &KafkaError) -> BusError {
        self.error_of(doing, error, &[])
    }

    /// The error of a request that needs these rights.
    pub(super) fn error_of(&self, doing: &str, error: &KafkaError, needs: &[Need]) -> BusError {
        let heard = self.heard.lock();
        if let Some(refused) = &heard.refused {
            return BusError::NotAdmitted(refused.clone());
        }
        let refusal = |code| self.forbidden.refusal(&self.who(), doing, code, needs);
        if let Some(refusal) = error.rdkafka_error_code().and_then(refusal) {
            return refusal;
        }
        let recent = heard.trouble.as_ref().filter(|(said_at, _)| said_at.elapsed() < TROUBLE_LASTS);
        match (error.rdkafka_error_code(), recent) {
            (Some(code), Some((_, trouble))) if is_unreached(code) => BusError::Storage(format!("{doing}: {trouble}")),
            (Some(code), _) => BusError::Storage(format!("{doing}: {code}")),
            (None, _) => BusError::Storage(format!("{doing}: {error}")),
        }
    }
}

/// The one thing that the safe interface of the client can not do.
#[allow(unsafe_code, reason = "the safe interface gives tokens only to clients that are polled")]
fn set_token<C: ClientContext>(client: &Client<C>, token: &Token) -> Result<(), BusError> {
    let text = |text: &str| CString::new(text).map_err(|_| BusError::NotAdmitted("our token is no text".to_owned()));
    let (value, principal) = (text(token.text.expose_secret())?, text(&token.principal)?);
    let mut message = [0; 512];
    // SAFETY: the client outlives the call, which borrows it; both texts end with zero and are copied by the call; there
    // are no extensions; and the message is written within the length that is given, and ends with zero.
    let code = unsafe {
        bindings::rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.ends_ms(),
            principal.as_ptr(),
            std::ptr::null_mut(),
            0,
            message.as_mut_ptr(),
            message.len(),
        )
    };
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    let message: Vec<u8> = message.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned()).collect();
    let message = String::from_utf8_lossy(&message);
    Err(BusError::NotAdmitted(format!("the Kafka client does not take our token: {message}")))
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let tokens = self.tokens.as_ref().ok_or("tokens are not what we enter with")?;
        let token = tokens.current()?;
        let lifetime_ms = token.ends_ms();
        Ok(OAuthToken { token: token.text.expose_secret().to_owned(), principal_name: token.principal, lifetime_ms })
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some(known) = &self.known {
            versions::hear(known, facility, message);
        }
        if facility == FAILURES {
            self.heard.lock().trouble = Some((Instant::now(), self.entering.trouble(message)));
        }
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::debug!(facility, message, "kafka client"),
            _ => tracing::trace!(facility, message, "kafka client"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Repeated for as long as the brokers are away; whoever needs them says so once.
        tracing::debug!(%error, reason, "kafka client");
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut heard = self.heard.lock();
        if let Some(refusal) = self.entering.refusal(code, reason) {
            if heard.refused.as_ref() != Some(&refusal) && !self.quiet {
                tracing::error!("the Kafka brokers do not let us in: {refusal}");
            }
            heard.refused = Some(refusal);
        } else if matches!(
            code,
            RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve | RDKafkaErrorCode::Authentication
        ) {
            heard.trouble = Some((Instant::now(), self.entering.trouble(reason)));
        }
    }
}

impl ConsumerContext for Context {}

/// Whether an error says that no broker could be reached in time, and not why.
fn is_unreached(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::Resolve
    )
}

/// A consumer of ours.
pub(super) type OurConsumer = BaseConsumer<Context>;

/// Which records a client counts as being there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Those whose transaction was committed; an open one hides everything behind it.
    Committed,
    /// Everything, also of open and of aborted transactions.
    Uncommitted,
}

impl Isolation {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// Makes a consumer.
pub(super) fn consumer(
    config: &KafkaConfig,
    context: &Context,
    group: &str,
    isolation: Isolation,
    change: impl FnOnce(&mut ClientConfig),
) -> Result<OurConsumer, BusError> {
    let mut client = config.consumer(group)?;
    client.set("isolation.level", isolation.name());
    change(&mut client);
    let made: OurConsumer = client
        .create_with_context(context.clone())
        .map_err(|error| BusError::Invalid(format!("the Kafka client refuses its settings: {error}")))?;
    context.give_token(made.client())?;
    Ok(made)
}

/// Closes a client on a thread of its own. Closing waits for the client's threads, and some wait for ever (librdkafka
/// issues 1640 and 3470): whoever is done with a client must not wait with it.
pub(super) fn close<C: Send + 'static>(client: C) {
    let closing = std::thread::Builder::new().name("bus-kafka-close".into());
    // Where there is no thread to be had, it is closed here.
    drop(closing.spawn(move || drop(client)));
}

/// Takes what a client has to say to which nothing is assigned: errors, and lines of its log. While all brokers are away
/// there is always one more error.
pub(super) fn listen(client: &OurConsumer, wait: Duration) {
    for _ in 0..16 {
        if client.poll(wait).is_none() {
            break;
        }
    }
}

/// The error itself; or, where that says only that there was no answer in time, the right that is lacking: the client
/// looks for the coordinator of a group that our user may not use until the time is over.
pub(super) fn refusal_of(client: &OurConsumer, error: KafkaError) -> KafkaError {
    let says_nothing = |code| is_unreached(code) || code == RDKafkaErrorCode::WaitingForCoordinator;
    if error.rdkafka_error_code().is_some_and(says_nothing) {
        for _ in 0..16 {
            match client.poll(Duration::from_millis(5)) {
                Some(Err(told)) if told.rdkafka_error_code().is_some_and(forbidden::is_refusal) => return told,
                Some(_) => {}
                None => break,
            }
        }
    }
    error
}

/// Asks the brokers questions. All of this blocks.
pub(super) struct Questions {
    committed: OurConsumer,
    uncommitted: OurConsumer,
    context: Context,
    timeout: Duration,
}

impl Questions {
    pub(super) fn new(config: &KafkaConfig, context: &Context) -> Result<Self, BusError> {
        // Some of why a broker can not be reached is only logged.
        let open = |isolation| {
            consumer(config, context, QUESTIONS, isolation, |client| {
                client.set_log_level(RDKafkaLogLevel::Info);
            })
        };
        Ok(Self {
            committed: open(Isolation::Committed)?,
            uncommitted: open(Isolation::Uncommitted)?,
            context: context.clone(),
            timeout: Duration::from_millis(config.request_timeout_ms),
        })
    }

    /// Takes what the clients have to say, which else would wait for the next question that fails.
    pub(super) fn hear(&self) {
        for client in [&self.committed, &self.uncommitted] {
            listen(client, Duration::ZERO);
        }
    }

    /// Gives both clients the token of now.
    pub(super) fn give_token(&self) -> Result<(), BusError> {
        self.context.give_token(self.committed.client())?;
        self.context.give_token(self.uncommitted.client())
    }

    fn client(&self, isolation: Isolation) -> &OurConsumer {
        match isolation {
            Isolation::Committed => &self.committed,
            Isolation::Uncommitted => &self.uncommitted,
        }
    }

    /// An error, after what the client had to say besides was heard.
    fn failed(&self, client: &OurConsumer, doing: &str, error: &KafkaError, needs: &[Need]) -> BusError {
        listen(client, Duration::from_millis(5));
        self.context.error_of(doing, error, needs)
    }

    /// What the brokers say about a topic, or about all. Whoever is not let in hears that before the time is over.
    pub(super) fn metadata(&self, topic: Option<&str>) -> Result<Metadata, BusError> {
        let deadline = Instant::now() + self.timeout;
        let mut look = FIRST_LOOK;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match self.committed.fetch_metadata(topic, look.min(left)) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => self.failed(&self.committed, "the Kafka brokers do not answer", &error, &[]),
            };
            if matches!(error, BusError::NotAdmitted(_)) || Instant::now() >= deadline {
                return Err(error);
            }
            look = look.saturating_mul(2);
        }
    }

    /// Number of partitions of a topic; none when there is no such topic.
    pub(super) fn partitions(&self, stored: &str) -> Result<Option<u32>, BusError> {
        Ok(self.copies(stored)?.and_then(|copies| u32::try_from(copies.len()).ok()))
    }

    /// How many copies every partition of a topic has; none when there is no such topic.
    pub(super) fn copies(&self, stored: &str) -> Result<Option<Vec<usize>>, BusError> {
        let metadata = self.metadata(Some(stored))?;
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == stored) else { return Ok(None) };
        match topic.error().map(RDKafkaErrorCode::from) {
            None if topic.partitions().is_empty() => Ok(None),
            None => Ok(Some(topic.partitions().iter().map(|partition| partition.replicas().len()).collect())),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(code) => {
                let (doing, needs) = (format!("Kafka topic {stored}"), [Need::topic(Operation::Describe, stored)]);
                Err(self.context.error_of(&doing, &KafkaError::MetadataFetch(code), &needs))
            }
        }
    }

    /// Where every partition begins.
    pub(super) fn oldest(&self, stored: &str, partitions: &[u32]) -> Result<Vec<u64>, BusError> {
        self.offsets(Isolation::Uncommitted, stored, partitions, Offset::Beginning)
    }

    /// Where every partition ends: for what is committed, before the first open transaction.
    pub(super) fn ends(&self, isolation: Isolation, stored: &str, partitions: &[u32]) -> Result<Vec<u64>, BusError> {
        self.offsets(isolation, stored, partitions, Offset::End)
    }

    /// Where one partition ends.
    pub(super) fn end(&self, isolation: Isolation, stored: &str, partition: u32) -> Result<u64, BusError> {
        let ends = self.ends(isolation, stored, &[partition])?;
        ends.first().copied().ok_or_else(|| BusError::UnknownTopic(stored.to_owned()))
    }

    /// The topics whose stored names begin with `prefix`, and their numbers of partitions.
    pub(super) fn topics(&self, prefix: &str) -> Result<Vec<(String, u32)>, BusError> {
        let metadata = self.metadata(None)?;
        let ours = metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix));
        Ok(ours.map(|topic| (topic.name().to_owned(), u32::try_from(topic.partitions().len()).unwrap_or(0))).collect())
    }

    /// One question for all partitions: the offset of a "time" that means the beginning or the end. A broker that does
    /// not lead a partition yet, or any more, says so; then it is asked again, as the client itself does elsewhere.
    fn offsets(
        &self,
        isolation: Isolation,
        stored: &str,
        partitions: &[u32],
        which: Offset,
    ) -> Result<Vec<u64>, BusError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let client = self.client(isolation);
        let (deadline, mut is_told_anew) = (Instant::now() + self.timeout, false);
        loop {
            match self.offsets_once(client, stored, partitions, which) {
                Err(error) if may_pass(&error) && Instant::now() < deadline => std::thread::sleep(ASK_AGAIN),
                // The client remembers for a while what it may not, and does not ask again by itself.
                Err(error) if !is_told_anew && error.rdkafka_error_code().is_some_and(forbidden::is_refusal) => {
                    is_told_anew = true;
                    let _or_the_same_error = client.fetch_metadata(Some(stored), self.timeout);
                }
                Err(error) => {
                    let doing = format!("the positions of Kafka topic {stored} can not be had");
                    return Err(self.failed(client, &doing, &error, &[Need::topic(Operation::Describe, stored)]));
                }
                Ok(offsets) => return Ok(offsets),
            }
        }
    }

    fn offsets_once(
        &self,
        client: &OurConsumer,
        stored: &str,
        partitions: &[u32],
        which: Offset,
    ) -> Result<Vec<u64>, KafkaError> {
        let mut asked = TopicPartitionList::new();
        for partition in partitions {
            asked.add_partition_offset(stored, number(*partition), which)?;
        }
        let answered = client.offsets_for_times(asked, self.timeout)?;
        let mut offsets = vec![None; partitions.len()];
        for element in answered.elements() {
            element.error()?;
            let place = partitions.iter().position(|partition| number(*partition) == element.partition());
            let place = place.and_then(|place| offsets.get_mut(place));
            if let (Some(place), Offset::Offset(offset)) = (place, element.offset()) {
                *place = u64::try_from(offset).ok();
            }
        }
        let offsets: Option<Vec<u64>> = offsets.into_iter().collect();
        offsets.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset))
    }
}

/// Whether an answer is of the kind that another one follows by itself.
fn may_pass(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::OffsetNotAvailable
        )
    )
}

/// Partitions are signed where Kafka names them.
pub(super) fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// A position as Kafka writes it.
pub(super) fn offset(position: u64) -> Offset {
    Offset::Offset(i64::try_from(position).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A client whose closing ends when it is told to, and says when it does.
    struct Stuck {
        told: mpsc::Receiver<()>,
        closed: mpsc::Sender<()>,
    }

    impl Drop for Stuck {
        fn drop(&mut self) {
            let _told_or_given_up = self.told.recv();
            let _nobody_waits_any_more = self.closed.send(());
        }
    }

    #[test]
    fn a_client_that_does_not_close_keeps_nobody() {
        let ((tell, told), (closed, is_closed)) = (mpsc::channel(), mpsc::channel());
        // If this waited, nobody would be left to tell it.
        close(Stuck { told, closed });
        tell.send(()).unwrap();
        is_closed.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}
