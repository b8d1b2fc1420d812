//! Exposures: what serving delivered, recorded by serving alone.
//!
//! An answer never waits for its record. It is put into a bounded queue (full: dropped and counted), and one task does
//! the rest: consent first, then the person's data key, then seal, then the bus. A failure of any of them is tried
//! again a bounded number of times while the queue behind it fills. What clients of an upstream say of its completions
//! goes the same way, behind the exposures that it is about.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bus::{PublishError, Record, RecordKey};
use bytes::Bytes;
use events::topics::TELEMETRY_RAW;
use events::{
    ConsentTier, DataKey, EditAction, EditContext, EventHeader, EventId, EventKind, EventText, OffsetEncoding,
    PersonPseudonym, RawEvent, Receipt, ReceiptState, Sealed, TenantId, TenantSecret, Timestamp,
};
use metrics::{counter, gauge};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::config::ServingConfig;
use crate::log::{LateLog, Log};

/// Why a stub was filtered, as at the other door.
const CONSENT_NONE: &str = "consent_none";

/// One delivered decision.
pub(crate) struct Exposure {
    pub(crate) secret: Arc<TenantSecret>,
    pub(crate) offset_encoding: OffsetEncoding,
    pub(crate) window_start_offset: u64,
    pub(crate) context: Arc<EditContext>,
    /// What was proposed, in served order; when withheld too.
    pub(crate) actions: Vec<EditAction>,
    pub(crate) receipt: Receipt,
    pub(crate) received_at: Timestamp,
    /// From the question to the first action on its way; none when nothing was shown.
    pub(crate) first_action: Option<Duration>,
}

/// What an event that leaves is, in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeavingKind {
    Exposure,
    /// What a client of an upstream said.
    Signal,
}

/// An event that leaves for the log, once its person's consent was asked. It is about a decision, whose receipt says
/// whose it is.
pub(crate) trait Leaving: Send + Sync {
    fn kind(&self) -> LeavingKind;
    fn secret(&self) -> &TenantSecret;
    fn receipt(&self) -> &Receipt;
    /// Whether there is text to seal, for those who agreed to that.
    fn has_text(&self) -> bool;
    /// The event as it goes onto the bus. `key` is used for whole events only.
    fn event(&self, consent: ConsentTier, key: Option<&DataKey>) -> Result<RawEvent, serde_json::Error>;
}

impl Leaving for Exposure {
    fn kind(&self) -> LeavingKind {
        LeavingKind::Exposure
    }

    fn secret(&self) -> &TenantSecret {
        &self.secret
    }

    fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    fn has_text(&self) -> bool {
        true
    }

    fn event(&self, consent: ConsentTier, key: Option<&DataKey>) -> Result<RawEvent, serde_json::Error> {
        raw_event(self, consent, key)
    }
}

/// The database, or whatever stands in for it, does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unavailable;

/// What must be known about a person before an exposure leaves.
#[async_trait]
pub(crate) trait People: Send + Sync {
    /// What person and tenant agreed to, the narrower of the two.
    async fn consent(&self, tenant: &TenantId, person: &PersonPseudonym) -> Result<ConsentTier, Unavailable>;
    /// The person's data key, made on first use.
    async fn data_key(&self, tenant: &TenantId, person: &PersonPseudonym) -> Result<Arc<DataKey>, Unavailable>;
}

#[derive(Default)]
struct Pending {
    count: AtomicU64,
    changed: Notify,
}

impl Pending {
    fn add(&self) {
        let before = self.count.fetch_add(1, Ordering::AcqRel);
        gauge!("flywheel_serving_exposures_pending").set((before + 1) as f64);
    }

    fn remove(&self, count: u64) {
        let before = self.count.fetch_sub(count, Ordering::AcqRel);
        gauge!("flywheel_serving_exposures_pending").set(before.saturating_sub(count) as f64);
        self.changed.notify_waiters();
    }
}

/// Where answers leave their exposures.
#[derive(Clone)]
pub(crate) struct ExposureQueue {
    sender: mpsc::Sender<Box<dyn Leaving>>,
    pending: Arc<Pending>,
}

