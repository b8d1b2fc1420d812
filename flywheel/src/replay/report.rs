//! What a replay found: as JSON, and as a page of tables and plots.

use labeler::statistics::Estimate;
use serde::{Deserialize, Serialize};
use simulator::history::{HistoryClass, HistorySummary};
use trainer::gate::GateReport;

use super::answers::{Difference, FEWEST_CHANGES, Figures, Threshold};
use super::overlap::Overlap;
use super::plan::Plan;
use super::windows::Window;
use crate::report::{Block, Curves, Intervals, Page, Section, Table};

/// The form of the JSON; later ones only add.
pub(super) const SCHEMA: u32 = 1;

/// What kind of a version is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Learning-free.
    Baseline,
    /// The frozen base.
    Base,
    /// On each window the newest version that the gate had let through, else the base.
    Served,
    /// Learned from the windows up to one.
    Trained,
}

/// Who is scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// The last window that it learned from.
    pub(super) trained_through: Option<usize>,
    /// Pairs that it learned from.
    pub(super) training_pairs: Option<usize>,
    /// Of them those that want silence.
    pub(super) silent_pairs: Option<usize>,
    pub(super) training_seconds: Option<f64>,
    pub(super) model_digest: Option<String>,
    /// Share of old tasks that it answers exactly, and that its parent, which served then, does.
    pub(super) old_skills: Option<(f64, f64)>,
    /// What the gate says of it, by what was held out of the windows that it learned from.
    pub(super) gate: Option<GateReport>,
    /// From where on it should have spoken there.
    pub(super) thresholds: Option<Thresholds>,
    /// Why training made none.
    pub(super) failed: Option<String>,
    pub(super) scores: Vec<Score>,
}

/// A version on a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Score {
    pub(super) window: usize,
    #[serde(flatten)]
    pub(super) figures: Figures,
    /// Differences in utility on the same points.
    pub(super) differences: Vec<Difference>,
    /// From its own threshold on.
    pub(super) calibrated: Option<Calibrated>,
    /// The best of all thresholds on this very window: what nobody could have known.
    pub(super) best: Option<Threshold>,
}

/// The thresholds of the greatest utility at the points that judged a version.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Thresholds {
    pub(super) points: usize,
    pub(super) own: Threshold,
    /// The base's, at the same points.
    pub(super) base: Threshold,
}

/// A version on a window from its own threshold on, beside the base from its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Calibrated {
    #[serde(flatten)]
    pub(super) figures: Figures,
    pub(super) against_base: Difference,
}

/// What would have been served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Serving {
    /// By window, from the first on.
    pub(super) versions: Vec<String>,
    /// Its differences over all windows but the first.
    pub(super) claims: Vec<Difference>,
}

/// Everything that a replay found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) schema: u32,
    pub(super) code_version: String,
    /// Whether everything that was planned is done.
    pub(super) complete: bool,
    /// What is not, in words.
    pub(super) not_done: Vec<String>,
    pub(super) source: HistorySummary,
    pub(super) plan: Plan,
    pub(super) base_digest: String,
    pub(super) overlap: Overlap,
    pub(super) windows: Vec<Window>,
    pub(super) versions: Vec<Version>,
    pub(super) served: Serving,
    /// On each window the newest version that learned from earlier ones alone, let through or not: its differences over
    /// all windows.
    pub(super) claims: Vec<Difference>,
    /// The same from its own threshold on, and the base from its own at the same points.
    pub(super) calibrated_claims: Vec<Difference>,
    /// Seconds that this call took.
    pub(super) seconds: f64,
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn interval(difference: &Difference) -> String {
    if difference.low.is_finite() && difference.high.is_finite() {
        format!("{:+.4} [{:+.4}, {:+.4}]", difference.estimate, difference.low, difference.high)
    } else {
        format!("{:+.4} (too few changes for an interval)", difference.estimate)
    }
}

