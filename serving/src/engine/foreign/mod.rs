//! Engines that others run: any OpenAI-compatible server. It is asked for what belongs at the cursor, in the dialect of its
//! model, and what it writes there is the one action of the answer.
//!
//! Its addresses are asked in their order, the next one only as long as no byte of an answer has come, and none that is
//! known to fail: whether it writes again, a health check finds out by letting it write. Where nobody answers in time there
//! is no answer and no decision either: nothing is recorded, and the client is told why. Whoever leaves takes the connection
//! along, and the engine stops.
//!
//! **What such an engine does not say**: how likely silence was. It is always asked to write, so its gate counts as open
//! with a score of 1. By the rule of [`crate::decision`], `p_show` is then 1 - e where it wrote something and 0 where it
//! did not: exploration can withhold what it wrote, and has nothing to show in place of its silence. `log_p_text` is the sum
//! of the log-probabilities of all tokens that it wrote, and the lowest number where it does not tell them.
//!
//! `config` settings · `description` an artifact that names a model there · `ask` one question to one address · `stream`
//! what comes back · `breaker` who is asked at all.

mod ask;
mod breaker;
mod config;
mod description;
#[cfg(test)]
mod llama_cpp_tests;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
#[cfg(feature = "production")]
mod tls_tests;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::http::{HeaderValue, Uri};
use bytes::Bytes;
use edit_model::export::CursorPrompts;
use events::{ByteRange, EditAction, EditContext, Sha256Digest, TenantId};
use futures::future::join_all;
use metrics::{counter, gauge, histogram};
use parking_lot::Mutex;
use serde_json::json;
use service::config::{Invalid, Secret};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub use config::EngineConfig;
pub(crate) use description::Description;

use self::ask::{Failure, ask};
use self::breaker::Breaker;
use self::stream::{Finish, Written};
use super::{Ask, Asking, Completion, Engine, EngineError, Overloaded, Progress, warm_context};
use crate::error::ServingError;
use crate::models::Unservable;
use crate::outgoing::{Client, Outgoing};
use crate::pool::DecodePool;

/// The score of a gate that is always open.
const OPEN: f32 = 1.0;

/// The engines of a configuration by their names.
pub(crate) type ForeignEngines = BTreeMap<String, Arc<ForeignEngine>>;

/// An engine of the configuration, whatever models it has.
pub(crate) struct ForeignEngine {
    name: String,
    config: EngineConfig,
    addresses: Vec<Uri>,
    authorization: Option<HeaderValue>,
    client: Client,
    places: Arc<Semaphore>,
}

impl ForeignEngine {
    /// The engine `name`. Nobody is asked yet.
    pub(crate) fn new(name: &str, config: &EngineConfig) -> Result<Arc<Self>, ServingError> {
        config.validate(name)?;
        let outgoing = Outgoing {
            section: &format!("serving.engines.{name}"),
            connect_timeout: config.connect_timeout(),
            pool_idle: Duration::from_millis(config.pool_idle_ms),
            pool_connections: config.pool_connections,
            is_encrypted: config.is_encrypted(),
            ca_file: config.ca_file.as_deref(),
        };
        Ok(Arc::new(Self {
            name: name.to_owned(),
            addresses: config.addresses().unwrap_or_default(),
            authorization: config.api_key.as_ref().map(|key| bearer(name, key)).transpose()?,
            client: outgoing.client()?,
            places: Arc::new(Semaphore::new(config.concurrency)),
            config: config.clone(),
        }))
    }

    /// All engines of a configuration.
    pub(crate) fn all(configs: &BTreeMap<String, EngineConfig>) -> Result<ForeignEngines, ServingError> {
        configs.iter().map(|(name, config)| Self::new(name, config).map(|engine| (name.clone(), engine))).collect()
    }

    async fn ask(&self, address: &Uri, question: Bytes, is_over: impl Fn(&str) -> bool) -> Result<Written, Failure> {
        let authorization = self.authorization.as_ref();
        let answer = ask(&self.client, address, authorization, question, &self.config, is_over).await;
        let outcome = answer.as_ref().map_or_else(|failure| failure.code(), |_| "ok");
        counter!(
            "flywheel_serving_engine_requests_total",
            "engine" => self.name.clone(),
            "outcome" => outcome
        )
        .increment(1);
        answer
    }
}

/// What an engine is shown with every question.
fn bearer(name: &str, key: &Secret) -> Result<HeaderValue, Invalid> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret())).map_err(|_| Invalid {
        key: format!("serving.engines.{name}.api_key"),
        expected: "a key without control characters".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// An address and whether it is asked for a model.
struct Gate {
    address: Uri,
    breaker: Mutex<Breaker>,
}

/// A model of an engine.
pub(crate) struct ForeignModel {
    engine: Arc<ForeignEngine>,
    model: String,
    prompts: CursorPrompts,
    /// In the order in which they are asked.
    gates: Vec<Gate>,
}

impl std::fmt::Debug for ForeignModel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ForeignModel({} at {})", self.model, self.engine.name)
    }
}

