//! Whether what was shown at a point is one of the edits that were still to come: place and content apart.

use events::{ActionList, ByteRange, EditAction, apply_actions};
use serde::{Deserialize, Serialize};

use super::points::EditPoint;

/// What is said about an answer; only its first action counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// There is a first action.
    pub shown: bool,
    /// It changes a line that a remaining hunk changes.
    pub place: bool,
    /// It makes exactly one or several of the remaining changes of these lines, in part or whole, and nothing else.
    pub content: bool,
}

/// Most independent changes that are tried in every combination.
const COMBINED: usize = 8;

/// Judges the first action of `answer`. Texts are compared byte for byte.
#[must_use]
pub fn judge(point: &EditPoint, answer: &ActionList) -> Judgement {
    let Some(action) = answer.actions.first() else { return Judgement::default() };
    let window = &point.context.window;
    let wrong = Judgement { shown: true, ..Judgement::default() };
    if action.path != point.context.path {
        return wrong;
    }
    let apply = |actions: &[EditAction]| apply_actions(window.start_byte, &window.text, actions);
    let Some(after) = apply(std::slice::from_ref(action)).filter(|after| *after != window.text) else { return wrong };
    let touched = lines(point, action.range);
    let in_place: Vec<&EditAction> = point
        .remaining
        .iter()
        .flatten()
        .filter(|part| {
            let lines = lines(point, part.range);
            lines.0 <= touched.1 && touched.0 <= lines.1
        })
        .collect();
    let count = in_place.len().min(COMBINED);
    let combinations = 1_usize << count;
    let content = (1..combinations).any(|chosen| {
        let chosen: Vec<EditAction> = (in_place.iter().take(count).enumerate())
            .filter(|(number, _)| (chosen >> number) & 1 == 1)
            .map(|(_, part)| (*part).clone())
            .collect();
        apply(&chosen).as_ref() == Some(&after)
    });
    Judgement { shown: true, place: !in_place.is_empty(), content }
}

/// The first and the last line of the window that a range is in. The line break that ends a range belongs to its line; a
/// place between two lines is in both, because what is inserted there can be written behind the one or before the other.
fn lines(point: &EditPoint, range: ByteRange) -> (usize, usize) {
    let window = &point.context.window;
    let bytes = window.text.as_bytes();
    let offset = |place: u64| (place.saturating_sub(window.start_byte) as usize).min(bytes.len());
    let breaks = |end: usize| bytes[..end].iter().filter(|byte| **byte == b'\n').count();
    let (start, end) = (offset(range.start), offset(range.end));
    let is_behind_break = |place: usize| place > 0 && bytes.get(place - 1) == Some(&b'\n');
    if start >= end {
        let line = breaks(start);
        return (line - usize::from(is_behind_break(start)), line);
    }
    (breaks(start), breaks(if is_behind_break(end) { end - 1 } else { end }))
}

#[cfg(test)]
mod tests {
    use events::{EditContext, Window};

    use super::*;

    const TEXT: &str = "a(load, load);\nb();\nc(load);\n";

    fn action(start: u64, old: &str, new: &str) -> EditAction {
        let range = ByteRange::new(10 + start, 10 + start + old.len() as u64);
        EditAction { path: "a.rs".to_owned(), range, old_text: old.to_owned(), new_text: new.to_owned() }
    }

    fn point(remaining: Vec<Vec<EditAction>>) -> EditPoint {
        EditPoint {
            change: "one".to_owned(),
            order: 0,
            revealed: 0,
            context: EditContext {
                repository: "r".to_owned(),
                path: "a.rs".to_owned(),
                language: "rust".to_owned(),
                recent_edits: Vec::new(),
                window: Window { start_byte: 10, first_line: 1, text: TEXT.to_owned() },
                cursor_byte: 10,
            },
            remaining,
        }
    }

    /// Shown, place, content.
    fn judged(answer: EditAction) -> (bool, bool, bool) {
        let remaining =
            vec![vec![action(2, "load", "fetch"), action(8, "load", "fetch")], vec![action(22, "load", "fetch")]];
        let Judgement { shown, place, content } =
            judge(&point(remaining), &ActionList { actions: vec![answer], closed: true });
        (shown, place, content)
    }

    #[test]
    fn any_remaining_change_is_right_in_part_or_whole() {
        assert_eq!(judged(action(2, "load", "fetch")), (true, true, true));
        assert_eq!(judged(action(8, "load", "fetch")), (true, true, true));
        assert_eq!(judged(action(2, "load, load", "fetch, fetch")), (true, true, true));
        assert_eq!(judged(action(0, "a(load, load);\n", "a(fetch, load);\n")), (true, true, true));
        assert_eq!(judged(action(20, "c(load);", "c(fetch);")), (true, true, true));
    }

    #[test]
    fn the_right_place_with_other_content_is_half_right() {
        assert_eq!(judged(action(2, "load", "store")), (true, true, false));
        assert_eq!(judged(action(0, "a(load", "b(fetch")), (true, true, false));
        assert_eq!(judged(action(15, "b", "fetch")), (true, false, false));
    }

    #[test]
    fn a_line_may_be_inserted_behind_the_one_or_before_the_other() {
        let judged = |answer: EditAction| {
            let remaining = vec![vec![action(15, "", "z();\n")]];
            let judgement = judge(&point(remaining), &ActionList { actions: vec![answer], closed: true });
            (judgement.place, judgement.content)
        };
        assert_eq!(judged(action(15, "", "z();\n")), (true, true));
        assert_eq!(judged(action(13, ";", ";\nz();")), (true, true));
        assert_eq!(judged(action(15, "b", "z();\nb")), (true, true));
        assert_eq!(judged(action(13, ";", ";\ny();")), (true, false));
        assert_eq!(judged(action(20, "c", "z();\nc")), (false, false));
    }

    #[test]
    fn what_can_not_be_applied_or_changes_nothing_is_wrong() {
        assert_eq!(judged(action(2, "other", "fetch")), (true, false, false));
        assert_eq!(judged(action(2, "load", "load")), (true, false, false));
        assert_eq!(judged(EditAction { path: "b.rs".to_owned(), ..action(2, "load", "fetch") }), (true, false, false));
    }

    #[test]
    fn silence_and_quiet_places() {
        let quiet = point(Vec::new());
        assert_eq!(judge(&quiet, &ActionList::no_edit()), Judgement::default());
        let spoken = ActionList { actions: vec![action(2, "load", "fetch")], closed: false };
        assert_eq!(judge(&quiet, &spoken), Judgement { shown: true, place: false, content: false });
    }
}
