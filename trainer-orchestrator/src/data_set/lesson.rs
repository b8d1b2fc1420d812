//! What the stages have to know of a pair's text, taken from it once: hashes, truth values and the names of licences, no
//! text.
//!
//! Two corrections are equal when the same lines (those that either side changes and one more each way) of the same
//! language become the same lines on both sides: byte for byte, but for line ends and space before them. Files, places
//! and people may differ.

use std::ops::Range;

use events::{ActionList, EditAction, EditPattern, PairText, Sha256Digest, apply_actions, pattern_of};
use labeler::lexing::lexemes;

use super::composition::Reason;
use super::header::Header;
use super::quality;

/// Tokens in a shingle.
const GRAM: usize = 5;

/// Which side of a pair is `NO_EDIT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Nothing should have been proposed.
    Chosen,
    /// Something should have been.
    Rejected,
}

/// What is known of a pair's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// Equal for equal corrections.
    pub correction: Sha256Digest,
    /// Names repository and file.
    pub file: Sha256Digest,
    /// Which side is `NO_EDIT`, if one is.
    pub silence: Option<Silence>,
    /// Whether what the developer wanted is known well enough to judge others by.
    pub judges: bool,
    /// Hashes of the 5-grams of tokens of what stood there and what was wanted. Sorted, each once.
    pub shingles: Vec<u32>,
    /// Hashes of the names that the developer wrote. Sorted, each once.
    pub identifiers: Vec<u64>,
    /// What was wanted (of a rejection alone: what was not) does to the text; none when that is nothing.
    pub pattern: Option<EditPattern>,
    /// Characters that the chosen side writes from the divergence on, if there is one.
    pub chosen_characters: Option<u32>,
    /// Those of the rejected side.
    pub rejected_characters: Option<u32>,
    /// Why nobody should learn it.
    pub fault: Option<Reason>,
    /// What the file says of its licence.
    pub header: Option<Box<Header>>,
}

impl Lesson {
    /// What is to be known of `text`.
    #[must_use]
    pub fn of(text: &PairText) -> Self {
        let place = Place::of(text);
        let wanted = text.chosen.as_ref().map(|chosen| place.after(&text.shared, chosen));
        let proposed = text.rejected.as_ref().map(|rejected| place.after(&text.shared, rejected));
        let side = |list: Option<&ActionList>, after: Option<&String>| match (list, after) {
            (Some(list), Some(after)) => [&[1 + u8::from(list.closed)][..], plain(after).as_bytes()].concat(),
            _ => vec![0],
        };
        let correction = Sha256Digest::of_parts(
            "flywheel correction",
            &[
                text.context.language.as_bytes(),
                plain(place.before).as_bytes(),
                &side(text.chosen.as_ref(), wanted.as_ref()),
                &side(text.rejected.as_ref(), proposed.as_ref()),
            ],
        );
        let is_no_edit = |list: Option<&ActionList>| text.shared.is_empty() && list.is_some_and(ActionList::is_no_edit);
        let silence = if is_no_edit(text.chosen.as_ref()) {
            Some(Silence::Chosen)
        } else if is_no_edit(text.rejected.as_ref()) {
            Some(Silence::Rejected)
        } else {
            None
        };
        let after = wanted.as_deref().or(proposed.as_deref()).unwrap_or_default();
        let told = text.chosen.as_ref().or(text.rejected.as_ref());
        let characters = |list: &ActionList| {
            let written = list.actions.iter().map(|action| action.new_text.chars().count()).sum::<usize>();
            u32::try_from(written).unwrap_or(u32::MAX)
        };
        Self {
            correction,
            file: Sha256Digest::of_parts(
                "flywheel file",
                &[text.context.repository.as_bytes(), text.context.path.as_bytes()],
            ),
            silence,
            judges: text
                .chosen
                .as_ref()
                .is_some_and(|chosen| chosen.closed || !chosen.actions.is_empty() || !text.shared.is_empty()),
            shingles: shingles(place.before, after),
            identifiers: written_identifiers(&text.shared, text.chosen.as_ref()),
            pattern: pattern_of(text.shared.iter().chain(told.into_iter().flat_map(|list| &list.actions))),
            chosen_characters: text.chosen.as_ref().map(characters),
            rejected_characters: text.rejected.as_ref().map(characters),
            fault: quality::fault(text),
            header: Header::of(&text.context.window).map(Box::new),
        }
    }
}

/// The lines that a pair is about.
struct Place<'a> {
    path: &'a str,
    start_byte: u64,
    before: &'a str,
}

