//! Trajectories as opportunities: what is seen in the middle of one, and what comes next.
//!
//! **Where an edit is wanted**: before every step but the first, which nobody can know. The steps before it are the recent
//! edits; the cursor is near the step, on any line from which the window shows it; the answer is the step, and the one
//! behind it where that is in sight too. The list is open, because what follows is elsewhere; it is closed (STOP) only
//! where the trajectory ends. Any other step that is still to come and in sight counts as right, as in
//! [histories](crate::history).
//!
//! **Where none is wanted**: in the last state, where all is done ([`Quiet::Done`]); in the middle, at a place that no
//! step to come touches ([`Quiet::Away`]); and in the start state, where nothing is recent, away from the first step
//! ([`Quiet::Before`]): natural code, in which the base learns to be silent. Half of the windows show a word of the last
//! edit, where there is one, so that not every window with a familiar word wants an edit.
//!
//! The window and the recent edits are those that serving would cut out; lines that no prompt shows are left out of it.
//! Names of repository and path are rendered as the anonymizer renders them.

use crate::base::{SCRAMBLED_SHARE, package_of, scramble, scrambled_path, short_path};
use crate::history::hunks::{between_ends, word_changes};
use crate::history::points::{EditPoint, line_at, line_starts, window};
use crate::random::Dice;
use crate::text::{is_word_byte, pieces, word_positions, words_of};
use crate::trajectory::build::Built;
use crate::trajectory::language::CodeLanguage;
use crate::trajectory::{Pattern, Trajectory, replace};
use events::{ActionList, ByteRange, EditAction, EditContext, RecentEdit, Window};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Most recent edits of a context, as serving has them.
const RECENT_EDITS: usize = 8;
/// Most of them that a prompt shows.
const SHOWN_EDITS: usize = 3;
/// Longest side of a recent edit, as serving has it.
const RECENT_EDIT_BYTES: usize = 2048;
/// Lines of a window each way. A prompt shows seven lines at most, so none that is farther away.
const REACH: usize = 6;
/// Lines each way that a prompt shows where there are as many above as below.
const NEAR: usize = 3;
/// Most parts of an answer; a step of more is one part.
const PARTS: usize = 4;
/// Most bytes of what a second step of an answer replaces and writes: answers are short.
const SECOND_BYTES: usize = 80;
/// Share of quiet windows in which a familiar word is looked for.
const FAMILIAR: f64 = 0.5;
/// Places that are drawn until one is quiet.
const QUIET_DRAWS: usize = 32;
/// A word that is shorter says little.
const FAMILIAR_BYTES: usize = 3;

/// A trajectory and its files' last states.
#[derive(Debug, Clone)]
pub struct PlayedTrajectory {
    /// The trajectory.
    pub trajectory: Trajectory,
    /// Its files' last states, in the order of [`Trajectory::files`].
    pub texts: Vec<Arc<str>>,
}

impl From<Built> for PlayedTrajectory {
    fn from(built: Built) -> Self {
        Self { trajectory: built.trajectory, texts: built.texts }
    }
}

/// One opportunity in a trajectory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrajectoryTask {
    /// What is seen, and what counts as right. Its change is the repository and the first file of the trajectory.
    pub point: EditPoint,
    /// What a model should answer.
    pub wanted: ActionList,
    /// What the trajectory is an example of.
    pub pattern: Pattern,
    /// The language of the file that is looked at.
    pub language: CodeLanguage,
}

/// Why nothing is to be done somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quiet {
    /// Everything is done.
    Done,
    /// What is to come is elsewhere.
    Away,
    /// Nothing has begun, so that nothing follows.
    Before,
}

impl TrajectoryTask {
    /// Whether all that the answer writes can be copied: each of its words stands in the window, or in a recent edit that
    /// a prompt has room for. What else a step writes is free-form.
    #[must_use]
    pub fn is_in_sight(&self) -> bool {
        let EditContext { window, recent_edits, .. } = &self.point.context;
        let shown = recent_edits.iter().rev().take(SHOWN_EDITS).flat_map(|edit| [&edit.old_text, &edit.new_text]);
        let seen: BTreeSet<&str> = shown.chain([&window.text]).flat_map(|text| written_words(text)).collect();
        self.wanted.actions.iter().flat_map(|action| written_words(&action.new_text)).all(|word| seen.contains(word))
    }
}

/// Words and numbers.
fn written_words(text: &str) -> impl Iterator<Item = &str> {
    pieces(text).filter(|piece| piece.bytes().all(is_word_byte))
}

