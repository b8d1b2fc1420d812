//! What who is scored says at points, and what is made of it: thresholds, figures and differences.

use std::collections::BTreeMap;

use edit_model::{DecodeOptions, EditModel};
use events::ActionList;
use serde::{Deserialize, Serialize};
use simulator::baseline::NgramCache;
use simulator::history::judgement::{Judgement, judge};
use simulator::history::points::EditPoint;
use trainer::TrainerError;
use trainer::evaluation::in_parallel;
use trainer::gate::{Behaviour, bootstrap};

use super::windows::Step;

/// Fewest changes that an interval rests on: of fewer, resampling says hardly anything.
pub(super) const FEWEST_CHANGES: usize = 5;

/// What would be said at one point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// What is said, if anything is.
    pub(super) actions: ActionList,
    /// Probability of speaking; none of who has no such thing, and says what it says.
    pub(super) gate_score: Option<f32>,
}

impl Answer {
    pub(super) fn certain(actions: ActionList) -> Self {
        Self { actions, gate_score: None }
    }

    /// Whether it is silent by its gate score, as decoding decides it.
    fn is_below(&self, threshold: f32) -> bool {
        self.gate_score.is_some_and(|score| score < threshold)
    }
}

/// Asks `model` for its first action at each point, however low its gate score is: what is said from any threshold on
/// follows from one answer.
pub(super) fn ask(model: &EditModel, points: &[&EditPoint], threads: usize) -> Result<Vec<Answer>, TrainerError> {
    let options = DecodeOptions { max_actions: 1, threshold: 0.0, ..DecodeOptions::default() };
    in_parallel(points, threads, |point| {
        let completion = model.complete(&point.context, &options, &|| false, &mut |_| {})?;
        Ok(Answer { actions: completion.actions, gate_score: Some(completion.gate_score) })
    })
}

/// Points that are asked before the clock is looked at.
const ASKED_AT_ONCE: usize = 64;

/// What is said at `points`, behind what was `said` of the first of them before: not of all where it gets late.
pub(super) fn asked<E>(
    mut said: Vec<Answer>,
    points: &[&EditPoint],
    is_late: impl Fn() -> bool,
    ask: impl Fn(&[&EditPoint]) -> Result<Vec<Answer>, E>,
) -> Result<Vec<Answer>, E> {
    for some in points.get(said.len()..).unwrap_or_default().chunks(ASKED_AT_ONCE) {
        if is_late() {
            break;
        }
        said.extend(ask(some)?);
    }
    Ok(said)
}

/// What `cache` says at the points of successive changes. It learns each change when its points were answered.
pub(super) fn remembered(cache: &mut NgramCache, steps: &[Step]) -> Vec<Answer> {
    let mut said = Vec::new();
    for step in steps {
        said.extend(step.points.iter().map(|point| Answer::certain(cache.propose(&point.context))));
        cache.learn(step.replaced.iter().map(|(old, new)| (old.as_str(), new.as_str())));
    }
    said
}

/// Figures of one version on one window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) points: usize,
    /// Points that want an edit.
    pub(super) edit_points: usize,
    /// Mean utility of all points.
    pub(super) utility: f64,
    /// Share of all points at which it spoke.
    pub(super) shown: f64,
    /// Share of the points that want an edit at which it spoke.
    pub(super) edits_shown: f64,
    /// Share of them at which it changed a line that remains to be changed.
    pub(super) place: f64,
    /// Share of them at which it made exactly such a change.
    pub(super) content: f64,
    /// Share of the points that want none at which it was silent.
    pub(super) silent: f64,
}

/// How each answer is judged where `threshold` is the least gate score at which somebody speaks.
pub(super) fn judged(points: &[&EditPoint], answers: &[Answer], threshold: f32) -> Vec<Judgement> {
    let judge = |(point, answer): (&&EditPoint, &Answer)| {
        if answer.is_below(threshold) { Judgement::default() } else { judge(point, &answer.actions) }
    };
    points.iter().zip(answers).map(judge).collect()
}

/// A threshold, and the mean utility of those that it was found on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Threshold {
    /// Least gate score at which to speak; above 1 where silence is best.
    pub(super) threshold: f32,
    pub(super) utility: f64,
}

/// Above every gate score.
const NEVER: f32 = 2.0;

/// The threshold of the greatest utility at `points`; of equals the one that speaks least. None of no points.
pub(super) fn best_threshold(points: &[&EditPoint], answers: &[Answer]) -> Option<Threshold> {
    let mut found: Vec<(f32, f64)> = (answers.iter().zip(judged(points, answers, 0.0)))
        .filter_map(|(answer, judgement)| Some((answer.gate_score?, utility(&judgement))))
        .collect();
    if found.is_empty() {
        return None;
    }
    found.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut best = (NEVER, 0.0);
    let mut sum = 0.0;
    // Who speaks at a score speaks at all that are equal to it.
    for equal in found.chunk_by(|one, other| one.0.total_cmp(&other.0).is_eq()) {
        sum += equal.iter().map(|(_, utility)| utility).sum::<f64>();
        if let (true, Some((score, _))) = (sum > best.1, equal.first()) {
            best = (*score, sum);
        }
    }
    Some(Threshold { threshold: best.0, utility: best.1 / found.len() as f64 })
}

