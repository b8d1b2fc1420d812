//! The request: from bytes to a question that cannot hold a bad value.
//!
//! Coordinates: the model, the exposure and the labeler count bytes; a client may count UTF-16 units, and it may send
//! an excerpt whose beginning lies at `document.start` units. Nobody here saw what is before the excerpt, so byte
//! offsets start at that same number and go on in bytes inside the excerpt. `window_start_offset` of the exposure keeps
//! the window's place in the client's units; differences inside the window convert exactly.

use anonymizer::shape::Shape;
use events::edit::{EditContext, RecentEdit, Window};
use events::wire::SuggestionRequest;
use events::{EditAction, ModelName, OffsetEncoding, OpportunityId, SessionId};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use service::problem::Problem;

use crate::config::ServingConfig;
use crate::offsets::{OffsetError, byte_at, units};

/// Most bytes of the client's name for a person.
const MAX_PERSON_BYTES: usize = 256;
/// Most bytes of a repository's name.
const MAX_REPOSITORY_BYTES: usize = 512;
/// Most bytes of a path, as at the other door.
const MAX_PATH_BYTES: usize = 1024;
/// Most bytes of a language id.
const MAX_LANGUAGE_BYTES: usize = 64;

/// A request that holds together.
#[derive(Clone)]
pub(crate) struct Question {
    /// The client's own name for the developer; becomes a pseudonym and goes no further.
    pub(crate) person: String,
    pub(crate) session_id: SessionId,
    pub(crate) opportunity_id: Option<OpportunityId>,
    pub(crate) model: Option<ModelName>,
    pub(crate) repository: String,
    pub(crate) path: String,
    pub(crate) language: String,
    pub(crate) offset_encoding: OffsetEncoding,
    pub(crate) recent_edits: Vec<RecentEdit>,
    pub(crate) window: Window,
    pub(crate) cursor_byte: u64,
    /// Place of the window's first byte in units of the client.
    pub(crate) window_start_offset: u64,
}

impl std::fmt::Debug for Question {
    /// Code and names never reach a log through `Debug`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Question(..)")
    }
}

impl Question {
    /// Reads the body of `POST /v1/suggestions`.
    ///
    /// # Errors
    /// A problem that names the field and what was expected, never the content.
    pub(crate) fn parse(body: &[u8], config: &ServingConfig) -> Result<(Self, UnknownFields), Problem> {
        let request = read_json(body)?;
        let unknown = serde_json::from_slice::<UnknownFields>(body).unwrap_or_default();
        Ok((Self::check(request, config)?, unknown))
    }

    fn check(request: SuggestionRequest, config: &ServingConfig) -> Result<Self, Problem> {
        name("person", &request.person, 1, MAX_PERSON_BYTES)?;
        name("repository", &request.repository, 1, MAX_REPOSITORY_BYTES)?;
        name("path", &request.path, 1, MAX_PATH_BYTES)?;
        name("language", &request.language, 0, MAX_LANGUAGE_BYTES)?;
        let text = &request.document.text;
        if text.contains('\0') {
            return Err(invalid_field("document.text", "text without NUL characters"));
        }
        if request
            .recent_edits
            .iter()
            .any(|edit| [&edit.path, &edit.old_text, &edit.new_text].iter().any(|text| text.contains('\0')))
        {
            return Err(invalid_field("recent_edits", "text without NUL characters"));
        }
        let (encoding, start) = (request.offset_encoding, request.document.start);
        // Offsets are signed 64-bit numbers in events; an excerpt that far into a document is a mistake.
        let end = start.checked_add(units(text, encoding)).filter(|end| *end <= i64::MAX as u64 / 4);
        if end.is_none() || request.document.first_line > i64::MAX as u64 / 4 {
            return Err(invalid_field("document.start", "an offset that a document can have"));
        }
        let cursor = request
            .cursor
            .checked_sub(start)
            .ok_or(OffsetError::Outside)
            .and_then(|cursor| byte_at(text, encoding, cursor))
            .map_err(|error| match error {
                OffsetError::Outside => Problem::unprocessable("cursor: expected an offset inside document.text")
                    .with_code("offset_outside_document")
                    .with_member("field", "cursor"),
                OffsetError::InsideCharacter => Problem::unprocessable("cursor: expected an offset between characters")
                    .with_code("offset_inside_character")
                    .with_member("field", "cursor"),
            })?;
        let cut = cut_window(text, cursor, config);
        let before = &text[..cut.start];
        let window = Window {
            start_byte: start + cut.start as u64,
            first_line: request.document.first_line + before.bytes().filter(|byte| *byte == b'\n').count() as u64,
            text: text[cut.clone()].to_owned(),
        };
        Ok(Self {
            window_start_offset: start + units(before, encoding),
            cursor_byte: start + cursor as u64,
            window,
            recent_edits: bounded_edits(request.recent_edits, config),
            person: request.person,
            session_id: request.session_id,
            opportunity_id: request.opportunity_id,
            model: request.model,
            repository: request.repository,
            path: request.path,
            language: request.language,
            offset_encoding: encoding,
        })
    }

