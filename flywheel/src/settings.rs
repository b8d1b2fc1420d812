//! The configuration of the whole product: one file, `FLYWHEEL_*`, flags. `docs/configuration.md` lists the keys.

use std::net::SocketAddr;
use std::path::PathBuf;

use anonymizer::{AnonymizerConfig, AnonymizerError};
use bus::kafka::KafkaConfig;
use bus::local::LocalLogConfig;
use events::{ModelName, TenantId};
use ingest::IngestConfig;
use labeler::LabelerConfig;
use model_registry::config::RegistryConfig;
use model_registry::lineage::SnapshotFilters;
use serde::{Deserialize, Serialize};
use service::clock::ClockConfig;
use service::config::{Invalid, Secret, Shown, load_over, show};
use service::http::HttpConfig;
use serving::{ServingConfig, UpstreamConfig};
use trainer_orchestrator::{OrchestratorConfig, OrchestratorError};

use crate::artifact_store::S3Settings;
use crate::cli::{CODE_VERSION, Common};
use crate::failure::Failure;
use crate::parts::{ArtifactsKind, BusKind, DatabaseKind, JobsKind};
use crate::services::{INGEST, REGISTRY, SERVING};

/// Where the admin port is when nothing else is said and every service runs in one process.
pub(crate) const ADMIN: &str = "127.0.0.1:7800";

/// Room that the record of an event takes beside what its client sent: ids, receipt, and what sealing adds.
const EVENT_OVERHEAD_BYTES: usize = 16 << 10;
/// Names and their texts.
type Texts = Vec<(String, String)>;

/// Variables with our prefix that are no settings.
const OTHER_VARIABLES: [&str; 1] = ["FLYWHEEL_BINARY"];

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// Says that the admin port may speak plain text on a network.
    pub(crate) admin_plain_text: bool,
    pub(crate) keys: KeysSettings,
    pub(crate) clock: ClockConfig,
    pub(crate) bus: BusSettings,
    pub(crate) database: DatabaseSettings,
    pub(crate) artifacts: ArtifactsSettings,
    pub(crate) jobs: JobsSettings,
    pub(crate) admin: HttpConfig,
    pub(crate) registry: RegistryConfig,
    pub(crate) ingest: IngestConfig,
    pub(crate) anonymizer: AnonymizerConfig,
    pub(crate) labeler: LabelerConfig,
    pub(crate) orchestrator: OrchestratorConfig,
    pub(crate) serving: ServingConfig,
    pub(crate) upstream: UpstreamConfig,
}

/// `[keys]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KeysSettings {
    /// The file with the key that wraps all others; none: that of the data directory.
    pub(crate) master_key_file: Option<PathBuf>,
}

/// `[bus]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BusSettings {
    /// What the log is.
    pub(crate) kind: BusKind,
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
    /// Apache Kafka.
    pub(crate) kafka: KafkaConfig,
}

/// `[database]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DatabaseSettings {
    /// What the database is.
    pub(crate) kind: DatabaseKind,
    /// Where the PostgreSQL server is, with user and password.
    #[serde(skip_serializing)]
    pub(crate) url: Option<Secret>,
    /// Most connections of a process.
    pub(crate) max_connections: u32,
}

/// `[artifacts]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ArtifactsSettings {
    /// Where artifacts and lake parts are.
    pub(crate) kind: ArtifactsKind,
    /// The bucket.
    pub(crate) s3: S3Settings,
}

/// `[jobs]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct JobsSettings {
    /// How a training job is started.
    pub(crate) kind: JobsKind,
}

impl Default for BusSettings {
    fn default() -> Self {
        Self {
            kind: BusKind::default(),
            prefix: String::new(),
            partitions: 4,
            raw_hours: 24,
            clean_days: 7,
            quarantine_days: 14,
            pairs_days: 180,
            outcomes_days: 180,
            local: LocalLogConfig::default(),
            kafka: KafkaConfig::default(),
        }
    }
}

impl BusSettings {
    /// How to reach the brokers, with the prefix that every kind of log has.
    pub(crate) fn brokers(&self) -> KafkaConfig {
        KafkaConfig { prefix: self.prefix.clone(), ..self.kafka.clone() }
    }
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self { kind: DatabaseKind::default(), url: None, max_connections: 8 }
    }
}

