//! How right the labels are: what simulated developers meant beside what the labeler says of their editors' reports,
//! row by row of the label table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use events::{OpportunityId, PairReason, RawEvent, apply_actions};
use simulator::random::Dice;
use simulator::{Corpus, Disturbances, Language, Meaning, Scene, SceneSettings, judge};

use super::LabelingSizes;
use super::interval::{Share, clustered_share};
use super::office::{Office, Opportunity, START};
use super::scenes::{STAGGER, corpus, makers};
use super::wheel::{Labeled, OpenPair, label};
use crate::measurement::{Better, Measurement};

const SEED: u64 = 11;
/// What the labels must reach where nothing is lost, late or in the way.
const TARGET: f64 = 0.99;

/// A row of the label table, as finely as it can be told from a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    Kept,
    Modified,
    Stopped,
    Rewritten,
    Undone,
    Partly,
    TypedThrough,
    DismissedThenTyped,
    TypedAgainst,
    Dismissed,
    Missed,
    SilenceConfirmed,
    /// No label must come of it.
    NoLabel,
}

impl Row {
    const ALL: [Self; 13] = [
        Self::Kept,
        Self::Modified,
        Self::Stopped,
        Self::Rewritten,
        Self::Undone,
        Self::Partly,
        Self::TypedThrough,
        Self::DismissedThenTyped,
        Self::TypedAgainst,
        Self::Dismissed,
        Self::Missed,
        Self::SilenceConfirmed,
        Self::NoLabel,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kept => "tab, kept",
            Self::Modified => "tab, modified",
            Self::Stopped => "tab, then stop",
            Self::Rewritten => "tab, rewritten",
            Self::Undone => "tab, undone",
            Self::Partly => "partial accept",
            Self::TypedThrough => "typed through",
            Self::DismissedThenTyped => "esc, then typed",
            Self::TypedAgainst => "typed against",
            Self::Dismissed => "esc, then nothing",
            Self::Missed => "silence missed",
            Self::SilenceConfirmed => "silence confirmed",
            Self::NoLabel => "no label",
        }
    }

    fn of_truth(meaning: Meaning) -> Self {
        match meaning {
            Meaning::Keeps => Self::Kept,
            Meaning::ModifiesPart | Meaning::RewritesLaterStep => Self::Modified,
            Meaning::Stops => Self::Stopped,
            Meaning::Rewrites => Self::Rewritten,
            Meaning::Undoes => Self::Undone,
            Meaning::TakesPart => Self::Partly,
            Meaning::TypesThrough => Self::TypedThrough,
            Meaning::EscapesAndTypes => Self::DismissedThenTyped,
            Meaning::TypesAgainst => Self::TypedAgainst,
            Meaning::Escapes => Self::Dismissed,
            Meaning::MissesHelp => Self::Missed,
            Meaning::WantsNothing => Self::SilenceConfirmed,
            Meaning::Ignores | Meaning::Overlooks | Meaning::Pastes | Meaning::ChecksOut => Self::NoLabel,
        }
    }

    pub(crate) fn of_pair(open: &OpenPair) -> Self {
        let makes_nothing = open.text.chosen.as_ref().is_none_or(|chosen| chosen.actions.is_empty());
        match open.pair.reason {
            PairReason::AcceptedKept => Self::Kept,
            PairReason::AcceptedThenModified if makes_nothing => Self::Stopped,
            PairReason::AcceptedThenModified => Self::Modified,
            PairReason::AcceptedThenUndone if makes_nothing => Self::Undone,
            PairReason::AcceptedThenUndone => Self::Rewritten,
            PairReason::AcceptedPartially => Self::Partly,
            PairReason::TypedThrough => Self::TypedThrough,
            PairReason::DismissedThenTyped => Self::DismissedThenTyped,
            PairReason::TypedAgainst => Self::TypedAgainst,
            PairReason::Dismissed => Self::Dismissed,
            PairReason::Missed => Self::Missed,
            PairReason::SilenceConfirmed => Self::SilenceConfirmed,
            PairReason::Unknown => Self::NoLabel,
        }
    }
}

