//! Two texts as a difference of lines, with the place marked where they part.
//!
//! Lines are compared with their line breaks: text that differs in nothing else differs. Where breaks are of one kind on
//! both sides nobody needs to see them, and they are not shown.

use unicode_width::UnicodeWidthStr as _;

use crate::visible::visible_with_tabs;

/// Lines that are shown on each side of what differs.
const AROUND: usize = 3;
/// Above so many cells of the table of common lines, everything between the common ends counts as different. The text is
/// bounded by what editors may send; a window of nothing but line breaks still has thousands of lines.
const MOST_CELLS: usize = 4 << 20;

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

/// A line of one side.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    start: usize,
    text: &'a str,
    /// `\n`, `\r\n`, or nothing at the end of a text.
    ending: &'a str,
}

impl Line<'_> {
    fn is_same(&self, other: &Line<'_>) -> bool {
        (self.text, self.ending) == (other.text, other.ending)
    }

    /// The byte of this line that is this place of the text. What lies behind a last line without a break belongs to it.
    fn column(&self, place: Option<usize>) -> Option<usize> {
        let column = place?.checked_sub(self.start)?;
        (column < self.text.len() + self.ending.len() || self.ending.is_empty() && column == self.text.len())
            .then_some(column)
    }
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut start = 0;
    text.split_inclusive('\n')
        .map(|whole| {
            let text = whole.strip_suffix('\n').map_or(whole, |line| line.strip_suffix('\r').unwrap_or(line));
            let line = Line { start, text, ending: &whole[text.len()..] };
            start += whole.len();
            line
        })
        .collect()
}

/// What becomes of a line, by its number on its side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Same(usize, usize),
    Removed(usize),
    Added(usize),
}

/// From one side to the other by as few lines as possible, removed ones before added ones.
fn steps(left: &[Line<'_>], right: &[Line<'_>]) -> Vec<Step> {
    let prefix = left.iter().zip(right).take_while(|(one, other)| one.is_same(other)).count();
    let (one, other) = (&left[prefix..], &right[prefix..]);
    let suffix = one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one.is_same(other)).count();
    let (one, other) = (&one[..one.len() - suffix], &other[..other.len() - suffix]);

    let mut steps: Vec<Step> = (0..prefix).map(|index| Step::Same(index, index)).collect();
    let (mut at, mut also_at) = (0, 0);
    for (same, also_same) in common(one, other).into_iter().chain([(one.len(), other.len())]) {
        steps.extend((at..same).map(|index| Step::Removed(prefix + index)));
        steps.extend((also_at..also_same).map(|index| Step::Added(prefix + index)));
        if same < one.len() && also_same < other.len() {
            steps.push(Step::Same(prefix + same, prefix + also_same));
        }
        (at, also_at) = (same + 1, also_same + 1);
    }
    let (one_end, other_end) = (left.len() - suffix, right.len() - suffix);
    steps.extend((0..suffix).map(|index| Step::Same(one_end + index, other_end + index)));
    steps
}

/// The longest sequence of lines that both have, as numbers in both.
fn common(one: &[Line<'_>], other: &[Line<'_>]) -> Vec<(usize, usize)> {
    let width = other.len() + 1;
    if (one.len() + 1).saturating_mul(width) > MOST_CELLS {
        return Vec::new();
    }
    // How many lines both have from there on.
    let mut longest = vec![0_u32; (one.len() + 1) * width];
    for row in (0..one.len()).rev() {
        for column in (0..other.len()).rev() {
            longest[row * width + column] = if one[row].is_same(&other[column]) {
                longest[(row + 1) * width + column + 1] + 1
            } else {
                longest[(row + 1) * width + column].max(longest[row * width + column + 1])
            };
        }
    }
    let (mut row, mut column) = (0, 0);
    let mut found = Vec::new();
    while row < one.len() && column < other.len() {
        if one[row].is_same(&other[column]) {
            found.push((row, column));
            (row, column) = (row + 1, column + 1);
        } else if longest[(row + 1) * width + column] >= longest[row * width + column + 1] {
            row += 1;
        } else {
            column += 1;
        }
    }
    found
}

/// `before` against `after`, numbered from `first_line`; empty when nothing differs.
pub(super) fn difference(before: &Side, after: &Side, first_line: u64, colour: Colour) -> String {
    let (left, right) = (lines(&before.text), lines(&after.text));
    let steps = steps(&left, &right);
    let is_change = |step: &Step| !matches!(step, Step::Same(..));
    if !steps.iter().any(is_change) {
        return String::new();
    }
    // Where a side parts in a line that both have, by inserting below it, say, there are two such columns.
    let columns = |step: &Step| -> Vec<usize> {
        let (one, other) = match *step {
            Step::Same(one, other) => (left[one].column(before.parts_at), right[other].column(after.parts_at)),
            Step::Removed(one) => (left[one].column(before.parts_at), None),
            Step::Added(other) => (None, right[other].column(after.parts_at)),
        };
        let other = other.filter(|_| one != other);
        one.into_iter().chain(other).collect()
    };
    let style = Style::of(&left, &right, first_line, colour);
    let told: Vec<usize> = (0..)
        .zip(&steps)
        .filter(|&(_, step)| is_change(step) || !columns(step).is_empty())
        .map(|(index, _)| index)
        .collect();
    let mut shown: Vec<String> = Vec::new();
    let mut next = 0;
    for index in told {
        let from = index.saturating_sub(AROUND).max(next);
        if from > next && !shown.is_empty() {
            shown.push("   ...".to_owned());
        }
        let until = (index + AROUND + 1).min(steps.len());
        for step in &steps[from..until] {
            let (line, number) = match *step {
                Step::Same(one, _) | Step::Removed(one) => (&left[one], one),
                Step::Added(other) => (&right[other], other),
            };
            shown.push(style.line(*step, line, number));
            shown.extend(columns(step).into_iter().map(|column| style.mark(line, column)));
        }
        next = next.max(until);
    }
    shown.join("\n")
}

