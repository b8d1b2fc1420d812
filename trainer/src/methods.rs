//! The methods by which a version learns from pairs: likelihood of the corrections, DPO, and ActionRL (truncated).
//!
//! All of them share the batch, the likelihood terms and the replay of base data; they differ in what is compared:
//! nothing, the whole answers, or the diverging action from the first differing token on.

use std::collections::BTreeSet;
use std::time::Instant;

use edit_model::{CodeTokenizer, Device, ModelError, Network};
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::device::backends;
use crate::engine::{Engine, Group, log_probabilities};
use crate::error::TrainerError;
use crate::examples::{BaseTask, TokenWeights, base_group};
use crate::habit::{Spelling, spell};
use crate::objective::{LossParts, Objective, TrainingSequence};
use crate::optimizer::{AdamW, OptimizerConfig, Schedule, Treatment};
use crate::pairs::{PairCensus, PreparedPair, Side, TrainingPair, prepare_all};

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Likelihood of the chosen side alone.
    Sft,
    /// The whole chosen answer against the whole rejected one.
    Dpo,
    /// The diverging action alone, from the first differing token to its end (truncated).
    Actionrl,
}

impl Method {
    /// Its name in job files and manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Dpo => "dpo",
            Self::Actionrl => "actionrl",
        }
    }
}

/// Settings of learning from pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MethodConfig {
    /// What is compared.
    pub method: Method,
    /// Steps.
    pub steps: usize,
    /// Pairs in a step.
    pub batch_pairs: usize,
    /// Base tasks replayed in a step.
    pub batch_replay: usize,
    /// Weight of the replayed tasks against the pairs.
    pub replay_weight: f32,
    /// Sharpness of the preference.
    pub beta: f32,
    /// Weight of the likelihood of chosen tokens beside a preference.
    pub lambda: f32,
    /// Highest learning rate of everything but habits.
    pub learning_rate: f64,
    /// Highest learning rate of the habit tokens of the repositories that the pairs come from.
    pub habit_rate: f64,
    /// Whether a repository's habit starts from the spelling that explains its edits best, if one can be read from
    /// them.
    pub spell_habits: bool,
    /// Steps to the full learning rate.
    pub warmup_steps: usize,
    /// Seed of the order of pairs and replay.
    pub seed: u64,
    /// Threads of the CPU.
    pub threads: usize,
    /// What computes the network.
    pub device: Device,
}

impl Default for MethodConfig {
    fn default() -> Self {
        Self {
            method: Method::Sft,
            steps: 48,
            batch_pairs: 20,
            batch_replay: 20,
            replay_weight: 1.0,
            beta: 0.1,
            lambda: 1.0,
            learning_rate: 2e-4,
            habit_rate: 1e-2,
            spell_habits: true,
            warmup_steps: 2,
            seed: 1,
            threads: 2,
            device: Device::Cpu,
        }
    }
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TrainingProgress {
    /// Steps done.
    pub step: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// The whole loss of the last step.
    pub loss: f64,
    /// Mean preference loss of the last step's pairs (0 without any).
    pub preference_loss: f64,
    /// Mean likelihood loss per weight of the last step.
    pub likelihood_loss: f64,
    /// Gradient norm of the last step, before clipping.
    pub gradient_norm: f64,
    /// Tokens read so far.
    pub tokens: u64,
    /// Seconds so far.
    pub seconds: f64,
}

/// What a run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedWeights {
    /// The weights.
    pub weights: Vec<f32>,
    /// What the pairs were.
    pub census: PairCensus,
    /// Mean log p of the chosen side's compared tokens (or all of a positive's) before the first step.
    pub chosen_log_p_before: f64,
    /// The same after the last step.
    pub chosen_log_p_after: f64,
    /// One entry a step.
    pub history: Vec<TrainingProgress>,
}

/// Most pairs whose chosen log p is watched.
const WATCHED_PAIRS: usize = 256;
/// A fall of the chosen side's mean log p by more than this is a failed health check; less is noise of the batch order.
const HEALTH_TOLERANCE: f64 = 0.02;

/// Log p of every answer token of both sides under the reference; empty for a pair that is not compared.
#[derive(Debug, Clone, Default)]
struct Reference {
    chosen: Vec<f32>,
    rejected: Vec<f32>,
}

/// Pairs, replay and reference log-probabilities, ready to make the batch of any step.
pub struct MethodData {
    pairs: Vec<(PreparedPair, f32)>,
    references: Vec<Reference>,
    replay: Vec<Group>,
    census: PairCensus,
    /// The habit tokens of the repositories that the pairs come from.
    taught: BTreeSet<u32>,
    /// What those habits start from, where it could be read from the pairs.
    spellings: Vec<Spelling>,
}

