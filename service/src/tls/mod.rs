//! TLS on our own doors, with the cargo feature `production`: rustls on ring, HTTP/1.1 and HTTP/2 by ALPN.
//!
//! The files of a certificate are looked at every few seconds. A change is taken over for the handshakes that begin
//! from then on, and connections that stand go on; files that cannot be used change nothing but a metric. Whoever
//! cannot finish a handshake is let go after a while, and sooner when others wait.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Invalid;

#[cfg(feature = "production")]
mod acceptor;
#[cfg(feature = "production")]
mod certificate;

#[cfg(not(feature = "production"))]
mod acceptor {
    //! Doors of a build without TLS: none of them has an acceptor.

    use std::convert::Infallible;

    use tokio::net::TcpStream;
    use tokio_util::sync::CancellationToken;

    use super::{Files, TlsError};

    #[derive(Debug, Clone)]
    #[allow(dead_code, reason = "never made, since opening one always fails")]
    pub(crate) struct Acceptor(Infallible);

    impl Acceptor {
        pub(crate) async fn open(_: &str, _: Files, _: usize) -> Result<Self, TlsError> {
            Err(TlsError::NotInThisBuild)
        }

        pub(crate) async fn accept(&self, _: TcpStream) -> Option<TcpStream> {
            match self.0 {}
        }

        pub(crate) async fn follow_files(&self, _: CancellationToken) {
            match self.0 {}
        }
    }
}

pub(crate) use acceptor::Acceptor;

/// When the first certificate of a file in PEM form expires, in seconds since 1970 UTC; none where that can not be read
/// out of it.
///
/// # Errors
/// A file that can not be read, or that holds no certificate.
#[cfg(feature = "production")]
pub async fn certificate_expiry(path: &std::path::Path) -> Result<Option<i64>, TlsError> {
    certificate::expiry_of_file(path).await
}

/// The keys within the section of a door.
const CERTIFICATE: &str = "tls.certificate_file";
const KEY: &str = "tls.key_file";

/// A door's certificate. Both files or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// PEM: the certificate of the door, and after it those that lead to an authority.
    pub certificate_file: Option<PathBuf>,
    /// PEM: the private key that belongs to the certificate.
    pub key_file: Option<PathBuf>,
}

/// Both files of a certificate.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    #[cfg_attr(not(feature = "production"), allow(dead_code, reason = "nothing of this build reads certificates"))]
    pub(crate) certificate: PathBuf,
    #[cfg_attr(not(feature = "production"), allow(dead_code, reason = "nothing of this build reads certificates"))]
    pub(crate) key: PathBuf,
}

impl TlsConfig {
    /// Whether the door speaks TLS itself.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.certificate_file.is_some() || self.key_file.is_some()
    }

    /// Both files, when the door speaks TLS itself.
    pub(crate) fn files(&self) -> Option<Files> {
        Some(Files { certificate: self.certificate_file.clone()?, key: self.key_file.clone()? })
    }

    /// Refuses what makes no TLS. Reads no file: whoever checks a configuration may have no right to read a key.
    pub(crate) fn validate(&self, section: &str, tls_terminated: bool) -> Result<(), Invalid> {
        if !self.is_set() {
            return Ok(());
        }
        let given = if self.certificate_file.is_some() { CERTIFICATE } else { KEY };
        Invalid::unless(
            cfg!(feature = "production"),
            format!("{section}.{given}"),
            "none: TLS on our own doors needs the cargo feature `production`, which this build does not have",
        )?;
        Invalid::unless(
            self.certificate_file.is_some(),
            format!("{section}.{CERTIFICATE}"),
            "the file of the certificate that `key_file` belongs to",
        )?;
        Invalid::unless(
            self.key_file.is_some(),
            format!("{section}.{KEY}"),
            "the file of the private key that belongs to the certificate",
        )?;
        Invalid::unless(
            !tls_terminated,
            format!("{section}.tls_terminated"),
            "false while `tls` is set: either this door speaks TLS, or something in front of it does",
        )
    }
}

/// A certificate that cannot be used. One sentence with key and path, and never anything of a private key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Built without TLS.
    #[error("TLS on our own doors needs the cargo feature `production`, which this build does not have")]
    NotInThisBuild,
    /// A file that is missing, or that we may not read.
    #[error("`{key}`: cannot read {}: {source}", path.display())]
    Unreadable {
        /// Within the section of the door.
        key: &'static str,
        /// Of the file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that holds something else.
    #[error("`{key}`: {} {reason}", path.display())]
    Unusable {
        /// Within the section of the door.
        key: &'static str,
        /// Of the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two files that do not belong together.
    #[error("`tls.key_file`: {} is not the key of the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// Path of the key.
        key: PathBuf,
        /// Path of the certificate.
        certificate: PathBuf,
    },
    /// The library refuses.
    #[error("TLS cannot be set up: {reason}")]
    Library {
        /// Why.
        reason: String,
    },
}
