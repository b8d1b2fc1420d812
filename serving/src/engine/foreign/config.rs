//! Settings of engines that others run, `[serving.engines.NAME]`.

use std::path::PathBuf;
use std::time::Duration;

use axum::http::Uri;
use axum::http::uri::Scheme;
use serde::{Deserialize, Serialize};
use service::config::{Invalid, Secret};
use tokio::sync::Semaphore;

use super::breaker::Limits;
use crate::target::Target;

/// Where completions are asked for, below an engine's address.
const PATH: &str = "/v1/completions";
/// A day.
const MAX_PAUSE_MS: u64 = 24 * 3600 * 1000;
/// Shortest time from one look for addresses that are due to the next.
const SHORTEST_LOOK: Duration = Duration::from_millis(10);
/// Longest name of an engine.
const MAX_NAME_BYTES: usize = 64;

/// `[serving.engines.NAME]`: an OpenAI-compatible server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Where it is: addresses with commas between, in the order in which they are asked. Whatever answers there serves the
    /// same models under the same names; `https` needs the cargo feature `production`. Default `http://127.0.0.1:8000`.
    pub urls: String,
    /// What it wants to be shown as a bearer. Default none.
    #[serde(skip_serializing)]
    pub api_key: Option<Secret>,
    /// PEM: the authorities that may vouch for `https` addresses. Default none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Most tokens of a prompt. Default 2048.
    pub max_prompt_tokens: usize,
    /// Most tokens of an answer. Default 96.
    pub max_answer_tokens: usize,
    /// Questions at once; one more is refused with 503 `overloaded`. Default 64.
    pub concurrency: usize,

    /// How long a connection may take to come about, in milliseconds. Default 1000.
    pub connect_timeout_ms: u64,
    /// Longest time from a question to the first byte of its answer, in milliseconds. Default 2000.
    pub first_byte_timeout_ms: u64,
    /// How long an answer that has begun may say nothing, in milliseconds. Default 1000.
    pub idle_timeout_ms: u64,
    /// Longest time from a question to the end of its answer, whoever was asked on the way, in milliseconds. Default 8000.
    pub deadline_ms: u64,
    /// How long an unused connection is kept, in milliseconds. Default 4000, below the 5 s after which servers close it.
    pub pool_idle_ms: u64,
    /// Unused connections that are kept to each address. Default 64.
    pub pool_connections: usize,

    /// Failures in a row after which an address is not asked any more, until it writes again. Default 5.
    pub breaker_failures: u32,
    /// After how long such an address is looked at for the first time, in milliseconds; the pause doubles with every look
    /// that fails, and is up to half longer by chance. Default 1000.
    pub breaker_pause_ms: u64,
    /// The longest pause, in milliseconds; so long at most an address is left alone that wants to be. Default 60000.
    pub breaker_longest_pause_ms: u64,
    /// After how long an address from which no answer came is looked at, in milliseconds: it must write a token. Default
    /// 10000.
    pub health_interval_ms: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            urls: "http://127.0.0.1:8000".to_owned(),
            api_key: None,
            ca_file: None,
            max_prompt_tokens: 2048,
            max_answer_tokens: 96,
            concurrency: 64,
            connect_timeout_ms: 1000,
            first_byte_timeout_ms: 2000,
            idle_timeout_ms: 1000,
            deadline_ms: 8000,
            pool_idle_ms: 4000,
            pool_connections: 64,
            breaker_failures: 5,
            breaker_pause_ms: 1000,
            breaker_longest_pause_ms: 60_000,
            health_interval_ms: 10_000,
        }
    }
}

impl EngineConfig {
    /// Refuses values that make no engine of this name.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn validate(&self, name: &str) -> Result<(), Invalid> {
        let section = format!("serving.engines.{name}");
        let is_sign = |sign: char| sign.is_ascii_alphanumeric() || sign == '-' || sign == '_';
        Invalid::unless(
            (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(is_sign),
            section.clone(),
            "a name of 1 to 64 letters, digits, `-` and `_`",
        )?;
        let expect =
            |holds: bool, key: &str, expected: &str| Invalid::unless(holds, format!("{section}.{key}"), expected);
        expect(
            self.addresses().is_some(),
            "urls",
            "addresses such as http://127.0.0.1:8000, with commas between, without user, password and query",
        )?;
        let is_encrypted = self.is_encrypted();
        expect(
            !is_encrypted || cfg!(feature = "production"),
            "urls",
            "http addresses: https needs the cargo feature `production`, which this build does not have",
        )?;
        expect(self.ca_file.is_none() || is_encrypted, "ca_file", "none, because `urls` has no https address")?;
        expect(self.max_prompt_tokens >= 64, "max_prompt_tokens", "at least 64")?;
        expect((1..=4096).contains(&self.max_answer_tokens), "max_answer_tokens", "1 to 4096")?;
        expect((1..=Semaphore::MAX_PERMITS).contains(&self.concurrency), "concurrency", "at least 1")?;
        expect(self.connect_timeout_ms >= 1, "connect_timeout_ms", "at least 1")?;
        expect(self.first_byte_timeout_ms >= 1, "first_byte_timeout_ms", "at least 1")?;
        expect(self.idle_timeout_ms >= 1, "idle_timeout_ms", "at least 1")?;
        expect(self.deadline_ms >= 1, "deadline_ms", "at least 1")?;
        expect(self.breaker_failures >= 1, "breaker_failures", "at least 1")?;
        expect(self.breaker_pause_ms >= 1, "breaker_pause_ms", "at least 1")?;
        expect(
            (self.breaker_pause_ms..=MAX_PAUSE_MS).contains(&self.breaker_longest_pause_ms),
            "breaker_longest_pause_ms",
            "at least breaker_pause_ms, and at most a day",
        )?;
        expect(self.health_interval_ms >= 1, "health_interval_ms", "at least 1")
    }

