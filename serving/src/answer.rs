//! One answer: from a queued decoding to events on the wire, a signed receipt and an exposure.
//!
//! The engine hands over actions as they are complete; a task turns them into server-sent events. The body
//! hands a frame to the connection only when the connection asks for it and counts it then, so that what is recorded as
//! delivered was delivered. A client that leaves drops the body: the task sees that at once and cancels the answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use events::sealing::keyed_digest;
use events::wire::{ActionEvent, EndEvent};
use events::{
    Decision, EditAction, EditContext, OpportunityId, PersonPseudonym, Probabilities, Receipt, Sha256Digest,
    SuggestionId,
};
use futures::Stream;
use metrics::{counter, histogram};
use model_registry::routing::Assignment;
use serde::Serialize;
use service::problem::Problem;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cache::CacheKey;
use crate::door::Tenant;
use crate::engine::{Completion, EngineError, Progress};
use crate::exposure::Exposure;
use crate::models::ServedModel;
use crate::request::Question;
use crate::state::State;

/// How long a cancelled decoding may take to say so: less than a token, on any machine.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// A question with everything that was decided before decoding.
pub(crate) struct Asked {
    pub(crate) question: Question,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) person: PersonPseudonym,
    pub(crate) served: Arc<ServedModel>,
    pub(crate) assignment: Assignment,
    pub(crate) opportunity_id: OpportunityId,
    pub(crate) suggestion_id: SuggestionId,
    pub(crate) context: Arc<EditContext>,
    pub(crate) context_digest: Sha256Digest,
    pub(crate) started: Instant,
}

/// The body of an answer.
pub(crate) struct Frames {
    receiver: mpsc::Receiver<Bytes>,
    taken: Arc<AtomicUsize>,
}

impl Stream for Frames {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context).map(|frame| {
            frame.map(|frame| {
                self.taken.fetch_add(1, Ordering::AcqRel);
                Ok(frame)
            })
        })
    }
}

/// Digest of a context, keyed: on the bus it stands beside sealed text and must not betray it.
pub(crate) fn context_digest(tenant: &Tenant, context: &EditContext) -> Sha256Digest {
    content_digest(tenant, "flywheel context", context)
}

fn content_digest<T: Serialize + ?Sized>(tenant: &Tenant, domain: &str, value: &T) -> Sha256Digest {
    // Structures of strings and numbers always serialise.
    let json = serde_json::to_vec(value).unwrap_or_default();
    Sha256Digest::from_bytes(keyed_digest(tenant.secret.expose_secret(), &[domain.as_bytes(), &json]))
}

/// The client left.
struct Gone;

struct Verdict {
    decision: Decision,
    p_show: f64,
    explored: bool,
    /// Whether the model had something to say.
    has_suggestion: bool,
}

#[derive(Default)]
struct Delivery {
    sent: Vec<EditAction>,
    /// From the question to the first of them.
    first_action: Option<Duration>,
    completion: Option<Completion>,
    /// The decision as signed in the `end` event, with the actions it speaks of.
    end: Option<(Receipt, Vec<EditAction>)>,
    failed: bool,
}

/// The task of one answer.
pub(crate) struct Answer {
    asked: Asked,
    explores: bool,
    cache_key: Option<CacheKey>,
    progress: mpsc::Receiver<Progress>,
    cancel: CancellationToken,
    frames: mpsc::Sender<Bytes>,
    taken: Arc<AtomicUsize>,
    state: Arc<State>,
}

impl Answer {
    /// The task and its body.
    pub(crate) fn new(
        state: Arc<State>,
        asked: Asked,
        explores: bool,
        cache_key: Option<CacheKey>,
        progress: mpsc::Receiver<Progress>,
        cancel: CancellationToken,
    ) -> (Self, Frames) {
        // One frame at a time: a frame is offered when the one before was taken.
        let (frames, receiver) = mpsc::channel(1);
        let taken = Arc::new(AtomicUsize::new(0));
        let body = Frames { receiver, taken: Arc::clone(&taken) };
        (Self { asked, explores, cache_key, progress, cancel, frames, taken, state }, body)
    }

    /// Runs to the end of the answer, or to the client's.
    pub(crate) async fn run(mut self) {
        let mut delivery = Delivery::default();
        let limit = self.state.config.answer_timeout();
        match tokio::time::timeout(limit, self.deliver(&mut delivery)).await {
            Ok(Ok(())) => {}
            Ok(Err(Gone)) => counter!("flywheel_serving_clients_gone_total").increment(1),
            Err(_) => {
                counter!("flywheel_serving_answer_timeouts_total").increment(1);
                if delivery.end.is_none() {
                    let problem = Problem::unavailable("too_slow", "the answer took too long", Duration::from_secs(1));
                    let _ = self.frames.try_send(frame("error", &problem.to_json()));
                }
            }
        }
        self.cancel.cancel();
        self.conclude(delivery).await;
    }

