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
    /// A parser gave up.
    #[error("a text of {language} could not be parsed")]
    Unparsed {
        /// Language id.
        language: &'static str,
    },
    /// No source file of a corpus may be used.
    #[error("none of {found} source files may be used ({left_out})")]
    NoUsableFile {
        /// Source files that were found.
        found: usize,
        /// How many were left out, and why.
        left_out: String,
    },
    /// A compiler that was asked for is not there, or does not answer.
    #[error("the compiler {program} can not be asked")]
    NoCompiler {
        /// What was started.
        program: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {path}")]
    Write {
        /// What was written.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A folder that is to be made holds something.
    #[error("{path} is there already and not empty")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A file of stored trajectories is not what it should be.
    #[error("line {line} of {path} is not valid: {why}")]
    Stored {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
}

impl SimulatorError {
    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.to_path_buf(), source }
    }

    pub(crate) fn write(path: &Path, source: std::io::Error) -> Self {
        Self::Write { path: path.to_path_buf(), source }
    }
}

/// Result of the simulator's functions.
pub type Result<T> = std::result::Result<T, SimulatorError>;
