//! From a change to places in time and text at which a suggestion may be shown.
//!
//! A change has hunks; an order is a permutation of them, drawn at random. At step k of an order its first k hunks stand
//! in the text, and the developer looks near hunk k: the window shows it whole, with the cursor on any of its lines or of
//! those around. For each such point there is one of the same step at which nothing remains to be edited, in a window of
//! a changed file that no remaining hunk touches; every second one shows a word that the last hunk removed, so that not
//! every window with a familiar word wants an edit.
//!
//! Whoever answers a point can not know where in the window the edit is, nor whether there is one. That some place of
//! this file is worth a look is given away, as an editor's cursor gives it away.

use std::collections::BTreeSet;
use std::ops::Range;

use events::{ActionList, ByteRange, EditAction, EditContext, RecentEdit, Window};
use serde::{Deserialize, Serialize};

use super::hunks::{Hunk, apply, lines};
use super::{Census, Change, FileChange, LeftOut};
use crate::random::Dice;
use crate::text::{contains_word, words_of};

/// How points are drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointSettings {
    /// Most points of a change, half of which want no edit.
    pub points: usize,
    /// Most orders of a change.
    pub orders: usize,
    /// Lines of the window above the cursor's, and as many below.
    pub reach: usize,
    /// Most recent edits of a context.
    pub recent_edits: usize,
    /// Seed of everything that is drawn.
    pub seed: u64,
}

impl Default for PointSettings {
    /// A window as large as what a prompt of the base shows.
    fn default() -> Self {
        Self { points: 20, orders: 2, reach: 3, recent_edits: 3, seed: 1 }
    }
}

/// A place at which a suggestion may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditPoint {
    /// The change that it is of: points of one change are not independent.
    pub change: String,
    /// Number of the order, from 0.
    pub order: usize,
    /// How many hunks of the change stand in the text already.
    pub revealed: usize,
    /// What is known.
    pub context: EditContext,
    /// The hunks in the window that are still to come, each in its independent parts, as actions on the window; the one
    /// that this order has next comes first. Empty where no edit is wanted.
    pub remaining: Vec<Vec<EditAction>>,
}

impl EditPoint {
    /// Whether something remains to be edited in the window.
    #[must_use]
    pub fn wants_edit(&self) -> bool {
        !self.remaining.is_empty()
    }

    /// What this order does next: an open list, because what follows is not known; `NO_EDIT` where nothing remains.
    #[must_use]
    pub fn next(&self) -> ActionList {
        match self.remaining.first() {
            Some(parts) => ActionList { actions: parts.clone(), closed: false },
            None => ActionList::no_edit(),
        }
    }
}

/// The points of `change`, whose files have the hunks `of_files` ([`change_hunks`](super::hunks::change_hunks)): as many
/// that want an edit as that want none, in the order in which they are met.
#[must_use]
pub fn points(
    repository: &str,
    change: &Change,
    of_files: &[Vec<Hunk>],
    settings: &PointSettings,
    census: &mut Census,
) -> Vec<EditPoint> {
    let all: Vec<Place> = of_files
        .iter()
        .enumerate()
        .flat_map(|(file, hunks)| (0..hunks.len()).map(move |hunk| Place { file, hunk }))
        .collect();
    for reason in of_files.iter().flatten().filter_map(|hunk| hunk.unsuitable) {
        census.add(reason, 1);
    }
    let drawing = Drawing { repository, change, of_files, settings };
    let mut found = Vec::new();
    let orders = orders(&all, settings, &change.id);
    for (order, places) in orders.iter().enumerate() {
        let suitable: Vec<usize> =
            (0..places.len()).filter(|step| drawing.hunk(places[*step]).unsuitable.is_none()).collect();
        // Half of the points want an edit; what one order has too few steps for is left to the next.
        let most = (settings.points / 2).saturating_sub(found.len() / 2).div_ceil(orders.len() - order);
        for step in spread(&suitable, most) {
            match drawing.pair_at(order, places, step) {
                Some(pair) => found.extend(pair),
                None => census.add(LeftOut::NoQuietPlace, 1),
            }
        }
    }
    found
}

/// At most `most` of `steps`, evenly spread.
fn spread(steps: &[usize], most: usize) -> impl Iterator<Item = usize> + '_ {
    let count = steps.len().min(most);
    (0..count).filter_map(move |number| steps.get(number * steps.len() / count).copied())
}

