//! Two texts as a difference of lines, with the place marked where they part.

use crate::visible::visible_with_tabs;

/// Lines that are shown on each side of what differs.
const AROUND: usize = 3;

/// One side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Side {
    /// The whole text as this side has it.
    pub(super) text: String,
    /// The byte at which it parts from the other.
    pub(super) parts_at: Option<usize>,
}

/// How a difference is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Always,
    Never,
}

impl Colour {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Always => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::Never => text.to_owned(),
        }
    }
}

const RED: &str = "31";
const GREEN: &str = "32";
const BOLD: &str = "1";

/// `before` against `after`, numbered from `first_line`.
pub(super) fn difference(before: &Side, after: &Side, first_line: u64, colour: Colour) -> String {
    let (left, right) = (lines(&before.text), lines(&after.text));
    let prefix = left.iter().zip(&right).take_while(|(a, b)| a.text == b.text).count();
    let rest = left.len().min(right.len()) - prefix;
    let suffix = left.iter().rev().zip(right.iter().rev()).take(rest).take_while(|(a, b)| a.text == b.text).count();
    let (left_end, right_end) = (left.len() - suffix, right.len() - suffix);
    let number = |index: usize| first_line + u64::try_from(index).unwrap_or(0) + 1;
    let mut shown = Vec::new();
    let same = |range: std::ops::Range<usize>, shown: &mut Vec<String>| {
        for (index, line) in left.iter().enumerate().take(range.end).skip(range.start) {
            shown.push(format!("{:>6}   {}", number(index), visible_with_tabs(line.text)));
        }
    };
    same(prefix.saturating_sub(AROUND)..prefix, &mut shown);
    for (side, sign, code, all, end) in [(before, '-', RED, &left, left_end), (after, '+', GREEN, &right, right_end)] {
        for (index, line) in all.iter().enumerate().take(end).skip(prefix) {
            shown.push(colour.paint(code, &format!("{:>6} {sign} {}", number(index), visible_with_tabs(line.text))));
            if let Some(column) = side.parts_at.and_then(|place| place.checked_sub(line.start))
                && (column < line.text.len() || (column == line.text.len() && is_last_of(line, &side.text)))
            {
                shown.push(colour.paint(BOLD, &format!("{:>6}   {}^ here they part", "", under(line.text, column))));
            }
        }
    }
    same(left_end..left_end.saturating_add(AROUND).min(left.len()), &mut shown);
    shown.join("\n")
}

struct Line<'a> {
    start: usize,
    text: &'a str,
}

/// Lines without their line breaks, with the bytes at which they begin.
fn lines(text: &str) -> Vec<Line<'_>> {
    let mut start = 0;
    text.split_inclusive('\n')
        .map(|line| {
            let found = Line { start, text: line.trim_end_matches(['\n', '\r']) };
            start += line.len();
            found
        })
        .collect()
}

/// Whether the place right behind a line's text belongs to it: its line break is what differs, or the text ends there.
fn is_last_of(line: &Line<'_>, text: &str) -> bool {
    text.get(line.start + line.text.len()..).is_some_and(|rest| rest.is_empty() || rest.starts_with(['\n', '\r']))
}

/// Spaces as wide as the first `column` bytes of a line, tabs kept.
fn under(line: &str, column: usize) -> String {
    let before = line.get(..column).unwrap_or(line);
    let spaces = |piece: &str| " ".repeat(visible_with_tabs(piece).chars().count());
    before.split('\t').map(spaces).collect::<Vec<_>>().join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(text: &str, mark: &str) -> Side {
        Side { text: text.to_owned(), parts_at: text.find(mark) }
    }

    #[test]
    fn what_differs_is_shown_with_what_is_around_it() {
        let before = side("one\ntwo\nthree\nfour\nlet a = get_full_name(b);\nsix\n", "full_name");
        let after = side("one\ntwo\nthree\nfour\nlet a = get_display_name(b);\nsix\n", "display_name");
        let expected = "    42   two
    43   three
    44   four
    45 - let a = get_full_name(b);
                     ^ here they part
    45 + let a = get_display_name(b);
                     ^ here they part
    46   six";
        assert_eq!(difference(&before, &after, 40, Colour::Never), expected);
        let painted = difference(&before, &after, 40, Colour::Always);
        assert!(painted.contains("\u{1b}[31m    45 - let") && painted.contains("\u{1b}[32m    45 + let"), "{painted}");
    }

    #[test]
    fn a_text_that_goes_on_parts_at_the_end_of_the_other() {
        let before = Side { text: "a\nb".to_owned(), parts_at: Some(3) };
        let after = Side { text: "a\nbc\n".to_owned(), parts_at: Some(3) };
        let shown = difference(&before, &after, 0, Colour::Never);
        assert_eq!(shown.matches("^ here they part").count(), 2, "{shown}");
    }

    #[test]
    fn a_terminal_is_not_commanded() {
        let hostile = Side { text: "x\u{1b}[2J\u{202e}y\tz".to_owned(), parts_at: None };
        let shown = difference(&hostile, &Side { text: String::new(), parts_at: None }, 0, Colour::Never);
        assert_eq!(shown, "     1 - x\\u{1b}[2J\\u{202e}y\tz");
        assert_eq!(under("a\t\u{1b}b", 3), " \t      ");
    }
}
