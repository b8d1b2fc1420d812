//! Our own dialect as text: the tokens that our model reads and writes, by their names.

use events::{ActionList, EditAction};

use super::base::BaseTokenizer;
use super::neutral::{Draft, Marked, Neutralizer};
use super::renderer::Drafted;
use super::{Refusal, Sides};
use crate::dialect::{EncodedPair, encode_answer, encode_prompt};
use crate::tokenizer::CodeTokenizer;

/// Writes a pair.
pub(super) fn draft(
    tokenizer: &CodeTokenizer,
    base: &BaseTokenizer,
    neutral: &Neutralizer,
    sides: &Sides<'_>,
) -> Result<Drafted, Refusal> {
    let named = |tokens: &[u32]| named(tokenizer, base, neutral, tokens);
    if let (Some(chosen), Some(rejected)) = (sides.chosen, sides.rejected) {
        let pair = EncodedPair::encode(tokenizer, sides.context, sides.shared, chosen, rejected)?;
        let (chosen, rejected) = (Some(named(&pair.chosen.tokens)?), Some(named(&pair.rejected.tokens)?));
        return Ok(Drafted { prompt: named(&pair.prompt)?, chosen, rejected });
    }
    let prompt = named(&encode_prompt(tokenizer, sides.context)?.tokens)?;
    let answer = |side: Option<&ActionList>| -> Result<Option<Marked>, Refusal> {
        let Some(list) = side else { return Ok(None) };
        let actions: Vec<EditAction> = sides.shared.iter().chain(&list.actions).cloned().collect();
        let whole = ActionList { actions, closed: list.closed };
        named(&encode_answer(tokenizer, sides.context, &whole)?.tokens).map(Some)
    };
    Ok(Drafted { prompt, chosen: answer(sides.chosen)?, rejected: answer(sides.rejected)? })
}

/// Tokens of structure by their names, the others as the text that they stand for. A character that a cut has halved is
/// left out.
fn named(
    tokenizer: &CodeTokenizer,
    base: &BaseTokenizer,
    neutral: &Neutralizer,
    tokens: &[u32],
) -> Result<Marked, Refusal> {
    let mut draft = Draft::new(neutral);
    let mut bytes: Vec<u8> = Vec::new();
    let push = |bytes: &mut Vec<u8>, draft: &mut Draft<'_>| {
        bytes.utf8_chunks().for_each(|chunk| draft.push(chunk.valid()));
        bytes.clear();
    };
    for token in tokens {
        match tokenizer.token_bytes(*token) {
            Some(text) => bytes.extend_from_slice(text),
            None => {
                push(&mut bytes, &mut draft);
                draft.mark(&base.name(*token).ok_or(Refusal::Tokenizer)?);
            }
        }
    }
    push(&mut bytes, &mut draft);
    Ok(draft.finish())
}
