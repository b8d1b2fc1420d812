//! From what a pattern takes back to a trajectory.

use crate::error::Result;
use crate::source::digest_hex;
use crate::trajectory::language::{ParseHealth, Parsers};
use crate::trajectory::repository::{ParsedFile, Repository};
use crate::trajectory::{Pattern, Step, Trajectory, TrajectoryFile};
use events::{ByteRange, EditAction};
use std::ops::Range;
use tree_sitter::{InputEdit, Point, Tree};

/// A part of the real code and what stands there in the start state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Number of the file.
    pub(crate) file: usize,
    /// Bytes of the real file.
    pub(crate) range: Range<usize>,
    /// What stands there before the step.
    pub(crate) before: String,
    /// The earlier change that this one follows from; none for the first.
    pub(crate) cause: Option<usize>,
}

/// What a pattern found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) pattern: Pattern,
    pub(crate) detail: String,
    /// In causal order.
    pub(crate) changes: Vec<Change>,
}

/// Changes of one place each, in file order, become one change a line: nobody goes over a line twice for one reason.
pub(crate) fn join_lines(repository: &Repository, changes: Vec<Change>) -> Vec<Change> {
    let mut joined: Vec<Change> = Vec::new();
    for change in changes {
        if let (Some(last), Some(file)) = (joined.last_mut(), repository.files.get(change.file))
            && last.file == change.file
            && last.cause == change.cause
            && last.range.end <= change.range.start
            && !file.slice(last.range.start..change.range.end).contains('\n')
        {
            last.before.push_str(file.slice(last.range.end..change.range.start));
            last.before.push_str(&change.before);
            last.range.end = change.range.end;
        } else {
            joined.push(change);
        }
    }
    joined
}

/// The state of a file while a trajectory is played.
struct Desk {
    text: String,
    tree: Tree,
    health: ParseHealth,
}

impl Desk {
    /// Replaces a range, and parses what that changes.
    fn replace(&mut self, range: Range<usize>, new: &str) {
        let start_position = point(&self.text, range.start);
        let old_end_position = point(&self.text, range.end);
        self.text.replace_range(range.clone(), new);
        let new_end_byte = range.start + new.len();
        self.tree.edit(&InputEdit {
            start_byte: range.start,
            old_end_byte: range.end,
            new_end_byte,
            start_position,
            old_end_position,
            new_end_position: point(&self.text, new_end_byte),
        });
    }

    fn parse(&mut self, file: &ParsedFile, parsers: &mut Parsers) -> Result<()> {
        self.tree = parsers.parse(file.language(), &self.text, Some(&self.tree))?;
        if self.tree.root_node().has_error() {
            // How a parser recovers depends on what it knew before; the health of a text must not.
            self.tree = parsers.parse(file.language(), &self.text, None)?;
        }
        self.health = ParseHealth::of(&self.tree);
        Ok(())
    }
}

/// Row and column, both in bytes, of an offset.
fn point(text: &str, offset: usize) -> Point {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    let row = before.iter().filter(|byte| **byte == b'\n').count();
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count();
    Point { row, column }
}

impl Draft {
    /// Whether this can be a trajectory: changes that have an effect, do not meet, and follow from earlier ones.
    fn is_sound(&self, repository: &Repository) -> bool {
        let has_effect = |change: &Change| {
            let file = repository.files.get(change.file).filter(|file| file.is_whole);
            file.and_then(|file| file.text.get(change.range.clone())).is_some_and(|text| text != change.before)
        };
        let follows = |(number, change): (usize, &Change)| match change.cause {
            Some(cause) => cause < number,
            None => number == 0,
        };
        let least = if self.pattern == Pattern::DiagnosticFix { 1 } else { 2 };
        let mut ranges: Vec<(usize, usize, usize)> =
            self.changes.iter().map(|change| (change.file, change.range.start, change.range.end)).collect();
        ranges.sort_unstable();
        let apart = ranges.windows(2).all(|pair| match pair {
            // Two insertions at one place have no order of their own.
            [left, right] => left.0 != right.0 || (left.2 <= right.1 && left.1 < right.1),
            _ => true,
        });
        self.changes.len() >= least
            && apart
            && self.changes.iter().all(has_effect)
            && self.changes.iter().enumerate().all(follows)
    }