impl<'a> Place<'a> {
    fn of(text: &'a PairText) -> Self {
        let (context, window) = (&text.context, &text.context.window);
        let lists = text.chosen.iter().chain(&text.rejected).flat_map(|list| &list.actions);
        let ranges = text.shared.iter().chain(lists).filter(|action| action.path == context.path);
        let (mut start, mut end) = (u64::MAX, 0);
        for action in ranges {
            start = start.min(action.range.start);
            end = end.max(action.range.end);
        }
        if start > end {
            (start, end) = (context.cursor_byte, context.cursor_byte);
        }
        let inside = |byte: u64| {
            usize::try_from(byte.saturating_sub(window.start_byte)).unwrap_or(usize::MAX).min(window.text.len())
        };
        let lines = one_line_more(window.text.as_bytes(), inside(start)..inside(end));
        let start_byte = window.start_byte + u64::try_from(lines.start).unwrap_or(0);
        Self { path: &context.path, start_byte, before: window.text.get(lines).unwrap_or_default() }
    }

    /// The lines once `shared` and `list` are made, and what they change in other files.
    fn after(&self, shared: &[EditAction], list: &ActionList) -> String {
        let (here, elsewhere): (Vec<&EditAction>, Vec<&EditAction>) =
            shared.iter().chain(&list.actions).partition(|action| action.path == self.path);
        let here: Vec<EditAction> = here.into_iter().cloned().collect();
        let mut after = apply_actions(self.start_byte, self.before, &here).unwrap_or_else(|| {
            // What does not apply is still the same as what does not apply in the same way.
            let sides = |action: &EditAction| format!("{}\u{0}{}\u{0}", action.old_text, action.new_text);
            here.iter().map(sides).collect()
        });
        for action in elsewhere {
            for part in [action.old_text.as_str(), action.new_text.as_str()] {
                after.push('\u{0}');
                after.push_str(part);
            }
        }
        after
    }
}

/// The whole lines of a range, and one more each way.
fn one_line_more(text: &[u8], range: Range<usize>) -> Range<usize> {
    let line_start = |at: usize| text[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
    let line_end =
        |at: usize| text[at..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |place| at + place + 1);
    let first = line_start(range.start);
    line_start(first.saturating_sub(1))..line_end(line_end(range.end))
}

/// Text without what no editor agrees on: line ends, and space before them.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        plain.push_str(line.trim_end());
        plain.push('\n');
    }
    plain
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): the same in every release.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Hashes of the 5-grams of the tokens of both texts, one after the other: FNV-1a over the tokens, each followed by a
/// zero byte, its halves folded by exclusive or. Fewer than five tokens are one shingle.
fn shingles(before: &str, after: &str) -> Vec<u32> {
    let tokens: Vec<&str> = [before, after]
        .into_iter()
        .flat_map(|text| lexemes(text).into_iter().filter_map(move |range| text.get(range)))
        .filter(|token| !token.trim().is_empty())
        .collect();
    let hash = |gram: &[&str]| {
        let mut hash = Fnv::new();
        for token in gram {
            hash.add(token.as_bytes());
            hash.add(&[0]);
        }
        // Both halves count.
        (hash.0 ^ (hash.0 >> 32)) as u32
    };
    let mut shingles: Vec<u32> =
        if tokens.len() < GRAM { vec![hash(tokens.as_slice())] } else { tokens.windows(GRAM).map(hash).collect() };
    shingles.sort_unstable();
    shingles.dedup();
    shingles
}

/// Hashes of the names in what a developer wrote. Sorted, each once.
#[must_use]
pub fn written_identifiers(shared: &[EditAction], chosen: Option<&ActionList>) -> Vec<u64> {
    let mut identifiers: Vec<u64> = shared
        .iter()
        .chain(chosen.into_iter().flat_map(|chosen| &chosen.actions))
        .flat_map(|action| {
            let text = action.new_text.as_str();
            lexemes(text).into_iter().filter_map(move |range| text.get(range))
        })
        .filter(|token| token.starts_with(|first: char| first == '_' || first.is_alphabetic()))
        .map(|token| {
            let mut hash = Fnv::new();
            hash.add(token.as_bytes());
            hash.0
        })
        .collect();
    identifiers.sort_unstable();
    identifiers.dedup();
    identifiers
}

#[cfg(test)]
mod tests {
    use events::{ByteRange, EditContext, Window};
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "fn main() {\n    let first = 1;\n    let x = load(first);\n    print(x);\n}\n";

