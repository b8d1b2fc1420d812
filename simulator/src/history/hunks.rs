//! A change of a file as hunks: the smallest changes that have a place of their own.
//!
//! Lines are compared with Myers' algorithm ("An O(ND) Difference Algorithm and Its Variations", 1986). Where as many
//! lines stand after a change as before it, each line is a hunk by itself: a rename in three neighbouring lines is three
//! edits. Inside such a line each run of changed words is a [`Replacement`] of its own, because a suggestion may make
//! one of them and leave the next for later. Every other hunk is one replacement.
//!
//! Comparing takes time in proportion to the differences, so texts that have too many are not compared further: what lies
//! between their common ends is one large hunk, and a line with too many changed words is replaced whole.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use similar::{Algorithm, DiffOp, capture_diff_slices};

use super::{FileChange, LeftOut};
use crate::text::is_word_byte;

/// A replacement of bytes of a text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Replacement {
    /// Replaced bytes of the text before.
    pub range: Range<usize>,
    /// What stands there afterwards.
    pub new_text: String,
}

/// A change of whole lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// The lines that it replaces: their bytes in the text before, line breaks included.
    pub range: Range<usize>,
    /// Number of the first of them, from 0; of an insertion the line that it stands before.
    pub first_line: usize,
    /// How many lines it replaces.
    pub old_lines: usize,
    /// How many lines stand there afterwards.
    pub new_lines: usize,
    /// The lines afterwards, line breaks included.
    pub new_text: String,
    /// The same change in its independent parts, in order, at least one; places are bytes of the text before.
    pub parts: Vec<Replacement>,
    /// Why it is no suggestion that anybody could have made; it is revealed like every other.
    pub unsuitable: Option<LeftOut>,
}

impl Hunk {
    /// The lines that it replaces.
    #[must_use]
    pub fn old_text<'t>(&self, before: &'t str) -> &'t str {
        before.get(self.range.clone()).unwrap_or_default()
    }
}

/// Most lines of a hunk, before or after, that a suggestion has.
pub const HUNK_LINES: usize = 4;

/// Less of two lines in common than this, and one was not made from the other.
const SIMILAR_LINES: f64 = 0.4;

/// Most lines that are removed and written, and most words of a line, for a comparison to go on: more than anybody
/// changes by hand at once.
pub const DIFFERENCES: usize = 1_000;

/// The hunks of each of `files`, which one change made: those that only move lines within it are marked.
#[must_use]
pub fn change_hunks(files: &[FileChange]) -> Vec<Vec<Hunk>> {
    let mut of_files: Vec<Vec<Hunk>> = files.iter().map(hunks).collect();
    mark_moves(files, &mut of_files);
    of_files
}

/// The hunks of `file`, in the order of the text. All of them together make the text after from the text before.
#[must_use]
pub fn hunks(file: &FileChange) -> Vec<Hunk> {
    let sides = Sides::of(file);
    let Sides { before, after, .. } = &sides;
    let mut found = Vec::new();
    let (old, new) = between_ends(before, after);
    if !is_near(&before[old.clone()], &after[new.clone()], DIFFERENCES) {
        return vec![sides.hunk(old, new)];
    }
    let (mut old_line, mut new_line) = (0, 0);
    for operation in capture_diff_slices(Algorithm::Myers, before, after) {
        // What is only inserted or only removed does not always say rightly where it stands on the other side.
        let old = old_line..old_line + operation.old_range().len();
        let new = new_line..new_line + operation.new_range().len();
        (old_line, new_line) = (old.end, new.end);
        if matches!(operation, DiffOp::Equal { .. }) {
            continue;
        }
        if old.len() == new.len() {
            // Lines between two changes may be equal where the algorithm took a short cut.
            let changed = old.zip(new).filter(|(old, new)| before[*old] != after[*new]);
            found.extend(changed.map(|(old, new)| sides.hunk(old..old + 1, new..new + 1)));
        } else {
            found.push(sides.hunk(old, new));
        }
    }
    found
}

/// What of two texts lies between the items that both begin with and those that both end with.
pub(crate) fn between_ends(before: &[&str], after: &[&str]) -> (Range<usize>, Range<usize>) {
    let head = before.iter().zip(after).take_while(|(old, new)| old == new).count();
    let both = before[head..].iter().rev().zip(after[head..].iter().rev());
    let tail = both.take_while(|(old, new)| old == new).count();
    (head..before.len() - tail, head..after.len() - tail)
}