    async fn deliver(&mut self, delivery: &mut Delivery) -> Result<(), Gone> {
        let completion = loop {
            let progress = tokio::select! {
                biased;
                () = self.frames.closed() => return Err(Gone),
                progress = self.progress.recv() => progress,
            };
            match progress {
                Some(Progress::Action(action)) => self.show(delivery, action).await?,
                Some(Progress::Done(Ok(completion))) if completion.cancelled => {
                    delivery.completion = Some(completion);
                    return Err(Gone);
                }
                Some(Progress::Done(Ok(completion))) => break completion,
                Some(Progress::Done(Err(error))) => {
                    delivery.failed = true;
                    return self.fail(&error).await;
                }
                // The thread panicked or the pool stopped.
                None => {
                    delivery.failed = true;
                    return self.fail(&EngineError::Failed("decoding ended without a result".to_owned())).await;
                }
            }
        };
        if let Some(key) = self.cache_key.take() {
            self.state.cache.insert(key, completion.clone());
        }
        delivery.completion = Some(completion.clone());
        let verdict = self.verdict(&completion);
        if verdict.decision == Decision::Shown && self.explores {
            for action in completion.actions.clone() {
                self.show(delivery, action).await?;
            }
        }
        let receipt = self.receipt(&verdict, &completion, &completion.actions);
        let end = EndEvent {
            opportunity_id: receipt.opportunity_id,
            suggestion_id: receipt.suggestion_id,
            decision: receipt.decision,
            actions: u32::try_from(delivery.sent.len()).unwrap_or(u32::MAX),
            model: receipt.model.clone(),
            model_version: receipt.model_version,
            receipt: receipt.sign(&self.asked.tenant.secret),
        };
        delivery.end = Some((receipt, completion.actions));
        self.frames.send(frame("end", &end)).await.map_err(|_| Gone)?;
        // Room for another frame means that this one was taken.
        self.frames.reserve().await.map(drop).map_err(|_| Gone)
    }

    async fn show(&self, delivery: &mut Delivery, action: EditAction) -> Result<(), Gone> {
        let Some((start, end)) = self.asked.question.client_range(&action) else {
            tracing::error!(version = %self.asked.assignment.version, "an action lies outside of its window");
            return Ok(());
        };
        let event = ActionEvent {
            opportunity_id: self.asked.opportunity_id,
            suggestion_id: self.asked.suggestion_id,
            action_index: u32::try_from(delivery.sent.len()).unwrap_or(u32::MAX),
            path: self.asked.question.path.clone(),
            start,
            end,
            old_text: action.old_text.clone(),
            new_text: action.new_text.clone(),
        };
        if delivery.sent.is_empty() {
            let passed = self.asked.started.elapsed();
            histogram!("flywheel_serving_first_action_seconds").record(passed);
            delivery.first_action = Some(passed);
        }
        delivery.sent.push(action);
        self.frames.send(frame("action", &event)).await.map_err(|_| Gone)
    }

    async fn fail(&self, error: &EngineError) -> Result<(), Gone> {
        let problem = match error {
            EngineError::Context => {
                Problem::unprocessable("the context can not be written for this model").with_code("context_refused")
            }
            // Nobody decided anything: there is no receipt, and nothing is recorded.
            EngineError::Unanswered(_) => {
                let wait = Duration::from_secs(u64::from(self.state.config.retry_after_seconds));
                Problem::unavailable("engine_unavailable", "the engine of this model gave no answer", wait)
            }
            EngineError::Failed(_) => {
                tracing::error!(version = %self.asked.assignment.version, %error, "no answer");
                counter!("flywheel_serving_decode_failures_total", "reason" => "engine").increment(1);
                Problem::internal().with_code("decoding_failed")
            }
        };
        self.frames.send(frame("error", &problem.to_json())).await.map_err(|_| Gone)
    }

