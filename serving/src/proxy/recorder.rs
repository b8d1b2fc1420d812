//! From tapped exchanges to events, off the way of every request.
//!
//! An exchange is put into a bounded queue (full: dropped and counted), and one task reads it: what was asked and
//! answered, by which client, and what a client says of an answer. It alone holds the memory, so nothing here is locked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use events::sealing::keyed_digest;
use events::{
    Arm, Decision, IdSource, ModelName, ModelVersion, Probabilities, Receipt, Sha256Digest, SuggestionId, TenantId,
    TenantSecret, Timestamp,
};
use metrics::counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::door::Door;
use crate::exposure::ExposureQueue;
use crate::proxy::copy::{Copied, Missed};
use crate::proxy::dialect::{self, Question, Unread};
use crate::proxy::memory::{Caller, Memory, Remembered};
use crate::proxy::record::{ObservedExposure, ObservedSignal};
use crate::proxy::tabby::{Said, TabbyEvent, Unsaid};

/// The version that an upstream's completions are recorded under. Ours begin with 1.
const UPSTREAM_VERSION: ModelVersion = ModelVersion(0);
/// How long the tenant's secret is not asked for again after it could not be had.
const SECRET_PAUSE: Duration = Duration::from_secs(1);

/// What passed.
pub(crate) enum Exchange {
    /// A completion.
    Completion {
        /// Whether it came as a stream of events.
        is_stream: bool,
        /// Whether it came to its end.
        is_whole: bool,
        request: Copied,
        answer: Copied,
    },
    /// What a client says of one.
    Event {
        /// Whether its address names the kind of a selection.
        has_kind: bool,
        request: Copied,
    },
}

/// An exchange, and when and by whom.
pub(crate) struct Tapped {
    pub(crate) caller: Caller,
    /// When it was over, for a completion; when it came, for an event.
    pub(crate) at: Instant,
    pub(crate) received_at: Timestamp,
    pub(crate) exchange: Exchange,
}

/// Which of the tapped addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tapping {
    Completion,
    Event,
}

impl Tapping {
    fn as_str(self) -> &'static str {
        match self {
            Self::Completion => "completion",
            Self::Event => "event",
        }
    }
}

/// Counts what became of a tapped request.
pub(crate) fn became(tapping: Tapping, outcome: &'static str) {
    counter!("flywheel_serving_upstream_tapped_total", "kind" => tapping.as_str(), "outcome" => outcome).increment(1);
}

impl Missed {
    /// Its name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Memory => "memory",
            Self::Unfinished => "unfinished",
        }
    }
}

impl Unread {
    fn as_str(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Neither => "neither",
            Self::NotOneText => "not_one_text",
            Self::Unreadable => "unreadable",
            Self::Unfinished => "unfinished",
        }
    }
}

/// Where exchanges are left.
#[derive(Clone)]
pub(crate) struct TapQueue(mpsc::Sender<Tapped>);

impl TapQueue {
    pub(crate) fn new(capacity: usize) -> (Self, mpsc::Receiver<Tapped>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Self(sender), receiver)
    }

    /// Never waits.
    pub(crate) fn offer(&self, tapped: Tapped) {
        let tapping = match &tapped.exchange {
            Exchange::Completion { .. } => Tapping::Completion,
            Exchange::Event { .. } => Tapping::Event,
        };
        match self.0.try_send(tapped) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => became(tapping, "queue_full"),
            Err(mpsc::error::TrySendError::Closed(_)) => became(tapping, "stopped"),
        }
    }
}

/// Reads exchanges.
pub(crate) struct Recorder {
    pub(crate) tenant: TenantId,
    pub(crate) door: Arc<Door>,
    pub(crate) exposures: ExposureQueue,
    pub(crate) ids: Arc<dyn IdSource>,
    /// The model under which what Tabby's clients see is recorded.
    pub(crate) tabby: ModelName,
    /// The one of plain OpenAI clients.
    pub(crate) openai: ModelName,
    pub(crate) memory: Memory,
    /// How long the database may take to tell the tenant's secret.
    pub(crate) timeout: Duration,
    /// How long what is still in the queue may take when the service stops.
    pub(crate) drain: Duration,
    /// Where this door's monotonic clock begins.
    pub(crate) began: Instant,
    pub(crate) secret: Option<Arc<TenantSecret>>,
    pub(crate) secret_failed: Option<Instant>,
}

