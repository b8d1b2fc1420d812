//! Byte-level BPE over code: words, digits and the pieces of camelCase and snake_case never merge with each other, so
//! that an identifier reads the same wherever it stands and can be copied token by token.

use std::collections::HashMap;
use std::path::Path;

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, SplitDelimiterBehavior, Tokenizer};

use crate::error::ModelError;

/// Most window lines that a prompt can mark.
pub const MAX_LINES: usize = 12;
/// Slots for repositories: a name is hashed to one, so that what a repository teaches has a place of its own.
pub const REPOSITORY_SLOTS: usize = 256;
/// Tokens of a slot: as many as it takes to spell a habit (`get_display_` and the place of the name are five).
pub const HABIT_TOKENS: usize = 6;

/// Lower-case words with an optional capital, runs of capitals, single digits, single underscores, line breaks, runs of
/// other white space, runs of punctuation with a space on each side, single spaces.
const PATTERN: &str =
    r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]|_|\r?\n|\r|[^\S\r\n]{2,}|[^\S\r\n]?[^\sA-Za-z0-9_]+[^\S\r\n]?|[^\S\r\n]";

/// Ids of the tokens that structure a prompt and an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Starts every sequence.
    pub start: u32,
    /// Before the repository name.
    pub repository: u32,
    /// Before the path.
    pub path: u32,
    /// Before each recent edit.
    pub edit: u32,
    /// Before text that a recent edit removed.
    pub old: u32,
    /// Before text that a recent edit inserted.
    pub new: u32,
    /// Before text that a recent edit left alone.
    pub same: u32,
    /// Before the window.
    pub window: u32,
    /// After the marker of the cursor's line.
    pub cursor: u32,
    /// Ends the prompt.
    pub answer: u32,
    /// The answer that changes nothing.
    pub no_edit: u32,
    /// Between old and new text of an action.
    pub to: u32,
    /// Ends an action.
    pub end_action: u32,
    /// Ends an answer.
    pub stop: u32,
    /// Markers of the window's lines.
    pub lines: Vec<u32>,
    /// The habit of a repository that nobody taught anything; pretraining fills it.
    pub untaught: [u32; HABIT_TOKENS],
    /// The habits of repositories, by slot: [`REPOSITORY_SLOTS`] of them.
    pub habits: Vec<[u32; HABIT_TOKENS]>,
}

/// What a tokenizer must give back as it was: white space of all kinds, letters that normalisers compose, control tokens.
const PROBE: &str = " a  b\tc\r\n\n    e\u{301} \u{e9} \u{fb01} <|endoftext|><stop></s>\n";

fn special_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "<start>",
        "<repository>",
        "<path>",
        "<edit>",
        "<old>",
        "<new>",
        "<same>",
        "<window>",
        "<cursor>",
        "<answer>",
        "<no_edit>",
        "<to>",
        "<end_action>",
        "<stop>",
    ]
    .map(str::to_owned)
    .to_vec();
    names.extend((0..MAX_LINES).map(|line| format!("<line {line}>")));
    names
}

/// The tokens of all habits, the untaught one's first.
fn habit_names() -> Vec<String> {
    let owners = std::iter::once("untaught".to_owned()).chain((0..REPOSITORY_SLOTS).map(|slot| slot.to_string()));
    owners.flat_map(|owner| (0..HABIT_TOKENS).map(move |place| format!("<habit {owner}.{place}>"))).collect()
}

/// A tokenizer in the layout of Hugging Face's `tokenizer.json`.
#[derive(Debug, Clone)]
pub struct CodeTokenizer {
    tokenizer: Tokenizer,
    special: SpecialTokens,
    bytes: Vec<Option<Vec<u8>>>,
}