impl PlayedTrajectory {
    /// The repository and the file that it begins in: what is alike in both is not independent.
    #[must_use]
    pub fn origin(&self) -> String {
        let path = self.trajectory.files.first().map_or("", |file| file.path.as_str());
        format!("{}/{path}", self.trajectory.repository)
    }

    /// Numbers of the steps that can be wanted: all that follow from something.
    #[must_use]
    pub fn steps(&self) -> Range<usize> {
        1..self.trajectory.steps.len().max(1)
    }

    /// The opportunity before step `step`; `None` where the step is larger than a window, or is the first.
    #[must_use]
    pub fn edit_task(&self, step: usize, dice: &mut Dice) -> Option<TrajectoryTask> {
        if step == 0 || step >= self.trajectory.steps.len() {
            return None;
        }
        Middle::at(self, step)?.edit_task(dice)
    }

    /// An opportunity at which nothing is wanted; before step `step` if it is in the middle. `None` where no quiet place
    /// was met.
    #[must_use]
    pub fn quiet_task(&self, why: Quiet, step: usize, dice: &mut Dice) -> Option<TrajectoryTask> {
        let steps = self.trajectory.steps.len();
        let made = match why {
            Quiet::Done => steps,
            Quiet::Away if step == 0 || step >= steps => return None,
            Quiet::Away => step,
            Quiet::Before => 0,
        };
        Middle::at(self, made)?.quiet_task(dice)
    }

    /// What was replaced by the whole trajectory, as a cache of edits learns it: the lines of each step before and after.
    #[must_use]
    pub fn replaced(&self) -> Vec<(String, String)> {
        let steps = self.trajectory.steps.len();
        let edits = recent(self, self.texts.iter().map(|text| text.to_string()).collect(), 0..steps);
        edits.into_iter().flatten().map(|edit| (edit.old_text, edit.new_text)).collect()
    }
}

/// The edits of some steps, oldest first; `texts` are the files behind the last of them.
fn recent(played: &PlayedTrajectory, mut texts: Vec<String>, steps: Range<usize>) -> Option<Vec<RecentEdit>> {
    let trajectory = &played.trajectory;
    let mut edits = Vec::new();
    for (number, step) in trajectory.steps.iter().enumerate().take(steps.end).skip(steps.start).rev() {
        let EditAction { path, range, old_text, new_text } = &step.action;
        let text = trajectory.text_of(&mut texts, number, step).ok()?;
        let start = usize::try_from(range.start).ok()?;
        let after = whole_lines(text, start..start + new_text.len())?.to_owned();
        replace(text, range.start, new_text, old_text)?;
        let (old_text, new_text) = changed_lines(whole_lines(text, start..start + old_text.len())?, &after);
        let is_kept = |text: &String| text.len() <= RECENT_EDIT_BYTES;
        if old_text != new_text && is_kept(&old_text) && is_kept(&new_text) {
            edits.push(RecentEdit { path: path.clone(), old_text, new_text });
        }
    }
    edits.reverse();
    Some(edits)
}

/// The lines that a range is in, with their line breaks; also the one that it ends before.
fn whole_lines(text: &str, range: Range<usize>) -> Option<&str> {
    let start = text.get(..range.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let end = text.get(range.end..)?.find('\n').map_or(text.len(), |newline| range.end + newline + 1);
    text.get(start..end)
}

/// What of some lines differs before and after, without the last line break.
fn changed_lines(before: &str, after: &str) -> (String, String) {
    let (old, new): (Vec<&str>, Vec<&str>) =
        (before.split_inclusive('\n').collect(), after.split_inclusive('\n').collect());
    let (old_lines, new_lines) = between_ends(&old, &new);
    let without_break = |lines: &[&str]| {
        let text = lines.concat();
        text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
    };
    (without_break(&old[old_lines]), without_break(&new[new_lines]))
}

/// The files between two steps.
struct Middle<'a> {
    played: &'a PlayedTrajectory,
    /// How many steps are made.
    made: usize,
    texts: Vec<String>,
    recent: Vec<RecentEdit>,
}

/// What a task is about, beside its context.
struct Wanted {
    remaining: Vec<Vec<EditAction>>,
    answer: ActionList,
}

impl<'a> Middle<'a> {
    fn at(played: &'a PlayedTrajectory, made: usize) -> Option<Self> {
        let texts = played.trajectory.before(&played.texts, made).ok()?;
        let recent = recent(played, texts.clone(), made.saturating_sub(RECENT_EDITS)..made)?;
        Some(Self { played, made, texts, recent })
    }

