//! One figure beside its baseline.

use serde::Serialize;

/// What a benchmark prints and writes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measurement {
    /// What was measured.
    pub(crate) name: String,
    /// Our figure.
    pub(crate) ours: f64,
    /// The baseline's figure, measured in the same run; none when nothing comparable runs here.
    pub(crate) baseline: Option<f64>,
    /// ours / baseline.
    pub(crate) ratio: Option<f64>,
    /// What was aimed at, in `unit`.
    pub(crate) target: Option<f64>,
    /// Whether the target is met.
    pub(crate) met: Option<bool>,
    /// Unit of `ours`, `baseline` and `target`.
    pub(crate) unit: String,
    /// What the baseline is, and what else to know.
    pub(crate) note: String,
}

/// Which side of a target is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// At least the target.
    More,
    /// At most the target.
    Less,
}

impl Measurement {
    /// A figure without baseline or target.
    pub(crate) fn new(name: impl Into<String>, ours: f64, unit: impl Into<String>, note: impl Into<String>) -> Self {
        let (name, unit, note) = (name.into(), unit.into(), note.into());
        Self { name, ours, baseline: None, ratio: None, target: None, met: None, unit, note }
    }

    /// Adds the baseline's figure.
    #[must_use]
    pub(crate) fn beside(mut self, baseline: f64) -> Self {
        self.baseline = Some(baseline);
        self.ratio = (baseline != 0.0).then(|| self.ours / baseline);
        self
    }

    /// Adds a target.
    #[must_use]
    pub(crate) fn aiming_at(mut self, target: f64, better: Better) -> Self {
        self.target = Some(target);
        self.met = Some(match better {
            Better::More => self.ours >= target,
            Better::Less => self.ours <= target,
        });
        self
    }

    /// One line for people.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        let mut line = format!("{:<44} {:>12.3} {}", self.name, self.ours, self.unit);
        if let (Some(baseline), Some(ratio)) = (self.baseline, self.ratio) {
            line.push_str(&format!("   baseline {baseline:.3}, ratio {ratio:.2}"));
        }
        if let (Some(target), Some(met)) = (self.target, self.met) {
            line.push_str(&format!("   target {target} {}", if met { "met" } else { "MISSED" }));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratio_and_target_follow_from_the_figures() {
        let rate = Measurement::new("rate", 30.0, "records/s", "").beside(20.0).aiming_at(25.0, Better::More);
        assert_eq!((rate.ratio, rate.met), (Some(1.5), Some(true)));
        let latency = Measurement::new("latency", 30.0, "ms", "").beside(0.0).aiming_at(25.0, Better::Less);
        assert_eq!((latency.ratio, latency.met), (None, Some(false)));
    }
}
