//! What a prompt shows of the code around a region and of the edits before it, in as many tokens as there are.
//!
//! First comes the newest edit, because it says best what the developer is about; then lines, from the region outwards;
//! then older edits. What is farthest away is what a cut takes.

use events::{EditContext, RecentEdit};

use super::Refusal;
use super::neutral::Draft;
use super::region::Region;

/// Longer lines are shown in parts.
const PART_BYTES: usize = 512;
/// What an edit costs beside its text: the marks and the name around it.
const EDIT_MARKS: usize = 8;

/// What a prompt shows.
pub(super) struct View<'a> {
    pub(super) context: &'a EditContext,
    pub(super) region: &'a Region,
    /// What is shown of the text before the region: its end.
    pub(super) before: &'a str,
    /// What is shown of the text after the region: its beginning.
    pub(super) after: &'a str,
    /// Oldest first.
    pub(super) edits: Vec<&'a RecentEdit>,
}

impl<'a> View<'a> {
    /// The region with as much around it as `budget` tokens show, by what `count` says of a text.
    pub(super) fn within(
        budget: usize,
        context: &'a EditContext,
        region: &'a Region,
        count: impl Fn(&str) -> Result<usize, Refusal>,
    ) -> Result<Self, Refusal> {
        let mut left = budget;
        let afford = |left: &mut usize, cost: usize, most: usize| {
            let is_affordable = cost <= (*left).min(most);
            if is_affordable {
                *left -= cost;
            }
            is_affordable
        };
        let cost_of = |edit: &RecentEdit| {
            let text = [edit.path.as_str(), &difference(edit)].concat();
            Ok::<_, Refusal>(count(&text)? + EDIT_MARKS)
        };
        let mut edits: Vec<&'a RecentEdit> = Vec::new();
        let mut recent = context.recent_edits.iter().rev().peekable();
        if let Some(newest) = recent.peek()
            && afford(&mut left, cost_of(newest)?, budget / 2)
        {
            edits.extend(recent.next());
        }

        let (mut start, mut end) = (region.before.len(), 0);
        let (mut above, mut below) = (parts(&region.before).into_iter().rev(), parts(&region.after).into_iter());
        let (mut is_above_open, mut is_below_open) = (true, true);
        while is_above_open || is_below_open {
            if is_above_open {
                is_above_open = match above.next() {
                    Some(part) if afford(&mut left, count(part)?, budget) => {
                        start -= part.len();
                        true
                    }
                    _ => false,
                };
            }
            if is_below_open {
                is_below_open = match below.next() {
                    Some(part) if afford(&mut left, count(part)?, budget) => {
                        end += part.len();
                        true
                    }
                    _ => false,
                };
            }
        }
        if !edits.is_empty() {
            for edit in recent {
                if !afford(&mut left, cost_of(edit)?, budget) {
                    break;
                }
                edits.push(edit);
            }
        }
        edits.reverse();
        let before = region.before.get(start..).unwrap_or_default();
        let after = region.after.get(..end).unwrap_or_default();
        Ok(Self { context, region, before, after, edits })
    }
}

/// Lines with their line breaks, in parts where they are long.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for mut line in text.split_inclusive('\n') {
        while line.len() > PART_BYTES {
            let mut cut = PART_BYTES;
            while !line.is_char_boundary(cut) {
                cut -= 1;
            }
            let (part, rest) = line.split_at(cut);
            parts.push(part);
            line = rest;
        }
        parts.push(line);
    }
    parts
}

/// An edit as the lines that it took away and put in.
pub(super) fn difference(edit: &RecentEdit) -> String {
    let mut lines = String::new();
    for (sign, text) in [('-', &edit.old_text), ('+', &edit.new_text)] {
        for line in text.lines() {
            lines.push(sign);
            lines.push_str(line);
            lines.push('\n');
        }
    }
    lines
}

/// Writes an edit, named by its file.
pub(super) fn push_edit(draft: &mut Draft<'_>, edit: &RecentEdit, after_name: &str) {
    draft.push(&edit.path);
    draft.push(after_name);
    draft.push("\n");
    draft.push(&difference(edit));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_come_in_parts_that_make_the_whole() {
        let text = format!("short\n{}\nlast", "é".repeat(600));
        let parts = parts(&text);
        assert_eq!(parts.concat(), text);
        assert_eq!((parts.len(), parts[0]), (5, "short\n"));
        assert!(parts.iter().all(|part| part.len() <= PART_BYTES));
    }
}
