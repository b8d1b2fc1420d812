//! How to reach Apache Kafka, and the settings that every client of ours has.

use std::path::PathBuf;

#[cfg(feature = "production")]
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};
use service::config::Secret;

use crate::error::BusError;

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
}

#[cfg(feature = "production")]
impl SaslMechanism {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha512 => "SCRAM-SHA-512",
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
            record_bytes: 1 << 20,
            batch_bytes: 16 << 20,
            in_flight_bytes: 64 << 20,
            publish_wait_ms: 5_000,
            delivery_timeout_ms: 60_000,
            request_timeout_ms: 15_000,
            lease_ms: 10_000,
            linger_ms: 2,
            compression: Compression::default(),
        }
    }
}

impl KafkaConfig {
    /// Whether these settings can be used together.
    ///
    /// # Errors
    /// They can not: the sentence says why.
    pub fn check(&self) -> Result<(), BusError> {
        let invalid = |message: &str| Err(BusError::Invalid(message.to_owned()));
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if self.prefix.len() > 100 || !self.prefix.bytes().all(fits) {
            return invalid("the prefix must be at most 100 of a-z, A-Z, 0-9, '.', '_' and '-'");
        }
        if self.bootstrap_servers.trim().is_empty() {
            return invalid("kafka.bootstrap_servers names no broker");
        }
        if self.replication == 0 || (self.replication < 3 && !self.single_broker) {
            let copies = self.replication;
            return Err(BusError::Invalid(format!(
                "kafka.replication = {copies} would lose acknowledged records with a broker: at least 3 copies are \
                 needed, unless kafka.single_broker = true says that this is meant"
            )));
        }
        if self.record_bytes == 0 || self.record_bytes > 64 << 20 {
            return invalid("kafka.record_bytes must be 1 byte to 64 MiB");
        }
        if self.batch_bytes < self.record_bytes || self.in_flight_bytes < self.batch_bytes {
            return invalid("kafka.in_flight_bytes must be at least batch_bytes, and that at least record_bytes");
        }
        if self.in_flight_bytes > 1 << 30 {
            return invalid("kafka.in_flight_bytes must be at most 1 GiB");
        }
        if self.request_timeout_ms < 100 || self.delivery_timeout_ms < self.request_timeout_ms {
            return invalid("kafka.delivery_timeout_ms must be at least request_timeout_ms, and that at least 100");
        }
        if self.lease_ms < 100 {
            return invalid("kafka.lease_ms must be at least 100");
        }
        if self.sasl.mechanism.is_some()
            && (self.sasl.username.is_empty() || self.sasl.password.as_ref().is_none_or(Secret::is_empty))
        {
            return invalid("kafka.sasl.mechanism needs a username and a password");
        }
        if self.sasl.mechanism == Some(SaslMechanism::Plain) && !self.tls.enabled {
            return invalid("kafka.sasl.mechanism = \"PLAIN\" would send the password in clear: it needs tls.enabled");
        }
        if self.tls.certificate_file.is_some() != self.tls.key_file.is_some() {
            return invalid("kafka.tls.certificate_file and key_file belong together");
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
            let password = self.sasl.password.as_ref().map_or("", Secret::expose_secret);
            client
                .set("sasl.mechanisms", mechanism.name())
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
            .set("message.max.bytes", (64_usize << 20).to_string())
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
            .set("queued.max.messages.kbytes", "8192");
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut KafkaConfig)) -> String {
        let mut config = KafkaConfig::default();
        change(&mut config);
        match config.check() {
            Err(BusError::Invalid(sentence)) => sentence,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_would_lose_records_or_show_a_password_is_refused() {
        assert_eq!(KafkaConfig::default().check(), Ok(()));
        let alone = KafkaConfig { replication: 1, single_broker: true, ..KafkaConfig::default() };
        assert_eq!(alone.check(), Ok(()));
        assert!(refusal(|config| config.replication = 2).contains("single_broker = true"));
        assert!(refusal(|config| config.prefix = "no space".into()).contains("prefix"));
        assert!(
            refusal(|config| config.sasl.mechanism = Some(SaslMechanism::ScramSha512)).contains("needs a username")
        );
        let plain = |config: &mut KafkaConfig| {
            config.sasl = KafkaSasl {
                mechanism: Some(SaslMechanism::Plain),
                username: "u".into(),
                password: Some(Secret::new("p")),
            };
        };
        assert!(refusal(plain).contains("in clear"));
        assert!(refusal(|config| config.tls.key_file = Some("key".into())).contains("belong together"));
        assert!(refusal(|config| config.delivery_timeout_ms = 1_000).contains("request_timeout_ms"));
    }
}