impl Recorder {
    /// Runs until `stop`, then at most the drain period for what is still in the queue.
    pub(crate) async fn run(mut self, mut queue: mpsc::Receiver<Tapped>, stop: CancellationToken) {
        while let Some(Some(tapped)) = stop.run_until_cancelled(queue.recv()).await {
            self.record(tapped).await;
        }
        queue.close();
        let drain = self.drain;
        let rest = async {
            while let Some(tapped) = queue.recv().await {
                self.record(tapped).await;
            }
        };
        let _ = tokio::time::timeout(drain, rest).await;
        while let Ok(tapped) = queue.try_recv() {
            let tapping = match tapped.exchange {
                Exchange::Completion { .. } => Tapping::Completion,
                Exchange::Event { .. } => Tapping::Event,
            };
            became(tapping, "stopped");
        }
    }

    async fn record(&mut self, tapped: Tapped) {
        let secret = self.secret().await;
        let Tapped { caller, at, received_at, exchange } = tapped;
        match exchange {
            Exchange::Completion { is_stream, is_whole, request, answer } => {
                let outcome = match secret {
                    None => "secret_unavailable",
                    Some(secret) => {
                        let read = Read { question: request.bytes(), answer: answer.bytes(), is_stream, is_whole };
                        let recorded = self.completion(&secret, caller, at, received_at, &read);
                        recorded.map_or_else(Unread::as_str, |()| "recorded")
                    }
                };
                became(Tapping::Completion, outcome);
            }
            Exchange::Event { has_kind, request } => {
                let outcome = match secret {
                    None => "secret_unavailable",
                    Some(secret) => match self.event(&secret, caller, at, received_at, has_kind, request.bytes()) {
                        Ok(()) => "recorded",
                        Err(reason) => {
                            counter!("flywheel_serving_upstream_signals_invalid_total", "reason" => reason)
                                .increment(1);
                            "invalid"
                        }
                    },
                };
                became(Tapping::Event, outcome);
            }
        }
    }

    /// The tenant's secret, once it could be had.
    async fn secret(&mut self) -> Option<Arc<TenantSecret>> {
        let paused = self.secret_failed.is_some_and(|failed| failed.elapsed() < SECRET_PAUSE);
        if self.secret.is_none() && !paused {
            let told = tokio::time::timeout(self.timeout, self.door.secret(&self.tenant)).await;
            match told {
                Ok(Ok(secret)) => self.secret = Some(secret),
                _ => self.secret_failed = Some(Instant::now()),
            }
        }
        self.secret.clone()
    }