    fn action(start: usize, old: &str, new: &str) -> EditAction {
        let start = start as u64;
        EditAction {
            path: "a.rs".to_owned(),
            range: ByteRange::new(start, start + old.len() as u64),
            old_text: old.to_owned(),
            new_text: new.to_owned(),
        }
    }

    fn text(prefix: &str, new: &str) -> PairText {
        let text = format!("{prefix}{TEXT}");
        let at = text.find("load").unwrap();
        let list = |new: &str| ActionList { actions: vec![action(at, "load", new)], closed: false };
        PairText {
            context: EditContext {
                repository: "r".to_owned(),
                path: "a.rs".to_owned(),
                language: "rust".to_owned(),
                recent_edits: Vec::new(),
                window: Window { start_byte: 0, first_line: 0, text },
                cursor_byte: at as u64,
            },
            shared: Vec::new(),
            chosen: Some(list(new)),
            rejected: Some(list("store")),
        }
    }

    #[test]
    fn corrections_are_equal_wherever_they_are_made() {
        let one = Lesson::of(&text("", "fetch"));
        let mut moved = text("use a::b;\n\n", "fetch");
        moved.context.path = "b.rs".to_owned();
        for list in [&mut moved.chosen, &mut moved.rejected] {
            list.as_mut().unwrap().actions[0].path = "b.rs".to_owned();
        }
        let other = Lesson::of(&moved);
        assert_eq!((one.correction, &one.shingles), (other.correction, &other.shingles));
        assert_ne!(one.file, other.file);
        assert_ne!(one.correction, Lesson::of(&text("", "fetch_all")).correction);
        let mut closed = text("", "fetch");
        closed.chosen.as_mut().unwrap().closed = true;
        assert_ne!(one.correction, Lesson::of(&closed).correction);
        let mut unpaired = text("", "fetch");
        unpaired.rejected = None;
        assert_ne!(one.correction, Lesson::of(&unpaired).correction);
    }

    #[test]
    fn a_side_without_actions_is_silence_and_names_are_those_that_were_written() {
        let mut silent = text("", "fetch_2(other, \"é\")");
        let names = |names: &[&str]| {
            let new = names.join(" ");
            let list = ActionList { actions: vec![action(0, "", &new)], closed: false };
            written_identifiers(&[], Some(&list))
        };
        assert_eq!(Lesson::of(&silent).identifiers, names(&["other", "é", "fetch_2"]));
        assert_eq!(Lesson::of(&silent).silence, None);
        silent.rejected = Some(ActionList::no_edit());
        assert_eq!(Lesson::of(&silent).silence, Some(Silence::Rejected));
        silent.chosen = Some(ActionList::no_edit());
        let both = Lesson::of(&silent);
        assert_eq!((both.silence, both.judges), (Some(Silence::Chosen), true));
        silent.chosen = Some(ActionList::default());
        assert!(!Lesson::of(&silent).judges);
        let told = |lesson: &Lesson| (lesson.pattern, lesson.chosen_characters, lesson.rejected_characters);
        assert_eq!(told(&both), (None, Some(0), Some(0)));
        assert_eq!(told(&Lesson::of(&text("", "fetch"))), (Some(EditPattern::Replace), Some(5), Some(5)));
        let mut rejection = text("", "fetch");
        rejection.chosen = None;
        assert_eq!(told(&Lesson::of(&rejection)), (Some(EditPattern::Replace), None, Some(5)));
    }

    #[test]
    fn a_lesson_knows_no_more_than_its_lines() {
        assert_eq!(one_line_more(b"a\nb\nc\nd\ne\n", 4..5), 2..8);
        assert_eq!(one_line_more(b"a\nb", 0..0), 0..3);
        assert_eq!(one_line_more(b"", 0..0), 0..0);
        assert_eq!(one_line_more(b"a\nb\nc", 5..5), 2..5);
    }

    proptest! {
        #[test]
        fn any_text_has_a_lesson(
            window in "[a-zé\n\r ]{0,60}",
            start in 0..80_u64,
            end in 0..80_u64,
            offset in 0..9_u64,
        ) {
            let mut odd = text("", "fetch");
            odd.context.window = Window { start_byte: offset, first_line: 0, text: window };
            odd.chosen.as_mut().unwrap().actions[0].range = ByteRange { start, end };
            let lesson = Lesson::of(&odd);
            prop_assert!(lesson.shingles.is_sorted_by(|one, next| one < next) && !lesson.shingles.is_empty());
        }
    }
}