impl std::fmt::Debug for MethodData {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("MethodData").field("census", &self.census).finish_non_exhaustive()
    }
}

impl MethodData {
    /// Encodes `pairs` and `replay`, reads the repositories' habits, and computes log p of both sides under the anchor's
    /// weights with these habits spelled.
    ///
    /// # Errors
    /// [`TrainerError::NoExamples`] when no pair can be used.
    pub fn prepare(
        config: &MethodConfig,
        network: &Network,
        anchor: &[f32],
        tokenizer: &CodeTokenizer,
        pairs: &[TrainingPair],
        replay: &[BaseTask],
    ) -> Result<Self, TrainerError> {
        let given = pairs;
        let (pairs, census) = prepare_all(tokenizer, given);
        if pairs.is_empty() {
            return Err(TrainerError::NoExamples(format!("{census:?}")));
        }
        let weights = TokenWeights { answer: 1.0, prompt: 0.0 };
        let replay = replay.iter().filter_map(|task| base_group(tokenizer, task, weights, 0)).collect();
        let spellings =
            if config.spell_habits { spell(config, network, anchor, tokenizer, given, &pairs)? } else { Vec::new() };
        let references = if config.method == Method::Sft {
            vec![Reference::default(); pairs.len()]
        } else {
            // What is learned is counted from where training starts.
            references(config, network, &spelled(&spellings, network, anchor), &pairs)?
        };
        let habits: BTreeSet<u32> = tokenizer.special().habits.iter().flatten().copied().collect();
        let taught = pairs
            .iter()
            .flat_map(|(PreparedPair::Preference { chosen, .. } | PreparedPair::Positive { chosen }, _)| {
                &chosen.sequence.tokens
            })
            .filter(|token| habits.contains(token))
            .copied()
            .collect();
        Ok(Self { pairs, references, replay, census, taught, spellings })
    }

    /// Number of repositories whose habit could be read from the pairs and spelled.
    #[must_use]
    pub fn spelled_habits(&self) -> usize {
        self.spellings.len()
    }

    /// What training starts from: the anchor's weights, with the habits that could be spelled in their places.
    #[must_use]
    pub fn first_weights(&self, network: &Network, anchor: &[f32]) -> Vec<f32> {
        spelled(&self.spellings, network, anchor)
    }

    /// The groups of step number `step`; a pure function of the seed and the step. Losses add up to
    /// mean preference + lambda * mean likelihood + replay weight * mean replay likelihood.
    #[must_use]
    pub fn batch(&self, config: &MethodConfig, step: usize) -> Vec<Group> {
        let count = config.batch_pairs.min(self.pairs.len());
        let mut chosen: Vec<usize> = Vec::with_capacity(count);
        let first = step * count;
        // Whole epochs in shuffled order; a batch may span two.
        let mut place = first;
        while chosen.len() < count {
            let epoch = place / self.pairs.len();
            let mut order: Vec<usize> = (0..self.pairs.len()).collect();
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(config.seed.wrapping_mul(0x9E37_79B9) ^ epoch as u64));
            let offset = place % self.pairs.len();
            let take = (count - chosen.len()).min(self.pairs.len() - offset);
            chosen.extend(&order[offset..offset + take]);
            place += take;
        }
        chosen.sort_unstable();
        let mut groups: Vec<Group> = chosen.iter().map(|index| self.pair_group(config, *index)).collect();
        scale_likelihood(&mut groups, if config.method == Method::Sft { 1.0 } else { config.lambda });
        let pair_count = groups.iter().filter(|group| group.sequences.len() == 2).count().max(1) as f32;
        for group in &mut groups {
            if let Objective::Preference { weight, .. } = &mut group.objective {
                *weight /= pair_count;
            }
        }
        if !self.replay.is_empty() && config.batch_replay > 0 {
            let seed = config.seed.wrapping_mul(0x85EB_CA6B) ^ 0x7265_706c ^ (step as u64) << 20;
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut replayed: Vec<Group> = (0..config.batch_replay)
                .map(|_| self.replay[random.random_range(0..self.replay.len())].clone())
                .collect();
            scale_likelihood(&mut replayed, config.replay_weight);
            groups.append(&mut replayed);
        }
        groups
    }

    fn pair_group(&self, config: &MethodConfig, index: usize) -> Group {
        let (pair, weight) = &self.pairs[index];
        let (chosen, rejected) = match pair {
            PreparedPair::Positive { chosen } => (chosen, None),
            PreparedPair::Preference { chosen, rejected } => (chosen, Some(rejected)),
        };
        // The likelihood covers what was observed from the divergence on; SFT knows no divergence and takes it all.
        let from = if config.method == Method::Sft { 0 } else { chosen.common };
        let likelihood: Vec<f32> = (0..chosen.answer).map(|place| if place >= from { *weight } else { 0.0 }).collect();
        let (Some(rejected), true) = (rejected, config.method != Method::Sft) else {
            return Group {
                sequences: vec![chosen.sequence.clone()],
                objective: Objective::Likelihood { weights: likelihood },
            };
        };
        let compared = |side: &Side| -> Vec<bool> {
            (0..side.answer)
                .map(|place| match config.method {
                    Method::Actionrl => place >= side.common && place < side.action_end,
                    Method::Dpo | Method::Sft => true,
                })
                .collect()
        };
        let Reference { chosen: chosen_reference, rejected: rejected_reference } = self.references[index].clone();
        Group {
            sequences: vec![chosen.sequence.clone(), rejected.sequence.clone()],
            objective: Objective::Preference {
                beta: config.beta,
                weight: *weight,
                chosen_reference,
                rejected_reference,
                chosen_compared: compared(chosen),
                rejected_compared: compared(rejected),
                likelihood,
            },
        }
    }

    /// Mean log p of the chosen sides' observed tokens over at most [`WATCHED_PAIRS`] pairs.
    fn chosen_log_p(&self, config: &MethodConfig, network: &Network, weights: &[f32]) -> Result<f64, TrainerError> {
        let stride = self.pairs.len().div_ceil(WATCHED_PAIRS).max(1);
        let sides: Vec<&Side> = self
            .pairs
            .iter()
            .step_by(stride)
            .map(|(pair, _)| match pair {
                PreparedPair::Preference { chosen, .. } | PreparedPair::Positive { chosen } => chosen,
            })
            .collect();
        let sequences: Vec<TrainingSequence> = sides.iter().map(|side| side.sequence.clone()).collect();
        let values = log_probabilities(backends(config.device, network, config.threads)?, weights, &sequences)?;
        let total: f64 = sides
            .iter()
            .zip(&values)
            .map(|(side, values)| values.iter().skip(side.common).map(|value| f64::from(*value)).sum::<f64>())
            .sum();
        Ok(total / sides.len().max(1) as f64)
    }
}

