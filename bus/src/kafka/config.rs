//! How to reach Apache Kafka, and the settings that every client of ours has.

mod check;

use std::path::PathBuf;

#[cfg(feature = "production")]
use rdkafka::ClientConfig;
#[cfg(feature = "production")]
use rdkafka::config::RDKafkaLogLevel;
use serde::{Deserialize, Serialize};
use service::config::Secret;

#[cfg(feature = "production")]
use crate::error::BusError;
#[cfg(feature = "production")]
use crate::sizes::Sizes;

/// Room that a record takes beside its value: key, headers, and what the batch around it needs.
#[cfg(feature = "production")]
const RECORD_OVERHEAD_BYTES: usize = 16 << 10;

/// Where the brokers are, how to enter, and limits. Times are real time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// Stands before the names of topics, groups and transactional ids, so that several wheels can share brokers.
    /// Callers never see it. Not part of this section: one setting serves every implementation of the bus.
    #[serde(skip)]
    pub prefix: String,
    /// Brokers to begin with, `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// Copies of every partition.
    pub replication: u16,
    /// Allows fewer than three copies: what was acknowledged is then lost with its broker.
    pub single_broker: bool,
    /// TLS.
    pub tls: KafkaTls,
    /// Who we are.
    pub sasl: KafkaSasl,
    /// Where the schemas of our topics are registered for other readers.
    pub schema_registry: KafkaSchemaRegistry,
    /// Largest record that may be published.
    pub record_bytes: usize,
    /// Largest sum of the records of one publish call.
    pub batch_bytes: usize,
    /// Bytes of records that wait for an acknowledgement; more wait to be taken.
    pub in_flight_bytes: usize,
    /// How long a publish call waits to be taken before it is refused.
    pub publish_wait_ms: u64,
    /// How long a record may wait for its acknowledgement. Longer than a broker takes to restart, or an outage refuses
    /// what patience would have kept.
    pub delivery_timeout_ms: u64,
    /// How long the brokers may take to answer a question.
    pub request_timeout_ms: u64,
    /// How long an owner of a partition may be silent before another process takes it over.
    pub lease_ms: u64,
    /// How long records wait for others that go along with them.
    pub linger_ms: u64,
    /// How batches are compressed: `none`, `lz4` or `zstd`. Text on the bus is sealed, and sealed bytes do not shrink.
    pub compression: Compression,
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// Fast.
    #[default]
    Lz4,
    /// Small.
    Zstd,
}

/// TLS between us and the brokers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaTls {
    /// Whether to use it.
    pub enabled: bool,
    /// The authorities that may vouch for brokers, in PEM; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, in PEM, for brokers that ask for one.
    pub certificate_file: Option<PathBuf>,
    /// Its key, in PEM.
    pub key_file: Option<PathBuf>,
}

/// How we say who we are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSasl {
    /// By what; none: not at all, or by our certificate.
    pub mechanism: Option<SaslMechanism>,
    /// The user.
    pub username: String,
    /// The password.
    #[serde(skip_serializing)]
    pub password: Option<Secret>,
    /// Where tokens come from, for OAUTHBEARER.
    pub oauth: KafkaOauth,
}

/// Where the tokens come from that OAUTHBEARER enters with: a file, or an endpoint that gives them for credentials of a
/// client (OAuth 2.0, RFC 6749, section 4.4).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaOauth {
    /// A file with a token, which something else keeps fresh; it is read again and again.
    pub token_file: Option<PathBuf>,
    /// Who gives tokens.
    pub token_endpoint_url: Option<String>,
    /// Who asks for them.
    pub client_id: String,
    /// How that is proved.
    #[serde(skip_serializing)]
    pub client_secret: Option<Secret>,
    /// What is asked for; none: what the endpoint gives by itself.
    pub scope: Option<String>,
    /// The authorities that may vouch for the endpoint, in PEM; none: those of the system.
    pub ca_file: Option<PathBuf>,
}

/// A registry of schemas with Confluent's REST. With one, the values of our topics have Confluent's wire format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSchemaRegistry {
    /// Where it is, with a path if it has one; none: there is none.
    pub url: Option<String>,
    /// Who we are there; empty: nobody asks.
    pub username: String,
    /// The password of that user.
    #[serde(skip_serializing)]
    pub password: Option<Secret>,
    /// The authorities that may vouch for it, in PEM; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Whether our schemas are registered there; otherwise they must be there already.
    pub register: bool,
}

impl Default for KafkaSchemaRegistry {
    fn default() -> Self {
        Self { url: None, username: String::new(), password: None, ca_file: None, register: true }
    }
}

