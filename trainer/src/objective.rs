//! What a group of sequences is trained towards: a loss over log-probabilities and its derivative. Formulas and sources
//! are in `docs/methods.md`.

use std::ops::Range;

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
    /// One of no token.
    pub(crate) fn empty() -> Self {
        Self { tokens: Vec::new(), target_positions: Vec::new() }
    }

    /// What a backend reads.
    #[must_use]
    pub fn view(&self) -> Sequence<'_> {
        Sequence { tokens: &self.tokens, target_positions: &self.target_positions }
    }
}

/// How a target takes part in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Not at all.
    Outside,
    /// Its log-ratio counts in the margin as a constant: no gradient passes through it.
    Detached,
    /// Its log-ratio counts in the margin and learns.
    Compared,
}

/// One side of a preference. All lists have one entry for each target of the side's sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparedSide {
    /// Log p of every target under the reference.
    pub reference: Vec<f32>,
    /// How every target takes part.
    pub roles: Vec<Role>,
    /// The targets of the diverging action from the first differing token on: where margins are reported, whatever is
    /// compared.
    pub divergence: Range<usize>,
}

/// The shape of a preference loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreferenceLoss {
    /// Sharpness.
    pub beta: f32,
    /// Probability with which a label is taken to be the wrong way round; 0 to below 0.5.
    pub label_smoothing: f32,
    /// What a chosen side that is less likely than under the reference costs the margin; 0: nothing.
    pub positive_penalty: f32,
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
    /// `weight * (-(1 - e) log sigmoid(m) - e log sigmoid(-m))` with
    /// `m = beta * (D+ - D- - penalty * max(0, -D+))`, plus `sum_i likelihood_i * (-log p_i)` over the chosen targets.
    /// D is the sum of `log p - reference` over the targets of a side that are not outside; e is the label smoothing.
    Preference {
        /// The loss.
        loss: PreferenceLoss,
        /// Weight of the pair.
        weight: f32,
        /// What was wanted.
        chosen: ComparedSide,
        /// What was not.
        rejected: ComparedSide,
        /// For each chosen target the weight of its likelihood term.
        likelihood: Vec<f32>,
    },
    /// Whether the group's one sequence is wanted, without anything to compare it with:
    /// `weight * (1 - sigmoid(beta * (r - baseline)))` where it is, `weight * (1 - sigmoid(beta * (baseline - r)))` where
    /// it is not, plus the likelihood term. r is the sum of `log p - reference` over all targets.
    Desirability {
        /// Sharpness.
        beta: f32,
        /// Weight of the example.
        weight: f32,
        /// Whether the sequence is wanted.
        is_desirable: bool,
        /// What r is measured from; a constant of the step.
        baseline: f32,
        /// Log p of every target under the reference.
        reference: Vec<f32>,
        /// For each target the weight of its likelihood term.
        likelihood: Vec<f32>,
    },
}

/// A group's loss, split for reporting.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossParts {
    /// The whole loss.
    pub total: f64,
    /// The preference or desirability part, not multiplied by weights.
    pub preference: f64,
    /// Pairs or examples counted in `preference`.
    pub pairs: usize,
    /// Pairs with two sides, which the next two are about.
    pub compared: usize,
    /// Sum of log-ratios of the diverging actions, chosen less rejected: `D+[d..e+] - D-[d..e-]`.
    pub margin: f64,
    /// Pairs whose margin there is above 0.
    pub correct: usize,
    /// Sum over targets with a reference of [`distance_to_reference`].
    pub divergence: f64,
    /// Targets counted in `divergence`.
    pub divergence_targets: usize,
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
        self.compared += other.compared;
        self.margin += other.margin;
        self.correct += other.correct;
        self.divergence += other.divergence;
        self.divergence_targets += other.divergence_targets;
        self.likelihood += other.likelihood;
        self.likelihood_weight += other.likelihood_weight;
    }

    /// Adds the distance of some targets from their reference.
    fn add_divergence(&mut self, log_p: &[f32], reference: &[f32]) {
        self.divergence += distance_to_reference(log_p, reference);
        self.divergence_targets += log_p.len().min(reference.len());
    }

    /// Adds the likelihood term of some targets, and their derivative to what already stands in `coefficients`.
    fn add_likelihood(&mut self, log_p: &[f32], weights: &[f32], scale: f32, coefficients: &mut [f32]) {
        for ((value, weight), coefficient) in log_p.iter().zip(weights).zip(coefficients) {
            *coefficient += weight * scale;
            self.likelihood -= f64::from(*weight) * f64::from(*value);
            self.likelihood_weight += f64::from(*weight);
        }
    }
}