impl CodeTokenizer {
    /// Trains a vocabulary of `vocabulary_size` tokens on `texts`.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] with the library's reason.
    pub fn train<'a>(texts: impl Iterator<Item = &'a str> + Send, vocabulary_size: usize) -> Result<Self, ModelError> {
        let failed = |error: tokenizers::Error| ModelError::Tokenizer(error.to_string());
        let mut tokenizer = Tokenizer::new(BPE::default());
        let split = Split::new(SplitPattern::Regex(PATTERN.to_owned()), SplitDelimiterBehavior::Isolated, false)
            .map_err(failed)?;
        let pieces: Vec<PreTokenizerWrapper> = vec![split.into(), ByteLevel::new(false, false, false).into()];
        tokenizer.with_pre_tokenizer(Some(Sequence::new(pieces)));
        tokenizer.with_decoder(Some(ByteLevelDecoder::new(false, false, false)));
        let special = special_names().into_iter().map(|name| AddedToken::from(name, true)).collect();
        let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
            .vocab_size(vocabulary_size)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(special)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build()
            .into();
        tokenizer.train(&mut trainer, texts).map_err(failed)?;
        Self::new(tokenizer)
    }

    /// Reads `tokenizer.json` from its bytes.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when it is malformed or lacks a special token.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        Self::new(Tokenizer::from_bytes(bytes).map_err(|error| ModelError::Tokenizer(error.to_string()))?)
    }

    /// The tokenizer of a model that others made, with the structuring tokens behind its own; and how many its own are.
    ///
    /// Some things are changed so that every text reads back as it was: its normaliser is dropped, no text is cut or filled
    /// up, and its control tokens are read as text where they stand in text.
    ///
    /// # Errors
    /// [`ModelError::Vocabulary`] when it has more tokens than the `vocab_size` rows of the model's embedding,
    /// [`ModelError::Tokenizer`] when it is malformed or no byte-level BPE.
    pub fn adopt(bytes: &[u8], vocab_size: usize) -> Result<(Self, usize), ModelError> {
        let refuse = |reason: &str| Err(ModelError::Tokenizer(reason.to_owned()));
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        let vocabulary = tokenizer.get_vocab(true);
        let tokens = vocabulary.len();
        if tokens > vocab_size {
            return Err(ModelError::Vocabulary { tokens, vocab_size });
        }
        if vocabulary.values().any(|id| *id as usize >= tokens) {
            return refuse("its ids have gaps");
        }
        let has_all_bytes = byte_of_character().keys().all(|character| vocabulary.contains_key(&character.to_string()));
        if !has_all_bytes || !matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return refuse("it is no byte-level BPE");
        }
        tokenizer.with_normalizer(None::<NormalizerWrapper>);
        tokenizer.with_truncation(None).map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        tokenizer.with_padding(None);
        let mut controls: Vec<String> =
            tokenizer.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        controls.sort_unstable();
        let special = controls.into_iter().chain(special_names()).map(|name| AddedToken::from(name, true));
        tokenizer.add_special_tokens(&special.collect::<Vec<_>>());
        let adopted = Self::new(tokenizer)?;
        if adopted.decode(&adopted.encode(PROBE)?).as_deref() != Some(PROBE) {
            return refuse("it does not give back the text that it reads");
        }
        Ok((adopted, tokens))
    }

    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::File`] or [`ModelError::Tokenizer`].
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let bytes = std::fs::read(path).map_err(|source| ModelError::File { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes)
    }

    /// The content of `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] with the library's reason.
    pub fn to_json(&self) -> Result<String, ModelError> {
        self.tokenizer.to_string(true).map_err(|error| ModelError::Tokenizer(error.to_string()))
    }

    fn new(mut tokenizer: Tokenizer) -> Result<Self, ModelError> {
        // They come behind the trained vocabulary, side by side.
        if tokenizer.token_to_id("<habit untaught.0>").is_none() {
            tokenizer.add_special_tokens(
                &habit_names().into_iter().map(|name| AddedToken::from(name, true)).collect::<Vec<_>>(),
            );
        }
        // Code that happens to contain `<stop>` is text, never structure.
        tokenizer.set_encode_special_tokens(true);
        let id = |name: &str| {
            tokenizer.token_to_id(name).ok_or_else(|| ModelError::Tokenizer(format!("the token {name} is missing")))
        };
        let habits: Vec<u32> = habit_names().iter().map(|name| id(name)).collect::<Result<_, _>>()?;
        let mut habits = habits.as_chunks::<HABIT_TOKENS>().0.iter().copied();
        let special = SpecialTokens {
            start: id("<start>")?,
            repository: id("<repository>")?,
            path: id("<path>")?,
            edit: id("<edit>")?,
            old: id("<old>")?,
            new: id("<new>")?,
            same: id("<same>")?,
            window: id("<window>")?,
            cursor: id("<cursor>")?,
            answer: id("<answer>")?,
            no_edit: id("<no_edit>")?,
            to: id("<to>")?,
            end_action: id("<end_action>")?,
            stop: id("<stop>")?,
            lines: (0..MAX_LINES).map(|line| id(&format!("<line {line}>"))).collect::<Result<_, _>>()?,
            untaught: habits.next().unwrap_or_default(),
            habits: habits.collect(),
        };
        let unmapped = byte_of_character();
        let mut bytes = vec![None; tokenizer.get_vocab_size(true)];
        for (token, id) in tokenizer.get_vocab(false) {
            let decoded: Option<Vec<u8>> = token.chars().map(|character| unmapped.get(&character).copied()).collect();
            if let (Some(slot), Some(decoded)) = (bytes.get_mut(id as usize), decoded) {
                *slot = Some(decoded);
            }
        }
        // Tokens of structure, and the control tokens of a model that others made.
        for id in tokenizer.get_added_tokens_decoder().into_keys() {
            if let Some(slot) = bytes.get_mut(id as usize) {
                *slot = None;
            }
        }
        Ok(Self { tokenizer, special, bytes })
    }

    /// Number of tokens.
    #[must_use]
    pub fn vocabulary_size(&self) -> usize {
        self.bytes.len()
    }

    /// Number of tokens that a model may write: all before the places of habits, which are only read.
    #[must_use]
    pub fn written_size(&self) -> usize {
        self.special.untaught.first().map_or(self.vocabulary_size(), |first| *first as usize)
    }

    /// Ids of the structuring tokens.
    #[must_use]
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Tokens of `text`; never a structuring token.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] with the library's reason.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let encoding =
            self.tokenizer.encode_fast(text, false).map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The bytes that a token stands for, or `None` for a structuring token.
    #[must_use]
    pub fn token_bytes(&self, token: u32) -> Option<&[u8]> {
        self.bytes.get(token as usize)?.as_deref()
    }

    /// The text of `tokens`, or `None` if they hold structure or are not UTF-8 together.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> Option<String> {
        let mut bytes = Vec::new();
        for token in tokens {
            bytes.extend_from_slice(self.token_bytes(*token)?);
        }
        String::from_utf8(bytes).ok()
    }
}

