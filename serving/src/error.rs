//! What can keep the service from running.

use std::path::PathBuf;

/// Errors of serving. None of them contains code text, a key or a person.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServingError {
    /// A setting makes no service.
    #[error(transparent)]
    Config(#[from] service::config::Invalid),
    /// A file of the data directory cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("a decoding thread could not be started: {0}")]
    Thread(std::io::Error),
    /// TLS to a server that others run can not be set up. Names the section of the settings.
    #[error("{0}")]
    Tls(String),
    /// The door stopped serving.
    #[error("the door failed: {0}")]
    Door(std::io::Error),
}
