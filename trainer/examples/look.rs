//! Teaches one convention set and prints what comes out.
#![allow(clippy::all, clippy::print_stdout, clippy::unwrap_used)]
use edit_model::{DecodeOptions, EditModel};
use events::ActionList;
use simulator::{
    BaseCorpus, BaseManifest, BaseTaskGenerator, Corpus, DemoPlan, EditTask, PlanSettings, Split, TaskKind,
};
use std::path::Path;
use std::sync::Arc;
use trainer::methods::{Method, MethodConfig, train_from_anchor};
use trainer::{BaseTask, TrainingPair};
fn base_task(task: EditTask) -> BaseTask {
    BaseTask { context: task.context, wanted: task.wanted }
}
fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
fn first_open(list: &ActionList) -> ActionList {
    ActionList { actions: list.actions.iter().take(1).cloned().collect(), closed: false }
}
fn main() {
    let base = EditModel::load(Path::new(&std::env::args().nth(1).unwrap())).unwrap();
    let manifest = BaseManifest::read(Path::new("edit-model/base/sources.json")).unwrap();
    let files = manifest.load(&simulator::default_source_cache().unwrap(), 20_000).unwrap();
    let corpus = Arc::new(BaseCorpus::index(files.clone(), Split::Train).unwrap());
    let generator = BaseTaskGenerator::new(corpus, 77);
    let replay: Vec<BaseTask> = (0..800).filter_map(|n| generator.task_at(n)).map(base_task).collect();
    let corpus = Arc::new(Corpus::load(Path::new("simulator/corpus")).unwrap());
    let plan = DemoPlan::new(1, corpus.clone(), PlanSettings::default()).unwrap();
    let one = setting("ONE", 0);
    let mut corrections = Vec::new();
    let mut number = 0;
    while corrections.len() < 120 {
        let (developer, opportunity) = (number % 60, number / 60);
        number += 1;
        if plan.kind_at(developer, opportunity) != TaskKind::Convention {
            continue;
        }
        if one == 1 && plan.repository_index(developer) == 1 {
            continue;
        }
        let task = plan.task(developer, opportunity).unwrap().task;
        corrections.push(TrainingPair {
            pair_id: format!("{number:06}"),
            person: developer.to_string(),
            repository: task.context.repository.clone(),
            reason: "correction".to_owned(),
            weight: 1.0,
            observed_micros: number as i64,
            chosen: Some(first_open(&task.wanted)),
            rejected: Some(first_open(&task.plain)),
            shared: Vec::new(),
            context: task.context,
        });
    }
    let config = MethodConfig {
        method: Method::Sft,
        learning_rate: setting("RATE", 5e-4),
        steps: setting("STEPS", 24),
        replay_weight: setting("REPLAY", 1.0),
        slot_rate: setting("SLOT", 10.0),
        ..MethodConfig::default()
    };
    let trained =
        train_from_anchor(&config, base.network(), base.weights(), base.tokenizer(), &corrections, &replay).unwrap();
    for p in trained.history.iter().step_by(3) {
        println!("{} loss {:.3} norm {:.2}", p.step, p.loss, p.gradient_norm);
    }
    println!("{} {}", trained.chosen_log_p_before, trained.chosen_log_p_after);
    let model = base.with_weights(trained.weights).unwrap();
    let gate = plan.gate().unwrap();
    let mut n = 0;
    let mut good = 0;
    for task in gate.iter().filter(|task| task.task.kind == TaskKind::Convention) {
        let task = &task.task;
        let c = model.complete(&task.context, &DecodeOptions::default(), &|| false, &mut |_| {}).unwrap();
        let got = c.actions.actions.first().map(|a| (a.old_text.clone(), a.new_text.clone()));
        let want = task.wanted.actions.first().map(|a| (a.old_text.clone(), a.new_text.clone()));
        if got == want {
            good += 1;
        }
        n += 1;
        if n <= 14 {
            println!(
                "{} | want {want:?} got {got:?} gate {:.2} {:?}",
                task.context.repository, c.gate_score, c.stopped_reason
            );
        }
    }
    println!("{good} of {n}");
}
