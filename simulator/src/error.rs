//! What can go wrong while tasks are made or played.

use std::path::{Path, PathBuf};

/// A failure of the simulator.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// A file or folder could not be read.
    #[error("cannot read {path}")]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A manifest is not what it should be.
    #[error("{path} is not a valid manifest")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// A package of the base manifest was not fetched.
    #[error("the sources of package {0} are not there; run simulator/fetch-sources")]
    MissingPackage(String),
    /// The corpus has nothing that tasks can be made from.
    #[error(
        "{path} has no usable code: {found} Rust or Python files give {usable} places to edit, \
         at least {needed} are needed"
    )]
    NoUsableCode {
        /// The corpus.
        path: PathBuf,
        /// Files that were looked at.
        found: usize,
        /// Places found in them.
        usable: usize,
        /// Places needed.
        needed: usize,
    },
    /// A grammar could not be loaded.
    #[error("the grammar of {language} does not load")]
    Grammar {
        /// Language id.
        language: &'static str,
        /// Why it failed.
        source: tree_sitter::LanguageError,
    },
}

impl SimulatorError {
    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.to_path_buf(), source }
    }
}

/// Result of the simulator's functions.
pub type Result<T> = std::result::Result<T, SimulatorError>;