impl DatabaseSettings {
    fn check(&self) -> Result<(), Invalid> {
        let is_ours = |url: &Secret| {
            ["postgres://", "postgresql://"].iter().any(|scheme| url.expose_secret().starts_with(scheme))
        };
        if self.kind.is_server() {
            Invalid::unless(
                self.url.as_ref().is_some_and(is_ours),
                "database.url",
                "postgres://USER:PASSWORD@HOST:PORT/NAME while `database.kind` is \"postgresql\"",
            )?;
        } else {
            Invalid::unless(
                self.url.is_none(),
                "database.url",
                "none while `database.kind` is \"sqlite\", which is a file of the data directory",
            )?;
        }
        Invalid::unless(self.max_connections >= 1, "database.max_connections", "at least 1")
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
            admin_plain_text: false,
            keys: KeysSettings::default(),
            clock: ClockConfig::default(),
            bus: BusSettings::default(),
            database: DatabaseSettings::default(),
            artifacts: ArtifactsSettings::default(),
            jobs: JobsSettings::default(),
            admin: HttpConfig::at(ADMIN),
            registry: RegistryConfig { http: HttpConfig::at("127.0.0.1:7803"), ..RegistryConfig::default() },
            ingest: IngestConfig { http: HttpConfig::at("127.0.0.1:7801"), ..IngestConfig::default() },
            anonymizer: AnonymizerConfig::default(),
            labeler: LabelerConfig::default(),
            orchestrator: OrchestratorConfig::default(),
            serving: ServingConfig { http: HttpConfig::at("127.0.0.1:7802"), ..ServingConfig::default() },
            upstream: UpstreamConfig::default(),
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
        let (variables, overrides) = Self::sources(common, more)?;
        Self::layered(common.config.as_deref(), variables.into_iter(), &overrides)
    }

    /// Reads the same, to be shown.
    pub(crate) fn shown(common: &Common) -> Result<Shown, Failure> {
        let (variables, overrides) = Self::sources(common, &[])?;
        let file = common.config.as_deref();
        let settings = Self::layered(file, variables.iter().cloned(), &overrides)?;
        show(&settings, file, variables.into_iter(), &overrides).map_err(Failure::refuse)
    }

