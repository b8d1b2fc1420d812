//! One lot of the comparison: simulated developers work with the start model, the labeler makes pairs of what their editors
//! report, every arm learns from the same pairs, and others ask the same tasks of what came of it.

use std::sync::Arc;

use anonymizer::shape::Shape;
use edit_model::dialect::Habit;
use edit_model::{DecodeOptions, EditModel};
use labeler::LabelPolicy;
use simulator::{ClientAction, DemoPlan, PlanSettings, TaskKind};
use trainer::evaluation::{TaskOutcome, TaskSummary, answer_tasks};
use trainer::methods::{MethodConfig, MethodData, fine_tuning_engine, train};
use trainer::{BaseTask, TrainerError, TrainingPair, TrainingSequence};

use super::matched::{Ruler, measured_sequences};
use super::state::{Checkpoint, Look, Lot};
use super::suppression::Probes;
use crate::convention::Material;
use crate::labeling::lessons::{Class, lessons, rendered, reported, training_pairs};
use crate::labeling::office::Office;
use crate::labeling::wheel::label_by;

/// Developers who teach, and opportunities of each.
const CLASS: Class = Class { teachers: 40, lessons: 18 };
/// Developers whose tasks judge, and tasks of each: every kind twice.
const JUDGES: usize = 40;
const JUDGED: usize = 6;
/// After which steps a model is looked at, and after the last: a distance grows by about as much from one to the next.
const LOOKS: [usize; 12] = [1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 135];

/// What an arm made of its lot.
pub(super) struct Taught {
    pub(super) checkpoints: Vec<Checkpoint>,
    /// Why it would not have been served.
    pub(super) failed: Option<String>,
}

/// See the module.
pub(super) struct Classroom<'a> {
    material: &'a Material,
    pub(super) pairs: Vec<TrainingPair>,
    measured: Vec<TrainingSequence>,
    tasks: Vec<BaseTask>,
    kinds: Vec<TaskKind>,
    probes: Probes,
    /// What the start model does.
    pub(super) start: Look,
    threads: usize,
}

/// What `model`, in the precision in which it is served, does about tasks: greedily, and speaking by its gate score.
fn look(
    model: &EditModel,
    tasks: &[BaseTask],
    kinds: &[TaskKind],
    probes: &Probes,
    threads: usize,
) -> Result<Look, TrainerError> {
    let model = model.in_served_precision()?;
    let outcomes = answer_tasks(&model, tasks, &DecodeOptions::default(), threads)?;
    let of_convention: Vec<TaskOutcome> = (outcomes.iter().zip(kinds))
        .filter(|(_, kind)| **kind == TaskKind::Convention)
        .map(|(outcome, _)| *outcome)
        .collect();
    Ok(Look {
        all: TaskSummary::of(&outcomes),
        convention: TaskSummary::of(&of_convention),
        suppression: probes.ask(&model, &outcomes, threads)?,
    })
}

impl<'a> Classroom<'a> {
    /// Collects the pairs of `lot` from the base of `material`.
    pub(super) fn open(material: &'a Material, lot: Lot, threads: usize) -> anyhow::Result<Self> {
        let settings = PlanSettings {
            developers: CLASS.teachers + JUDGES,
            opportunities: CLASS.lessons,
            probe: 0,
            gate: 0,
            ..PlanSettings::default()
        };
        let plan = DemoPlan::new(lot.seed, Arc::clone(&material.corpus), settings)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let office = runtime.block_on(Office::open(lot.seed, CLASS.teachers))?;
        let shape = Shape::new(&office.secret);
        let lessons = lessons(&material.base, &plan, &shape, CLASS, lot.collection.temperature())?;
        let events = reported(&office, &lessons, ClientAction::clone)?;
        let policy = LabelPolicy { no_edit_for_dismissed: lot.collection.teaches_silence, ..LabelPolicy::default() };
        let labeled = runtime.block_on(label_by(&office, &events, policy))?;
        let pairs = training_pairs(labeled.pairs.iter());

        let (mut tasks, mut kinds, mut probes) = (Vec::new(), Vec::new(), Probes::default());
        for person in CLASS.teachers..CLASS.teachers + JUDGES {
            for number in 0..JUDGED {
                let task = rendered(plan.task(person, number)?.task, &shape);
                let (wanted, plain) = (&task.wanted.actions, &task.plain.actions);
                probes.add(material.base.tokenizer(), &task.context, wanted, plain);
                kinds.push(task.kind);
                tasks.push(BaseTask { context: task.context, wanted: task.wanted, habit: Habit::Repository });
            }
        }
        let start = look(&material.base, &tasks, &kinds, &probes, threads)?;
        let measured = measured_sequences(&material.base, &pairs);
        Ok(Self { material, pairs, measured, tasks, kinds, probes, start, threads })
    }

    /// Trains the start model and looks at it on the way.
    pub(super) fn teach(&self, config: &MethodConfig) -> anyhow::Result<Taught> {
        let mut checkpoints = Vec::new();
        let failed = match self.train(config, &mut checkpoints) {
            Ok(()) => None,
            // Such a version is not served; what was seen of it until then says how it went wrong.
            Err(
                error @ (TrainerError::Unhealthy(_)
                | TrainerError::NoExamples(_)
                | TrainerError::OneClass { .. }
                | TrainerError::Diverged { .. }),
            ) => Some(error.to_string()),
            Err(error) => return Err(error.into()),
        };
        Ok(Taught { checkpoints, failed })
    }

    fn train(&self, config: &MethodConfig, checkpoints: &mut Vec<Checkpoint>) -> Result<(), TrainerError> {
        let base = &self.material.base;
        let (network, anchor, tokenizer) = (base.network(), base.weights(), base.tokenizer());
        let data = MethodData::prepare(config, network, anchor, tokenizer, &self.pairs, &self.material.replay)?;
        let first = data.first_weights(network, anchor);
        let ruler = Ruler::new(base, self.measured.clone(), &first, self.threads)?;
        let engine = fine_tuning_engine(config, &data, network, tokenizer, first, None)?;
        train(config, &data, engine, 0, anchor, &mut |progress, engine| {
            if LOOKS.contains(&progress.step) || progress.step == config.steps {
                let weights = engine.weights();
                let kl = ruler.distance(base, weights)?;
                let model = base.with_weights(weights.to_vec())?;
                let look = look(&model, &self.tasks, &self.kinds, &self.probes, self.threads)?;
                checkpoints.push(Checkpoint { step: progress.step, kl, logged_kl: progress.kl, look });
            }
            Ok(())
        })?;
        Ok(())
    }
}
