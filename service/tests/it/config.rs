//! Where settings come from, which one wins, and what the errors say.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use service::config::{ConfigError, Invalid, Secret, load_over};

#[derive(Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Door {
    listen: String,
    max_connections: u16,
    ratio: f64,
    tls_terminated: bool,
    mode: Mode,
    origins: Vec<String>,
    #[serde(skip_serializing)]
    password: Option<Secret>,
    key_file: Option<String>,
    limits: Limits,
}

#[derive(Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    bytes: u64,
    name: String,
}

#[derive(Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Open,
    Closed,
}

#[derive(Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Config {
    ingest: Door,
    serving: Door,
}

struct Sources {
    directory: tempfile::TempDir,
    file: Option<String>,
    environment: Vec<(String, String)>,
    overrides: Vec<(String, String)>,
}

impl Sources {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), file: None, environment: vec![], overrides: vec![] }
    }

    fn file(mut self, text: &str) -> Self {
        self.file = Some(text.replace("DIR", &self.directory.path().display().to_string()));
        self
    }

    fn variable(mut self, name: &str, text: &str) -> Self {
        let text = text.replace("DIR", &self.directory.path().display().to_string());
        self.environment.push((name.to_owned(), text));
        self
    }

    fn flag(mut self, key: &str, text: &str) -> Self {
        self.overrides.push((key.to_owned(), text.to_owned()));
        self
    }

    fn other_file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.directory.path().join(name), text).unwrap();
        self
    }

    fn load_checked(&self, check: impl FnOnce(&Config) -> Result<(), Invalid>) -> Result<Config, ConfigError> {
        let path = self.directory.path().join("flywheel.toml");
        if let Some(text) = &self.file {
            std::fs::write(&path, text).unwrap();
        }
        let file = self.file.as_ref().map(|_| path.as_path());
        load_over(&Config::default(), file, self.environment.iter().cloned(), &self.overrides, check)
    }

    fn load(&self) -> Result<Config, ConfigError> {
        self.load_checked(|_| Ok(()))
    }

    fn error_of(&self, check: impl FnOnce(&Config) -> Result<(), Invalid>) -> String {
        let error = self.load_checked(check).unwrap_err();
        error.to_string().replace(&self.directory.path().display().to_string(), "DIR")
    }

    fn error(&self) -> String {
        self.error_of(|_| Ok(()))
    }
}

#[test]
fn nothing_at_all_gives_the_defaults() {
    assert_eq!(Sources::new().load().unwrap(), Config::default());
}

/// Two doors of one kind, each with a port of its own.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Port {
    listen: String,
    connections: u16,
    limit: Option<u64>,
}

