//! Preference pairs as text, for any trainer: a prompt and the answers to it, in the dialect of a base model.
//!
//! A base model knows its own control tokens and no others, and it learns from text that a trainer tokenizes by itself.
//! What follows from this holds for every pair that is rendered, and is checked for each with the base's own tokenizer:
//!
//! 1. The control tokens of a text are exactly those that the dialect put there, in its order. What developers wrote that
//!    reads like one is broken up.
//! 2. The tokens of prompt and answer together are those of the prompt followed by those of the answer, so that the place
//!    where an answer begins is the same for whoever cuts by tokens.
//! 3. Prompt and longest answer have at most as many tokens as allowed. The code around the changed region is cut, what is
//!    farthest from it first; the region and the answers never are, so that nothing is cut through the divergence point.
//!    Our own dialect cuts for its model alone, whose prompts must be those that serving asks with: less room is refused.
//! 4. No answer is empty, and the two answers differ. The divergence point is the first byte at which they do, on a
//!    character boundary.
//!
//! What can not be rendered so is refused with a reason ([`Refusal`]), for whoever counts.
//!
//! What a base learned so it is asked so: [`CursorPrompts`] are the same prompts for a place of which no answer is known.

mod base;
mod cursor;
mod fill;
mod neutral;
mod own;
mod region;
mod renderer;
mod rewrite;
mod view;

use std::fmt;
use std::str::FromStr;

use events::{ActionList, EditAction, EditContext};

pub use cursor::CursorPrompts;
pub use renderer::Renderer;

use crate::dialect::DialectError;

/// How a pair is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Ours, which our own small model reads and writes ([`crate::dialect`]).
    Flywheel,
    /// Fill in the middle, as Qwen2.5-Coder was trained at the level of repositories (Hui et al. 2024, "Qwen2.5-Coder
    /// Technical Report"), with edits as files of their own.
    QwenCoderFim,
    /// Fill in the middle, as `StarCoder` (Li et al. 2023) or `StarCoder2` (Lozhkov et al. 2024) was trained, with edits as
    /// files of their own; which of the two, the tokenizer says.
    StarcoderFim,
    /// The whole lines around the change, rewritten: for any base, since its marks are plain text.
    RegionRewrite,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Flywheel, Self::QwenCoderFim, Self::StarcoderFim, Self::RegionRewrite];

    /// The word that names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flywheel => "flywheel",
            Self::QwenCoderFim => "qwen2.5-coder-fim",
            Self::StarcoderFim => "starcoder-fim",
            Self::RegionRewrite => "region-rewrite",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A word that names no dialect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown dialect \"{0}\"; expected flywheel, qwen2.5-coder-fim, starcoder-fim or region-rewrite")]
pub struct UnknownDialect(String);

impl FromStr for Dialect {
    type Err = UnknownDialect;

    fn from_str(text: &str) -> Result<Self, UnknownDialect> {
        Self::ALL.into_iter().find(|dialect| dialect.as_str() == text).ok_or_else(|| UnknownDialect(text.to_owned()))
    }
}

/// What is rendered: a pair's text, of which one side may be absent.
#[derive(Clone, Copy)]
pub struct Sides<'a> {
    /// What the model saw.
    pub context: &'a EditContext,
    /// Actions before the divergence that both sides share.
    pub shared: &'a [EditAction],
    /// What the developer wanted from there on.
    pub chosen: Option<&'a ActionList>,
    /// What was proposed and not wanted.
    pub rejected: Option<&'a ActionList>,
}

impl fmt::Debug for Sides<'_> {
    /// Code never reaches a log through `Debug`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sides(..)")
    }
}

/// An answer, and how long it is for the base.
#[derive(Clone, PartialEq, Eq)]
pub struct RenderedAnswer {
    /// The text, never empty.
    pub text: String,
    /// Its number of tokens.
    pub tokens: usize,
}

impl fmt::Debug for RenderedAnswer {
    /// Code never reaches a log through `Debug`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RenderedAnswer({} tokens)", self.tokens)
    }
}

/// The divergence point in two answers, the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerDivergence {
    /// The first byte that differs, on a character boundary.
    pub byte: usize,
    /// The first token of the base that differs. It begins at that byte or before: two answers that differ late in a word
    /// may be different tokens from where the word begins.
    pub token: usize,
}

/// A pair in a dialect.
#[derive(Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What the model is asked.
    pub prompt: String,
    /// Its number of tokens.
    pub prompt_tokens: usize,
    /// What it should answer.
    pub chosen: Option<RenderedAnswer>,
    /// What it should not answer.
    pub rejected: Option<RenderedAnswer>,
    /// Where the two answers part. None: there is one answer only.
    pub divergence: Option<AnswerDivergence>,
}

impl fmt::Debug for Rendered {
    /// Code never reaches a log through `Debug`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Rendered")
            .field("prompt_tokens", &self.prompt_tokens)
            .field("chosen", &self.chosen)
            .field("rejected", &self.rejected)
            .field("divergence", &self.divergence)
            .finish_non_exhaustive()
    }
}

/// Why a pair is not rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// No side changes anything, so there is no place to speak of.
    #[error("no side changes anything")]
    NothingChanges,
    /// An action is about another file, lies outside the window, overlaps another, or does not hold its old text.
    #[error("an action does not fit the window that it is about")]
    Unfit,
    /// An answer has no text in this dialect, such as silence where text was to be inserted.
    #[error("an answer is empty in this dialect")]
    EmptyAnswer,
    /// Both answers read the same in this dialect.
    #[error("both answers are the same in this dialect")]
    SameAnswer,
    /// Even without any code around it, it is longer than allowed.
    #[error("prompt and answer are longer than allowed")]
    TooLong,
    /// An answer is longer than the model of this dialect can write.
    #[error("an answer is longer than the model of this dialect can write")]
    AnswerTooLong,
    /// Tokens would merge across the end of the prompt.
    #[error("tokens merge where the answer begins")]
    BoundaryMerges,
    /// The base's tokenizer finds other control tokens than the dialect wrote.
    #[error("control tokens are not those of the dialect")]
    ControlTokens,
    /// The tokenizer failed.
    #[error("the tokenizer failed")]
    Tokenizer,
}

impl Refusal {
    /// A stable code for counts.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NothingChanges => "nothing_changes",
            Self::Unfit => "does_not_fit_its_window",
            Self::EmptyAnswer => "empty_answer",
            Self::SameAnswer => "same_answer",
            Self::TooLong => "too_long",
            Self::AnswerTooLong => "answer_too_long",
            Self::BoundaryMerges => "boundary_merges",
            Self::ControlTokens => "control_tokens",
            Self::Tokenizer => "tokenizer_failed",
        }
    }
}

impl From<DialectError> for Refusal {
    fn from(error: DialectError) -> Self {
        match error {
            DialectError::TooLong => Self::AnswerTooLong,
            DialectError::Tokenizer => Self::Tokenizer,
            _ => Self::Unfit,
        }
    }
}

#[cfg(test)]
mod tests;
