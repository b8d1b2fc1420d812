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
/// At a cursor, the first line that is shown has a number that is a multiple of this.
const STEP: u64 = 8;
/// At a cursor, its line counts as a multiple of so many tokens.
const LINE_TOKENS: usize = 32;

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
        let mut edits: Vec<&'a RecentEdit> = Vec::new();
        let mut recent = context.recent_edits.iter().rev().peekable();
        if let Some(newest) = recent.peek()
            && afford(&mut left, cost_of(newest, &count)?, budget / 2)
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
                if !afford(&mut left, cost_of(edit, &count)?, budget) {
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

    /// A cursor with as much around it as `budget` tokens show, such that prompts from one key to the next begin alike as
    /// far as the cursor: an engine that kept what it computed for one reads the next from there.
    ///
    /// Half of the tokens are for what stands before the cursor and a quarter each for what stands after it and for edits,
    /// so that none of them makes room for another. The first line that is shown moves by [`STEP`] lines at once. An edit
    /// whose new text stands in the cursor's line is still being made: it would change with every key, and what it is
    /// about is seen anyway.
    pub(super) fn at_cursor(
        budget: usize,
        context: &'a EditContext,
        region: &'a Region,
        count: impl Fn(&str) -> Result<usize, Refusal>,
    ) -> Result<Self, Refusal> {
        let line = [last_line(&region.before), region.after.lines().next().unwrap_or_default()].concat();
        let is_made = |edit: &&RecentEdit| {
            let new_text = edit.new_text.trim();
            edit.path != context.path || new_text.is_empty() || !line.contains(new_text)
        };
        let (mut left, mut edits) = (budget / 4, Vec::new());
        for edit in context.recent_edits.iter().rev().filter(is_made) {
            let Some(rest) = left.checked_sub(cost_of(edit, &count)?) else { break };
            left = rest;
            edits.push(edit);
        }
        edits.reverse();
        let (mut left, mut end) = (budget / 4, 0);
        for part in parts(&region.after) {
            let Some(rest) = left.checked_sub(count(part)?) else { break };
            left = rest;
            end += part.len();
        }
        let start = first_shown(context.window.first_line, &region.before, budget / 2, &count)?;
        let before = region.before.get(start..).unwrap_or_default();
        let after = region.after.get(..end).unwrap_or_default();
        Ok(Self { context, region, before, after, edits })
    }
}

/// What an edit costs.
fn cost_of(edit: &RecentEdit, count: &impl Fn(&str) -> Result<usize, Refusal>) -> Result<usize, Refusal> {
    let text = [edit.path.as_str(), &difference(edit)].concat();
    Ok(count(&text)? + EDIT_MARKS)
}

/// Where what is shown of the text before a cursor begins: at the first line whose number is a multiple of [`STEP`] from
/// which everything fits, unless three quarters of what fits stand before it. While the cursor's line grows, it counts the
/// same.
fn first_shown(
    first_line: u64,
    before: &str,
    budget: usize,
    count: &impl Fn(&str) -> Result<usize, Refusal>,
) -> Result<usize, Refusal> {
    let own = last_line(before);
    let above = &before[..before.len() - own.len()];
    let Some(left) = budget.checked_sub((count(own)? + 1).next_multiple_of(LINE_TOKENS)) else {
        return Ok(before.len() - fitting_end(own, budget, count)?);
    };
    let (mut left, mut start, mut aligned) = (left, above.len(), None);
    let mut line = first_line + above.matches('\n').count() as u64;
    for part in parts(above).into_iter().rev() {
        let Some(rest) = left.checked_sub(count(part)?) else { break };
        left = rest;
        start -= part.len();
        if part.ends_with('\n') {
            line -= 1;
        }
        if line.is_multiple_of(STEP) && (start == 0 || above[..start].ends_with('\n')) {
            aligned = Some(start);
        }
    }
    let keeps_enough = |aligned: &usize| before.len() - aligned >= (before.len() - start) / 4;
    Ok(aligned.filter(keeps_enough).unwrap_or(start))
}

/// Bytes of the longest end of a line that fits.
fn fitting_end(line: &str, budget: usize, count: &impl Fn(&str) -> Result<usize, Refusal>) -> Result<usize, Refusal> {
    let (mut left, mut bytes) = (budget, 0);
    for part in parts(line).into_iter().rev() {
        let Some(rest) = left.checked_sub(count(part)?) else { break };
        left = rest;
        bytes += part.len();
    }
    Ok(bytes)
}