    /// What the model sees: names of the repository and of files in their keyed, shape-preserving rendering, as the
    /// anonymizer writes them into training data.
    pub(crate) fn context(&self, shape: &Shape) -> EditContext {
        EditContext {
            repository: shape.repository(&self.repository),
            path: shape.path(&self.path),
            language: self.language.clone(),
            recent_edits: self
                .recent_edits
                .iter()
                .map(|edit| RecentEdit {
                    path: shape.path(&edit.path),
                    old_text: edit.old_text.clone(),
                    new_text: edit.new_text.clone(),
                })
                .collect(),
            window: self.window.clone(),
            cursor_byte: self.cursor_byte,
        }
    }

    /// An action's range in the client's units, or none when it does not lie in the window.
    pub(crate) fn client_range(&self, action: &EditAction) -> Option<(u64, u64)> {
        let place = |byte: u64| {
            let inside = usize::try_from(byte.checked_sub(self.window.start_byte)?).ok()?;
            Some(self.window_start_offset + units(self.window.text.get(..inside)?, self.offset_encoding))
        };
        Some((place(action.range.start)?, place(action.range.end)?))
    }
}

fn read_json(body: &[u8]) -> Result<SuggestionRequest, Problem> {
    // A reader of bytes would not look at the text of fields that it drops.
    let text = std::str::from_utf8(body).map_err(|_| Problem::invalid_json())?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let request = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        // The message of serde repeats values, which may be code; the path names fields only.
        let path = error.path().to_string();
        if error.inner().is_data() {
            invalid_shape(if path == "." { None } else { Some(&path) })
        } else {
            Problem::invalid_json()
        }
    })?;
    reader.end().map_err(|_| Problem::invalid_json())?;
    Ok(request)
}

fn invalid_shape(field: Option<&str>) -> Problem {
    match field {
        // A path of ours is short; a longer one would be made of the client's own keys.
        Some(field) if field.len() <= 64 => {
            Problem::invalid_shape(format!("{field}: not of the documented type")).with_member("field", field)
        }
        _ => {
            Problem::invalid_shape("the JSON does not have the documented shape: a field is missing or of another type")
        }
    }
}

fn invalid_field(field: &'static str, expected: &str) -> Problem {
    Problem::unprocessable(format!("{field}: expected {expected}"))
        .with_code("invalid_field")
        .with_member("field", field)
}

fn name(field: &'static str, text: &str, least: usize, most: usize) -> Result<(), Problem> {
    if (least..=most).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(invalid_field(field, &format!("{least} to {most} bytes without control characters")))
}

/// The newest edits within the limits, oldest first.
fn bounded_edits(mut edits: Vec<RecentEdit>, config: &ServingConfig) -> Vec<RecentEdit> {
    edits.retain(|edit| {
        edit.old_text.len() <= config.max_recent_edit_bytes
            && edit.new_text.len() <= config.max_recent_edit_bytes
            && edit.path.len() <= MAX_PATH_BYTES
            && edit.old_text != edit.new_text
    });
    let surplus = edits.len().saturating_sub(config.max_recent_edits);
    edits.drain(..surplus);
    edits
}

/// Whole lines around the cursor's: those nearest to it, alternating below and above, while the limits allow. The
/// cursor's line is always inside, however long.
fn cut_window(text: &str, cursor: usize, config: &ServingConfig) -> std::ops::Range<usize> {
    let mut start = text[..cursor].rfind('\n').map_or(0, |newline| newline + 1);
    let mut end = text[cursor..].find('\n').map_or(text.len(), |newline| cursor + newline + 1);
    let (mut above, mut below) = (config.window_lines_before, config.window_lines_after);
    loop {
        let mut grown = false;
        if below > 0 && end < text.len() {
            let next = text[end..].find('\n').map_or(text.len(), |newline| end + newline + 1);
            below = if next - start <= config.window_bytes { below - 1 } else { 0 };
            if next - start <= config.window_bytes {
                end = next;
                grown = true;
            }
        }
        if above > 0 && start > 0 {
            let previous = text[..start - 1].rfind('\n').map_or(0, |newline| newline + 1);
            above = if end - previous <= config.window_bytes { above - 1 } else { 0 };
            if end - previous <= config.window_bytes {
                start = previous;
                grown = true;
            }
        }
        if !grown {
            return start..end;
        }
    }
}

