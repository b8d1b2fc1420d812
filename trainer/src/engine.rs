//! One optimisation step on several threads: groups are dealt to lanes in a fixed order, each lane sums its own gradient,
//! and gradients are added in the order of the lanes. The same seed and the same number of threads give the same weights.

use edit_model::{ModelError, Network, Sequence, Workspace};

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
    workspace: Workspace,
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

/// Tokens that go through the network at once in a lane: more fill the caches, fewer waste the kernels.
const LANE_TOKENS: usize = 640;

impl Engine {
    /// An engine on `threads` lanes that starts from `weights`.
    #[must_use]
    pub fn new(network: Network, weights: Vec<f32>, config: OptimizerConfig, threads: usize) -> Self {
        let optimizer = AdamW::new(config, weights.len());
        Self::with_optimizer(network, weights, optimizer, threads)
    }

    /// An engine that goes on with the moments of an earlier run.
    #[must_use]
    pub fn with_optimizer(network: Network, weights: Vec<f32>, optimizer: AdamW, threads: usize) -> Self {
        let treatment = Treatment::of(&network);
        let lanes = (0..threads.max(1))
            .map(|_| Lane { workspace: Workspace::default(), gradients: vec![0.0; weights.len()] })
            .collect();
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
    ///
    /// # Errors
    /// [`ModelError::Sequence`] for a sequence that the network cannot take.
    pub fn step(&mut self, groups: &[Group], scale: f32, share: f64) -> Result<StepReport, ModelError> {
        let count = self.lanes.len();
        let (network, weights) = (&self.network, &self.weights);
        let results: Vec<Result<LossParts, ModelError>> = std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .lanes
                .iter_mut()
                .zip(deal(groups, count))
                .map(|(lane, share)| scope.spawn(move || lane.run(network, weights, groups, &share, scale)))
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
            return Err(ModelError::Sequence("there is no lane"));
        };
        for other in others {
            for (sum, value) in first.gradients.iter_mut().zip(&other.gradients) {
                *sum += value;
            }
        }
        let gradient_norm = self.optimizer.step(&mut self.weights, &first.gradients, share, &self.treatment);
        let tokens = groups.iter().map(Group::token_count).sum();
        Ok(StepReport { parts, gradient_norm, tokens })
    }

    /// Log p of every target of `sequences` under the current weights.
    ///
    /// # Errors
    /// [`ModelError::Sequence`] for a sequence that the network cannot take.
    pub fn log_probabilities(&mut self, sequences: &[TrainingSequence]) -> Result<Vec<Vec<f32>>, ModelError> {
        log_probabilities(&self.network, &self.weights, sequences, self.lanes.len())
    }
}

/// Log p of every target of `sequences`, on `threads` threads.
///
/// # Errors
/// [`ModelError::Sequence`] for a sequence that the network cannot take.
pub fn log_probabilities(
    network: &Network,
    weights: &[f32],
    sequences: &[TrainingSequence],
    threads: usize,
) -> Result<Vec<Vec<f32>>, ModelError> {
    let share = sequences.len().div_ceil(threads.max(1)).max(1);
    let results: Vec<Result<Vec<Vec<f32>>, ModelError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = sequences
            .chunks(share)
            .map(|chunk| {
                scope.spawn(move || {
                    let mut workspace = Workspace::default();
                    chunk
                        .iter()
                        .map(|sequence| {
                            let view =
                                Sequence { tokens: &sequence.tokens, target_positions: &sequence.target_positions };
                            network.forward(weights, &[view], &mut workspace)
                        })
                        .collect()
                })
            })
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

/// Deals groups to lanes so that each gets about the same number of tokens: longest first, to the emptiest lane.
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
    fn run(
        &mut self,
        network: &Network,
        weights: &[f32],
        groups: &[Group],
        share: &[usize],
        scale: f32,
    ) -> Result<LossParts, ModelError> {
        self.gradients.fill(0.0);
        let mut parts = LossParts::default();
        let mut start = 0;
        while start < share.len() {
            let mut tokens = groups[share[start]].token_count();
            let mut end = start + 1;
            while end < share.len() && tokens + groups[share[end]].token_count() <= LANE_TOKENS {
                tokens += groups[share[end]].token_count();
                end += 1;
            }
            let chunk: Vec<&Group> = share[start..end].iter().map(|index| &groups[*index]).collect();
            let sequences: Vec<Sequence<'_>> = chunk
                .iter()
                .flat_map(|group| &group.sequences)
                .map(|sequence| Sequence { tokens: &sequence.tokens, target_positions: &sequence.target_positions })
                .collect();
            let log_p = network.forward(weights, &sequences, &mut self.workspace)?;
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
            network.backward(weights, &coefficients, &mut self.workspace, &mut self.gradients)?;
            start = end;
        }
        Ok(parts)
    }
}
