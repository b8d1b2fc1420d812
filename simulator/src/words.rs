//! Plausible new names, composed of the words that real names are made of.

use crate::random::Dice;
use crate::source::digest_hex;
use crate::syntax::SymbolKind;
use std::collections::BTreeMap;

/// Which names a generator may compose. Names of the two pools never meet, whatever the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Names for training.
    Open,
    /// Names reserved for evaluation.
    Reserved,
}

/// Words in lower case, sorted.
#[derive(Debug, Clone)]
pub struct Words(Vec<String>);

const NAME_BYTES: usize = 24;
/// Attempts at a name in the style of another one before the style is loosened.
const STYLED_ATTEMPTS: u32 = 200;
/// Words that programs are made of, for when a corpus has too few of its own.
const BUILT_IN: &[&str] = &[
    "account", "action", "active", "address", "amount", "anchor", "answer", "archive", "balance", "batch", "block",
    "border", "bottom", "branch", "bridge", "budget", "buffer", "bundle", "cache", "candle", "cargo", "catalog",
    "channel", "chapter", "choice", "circle", "client", "cluster", "column", "command", "copper", "counter", "cursor",
    "customer", "delta", "depth", "device", "digest", "domain", "draft", "driver", "editor", "engine", "entry",
    "event", "factor", "family", "figure", "filter", "folder", "forest", "frame", "garden", "gateway", "glass",
    "grade", "group", "harbor", "header", "height", "history", "house", "image", "import", "index", "invoice",
    "island", "journal", "kernel", "ladder", "lantern", "layer", "ledger", "letter", "level", "limit", "locale",
    "marker", "matrix", "meadow", "member", "memory", "merge", "metric", "mirror", "module", "moment", "native",
    "network", "number", "object", "offset", "option", "orbit", "order", "origin", "owner", "packet", "panel", "paper",
    "parcel", "parent", "patch", "payment", "pixel", "planet", "player", "point", "policy", "portal", "prefix",
    "price", "profile", "project", "quarry", "queue", "quota", "radius", "record", "region", "report", "request",
    "result", "reward", "river", "route", "sample", "scale", "schema", "score", "search", "section", "sensor",
    "server", "session", "shadow", "shape", "signal", "silver", "socket", "source", "state", "station", "stream",
    "summary", "switch", "symbol", "table", "target", "temple", "ticket", "timber", "token", "total", "tower", "track",
    "transfer", "tunnel", "update", "user", "valley", "value", "vector", "vendor", "version", "vessel", "volume",
    "wallet", "weight", "window", "winter", "worker", "writer", "zone",
];

impl Words {
    /// The words of these names: letters only, 3 to 9 of them, in at least `least` names.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>, least: usize) -> Self {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for name in names {
            for word in split_words(name) {
                let fits = (3..=9).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase());
                if fits && !RESERVED.contains(&word.as_str()) {
                    *counts.entry(word).or_default() += 1;
                }
            }
        }
        let mut words: Vec<String> =
            counts.into_iter().filter(|(_, count)| *count >= least).map(|(word, _)| word).collect();
        words.extend(BUILT_IN.iter().map(|word| (*word).to_owned()));
        words.sort();
        words.dedup();
        Self(words)
    }

    /// How many words there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One word.
    pub fn word(&self, dice: &mut Dice) -> &str {
        dice.pick(&self.0).map_or("value", String::as_str)
    }

    /// A new name in the style of `like` (empty: small letters with underscores), from `pool`. Half of the names keep
    /// some of its words, as real renames do.
    pub fn name(&self, like: &str, kind: SymbolKind, pool: Pool, dice: &mut Dice) -> String {
        let mut attempts = 0_u32;
        loop {
            // A style such as a long run of underscores may leave no room for a name: then only its letters count.
            attempts += 1;
            let like = if attempts > STYLED_ATTEMPTS { like.trim_start_matches('_') } else { like };
            let mut parts = Vec::new();
            if dice.chance(0.5) {
                parts = split_words(like).into_iter().filter(|word| word.len() > 1).take(3).collect();
                self.change(&mut parts, dice);
            }
            if parts.is_empty() {
                let count = 1 + dice.weighted(&[0.2, 0.6, 0.2]);
                parts = (0..count).map(|_| self.word(dice).to_owned()).collect();
            }
            let name = in_style(&parts, like, kind);
            if name != like
                && (3..=NAME_BYTES).contains(&name.len())
                && !RESERVED.contains(&name.as_str())
                && pool_of(&name) == pool
            {
                return name;
            }
        }
    }

    fn change(&self, parts: &mut Vec<String>, dice: &mut Dice) {
        if parts.is_empty() {
            return;
        }
        let position = dice.below(parts.len());
        match dice.below(3) {
            0 => parts.insert(dice.below(parts.len() + 1), self.word(dice).to_owned()),
            1 if parts.len() > 1 => {
                parts.remove(position);
                let place = dice.below(parts.len());
                parts.insert(place, self.word(dice).to_owned());
            }
            _ => {
                if let Some(part) = parts.get_mut(position) {
                    *part = self.word(dice).to_owned();
                }
            }
        }
    }

    /// A name for a repository: two words with a hyphen.
    pub fn repository(&self, dice: &mut Dice) -> String {
        format!("{}-{}", self.word(dice), self.word(dice))
    }
}

