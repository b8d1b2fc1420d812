//! The log that exposures go to.

use std::fmt;
use std::sync::Arc;

use bus::Bus;
use futures::future::BoxFuture;

/// Opens the log; an error says in one sentence why it cannot be opened now.
pub type OpenLog = Arc<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Bus>, String>> + Send + Sync>;

/// The log: open already, or opened when it first answers, so that a process can start and serve its last good version
/// while the log is down.
#[derive(Clone)]
pub enum Log {
    /// Open, as in a process that runs every service.
    Open(Arc<dyn Bus>),
    /// Opened on first use, and tried again until it answers.
    Later(OpenLog),
}

impl fmt::Debug for Log {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Open(_) => "Log::Open",
            Self::Later(_) => "Log::Later",
        })
    }
}

/// A log and what became of opening it.
pub(crate) struct LateLog {
    source: Log,
    opened: tokio::sync::OnceCell<Arc<dyn Bus>>,
}

impl LateLog {
    pub(crate) fn new(source: Log) -> Self {
        Self { source, opened: tokio::sync::OnceCell::new() }
    }

    /// The log; none while it cannot be opened.
    pub(crate) async fn get(&self) -> Option<Arc<dyn Bus>> {
        match &self.source {
            Log::Open(bus) => Some(Arc::clone(bus)),
            Log::Later(open) => match self.opened.get_or_try_init(|| open()).await {
                Ok(bus) => Some(Arc::clone(bus)),
                Err(reason) => {
                    tracing::debug!(%reason, "the log can not be opened");
                    None
                }
            },
        }
    }
}
