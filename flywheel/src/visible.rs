//! Text of others on a terminal: code, names and paths that a developer's editor sent.
//!
//! A character that would command the terminal, show the text in another order than it has, or not be seen at all is
//! written out as `\u{...}`. Everything else stays as it is.

use icu_properties::CodePointSetData;
use icu_properties::props::DefaultIgnorableCodePoint;

/// The text without line breaks and tabs that work.
pub(crate) fn visible(text: &str) -> String {
    with(text, is_hidden)
}

/// The text with its tabs.
pub(crate) fn visible_with_tabs(text: &str) -> String {
    with(text, |character| is_hidden(character) && character != '\t')
}

/// JSON that says the same and may go to a terminal. It holds such characters in strings alone, where they may be
/// written as escapes; those of ASCII already are.
pub(crate) fn visible_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        if is_hidden(character) && character > '\u{1f}' {
            for unit in character.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

fn with(text: &str, is_written_out: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_written_out(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Controls (C0, DEL, C1), separators of lines, annotations, and all that Unicode lets a terminal leave out
/// (`Default_Ignorable_Code_Point`): marks of direction, with which "Trojan Source" (Boucher and Anderson, 2021) hides
/// code, and tags, joiners, fillers and variation selectors, which hide text from whoever reads it.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}'..='\u{2029}' | '\u{fff9}'..='\u{fffb}')
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_commanded() {
        assert_eq!(visible("a\u{1b}[2J\u{7}b\r\nc\td"), "a\\u{1b}[2J\\u{7}b\\r\\nc\\td");
        // CSI in one character, which some terminals obey in UTF-8, too.
        assert_eq!(visible("\u{9b}31m"), "\\u{9b}31m");
        assert_eq!(
            visible("\u{202e}evil\u{2066}\u{61c}\u{200b}\u{e0041}"),
            "\\u{202e}evil\\u{2066}\\u{61c}\\u{200b}\\u{e0041}"
        );
        assert_eq!(visible("größe = 名前 \\ \"x\""), "größe = 名前 \\ \"x\"");
        assert_eq!(visible_with_tabs("a\tb\n"), "a\tb\\n");
    }

    #[test]
    fn what_is_not_seen_is_written_out() {
        let ends = [
            ('\u{ad}', '\u{ad}'),
            ('\u{34f}', '\u{34f}'),
            ('\u{61c}', '\u{61c}'),
            ('\u{115f}', '\u{1160}'),
            ('\u{17b4}', '\u{17b5}'),
            ('\u{180b}', '\u{180f}'),
            ('\u{200b}', '\u{200f}'),
            ('\u{2028}', '\u{202e}'),
            ('\u{2060}', '\u{206f}'),
            ('\u{3164}', '\u{3164}'),
            ('\u{fe00}', '\u{fe0f}'),
            ('\u{feff}', '\u{feff}'),
            ('\u{ffa0}', '\u{ffa0}'),
            ('\u{fff9}', '\u{fffb}'),
            ('\u{e0000}', '\u{e01ef}'),
        ];
        let seen: String =
            ends.iter().flat_map(|(first, last)| *first..=*last).filter(|one| !is_hidden(*one)).collect();
        assert!(seen.is_empty(), "{}", seen.escape_unicode());
        assert!(!"a ä 名 한 é e\u{301} क् \u{a0} 😀".chars().any(is_hidden), "letters, marks and spaces are seen");
    }

    #[test]
    fn json_says_the_same() {
        let value = serde_json::json!({ "name": "ü\u{9b}\u{202e}\u{e0041}\u{1b}\n", "list": [1, "\u{7f}"] });
        let shown = visible_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(shown.contains("\\u009b\\u202e\\udb40\\udc41") && shown.contains('ü'), "{shown}");
        assert!(!shown.chars().any(|character| is_hidden(character) && character != '\n'), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
