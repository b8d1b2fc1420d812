//! The client: which door, which region, which authorities.

use std::path::Path;
use std::sync::Arc;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_types::service_config::ServiceConfigKey;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::failure::Place;
use super::{Inner, S3Artifacts, S3Config};
use crate::ArtifactError;

/// The region of stores that do not care.
const NO_REGION: &str = "us-east-1";

fn setting(reason: impl Into<String>) -> ArtifactError {
    ArtifactError::Setting { reason: reason.into() }
}

impl S3Artifacts {
    /// Gets ready to speak to the bucket, without doing so: what is wrong shows in the first call, or in
    /// [`S3Artifacts::check`].
    ///
    /// # Errors
    /// Settings that make no store.
    pub async fn connect(mut config: S3Config) -> Result<Self, ArtifactError> {
        if config.bucket.is_empty() {
            return Err(setting("its bucket has no name"));
        }
        config.prefix = config.key_prefix();
        let endpoint = match &config.endpoint {
            Some(endpoint) => Some(endpoint.clone()),
            None => named_elsewhere().await,
        };
        // It is shown in errors.
        if endpoint.as_ref().is_some_and(|endpoint| endpoint.contains('@')) {
            return Err(setting("its endpoint must be an address without credentials"));
        }
        let timeouts =
            TimeoutConfig::builder().connect_timeout(config.connect_timeout).read_timeout(config.read_timeout).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http_client(&config, endpoint.as_deref())?)
            .retry_config(RetryConfig::standard().with_max_attempts(config.attempts.max(1)))
            .timeout_config(timeouts);
        if let Some(credentials) = &config.credentials {
            loader = loader.credentials_provider(credentials.provider());
        }
        let shared = in_region(loader, config.region.as_deref(), endpoint.is_some()).load().await;
        let Some(region) = shared.region() else {
            return Err(setting("it has neither a region nor an endpoint"));
        };
        let place = Place {
            bucket: config.bucket.clone(),
            endpoint: endpoint.clone().unwrap_or_else(|| format!("Amazon S3 in {region}")),
        };
        let mut s3 = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(config.path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        s3.set_endpoint_url(endpoint);
        let client = Client::from_conf(s3.build());
        let hasty = Self::hasty(&client, &config);
        Ok(Self { inner: Arc::new(Inner { client, hasty, config, place }) })
    }
}

/// The endpoint for S3 that the environment of Amazon's tools names, as their SDK reads it.
async fn named_elsewhere() -> Option<String> {
    // Neither region nor credentials are what is asked for: so nothing is looked for in the network.
    let loader = aws_config::defaults(BehaviorVersion::latest()).region(Region::new(NO_REGION)).no_credentials();
    let shared = loader.load().await;
    let for_s3 = |shared: &SdkConfig| {
        let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url");
        shared.service_config()?.load_config(key.build().ok()?)
    };
    for_s3(&shared).or_else(|| shared.endpoint_url().map(str::to_owned)).filter(|endpoint| !endpoint.is_empty())
}

/// Without a region the SDK would ask around in the network for one, which says nothing of a store of one's own.
fn in_region(loader: ConfigLoader, region: Option<&str>, is_own: bool) -> ConfigLoader {
    match region {
        Some(region) => loader.region(Region::new(region.to_owned())),
        None if is_own => loader.region(
            RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
                .or_else(ProfileFileRegionProvider::new())
                .or_else(Region::new(NO_REGION)),
        ),
        None => loader,
    }
}

/// TLS by rustls and ring, with the given authorities, or those that this machine trusts. Where no TLS will be spoken
/// they are not loaded: a small container has none, and the SDK minds.
fn http_client(config: &S3Config, endpoint: Option<&str>) -> Result<SharedHttpClient, ArtifactError> {
    let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    // Credentials that are looked for may come from elsewhere, over TLS.
    let looks_elsewhere = config.credentials.is_none();
    let in_clear = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let trusted = match &config.ca_file {
        Some(path) => TrustStore::empty().with_native_roots(looks_elsewhere).with_pem_certificate(authorities(path)?),
        None if in_clear && !looks_elsewhere => TrustStore::empty(),
        None => return Ok(builder.build_https()),
    };
    let context = TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|error| setting(error.to_string()))?;
    Ok(builder.tls_context(context).build_https())
}

/// The certificates of a file. The SDK would panic over what is none.
fn authorities(path: &Path) -> Result<Vec<u8>, ArtifactError> {
    let refused = |reason: String| setting(format!("its authorities in {} {reason}", path.display()));
    let pem = std::fs::read(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
    let mut found = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| refused(format!("are not in PEM form: {error}")))?;
        found.add(certificate).map_err(|error| refused(format!("are no certificates: {error}")))?;
    }
    if found.is_empty() { Err(refused("are none: no certificate in PEM form".to_owned())) } else { Ok(pem) }
}