fn utility(judgement: &Judgement) -> f64 {
    Behaviour { shown: judgement.shown, matches: judgement.content }.utility()
}

impl Figures {
    pub(super) fn of(points: &[&EditPoint], judgements: &[Judgement]) -> Self {
        let both = || points.iter().zip(judgements);
        let count = |test: &dyn Fn(bool, &Judgement) -> bool| {
            both().filter(|(point, judgement)| test(point.wants_edit(), judgement)).count()
        };
        let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let (all, edits) = (points.len(), count(&|wants, _| wants));
        Self {
            points: all,
            edit_points: edits,
            utility: judgements.iter().map(utility).sum::<f64>() / all.max(1) as f64,
            shown: share(count(&|_, judgement| judgement.shown), all),
            edits_shown: share(count(&|wants, judgement| wants && judgement.shown), edits),
            place: share(count(&|wants, judgement| wants && judgement.place), edits),
            content: share(count(&|wants, judgement| wants && judgement.content), edits),
            silent: share(count(&|wants, judgement| !wants && !judgement.shown), all - edits),
        }
    }
}

/// A difference in utility on the same points, with its 95% interval; changes are what is resampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Difference {
    /// Whom it is compared with.
    pub(super) against: String,
    pub(super) estimate: f64,
    /// Not finite (in JSON: null) while it rests on too few changes.
    #[serde(deserialize_with = "unbounded_below")]
    pub(super) low: f64,
    #[serde(deserialize_with = "unbounded_above")]
    pub(super) high: f64,
    pub(super) changes: usize,
}

fn unbounded_below<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NEG_INFINITY))
}

fn unbounded_above<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

/// What is compared at each point: the change that it is of, and how both were judged there.
pub(super) type Paired<'a> = (&'a str, Judgement, Judgement);