    /// What the environment and the flags say.
    fn sources(common: &Common, more: &[(&str, String)]) -> Result<(Texts, Texts), Failure> {
        let mut overrides: Texts = more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        for pair in &common.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Failure::refused(format!("--set {pair}: expected KEY=VALUE, such as serving.threshold=0.6"))
            })?;
            overrides.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        if let Some(directory) = &common.data_dir {
            overrides.push(("data_dir".to_owned(), directory.display().to_string()));
        }
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            (!OTHER_VARIABLES.contains(&name.as_str())).then_some((name, value))
        });
        Ok((variables.collect(), overrides))
    }

    fn layered(
        file: Option<&std::path::Path>,
        variables: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<Self, Failure> {
        let defaults = Self::default();
        let mut settings = load_over(&defaults, file, variables, overrides, Self::check).map_err(Failure::refuse)?;
        // What is served is what is trained, unless somebody says otherwise.
        if settings.orchestrator.model == defaults.orchestrator.model {
            settings.orchestrator.model = settings.model.to_string();
        }
        // What is judged is what answers.
        if settings.orchestrator.gate.weights == defaults.orchestrator.gate.weights {
            settings.orchestrator.gate.weights = settings.serving.weights;
        }
        Ok(settings)
    }

    /// Where a door is, as its clients write it. `door` is what it is announced as: `ingest`, `admin-ingest`, ...
    pub(crate) fn url(&self, door: &str, address: SocketAddr) -> String {
        let http = match door {
            INGEST => &self.ingest.http,
            REGISTRY => &self.registry.http,
            SERVING => &self.serving.http,
            _ => &self.admin,
        };
        format!("{}://{address}", http.scheme())
    }

    /// What decides which pairs a data set made now holds.
    pub(crate) fn filters(&self) -> Result<SnapshotFilters, OrchestratorError> {
        let (model, audience) = self.orchestrator.validate()?;
        let label_policy_version = self.labeler.policy.version();
        Ok(self.orchestrator.filters(self.tenant.clone(), model, audience, label_policy_version, CODE_VERSION))
    }

    /// Refuses what makes no platform.
    fn check(&self) -> Result<(), Invalid> {
        self.clock.validate()?;
        self.artifacts.check()?;
        self.admin.validate("admin")?;
        self.registry.validate("registry")?;
        self.ingest.validate()?;
        self.serving.validate()?;
        self.upstream.validate()?;
        self.database.check()?;
        self.registry.rollout.validate().map_err(|error| Invalid {
            key: format!("registry.rollout.{}", error.field),
            expected: error.expected.to_owned(),
        })?;
        self.anonymizer.check().map_err(|error| match error {
            AnonymizerError::Setting { key, expected } => {
                Invalid { key: format!("anonymizer.{key}"), expected: expected.to_owned() }
            }
            other => Invalid { key: "anonymizer".to_owned(), expected: other.to_string() },
        })?;
        self.orchestrator.validate().map_err(|error| match error {
            OrchestratorError::Config { key, reason } => Invalid {
                key: format!("orchestrator.{key}"),
                expected: reason.strip_prefix("expected ").unwrap_or(&reason).to_owned(),
            },
            other => Invalid { key: "orchestrator".to_owned(), expected: other.to_string() },
        })?;
        Invalid::unless(self.bus.partitions >= 1, "bus.partitions", "at least 1")?;
        self.bus.brokers().check()?;
        // Else the door would take what the log does not.
        let record_bytes = match self.bus.kind {
            BusKind::Local => self.bus.local.record_bytes,
            #[cfg(feature = "production")]
            BusKind::Kafka => self.bus.kafka.record_bytes,
        };
        let most = record_bytes.saturating_sub(EVENT_OVERHEAD_BYTES);
        Invalid::unless(
            self.ingest.limits.event_bytes <= most,
            "ingest.limits.event_bytes",
            format!("at most {most}, because the log takes records of up to {record_bytes} bytes (`record_bytes`)"),
        )?;
        // Two machines with a database each would take every partition from the other again and again.
        #[cfg(feature = "production")]
        Invalid::unless(
            self.bus.kind != BusKind::Kafka || self.database.kind.is_server(),
            "database.kind",
            "\"postgresql\": with bus.kind = \"kafka\" partitions are leased in a database that all processes share",
        )?;
        // Else the labeler would conclude before the last event may come.
        Invalid::unless(
            self.labeler.policy.lateness.as_secs() >= self.anonymizer.lateness_s,
            "labeler.policy.lateness",
            format!("at least anonymizer.lateness_s, which is {}", self.anonymizer.lateness_s),
        )?;
        // Else the ledger would forget ids of events that can still come again out of the log.
        let fold = self.labeler.sinks.fold_after_hours;
        let kept = self.bus.raw_hours.max(self.bus.quarantine_days.saturating_mul(24));
        Invalid::unless(
            fold == 0 || fold > kept,
            "labeler.sinks.fold_after_hours",
            format!("0, or more than the {kept} hours of bus.raw_hours and bus.quarantine_days"),
        )
    }
}

#[cfg(test)]
mod tests {
    use edit_model::ServedWeights;

    use super::*;
    use std::collections::BTreeMap;

    /// The sentence with which a key is refused; none when it is accepted.
    fn refusal(key: &str, value: &str) -> Option<String> {
        match Settings::layered(None, std::iter::empty(), &[(key.to_owned(), value.to_owned())]) {
            Ok(_) => None,
            Err(Failure::Refused(sentence)) => Some(sentence),
            Err(Failure::Broke(error)) => panic!("{key}: {error:#}"),
        }
    }

    /// The keys of a section, as the program itself lists them when it is asked for one that does not exist; none when
    /// the place is no section.
    fn keys_of(section: &str) -> Option<Vec<String>> {
        let probe = if section.is_empty() { "no_such_key".to_owned() } else { format!("{section}.no_such_key") };
        let sentence = refusal(&probe, "1").unwrap_or_else(|| panic!("{probe} is accepted"));
        let list = sentence.strip_prefix(&format!("flag for {probe}: unknown key `{probe}`; the "))?;
        Some(list.split('`').skip(1).step_by(2).map(str::to_owned).collect())
    }

    fn accepted_keys(section: &str, found: &mut Vec<String>) {
        match keys_of(section) {
            Some(keys) => {
                for key in keys {
                    accepted_keys(&if section.is_empty() { key } else { format!("{section}.{key}") }, found);
                }
            }
            // Its keys are names of the user's own.
            None if section == "serving.engines" => accepted_keys("serving.engines.NAME", found),
            None => found.push(section.to_owned()),
        }
    }