impl ExposureQueue {
    pub(crate) fn new(capacity: usize) -> (Self, ExposureReceiver) {
        let (sender, receiver) = mpsc::channel(capacity);
        let pending = Arc::new(Pending::default());
        (Self { sender, pending: Arc::clone(&pending) }, ExposureReceiver { receiver, pending })
    }

    /// Never waits. False when it was dropped.
    pub(crate) fn offer(&self, leaving: impl Leaving + 'static) -> bool {
        let kind = leaving.kind();
        // Counted before it is sent: the other end may be done with it at once.
        self.pending.add();
        let Err(error) = self.sender.try_send(Box::new(leaving)) else { return true };
        self.pending.remove(1);
        let reason = match error {
            mpsc::error::TrySendError::Full(_) => "queue_full",
            mpsc::error::TrySendError::Closed(_) => "stopped",
        };
        dropped(kind, reason);
        false
    }

    /// Exposures that are neither published nor dropped.
    pub(crate) fn pending(&self) -> u64 {
        self.pending.count.load(Ordering::Acquire)
    }

    /// Ends when there are none.
    pub(crate) async fn settled(&self) {
        loop {
            let changed = self.pending.changed.notified();
            tokio::pin!(changed);
            // Enabled before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            if self.pending() == 0 {
                return;
            }
            changed.await;
        }
    }
}

fn dropped(kind: LeavingKind, reason: &'static str) {
    match kind {
        LeavingKind::Exposure => counter!("flywheel_serving_exposures_dropped_total", "reason" => reason),
        LeavingKind::Signal => counter!("flywheel_serving_upstream_signals_dropped_total", "reason" => reason),
    }
    .increment(1);
}

fn published(kind: LeavingKind) {
    match kind {
        LeavingKind::Exposure => counter!("flywheel_serving_exposures_published_total"),
        LeavingKind::Signal => counter!("flywheel_serving_upstream_signals_published_total"),
    }
    .increment(1);
}

/// The other end of the queue.
pub(crate) struct ExposureReceiver {
    receiver: mpsc::Receiver<Box<dyn Leaving>>,
    pending: Arc<Pending>,
}

/// Publishes what comes out of the queue.
pub(crate) struct Publisher {
    pub(crate) log: LateLog,
    pub(crate) people: Arc<dyn People>,
    pub(crate) batch: usize,
    pub(crate) attempts: u32,
    pub(crate) retry: Duration,
    /// Longest answer of the database or the log.
    pub(crate) timeout: Duration,
    pub(crate) drain: Duration,
}

impl Publisher {
    pub(crate) fn new(log: Log, people: Arc<dyn People>, config: &ServingConfig) -> Self {
        Self {
            log: LateLog::new(log),
            people,
            batch: config.exposure_batch,
            attempts: config.exposure_attempts,
            retry: Duration::from_millis(config.exposure_retry_ms),
            timeout: Duration::from_millis(config.exposure_timeout_ms),
            drain: Duration::from_millis(config.drain_ms),
        }
    }

    /// Runs until `stop`, then at most the drain period for what is still in the queue.
    pub(crate) async fn run(self, mut queue: ExposureReceiver, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(self.batch);
        loop {
            let received = tokio::select! {
                received = queue.receiver.recv_many(&mut batch, self.batch) => received,
                () = stop.cancelled() => break,
            };
            if received == 0 {
                return;
            }
            let drained = async {
                stop.cancelled().await;
                tokio::time::sleep(self.drain).await;
            };
            tokio::select! {
                () = self.publish(&mut batch, &queue.pending) => {}
                () = drained => break,
            }
        }
        queue.receiver.close();
        let rest = async {
            while queue.receiver.recv_many(&mut batch, self.batch).await > 0 {
                self.publish(&mut batch, &queue.pending).await;
            }
        };
        let _ = tokio::time::timeout(self.drain, rest).await;
        // What the time did not allow for, in hand and in the queue.
        while let Ok(left) = queue.receiver.try_recv() {
            batch.push(left);
        }
        batch.iter().for_each(|left| dropped(left.kind(), "stopped"));
        queue.pending.remove(batch.len() as u64);
    }