fn estimate(difference: &Difference) -> Estimate {
    Estimate { value: difference.estimate, low: difference.low, high: difference.high }
}

impl Report {
    /// As a page.
    pub(super) fn page(&self) -> Page {
        Page {
            title: format!("Replay of {}", self.source.repository),
            lead: self.lead(),
            sections: vec![
                self.claims_section(),
                self.gate_section(),
                self.utility_section(),
                self.answers_section(),
                self.history_section(),
            ],
        }
    }

    fn lead(&self) -> Vec<String> {
        let what = match self.source.class {
            HistoryClass::Commits => "commits",
            HistoryClass::Releases => "files changed between successive releases, a class of its own",
        };
        let mut lead = vec![format!(
            "The history of {} up to {}: {} usable {what} in {} windows, replayed in order. Each version learned by {} \
             from the windows before it, as a job of the wheel does, and is scored on every later one, beside the frozen \
             base and two baselines that learn nothing. Differences are of utility per point on the same points; intervals \
             are 95%, by change.",
            self.source.repository,
            self.source.head.chars().take(12).collect::<String>(),
            self.source.changes,
            self.windows.len(),
            self.plan.training.method.name(),
        )];
        if !self.complete {
            lead.push(format!("Not everything is done: {}. The same command goes on.", self.not_done.join("; ")));
        }
        lead
    }

    fn claims_section(&self) -> Section {
        let is_base = |version: &String| version == super::BASE;
        let mut served = format!("Served, window by window: {}.", self.served.versions.join(", "));
        if self.served.versions.len() > 1 && self.served.versions.iter().all(is_base) {
            served.push_str(" The gate let no version through in time: nothing that was learned reached anybody.");
        }
        let mut blocks = vec![Block::Note(served)];
        let parts = [
            ("What was served: the newest version that the gate had let through, else the base.", &self.served.claims),
            ("The newest version that had learned from earlier windows, let through or not.", &self.claims),
            (
                "The same from a threshold of its own on, the best where it was judged, and the base from its own, \
                 found at the same points. Serving has one threshold for all versions: this shows what was learned \
                 besides how often to speak.",
                &self.calibrated_claims,
            ),
        ];
        let titles = ["served", "newest", "newest, calibrated"];
        let mut intervals = Vec::new();
        for ((text, claims), title) in parts.into_iter().zip(titles) {
            if claims.is_empty() {
                continue;
            }
            let rows =
                claims.iter().map(|claim| vec![claim.against.clone(), interval(claim), claim.changes.to_string()]);
            blocks.push(Block::Note(text.to_owned()));
            let header = ["against", "difference in utility", "changes"];
            blocks.push(Block::Table(Table::new(&header, rows.collect())));
            intervals.extend(claims.iter().map(|claim| (format!("{title} - {}", claim.against), estimate(claim))));
        }
        if intervals.is_empty() {
            blocks.push(Block::Note("No version was scored on a later window.".to_owned()));
        } else {
            let title = "each minus what it is compared with".to_owned();
            blocks.push(Block::Intervals(Intervals { title, rows: intervals }));
        }
        Section { title: "What was learned in time", source: "every window after the first".to_owned(), blocks }
    }