    fn default_of(key: &str) -> String {
        let mut defaults = Settings::default();
        defaults.serving.engines.insert("NAME".to_owned(), serving::EngineConfig::default());
        let defaults = serde_json::to_value(defaults).unwrap();
        match defaults.pointer(&format!("/{}", key.replace('.', "/"))) {
            None | Some(serde_json::Value::Null) => "none".to_owned(),
            Some(value) => value.to_string(),
        }
    }

    fn documented() -> BTreeMap<String, (String, String)> {
        let page = include_str!("../../docs/configuration.md");
        let mut rows = BTreeMap::new();
        let is_key = |line: &&str| line.starts_with("| `") && !line.starts_with("| `FLYWHEEL_");
        for line in page.lines().filter(is_key) {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [key, kind, default, meaning] = cells[..] else { panic!("not four cells: {line}") };
            let key = key.trim_matches('`').to_owned();
            assert!(meaning.len() > 10, "{key} has no meaning");
            let known = rows.insert(key.clone(), (kind.to_owned(), default.trim_matches('`').to_owned()));
            assert!(known.is_none(), "{key} is documented twice");
        }
        rows
    }

    #[test]
    fn the_documented_keys_are_the_accepted_keys() {
        let mut accepted = Vec::new();
        accepted_keys("", &mut accepted);
        accepted.sort();
        let documented = documented();
        let listed: Vec<String> = documented.keys().cloned().collect();
        let missing: Vec<&String> = accepted.iter().filter(|key| !listed.contains(key)).collect();
        let gone: Vec<&String> = listed.iter().filter(|key| !accepted.contains(key)).collect();
        assert!(missing.is_empty() && gone.is_empty(), "not documented: {missing:#?}; not accepted: {gone:#?}");
        assert!(accepted.len() > 100, "the keys were not found: {accepted:?}");
    }

    #[test]
    fn the_documented_types_and_defaults_are_the_real_ones() {
        for (key, (kind, default)) in documented() {
            assert_eq!(default, default_of(&key), "the default of {key}");
            let nonsense = refusal(&key, "{ }").unwrap_or_default();
            let is_refused = |expected: &str| nonsense.contains(expected);
            let fits = match kind.as_str() {
                "integer" => is_refused("whole number"),
                "number" => is_refused("expected a number"),
                "boolean" => is_refused("true or false"),
                "text" | "path" => !nonsense.contains("whole number") && !nonsense.contains("true or false"),
                "choice" => is_refused("expected"),
                _ => panic!("{key}: unknown type {kind}"),
            };
            assert!(fits, "{key} is no {kind}: {nonsense}");
            // The default is accepted as a flag, which shows that the key exists and the default holds.
            if default != "none" {
                assert_eq!(refusal(&key, default.trim_matches('"')), None, "{key} = {default}");
            }
        }
    }

    #[test]
    fn the_documented_variables_are_the_ones_that_are_read() {
        let page = include_str!("../../docs/configuration.md");
        for variable in service::config::RESERVED_VARIABLES {
            assert!(page.contains(&format!("`{variable}`")), "{variable} is not documented");
        }
    }