fn references(
    config: &MethodConfig,
    network: &Network,
    reference: &[f32],
    pairs: &[(PreparedPair, f32)],
) -> Result<Vec<Reference>, TrainerError> {
    let mut sequences = Vec::new();
    for (pair, _) in pairs {
        if let PreparedPair::Preference { chosen, rejected } = pair {
            sequences.push(chosen.sequence.clone());
            sequences.push(rejected.sequence.clone());
        }
    }
    let backends = backends(config.device, network, config.threads)?;
    let mut values = log_probabilities(backends, reference, &sequences)?.into_iter();
    Ok(pairs
        .iter()
        .map(|(pair, _)| match pair {
            PreparedPair::Preference { .. } => {
                let (chosen, rejected) = (values.next().unwrap_or_default(), values.next().unwrap_or_default());
                Reference { chosen, rejected }
            }
            PreparedPair::Positive { .. } => Reference::default(),
        })
        .collect())
}

/// `anchor` with what `spellings` say in the places of habits.
fn spelled(spellings: &[Spelling], network: &Network, anchor: &[f32]) -> Vec<f32> {
    let mut weights = anchor.to_vec();
    let width = network.config().hidden_size;
    // The embedding comes first in the weights.
    let row = |token: u32| token as usize * width..(token as usize + 1) * width;
    for Spelling { places, tokens } in spellings {
        for (place, token) in places.iter().zip(tokens) {
            weights[row(*place)].copy_from_slice(&anchor[row(*token)]);
        }
    }
    weights
}

/// Makes the likelihood weights of `groups` add up to `share`.
fn scale_likelihood(groups: &mut [Group], share: f32) {
    let parts = |group: &mut Group| -> f32 {
        match &group.objective {
            Objective::Likelihood { weights } | Objective::Preference { likelihood: weights, .. } => {
                weights.iter().sum()
            }
        }
    };
    let total: f32 = groups.iter_mut().map(parts).sum();
    let factor = if total > 0.0 { share / total } else { 0.0 };
    for group in groups {
        match &mut group.objective {
            Objective::Likelihood { weights } | Objective::Preference { likelihood: weights, .. } => {
                for weight in weights {
                    *weight *= factor;
                }
            }
        }
    }
}

/// The optimiser of fine-tuning: no decay, because a few steps must not shrink what the base knows.
#[must_use]
pub fn fine_tuning_optimizer(config: &MethodConfig) -> OptimizerConfig {
    OptimizerConfig { learning_rate: config.learning_rate, weight_decay: 0.0, ..OptimizerConfig::default() }
}

