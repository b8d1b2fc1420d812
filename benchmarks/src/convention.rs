//! What a few steps on corrections teach, and which method teaches it best. Settings are chosen by these figures, so
//! seeds and files are not the demo's: the packages that the base was not trained on, which `simulator/fetch-sources`
//! fetches.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use edit_model::EditModel;
use edit_model::dialect::Habit;
use simulator::{
    BaseManifest, Corpus, DemoPlan, PlanSettings, PlannedTask, SourceFile, Split, TaskKind, default_source_cache,
};
use trainer::convention::{ConventionReport, ConventionTrial, measure as trial};
use trainer::evaluation::TaskSummary;
use trainer::gate::GateLimits;
use trainer::methods::{Method, MethodConfig};
use trainer::{BaseTask, TrainingPair, read_tasks};

use crate::Trial;
use crate::measurement::{Better, Measurement};

/// Most bytes of one package, as when the base was made.
const PACKAGE_BYTES: usize = 400_000;
/// Corrections that are taught.
const CORRECTIONS: usize = 120;
/// Acceptances that are taught beside them.
const ACCEPTED: usize = 120;
/// Tasks of each kind that are judged.
const JUDGED: usize = 150;
const DEVELOPERS: usize = 40;
const OPPORTUNITIES: usize = 36;
/// The demo's seeds are small numbers; these are others.
pub(crate) const FIRST_SEED: u64 = 7_000_001;
/// What a data set of these lessons lets one person have: three times the mean.
pub(crate) const PERSON_PAIRS: usize = 3 * (CORRECTIONS + ACCEPTED) / DEVELOPERS;
/// The least that the demo's sizes rest on.
const LEAST_SHARE: f64 = 0.30;

/// Largest loss of old skills that the gate lets through, as a share.
fn old_skills_tolerance() -> f64 {
    GateLimits::default().old_skills_tolerance
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The base, what it can do, and what it was not trained on.
pub(crate) struct Material {
    pub(crate) base: EditModel,
    old_skills: Vec<BaseTask>,
    pub(crate) replay: Vec<BaseTask>,
    pub(crate) corpus: Arc<Corpus>,
}

/// The packages that the base was not trained on are dealt in turn into so many parts, and two of them are the
/// repositories that developers work in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deal {
    pub(crate) parts: usize,
    pub(crate) taken: [usize; 2],
}

impl Deal {
    const ALL: Self = Self { parts: 2, taken: [0, 1] };
}

pub(crate) fn material() -> anyhow::Result<Material> {
    material_of(Deal::ALL)
}

/// The same with other repositories.
pub(crate) fn material_of(deal: Deal) -> anyhow::Result<Material> {
    let base = base_folder();
    Ok(Material {
        old_skills: read_tasks(&base.join("old_skills.jsonl"))?,
        replay: read_tasks(&base.join("replay.jsonl"))?,
        base: EditModel::load(&base).context("the base model")?,
        corpus: Arc::new(held_out_corpus(deal)?),
    })
}

/// Where the shipped base is.
pub(crate) fn base_folder() -> PathBuf {
    root().join("edit-model/base")
}

/// All files that the base was made and judged with.
pub(crate) fn base_files() -> anyhow::Result<Vec<SourceFile>> {
    let cache = default_source_cache().context("neither XDG_CACHE_HOME nor HOME is set")?;
    BaseManifest::read(&base_folder().join("sources.json"))?
        .load(&cache, PACKAGE_BYTES)
        .context("the sources of the base are missing; fetch them with simulator/fetch-sources")
}

fn held_out_corpus(deal: Deal) -> anyhow::Result<Corpus> {
    let mut packages: Vec<(String, Vec<SourceFile>)> = Vec::new();
    for file in base_files()?.into_iter().filter(|file| Split::of_package(&file.repository) == Split::HeldOut) {
        match packages.iter_mut().find(|(name, _)| **name == *file.repository) {
            Some((_, list)) => list.push(file),
            None => packages.push((file.repository.to_string(), vec![file])),
        }
    }
    let mut halves = [("left-press".to_owned(), Vec::new()), ("right-desk".to_owned(), Vec::new())];
    for (number, (_, list)) in packages.into_iter().enumerate() {
        let taken = deal.taken.iter().position(|part| *part == number % deal.parts);
        if let Some((_, files)) = taken.and_then(|place| halves.get_mut(place)) {
            files.extend(list);
        }
    }
    Ok(Corpus::from_files(halves.into())?)
}

fn base_task(planned: &PlannedTask) -> BaseTask {
    BaseTask { context: planned.task.context.clone(), wanted: planned.task.wanted.clone(), habit: Habit::Repository }
}

/// What the label table makes of a task that the base was shown on: a correction where a convention was wanted, an
/// acceptance where it was right.
fn pair(planned: &PlannedTask, number: usize) -> TrainingPair {
    let is_corrected = planned.task.kind == TaskKind::Convention;
    TrainingPair {
        pair_id: format!("{number:064x}"),
        person: format!("{:032x}", number % 40),
        repository: planned.task.context.repository.clone(),
        reason: if is_corrected { "dismissed_then_typed" } else { "accepted_kept" }.to_owned(),
        weight: 1.0,
        support_people: 1,
        observed_micros: i64::try_from(number).unwrap_or(0),
        off_policy: false,
        context: planned.task.context.clone(),
        shared: Vec::new(),
        chosen: Some(planned.task.wanted.clone()),
        rejected: is_corrected.then(|| planned.task.plain.clone()),
        identifiers_seen: None,
    }
}