/// What becomes of events on their way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// They never come.
    Lost(f64),
    /// They come when they are waited for no more.
    Late(f64),
    /// They come in another order, within `lateness`.
    Reordered(f64),
}

impl Fault {
    fn share(self) -> f64 {
        match self {
            Self::Lost(share) | Self::Late(share) | Self::Reordered(share) => share,
        }
    }

    /// The events as they arrive, each with its fate by its own dice.
    fn travel(self, events: &[RawEvent], seed: u64) -> Vec<RawEvent> {
        let mut dice = Dice::new(seed, "on the way", &[]);
        let mut arrived = Vec::with_capacity(events.len());
        for event in events {
            let is_hit = dice.chance(self.share());
            let minutes = match self {
                Self::Lost(_) if is_hit => continue,
                Self::Late(_) if is_hit => dice.between(20, 60),
                Self::Reordered(_) if is_hit => dice.between(1, 14),
                _ => 0,
            };
            let mut event = event.clone();
            event.header.received_at = event.header.received_at + Duration::from_secs(60 * minutes as u64);
            arrived.push(event);
        }
        arrived.sort_by_key(|event| event.header.received_at);
        arrived
    }
}

/// What is compared.
struct Condition {
    name: &'static str,
    is_busy: bool,
    fault: Fault,
}

const CALM: &str = "nothing lost";

fn conditions() -> [Condition; 9] {
    let of = |name, is_busy, fault| Condition { name, is_busy, fault };
    [
        of(CALM, false, Fault::Lost(0.0)),
        of("5% lost", false, Fault::Lost(0.05)),
        of("20% lost", false, Fault::Lost(0.20)),
        of("5% late", false, Fault::Late(0.05)),
        of("20% late", false, Fault::Late(0.20)),
        of("5% reordered", false, Fault::Reordered(0.05)),
        of("20% reordered", false, Fault::Reordered(0.20)),
        of("behaviour noise", true, Fault::Lost(0.0)),
        of("behaviour noise, 5% lost", true, Fault::Lost(0.05)),
    ]
}

/// An opportunity that was played.
struct Played {
    person: usize,
    scene: Scene,
}

/// Everybody's sessions, as they reach the door.
struct Day {
    played: BTreeMap<OpportunityId, Played>,
    events: Vec<RawEvent>,
}

impl Day {
    fn new(office: &Office, corpus: &Corpus, sizes: &LabelingSizes, is_busy: bool) -> anyhow::Result<Self> {
        let disturbances = if is_busy { Disturbances::busy() } else { Disturbances::default() };
        let makers = makers(corpus, SceneSettings { disturbances, ..SceneSettings::default() })?;
        let (mut played, mut events) = (BTreeMap::new(), Vec::new());
        let mut begins = START;
        for person in 0..office.persons.len() {
            let mut session = office.session(person, 1, begins)?;
            begins = begins + STAGGER;
            let mut meanings: Vec<Meaning> = Meaning::ALL.repeat(sizes.label_rounds);
            Dice::new(SEED, "order of meanings", &[person as u64]).shuffle(&mut meanings);
            for (number, meaning) in meanings.into_iter().enumerate() {
                let maker = &makers[person % makers.len()];
                let mut dice = Dice::new(SEED, "scene", &[person as u64, number as u64]);
                let scene = maker.scene(meaning, &mut dice).context("no scene fits the corpus")?;
                let (id, reported) = session.play(&Opportunity::of(&scene))?;
                events.extend(reported);
                played.insert(id, Played { person, scene });
            }
            events.push(session.end()?);
        }
        Ok(Self { played, events })
    }
}

/// For each person how many are right, of how many.
type Counts = BTreeMap<Row, Vec<(usize, usize)>>;

/// What the labels of one condition are worth.
struct Score {
    precision: Counts,
    recall: Counts,
    /// Of the pairs of the right row: whose chosen side makes what was meant, and parts where it was meant.
    text: Counts,
    pairs: usize,
    seconds: f64,
    events: usize,
    closed: usize,
    left_out: BTreeMap<String, usize>,
    /// Ids and contents of all pairs.
    contents: BTreeSet<String>,
}

