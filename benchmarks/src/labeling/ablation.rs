//! What each rule of the label table is worth: the same telemetry labeled with and without it, and how useful the model
//! is that learned from the pairs.
//!
//! Simulated developers work with the base model on packages that it was not trained on. What their editors report goes
//! through the anonymizer and the labeler; on the pairs the base is trained by the default method, and asked the tasks of
//! developers who taught nothing. Seeds are the units of every interval, each with the mean over its persons of their
//! mean utility: what the persons of a seed are asked is answered by one model. The placebo learns the same pairs under
//! each other's repository names: on conventions it must gain nothing.
//!
//! This is less than a turn. No data set is made: equal pairs are neither left out nor merged, each has the weight of
//! its label, none is kept to judge by; and no gate refuses a model.

use std::collections::BTreeMap;
use std::time::Instant;

use anonymizer::shape::Shape;
use anyhow::Context as _;
use edit_model::DecodeOptions;
use edit_model::dialect::Habit;
use events::PairReason;
use simulator::behaviour::SHOWN_AT_MS;
use simulator::{ClientAction, ClientActionKind, DemoPlan, PlanSettings, TaskKind};
use trainer::evaluation::{TaskOutcome, answer_tasks};
use trainer::gate::{UTILITY_MATCH, UTILITY_WRONG};
use trainer::methods::{MethodConfig, train_from_anchor};
use trainer::{BaseTask, TrainerError, TrainingPair, exchange_repositories};

use super::interval::{LEAST_UNITS, bounds, mean_of_units};
use super::lessons::{Class, lessons, rendered, reported, training_pairs};
use super::office::Office;
use super::truth::Row;
use super::wheel::{OpenPair, label};
use crate::Trial;
use crate::convention::{Material, material, settings};
use crate::measurement::{Better, Measurement, tell};

/// Developers who teach, and opportunities of each.
const TEACHERS: usize = 40;
const LESSONS: usize = 18;
const CLASS: Class = Class { teachers: TEACHERS, lessons: LESSONS };
/// Developers whose tasks judge, and tasks of each: every kind twice.
const JUDGES: usize = 40;
const JUDGED: usize = 6;
/// Neither the demo's seeds nor those that settings of learning were chosen by.
const FIRST_SEED: u64 = 9_000_001;

/// A way to label, or to use the labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rules {
    All,
    WithoutTypedThrough,
    /// Esc is reported as if the suggestion had gone away.
    EscIsIgnoring,
    WithoutSilence,
    /// Every chosen list ends where it was last observed, evidence or not.
    StopEverywhere,
    WithoutStop,
    /// Each pair under the name of another repository.
    Placebo,
}

impl Rules {
    const ALL: [Self; 7] = [
        Self::All,
        Self::WithoutTypedThrough,
        Self::EscIsIgnoring,
        Self::WithoutSilence,
        Self::StopEverywhere,
        Self::WithoutStop,
        Self::Placebo,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::All => "all rules",
            Self::WithoutTypedThrough => "without typed-through",
            Self::EscIsIgnoring => "Esc is ignoring",
            Self::WithoutSilence => "without silent opportunities",
            Self::StopEverywhere => "STOP without evidence",
            Self::WithoutStop => "without STOP",
            Self::Placebo => "placebo",
        }
    }
}

/// Esc as an editor reports it that does not tell it from anything else that ends a suggestion.
fn without_escape(action: &ClientAction) -> ClientAction {
    let kind = match &action.kind {
        ClientActionKind::Dismissed { .. } => {
            ClientActionKind::Hidden { visible_ms: action.at_ms.saturating_sub(SHOWN_AT_MS) }
        }
        other => other.clone(),
    };
    ClientAction { at_ms: action.at_ms, kind }
}

/// The pairs that a rule leaves, as a job takes them.
fn taught_by(rules: Rules, told: &[OpenPair], untold: &[OpenPair]) -> Vec<TrainingPair> {
    let source = if rules == Rules::EscIsIgnoring { untold } else { told };
    let stays = |open: &&OpenPair| match rules {
        Rules::WithoutTypedThrough => open.pair.reason != PairReason::TypedThrough,
        Rules::WithoutSilence => !matches!(open.pair.reason, PairReason::Missed | PairReason::SilenceConfirmed),
        Rules::WithoutStop => Row::of_pair(open) != Row::Stopped,
        _ => true,
    };
    let mut pairs = training_pairs(source.iter().filter(stays));
    match rules {
        Rules::StopEverywhere => {
            for chosen in pairs.iter_mut().filter_map(|pair| pair.chosen.as_mut()) {
                chosen.closed = true;
            }
        }
        Rules::Placebo => exchange_repositories(&mut pairs),
        _ => {}
    }
    pairs
}

