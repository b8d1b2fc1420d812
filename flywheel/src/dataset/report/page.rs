//! A report before it is written: the same blocks become Markdown and HTML, so that both say the same.

use labeler::statistics::Estimate;

/// A report.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Page {
    pub(super) title: String,
    /// Paragraphs before everything else.
    pub(super) lead: Vec<String>,
    pub(super) sections: Vec<Section>,
}

/// What is said about one thing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Section {
    pub(super) title: &'static str,
    /// What its figures are computed from.
    pub(super) source: String,
    pub(super) blocks: Vec<Block>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Block {
    Note(String),
    Table(Table),
    Bars(Bars),
    Intervals(Intervals),
    Curves(Curves),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self { header: header.iter().map(|name| (*name).to_owned()).collect(), rows }
    }
}

/// What a part of a bar says of what it is a part of. How it is drawn follows from this alone, so that it looks the same
/// in every bar and every report, whichever other parts there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// For it, or the only part.
    For,
    /// For some of it.
    PartlyFor,
    /// Against it.
    Against,
    /// Against it, as far as silence is.
    WeaklyAgainst,
    /// Neither.
    Neither,
    /// There was nothing to be for or against.
    Absent,
    /// Nobody knows.
    Unknown,
}

/// Counts as bars, one beneath the other, each of parts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bars {
    pub(super) title: String,
    /// The parts; one alone needs no legend.
    pub(super) parts: Vec<(String, Tone)>,
    /// Names of the bars, with the size of each part.
    pub(super) rows: Vec<(String, Vec<f64>)>,
}

impl Bars {
    /// Bars of one part.
    pub(super) fn plain(title: &str, rows: impl IntoIterator<Item = (String, usize)>) -> Self {
        let rows = rows.into_iter().map(|(name, count)| (name, vec![count as f64])).collect();
        Self { title: title.to_owned(), parts: vec![(title.to_owned(), Tone::For)], rows }
    }

    /// The largest bar, at least 1.
    pub(super) fn longest(&self) -> f64 {
        self.rows.iter().map(|(_, values)| values.iter().sum::<f64>()).fold(1.0, f64::max)
    }
}

/// Estimates with their intervals, one beneath the other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Intervals {
    pub(super) title: String,
    pub(super) rows: Vec<(String, Estimate)>,
}

impl Intervals {
    /// From the least to the greatest bound that is finite, zero included.
    pub(super) fn range(&self) -> (f64, f64) {
        let bounds = || {
            let each = |estimate: &Estimate| [estimate.low, estimate.value, estimate.high];
            self.rows.iter().flat_map(move |(_, estimate)| each(estimate)).filter(|bound| bound.is_finite())
        };
        let (low, high) = (bounds().fold(0.0, f64::min), bounds().fold(0.0, f64::max));
        if high - low > 0.0 { (low, high) } else { (0.0, 1.0) }
    }
}

/// Shares from 0 to 1 as they go on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curves {
    pub(super) title: String,
    /// Names of the places at which values stand.
    pub(super) at: Vec<String>,
    /// Names of the curves, with a value for each place.
    pub(super) lines: Vec<(String, Vec<f64>)>,
}
