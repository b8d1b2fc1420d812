//! Names of files and repositories as a model sees them: keyed pseudonyms that keep the shape of the name.
//!
//! Serving renders names before the prompt and the anonymizer renders those that clients report, both with this
//! function, so that one file is one name everywhere. Rendering is idempotent (see `substitute.rs`), because a name may
//! come through both. It works word by word: separators, case, digits, the extension and words that every project has
//! (`src`, `tests`, `main`) stay, so a glob such as `acme/*` still means what it meant once it is rendered itself.

use std::fmt;

use events::TenantSecret;

use crate::substitute::{Substitution, light_check};

/// Longest extension that is kept.
const LONGEST_EXTENSION: usize = 6;

/// Words that say nothing about whose project it is. Sorted.
const COMMON_WORDS: &[&str] = &[
    "api",
    "app",
    "apps",
    "benches",
    "bin",
    "build",
    "cli",
    "client",
    "cmd",
    "conf",
    "config",
    "core",
    "crates",
    "data",
    "dist",
    "doc",
    "docs",
    "error",
    "errors",
    "etc",
    "examples",
    "fixtures",
    "handlers",
    "include",
    "index",
    "init",
    "integration",
    "internal",
    "lib",
    "libs",
    "local",
    "main",
    "mod",
    "models",
    "modules",
    "node",
    "packages",
    "pkg",
    "public",
    "python",
    "resources",
    "routes",
    "rust",
    "scripts",
    "server",
    "src",
    "static",
    "target",
    "test",
    "testing",
    "tests",
    "tools",
    "types",
    "unit",
    "util",
    "utils",
    "vendor",
    "views",
    "web",
];

/// Renders names for one tenant.
#[derive(Clone)]
pub struct Shape {
    substitution: Substitution,
}

impl fmt::Debug for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Shape")
    }
}

impl Shape {
    /// The tenant's rendering.
    #[must_use]
    pub fn new(secret: &TenantSecret) -> Self {
        Self { substitution: Substitution::new(secret.derive("name shape"), light_check) }
    }

    /// A path, absolute or relative, with `/` or `\`. Same directory, same rendering; the extension stays.
    #[must_use]
    pub fn path(&self, path: &str) -> String {
        let name_start = path.rfind(['/', '\\']).map_or(0, |separator| separator + 1);
        let extension_start = match path[name_start..].rfind('.') {
            Some(dot) if dot > 0 && is_extension(&path[name_start + dot + 1..]) => name_start + dot,
            _ => path.len(),
        };
        let mut rendered = self.words(&path[..extension_start], COMMON_WORDS);
        rendered.push_str(&path[extension_start..]);
        rendered
    }

    /// A repository's name. Every word of it is replaced.
    #[must_use]
    pub fn repository(&self, name: &str) -> String {
        self.words(name, &[])
    }

    fn words(&self, text: &str, kept: &[&str]) -> String {
        let mut rendered = String::with_capacity(text.len());
        let mut word = Vec::new();
        for character in text.chars() {
            if character.is_alphanumeric() {
                word.push(character);
            } else {
                self.word(&mut word, kept, &mut rendered);
                rendered.push(character);
            }
        }
        self.word(&mut word, kept, &mut rendered);
        rendered
    }

    /// Appends the rendering of `word` and empties it. `Ledger`, `ledger` and `LEDGER` are one word in three cases.
    fn word(&self, word: &mut Vec<char>, kept: &[&str], rendered: &mut String) {
        let lower: Vec<char> = word.iter().map(char::to_ascii_lowercase).collect();
        if lower.len() < 2 || kept.binary_search(&lower.iter().collect::<String>().as_str()).is_ok() {
            rendered.extend(word.drain(..));
            return;
        }
        for (image, original) in self.substitution.image(&lower).into_iter().zip(word.drain(..)) {
            rendered.push(if original.is_ascii_uppercase() { image.to_ascii_uppercase() } else { image });
        }
    }
}

fn is_extension(text: &str) -> bool {
    (1..=LONGEST_EXTENSION).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape() -> Shape {
        Shape::new(&TenantSecret::new([3; 32]))
    }

    #[test]
    fn common_words_are_sorted() {
        assert!(COMMON_WORDS.is_sorted());
    }

    #[test]
    fn keeps_what_every_project_has_and_hides_the_rest() {
        let rendered = shape().path("src/payment_ledger/test_refund.rs");
        assert!(rendered.starts_with("src/") && rendered.ends_with(".rs"), "{rendered}");
        assert!(rendered.contains("/test_"), "{rendered}");
        assert!(!rendered.contains("payment") && !rendered.contains("refund"), "{rendered}");
        assert_eq!(shape().path(""), "");
        assert_eq!(shape().path("./a/../b"), "./a/../b");
    }

    #[test]
    fn words_keep_their_identity_across_case_place_and_glob() {
        let ledger = shape().repository("ledger");
        assert_eq!(shape().repository("Ledger").to_lowercase(), ledger);
        assert_eq!(shape().path("x/ledger/y.py"), format!("x/{ledger}/y.py"));
        assert_eq!(shape().repository("ledger/*"), format!("{ledger}/*"));
        assert_ne!(shape().repository("acme-payments"), shape().repository("acme-refunds"));
        assert_ne!(ledger, Shape::new(&TenantSecret::new([4; 32])).repository("ledger"));
    }

    proptest! {
        #[test]
        fn is_idempotent_and_keeps_the_shape(name in "[a-zA-Z0-9_./ äßñЖ\\\\-]{0,60}") {
            for render in [Shape::path, Shape::repository] {
                let once = render(&shape(), &name);
                prop_assert_eq!(render(&shape(), &once), once.clone());
                prop_assert_eq!(once.len(), name.len());
            }
        }
    }
}
