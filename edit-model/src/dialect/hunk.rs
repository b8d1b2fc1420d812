//! Actions reduced to their smallest effect in whole words, and anchored so that line and old text name one place.

use events::{ByteRange, EditAction, EditContext};

use super::DialectError;
use super::difference::{cuts_word, ends_in_word, lexemes, starts_with_word};
use super::prompt::VisibleLine;

/// A replacement of bytes `start..end` of the window's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunk {
    /// First replaced byte of the window's text.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
    /// What replaces it.
    pub new_text: String,
}

/// A hunk whose old text starts in a marked line and occurs there once.
pub(crate) struct Anchored {
    pub(crate) marker: usize,
    pub(crate) hunk: Hunk,
}

impl Hunk {
    /// The action that it is.
    pub(crate) fn to_action(&self, context: &EditContext) -> EditAction {
        let offset = |place: usize| context.window.start_byte.saturating_add(place as u64);
        EditAction {
            path: context.path.clone(),
            range: ByteRange::new(offset(self.start), offset(self.end)),
            old_text: context.window.text.get(self.start..self.end).unwrap_or_default().to_owned(),
            new_text: self.new_text.clone(),
        }
    }
}

/// Each action's smallest hunk, in the order of the actions.
pub(crate) fn from_actions(context: &EditContext, actions: &[EditAction]) -> Result<Vec<Hunk>, DialectError> {
    let mut hunks = Vec::with_capacity(actions.len());
    for action in actions {
        if action.path != context.path {
            return Err(DialectError::OtherFile);
        }
        let text = &context.window.text;
        let offset =
            |place: u64| place.checked_sub(context.window.start_byte).and_then(|place| usize::try_from(place).ok());
        let (start, end) = offset(action.range.start).zip(offset(action.range.end)).ok_or(DialectError::NotVisible)?;
        let old = text.get(start..end).ok_or(DialectError::NotVisible)?;
        if old != action.old_text {
            return Err(DialectError::OldText);
        }
        hunks.push(minimal(text, Hunk { start, end, new_text: action.new_text.clone() })?);
    }
    let mut order: Vec<(usize, usize)> = hunks.iter().map(|hunk| (hunk.start, hunk.end)).collect();
    order.sort_unstable();
    if order.windows(2).any(|pair| matches!(pair, [a, b] if b.0 < a.1 || a == b)) {
        return Err(DialectError::Overlap);
    }
    Ok(hunks)
}

/// The smallest hunk of whole words with the same effect.
pub(crate) fn minimal(text: &str, hunk: Hunk) -> Result<Hunk, DialectError> {
    let Hunk { mut start, mut end, mut new_text } = hunk;
    while cuts_word(text, start) || (ends_in_word(&text[..start]) && starts_with_word(&new_text)) {
        let Some(character) = text[..start].chars().next_back() else { break };
        start -= character.len_utf8();
        new_text.insert(0, character);
    }
    while cuts_word(text, end) || (starts_with_word(&text[end..]) && ends_in_word(&new_text)) {
        let Some(character) = text[end..].chars().next() else { break };
        end += character.len_utf8();
        new_text.push(character);
    }
    let old = &text[start..end];
    let (old_words, new_words) = (lexemes(old), lexemes(&new_text));
    let same = |a: &std::ops::Range<usize>, b: &std::ops::Range<usize>| old[a.clone()] == new_text[b.clone()];
    let prefix = old_words.iter().zip(&new_words).take_while(|(a, b)| same(a, b)).count();
    let suffix =
        old_words[prefix..].iter().rev().zip(new_words[prefix..].iter().rev()).take_while(|(a, b)| same(a, b)).count();
    let prefix_bytes = prefix.checked_sub(1).and_then(|last| old_words.get(last)).map_or(0, |range| range.end);
    let suffix_bytes = old_words[old_words.len() - suffix..].first().map_or(0, |range| old.len() - range.start);
    if prefix_bytes + suffix_bytes == old.len() && old.len() == new_text.len() {
        return Err(DialectError::NoChange);
    }
    let result = Hunk {
        start: start + prefix_bytes,
        end: end - suffix_bytes,
        new_text: new_text[prefix_bytes..new_text.len() - suffix_bytes].to_owned(),
    };
    Ok(result)
}

/// Number of places in line `line_start..=line_end` where `old` starts, counted up to 2.
pub(crate) fn occurrences(text: &str, line_start: usize, line_end: usize, old: &str) -> usize {
    places(text, line_start, line_end, old).take(2).count()
}

/// The places in line `line_start..=line_end` where `old` starts.
pub(crate) fn places<'a>(
    text: &'a str,
    line_start: usize,
    line_end: usize,
    old: &'a str,
) -> impl Iterator<Item = usize> + 'a {
    (line_start..=line_end)
        .filter(move |place| text.is_char_boundary(*place) && text[*place..].starts_with(old))
        .filter(move |place| !old.is_empty() || (*place == line_start && line_start == line_end))
}

/// Widens `hunk` by whole words until its old text is not empty and occurs once in its line, one of `lines`.
pub(crate) fn anchor(text: &str, lines: &[VisibleLine], hunk: &Hunk) -> Result<Anchored, DialectError> {
    let (marker, line) = lines
        .iter()
        .enumerate()
        .find(|(_, line)| line.start <= hunk.start && hunk.start <= line.end)
        .ok_or(DialectError::NotVisible)?;
    let visible_end = lines.last().map_or(0, |last| last.end);
    let line_text = &text[line.start..line.end];
    let words = lexemes(line_text);
    let mut widened = hunk.clone();
    loop {
        let old = text.get(widened.start..widened.end).ok_or(DialectError::NotVisible)?;
        let substantial = !old.trim().is_empty() || line_text.is_empty();
        if substantial && occurrences(text, line.start, line.end, old) == 1 {
            break;
        }
        // One word to the left, or, at the start of the line, one to the right.
        let left = words.iter().rev().map(|range| line.start + range.start).find(|start| *start < widened.start);
        if let Some(start) = left {
            widened.new_text.insert_str(0, &text[start..widened.start]);
            widened.start = start;
            continue;
        }
        let right = words.iter().map(|range| line.start + range.end).find(|end| *end > widened.end);
        let Some(end) = right else { return Err(DialectError::NotVisible) };
        widened.new_text.push_str(&text[widened.end..end]);
        widened.end = end;
    }
    if widened.end > visible_end {
        return Err(DialectError::NotVisible);
    }
    let crosses_cut = lines.iter().any(|line| {
        line.cut
            && ((widened.start <= line.end && widened.end > line.end)
                || widened.start > line.end && widened.start <= line.full_end)
    });
    if crosses_cut {
        return Err(DialectError::NotVisible);
    }
    Ok(Anchored { marker, hunk: widened })
}