impl ForeignModel {
    /// The model that an artifact in `directory` describes. Nobody was asked yet.
    pub(crate) async fn load(
        engines: &ForeignEngines,
        description: Description,
        directory: &Path,
    ) -> Result<Arc<Self>, Unservable> {
        let engine = engines.get(&description.engine).cloned().ok_or_else(|| {
            Unservable(format!("there is no engine {}; expected a section [serving.engines.NAME]", description.engine))
        })?;
        let (dialect, directory) = (description.dialect()?, directory.to_owned());
        let most = engine.config.max_prompt_tokens;
        let prompts = tokio::task::spawn_blocking(move || CursorPrompts::load(dialect, &directory, most)).await;
        let prompts = prompts
            .map_err(|_| Unservable("loading panicked".to_owned()))?
            .map_err(|error| Unservable(error.to_string()))?;
        let (limits, now) = (engine.config.breaker(), Instant::now());
        let gate = |address: &Uri| Gate { address: address.clone(), breaker: Mutex::new(Breaker::new(limits, now)) };
        let gates = engine.addresses.iter().map(gate).collect();
        let model = Arc::new(Self { engine, model: description.model, prompts, gates });
        tokio::spawn(Self::watch(Arc::downgrade(&model), model.engine.config.look()));
        Ok(model)
    }

    /// Looks at addresses as long as there is the model: at those that are out, and at those of which nobody heard.
    async fn watch(model: Weak<Self>, pause: Duration) {
        loop {
            tokio::time::sleep(pause).await;
            let Some(model) = model.upgrade() else { return };
            let now = Instant::now();
            let due: Vec<&Gate> = model.gates.iter().filter(|gate| gate.breaker.lock().is_due(now)).collect();
            if due.is_empty() {
                continue;
            }
            let Ok(probe) = model.probe() else { return };
            let looks: Vec<_> = due.into_iter().map(|gate| model.look(gate, probe.clone())).collect();
            join_all(looks).await;
        }
    }

    /// The question of a health check: one token, as the model writes them.
    fn probe(&self) -> Result<Bytes, Unservable> {
        self.question(&TenantId::default(), &warm_context(), 1).map_err(|error| Unservable(error.to_string()))
    }

    /// A health check of an address.
    async fn look(&self, gate: &Gate, probe: Bytes) -> Result<(), Failure> {
        let failure = match self.ask_at(gate, probe, |_| false).await {
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        };
        if !failure.is_wish() {
            let was_open = {
                let mut breaker = gate.breaker.lock();
                let was_open = breaker.is_open();
                breaker.trip(Instant::now(), chance());
                was_open
            };
            if !was_open {
                self.is_out(gate, failure);
            }
        }
        Err(failure)
    }

    /// A question to an address, which is in again when it answers.
    async fn ask_at(&self, gate: &Gate, question: Bytes, is_over: impl Fn(&str) -> bool) -> Result<Written, Failure> {
        let answer = self.engine.ask(&gate.address, question, is_over).await;
        match &answer {
            Ok(_) => {
                let is_in_again = gate.breaker.lock().answered(Instant::now());
                if is_in_again {
                    let Self { engine, model, .. } = self;
                    tracing::info!(engine = %engine.name, %model, address = %gate.address, "asked again: it writes");
                    self.count_out();
                }
            }
            Err(Failure::Busy(wait)) => gate.breaker.lock().leave_alone(Instant::now(), *wait),
            Err(failure) => {
                tracing::debug!(engine = %self.engine.name, address = %gate.address, %failure, "no answer");
            }
        }
        answer
    }

    fn is_out(&self, gate: &Gate, failure: Failure) {
        let Self { engine, model, .. } = self;
        tracing::warn!(engine = %engine.name, %model, address = %gate.address, %failure, "not asked until it writes");
        self.count_out();
    }

    fn count_out(&self) {
        self.record_out(self.gates.iter().filter(|gate| gate.breaker.lock().is_open()).count());
    }

    fn record_out(&self, out: usize) {
        gauge!(
            "flywheel_serving_engine_addresses_out",
            "engine" => self.engine.name.clone(),
            "model" => self.model.clone()
        )
        .set(out as f64);
    }

    /// The body of a request.
    fn question(&self, tenant: &TenantId, context: &EditContext, max_tokens: usize) -> Result<Bytes, EngineError> {
        // vLLM shares what it computed among requests with the same salt only: time must not tell a tenant what another
        // one asked.
        let salt = Sha256Digest::of_parts("flywheel cache salt", &[tenant.as_str().as_bytes()]);
        let prompt = self.prompts.render(context).map_err(|_| EngineError::Context)?;
        let question = json!({
            "model": self.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": true,
            "stream_options": { "include_usage": true },
            "logprobs": 1,
            "stop": self.prompts.marks(),
            "cache_salt": salt.to_string(),
        });
        Ok(Bytes::from(question.to_string()))
    }

