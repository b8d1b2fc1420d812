//! The configuration that is in force, as it may be shown: which of it somebody gave, and where. Secrets are no part of
//! it, neither as settings of their own nor inside of addresses.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use toml::Value;

use super::error::{ConfigError, Origin};
use super::merge;
use super::node::Node;

/// A configuration that may be shown to anybody.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shown {
    /// Everything that is in force, but for secrets.
    pub settings: toml::Table,
    /// Where settings were given, by their dotted keys; all others have their defaults.
    pub given: BTreeMap<String, String>,
    /// The secrets that were given.
    pub secrets: BTreeMap<String, ShownSecret>,
}

/// A secret that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownSecret {
    /// Where.
    pub given: String,
    /// What of it may be shown: an address without its user, password and parameters.
    pub shown: Option<String>,
}

/// Shows `effective`, which was loaded from these sources.
///
/// # Errors
/// As [`super::load_over`].
pub fn show<T: Serialize>(
    effective: &T,
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Shown, ConfigError> {
    let settings = toml::Table::try_from(effective).map_err(|error| ConfigError::BadValue {
        origin: Origin::Nowhere,
        key: String::new(),
        message: error.to_string(),
    })?;
    let mut shown = Shown { settings, given: BTreeMap::new(), secrets: BTreeMap::new() };
    redact_table(&mut shown.settings);
    let root = merge(Node::Table(BTreeMap::new(), Origin::Nowhere), file, environment, overrides)?;
    let mut leaves = Vec::new();
    root.leaves("", &mut leaves);
    for (key, node) in leaves {
        shown.add(key, node);
    }
    Ok(shown)
}

impl Shown {
    fn add(&mut self, key: String, node: &Node) {
        let given = node.origin().to_string();
        let (sections, name) = key.rsplit_once('.').unwrap_or(("", &key));
        let mut table = Some(&mut self.settings);
        for section in sections.split('.').filter(|section| !section.is_empty()) {
            table = table.and_then(|table| table.get_mut(section)).and_then(Value::as_table_mut);
        }
        match (table, node.text()) {
            (Some(table), _) if table.contains_key(name) => {
                self.given.insert(key, given);
            }
            // Where a secret is. The path is none.
            (Some(table), Some(path)) if name.ends_with("_file") => {
                table.insert(name.to_owned(), Value::String(path.to_owned()));
                self.given.insert(key, given);
            }
            // Everything else that is given and not in force is a secret.
            (_, text) => {
                let is_address = |text: &&str| text.contains("://");
                let shown = text.filter(is_address).map(migrations::without_credentials);
                self.secrets.insert(key, ShownSecret { given, shown });
            }
        }
    }

    /// As a configuration file, with comments that say where a setting was given.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        self.section("", &self.settings, &mut text);
        text
    }

    fn section(&self, path: &str, table: &toml::Table, text: &mut String) {
        let within = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let mut lines = String::new();
        for (name, value) in table.iter().filter(|(_, value)| !value.is_table()) {
            let given = self.given.get(&within(name)).map_or(String::new(), |given| format!("  # {given}"));
            // Writing to a text can not fail.
            let _written = writeln!(lines, "{name} = {value}{given}");
        }
        let here = |key: &&String| key.rsplit_once('.').map_or("", |(section, _)| section) == path;
        for key in self.secrets.keys().filter(here) {
            let name = key.rsplit_once('.').map_or(key.as_str(), |(_, name)| name);
            let ShownSecret { given, shown } = &self.secrets[key];
            let _written = match shown {
                Some(shown) => writeln!(lines, "# {name} = \"{shown}\", without its credentials  # {given}"),
                None => writeln!(lines, "# {name} is set, and a secret  # {given}"),
            };
        }
        if !lines.is_empty() && !path.is_empty() {
            let _written = writeln!(text, "\n[{path}]");
        }
        text.push_str(&lines);
        for (name, value) in table {
            if let Value::Table(inner) = value {
                self.section(&within(name), inner, text);
            }
        }
    }
}

fn redact_table(table: &mut toml::Table) {
    for (_, value) in table.iter_mut() {
        redact(value);
    }
}

/// Takes credentials out of addresses, wherever somebody put one.
fn redact(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("://") && text.contains('@') => {
            *text = migrations::without_credentials(text);
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Table(table) => redact_table(table),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::{Secret, load_over};
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Settings {
        name: String,
        address: Option<String>,
        store: Store,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Store {
        #[serde(skip_serializing)]
        url: Option<Secret>,
        #[serde(skip_serializing)]
        password: Option<Secret>,
        #[serde(skip_serializing)]
        key: Option<Secret>,
        attempts: u32,
    }

    impl Default for Settings {
        fn default() -> Self {
            let store = Store { url: None, password: None, key: None, attempts: 5 };
            Self { name: "a".to_owned(), address: None, store }
        }
    }

    impl Default for Store {
        fn default() -> Self {
            Settings::default().store
        }
    }

    #[test]
    fn what_is_shown_names_its_place_and_holds_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (folder.path().join("f.toml"), folder.path().join("key"));
        std::fs::write(&key, "hush-key\n").unwrap();
        let text = format!(
            "name = \"b\"\naddress = \"https://me:hush-address@host/x\"\n[store]\npassword = \"hush-password\"\n\
             key_file = \"{}\"\n",
            key.display()
        );
        std::fs::write(&file, text).unwrap();
        let variables = || {
            let url = ("FLYWHEEL_STORE__URL".to_owned(), "postgres://me:hush-url@db:5432/fly?x=hush".to_owned());
            [url].into_iter()
        };
        let overrides = [("store.attempts".to_owned(), "7".to_owned())];
        let loaded = load_over(&Settings::default(), Some(&file), variables(), &overrides, |_| Ok(())).unwrap();
        assert_eq!(loaded.store.key, Some(Secret::new("hush-key")));
        let shown = show(&loaded, Some(&file), variables(), &overrides).unwrap();
        let json = serde_json::to_string(&shown).unwrap();
        let toml = shown.to_toml();
        assert!(!json.contains("hush") && !toml.contains("hush"), "{json}\n{toml}");
        let place = folder.path().display().to_string();
        insta::assert_snapshot!(toml.replace(&place, "PLACE"), @r#"
        address = "https://host/x"  # file PLACE/f.toml
        name = "b"  # file PLACE/f.toml

        [store]
        attempts = 7  # flag for store.attempts
        key_file = "PLACE/key"  # file PLACE/f.toml
        # password is set, and a secret  # file PLACE/f.toml
        # url = "postgres://db:5432/fly", without its credentials  # variable FLYWHEEL_STORE__URL
        "#);
        // It is a configuration again.
        std::fs::write(&file, toml).unwrap();
        let again = load_over(&Settings::default(), Some(&file), std::iter::empty(), &[], |_| Ok(())).unwrap();
        assert_eq!((again.name.as_str(), again.store.attempts, again.store.key), ("b", 7, loaded.store.key));
    }
}
