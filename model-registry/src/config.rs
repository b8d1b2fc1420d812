//! `[registry]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service::config::Invalid;
use service::http::HttpConfig;
use tonic::transport::Uri;

use crate::policy::RolloutPolicy;

/// Settings of the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// The door.
    pub http: HttpConfig,
    /// Where other services find the door, such as `https://registry.example.com:7803`; none: where it listens. When
    /// the door speaks TLS itself, its certificate is made out to the name in this address.
    pub address: Option<String>,
    /// PEM: the authorities one of which has signed the certificate at an `https` address; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The policy of rollouts that bring none.
    pub rollout: RolloutPolicy,
    /// How often rollouts are looked at when nobody asks, in milliseconds of real time.
    pub reconcile_ms: u64,
    /// How long the leader of the reconciler may be silent, in milliseconds of real time.
    pub lease_ms: u64,
    /// How often a watch looks for changes that another process made, in milliseconds of real time.
    pub watch_poll_ms: u64,
    /// Watches at once.
    pub max_watches: usize,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            http: HttpConfig::at("127.0.0.1:7003"),
            address: None,
            ca_file: None,
            rollout: RolloutPolicy::default(),
            reconcile_ms: 1_000,
            lease_ms: 10_000,
            watch_poll_ms: 1_000,
            max_watches: 1_024,
        }
    }
}

impl RegistryConfig {
    /// Refuses settings by which the door cannot be opened or found. Policies are checked by themselves.
    ///
    /// # Errors
    /// Names the key and what was expected.
    pub fn validate(&self, section: &str) -> Result<(), Invalid> {
        self.http.validate(&format!("{section}.http"))?;
        let is_https = self.scheme() == Some("https");
        Invalid::unless(
            self.address.is_none() || self.scheme().is_some(),
            format!("{section}.address"),
            "an address such as https://registry.example.com:7803",
        )?;
        Invalid::unless(
            !is_https || cfg!(feature = "production"),
            format!("{section}.address"),
            "one with http: https needs the cargo feature `production`, which this build does not have",
        )?;
        // Else nobody knew which name the certificate must have: the address that is listened on is none.
        Invalid::unless(
            is_https || !self.http.tls.is_set(),
            format!("{section}.address"),
            "an address such as https://registry.example.com:7803, with the name in the certificate, while the door \
             speaks TLS",
        )?;
        Invalid::unless(
            is_https || self.ca_file.is_none(),
            format!("{section}.ca_file"),
            "none while `address` is no https address",
        )
    }

    /// The name, or the IP address, in `address`.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        let uri: Uri = self.address.as_ref()?.parse().ok()?;
        Some(uri.host()?.trim_matches(['[', ']']).to_owned())
    }

    /// `http` or `https`; none when `address` is none of both.
    fn scheme(&self) -> Option<&'static str> {
        let uri: Uri = self.address.as_ref()?.parse().ok()?;
        uri.host()?;
        ["http", "https"].into_iter().find(|scheme| uri.scheme_str() == Some(*scheme))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(address: &str, ca_file: Option<&str>) -> Option<String> {
        let (address, ca_file) = (Some(address.to_owned()), ca_file.map(PathBuf::from));
        let config = RegistryConfig { address, ca_file, ..RegistryConfig::default() };
        config.validate("registry").err().map(|invalid| invalid.to_string())
    }

    #[test]
    fn addresses_under_which_nobody_finds_a_registry_are_refused() {
        assert_eq!(refusal("http://registry:7803", None), None);
        for address in ["", "registry:7803", "ftp://registry:7803", "https://"] {
            let sentence = refusal(address, None).unwrap_or_else(|| panic!("{address} is accepted"));
            assert!(sentence.starts_with("`registry.address`: expected an address such as"), "{sentence}");
        }
        let sentence = refusal("http://registry:7803", Some("ca.pem")).unwrap();
        assert!(sentence.starts_with("`registry.ca_file`: expected none"), "{sentence}");
    }

    #[cfg(not(feature = "production"))]
    #[test]
    fn https_names_its_feature() {
        assert!(refusal("https://registry:7803", None).unwrap().contains("cargo feature `production`"));
    }

    #[cfg(feature = "production")]
    #[test]
    fn a_door_that_speaks_tls_has_an_https_address() {
        assert_eq!(refusal("https://registry:7803", Some("ca.pem")), None);
        let mut config = RegistryConfig::default();
        config.http.tls.certificate_file = Some("door.pem".into());
        config.http.tls.key_file = Some("door.key".into());
        let sentence = config.validate("registry").unwrap_err().to_string();
        assert!(sentence.contains("the name in the certificate"), "{sentence}");
        config.address = Some("https://[::1]:7803".to_owned());
        assert_eq!((config.validate("registry"), config.host()), (Ok(()), Some("::1".to_owned())));
    }
}
