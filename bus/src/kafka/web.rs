//! Requests to servers beside the brokers: the one that gives tokens, and the registry of schemas.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Answers are small; more than this is none of ours.
const MOST_BYTES: usize = 1 << 20;

/// A client of such a server. Clones share its connections.
#[derive(Clone)]
pub(super) struct Web {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

/// What was answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Web {
    /// `ca_file`: the authorities that may vouch for servers, in PEM; none: those of the system.
    ///
    /// # Errors
    /// They can not be read: the sentence says why.
    pub(super) fn new(ca_file: Option<&Path>, timeout: Duration) -> Result<Self, String> {
        let connector = HttpsConnectorBuilder::new();
        let connector = match ca_file {
            None => connector
                .with_provider_and_native_roots(ring::default_provider())
                .map_err(|error| format!("the authorities of this system can not be read: {error}"))?,
            Some(file) => {
                let refused = |error: String| format!("{} can not be used: {error}", file.display());
                let mut roots = RootCertStore::empty();
                let found = CertificateDer::pem_file_iter(file).map_err(|error| refused(error.to_string()))?;
                for certificate in found {
                    let certificate = certificate.map_err(|error| refused(error.to_string()))?;
                    roots.add(certificate).map_err(|error| refused(error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(refused("it holds no certificate in PEM".to_owned()));
                }
                let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
                    .with_safe_default_protocol_versions()
                    .map_err(|error| refused(error.to_string()))?;
                connector.with_tls_config(tls.with_root_certificates(roots).with_no_client_auth())
            }
        };
        let client = Client::builder(TokioExecutor::new()).build(connector.https_or_http().enable_http1().build());
        Ok(Self { client, timeout })
    }

    /// Sends a request and takes the whole answer.
    ///
    /// # Errors
    /// There was none in time, or a server that can not be reached or trusted: the sentence says which.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let answered = async {
            let answer = self.client.request(request).await.map_err(|error| innermost(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
            let body = body.map_err(|error| innermost(error.as_ref()))?.to_bytes();
            Ok(Answer { status, body })
        };
        let within = || format!("no answer within {} ms", self.timeout.as_millis());
        tokio::time::timeout(self.timeout, answered).await.unwrap_or_else(|_| Err(within()))
    }
}

/// The end of a chain of errors, which says what really happened.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// `Basic` credentials of HTTP.
pub(super) fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

/// A text as a form or a path carries it.
pub(super) fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _to_memory = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_encoded_as_forms_and_headers_want_them() {
        assert_eq!(encoded("a b+c/ä~_"), "a%20b%2Bc%2F%C3%A4~_");
        assert_eq!(basic("me", "a:b"), "Basic bWU6YTpi");
    }
}
