//! HTTP as editors speak it to a door: in clear or, in a build with the cargo feature `production`, with TLS (rustls on
//! ring, as on the doors' own side). HTTP/2 where TLS agrees on it, else HTTP/1.1. No proxy stands between.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

#[cfg(feature = "production")]
type Connector = hyper_rustls::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "production"))]
type Connector = HttpConnector;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// An address that is none, or that this build does not reach.
    #[error("{address} is no address of a door: expected {expected}")]
    Address {
        /// As it was given.
        address: String,
        /// What would do.
        expected: &'static str,
    },
    /// The file of the authorities cannot be used.
    #[error("the authorities in {} can not be used: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No TLS, whatever the address.
    #[error("TLS can not be set up: {0}")]
    Tls(String),
    /// What is asked or reported could not be written.
    #[error("the request can not be written: {0}")]
    Written(String),
    /// Nobody took the request, or the connection was lost before the answer came.
    #[error("{}", innermost(.0))]
    Request(hyper_util::client::legacy::Error),
    /// The connection was lost in the middle of the answer.
    #[error("the answer broke off: {}", innermost(.0))]
    Answer(hyper::Error),
    /// The answer was not there in time.
    #[error("no whole answer within {} s", .0.as_secs_f64())]
    Late(Duration),
}

impl HttpError {
    /// Whether nothing was sent, because no connection came about.
    pub(super) fn is_unconnected(&self) -> bool {
        matches!(self, Self::Request(error) if error.is_connect())
    }
}

/// The transport's own words hide whether it was the network or a certificate.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// A client; clones share its connections.
#[derive(Debug, Clone)]
pub(super) struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    timeout: Duration,
}

impl HttpClient {
    /// A client of these addresses, whose certificates are signed by an authority in `ca_file`, or, without one, of the
    /// system. `timeout` is the longest time from a request to the end of its answer.
    pub(super) fn new(addresses: &[&str], ca_file: Option<&Path>, timeout: Duration) -> Result<Self, HttpError> {
        let mut needs_tls = false;
        for address in addresses {
            needs_tls |= is_encrypted(address)?;
        }
        let mut tcp = HttpConnector::new();
        // Requests are small and waited for.
        tcp.set_nodelay(true);
        let connector = connector(tcp, needs_tls, ca_file)?;
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(Self { client, timeout })
    }

    /// Sends one JSON body.
    pub(super) async fn post(&self, url: &str, key: &str, body: Bytes) -> Result<HttpAnswer, HttpError> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {key}"))
            .map_err(|_| HttpError::Written("the API key has characters that no header can carry".to_owned()))?;
        bearer.set_sensitive(true);
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(AUTHORIZATION, bearer)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body));
        self.send(request).await
    }

    /// Asks for whatever stands at the address.
    pub(super) async fn get(&self, url: &str) -> Result<HttpAnswer, HttpError> {
        self.send(Request::builder().method(Method::GET).uri(url).body(Full::default())).await
    }

    async fn send(&self, request: Result<Request<Full<Bytes>>, hyper::http::Error>) -> Result<HttpAnswer, HttpError> {
        let request = request.map_err(|error| HttpError::Written(error.to_string()))?;
        let (limit, deadline) = (self.timeout, Instant::now() + self.timeout);
        let answered = timeout_at(deadline, self.client.request(request)).await.map_err(|_| HttpError::Late(limit))?;
        let (head, body) = answered.map_err(HttpError::Request)?.into_parts();
        Ok(HttpAnswer { status: head.status, body, limit, deadline })
    }
}

/// An answer that has begun.
#[derive(Debug)]
pub(super) struct HttpAnswer {
    pub(super) status: StatusCode,
    body: Incoming,
    limit: Duration,
    deadline: Instant,
}

impl HttpAnswer {
    /// The next bytes; none at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = timeout_at(self.deadline, self.body.frame()).await.map_err(|_| HttpError::Late(self.limit))?;
            match frame.transpose().map_err(HttpError::Answer)? {
                None => return Ok(None),
                Some(frame) => {
                    // Trailers say nothing that matters here.
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// All bytes; none when there are more than `most`.
    pub(super) async fn whole(&mut self, most: usize) -> Result<Option<Vec<u8>>, HttpError> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.chunk().await? {
            if whole.len() + bytes.len() > most {
                return Ok(None);
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(Some(whole))
    }
}

/// Whether an address asks for TLS.
fn is_encrypted(address: &str) -> Result<bool, HttpError> {
    let refused = |expected| Err(HttpError::Address { address: address.to_owned(), expected });
    let uri: Option<Uri> = address.parse().ok().filter(|uri: &Uri| uri.host().is_some());
    match uri.as_ref().and_then(Uri::scheme_str) {
        Some("http") => Ok(false),
        Some("https") if cfg!(feature = "production") => Ok(true),
        Some("https") => {
            refused("one with http: https needs the cargo feature `production`, which this build does not have")
        }
        _ => refused("something like http://127.0.0.1:7802 or https://flywheel.example.com"),
    }
}

#[cfg(feature = "production")]
fn connector(mut tcp: HttpConnector, needs_tls: bool, ca_file: Option<&Path>) -> Result<Connector, HttpError> {
    use hyper_rustls::{ConfigBuilderExt as _, HttpsConnectorBuilder};
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    tcp.enforce_http(false);
    let builder = ClientConfig::builder_with_provider(std::sync::Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Tls(error.to_string()))?;
    let builder = match ca_file {
        Some(path) => builder.with_root_certificates(authorities(path)?),
        None if needs_tls => builder.with_native_roots().map_err(|error| HttpError::Tls(error.to_string()))?,
        // A machine without authorities can still speak in clear.
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    let config = builder.with_no_client_auth();
    Ok(HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_all_versions().wrap_connector(tcp))
}

#[cfg(feature = "production")]
fn authorities(path: &Path) -> Result<tokio_rustls::rustls::RootCertStore, HttpError> {
    use tokio_rustls::rustls::RootCertStore;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;

    let refused = |reason: String| HttpError::Authorities { path: path.to_owned(), reason };
    let text = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|_| refused("expected certificates in PEM form".to_owned()))?;
        roots.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refused("it holds no certificate in PEM form".to_owned()));
    }
    Ok(roots)
}

#[cfg(not(feature = "production"))]
fn connector(tcp: HttpConnector, _needs_tls: bool, _ca_file: Option<&Path>) -> Result<Connector, HttpError> {
    Ok(tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_nowhere_are_refused_with_what_would_do() {
        let refusal = |address: &str| match HttpClient::new(&[address], None, Duration::from_secs(1)) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert_eq!(refusal("http://127.0.0.1:7802"), "");
        for address in ["127.0.0.1:7802", "ftp://door", "http://", ""] {
            assert!(refusal(address).contains("expected something like http://"), "{address}: {}", refusal(address));
        }
        #[cfg(not(feature = "production"))]
        assert!(refusal("https://door").contains("cargo feature `production`"));
    }

    #[cfg(feature = "production")]
    #[test]
    fn a_file_without_authorities_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let refusal = || {
            let made = HttpClient::new(&["https://door"], Some(&path), Duration::from_secs(1));
            made.err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(refusal().contains("ca.pem can not be used"), "{}", refusal());
        std::fs::write(&path, "no certificate").unwrap();
        assert!(refusal().contains("holds no certificate"), "{}", refusal());
    }
}
