//! How a version learns from pairs, by any of the methods in `docs/methods.md`.
//!
//! All of them share the batch, the likelihood terms and the replay of base data; they differ in what is compared with
//! what: [`Method`] says which tokens, [`crate::Objective`] how they become a loss.

use std::collections::BTreeSet;
use std::time::Instant;

use edit_model::{CodeTokenizer, Device, ModelError, Network};
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::device::backends;
use crate::engine::{Engine, Group, StepReport, log_probabilities};
use crate::error::TrainerError;
use crate::examples::{BaseTask, TokenWeights, base_group};
use crate::habit::{Spelling, spell};
pub use crate::method::Method;
use crate::method::point_of;
use crate::objective::{ComparedSide, Objective, PreferenceLoss, TrainingSequence};
use crate::optimizer::{AdamW, OptimizerConfig, Schedule, Treatment};
use crate::pairs::TrainingPair;
use crate::prepared::{PairCensus, Prepared, PreparedPair, Side, prepare_all};

/// Settings of learning from pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MethodConfig {
    /// What is compared with what.
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
    /// Weight of the likelihood of chosen tokens beside whatever is compared; 0: none.
    pub lambda: f32,
    /// Probability with which a pair is taken to be the wrong way round (conservative DPO); from 0 to below 0.5.
    pub label_smoothing: f32,
    /// What a chosen side that became less likely than under the reference costs the margin (DPOP's lambda); 0: nothing.
    pub positive_penalty: f32,
    /// Weight of what is wanted, with `kto`.
    pub desirable_weight: f32,
    /// Weight of what is not wanted, with `kto`.
    pub undesirable_weight: f32,
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
            label_smoothing: 0.0,
            positive_penalty: 0.0,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
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
    /// Mean over the last step's compared pairs of the log-ratio to the reference of the diverging action, chosen less
    /// rejected, whatever the method compares; none where nothing is compared.
    pub margin_at_divergence: Option<f64>,
    /// Share of these pairs whose margin is above 0.
    pub accuracy: Option<f64>,
    /// Mean distance to the reference of a token of the last step's pairs, in nats (Schulman's k3). The policy did not
    /// write these tokens, so it watches the distance and is no unbiased estimate of it; none without a reference.
    pub kl: Option<f64>,
    /// Tokens read so far, since the run was started or resumed.
    pub tokens: u64,
    /// Seconds since then.
    pub seconds: f64,
    /// Tokens read in each of them.
    pub tokens_per_second: f64,
    /// Seconds that the remaining steps will take at this rate.
    pub eta_seconds: f64,
}

impl TrainingProgress {
    /// After `step` of `steps`; `done` of them in `seconds`, in which `tokens` were read.
    fn new(step: usize, steps: usize, done: usize, report: &StepReport, tokens: u64, seconds: f64) -> Self {
        let parts = &report.parts;
        let mean = |sum: f64, count: usize| if count > 0 { Some(sum / count as f64) } else { None };
        Self {
            step,
            steps,
            loss: parts.total,
            preference_loss: mean(parts.preference, parts.pairs).unwrap_or(0.0),
            likelihood_loss: parts.likelihood / parts.likelihood_weight.max(1e-9),
            gradient_norm: report.gradient_norm,
            margin_at_divergence: mean(parts.margin, parts.compared),
            accuracy: mean(parts.correct as f64, parts.compared),
            kl: mean(parts.divergence, parts.divergence_targets),
            tokens,
            seconds,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            eta_seconds: seconds / done.max(1) as f64 * steps.saturating_sub(step) as f64,
        }
    }

    /// Why a step with these figures can not be gone on from.
    fn divergence(&self, vocabulary: usize) -> Option<String> {
        if !self.loss.is_finite() {
            return Some(format!("the loss is {}", self.loss));
        }
        if !self.gradient_norm.is_finite() {
            return Some(format!("the norm of the gradient is {}", self.gradient_norm));
        }
        // A guess among all tokens alike loses ln(vocabulary).
        let most = DIVERGED_GUESSES * (vocabulary.max(2) as f64).ln();
        (self.likelihood_loss > most).then(|| {
            format!("a token loses {:.1} nats, more than {DIVERGED_GUESSES} times a blind guess", self.likelihood_loss)
        })
    }
}

