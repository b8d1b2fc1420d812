//! Simulated developers who work with a model: what they are served, what their editors report, and the pairs that a job
//! makes of the labels.

use anonymizer::shape::Shape;
use edit_model::{DecodeOptions, EditModel};
use events::{ActionList, Decision, RawEvent};
use simulator::random::Dice;
use simulator::{Behaviour, ClientAction, DemoPlan, Developer, EditTask};
use trainer::{TrainingPair, balance_silence};

use super::office::{Office, Opportunity, START};
use super::wheel::OpenPair;

/// Who teaches, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Class {
    /// The first so many developers of a plan.
    pub(crate) teachers: usize,
    /// Opportunities of each.
    pub(crate) lessons: usize,
}

/// One opportunity of a developer.
pub(crate) struct Lesson {
    pub(crate) task: EditTask,
    pub(crate) served: ActionList,
    pub(crate) behaviour: Behaviour,
}

/// The names of a task as models see them; rendering a rendered name changes nothing, so the office may use them too.
pub(crate) fn rendered(mut task: EditTask, shape: &Shape) -> EditTask {
    task.context.repository = shape.repository(&task.context.repository);
    task.context.path = shape.path(&task.context.path);
    for edit in &mut task.context.recent_edits {
        edit.path = shape.path(&edit.path);
    }
    for action in task.wanted.actions.iter_mut().chain(&mut task.plain.actions) {
        action.path = shape.path(&action.path);
    }
    task
}

/// What the model answers, as far as an editor can show it.
fn answered(model: &EditModel, task: &EditTask, options: &DecodeOptions) -> anyhow::Result<ActionList> {
    let completion = model.complete(&task.context, options, &|| false, &mut |_| {})?;
    let fits = |action: &events::EditAction| {
        let (start, end) = (action.range.start as usize, action.range.end as usize);
        action.path == task.context.path && task.base_document.get(start..end) == Some(action.old_text.as_str())
    };
    let actions = completion.actions.actions.into_iter().take_while(fits).collect();
    Ok(ActionList { actions, closed: true })
}

/// Everything that the class meets, by developer. The model speaks by its gate; what it says is sampled at `temperature`,
/// 0 being the likeliest.
pub(crate) fn lessons(
    model: &EditModel,
    plan: &DemoPlan,
    shape: &Shape,
    class: Class,
    temperature: f32,
) -> anyhow::Result<Vec<Vec<Lesson>>> {
    let developer = Developer::default();
    let lesson = |person: usize, number: usize| -> anyhow::Result<Lesson> {
        let task = rendered(plan.task(person, number)?.task, shape);
        let dice = |label: &str| Dice::new(plan.seed(), label, &[person as u64, number as u64]);
        let options = DecodeOptions { temperature, seed: dice("sampled").bits(), ..DecodeOptions::default() };
        let served = answered(model, &task, &options)?;
        let behaviour = developer.decide(&task, &served, &mut dice("lesson"));
        Ok(Lesson { task, served, behaviour })
    };
    let of_person = |person: usize| -> anyhow::Result<Vec<Lesson>> {
        (0..class.lessons).map(|number| lesson(person, number)).collect()
    };
    (0..class.teachers).map(of_person).collect()
}

/// The telemetry of a class in order of arrival, a session for each developer. `report` may change what an editor says.
pub(crate) fn reported(
    office: &Office,
    lessons: &[Vec<Lesson>],
    report: fn(&ClientAction) -> ClientAction,
) -> anyhow::Result<Vec<RawEvent>> {
    let mut events = Vec::new();
    for (person, lessons) in lessons.iter().enumerate() {
        let mut session = office.session(person, 1, START)?;
        for Lesson { task, served, behaviour } in lessons {
            let decision = if served.actions.is_empty() { Decision::Silent } else { Decision::Shown };
            let reported = behaviour.actions.iter().map(|action| (report(action), false)).collect();
            let proposed = &served.actions;
            let opportunity = Opportunity { context: &task.context, decision, proposed, reported };
            events.extend(session.play(&opportunity)?.1);
        }
        events.push(session.end()?);
    }
    events.sort_by_key(|event| event.header.received_at);
    Ok(events)
}

/// The pairs as a job takes them: what has weight, and no more pairs that choose to do nothing than pairs that refuse it.
pub(crate) fn training_pairs<'a>(labeled: impl Iterator<Item = &'a OpenPair>) -> Vec<TrainingPair> {
    let with_weight = labeled.filter(|open| open.pair.weight > 0.0);
    let mut pairs: Vec<TrainingPair> =
        with_weight.map(|open| TrainingPair::of(&open.pair, open.text.clone())).collect();
    pairs.sort_by(|one, other| one.pair_id.cmp(&other.pair_id));
    balance_silence(&mut pairs);
    pairs
}
