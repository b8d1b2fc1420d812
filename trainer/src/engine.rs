//! One optimisation step on several threads: groups are dealt to lanes in a fixed order, each lane sums its own
//! gradient, and gradients are added in the order of the lanes. The same seed and the same number of lanes give the
//! same weights.

use edit_model::{ModelError, Network, NetworkBackend, Sequence};

use crate::objective::{LossParts, Objective, TrainingSequence};
use crate::optimizer::{AdamW, OptimizerConfig, Treatment};

/// Sequences that share one objective.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// One for a likelihood; chosen then rejected for a preference.
    pub sequences: Vec<TrainingSequence>,
    /// Their loss.
    pub objective: Objective,
}

impl Group {
    fn token_count(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens.len()).sum()
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Loss of the batch, times the scale given.
    pub parts: LossParts,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens read.
    pub tokens: usize,
}

struct Lane {
    backend: Box<dyn NetworkBackend>,
    gradients: Vec<f32>,
}

/// Weights, optimiser and the memory of the lanes.
pub struct Engine {
    network: Network,
    weights: Vec<f32>,
    optimizer: AdamW,
    treatment: Treatment,
    lanes: Vec<Lane>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Engine").field("weights", &self.weights.len()).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine that starts from `weights`, with one lane for each of `backends`.
    #[must_use]
    pub fn new(
        network: Network,
        weights: Vec<f32>,
        config: OptimizerConfig,
        backends: Vec<Box<dyn NetworkBackend>>,
    ) -> Self {
        let optimizer = AdamW::new(config, weights.len());
        Self::with_optimizer(network, weights, optimizer, backends)
    }

    /// The same, going on with the moments of an earlier run.
    #[must_use]
    pub fn with_optimizer(
        network: Network,
        weights: Vec<f32>,
        optimizer: AdamW,
        backends: Vec<Box<dyn NetworkBackend>>,
    ) -> Self {
        let treatment = Treatment::of(&network);
        let count = weights.len();
        let lanes = backends.into_iter().map(|backend| Lane { backend, gradients: vec![0.0; count] }).collect();
        Self { network, weights, optimizer, treatment, lanes }
    }

    /// The same with another treatment of the weights.
    #[must_use]
    pub fn with_treatment(self, treatment: Treatment) -> Self {
        Self { treatment, ..self }
    }

    /// The weights.
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The optimiser.
    #[must_use]
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// The architecture.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// One step on `groups`, whose losses are added and multiplied by `scale`, at `share` of the learning rate.
    /// Gradients accumulate over as many passes as a backend needs: a step of any size takes the memory of one pass.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] for a sequence that the network cannot take.
    pub fn step(&mut self, groups: &[Group], scale: f32, share: f64) -> Result<StepReport, ModelError> {
        let parts = self.sum_gradients(groups, scale)?;
        let Some(first) = self.lanes.first() else { return Err(no_lane()) };
        let gradient_norm = self.optimizer.step(&mut self.weights, &first.gradients, share, &self.treatment);
        let tokens = groups.iter().map(Group::token_count).sum();
        Ok(StepReport { parts, gradient_norm, tokens })
    }

    /// The loss of `groups` and its gradient, both times `scale`; changes no weight.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn gradient(&mut self, groups: &[Group], scale: f32) -> Result<(LossParts, Vec<f32>), ModelError> {
        let parts = self.sum_gradients(groups, scale)?;
        Ok((parts, self.lanes.first().ok_or_else(no_lane)?.gradients.clone()))
    }

    /// Log p of every target of `sequences` under the weights of now; the order is kept.
    ///
    /// # Errors
    /// As [`log_probabilities`].
    pub fn log_probabilities(&mut self, sequences: &[TrainingSequence]) -> Result<Vec<Vec<f32>>, ModelError> {
        let backends = self.lanes.iter_mut().map(|lane| &mut lane.backend).collect();
        share_out(backends, &self.weights, sequences)
    }

    /// Leaves the sum of all lanes' gradients in the first.
    fn sum_gradients(&mut self, groups: &[Group], scale: f32) -> Result<LossParts, ModelError> {
        let count = self.lanes.len();
        let weights = &self.weights;
        let results: Vec<Result<LossParts, ModelError>> = std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .lanes
                .iter_mut()
                .zip(deal(groups, count))
                .map(|(lane, share)| scope.spawn(move || lane.run(weights, groups, &share, scale)))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or(Err(ModelError::Sequence("a training thread panicked"))))
                .collect()
        });
        let mut parts = LossParts::default();
        for result in results {
            parts.add(&result?);
        }
        let Some((first, others)) = self.lanes.split_first_mut() else {
            return Err(no_lane());
        };
        for other in others {
            for (sum, value) in first.gradients.iter_mut().zip(&other.gradients) {
                *sum += value;
            }
        }
        Ok(parts)
    }
}