/// Whether one can be made of the other by removing and writing `most` items together: the greedy search of Myers, which
/// ends there.
fn is_near(before: &[&str], after: &[&str], most: usize) -> bool {
    if before.len() + after.len() <= most {
        return true;
    }
    if before.len().abs_diff(after.len()) > most {
        return false;
    }
    // How many items of `before` are behind on each diagonal. The one at `most + 1` has as many of `after` behind, the
    // next one item fewer.
    let mut reached = vec![0; 2 * most + 3];
    for made in 0..=most {
        for step in (0..=2 * made).step_by(2) {
            let diagonal = most + 1 + step - made;
            let is_written = step == 0 || (step != 2 * made && reached[diagonal - 1] < reached[diagonal + 1]);
            let mut old: usize = if is_written { reached[diagonal + 1] } else { reached[diagonal - 1] + 1 };
            let mut new = old + most + 1 - diagonal;
            while old < before.len() && new < after.len() && before[old] == after[new] {
                (old, new) = (old + 1, new + 1);
            }
            reached[diagonal] = old;
            if old >= before.len() && new >= after.len() {
                return true;
            }
        }
    }
    false
}

/// Marks the hunks of one change that only move lines within it: what one removes, another one writes.
pub fn mark_moves(files: &[FileChange], hunks: &mut [Vec<Hunk>]) {
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut removed = Vec::new();
    let mut written: BTreeMap<String, VecDeque<(usize, usize)>> = BTreeMap::new();
    for (number, (file, hunks)) in files.iter().zip(hunks.iter()).enumerate() {
        for (place, hunk) in hunks.iter().enumerate() {
            match (hunk.old_lines, hunk.new_lines) {
                (_, 0) => removed.push((squeezed(hunk.old_text(&file.before)), (number, place))),
                (0, _) => written.entry(squeezed(&hunk.new_text)).or_default().push_back((number, place)),
                _ => {}
            }
        }
    }
    for (text, from) in removed {
        // Empty lines move nowhere.
        let places = written.get_mut(&text).filter(|_| !text.is_empty());
        let Some(to) = places.and_then(VecDeque::pop_front) else { continue };
        for (number, place) in [from, to] {
            if let Some(hunk) = hunks.get_mut(number).and_then(|hunks| hunks.get_mut(place)) {
                hunk.unsuitable = Some(LeftOut::MovedLines);
            }
        }
    }
}

/// `text` with `chosen` applied: replacements that do not overlap, in any order. An insertion goes before what else is
/// replaced at its place.
#[must_use]
pub fn apply<'r>(text: &str, chosen: impl IntoIterator<Item = (&'r Range<usize>, &'r str)>) -> String {
    let mut ordered: Vec<(&Range<usize>, &str)> = chosen.into_iter().collect();
    ordered.sort_by_key(|(range, _)| (range.start, range.end));
    let mut result = String::with_capacity(text.len() + 64);
    let mut done = 0;
    for (range, new_text) in ordered {
        result.push_str(text.get(done..range.start).unwrap_or_default());
        result.push_str(new_text);
        done = range.end.max(done);
    }
    result.push_str(text.get(done..).unwrap_or_default());
    result
}

/// Lines with their line breaks.
pub(super) fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

fn bytes(lines: &[&str]) -> usize {
    lines.iter().map(|line| line.len()).sum()
}

/// The lines of a file before and after.
struct Sides<'t> {
    before: Vec<&'t str>,
    after: Vec<&'t str>,
    /// Where each line of the text before starts, and where the last one ends.
    starts: Vec<usize>,
}

impl<'t> Sides<'t> {
    fn of(file: &'t FileChange) -> Self {
        let (before, after) = (lines(&file.before), lines(&file.after));
        let mut starts = vec![0];
        let mut end = 0;
        for line in &before {
            end += line.len();
            starts.push(end);
        }
        Self { before, after, starts }
    }

    fn hunk(&self, old: Range<usize>, new: Range<usize>) -> Hunk {
        let Self { before, after, starts } = self;
        let range = starts[old.start]..starts[old.end];
        let start = range.start;
        let (old_text, new_text) = (before[old.clone()].concat(), after[new.clone()].concat());
        let is_pair = old.len() == 1 && new.len() == 1;
        let inside = if is_pair { word_changes(&old_text, &new_text) } else { None };
        let parts = match inside {
            Some(parts) => parts
                .into_iter()
                .map(|part| Replacement { range: start + part.range.start..start + part.range.end, ..part })
                .collect(),
            None => vec![Replacement { range: range.clone(), new_text: new_text.clone() }],
        };
        let unsuitable = if same_but_for_space(&old_text, &new_text) {
            Some(LeftOut::SpaceOnly)
        } else if old.len() > HUNK_LINES || new.len() > HUNK_LINES {
            Some(LeftOut::LargeHunk)
        } else {
            None
        };
        Hunk { range, first_line: old.start, old_lines: old.len(), new_lines: new.len(), new_text, parts, unsuitable }
    }
}

