//! A report before it is written: the same blocks become Markdown and HTML, so that both say the same.

use labeler::statistics::Estimate;

/// A report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// Paragraphs before everything else.
    pub(crate) lead: Vec<String>,
    pub(crate) sections: Vec<Section>,
}

/// What is said about one thing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// What its figures are computed from.
    pub(crate) source: String,
    pub(crate) blocks: Vec<Block>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Block {
    Note(String),
    Table(Table),
    Bars(Bars),
    Intervals(Intervals),
    Curves(Curves),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self { header: header.iter().map(|name| (*name).to_owned()).collect(), rows }
    }
}

/// What a part of a bar says of what it is a part of. How it is drawn follows from this alone, so that it looks the same
/// in every bar and every report, whichever other parts there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
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
pub(crate) struct Bars {
    pub(crate) title: String,
    /// The parts; one alone needs no legend.
    pub(crate) parts: Vec<(String, Tone)>,
    /// Names of the bars, with the size of each part.
    pub(crate) rows: Vec<(String, Vec<f64>)>,
}

impl Bars {
    /// Bars of one part.
    pub(crate) fn plain(title: &str, rows: impl IntoIterator<Item = (String, usize)>) -> Self {
        let rows = rows.into_iter().map(|(name, count)| (name, vec![count as f64])).collect();
        Self { title: title.to_owned(), parts: vec![(title.to_owned(), Tone::For)], rows }
    }

    /// The largest bar, at least 1.
    pub(crate) fn longest(&self) -> f64 {
        self.rows.iter().map(|(_, values)| values.iter().sum::<f64>()).fold(1.0, f64::max)
    }
}

/// Estimates with their intervals, one beneath the other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Intervals {
    pub(crate) title: String,
    pub(crate) rows: Vec<(String, Estimate)>,
}

impl Intervals {
    /// From the least to the greatest bound that is finite, zero included.
    pub(crate) fn range(&self) -> (f64, f64) {
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
pub(crate) struct Curves {
    pub(crate) title: String,
    /// Names of the places at which values stand.
    pub(crate) at: Vec<String>,
    /// Names of the curves, with a value for each place.
    pub(crate) lines: Vec<(String, Vec<f64>)>,
}
