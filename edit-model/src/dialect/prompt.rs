//! Rendering a context to tokens within a budget.

use events::{EditContext, RecentEdit};
use serde::{Deserialize, Serialize};

use super::difference::inline_changes;
use super::{DialectError, MAX_PROMPT_TOKENS};
use crate::tokenizer::{CodeTokenizer, HABIT_TOKENS, MAX_LINES, REPOSITORY_SLOTS};

/// Most window lines that are shown, unless there is room for none of the others.
const SHOWN_LINES: usize = 7;
/// More bytes than this of a line, a name or a side of an edit are never looked at: they could not be shown.
const MAX_PIECE_BYTES: usize = 1024;
const MAX_REPOSITORY_TOKENS: usize = 8;
const MAX_PATH_TOKENS: usize = 10;
const MAX_EDIT_TOKENS: usize = 48;
const MAX_EDITS: usize = 3;
const MAX_LINE_TOKENS: usize = 48;

/// A window line that the prompt shows: byte places in the window's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisibleLine {
    /// First byte.
    pub start: usize,
    /// First byte that is not shown; the line's end unless `cut`.
    pub end: usize,
    /// The line's end, before its line break.
    pub full_end: usize,
    /// Whether the line was too long to show whole.
    pub cut: bool,
}

/// A rendered context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// From `<start>` to `<answer>`.
    pub tokens: Vec<u32>,
    /// The line behind each marker.
    pub lines: Vec<VisibleLine>,
}

/// What a prompt says of the habits of the people who work in its repository.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Habit {
    /// What the repository has taught: the tokens of its slot.
    #[default]
    Repository,
    /// Nothing, whatever the repository.
    Untaught,
    /// In words: what stands before and after a renamed function's name where it is used. Pretraining writes these, and
    /// training looks for the one that explains a team's edits best.
    Spelled {
        /// Before the name.
        before: String,
        /// After the name.
        after: String,
    },
}

pub(super) fn render(tokenizer: &CodeTokenizer, context: &EditContext, habit: &Habit) -> Result<Prompt, DialectError> {
    let special = tokenizer.special();
    let encode = |text: &str| tokenizer.encode(text).map_err(|_| DialectError::Tokenizer);
    let text = &context.window.text;
    let cursor = context
        .cursor_byte
        .checked_sub(context.window.start_byte)
        .and_then(|cursor| usize::try_from(cursor).ok())
        .filter(|cursor| *cursor <= text.len())
        .ok_or(DialectError::Window)?;
    let spans = line_spans(text);
    let cursor_line = spans.iter().rposition(|(start, _)| *start <= cursor).ok_or(DialectError::Window)?;

    let mut head = vec![special.start, special.repository];
    let repository = encode(clipped(&context.repository, 64))?;
    head.extend(repository.iter().take(MAX_REPOSITORY_TOKENS));
    head.push(special.path);
    let path = encode(&path_end(context))?;
    head.extend(&path[path.len().saturating_sub(MAX_PATH_TOKENS)..]);

    // The cursor's line and the newest edit come first, then lines outwards, then older edits.
    let mut budget = MAX_PROMPT_TOKENS.saturating_sub(head.len() + 2 + HABIT_TOKENS);
    let mut shown: Vec<(usize, VisibleLine, Vec<u32>)> = Vec::new();
    let show = |index: usize, budget: &mut usize, shown: &mut Vec<(usize, VisibleLine, Vec<u32>)>| {
        let Some(&(start, full_end)) = spans.get(index) else { return Ok(false) };
        let line = clipped(&text[start..full_end], MAX_PIECE_BYTES);
        let mut tokens = encode(line)?;
        let mut end = start + line.len();
        if tokens.len() > MAX_LINE_TOKENS {
            tokens.truncate(MAX_LINE_TOKENS);
            end =
                start + tokens.iter().filter_map(|token| tokenizer.token_bytes(*token)).map(<[u8]>::len).sum::<usize>();
            while !text.is_char_boundary(end) {
                end -= 1;
            }
        }
        let cost = tokens.len() + 1 + usize::from(index == cursor_line);
        if cost > *budget {
            return Ok(false);
        }
        *budget -= cost;
        shown.push((index, VisibleLine { start, end, full_end, cut: end < full_end }, tokens));
        Ok(true)
    };
    show(cursor_line, &mut budget, &mut shown)?;
    let mut edits: Vec<Vec<u32>> = Vec::new();
    let mut recent = context.recent_edits.iter().rev();
    if let Some(edit) = recent.next() {
        push_edit(tokenizer, edit, &mut budget, &mut edits)?;
    }
    let (mut above, mut below) = (true, true);
    let mut distance = 1;
    while (above || below) && shown.len() < SHOWN_LINES.min(MAX_LINES) {
        if below {
            below = show(cursor_line + distance, &mut budget, &mut shown)?;
        }
        if above && shown.len() < SHOWN_LINES.min(MAX_LINES) {
            above = match cursor_line.checked_sub(distance) {
                Some(index) => show(index, &mut budget, &mut shown)?,
                None => false,
            };
        }
        distance += 1;
    }
    for edit in recent.take(MAX_EDITS - 1) {
        if !push_edit(tokenizer, edit, &mut budget, &mut edits)? {
            break;
        }
    }

    let mut tokens = head;
    tokens.extend(edits.into_iter().rev().flatten());
    tokens.push(special.window);
    shown.sort_by_key(|(index, ..)| *index);
    let mut lines = Vec::with_capacity(shown.len());
    for ((index, line, line_tokens), marker) in shown.into_iter().zip(&special.lines) {
        tokens.push(*marker);
        if index == cursor_line {
            tokens.push(special.cursor);
        }
        tokens.extend(line_tokens);
        lines.push(line);
    }
    // Next to the answer, because what a team does differently is decided there.
    tokens.extend(habit_tokens(tokenizer, &context.repository, habit)?);
    tokens.push(special.answer);
    Ok(Prompt { tokens, lines })
}

