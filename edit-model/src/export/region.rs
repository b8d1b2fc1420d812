//! What a pair says about one region of the window: the text before and after it, and the region itself as it stood and
//! as each side would have it.
//!
//! The region covers the first action of either side, which is where they part; actions that reach over its edge widen
//! it. What both sides had done before is applied everywhere. Of the later actions of a side, those inside the region are
//! part of its answer, and the others belong to other regions.

use std::ops::Range;

use events::{ActionList, EditAction, EditContext};

use super::{Refusal, Sides};

/// An action at its place in the window's text.
#[derive(Clone, Copy)]
struct Placed<'a> {
    start: usize,
    end: usize,
    new_text: &'a str,
}

impl Placed<'_> {
    fn is_inside(&self, range: &Range<usize>) -> bool {
        self.start >= range.start && self.end <= range.end
    }

    fn reaches_over(&self, range: &Range<usize>) -> bool {
        self.start < range.end && self.end > range.start && !self.is_inside(range)
    }
}

/// How far a region reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// As far as the actions do.
    Change,
    /// Whole lines, and one more each way.
    Lines,
}

/// One region.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) before: String,
    pub(super) standing: String,
    pub(super) after: String,
    /// Where the cursor is in `standing`, if it is there.
    pub(super) cursor: Option<usize>,
    pub(super) chosen: Option<String>,
    pub(super) rejected: Option<String>,
}

/// The region of a pair.
pub(super) fn region_of<'a>(sides: &Sides<'a>, extent: Extent) -> Result<Region, Refusal> {
    let text = &sides.context.window.text;
    let shared = placed(sides.context, sides.shared)?;
    let of_side = |side: Option<&'a ActionList>| side.map(|list| placed(sides.context, &list.actions)).transpose();
    let (chosen, rejected) = (of_side(sides.chosen)?, of_side(sides.rejected)?);
    let firsts: Vec<Placed<'a>> =
        chosen.iter().chain(&rejected).filter_map(|actions| actions.first().copied()).collect();
    let start = firsts.iter().map(|first| first.start).min().ok_or(Refusal::NothingChanges)?;
    let end = firsts.iter().map(|first| first.end).max().ok_or(Refusal::NothingChanges)?;
    let mut range = start..end;
    if extent == Extent::Lines {
        range = whole_lines(text, &range);
        range = previous_line(text, range.start)..next_line(text, range.end);
    }
    let all = || shared.iter().chain(chosen.iter().flatten()).chain(rejected.iter().flatten());
    while let Some(over) = all().find(|action| action.reaches_over(&range)) {
        range = range.start.min(over.start)..range.end.max(over.end);
        if extent == Extent::Lines {
            range = whole_lines(text, &range);
        }
    }

    let outside = |part: Range<usize>| {
        let is_there = |action: &&Placed<'a>| action.is_inside(&part) && !action.is_inside(&range);
        let actions = shared.iter().filter(is_there).copied().collect();
        applied(text, &part, actions)
    };
    let within = |actions: &[Placed<'a>]| -> Vec<Placed<'a>> {
        actions.iter().filter(|action| action.is_inside(&range)).copied().collect()
    };
    let before_both = within(&shared);
    let side = |actions: Option<&Vec<Placed<'a>>>| {
        actions.map(|actions| applied(text, &range, [before_both.clone(), within(actions)].concat())).transpose()
    };
    let cursor = sides.context.cursor_byte.checked_sub(sides.context.window.start_byte);
    let cursor = cursor.and_then(|cursor| usize::try_from(cursor).ok());
    // Where something was changed before, it is not known where in it the cursor would be.
    let is_as_it_was = before_both.is_empty();
    let cursor = cursor.filter(|cursor| {
        is_as_it_was && *cursor >= range.start && *cursor <= range.end && text.is_char_boundary(*cursor)
    });
    Ok(Region {
        before: outside(0..range.start)?,
        standing: applied(text, &range, before_both.clone())?,
        after: outside(range.end..text.len())?,
        cursor: cursor.map(|cursor| cursor - range.start),
        chosen: side(chosen.as_ref())?,
        rejected: side(rejected.as_ref())?,
    })
}

fn placed<'a>(context: &'a EditContext, actions: &'a [EditAction]) -> Result<Vec<Placed<'a>>, Refusal> {
    let base = context.window.start_byte;
    let offset = |place: u64| usize::try_from(place.checked_sub(base)?).ok();
    let place = |action: &'a EditAction| {
        let (start, end) = offset(action.range.start).zip(offset(action.range.end))?;
        let is_here = action.path == context.path && context.window.text.get(start..end)? == action.old_text;
        is_here.then_some(Placed { start, end, new_text: &action.new_text })
    };
    actions.iter().map(|action| place(action).ok_or(Refusal::Unfit)).collect()
}

/// A part of the text with actions applied that all lie in it.
fn applied(text: &str, part: &Range<usize>, mut actions: Vec<Placed<'_>>) -> Result<String, Refusal> {
    actions.sort_by_key(|action| (action.start, action.end));
    let mut result = String::with_capacity(part.len());
    let mut position = part.start;
    for action in actions {
        // None where actions overlap.
        result.push_str(text.get(position..action.start).ok_or(Refusal::Unfit)?);
        result.push_str(action.new_text);
        position = action.end;
    }
    result.push_str(text.get(position..part.end).ok_or(Refusal::Unfit)?);
    Ok(result)
}

/// The lines that a range touches, with their line breaks.
fn whole_lines(text: &str, range: &Range<usize>) -> Range<usize> {
    let start = text[..range.start].rfind('\n').map_or(0, |line_break| line_break + 1);
    let ends_a_line = range.end > range.start && text[..range.end].ends_with('\n');
    let end = if ends_a_line { range.end } else { next_line(text, range.end) };
    start..end
}

/// Where the line after the one at `place` begins.
fn next_line(text: &str, place: usize) -> usize {
    text[place..].find('\n').map_or(text.len(), |line_break| place + line_break + 1)
}

/// Where the line before the one that begins at `start` begins.
fn previous_line(text: &str, start: usize) -> usize {
    let before = text[..start].strip_suffix('\n').unwrap_or(&text[..start]);
    before.rfind('\n').map_or(0, |line_break| line_break + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_at_both_ends_of_a_text() {
        let text = "one\ntwo\nthree";
        assert_eq!(whole_lines(text, &(5..6)), 4..8);
        assert_eq!(whole_lines(text, &(4..8)), 4..8);
        assert_eq!(whole_lines(text, &(4..4)), 4..8);
        assert_eq!(whole_lines(text, &(0..13)), 0..13);
        assert_eq!((previous_line(text, 8), previous_line(text, 4), previous_line(text, 0)), (4, 0, 0));
        assert_eq!((next_line(text, 0), next_line(text, 8), next_line(text, 13)), (4, 13, 13));
    }
}
