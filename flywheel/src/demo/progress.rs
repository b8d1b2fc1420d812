//! The wheel, live: one bar a stage, and the first of each thing that happens.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use events::Decision;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use simulator::driver::Played;
use simulator::{BehaviourKind, EditTask};

use super::crowd::verb;

/// Longest code line on the screen.
const LINE_CHARACTERS: usize = 100;

/// Bars and lines on standard error. Without a terminal there are lines only.
#[derive(Clone)]
pub(crate) struct Progress {
    inner: Arc<Inner>,
}

struct Inner {
    started: Instant,
    bars: MultiProgress,
    interactive: bool,
    events: ProgressBar,
    scrubbed: ProgressBar,
    opportunities: ProgressBar,
    pairs: ProgressBar,
    training: ProgressBar,
    evaluation: ProgressBar,
    canary: ProgressBar,
    seen_suggestion: AtomicBool,
    seen_accept: AtomicBool,
    seen_correction: AtomicBool,
}

fn bar(bars: &MultiProgress, name: &'static str, template: &str) -> ProgressBar {
    let bar = bars.add(ProgressBar::new(0));
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(name);
    bar
}

impl Progress {
    pub(crate) fn new() -> Self {
        let interactive = std::io::stderr().is_terminal();
        let target = if interactive { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        let counter = "  {prefix:<14} {pos:>8}  {msg}";
        let measured = "  {prefix:<14} [{bar:30}] {pos}/{len}  {msg}";
        let inner = Inner {
            started: Instant::now(),
            interactive,
            events: bar(&bars, "events", counter),
            scrubbed: bar(&bars, "scrubbed", counter),
            opportunities: bar(&bars, "opportunities", counter),
            pairs: bar(&bars, "pairs", counter),
            training: bar(&bars, "training", measured),
            evaluation: bar(&bars, "evaluation", measured),
            canary: bar(&bars, "canary", counter),
            bars,
            seen_suggestion: AtomicBool::new(false),
            seen_accept: AtomicBool::new(false),
            seen_correction: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A line above the bars.
    pub(crate) fn say(&self, line: &str) {
        let stamped = format!("[{:>6.1} s] {line}", self.inner.started.elapsed().as_secs_f64());
        if self.inner.interactive {
            // A terminal that went away is no reason to stop.
            let _shown = self.inner.bars.println(stamped);
        } else {
            let _shown = writeln!(std::io::stderr(), "{stamped}");
        }
    }

    /// Events that were sent.
    pub(crate) fn sent(&self, count: u64) {
        self.inner.events.inc(count);
    }

    /// What the stages behind the doors have done so far.
    pub(crate) fn stages(&self, scrubbed: u64, pairs: u64) {
        self.inner.scrubbed.set_position(scrubbed);
        self.inner.pairs.set_position(pairs);
    }

    /// One opportunity; the first suggestion, accept and correction are shown in full.
    pub(crate) fn opportunity(&self, task: &EditTask, played: &Played) {
        self.inner.opportunities.inc(1);
        let end = &played.answer.end;
        if end.decision != Decision::Shown {
            return;
        }
        let Some(action) = played.served.actions.first() else { return };
        let first = |seen: &AtomicBool| !seen.load(Ordering::Relaxed) && !seen.swap(true, Ordering::Relaxed);
        let line = || {
            let start = usize::try_from(action.range.start).unwrap_or(0);
            let text = task.base_document.get(..start).unwrap_or_default();
            let line_start = text.rfind('\n').map_or(0, |at| at + 1);
            let line = task.base_document.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
            shorten(line.trim())
        };
        if first(&self.inner.seen_suggestion) {
            self.say(&format!(
                "first suggestion (version {}): `{}`: {} -> {}",
                end.model_version,
                line(),
                action.old_text,
                action.new_text
            ));
        }
        let kind = played.behaviour.kind;
        if kind == BehaviourKind::Accepted && first(&self.inner.seen_accept) {
            self.say(&format!(
                "first accept: `{}`: {} -> {}: {}",
                line(),
                action.old_text,
                action.new_text,
                verb(played)
            ));
        }
        let corrected =
            matches!(kind, BehaviourKind::EscapedThenTyped | BehaviourKind::TypedAgainst | BehaviourKind::Mended);
        if let Some(wanted) = task.wanted.actions.first().filter(|_| corrected)
            && first(&self.inner.seen_correction)
        {
            self.say(&format!(
                "first correction: `{}`: suggested {}, the developer wrote {} ({})",
                line(),
                action.new_text,
                wanted.new_text,
                verb(played)
            ));
        }
    }

    /// A training step.
    pub(crate) fn training(&self, step: u64, steps: u64, loss: Option<f64>) {
        self.inner.training.set_length(steps);
        self.inner.training.set_position(step);
        self.inner.training.set_message(loss.map_or(String::new(), |loss| format!("loss {loss:.3}")));
    }

    /// Opportunities that the gate has judged.
    pub(crate) fn evaluation(&self, judged: u64, of: u64) {
        self.inner.evaluation.set_length(of);
        self.inner.evaluation.set_position(judged);
    }

    /// Evidence of the rollout.
    pub(crate) fn canary(&self, block: u64, message: String) {
        self.inner.canary.set_position(block);
        self.inner.canary.set_message(message);
    }

    /// Takes the bars off the screen.
    pub(crate) fn finish(&self) {
        for bar in [
            &self.inner.events,
            &self.inner.scrubbed,
            &self.inner.opportunities,
            &self.inner.pairs,
            &self.inner.training,
            &self.inner.evaluation,
            &self.inner.canary,
        ] {
            bar.finish();
        }
    }
}

/// Cuts a line of code to what fits on a screen.
pub(crate) fn shorten(line: &str) -> String {
    if line.chars().count() <= LINE_CHARACTERS {
        return line.to_owned();
    }
    let cut: String = line.chars().take(LINE_CHARACTERS - 3).collect();
    format!("{cut}...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_on_characters() {
        assert_eq!(shorten("short"), "short");
        let cut = shorten(&"é".repeat(200));
        assert_eq!(cut.chars().count(), LINE_CHARACTERS);
        assert!(cut.ends_with("..."));
    }
}