fn same_but_for_space(one: &str, other: &str) -> bool {
    let shown = |text: &str| text.chars().filter(|character| !character.is_whitespace()).collect::<String>();
    shown(one) == shown(other)
}

/// Words, runs of space, and single other characters.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let same: fn(char) -> bool = if first.is_ascii() && is_word_byte(first as u8) {
            |character: char| character.is_ascii() && is_word_byte(character as u8)
        } else if first.is_whitespace() {
            char::is_whitespace
        } else {
            |_: char| false
        };
        let length = rest.find(|character: char| !same(character)).unwrap_or(rest.len()).max(first.len_utf8());
        let (word, after) = rest.split_at(length);
        words.push(word);
        rest = after;
    }
    words
}

/// The runs of words in which two lines differ; none when they have too little in common for one to come from the other.
pub(crate) fn word_changes(old: &str, new: &str) -> Option<Vec<Replacement>> {
    let (before, after) = (words(old), words(new));
    let (old, new) = between_ends(&before, &after);
    if !is_near(&before[old], &after[new], DIFFERENCES) {
        return None;
    }
    let operations = capture_diff_slices(Algorithm::Myers, &before, &after);
    let shown = |words: &[&str]| words.iter().filter(|word| !word.trim().is_empty()).count();
    let mut common = 0;
    let mut parts: Vec<Replacement> = Vec::new();
    let (mut place, mut was_equal) = (0, true);
    for operation in operations {
        let (old, new) = (&before[operation.old_range()], &after[operation.new_range()]);
        let length = bytes(old);
        if matches!(operation, DiffOp::Equal { .. }) {
            common += shown(old);
            was_equal = true;
        } else if let (false, Some(last)) = (was_equal, parts.last_mut()) {
            last.range.end = place + length;
            last.new_text.push_str(&new.concat());
        } else {
            parts.push(Replacement { range: place..place + length, new_text: new.concat() });
            was_equal = false;
        }
        place += length;
    }
    let all = shown(&before).max(shown(&after));
    (!parts.is_empty() && common as f64 >= SIMILAR_LINES * all as f64).then_some(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::Language;

    fn file(before: &str, after: &str) -> FileChange {
        FileChange { path: "a.rs".to_owned(), language: Language::Rust, before: before.into(), after: after.into() }
    }

    fn whole(hunks: &[Hunk]) -> impl Iterator<Item = (&Range<usize>, &str)> {
        hunks.iter().map(|hunk| (&hunk.range, hunk.new_text.as_str()))
    }

    fn parts(hunks: &[Hunk]) -> impl Iterator<Item = (&Range<usize>, &str)> {
        hunks.iter().flat_map(|hunk| &hunk.parts).map(|part| (&part.range, part.new_text.as_str()))
    }

    #[test]
    fn a_rename_in_two_lines_is_two_hunks_of_one_word_each() {
        let change = file("a(load);\nb(load, load);\nc\n", "a(fetch);\nb(fetch, fetch);\nc\n");
        let found = hunks(&change);
        assert_eq!(found.iter().map(|hunk| hunk.parts.len()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(found[0].parts[0], Replacement { range: 2..6, new_text: "fetch".to_owned() });
        assert_eq!((found[1].first_line, found[1].range.clone()), (1, 9..24));
        assert!(found.iter().all(|hunk| hunk.unsuitable.is_none()));
    }

    #[test]
    fn lines_that_have_nothing_in_common_are_replaced_whole() {
        let found = hunks(&file("let a = 1;\n", "return Err(Failure);\n"));
        assert_eq!((found.len(), found[0].parts.len(), found[0].parts[0].range.clone()), (1, 1, 0..11));
    }

    #[test]
    fn space_and_size_say_what_nobody_proposes() {
        let reason = |before: &str, after: &str| hunks(&file(before, after))[0].unsuitable;
        assert_eq!(reason("if a {\n", "    if a {\n"), Some(LeftOut::SpaceOnly));
        assert_eq!(reason("a\n", &"b\n".repeat(HUNK_LINES + 1)), Some(LeftOut::LargeHunk));
        assert_eq!(reason("a\n", "a\nb\n"), None);
    }

    #[test]
    fn lines_that_go_from_one_file_to_another_are_moved() {
        let files = [file("fn a() {}\nx\n", "x\n"), file("y\n", "y\n  fn a() {}\n"), file("z\n", "z\nfn b() {}\n")];
        let mut found: Vec<Vec<Hunk>> = files.iter().map(hunks).collect();
        mark_moves(&files, &mut found);
        let reasons: Vec<_> = found.iter().map(|hunks| hunks[0].unsuitable).collect();
        assert_eq!(reasons, [Some(LeftOut::MovedLines), Some(LeftOut::MovedLines), None]);
    }

    #[test]
    fn what_has_too_many_differences_is_one_large_hunk() {
        let text =
            |from: usize, count: usize| (from..from + count).map(|line| format!("{line};\n")).collect::<String>();
        // As many lines on both sides: they would be a hunk each.
        let shared = text(0, 50);
        let (old, new) = (text(1_000, DIFFERENCES), text(5_000, DIFFERENCES));
        let change = file(&format!("{shared}{old}{shared}"), &format!("{shared}{new}{shared}"));
        let found = hunks(&change);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].first_line, found[0].old_lines, found[0].new_lines), (50, DIFFERENCES, DIFFERENCES));
        assert_eq!((found[0].unsuitable, found[0].parts.len()), (Some(LeftOut::LargeHunk), 1));
        assert_eq!(apply(&change.before, whole(&found)), *change.after);
        // Just as many as go.
        let half = DIFFERENCES / 2;
        let change = file(&format!("{shared}{}", text(1_000, half)), &format!("{shared}{}", text(5_000, half)));
        assert_eq!(hunks(&change).len(), half);
        // A long text with few differences is compared, whatever lies between them.
        let (old, long) = (text(0, 20_000), text(1, 20_000));
        assert_eq!(hunks(&file(&old, &long)).len(), 2);
        // Words of a line that was written anew.
        let line = |from: usize| (from..from + 60_000).map(|word| format!("{word} ")).collect::<String>() + "\n";
        let found = hunks(&file(&line(0), &line(100_000)));
        assert_eq!((found.len(), found[0].parts.len()), (1, 1));
    }

    #[test]
    fn a_hunk_moves_to_one_place_only() {
        let files = [file("fn a() {}\nx\n", "x\n"), file("y\n", "y\nfn a() {}\n"), file("z\n", "z\nfn a() {}\n")];
        let reasons: Vec<_> = change_hunks(&files).iter().map(|hunks| hunks[0].unsuitable).collect();
        assert_eq!(reasons, [Some(LeftOut::MovedLines), Some(LeftOut::MovedLines), None]);
    }

    fn text() -> impl Strategy<Value = String> {
        let line = prop::sample::select(vec!["a = b;", "a = c;", "", "    é(x, y)", "f(x, x)", "f(y, x)", "}"]);
        (prop::collection::vec(line, 0..12), any::<bool>())
            .prop_map(|(lines, ends)| lines.join("\n") + if ends && !lines.is_empty() { "\n" } else { "" })
    }

    proptest! {
        #[test]
        fn all_hunks_make_the_text_after(before in text(), after in text()) {
            let found = hunks(&file(&before, &after));
            prop_assert_eq!(&apply(&before, whole(&found)), &after);
            prop_assert_eq!(&apply(&before, parts(&found)), &after);
            for pair in found.windows(2) {
                prop_assert!(pair[0].range.end <= pair[1].range.start);
            }
            for hunk in &found {
                prop_assert!(!hunk.parts.is_empty());
                prop_assert_eq!(before.get(hunk.range.clone()).unwrap().split_inclusive('\n').count(), hunk.old_lines);
                for part in &hunk.parts {
                    prop_assert!(hunk.range.start <= part.range.start && part.range.end <= hunk.range.end);
                }
            }
        }

        /// As many differences as there are, are few enough; one less is not.
        #[test]
        fn differences_are_counted_before_anything_is_compared(before in text(), after in text()) {
            let (before, after) = (lines(&before), lines(&after));
            // The longest common subsequence, row by row.
            let mut common = vec![0_usize; after.len() + 1];
            for old in &before {
                let above = common.clone();
                for (place, new) in after.iter().enumerate() {
                    let longer = if old == new { above[place] + 1 } else { 0 };
                    common[place + 1] = longer.max(above[place + 1]).max(common[place]);
                }
            }
            let count = before.len() + after.len() - 2 * common[after.len()];
            prop_assert!(is_near(&before, &after, count));
            prop_assert!(count == 0 || !is_near(&before, &after, count - 1));
            let (old, new) = between_ends(&before, &after);
            prop_assert_eq!(&before[..old.start], &after[..new.start]);
            prop_assert_eq!(&before[old.end..], &after[new.end..]);
        }

        #[test]
        fn equal_texts_have_no_hunk(text in text()) {
            prop_assert!(hunks(&file(&text, &text)).is_empty());
        }
    }
}
