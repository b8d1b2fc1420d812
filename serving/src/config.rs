//! Settings of the completion door, `[serving]`.

use std::collections::BTreeMap;
use std::time::Duration;

use edit_model::ServedWeights;
use events::ModelName;
use serde::{Deserialize, Serialize};
use service::config::Invalid;
use service::http::HttpConfig;

use crate::engine::EngineConfig;

/// `[serving]`. Every limit is here; none is hidden in the code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServingConfig {
    /// The door. Default 127.0.0.1:7802.
    pub http: HttpConfig,
    /// Model that answers a request which names none. Default: the tenant's only model; with several, a request must
    /// name one.
    pub default_model: Option<ModelName>,

    /// Gate score from which on a suggestion is shown, 0 to 1. Default 0.5.
    pub threshold: f64,
    /// Share of opportunities whose decision is turned round by exploration, 0 to 0.5. Default 0.02.
    pub exploration: f64,
    /// Most actions of a suggestion. Default 4.
    pub max_actions: usize,

    /// Threads that decode. Default 2.
    pub threads: usize,
    /// Requests that may wait for a thread; one more is refused with 503 `overloaded`. Default 64.
    pub queue: usize,
    /// What a refused client is told to wait, in seconds. Default 1.
    pub retry_after_seconds: u32,
    /// Longest time from request to end of the answer, in milliseconds. Default 30000.
    pub answer_timeout_ms: u64,
    /// Answers kept for repeated questions about the same context; 0 keeps none. Default 1024.
    pub result_cache_entries: usize,
    /// How long such an answer is used, and what a prompt left (`prefix_cache_bytes`), in seconds. Default 30.
    pub result_cache_seconds: u64,
    /// What each model in memory may keep of the prompts that it read, in bytes, so that a prompt of the same tenant which
    /// begins as one of them is read from where it departs; 0 keeps nothing. Default 33554432.
    pub prefix_cache_bytes: usize,
    /// Most tokens that are guessed from the text being edited and read together with a written one, 0 to 64; answers stay
    /// the same. It pays where weights do not fit the processor's caches: `benchmarks/run decode` measures it. Default 0.
    pub draft_tokens: usize,
    /// The weights by which models decode: `full`, as they are stored, or `int8`, rounded to 8 bits when a model is loaded. That
    /// is faster where reading the weights takes longest, and loses what `benchmarks/run decode` measures; the gate is to judge
    /// the same (`orchestrator.gate.weights`). A model then takes a quarter more memory. Default `full`.
    pub weights: ServedWeights,
    /// Most answers of one model that a thread decodes together, a token of each in one pass over the weights, 1 to 64;
    /// answers stay the same. A request joins between two passes, only when no thread is free: it would have to wait
    /// otherwise. It pays where reading the weights takes longer than computing with them: `benchmarks/run decode` measures
    /// it. Default 4.
    pub decode_batch: usize,

    /// Largest body of a request in bytes. Default 262144.
    pub max_body_bytes: usize,
    /// Newest recent edits that are looked at; older ones are left out. Default 8.
    pub max_recent_edits: usize,
    /// Recent edits with a longer side are left out, in bytes. Default 2048.
    pub max_recent_edit_bytes: usize,
    /// Whole lines above the cursor's that a suggestion may change. Default 24.
    pub window_lines_before: usize,
    /// Whole lines below the cursor's that a suggestion may change. Default 24.
    pub window_lines_after: usize,
    /// Bytes of the window; lines farthest from the cursor are left out first, the cursor's own never. Default 4096.
    pub window_bytes: usize,

    /// How old a verified API key may be before it is verified again behind the request's back, in seconds; so long a
    /// revoked key works while the database is up. Default 15.
    pub key_refresh_seconds: u64,
    /// How old a verified API key may become while it cannot be verified again, in seconds. Default 86400.
    pub key_staleness_seconds: u64,
    /// Verified API keys in memory. Default 4096.
    pub key_cache_entries: usize,
    /// How long a request waits for the verification of a key never seen before, in milliseconds. Default 2000.
    pub authentication_timeout_ms: u64,

    /// Exposures that may wait for the bus; one more is dropped and counted. Default 4096.
    pub exposure_queue: usize,
    /// Most exposures published at once. Default 256.
    pub exposure_batch: usize,
    /// How often the publication of an exposure is tried before it is dropped and counted. Default 6.
    pub exposure_attempts: u32,
    /// Pause after the first failed attempt in milliseconds; it doubles with every further one. Default 250.
    pub exposure_retry_ms: u64,
    /// How long database and log may take for an exposure before that attempt has failed, in milliseconds. Default
    /// 10000.
    pub exposure_timeout_ms: u64,
    /// How long a consent that was read is used, in seconds. Default 5.
    pub consent_refresh_seconds: u64,
    /// How long exposures still in the queue may take when the service stops, in milliseconds. Default 5000.
    pub drain_ms: u64,

    /// How often the registry is asked for changed routing, in milliseconds. Default 1000.
    pub routing_poll_ms: u64,
    /// Longest answer of the registry, in milliseconds. Default 10000.
    pub registry_timeout_ms: u64,
    /// Models in memory at once. A routing table that needs more is not followed. Default 8.
    pub max_loaded_models: usize,
    /// Model directories kept on disk beside those in use. Default 2.
    pub keep_model_directories: usize,

    /// Engines that others run, by the names that artifacts call them. Default none.
    pub engines: BTreeMap<String, EngineConfig>,
}

