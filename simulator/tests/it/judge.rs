//! The judge on tasks made by hand, and on those of the plan.

use super::{corpus, settings};
use events::{ActionList, ByteRange, EditAction, EditContext, Window};
use simulator::judge::{first_is_right, judge};
use simulator::{DemoPlan, EditTask, SymbolKind, TaskKind};

const DOCUMENT: &str = "\
fn main() {
    let a = title(1, \"a b\");
    let b = title(2, \"c\");
    // title
}

fn far(away: u8) -> u8 {
    away
}
";

/// Replaces the `number`-th `old` of the document, from 0.
fn action(old: &str, number: usize, new: &str) -> EditAction {
    let (start, _) = DOCUMENT.match_indices(old).nth(number).unwrap();
    EditAction {
        path: "main.rs".to_owned(),
        range: ByteRange::new(start as u64, (start + old.len()) as u64),
        old_text: old.to_owned(),
        new_text: new.to_owned(),
    }
}

fn insertion(before: &str, number: usize, new: &str) -> EditAction {
    let place = action(before, number, "").range.start;
    EditAction { range: ByteRange::new(place, place), old_text: String::new(), ..action(before, number, new) }
}

pub(crate) fn task(wanted: Vec<EditAction>) -> EditTask {
    let kind = if wanted.is_empty() { TaskKind::NoEdit } else { TaskKind::Plain };
    let wanted = ActionList { actions: wanted, closed: true };
    EditTask {
        context: EditContext {
            repository: "repository".to_owned(),
            path: "main.rs".to_owned(),
            language: "rust".to_owned(),
            recent_edits: Vec::new(),
            window: Window { start_byte: 0, first_line: 0, text: DOCUMENT.to_owned() },
            cursor_byte: 0,
        },
        plain: wanted.clone(),
        wanted,
        kind,
        symbol: SymbolKind::Function,
        base_document: DOCUMENT.into(),
        identifiers: Vec::new(),
        convention: None,
    }
}

/// Both calls are to be renamed.
pub(crate) fn renames() -> Vec<EditAction> {
    vec![action("title", 0, "fetch_title"), action("title", 1, "fetch_title")]
}

/// Half of `fetch_title`, so that it is right without being the wanted action.
pub(crate) fn half_word() -> EditAction {
    insertion("title", 0, "fetch_")
}

fn right(wanted: &[EditAction], served: &[EditAction]) -> usize {
    judge(&task(wanted.to_vec()), served).right
}

#[test]
fn the_wanted_edit_is_right_in_any_order_and_with_other_space() {
    let wanted = renames();
    assert_eq!(right(&wanted, &wanted), 2);
    assert_eq!(right(&wanted, &[wanted[1].clone(), wanted[0].clone()]), 2);
    let spaced = [action("title(1, ", 0, "fetch_title (  1,"), action("title(2,", 0, "fetch_title(\n        2 ,")];
    assert_eq!(right(&wanted, &spaced), 2);
    assert_eq!(right(&wanted, &[action("title(1, \"a b\")", 0, "fetch_title(1, \"a  b\")")]), 0, "space in a string");
}

#[test]
fn it_is_the_file_that_counts_not_the_action() {
    let wanted = renames();
    assert_eq!(right(&wanted, &[half_word()]), 1);
    let both = "fetch_title(1, \"a b\");\n    let b = fetch_title(2";
    let verdict = judge(&task(wanted.clone()), &[action("title(1, \"a b\");\n    let b = title(2", 0, both)]);
    assert_eq!((verdict.right, verdict.made), (1, vec![true, true]));
    // Three actions that only together do what is wanted.
    let wrapped = [action("title(1, \"a b\")", 0, "guarded(fetch(1, \"a b\"))")];
    let parts = [insertion("title(1", 0, "guarded("), action("title", 0, "fetch"), insertion(";\n    let b", 0, ")")];
    assert_eq!(right(&wrapped, &parts), 3);
    assert_eq!(right(&wrapped, &parts[..2]), 0);
}

#[test]
fn damage_anywhere_in_the_file_is_wrong() {
    let (wanted, damage) = (renames(), action("away\n", 0, "gone\n"));
    let verdict = judge(&task(wanted.clone()), &[wanted[0].clone(), wanted[1].clone(), damage.clone()]);
    assert_eq!((verdict.right, verdict.made), (2, vec![true, true]), "the right ones come before it");
    assert_eq!(right(&wanted, &[damage.clone(), wanted[0].clone(), wanted[1].clone()]), 0);
    assert_eq!(right(&wanted, &[wanted[0].clone(), damage, wanted[1].clone()]), 1);
    assert_eq!(right(&wanted, &[action("a = title", 0, "x = fetch_title")]), 0);
    let to_the_end = &DOCUMENT[DOCUMENT.find("title").unwrap()..];
    let rewritten = to_the_end.replacen("title", "fetch_title", 1);
    assert_eq!(right(&wanted, &[action(to_the_end, 0, &rewritten)]), 1);
    assert_eq!(right(&wanted, &[action(to_the_end, 0, &rewritten.replace("away: u8", "away: u16"))]), 0);
}

#[test]
fn the_same_text_at_another_place_is_wrong() {
    let wanted = &renames()[..1];
    for number in [1, 2] {
        assert_eq!(right(wanted, &[action("title", number, "fetch_title")]), 0);
    }
}

#[test]
fn what_does_not_apply_is_wrong() {
    let wanted = renames();
    let elsewhere = EditAction { path: "other.rs".to_owned(), ..wanted[0].clone() };
    let misplaced = EditAction { range: ByteRange::new(1, 6), ..wanted[0].clone() };
    let beyond = EditAction { range: ByteRange::new(100_000, 100_005), ..wanted[0].clone() };
    for wrong in [elsewhere, misplaced, beyond] {
        assert_eq!(right(&wanted, std::slice::from_ref(&wrong)), 0);
        assert_eq!(right(&wanted, &[wanted[0].clone(), wrong]), 1);
    }
    assert_eq!(right(&wanted, &[wanted[0].clone(), wanted[0].clone()]), 1, "the second overlaps the first");
}

#[test]
fn where_nothing_is_wanted_only_silence_is_right() {
    let nothing = task(Vec::new());
    let same_tokens = action("title(1, ", 0, "title( 1,  ");
    let serve = |action: &EditAction| ActionList { actions: vec![action.clone()], closed: true };
    assert!(first_is_right(&nothing, &ActionList::no_edit()));
    assert!(!first_is_right(&nothing, &serve(&same_tokens)));
    assert!(!first_is_right(&nothing, &serve(&renames()[0])));
    let something = task(renames());
    assert!(!first_is_right(&something, &ActionList::no_edit()));
    assert!(first_is_right(&something, &serve(&renames()[0])));
    assert_eq!(judge(&something, &[action("away: u8", 0, "away:  u8"), renames()[0].clone()]).right, 0);
}

#[test]
fn the_plans_own_tasks_are_judged_as_they_are_meant() {
    for seed in 0..4 {
        let plan = DemoPlan::new(seed, corpus(), settings()).unwrap();
        for number in 0..36 {
            let task = plan.task(number % 6, number / 6).unwrap().task;
            let verdict = judge(&task, &task.wanted.actions);
            assert_eq!((verdict.right, verdict.made), (task.wanted.actions.len(), vec![true; verdict.right]));
            assert_eq!(first_is_right(&task, &ActionList::no_edit()), task.kind == TaskKind::NoEdit);
            if task.kind == TaskKind::Convention {
                assert!(!first_is_right(&task, &task.plain));
            }
            let damage = EditAction {
                path: task.context.path.clone(),
                range: ByteRange::new(0, 0),
                old_text: String::new(),
                new_text: "damage\n".to_owned(),
            };
            let mut served = vec![damage];
            served.extend(task.wanted.actions.clone());
            assert_eq!(judge(&task, &served).right, 0);
            served.rotate_left(1);
            assert_eq!(judge(&task, &served).right, task.wanted.actions.len());
        }
    }
}
