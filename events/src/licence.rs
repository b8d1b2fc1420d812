//! Licence expressions as SPDX writes them (specification 2.3, annex D), and which of them allow their text to be used.

use serde::{Deserialize, Serialize};

/// Licences that allow their text to be used for training without more than naming them. What is not here is not used.
pub const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unlicense",
    "Zlib",
];

/// How deep parentheses may stand in an expression.
const DEPTH: usize = 16;

/// A licence expression that was understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Licence {
    written: String,
    meaning: Meaning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    /// An identifier, with its exception if it has one.
    One(String),
    Any(Vec<Meaning>),
    All(Vec<Meaning>),
}

/// A text that is no licence expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no SPDX licence expression")]
pub struct NotALicence(pub String);

impl Licence {
    /// Reads an expression. `/` is no part of one: only Cargo says what it means.
    ///
    /// # Errors
    /// When `text` is no expression.
    pub fn parse(text: &str) -> Result<Self, NotALicence> {
        let written = text.trim();
        let spaced = written.replace('(', " ( ").replace(')', " ) ");
        let mut words = Words { words: spaced.split_whitespace().collect(), next: 0 };
        match words.any(0) {
            Some(meaning) if words.next == words.words.len() => Ok(Self { written: written.to_owned(), meaning }),
            _ => Err(NotALicence(written.to_owned())),
        }
    }

    /// What the first lines of a file name (`SPDX-License-Identifier`), if they name anything.
    #[must_use]
    pub fn named_in(head: &str) -> Option<Result<Self, NotALicence>> {
        let (_, after) = head.split_once("SPDX-License-Identifier:")?;
        let line = after.lines().next().unwrap_or_default();
        let end = ["*/", "-->", "\"\"\"", "'''", "-}", "*)"]
            .iter()
            .filter_map(|mark| line.find(mark))
            .min()
            .unwrap_or(line.len());
        Some(Self::parse(line.get(..end).unwrap_or_default()))
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// What stands for itself in the list of what is allowed: an identifier, with its exception if it has one. None of
    /// an expression of several.
    #[must_use]
    pub fn one(&self) -> Option<&str> {
        match &self.meaning {
            Meaning::One(id) => Some(id.as_str()),
            Meaning::Any(_) | Meaning::All(_) => None,
        }
    }

    /// Whether text under this licence may be used where `allowed` are the licences that may be: one side of an `OR`
    /// is enough, an `AND` needs both, and an exception is part of what has to be allowed.
    #[must_use]
    pub fn is_allowed(&self, allowed: &[String]) -> bool {
        self.meaning.is_allowed(allowed)
    }
}

impl Meaning {
    fn is_allowed(&self, allowed: &[String]) -> bool {
        match self {
            Self::One(id) => allowed.iter().any(|one| one.eq_ignore_ascii_case(id)),
            Self::Any(sides) => sides.iter().any(|side| side.is_allowed(allowed)),
            Self::All(sides) => sides.iter().all(|side| side.is_allowed(allowed)),
        }
    }
}

impl std::fmt::Display for Licence {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.written)
    }
}

impl TryFrom<String> for Licence {
    type Error = NotALicence;

    fn try_from(text: String) -> Result<Self, NotALicence> {
        Self::parse(&text)
    }
}

impl From<Licence> for String {
    fn from(licence: Licence) -> Self {
        licence.written
    }
}

struct Words<'a> {
    words: Vec<&'a str>,
    next: usize,
}

impl Words<'_> {
    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.next).is_some_and(|next| next.eq_ignore_ascii_case(word));
        self.next += usize::from(found);
        found
    }

    fn any(&mut self, depth: usize) -> Option<Meaning> {
        let mut sides = vec![self.all(depth)?];
        while self.take("OR") {
            sides.push(self.all(depth)?);
        }
        if sides.len() == 1 { sides.pop() } else { Some(Meaning::Any(sides)) }
    }

    fn all(&mut self, depth: usize) -> Option<Meaning> {
        let mut sides = vec![self.one(depth)?];
        while self.take("AND") {
            sides.push(self.one(depth)?);
        }
        if sides.len() == 1 { sides.pop() } else { Some(Meaning::All(sides)) }
    }

    fn one(&mut self, depth: usize) -> Option<Meaning> {
        if depth < DEPTH && self.take("(") {
            let inside = self.any(depth + 1)?;
            return self.take(")").then_some(inside);
        }
        let mut id = self.id()?;
        if self.take("WITH") {
            id = format!("{id} WITH {}", self.id()?);
        }
        Some(Meaning::One(id))
    }

    fn id(&mut self) -> Option<String> {
        let word = *self.words.get(self.next)?;
        let is_operator = ["OR", "AND", "WITH"].iter().any(|operator| operator.eq_ignore_ascii_case(word));
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'+' | b':');
        if is_operator || !word.bytes().all(fits) || matches!(word, "UNLICENSED" | "NONE" | "NOASSERTION") {
            return None;
        }
        self.next += 1;
        Some(word.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allowed() -> Vec<String> {
        ALLOWED.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn expressions_mean_what_the_specification_says() {
        for (text, is_allowed) in [
            ("MIT", true),
            ("mit", true),
            ("MIT OR GPL-3.0-only", true),
            ("MIT AND GPL-3.0-only", false),
            ("GPL-2.0-only WITH Classpath-exception-2.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("MIT WITH LLVM-exception", false),
            // `AND` binds before `OR`.
            ("MIT OR GPL-3.0-only AND GPL-2.0-only", true),
            ("(MIT OR GPL-3.0-only) AND GPL-2.0-only", false),
            ("(MIT OR Apache-2.0) AND (ISC OR LGPL-3.0-only)", true),
            ("LicenseRef-ours", false),
            ("Apache-2.0+", false),
        ] {
            let licence = Licence::parse(text).unwrap();
            assert_eq!(licence.is_allowed(&allowed()), is_allowed, "{text}");
            assert_eq!(licence.as_str(), text);
        }
        for text in [
            "",
            "MIT OR",
            "AND MIT",
            "MIT Apache-2.0",
            "(MIT",
            "MIT)",
            "see LICENSE",
            "UNLICENSED",
            "NONE",
            "©",
            "MIT/ISC",
        ] {
            assert_eq!(Licence::parse(text), Err(NotALicence(text.to_owned())));
        }
    }

    #[test]
    fn one_licence_is_told_from_several() {
        let one = |text: &str| Licence::parse(text).unwrap().one().map(str::to_owned);
        assert_eq!(one(" MPL-2.0 ").as_deref(), Some("MPL-2.0"));
        assert_eq!(one("(Apache-2.0  with LLVM-exception)").as_deref(), Some("Apache-2.0 WITH LLVM-exception"));
        assert_eq!([one("MIT OR MPL-2.0"), one("MIT AND MPL-2.0")], [None, None]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[A-Za-z0-9+()/ .-]{0,40}|(MIT|OR|AND|WITH|\\(|\\)| ){0,30}") {
            if let Ok(licence) = Licence::parse(&text) {
                prop_assert_eq!(Licence::parse(licence.as_str()).unwrap(), licence.clone());
                prop_assert!(!licence.is_allowed(&[]));
            }
        }

        #[test]
        fn an_or_is_as_good_as_its_better_side(left in 0..ALLOWED.len(), right in "GPL-[123]\\.0") {
            let either = Licence::parse(&format!("({}) OR {right}", ALLOWED[left])).unwrap();
            let both = Licence::parse(&format!("({}) AND {right}", ALLOWED[left])).unwrap();
            prop_assert!(either.is_allowed(&allowed()) && !both.is_allowed(&allowed()));
        }
    }
}
