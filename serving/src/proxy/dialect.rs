//! What a tapped body says: Tabby's dialect or OpenAI's, and of it only what is recorded.
//!
//! A body with `segments` is Tabby's, one with `prompt` OpenAI's. Fields that are not named here are skipped by the
//! reader and never become a value: among them is the clipboard, which Tabby's plugins send along.

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest id of a completion that is remembered, in bytes.
pub(crate) const MAX_ID_BYTES: usize = 256;

/// What a client asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// In Tabby's words.
    Tabby(Segments),
    /// In OpenAI's.
    OpenAi(Prompt),
}

/// The code around a place, as Tabby's plugins send it.
#[derive(Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Segments {
    pub(crate) prefix: String,
    #[serde(default)]
    pub(crate) suffix: Option<String>,
    #[serde(default)]
    pub(crate) filepath: Option<String>,
    #[serde(default)]
    pub(crate) git_url: Option<String>,
}

impl fmt::Debug for Segments {
    /// Code never reaches a log through `Debug`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Segments(..)")
    }
}

impl Segments {
    /// What stands above the line of the place. It stays the same while somebody types on that line, also where a
    /// plugin sends a bounded number of lines.
    pub(crate) fn above(&self) -> &str {
        self.prefix.rfind('\n').map_or("", |end| &self.prefix[..=end])
    }
}

/// A prompt, and what follows the place where it wants text.
#[derive(PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) prompt: String,
    pub(crate) suffix: Option<String>,
}

impl fmt::Debug for Prompt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Prompt(..)")
    }
}

/// Why a body is not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// It has `segments` and `prompt`.
    Both,
    /// It has none of them.
    Neither,
    /// It asks for several texts, or with tokens: no editor shows the answer.
    NotOneText,
    /// It is not what its dialect says.
    Unreadable,
    /// It broke off.
    Unfinished,
}

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow, default)]
    segments: Option<&'a RawValue>,
    #[serde(borrow, default)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow, default)]
    suffix: Option<&'a RawValue>,
}

/// Reads the body of a `POST /v1/completions`.
pub(crate) fn question(body: &[u8]) -> Result<Question, Unread> {
    let asked: Asked<'_> = serde_json::from_slice(body).map_err(|_| Unread::Unreadable)?;
    match (asked.segments, asked.prompt) {
        (Some(_), Some(_)) => Err(Unread::Both),
        (None, None) => Err(Unread::Neither),
        (Some(segments), None) => {
            serde_json::from_str(segments.get()).map(Question::Tabby).map_err(|_| Unread::Unreadable)
        }
        (None, Some(prompt)) => {
            let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get());
            let prompt = text(prompt).map_err(|_| Unread::NotOneText)?;
            let suffix = asked.suffix.map(text).transpose().map_err(|_| Unread::Unreadable)?;
            Ok(Question::OpenAi(Prompt { prompt, suffix }))
        }
    }
}

/// What the upstream answered: the text of its first choice.
#[derive(PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) id: String,
    pub(crate) text: String,
}

impl fmt::Debug for Answered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Answered(..)")
    }
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u64,
    #[serde(default)]
    text: Option<String>,
}

impl Chunk {
    fn first_text(&self) -> &str {
        let first = self.choices.iter().find(|choice| choice.index == 0);
        first.and_then(|choice| choice.text.as_deref()).unwrap_or_default()
    }
}

/// Reads an answer. What a client can use of one that broke off is what a stream brought until then; of a document it
/// is nothing.
pub(crate) fn answered(body: &[u8], is_stream: bool, is_whole: bool) -> Result<Answered, Unread> {
    if !is_stream {
        if !is_whole {
            return Err(Unread::Unfinished);
        }
        let chunk: Chunk = serde_json::from_slice(body).map_err(|_| Unread::Unreadable)?;
        let text = chunk.first_text().to_owned();
        return named(chunk.id, text);
    }
    let (mut id, mut text) = (None, String::new());
    // A last line without its end did not arrive whole.
    let lines = body.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    for data in lines.filter_map(|line| line.strip_prefix(b"data:")).map(<[u8]>::trim_ascii) {
        if data == b"[DONE]" {
            break;
        }
        let chunk: Chunk = serde_json::from_slice(data).map_err(|_| Unread::Unreadable)?;
        text.push_str(chunk.first_text());
        id = id.or(chunk.id);
    }
    if id.is_none() && !is_whole {
        return Err(Unread::Unfinished);
    }
    named(id, text)
}