/// An engine that starts from `weights` and treats them as fine-tuning does: of all habits only those of the
/// repositories that `data` comes from learn, so that nobody else's can be disturbed.
///
/// # Errors
/// [`ModelError::Backend`] says what the build or the machine lacks of the device in `config`.
pub fn fine_tuning_engine(
    config: &MethodConfig,
    data: &MethodData,
    network: &Network,
    tokenizer: &CodeTokenizer,
    weights: Vec<f32>,
    optimizer: Option<AdamW>,
) -> Result<Engine, ModelError> {
    let optimizer = optimizer.unwrap_or_else(|| AdamW::new(fine_tuning_optimizer(config), weights.len()));
    let width = network.config().hidden_size;
    // Habit tokens are neighbours in the vocabulary, and the embedding comes first in the weights.
    let rows = |first: u32, last: u32| first as usize * width..(last as usize + 1) * width;
    let special = tokenizer.special();
    let mut treatment = Treatment::of(network);
    if let (Some(first), Some(last)) = (special.untaught.first(), special.habits.last().and_then(|habit| habit.last()))
    {
        treatment = treatment.with_rate(rows(*first, *last), 0.0);
    }
    let factor = (config.habit_rate / config.learning_rate) as f32;
    for token in &data.taught {
        treatment = treatment.with_rate(rows(*token, *token), factor);
    }
    let backends = backends(config.device, network, config.threads)?;
    Ok(Engine::with_optimizer(network.clone(), weights, optimizer, backends).with_treatment(treatment))
}

/// Learning rate over a fine-tuning run.
#[must_use]
pub fn fine_tuning_schedule(config: &MethodConfig) -> Schedule {
    Schedule { warmup_steps: config.warmup_steps, total_steps: config.steps, final_share: 0.2 }
}

/// Whether to go on after a step.
pub type Watch<'a> = dyn FnMut(&TrainingProgress, &Engine) -> Result<(), TrainerError> + 'a;

/// Runs all steps from `engine`'s state at `first_step`, and checks the health of the result.
///
/// # Errors
/// [`TrainerError::Diverged`], [`TrainerError::Unhealthy`] when log p of the chosen side fell, or what `watch` returns.
pub fn train(
    config: &MethodConfig,
    data: &MethodData,
    mut engine: Engine,
    first_step: usize,
    reference: &[f32],
    watch: &mut Watch<'_>,
) -> Result<TrainedWeights, TrainerError> {
    let schedule = fine_tuning_schedule(config);
    let network = engine.network().clone();
    let chosen_log_p_before = data.chosen_log_p(config, &network, reference)?;
    let started = Instant::now();
    let mut history = Vec::with_capacity(config.steps);
    let mut tokens = 0;
    for step in first_step..config.steps {
        let groups = data.batch(config, step);
        let report = engine.step(&groups, 1.0, schedule.share(step))?;
        tokens += report.tokens as u64;
        let LossParts { total, preference, pairs, likelihood, likelihood_weight, .. } = report.parts;
        let progress = TrainingProgress {
            step: step + 1,
            steps: config.steps,
            loss: total,
            preference_loss: preference / pairs.max(1) as f64,
            likelihood_loss: likelihood / likelihood_weight.max(1e-9),
            gradient_norm: report.gradient_norm,
            tokens,
            seconds: started.elapsed().as_secs_f64(),
        };
        if !report.gradient_norm.is_finite() || !total.is_finite() {
            return Err(TrainerError::Diverged { step: step + 1 });
        }
        history.push(progress);
        watch(&progress, &engine)?;
    }
    let chosen_log_p_after = data.chosen_log_p(config, &network, engine.weights())?;
    if chosen_log_p_after < chosen_log_p_before - HEALTH_TOLERANCE {
        return Err(TrainerError::Unhealthy(format!(
            "mean log p of the chosen side fell from {chosen_log_p_before:.3} to {chosen_log_p_after:.3}"
        )));
    }
    Ok(TrainedWeights {
        weights: engine.weights().to_vec(),
        census: data.census,
        chosen_log_p_before,
        chosen_log_p_after,
        history,
    })
}

/// Prepares and trains in one call, without checkpoints: for benchmarks and tests.
///
/// # Errors
/// As [`MethodData::prepare`] and [`train`].
pub fn train_from_anchor(
    config: &MethodConfig,
    network: &Network,
    anchor: &[f32],
    tokenizer: &CodeTokenizer,
    pairs: &[TrainingPair],
    replay: &[BaseTask],
) -> Result<TrainedWeights, TrainerError> {
    let data = MethodData::prepare(config, network, anchor, tokenizer, pairs, replay)?;
    let engine = fine_tuning_engine(config, &data, network, tokenizer, data.first_weights(network, anchor), None)?;
    train(config, &data, engine, 0, anchor, &mut |_, _| Ok(()))
}
