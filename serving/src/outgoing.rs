//! Connections to servers that others run: HTTP/1.1, kept for a while, with TLS in a build with the cargo feature
//! `production`.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::error::ServingError;

#[cfg(feature = "production")]
type Connector = hyper_rustls::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "production"))]
type Connector = HttpConnector;

/// A client; clones share its connections.
pub(crate) type Client = legacy::Client<Connector, Body>;

/// What connections are like.
pub(crate) struct Outgoing<'a> {
    /// The section of the settings that wants them.
    pub(crate) section: &'a str,
    pub(crate) connect_timeout: Duration,
    pub(crate) pool_idle: Duration,
    /// Unused connections that are kept to each address.
    pub(crate) pool_connections: usize,
    /// Whether an address is an `https` one.
    pub(crate) is_encrypted: bool,
    /// PEM: the authorities that may vouch for a server; none: those of the system.
    pub(crate) ca_file: Option<&'a Path>,
}

impl Outgoing<'_> {
    /// A client that has such connections.
    pub(crate) fn client(&self) -> Result<Client, ServingError> {
        let mut tcp = HttpConnector::new();
        // Small pieces of a stream must not wait for acknowledgements.
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(self.connect_timeout));
        let connector = self.connector(tcp)?;
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(self.pool_idle)
            .pool_max_idle_per_host(self.pool_connections)
            .build(connector);
        Ok(client)
    }

    fn refused(&self, what: &str, why: &dyn Display) -> ServingError {
        ServingError::Tls(format!("{}: {what}: {why}", self.section))
    }

    /// Settings that want TLS are refused before; none of them is met in clear.
    #[cfg(not(feature = "production"))]
    fn connector(&self, tcp: HttpConnector) -> Result<Connector, ServingError> {
        if self.is_encrypted || self.ca_file.is_some() {
            return Err(self.refused("no TLS", &"it needs the cargo feature `production`"));
        }
        Ok(tcp)
    }

    #[cfg(feature = "production")]
    fn connector(&self, mut tcp: HttpConnector) -> Result<Connector, ServingError> {
        use hyper_rustls::{ConfigBuilderExt as _, HttpsConnectorBuilder};
        use tokio_rustls::rustls::crypto::ring;
        use tokio_rustls::rustls::pki_types::CertificateDer;
        use tokio_rustls::rustls::pki_types::pem::PemObject as _;
        use tokio_rustls::rustls::{ClientConfig, RootCertStore};

        tcp.enforce_http(false);
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.refused("no TLS", &error))?;
        let builder = match self.ca_file {
            Some(path) => {
                let file = path.display().to_string();
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_file_iter(path).map_err(|error| self.refused(&file, &error))? {
                    let certificate = certificate.map_err(|error| self.refused(&file, &error))?;
                    roots.add(certificate).map_err(|error| self.refused(&file, &error))?;
                }
                if roots.is_empty() {
                    return Err(self.refused(&file, &"it holds no certificate in PEM"));
                }
                builder.with_root_certificates(roots)
            }
            None if self.is_encrypted => {
                builder.with_native_roots().map_err(|error| self.refused("the authorities of this system", &error))?
            }
            // A machine without authorities can still speak in clear.
            None => builder.with_root_certificates(RootCertStore::empty()),
        };
        let tls = builder.with_no_client_auth();
        Ok(HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp))
    }
}