impl Default for Port {
    fn default() -> Self {
        Self { listen: "127.0.0.1:0".to_owned(), connections: 7, limit: None }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Ports {
    here: Port,
    there: Port,
}

impl Default for Ports {
    fn default() -> Self {
        let at = |listen: &str| Port { listen: listen.to_owned(), ..Port::default() };
        Self { here: at("127.0.0.1:1"), there: at("127.0.0.1:2") }
    }
}

#[test]
fn a_section_given_in_part_keeps_the_defaults_of_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("flywheel.toml");
    std::fs::write(&file, "[here]\nconnections = 5\n").unwrap();
    let variable = ("FLYWHEEL_THERE__LIMIT".to_owned(), "9".to_owned());
    let flag = ("here.limit".to_owned(), "4".to_owned());
    let load = |variable: Option<(String, String)>, flags: &[(String, String)]| {
        load_over(&Ports::default(), Some(&file), variable.into_iter(), flags, |_| Ok(()))
    };
    let ports = load(Some(variable), &[flag]).unwrap();
    let expected = Ports {
        here: Port { listen: "127.0.0.1:1".to_owned(), connections: 5, limit: Some(4) },
        there: Port { listen: "127.0.0.1:2".to_owned(), connections: 7, limit: Some(9) },
    };
    assert_eq!(ports, expected);
    // Where a section stands by default, a value is refused in the name of whoever gave it.
    std::fs::write(&file, "there = 1\n").unwrap();
    let error = load(None, &[]).unwrap_err().to_string();
    assert_eq!(error, format!("file {}: `there`: expected a section with keys, got a value", file.display()));
}

#[test]
fn every_type_is_read_from_every_source() {
    let from_file = Sources::new()
        .file(
            r#"
            [ingest]
            listen = "127.0.0.1:1"
            max_connections = 5
            ratio = 1
            tls_terminated = true
            mode = "closed"
            origins = ["a", "b"]
            password = "pw"
            key_file = "k"
            limits = { bytes = 7, name = "123" }
            "#,
        )
        .load()
        .unwrap();
    let from_environment = Sources::new()
        .variable("FLYWHEEL_INGEST__LISTEN", "127.0.0.1:1")
        .variable("FLYWHEEL_INGEST__MAX_CONNECTIONS", "5")
        .variable("FLYWHEEL_INGEST__RATIO", "1.0")
        .variable("FLYWHEEL_INGEST__TLS_TERMINATED", "true")
        .variable("FLYWHEEL_INGEST__MODE", "closed")
        .variable("FLYWHEEL_INGEST__ORIGINS", "a, b")
        .variable("FLYWHEEL_INGEST__PASSWORD", "pw")
        .variable("FLYWHEEL_INGEST__KEY_FILE", "k")
        .variable("FLYWHEEL_INGEST__LIMITS__BYTES", "7")
        // A text setting stays a text, whatever it looks like.
        .variable("FLYWHEEL_INGEST__LIMITS__NAME", "123")
        .variable("FLYWHEEL_LOG", "debug")
        .variable("PATH", "/bin")
        .load()
        .unwrap();
    let from_flags = Sources::new()
        .variable("FLYWHEEL_INGEST__PASSWORD", "pw")
        .flag("ingest.listen", "127.0.0.1:1")
        .flag("ingest.max_connections", "5")
        .flag("ingest.ratio", "1")
        .flag("ingest.tls_terminated", "1")
        .flag("ingest.mode", "closed")
        .flag("ingest.origins", r#"["a", "b"]"#)
        .flag("ingest.key_file", "k")
        .flag("ingest.limits.bytes", "7")
        .flag("ingest.limits.name", "123")
        .load()
        .unwrap();
    assert_eq!(from_file.ingest.limits.name, "123");
    assert_eq!(from_file, from_environment);
    assert_eq!(from_file, from_flags);
}

#[test]
fn secrets_are_read_from_files_and_the_later_source_wins() {
    let secret = |sources: Sources| sources.load().unwrap().ingest.password.unwrap().expose_secret().to_owned();
    let base = || Sources::new().other_file("one", "from one\n").other_file("two", "from two\r\n");
    assert_eq!(secret(base().file("[ingest]\npassword_file = 'DIR/one'")), "from one");
    assert_eq!(secret(base().variable("FLYWHEEL_INGEST__PASSWORD_FILE", "DIR/two")), "from two");
    let overlaid = base().file("[ingest]\npassword_file = 'DIR/one'").variable("FLYWHEEL_INGEST__PASSWORD", "direct");
    assert_eq!(secret(overlaid), "direct");
    let overlaid = base().file("[ingest]\npassword = 'direct'").variable("FLYWHEEL_INGEST__PASSWORD_FILE", "DIR/two");
    assert_eq!(secret(overlaid), "from two");
}

#[test]
fn errors_are_one_sentence_with_key_and_source() {
    let errors = [
        Sources::new().file("[ingest]\nlisten = \"127.0.0.1:1\"\nlisteen = \"x\""),
        Sources::new().file("[ingess]\nlisten = \"127.0.0.1:1\""),
        Sources::new().file("[ingest.limits]\nbites = 1"),
        Sources::new().file("[ingest]\nmax_connections = \"many\""),
        Sources::new().file("[ingest]\nmax_connections = 70000"),
        Sources::new().file("[ingest]\nmode = \"ajar\""),
        Sources::new().file("[ingest]\norigins = [\"a\", 2]"),
        Sources::new().file("[ingest]\nlimits = 3"),
        Sources::new().file("[ingest]\nlisten = "),
        Sources::new().file("[ingest]\nlisten = \"a\"\nlisten = \"b\""),
        Sources::new().variable("FLYWHEEL_INGEST__MAX_CONNECTIONS", "many"),
        Sources::new().variable("FLYWHEEL_INGEST__LISTEEN", "x"),
        Sources::new().variable("FLYWHEEL_INGEST", "x"),
        Sources::new().variable("FLYWHEEL_INGEST__LIMITS", "x"),
        Sources::new().variable("FLYWHEEL_INGEST__TLS_TERMINATED", "perhaps"),
        Sources::new().file("[ingest]\nlisten = 'x'").variable("FLYWHEEL_INGEST__LISTEN__PORT", "1"),
        Sources::new().file("[ingest.limits]\nbytes = 1").flag("ingest.limits", "x"),
        Sources::new().flag("ingest.ratio", "half"),
        Sources::new().flag("ingest.password", "hunter2"),
        Sources::new().file("[ingest]\npassword = 1234"),
        Sources::new().file("[ingest]\npassword_file = 'DIR/absent'"),
        Sources::new().file("[ingest]\npassword = 'a'\npassword_file = 'b'"),
        Sources::new().file("[ingest]\nlisten_file = 'b'"),
    ];
    let texts: Vec<String> = errors.iter().map(Sources::error).collect();
    assert!(texts.iter().all(|text| !text.contains("hunter2") && !text.contains("1234")));
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn a_value_that_makes_no_sense_is_told_with_its_place() {
    let check = |config: &Config| {
        Invalid::unless(config.ingest.ratio <= 1.0, "ingest.ratio", "at most 1")?;
        Invalid::unless(config.serving.limits.bytes != 0, "serving.limits.bytes", "at least 1")
    };
    let sources = [
        Sources::new().file("[ingest]\nratio = 2\n[serving.limits]\nbytes = 1"),
        Sources::new().file("[ingest]\nratio = 1\n[serving.limits]\nbytes = 0"),
        Sources::new().file("[ingest]\nratio = 1\n[serving.limits]\nbytes = 1").variable("FLYWHEEL_INGEST__RATIO", "3"),
        Sources::new().flag("ingest.ratio", "1.5"),
        // The default is at fault: whoever wrote the section hears of it.
        Sources::new().file("[serving.limits]\nname = 'x'"),
        Sources::new(),
    ];
    let texts: Vec<String> = sources.iter().map(|sources| sources.error_of(check)).collect();
    insta::assert_snapshot!(texts.join("\n"), @r"
    file DIR/flywheel.toml: `ingest.ratio`: expected at most 1
    file DIR/flywheel.toml: `serving.limits.bytes`: expected at least 1
    variable FLYWHEEL_INGEST__RATIO: `ingest.ratio`: expected at most 1
    flag for ingest.ratio: `ingest.ratio`: expected at most 1
    file DIR/flywheel.toml: `serving.limits.bytes`: expected at least 1
    configuration: `serving.limits.bytes`: expected at least 1
    ");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let absent = std::path::Path::new("absent/flywheel.toml");
    let error = load_over(&Config::default(), Some(absent), std::iter::empty(), &[], |_| Ok(())).unwrap_err();
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn debug_of_a_config_shows_no_secret() {
    let config = Sources::new().variable("FLYWHEEL_INGEST__PASSWORD", "hunter2").load().unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

const KEYS: [&str; 4] = ["ingest.limits.bytes", "ingest.limits.name", "serving.limits.bytes", "serving.listen"];

fn settings() -> impl Strategy<Value = BTreeMap<usize, u32>> {
    proptest::collection::btree_map(0..KEYS.len(), any::<u32>(), 0..=KEYS.len())
}

proptest! {
    /// For every key on its own: the flag if there is one, else the variable, else the file, else the default.
    #[test]
    fn the_latest_source_of_each_key_wins(file in settings(), environment in settings(), flags in settings()) {
        let mut sources = Sources::new();
        let mut text = String::new();
        for (key, value) in &file {
            let quote = if KEYS[*key].ends_with("bytes") { "" } else { "\"" };
            text.push_str(&format!("{} = {quote}{value}{quote}\n", KEYS[*key]));
        }
        sources = sources.file(&text);
        for (key, value) in &environment {
            let name = format!("FLYWHEEL_{}", KEYS[*key].to_uppercase().replace('.', "__"));
            sources = sources.variable(&name, &value.to_string());
        }
        for (key, value) in &flags {
            sources = sources.flag(KEYS[*key], &value.to_string());
        }
        let config = sources.load().unwrap();
        let expected =
            |key: usize| flags.get(&key).or_else(|| environment.get(&key)).or_else(|| file.get(&key)).copied();
        prop_assert_eq!(config.ingest.limits.bytes, u64::from(expected(0).unwrap_or(0)));
        prop_assert_eq!(config.ingest.limits.name, expected(1).map_or(String::new(), |value| value.to_string()));
        prop_assert_eq!(config.serving.limits.bytes, u64::from(expected(2).unwrap_or(0)));
        prop_assert_eq!(config.serving.listen, expected(3).map_or(String::new(), |value| value.to_string()));
    }
}
