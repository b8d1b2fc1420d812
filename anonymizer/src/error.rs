//! Why the service cannot run.

/// Why the service cannot run. What happens to single events is a disposition, not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnonymizerError {
    /// A setting cannot be used.
    #[error("anonymizer.{key}: expected {expected}")]
    Setting {
        /// Its name.
        key: &'static str,
        /// What would do.
        expected: &'static str,
    },
    /// The table of rules does not compile.
    #[error("scrubbing rules: {0}")]
    Rules(#[from] regex::Error),
    /// The bus cannot run the step.
    #[error("anonymizer: {0}")]
    Bus(#[from] bus::BusError),
}