    /// Where completions are asked for, in order; none when a part of `urls` is no address.
    pub(crate) fn addresses(&self) -> Option<Vec<Uri>> {
        self.urls.split(',').map(|url| address(url.trim())).collect()
    }

    /// Whether an address speaks TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        let is_encrypted = |address: &Uri| address.scheme() == Some(&Scheme::HTTPS);
        self.addresses().is_some_and(|addresses| addresses.iter().any(is_encrypted))
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn first_byte_timeout(&self) -> Duration {
        Duration::from_millis(self.first_byte_timeout_ms)
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    pub(super) fn breaker(&self) -> Limits {
        Limits {
            failures: self.breaker_failures,
            pause: Duration::from_millis(self.breaker_pause_ms),
            longest_pause: Duration::from_millis(self.breaker_longest_pause_ms),
            interval: Duration::from_millis(self.health_interval_ms),
        }
    }

    /// How often somebody asks which addresses are due for a look.
    pub(super) fn look(&self) -> Duration {
        let shortest = self.breaker_pause_ms.min(self.health_interval_ms);
        (Duration::from_millis(shortest) / 4).max(SHORTEST_LOOK)
    }
}

/// Where completions are asked for at a server, whose address may be given with the `/v1` that clients of OpenAI write.
fn address(url: &str) -> Option<Uri> {
    let url = url.trim_end_matches('/');
    // A host may be called so too.
    let base = url.strip_suffix("/v1").filter(|base| !base.ends_with('/')).unwrap_or(url);
    Target::parse(base)?.uri(&Uri::from_static(PATH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(urls: &str) -> Option<Vec<String>> {
        let config = EngineConfig { urls: urls.to_owned(), ..EngineConfig::default() };
        config.addresses().map(|addresses| addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_are_read_in_their_order() {
        let expected = ["http://a:8000/v1/completions", "http://b/v1/completions", "https://c/base/v1/completions"];
        let read = addresses("http://a:8000, http://b/v1/ ,https://c/base").unwrap();
        assert_eq!(read, expected);
        assert_eq!(addresses("http://v1"), Some(vec!["http://v1/v1/completions".to_owned()]));
        for urls in
            ["", "http://a,", "a:8000", "http://me:secret@a", "http://a/?q=1", "http://a/v1?q=1", "ftp://a", "http://"]
        {
            assert_eq!(addresses(urls), None, "{urls}");
        }
    }

    #[test]
    fn defaults_hold_and_bad_values_name_their_key() {
        let config = EngineConfig::default();
        assert_eq!(config.validate("big"), Ok(()));
        for name in ["", "a.b", "a b", "a".repeat(65).as_str()] {
            assert!(config.validate(name).unwrap_err().to_string().contains("1 to 64 letters"), "{name}");
        }
        let refused = EngineConfig { urls: "http://me:secret@a".to_owned(), ..EngineConfig::default() };
        let sentence = refused.validate("big").unwrap_err().to_string();
        assert!(sentence.contains("serving.engines.big.urls") && !sentence.contains("secret"), "{sentence}");
        let https = EngineConfig { urls: "http://a,https://b".to_owned(), ..EngineConfig::default() };
        assert_eq!(https.validate("big").is_ok(), cfg!(feature = "production"));
        let refused = EngineConfig { ca_file: Some("ca.pem".into()), ..EngineConfig::default() };
        let sentence = refused.validate("big").unwrap_err().to_string();
        assert!(sentence.contains("serving.engines.big.ca_file") && sentence.contains("no https"), "{sentence}");
        let refused = EngineConfig { concurrency: 0, ..EngineConfig::default() };
        assert!(refused.validate("big").unwrap_err().to_string().contains("serving.engines.big.concurrency"));
    }
}