fn add(counts: &mut Counts, row: Row, person: usize, persons: usize, is_right: bool) {
    let entry = counts.entry(row).or_insert_with(|| vec![(0, 0); persons]);
    entry[person].0 += usize::from(is_right);
    entry[person].1 += 1;
}

/// Whether the chosen side makes what was meant, and parts from what was proposed where it was meant.
fn says_what_was_meant(scene: &Scene, open: &OpenPair) -> bool {
    let Some(language) = Language::of_id(&open.text.context.language) else { return false };
    if let (Some(parts_at), Some(rejected)) = (scene.parts_at, &open.text.rejected) {
        let meant = scene.proposed.get(parts_at).map(|action| action.range);
        let found = rejected.actions.first().map(|action| action.range);
        let is_there = meant.zip(found).is_some_and(|(meant, found)| meant.touches(found));
        if !is_there {
            return false;
        }
    }
    let wanted = scene.wanted.as_deref().unwrap_or(&scene.context.window.text);
    made_by_chosen(open).is_some_and(|made| judge::same(language, &made, wanted))
}

/// The window as the chosen side makes it.
fn made_by_chosen(open: &OpenPair) -> Option<String> {
    let window = &open.text.context.window;
    let chosen = open.text.chosen.as_ref().map(|chosen| chosen.actions.as_slice()).unwrap_or_default();
    let actions: Vec<_> = open.text.shared.iter().chain(chosen).cloned().collect();
    apply_actions(window.start_byte, &window.text, &actions)
}

/// Whether what a pair says is true. One that says *kept* says so of the leading actions that it holds, and of no other:
/// it is right where all of these were meant.
fn is_true(scene: &Scene, open: &OpenPair) -> bool {
    let (row, truth) = (Row::of_pair(open), Row::of_truth(scene.meaning));
    let meant = match scene.meaning {
        Meaning::Keeps => scene.proposed.len(),
        Meaning::ModifiesPart | Meaning::RewritesLaterStep | Meaning::Stops => scene.parts_at.unwrap_or_default(),
        _ => 0,
    };
    // What scrubbing replaced can not be compared letter by letter.
    if row != Row::Kept || open.pair.altered {
        return row == truth;
    }
    let Some((language, made)) = Language::of_id(&open.text.context.language).zip(made_by_chosen(open)) else {
        return false;
    };
    let window = &open.text.context.window;
    let leading = scene.proposed.iter().take(meant).enumerate().map(|(last, _)| &scene.proposed[..=last]);
    leading
        .filter_map(|actions| apply_actions(window.start_byte, &window.text, actions))
        .any(|kept| judge::same(language, &made, &kept))
}

fn score(day: &Day, labeled: &Labeled, persons: usize, seconds: f64, events: usize) -> Score {
    let mut by_opportunity: BTreeMap<OpportunityId, Vec<&OpenPair>> = BTreeMap::new();
    for open in &labeled.pairs {
        by_opportunity.entry(open.pair.opportunity_id).or_default().push(open);
    }
    let (mut precision, mut recall, mut text) = (Counts::new(), Counts::new(), Counts::new());
    for (id, Played { person, scene }) in &day.played {
        let truth = Row::of_truth(scene.meaning);
        let found = by_opportunity.get(id).map(Vec::as_slice).unwrap_or_default();
        let mut rows: BTreeMap<Row, bool> = BTreeMap::new();
        for open in found {
            *rows.entry(Row::of_pair(open)).or_insert(true) &= is_true(scene, open);
        }
        if rows.is_empty() {
            rows.insert(Row::NoLabel, truth == Row::NoLabel);
        }
        for (row, is_right) in &rows {
            add(&mut precision, *row, *person, persons, *is_right);
        }
        add(&mut recall, truth, *person, persons, rows.contains_key(&truth));
        // What scrubbing replaced can not be compared letter by letter.
        for open in found.iter().filter(|open| Row::of_pair(open) == truth && !open.pair.altered) {
            add(&mut text, truth, *person, persons, says_what_was_meant(scene, open));
        }
    }
    let contents = labeled.pairs.iter().map(|open| format!("{} {}", open.pair.pair_id, open.pair.content_digest));
    Score {
        precision,
        recall,
        text,
        pairs: labeled.pairs.len(),
        seconds,
        events,
        closed: labeled.outcomes.len(),
        left_out: labeled.filtered.clone(),
        contents: contents.collect(),
    }
}