    /// Why each version was or was not served, and from where on it should have spoken.
    fn gate_section(&self) -> Section {
        let speaks = |threshold: Threshold| {
            if threshold.threshold > 1.0 { "never".to_owned() } else { format!("{:.3}", threshold.threshold) }
        };
        let judged = |version: &Version| {
            let gate = version.gate.as_ref()?;
            let of = |value: fn(Thresholds) -> Threshold| {
                version.thresholds.map_or_else(|| "-".to_owned(), |thresholds| speaks(value(thresholds)))
            };
            let bound = |value: f64| if value.is_finite() { format!("{value:+.4}") } else { "-".to_owned() };
            Some(vec![
                version.name.clone(),
                gate.reason(),
                gate.opportunities.to_string(),
                format!("{:+.4} [{}, {}]", gate.estimate, bound(gate.low), bound(gate.high)),
                format!("{} ({})", percent(gate.shown_rate_candidate), percent(gate.shown_rate_parent)),
                gate.calibration_error.map_or_else(|| "-".to_owned(), |error| format!("{error:.3}")),
                of(|thresholds| thresholds.own),
                of(|thresholds| thresholds.base),
            ])
        };
        let rows = self.versions.iter().filter_map(judged).collect();
        let header = [
            "version",
            "gate",
            "held out",
            "minus parent",
            "shown (parent)",
            "calibration error",
            "threshold",
            "base's",
        ];
        let note = format!(
            "Every version is served from {} on. Threshold: the gate score from which on it would have had the greatest \
             utility where it was judged, and the base at the same points.",
            self.plan.threshold
        );
        Section {
            title: "The gate",
            source: "the newest points of the windows that a version learned from, held out of what it learned"
                .to_owned(),
            blocks: vec![Block::Note(note), Block::Table(Table::new(&header, rows))],
        }
    }

    /// Versions and windows in a table, then as curves.
    fn utility_section(&self) -> Section {
        let header: Vec<String> = std::iter::once("version".to_owned())
            .chain(self.windows.iter().map(|one| one.number.to_string()))
            .collect();
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let rows = (self.versions.iter())
            .map(|version| {
                let cell = |window: &Window| {
                    let score = version.scores.iter().find(|score| score.window == window.number);
                    score.map_or_else(|| "-".to_owned(), |score| format!("{:+.4}", score.figures.utility))
                };
                std::iter::once(version.name.clone()).chain(self.windows.iter().map(cell)).collect()
            })
            .collect();
        let mut blocks = vec![
            Block::Note(
                "Utility per point: +0.75 right, -0.25 shown and not right, 0 silent. A dash: learned from it."
                    .to_owned(),
            ),
            Block::Table(Table::new(&header, rows)),
        ];
        let last = self.windows.last().map_or(0, |window| window.number);
        let on_last: Vec<_> = (self.versions.iter())
            .filter_map(|version| Some((version, version.scores.iter().find(|score| score.window == last)?)))
            .collect();
        let differences: Vec<(String, Estimate)> = on_last
            .iter()
            .filter_map(|(version, score)| {
                let base = score.differences.iter().find(|difference| difference.against == super::BASE)?;
                Some((version.name.clone(), estimate(base)))
            })
            .collect();
        if !differences.is_empty() {
            let title = "on the last window, minus the base".to_owned();
            blocks.push(Block::Intervals(Intervals { title, rows: differences }));
        }
        Section { title: "Versions and windows", source: "the first action at every point".to_owned(), blocks }
    }

