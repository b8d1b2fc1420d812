//! One figure beside its baseline.

use serde::Serialize;
use simulator::driver::quantile_of;

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
    /// More than the target.
    Above,
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
            Better::Above => self.ours > target,
            Better::More => self.ours >= target,
            Better::Less => self.ours <= target,
        });
        self
    }

    /// Two lines for people: the figures, then what else to know.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "-",
        };
        format!(
            "{:<46} {:>12} {:<11} baseline {:>12}  ratio {:>7}  target {:>12}  {met}\n    {}",
            self.name,
            number(Some(self.ours)),
            self.unit,
            number(self.baseline),
            self.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            number(self.target),
            self.note
        )
    }
}

/// The median of what was measured, one of the values; not a number when there are none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile_of(&values, 0.5).unwrap_or(f64::NAN)
}

/// Says how far a benchmark is that takes long. Figures go to the standard output; this does not.
#[expect(clippy::print_stderr, reason = "a command line tool talks to its terminal")]
pub(crate) fn tell(progress: &str) {
    eprintln!("{progress}");
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

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0, 4.0]), 3.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn people_and_programs_read_the_same_fields() {
        let rate = Measurement::new("rate", 30.0, "records/s", "in batches").beside(20.0).aiming_at(25.0, Better::More);
        for part in ["rate", "30.000", "records/s", "baseline       20.000", "1.50", "25.000", "met", "in batches"] {
            assert!(rate.line().contains(part), "{part}: {}", rate.line());
        }
        let missed = Measurement::new("wall", 9.0, "s", "").aiming_at(5.0, Better::Less);
        assert!(missed.line().contains("MISSED") && missed.line().contains("baseline            -"));
        let value = serde_json::to_value(&rate).unwrap();
        let fields = ["name", "ours", "baseline", "ratio", "target", "met", "unit", "note"];
        assert_eq!(value.as_object().unwrap().len(), fields.len());
        assert!(fields.iter().all(|field| value.get(field).is_some()));
    }
}