/// The tokens in the places of `habit`; what does not fit there is left out.
///
/// # Errors
/// [`DialectError::Tokenizer`] when the tokenizer fails.
pub fn habit_tokens(
    tokenizer: &CodeTokenizer,
    repository: &str,
    habit: &Habit,
) -> Result<[u32; HABIT_TOKENS], DialectError> {
    let special = tokenizer.special();
    let encode = |text: &str| tokenizer.encode(clipped(text, 64)).map_err(|_| DialectError::Tokenizer);
    match habit {
        Habit::Untaught => Ok(special.untaught),
        Habit::Repository => special.habits.get(repository_slot(repository)).copied().ok_or(DialectError::Tokenizer),
        Habit::Spelled { before, after } => {
            let spelled = encode(before)?.into_iter().chain([special.same]).chain(encode(after)?);
            let mut tokens = special.untaught;
            for (place, token) in tokens.iter_mut().zip(spelled) {
                *place = token;
            }
            Ok(tokens)
        }
    }
}

/// The slot of a repository's name.
fn repository_slot(repository: &str) -> usize {
    // FNV-1a: stable everywhere and for ever, because a model remembers slots.
    let hash = repository
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    usize::try_from((hash ^ (hash >> 32)) % REPOSITORY_SLOTS as u64).unwrap_or(0)
}

/// At most `bytes` from the start of `text`.
fn clipped(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Start and end (before the line break) of every line; a text that ends with a line break has no empty last line.
fn line_spans(text: &str) -> Vec<(usize, usize)> {
    let mut spans = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches('\n').trim_end_matches('\r');
        spans.push((start, start + content.len()));
        start += line.len();
    }
    if spans.is_empty() {
        spans.push((0, 0));
    }
    spans
}

/// Every line of `text`, whole.
pub(super) fn whole_lines(text: &str) -> Vec<VisibleLine> {
    let whole = |(start, end)| VisibleLine { start, end, full_end: end, cut: false };
    line_spans(text).into_iter().map(whole).collect()
}

/// The last two parts of the path; the language stands in for a missing extension.
fn path_end(context: &EditContext) -> String {
    let parts: Vec<&str> = context.path.rsplit('/').take(2).map(|part| clipped(part, 128)).collect();
    let mut path = parts.into_iter().rev().collect::<Vec<_>>().join("/");
    if !path.rsplit('/').next().unwrap_or_default().contains('.') {
        path.push('.');
        path.push_str(&context.language);
    }
    path
}

fn push_edit(
    tokenizer: &CodeTokenizer,
    edit: &RecentEdit,
    budget: &mut usize,
    edits: &mut Vec<Vec<u32>>,
) -> Result<bool, DialectError> {
    let tokens = edit_tokens(tokenizer, edit)?;
    if tokens.len() > *budget {
        return Ok(false);
    }
    *budget -= tokens.len();
    edits.push(tokens);
    Ok(true)
}

/// The inline difference; unchanged text is shortened first, around the changes, then the rest is cut.
fn edit_tokens(tokenizer: &CodeTokenizer, edit: &RecentEdit) -> Result<Vec<u32>, DialectError> {
    let special = tokenizer.special();
    let encode = |text: &str| tokenizer.encode(text).map_err(|_| DialectError::Tokenizer);
    let (old, new) = (edit.old_text.trim(), edit.new_text.trim());
    let changes = inline_changes(clipped(old, MAX_PIECE_BYTES), clipped(new, MAX_PIECE_BYTES));
    let mut pieces: Vec<(Vec<u32>, Vec<u32>, Vec<u32>)> = Vec::new();
    for change in &changes {
        pieces.push((encode(&change.same)?, encode(&change.old)?, encode(&change.new)?));
    }
    let length = |pieces: &[(Vec<u32>, Vec<u32>, Vec<u32>)]| {
        1 + pieces.iter().map(|(same, old, new)| same.len() + old.len() + new.len() + 3).sum::<usize>()
    };
    for keep in [24, 12, 6, 3, 1] {
        if length(&pieces) <= MAX_EDIT_TOKENS {
            break;
        }
        let last = pieces.len().saturating_sub(1);
        for (index, (same, ..)) in pieces.iter_mut().enumerate() {
            if index == last {
                same.truncate(keep);
            } else if same.len() > keep {
                same.drain(..same.len() - keep);
            }
        }
    }
    let mut tokens = vec![special.edit];
    for (index, (same, old, new)) in pieces.into_iter().enumerate() {
        if index > 0 && !same.is_empty() {
            tokens.push(special.same);
        }
        tokens.extend(same);
        if !(old.is_empty() && new.is_empty()) {
            tokens.push(special.old);
            tokens.extend(old);
            tokens.push(special.new);
            tokens.extend(new);
        }
    }
    tokens.truncate(MAX_EDIT_TOKENS);
    Ok(tokens)
}
