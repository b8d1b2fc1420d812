//! The tokenizer.

use serde_json::Value as Json;

use super::file::Value;
use crate::config::{ModelConfig, TokenIds};
use crate::error::ModelError;
use crate::tokenizer::CodeTokenizer;

/// llama.cpp's numbers of the kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const LLAMA_3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

pub(super) struct Vocabulary {
    pub(super) metadata: Vec<(String, Value)>,
    pub(super) pre_tokenizer: &'static str,
    pub(super) splits_alike: bool,
}

fn refused(reason: &str) -> ModelError {
    ModelError::Tokenizer(format!("it can not be written as GGUF: {reason}"))
}

/// Tokens with their kinds by id, merges, and how text is split.
pub(super) fn vocabulary(tokenizer: &CodeTokenizer, config: &ModelConfig) -> Result<Vocabulary, ModelError> {
    let json: Json = serde_json::from_str(&tokenizer.to_json()?).map_err(|error| refused(&error.to_string()))?;
    let mut tokens: Vec<Option<(String, i32)>> = vec![None; tokenizer.vocabulary_size()];
    let mut put = |id: Option<u64>, text: &str, kind: i32| {
        let slot = id.and_then(|id| usize::try_from(id).ok()).and_then(|id| tokens.get_mut(id));
        slot.map(|slot| *slot = Some((text.to_owned(), kind))).ok_or_else(|| refused("a token has no place"))
    };
    for (text, id) in json["model"]["vocab"].as_object().ok_or_else(|| refused("it has no vocabulary"))? {
        put(id.as_u64(), text, NORMAL)?;
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let text = added["content"].as_str().ok_or_else(|| refused("an added token has no text"))?;
        let is_control = added["special"].as_bool().unwrap_or(false);
        put(added["id"].as_u64(), text, if is_control { CONTROL } else { USER_DEFINED })?;
    }
    let tokens: Option<Vec<(String, i32)>> = tokens.into_iter().collect();
    let (texts, kinds): (Vec<String>, Vec<i32>) =
        tokens.ok_or_else(|| refused("its ids have gaps"))?.into_iter().unzip();
    let merges = json["model"]["merges"].as_array().ok_or_else(|| refused("it has no merges"))?;
    let merges = merges.iter().map(merge).collect::<Option<Vec<_>>>().ok_or_else(|| refused("a merge is no pair"))?;
    let (pre_tokenizer, splits_alike) = pre_tokenizer(&json["pre_tokenizer"]);
    let text = |text: &str| Value::Text(text.to_owned());
    let mut metadata = vec![
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text(pre_tokenizer)),
        ("tokenizer.ggml.tokens", Value::Texts(texts)),
        ("tokenizer.ggml.token_type", Value::Integers(kinds)),
        ("tokenizer.ggml.merges", Value::Texts(merges)),
        // A prompt says itself how it starts.
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
    ];
    metadata.extend(config.bos_token_id.map(|id| ("tokenizer.ggml.bos_token_id", Value::U32(id))));
    // The format has room for one.
    let end = config.eos_token_id.as_ref().and_then(|ids| match ids {
        TokenIds::One(id) => Some(*id),
        TokenIds::Many(ids) => ids.first().copied(),
    });
    metadata.extend(end.map(|id| ("tokenizer.ggml.eos_token_id", Value::U32(id))));
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(Vocabulary { metadata, pre_tokenizer, splits_alike })
}

/// A pair in the older form of one text or the newer of two.
fn merge(pair: &Json) -> Option<String> {
    if let Some(pair) = pair.as_str() {
        return Some(pair.to_owned());
    }
    match pair.as_array()?.as_slice() {
        [left, right] => Some(format!("{} {}", left.as_str()?, right.as_str()?)),
        _ => None,
    }
}

