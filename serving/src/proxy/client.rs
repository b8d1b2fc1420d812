//! Connections to the upstream: HTTP/1.1, kept for a while, with TLS in a build with the cargo feature `production`.

use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use service::problem::Problem;

use crate::error::ServingError;
use crate::proxy::config::UpstreamConfig;

#[cfg(feature = "production")]
type Connector = hyper_rustls::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "production"))]
type Connector = HttpConnector;

/// A client; clones share its connections.
pub(crate) type Client = legacy::Client<Connector, Body>;

/// A client of the upstream.
pub(crate) fn client(config: &UpstreamConfig, is_encrypted: bool) -> Result<Client, ServingError> {
    let mut tcp = HttpConnector::new();
    // Small pieces of a stream must not wait for acknowledgements.
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(Duration::from_millis(config.connect_timeout_ms)));
    let connector = connector(tcp, config, is_encrypted)?;
    let client = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_millis(config.pool_idle_ms))
        .pool_max_idle_per_host(config.pool_connections)
        .build(connector);
    Ok(client)
}

#[cfg(not(feature = "production"))]
fn connector(tcp: HttpConnector, _: &UpstreamConfig, _: bool) -> Result<Connector, ServingError> {
    Ok(tcp)
}

#[cfg(feature = "production")]
fn connector(mut tcp: HttpConnector, config: &UpstreamConfig, is_encrypted: bool) -> Result<Connector, ServingError> {
    use hyper_rustls::{ConfigBuilderExt as _, HttpsConnectorBuilder};
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    let refused = |what: &str, error: &dyn Error| ServingError::UpstreamTls(format!("{what}: {error}"));
    tcp.enforce_http(false);
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| refused("no TLS", &error))?;
    let builder = match &config.ca_file {
        Some(path) => {
            let file = path.display().to_string();
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| refused(&file, &error))? {
                let certificate = certificate.map_err(|error| refused(&file, &error))?;
                roots.add(certificate).map_err(|error| refused(&file, &error))?;
            }
            if roots.is_empty() {
                return Err(ServingError::UpstreamTls(format!("{file}: it holds no certificate in PEM")));
            }
            builder.with_root_certificates(roots)
        }
        None if is_encrypted => {
            builder.with_native_roots().map_err(|error| refused("the authorities of this system", &error))?
        }
        // A machine without authorities can still speak in clear.
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    let tls = builder.with_no_client_auth();
    Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp))
}

/// What a client is told when there is no answer. What the transport says names addresses at most.
pub(crate) fn problem_of(error: &legacy::Error) -> Problem {
    let transport = error.source().and_then(|source| source.downcast_ref::<hyper::Error>());
    if transport.is_some_and(hyper::Error::is_user) {
        return Problem::bad_request("the body could not be read").with_code("unreadable_body");
    }
    if is_timeout(error) {
        return late("no connection in time");
    }
    if error.is_connect() {
        let title = "The server behind this one can not be reached";
        return Problem::new(StatusCode::BAD_GATEWAY, "upstream_unreachable", title);
    }
    let title = "The server behind this one broke off before it answered";
    Problem::new(StatusCode::BAD_GATEWAY, "upstream_failed", title)
}

/// The upstream took too long.
pub(crate) fn late(detail: &str) -> Problem {
    let title = "The server behind this one does not answer in time";
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", title).with_detail(detail)
}

fn is_timeout(error: &legacy::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let is_late = |error: &std::io::Error| error.kind() == std::io::ErrorKind::TimedOut;
        if error.downcast_ref::<std::io::Error>().is_some_and(is_late) {
            return true;
        }
        cause = error.source();
    }
    false
}
