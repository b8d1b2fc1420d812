//! Making the base model: endless tasks, one pass, resumable at any step.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use edit_model::{CodeTokenizer, Device, EditModel, ModelConfig, ModelError, Network};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::checkpoint::Checkpoint;
use crate::device::backends;
use crate::engine::{Engine, Group};
use crate::error::TrainerError;
use crate::examples::{BaseTask, TokenWeights, base_group};
use crate::objective::Objective;
use crate::optimizer::{OptimizerConfig, Schedule};

/// Settings of pretraining.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PretrainConfig {
    /// Steps of the whole run.
    pub steps: usize,
    /// Tasks in a step.
    pub batch_tasks: usize,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// Steps to the full learning rate.
    pub warmup_steps: usize,
    /// Weight of an answer token.
    pub answer_weight: f32,
    /// Weight of a prompt token.
    pub prompt_weight: f32,
    /// Seed of the weights.
    pub seed: u64,
    /// Digest of what the tasks are made of, where that may differ: a run goes on with the same tasks alone.
    #[serde(default)]
    pub source: String,
    /// Threads of the CPU.
    pub threads: usize,
    /// What computes the network.
    pub device: Device,
    /// Where the run can go on from.
    pub checkpoint: Option<PathBuf>,
    /// Time between checkpoints.
    pub checkpoint_interval: Duration,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            steps: 6000,
            batch_tasks: 32,
            optimizer: OptimizerConfig::default(),
            warmup_steps: 100,
            answer_weight: 1.0,
            prompt_weight: 0.1,
            seed: 1,
            source: String::new(),
            threads: 2,
            device: Device::Cpu,
            checkpoint: None,
            checkpoint_interval: Duration::from_secs(180),
        }
    }
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Loss per weight of the last step.
    pub loss: f64,
    /// Gradient norm of the last step, before clipping.
    pub gradient_norm: f64,
    /// Tokens read since the run was started or resumed.
    pub tokens: u64,
    /// Seconds since then.
    pub seconds: f64,
    /// Seconds spent making tasks since then.
    pub task_seconds: f64,
    /// Tokens of prompt and answer read in each second.
    pub tokens_per_second: f64,
}

/// What the caller wants after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    Continue,
    /// Write a checkpoint and stop.
    Stop,
}

/// Digest of what a checkpoint must agree on.
fn run_digest(config: &PretrainConfig, tokenizer: &CodeTokenizer) -> Result<String, TrainerError> {
    let mut hash = Sha256::new();
    hash.update(config.seed.to_le_bytes());
    hash.update((config.batch_tasks as u64).to_le_bytes());
    hash.update(tokenizer.to_json()?.as_bytes());
    hash.update(config.source.as_bytes());
    Ok(hex::encode(hash.finalize()))
}