    #[test]
    fn defaults_are_valid_and_each_door_keeps_its_port() {
        let settings = Settings::layered(None, std::iter::empty(), &[]).unwrap_or_else(|_| panic!("defaults"));
        assert_eq!((settings.model.as_str(), settings.orchestrator.model.as_str()), ("edit", "edit"));
        let overrides: Vec<(String, String)> = [
            ("model", "other"),
            ("serving.http.max_connections", "5"),
            ("registry.rollout.margin", "0.1"),
            ("ingest.limits.events", "5"),
            ("admin.drain_ms", "5"),
            ("serving.weights", "int8"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec();
        let changed = Settings::layered(None, std::iter::empty(), &overrides).unwrap_or_else(|_| panic!("overrides"));
        let ports = |settings: &Settings| {
            [&settings.admin, &settings.ingest.http, &settings.serving.http, &settings.registry.http]
                .map(|http| http.listen.clone())
        };
        assert_eq!(ports(&changed), ports(&settings));
        assert_eq!(changed.orchestrator.model, "other");
        let judged = |settings: &Settings| settings.orchestrator.gate.weights;
        assert_eq!((judged(&settings), judged(&changed)), (ServedWeights::Full, ServedWeights::Int8));
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let refused = [
            ("labeler.policy.lateness", "60", "anonymizer.lateness_s"),
            ("labeler.sinks.fold_after_hours", "336", "bus.quarantine_days"),
            ("bus.quarantine_days", "15", "labeler.sinks.fold_after_hours"),
            ("registry.rollout.canary_share", "2", "canary_share"),
            ("serving.threshold", "2", "serving.threshold"),
            ("serving.engines.big.urls", "engine:8000", "`serving.engines.big.urls`: expected addresses"),
            ("serving.engines.big.ca_file", "ca.pem", "no https address"),
            ("serving.engines.big.api_key", "secret", "a secret is never a flag"),
            ("serving.engines.a b.urls", "http://engine", "`serving.engines.a b`: expected a name of 1 to 64"),
            ("anonymizer.settle_s", "0", "settle_s"),
            ("bus.partitions", "0", "bus.partitions"),
            ("ingest.limits.event_bytes", "1040000", "the log takes records of up to 1048576 bytes"),
            ("bus.local.record_bytes", "70000", "`ingest.limits.event_bytes`: expected at most 53616"),
            ("jobs.kind", "kubernetes", "this version"),
            ("bus.prefix", "a b", "`bus.prefix`: expected at most 100 of"),
            ("bus.kafka.bootstrap_servers", "", "`bus.kafka.bootstrap_servers`: expected brokers as `HOST:PORT`"),
            ("bus.kafka.replication", "2", "`bus.kafka.replication`: expected at least 3"),
            ("bus.kafka.replication", "2", "`bus.kafka.single_broker` = true"),
            ("bus.kafka.record_bytes", "0", "`bus.kafka.record_bytes`: expected 1 to"),
            ("bus.kafka.in_flight_bytes", "1", "`bus.kafka.batch_bytes`"),
            ("bus.kafka.delivery_timeout_ms", "1000", "`bus.kafka.request_timeout_ms`"),
            ("bus.kafka.lease_ms", "0", "`bus.kafka.lease_ms`: expected at least 100"),
            ("bus.kafka.tls.ca_file", "ca.pem", "none while `bus.kafka.tls.enabled` is false"),
            ("bus.kafka.sasl.mechanism", "SCRAM-SHA-512", "`bus.kafka.sasl.username`: expected a user"),
            ("bus.kafka.sasl.username", "me", "none unless `bus.kafka.sasl.mechanism` is"),
            ("bus.kafka.sasl.password", "secret", "a secret is never a flag"),
            (
                "bus.kafka.sasl.mechanism",
                "OAUTHBEARER",
                "`bus.kafka.sasl.oauth.token_endpoint_url`: expected an address",
            ),
            ("bus.kafka.sasl.oauth.client_id", "me", "nothing unless `bus.kafka.sasl.mechanism` is \"OAUTHBEARER\""),
            ("bus.kafka.sasl.oauth.client_secret", "secret", "a secret is never a flag"),
            ("bus.kafka.schema_registry.url", "registry:8080", "`bus.kafka.schema_registry.url`: expected an address"),
            ("bus.kafka.schema_registry.username", "me", "nothing in `bus.kafka.schema_registry`"),
            ("bus.kafka.schema_registry.password", "secret", "a secret is never a flag"),
            ("artifacts.s3.endpoint", "s3.example.com", "an address such as https://"),
            ("artifacts.s3.endpoint", "https://key:secret@s3.example.com", "without credentials"),
            ("artifacts.s3.attempts", "0", "at least 1"),
            ("artifacts.s3.secret_access_key", "secret", "a secret is never a flag"),
            ("registry.address", "registry.example.com:7803", "an address such as https://"),
            ("registry.ca_file", "ca.pem", "no https address"),
            ("upstream.url", "127.0.0.1:8080", "`upstream.url`: expected an address such as http://"),
            ("upstream.url", "http://me:secret@tabby:8080", "without user, password"),
            ("upstream.mode", "serve", "\"serve\" does not exist in this version yet; expected \"observe\""),
            ("upstream.mode", "watch", "expected \"observe\", got \"watch\""),
            ("upstream.ca_file", "ca.pem", "no https address"),
            ("upstream.host", "a b", "`upstream.host`: expected a host"),
            ("upstream.record_queue", "0", "`upstream.record_queue`: expected at least 1"),
            (
                "ingest.http.tls.key_file",
                "door.key",
                if cfg!(feature = "production") { "that `key_file` belongs to" } else { "cargo feature `production`" },
            ),
        ];
        for (key, value, expected) in refused {
            let sentence = refusal(key, value).unwrap_or_else(|| panic!("{key} = {value} is accepted"));
            assert!(sentence.contains(expected) && !sentence.contains('\n'), "{sentence}");
        }
    }
}
