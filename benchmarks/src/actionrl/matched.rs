//! Comparing models that moved equally far. A method that learns faster at the same rate has both learned and forgotten
//! more after as many steps, which says nothing of the method.
//!
//! The step log has a distance (`kl`), but of each step's own pairs, and none for methods without a reference. So the same
//! distance is taken of the same tokens for every method: both sides of the pairs that were collected, measured from the
//! weights with which training started.

use edit_model::dialect::EncodedPair;
use edit_model::{Device, EditModel, ModelError};
use trainer::{TrainerError, TrainingPair, TrainingSequence, backends, distance_to_reference, log_probabilities};

use super::arm::Arm;
use super::state::{Checkpoint, Run};
use super::suppression::sequence;

/// Most pairs by which a distance is measured.
const PAIRS: usize = 128;

/// Both sides of pairs, and how likely they were.
pub(super) struct Ruler {
    sequences: Vec<TrainingSequence>,
    reference: Vec<Vec<f32>>,
    threads: usize,
}

/// What distances are measured on: pairs with two sides that the dialect writes whole, evenly spread.
pub(super) fn measured_sequences(model: &EditModel, pairs: &[TrainingPair]) -> Vec<TrainingSequence> {
    let encoded: Vec<EncodedPair> = pairs
        .iter()
        .filter_map(|pair| {
            let (chosen, rejected) = (pair.chosen.as_ref()?, pair.rejected.as_ref()?);
            EncodedPair::encode(model.tokenizer(), &pair.context, &pair.shared, chosen, rejected).ok()
        })
        .filter(|pair| pair.divergence.is_some())
        .collect();
    let stride = encoded.len().div_ceil(PAIRS).max(1);
    let spread = encoded.iter().step_by(stride);
    let sides = spread.flat_map(|pair| [(&pair.prompt, &pair.chosen), (&pair.prompt, &pair.rejected)]);
    sides.map(|(prompt, answer)| sequence(prompt, &answer.tokens, 0..answer.tokens.len())).collect()
}

impl Ruler {
    /// Measures from `reference`, weights of the network of `model`.
    pub(super) fn new(
        model: &EditModel,
        sequences: Vec<TrainingSequence>,
        reference: &[f32],
        threads: usize,
    ) -> Result<Self, ModelError> {
        let backends = backends(Device::Cpu, model.network(), threads)?;
        let reference = log_probabilities(backends, reference, &sequences)?;
        Ok(Self { sequences, reference, threads })
    }

    /// Mean distance of a token, in nats.
    pub(super) fn distance(&self, model: &EditModel, weights: &[f32]) -> Result<f64, TrainerError> {
        let backends = backends(Device::Cpu, model.network(), self.threads)?;
        let values = log_probabilities(backends, weights, &self.sequences)?;
        let total: f64 =
            values.iter().zip(&self.reference).map(|(log_p, reference)| distance_to_reference(log_p, reference)).sum();
        let tokens: usize = self.reference.iter().map(Vec::len).sum();
        let distance = total / tokens.max(1) as f64;
        if distance.is_finite() {
            return Ok(distance);
        }
        Err(TrainerError::Unhealthy("the distance to the reference is no number".to_owned()))
    }
}

/// The distance at which `runs`, collected alike, are compared: how far the arm that moves least goes, in the mean over
/// its seeds. Arms whose every run failed do not count, nor do those that leave alone what a model says: they hardly move.
pub(super) fn common_distance(runs: &[&Run]) -> Option<f64> {
    let furthest = |arm: Arm| {
        let of_arm = runs.iter().filter(move |run| run.key.arm == arm && run.failed.is_none());
        let reached = of_arm.filter_map(|run| run.checkpoints.iter().map(|one| one.kl).max_by(f64::total_cmp));
        let (sum, count) = reached.fold((0.0, 0.0), |(sum, count), kl| (sum + kl, count + 1.0));
        (count > 0.0).then_some(sum / count)
    };
    Arm::ALL.into_iter().filter(|arm| !arm.keeps_content()).filter_map(furthest).min_by(f64::total_cmp)
}

/// The checkpoint whose distance is nearest to `kl`; of several the earliest.
pub(super) fn nearest(checkpoints: &[Checkpoint], kl: f64) -> Option<&Checkpoint> {
    checkpoints.iter().min_by(|one, other| (one.kl - kl).abs().total_cmp(&(other.kl - kl).abs()))
}

#[cfg(test)]
mod tests {
    use super::super::state::Stage;
    use super::super::state::tests::{checkpoint, look, run};
    use super::*;
    use crate::convention::base_folder;

    fn moved(arm: Arm, seed: u64, distances: &[f64]) -> Run {
        let one = |(place, kl): (usize, &f64)| checkpoint(place + 1, *kl, look(0.5, 0.5));
        run(Stage::A1, arm, seed, distances.iter().enumerate().map(one).collect())
    }

    #[test]
    fn the_nearest_checkpoint_is_compared() {
        let far = moved(Arm::Dpo, 1, &[0.1, 0.4, 0.9, 0.5, 1.6]);
        let step = |kl: f64| nearest(&far.checkpoints, kl).map(|checkpoint| checkpoint.step);
        assert_eq!([step(0.0), step(0.41), step(0.5), step(5.0)], [Some(1), Some(2), Some(4), Some(5)]);
        // Equally far on both sides, and twice the same: the earliest.
        assert_eq!(step(0.25), Some(1));
        let twice = moved(Arm::Dpo, 1, &[0.5, 0.5]);
        assert_eq!(nearest(&twice.checkpoints, 0.5).map(|checkpoint| checkpoint.step), Some(1));
        assert_eq!(nearest(&[], 0.5), None);
    }

    #[test]
    fn the_common_distance_is_what_every_arm_reaches() {
        let mut failed = moved(Arm::Dpop, 1, &[0.01]);
        failed.failed = Some("health check failed".to_owned());
        let mut runs = vec![
            moved(Arm::Sft, 1, &[0.1, 2.0, 1.0]),
            moved(Arm::Sft, 2, &[0.1, 1.0]),
            moved(Arm::Kto, 1, &[0.2, 1.0]),
            moved(Arm::Kto, 2, &[0.2, 1.4]),
            moved(Arm::ThresholdOnly, 1, &[0.001]),
            failed,
        ];
        let common = |runs: &[Run]| common_distance(&runs.iter().collect::<Vec<_>>());
        // sft: (2.0 + 1.0) / 2, kto: (1.0 + 1.4) / 2.
        assert!(common(&runs).is_some_and(|kl| (kl - 1.2).abs() < 1e-12), "{:?}", common(&runs));
        runs.truncate(2);
        assert_eq!(common(&runs), Some(1.5));
        assert_eq!(common(&[]), None);
    }

    #[test]
    fn a_model_is_at_no_distance_from_itself() {
        let model = EditModel::load(&base_folder()).unwrap();
        let sequences = vec![sequence(&[2, 3, 4], &[5, 6], 0..2), sequence(&[2, 3], &[7], 0..1)];
        let ruler = Ruler::new(&model, sequences, model.weights(), 2).unwrap();
        assert!(ruler.distance(&model, model.weights()).unwrap().abs() < 1e-9);
        let other: Vec<f32> = model.weights().iter().map(|weight| weight * 0.9).collect();
        assert!(ruler.distance(&model, &other).unwrap() > 1e-6);
    }
}
