//! Settings of the server in front of which serving stands, `[upstream]`.

use std::fmt;
use std::path::PathBuf;

use events::{ModelName, TenantId};
use serde::{Deserialize, Serialize};
use service::config::Invalid;

use crate::target::{Target, has_user};

/// Ends the name of the model under which plain OpenAI clients are recorded: they report nothing of what became of a
/// completion, and must not water down the figures of those who do.
const OPENAI_SUFFIX: &str = "-openai";

/// What becomes of a completion that was asked for here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum UpstreamMode {
    /// The upstream's answer is served.
    #[default]
    Observe,
}

/// A mode that this version does not have.
#[derive(Debug, PartialEq, Eq)]
pub struct NoSuchMode(String);

impl fmt::Display for NoSuchMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_str() {
            later @ ("shadow" | "serve") => {
                write!(formatter, "\"{later}\" does not exist in this version yet; expected \"observe\"")
            }
            other => write!(formatter, "expected \"observe\", got \"{other}\""),
        }
    }
}

impl TryFrom<String> for UpstreamMode {
    type Error = NoSuchMode;

    fn try_from(text: String) -> Result<Self, NoSuchMode> {
        if text == "observe" { Ok(Self::Observe) } else { Err(NoSuchMode(text)) }
    }
}

impl From<UpstreamMode> for String {
    fn from(mode: UpstreamMode) -> Self {
        match mode {
            UpstreamMode::Observe => "observe".to_owned(),
        }
    }
}

/// `[upstream]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamConfig {
    /// Where the server is. Default none: serving stands in front of nothing.
    pub url: Option<String>,
    /// What the upstream is told as `Host`. Default none: what the client said.
    pub host: Option<String>,
    /// PEM: the authorities that may vouch for an `https` upstream. Default none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// What becomes of a completion that was asked for here. Default `observe`.
    pub mode: UpstreamMode,
    /// The model under which the upstream's completions are recorded. Default `upstream`.
    pub model: ModelName,

    /// How long a connection may take to come about, in milliseconds. Default 2000.
    pub connect_timeout_ms: u64,
    /// Longest time from a request to the head of its answer, in milliseconds. Default 600000.
    pub answer_timeout_ms: u64,
    /// How long an answer that has begun may say nothing, in milliseconds. Default 600000.
    pub idle_timeout_ms: u64,
    /// How long an unused connection is kept, in milliseconds. Default 4000: servers close it after 5 s.
    pub pool_idle_ms: u64,
    /// Unused connections that are kept. Default 256.
    pub pool_connections: usize,
    /// WebSockets and other upgraded connections at once. Default 256.
    pub tunnels: usize,

    /// Largest body, of a request or of an answer, that is recorded, in bytes. Default 262144.
    pub max_body_bytes: usize,
    /// Tapped requests that may wait to be recorded. Default 4096.
    pub record_queue: usize,
    /// Bytes of all copies that wait to be recorded. Default 33554432.
    pub record_bytes: usize,
    /// Completions whose signals are awaited. Default 65536.
    pub remembered_completions: usize,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            url: None,
            host: None,
            ca_file: None,
            mode: UpstreamMode::Observe,
            // A test holds that it is a name.
            model: "upstream".parse().unwrap_or_else(|_| unreachable!("upstream is a model name")),
            connect_timeout_ms: 2000,
            answer_timeout_ms: 600_000,
            idle_timeout_ms: 600_000,
            pool_idle_ms: 4000,
            pool_connections: 256,
            tunnels: 256,
            max_body_bytes: 256 * 1024,
            record_queue: 4096,
            record_bytes: 32 * 1024 * 1024,
            remembered_completions: 65_536,
        }
    }
}