impl Default for ServingConfig {
    fn default() -> Self {
        Self {
            http: HttpConfig::at("127.0.0.1:7802"),
            default_model: None,
            threshold: 0.5,
            exploration: 0.02,
            max_actions: 4,
            threads: 2,
            queue: 64,
            retry_after_seconds: 1,
            answer_timeout_ms: 30_000,
            result_cache_entries: 1024,
            result_cache_seconds: 30,
            prefix_cache_bytes: 32 * 1024 * 1024,
            draft_tokens: 0,
            weights: ServedWeights::Full,
            decode_batch: 4,
            max_body_bytes: 256 * 1024,
            max_recent_edits: 8,
            max_recent_edit_bytes: 2048,
            window_lines_before: 24,
            window_lines_after: 24,
            window_bytes: 4096,
            key_refresh_seconds: 15,
            key_staleness_seconds: 24 * 3600,
            key_cache_entries: 4096,
            authentication_timeout_ms: 2000,
            exposure_queue: 4096,
            exposure_batch: 256,
            exposure_attempts: 6,
            exposure_retry_ms: 250,
            exposure_timeout_ms: 10_000,
            consent_refresh_seconds: 5,
            drain_ms: 5000,
            routing_poll_ms: 1000,
            registry_timeout_ms: 10_000,
            max_loaded_models: 8,
            keep_model_directories: 2,
            engines: BTreeMap::new(),
        }
    }
}

impl ServingConfig {
    /// Refuses values that make no service.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn validate(&self) -> Result<(), Invalid> {
        let expect = |holds: bool, key: &str, expected: &str| Invalid::unless(holds, key, expected);
        self.http.validate("serving.http")?;
        expect((0.0..=1.0).contains(&self.threshold), "serving.threshold", "0 to 1")?;
        expect((0.0..=0.5).contains(&self.exploration), "serving.exploration", "0 to 0.5")?;
        expect((1..=64).contains(&self.max_actions), "serving.max_actions", "1 to 64")?;
        expect((1..=1024).contains(&self.threads), "serving.threads", "1 to 1024")?;
        expect(self.draft_tokens <= 64, "serving.draft_tokens", "0 to 64")?;
        expect((1..=64).contains(&self.decode_batch), "serving.decode_batch", "1 to 64")?;
        expect(self.queue >= 1, "serving.queue", "at least 1")?;
        expect(self.answer_timeout_ms >= 1, "serving.answer_timeout_ms", "at least 1")?;
        expect(self.max_body_bytes >= 1024, "serving.max_body_bytes", "at least 1024")?;
        expect(self.window_bytes >= 256, "serving.window_bytes", "at least 256")?;
        expect(self.key_refresh_seconds >= 1, "serving.key_refresh_seconds", "at least 1")?;
        expect(
            self.key_staleness_seconds >= self.key_refresh_seconds,
            "serving.key_staleness_seconds",
            "at least serving.key_refresh_seconds",
        )?;
        expect(self.key_cache_entries >= 1, "serving.key_cache_entries", "at least 1")?;
        expect(self.authentication_timeout_ms >= 1, "serving.authentication_timeout_ms", "at least 1")?;
        expect(self.exposure_queue >= 1, "serving.exposure_queue", "at least 1")?;
        expect(self.exposure_batch >= 1, "serving.exposure_batch", "at least 1")?;
        expect(self.exposure_timeout_ms >= 1, "serving.exposure_timeout_ms", "at least 1")?;
        expect(self.exposure_attempts >= 1, "serving.exposure_attempts", "at least 1")?;
        expect(self.routing_poll_ms >= 10, "serving.routing_poll_ms", "at least 10")?;
        expect(self.registry_timeout_ms >= 1, "serving.registry_timeout_ms", "at least 1")?;
        expect(self.max_loaded_models >= 1, "serving.max_loaded_models", "at least 1")?;
        self.engines.iter().try_for_each(|(name, engine)| engine.validate(name))
    }

    pub(crate) fn result_cache_lifetime(&self) -> Duration {
        Duration::from_secs(self.result_cache_seconds)
    }

    pub(crate) fn answer_timeout(&self) -> Duration {
        Duration::from_millis(self.answer_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_and_bad_values_name_their_key() {
        assert!(ServingConfig::default().validate().is_ok());
        let config = ServingConfig { exploration: 0.7, ..ServingConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("serving.exploration"));
        let config = ServingConfig { decode_batch: 0, ..ServingConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("serving.decode_batch"));
        let config = ServingConfig { threshold: f64::NAN, ..ServingConfig::default() };
        assert!(config.validate().is_err());
    }
}
