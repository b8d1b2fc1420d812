//! A partition of a step on Kafka: the log under a worker.
//!
//! # Why nothing is lost, and nothing is there twice
//!
//! Whoever owns a partition has a producer whose transactional id is made of step and partition. Beginning to use it
//! (`init_transactions`) ends, at the brokers, whatever an earlier owner had open, and makes every later word of that
//! one an error: so a stopped owner that wakes up can commit nothing. After that, and only then, the owner asks for the
//! committed position and builds the state: what it finds can not change any more but by itself.
//!
//! Outputs, dead letters, the changes of state, the progress and the position of the group go into one transaction.
//! What the state is built from is read up to an end that is asked for *after* the position, and of everything that was
//! ever written (the end of what is committed could stand before our own changes, behind somebody's open transaction,
//! and state would be lost without a word). The progress in the changelog must then name the committed position; when
//! it does not, one of the two topics was lost or replaced, and the step stops with that sentence.
//!
//! # The order within a transaction
//!
//! A transaction is made whole by its last word, so the group's position may join it before, between or after the
//! messages; when anything of it fails, the last word is never said. Usually the position is added while the messages
//! are on their way. Right after a commit the brokers may still be writing its end into the partitions, and refuse the
//! next transaction until they have: of that answer to its first message the client recovers only after 20 ms, and of
//! that to a position as soon as it is told to ([`REFUSED_AGAIN_MS`]). So within that time the position goes first,
//! alone, and the messages follow when the transaction has begun. While a position is being added the client can
//! neither commit nor abort: whatever happens, that is waited for first.
//!
//! # Errors
//!
//! *Fenced* (fatal): somebody else owns the partition; it is given up. Every other error ends the transaction and the
//! producer: the next turn makes a new one, whose beginning settles at the brokers what became of the last commit, and
//! goes on from what is committed. A commit whose outcome is unknown is first repeated until its time is over.
//!
//! An owner that was stopped between two questions, while another one worked, finds answers that do not fit: positions
//! that differ, or that are gone. So an error that would end the step is believed only while the lease lasts; after
//! that it means *fenced*.
//!
//! Attempts are marked in the changelog outside of the transaction, because they must stand when it does not.

mod restore;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use events::Timestamp;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer, ThreadedProducer};
use rdkafka::{TopicPartitionList, consumer::Consumer};

use super::Inner;
use super::changelog::{self, Change, MARK, Mark, PROGRESS, Progress, SLOT, Told};
use super::client::{Context, Isolation, OurConsumer, close, consumer, number, offset};
use super::delivery::{Batch, Message, OurProducer, Ticket, send_blocking};
use super::forbidden::Need;
use super::publish::{Adding, acknowledged, add_position, commit, why, why_not_sent};
use super::reader::{Found, Gone, LOOK_RECORDS, Reading};
use super::record::headers;
use super::rights::Operation;
use super::state::{Copied, Counts, State};
use super::status::{StepPlace, ToldAt, step_group};
use crate::error::BusError;
use crate::interface::Loss;
use crate::partition::partition_for;
use crate::record::{Position, Record, RecordKey};
use crate::worker::log::{
    AttemptMark, Concluded, Held, Loaded, Outline, PartitionLog, ReadRange, StepWrite, StoredRecord, Suspicion,
};
use crate::worker::tables;
use crate::worker::timers::TimerWindow;

/// How long an end that was asked for may take to be reached: an open transaction of somebody else hides it.
const REACH: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// How long the client waits by itself when the brokers have not ended the transaction before; after that they nearly
/// always have.
const ENDED_BY_NOW: Duration = Duration::from_millis(20);
/// How soon the client repeats what the brokers refuse for a moment; each time that they do so again takes twice as long,
/// up to a second.
const REFUSED_AGAIN_MS: u64 = 2;
/// Records read ahead.
const READ_AHEAD: usize = 2_000;

