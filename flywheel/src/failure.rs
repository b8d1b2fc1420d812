//! How the program ends when it can not go on: one sentence on standard error.

use std::process::ExitCode;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something the caller can mend: a flag, a file, a port, a corpus. Exit code 2.
    Refused(String),
    /// Something broke while running. Exit code 1.
    Broke(anyhow::Error),
}

impl Failure {
    /// Something the caller can mend.
    pub(crate) fn refused(sentence: impl Into<String>) -> Self {
        Self::Refused(sentence.into())
    }

    /// Turns any error into one the caller can mend.
    pub(crate) fn refuse(error: impl std::fmt::Display) -> Self {
        Self::Refused(error.to_string())
    }

    /// As an error among others.
    pub(crate) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Refused(sentence) => anyhow::Error::msg(sentence),
            Self::Broke(error) => error,
        }
    }

    #[expect(clippy::print_stderr, reason = "the one place where a failed command speaks")]
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Refused(sentence) => {
                eprintln!("flywheel: {sentence}");
                ExitCode::from(2)
            }
            Self::Broke(error) => {
                eprintln!("flywheel: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Broke(error.into())
    }
}