/// How many fields of a request this release does not know: they are dropped, and counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct UnknownFields(pub(crate) u64);

const REQUEST_FIELDS: [&str; 11] = [
    "person",
    "session_id",
    "opportunity_id",
    "model",
    "repository",
    "path",
    "language",
    "offset_encoding",
    "document",
    "cursor",
    "recent_edits",
];
const DOCUMENT_FIELDS: [&str; 3] = ["start", "first_line", "text"];
const EDIT_FIELDS: [&str; 3] = ["path", "old_text", "new_text"];

/// A place of the request; as a visitor it counts the fields there, and below it, that have no meaning.
#[derive(Clone, Copy)]
enum Place {
    Request,
    Document,
    Edits,
    Edit,
}

impl Place {
    fn known(self) -> &'static [&'static str] {
        match self {
            Self::Request => &REQUEST_FIELDS,
            Self::Document => &DOCUMENT_FIELDS,
            Self::Edits => &[],
            Self::Edit => &EDIT_FIELDS,
        }
    }

    fn inside(self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::Request, "document") => Some(Self::Document),
            (Self::Request, "recent_edits") => Some(Self::Edits),
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        match self {
            Self::Edits => deserializer.deserialize_seq(self),
            _ => deserializer.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for Place {
    type Value = u64;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("what the request was read as")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        let mut unknown = 0;
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if let Some(inside) = self.inside(&key) {
                unknown += map.next_value_seed(inside)?;
                continue;
            }
            unknown += u64::from(!self.known().contains(&key.as_ref()));
            map.next_value::<IgnoredAny>()?;
        }
        Ok(unknown)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<u64, A::Error> {
        let mut unknown = 0;
        while let Some(of_edit) = sequence.next_element_seed(Self::Edit)? {
            unknown += of_edit;
        }
        Ok(unknown)
    }
}

