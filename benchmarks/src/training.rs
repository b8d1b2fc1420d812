//! One training step of our own engine beside burn on the same processors: same weights, batch, losses and optimiser.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail};
use edit_model::{Device, EditModel, NetworkBackend};
use edit_model_burn::flex;
use trainer::{Engine, Group, OptimizerConfig, TokenWeights, backends, base_group, read_tasks};

use crate::measurement::{Better, Measurement, median};

/// Sequences of a step.
const SEQUENCES: usize = 32;
/// The length that the demo's budget of a step is stated for.
const PADDED: usize = 160;
/// Seconds that the demo's budget gives a step of 32 x 160 tokens.
const STEP_SECONDS: f64 = 1.4;
const THREADS: usize = 2;
/// Steps measured, the two engines in turn; the median is reported.
const STEPS: usize = 7;
/// Ways to cut the batch that burn may choose from: lanes side by side, tokens at once.
const BURN_CUTS: [(usize, usize); 5] = [(1, 16_384), (1, 2048), (1, 1024), (2, 2048), (2, 1024)];
/// Largest difference of the two losses, relative: they compute the same thing or the times mean nothing.
const LOSS_TOLERANCE: f64 = 1e-3;

struct Runner<'a> {
    model: &'a EditModel,
    groups: &'a [Group],
}

impl Runner<'_> {
    fn engine(&self, backends: Vec<Box<dyn NetworkBackend>>) -> Engine {
        let optimizer = OptimizerConfig::default();
        Engine::new(self.model.network().clone(), self.model.weights().to_vec(), optimizer, backends)
    }

    fn own(&self) -> anyhow::Result<Engine> {
        Ok(self.engine(backends(Device::Cpu, self.model.network(), THREADS)?))
    }

    fn burn(&self, (lanes, tokens): (usize, usize), padded: usize) -> Engine {
        let backend = || flex(self.model.network().clone()).reading(tokens).padded_to(padded);
        self.engine((0..lanes).map(|_| Box::new(backend()) as Box<dyn NetworkBackend>).collect())
    }

    /// Loss and seconds of one step.
    fn step(&self, engine: &mut Engine) -> anyhow::Result<(f64, f64)> {
        let started = Instant::now();
        let report = engine.step(self.groups, 1.0, 1.0)?;
        Ok((report.parts.total, started.elapsed().as_secs_f64()))
    }

    /// The cut with which burn is fastest here, by its second step: it is not to lose by a bad choice of ours.
    fn best_cut(&self, padded: usize) -> anyhow::Result<(usize, usize)> {
        let mut best = None;
        for cut in BURN_CUTS {
            let mut engine = self.burn(cut, padded);
            self.step(&mut engine)?;
            let (_, seconds) = self.step(&mut engine)?;
            if best.is_none_or(|(_, least)| seconds < least) {
                best = Some((cut, seconds));
            }
        }
        Ok(best.context("no cut")?.0)
    }

    /// Median seconds of a step, ours and burn's, and burn's cut.
    fn compare(&self, padded: usize) -> anyhow::Result<(f64, f64, (usize, usize))> {
        let cut = self.best_cut(padded)?;
        let (mut own, mut burn) = (self.own()?, self.burn(cut, padded));
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for step in 0..=STEPS {
            let (own_loss, own_seconds) = self.step(&mut own)?;
            let (burn_loss, burn_seconds) = self.step(&mut burn)?;
            if (own_loss - burn_loss).abs() > LOSS_TOLERANCE * own_loss.abs() {
                bail!("step {step}: our loss is {own_loss}, burn's {burn_loss}");
            }
            // The first step of each allocates.
            if step > 0 {
                ours.push(own_seconds);
                theirs.push(burn_seconds);
            }
        }
        Ok((median(ours), median(theirs), cut))
    }
}

/// The same groups with every sequence filled up to `length` tokens; its targets stay.
fn filled(groups: &[Group], length: usize) -> Vec<Group> {
    let mut groups = groups.to_vec();
    for sequence in groups.iter_mut().flat_map(|group| &mut group.sequences) {
        let fill = sequence.tokens.first().copied().unwrap_or(0);
        sequence.tokens.resize(sequence.tokens.len().max(length), fill);
    }
    groups
}

fn tokens(groups: &[Group]) -> f64 {
    groups.iter().flat_map(|group| &group.sequences).map(|sequence| sequence.tokens.len()).sum::<usize>() as f64
}

/// Step time and rate, on the real mix of lengths and padded.
pub(crate) fn measure() -> anyhow::Result<Vec<Measurement>> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model/base");
    let model = EditModel::load(&base).context("the base model")?;
    let weights = TokenWeights { answer: 1.0, prompt: 0.1 };
    let tasks = read_tasks(&base.join("replay.jsonl"))?;
    let every = (tasks.len() / SEQUENCES).max(1);
    let groups: Vec<Group> = tasks
        .iter()
        .step_by(every)
        .filter_map(|task| base_group(model.tokenizer(), task, weights, 0))
        .take(SEQUENCES)
        .collect();
    if groups.len() < SEQUENCES {
        bail!("replay.jsonl holds fewer than {SEQUENCES} usable tasks");
    }
    let mut measurements = Vec::new();
    let longest = groups.iter().flat_map(|group| &group.sequences).map(|sequence| sequence.tokens.len()).max();
    let padded = filled(&groups, PADDED);
    for (what, groups, length) in [("real lengths", &groups, 0), ("padded to 160", &padded, PADDED)] {
        let (ours, theirs, (lanes, cut)) = Runner { model: &model, groups }.compare(length)?;
        let count = tokens(groups);
        let note = format!(
            "{SEQUENCES} sequences, {count:.0} tokens, longest {}, {THREADS} threads, forward, backward and update; \
             baseline: burn 0.21.0 flex, {lanes} x {cut} tokens at once (its fastest of {})",
            longest.unwrap_or(0).max(length),
            BURN_CUTS.len(),
        );
        let rate = format!("median of {STEPS} steps, the engines in turn");
        let step = Measurement::new(format!("training: step, {what}"), ours, "s", note).beside(theirs);
        let rate =
            Measurement::new(format!("training: rate, {what}"), count / ours, "tokens/s", rate).beside(count / theirs);
        // The budget is stated for sequences of that length; shorter ones would meet it for the wrong reason.
        measurements.extend(if length == PADDED {
            [step.aiming_at(STEP_SECONDS, Better::Less), rate.aiming_at(count / STEP_SECONDS, Better::More)]
        } else {
            [step, rate]
        });
    }
    Ok(measurements)
}

#[cfg(test)]
mod tests {
    use trainer::{Objective, TrainingSequence};

    use super::*;

    #[test]
    fn filling_keeps_what_is_learned() {
        let sequence = TrainingSequence { tokens: vec![3, 4, 5], target_positions: vec![1] };
        let group = Group { sequences: vec![sequence], objective: Objective::Likelihood { weights: vec![1.0] } };
        let filled = filled(std::slice::from_ref(&group), 5);
        assert_eq!(filled[0].sequences[0].tokens, [3, 4, 5, 3, 3]);
        assert_eq!(filled[0].sequences[0].target_positions, [1]);
        assert_eq!((tokens(&[group]), tokens(&filled)), (3.0, 5.0));
    }
}