fn named(id: Option<String>, text: String) -> Result<Answered, Unread> {
    let id = id.filter(|id| (1..=MAX_ID_BYTES).contains(&id.len())).ok_or(Unread::Unreadable)?;
    Ok(Answered { id, text })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn asked(body: &serde_json::Value) -> Result<Question, Unread> {
        question(body.to_string().as_bytes())
    }

    #[test]
    fn a_body_is_in_the_dialect_of_its_field() {
        let tabby = json!({ "language": "rust", "mode": "standard", "segments": {
            "prefix": "fn a() {\n    b", "suffix": "\n}", "filepath": "a.rs", "git_url": "git@x:y.git",
            "clipboard": "secret", "declarations": [{ "filepath": "b.rs", "body": "c" }] } });
        let Ok(Question::Tabby(segments)) = asked(&tabby) else { panic!("not Tabby's") };
        assert_eq!(segments.above(), "fn a() {\n");
        let (above, below) = ("fn a() {\n    b", "\n}");
        let [suffix, filepath, git_url] = [below, "a.rs", "git@x:y.git"].map(|text| Some(text.to_owned()));
        assert!(segments == Segments { prefix: above.to_owned(), suffix, filepath, git_url });
        let openai = json!({ "model": "m", "prompt": "fn a", "suffix": null, "stream": true, "max_tokens": 9 });
        assert_eq!(asked(&openai), Ok(Question::OpenAi(Prompt { prompt: "fn a".to_owned(), suffix: None })));
        let refused = [
            (json!({ "segments": { "prefix": "" }, "prompt": "" }), Unread::Both),
            (json!({ "messages": [] }), Unread::Neither),
            (json!({ "segments": null, "prompt": null }), Unread::Neither),
            (json!([]), Unread::Neither),
            (json!({ "prompt": ["a", "b"] }), Unread::NotOneText),
            (json!({ "prompt": [1, 2] }), Unread::NotOneText),
            (json!({ "segments": {} }), Unread::Unreadable),
            (json!({ "segments": "a" }), Unread::Unreadable),
            (json!({ "prompt": "a", "suffix": 3 }), Unread::Unreadable),
        ];
        for (body, why) in refused {
            assert_eq!(asked(&body), Err(why), "{body}");
        }
        for bytes in [&b""[..], b"{", b"\"\"", b"\xff", b"{\"prompt\": \"\xff\"}", b"{\"prompt\": 1, \"prompt\": 2}"] {
            assert_eq!(question(bytes), Err(Unread::Unreadable));
        }
    }

    #[test]
    fn answers_are_read_as_documents_and_as_streams() {
        let expected = |text: &str| Ok(Answered { id: "cmpl-1".to_owned(), text: text.to_owned() });
        let document =
            br#"{"id":"cmpl-1","choices":[{"index":1,"text":"no"},{"index":0,"text":"yes"}],"mode":"standard"}"#;
        assert_eq!(answered(document, false, true), expected("yes"));
        assert_eq!(answered(document, false, false), Err(Unread::Unfinished));
        assert_eq!(answered(br#"{"id":"cmpl-1","choices":[]}"#, false, true), expected(""));
        assert_eq!(answered(br#"{"choices":[]}"#, false, true), Err(Unread::Unreadable));
        assert_eq!(answered(b"<html>", false, true), Err(Unread::Unreadable));
        let stream = b"data: {\"id\":\"cmpl-1\",\"choices\":[{\"text\":\"a\"}]}\r\n\r\n: ping\n\n\
            data:{\"id\":\"cmpl-1\",\"choices\":[{\"index\":0,\"text\":\"b\"}]}\n\n\
            data: {\"id\":\"cmpl-1\",\"choices\":[{\"index\":0,\"text\":null}]}\n\ndata: [DONE]\n\n";
        assert_eq!(answered(stream, true, true), expected("ab"));
        let broken = &stream[..stream.len() / 2];
        assert_eq!(answered(broken, true, false), expected("a"));
        assert_eq!(answered(b"", true, false), Err(Unread::Unfinished));
        assert_eq!(answered(b"", true, true), Err(Unread::Unreadable));
    }

    proptest! {
        #[test]
        fn a_stream_says_the_same_however_it_is_cut_into_chunks(
            text in "[a-z \n\"\\\\é😀]{0,40}",
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let characters: Vec<char> = text.chars().collect();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(characters.len() + 1)).collect();
            places.sort_unstable();
            places.push(characters.len());
            let (mut stream, mut from) = (String::new(), 0);
            for place in places {
                let piece: String = characters[from..place].iter().collect();
                from = place;
                let chunk = json!({ "id": "i", "choices": [{ "index": 0, "text": piece }] });
                stream.push_str(&format!("data: {chunk}\n\n"));
            }
            stream.push_str("data: [DONE]\n\n");
            let read = answered(stream.as_bytes(), true, true);
            prop_assert_eq!(read, Ok(Answered { id: "i".to_owned(), text }));
        }

        #[test]
        fn no_bytes_are_too_strange(body in proptest::collection::vec(any::<u8>(), 0..200), is_stream: bool, is_whole: bool) {
            let _ = question(&body);
            let _ = answered(&body, is_stream, is_whole);
        }
    }
}
