//! Which settings can be used together. Nothing here asks whether anybody answers.

use service::config::Invalid;

use super::{KafkaConfig, KafkaOauth, KafkaSasl, KafkaSchemaRegistry, KafkaTls, SaslMechanism};

/// Larger records would make dead letters that a fetch can not carry.
const LARGEST_RECORD_BYTES: usize = 8 << 20;
const LARGEST_IN_FLIGHT_BYTES: usize = 1 << 30;

/// A key of ours, from the root of the configuration.
pub(super) fn key(name: &str) -> String {
    format!("bus.kafka.{name}")
}

impl KafkaConfig {
    /// Whether these settings can be used together. Says nothing of whether brokers answer.
    ///
    /// # Errors
    /// The key that can not be used, and what was expected.
    pub fn check(&self) -> Result<(), Invalid> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_prefix = self.prefix.len() <= 100 && self.prefix.bytes().all(fits);
        Invalid::unless(is_prefix, "bus.prefix", "at most 100 of a-z, A-Z, 0-9, '.', '_' and '-'")?;
        Invalid::unless(
            self.bootstrap_servers.split(',').all(is_address),
            key("bootstrap_servers"),
            "brokers as `HOST:PORT`, separated by commas",
        )?;
        Invalid::unless(self.replication >= 1, key("replication"), "at least 1")?;
        Invalid::unless(
            self.replication >= 3 || self.single_broker,
            key("replication"),
            "at least 3, because with fewer copies acknowledged records are lost with a broker; \
             `bus.kafka.single_broker` = true says that this is meant",
        )?;
        self.check_limits()?;
        self.tls.check()?;
        self.sasl.check(self.tls.enabled)?;
        self.schema_registry.check()
    }

    fn check_limits(&self) -> Result<(), Invalid> {
        Invalid::unless(
            (1..=LARGEST_RECORD_BYTES).contains(&self.record_bytes),
            key("record_bytes"),
            format!("1 to {LARGEST_RECORD_BYTES}"),
        )?;
        Invalid::unless(
            self.batch_bytes >= self.record_bytes,
            key("batch_bytes"),
            format!("at least `bus.kafka.record_bytes`, which is {}", self.record_bytes),
        )?;
        Invalid::unless(
            (self.batch_bytes..=LARGEST_IN_FLIGHT_BYTES).contains(&self.in_flight_bytes),
            key("in_flight_bytes"),
            format!(
                "at least `bus.kafka.batch_bytes`, which is {}, and at most {LARGEST_IN_FLIGHT_BYTES}",
                self.batch_bytes
            ),
        )?;
        Invalid::unless(self.request_timeout_ms >= 100, key("request_timeout_ms"), "at least 100")?;
        Invalid::unless(
            self.delivery_timeout_ms >= self.request_timeout_ms,
            key("delivery_timeout_ms"),
            format!("at least `bus.kafka.request_timeout_ms`, which is {}", self.request_timeout_ms),
        )?;
        Invalid::unless(self.lease_ms >= 100, key("lease_ms"), "at least 100")
    }
}