impl<'de> Deserialize<'de> for UnknownFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Place::Request.deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use events::ByteRange;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn body() -> serde_json::Value {
        json!({
            "person": "ada",
            "session_id": "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d",
            "repository": "engine",
            "path": "src/lib.rs",
            "language": "rust",
            "offset_encoding": "utf16",
            "document": { "start": 100, "first_line": 7, "text": "let 😀 = 1;\nlet b = 2;\nlet c = 3;\n" },
            "cursor": 115,
            "recent_edits": [],
        })
    }

    fn parse(body: &serde_json::Value) -> Result<Question, Problem> {
        Question::parse(body.to_string().as_bytes(), &ServingConfig::default()).map(|(question, _)| question)
    }

    #[test]
    fn utf16_places_become_bytes_and_come_back() {
        let question = parse(&body()).unwrap();
        // 😀 is two units and four bytes: line one has 12 units and 14 bytes.
        assert_eq!(question.cursor_byte, 100 + 17);
        assert_eq!(question.window_start_offset, 100);
        assert_eq!(question.window.first_line, 7);
        let action = EditAction {
            path: "src/lib.rs".to_owned(),
            range: ByteRange::new(100 + 18, 100 + 19),
            old_text: "b".to_owned(),
            new_text: "x".to_owned(),
        };
        assert_eq!(question.client_range(&action), Some((116, 117)));
        let outside = EditAction { range: ByteRange::new(0, 1), ..action };
        assert_eq!(question.client_range(&outside), None);
    }

    #[test]
    fn refusals_are_stable_and_say_no_content() {
        let refused = |change: fn(&mut serde_json::Value)| {
            let mut body = body();
            change(&mut body);
            let problem = parse(&body).unwrap_err();
            assert!(!problem.to_json().to_string().contains("ada"), "{problem:?}");
            problem.code()
        };
        assert_eq!(refused(|body| body["cursor"] = json!(4000)), "offset_outside_document");
        assert_eq!(refused(|body| body["cursor"] = json!(3)), "offset_outside_document");
        assert_eq!(refused(|body| body["cursor"] = json!(105)), "offset_inside_character");
        assert_eq!(refused(|body| body["cursor"] = json!(-1)), "invalid_shape");
        assert_eq!(refused(|body| body["person"] = json!("")), "invalid_field");
        assert_eq!(refused(|body| body["path"] = json!("a\u{0}b")), "invalid_field");
        assert_eq!(refused(|body| body["document"]["text"] = json!("a\u{0}b")), "invalid_field");
        assert_eq!(refused(|body| body["document"]["start"] = json!(u64::MAX)), "invalid_field");
        fn edit(text: &str) -> serde_json::Value {
            json!([{ "path": "a.rs", "old_text": text, "new_text": "b" }])
        }
        assert_eq!(refused(|body| body["recent_edits"] = edit("a\u{0}b")), "invalid_field");
        assert_eq!(refused(|body| body["recent_edits"] = json!([{ "path": "ada" }])), "invalid_shape");
        assert_eq!(refused(|body| body["recent_edits"] = json!("ada")), "invalid_shape");
        assert_eq!(refused(|body| body["model"] = json!("../ada")), "invalid_shape");
        assert_eq!(refused(|body| body["offset_encoding"] = json!("ada")), "invalid_shape");
        assert_eq!(refused(|body| *body = json!([])), "invalid_shape");
        let config = ServingConfig::default();
        for bytes in [&b"{"[..], b"", b"\xff\xfe", b"{\"person\": \"\xff\"}", b"{\"person\": \"a\0b\"}"] {
            assert_eq!(Question::parse(bytes, &config).unwrap_err().code(), "invalid_json");
        }
        let mut unknown = body();
        unknown["mood"] = json!("#");
        let unknown: Vec<u8> = unknown.to_string().bytes().map(|byte| if byte == b'#' { 0xff } else { byte }).collect();
        assert_eq!(Question::parse(&unknown, &config).unwrap_err().code(), "invalid_json");
        let twice = body().to_string() + "{}";
        assert_eq!(Question::parse(twice.as_bytes(), &config).unwrap_err().code(), "invalid_json");
    }

    #[test]
    fn the_field_at_fault_is_named() {
        let mut body = body();
        body["document"]["start"] = json!("ada");
        let problem = parse(&body).unwrap_err();
        assert_eq!(problem.to_json()["field"], "document.start");
        assert!(!problem.to_json().to_string().contains("ada"));
    }

    #[test]
    fn unknown_fields_are_counted() {
        let mut body = body();
        body["colour"] = json!({ "deep": [1, 2] });
        body["document"]["mood"] = json!(1);
        let edit = json!({ "path": "a.rs", "old_text": "a", "new_text": "b", "when": 5 });
        body["recent_edits"] = json!([edit, edit]);
        let (question, unknown) = Question::parse(body.to_string().as_bytes(), &ServingConfig::default()).unwrap();
        assert_eq!(unknown, UnknownFields(4));
        assert_eq!(question.recent_edits.len(), 2);
    }

    #[test]
    fn only_the_newest_edits_within_the_limits_are_kept() {
        let edit = |number: usize, length: usize| RecentEdit {
            path: "a.rs".to_owned(),
            old_text: format!("{number}"),
            new_text: "x".repeat(length),
        };
        let config = ServingConfig { max_recent_edits: 2, max_recent_edit_bytes: 10, ..ServingConfig::default() };
        let kept = bounded_edits(vec![edit(1, 1), edit(2, 1), edit(3, 1), edit(4, 11)], &config);
        assert_eq!(kept, [edit(2, 1), edit(3, 1)]);
    }

    proptest! {
        #[test]
        fn windows_are_whole_lines_around_the_cursor(
            text in "([a-z]{0,9}\n){0,30}[a-z]{0,9}",
            place in any::<prop::sample::Index>(),
            before in 0_usize..5,
            after in 0_usize..5,
            bytes in 16_usize..200,
        ) {
            let config = ServingConfig {
                window_lines_before: before,
                window_lines_after: after,
                window_bytes: bytes,
                ..ServingConfig::default()
            };
            let cursor = place.index(text.len() + 1);
            let window = cut_window(&text, cursor, &config);
            prop_assert!(window.start <= cursor && cursor <= window.end);
            prop_assert!(window.start == 0 || text.as_bytes()[window.start - 1] == b'\n');
            prop_assert!(window.end == text.len() || text.as_bytes()[window.end - 1] == b'\n');
            prop_assert!(text[window.start..cursor].matches('\n').count() <= before);
            let lines = text[window.clone()].split_inclusive('\n').count();
            prop_assert!(lines <= before + after + 1);
            prop_assert!(window.len() <= bytes || lines <= 1);
        }
    }
}