/// How lines are printed.
struct Style {
    first_line: u64,
    colour: Colour,
    /// Carriage returns are written out: some lines have one, and some have none.
    shows_returns: bool,
    /// One side ends with a line break, and the other one does not.
    shows_end: bool,
}

impl Style {
    fn of(left: &[Line<'_>], right: &[Line<'_>], first_line: u64, colour: Colour) -> Self {
        let has = |ending: &str| left.iter().chain(right).any(|line| line.ending == ending);
        let is_open = |lines: &[Line<'_>]| lines.last().map(|line| line.ending.is_empty());
        let shows_end = is_open(left).zip(is_open(right)).is_some_and(|(one, other)| one != other);
        Self { first_line, colour, shows_returns: has("\n") && has("\r\n"), shows_end }
    }

    fn line(&self, step: Step, line: &Line<'_>, number: usize) -> String {
        let number = self.first_line.saturating_add(u64::try_from(number).unwrap_or(0)).saturating_add(1);
        let text = visible_with_tabs(line.text);
        let ending = match line.ending {
            "\r\n" if self.shows_returns => "\\r",
            "" if self.shows_end => " (no line break at the end)",
            _ => "",
        };
        match step {
            Step::Same(..) => format!("{number:>6}   {text}{ending}"),
            Step::Removed(_) => self.colour.paint(RED, &format!("{number:>6} - {text}{ending}")),
            Step::Added(_) => self.colour.paint(GREEN, &format!("{number:>6} + {text}{ending}")),
        }
    }

    fn mark(&self, line: &Line<'_>, column: usize) -> String {
        self.colour.paint(BOLD, &format!("{:>6}   {}^ here they part", "", under(line.text, column)))
    }
}

/// Spaces as wide as the first `column` bytes of a line are on a terminal, tabs kept.
fn under(line: &str, column: usize) -> String {
    let before = line.get(..column).unwrap_or(line);
    let spaces = |piece: &str| " ".repeat(visible_with_tabs(piece).width());
    before.split('\t').map(spaces).collect::<Vec<_>>().join("\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(text: &str, mark: &str) -> Side {
        Side { text: text.to_owned(), parts_at: text.find(mark) }
    }

    fn at(text: &str, place: usize) -> Side {
        Side { text: text.to_owned(), parts_at: Some(place) }
    }

    fn nowhere(text: &str) -> Side {
        Side { text: text.to_owned(), parts_at: None }
    }

    fn plain(before: &Side, after: &Side) -> String {
        difference(before, after, 0, Colour::Never)
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
    fn what_lies_between_two_changes_is_no_change() {
        let text = |first: &str, last: &str| format!("{first}\n1\n2\n3\n4\n5\n6\n7\n8\n{last}\n");
        let shown = plain(&nowhere(&text("use a;", "a();")), &nowhere(&text("use b;", "b();")));
        let expected = "     1 - use a;
     1 + use b;
     2   1
     3   2
     4   3
   ...
     7   6
     8   7
     9   8
    10 - a();
    10 + b();";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_text_that_goes_on_parts_at_the_end_of_the_other() {
        let shown = plain(&at("a\nb", 3), &at("a\nbc\n", 3));
        let expected = "     1   a
     2 - b (no line break at the end)
          ^ here they part
     2 + bc
          ^ here they part";
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_parts_in_a_line_that_both_have_is_marked_there() {
        // One side writes a line that is the same as the next one: no line tells which of them is new.
        let shown = plain(&at("a\nb\nc\n", 2), &at("a\nb\nb\nc\n", 2));
        let expected = "     1   a
     2   b
         ^ here they part
     3 + b
     3   c";
        assert_eq!(shown, expected);
    }

    #[test]
    fn line_breaks_are_text() {
        let expected = "     1 - a\\r
          ^ here they part
     1 + a
          ^ here they part
     2   b\\r";
        assert_eq!(plain(&at("a\r\nb\r\n", 1), &at("a\nb\r\n", 1)), expected);
        // Where all are of one kind they are not looked at.
        assert_eq!(plain(&nowhere("a\r\nb\r\n"), &nowhere("a\r\nc\r\n")), "     1   a\n     2 - b\n     2 + c");
        assert_eq!(plain(&nowhere("a\rb"), &nowhere("ab")), "     1 - a\\rb\n     1 + ab");
        assert_eq!(plain(&nowhere("a\n"), &nowhere("a\n")), "");
    }

    #[test]
    fn marks_stand_below_wide_characters_and_tabs() {
        assert_eq!(under("\tlet 名前 = e\u{301}x", "\tlet 名前 = e\u{301}".len()), format!("\t{}", " ".repeat(12)));
        assert_eq!(under("a\t\u{1b}b", 3), " \t      ");
    }

    #[test]
    fn a_terminal_is_not_commanded() {
        let shown = plain(&nowhere("x\u{1b}[2J\u{202e}y\tz"), &nowhere(""));
        assert_eq!(shown, "     1 - x\\u{1b}[2J\\u{202e}y\tz");
    }

    #[test]
    fn a_window_of_line_breaks_is_compared_within_bounds() {
        let (before, after) = ("\n".repeat(8_000), "x\n".repeat(8_000));
        let shown = plain(&nowhere(&format!("{before}a")), &nowhere(&format!("{after}b")));
        assert_eq!(shown.lines().count(), 16_002);
    }
}