/// The printable characters that byte-level BPE writes for bytes, reversed (as GPT-2 defined them).
fn byte_of_character() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0;
    (0..=u8::MAX)
        .filter_map(|byte| {
            let code = if printable(byte) {
                u32::from(byte)
            } else {
                next += 1;
                255 + next
            };
            char::from_u32(code).map(|character| (character, byte))
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SAMPLE: &str = "fn get_display_name(user: &User) -> String {\n    let displayName = user.name();\n\
        \u{20}   user.getHTTPName(12, other_value);\n}\nfor item in items:\n    print(item.value, 345)\n\
        \tx = [1, 2]; // <stop>\n";

    pub(crate) fn small() -> CodeTokenizer {
        CodeTokenizer::train(std::iter::repeat_n(SAMPLE, 4), 360).unwrap()
    }

    /// Lines over few letters, so that there is much to merge.
    fn lines() -> Vec<String> {
        let pieces = ["a", "b", "c", "ab", "bc", "_", " ", "(", ")", ", ", ".", "\n", "é"];
        let mut state = 7_usize;
        let mut piece = || {
            state = (state * 1_103_515_245 + 12_345) % (1 << 31);
            pieces[(state >> 8) % pieces.len()]
        };
        let made: Vec<String> = (0..300).map(|_| (0..12).map(|_| piece()).collect()).collect();
        made.into_iter().chain(SAMPLE.lines().map(str::to_owned)).collect()
    }

    /// Our tokenizer, and others read from a `tokenizer.json`: byte-level BPEs that split as GPT-2 and as Qwen2.5 do,
    /// and one that splits nowhere, so that its tokens merge across everything.
    pub(crate) fn of_every_kind() -> Vec<(&'static str, CodeTokenizer)> {
        let lines = lines();
        let ours = CodeTokenizer::train(lines.iter().map(String::as_str), 420).unwrap();
        let byte_level = |splits: bool| PreTokenizerWrapper::from(ByteLevel::new(false, true, splits));
        let qwen = concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        let split = SplitPattern::Regex(qwen.to_owned());
        let split = Split::new(split, SplitDelimiterBehavior::Isolated, false).unwrap();
        let qwen = PreTokenizerWrapper::from(Sequence::new(vec![split.into(), byte_level(false)]));
        let splits = [("GPT-2", byte_level(true)), ("Qwen2.5", qwen), ("unsplit", byte_level(false))];
        let loaded = splits.map(|(name, splits)| {
            let mut tokenizer = Tokenizer::new(BPE::default());
            tokenizer.with_pre_tokenizer(Some(splits));
            tokenizer.with_decoder(Some(ByteLevelDecoder::new(false, true, true)));
            let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
                .vocab_size(420)
                .show_progress(false)
                .special_tokens(special_names().into_iter().map(|name| AddedToken::from(name, true)).collect())
                .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
                .build()
                .into();
            tokenizer.train(&mut trainer, lines.iter()).unwrap();
            (name, CodeTokenizer::from_bytes(tokenizer.to_string(false).unwrap().as_bytes()).unwrap())
        });
        std::iter::once(("ours", ours)).chain(loaded).collect()
    }

    #[test]
    fn text_survives_and_structure_cannot_be_forged() {
        for (name, tokenizer) in of_every_kind().into_iter().chain([("small", small())]) {
            for text in [SAMPLE, "<stop>", "naïve = \"日本\"\r\n", "\u{0}\u{7f}", "  \t x", "a<line 0>b"] {
                let tokens = tokenizer.encode(text).unwrap();
                assert_eq!(tokenizer.decode(&tokens).as_deref(), Some(text), "{name}");
            }
        }
    }

    #[test]
    fn pieces_of_identifiers_are_the_same_everywhere() {
        let tokenizer = small();
        let name = tokenizer.encode("name").unwrap();
        for text in ["get_name", "(name)", " name", "x.name,"] {
            let tokens = tokenizer.encode(text).unwrap();
            assert!(tokens.windows(name.len()).any(|window| window == name), "{text}");
        }
    }

    #[test]
    fn a_stored_tokenizer_reads_back_equal() {
        let tokenizer = small();
        let again = CodeTokenizer::from_bytes(tokenizer.to_json().unwrap().as_bytes()).unwrap();
        assert_eq!(again.encode(SAMPLE).unwrap(), tokenizer.encode(SAMPLE).unwrap());
        assert_eq!(again.special(), tokenizer.special());
    }
}