/// Host and port. What else the client would take for an address (a protocol before it, no port) hides mistakes.
fn is_address(text: &str) -> bool {
    let parts = text.trim().rsplit_once(':');
    parts.is_some_and(|(host, port)| {
        let is_host = !host.is_empty() && !host.contains(['/', '@']) && !host.contains(char::is_whitespace);
        is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

impl KafkaTls {
    fn check(&self) -> Result<(), Invalid> {
        let files = [
            ("tls.ca_file", &self.ca_file),
            ("tls.certificate_file", &self.certificate_file),
            ("tls.key_file", &self.key_file),
        ];
        for (name, file) in files {
            Invalid::unless(self.enabled || file.is_none(), key(name), "none while `bus.kafka.tls.enabled` is false")?;
        }
        Invalid::unless(
            self.certificate_file.is_none() || self.key_file.is_some(),
            key("tls.key_file"),
            "the key of `bus.kafka.tls.certificate_file`",
        )?;
        Invalid::unless(
            self.key_file.is_none() || self.certificate_file.is_some(),
            key("tls.certificate_file"),
            "the certificate that `bus.kafka.tls.key_file` belongs to",
        )
    }
}

impl KafkaSasl {
    fn check(&self, within_tls: bool) -> Result<(), Invalid> {
        let has_password = self.password.as_ref().is_some_and(|password| !password.is_empty());
        let takes_password = matches!(self.mechanism, Some(SaslMechanism::Plain | SaslMechanism::ScramSha512));
        let takes_token = self.mechanism == Some(SaslMechanism::OauthBearer);
        if takes_password {
            let name = self.mechanism.map_or("", SaslMechanism::name);
            Invalid::unless(!self.username.is_empty(), key("sasl.username"), format!("a user to enter by {name}"))?;
            Invalid::unless(has_password, key("sasl.password"), format!("a password to enter by {name}"))?;
        } else {
            let none = "none unless `bus.kafka.sasl.mechanism` is \"SCRAM-SHA-512\" or \"PLAIN\"";
            Invalid::unless(self.username.is_empty(), key("sasl.username"), none)?;
            Invalid::unless(!has_password, key("sasl.password"), none)?;
        }
        self.oauth.check(takes_token)?;
        Invalid::unless(
            within_tls || self.mechanism.is_none_or(|mechanism| mechanism == SaslMechanism::ScramSha512),
            key("sasl.mechanism"),
            "\"SCRAM-SHA-512\" while `bus.kafka.tls.enabled` is false: any other would send password or token in clear",
        )
    }
}

impl KafkaOauth {
    fn check(&self, is_used: bool) -> Result<(), Invalid> {
        let has_secret = self.client_secret.as_ref().is_some_and(|secret| !secret.is_empty());
        let names_client = !self.client_id.is_empty() || has_secret || self.scope.is_some() || self.ca_file.is_some();
        if !is_used {
            let is_empty = self.token_file.is_none() && self.token_endpoint_url.is_none() && !names_client;
            return Invalid::unless(
                is_empty,
                key("sasl.oauth"),
                "nothing unless `bus.kafka.sasl.mechanism` is \"OAUTHBEARER\"",
            );
        }
        let Some(url) = &self.token_endpoint_url else {
            Invalid::unless(
                self.token_file.is_some(),
                key("sasl.oauth.token_endpoint_url"),
                "an address such as https://login.example.com/token, or else `bus.kafka.sasl.oauth.token_file`",
            )?;
            return Invalid::unless(
                !names_client,
                key("sasl.oauth.token_endpoint_url"),
                "an address to show `client_id` and `client_secret` to",
            );
        };
        Invalid::unless(
            self.token_file.is_none(),
            key("sasl.oauth.token_file"),
            "none beside `bus.kafka.sasl.oauth.token_endpoint_url`",
        )?;
        let expected = "an address such as https://login.example.com/token, without credentials; http only on loopback";
        Invalid::unless(is_url(url), key("sasl.oauth.token_endpoint_url"), expected)?;
        Invalid::unless(!self.client_id.is_empty(), key("sasl.oauth.client_id"), "who asks for tokens")?;
        Invalid::unless(has_secret, key("sasl.oauth.client_secret"), "the secret of `client_id`")
    }
}

impl KafkaSchemaRegistry {
    fn check(&self) -> Result<(), Invalid> {
        let has_password = self.password.as_ref().is_some_and(|password| !password.is_empty());
        let Some(url) = &self.url else {
            let is_empty = self.username.is_empty() && !has_password && self.ca_file.is_none();
            return Invalid::unless(
                is_empty,
                key("schema_registry.url"),
                "an address such as https://registry.example.com/apis/ccompat/v7, or else nothing in \
                 `bus.kafka.schema_registry`",
            );
        };
        Invalid::unless(
            self.username.is_empty() != has_password,
            key("schema_registry.password"),
            "both `username` and `password`, or none of them",
        )?;
        let is_private = is_url(url);
        let is_open = url.strip_prefix("http://").is_some_and(|rest| is_url(&format!("https://{rest}")));
        Invalid::unless(
            is_private || (is_open && !has_password),
            key("schema_registry.url"),
            "an address such as https://registry.example.com/apis/ccompat/v7, without credentials; a password goes to \
             http only on loopback",
        )
    }
}

/// An address that may be shown a secret: nobody on the way can read it.
fn is_url(url: &str) -> bool {
    let (encrypted, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return false,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let is_loopback = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    let is_clean = !host.is_empty() && !authority.contains('@') && !url.contains(char::is_whitespace);
    is_clean && (encrypted || is_loopback)
}

#[cfg(test)]
mod tests {
    use service::config::Secret;

    use super::*;

    fn refusal(change: impl FnOnce(&mut KafkaConfig)) -> String {
        let mut config = KafkaConfig::default();
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    fn sasl(mechanism: SaslMechanism) -> KafkaSasl {
        let (mechanism, password) = (Some(mechanism), Some(Secret::new("p")));
        KafkaSasl { mechanism, username: "u".into(), password, ..KafkaSasl::default() }
    }

    #[test]
    fn what_would_lose_records_or_show_a_password_is_refused() {
        assert_eq!(KafkaConfig::default().check(), Ok(()));
        let alone = KafkaConfig { replication: 1, single_broker: true, ..KafkaConfig::default() };
        assert_eq!(alone.check(), Ok(()));
        assert!(refusal(|config| config.replication = 2).contains("`bus.kafka.single_broker` = true"));
        assert!(refusal(|config| config.sasl = sasl(SaslMechanism::Plain)).contains("in clear"));
        let scram = KafkaConfig { sasl: sasl(SaslMechanism::ScramSha512), ..KafkaConfig::default() };
        assert_eq!(scram.check(), Ok(()));
    }

    #[test]
    fn tokens_come_from_one_place_and_go_only_where_nobody_reads_them() {
        let with = |change: &dyn Fn(&mut KafkaOauth)| {
            let mut config = KafkaConfig::default();
            config.tls.enabled = true;
            config.sasl.mechanism = Some(SaslMechanism::OauthBearer);
            change(&mut config.sasl.oauth);
            config.check().map_err(|invalid| invalid.to_string())
        };
        let endpoint = |oauth: &mut KafkaOauth, url: &str| {
            (oauth.token_endpoint_url, oauth.client_id) = (Some(url.to_owned()), "me".to_owned());
            oauth.client_secret = Some(Secret::new("s"));
        };
        assert_eq!(with(&|oauth| oauth.token_file = Some("token".into())), Ok(()));
        for url in ["https://login.example.com/token", "http://127.0.0.1:8080/t?x=1", "http://[::1]/t"] {
            assert_eq!(with(&|oauth| endpoint(oauth, url)), Ok(()), "{url}");
        }
        for url in ["http://login.example.com/token", "https://me:s@login.example.com", "login.example.com", "https://"]
        {
            let refused = with(&|oauth| endpoint(oauth, url)).unwrap_err();
            assert!(refused.starts_with("`bus.kafka.sasl.oauth.token_endpoint_url`: expected an address"), "{refused}");
        }
        let refused = |key: &str, result: Result<(), String>| {
            let sentence = result.unwrap_err();
            assert!(sentence.starts_with(&format!("`bus.kafka.sasl.{key}`: expected ")), "{sentence}");
        };
        refused("oauth.token_endpoint_url", with(&|_| {}));
        refused(
            "oauth.client_secret",
            with(&|oauth| {
                endpoint(oauth, "https://one");
                oauth.client_secret = None;
            }),
        );
        refused(
            "oauth.token_file",
            with(&|oauth| {
                endpoint(oauth, "https://one");
                oauth.token_file = Some("token".into());
            }),
        );
        let mut config = KafkaConfig::default();
        config.sasl.oauth.token_file = Some("token".into());
        refused("oauth", config.check().map_err(|invalid| invalid.to_string()));
        config.sasl.mechanism = Some(SaslMechanism::OauthBearer);
        refused("mechanism", config.check().map_err(|invalid| invalid.to_string()));
    }

    #[test]
    fn a_registry_is_shown_a_password_only_where_nobody_reads_it() {
        let with = |url: Option<&str>, user: &str, password: Option<&str>| {
            let mut config = KafkaConfig::default();
            config.schema_registry.url = url.map(str::to_owned);
            config.schema_registry.username = user.to_owned();
            config.schema_registry.password = password.map(Secret::new);
            config.check().map_err(|invalid| invalid.key)
        };
        let url = Err("bus.kafka.schema_registry.url".to_owned());
        let password = Err("bus.kafka.schema_registry.password".to_owned());
        assert_eq!(with(Some("http://registry:8080/apis/ccompat/v7"), "", None), Ok(()));
        assert_eq!(with(Some("https://registry/apis"), "me", Some("p")), Ok(()));
        assert_eq!(with(Some("http://127.0.0.1:8080"), "me", Some("p")), Ok(()));
        assert_eq!(with(Some("http://registry:8080"), "me", Some("p")), url);
        assert_eq!(with(Some("http://me:p@registry:8080"), "", None), url);
        assert_eq!(with(Some("registry:8080"), "", None), url);
        assert_eq!(with(None, "me", Some("p")), url);
        assert_eq!(with(Some("https://registry"), "me", None), password);
        assert_eq!(with(Some("https://registry"), "", Some("p")), password);
    }

    #[test]
    fn every_refusal_begins_with_the_key() {
        type Change = fn(&mut KafkaConfig);
        let refused: [(&str, Change); 15] = [
            ("bus.prefix", |config| config.prefix = "no space".into()),
            ("bus.kafka.bootstrap_servers", |config| config.bootstrap_servers = String::new()),
            ("bus.kafka.bootstrap_servers", |config| config.bootstrap_servers = "one:9092,two".into()),
            ("bus.kafka.bootstrap_servers", |config| config.bootstrap_servers = "kafka://one:9092".into()),
            ("bus.kafka.replication", |config| config.replication = 0),
            ("bus.kafka.record_bytes", |config| config.record_bytes = 9 << 20),
            ("bus.kafka.batch_bytes", |config| config.batch_bytes = 1),
            ("bus.kafka.in_flight_bytes", |config| config.in_flight_bytes = 1),
            ("bus.kafka.delivery_timeout_ms", |config| config.delivery_timeout_ms = 1_000),
            ("bus.kafka.lease_ms", |config| config.lease_ms = 1),
            ("bus.kafka.tls.ca_file", |config| config.tls.ca_file = Some("ca".into())),
            ("bus.kafka.tls.certificate_file", |config| {
                config.tls = KafkaTls { enabled: true, key_file: Some("key".into()), ..KafkaTls::default() };
            }),
            ("bus.kafka.tls.key_file", |config| {
                config.tls = KafkaTls { enabled: true, certificate_file: Some("own".into()), ..KafkaTls::default() };
            }),
            ("bus.kafka.sasl.username", |config| config.sasl.username = "u".into()),
            ("bus.kafka.sasl.password", |config| {
                config.sasl = KafkaSasl { password: None, ..sasl(SaslMechanism::ScramSha512) };
            }),
        ];
        for (key, change) in refused {
            let sentence = refusal(change);
            assert!(sentence.starts_with(&format!("`{key}`: expected ")), "{sentence}");
        }
        let many = KafkaConfig { bootstrap_servers: "one:9092, [::1]:9093".into(), ..KafkaConfig::default() };
        assert_eq!(many.check(), Ok(()));
    }
}