/// Different permutations of `all`, at most as many as the settings say.
fn orders(all: &[Place], settings: &PointSettings, change: &str) -> Vec<Vec<Place>> {
    let mut found: Vec<Vec<Place>> = Vec::new();
    for number in 0..settings.orders as u64 {
        let mut dice = Dice::new(settings.seed, &format!("order of {change}"), &[number]);
        let mut order = all.to_vec();
        dice.shuffle(&mut order);
        if !found.contains(&order) {
            found.push(order);
        }
    }
    found
}

/// A hunk of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    file: usize,
    hunk: usize,
}

/// What points of one change are drawn from.
struct Drawing<'a> {
    repository: &'a str,
    change: &'a Change,
    of_files: &'a [Vec<Hunk>],
    settings: &'a PointSettings,
}

/// A file at a step of an order.
struct State {
    text: String,
    /// Hunks that are still to come, with where their lines are now.
    remaining: Vec<(usize, Range<usize>)>,
}

impl Drawing<'_> {
    fn hunk(&self, place: Place) -> &Hunk {
        &self.of_files[place.file][place.hunk]
    }

    fn file(&self, number: usize) -> &FileChange {
        &self.change.files[number]
    }

    /// The file with what is revealed of it.
    fn state(&self, file: usize, revealed: &[Place]) -> State {
        let shown: BTreeSet<usize> =
            revealed.iter().filter(|place| place.file == file).map(|place| place.hunk).collect();
        let before = &self.file(file).before;
        let hunks = &self.of_files[file];
        let applied = shown.iter().map(|number| (&hunks[*number].range, hunks[*number].new_text.as_str()));
        let text = apply(before, applied);
        let (mut grown, mut shrunk) = (0, 0);
        let mut remaining = Vec::new();
        for (number, hunk) in hunks.iter().enumerate() {
            if shown.contains(&number) {
                grown += hunk.new_text.len();
                shrunk += hunk.range.len();
            } else {
                let start = hunk.range.start + grown - shrunk;
                remaining.push((number, start..start + hunk.range.len()));
            }
        }
        State { text, remaining }
    }

    /// A point that wants the hunk of `step`, and one of the same step that wants nothing.
    fn pair_at(&self, order: usize, places: &[Place], step: usize) -> Option<[EditPoint; 2]> {
        let (revealed, next) = (&places[..step], places[step]);
        let mut dice =
            Dice::new(self.settings.seed, &format!("points of {}", self.change.id), &[order as u64, step as u64]);
        let state = self.state(next.file, revealed);
        let edit = self.edit_point(&state, next, &mut dice)?;
        let quiet = self.quiet_point(revealed, dice.chance(0.5), &mut dice)?;
        Some([edit, quiet].map(|(file, (window, cursor_byte), remaining)| EditPoint {
            change: self.change.id.clone(),
            order,
            revealed: step,
            context: EditContext {
                repository: self.repository.to_owned(),
                path: self.file(file).path.clone(),
                language: self.file(file).language.id().to_owned(),
                recent_edits: self.recent(revealed),
                window,
                cursor_byte,
            },
            remaining,
        }))
    }

    fn edit_point(&self, state: &State, next: Place, dice: &mut Dice) -> Option<Drawn> {
        let (_, range) = state.remaining.iter().find(|(number, _)| *number == next.hunk)?;
        let starts = line_starts(&state.text);
        let first = line_at(&starts, range.start);
        // The cursor is on any line from which the window shows every line of the hunk.
        let (reach, last) = (self.settings.reach, first + self.hunk(next).old_lines.max(1) - 1);
        let highest = (first + reach).min(starts.len() - 1);
        let cursor = dice.between(last.saturating_sub(reach).min(highest), highest);
        let (window, cursor_byte) = window(&state.text, &starts, cursor, reach);
        let shown = range_of(&window);
        let mut remaining: Vec<Vec<EditAction>> = Vec::new();
        let mut shows_next = false;
        for (number, now) in &state.remaining {
            let hunk = &self.of_files[next.file][*number];
            if hunk.unsuitable.is_some() || now.start < shown.start || now.end > shown.end {
                continue;
            }
            let parts = self.actions(next.file, hunk, now);
            if *number == next.hunk {
                shows_next = true;
                remaining.insert(0, parts);
            } else {
                remaining.push(parts);
            }
        }
        shows_next.then_some((next.file, (window, cursor_byte), remaining))
    }

    /// A window that no remaining hunk touches, suitable or not, and that is not blank.
    fn quiet_point(&self, revealed: &[Place], is_familiar: bool, dice: &mut Dice) -> Option<Drawn> {
        let reach = self.settings.reach;
        let words = revealed.last().map(|last| self.removed_words(*last)).unwrap_or_default();
        let states: Vec<State> = (0..self.change.files.len()).map(|file| self.state(file, revealed)).collect();
        let starts: Vec<Vec<usize>> = states.iter().map(|state| line_starts(&state.text)).collect();
        let mut quiet: Vec<(usize, usize)> = Vec::new();
        for (file, (state, starts)) in states.iter().zip(&starts).enumerate() {
            quiet.extend((0..starts.len()).map(|line| (file, line)).filter(|(_, line)| {
                let shown = shown_bytes(&state.text, starts, *line, reach);
                // In the order of the text, as hunks are: only the first that does not end before it can touch it.
                let next = state.remaining.partition_point(|(_, now)| now.end < shown.start);
                state.remaining.get(next).is_none_or(|(_, now)| shown.end < now.start)
            }));
        }
        // Only what is drawn is looked at: most changes are small and most files are not.
        let mut found = None;
        for _ in 0..QUIET_DRAWS {
            let (file, line) = *dice.pick(&quiet)?;
            let drawn = window(&states[file].text, &starts[file], line, reach);
            if drawn.0.text.trim().is_empty() {
                continue;
            }
            let has_word = words.iter().any(|word| contains_word(&drawn.0.text, word));
            if has_word || !is_familiar || found.is_none() {
                found = Some((file, drawn, Vec::new()));
            }
            if has_word || !is_familiar {
                break;
            }
        }
        found
    }

    /// Words that a hunk removes and does not write.
    fn removed_words(&self, place: Place) -> BTreeSet<&str> {
        let hunk = self.hunk(place);
        let written: BTreeSet<&str> = words_of(&hunk.new_text).collect();
        let old = hunk.old_text(&self.change.files[place.file].before);
        words_of(old).filter(|word| !written.contains(word)).collect()
    }

    /// The parts of a hunk that is at `now`.
    fn actions(&self, file: usize, hunk: &Hunk, now: &Range<usize>) -> Vec<EditAction> {
        let FileChange { path, before, .. } = self.file(file);
        let place = |offset: usize| (offset - hunk.range.start + now.start) as u64;
        hunk.parts
            .iter()
            .map(|part| EditAction {
                path: path.clone(),
                range: ByteRange::new(place(part.range.start), place(part.range.end)),
                old_text: before.get(part.range.clone()).unwrap_or_default().to_owned(),
                new_text: part.new_text.clone(),
            })
            .collect()
    }

    /// The last of the revealed hunks, oldest first.
    fn recent(&self, revealed: &[Place]) -> Vec<RecentEdit> {
        let first = revealed.len().saturating_sub(self.settings.recent_edits);
        let without_break = |text: &str| text.strip_suffix('\n').unwrap_or(text).to_owned();
        revealed[first..]
            .iter()
            .map(|place| {
                let (file, hunk) = (self.file(place.file), self.hunk(*place));
                RecentEdit {
                    path: file.path.clone(),
                    old_text: without_break(hunk.old_text(&file.before)),
                    new_text: without_break(&hunk.new_text),
                }
            })
            .collect()
    }
}

