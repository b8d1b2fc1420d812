//! What an editor asks and what a model answers, in one shape from the serving door to the preference pair.
//!
//! Places are byte ranges of the UTF-8 document *before* any action of the suggestion was applied. A model never
//! writes offsets: it writes a line marker and short old text, which the dialect resolves to such a range.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use crate::vocabulary::EditPattern;

/// A half-open range of UTF-8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte inside the range.
    pub start: u64,
    /// First byte after the range.
    pub end: u64,
}

impl ByteRange {
    /// A range from `start` to `end`.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// Length in bytes; zero for a reversed range.
    #[must_use]
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether nothing lies inside.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// Whether the two ranges share a byte, or touch when one of them is empty.
    #[must_use]
    pub fn touches(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// How a client counts offsets. Events are normalised to UTF-8 bytes at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffsetEncoding {
    /// Bytes of the UTF-8 text.
    #[default]
    Utf8,
    /// UTF-16 code units, as LSP counts by default.
    Utf16,
    /// As only a newer release knows. Read on the bus alone: a door refuses what it cannot count.
    #[serde(skip_deserializing)]
    Unknown,
}

impl OffsetEncoding {
    /// Reads a symbol of the bus; one that this release does not know becomes `unknown`.
    pub(crate) fn from_bus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Cow::<str>::deserialize(deserializer)?.as_ref() {
            "utf8" => Self::Utf8,
            "utf16" => Self::Utf16,
            _ => Self::Unknown,
        })
    }
}

/// One independently acceptable replacement.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EditAction {
    /// File that the action changes, relative to the repository root.
    pub path: String,
    /// Replaced bytes of the document before the suggestion.
    pub range: ByteRange,
    /// The text that stands in `range`.
    pub old_text: String,
    /// The text that replaces it.
    pub new_text: String,
}

/// A change the developer made shortly before: whole lines, so that it reads like a one-hunk diff.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecentEdit {
    /// File of the change, relative to the repository root.
    pub path: String,
    /// The lines before, without the last line break.
    pub old_text: String,
    /// The lines after, without the last line break.
    pub new_text: String,
}

/// The part of the document around the cursor that a suggestion may change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// Offset of the window's first byte in the document.
    pub start_byte: u64,
    /// Number of the window's first line in the document, from 0.
    pub first_line: u64,
    /// Whole lines, with their line breaks.
    pub text: String,
}

/// Everything a model sees. Rendered to a prompt by a dialect when a model is asked or trained; never stored as a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EditContext {
    /// Repository as the model sees it (pseudonymous, shape preserved).
    pub repository: String,
    /// Path of the document as the model sees it.
    pub path: String,
    /// Language id as in LSP (`rust`, `python`).
    pub language: String,
    /// Oldest first.
    pub recent_edits: Vec<RecentEdit>,
    /// What may be changed.
    pub window: Window,
    /// Offset of the cursor in the document.
    pub cursor_byte: u64,
}

/// What was proposed or wanted at an opportunity. An empty list of actions is a decision too: `NO_EDIT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ActionList {
    /// In the order served or made.
    pub actions: Vec<EditAction>,
    /// Whether it is known that nothing follows (STOP on evidence). Open-ended lists train no STOP.
    pub closed: bool,
}

impl ActionList {
    /// The decision to change nothing.
    #[must_use]
    pub fn no_edit() -> Self {
        Self { actions: Vec::new(), closed: true }
    }

    /// Whether this is the decision to change nothing.
    #[must_use]
    pub fn is_no_edit(&self) -> bool {
        self.actions.is_empty()
    }
}

/// Applies `actions` (ranges into the document that starts at `start_byte` with `text`) and returns the new text,
/// or `None` if a range is outside the text, not on a character boundary, overlaps another or does not hold `old_text`.
#[must_use]
pub fn apply_actions(start_byte: u64, text: &str, actions: &[EditAction]) -> Option<String> {
    let mut ordered: Vec<&EditAction> = actions.iter().collect();
    ordered.sort_by_key(|action| (action.range.start, action.range.end));
    let mut result = String::with_capacity(text.len() + 32);
    let mut position = 0_usize;
    for action in ordered {
        let start = usize::try_from(action.range.start.checked_sub(start_byte)?).ok()?;
        let end = usize::try_from(action.range.end.checked_sub(start_byte)?).ok()?;
        if start < position || text.get(start..end)? != action.old_text {
            return None;
        }
        result.push_str(text.get(position..start)?);
        result.push_str(&action.new_text);
        position = end;
    }
    result.push_str(text.get(position..)?);
    Some(result)
}

/// What `actions` do to the text; none when there are none. Text that an action repeats before and after what it
/// changes does not count: models write some around it.
#[must_use]
pub fn pattern_of<'a>(actions: impl IntoIterator<Item = &'a EditAction>) -> Option<EditPattern> {
    let mut actions = actions.into_iter();
    let first = actions.next()?;
    if actions.next().is_some() {
        return Some(EditPattern::SeveralPlaces);
    }
    let (removed, written) = changed(&first.old_text, &first.new_text);
    Some(match (removed.is_empty(), written.is_empty()) {
        (true, _) => EditPattern::Insert,
        (false, true) => EditPattern::Delete,
        (false, false) => EditPattern::Replace,
    })
}

/// The two texts without what they share at their beginning and at their end.
fn changed<'a>(old: &'a str, new: &'a str) -> (&'a str, &'a str) {
    let alike = |pair: &(char, char)| pair.0 == pair.1;
    let bytes = |pair: (char, char)| pair.0.len_utf8();
    let prefix: usize = old.chars().zip(new.chars()).take_while(alike).map(bytes).sum();
    let (old, new) = (&old[prefix..], &new[prefix..]);
    let suffix: usize = old.chars().rev().zip(new.chars().rev()).take_while(alike).map(bytes).sum();
    (&old[..old.len() - suffix], &new[..new.len() - suffix])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_what_changes_without_what_is_repeated_around_it() {
        let action = |old: &str, new: &str| EditAction {
            path: "a.rs".to_owned(),
            range: ByteRange::new(0, old.len() as u64),
            old_text: old.to_owned(),
            new_text: new.to_owned(),
        };
        let one = |old: &str, new: &str| pattern_of(&[action(old, new)]);
        assert_eq!(one("", "a"), Some(EditPattern::Insert));
        assert_eq!(one("f(a)", "f(a, é)"), Some(EditPattern::Insert));
        assert_eq!(one("aa", "aaa"), Some(EditPattern::Insert));
        assert_eq!(one("f(a, é)", "f(é)"), Some(EditPattern::Delete));
        assert_eq!(one("get_name", "fetch_name"), Some(EditPattern::Replace));
        assert_eq!(one("é", "è"), Some(EditPattern::Replace));
        assert_eq!(pattern_of(&[action("a", "b"), action("c", "")]), Some(EditPattern::SeveralPlaces));
        assert_eq!(pattern_of(&[]), None);
    }
}
