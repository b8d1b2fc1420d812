//! Guesses at the tokens that come next, so that several can be read in one pass (speculative decoding: Leviathan et al.
//! 2023, "Fast Inference from Transformers via Speculative Decoding"). The guesses come from the text being edited: an
//! answer copies most of it (prompt look-up: Saxena 2023, "Prompt Lookup Decoding").
//!
//! A guess decides nothing. The decoder chooses every token from the logits that it would have without guesses, and a guess
//! only makes that the logits behind it are there already when it was right.

use crate::tokenizer::CodeTokenizer;

/// Longest run of last tokens that is looked for.
const LONGEST_MATCH: usize = 3;

/// What was read and written so far.
pub(crate) struct Drafter<'a> {
    tokenizer: &'a CodeTokenizer,
    read: Vec<u32>,
}

impl<'a> Drafter<'a> {
    /// For the answer to a prompt.
    pub(crate) fn new(tokenizer: &'a CodeTokenizer, prompt: &[u32]) -> Self {
        // An answer names a line and goes on with its text; the cursor would stand in between.
        let cursor = tokenizer.special().cursor;
        Self { tokenizer, read: prompt.iter().copied().filter(|token| *token != cursor).collect() }
    }

    /// One more token was written.
    pub(crate) fn push(&mut self, token: u32) {
        self.read.push(token);
    }

    /// At most `most` tokens that may come next. Behind `<to>` it is the old text, else what stood behind the last tokens
    /// where they stood before: the longest run of them, where it stood last.
    pub(crate) fn draft(&self, most: usize) -> Vec<u32> {
        let special = self.tokenizer.special();
        let start = match self.read.split_last() {
            Some((last, before)) if *last == special.to => {
                before.iter().rposition(|token| special.lines.contains(token)).map(|line| line + 1)
            }
            _ => (1..=LONGEST_MATCH).rev().find_map(|length| self.last_match(length)),
        };
        let following = start.and_then(|start| self.read.get(start..)).unwrap_or_default();
        let may_be_written = |token: &&u32| {
            **token == special.to || **token == special.end_action || self.tokenizer.token_bytes(**token).is_some()
        };
        following.iter().take(most).take_while(may_be_written).copied().collect()
    }

    /// The place behind the last earlier occurrence of the last `length` tokens.
    fn last_match(&self, length: usize) -> Option<usize> {
        let (before, last) = self.read.split_at_checked(self.read.len().checked_sub(length)?)?;
        // They may overlap themselves: a run of one token goes on.
        let earlier = self.read.get(..before.len() + length - 1)?;
        earlier.windows(length).rposition(|window| window == last).map(|place| place + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::small;

    #[test]
    fn what_stood_behind_the_longest_run_is_drafted_and_behind_to_the_old_text() {
        let tokenizer = small();
        let special = tokenizer.special();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|text| tokenizer.encode(text).unwrap()[0]);
        let (line, cursor, to, end) = (special.lines[0], special.cursor, special.to, special.end_action);
        let draft = |written: &[u32], most| {
            let mut drafter = Drafter::new(&tokenizer, &[special.window, line, cursor, a, b, c, a, d, special.answer]);
            written.iter().for_each(|token| drafter.push(*token));
            drafter.draft(most)
        };
        // The named line's text, to its end.
        assert_eq!(draft(&[line], 9), [a, b, c, a, d]);
        assert_eq!(draft(&[line], 2), [a, b]);
        assert_eq!(draft(&[line], 0), [0_u32; 0]);
        // The last of two places, unless more tokens before agree with the first.
        assert_eq!(draft(&[a], 1), [d]);
        assert_eq!(draft(&[line, a], 1), [b]);
        // Old text first, then what follows in it.
        assert_eq!(draft(&[line, b, c, to], 3), [b, c, to]);
        assert_eq!(draft(&[line, b, c, to, d, c], 9), [to, d, c]);
        // An action like the one before.
        assert_eq!(draft(&[line, b, to, d, end, line, b], 9), [to, d, end]);
        assert_eq!(draft(&[c, c], 1), [c]);
        assert_eq!(draft(&[special.lines[1]], 9), [0_u32; 0]);
    }
}