    fn completion(
        &mut self,
        secret: &Arc<TenantSecret>,
        caller: Caller,
        at: Instant,
        received_at: Timestamp,
        read: &Read<'_>,
    ) -> Result<(), Unread> {
        let question = dialect::question(read.question)?;
        let answered = dialect::answered(read.answer, read.is_stream, read.is_whole)?;
        let digest = |domain: &str, parts: &[&[u8]]| {
            let parts: Vec<&[u8]> = std::iter::once(domain.as_bytes()).chain(parts.iter().copied()).collect();
            Sha256Digest::from_bytes(keyed_digest(secret.expose_secret(), &parts))
        };
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().as_bytes().to_vec();
        let (model, place, context_digest) = match &question {
            Question::Tabby(segments) => {
                let (repository, path) = (text(&segments.git_url), text(&segments.filepath));
                let asker = caller.map_or_else(Vec::new, |caller| caller.as_bytes().to_vec());
                let above = segments.above().as_bytes();
                let place = digest("flywheel upstream place", &[&asker, &repository, &path, above]);
                let (prefix, suffix) = (segments.prefix.as_bytes(), text(&segments.suffix));
                let context = digest("flywheel upstream context", &[&repository, &path, prefix, &suffix]);
                // A file without a name is not the same one every time.
                (&self.tabby, (!path.is_empty()).then_some(place), context)
            }
            Question::OpenAi(prompt) => {
                let suffix = text(&prompt.suffix);
                let context = digest("flywheel upstream prompt", &[prompt.prompt.as_bytes(), &suffix]);
                (&self.openai, None, context)
            }
        };
        // Editors show nothing of what is only space.
        let decision = if answered.text.trim().is_empty() { Decision::Silent } else { Decision::Shown };
        let is_shown = decision == Decision::Shown;
        let session_id = self.memory.session(caller, at, &*self.ids);
        let receipt = Arc::new(Receipt {
            tenant: self.tenant.clone(),
            person: secret.person_pseudonym(&person_of(caller)),
            session_id,
            opportunity_id: self.memory.opportunity(place, at, &*self.ids),
            suggestion_id: is_shown.then(|| SuggestionId::new(&*self.ids)),
            model: model.clone(),
            model_version: UPSTREAM_VERSION,
            rollout_id: None,
            arm: Arm::Current,
            block: None,
            decision,
            probabilities: Probabilities {
                arm_probability: 1.0,
                p_show: if is_shown { 1.0 } else { 0.0 },
                // The upstream does not say; as elsewhere, the least that there is.
                log_p_text: f64::from(f32::MIN),
                gate_score: 1.0,
                threshold: 0.0,
                explored: false,
            },
            context_digest,
            actions_digest: digest("flywheel upstream answer", &[answered.text.as_bytes()]),
            issued_at: received_at,
        });
        self.exposures.offer(ObservedExposure {
            secret: Arc::clone(secret),
            receipt: Arc::clone(&receipt),
            received_at,
        });
        if is_shown {
            self.memory.remember(answered.id, Remembered { receipt, caller, place, answered: at, viewed: None });
        }
        Ok(())
    }

    fn event(
        &mut self,
        secret: &Arc<TenantSecret>,
        caller: Caller,
        at: Instant,
        received_at: Timestamp,
        has_kind: bool,
        body: &[u8],
    ) -> Result<(), &'static str> {
        let event = TabbyEvent::parse(body).map_err(Unsaid::as_str)?;
        let completion = self.memory.recall(&event.completion_id, &caller, at).ok_or("receipt_unknown")?;
        if event.choice_index != 0 {
            return Err("choice_unknown");
        }
        let since_view = completion.viewed.map(|viewed| at.saturating_duration_since(viewed));
        let said = event.said(has_kind, since_view).map_err(Unsaid::as_str)?;
        let session = completion.receipt.session_id;
        let sequence = self.memory.number(session).ok_or("session_unknown")?;
        counter!("flywheel_serving_upstream_signals_total", "signal" => said.as_str()).increment(1);
        let since = at.saturating_duration_since(self.began).as_millis();
        let is_offered = self.exposures.offer(ObservedSignal {
            secret: Arc::clone(secret),
            receipt: completion.receipt,
            received_at,
            sequence,
            monotonic_ms: i64::try_from(since).unwrap_or(i64::MAX),
            said,
        });
        if is_offered {
            self.memory.count(session);
        }
        if said == Said::Shown {
            self.memory.viewed(&event.completion_id, at);
        }
        if let Some(place) = completion.place.filter(|_| said.is_accepted()) {
            self.memory.decided(&place);
        }
        Ok(())
    }
}

/// The bodies of a completion.
struct Read<'a> {
    question: &'a [u8],
    answer: &'a [u8],
    is_stream: bool,
    is_whole: bool,
}

/// How consent and rights call whoever holds a credential; one name for all who show none.
fn person_of(caller: Caller) -> String {
    match caller {
        Some(digest) => format!("upstream:{digest}"),
        None => "upstream:nobody".to_owned(),
    }
}
