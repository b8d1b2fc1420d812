//! The configuration of the whole product: one file, `FLYWHEEL_*`, flags. `docs/configuration.md` lists the keys.

use std::path::PathBuf;

use anonymizer::AnonymizerConfig;
use bus::local::LocalLogConfig;
use events::{ModelName, TenantId};
use ingest::IngestConfig;
use labeler::LabelerConfig;
use model_registry::config::RegistryConfig;
use serde::Deserialize;
use service::clock::ClockConfig;
use service::config::load;
use service::http::HttpConfig;
use serving::ServingConfig;
use trainer_orchestrator::OrchestratorConfig;

use crate::cli::Common;
use crate::failure::Failure;

/// Everything that can be configured.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Where the embedded parts keep their data.
    pub(crate) data_dir: PathBuf,
    /// Whose platform this is.
    pub(crate) tenant: TenantId,
    /// The model that is served and trained.
    pub(crate) model: ModelName,
    /// Makes every secret and id a function of it. For demos and tests only.
    pub(crate) seed: Option<u64>,
    /// How long a service may take to stop.
    pub(crate) grace_seconds: u64,
    pub(crate) clock: ClockConfig,
    pub(crate) bus: BusSettings,
    pub(crate) admin: HttpConfig,
    pub(crate) registry: RegistryConfig,
    pub(crate) ingest: IngestConfig,
    pub(crate) anonymizer: AnonymizerConfig,
    pub(crate) labeler: LabelerConfig,
    pub(crate) orchestrator: OrchestratorConfig,
    pub(crate) serving: ServingConfig,
}

/// `[bus]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BusSettings {
    /// Stands before the stored names of all topics and steps, for wheels that share a log.
    pub(crate) prefix: String,
    /// Partitions of the telemetry topics; fixed when the log is made.
    pub(crate) partitions: u32,
    /// How long raw telemetry is kept.
    pub(crate) raw_hours: u64,
    /// How long clean telemetry is kept.
    pub(crate) clean_days: u64,
    /// How long quarantined telemetry and dead letters are kept.
    pub(crate) quarantine_days: u64,
    /// How long pairs are kept.
    pub(crate) pairs_days: u64,
    /// How long outcomes and control-plane events are kept.
    pub(crate) outcomes_days: u64,
    /// The local log.
    pub(crate) local: LocalLogConfig,
}

impl Default for BusSettings {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            partitions: 4,
            raw_hours: 24,
            clean_days: 7,
            quarantine_days: 14,
            pairs_days: 180,
            outcomes_days: 180,
            local: LocalLogConfig::default(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("flywheel-data"),
            tenant: TenantId::default(),
            model: default_model(),
            seed: None,
            grace_seconds: 20,
            clock: ClockConfig::default(),
            bus: BusSettings::default(),
            admin: HttpConfig::at("127.0.0.1:7800"),
            registry: RegistryConfig { http: HttpConfig::at("127.0.0.1:7803"), ..RegistryConfig::default() },
            ingest: IngestConfig { http: HttpConfig::at("127.0.0.1:7801"), ..IngestConfig::default() },
            anonymizer: AnonymizerConfig::default(),
            labeler: LabelerConfig::default(),
            orchestrator: OrchestratorConfig::default(),
            serving: ServingConfig::default(),
        }
    }
}

fn default_model() -> ModelName {
    // "edit" fits the rule for model names, which a test holds.
    "edit".parse().unwrap_or_else(|_| unreachable!("edit is a model name"))
}

impl Settings {
    /// Reads the file, the environment and the flags, in this order.
    pub(crate) fn load(common: &Common, more: &[(&str, String)]) -> Result<Self, Failure> {
        let mut overrides: Vec<(String, String)> =
            more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        for pair in &common.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Failure::refused(format!("--set {pair}: expected KEY=VALUE, such as serving.threshold=0.6"))
            })?;
            overrides.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        if let Some(directory) = &common.data_dir {
            overrides.push(("data_dir".to_owned(), directory.display().to_string()));
        }
        // `FLYWHEEL_DATA_DIR` arrives through the flag.
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?)).filter(|(name, _)| name != "FLYWHEEL_BINARY")
        });
        let settings: Self = load(common.config.as_deref(), variables, &overrides).map_err(Failure::refuse)?;
        settings.registry.rollout.validate().map_err(Failure::refuse)?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        let settings = Settings::default();
        assert_eq!(settings.model.as_str(), "edit");
        assert_eq!(settings.orchestrator.model, "edit");
        settings.registry.rollout.validate().unwrap();
    }
}