/// How often a quiet place is drawn until one is not blank, and shows a familiar word where one is wanted.
const QUIET_DRAWS: usize = 64;

/// File, window with its cursor, and what remains there.
type Drawn = (usize, (Window, u64), Vec<Vec<EditAction>>);

/// Where each line starts; an empty text has one line.
pub(crate) fn line_starts(text: &str) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut start = 0;
    for line in lines(text) {
        starts.push(start);
        start += line.len();
    }
    if starts.is_empty() {
        starts.push(0);
    }
    starts
}

/// The line that a byte is in; behind the end it is the last one.
pub(crate) fn line_at(starts: &[usize], byte: usize) -> usize {
    starts.partition_point(|start| *start <= byte).saturating_sub(1)
}

/// The bytes of the lines that a window around line `cursor` shows.
fn shown_bytes(text: &str, starts: &[usize], cursor: usize, reach: usize) -> Range<usize> {
    starts[cursor.saturating_sub(reach)]..starts.get(cursor + reach + 1).copied().unwrap_or(text.len())
}

/// The window of `reach` lines each way around line `cursor`, and the byte of the cursor: that line's first character.
pub(crate) fn window(text: &str, starts: &[usize], cursor: usize, reach: usize) -> (Window, u64) {
    let shown = shown_bytes(text, starts, cursor, reach);
    let line = &text[shown_bytes(text, starts, cursor, 0)];
    let blank = line.len() - line.trim_start_matches([' ', '\t']).len();
    let window = Window {
        start_byte: shown.start as u64,
        first_line: cursor.saturating_sub(reach) as u64,
        text: text[shown].to_owned(),
    };
    (window, (starts[cursor] + blank) as u64)
}