/// One figure of a row, beside the same where nothing is lost.
fn figure(name: String, counts: &Counts, calm: &Counts, row: Row, is_aimed: bool) -> Option<Measurement> {
    let share = |counts: &Counts| counts.get(&row).and_then(|persons| clustered_share(persons));
    let Share { value, low, high, of } = share(counts)?;
    let note = format!("95% [{low:.3}, {high:.3}] by person, of {of}; baseline: {CALM}");
    let measurement = Measurement::new(name, value, "share", note);
    let measurement = match share(calm) {
        Some(calm) => measurement.beside(calm.value),
        None => measurement,
    };
    Some(if is_aimed { measurement.aiming_at(TARGET, Better::More) } else { measurement })
}

fn report(condition: &Condition, score: &Score, calm: &Score, measurements: &mut Vec<Measurement>) {
    let name = condition.name;
    let is_calm = condition.fault.share() == 0.0 && !condition.is_busy;
    let left_out: Vec<String> = score.left_out.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let left_out = if left_out.is_empty() { "nothing".to_owned() } else { left_out.join(", ") };
    let note = format!(
        "of {} events, {} opportunities closed; left out: {left_out}; {:.0} s; baseline: {CALM}",
        score.events, score.closed, score.seconds
    );
    let pairs = Measurement::new(format!("labels: {name}: pairs"), score.pairs as f64, "pairs", note);
    measurements.push(pairs.beside(calm.pairs as f64));
    let parts = [
        ("precision", &score.precision, &calm.precision),
        ("recall", &score.recall, &calm.recall),
        ("chosen text and place right", &score.text, &calm.text),
    ];
    for row in Row::ALL {
        for (what, counts, calm) in parts {
            // A pair for what has no row has nothing to compare.
            let has_text = row != Row::NoLabel || what != "chosen text and place right";
            let name = format!("labels: {name}: {}: {what}", row.name());
            measurements.extend(has_text.then(|| figure(name, counts, calm, row, is_calm)).flatten());
        }
    }
    if let Fault::Reordered(share) = condition.fault {
        let same = score.contents.intersection(&calm.contents).count() as f64;
        let all = score.contents.union(&calm.contents).count().max(1) as f64;
        let note = format!("{:.0}% of events 1 to 14 minutes late: within lateness nothing may differ", share * 100.0);
        let same = Measurement::new(format!("labels: {name}: the same pairs, bit for bit"), same / all, "share", note);
        measurements.push(same.aiming_at(1.0, Better::More));
    }
}

/// Precision and recall of every row under every condition.
pub(crate) fn measure(sizes: &LabelingSizes) -> anyhow::Result<Vec<Measurement>> {
    ensure!(sizes.people >= 2 && sizes.label_rounds >= 1, "an interval by person takes two persons and one round");
    let corpus = corpus()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let office = runtime.block_on(Office::open(SEED, sizes.people))?;
    let days = [Day::new(&office, &corpus, sizes, false)?, Day::new(&office, &corpus, sizes, true)?];
    let mut measurements = Vec::new();
    let mut calm: Option<Score> = None;
    for condition in conditions() {
        let day = &days[usize::from(condition.is_busy)];
        let arrivals = condition.fault.travel(&day.events, SEED);
        let started = Instant::now();
        let labeled = runtime.block_on(label(&office, &arrivals))?;
        let seconds = started.elapsed().as_secs_f64();
        let score = score(day, &labeled, sizes.people, seconds, arrivals.len());
        report(&condition, &score, calm.as_ref().unwrap_or(&score), &mut measurements);
        // The first condition is what the others stand beside.
        calm = calm.or(Some(score));
    }
    Ok(measurements)
}

