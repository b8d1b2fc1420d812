//! From two files to what a handshake needs.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::{CERTIFICATE, Files, KEY, TlsError};

/// Protocols that a door offers, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate that can be served.
pub(super) struct Certificate {
    /// Begins handshakes. Sessions are remembered in it, so that none outlives its certificate.
    pub(super) acceptor: TlsAcceptor,
    /// When the certificate expires, in seconds since 1970 UTC.
    pub(super) expires: Option<i64>,
}

/// Reads both files.
///
/// # Errors
/// See [`TlsError`].
pub(super) async fn load(files: &Files) -> Result<Certificate, TlsError> {
    let chain = chain(&files.certificate, &read(CERTIFICATE, &files.certificate).await?)?;
    let key = private_key(&files.key, &Zeroizing::new(read(KEY, &files.key).await?))?;
    let expires = chain.first().and_then(|certificate| expiry(certificate));
    let provider = Arc::new(ring::default_provider());
    let key = provider.key_provider.load_private_key(key).map_err(|_| TlsError::Unusable {
        key: KEY,
        path: files.key.clone(),
        reason: "holds a private key that TLS cannot use; expected RSA of 2048 to 8192 bits, ECDSA P-256 or P-384, \
                 or Ed25519"
            .to_owned(),
    })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            return Err(TlsError::Mismatch { key: files.key.clone(), certificate: files.certificate.clone() });
        }
        Err(error) => {
            return Err(TlsError::Unusable {
                key: CERTIFICATE,
                path: files.certificate.clone(),
                reason: format!("holds no certificate that TLS can use: {error}"),
            });
        }
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Library { reason: error.to_string() })?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Certificate { acceptor: TlsAcceptor::from(Arc::new(config)), expires })
}

/// When the first certificate of a file expires, in seconds since 1970 UTC.
///
/// # Errors
/// See [`TlsError`].
pub(super) async fn expiry_of_file(path: &Path) -> Result<Option<i64>, TlsError> {
    let chain = chain(path, &read(CERTIFICATE, path).await?)?;
    Ok(chain.first().and_then(|certificate| expiry(certificate)))
}

async fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    tokio::fs::read(path).await.map_err(|source| TlsError::Unreadable { key, path: path.to_owned(), source })
}

fn chain(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(not_pem(CERTIFICATE, path, "certificate in PEM form", &pem::Error::NoItemsFound)),
        Err(error) => Err(not_pem(CERTIFICATE, path, "certificate in PEM form", &error)),
    }
}

fn private_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text)
        .map_err(|error| not_pem(KEY, path, "private key in PEM form without a pass phrase", &error))
}

/// The library's own words repeat lines of the file, which may be those of a key.
fn not_pem(key: &'static str, path: &Path, what: &str, error: &pem::Error) -> TlsError {
    let reason = match error {
        pem::Error::NoItemsFound => format!("holds no {what}"),
        _ => format!("is damaged; expected a {what}"),
    };
    TlsError::Unusable { key, path: path.to_owned(), reason }
}

fn expiry(certificate: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