    fn verdict(&self, completion: &Completion) -> Verdict {
        let policy = &self.state.policy;
        let open = policy.opens(completion.gate_score);
        let has_suggestion = !completion.actions.is_empty();
        // Behind a closed gate nothing was decoded, and a forced answer is taken to exist.
        let showable = has_suggestion || (!open && !self.explores);
        let decision = match (has_suggestion, open, self.explores) {
            (false, ..) | (true, false, false) => Decision::Silent,
            (true, true, true) => Decision::Withheld,
            (true, true, false) | (true, false, true) => Decision::Shown,
        };
        Verdict {
            decision,
            p_show: policy.p_show(completion.gate_score, showable),
            explored: self.explores && has_suggestion,
            has_suggestion: has_suggestion && decision != Decision::Silent,
        }
    }

    fn receipt(&self, verdict: &Verdict, completion: &Completion, actions: &[EditAction]) -> Receipt {
        let Asked { tenant, assignment, served, .. } = &self.asked;
        Receipt {
            tenant: tenant.id.clone(),
            person: self.asked.person.clone(),
            session_id: self.asked.question.session_id,
            opportunity_id: self.asked.opportunity_id,
            suggestion_id: verdict.has_suggestion.then_some(self.asked.suggestion_id),
            model: served.table.model.clone(),
            model_version: assignment.version,
            rollout_id: assignment.rollout_id,
            arm: assignment.arm,
            block: assignment.block,
            decision: verdict.decision,
            probabilities: Probabilities {
                arm_probability: assignment.arm_probability,
                p_show: verdict.p_show,
                log_p_text: f64::from(completion.log_p_text),
                gate_score: f64::from(completion.gate_score),
                threshold: f64::from(self.state.policy.threshold()),
                explored: verdict.explored,
            },
            context_digest: self.asked.context_digest,
            actions_digest: content_digest(tenant, "flywheel actions", actions),
            issued_at: self.state.clock.now(),
        }
    }

    /// Records what the connection took.
    async fn conclude(mut self, mut delivery: Delivery) {
        let taken = self.taken.load(Ordering::Acquire);
        let actions_taken = taken.min(delivery.sent.len());
        let end_taken = delivery.end.is_some() && taken > delivery.sent.len();
        let delivered_whole = actions_taken > 0 && actions_taken == delivery.sent.len();
        if let Some((receipt, actions)) = delivery.end.take()
            && (end_taken || delivered_whole)
        {
            self.record(receipt, actions, delivery.first_action);
            return;
        }
        if actions_taken == 0 {
            return;
        }
        // The client saw the beginning and left: that is what is recorded.
        let completion = match delivery.completion.take() {
            Some(completion) => Some(completion),
            None if delivery.failed => None,
            None => self.cancelled_completion().await,
        };
        let Some(mut completion) = completion else {
            counter!("flywheel_serving_exposures_dropped_total", "reason" => "failed").increment(1);
            return;
        };
        delivery.sent.truncate(actions_taken);
        completion.actions = delivery.sent;
        let verdict = self.verdict(&completion);
        let receipt = self.receipt(&verdict, &completion, &completion.actions);
        self.record(receipt, completion.actions, delivery.first_action);
    }

    async fn cancelled_completion(&mut self) -> Option<Completion> {
        let done = async {
            while let Some(progress) = self.progress.recv().await {
                if let Progress::Done(result) = progress {
                    return result.ok();
                }
            }
            None
        };
        tokio::time::timeout(CANCEL_WAIT, done).await.ok().flatten()
    }

    fn record(&self, receipt: Receipt, actions: Vec<EditAction>, first_action: Option<Duration>) {
        let now = self.state.clock.now();
        counter!(
            "flywheel_serving_decisions_total",
            "model" => receipt.model.to_string(),
            "version" => receipt.model_version.to_string(),
            "decision" => receipt.decision.as_str(),
            "arm" => receipt.arm.as_str()
        )
        .increment(1);
        if receipt.decision == Decision::Shown {
            self.state.models.served(&self.asked.served.table, receipt.model_version, now);
        }
        self.state.exposures.offer(Exposure {
            secret: Arc::clone(&self.asked.tenant.secret),
            offset_encoding: self.asked.question.offset_encoding,
            window_start_offset: self.asked.question.window_start_offset,
            context: Arc::clone(&self.asked.context),
            actions,
            receipt,
            received_at: now,
            first_action,
        });
    }
}

/// A server-sent event. JSON has no line breaks of its own.
fn frame<T: Serialize>(name: &str, data: &T) -> Bytes {
    let mut frame = format!("event: {name}\ndata: ").into_bytes();
    // Structures of strings and numbers always serialise.
    if serde_json::to_writer(&mut frame, data).is_err() {
        frame.extend_from_slice(b"{}");
    }
    frame.extend_from_slice(b"\n\n");
    Bytes::from(frame)
}