#[cfg(test)]
mod tests {
    use simulator::SceneMaker;

    use super::*;

    fn events() -> Vec<RawEvent> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let office = runtime.block_on(Office::open(5, 1)).unwrap();
        let corpus = corpus().unwrap();
        let maker = SceneMaker::new(&corpus, 0, SceneSettings::default()).unwrap();
        let mut session = office.session(0, 1, START).unwrap();
        let scenes = (0..8).map(|number| maker.scene(Meaning::Keeps, &mut Dice::new(5, "scene", &[number])).unwrap());
        scenes.flat_map(|scene| session.play(&Opportunity::of(&scene)).unwrap().1).collect()
    }

    #[test]
    fn faults_hit_about_their_share_and_lose_nothing_but_what_they_say() {
        let events = events();
        let ids = |events: &[RawEvent]| events.iter().map(|event| event.header.event_id).collect::<BTreeSet<_>>();
        assert_eq!(Fault::Lost(0.0).travel(&events, 1), {
            let mut sorted = events.clone();
            sorted.sort_by_key(|event| event.header.received_at);
            sorted
        });
        let lost = events.len() - Fault::Lost(0.5).travel(&events, 1).len();
        assert!(lost * 4 > events.len() && lost * 4 < events.len() * 3, "{lost} of {}", events.len());
        for fault in [Fault::Late(0.5), Fault::Reordered(0.5)] {
            let arrived = fault.travel(&events, 1);
            assert_eq!(ids(&arrived), ids(&events));
            assert!(arrived.is_sorted_by_key(|event| event.header.received_at));
            assert_ne!(arrived, events);
        }
    }

    #[test]
    fn a_pair_that_says_kept_of_a_step_that_was_turned_down_is_wrong() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let office = runtime.block_on(Office::open(5, 1)).unwrap();
        let corpus = corpus().unwrap();
        let maker = SceneMaker::new(&corpus, 0, SceneSettings::default()).unwrap();
        let mut scenes =
            (0..).map(|number| maker.scene(Meaning::Keeps, &mut Dice::new(5, "scene", &[number])).unwrap());
        let scene = scenes.find(|scene| scene.proposed.len() > 1).unwrap();
        let mut session = office.session(0, 1, START).unwrap();
        let (id, mut events) = session.play(&Opportunity::of(&scene)).unwrap();
        events.push(session.end().unwrap());
        let labeled = runtime.block_on(label(&office, &events)).unwrap();
        let precision_of_kept = |scene: Scene| {
            let day = Day { played: BTreeMap::from([(id, Played { person: 0, scene })]), events: Vec::new() };
            score(&day, &labeled, 1, 0.0, 0).precision.get(&Row::Kept).cloned()
        };
        let turned_down = |meaning, at| Scene { meaning, parts_at: Some(at), ..scene.clone() };
        let kept = scene.proposed.len();
        assert_eq!(precision_of_kept(scene.clone()), Some(vec![(1, 1)]));
        assert_eq!(precision_of_kept(turned_down(Meaning::Stops, kept - 1)), Some(vec![(0, 1)]));
        assert_eq!(precision_of_kept(turned_down(Meaning::Stops, kept)), Some(vec![(1, 1)]));
        assert_eq!(precision_of_kept(turned_down(Meaning::Undoes, 0)), Some(vec![(0, 1)]));
    }

    #[test]
    fn every_row_but_that_without_a_label_has_a_meaning_and_a_reason() {
        for meaning in Meaning::ALL {
            assert_eq!(Row::of_truth(meaning) == Row::NoLabel, meaning.label().is_none(), "{meaning:?}");
        }
        for row in Row::ALL {
            assert!(Meaning::ALL.iter().any(|meaning| Row::of_truth(*meaning) == row), "{}", row.name());
        }
    }
}