/// Ways to say who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    /// The password itself: only within TLS.
    #[serde(rename = "PLAIN")]
    Plain,
    /// A proof of the password.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// A token: only within TLS.
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
}

impl SaslMechanism {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            bootstrap_servers: "127.0.0.1:9092".to_owned(),
            replication: 3,
            single_broker: false,
            tls: KafkaTls::default(),
            sasl: KafkaSasl::default(),
            schema_registry: KafkaSchemaRegistry::default(),
            record_bytes: 1 << 20,
            batch_bytes: 16 << 20,
            in_flight_bytes: 64 << 20,
            publish_wait_ms: 5_000,
            delivery_timeout_ms: 60_000,
            request_timeout_ms: 15_000,
            lease_ms: 5_000,
            linger_ms: 2,
            compression: Compression::default(),
        }
    }
}

#[cfg(feature = "production")]
impl KafkaTls {
    /// Whether the files can be read: the client would say that in words of its own.
    pub(super) fn check_files(&self) -> Result<(), BusError> {
        let files = [
            ("tls.ca_file", &self.ca_file, "CERTIFICATE"),
            ("tls.certificate_file", &self.certificate_file, "CERTIFICATE"),
            ("tls.key_file", &self.key_file, "PRIVATE KEY"),
        ];
        for (name, file, holds) in files {
            let Some(file) = file else { continue };
            let refused = |why: String| BusError::Invalid(format!("`{}`: {} {why}", check::key(name), file.display()));
            let text = std::fs::read_to_string(file).map_err(|error| refused(format!("can not be read: {error}")))?;
            if !text.contains(holds) {
                return Err(refused(format!("holds no {} in PEM", holds.to_lowercase())));
            }
        }
        Ok(())
    }
}

#[cfg(feature = "production")]
impl KafkaConfig {
    /// The name under which the brokers know a topic, group or transaction.
    pub(super) fn stored_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Largest record of a topic that takes values up to `value_bytes`.
    pub(super) const fn topic_bytes(value_bytes: usize) -> usize {
        value_bytes.saturating_add(RECORD_OVERHEAD_BYTES)
    }

    /// What all clients have in common.
    pub(super) fn client(&self) -> Result<ClientConfig, BusError> {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", self.bootstrap_servers.trim())
            .set("client.id", "flywheel")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "30000");
        // What a client logs waits in its memory until it is polled, and not every client of ours is.
        client.set_log_level(RDKafkaLogLevel::Error);
        client.set(
            "security.protocol",
            match (self.tls.enabled, self.sasl.mechanism.is_some()) {
                (false, false) => "plaintext",
                (true, false) => "ssl",
                (false, true) => "sasl_plaintext",
                (true, true) => "sasl_ssl",
            },
        );
        let files = [
            ("ssl.ca.location", &self.tls.ca_file),
            ("ssl.certificate.location", &self.tls.certificate_file),
            ("ssl.key.location", &self.tls.key_file),
        ];
        if self.tls.enabled {
            for (key, file) in files {
                if let Some(file) = file {
                    client.set(key, file.display().to_string());
                }
            }
        }
        if let Some(mechanism) = self.sasl.mechanism {
            client.set("sasl.mechanisms", mechanism.name());
        }
        if !self.sasl.username.is_empty() {
            let password = self.sasl.password.as_ref().map_or("", Secret::expose_secret);
            client
                .set("sasl.username", &self.sasl.username)
                .set("sasl.password", password.trim_end_matches(['\r', '\n']));
        }
        Ok(client)
    }

    /// What our producers have in common: every record is acknowledged by all copies that must have it, and stands in
    /// the log once however often it was sent.
    pub(super) fn producer(&self) -> Result<ClientConfig, BusError> {
        let mut client = self.client()?;
        let compression = match self.compression {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        };
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", compression)
            .set("message.max.bytes", Self::topic_bytes(Sizes::of(self.record_bytes).dead_letter).to_string())
            .set("queue.buffering.max.kbytes", (self.in_flight_bytes / 1024).max(1).to_string())
            .set("queue.buffering.max.messages", "1000000")
            .set("message.timeout.ms", self.delivery_timeout_ms.to_string());
        Ok(client)
    }

    /// What our consumers have in common: partitions are assigned by hand, and positions are ours.
    pub(super) fn consumer(&self, group: &str) -> Result<ClientConfig, BusError> {
        let mut client = self.client()?;
        client
            .set("group.id", self.stored_name(group))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "500")
            .set("fetch.error.backoff.ms", "100")
            // A client that has read so far ahead pauses, by default for a second, in which a step handles all of it and
            // then waits.
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.max.messages.kbytes", "8192");
        Ok(client)
    }
}