/// The mean of candidate minus other.
pub(super) fn difference(against: &str, paired: &[Paired<'_>], seed: u64) -> Difference {
    let mut by_change: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (change, candidate, other) in paired {
        let entry = by_change.entry(*change).or_default();
        entry.0 += utility(candidate) - utility(other);
        entry.1 += 1.0;
    }
    let changes: Vec<(f64, f64)> = by_change.into_values().collect();
    let sum: f64 = changes.iter().map(|(sum, _)| sum).sum();
    let (low, high) = if changes.len() < FEWEST_CHANGES {
        (f64::NEG_INFINITY, f64::INFINITY)
    } else {
        bootstrap(&changes, RESAMPLES, seed)
    };
    Difference {
        against: against.to_owned(),
        estimate: sum / paired.len().max(1) as f64,
        low,
        high,
        changes: changes.len(),
    }
}

/// Resamples of an interval, as the gate has.
const RESAMPLES: usize = 2_000;

#[cfg(test)]
pub(super) mod tests {
    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::super::windows::tests::step;
    use super::*;

    /// Answers to the two points of each of `count` changes: what remains is proposed where `makes` says so, and where
    /// nothing remains the window's first word is changed where `disturbs` says so.
    pub(crate) fn answers(
        count: usize,
        makes: impl Fn(usize) -> bool,
        disturbs: impl Fn(usize) -> bool,
    ) -> Vec<Answer> {
        let speak = |number: usize, is_said: bool| {
            let said = step(number).points[0].next();
            Answer::certain(if is_said { said } else { ActionList::no_edit() })
        };
        (0..count).flat_map(|number| [speak(number, makes(number)), speak(number, disturbs(number))]).collect()
    }

    pub(crate) fn points(count: usize) -> Vec<EditPoint> {
        (0..count).flat_map(|number| step(number).points).collect()
    }

    #[test]
    fn what_was_said_when_it_got_late_is_said_once() {
        let points = points(100);
        let points: Vec<&EditPoint> = points.iter().collect();
        let looks = std::cell::Cell::new(0);
        let late_after = |most: usize| {
            looks.set(0);
            let looks = &looks;
            move || looks.replace(looks.get() + 1) >= most
        };
        let answer = |some: &[&EditPoint]| -> Result<Vec<Answer>, ()> {
            Ok(some.iter().map(|point| Answer::certain(point.next())).collect())
        };
        let all = asked(Vec::new(), &points, || false, answer).unwrap();
        assert_eq!(all.len(), points.len());
        assert_eq!(asked(Vec::new(), &points, || true, answer).unwrap(), []);
        let some = asked(Vec::new(), &points, late_after(2), answer).unwrap();
        assert_eq!(some.len(), 2 * ASKED_AT_ONCE);
        // A later call begins behind that.
        let rest = |some: &[&EditPoint]| {
            assert!(!some.contains(&points[0]), "it was asked before");
            answer(some)
        };
        assert_eq!(asked(some, &points, late_after(9), rest).unwrap(), all);
        assert_eq!(asked(all.clone(), &points, || false, |_| Err(())).unwrap(), all);
    }

    #[test]
    fn the_cache_knows_a_change_only_after_its_points() {
        let mut steps: Vec<Step> = (0..4).map(step).collect();
        for step in &mut steps {
            step.replaced = vec![("let value = load(key);\n".to_owned(), "let value = fetch(key);\n".to_owned())];
            for point in &mut step.points {
                "let value = load(key);\n".clone_into(&mut point.context.window.text);
            }
        }
        let said = remembered(&mut NgramCache::default(), &steps);
        let is_said: Vec<bool> = said.iter().map(|answer| !answer.actions.is_no_edit()).collect();
        // Two changes have to agree: those before the third one.
        assert_eq!(is_said, [false, false, false, false, true, true, true, true]);
    }

    #[test]
    fn figures_count_what_they_name() {
        let points = points(10);
        let points: Vec<&EditPoint> = points.iter().collect();
        let answers = answers(10, |number| number < 4, |number| number < 1);
        let figures = Figures::of(&points, &judged(&points, &answers, 0.5));
        assert_eq!((figures.points, figures.edit_points), (20, 10));
        let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-12, "{value} {expected}");
        near(figures.utility, (4.0 * 0.75 - 0.25) / 20.0);
        near(figures.shown, 0.25);
        near(figures.edits_shown, 0.4);
        near(figures.place, 0.4);
        near(figures.content, 0.4);
        near(figures.silent, 0.9);
    }

    #[test]
    fn differences_are_paired_and_rest_on_changes() {
        let points = points(20);
        let points: Vec<&EditPoint> = points.iter().collect();
        let better = judged(&points, &answers(20, |number| number % 2 == 0, |_| false), 0.5);
        let silent = judged(&points, &answers(20, |_| false, |_| false), 0.5);
        let paired: Vec<Paired<'_>> = points
            .iter()
            .zip(better.iter().zip(&silent))
            .map(|(point, (one, other))| (point.change.as_str(), *one, *other))
            .collect();
        let found = difference("base", &paired, 1);
        assert!((found.estimate - 0.75 * 10.0 / 40.0).abs() < 1e-12 && found.changes == 20);
        assert!(0.0 < found.low && found.low < found.estimate && found.estimate < found.high, "{found:?}");
        let few = difference("base", &paired[..8], 1);
        assert_eq!((few.changes, few.low, few.high), (4, f64::NEG_INFINITY, f64::INFINITY));
        let told = serde_json::to_string(&few).unwrap();
        assert!(told.contains("\"low\":null"), "{told}");
        assert_eq!(serde_json::from_str::<Difference>(&told).unwrap(), few);
    }

    #[test]
    fn a_threshold_is_the_best_of_all() {
        let points = points(20);
        let points: Vec<&EditPoint> = points.iter().collect();
        for seed in 0..200 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let (right, scores) = (random.random_range(0.0..1.0), random.random_range(1..12));
            let answers: Vec<Answer> = answers(20, |_| true, |_| true)
                .into_iter()
                .map(|mut answer| {
                    if !random.random_bool(right) {
                        "store".clone_into(&mut answer.actions.actions[0].new_text);
                    }
                    // Few scores, so that some are equal.
                    let score = random.random_range(0..scores) as f32 / 10.0;
                    Answer { gate_score: Some(score), ..answer }
                })
                .collect();
            let utility_from = |threshold: f32| Figures::of(&points, &judged(&points, &answers, threshold)).utility;
            let found = best_threshold(&points, &answers).unwrap();
            assert!((utility_from(found.threshold) - found.utility).abs() < 1e-12, "{seed}: {found:?}");
            for tenth in 0..13_u8 {
                let threshold = f32::from(tenth) / 10.0;
                let utility = utility_from(threshold);
                let speaks_less = threshold > found.threshold;
                assert!(utility < found.utility + 1e-12, "{seed}: {threshold} beats {found:?}");
                assert!(
                    !speaks_less || utility < found.utility - 1e-12,
                    "{seed}: {threshold} speaks less than {found:?}"
                );
            }
        }
        assert_eq!(best_threshold(&[], &[]), None);
    }

    #[test]
    fn a_threshold_says_who_speaks() {
        let points = points(2);
        let points: Vec<&EditPoint> = points.iter().collect();
        let answers: Vec<Answer> = answers(2, |_| true, |_| true)
            .into_iter()
            .zip([0.4, 0.5, 0.9, 0.5])
            .map(|(answer, score)| Answer { gate_score: Some(score), ..answer })
            .collect();
        let shown = |threshold: f32| -> Vec<bool> {
            judged(&points, &answers, threshold).iter().map(|judgement| judgement.shown).collect()
        };
        assert_eq!(shown(0.5), [false, true, true, true]);
        assert_eq!(shown(0.4), [true; 4]);
        // Two right at 0.9 and 0.4, two that nobody wanted at 0.5: all of it is worth more than the first alone.
        assert_eq!(best_threshold(&points, &answers), Some(Threshold { threshold: 0.4, utility: 0.25 }));
        assert_eq!(best_threshold(&points[1..2], &answers[1..2]), Some(Threshold { threshold: NEVER, utility: 0.0 }));
    }
}
