//! Teaches conventions of the demo's kind to a base model and judges them: `convention BASE_DIRECTORY`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use edit_model::EditModel;
use events::ActionList;
use simulator::{
    BaseCorpus, BaseManifest, BaseTaskGenerator, Corpus, DemoPlan, EditTask, PlanSettings, Split, TaskKind,
};
use trainer::convention::{ConventionTrial, measure};
use trainer::methods::{Method, MethodConfig};
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

#[allow(clippy::print_stdout, reason = "an example talks to its terminal")]
fn main() -> anyhow::Result<()> {
    let base = EditModel::load(&PathBuf::from(std::env::args().nth(1).context("which base directory?")?))?;
    let manifest = BaseManifest::read(Path::new("edit-model/base/sources.json"))?;
    let cache = simulator::default_source_cache().context("no cache folder")?;
    let files = manifest.load(&cache, 60_000)?;
    let tasks = |split, seed, count| -> anyhow::Result<Vec<BaseTask>> {
        let corpus = Arc::new(BaseCorpus::index(files.clone(), split)?);
        let generator = BaseTaskGenerator::new(corpus, seed);
        Ok((0..count).filter_map(|n| generator.task_at(n)).map(base_task).collect())
    };
    let replay = tasks(Split::Train, 77, 1500)?;
    let old_skills = tasks(Split::HeldOut, 78, 300)?;
    let corpus = Arc::new(Corpus::load(Path::new("simulator/corpus"))?);
    for seed in 1..=setting("SEEDS", 3) {
        let plan = DemoPlan::new(seed, corpus.clone(), PlanSettings::default())?;
        let rules: Vec<String> =
            plan.conventions().iter().map(|one| format!("{}: {}", one.repository, one.rule.describe())).collect();
        let mut corrections = Vec::new();
        let mut number = 0;
        while corrections.len() < setting("CORRECTIONS", 120) {
            let (developer, opportunity) = (number % 60, number / 60);
            number += 1;
            if plan.kind_at(developer, opportunity) != TaskKind::Convention {
                continue;
            }
            let task = plan.task(developer, opportunity)?.task;
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
        let gate = plan.gate()?;
        let of_kind = |kind: TaskKind| -> Vec<BaseTask> {
            gate.iter().filter(|task| task.task.kind == kind).map(|task| base_task(task.task.clone())).collect()
        };
        let (convention_tasks, mut plain) = (of_kind(TaskKind::Convention), of_kind(TaskKind::Plain));
        plain.extend(of_kind(TaskKind::NoEdit));
        println!("seed {seed} {rules:?}");
        for method in [Method::Sft, Method::Dpo, Method::Actionrl] {
            let config = MethodConfig {
                method,
                seed,
                learning_rate: setting("RATE", 5e-4),
                steps: setting("STEPS", 24),
                lambda: setting("LAMBDA", 1.0),
                replay_weight: setting("REPLAY", 1.0),
                slot_rate: setting("SLOT", 10.0),
                batch_replay: setting("BATCH_REPLAY", 12),
                ..MethodConfig::default()
            };
            for (name, old) in [("old skills", &old_skills), ("plain and silent in the teams' files", &plain)] {
                let trial = ConventionTrial {
                    corrections: &corrections,
                    convention_tasks: &convention_tasks,
                    old_skills: old,
                    replay: &replay,
                };
                match measure(&base, &config, &trial) {
                    Ok(report) => println!(
                        "  {method:?}: convention {:.0}% -> {:.0}% (first {:.0}%, shown {:.0}%), {name} exact {:.0}% -> {:.0}%, silent {:.0}% -> {:.0}%, log p {:.2} -> {:.2}, {:.2} s/step, {:.0} tokens/s",
                        100.0 * report.convention_before.exact,
                        100.0 * report.convention_after.exact,
                        100.0 * report.convention_after.first_matches,
                        100.0 * report.convention_after.edits_shown,
                        100.0 * report.old_before.exact,
                        100.0 * report.old_after.exact,
                        100.0 * report.old_before.silent,
                        100.0 * report.old_after.silent,
                        report.chosen_log_p_before,
                        report.chosen_log_p_after,
                        report.seconds_per_step,
                        report.tokens_per_second,
                    ),
                    Err(error) => println!("  {method:?}: {error}"),
                }
            }
        }
    }
    Ok(())
}
