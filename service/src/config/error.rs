//! Configuration errors: one sentence each, with the key and the place it came from.

use std::fmt;
use std::path::PathBuf;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A configuration file.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command line, by the key that it sets.
    Flag(String),
    /// Nowhere: a required setting is absent.
    Nowhere,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::Variable(name) => write!(formatter, "variable {name}"),
            Self::Flag(key) => write!(formatter, "flag for {key}"),
            Self::Nowhere => formatter.write_str("configuration"),
        }
    }
}

/// A value that has the right type and makes no sense: what a room's own check of its settings says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: expected {expected}")]
pub struct Invalid {
    /// Dotted, from the root of the configuration.
    pub key: String,
    /// What was expected.
    pub expected: String,
}

impl Invalid {
    /// The error, unless `holds`.
    ///
    /// # Errors
    /// When it does not hold.
    pub fn unless(holds: bool, key: impl Into<String>, expected: impl Into<String>) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self { key: key.into(), expected: expected.into() }) }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", file.display())]
    Read {
        /// Its path.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("file {}, line {line}: {message}", file.display())]
    Syntax {
        /// Its path.
        file: PathBuf,
        /// First line is 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// No setting has this name.
    #[error("{origin}: unknown key `{key}`{}", expected_list(expected))]
    UnknownKey {
        /// Where it was found.
        origin: Origin,
        /// Dotted.
        key: String,
        /// The names known at that place.
        expected: Vec<&'static str>,
    },
    /// The value does not fit.
    #[error("{origin}: {}{message}", key_prefix(key))]
    BadValue {
        /// Where it was found.
        origin: Origin,
        /// Dotted; empty when the whole configuration is meant.
        key: String,
        /// What was expected.
        message: String,
    },
    /// Two places disagree on whether a key is a value or a section.
    #[error("{origin}: `{key}` is a {} here and a {} in {other}", kind(*is_section), kind(!*is_section))]
    Shape {
        /// The later place.
        origin: Origin,
        /// Dotted.
        key: String,
        /// Whether the later place means a section.
        is_section: bool,
        /// The earlier place.
        other: Origin,
    },
}

fn kind(is_section: bool) -> &'static str {
    if is_section { "section" } else { "value" }
}

fn key_prefix(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("`{key}`: ") }
}

fn expected_list(expected: &[&'static str]) -> String {
    match expected {
        [] => String::new(),
        [only] => format!("; the only key here is `{only}`"),
        many => {
            let names: Vec<String> = many.iter().map(|name| format!("`{name}`")).collect();
            format!("; the keys here are {}", names.join(", "))
        }
    }
}