/// Tasks by kind, in the order in which developers meet them.
fn of_kind(plan: &DemoPlan, kind: TaskKind, count: usize) -> anyhow::Result<Vec<PlannedTask>> {
    let places =
        (0..OPPORTUNITIES).flat_map(|opportunity| (0..DEVELOPERS).map(move |developer| (developer, opportunity)));
    places
        .filter(|(developer, opportunity)| plan.kind_at(*developer, *opportunity) == kind)
        .take(count)
        .map(|(developer, opportunity)| Ok(plan.task(developer, opportunity)?))
        .collect()
}

fn plan(material: &Material, seed: u64) -> anyhow::Result<DemoPlan> {
    let settings = PlanSettings { developers: DEVELOPERS, opportunities: OPPORTUNITIES, ..PlanSettings::default() };
    Ok(DemoPlan::new(seed, Arc::clone(&material.corpus), settings)?)
}

/// The pairs that a seed teaches.
pub(crate) fn lessons(material: &Material, seed: u64) -> anyhow::Result<Vec<TrainingPair>> {
    let plan = plan(material, seed)?;
    let taught = of_kind(&plan, TaskKind::Convention, CORRECTIONS)?;
    let accepted = of_kind(&plan, TaskKind::Plain, ACCEPTED)?;
    Ok(taught.iter().chain(&accepted).enumerate().map(|(number, planned)| pair(planned, number)).collect())
}

/// What a seed taught, and what came of it.
struct Taught {
    report: ConventionReport,
    /// The rules in words, each with the share of its tasks that were answered right.
    rules: String,
}

fn one(material: &Material, seed: u64, config: &MethodConfig) -> anyhow::Result<Taught> {
    let plan = plan(material, seed)?;
    let conventions = of_kind(&plan, TaskKind::Convention, CORRECTIONS + JUDGED)?;
    let plain = of_kind(&plan, TaskKind::Plain, ACCEPTED + JUDGED)?;
    let silent = of_kind(&plan, TaskKind::NoEdit, JUDGED)?;
    let (taught, judged) = conventions.split_at(CORRECTIONS.min(conventions.len()));
    let (accepted, plain) = plain.split_at(ACCEPTED.min(plain.len()));
    let pairs: Vec<TrainingPair> =
        taught.iter().chain(accepted).enumerate().map(|(number, planned)| pair(planned, number)).collect();
    let convention_tasks: Vec<BaseTask> = judged.iter().map(base_task).collect();
    let other_tasks: Vec<BaseTask> = plain.iter().chain(&silent).map(base_task).collect();
    let asked = ConventionTrial {
        pairs: &pairs,
        convention_tasks: &convention_tasks,
        other_tasks: &other_tasks,
        old_skills: &material.old_skills,
        replay: &material.replay,
    };
    let report = trial(&material.base, config, &asked)?;
    let rules = (plan.conventions().iter())
        .map(|convention| {
            let learned = report.convention_by_repository.get(&convention.repository);
            let share = learned.map_or(0.0, |summary| summary.first_matches * 100.0);
            format!("{}: {share:.0}%", convention.rule.describe())
        })
        .collect::<Vec<_>>();
    Ok(Taught { report, rules: rules.join("; ") })
}

/// A figure before and after, over the seeds.
struct BeforeAfter {
    before: f64,
    after: f64,
}

struct Means {
    convention: BeforeAfter,
    plain: BeforeAfter,
    silence: BeforeAfter,
    utility: BeforeAfter,
    old: BeforeAfter,
    /// The largest loss of old skills of any seed, in points of a share.
    worst_loss: f64,
    seconds_per_step: f64,
    tokens_per_second: f64,
}

fn means(taught: &[Taught]) -> Means {
    let reports: Vec<&ConventionReport> = taught.iter().map(|taught| &taught.report).collect();
    let mean = |value: &dyn Fn(&ConventionReport) -> f64| {
        reports.iter().map(|report| value(report)).sum::<f64>() / (reports.len().max(1) as f64)
    };
    let both = |before: &dyn Fn(&ConventionReport) -> f64, after: &dyn Fn(&ConventionReport) -> f64| BeforeAfter {
        before: mean(before),
        after: mean(after),
    };
    let losses = reports.iter().map(|report| report.old_before.exact - report.old_after.exact);
    Means {
        convention: both(&|report| report.convention_before.first_matches, &|report| {
            report.convention_after.first_matches
        }),
        plain: both(&|report| report.other_before.first_matches, &|report| report.other_after.first_matches),
        silence: both(&|report| report.other_before.silent, &|report| report.other_after.silent),
        utility: both(&|report| TaskSummary::utility(&[report.convention_before, report.other_before]), &|report| {
            TaskSummary::utility(&[report.convention_after, report.other_after])
        }),
        old: both(&|report| report.old_before.exact, &|report| report.old_after.exact),
        worst_loss: losses.fold(f64::NEG_INFINITY, f64::max),
        seconds_per_step: mean(&|report| report.seconds_per_step),
        tokens_per_second: mean(&|report| report.tokens_per_second),
    }
}