/// What a run leaves behind.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedWeights {
    /// The weights.
    pub weights: Vec<f32>,
    /// What the pairs were.
    pub census: PairCensus,
    /// Mean over pairs of the log p of all chosen tokens from the divergence on (of a pair with a chosen side only: behind
    /// what is shared) under the weights of the first step, whatever the method compares.
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
/// A model that loses more on what it trains on than a blind guess does, times this, has diverged.
const DIVERGED_GUESSES: f64 = 2.0;
/// Most times in a run that the chosen side's log p is looked at before the end.
const HEALTH_CHECKS: usize = 3;

/// Log p of every answer token of a pair's sides under the reference; empty for one that is measured from none.
#[derive(Debug, Clone, Default)]
struct Reference {
    chosen: Vec<f32>,
    rejected: Vec<f32>,
    /// Answers of other pairs after this one's prompt, by which the distance to the reference is measured.
    mismatches: Vec<Mismatch>,
}

/// An answer that has nothing to do with its prompt.
#[derive(Debug, Clone)]
struct Mismatch {
    sequence: TrainingSequence,
    /// Sum of log p of the answer under the reference.
    reference: f64,
}

/// Pairs, replay and reference log-probabilities, ready to make the batch of any step.
pub struct MethodData {
    pairs: Vec<Prepared>,
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
    /// [`TrainerError::NoExamples`] when no pair can be used, [`TrainerError::OneClass`] when all that can be used say the
    /// same to a method that learns from differences.
    pub fn prepare(
        config: &MethodConfig,
        network: &Network,
        anchor: &[f32],
        tokenizer: &CodeTokenizer,
        pairs: &[TrainingPair],
        replay: &[BaseTask],
    ) -> Result<Self, TrainerError> {
        let given = pairs;
        let (pairs, census) = prepare_all(tokenizer, given, config.method.learns_from_rejections());
        if pairs.is_empty() {
            return Err(TrainerError::NoExamples(format!("{census:?}")));
        }
        check_classes(config.method, tokenizer.special().no_edit, &pairs, &census)?;
        let weights = TokenWeights { answer: 1.0, prompt: 0.0 };
        let mut replay: Vec<Group> = replay.iter().filter_map(|task| base_group(tokenizer, task, weights, 0)).collect();
        let learns_content = config.method != Method::ThresholdOnly;
        if !learns_content {
            replay.iter_mut().for_each(keep_first_target);
        }
        let spellings = if config.spell_habits && learns_content {
            spell(config, network, anchor, tokenizer, given, &pairs)?
        } else {
            Vec::new()
        };
        let habits: BTreeSet<u32> = tokenizer.special().habits.iter().flatten().copied().collect();
        let taught = pairs
            .iter()
            .flat_map(|prepared| prepared.pair.sides())
            .flat_map(|side| side.prompt_tokens())
            .filter(|token| habits.contains(token))
            .copied()
            .collect();
        let references = vec![Reference::default(); pairs.len()];
        let mut data = Self { pairs, references, replay, census, taught, spellings };
        if config.method.has_reference() {
            // What is learned is counted from where training starts.
            let first_weights = data.first_weights(network, anchor);
            data.measure_references(config, network, &first_weights)?;
        }
        Ok(data)
    }

    /// Pairs that are in tokens already, measured from `weights`, with nothing to replay.
    #[cfg(test)]
    pub(crate) fn of_prepared(
        config: &MethodConfig,
        network: &Network,
        weights: &[f32],
        pairs: Vec<Prepared>,
    ) -> Result<Self, TrainerError> {
        let references = vec![Reference::default(); pairs.len()];
        let (replay, spellings, taught) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut data = Self { pairs, references, replay, census: PairCensus::default(), taught, spellings };
        if config.method.has_reference() {
            data.measure_references(config, network, weights)?;
        }
        Ok(data)
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

    /// Pairs in a step.
    fn batch_size(&self, config: &MethodConfig) -> usize {
        config.batch_pairs.min(self.pairs.len())
    }

    /// The pairs in the order of an epoch.
    fn order(&self, config: &MethodConfig, epoch: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.pairs.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(config.seed.wrapping_mul(0x9E37_79B9) ^ epoch as u64));
        order
    }