    /// Publishes a batch; what fails for good is dropped and counted. On return `batch` is empty. Dropping the future
    /// leaves in `batch` what is neither published nor counted.
    async fn publish(&self, batch: &mut Vec<Box<dyn Leaving>>, pending: &Pending) {
        let mut pause = self.retry;
        for attempt in 1..=self.attempts {
            let reason = self.attempt(batch, pending).await;
            if batch.is_empty() {
                return;
            }
            if attempt == self.attempts {
                let left = batch.len() as u64;
                tracing::warn!(count = left, reason, "exposures dropped");
                batch.drain(..).for_each(|left| dropped(left.kind(), reason));
                pending.remove(left);
                return;
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
    }

    /// Tries the whole batch once, keeps in it what may succeed later, and says why that failed.
    async fn attempt(&self, batch: &mut Vec<Box<dyn Leaving>>, pending: &Pending) -> &'static str {
        let mut reason = "bus";
        let mut ready = Vec::new();
        let mut records = Vec::new();
        let mut refused = Vec::new();
        for (index, leaving) in batch.iter().enumerate() {
            match self.record(&**leaving).await {
                Ok(record) => {
                    ready.push(index);
                    records.push(record);
                }
                Err(Refused::Later(why)) => reason = why,
                Err(Refused::Silent(why)) => {
                    // What does not answer once is not asked again for each of the rest.
                    reason = why;
                    break;
                }
                Err(Refused::Never(why)) => refused.push((index, why)),
            }
        }
        if !records.is_empty() {
            let publishing = async {
                match self.log.get().await {
                    Some(bus) => bus.publish(TELEMETRY_RAW, records).await,
                    None => Vec::new(),
                }
            };
            // A log that is down, or does not answer in time, is like one that takes nothing. What it took all the same
            // comes again under the same id.
            let mut results = tokio::time::timeout(self.timeout, publishing).await.unwrap_or_default().into_iter();
            ready.retain(|index| match results.next() {
                Some(Ok(_)) => {
                    published(batch[*index].kind());
                    true
                }
                Some(Err(PublishError::RecordTooLarge { .. })) => {
                    refused.push((*index, "too_large"));
                    false
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "an exposure was not published");
                    false
                }
                None => false,
            });
        } else {
            ready.clear();
        }
        // No await from here on: the batch and its counts change together.
        for (index, why) in &refused {
            dropped(batch[*index].kind(), why);
        }
        let finished: std::collections::BTreeSet<usize> =
            ready.iter().copied().chain(refused.iter().map(|(index, _)| *index)).collect();
        let mut index = 0;
        batch.retain(|_| {
            index += 1;
            !finished.contains(&(index - 1))
        });
        pending.remove(finished.len() as u64);
        reason
    }

    async fn record(&self, leaving: &dyn Leaving) -> Result<Record, Refused> {
        let receipt = leaving.receipt();
        let asked = self.people.consent(&receipt.tenant, &receipt.person);
        let consent = self.in_time(asked, "consent_unavailable").await?;
        let key = if consent == ConsentTier::Code && leaving.has_text() {
            let asked = self.people.data_key(&receipt.tenant, &receipt.person);
            Some(self.in_time(asked, "key_unavailable").await?)
        } else {
            None
        };
        let event = leaving.event(consent, key.as_deref()).map_err(|_| Refused::Never("unwritable"))?;
        let value = events::avro::encode(&event).map_err(|_| Refused::Never("unwritable"))?;
        Ok(Record { key: RecordKey(leaving.secret().record_key(receipt.session_id)), value: Bytes::from(value) })
    }

    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T, Unavailable>>,
        why: &'static str,
    ) -> Result<T, Refused> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => answer.map_err(|Unavailable| Refused::Later(why)),
            Err(_) => Err(Refused::Silent(why)),
        }
    }
}

