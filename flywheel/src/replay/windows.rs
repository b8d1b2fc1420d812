//! A history cut into windows: stretches of changes that follow each other.

use serde::{Deserialize, Serialize};
use simulator::history::hunks::change_hunks;
use simulator::history::points::{EditPoint, PointSettings, points};
use simulator::history::{Census, Change};
use simulator::random::Dice;

/// Most replaced lines of a change that the n-gram cache learns: one change must not be all of it.
const LEARNED_LINES: usize = 200;

/// A change as far as a replay needs it: its text is let go.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) id: String,
    pub(super) time_seconds: i64,
    pub(super) points: Vec<EditPoint>,
    /// Single lines that it replaced, each with what stands there now.
    pub(super) replaced: Vec<(String, String)>,
}

impl Step {
    pub(super) fn of(repository: &str, change: &Change, settings: &PointSettings, census: &mut Census) -> Self {
        let of_files = change_hunks(&change.files);
        let replaced = (change.files.iter().zip(&of_files))
            .flat_map(|(file, hunks)| hunks.iter().map(move |hunk| (file, hunk)))
            .filter(|(_, hunk)| hunk.old_lines == 1 && hunk.new_lines == 1 && hunk.unsuitable.is_none())
            .map(|(file, hunk)| (hunk.old_text(&file.before).to_owned(), hunk.new_text.clone()))
            .take(LEARNED_LINES)
            .collect();
        let points = points(repository, change, &of_files, settings, census);
        Self { id: change.id.clone(), time_seconds: change.time_seconds, points, replaced }
    }
}

/// A stretch of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Window {
    /// From 1.
    pub(super) number: usize,
    /// Its first change with a point.
    pub(super) first_change: String,
    /// Its last one.
    pub(super) last_change: String,
    pub(super) first_time_seconds: i64,
    pub(super) last_time_seconds: i64,
    /// Changes with a point.
    pub(super) changes: usize,
    /// Of them those whose points count: as many as there is room for.
    pub(super) changes_drawn: usize,
    /// Points that count, half of which want no edit.
    pub(super) points: usize,
}

/// A window with what is in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stretch {
    pub(super) window: Window,
    /// Every change of the stretch, those without a point included, for who learns from all of them.
    pub(super) steps: Vec<Step>,
}

impl Stretch {
    /// The points that count, in the order of the history.
    pub(super) fn points(&self) -> Vec<&EditPoint> {
        self.steps.iter().flat_map(|step| &step.points).collect()
    }
}

/// Cuts `steps` into `count` windows of as many changes with points each, as far as they go; of a window at most `most`
/// points count, of changes that are drawn from all of it. None when a window would have fewer than `least` changes.
pub(super) fn cut(mut steps: Vec<Step>, count: usize, most: usize, least: usize, seed: u64) -> Option<Vec<Stretch>> {
    let usable = steps.iter().filter(|step| !step.points.is_empty()).count();
    if count == 0 || usable / count < least {
        return None;
    }
    let mut stretches = Vec::with_capacity(count);
    let mut begun = 0;
    for number in 1..=count {
        let end = usable * number / count;
        let mut seen = begun;
        let size = steps
            .iter()
            .position(|step| {
                let is_beyond = seen == end && !step.points.is_empty();
                seen += usize::from(!step.points.is_empty());
                is_beyond
            })
            .unwrap_or(steps.len());
        let later = steps.split_off(size);
        stretches.push(stretch(number, std::mem::replace(&mut steps, later), most, seed));
        begun = end;
    }
    Some(stretches)
}

fn stretch(number: usize, mut steps: Vec<Step>, most: usize, seed: u64) -> Stretch {
    let mut order: Vec<usize> = (0..steps.len()).filter(|index| !steps[*index].points.is_empty()).collect();
    let (first, last) = (order.first().copied().unwrap_or(0), order.last().copied().unwrap_or(0));
    let changes = order.len();
    Dice::new(seed, "changes of a window", &[number as u64]).shuffle(&mut order);
    let (mut drawn, mut room) = (0, most);
    for index in order {
        let points = &mut steps[index].points;
        if points.len() > room {
            points.clear();
        } else {
            room -= points.len();
            drawn += 1;
        }
    }
    let window = Window {
        number,
        first_change: steps.get(first).map(|step| step.id.clone()).unwrap_or_default(),
        last_change: steps.get(last).map(|step| step.id.clone()).unwrap_or_default(),
        first_time_seconds: steps.get(first).map_or(0, |step| step.time_seconds),
        last_time_seconds: steps.get(last).map_or(0, |step| step.time_seconds),
        changes,
        changes_drawn: drawn,
        points: most - room,
    };
    Stretch { window, steps }
}

#[cfg(test)]
pub(super) mod tests {
    use events::{ByteRange, EditAction, EditContext};

    use super::*;

    /// Two points of a change in which `load` becomes `fetch`: one that wants it and one that wants nothing.
    pub(crate) fn step(number: usize) -> Step {
        let context = EditContext {
            repository: "r".to_owned(),
            path: "a.rs".to_owned(),
            language: "rust".to_owned(),
            recent_edits: Vec::new(),
            window: events::Window { start_byte: 0, first_line: 0, text: format!("load({number});\n") },
            cursor_byte: 0,
        };
        let action = EditAction {
            path: "a.rs".to_owned(),
            range: ByteRange::new(0, 4),
            old_text: "load".to_owned(),
            new_text: "fetch".to_owned(),
        };
        let id = format!("change {number:03}");
        let point =
            |remaining| EditPoint { change: id.clone(), order: 0, revealed: 0, context: context.clone(), remaining };
        let points = vec![point(vec![vec![action]]), point(Vec::new())];
        Step { id, time_seconds: number as i64, points, replaced: Vec::new() }
    }

    #[test]
    fn windows_hold_every_change_once_in_order() {
        let mut steps: Vec<Step> = (0..53).map(step).collect();
        for number in [0, 7, 20, 21, 52] {
            steps[number].points.clear();
        }
        let stretches = cut(steps.clone(), 5, 1_000, 5, 1).unwrap();
        let all: Vec<Step> = stretches.iter().flat_map(|stretch| stretch.steps.clone()).collect();
        assert_eq!(all, steps);
        assert_eq!(stretches.iter().map(|one| one.window.changes).collect::<Vec<_>>(), [9, 10, 9, 10, 10]);
        assert_eq!(stretches.iter().map(|one| one.window.points).collect::<Vec<_>>(), [18, 20, 18, 20, 20]);
        for pair in stretches.windows(2) {
            assert!(pair[0].window.last_time_seconds < pair[1].window.first_time_seconds);
        }
        assert_eq!(stretches[0].window.first_change, "change 001");
    }

    #[test]
    fn points_beyond_the_limit_do_not_count_and_changes_are_drawn_from_the_whole_window() {
        let stretches = cut((0..200).map(step).collect(), 2, 40, 5, 1).unwrap();
        for stretch in &stretches {
            assert_eq!((stretch.window.changes_drawn, stretch.window.points, stretch.points().len()), (20, 40, 40));
            let drawn: Vec<usize> = (0..100).filter(|index| !stretch.steps[*index].points.is_empty()).collect();
            assert!(drawn[0] < 30 && drawn[19] >= 70, "{drawn:?}");
        }
    }

    #[test]
    fn too_few_changes_are_no_windows() {
        assert!(cut((0..24).map(step).collect(), 5, 100, 5, 1).is_none());
        assert!(cut((0..25).map(step).collect(), 5, 100, 5, 1).is_some());
        assert!(cut(Vec::new(), 0, 100, 0, 1).is_none());
    }
}