    fn text(&self, path: &str) -> Option<&str> {
        let place = self.played.trajectory.files.iter().position(|file| file.path == path)?;
        self.texts.get(place).map(String::as_str)
    }

    /// Step `number`, which is still to come, as an action on the files as they are now.
    fn action_now(&self, number: usize) -> Option<EditAction> {
        let steps = &self.played.trajectory.steps;
        let action = &steps.get(number)?.action;
        let mut start = action.range.start;
        for step in steps.get(self.made..number)?.iter().rev() {
            let EditAction { path, range, old_text, new_text } = &step.action;
            // Steps do not meet: what begins where another one begins was inserted before it.
            if *path == action.path && start > range.start {
                start = start.checked_sub(new_text.len() as u64).filter(|moved| *moved >= range.start)?;
                start += old_text.len() as u64;
            }
        }
        let range = ByteRange::new(start, start + action.old_text.len() as u64);
        let stands = self.text(&action.path)?.get(bytes_of(range)?)? == action.old_text;
        stands.then(|| EditAction { range, ..action.clone() })
    }

    fn edit_task(&self, dice: &mut Dice) -> Option<TrajectoryTask> {
        let next = self.action_now(self.made)?;
        let text = self.text(&next.path)?;
        let starts = line_starts(text);
        let (first, last) = lines_of(&starts, next.range)?;
        if last - first > 2 * NEAR {
            return None;
        }
        let highest = (first + NEAR).min(starts.len() - 1);
        let cursor = dice.between(last.saturating_sub(NEAR).min(highest), highest);
        let (window, cursor_byte) = window(text, &starts, cursor, REACH);
        let shown = shown_of(&window);
        let is_shown = |range: ByteRange| range.start >= shown.start && range.end <= shown.end;
        let steps = self.played.trajectory.steps.len();
        let mut remaining = Vec::new();
        let mut answer = ActionList { actions: Vec::new(), closed: self.made + 1 == steps };
        for number in self.made..steps {
            let Some(action) = self.action_now(number) else { continue };
            if action.path != next.path || !is_shown(action.range) {
                continue;
            }
            let parts = parts(text, &action)?;
            let (first, last) = lines_of(&starts, action.range)?;
            let is_near = first + NEAR >= cursor && last <= cursor + NEAR;
            let is_second = number == self.made + 1
                && is_near
                && parts.len() + answer.actions.len() <= PARTS
                && action.old_text.len() + action.new_text.len() <= SECOND_BYTES;
            if number == self.made || is_second {
                answer.actions.extend(parts.iter().cloned());
                answer.closed = number + 1 == steps;
            }
            remaining.push(parts);
        }
        if answer.actions.is_empty() {
            return None;
        }
        Some(self.task(&next.path, window, cursor_byte, Wanted { remaining, answer }, dice))
    }

    fn quiet_task(&self, dice: &mut Dice) -> Option<TrajectoryTask> {
        let trajectory = &self.played.trajectory;
        let file = dice.below(trajectory.files.len());
        let (path, text) = (&trajectory.files.get(file)?.path, self.texts.get(file)?);
        // A step whose place is not known could be anywhere.
        let to_come: Option<Vec<EditAction>> =
            (self.made..trajectory.steps.len()).map(|number| self.action_now(number)).collect();
        let to_come: Vec<EditAction> = to_come?.into_iter().filter(|action| action.path == *path).collect();
        let starts = line_starts(text);
        let familiar = self.familiar_lines(text, &starts, dice);
        for _ in 0..QUIET_DRAWS {
            let line = dice.pick(&familiar).copied().unwrap_or_else(|| dice.below(starts.len()));
            let (window, cursor_byte) = window(text, &starts, line, REACH);
            let shown = shown_of(&window);
            let is_touched = to_come.iter().any(|one| one.range.start <= shown.end && one.range.end >= shown.start);
            if !is_touched && !window.text.trim().is_empty() {
                let wanted = Wanted { remaining: Vec::new(), answer: ActionList::no_edit() };
                return Some(self.task(path, window, cursor_byte, wanted, dice));
            }
        }
        None
    }

    /// Lines with a word of the last edit, half of the time; otherwise none.
    fn familiar_lines(&self, text: &str, starts: &[usize], dice: &mut Dice) -> Vec<usize> {
        let Some(edit) = self.recent.last().filter(|_| dice.chance(FAMILIAR)) else { return Vec::new() };
        let words: Vec<&str> = words_of(&edit.old_text)
            .chain(words_of(&edit.new_text))
            .filter(|word| word.len() >= FAMILIAR_BYTES)
            .collect();
        let Some(word) = dice.pick(&words) else { return Vec::new() };
        word_positions(text, word).map(|place| line_at(starts, place)).collect()
    }