enum Refused {
    /// It failed, and may succeed later.
    Later(&'static str),
    /// There was no answer in time.
    Silent(&'static str),
    /// It will always fail.
    Never(&'static str),
}

/// An exposure as it goes onto the bus.
///
/// Digest of the content: for a suggestion over what was shown, however long that took. A second silent decision of the
/// same opportunity has, by the derivation of ids, the same event id as the first; its digest covers no more than that
/// id does, so that it counts as a duplicate and not as another content under a known id.
fn raw_event(exposure: &Exposure, consent: ConsentTier, key: Option<&DataKey>) -> Result<RawEvent, serde_json::Error> {
    let receipt = &exposure.receipt;
    let event_id = EventId::of_exposure(receipt.opportunity_id, receipt.suggestion_id);
    let text = |first_action_ms| {
        serde_json::to_vec(&EventText::Exposure {
            context: EditContext::clone(&exposure.context),
            actions: exposure.actions.clone(),
            window_start_offset: exposure.window_start_offset,
            altered: false,
            first_action_ms,
        })
    };
    let delivered = text(None)?;
    let content: &[u8] = if receipt.suggestion_id.is_some() { &delivered } else { SILENT };
    let sealed = match key.filter(|_| consent == ConsentTier::Code) {
        Some(key) => {
            let first_action_ms =
                exposure.first_action.map(|passed| u32::try_from(passed.as_millis()).unwrap_or(u32::MAX));
            Some(key.seal(event_id, TELEMETRY_RAW, &text(first_action_ms)?))
        }
        None => None,
    };
    let about = About { receipt, secret: &exposure.secret, received_at: exposure.received_at };
    let header = EventHeader { offset_encoding: exposure.offset_encoding, ..about.exposure(consent, content) };
    Ok(about.record(header, sealed))
}

/// What the digest of a silent decision covers beside its opportunity.
pub(crate) const SILENT: &[u8] = b"silent";

/// What every event about a decision says.
pub(crate) struct About<'a> {
    pub(crate) receipt: &'a Receipt,
    pub(crate) secret: &'a TenantSecret,
    pub(crate) received_at: Timestamp,
}

impl About<'_> {
    /// The header of the decision's exposure, whose digest covers `content`.
    pub(crate) fn exposure(&self, consent: ConsentTier, content: &[u8]) -> EventHeader {
        let event_id = EventId::of_exposure(self.receipt.opportunity_id, self.receipt.suggestion_id);
        self.header(event_id, EventKind::Exposure, consent, content)
    }

    /// The header of an event about the decision. Of somebody who agreed to nothing it says that there was one.
    pub(crate) fn header(
        &self,
        event_id: EventId,
        kind: EventKind,
        consent: ConsentTier,
        content: &[u8],
    ) -> EventHeader {
        let Self { receipt, secret, received_at } = *self;
        let stub = is_stub(consent);
        let content = [receipt.opportunity_id.as_bytes(), content].concat();
        EventHeader {
            event_id,
            tenant: receipt.tenant.clone(),
            person: receipt.person.clone(),
            session_id: receipt.session_id,
            sequence: 0,
            kind,
            consent,
            received_at,
            monotonic_ms: 0,
            opportunity_id: (!stub).then_some(receipt.opportunity_id),
            suggestion_id: receipt.suggestion_id.filter(|_| !stub),
            action_index: None,
            actions_visible: None,
            accepted_length: None,
            visible_ms: None,
            look_delay_s: None,
            origin: None,
            offset_encoding: OffsetEncoding::default(),
            receipt_state: if stub { ReceiptState::Absent } else { ReceiptState::Valid },
            receipt: (!stub).then(|| receipt.clone()),
            content_digest: hex::encode(secret.content_digest(&receipt.tenant, &content)),
        }
    }

    /// The record of an event with this header.
    pub(crate) fn record(&self, header: EventHeader, sealed: Option<Sealed>) -> RawEvent {
        let filtered_at_door = is_stub(header.consent).then(|| CONSENT_NONE.to_owned());
        RawEvent { header, filtered_at_door, sealed }
    }
}

/// Whether nothing but a stub may leave. A tier that only a newer release knows allows nothing.
pub(crate) fn is_stub(consent: ConsentTier) -> bool {
    !matches!(consent, ConsentTier::Usage | ConsentTier::Code)
}

#[cfg(test)]
#[path = "exposure_tests.rs"]
mod tests;
