//! How far a long command is, for people: one bar on standard error, where that is a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use trainer_orchestrator::data_set::watch::Watch;

use crate::visible::visible;

/// How often a bar that spins is drawn.
const TICK: Duration = Duration::from_millis(200);

/// A bar; without a terminal nothing is shown. A clone is the same bar.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        Self { bar }
    }

    /// A bar that turns for as long as something goes on of which nobody knows how much there is.
    pub(crate) fn spinning() -> Self {
        let progress = Self::new();
        progress.bar.set_style(ProgressStyle::default_spinner());
        progress.bar.enable_steady_tick(TICK);
        progress
    }

    /// What goes on; a name in it can not command the terminal.
    pub(crate) fn say(&self, what: &str) {
        self.bar.set_message(visible(what));
    }

    /// What is done next, and of how many; none: nobody knows how many.
    pub(crate) fn begin(&self, what: &'static str, of: Option<u64>) {
        let template = match of {
            Some(_) => "  {msg:<26} [{bar:30}] {pos}/{len}",
            None => "  {msg:<26} {pos:>10}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style.progress_chars("=> "));
        self.bar.set_length(of.unwrap_or_default());
        self.bar.set_position(0);
        self.bar.set_message(what);
    }

    /// So many more are done.
    pub(crate) fn advance(&self, count: u64) {
        self.bar.inc(count);
    }

    /// So many are done.
    pub(crate) fn reached(&self, count: u64) {
        self.bar.set_position(count);
    }

    /// Takes the bar off the screen.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Progress {
    fn begin(&self, what: &'static str, of: Option<u64>) {
        self.begin(what, of);
    }

    fn advance(&self, count: u64) {
        self.advance(count);
    }
}