/// llama.cpp's name of the way text is split, and whether it is that way: what it has no name for it must be told to split
/// as GPT-2 does, or it does not load the model.
fn pre_tokenizer(json: &Json) -> (&'static str, bool) {
    const OTHER: (&str, bool) = ("gpt-2", false);
    let is_byte_level = |json: &Json, splits: bool| {
        json["type"] == "ByteLevel"
            && json["use_regex"].as_bool().unwrap_or(true) == splits
            && json["add_prefix_space"].as_bool() == Some(false)
    };
    let steps = json["pretokenizers"].as_array().map_or(std::slice::from_ref(json), Vec::as_slice);
    match steps {
        [bytes] if is_byte_level(bytes, true) => ("gpt-2", true),
        [digits, bytes] if digits["type"] == "Digits" && is_byte_level(bytes, true) => {
            if digits["individual_digits"] == true { ("starcoder", true) } else { OTHER }
        }
        [split, bytes] if split["type"] == "Split" && is_byte_level(bytes, false) => {
            let is_plain = split["behavior"] == "Isolated" && split["invert"] == false;
            match split["pattern"]["Regex"].as_str() {
                Some(QWEN2) if is_plain => ("qwen2", true),
                Some(LLAMA_3) if is_plain => ("llama-bpe", true),
                _ => OTHER,
            }
        }
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::{of_every_kind, small};

    fn text<'a>(vocabulary: &'a Vocabulary, key: &str) -> &'a Value {
        &vocabulary.metadata.iter().find(|(name, _)| name == key).unwrap().1
    }

    #[test]
    fn every_token_has_its_place_and_its_kind() {
        let tokenizer = small();
        let special = tokenizer.special();
        let config = ModelConfig::base(tokenizer.vocabulary_size(), special.start, special.stop);
        let vocabulary = vocabulary(&tokenizer, &config).unwrap();
        let (Value::Texts(texts), Value::Integers(kinds)) =
            (text(&vocabulary, "tokenizer.ggml.tokens"), text(&vocabulary, "tokenizer.ggml.token_type"))
        else {
            panic!("other types");
        };
        assert_eq!((texts.len(), kinds.len()), (tokenizer.vocabulary_size(), tokenizer.vocabulary_size()));
        assert_eq!(texts[special.stop as usize], "<stop>");
        for (id, kind) in kinds.iter().enumerate() {
            let wanted = if tokenizer.token_bytes(id as u32).is_some() { NORMAL } else { CONTROL };
            assert_eq!(*kind, wanted, "{}", texts[id]);
        }
        let Value::Texts(merges) = text(&vocabulary, "tokenizer.ggml.merges") else { panic!("other type") };
        assert!(merges.len() > 20);
        for merge in merges {
            let (left, right) = merge.split_once(' ').unwrap();
            assert!(texts.contains(&format!("{left}{right}")), "{merge}");
        }
        assert_eq!(text(&vocabulary, "tokenizer.ggml.eos_token_id"), &Value::U32(special.stop));
    }

    #[test]
    fn the_way_text_is_split_has_llama_cpps_name_or_is_said_to_have_none() {
        let names = of_every_kind().into_iter().map(|(kind, tokenizer)| {
            let config = ModelConfig::base(tokenizer.vocabulary_size(), 0, 1);
            let vocabulary = vocabulary(&tokenizer, &config).unwrap();
            (kind, (vocabulary.pre_tokenizer, vocabulary.splits_alike))
        });
        let names: std::collections::HashMap<_, _> = names.collect();
        assert_eq!(names["GPT-2"], ("gpt-2", true));
        assert_eq!(names["Qwen2.5"], ("qwen2", true));
        assert_eq!(names["unsplit"], ("gpt-2", false));
        assert_eq!(pre_tokenizer(&serde_json::json!(null)), ("gpt-2", false));
        for fixture in ["starcoder", "starcoder2"] {
            let path = format!("{}/tests/fixtures/{fixture}/tokenizer.json", env!("CARGO_MANIFEST_DIR"));
            let json: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            assert_eq!(pre_tokenizer(&json["pre_tokenizer"]), ("starcoder", true));
        }
    }
}