/// A task that judges.
struct Judged {
    person: usize,
    kind: TaskKind,
}

fn utility(outcome: &TaskOutcome) -> f64 {
    match (outcome.shown, outcome.wants_edit && outcome.first_matches) {
        (false, _) => 0.0,
        (true, true) => UTILITY_MATCH,
        (true, false) => UTILITY_WRONG,
    }
}

/// Each judging person's mean utility, over all of its tasks or over those of a kind.
fn by_person(judged: &[Judged], outcomes: &[TaskOutcome], kind: Option<TaskKind>) -> Vec<f64> {
    let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (task, outcome) in judged.iter().zip(outcomes) {
        if kind.is_none_or(|kind| kind == task.kind) {
            let sum = sums.entry(task.person).or_default();
            *sum = (sum.0 + utility(outcome), sum.1 + 1.0);
        }
    }
    sums.into_values().map(|(utility, tasks)| utility / tasks).collect()
}

/// What came of the rules; one value a seed.
#[derive(Default)]
struct Found {
    pairs: Vec<f64>,
    /// By reason, over all seeds.
    reasons: BTreeMap<String, usize>,
    gain: Vec<f64>,
    convention_gain: Vec<f64>,
    /// Less what all rules gain.
    beside_all: Vec<f64>,
    /// Seeds whose training failed: they change nothing.
    failed: usize,
}

fn differences(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours - theirs).collect()
}

