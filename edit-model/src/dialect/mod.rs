//! How a context becomes a prompt and a list of actions becomes an answer, and back.
//!
//! Prompt: `<start> <repository> name <path> end/of/path.rs`, then the newest recent edits as inline differences
//! (`<edit> text <old> removed <new> inserted <same> text`), then `<window>` and the lines around the cursor, each
//! behind its marker (`<line k>`, the cursor's also behind `<cursor>`), then the habit tokens of the slot that the
//! repository's name hashes to, then `<answer>`. A team's habits are learned there without disturbing anyone else's:
//! these embeddings get gradients from that team's pairs alone (a soft prompt: Lester et al. 2021, "The Power of Scale
//! for Parameter-Efficient Prompt Tuning"). So that a small model can read them, pretraining spells invented habits in
//! their places, and training starts a team's from the spelling under which its edits are likeliest. The name as text tells apart repositories that share a slot.
//!
//! What changes least comes first, so that what was computed for a prompt serves the next. What is typed in the cursor's
//! line changes tokens only behind that line's `<cursor>`, as long as the longer or shorter line leaves room for the same
//! lines and edits; where it does not, some of them come or go, and tokens change only behind the path.
//!
//! Answer: `<no_edit>`, or one `<line k> old <to> new <end_action>` for each action; `<stop>` ends a list that is
//! closed and not empty. The old text is the shortest span of whole words that starts in line k and occurs there once,
//! so a model never counts: it copies. One canonical encoder writes answers; the parser accepts only what the encoder
//! could have meant.

mod difference;
mod hunk;
mod pair;
mod parse;
mod prompt;

pub use hunk::Hunk;
pub use pair::{EncodedPair, divergence, written, written_pair};
pub use parse::{AnswerParser, ParsedToken};
pub use prompt::{Habit, Prompt, VisibleLine, habit_tokens};

use events::{ActionList, EditAction, EditContext};

use crate::tokenizer::CodeTokenizer;

/// Longest prompt in tokens; what does not fit is left out, farthest from the cursor first.
pub const MAX_PROMPT_TOKENS: usize = 136;
/// Longest answer in tokens.
pub const MAX_ANSWER_TOKENS: usize = 56;
/// Longest prompt and answer together.
pub const MAX_SEQUENCE_TOKENS: usize = MAX_PROMPT_TOKENS + MAX_ANSWER_TOKENS;

/// Why a context or a list of actions cannot be written in the dialect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialectError {
    /// The window has no text, or the cursor or an action lies outside.
    #[error("the window is empty or its offsets do not fit")]
    Window,
    /// An action changes text that the prompt does not show.
    #[error("an action lies outside the lines that the prompt shows")]
    NotVisible,
    /// An action's old text is not what stands in the window.
    #[error("an action's old text is not in its place")]
    OldText,
    /// An action is about another file.
    #[error("an action is about another file")]
    OtherFile,
    /// An action changes nothing.
    #[error("an action changes nothing")]
    NoChange,
    /// Two actions overlap.
    #[error("two actions overlap")]
    Overlap,
    /// The answer is longer than the model can write.
    #[error("the answer is longer than {MAX_ANSWER_TOKENS} tokens")]
    TooLong,
    /// The tokenizer failed.
    #[error("the tokenizer failed")]
    Tokenizer,
}

/// An answer in tokens, with the end of each action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Tokens after `<answer>`.
    pub tokens: Vec<u32>,
    /// For each action the place just after its `<end_action>`.
    pub action_ends: Vec<usize>,
}

/// Renders `context` as the model sees it.
///
/// # Errors
/// [`DialectError::Window`] when the window is empty or the cursor outside.
pub fn encode_prompt(tokenizer: &CodeTokenizer, context: &EditContext) -> Result<Prompt, DialectError> {
    prompt::render(tokenizer, context, &Habit::Repository)
}

/// The same with another habit than the repository's. Nothing else of the prompt depends on it.
///
/// # Errors
/// As [`encode_prompt`].
pub fn encode_prompt_with(
    tokenizer: &CodeTokenizer,
    context: &EditContext,
    habit: &Habit,
) -> Result<Prompt, DialectError> {
    prompt::render(tokenizer, context, habit)
}

/// The canonical answer for `actions` in `context`.
///
/// # Errors
/// See [`DialectError`].
pub fn encode_answer(
    tokenizer: &CodeTokenizer,
    context: &EditContext,
    actions: &ActionList,
) -> Result<Answer, DialectError> {
    let prompt = encode_prompt(tokenizer, context)?;
    let hunks = hunk::from_actions(context, &actions.actions)?;
    encode_hunks(tokenizer, context, &prompt, &hunks, actions.closed)
}

/// The answer for hunks that are already canonical (or widened on purpose, as for pairs).
pub(crate) fn encode_hunks(
    tokenizer: &CodeTokenizer,
    context: &EditContext,
    prompt: &Prompt,
    hunks: &[Hunk],
    closed: bool,
) -> Result<Answer, DialectError> {
    let special = tokenizer.special();
    let encode = |text: &str| tokenizer.encode(text).map_err(|_| DialectError::Tokenizer);
    let mut tokens = Vec::new();
    let mut action_ends = Vec::new();
    if hunks.is_empty() {
        if closed {
            tokens.push(special.no_edit);
        }
        return Ok(Answer { tokens, action_ends });
    }
    let text = &context.window.text;
    for hunk in hunks {
        let anchored = hunk::anchor(text, &prompt.lines, hunk)?;
        let marker = special.lines.get(anchored.marker).ok_or(DialectError::NotVisible)?;
        tokens.push(*marker);
        tokens.extend(encode(&text[anchored.hunk.start..anchored.hunk.end])?);
        tokens.push(special.to);
        tokens.extend(encode(&anchored.hunk.new_text)?);
        tokens.push(special.end_action);
        action_ends.push(tokens.len());
    }
    if closed {
        tokens.push(special.stop);
    }
    if tokens.len() > MAX_ANSWER_TOKENS {
        return Err(DialectError::TooLong);
    }
    Ok(Answer { tokens, action_ends })
}

/// Reads a whole answer back; what follows a mistake is dropped.
///
/// # Errors
/// [`DialectError::Window`] when the context itself is unusable.
pub fn parse_answer(
    tokenizer: &CodeTokenizer,
    context: &EditContext,
    tokens: &[u32],
) -> Result<ActionList, DialectError> {
    let prompt = encode_prompt(tokenizer, context)?;
    let mut parser = AnswerParser::new(tokenizer, context, &prompt);
    let mut actions: Vec<EditAction> = Vec::new();
    for token in tokens {
        match parser.push(*token) {
            ParsedToken::Continue => {}
            ParsedToken::Action(action) => actions.push(action),
            ParsedToken::End => return Ok(ActionList { actions, closed: true }),
            ParsedToken::Invalid => break,
        }
    }
    Ok(ActionList { actions, closed: false })
}

#[cfg(test)]
mod tests;
