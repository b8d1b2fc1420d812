//! What an OpenAI-compatible server streams: events of one line each, whose data are parts of a completion.
//!
//! Parts are no tokens: a server holds back what is no whole character yet, and may send several tokens at once. Of fields
//! that servers call differently both are read: log-probabilities come as `token_logprobs` (OpenAI, vLLM) or as `content`
//! (llama.cpp), what was known of a prompt as `cached_tokens` or as `cache_n`.

use std::fmt;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Longest line that is read, and longest text.
const MAX_BYTES: usize = 256 * 1024;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// By the model, or at a stop sequence.
    Stop,
    /// At the limit of tokens.
    Length,
}

/// What is wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadStream {
    /// It can not be read.
    Garbage,
    /// It says that the engine failed.
    Reported,
}

/// What was written so far.
#[derive(Default)]
pub(super) struct Written {
    /// What is no whole line yet.
    rest: Vec<u8>,
    text: String,
    log_p: f64,
    /// Whether text came without log-probabilities.
    lacks_log_p: bool,
    finish: Option<Finish>,
    is_done: bool,
    prompt_tokens: u64,
    reused_tokens: u64,
}

impl fmt::Debug for Written {
    /// Code never reaches a log through `Debug`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Written({} bytes, {:?})", self.text.len(), self.finish)
    }
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    timings: Option<Timings>,
    #[serde(default)]
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u64,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    logprobs: Option<LogProbabilities>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct LogProbabilities {
    #[serde(default)]
    token_logprobs: Option<Vec<Option<f64>>>,
    #[serde(default)]
    content: Option<Vec<TokenLogProbability>>,
}

#[derive(Deserialize)]
struct TokenLogProbability {
    logprob: f64,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<PromptTokens>,
}

