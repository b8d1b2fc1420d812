//! What a few steps on corrections teach, and which method teaches it best. Settings are chosen by these figures, so seeds
//! and files are not the demo's: the packages that the base was not trained on, which `simulator/fetch-sources` fetches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use edit_model::EditModel;
use edit_model::dialect::Habit;
use simulator::{
    BaseManifest, Corpus, DemoPlan, PlanSettings, PlannedTask, SourceFile, Split, TaskKind, default_source_cache,
};
use trainer::convention::{ConventionReport, ConventionTrial, measure as trial};
use trainer::methods::{Method, MethodConfig};
use trainer::{BaseTask, TrainingPair, read_tasks};

use crate::measurement::{Better, Measurement};

/// Most bytes of one package, as when the base was made.
const PACKAGE_BYTES: usize = 400_000;
/// Corrections that are taught.
const CORRECTIONS: usize = 120;
/// Convention tasks that are judged.
const JUDGED: usize = 150;
/// The demo's seeds are small numbers; these are others.
const FIRST_SEED: u64 = 7_000_001;
/// The least that the demo's sizes rest on.
const LEAST_SHARE: f64 = 0.30;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

struct Material {
    base: EditModel,
    old_skills: Vec<BaseTask>,
    replay: Vec<BaseTask>,
    corpus: Arc<Corpus>,
}

fn material() -> anyhow::Result<Material> {
    let base = root().join("edit-model/base");
    Ok(Material {
        old_skills: read_tasks(&base.join("old_skills.jsonl"))?,
        replay: read_tasks(&base.join("replay.jsonl"))?,
        base: EditModel::load(&base).context("the base model")?,
        corpus: Arc::new(held_out_corpus(&base)?),
    })
}

/// Two repositories of the packages that the base was not trained on, dealt in turn.
fn held_out_corpus(base: &Path) -> anyhow::Result<Corpus> {
    let cache = default_source_cache().context("neither XDG_CACHE_HOME nor HOME is set")?;
    let files = BaseManifest::read(&base.join("sources.json"))?
        .load(&cache, PACKAGE_BYTES)
        .context("the sources of the base are missing; fetch them with simulator/fetch-sources")?;
    let mut packages: Vec<(String, Vec<SourceFile>)> = Vec::new();
    for file in files.into_iter().filter(|file| Split::of_package(&file.repository) == Split::HeldOut) {
        match packages.iter_mut().find(|(name, _)| **name == *file.repository) {
            Some((_, list)) => list.push(file),
            None => packages.push((file.repository.to_string(), vec![file])),
        }
    }
    let mut halves = [("left-press".to_owned(), Vec::new()), ("right-desk".to_owned(), Vec::new())];
    for (number, (_, list)) in packages.into_iter().enumerate() {
        halves[number % 2].1.extend(list);
    }
    Ok(Corpus::from_files(halves.into())?)
}

fn base_task(planned: &PlannedTask) -> BaseTask {
    BaseTask { context: planned.task.context.clone(), wanted: planned.task.wanted.clone(), habit: Habit::Repository }
}

fn pair(planned: &PlannedTask, number: usize) -> TrainingPair {
    TrainingPair {
        pair_id: format!("{number:064x}"),
        person: format!("{:032x}", number % 40),
        repository: planned.task.context.repository.clone(),
        reason: "dismissed_then_typed".to_owned(),
        weight: 1.0,
        observed_micros: i64::try_from(number).unwrap_or(0),
        context: planned.task.context.clone(),
        shared: Vec::new(),
        chosen: Some(planned.task.wanted.clone()),
        rejected: Some(planned.task.plain.clone()),
    }
}

fn one(material: &Material, seed: u64, method: Method) -> anyhow::Result<ConventionReport> {
    let developers = 40;
    let settings = PlanSettings { developers, opportunities: 36, ..PlanSettings::default() };
    let plan = DemoPlan::new(seed, Arc::clone(&material.corpus), settings)?;
    let mut conventions = Vec::new();
    'all: for opportunity in 0..36 {
        for developer in 0..developers {
            if plan.kind_at(developer, opportunity) == TaskKind::Convention {
                conventions.push(plan.task(developer, opportunity)?);
                if conventions.len() == CORRECTIONS + JUDGED {
                    break 'all;
                }
            }
        }
    }
    let (taught, judged) = conventions.split_at(CORRECTIONS.min(conventions.len()));
    let corrections: Vec<TrainingPair> =
        taught.iter().enumerate().map(|(number, planned)| pair(planned, number)).collect();
    let convention_tasks: Vec<BaseTask> = judged.iter().map(base_task).collect();
    let config = MethodConfig { method, seed, ..MethodConfig::default() };
    let asked = ConventionTrial {
        corrections: &corrections,
        convention_tasks: &convention_tasks,
        old_skills: &material.old_skills,
        replay: &material.replay,
    };
    Ok(trial(&material.base, &config, &asked)?)
}

struct Means {
    convention_before: f64,
    convention: f64,
    old_before: f64,
    old: f64,
    seconds_per_step: f64,
    tokens_per_second: f64,
}

fn means(reports: &[ConventionReport]) -> Means {
    let mean = |value: &dyn Fn(&ConventionReport) -> f64| {
        reports.iter().map(value).sum::<f64>() / (reports.len().max(1) as f64)
    };
    Means {
        convention_before: mean(&|report| report.convention_before.first_matches),
        convention: mean(&|report| report.convention_after.first_matches),
        old_before: mean(&|report| report.old_before.first_matches),
        old: mean(&|report| report.old_after.first_matches),
        seconds_per_step: mean(&|report| report.seconds_per_step),
        tokens_per_second: mean(&|report| report.tokens_per_second),
    }
}

fn reports(material: &Material, method: Method, seeds: u64) -> anyhow::Result<Vec<ConventionReport>> {
    (0..seeds).map(|number| one(material, FIRST_SEED + number, method)).collect()
}

/// The default method on the convention, beside the base.
pub(crate) fn measure(seeds: u64) -> anyhow::Result<Vec<Measurement>> {
    let material = material()?;
    let means = means(&reports(&material, MethodConfig::default().method, seeds)?);
    let note =
        format!("{CORRECTIONS} corrections, 24 steps, tasks never seen; baseline: the base; mean of {seeds} seeds");
    Ok(vec![
        Measurement::new("convention after 24 steps", means.convention, "share right", note)
            .beside(means.convention_before)
            .aiming_at(LEAST_SHARE, Better::More),
        Measurement::new("old skills after 24 steps", means.old, "share right", "baseline: the base")
            .beside(means.old_before)
            .aiming_at(means.old_before - 0.05, Better::More),
        Measurement::new("training step", means.seconds_per_step, "s", "pairs and replayed base tasks of one step"),
        Measurement::new("training rate", means.tokens_per_second, "tokens/s", "no padding; forward, backward, update"),
    ])
}

/// Every method, on the same seeds.
pub(crate) fn methods(seeds: u64) -> anyhow::Result<Vec<Measurement>> {
    let material = material()?;
    let mut measurements = Vec::new();
    for method in [Method::Sft, Method::Dpo, Method::Actionrl] {
        let means = means(&reports(&material, method, seeds)?);
        let name = method.name();
        measurements.push(
            Measurement::new(format!("{name}: convention"), means.convention, "share right", "baseline: the base")
                .beside(means.convention_before),
        );
        measurements.push(
            Measurement::new(format!("{name}: old skills"), means.old, "share right", "baseline: the base")
                .beside(means.old_before),
        );
    }
    Ok(measurements)
}