/// What follows the last line break.
fn last_line(text: &str) -> &str {
    text.rsplit('\n').next().unwrap_or_default()
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
    use proptest::prelude::*;

    use super::*;
    use crate::export::tests::context;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Kind {
        Newest,
        Above,
        Below,
        Older,
    }

    fn length(text: &str) -> usize {
        text.chars().count()
    }

    /// What is shown, said as one list of everything: what comes first takes first, and what does not fit ends its kind.
    fn shown(budget: usize, context: &EditContext, region: &Region) -> (String, String, Vec<String>) {
        let edit = |kind, edit: &RecentEdit| {
            (kind, length(&edit.path) + length(&difference(edit)) + EDIT_MARKS, edit.path.clone())
        };
        let line = |kind, line: &str| (kind, length(line), line.to_owned());
        let mut edits = context.recent_edits.iter().rev();
        let above: Vec<&str> = region.before.split_inclusive('\n').rev().collect();
        let below: Vec<&str> = region.after.split_inclusive('\n').collect();
        let mut list: Vec<(Kind, usize, String)> =
            edits.next().map(|newest| edit(Kind::Newest, newest)).into_iter().collect();
        for distance in 0..above.len().max(below.len()) {
            list.extend(above.get(distance).map(|text| line(Kind::Above, text)));
            list.extend(below.get(distance).map(|text| line(Kind::Below, text)));
        }
        list.extend(edits.map(|older| edit(Kind::Older, older)));

        let (mut left, mut ended) = (budget, Vec::new());
        let (mut before, mut after, mut paths) = (String::new(), String::new(), Vec::new());
        for (kind, cost, text) in list {
            let most = if kind == Kind::Newest { budget / 2 } else { budget };
            if ended.contains(&kind) || cost > left.min(most) {
                ended.push(kind);
                if kind == Kind::Newest {
                    // An older edit without the newest one would say something else.
                    ended.push(Kind::Older);
                }
                continue;
            }
            left -= cost;
            match kind {
                Kind::Above => before.insert_str(0, &text),
                Kind::Below => after.push_str(&text),
                Kind::Newest | Kind::Older => paths.insert(0, text),
            }
        }
        (before, after, paths)
    }

    fn region(before: &str, after: &str) -> Region {
        let [before, standing, after] = [before, "", after].map(str::to_owned);
        Region { before, standing, after, cursor: None, chosen: None, rejected: None }
    }

    fn seen(budget: usize, context: &EditContext, region: &Region) -> (String, String, Vec<String>) {
        let view = View::within(budget, context, region, |text| Ok(length(text))).unwrap();
        let paths = view.edits.iter().map(|edit| edit.path.clone()).collect();
        (view.before.to_owned(), view.after.to_owned(), paths)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, fork: false, ..ProptestConfig::default() })]

        #[test]
        fn what_matters_most_takes_first_and_the_budget_is_kept(
            before in "[aé\n]{0,30}",
            after in "[aé\n]{0,30}",
            edits in prop::collection::vec(("[ab\n]{0,6}", "[ab\n]{0,6}"), 0..5),
            budget in 0_usize..140,
        ) {
            let numbered = edits.into_iter().enumerate();
            let recent_edits = numbered
                .map(|(number, (old_text, new_text))| RecentEdit { path: number.to_string(), old_text, new_text })
                .collect();
            let context = EditContext { recent_edits, ..context("", 0) };
            let region = region(&before, &after);
            let (above, below, paths) = seen(budget, &context, &region);
            prop_assert_eq!((above.clone(), below.clone(), paths.clone()), shown(budget, &context, &region));
            prop_assert!(before.ends_with(&above) && after.starts_with(&below));
            let of_edits: usize = context
                .recent_edits
                .iter()
                .filter(|edit| paths.contains(&edit.path))
                .map(|edit| length(&edit.path) + length(&difference(edit)) + EDIT_MARKS)
                .sum();
            prop_assert!(length(&above) + length(&below) + of_edits <= budget);
        }
    }

    #[test]
    fn the_newest_edit_comes_first_then_lines_around_then_older_edits() {
        let edit = |path: &str| RecentEdit { path: path.to_owned(), old_text: "a".to_owned(), new_text: String::new() };
        // Each costs twelve: its name, its line with sign and line break, and what stands around it.
        let context = EditContext { recent_edits: ["1", "2", "3"].map(edit).to_vec(), ..context("", 0) };
        let region = region("a1\na2\na3\n", "b1\nb2\n");
        let all = |before: &str, after: &str, paths: &[&str]| {
            (before.to_owned(), after.to_owned(), paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(seen(23, &context, &region), all("a1\na2\na3\n", "b1\nb2\n", &[]), "over half of the budget");
        assert_eq!(seen(24, &context, &region), all("a2\na3\n", "b1\nb2\n", &["3"]));
        assert_eq!(seen(38, &context, &region), all("a1\na2\na3\n", "b1\nb2\n", &["3"]));
        assert_eq!(seen(39, &context, &region), all("a1\na2\na3\n", "b1\nb2\n", &["2", "3"]));
        assert_eq!(seen(51, &context, &region), all("a1\na2\na3\n", "b1\nb2\n", &["1", "2", "3"]));
    }

    #[test]
    fn long_lines_come_in_parts_that_make_the_whole() {
        let text = format!("short\n{}\nlast", "é".repeat(600));
        let parts = parts(&text);
        assert_eq!(parts.concat(), text);
        assert_eq!((parts.len(), parts[0]), (5, "short\n"));
        assert!(parts.iter().all(|part| part.len() <= PART_BYTES));
    }
}
