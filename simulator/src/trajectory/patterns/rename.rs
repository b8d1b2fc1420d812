//! A name that is not written as its language writes such names, and all its uses.

use super::Search;
use crate::random::Dice;
use crate::trajectory::Pattern;
use crate::trajectory::draft::{Change, Draft, join_lines};
use crate::trajectory::language::CodeLanguage;
use crate::trajectory::outline::{Defined, Occurrence, Role, is_plain_name};

/// How the words of a name are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `load_config`
    Snake,
    /// `loadConfig`
    Camel,
    /// `LoadConfig`
    Pascal,
    /// `LOAD_CONFIG`
    Capitals,
    /// `Load_Config`: what a hand used to underscores writes for an exported name of Go.
    SnakePascal,
}

/// The words of a name and their style; none for one word and for names of no style.
fn read(name: &str) -> Option<(Style, Vec<String>)> {
    let letters = |word: &str| word.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    let (style, words): (Style, Vec<String>) = if name.contains('_') {
        let words: Vec<String> = name.split('_').map(str::to_ascii_lowercase).collect();
        let style = if name.bytes().all(|byte| !byte.is_ascii_uppercase()) {
            Style::Snake
        } else if name.bytes().all(|byte| !byte.is_ascii_lowercase()) {
            Style::Capitals
        } else {
            return None;
        };
        (style, words)
    } else {
        let first = name.as_bytes().first()?;
        let style = if first.is_ascii_uppercase() { Style::Pascal } else { Style::Camel };
        let mut words: Vec<String> = Vec::new();
        let mut after_capital = false;
        for character in name.chars() {
            // Two capitals in a row are an abbreviation, whose words can not be told apart.
            if character.is_ascii_uppercase() && after_capital {
                return None;
            }
            after_capital = character.is_ascii_uppercase();
            match words.last_mut() {
                Some(word) if !after_capital => word.push(character),
                _ => words.push(character.to_ascii_lowercase().to_string()),
            }
        }
        (style, words)
    };
    (words.len() >= 2 && words.iter().all(|word| letters(word))).then_some((style, words))
}

fn write(style: Style, words: &[String]) -> String {
    let capital = |word: &String| {
        let mut letters = word.chars();
        letters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
    };
    match style {
        Style::Snake => words.join("_"),
        Style::Capitals => words.join("_").to_ascii_uppercase(),
        Style::Pascal => words.iter().map(capital).collect(),
        Style::SnakePascal => words.iter().map(capital).collect::<Vec<_>>().join("_"),
        Style::Camel => {
            let pascal: String = words.iter().map(capital).collect();
            let (first, rest) = pascal.split_at(1.min(pascal.len()));
            first.to_ascii_lowercase() + rest
        }
    }
}

/// Whether the language writes names of this kind in this style, and in which styles a hand from elsewhere does.
fn foreign(language: CodeLanguage, defined: Defined, style: Style) -> &'static [Style] {
    use CodeLanguage::{Go, Python, Rust};
    match (language, defined, style) {
        (Rust | Python, Defined::Function | Defined::Method, Style::Snake) => &[Style::Camel, Style::Pascal],
        (Rust | Python, Defined::Constant, Style::Capitals) => &[Style::Snake, Style::Camel, Style::Pascal],
        (Go, Defined::Function | Defined::Method | Defined::Type | Defined::Constant, Style::Pascal) => {
            &[Style::SnakePascal]
        }
        (Go, Defined::Function | Defined::Method | Defined::Type | Defined::Constant, Style::Camel) => &[Style::Snake],
        (_, Defined::Type, Style::Pascal) => &[Style::Snake, Style::Camel],
        (Rust | Python | Go, ..) => &[],
        (_, Defined::Function | Defined::Method, Style::Camel) => &[Style::Snake, Style::Pascal],
        (_, Defined::Constant, Style::Capitals) => &[Style::Camel, Style::Pascal],
        (_, Defined::Constant, Style::Camel) => &[Style::Snake],
        _ => &[],
    }
}

/// Whether this place is surely one of the name's, by what the name stands for.
fn fits(defined: Defined, language: CodeLanguage, role: Role) -> bool {
    match defined {
        Defined::Method => match role {
            Role::CalledOn | Role::Member => true,
            // In Java a method is called by its name alone; in Rust and TypeScript through its type.
            Role::Called => matches!(language, CodeLanguage::Java | CodeLanguage::Rust),
            _ => false,
        },
        _ => matches!(role, Role::Called | Role::Imported | Role::Used),
    }
}

pub(super) fn draft(search: &Search<'_>, name: Occurrence, defined: Defined, dice: &mut Dice) -> Option<Draft> {
    let repository = search.repository;
    let file = repository.files.get(search.file)?;
    let language = file.language();
    let real = file.slice(name.range());
    let (style, words) = read(real)?;
    let start_style = dice.pick(foreign(language, defined, style))?;
    let start = write(*start_style, &words);
    let known = repository.known(real)?;
    let definition = known.definition()?;
    let is_here = definition.file == search.file && definition.name.start == name.start;
    let is_sure = known.places.iter().all(|place| fits(defined, language, place.name.role))
        && repository.is_of_one_language(known, language);
    let is_free = start != real && is_plain_name(&start) && !repository.has_word(&start);
    if !is_here || !is_sure || !is_free || known.is_spoken_of || known.is_unclear || known.places.is_empty() {
        return None;
    }
    // Where the definition stands first, then the other files by path; the uses of a file from its top.
    let mut uses: Vec<_> = known.places.iter().collect();
    uses.sort_by_key(|place| (place.file != search.file, place.file, place.name.start));
    let change = |file, range, cause| Change { file, range, before: start.clone(), cause };
    let mut changes = vec![change(search.file, name.range(), None)];
    changes.extend(uses.into_iter().map(|place| change(place.file, place.name.range(), Some(0))));
    let changes = join_lines(repository, changes);
    let detail = format!("{start} becomes {real}");
    Some(Draft { pattern: Pattern::RenameToConvention, detail, changes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read_by_their_style() {
        let words = |name| read(name).map(|(style, words)| (style, words.join(" ")));
        assert_eq!(words("load_config"), Some((Style::Snake, "load config".to_owned())));
        assert_eq!(words("loadConfig2"), Some((Style::Camel, "load config2".to_owned())));
        assert_eq!(words("LoadConfig"), Some((Style::Pascal, "load config".to_owned())));
        assert_eq!(words("LOAD_CONFIG"), Some((Style::Capitals, "load config".to_owned())));
        for name in ["load", "_load_config", "load__config", "Load_config", "HTTPServer", "load_2", "__init__"] {
            assert_eq!(words(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_written_in_a_style_is_read_as_that_style(words in proptest::collection::vec("[a-z][a-z0-9]{1,6}", 2..4)) {
            for style in [Style::Snake, Style::Camel, Style::Pascal, Style::Capitals] {
                prop_assert_eq!(read(&write(style, &words)), Some((style, words.clone())));
            }
        }
    }
}