fn range_of(window: &Window) -> Range<usize> {
    let start = window.start_byte as usize;
    start..start + window.text.len()
}

#[cfg(test)]
mod tests {
    use events::apply_actions;
    use proptest::prelude::*;

    use super::*;
    use crate::history::hunks::{change_hunks, hunks};
    use crate::history::judgement::{Judgement, judge};
    use crate::source::Language;

    fn change(files: Vec<(String, String)>) -> Change {
        let file = |(number, (before, after)): (usize, (String, String))| FileChange {
            path: format!("{number}.rs"),
            language: Language::Rust,
            before: before.into(),
            after: after.into(),
        };
        Change { id: "one".to_owned(), time_seconds: 0, files: files.into_iter().enumerate().map(file).collect() }
    }

    /// A file of many lines in which some are changed, removed or doubled.
    fn file() -> impl Strategy<Value = (String, String)> {
        let line = prop::sample::select(vec!["let a = load(b);", "é(x, load)", "", "    return load;", "}"]);
        prop::collection::vec((line, 0..12_u8), 1..60).prop_map(|lines| {
            let (mut before, mut after) = (String::new(), String::new());
            for (line, kind) in lines {
                before.push_str(line);
                before.push('\n');
                let line = match kind {
                    0 => continue,
                    1 => format!("{line}\nlet fresh = 1;\n"),
                    2 => line.replace("load", "fetch") + "\n",
                    _ => format!("{line}\n"),
                };
                after.push_str(&line);
            }
            (before, after)
        })
    }

