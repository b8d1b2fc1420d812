//! Reading an answer token by token; also says which tokens may come next, so that decoding cannot leave the grammar.

use std::ops::Deref;

use events::{ByteRange, EditAction, EditContext};

use super::hunk::{occurrences, places};
use super::prompt::{Prompt, VisibleLine};
use crate::tokenizer::CodeTokenizer;

/// What one more token means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParsedToken {
    /// The action goes on.
    Continue,
    /// An action is complete.
    Action(EditAction),
    /// The answer is complete (`<stop>` or `<no_edit>`).
    End,
    /// The token does not belong here; the answer ends before it.
    Invalid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Between,
    Old,
    New,
    Finished,
}

/// An incremental parser of one answer; `C` holds the context.
#[derive(Debug)]
pub struct AnswerParser<'a, C = &'a EditContext> {
    tokenizer: &'a CodeTokenizer,
    context: C,
    lines: Vec<VisibleLine>,
    state: State,
    line: usize,
    old: Vec<u8>,
    new: Vec<u8>,
    taken: Vec<(usize, usize)>,
}

impl<'a, C: Deref<Target = EditContext>> AnswerParser<'a, C> {
    /// A parser for the answer to `prompt`, which was rendered from `context`.
    #[must_use]
    pub fn new(tokenizer: &'a CodeTokenizer, context: C, prompt: &Prompt) -> Self {
        Self {
            tokenizer,
            context,
            lines: prompt.lines.clone(),
            state: State::Start,
            line: 0,
            old: Vec::new(),
            new: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// Whether `token` may come next: a marker of a shown line, old text that stands in it, `<to>` once it is unique.
    #[must_use]
    pub fn allows(&self, token: u32) -> bool {
        let special = self.tokenizer.special();
        let text = &self.context.window.text;
        match self.state {
            State::Start | State::Between => {
                (token == special.no_edit && self.state == State::Start)
                    || (token == special.stop && self.state == State::Between)
                    || special.lines.iter().take(self.lines.len()).any(|marker| *marker == token)
            }
            State::Old => {
                let Some(line) = self.lines.get(self.line) else { return false };
                if token == special.to {
                    return self.place().is_some();
                }
                let Some(bytes) = self.tokenizer.token_bytes(token) else { return false };
                let length = self.old.len() + bytes.len();
                (line.start..=line.end).any(|start| {
                    text.as_bytes()
                        .get(start..start + length)
                        .is_some_and(|found| found.starts_with(&self.old) && found.ends_with(bytes))
                })
            }
            State::New => {
                if token == special.end_action {
                    return std::str::from_utf8(&self.new).is_ok_and(|new| self.old != new.as_bytes());
                }
                self.tokenizer.token_bytes(token).is_some()
            }
            State::Finished => false,
        }
    }

    /// Whether an action is complete and nothing has begun after it.
    #[must_use]
    pub fn is_between_actions(&self) -> bool {
        matches!(self.state, State::Start | State::Between)
    }

    /// The one free place of the old text read so far.
    fn place(&self) -> Option<(usize, usize)> {
        let line = self.lines.get(self.line)?;
        let old = std::str::from_utf8(&self.old).ok()?;
        let text = &self.context.window.text;
        if occurrences(text, line.start, line.end, old) != 1 {
            return None;
        }
        let start = places(text, line.start, line.end, old).next()?;
        let end = start + old.len();
        let free = self.taken.iter().all(|(taken_start, taken_end)| end <= *taken_start || start >= *taken_end);
        (free && !self.taken.contains(&(start, end))).then_some((start, end))
    }

    /// Reads one token.
    pub fn push(&mut self, token: u32) -> ParsedToken {
        if !self.allows(token) {
            self.state = State::Finished;
            return ParsedToken::Invalid;
        }
        let special = self.tokenizer.special();
        match self.state {
            State::Start | State::Between => {
                let Some(line) = special.lines.iter().position(|marker| *marker == token) else {
                    self.state = State::Finished;
                    return ParsedToken::End;
                };
                self.line = line;
                self.old.clear();
                self.new.clear();
                self.state = State::Old;
                ParsedToken::Continue
            }
            State::Old => {
                if token == special.to {
                    self.state = State::New;
                } else if let Some(bytes) = self.tokenizer.token_bytes(token) {
                    self.old.extend_from_slice(bytes);
                }
                ParsedToken::Continue
            }
            State::New => {
                if token == special.end_action {
                    return self.finish_action();
                }
                if let Some(bytes) = self.tokenizer.token_bytes(token) {
                    self.new.extend_from_slice(bytes);
                }
                ParsedToken::Continue
            }
            State::Finished => ParsedToken::Invalid,
        }
    }

    fn finish_action(&mut self) -> ParsedToken {
        let texts = String::from_utf8(self.old.clone()).ok().zip(String::from_utf8(self.new.clone()).ok());
        let Some(((start, end), (old_text, new_text))) = self.place().zip(texts) else {
            self.state = State::Finished;
            return ParsedToken::Invalid;
        };
        self.taken.push((start, end));
        self.state = State::Between;
        let base = self.context.window.start_byte;
        ParsedToken::Action(EditAction {
            path: self.context.path.clone(),
            range: ByteRange::new(base + start as u64, base + end as u64),
            old_text,
            new_text,
        })
    }
}
