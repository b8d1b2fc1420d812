//! The probe set under every version, and under a baseline that learns nothing. It only reports.

use std::collections::BTreeMap;

use anyhow::Context as _;
use edit_model::{DecodeOptions, EditModel};
use events::{ActionList, EditContext};
use simulator::judge::first_is_right;
use simulator::{PlannedTask, TaskKind};

use super::progress::shorten;
use super::report::{Correction, ProbeResult};

/// What was answered to each probe task, in order.
pub(crate) type Answers = Vec<ActionList>;

/// Asks `model` every task, with its repository and path rendered as serving renders them.
pub(crate) fn ask(
    model: &EditModel,
    tasks: &[PlannedTask],
    render: &dyn Fn(&EditContext) -> EditContext,
    threshold: f32,
) -> anyhow::Result<Answers> {
    let options = DecodeOptions { threshold, ..DecodeOptions::default() };
    tasks
        .iter()
        .map(|planned| {
            let original = &planned.task.context;
            let context = render(original);
            let completion = model.complete(&context, &options, &|| false, &mut |_| {}).context("probe task")?;
            let mut actions = completion.actions;
            for action in &mut actions.actions {
                action.path.clone_from(&original.path);
            }
            Ok(actions)
        })
        .collect()
}

/// Judges answers by the kinds of tasks.
pub(crate) fn judge_answers(name: &str, version: Option<i64>, tasks: &[PlannedTask], answers: &Answers) -> ProbeResult {
    let mut right: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    let (mut utility, mut shown) = (0.0, 0_u64);
    for (planned, answer) in tasks.iter().zip(answers) {
        let is_right = first_is_right(&planned.task, answer);
        let of_kind = right.entry(kind_name(planned.task.kind)).or_default();
        of_kind.0 += u64::from(is_right);
        of_kind.1 += 1;
        if !answer.is_no_edit() {
            shown += 1;
            utility += if is_right { 0.75 } else { -0.25 };
        }
    }
    let total = tasks.len().max(1) as f64;
    ProbeResult {
        name: name.to_owned(),
        version,
        tasks: tasks.len() as u64,
        utility: utility / total,
        right: right.into_iter().map(|(kind, (right, of))| (kind, right as f64 / of.max(1) as f64)).collect(),
        shown_rate: shown as f64 / total,
    }
}

/// The name of a kind in the report.
pub(crate) fn kind_name(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Plain => "plain",
        TaskKind::Convention => "convention",
        TaskKind::NoEdit => "no_edit",
    }
}

/// The first `count` tasks that the first version got wrong, whatever the last version made of them.
pub(crate) fn corrections(tasks: &[PlannedTask], before: &Answers, after: &Answers, count: usize) -> Vec<Correction> {
    let said = |answer: &ActionList| match answer.actions.first() {
        Some(action) => format!("{} -> {}", action.old_text, action.new_text),
        None => "(silence)".to_owned(),
    };
    tasks
        .iter()
        .zip(before.iter().zip(after))
        .filter(|(planned, (before, _))| !planned.task.wanted.is_no_edit() && !first_is_right(&planned.task, before))
        .take(count)
        .map(|(planned, (before, after))| {
            let context = &planned.task.context;
            let first = planned.task.wanted.actions.first();
            let offset = first.map_or(0, |action| action.range.start.saturating_sub(context.window.start_byte));
            let offset = usize::try_from(offset).unwrap_or(0);
            let start = context.window.text.get(..offset).and_then(|text| text.rfind('\n')).map_or(0, |at| at + 1);
            let line = context.window.text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
            Correction {
                repository: context.repository.clone(),
                line: shorten(line.trim()),
                wanted: said(&planned.task.wanted),
                before: said(before),
                after: said(after),
            }
        })
        .collect()
}