/// Trains a base model. Task `n` comes from `source(n)`, which is called from several threads and must be a pure
/// function, so that a resumed run sees the same stream; `None` is skipped. `progress` is called after every step with
/// the state and a way to look at the model so far.
///
/// # Errors
/// See [`TrainerError`].
pub fn run(
    config: &PretrainConfig,
    architecture: ModelConfig,
    tokenizer: &CodeTokenizer,
    source: &(dyn Fn(u64) -> Option<BaseTask> + Sync),
    progress: &mut dyn FnMut(&Progress, &Engine) -> Next,
) -> Result<EditModel, TrainerError> {
    let network = Network::new(architecture.clone())?;
    let digest = run_digest(config, tokenizer)?;
    let mut step = 0;
    let saved = match &config.checkpoint {
        Some(path) => Checkpoint::read(path)?,
        None => None,
    };
    let backends = backends(config.device, &network, config.threads)?;
    let mut engine = match saved {
        Some(saved) if saved.header.run_digest == digest && saved.weights.len() == network.parameter_count() => {
            step = saved.header.step;
            Engine::with_optimizer(network, saved.weights, saved.optimizer, backends)
        }
        Some(_) => return Err(TrainerError::Job("the checkpoint belongs to another run".to_owned())),
        None => {
            let weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(config.seed));
            Engine::new(network, weights, config.optimizer.clone(), backends)
        }
    };
    let schedule = Schedule { warmup_steps: config.warmup_steps, total_steps: config.steps, final_share: 0.05 };
    let started = Instant::now();
    let mut saved_at = started;
    let (mut tokens, mut task_time) = (0_u64, Duration::ZERO);
    let save = |engine: &Engine, step: usize| match &config.checkpoint {
        Some(path) => Checkpoint::write(path, step, &digest, engine.weights(), engine.optimizer()),
        None => Ok(()),
    };
    while step < config.steps {
        let batch_started = Instant::now();
        let groups = make_groups(config, tokenizer, source, step);
        task_time += batch_started.elapsed();
        if groups.is_empty() {
            return Err(TrainerError::NoExamples("the source gave no task that the dialect can write".to_owned()));
        }
        let weight: f32 = groups.iter().map(likelihood_weight).sum();
        let report = engine.step(&groups, 1.0 / weight.max(1.0), schedule.share(step))?;
        step += 1;
        if !report.gradient_norm.is_finite() || !report.parts.total.is_finite() {
            let (loss, norm) = (report.parts.total, report.gradient_norm);
            let first = (step - 1) * config.batch_tasks;
            return Err(TrainerError::Diverged {
                step,
                reason: format!("the loss is {loss}, the norm of the gradient {norm}"),
                batch: format!("tasks {first} to {}", first + config.batch_tasks - 1),
            });
        }
        tokens += report.tokens as u64;
        let seconds = started.elapsed().as_secs_f64();
        let state = Progress {
            step,
            loss: report.parts.likelihood / report.parts.likelihood_weight.max(1e-9),
            gradient_norm: report.gradient_norm,
            tokens,
            seconds,
            task_seconds: task_time.as_secs_f64(),
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
        };
        let next = progress(&state, &engine);
        if saved_at.elapsed() >= config.checkpoint_interval || next == Next::Stop || step == config.steps {
            save(&engine, step)?;
            saved_at = Instant::now();
        }
        if next == Next::Stop {
            break;
        }
    }
    Ok(EditModel::new(architecture, engine.weights().to_vec(), tokenizer.clone())?)
}

/// A pretrained model as it ships: every repository starts with the habit that nobody has.
///
/// # Errors
/// As [`EditModel::new`].
pub fn as_shipped(
    architecture: &ModelConfig,
    weights: &[f32],
    tokenizer: &CodeTokenizer,
) -> Result<EditModel, ModelError> {
    let mut weights = weights.to_vec();
    let width = architecture.hidden_size;
    let special = tokenizer.special();
    for (from, to) in special.habits.iter().flat_map(|habit| special.untaught.iter().zip(habit)) {
        let row = *from as usize * width;
        weights.copy_within(row..row + width, *to as usize * width);
    }
    EditModel::new(architecture.clone(), weights, tokenizer.clone())
}

fn likelihood_weight(group: &Group) -> f32 {
    match &group.objective {
        Objective::Likelihood { weights } => weights.iter().sum(),
        Objective::Preference { .. } | Objective::Desirability { .. } => 0.0,
    }
}

/// The batch of one step, made on all threads.
fn make_groups(
    config: &PretrainConfig,
    tokenizer: &CodeTokenizer,
    source: &(dyn Fn(u64) -> Option<BaseTask> + Sync),
    step: usize,
) -> Vec<Group> {
    let first = (step * config.batch_tasks) as u64;
    let indices: Vec<u64> = (first..first + config.batch_tasks as u64).collect();
    let weights = TokenWeights { answer: config.answer_weight, prompt: config.prompt_weight };
    std::thread::scope(|scope| {
        let workers: Vec<_> = indices
            .chunks(config.batch_tasks.div_ceil(config.threads.max(1)).max(1))
            .map(|chunk| {
                scope.spawn(move || {
                    chunk
                        .iter()
                        .filter_map(|index| base_group(tokenizer, &source(*index)?, weights, *index as u32))
                        .collect::<Vec<Group>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    })
}