#[derive(Deserialize)]
struct PromptTokens {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Timings {
    #[serde(default)]
    cache_n: Option<u64>,
}

impl LogProbabilities {
    /// Their sum; none when they say nothing.
    fn sum(&self) -> Option<f64> {
        match (&self.token_logprobs, &self.content) {
            (Some(tokens), _) => tokens.iter().copied().sum(),
            (None, Some(tokens)) => Some(tokens.iter().map(|token| token.logprob).sum()),
            (None, None) => None,
        }
    }
}

impl Written {
    /// Takes a piece of the stream, cut wherever the network cut it.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<(), BadStream> {
        let mut piece = piece;
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (line, after) = piece.split_at(end);
            piece = after.get(1..).unwrap_or_default();
            if self.rest.is_empty() {
                self.line(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole)?;
            }
        }
        self.rest.extend_from_slice(piece);
        if self.rest.len() > MAX_BYTES { Err(BadStream::Garbage) } else { Ok(()) }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), BadStream> {
        let line = line.trim_ascii();
        // A comment keeps the connection alive; names of events say nothing here.
        let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else {
            let known: [&[u8]; 4] = [b":", b"event:", b"id:", b"retry:"];
            let is_known = known.iter().any(|name| line.starts_with(name));
            return if line.is_empty() || is_known {
                Ok(())
            } else if line.starts_with(b"error:") {
                Err(BadStream::Reported)
            } else {
                Err(BadStream::Garbage)
            };
        };
        if data == b"[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        let part: Part = serde_json::from_slice(data).map_err(|_| BadStream::Garbage)?;
        if part.error.is_some() {
            return Err(BadStream::Reported);
        }
        if let Some(usage) = part.usage {
            self.prompt_tokens = usage.prompt_tokens;
            let reused = usage.prompt_tokens_details.and_then(|tokens| tokens.cached_tokens);
            self.reused_tokens = reused.unwrap_or(self.reused_tokens);
        }
        if let Some(reused) = part.timings.and_then(|timings| timings.cache_n) {
            self.reused_tokens = reused;
        }
        for choice in part.choices.into_iter().filter(|choice| choice.index == 0) {
            let text = choice.text.unwrap_or_default();
            match choice.logprobs.and_then(|logprobs| logprobs.sum()) {
                Some(sum) => self.log_p += sum,
                None => self.lacks_log_p |= !text.is_empty(),
            }
            self.text.push_str(&text);
            self.finish = match choice.finish_reason.as_deref() {
                None => self.finish,
                Some("length") => Some(Finish::Length),
                Some(_) => Some(Finish::Stop),
            };
        }
        if self.text.len() > MAX_BYTES { Err(BadStream::Garbage) } else { Ok(()) }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether nothing is missing.
    pub(super) fn is_whole(&self) -> bool {
        self.is_done || self.finish.is_some()
    }

    pub(super) fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Log-probability of everything that was written; none where the server did not say all of it.
    pub(super) fn log_p(&self) -> Option<f64> {
        (!self.lacks_log_p && self.log_p.is_finite()).then_some(self.log_p)
    }

    /// Tokens of the prompt, and how many of them the engine knew from another; zero where it does not say.
    pub(super) fn prompt_tokens(&self) -> (u64, u64) {
        (self.prompt_tokens, self.reused_tokens)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn written(stream: &str) -> Result<Written, BadStream> {
        let mut written = Written::default();
        written.take(stream.as_bytes()).map(|()| written)
    }

    #[test]
    fn streams_of_vllm_and_of_llama_cpp_are_read() {
        let vllm = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"text\":\"get\",\"logprobs\":{\"token_logprobs\":[-0.5],\
                    \"tokens\":[\"get\"]},\"finish_reason\":null}]}\r\n\r\n: ping\n\n\
                    data: {\"choices\":[{\"index\":0,\"text\":\"_name\",\"logprobs\":{\"token_logprobs\":[-0.25,-1.0]},\
                    \"finish_reason\":\"stop\"}]}\n\n\
                    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":90,\"completion_tokens\":3,\
                    \"prompt_tokens_details\":{\"cached_tokens\":80}}}\n\ndata: [DONE]\n\n";
        let read = written(vllm).unwrap();
        assert_eq!((read.text(), read.finish(), read.is_whole()), ("get_name", Some(Finish::Stop), true));
        assert_eq!((read.log_p(), read.prompt_tokens()), (Some(-1.75), (90, 80)));
        let llama = "data: {\"choices\":[{\"text\":\"é\",\"index\":0,\"logprobs\":{\"content\":[{\"token\":\"é\",\
                     \"logprob\":-0.5,\"top_logprobs\":[]}]},\"finish_reason\":null}]}\n\n\
                     data: {\"choices\":[{\"text\":\"\",\"index\":0,\"logprobs\":null,\"finish_reason\":\"length\"}],\
                     \"usage\":{\"prompt_tokens\":7},\"timings\":{\"cache_n\":5}}\n\n";
        let read = written(llama).unwrap();
        assert_eq!((read.text(), read.finish(), read.is_whole()), ("é", Some(Finish::Length), true));
        assert_eq!((read.log_p(), read.prompt_tokens()), (Some(-0.5), (7, 5)));
    }

    #[test]
    fn what_a_server_does_not_say_is_not_made_up() {
        let plain = "data: {\"choices\":[{\"index\":0,\"text\":\"a\",\"logprobs\":null}]}\n\n";
        let read = written(plain).unwrap();
        assert_eq!((read.log_p(), read.is_whole(), read.finish()), (None, false, None));
        let without = "data: {\"choices\":[{\"text\":\"a\",\"logprobs\":{\"token_logprobs\":[null]}}]}\n\n";
        assert_eq!(written(without).unwrap().log_p(), None);
    }

    #[test]
    fn bad_streams_are_told_apart() {
        let bad = |stream: &str| written(stream).unwrap_err();
        assert_eq!(bad("<html>\n"), BadStream::Garbage);
        assert_eq!(bad("data: {\n"), BadStream::Garbage);
        assert_eq!(bad("data: {\"choices\":[{\"text\":1}]}\n"), BadStream::Garbage);
        assert_eq!(bad(&"a".repeat(MAX_BYTES + 1)), BadStream::Garbage);
        assert_eq!(bad("data: {\"error\":{\"message\":\"out of memory\"}}\n"), BadStream::Reported);
        assert_eq!(bad("error: {\"code\":500}\n"), BadStream::Reported);
    }

    proptest! {
        #[test]
        fn a_stream_says_the_same_however_it_is_cut(
            text in "[a-z \n\"\\\\é😀]{0,30}",
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut stream = String::new();
            for character in text.chars() {
                let logprobs = json!({ "token_logprobs": [-1.0] });
                let part = json!({ "choices": [{ "index": 0, "text": character, "logprobs": logprobs }] });
                stream.push_str(&format!("data: {part}\n\n"));
            }
            stream.push_str("data: [DONE]\n\n");
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            places.push(stream.len());
            places.sort_unstable();
            let (mut written, mut from) = (Written::default(), 0);
            for place in places {
                written.take(&stream.as_bytes()[from..place]).unwrap();
                from = place;
            }
            prop_assert_eq!(written.text(), &text);
            prop_assert!(written.is_whole());
            prop_assert_eq!(written.log_p(), Some(-(text.chars().count() as f64)));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Written::default().take(&bytes);
        }
    }
}