    async fn complete(
        self: &Arc<Self>,
        tenant: &TenantId,
        context: &Arc<EditContext>,
    ) -> Result<Completion, EngineError> {
        let (this, tenant, asked) = (Arc::clone(self), tenant.clone(), Arc::clone(context));
        // A prompt is tokenized to see what fits: a few milliseconds, too long where requests are read.
        let question =
            tokio::task::spawn_blocking(move || this.question(&tenant, &asked, this.engine.config.max_answer_tokens))
                .await;
        let question = question.map_err(|_| EngineError::Failed("rendering panicked".to_owned()))??;
        let started = Instant::now();
        let answer = tokio::time::timeout(self.engine.config.deadline(), self.ask_in_order(question)).await;
        let name = self.engine.name.clone();
        let Ok(Some(written)) = answer else {
            counter!("flywheel_serving_engine_unanswered_total", "engine" => name.clone()).increment(1);
            return Err(EngineError::Unanswered(name));
        };
        histogram!("flywheel_serving_engine_answer_seconds", "engine" => name).record(started.elapsed());
        let (prompt, reused) = written.prompt_tokens();
        counter!("flywheel_serving_prompt_tokens_total").increment(prompt);
        counter!("flywheel_serving_reused_prompt_tokens_total").increment(reused);
        Ok(self.completion(context, &written))
    }

    /// The first answer of an address; none when there is none, or when one broke off.
    async fn ask_in_order(&self, question: Bytes) -> Option<Written> {
        let is_over = |text: &str| self.prompts.text_of(text).len() < text.len();
        for gate in &self.gates {
            let is_asked = gate.breaker.lock().lets_through(Instant::now());
            if !is_asked {
                continue;
            }
            let failure = match self.ask_at(gate, question.clone(), is_over).await {
                Ok(written) => return Some(written),
                Err(failure) => failure,
            };
            if failure.is_fault() {
                let opens = gate.breaker.lock().failed(Instant::now(), chance());
                if opens {
                    self.is_out(gate, failure);
                }
            }
            if failure.had_begun() {
                return None;
            }
        }
        None
    }

    fn completion(&self, context: &EditContext, written: &Written) -> Completion {
        let mut text = self.prompts.text_of(written.text());
        if written.finish() == Some(Finish::Length) && text.len() == written.text().len() {
            // The last line is not at its end.
            text = text.rfind('\n').map_or("", |end| &text[..end]);
        }
        let text = text.trim_end();
        let action = || EditAction {
            path: context.path.clone(),
            range: ByteRange::new(context.cursor_byte, context.cursor_byte),
            old_text: String::new(),
            new_text: text.to_owned(),
        };
        Completion {
            actions: (!text.is_empty()).then(action).into_iter().collect(),
            gate_score: OPEN,
            log_p_text: written.log_p().map_or(f32::MIN, |log_p| log_p as f32),
            cancelled: false,
        }
    }
}

impl Drop for ForeignModel {
    fn drop(&mut self) {
        // What nobody asks is not missed.
        self.record_out(0);
    }
}

#[async_trait]
impl Engine for ForeignModel {
    fn begin(
        self: Arc<Self>,
        _: &DecodePool<Asking>,
        ask: Ask,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<(), Overloaded> {
        let place = Arc::clone(&self.engine.places).try_acquire_owned().map_err(|_| Overloaded)?;
        tokio::spawn(async move {
            let result = tokio::select! {
                biased;
                // What waits for the engine is dropped, and its connection with it.
                () = cancel.cancelled() => Ok(cancelled()),
                result = self.complete(&ask.tenant, &ask.context) => result,
            };
            if let Ok(completion) = &result
                && !ask.explores
            {
                for action in completion.actions.clone() {
                    let _ = progress.try_send(Progress::Action(action));
                }
            }
            let _ = progress.try_send(Progress::Done(result));
            drop(place);
        });
        Ok(())
    }

    /// Lets every address write a token; good when one of them can. The others are out until they can.
    async fn prove(&self) -> Result<(), Unservable> {
        let probe = self.probe()?;
        let looks: Vec<_> = self.gates.iter().map(|gate| self.look(gate, probe.clone())).collect();
        let failures: Vec<Failure> = join_all(looks).await.into_iter().filter_map(Result::err).collect();
        if failures.len() < self.gates.len() {
            return Ok(());
        }
        let Self { engine, model, gates, .. } = self;
        let said = gates.iter().zip(failures).map(|(gate, failure)| format!("{}: {failure}", gate.address));
        let said = said.collect::<Vec<String>>().join("; ");
        Err(Unservable(format!("engine {} writes nothing with model {model}: {said}", engine.name)))
    }
}

/// A number in [0, 1), another one each time.
fn chance() -> f64 {
    // Keys of hash tables are the standard library's chance; 53 bits fill the mantissa exactly.
    (RandomState::new().hash_one(()) >> 11) as f64 / (1_u64 << 53) as f64
}

fn cancelled() -> Completion {
    Completion { actions: Vec::new(), gate_score: OPEN, log_p_text: f32::MIN, cancelled: true }
}