    fn answers_section(&self) -> Section {
        let mut rows = Vec::new();
        let mut others = Vec::new();
        for version in &self.versions {
            for Score { window, figures, differences, calibrated, best } in &version.scores {
                let against_base = differences.iter().find(|difference| difference.against == super::BASE);
                rows.push(vec![
                    version.name.clone(),
                    window.to_string(),
                    figures.points.to_string(),
                    percent(figures.edits_shown),
                    percent(1.0 - figures.silent),
                    percent(figures.place),
                    percent(figures.content),
                    against_base.map_or_else(|| "-".to_owned(), interval),
                ]);
                let (Some(own), Some(best)) = (calibrated, best) else { continue };
                others.push(vec![
                    version.name.clone(),
                    window.to_string(),
                    percent(own.figures.edits_shown),
                    percent(1.0 - own.figures.silent),
                    percent(own.figures.content),
                    format!("{:+.4}", own.figures.utility),
                    interval(&own.against_base),
                    format!("{:+.4}", best.utility),
                ]);
            }
        }
        let header = ["version", "window", "points", "shown", "shown in vain", "place", "content", "minus the base"];
        let note = "Shown, in a right place, exactly right: of the points that want an edit. Shown in vain: of those that \
                    want none.";
        let mut blocks = vec![Block::Note(note.to_owned()), Block::Table(Table::new(&header, rows))];
        if !others.is_empty() {
            let header = [
                "version",
                "window",
                "shown",
                "shown in vain",
                "content",
                "utility",
                "minus the base from its own",
                "best",
            ];
            let note = "From the version's own threshold on. Best: the utility of the threshold that is best on this very \
                        window, which nobody could have known.";
            blocks.push(Block::Note(note.to_owned()));
            blocks.push(Block::Table(Table::new(&header, others)));
        }
        // Only who is scored on every window has a value at each place of a curve.
        let whole = self.versions.iter().filter(|version| version.scores.len() == self.windows.len());
        let lines: Vec<(String, Vec<f64>)> = whole
            .map(|version| (version.name.clone(), version.scores.iter().map(|score| score.figures.content).collect()))
            .collect();
        if !lines.is_empty() {
            let at = self.windows.iter().map(|window| window.number.to_string()).collect();
            blocks.push(Block::Curves(Curves {
                title: "exactly right, of points that want an edit".to_owned(),
                at,
                lines,
            }));
        }
        Section { title: "Place and content", source: "the first action at every point".to_owned(), blocks }
    }

    fn history_section(&self) -> Section {
        let windows = (self.windows.iter())
            .map(|window| {
                let short = |id: &str| id.chars().take(40).collect::<String>();
                vec![
                    window.number.to_string(),
                    short(&window.first_change),
                    short(&window.last_change),
                    window.changes.to_string(),
                    window.changes_drawn.to_string(),
                    window.points.to_string(),
                ]
            })
            .collect();
        let trained = (self.versions.iter())
            .filter(|version| version.kind == Kind::Trained)
            .map(|version| {
                let number = |value: Option<usize>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
                vec![
                    version.name.clone(),
                    number(version.trained_through),
                    number(version.training_pairs),
                    number(version.silent_pairs),
                    version.training_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0}")),
                    version.old_skills.map_or_else(
                        || "-".to_owned(),
                        |(own, parent)| format!("{} ({})", percent(own), percent(parent)),
                    ),
                    version.failed.clone().unwrap_or_default(),
                ]
            })
            .collect();
        let left_out = (self.source.left_out.counts())
            .map(|(reason, count)| vec![reason.words().to_owned(), count.to_string()])
            .collect();
        Section {
            title: "The history",
            source: format!("{} bytes of text; {} found", self.source.bytes, self.source.found),
            blocks: vec![
                Block::Table(Table::new(&["window", "first", "last", "changes", "drawn", "points"], windows)),
                Block::Table(Table::new(
                    &[
                        "version",
                        "learned to window",
                        "pairs",
                        "want silence",
                        "seconds",
                        "old skills (parent)",
                        "failed",
                    ],
                    trained,
                )),
                Block::Table(Table::new(&["left out", "how many"], left_out)),
                Block::Note(self.overlap_text()),
                Block::Note(format!(
                    "An interval needs {FEWEST_CHANGES} changes. This call took {:.0} s.",
                    self.seconds
                )),
            ],
        }
    }

    fn overlap_text(&self) -> String {
        let names = match &self.overlap.packages {
            None => "It is not known which packages the base learned from.".to_owned(),
            Some(packages) if packages.is_empty() => "No package of the base has a name that is found here.".to_owned(),
            Some(packages) => {
                format!("The base learned from packages of names that are found here: {}.", packages.join(", "))
            }
        };
        let text = match &self.overlap.text {
            Some(text) => {
                format!(" Of {} points {} show mostly lines that the base has read.", text.points, text.points_known)
            }
            None => String::new(),
        };
        let not_checked =
            self.overlap.not_checked.as_ref().map(|why| format!(" Not compared: {why}.")).unwrap_or_default();
        names + &text + &not_checked
    }
}