fn one_seed(
    material: &Material,
    seed: u64,
    config: &MethodConfig,
    found: &mut BTreeMap<Rules, Found>,
) -> anyhow::Result<()> {
    let settings = PlanSettings { developers: TEACHERS + JUDGES, opportunities: LESSONS, ..PlanSettings::default() };
    let plan = DemoPlan::new(seed, std::sync::Arc::clone(&material.corpus), settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let office = runtime.block_on(Office::open(seed, TEACHERS))?;
    let shape = Shape::new(&office.secret);
    let lessons = lessons(&material.base, &plan, &shape, CLASS, 0.0)?;
    // Two sessions alike but for that: ids are functions of the office's seed.
    let (told, untold) =
        (reported(&office, &lessons, ClientAction::clone)?, reported(&office, &lessons, without_escape)?);
    let told = runtime.block_on(label(&office, &told))?.pairs;
    let untold = runtime.block_on(label(&office, &untold))?.pairs;

    let (mut judged, mut tasks) = (Vec::new(), Vec::new());
    for person in TEACHERS..TEACHERS + JUDGES {
        for number in 0..JUDGED {
            let task = rendered(plan.task(person, number)?.task, &shape);
            judged.push(Judged { person, kind: task.kind });
            tasks.push(BaseTask { context: task.context, wanted: task.wanted, habit: Habit::Repository });
        }
    }
    let options = DecodeOptions::default();
    let before = answer_tasks(&material.base, &tasks, &options, config.threads)?;
    let mut all: Vec<f64> = Vec::new();
    for rules in Rules::ALL {
        let started = Instant::now();
        let pairs = taught_by(rules, &told, &untold);
        let entry = found.entry(rules).or_default();
        entry.pairs.push(pairs.len() as f64);
        for pair in &pairs {
            *entry.reasons.entry(pair.reason.clone()).or_default() += 1;
        }
        let base = &material.base;
        let trained =
            train_from_anchor(config, base.network(), base.weights(), base.tokenizer(), &pairs, &material.replay);
        let after = match trained {
            Ok(trained) => {
                let taught = base.with_weights(trained.weights)?.in_served_precision()?;
                answer_tasks(&taught, &tasks, &options, config.threads)?
            }
            // What fails is not served, and nothing changes.
            Err(TrainerError::Unhealthy(_) | TrainerError::NoExamples(_) | TrainerError::Diverged { .. }) => {
                entry.failed += 1;
                before.clone()
            }
            Err(error) => return Err(error.into()),
        };
        let gains = |kind| differences(&by_person(&judged, &after, kind), &by_person(&judged, &before, kind));
        let gain = gains(None);
        if rules == Rules::All {
            all.clone_from(&gain);
        }
        entry.beside_all.push(mean(&differences(&gain, &all)));
        entry.convention_gain.push(mean(&gains(Some(TaskKind::Convention))));
        entry.gain.push(mean(&gain));
        let (name, count, gain) = (rules.name(), pairs.len(), mean(&gain));
        tell(&format!(
            "seed {seed}: {name}: {count} pairs, utility {gain:+.3}, {:.0} s",
            started.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    mean_of_units(values).value
}

fn interval(by_seed: &[f64]) -> String {
    match bounds(by_seed) {
        Some((low, high)) => format!("95% [{low:+.3}, {high:+.3}] by seed"),
        None => format!("no interval and no verdict of fewer than {LEAST_UNITS} seeds"),
    }
}

/// `tried`: with what the models were trained.
fn report(rules: Rules, found: &Found, all: &Found, tried: &str) -> Vec<Measurement> {
    let name = |what: &str| format!("ablations: {}: {what}", rules.name());
    let reasons: Vec<String> = found.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let by_seed: Vec<String> = found.gain.iter().map(|gain| format!("{gain:+.3}")).collect();
    let note = format!("a seed; over all seeds {}; baseline: all rules", reasons.join(", "));
    let mut measurements =
        vec![Measurement::new(name("pairs"), mean(&found.pairs), "pairs", note).beside(mean(&all.pairs))];
    let note = format!(
        "{} over all seeds; by seed {}; {} trainings failed; {tried}; baseline: all rules",
        interval(&found.gain),
        by_seed.join(", "),
        found.failed
    );
    let gained = Measurement::new(name("utility gained on the base"), mean(&found.gain), "utility", note);
    measurements.push(gained.beside(mean(&all.gain)));
    let note = format!("{}; baseline: all rules", interval(&found.convention_gain));
    let convention = mean(&found.convention_gain);
    let gained = Measurement::new(name("utility gained on conventions"), convention, "utility", note);
    measurements.push(gained.beside(mean(&all.convention_gain)));
    match rules {
        Rules::All => {
            if let Some((low, _)) = bounds(&found.gain) {
                let low = Measurement::new(name("utility gained, lower bound"), low, "utility", "95% by seed");
                measurements.push(low.aiming_at(0.0, Better::Above));
            }
        }
        Rules::Placebo => {
            if let Some((low, _)) = bounds(&found.convention_gain) {
                let note = "95% by seed: what was learned of another repository must not help here";
                let low = Measurement::new(name("gained on conventions, lower bound"), low, "utility", note);
                measurements.push(low.aiming_at(0.0, Better::Less));
            }
        }
        _ => {}
    }
    if rules != Rules::All {
        let note = format!("{}; what the rule changes, with its sign turned round", interval(&found.beside_all));
        let beside = mean(&found.beside_all);
        measurements.push(Measurement::new(name("utility less that of all rules"), beside, "utility", note));
    }
    measurements
}

/// Every rule left out in turn, on the same telemetry.
pub(crate) fn measure(seeds: u64, tried: Trial) -> anyhow::Result<Vec<Measurement>> {
    let material = material()?;
    let mut found: BTreeMap<Rules, Found> = BTreeMap::new();
    for seed in FIRST_SEED..FIRST_SEED + seeds {
        let config = tried.config(MethodConfig::default().method, seed);
        one_seed(&material, seed, &config, &mut found)?;
    }
    let all = found.get(&Rules::All).context("no seed was measured")?;
    let config = tried.config(MethodConfig::default().method, FIRST_SEED);
    let tried = format!("{}, {}", config.method.name(), settings(&config));
    Ok(found.iter().flat_map(|(rules, found)| report(*rules, found, all, &tried)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(by_seed: &[f64]) -> Vec<bool> {
        let found = Found { gain: by_seed.to_vec(), convention_gain: by_seed.to_vec(), ..Found::default() };
        let judged = [Rules::All, Rules::Placebo].into_iter().flat_map(|rules| report(rules, &found, &found, "tried"));
        judged.filter_map(|measurement| measurement.met).collect()
    }

    #[test]
    fn what_was_tried_stands_beside_what_was_gained() {
        let tried = Trial { steps: Some(7), ..Trial::default() }.config(MethodConfig::default().method, 1);
        let figures = report(Rules::All, &Found::default(), &Found::default(), &settings(&tried));
        let gained = figures.iter().find(|figure| figure.name.ends_with("utility gained on the base")).unwrap();
        assert!(gained.note.contains("7 steps of"), "{}", gained.note);
    }

    #[test]
    fn seeds_are_the_units_and_fewer_than_three_give_no_verdict() {
        assert!(verdicts(&[0.1, 0.1]).is_empty());
        // All rules must gain and the placebo must not. t(2) = 4.302653: the lower bounds are 0.075 and -0.148.
        assert_eq!(verdicts(&[0.09, 0.1, 0.11]), [true, false]);
        assert_eq!(verdicts(&[0.0, 0.1, 0.2]), [false, true]);
        assert_eq!(interval(&[0.09, 0.1, 0.11]), "95% [+0.075, +0.125] by seed");
    }
}
