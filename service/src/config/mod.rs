//! Configuration: one TOML file, then `FLYWHEEL_*` variables, then flags; what comes later wins, key by key.
//!
//! Rooms define plain structs with `#[serde(deny_unknown_fields, default)]`. A text from the environment or a flag has
//! no type of its own, so it is read as whatever the struct asks for. A secret setting `x` may be given as `x_file`
//! instead, the path of a file that holds it; a secret is never a flag. Every error names the key and where it came
//! from.

mod error;
mod node;
mod secret;
mod show;

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::{ConfigError, Invalid, Origin};
pub use secret::Secret;
pub use show::{Shown, ShownSecret, show};

use node::{Node, Value};

/// What every variable starts with.
pub const ENVIRONMENT_PREFIX: &str = "FLYWHEEL_";

/// Variables with our prefix that are no settings: they are needed before there is a configuration.
pub const RESERVED_VARIABLES: [&str; 3] = ["FLYWHEEL_CONFIG", "FLYWHEEL_LOG", "FLYWHEEL_LOG_FORMAT"];

/// Reads `T` from `defaults`, then `file`, then `environment` (`FLYWHEEL_INGEST__LISTEN` is `ingest.listen`; other
/// variables are left alone), then `overrides` (dotted key, text), and then runs `check`, whose error is told with the
/// place that the key came from. A section that is given in part keeps the defaults of its place, also where the same
/// struct has others elsewhere (each door has a port of its own).
///
/// # Errors
/// A file that cannot be read, a syntax error, an unknown key or a value that does not fit; what `check` says; defaults
/// that no TOML can hold.
pub fn load_over<T: Serialize + DeserializeOwned>(
    defaults: &T,
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &[(String, String)],
    check: impl FnOnce(&T) -> Result<(), Invalid>,
) -> Result<T, ConfigError> {
    let defaults = toml::Table::try_from(defaults).map_err(|error| ConfigError::BadValue {
        origin: Origin::Nowhere,
        key: String::new(),
        message: error.to_string(),
    })?;
    let root = Node::from_value(toml::Value::Table(defaults), &Origin::Nowhere);
    read(&merge(root, file, environment, overrides)?, check)
}

fn read<T: DeserializeOwned>(root: &Node, check: impl FnOnce(&T) -> Result<(), Invalid>) -> Result<T, ConfigError> {
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(Value::Node(root), &mut track);
    let value = T::deserialize(deserializer).map_err(|error| {
        let path: Vec<String> = track.path().iter().map(ToString::to_string).collect();
        error.locate(&path, root)
    })?;
    check(&value).map_err(|Invalid { key, expected }| {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        ConfigError::BadValue { origin: root.origin_on(&path).clone(), key, message: format!("expected {expected}") }
    })?;
    Ok(value)
}

/// The tree of all sources, over `root`.
fn merge(
    mut root: Node,
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Node, ConfigError> {
    if let Some(path) = file {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { file: path.to_path_buf(), source })?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
            file: path.to_path_buf(),
            line: error.span().map_or(1, |span| 1 + text.get(..span.start).unwrap_or("").matches('\n').count()),
            message: error.message().to_owned(),
        })?;
        root.overlay(Node::from_value(toml::Value::Table(table), &Origin::File(path.to_path_buf())));
    }
    // Sorted, so that which of two conflicting variables is named does not depend on the environment's order.
    let mut variables: Vec<(String, String)> = environment
        .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX) && !RESERVED_VARIABLES.contains(&name.as_str()))
        .collect();
    variables.sort();
    for (name, text) in variables {
        let key: Vec<String> = name[ENVIRONMENT_PREFIX.len()..].split("__").map(str::to_lowercase).collect();
        root.set(&key, text, &Origin::Variable(name))?;
    }
    for (key, text) in overrides {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        root.set(&path, text.clone(), &Origin::Flag(key.clone()))?;
    }
    Ok(root)
}