/// Sum over targets of `q - 1 - log q`, q being reference / p: never negative, and 0 only where both are equal
/// (Schulman's k3).
#[must_use]
pub fn distance_to_reference(log_p: &[f32], reference: &[f32]) -> f64 {
    let of = |(value, reference): (&f32, &f32)| {
        let ratio = f64::from(*reference) - f64::from(*value);
        ratio.exp() - 1.0 - ratio
    };
    log_p.iter().zip(reference).map(of).sum()
}

/// `log(1 + e^-x)`, without overflow.
fn negative_log_sigmoid(x: f64) -> f64 {
    if x > 0.0 { (-x).exp().ln_1p() } else { -x + x.exp().ln_1p() }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Sum of log-ratios.
fn gain<'a>(log_p: impl Iterator<Item = &'a f32>, reference: impl Iterator<Item = &'a f32>) -> f64 {
    log_p.zip(reference).map(|(value, reference)| f64::from(*value) - f64::from(*reference)).sum()
}

impl ComparedSide {
    /// Sum of log-ratios of the targets that are not outside.
    fn gain(&self, log_p: &[f32]) -> f64 {
        (log_p.iter().zip(&self.reference).zip(&self.roles))
            .filter(|(_, role)| **role != Role::Outside)
            .map(|((value, reference), _)| f64::from(*value) - f64::from(*reference))
            .sum()
    }

    /// Sum of log-ratios of the diverging action.
    fn gain_at_divergence(&self, log_p: &[f32]) -> f64 {
        let Range { start, end } = self.divergence;
        let count = end.saturating_sub(start);
        gain(log_p.iter().skip(start).take(count), self.reference.iter().skip(start).take(count))
    }

    fn write(&self, coefficient: f32, coefficients: &mut [f32]) {
        for (out, role) in coefficients.iter_mut().zip(&self.roles) {
            *out = if *role == Role::Compared { coefficient } else { 0.0 };
        }
    }
}

impl Objective {
    /// Number of targets that the group's sequences must have together.
    #[must_use]
    pub fn target_count(&self) -> usize {
        match self {
            Self::Likelihood { weights } => weights.len(),
            Self::Preference { chosen, rejected, .. } => chosen.reference.len() + rejected.reference.len(),
            Self::Desirability { reference, .. } => reference.len(),
        }
    }

    /// The weights of the likelihood term.
    pub(crate) fn likelihood_weights(&self) -> &[f32] {
        match self {
            Self::Likelihood { weights: likelihood }
            | Self::Preference { likelihood, .. }
            | Self::Desirability { likelihood, .. } => likelihood,
        }
    }

    /// The same, to be changed.
    pub(crate) fn likelihood_weights_mut(&mut self) -> &mut [f32] {
        match self {
            Self::Likelihood { weights: likelihood }
            | Self::Preference { likelihood, .. }
            | Self::Desirability { likelihood, .. } => likelihood,
        }
    }