fn no_lane() -> ModelError {
    ModelError::Sequence("there is no lane")
}

/// Log p of every target of `sequences`, shared out over `backends`; the order is kept.
///
/// # Errors
/// [`ModelError::Sequence`] for a sequence that the network cannot take, [`ModelError::Backend`] when a device fails.
pub fn log_probabilities(
    mut backends: Vec<Box<dyn NetworkBackend>>,
    weights: &[f32],
    sequences: &[TrainingSequence],
) -> Result<Vec<Vec<f32>>, ModelError> {
    share_out(backends.iter_mut().collect(), weights, sequences)
}

fn share_out(
    backends: Vec<&mut Box<dyn NetworkBackend>>,
    weights: &[f32],
    sequences: &[TrainingSequence],
) -> Result<Vec<Vec<f32>>, ModelError> {
    let share = sequences.len().div_ceil(backends.len().max(1)).max(1);
    let results: Vec<Result<Vec<Vec<f32>>, ModelError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = sequences
            .chunks(share)
            .zip(backends)
            .map(|(chunk, backend)| scope.spawn(move || read_all(backend.as_mut(), weights, chunk)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or(Err(ModelError::Sequence("a thread panicked"))))
            .collect()
    });
    let mut all = Vec::with_capacity(sequences.len());
    for result in results {
        all.extend(result?);
    }
    Ok(all)
}

fn read_all(
    backend: &mut dyn NetworkBackend,
    weights: &[f32],
    sequences: &[TrainingSequence],
) -> Result<Vec<Vec<f32>>, ModelError> {
    let mut all = Vec::with_capacity(sequences.len());
    let most = backend.batch_tokens();
    let mut rest = sequences;
    while let Some(first) = rest.first() {
        let mut tokens = first.tokens.len();
        let mut count = 1;
        while let Some(next) = rest.get(count).filter(|next| tokens + next.tokens.len() <= most) {
            tokens += next.tokens.len();
            count += 1;
        }
        let (batch, later) = rest.split_at(count);
        let views: Vec<Sequence<'_>> = batch.iter().map(TrainingSequence::view).collect();
        let mut values = backend.forward(weights, &views)?.into_iter();
        all.extend(batch.iter().map(|sequence| values.by_ref().take(sequence.target_positions.len()).collect()));
        rest = later;
    }
    Ok(all)
}

/// Deals groups to lanes so that each gets about the same number of tokens: longest first, to the emptiest lane. Within a
/// lane lengths therefore fall, so that groups which go through together are of nearly one length and a backend that
/// pads wastes little.
fn deal(groups: &[Group], lanes: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|index| (std::cmp::Reverse(groups[*index].token_count()), *index));
    let mut dealt = vec![Vec::new(); lanes];
    let mut loads = vec![0_usize; lanes];
    for index in order {
        let lane = (0..lanes).min_by_key(|lane| (loads[*lane], *lane)).unwrap_or(0);
        loads[lane] += groups[index].token_count();
        dealt[lane].push(index);
    }
    dealt
}

impl Lane {
    fn run(&mut self, weights: &[f32], groups: &[Group], share: &[usize], scale: f32) -> Result<LossParts, ModelError> {
        self.gradients.fill(0.0);
        let most = self.backend.batch_tokens();
        let mut parts = LossParts::default();
        let mut start = 0;
        while start < share.len() {
            let mut tokens = groups[share[start]].token_count();
            let mut end = start + 1;
            while end < share.len() && tokens + groups[share[end]].token_count() <= most {
                tokens += groups[share[end]].token_count();
                end += 1;
            }
            let chunk: Vec<&Group> = share[start..end].iter().map(|index| &groups[*index]).collect();
            let sequences: Vec<Sequence<'_>> =
                chunk.iter().flat_map(|group| &group.sequences).map(TrainingSequence::view).collect();
            let log_p = self.backend.forward(weights, &sequences)?;
            let mut coefficients = vec![0.0; log_p.len()];
            let mut place = 0;
            for group in chunk {
                let count = group.objective.target_count();
                let range = place..place + count;
                let (Some(values), Some(out)) = (log_p.get(range.clone()), coefficients.get_mut(range)) else {
                    return Err(ModelError::Sequence("an objective does not fit its sequences"));
                };
                parts.add(&group.objective.evaluate(values, scale, out));
                place += count;
            }
            self.backend.backward(weights, &coefficients, &mut self.gradients)?;
            start = end;
        }
        Ok(parts)
    }
}