/// The pool that a name belongs to: one name in eight is reserved.
#[must_use]
pub fn pool_of(name: &str) -> Pool {
    // The first hexadecimal digit of the digest: two of sixteen.
    if digest_hex(name.as_bytes()).starts_with(['0', '8']) { Pool::Reserved } else { Pool::Open }
}

/// The words of an identifier, in lower case: split at underscores and at changes of case.
#[must_use]
pub fn split_words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut previous_lower = false;
    for character in name.chars() {
        let is_boundary = character == '_' || (character.is_uppercase() && previous_lower);
        if is_boundary && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if character != '_' {
            word.extend(character.to_lowercase());
        }
        previous_lower = character.is_lowercase() || character.is_ascii_digit();
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Writes words in the style that a name of this kind has, following `like` where style is free.
#[must_use]
pub fn in_style(words: &[String], like: &str, kind: SymbolKind) -> String {
    let letters = like.trim_start_matches('_');
    let lead = &like[..like.len() - letters.len()];
    let is_upper = !letters.bytes().any(|byte| byte.is_ascii_lowercase());
    let has_capital = letters.bytes().any(|byte| byte.is_ascii_uppercase());
    let starts_capital = letters.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase());
    let capital = |word: &String| {
        let mut characters = word.chars();
        characters.next().map(|first| first.to_uppercase().chain(characters).collect::<String>()).unwrap_or_default()
    };
    let body = if kind == SymbolKind::Type || (has_capital && starts_capital && !is_upper) {
        words.iter().map(capital).collect::<String>()
    } else if is_upper && has_capital {
        words.join("_").to_uppercase()
    } else if has_capital && !letters.contains('_') {
        let rest = words.iter().skip(1).map(capital).collect::<String>();
        words.first().cloned().unwrap_or_default() + &rest
    } else {
        words.join("_")
    };
    format!("{lead}{body}")
}

/// Keywords and built-in names of both languages: no new name may be one.
const RESERVED: &[&str] = &[
    "abstract", "and", "any", "all", "as", "assert", "async", "await", "become", "bool", "box", "break", "char",
    "class", "const", "continue", "crate", "def", "del", "dict", "do", "dyn", "elif", "else", "enum", "except",
    "extern", "false", "final", "finally", "float", "fn", "for", "from", "gen", "global", "if", "impl", "import", "in",
    "int", "is", "lambda", "len", "let", "list", "loop", "macro", "match", "mod", "move", "mut", "none", "nonlocal",
    "not", "object", "or", "override", "pass", "print", "priv", "pub", "raise", "range", "ref", "return", "self",
    "set", "static", "str", "struct", "super", "trait", "true", "try", "tuple", "type", "typeof", "union", "unsafe",
    "unsized", "use", "usize", "virtual", "where", "while", "with", "yield", "None", "True", "False", "Self", "String",
    "Vec", "Option", "Result", "Box", "Some", "Err",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_style_without_room_for_a_name_is_dropped() {
        let words = Words::from_names([], 1);
        let like = "_".repeat(NAME_BYTES + 10);
        let name = words.name(&like, SymbolKind::Variable, Pool::Open, &mut Dice::new(1, "names", &[]));
        assert!((3..=NAME_BYTES).contains(&name.len()));
    }

    #[test]
    fn names_keep_the_style_of_their_kind() {
        let words = ["total".to_owned(), "order".to_owned()];
        assert_eq!(in_style(&words, "parse_line", SymbolKind::Function), "total_order");
        assert_eq!(in_style(&words, "_parse", SymbolKind::Method), "_total_order");
        assert_eq!(in_style(&words, "HttpServer", SymbolKind::Type), "TotalOrder");
        assert_eq!(in_style(&words, "MAX_SIZE", SymbolKind::Constant), "TOTAL_ORDER");
        assert_eq!(in_style(&words, "getName", SymbolKind::Method), "totalOrder");
        assert_eq!(split_words("HttpServer_v2"), ["http", "server", "v2"]);
    }

    #[test]
    fn pools_never_share_a_name() {
        let words = Words::from_names([], 1);
        let mut dice = Dice::new(3, "names", &[]);
        for _ in 0..300 {
            for pool in [Pool::Open, Pool::Reserved] {
                let name = words.name("parse_line", SymbolKind::Function, pool, &mut dice);
                assert_eq!(pool_of(&name), pool);
            }
        }
    }
}
