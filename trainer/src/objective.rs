//! What a group of sequences is trained towards: a loss over log-probabilities and its derivative.

use edit_model::Sequence;

/// One sequence of a group, with the places whose next token counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingSequence {
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// Ascending places; the target of `p` is `tokens[p + 1]`.
    pub target_positions: Vec<u32>,
}

impl TrainingSequence {
    /// What a backend reads.
    #[must_use]
    pub fn view(&self) -> Sequence<'_> {
        Sequence { tokens: &self.tokens, target_positions: &self.target_positions }
    }
}

/// How log-probabilities of a group become a loss.
#[derive(Debug, Clone, PartialEq)]
pub enum Objective {
    /// `sum_i weight_i * (-log p_i)` over the targets of the group's one sequence.
    Likelihood {
        /// One weight for each target.
        weights: Vec<f32>,
    },
    /// A preference between the group's first sequence (chosen) and its second (rejected):
    /// `weight * -log sigmoid(beta * (D+ - D-))`, where D is the sum of `log p - reference` over the side's first
    /// `compared` targets, plus `sum_i likelihood_i * (-log p_i)` over the chosen targets.
    Preference {
        /// Sharpness.
        beta: f32,
        /// Weight of the pair.
        weight: f32,
        /// Log p of every chosen target under the reference.
        chosen_reference: Vec<f32>,
        /// Log p of every rejected target under the reference.
        rejected_reference: Vec<f32>,
        /// For each chosen target whether it is compared.
        chosen_compared: Vec<bool>,
        /// For each rejected target whether it is compared.
        rejected_compared: Vec<bool>,
        /// For each chosen target the weight of its likelihood term.
        likelihood: Vec<f32>,
    },
}

/// A group's loss, split for reporting.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossParts {
    /// The whole loss.
    pub total: f64,
    /// The preference part, not multiplied by the pair's weight.
    pub preference: f64,
    /// Pairs counted in `preference`.
    pub pairs: usize,
    /// Sum of log p over chosen compared targets.
    pub chosen_log_p: f64,
    /// Sum of `weight * -log p` over likelihood targets.
    pub likelihood: f64,
    /// Sum of the weights in `likelihood`.
    pub likelihood_weight: f64,
}

impl LossParts {
    /// Adds another group's parts.
    pub fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.preference += other.preference;
        self.pairs += other.pairs;
        self.chosen_log_p += other.chosen_log_p;
        self.likelihood += other.likelihood;
        self.likelihood_weight += other.likelihood_weight;
    }
}

/// `log(1 + e^-x)`, without overflow.
fn negative_log_sigmoid(x: f64) -> f64 {
    if x > 0.0 { (-x).exp().ln_1p() } else { -x + x.exp().ln_1p() }
}

impl Objective {
    /// Number of targets that the group's sequences must have together.
    #[must_use]
    pub fn target_count(&self) -> usize {
        match self {
            Self::Likelihood { weights } => weights.len(),
            Self::Preference { chosen_reference, rejected_reference, .. } => {
                chosen_reference.len() + rejected_reference.len()
            }
        }
    }

    /// The loss of the group given log p of all its targets; writes d loss / d(-log p) of each, times `scale`.
    pub fn evaluate(&self, log_p: &[f32], scale: f32, coefficients: &mut [f32]) -> LossParts {
        let mut parts = LossParts::default();
        match self {
            Self::Likelihood { weights } => {
                for ((value, weight), coefficient) in log_p.iter().zip(weights).zip(coefficients) {
                    *coefficient = weight * scale;
                    parts.likelihood -= f64::from(*weight) * f64::from(*value);
                    parts.likelihood_weight += f64::from(*weight);
                }
                parts.total = parts.likelihood;
            }
            Self::Preference {
                beta,
                weight,
                chosen_reference,
                rejected_reference,
                chosen_compared,
                rejected_compared,
                likelihood,
            } => {
                let (chosen, rejected) = log_p.split_at(chosen_reference.len().min(log_p.len()));
                let gain = |values: &[f32], reference: &[f32], compared: &[bool]| -> f64 {
                    values
                        .iter()
                        .zip(reference)
                        .zip(compared)
                        .filter(|(_, compared)| **compared)
                        .map(|((value, reference), _)| f64::from(*value) - f64::from(*reference))
                        .sum()
                };
                let margin = f64::from(*beta)
                    * (gain(chosen, chosen_reference, chosen_compared)
                        - gain(rejected, rejected_reference, rejected_compared));
                parts.preference = negative_log_sigmoid(margin);
                parts.pairs = 1;
                // d/d(-log p) of -log sigmoid(margin) is +beta * sigmoid(-margin) for chosen, the opposite for
                // rejected.
                let slope = *weight * *beta * (1.0 / (1.0 + margin.exp())) as f32;
                let (chosen_out, rejected_out) = coefficients.split_at_mut(chosen.len());
                for (((out, compared), value), share) in
                    chosen_out.iter_mut().zip(chosen_compared).zip(chosen).zip(likelihood)
                {
                    *out = scale * (if *compared { slope } else { 0.0 } + share);
                    if *compared {
                        parts.chosen_log_p += f64::from(*value);
                    }
                    parts.likelihood -= f64::from(*share) * f64::from(*value);
                    parts.likelihood_weight += f64::from(*share);
                }
                for (out, compared) in rejected_out.iter_mut().zip(rejected_compared) {
                    *out = if *compared { -slope * scale } else { 0.0 };
                }
                parts.total = f64::from(*weight) * parts.preference + parts.likelihood;
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preference() -> Objective {
        Objective::Preference {
            beta: 0.1,
            weight: 0.5,
            chosen_reference: vec![-1.0, -2.0, -0.5],
            rejected_reference: vec![-0.3, -4.0],
            chosen_compared: vec![false, true, true],
            rejected_compared: vec![true, false],
            likelihood: vec![0.0, 0.2, 0.2],
        }
    }

    #[test]
    fn a_policy_equal_to_its_reference_loses_the_logarithm_of_two() {
        let mut coefficients = [0.0; 5];
        let parts = preference().evaluate(&[-1.0, -2.0, -0.5, -0.3, -4.0], 1.0, &mut coefficients);
        assert!((parts.preference - std::f64::consts::LN_2).abs() < 1e-9);
    }

    #[test]
    fn coefficients_are_the_derivative() {
        let objective = preference();
        let base = [-0.9_f32, -2.5, -0.1, -0.8, -3.0];
        let mut coefficients = [0.0; 5];
        objective.evaluate(&base, 1.0, &mut coefficients);
        for index in 0..5 {
            let loss = |delta: f32| {
                let mut moved = base;
                moved[index] += delta;
                objective.evaluate(&moved, 1.0, &mut [0.0; 5]).total
            };
            let numeric = -(loss(1e-2) - loss(-1e-2)) / 2e-2;
            assert!((numeric - f64::from(coefficients[index])).abs() < 1e-4, "{index}");
        }
    }

    #[test]
    fn extreme_margins_stay_finite() {
        assert!(negative_log_sigmoid(-1e4).is_finite() && negative_log_sigmoid(1e4) < 1e-9);
    }
}