fn taught(material: &Material, method: Method, seeds: u64, tried: Trial) -> anyhow::Result<Vec<Taught>> {
    (FIRST_SEED..FIRST_SEED + seeds).map(|seed| one(material, seed, &tried.config(method, seed))).collect()
}

/// What was tried, for the figures' notes.
pub(crate) fn settings(config: &MethodConfig) -> String {
    let MethodConfig { steps, batch_pairs, batch_replay, learning_rate, habit_rate, spell_habits, .. } = config;
    let start = if *spell_habits { "spelled" } else { "neutral" };
    format!(
        "{steps} steps of {batch_pairs} pairs and {batch_replay} replayed, rates {learning_rate:e} / {habit_rate:e}, \
         {start} habits"
    )
}

/// The default method on the convention, beside the base.
pub(crate) fn measure(seeds: u64, tried: Trial) -> anyhow::Result<Vec<Measurement>> {
    let material = material()?;
    let config = tried.config(MethodConfig::default().method, FIRST_SEED);
    let taught = taught(&material, config.method, seeds, tried)?;
    let means = means(&taught);
    let note = format!(
        "{}, {}, {CORRECTIONS} corrections and {ACCEPTED} acceptances, tasks never seen; baseline: the \
         base; mean of {seeds} seeds",
        config.method.name(),
        settings(&config)
    );
    let old = format!("baseline: the base; the worst seed lost {:.1} points", means.worst_loss * 100.0);
    let share = |name: &str, figure: &BeforeAfter, note: &str| {
        Measurement::new(format!("convention: {name}"), figure.after, "share right", note).beside(figure.before)
    };
    let mut measurements = vec![
        share("convention tasks", &means.convention, &note).aiming_at(LEAST_SHARE, Better::More),
        Measurement::new("convention: utility", means.utility.after, "utility", "baseline: the base; a third each")
            .beside(means.utility.before),
        share("plain tasks", &means.plain, "baseline: the base"),
        share("tasks that want silence", &means.silence, "baseline: the base"),
        share("old skills", &means.old, &old).aiming_at(means.old.before - old_skills_tolerance(), Better::More),
        Measurement::new("convention: training step", means.seconds_per_step, "s", "pairs and replay of one step"),
        Measurement::new("convention: training rate", means.tokens_per_second, "tokens/s", "forward, backward, update"),
    ];
    for (seed, Taught { report, rules }) in (FIRST_SEED..).zip(&taught) {
        let learned = report.convention_after.first_matches;
        measurements.push(Measurement::new(format!("convention: seed {seed}"), learned, "share right", rules));
    }
    Ok(measurements)
}

/// Every method, on the same seeds. The winner has the highest utility over convention, plain and silent tasks (a third
/// each) of those whose mean loss of old skills the gate would let through.
pub(crate) fn methods(seeds: u64, tried: Trial) -> anyhow::Result<Vec<Measurement>> {
    let material = material()?;
    let mut measurements = Vec::new();
    let mut winner: Option<(Method, f64)> = None;
    for method in [Method::Sft, Method::Dpo, Method::Actionrl] {
        let means = means(&taught(&material, method, seeds, tried)?);
        let name = method.name();
        let beside = |what: &str, figure: &BeforeAfter, unit: &'static str, note: String| {
            Measurement::new(format!("{name}: {what}"), figure.after, unit, note).beside(figure.before)
        };
        let base = || "baseline: the base".to_owned();
        measurements.push(beside(
            "utility",
            &means.utility,
            "utility",
            format!("{}; {seeds} seeds; {}", base(), settings(&tried.config(method, 0))),
        ));
        measurements.push(beside("convention", &means.convention, "share right", base()));
        measurements.push(beside("plain", &means.plain, "share right", base()));
        measurements.push(beside("silence", &means.silence, "share right", base()));
        let old = format!("{}; the worst seed lost {:.1} points", base(), means.worst_loss * 100.0);
        measurements.push(
            beside("old skills", &means.old, "share right", old)
                .aiming_at(means.old.before - old_skills_tolerance(), Better::More),
        );
        let passes = means.old.before - means.old.after <= old_skills_tolerance();
        if passes && winner.is_none_or(|(_, best)| means.utility.after > best) {
            winner = Some((method, means.utility.after));
        }
    }
    let won = winner.map_or("none", |(method, _)| method.name());
    let default = MethodConfig::default().method;
    let is_default = winner.is_some_and(|(method, _)| method == default);
    let note = format!("the winner is {won}, the default is {}", default.name());
    measurements.push(
        Measurement::new("methods: the default is the winner", f64::from(u8::from(is_default)), "yes = 1", note)
            .aiming_at(1.0, Better::More),
    );
    Ok(measurements)
}