    /// Numbers of its files, in the order in which changes first touch them: that of [`Trajectory::files`].
    pub(crate) fn files(&self) -> Vec<usize> {
        let mut numbers: Vec<usize> = Vec::new();
        for change in &self.changes {
            if !numbers.contains(&change.file) {
                numbers.push(change.file);
            }
        }
        numbers
    }

    /// Plays the draft; `None` when its changes can not be one trajectory.
    pub(crate) fn realize(&self, repository: &Repository, parsers: &mut Parsers) -> Result<Option<Trajectory>> {
        if !self.is_sound(repository) {
            return Ok(None);
        }
        let numbers = self.files();
        let (mut files, mut desks) = (Vec::new(), Vec::new());
        for number in &numbers {
            let Some(file) = repository.files.get(*number) else { return Ok(None) };
            let mut desk =
                Desk { text: file.text.to_string(), tree: file.tree.clone(), health: ParseHealth::default() };
            let mut changes: Vec<&Change> = self.changes.iter().filter(|change| change.file == *number).collect();
            // From the end, so that places of the real text stay where they are.
            changes.sort_by_key(|change| std::cmp::Reverse(change.range.start));
            for change in changes {
                desk.replace(change.range.clone(), &change.before);
            }
            desk.parse(file, parsers)?;
            files.push(TrajectoryFile {
                path: file.file.path.to_string(),
                sha256: file.file.sha256.to_string(),
                start_sha256: digest_hex(desk.text.as_bytes()),
            });
            desks.push((file, desk));
        }
        let total = |desks: &[(&ParsedFile, Desk)]| {
            desks.iter().fold(ParseHealth::default(), |sum, (_, desk)| sum.and(desk.health))
        };
        let start_health = total(&desks);
        let mut steps = Vec::with_capacity(self.changes.len());
        for (number, change) in self.changes.iter().enumerate() {
            let Some(place) = numbers.iter().position(|number| *number == change.file) else { return Ok(None) };
            let Some((file, desk)) = desks.get_mut(place) else { return Ok(None) };
            let file: &ParsedFile = file;
            let start = self.place_now(number);
            let range = start..start + change.before.len();
            let new_text = file.slice(change.range.clone());
            if desk.text.get(range.clone()) != Some(change.before.as_str()) {
                return Ok(None);
            }
            desk.replace(range.clone(), new_text);
            desk.parse(file, parsers)?;
            let action = EditAction {
                path: file.file.path.to_string(),
                range: ByteRange::new(range.start as u64, range.end as u64),
                old_text: change.before.clone(),
                new_text: new_text.to_owned(),
            };
            steps.push(Step { action, cause: change.cause, health: total(&desks), diagnostic: None });
        }
        if desks.iter().any(|(file, desk)| *desk.text != *file.text) {
            return Ok(None);
        }
        let Some(language) = desks.first().map(|(file, _)| file.language()) else { return Ok(None) };
        Ok(Some(Trajectory {
            pattern: self.pattern,
            detail: self.detail.clone(),
            language,
            repository: repository.name.to_string(),
            files,
            start_health,
            steps,
        }))
    }

    /// Where a change begins when all changes before it were made and none after it.
    fn place_now(&self, number: usize) -> usize {
        let Some(change) = self.changes.get(number) else { return 0 };
        let ahead = |other: &&Change| other.file == change.file && other.range.start < change.range.start;
        let (taken, put) = self
            .changes
            .iter()
            .skip(number + 1)
            .filter(ahead)
            .fold((0, 0), |(taken, put), other| (taken + other.range.len(), put + other.before.len()));
        change.range.start + put - taken
    }
}