    fn drawn(change: &Change, seed: u64) -> Vec<EditPoint> {
        let settings = PointSettings { seed, ..PointSettings::default() };
        points("r", change, &change_hunks(&change.files), &settings, &mut Census::default())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn points_keep_what_they_promise(files in prop::collection::vec(file(), 1..4), seed in 0..1000_u64) {
            let change = change(files);
            let found = drawn(&change, seed);
            prop_assert_eq!(&found, &drawn(&change, seed), "the same seed draws the same points");
            let (edits, quiet): (Vec<_>, Vec<_>) = found.iter().partition(|point| point.wants_edit());
            prop_assert_eq!(edits.len(), quiet.len());
            prop_assert!(found.len() <= 20);
            for point in &found {
                let EditContext { window, cursor_byte, path, recent_edits, .. } = &point.context;
                let end = window.start_byte + window.text.len() as u64;
                prop_assert!((window.start_byte..=end).contains(cursor_byte));
                prop_assert!(window.text.lines().count() <= 7);
                prop_assert_eq!(recent_edits.len(), point.revealed.min(3));
                for parts in &point.remaining {
                    prop_assert!(parts.iter().all(|part| part.path == *path));
                    let after = apply_actions(window.start_byte, &window.text, parts);
                    prop_assert!(after.is_some_and(|after| after != window.text), "{:?}", point);
                    // Whoever makes the first part of any of them is right.
                    let made = ActionList { actions: parts[..1].to_vec(), closed: false };
                    prop_assert_eq!(judge(point, &made), Judgement { shown: true, place: true, content: true });
                }
            }
        }

        /// The context of a point can be made again from the text before and the hunks that it reveals, and from nothing
        /// else: with every other hunk changed to something that no file has, the same contexts come out.
        #[test]
        fn a_context_knows_nothing_of_what_remains(files in prop::collection::vec(file(), 1..3), seed in 0..1000_u64) {
            let change = change(files);
            let settings = PointSettings { seed, ..PointSettings::default() };
            let of_files: Vec<Vec<Hunk>> = change.files.iter().map(hunks).collect();
            let all: Vec<Place> = of_files.iter().enumerate()
                .flat_map(|(file, hunks)| (0..hunks.len()).map(move |hunk| Place { file, hunk })).collect();
            for (order, places) in orders(&all, &settings, &change.id).into_iter().enumerate() {
                for step in 0..places.len() {
                    let mut disguised = of_files.clone();
                    for place in &places[step..] {
                        let hunk = &mut disguised[place.file][place.hunk];
                        hunk.new_text = "SECRET\n".to_owned();
                        for part in &mut hunk.parts {
                            part.new_text = "SECRET".to_owned();
                        }
                    }
                    let contexts = |of_files: &[Vec<Hunk>]| {
                        let drawing = Drawing { repository: "r", change: &change, of_files, settings: &settings };
                        drawing.pair_at(order, &places, step).map(|pair| pair.map(|point| point.context))
                    };
                    let (known, without) = (contexts(&of_files), contexts(&disguised));
                    prop_assert_eq!(&known, &without);
                    for context in known.iter().flatten() {
                        prop_assert!(!context.window.text.contains("SECRET"));
                    }
                }
            }
        }

        #[test]
        fn revealing_everything_makes_the_text_after(files in prop::collection::vec(file(), 1..4)) {
            let change = change(files);
            let of_files: Vec<Vec<Hunk>> = change.files.iter().map(hunks).collect();
            let settings = PointSettings::default();
            let drawing = Drawing { repository: "r", change: &change, of_files: &of_files, settings: &settings };
            for (file, hunks) in of_files.iter().enumerate() {
                let all: Vec<Place> = (0..hunks.len()).map(|hunk| Place { file, hunk }).collect();
                let state = drawing.state(file, &all);
                prop_assert_eq!(state.text.as_str(), &*change.files[file].after);
                prop_assert!(state.remaining.is_empty());
                // Whatever is revealed: a remaining hunk's lines stand where they are said to stand.
                for shown in 0..all.len() {
                    let state = drawing.state(file, &all[shown..]);
                    for (number, now) in &state.remaining {
                        prop_assert_eq!(&state.text[now.clone()], hunks[*number].old_text(&change.files[file].before));
                    }
                }
            }
        }
    }

    #[test]
    fn orders_differ_and_every_hunk_can_be_next() {
        let before: String = (0..40).map(|number| format!("a(load, {number});\n{}", "b;\n".repeat(8))).collect();
        let change = change(vec![(before.clone(), before.replace("load", "fetch"))]);
        let found = drawn(&change, 1);
        assert_eq!(found.len(), 20);
        let firsts: BTreeSet<u64> =
            found.iter().filter_map(|point| Some(point.remaining.first()?.first()?.range.start)).collect();
        assert!(firsts.len() >= 8, "{firsts:?}");
        assert_eq!(found.iter().map(|point| point.order).collect::<BTreeSet<_>>().len(), 2);
        // Two numbers of revealed hunks at least: points are spread over an order.
        assert!(found.iter().map(|point| point.revealed).collect::<BTreeSet<_>>().len() >= 4);
    }

    #[test]
    fn a_change_of_one_hunk_has_one_order() {
        let change =
            change(vec![("a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n".to_owned(), "A\nb\nc\nd\ne\nf\ng\nh\ni\nj\n".to_owned())]);
        let found = drawn(&change, 3);
        assert_eq!(found.len(), 2);
        assert!(found[0].wants_edit() && !found[1].wants_edit());
        assert_eq!(found[0].next().actions[0].new_text, "A\n");
        assert!(found[1].next().is_no_edit() && found[1].next().closed);
    }

    #[test]
    fn a_change_that_leaves_no_quiet_place_has_no_points() {
        let change = change(vec![("a\n".to_owned(), "b\n".to_owned())]);
        let mut census = Census::default();
        let of_files = change_hunks(&change.files);
        assert!(points("r", &change, &of_files, &PointSettings::default(), &mut census).is_empty());
        assert_eq!(census.counts().collect::<Vec<_>>(), [(LeftOut::NoQuietPlace, 1)]);
    }
}