    /// The pairs of step number `step`, ascending: whole epochs in shuffled order; a batch may span two.
    fn indices(&self, config: &MethodConfig, step: usize) -> Vec<usize> {
        let count = self.batch_size(config);
        let mut indices: Vec<usize> = Vec::with_capacity(count);
        let mut place = step * count;
        while indices.len() < count {
            let order = self.order(config, place / self.pairs.len());
            let offset = place % self.pairs.len();
            let take = (count - indices.len()).min(self.pairs.len() - offset);
            indices.extend(&order[offset..offset + take]);
            place += take;
        }
        indices.sort_unstable();
        indices
    }

    /// Steps between two looks at the health of the model.
    fn health_steps(&self, config: &MethodConfig) -> usize {
        let epoch = self.pairs.len().div_ceil(self.batch_size(config).max(1));
        epoch.max(config.steps.div_ceil(HEALTH_CHECKS)).max(1)
    }

    /// Ids of the pairs of step number `step`.
    #[must_use]
    pub fn batch_ids(&self, config: &MethodConfig, step: usize) -> Vec<&str> {
        self.indices(config, step).into_iter().map(|index| self.pairs[index].id.as_str()).collect()
    }

    /// The groups of step number `step`; a pure function of the seed and the step. Losses add up to
    /// mean preference + lambda * mean likelihood + replay weight * mean replay likelihood. What the method `kto`
    /// measures from the weights of the step is 0 here; [`train`] sets it.
    #[must_use]
    pub fn batch(&self, config: &MethodConfig, step: usize) -> Vec<Group> {
        let mut groups: Vec<Group> =
            self.indices(config, step).into_iter().flat_map(|index| self.pair_groups(config, index)).collect();
        scale_likelihood(&mut groups, if config.method.has_reference() { config.lambda } else { 1.0 });
        let is_measured = |group: &&Group| !matches!(group.objective, Objective::Likelihood { .. });
        let count = groups.iter().filter(is_measured).count().max(1) as f32;
        for group in &mut groups {
            if let Objective::Preference { weight, .. } | Objective::Desirability { weight, .. } = &mut group.objective
            {
                *weight /= count;
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

    fn pair_groups(&self, config: &MethodConfig, index: usize) -> Vec<Group> {
        let Prepared { id, pair, weight } = &self.pairs[index];
        let likelihood = |side: &Side| -> Vec<f32> {
            let from = config.method.likelihood_from(side);
            (0..side.answer).map(|place| if place >= from { *weight } else { 0.0 }).collect()
        };
        let reference = &self.references[index];
        if config.method == Method::Kto {
            let group = |side: &Side, is_desirable: bool| Group {
                sequences: vec![side.sequence.clone()],
                objective: Objective::Desirability {
                    beta: config.beta,
                    weight: weight * if is_desirable { config.desirable_weight } else { config.undesirable_weight },
                    is_desirable,
                    baseline: 0.0,
                    reference: if is_desirable { reference.chosen.clone() } else { reference.rejected.clone() },
                    likelihood: if is_desirable { likelihood(side) } else { vec![0.0; side.answer] },
                },
            };
            let wanted = pair.chosen().map(|side| group(side, true));
            return wanted.into_iter().chain(pair.rejected().map(|side| group(side, false))).collect();
        }
        let Some(chosen) = pair.chosen() else { return Vec::new() };
        if let (Some(rejected), true) = (pair.rejected(), config.method.compares()) {
            let (chosen_roles, rejected_roles) = config.method.roles(chosen, rejected, point_of(config.seed, id));
            let side = |side: &Side, reference: &[f32], roles| ComparedSide {
                reference: reference.to_vec(),
                roles,
                divergence: side.common..side.action_end,
            };
            return vec![Group {
                sequences: vec![chosen.sequence.clone(), rejected.sequence.clone()],
                objective: Objective::Preference {
                    loss: PreferenceLoss {
                        beta: config.beta,
                        label_smoothing: config.label_smoothing,
                        positive_penalty: config.positive_penalty,
                    },
                    weight: *weight,
                    chosen: side(chosen, &reference.chosen, chosen_roles),
                    rejected: side(rejected, &reference.rejected, rejected_roles),
                    likelihood: likelihood(chosen),
                },
            }];
        }
        let mut group = Group {
            sequences: vec![chosen.sequence.clone()],
            objective: Objective::Likelihood { weights: likelihood(chosen) },
        };
        if config.method == Method::ThresholdOnly {
            keep_first_target(&mut group);
        }
        vec![group]
    }

    /// Computes log p under `weights` of what the run's steps will measure, once.
    fn measure_references(
        &mut self,
        config: &MethodConfig,
        network: &Network,
        weights: &[f32],
    ) -> Result<(), TrainerError> {
        let mut used = self.order(config, 0);
        used.truncate(config.steps.saturating_mul(self.batch_size(config)));
        used.sort_unstable();
        let is_kto = config.method == Method::Kto;
        used.retain(|index| is_kto || matches!(self.pairs[*index].pair, PreparedPair::Preference { .. }));
        let mut sequences = Vec::new();
        for index in &used {
            sequences.extend(self.pairs[*index].pair.sides().map(|side| side.sequence.clone()));
            if is_kto {
                sequences.extend(self.mismatched(*index));
            }
        }
        let mut values = log_probabilities(backends(config.device, network, config.threads)?, weights, &sequences)?
            .into_iter()
            .zip(sequences);
        let mut next = || values.next().unwrap_or_else(|| (Vec::new(), TrainingSequence::empty()));
        for index in used {
            let pair = &self.pairs[index].pair;
            let reference = &mut self.references[index];
            let mismatched_sides = if is_kto { pair.sides().count() } else { 0 };
            if pair.chosen().is_some() {
                reference.chosen = next().0;
            }
            if pair.rejected().is_some() {
                reference.rejected = next().0;
            }
            for _ in 0..mismatched_sides {
                let (log_p, sequence) = next();
                let reference_log_p = log_p.iter().map(|value| f64::from(*value)).sum();
                reference.mismatches.push(Mismatch { sequence, reference: reference_log_p });
            }
        }
        Ok(())
    }

    /// The prompt of a pair before the answers of the next one, one for each of its sides.
    fn mismatched(&self, index: usize) -> Vec<TrainingSequence> {
        let pair = &self.pairs[index].pair;
        let other = &self.pairs[(index + 1) % self.pairs.len()].pair;
        let after = |side: &Side, answer: Option<&Side>| {
            let answer = answer.unwrap_or(side).answer_tokens();
            Side::new(side.prompt_tokens(), answer, 0, answer.len()).sequence
        };
        let wanted = pair.chosen().map(|side| after(side, other.chosen().or(other.rejected())));
        let unwanted = pair.rejected().map(|side| after(side, other.rejected().or(other.chosen())));
        wanted.into_iter().chain(unwanted).collect()
    }

    /// The groups of step number `step` with what the method measures from the weights of now.
    ///
    /// # Errors
    /// As [`Engine::log_probabilities`].
    pub(crate) fn measured_batch(
        &self,
        config: &MethodConfig,
        step: usize,
        engine: &mut Engine,
    ) -> Result<Vec<Group>, ModelError> {
        let mut groups = self.batch(config, step);
        if config.method != Method::Kto {
            return Ok(groups);
        }
        let indices = self.indices(config, step);
        let mismatches: Vec<&Mismatch> =
            indices.into_iter().flat_map(|index| &self.references[index].mismatches).collect();
        let sequences: Vec<TrainingSequence> = mismatches.iter().map(|mismatch| mismatch.sequence.clone()).collect();
        let values = engine.log_probabilities(&sequences)?;
        let total: f64 = (values.iter().zip(&mismatches))
            .map(|(log_p, mismatch)| log_p.iter().map(|value| f64::from(*value)).sum::<f64>() - mismatch.reference)
            .sum();
        let measured = (total / mismatches.len().max(1) as f64).max(0.0) as f32;
        for group in &mut groups {
            if let Objective::Desirability { baseline, .. } = &mut group.objective {
                *baseline = measured;
            }
        }
        Ok(groups)
    }

    /// Mean log p of the chosen sides under `weights`, which `step` steps have made.
    ///
    /// # Errors
    /// [`TrainerError::Unhealthy`] when it is below `before`.
    fn check_health(
        &self,
        config: &MethodConfig,
        weights: &[f32],
        network: &Network,
        before: f64,
        step: usize,
    ) -> Result<f64, TrainerError> {
        let after = self.chosen_log_p(config, network, weights)?;
        // Written so that what is no number has fallen, too.
        if after >= before - HEALTH_TOLERANCE {
            return Ok(after);
        }
        Err(TrainerError::Unhealthy(format!(
            "mean log p of the chosen side fell from {before:.3} to {after:.3} at step {step}"
        )))
    }

    /// Mean log p of the chosen sides' tokens from the divergence on, over at most [`WATCHED_PAIRS`] pairs.
    fn chosen_log_p(&self, config: &MethodConfig, network: &Network, weights: &[f32]) -> Result<f64, TrainerError> {
        let chosen: Vec<&Side> = self.pairs.iter().filter_map(|prepared| prepared.pair.chosen()).collect();
        let stride = chosen.len().div_ceil(WATCHED_PAIRS).max(1);
        let sides: Vec<&Side> = chosen.into_iter().step_by(stride).collect();
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

/// Refuses pairs from which `method` can learn nothing, because all of them say the same.
fn check_classes(method: Method, no_edit: u32, pairs: &[Prepared], census: &PairCensus) -> Result<(), TrainerError> {
    let refuse = |needs: &'static str| Err(TrainerError::OneClass { method: method.name(), needs });
    match method {
        Method::Sft => Ok(()),
        Method::Kto => {
            let wanted = pairs.iter().any(|prepared| prepared.pair.chosen().is_some());
            let unwanted = pairs.iter().any(|prepared| prepared.pair.rejected().is_some());
            if wanted && unwanted && pairs.len() > 1 {
                return Ok(());
            }
            refuse("both what was wanted and what was not, in at least two pairs")
        }
        Method::ThresholdOnly => {
            let is_silence = |prepared: &Prepared| {
                prepared.pair.chosen().is_some_and(|side| side.answer_tokens().first() == Some(&no_edit))
            };
            if pairs.iter().any(is_silence) && !pairs.iter().all(is_silence) {
                return Ok(());
            }
            refuse("both pairs that want an edit and pairs that want none")
        }
        _ if census.preferences > 0 => Ok(()),
        _ => refuse("pairs with both a chosen and a rejected side"),
    }
}

/// Keeps the first target of a group alone: for an answer, whether to speak.
fn keep_first_target(group: &mut Group) {
    for sequence in &mut group.sequences {
        sequence.target_positions.truncate(1);
    }
    if let Objective::Likelihood { weights } = &mut group.objective {
        weights.truncate(1);
    }
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
    let total: f32 = groups.iter().map(|group| group.objective.likelihood_weights().iter().sum::<f32>()).sum();
    let factor = if total > 0.0 { share / total } else { 0.0 };
    for weight in groups.iter_mut().flat_map(|group| group.objective.likelihood_weights_mut()) {
        *weight *= factor;
    }
}

/// The optimiser of fine-tuning: no decay, because a few steps must not shrink what the base knows.
#[must_use]
pub fn fine_tuning_optimizer(config: &MethodConfig) -> OptimizerConfig {
    OptimizerConfig { learning_rate: config.learning_rate, weight_decay: 0.0, ..OptimizerConfig::default() }
}

/// An engine that starts from `weights` and treats them as fine-tuning does: of all habits only those of the
/// repositories that `data` comes from learn, so that nobody else's can be disturbed. With `threshold-only` nothing
/// learns but the output embedding of `<no_edit>`, which stands in no prompt: it decides whether the model speaks, and
/// changes nothing of what it says.
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
    if config.method == Method::ThresholdOnly {
        treatment = treatment.with_rate(0..network.parameter_count(), 0.0);
        treatment = treatment.with_rate(network.output_row(special.no_edit), 1.0);
    } else {
        let factor = (config.habit_rate / config.learning_rate) as f32;
        for token in &data.taught {
            treatment = treatment.with_rate(rows(*token, *token), factor);
        }
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

/// Runs all steps from `engine`'s state at `first_step`. The health of the model is checked at the end of each epoch, or
/// of several where they are short, and at the end.
///
/// # Errors
/// [`TrainerError::Diverged`] with the ids of the pairs of the step, [`TrainerError::Unhealthy`] when log p of the chosen
/// side fell below what it is under `anchor` with its habits spelled, or what `watch` returns.
pub fn train(
    config: &MethodConfig,
    data: &MethodData,
    mut engine: Engine,
    first_step: usize,
    anchor: &[f32],
    watch: &mut Watch<'_>,
) -> Result<TrainedWeights, TrainerError> {
    let schedule = fine_tuning_schedule(config);
    let network = engine.network().clone();
    let vocabulary = network.config().written();
    let health_steps = data.health_steps(config);
    let chosen_log_p_before = data.chosen_log_p(config, &network, &data.first_weights(&network, anchor))?;
    let started = Instant::now();
    let mut history = Vec::with_capacity(config.steps.saturating_sub(first_step));
    let mut tokens = 0;
    for step in first_step..config.steps {
        let groups = data.measured_batch(config, step, &mut engine)?;
        let report = engine.step(&groups, 1.0, schedule.share(step))?;
        tokens += report.tokens as u64;
        let (done, seconds) = (step + 1 - first_step, started.elapsed().as_secs_f64());
        let progress = TrainingProgress::new(step + 1, config.steps, done, &report, tokens, seconds);
        if let Some(reason) = progress.divergence(vocabulary) {
            let batch = format!("pairs {}", data.batch_ids(config, step).join(", "));
            return Err(TrainerError::Diverged { step: step + 1, reason, batch });
        }
        history.push(progress);
        if (step + 1).is_multiple_of(health_steps) && step + 1 < config.steps {
            data.check_health(config, engine.weights(), &network, chosen_log_p_before, step + 1)?;
        }
        watch(&progress, &engine)?;
    }
    let chosen_log_p_after =
        data.check_health(config, engine.weights(), &network, chosen_log_p_before, config.steps)?;
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

#[cfg(test)]
mod tests {
    use edit_model::ModelConfig;

    use super::*;

    fn network() -> Network {
        let mut config = ModelConfig::base(16, 0, 1);
        config.hidden_size = 8;
        config.intermediate_size = 8;
        config.num_hidden_layers = 1;
        config.num_attention_heads = 2;
        config.num_key_value_heads = 2;
        Network::new(config).unwrap()
    }

    fn move_references(data: &mut MethodData, nats: f64) {
        for mismatch in data.references.iter_mut().flat_map(|reference| &mut reference.mismatches) {
            mismatch.reference += nats;
        }
    }

    #[test]
    fn kto_measures_from_no_less_than_nothing_and_weighs_both_classes() {
        let config = MethodConfig {
            method: Method::Kto,
            steps: 1,
            batch_pairs: 2,
            batch_replay: 0,
            desirable_weight: 1.0,
            undesirable_weight: 1.3,
            threads: 1,
            ..MethodConfig::default()
        };
        let network = network();
        let weights = network.initialize(&mut ChaCha8Rng::seed_from_u64(1));
        let pair = |id: &str, last: u32| {
            let side = |last: u32| Side::new(&[2, 3], &[4, last], 1, 2);
            let pair = PreparedPair::Preference { chosen: side(last), rejected: side(last + 1) };
            Prepared { id: id.to_owned(), pair, weight: 1.0 }
        };
        let pairs = vec![pair("a", 5), pair("b", 7)];
        let mut data = MethodData::of_prepared(&config, &network, &weights, pairs).unwrap();
        let backends = backends(config.device, &network, 1).unwrap();
        let mut engine = Engine::new(network, weights, fine_tuning_optimizer(&config), backends);
        // Of each example: whether it is wanted, its weight, and what it is measured from when the policy finds the
        // answers of other pairs likelier than the reference does by so many nats.
        let mut measured = |nats: f64| -> Vec<(bool, f32, f32)> {
            move_references(&mut data, -nats);
            let groups = data.measured_batch(&config, 0, &mut engine).unwrap();
            move_references(&mut data, nats);
            let figures = groups.into_iter().map(|group| match group.objective {
                Objective::Desirability { is_desirable, weight, baseline, .. } => (is_desirable, weight, baseline),
                other => panic!("{other:?}"),
            });
            figures.collect()
        };
        for (nats, expected) in [(2.0, 2.0), (0.0, 0.0), (-2.0, 0.0)] {
            let figures = measured(nats);
            assert_eq!(figures.len(), 4);
            for (is_desirable, weight, baseline) in figures {
                assert!((baseline - expected).abs() < 1e-4, "{baseline}");
                assert!(baseline >= 0.0, "{baseline}");
                let class = if is_desirable { 1.0 } else { 1.3 };
                // A mean over four examples.
                assert!((weight - class / 4.0).abs() < 1e-6, "{weight}");
            }
        }
    }
}
