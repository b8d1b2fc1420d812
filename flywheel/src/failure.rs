//! How the program ends when it can not go on: one sentence on standard error.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::process::ExitCode;

use crate::data_dir::DataDir;
use crate::visible::visible;

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
            Self::Refused(sentence) => anyhow::Error::new(Sentence(sentence)),
            Self::Broke(error) => error,
        }
    }

    #[expect(clippy::print_stderr, reason = "the one place where a failed command speaks")]
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Refused(sentence) => {
                eprintln!("flywheel: {}", one_line(&sentence));
                ExitCode::from(2)
            }
            Self::Broke(error) => {
                eprintln!("flywheel: {}", one_line(&format!("{error:#}")));
                ExitCode::FAILURE
            }
        }
    }
}

/// A refusal on its way through other errors: it stays one.
#[derive(Debug)]
struct Sentence(String);

impl std::fmt::Display for Sentence {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl StdError for Sentence {}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let sentence = error.chain().find_map(|cause| cause.downcast_ref::<Sentence>()).map(|found| found.0.clone());
        sentence.map_or(Self::Broke(error), Self::Refused)
    }
}

/// An error of several lines, as one sentence. A name in it can not command the terminal.
fn one_line(text: &str) -> String {
    visible(&text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; "))
}

/// What the system says of a disk that has no room, and what SQLite makes of it.
const NO_ROOM: [&str; 5] =
    ["No space left on device", "File too large", "Disk quota exceeded", "database or disk is full", "disk I/O error"];

fn is_out_of_room(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let full = [ErrorKind::StorageFull, ErrorKind::FileTooLarge, ErrorKind::QuotaExceeded];
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| full.contains(&error.kind())) {
            return true;
        }
        cause = error.source();
    }
    has_no_room(&error.to_string())
}

fn has_no_room(text: &str) -> bool {
    NO_ROOM.iter().any(|sign| text.contains(sign))
}

/// Says of a platform that ended for want of room which disk is full; every other end passes unchanged.
pub(crate) fn about_disk<T>(data: &DataDir, result: Result<T, Failure>) -> Result<T, Failure> {
    let why = match &result {
        Err(Failure::Refused(sentence)) if has_no_room(sentence) => sentence.clone(),
        Err(Failure::Broke(error)) if is_out_of_room(error.as_ref()) || has_no_room(&format!("{error:#}")) => {
            format!("{error:#}")
        }
        _ => return result,
    };
    Err(Failure::Refused(format!(
        "data directory {} can not be written, because its disk is full or failing; make room and start again, nothing \
         that was acknowledged is lost ({why})",
        data.root().display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_stays_one_through_other_errors() {
        let failure = Failure::from(Failure::refused("mend this").into_error().context("while starting"));
        assert!(matches!(failure, Failure::Refused(sentence) if sentence == "mend this"));
        assert!(matches!(Failure::from(anyhow::anyhow!("broke")), Failure::Broke(_)));
    }

    #[test]
    fn a_full_disk_is_told_as_one() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let full = std::io::Error::from(ErrorKind::StorageFull);
        let broke: Result<(), Failure> = Err(anyhow::Error::new(full).context("the log can not be written").into());
        let Err(Failure::Refused(sentence)) = about_disk(&data, broke) else { panic!("expected a refusal") };
        assert!(sentence.contains("disk is full"), "{sentence}");
        let other: Result<(), Failure> = Err(Failure::refused("a port is in use"));
        assert!(matches!(about_disk(&data, other), Err(Failure::Refused(sentence)) if sentence == "a port is in use"));
    }

    #[test]
    fn several_lines_become_one_sentence() {
        assert_eq!(one_line("first\n  second\n\nthird\n"), "first; second; third");
        assert_eq!(one_line("no pair \u{1b}[2J"), "no pair \\u{1b}[2J");
    }
}