impl UpstreamConfig {
    /// Refuses values that make no proxy.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn validate(&self) -> Result<(), Invalid> {
        let expect = |holds: bool, key: &str, expected: &str| Invalid::unless(holds, key, expected);
        let target = match &self.url {
            None => None,
            Some(url) => Some(Target::parse(url).ok_or_else(|| Invalid {
                key: "upstream.url".to_owned(),
                expected: "an address such as http://127.0.0.1:8080, without user, password and query".to_owned(),
            })?),
        };
        let is_encrypted = target.is_some_and(|target| target.is_encrypted());
        expect(
            !is_encrypted || cfg!(feature = "production"),
            "upstream.url",
            "an http address: https needs the cargo feature `production`, which this build does not have",
        )?;
        expect(
            self.ca_file.is_none() || is_encrypted,
            "upstream.ca_file",
            "none, because `upstream.url` is no https address",
        )?;
        let is_host = |host: &String| host.parse::<axum::http::uri::Authority>().is_ok_and(|host| !has_user(&host));
        expect(self.host.as_ref().is_none_or(is_host), "upstream.host", "a host such as tabby.example.com")?;
        expect(self.openai_model().is_some(), "upstream.model", "at most 121 characters")?;
        expect(self.connect_timeout_ms >= 1, "upstream.connect_timeout_ms", "at least 1")?;
        expect(self.answer_timeout_ms >= 1, "upstream.answer_timeout_ms", "at least 1")?;
        expect(self.idle_timeout_ms >= 1, "upstream.idle_timeout_ms", "at least 1")?;
        expect(self.tunnels <= tokio::sync::Semaphore::MAX_PERMITS, "upstream.tunnels", "fewer")?;
        let queue = 1..=tokio::sync::Semaphore::MAX_PERMITS;
        expect(queue.contains(&self.record_queue), "upstream.record_queue", "at least 1")?;
        expect(self.remembered_completions >= 1, "upstream.remembered_completions", "at least 1")
    }

    /// The model under which plain OpenAI clients are recorded; none when the configured name is too long.
    pub(crate) fn openai_model(&self) -> Option<ModelName> {
        format!("{}{OPENAI_SUFFIX}", self.model).parse().ok()
    }
}

/// The server in front of which serving stands.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub(crate) config: UpstreamConfig,
    pub(crate) target: Target,
    pub(crate) tenant: TenantId,
}

impl Upstream {
    /// The one of settings that hold, if there is one. What its clients do belongs to `tenant`.
    #[must_use]
    pub fn configured(config: &UpstreamConfig, tenant: &TenantId) -> Option<Self> {
        let target = Target::parse(config.url.as_ref()?)?;
        Some(Self { config: config.clone(), target, tenant: tenant.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(config: &UpstreamConfig) -> String {
        config.validate().unwrap_err().to_string()
    }

    fn at(url: &str) -> UpstreamConfig {
        UpstreamConfig { url: Some(url.to_owned()), ..UpstreamConfig::default() }
    }

    #[test]
    fn defaults_hold_and_bad_values_name_their_key() {
        assert_eq!(UpstreamConfig::default().validate(), Ok(()));
        assert_eq!(at("http://127.0.0.1:8080").validate(), Ok(()));
        for url in ["127.0.0.1:8080", "/v1", "ftp://a", "http://", "http://me:secret@a:1", "http://a:1/?q=1"] {
            let sentence = refusal(&at(url));
            assert!(sentence.contains("`upstream.url`") && !sentence.contains("secret"), "{url}: {sentence}");
        }
        assert_eq!(at("https://a").validate().is_ok(), cfg!(feature = "production"));
        let config = UpstreamConfig { ca_file: Some("ca.pem".into()), ..at("http://a") };
        assert!(refusal(&config).contains("no https address"));
        let config = UpstreamConfig { host: Some("a b".to_owned()), ..at("http://a") };
        assert!(refusal(&config).contains("`upstream.host`"));
        let config = UpstreamConfig { record_queue: 0, ..at("http://a") };
        assert!(refusal(&config).contains("`upstream.record_queue`"));
        let config = UpstreamConfig { model: "m".repeat(125).parse().unwrap(), ..at("http://a") };
        assert!(refusal(&config).contains("`upstream.model`"));
    }

    #[test]
    fn modes_that_come_later_are_told_from_nonsense() {
        let mode = |text: &str| UpstreamMode::try_from(text.to_owned()).map_err(|error| error.to_string());
        assert_eq!(mode("observe"), Ok(UpstreamMode::Observe));
        assert!(mode("serve").unwrap_err().contains("does not exist in this version yet"));
        assert!(mode("watch").unwrap_err().contains("got \"watch\""));
    }
}