    /// The loss of the group given log p of all its targets; writes d loss / d(-log p) of each, times `scale`.
    pub fn evaluate(&self, log_p: &[f32], scale: f32, coefficients: &mut [f32]) -> LossParts {
        let mut parts = LossParts::default();
        match self {
            Self::Likelihood { weights } => {
                coefficients.fill(0.0);
                parts.add_likelihood(log_p, weights, scale, coefficients);
                parts.total = parts.likelihood;
            }
            Self::Preference { loss, weight, chosen, rejected, likelihood } => {
                let (chosen_log_p, rejected_log_p) = log_p.split_at(chosen.reference.len().min(log_p.len()));
                let (chosen_out, rejected_out) = coefficients.split_at_mut(chosen_log_p.len());
                let (beta, smoothing, penalty) =
                    (f64::from(loss.beta), f64::from(loss.label_smoothing), f64::from(loss.positive_penalty));
                let (chosen_gain, rejected_gain) = (chosen.gain(chosen_log_p), rejected.gain(rejected_log_p));
                let margin = beta * (chosen_gain - rejected_gain - penalty * (-chosen_gain).max(0.0));
                parts.preference =
                    (1.0 - smoothing) * negative_log_sigmoid(margin) + smoothing * negative_log_sigmoid(-margin);
                parts.pairs = 1;
                parts.compared = 1;
                parts.margin = chosen.gain_at_divergence(chosen_log_p) - rejected.gain_at_divergence(rejected_log_p);
                parts.correct = usize::from(parts.margin > 0.0);
                parts.add_divergence(chosen_log_p, &chosen.reference);
                parts.add_divergence(rejected_log_p, &rejected.reference);
                // -d loss / d margin.
                let pull = (1.0 - smoothing) * sigmoid(-margin) - smoothing * sigmoid(margin);
                let slope = f64::from(*weight) * beta * pull * f64::from(scale);
                let penalized = if chosen_gain < 0.0 { 1.0 + penalty } else { 1.0 };
                chosen.write((slope * penalized) as f32, chosen_out);
                rejected.write(-slope as f32, rejected_out);
                parts.add_likelihood(chosen_log_p, likelihood, scale, chosen_out);
                parts.total = f64::from(*weight) * parts.preference + parts.likelihood;
            }
            Self::Desirability { beta, weight, is_desirable, baseline, reference, likelihood } => {
                let sign = if *is_desirable { 1.0 } else { -1.0 };
                let above = gain(log_p.iter(), reference.iter()) - f64::from(*baseline);
                let value = sigmoid(sign * f64::from(*beta) * above);
                parts.preference = 1.0 - value;
                parts.pairs = 1;
                parts.add_divergence(log_p, reference);
                let slope = sign * f64::from(*weight) * f64::from(*beta) * value * (1.0 - value) * f64::from(scale);
                coefficients.fill(slope as f32);
                parts.add_likelihood(log_p, likelihood, scale, coefficients);
                parts.total = f64::from(*weight) * parts.preference + parts.likelihood;
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn loss() -> PreferenceLoss {
        PreferenceLoss { beta: 0.1, label_smoothing: 0.0, positive_penalty: 0.0 }
    }

    fn preference(loss: PreferenceLoss, chosen_roles: [Role; 3], rejected_roles: [Role; 2]) -> Objective {
        Objective::Preference {
            loss,
            weight: 0.5,
            chosen: ComparedSide { reference: vec![-1.0, -2.0, -0.5], roles: chosen_roles.to_vec(), divergence: 1..3 },
            rejected: ComparedSide { reference: vec![-0.3, -4.0], roles: rejected_roles.to_vec(), divergence: 0..1 },
            likelihood: vec![0.0, 0.2, 0.2],
        }
    }

    fn truncated() -> Objective {
        preference(loss(), [Role::Outside, Role::Compared, Role::Compared], [Role::Compared, Role::Outside])
    }

    /// d loss / d(-log p), by differences.
    fn numeric(objective: &Objective, log_p: &[f32]) -> Vec<f64> {
        (0..log_p.len())
            .map(|index| {
                let loss = |delta: f32| {
                    let mut moved = log_p.to_vec();
                    moved[index] += delta;
                    objective.evaluate(&moved, 1.0, &mut vec![0.0; log_p.len()]).total
                };
                -(loss(1e-2) - loss(-1e-2)) / 2e-2
            })
            .collect()
    }

    #[test]
    fn a_policy_equal_to_its_reference_loses_the_logarithm_of_two() {
        let mut coefficients = [0.0; 5];
        let parts = truncated().evaluate(&[-1.0, -2.0, -0.5, -0.3, -4.0], 1.0, &mut coefficients);
        assert!((parts.preference - std::f64::consts::LN_2).abs() < 1e-9);
        assert!(parts.margin.abs() < 1e-12 && parts.divergence.abs() < 1e-12);
        assert_eq!((parts.compared, parts.correct, parts.divergence_targets), (1, 0, 5));
    }

    #[test]
    fn a_distance_is_never_negative_whichever_is_likelier() {
        // q - 1 - log q of q = 1/e and q = e.
        let (less, more) = (distance_to_reference(&[-1.0], &[-2.0]), distance_to_reference(&[-2.0], &[-1.0]));
        assert!((less - (-1.0_f64).exp()).abs() < 1e-12 && (more - (1.0_f64.exp() - 2.0)).abs() < 1e-12);
        let both = distance_to_reference(&[-1.0, -2.0, -3.0], &[-2.0, -1.0, -3.0]);
        assert!((both - less - more).abs() < 1e-12);
    }

    #[test]
    fn a_detached_tail_moves_the_margin_and_learns_nothing() {
        let roles = [Role::Outside, Role::Compared, Role::Detached];
        let detached = preference(loss(), roles, [Role::Compared, Role::Detached]);
        let whole = preference(loss(), [Role::Outside, Role::Compared, Role::Compared], [Role::Compared; 2]);
        let log_p = [-0.9, -2.5, -0.1, -0.8, -3.0];
        let (mut of_detached, mut of_whole) = ([0.0; 5], [0.0; 5]);
        let parts = detached.evaluate(&log_p, 1.0, &mut of_detached);
        assert_eq!(parts.preference, whole.evaluate(&log_p, 1.0, &mut of_whole).preference);
        // The likelihood alone is left where the tail is detached.
        assert!((of_detached[2] - 0.2).abs() < 1e-6 && of_detached[4] == 0.0);
        assert_eq!((of_detached[1], of_detached[3]), (of_whole[1], of_whole[3]));
        let tail = preference(loss(), [Role::Outside, Role::Compared, Role::Outside], [Role::Compared, Role::Outside]);
        assert!((parts.preference - tail.evaluate(&log_p, 1.0, &mut [0.0; 5]).preference).abs() > 1e-3);
    }

    #[test]
    fn desirability_is_measured_from_its_baseline() {
        let of = |is_desirable, baseline| Objective::Desirability {
            beta: 0.5,
            weight: 1.0,
            is_desirable,
            baseline,
            reference: vec![-1.0, -1.0],
            likelihood: vec![0.0, 0.0],
        };
        let loss = |objective: Objective| objective.evaluate(&[-0.5, -0.5], 1.0, &mut [0.0; 2]).total;
        assert!((loss(of(true, 1.0)) - 0.5).abs() < 1e-9 && (loss(of(false, 1.0)) - 0.5).abs() < 1e-9);
        assert!(loss(of(true, 0.0)) < 0.5 && loss(of(false, 0.0)) > 0.5);
    }

    proptest! {
        #[test]
        fn coefficients_are_the_derivative(
            values in prop::collection::vec(-4.0_f32..-0.05, 5),
            (beta, label_smoothing, positive_penalty) in (0.05_f32..1.0, 0.0_f32..0.45, 0.0_f32..5.0),
            (is_desirable, baseline) in (any::<bool>(), 0.0_f32..2.0),
        ) {
            let loss = PreferenceLoss { beta, label_smoothing, positive_penalty };
            let roles = [Role::Outside, Role::Compared, Role::Compared];
            let desirability = Objective::Desirability {
                beta,
                weight: 0.7,
                is_desirable,
                baseline,
                reference: vec![-1.0, -2.0, -0.5, -0.3, -4.0],
                likelihood: vec![0.0, 0.1, 0.0, 0.3, 0.0],
            };
            let preference = preference(loss, roles, [Role::Compared, Role::Outside]);
            // A difference across the corner of the penalty is the derivative of neither side.
            let gain = values[1] + 2.0 + values[2] + 0.5;
            for objective in [preference, desirability].iter().skip(usize::from(gain.abs() < 0.05)) {
                let mut coefficients = [0.0; 5];
                let parts = objective.evaluate(&values, 1.0, &mut coefficients);
                for (coefficient, numeric) in coefficients.iter().zip(numeric(objective, &values)) {
                    prop_assert!((numeric - f64::from(*coefficient)).abs() < 2e-3, "{numeric} {coefficient}");
                }
                prop_assert!(parts.divergence >= 0.0 && parts.total.is_finite());
            }
        }
    }

    #[test]
    fn extreme_margins_stay_finite() {
        assert!(negative_log_sigmoid(-1e4).is_finite() && negative_log_sigmoid(1e4) < 1e-9);
        assert!(sigmoid(-1e4) == 0.0 && sigmoid(1e4) == 1.0);
    }
}