/// What all partitions of a running step share here.
pub(super) struct RunTopics {
    pub(super) step: String,
    pub(super) input: Arc<str>,
    /// Stored names, and numbers of partitions.
    pub(super) outputs: Vec<(String, u32)>,
    pub(super) dead_letters: (String, u32),
    pub(super) changelog: String,
}

/// What the transactional ids of a step begin with; the number of the partition follows.
pub(super) fn transactions_of(step: &str) -> String {
    format!("step.{step}.")
}

/// Until when the lease of a partition says that it is ours.
pub(super) type Lease = Arc<parking_lot::Mutex<Instant>>;

/// Since when a call of the client is waited for that should end by itself; none: it is not.
pub(super) type Waits = Arc<parking_lot::Mutex<Option<Instant>>>;

/// While it is there, a call of the client is waited for.
struct Waiting(Waits);

impl Waiting {
    fn begin(waits: &Waits) -> Self {
        *waits.lock() = Some(Instant::now());
        Self(Arc::clone(waits))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

/// A partition that this process owns.
pub(super) struct SlotLog {
    inner: Arc<Inner>,
    topics: Arc<RunTopics>,
    partition: u32,
    epoch: i64,
    lease: Lease,
    waits: Waits,
    producer: Option<OurProducer>,
    /// When the last transaction was made.
    committed_at: Option<Instant>,
    /// Of the step, for what it has committed.
    group: Arc<OurConsumer>,
    state: State,
    copied: Copied,
    counts: Counts,
    incarnation: String,
    reading: Option<Reading>,
    queue: VecDeque<StoredRecord>,
    position: u64,
}

impl SlotLog {
    pub(super) fn new(
        inner: Arc<Inner>,
        topics: Arc<RunTopics>,
        partition: u32,
        epoch: i64,
        lease: Lease,
    ) -> Result<Self, BusError> {
        let changelog = format!("{}/{partition}", topics.changelog);
        let file: PathBuf = inner.steps()?.state_dir.join(&topics.changelog).join(format!("{partition}.sqlite"));
        let state = State::open(&file, &changelog)?;
        let group = inner.group(&step_group(&topics.step))?;
        Ok(Self {
            inner,
            topics,
            partition,
            epoch,
            lease,
            waits: Waits::default(),
            producer: None,
            committed_at: None,
            group,
            state,
            copied: Copied::default(),
            counts: Counts::default(),
            incarnation: String::new(),
            reading: None,
            queue: VecDeque::new(),
            position: 0,
        })
    }

    /// Since when it waits for the client: some calls have been seen not to return.
    pub(super) fn waits(&self) -> Waits {
        Arc::clone(&self.waits)
    }

    /// Whether the lease says that the partition is ours.
    pub(super) fn is_leased(&self) -> bool {
        Instant::now() <= *self.lease.lock()
    }

    pub(super) fn fenced(&self) -> BusError {
        BusError::Fenced { step: self.topics.step.clone(), partition: self.partition }
    }

    fn place(&self) -> StepPlace {
        (self.topics.step.clone(), self.partition)
    }

    fn kafka(&self, doing: &str, error: &KafkaError) -> BusError {
        let doing = format!("step {}, partition {}: {doing}", self.topics.step, self.partition);
        self.inner.error_of(&doing, error, self.needs())
    }

    /// Everything that a transaction needs.
    fn needs(&self) -> Vec<Need> {
        let RunTopics { step, input, outputs, dead_letters, changelog } = &*self.topics;
        let config = &self.inner.config;
        // Whoever only moves the step on writes to none of them.
        let written =
            outputs.iter().chain([dead_letters]).map(|(stored, _)| stored).filter(|stored| !stored.is_empty());
        let mut needs: Vec<Need> =
            written.chain([changelog]).map(|stored| Need::topic(Operation::Write, stored.as_str())).collect();
        needs.push(Need::topic(Operation::Read, config.stored_name(input)));
        needs.push(Need::group(Operation::Read, config.stored_name(&step_group(step))));
        needs.push(Need::transactions(self.transactions()));
        needs
    }

    /// The name under which this partition's transactions are made.
    fn transactions(&self) -> String {
        let name = format!("{}{}", transactions_of(&self.topics.step), self.partition);
        self.inner.config.stored_name(&name)
    }

    /// Waits for records for a short while; whether there are any that were not handled.
    pub(super) fn wait(&mut self) -> Result<bool, BusError> {
        self.look(LOOK)?;
        Ok(self.known_end() > self.position)
    }

    fn look(&mut self, wait: Duration) -> Result<(), BusError> {
        let Some(reading) = self.reading.as_mut() else { return Ok(()) };
        if self.queue.len() < READ_AHEAD {
            reading.look(wait)?;
            self.keep();
        }
        Ok(())
    }

    /// Puts what was found behind what waits. A position must not pass what is only found.
    fn keep(&mut self) {
        let Some(reading) = &self.reading else { return };
        let found = std::mem::take(&mut *reading.buffer.lock());
        self.queue.extend(found.into_iter().filter_map(|found| match found {
            Found::Record { record, .. } => Some(record),
            Found::Change { .. } | Found::Passed { .. } => None,
        }));
    }

    /// Where the group goes on: past markers too, when nothing else is left.
    fn position_to_commit(&self, position: u64) -> u64 {
        let left = self.queue.back().is_some_and(|record| record.position >= position);
        let read = self.reading.as_ref().map_or(0, |reading| reading.next(self.partition));
        if left { position } else { position.max(read) }
    }

    /// A producer that nobody else's word can pass.
    fn begin(&mut self) -> Result<(), BusError> {
        if self.producer.is_some() {
            return Ok(());
        }
        if !self.is_leased() {
            return Err(self.fenced());
        }
        let (config, name) = (&self.inner.config, self.transactions());
        let mut client = config.producer()?;
        client
            .set("transactional.id", &name)
            .set("linger.ms", "0")
            .set("retry.backoff.ms", REFUSED_AGAIN_MS.to_string())
            .set("transaction.timeout.ms", config.delivery_timeout_ms.to_string());
        let producer: ThreadedProducer<Context> = client
            .create_with_context(self.inner.context.clone())
            .map_err(|error| BusError::Invalid(format!("the Kafka client refuses its settings: {error}")))?;
        let begun = {
            let _waiting = Waiting::begin(&self.waits);
            producer.init_transactions(self.inner.request_timeout())
        };
        if let Err(error) = begun {
            let error = self.kafka("its transactions can not be begun", &error);
            close(producer);
            return Err(error);
        }
        self.inner.context.forbidden.used_transactions(&name);
        self.producer = Some(Arc::new(producer));
        Ok(())
    }

    /// The committed position and what is told beside it, when transactions that are not settled yet have been.
    fn committed(&self) -> Result<ToldAt, BusError> {
        let group = step_group(&self.topics.step);
        let settled = consumer(&self.inner.config, &self.inner.context, &group, Isolation::Committed, |_| {})?;
        let committed = self.committed_says(&settled, &group);
        close(settled);
        committed
    }

    fn committed_says(&self, settled: &OurConsumer, group: &str) -> Result<ToldAt, BusError> {
        let stored = self.inner.config.stored_name(&self.topics.input);
        let deadline = Instant::now() + self.inner.request_timeout();
        loop {
            match self.inner.told(settled, group, &stored, &[self.partition]) {
                Ok(told) => return Ok(told.into_iter().next().and_then(|(_, at)| at)),
                Err(error) if Instant::now() < deadline && !matches!(error, BusError::NotAdmitted(_)) => {
                    std::thread::sleep(LOOK);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What is wrong when a transaction was not made, and what is to be done about it.
    fn failed(&mut self, doing: &str, error: &KafkaError) -> BusError {
        let Some(producer) = self.producer.take() else { return self.kafka(doing, error) };
        let failed = self.failed_with(&producer, doing, error);
        close(producer);
        failed
    }

    fn failed_with(&self, producer: &OurProducer, doing: &str, error: &KafkaError) -> BusError {
        let is_fence = |code: RDKafkaErrorCode| {
            matches!(
                code,
                RDKafkaErrorCode::Fenced
                    | RDKafkaErrorCode::ProducerFenced
                    | RDKafkaErrorCode::InvalidProducerEpoch
                    | RDKafkaErrorCode::FencedInstanceId
            )
        };
        let fatal = producer.client().fatal_error().map(|(code, _)| code);
        let error = &why(producer, error);
        if error.rdkafka_error_code().is_some_and(is_fence) || fatal.is_some_and(is_fence) {
            return self.fenced();
        }
        if fatal.is_none()
            && let Err(error) = producer.abort_transaction(self.inner.request_timeout())
        {
            tracing::debug!(%error, step = %self.topics.step, "a transaction is left to its successor to end");
        }
        self.kafka(doing, error)
    }

    /// One transaction: messages, and the position of the group. Answers the position of the progress in the changelog.
    fn transaction(&mut self, messages: &Messages<'_>, position: u64, told: &Told) -> Result<u64, BusError> {
        const DOING: &str = "its transaction was not made";
        self.begin()?;
        let Some(producer) = self.producer.clone() else { return Err(BusError::Closed) };
        let _waiting = Waiting::begin(&self.waits);
        match self.transaction_with(&producer, messages, position, told) {
            Ok(position) => {
                self.committed_at = Some(Instant::now());
                Ok(position)
            }
            Err(error) => {
                drop(producer);
                Err(self.failed(DOING, &error))
            }
        }
    }

    fn transaction_with(
        &self,
        producer: &OurProducer,
        messages: &Messages<'_>,
        position: u64,
        told: &Told,
    ) -> Result<u64, KafkaError> {
        // All of it together: whoever stops waits for no more than that.
        let deadline = Instant::now() + Duration::from_millis(self.inner.config.delivery_timeout_ms);
        producer.begin_transaction()?;
        let adding = self.adding(producer, position, told, deadline)?;
        let adding = if self.committed_at.is_some_and(|at| at.elapsed() < ENDED_BY_NOW) {
            adding.added()?;
            None
        } else {
            Some(adding)
        };
        let batch = Batch::new(messages.records.len() + messages.changes.len());
        let sent = self.send(producer, messages, &batch, deadline);
        let added = adding.map_or(Ok(()), Adding::added);
        let progress = sent.map_err(|error| why_not_sent(producer, error))?;
        // Why a message was taken back says more than that a position could not be added for the same reason.
        let positions = acknowledged(producer, &batch, deadline)?;
        added?;
        commit(producer, deadline)?;
        Ok(positions.get(progress).copied().unwrap_or_default())
    }

    /// Begins to add the group's position to the transaction, and what is told beside it.
    fn adding(
        &self,
        producer: &OurProducer,
        position: u64,
        told: &Told,
        deadline: Instant,
    ) -> Result<Adding, KafkaError> {
        let Some(group) = self.group.group_metadata() else { return Err(KafkaError::Canceled) };
        let mut offsets = TopicPartitionList::new();
        {
            let stored = self.inner.config.stored_name(&self.topics.input);
            let mut element = offsets.add_partition(&stored, number(self.partition));
            element.set_offset(offset(position))?;
            element.set_metadata(serde_json::to_string(told).unwrap_or_default());
        }
        add_position(producer, offsets, group, left(deadline).min(self.inner.request_timeout()))
    }

    /// Hands all messages of a transaction to the client. Answers the place of the progress among them.
    fn send(
        &self,
        producer: &OurProducer,
        messages: &Messages<'_>,
        batch: &Arc<Batch>,
        deadline: Instant,
    ) -> Result<usize, KafkaError> {
        let at = self.inner.clock.now();
        let mut reached = BTreeSet::new();
        let (first, later): (Vec<_>, Vec<_>) =
            messages.records.iter().partition(|(topic, partition, _)| reached.insert((*topic, *partition)));
        // The brokers must be told of every partition before it is written to, and whom the client has not met by the
        // time it tells them costs another round. So whatever opens a partition goes first.
        for (topic, partition, record) in &first {
            send_blocking(producer, message_of(topic, *partition, record, at, batch.ticket()), deadline)?;
        }
        // What the state is changed by ends with the progress.
        let mut progress = 0;
        for (key, value) in &messages.changes {
            let ticket = batch.ticket();
            progress = ticket.place();
            let mut message: Message<'_, [u8], [u8]> = Message::with_opaque_to(&self.topics.changelog, ticket)
                .partition(number(self.partition))
                .key(key.as_slice());
            if let Some(value) = value {
                message = message.payload(value.as_slice());
            }
            send_blocking(producer, message, deadline)?;
        }
        for (topic, partition, record) in &later {
            send_blocking(producer, message_of(topic, *partition, record, at, batch.ticket()), deadline)?;
        }
        Ok(progress)
    }

    /// A record where it goes to, as it is written there.
    fn placed<'t>(&self, topic: &'t (String, u32), record: &Record) -> Result<(&'t str, u32, Record), BusError> {
        let (stored, partitions) = topic;
        let value = self.inner.outgoing(stored, &record.value)?;
        Ok((stored.as_str(), partition_for(&record.key, *partitions), Record { key: record.key, value }))
    }

    /// Writes a transaction, and then the copy.
    fn write(&mut self, write: &StepWrite) -> Result<(), BusError> {
        // What was read of it may have been another owner's.
        if !self.state.is_ours()? {
            return Err(self.fenced());
        }
        let position = self.position_to_commit(write.position);
        let progress = Progress {
            position,
            time: write.time.map(Timestamp::as_micros),
            paused: write.paused.clone(),
            suspicion: (&write.suspicion).into(),
            epoch: self.epoch,
            incarnation: self.incarnation.clone(),
        };
        let mut changes: Vec<Change> =
            changelog::changes(&self.state.connection, &write.pending).map_err(|error| self.state.failed(error))?;
        let counts = self.state.counts_after(self.counts, &changes)?;
        let told = told(&progress, counts);
        let text = serde_json::to_vec(&progress).map_err(|error| BusError::Storage(error.to_string()))?;
        changes.push((PROGRESS.to_vec(), Some(text)));
        let topics = Arc::clone(&self.topics);
        let outputs = write
            .pending
            .emitted
            .iter()
            .filter_map(|(output, record)| topics.outputs.get(*output).map(|topic| self.placed(topic, record)));
        let letters = write.pending.dead_letters.iter().map(|record| self.placed(&topics.dead_letters, record));
        let records = outputs.chain(letters).collect::<Result<_, BusError>>()?;
        let messages = Messages { records, changes };
        let last = self.transaction(&messages, position, &told)?;
        let to = Copied { next: last + 1, progress: Some(progress), mark: None };
        let written = self.state.write(self.copied.next, &to, true, |connection| {
            for (key, value) in &messages.changes {
                changelog::apply(connection, key, value.as_deref())?;
            }
            Ok(())
        })?;
        if !written {
            return Err(self.fenced());
        }
        self.copied = to;
        self.counts = counts;
        self.position = write.position;
        while self.queue.front().is_some_and(|record| record.position < write.position) {
            self.queue.pop_front();
        }
        Ok(())
    }
}

/// What everybody may know of a partition.
fn told(progress: &Progress, counts: Counts) -> Told {
    let Counts { timers, poisoned, due } = counts;
    // The brokers keep at most 4 KiB beside a position.
    let paused = progress.paused.clone().map(|name| name.chars().take(200).collect());
    Told { time: progress.time, paused, timers, due, poisoned, incarnation: progress.incarnation.clone() }
}

/// What a transaction sends.
struct Messages<'t> {
    /// With the stored names of their topics.
    records: Vec<(&'t str, u32, Record)>,
    /// Of the changelog, the progress last.
    changes: Vec<Change>,
}

fn message_of<'a>(
    topic: &'a str,
    partition: u32,
    record: &'a Record,
    at: Timestamp,
    ticket: Box<Ticket>,
) -> Message<'a, [u8; 16], [u8]> {
    Message::with_opaque_to(topic, ticket)
        .partition(number(partition))
        .key(&record.key.0)
        .payload(record.value.as_ref())
        .headers(headers(at, false))
}

impl SlotLog {
    /// A position behind the end of the input: brokers came back with less than they had acknowledged. Records would be
    /// missed until the end has passed it. A new leader may not know its end for a moment.
    fn refuse_ahead(&self, stored: &str, position: u64) -> Result<(), BusError> {
        let deadline = Instant::now() + self.inner.request_timeout();
        loop {
            let end = self.inner.questions.end(Isolation::Uncommitted, stored, self.partition)?;
            if position <= end {
                return Ok(());
            }
            if Instant::now() > deadline {
                let (topic, partition) = (self.topics.input.to_string(), self.partition);
                let (position, end) = (Position::from_offset(position), Position::from_offset(end));
                return Err(BusError::PositionAhead { topic, partition, position, end });
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// What the brokers say of a partition, once nobody else can change it.
struct Standing {
    /// Of the group; none: it has none, or none any more.
    committed: Option<u64>,
    /// Of the input.
    oldest: u64,
}

impl SlotLog {
    /// Takes the partition over and builds its state.
    fn standing(&mut self) -> Result<Standing, BusError> {
        self.reading = None;
        self.queue.clear();
        // One that began before says nothing of who has come since.
        if let Some(before) = self.producer.take() {
            close(before);
        }
        self.begin()?;
        // Before anything is asked: what another owner has made of the copy since then fits no answer.
        self.state.mend()?;
        self.state.claim()?;
        let stored = self.inner.config.stored_name(&self.topics.input);
        let committed = self.committed()?;
        self.restore(committed.as_ref().map(|(_, told)| told.incarnation.as_str()))?;
        let oldest = self.inner.questions.oldest(&stored, &[self.partition])?.into_iter().next().unwrap_or(0);
        Ok(Standing { committed: committed.map(|(position, _)| position), oldest })
    }

    fn differ(&self, committed: Option<u64>, progress: Option<u64>) -> BusError {
        let say = |position: Option<u64>| {
            position.map_or_else(|| "none".to_owned(), |at| Position::from_offset(at).to_string())
        };
        BusError::Invalid(format!(
            "step {}, partition {}: the group's position is {}, and that of the changelog {} is {}: one of the two was \
             deleted or replaced, and going on would lose records or state",
            self.topics.step,
            self.partition,
            say(committed),
            self.topics.changelog,
            say(progress),
        ))
    }

    /// Takes the partition over and finds what keeps it from going on.
    pub(super) fn loss(&mut self) -> Result<Loss, BusError> {
        let Standing { committed, oldest } = self.standing()?;
        let progress = self.copied.progress.as_ref().map(|progress| progress.position);
        let from = match (committed, progress) {
            // The group's position expired. The changelog has the one that was committed in the same transaction.
            (None, Some(progress)) => progress,
            (Some(position), Some(progress)) if position == progress => progress,
            // It has never run, and begins with the oldest record.
            (None, None) => oldest,
            (position, progress) => return Err(self.differ(position, progress)),
        };
        let stored = self.inner.config.stored_name(&self.topics.input);
        self.refuse_ahead(&stored, from)?;
        Ok(Loss {
            topic: self.topics.input.to_string(),
            partition: self.partition,
            from: Position::from_offset(from),
            to: Position::from_offset(from.max(oldest)),
            is_position_forgotten: committed.is_none() && progress.is_some(),
        })
    }

    /// Commits where the step can go on, in the changelog and for the group. What [`SlotLog::loss`] has found must not
    /// be nothing.
    pub(super) fn go_on(&mut self, loss: &Loss) -> Result<(), BusError> {
        let Some(progress) = self.copied.progress.clone() else { return Err(BusError::Closed) };
        let mark = self.copied.mark.as_ref();
        let marked = mark.filter(|mark| mark.position == progress.position && mark.epoch >= progress.epoch);
        let time = progress.time.max(marked.and_then(|mark| mark.time)).map(Timestamp::from_micros);
        // Attempts at records that are gone say nothing about those that come.
        let suspicion = if loss.positions() > 0 {
            Suspicion::default()
        } else {
            marked.map_or(progress.suspicion, |mark| mark.suspicion.clone()).into()
        };
        self.incarnation = progress.incarnation;
        let (position, paused) = (loss.to.offset(), progress.paused);
        self.write(&StepWrite { position, time, paused, suspicion, pending: Arc::default() })
    }
}

/// What is left of the time until a deadline.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

impl Drop for SlotLog {
    fn drop(&mut self) {
        if let Some(producer) = self.producer.take() {
            close(producer);
        }
    }
}

impl PartitionLog for SlotLog {
    fn partition(&self) -> u32 {
        self.partition
    }

    /// Every transaction costs the brokers a good millisecond, whatever it holds, and each of its messages some
    /// microseconds.
    fn most_records(&self) -> usize {
        LOOK_RECORDS
    }

    fn load(&mut self) -> Result<(Loaded, Suspicion), BusError> {
        let Standing { committed, oldest } = self.standing()?;
        let (inner, partition) = (Arc::clone(&self.inner), self.partition);
        let stored = inner.config.stored_name(&self.topics.input);
        let progress = match (committed, self.copied.progress.clone()) {
            (Some(position), Some(progress)) if position == progress.position => progress,
            (None, None) => {
                let incarnation = hex::encode(rand::random::<[u8; 8]>());
                Progress { position: oldest, epoch: self.epoch, incarnation, ..Progress::default() }
            }
            (position, progress) => return Err(self.differ(position, progress.map(|progress| progress.position))),
        };
        if progress.position < oldest {
            let (topic, position) = (self.topics.input.to_string(), Position::from_offset(progress.position));
            return Err(BusError::PositionGone { topic, partition, position, oldest: Position::from_offset(oldest) });
        }
        self.refuse_ahead(&stored, progress.position)?;
        self.position = progress.position;
        self.incarnation.clone_from(&progress.incarnation);
        let group = step_group(&self.topics.step);
        let from = [(partition, progress.position)];
        self.reading = Some(Reading::open(inner, Arc::clone(&self.topics.input), &group, Gone::Told, &from)?);
        if committed.is_none() {
            // From now on the step is known, and holds back whoever follows it.
            self.write(&StepWrite {
                position: progress.position,
                time: None,
                paused: None,
                suspicion: Suspicion::default(),
                pending: Arc::default(),
            })?;
        }
        let connection = &self.state.connection;
        let believed = |mark: &&Mark| mark.position == progress.position && mark.epoch >= progress.epoch;
        let mark = self.copied.mark.as_ref().filter(believed).cloned();
        let time = progress.time.max(mark.as_ref().and_then(|mark| mark.time)).map(Timestamp::from_micros);
        let loaded = Loaded {
            position: progress.position,
            time,
            committed_time: time,
            paused: progress.paused.is_some(),
            poisoned: tables::poisoned_keys(connection, SLOT).map_err(|error| self.state.failed(error))?,
            control: tables::control_table(connection, SLOT).map_err(|error| self.state.failed(error))?,
            timers: TimerWindow::load(connection, SLOT).map_err(|error| self.state.failed(error))?,
        };
        Ok((loaded, mark.map_or(progress.suspicion, |mark| mark.suspicion).into()))
    }

    fn load_timers(&mut self) -> Result<TimerWindow, BusError> {
        TimerWindow::load(&self.state.connection, SLOT).map_err(|error| self.state.failed(error))
    }

    fn known_end(&self) -> u64 {
        self.queue.back().map_or(self.position, |record| (record.position + 1).max(self.position))
    }

    fn look_for_end(&mut self, position: u64) -> Result<Option<u64>, BusError> {
        let stored = self.inner.config.stored_name(&self.topics.input);
        // Whatever was ever written: what a commit has not made readable yet is there already.
        let end = self.inner.questions.end(Isolation::Uncommitted, &stored, self.partition)?;
        let begun = Instant::now();
        loop {
            let read = self.reading.as_ref().map_or(0, |reading| reading.next(self.partition));
            if self.known_end() > position || read >= end {
                return Ok(Some(self.known_end()));
            }
            if begun.elapsed() > REACH {
                tracing::debug!(topic = stored, partition = self.partition, "an open transaction hides the end");
                return Ok(None);
            }
            self.look(LOOK)?;
        }
    }

    fn read(&mut self, range: ReadRange) -> Result<Vec<StoredRecord>, BusError> {
        // A batch is as large as it may be, whatever a look was cut at.
        let room = range.records.saturating_sub(self.queue.len());
        if let Some(reading) = self.reading.as_mut().filter(|_| room > 0) {
            reading.take(room)?;
            self.keep();
        }
        let (mut records, mut bytes) = (Vec::with_capacity(range.records.min(self.queue.len())), 0);
        for record in self.queue.iter().filter(|record| record.position >= range.from) {
            bytes += record.value.len();
            if records.len() >= range.records || (!records.is_empty() && bytes > range.bytes) {
                break;
            }
            records.push(record.clone());
        }
        Ok(records)
    }

    fn mark(&mut self, mark: AttemptMark) -> Result<(), BusError> {
        let progress = self.copied.progress.as_ref().map_or(0, |progress| progress.position);
        let mark = Mark {
            position: progress,
            time: mark.time.map(Timestamp::as_micros),
            suspicion: (&mark.suspicion).into(),
            epoch: self.epoch,
        };
        let text = serde_json::to_vec(&mark).map_err(|error| BusError::Storage(error.to_string()))?;
        let marked = self.inner.publisher.publish_raw(&self.topics.changelog, self.partition, MARK, &text);
        self.inner.runtime.block_on(marked)
    }

    fn commit(&mut self, write: StepWrite) -> Result<(), BusError> {
        self.write(&write)
    }

    fn concluded(&self, step: &str) -> Result<Concluded, BusError> {
        let live = self.inner.live.lock().get(&(step.to_owned(), self.partition)).copied();
        let holder = if live.is_some() { Held::Here } else { Held::Elsewhere };
        let group = step_group(step);
        let client = self.inner.group(&group)?;
        let Some(input) = self.inner.input_of_step(step)? else { return Ok(Concluded::Everything) };
        let stored = self.inner.config.stored_name(&input);
        let told = self.inner.told(&client, &group, &stored, &[self.partition])?;
        let told = told.into_iter().next().and_then(|(_, at)| at).and_then(|(_, told)| told.concluded());
        Ok(Concluded::UpTo { time: told.max(live.and_then(|live| live.concluded)), holder })
    }

    fn reached(&self, time: Option<Timestamp>, concluded: Option<Timestamp>) {
        let mut live = self.inner.live.lock();
        let live = live.entry(self.place()).or_default();
        live.time = time;
        live.concluded = concluded.or(live.concluded);
    }

    fn state(&self, key: &RecordKey, name: &str) -> Result<Option<Bytes>, BusError> {
        tables::state(&self.state.connection, SLOT, key, name).map_err(|error| self.state.failed(error))
    }

    fn states(&self, key: &RecordKey, prefix: &str) -> Result<Vec<(String, Bytes)>, BusError> {
        tables::states(&self.state.connection, SLOT, key, prefix).map_err(|error| self.state.failed(error))
    }

    fn state_names(&self, key: &RecordKey) -> Result<Vec<String>, BusError> {
        tables::state_names(&self.state.connection, SLOT, key).map_err(|error| self.state.failed(error))
    }

    fn outline(&self, key: &RecordKey) -> Result<Option<Outline>, BusError> {
        tables::outline(&self.state.connection, SLOT, key).map_err(|error| self.state.failed(error))
    }
}
