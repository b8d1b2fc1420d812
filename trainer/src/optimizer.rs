//! AdamW with decoupled decay, clipping by the global norm, and a cosine schedule with warm-up.

use std::ops::Range;

use edit_model::Network;
use serde::{Deserialize, Serialize};

/// Settings of the optimiser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptimizerConfig {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Added to the root of the mean squared gradient.
    pub epsilon: f64,
    /// Decoupled weight decay of matrices; norms are not decayed.
    pub weight_decay: f64,
    /// Largest global norm of a gradient.
    pub clip_norm: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self { learning_rate: 2e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.05, clip_norm: 1.0 }
    }
}

/// Learning rate over the steps of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Steps from zero to the full rate.
    pub warmup_steps: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Share of the full rate at the end.
    pub final_share: f64,
}

impl Schedule {
    /// Share of the full rate at `step`, counted from 0.
    #[must_use]
    pub fn share(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / span).min(1.0);
        self.final_share + (1.0 - self.final_share) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

/// A stretch of the weights that the optimiser treats alike.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Which weights.
    pub range: Range<usize>,
    /// Whether they decay.
    pub decays: bool,
    /// Factor on the learning rate.
    pub rate_factor: f32,
}

/// How the optimiser treats each weight: segments that cover all of them once.
#[derive(Debug, Clone, PartialEq)]
pub struct Treatment {
    /// In the order of the weights.
    pub segments: Vec<Segment>,
}

impl Treatment {
    /// Matrices decay, norms do not.
    #[must_use]
    pub fn of(network: &Network) -> Self {
        let whole = network.tensors().into_iter();
        Self {
            segments: whole
                .map(|tensor| Segment { range: tensor.range, decays: tensor.shape.len() > 1, rate_factor: 1.0 })
                .collect(),
        }
    }

    /// The same, but everything inside `range` learns `rate_factor` times as fast (0: not at all).
    #[must_use]
    pub fn with_rate(self, range: Range<usize>, rate_factor: f32) -> Self {
        let mut segments = Vec::with_capacity(self.segments.len() + 2);
        for segment in self.segments {
            let Range { start, end } = segment.range;
            let (from, to) = (range.start.clamp(start, end), range.end.clamp(start, end));
            let parts = [(start..from, segment.rate_factor), (from..to, rate_factor), (to..end, segment.rate_factor)];
            for (range, rate_factor) in parts.into_iter().filter(|(range, _)| !range.is_empty()) {
                segments.push(Segment { range, rate_factor, ..segment });
            }
        }
        Self { segments }
    }

    /// All of `count` weights alike.
    #[must_use]
    pub fn uniform(count: usize, decays: bool) -> Self {
        Self { segments: vec![Segment { range: 0..count, decays, rate_factor: 1.0 }] }
    }
}

/// Moments of AdamW for every weight.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    config: OptimizerConfig,
    pub(crate) mean: Vec<f32>,
    pub(crate) square: Vec<f32>,
    pub(crate) steps: u64,
}

impl AdamW {
    /// Fresh moments for `count` weights.
    #[must_use]
    pub fn new(config: OptimizerConfig, count: usize) -> Self {
        Self { config, mean: vec![0.0; count], square: vec![0.0; count], steps: 0 }
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// One step with `gradients` at `share` of the learning rate. Returns the norm before clipping; a norm that is not
    /// finite changes nothing.
    pub fn step(&mut self, weights: &mut [f32], gradients: &[f32], share: f64, treatment: &Treatment) -> f64 {
        let norm = global_norm(gradients);
        if !norm.is_finite() {
            return norm;
        }
        self.steps += 1;
        let clip = if norm > self.config.clip_norm { self.config.clip_norm / norm } else { 1.0 } as f32;
        let (beta1, beta2) = (self.config.beta1 as f32, self.config.beta2 as f32);
        let correction1 = 1.0 - self.config.beta1.powf(self.steps as f64);
        let correction2 = 1.0 - self.config.beta2.powf(self.steps as f64);
        let rate = self.config.learning_rate * share;
        let scaled_rate = (rate / correction1) as f32;
        let root_correction = (1.0 / correction2.sqrt()) as f32;
        let epsilon = self.config.epsilon as f32;
        let decay = (rate * self.config.weight_decay) as f32;
        for segment in &treatment.segments {
            let range = segment.range.clone();
            let decay = if segment.decays { decay } else { 0.0 };
            let scaled_rate = scaled_rate * segment.rate_factor;
            for (((weight, gradient), mean), square) in weights[range.clone()]
                .iter_mut()
                .zip(&gradients[range.clone()])
                .zip(&mut self.mean[range.clone()])
                .zip(&mut self.square[range])
            {
                let gradient = gradient * clip;
                *mean = beta1 * *mean + (1.0 - beta1) * gradient;
                *square = beta2 * *square + (1.0 - beta2) * gradient * gradient;
                let update = scaled_rate * *mean / (square.sqrt() * root_correction + epsilon);
                *weight -= update + decay * *weight;
            }
        }
        norm
    }
}

/// Euclidean norm over all gradients.
#[must_use]
pub fn global_norm(gradients: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; 8];
    let (chunks, tail) = gradients.as_chunks::<8>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    let rest: f64 = tail.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    (lanes.iter().sum::<f64>() + rest).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_moves_every_weight_by_the_rate() {
        let config = OptimizerConfig { weight_decay: 0.0, clip_norm: 1e9, ..OptimizerConfig::default() };
        let mut optimizer = AdamW::new(config, 3);
        let mut weights = vec![1.0, 1.0, 1.0];
        optimizer.step(&mut weights, &[0.5, -3.0, 1e-3], 1.0, &Treatment::uniform(3, true));
        for (weight, want) in weights.iter().zip([0.998, 1.002, 0.998]) {
            assert!((weight - want).abs() < 1e-5, "{weight}");
        }
    }

    #[test]
    fn clipping_is_global() {
        let config = OptimizerConfig { clip_norm: 1.0, ..OptimizerConfig::default() };
        let mut optimizer = AdamW::new(config, 2);
        let norm = optimizer.step(&mut [0.0, 0.0], &[3.0, 4.0], 1.0, &Treatment::uniform(2, false));
        assert!((norm - 5.0).abs() < 1e-9);
        assert!((optimizer.mean[0] - 0.06).abs() < 1e-6 && (optimizer.mean[1] - 0.08).abs() < 1e-6);
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let mut optimizer = AdamW::new(OptimizerConfig::default(), 2);
        let mut weights = [1.0, 2.0];
        assert!(!optimizer.step(&mut weights, &[f32::NAN, 1.0], 1.0, &Treatment::uniform(2, true)).is_finite());
        assert_eq!(weights, [1.0, 2.0]);
    }

    #[test]
    fn the_schedule_rises_then_falls() {
        let schedule = Schedule { warmup_steps: 10, total_steps: 110, final_share: 0.1 };
        assert!((schedule.share(0) - 0.1).abs() < 1e-9);
        assert!((schedule.share(9) - 1.0).abs() < 1e-9);
        assert!((schedule.share(60) - 0.55).abs() < 1e-9);
        assert!((schedule.share(500) - 0.1).abs() < 1e-9);
    }
}
