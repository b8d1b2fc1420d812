//! Tracing. Started before anything else, so that errors of the configuration show too; therefore configured by
//! variables (`FLYWHEEL_LOG`, `FLYWHEEL_LOG_FORMAT`) alone.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// What is logged when nobody says otherwise.
pub const DEFAULT_FILTER: &str = "info";

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogTarget {
    /// Standard error.
    #[default]
    StandardError,
    /// Appended to a file, for a terminal that shows something else.
    File(PathBuf),
}

/// How to start tracing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryOptions {
    /// Directives as `tracing_subscriber::EnvFilter` reads them.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
    /// Where it goes.
    pub target: LogTarget,
}

impl Default for TelemetryOptions {
    fn default() -> Self {
        Self { filter: DEFAULT_FILTER.to_owned(), format: LogFormat::default(), target: LogTarget::default() }
    }
}

impl TelemetryOptions {
    /// Reads `FLYWHEEL_LOG` (directives) and `FLYWHEEL_LOG_FORMAT` (`text` or `json`).
    ///
    /// # Errors
    /// A format that does not exist.
    pub fn from_environment(environment: impl Iterator<Item = (String, String)>) -> Result<Self, TelemetryError> {
        let mut options = Self::default();
        for (name, value) in environment {
            match name.as_str() {
                "FLYWHEEL_LOG" if !value.is_empty() => options.filter = value,
                "FLYWHEEL_LOG_FORMAT" => {
                    options.format = match value.as_str() {
                        "text" | "" => LogFormat::Text,
                        "json" => LogFormat::Json,
                        _ => return Err(TelemetryError::Format { value }),
                    };
                }
                _ => {}
            }
        }
        Ok(options)
    }
}

/// Tracing that cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// An unknown format.
    #[error("variable FLYWHEEL_LOG_FORMAT: expected text or json, got \"{value}\"")]
    Format {
        /// What was asked for.
        value: String,
    },
    /// Directives that do not parse.
    #[error("variable FLYWHEEL_LOG: {source}")]
    Filter {
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The log file cannot be opened.
    #[error("cannot open the log file {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody was first.
    #[error("tracing was already started in this process")]
    AlreadyStarted,
}

/// Starts tracing for the whole process; panics are logged too, without what they may have been formatted from.
///
/// # Errors
/// Options that do not work, or a second start.
pub fn init(options: &TelemetryOptions) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(&options.filter).map_err(|source| TelemetryError::Filter { source })?;
    let (writer, colors) = match &options.target {
        LogTarget::StandardError => {
            (BoxMakeWriter::new(std::io::stderr), std::io::IsTerminal::is_terminal(&std::io::stderr()))
        }
        LogTarget::File(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| TelemetryError::File { path: path.clone(), source })?;
            (BoxMakeWriter::new(Mutex::new(file)), false)
        }
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colors);
    match options.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|_| TelemetryError::AlreadyStarted)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let thread = std::thread::current();
        tracing::error!(place, text = fixed_text(panic.payload()), thread = thread.name(), "a panic");
    }));
    Ok(())
}

/// The text of a panic when it stands in the program. One that was formatted may hold what must never be logged: the
/// text in which a slice went wrong is part of its message.
fn fixed_text(payload: &(dyn std::any::Any + Send)) -> Option<&'static str> {
    payload.downcast_ref::<&'static str>().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formatted_panic_is_not_told() {
        let payload = |panic: fn()| std::panic::catch_unwind(panic).unwrap_err();
        assert_eq!(fixed_text(&*payload(|| panic!("no such place"))), Some("no such place"));
        let code = payload(|| {
            let text = String::from("let ä = secret;");
            let _ = &text[..std::hint::black_box(5)];
        });
        assert!(code.downcast_ref::<String>().unwrap().contains("secret"), "the reason for all this");
        assert_eq!(fixed_text(&*code), None);
    }

    #[test]
    fn options_come_from_two_variables() {
        let environment = |pairs: &[(&str, &str)]| {
            TelemetryOptions::from_environment(
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            )
        };
        assert_eq!(environment(&[("OTHER", "x")]).unwrap(), TelemetryOptions::default());
        let options = environment(&[("FLYWHEEL_LOG", "bus=debug"), ("FLYWHEEL_LOG_FORMAT", "json")]).unwrap();
        assert_eq!((options.filter.as_str(), options.format), ("bus=debug", LogFormat::Json));
        insta::assert_snapshot!(environment(&[("FLYWHEEL_LOG_FORMAT", "xml")]).unwrap_err().to_string());
        let bad = TelemetryOptions { filter: "a=b=c".to_owned(), ..TelemetryOptions::default() };
        insta::assert_snapshot!(init(&bad).unwrap_err().to_string());
    }
}