    fn task(
        &self,
        path: &str,
        window: Window,
        cursor_byte: u64,
        Wanted { mut remaining, mut answer }: Wanted,
        dice: &mut Dice,
    ) -> TrajectoryTask {
        let trajectory = &self.played.trajectory;
        let language = CodeLanguage::of_path(Path::new(path)).unwrap_or(trajectory.language);
        let mut shown = |path: &str| {
            let short = short_path(path);
            if dice.chance(SCRAMBLED_SHARE) { scrambled_path(&short, dice) } else { short }
        };
        let moved = shown(path);
        let mut recent_edits = self.recent.clone();
        for edit in &mut recent_edits {
            edit.path = if edit.path == path { moved.clone() } else { shown(&edit.path) };
        }
        for action in remaining.iter_mut().flatten().chain(&mut answer.actions) {
            action.path.clone_from(&moved);
        }
        let context = EditContext {
            repository: scramble(package_of(&trajectory.repository), dice),
            path: moved,
            language: language.id().to_owned(),
            recent_edits,
            window,
            cursor_byte,
        };
        let point = EditPoint { change: self.played.origin(), order: 0, revealed: self.made, context, remaining };
        TrajectoryTask { point, wanted: answer, pattern: trajectory.pattern, language }
    }
}

fn bytes_of(range: ByteRange) -> Option<Range<usize>> {
    Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

fn shown_of(window: &Window) -> Range<u64> {
    window.start_byte..window.start_byte + window.text.len() as u64
}

/// The first and the last line that a range is in; what ends with a line break ends in its line.
fn lines_of(starts: &[usize], range: ByteRange) -> Option<(usize, usize)> {
    let bytes = bytes_of(range)?;
    let first = line_at(starts, bytes.start);
    Some((first, line_at(starts, bytes.end.saturating_sub(1)).max(first)))
}

/// The independent parts of an action inside one line; an action over several lines is one part.
fn parts(text: &str, action: &EditAction) -> Option<Vec<EditAction>> {
    let EditAction { path, range, old_text, new_text } = action;
    let whole = || vec![action.clone()];
    if old_text.contains('\n') || new_text.contains('\n') {
        return Some(whole());
    }
    let bytes = bytes_of(*range)?;
    let line = whole_lines(text, bytes.clone())?;
    let line_start = text.get(..bytes.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let (before, after) = (line.get(..bytes.start - line_start)?, line.get(bytes.end - line_start..)?);
    let changes = word_changes(line, &format!("{before}{new_text}{after}"));
    let Some(changes) = changes.filter(|changes| changes.len() <= PARTS) else { return Some(whole()) };
    changes
        .into_iter()
        .map(|change| {
            let (start, end) = (line_start + change.range.start, line_start + change.range.end);
            Some(EditAction {
                path: path.clone(),
                range: ByteRange::new(start as u64, end as u64),
                old_text: text.get(start..end)?.to_owned(),
                new_text: change.new_text,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_told_by_the_lines_that_it_changes() {
        let told = |before: &str, after: &str| changed_lines(before, after);
        assert_eq!(told("a(1);\n", "a(1, 2);\n"), ("a(1);".to_owned(), "a(1, 2);".to_owned()));
        assert_eq!(told("use b;\n", "use a;\nuse b;\n"), (String::new(), "use a;".to_owned()));
        assert_eq!(told("a\nb\nc\n", "a\nc\n"), ("b".to_owned(), String::new()));
        assert_eq!(whole_lines("a\nbc\nd", 2..3), Some("bc\n"));
        assert_eq!(whole_lines("a\nbc\nd", 2..5), Some("bc\nd"));
    }

    #[test]
    fn several_places_of_a_line_are_parts() {
        let text = "x\n  f(load, load);\n";
        let action = EditAction {
            path: "a.rs".to_owned(),
            range: ByteRange::new(6, 16),
            old_text: "load, load".to_owned(),
            new_text: "fetch, fetch".to_owned(),
        };
        let found = parts(text, &action).unwrap();
        let places: Vec<_> = found.iter().map(|part| (part.range.start, part.old_text.as_str())).collect();
        assert_eq!(places, [(6, "load"), (12, "load")]);
    }
}
