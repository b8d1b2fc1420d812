//! `docs/sizing.md`: what was measured, and what it comes to for more developers. The document states the formulas.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context as _;

/// Everything between these lines of the document is written by `benchmarks/run sizing --write-docs`.
const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";
/// Sizes of companies.
const DEVELOPERS: [u64; 4] = [300, 3_000, 30_000, 1_000_000];
/// Suggestions that a developer's editor asks for on a working day.
const PER_DEVELOPER: f64 = 300.0;
/// Share of a day's suggestions that is asked for in its busiest hour.
const BUSIEST_HOUR: f64 = 0.2;
/// How busy processors may be in that hour.
const UTILISATION: f64 = 0.5;
/// Copies of every partition.
const COPIES: f64 = 3.0;
/// Working days of a year.
const WORKING_DAYS: f64 = 230.0;
const MEBIBYTE: f64 = (1_u64 << 20) as f64;
const GIBIBYTE: f64 = (1_u64 << 30) as f64;

/// Names of the servers beside the services.
pub(crate) struct Server;

impl Server {
    pub(crate) const KAFKA: &'static str = "Apache Kafka";
    pub(crate) const POSTGRESQL: &'static str = "PostgreSQL";
    pub(crate) const S3: &'static str = "S3 gateway";
}

/// What keeps bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stored {
    Raw,
    Clean,
    Pairs,
    Outcomes,
    Quarantine,
    Changelogs,
    Brokers,
    Copies,
    Database,
    Bucket,
}

impl Stored {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Raw => "raw telemetry",
            Self::Clean => "clean telemetry",
            Self::Pairs => "pairs",
            Self::Outcomes => "outcomes",
            Self::Quarantine => "quarantine and dead letters",
            Self::Changelogs => "changelogs",
            Self::Brokers => "the brokers' own topics",
            Self::Copies => "copies of state",
            Self::Database => "database",
            Self::Bucket => "bucket",
        }
    }

    /// Days that it is kept by default; none: its size does not follow from that.
    const fn days(self) -> Option<f64> {
        match self {
            Self::Raw => Some(1.0),
            Self::Clean => Some(7.0),
            Self::Quarantine => Some(14.0),
            Self::Pairs | Self::Outcomes => Some(180.0),
            // Compacted within hours: what a day writes is more than what stays.
            Self::Changelogs | Self::Brokers | Self::Copies => Some(1.0),
            Self::Database | Self::Bucket => None,
        }
    }

    /// Whether it lies on the brokers, in copies.
    const fn is_of_brokers(self) -> bool {
        !matches!(self, Self::Copies | Self::Database | Self::Bucket)
    }

    pub(crate) const fn note(self) -> &'static str {
        match self {
            Self::Raw => "one copy, kept 24 hours",
            Self::Clean => "one copy, kept 7 days",
            Self::Pairs | Self::Outcomes => "one copy, kept 180 days",
            Self::Quarantine => "one copy, kept 14 days",
            Self::Changelogs => "one copy, as written; compacted later",
            Self::Brokers => "positions and transactions, as written; compacted later",
            Self::Copies => "on the disks of the anonymizer and the labeler",
            Self::Database => "with indexes, without its log",
            Self::Bucket => "Parquet parts of the lake",
        }
    }
}

/// What a process used.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    pub(crate) name: &'static str,
    /// Processor seconds for 1,000 suggestions, without what it uses when idle.
    pub(crate) seconds: f64,
    /// Processors that it uses when idle.
    pub(crate) idle_cores: f64,
}

/// What was measured.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    /// Of the run: year, month and day.
    pub(crate) date: String,
    pub(crate) suggestions: u64,
    pub(crate) events_per_suggestion: f64,
    pub(crate) suggestions_per_second: f64,
    pub(crate) used: Vec<Used>,
    /// Bytes for 1,000 suggestions.
    pub(crate) stored: BTreeMap<Stored, f64>,
}

impl Figures {
    /// Processors of a service or server in the busiest hour.
    fn cores(&self, used: &Used, developers: u64) -> f64 {
        used.idle_cores + peak_per_second(developers) * used.seconds / 1000.0 / UTILISATION
    }

    /// Bytes that a day adds.
    fn per_day(&self, stored: Stored, developers: u64) -> f64 {
        per_day(developers) / 1000.0 * self.stored.get(&stored).copied().unwrap_or_default()
    }

    /// Bytes on all brokers together, once everything has been kept for as long as it may be.
    fn on_brokers(&self, developers: u64) -> f64 {
        let of_brokers = self.stored.keys().filter(|stored| stored.is_of_brokers());
        of_brokers.map(|stored| self.per_day(*stored, developers) * stored.days().unwrap_or_default()).sum::<f64>()
            * COPIES
    }
}

fn per_day(developers: u64) -> f64 {
    developers as f64 * PER_DEVELOPER
}

fn peak_per_second(developers: u64) -> f64 {
    per_day(developers) * BUSIEST_HOUR / 3600.0
}

/// Bytes, in the unit in which they have few digits.
fn size(bytes: f64) -> String {
    for (unit, name) in [(GIBIBYTE * 1024.0, "TiB"), (GIBIBYTE, "GiB"), (MEBIBYTE, "MiB")] {
        if bytes >= unit {
            return format!("{:.1} {name}", bytes / unit);
        }
    }
    format!("{:.0} KiB", bytes / 1024.0)
}

/// A number with as many places as it needs.
fn plain(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The measured part of the document.
fn measured(figures: &Figures) -> String {
    let mut text = format!(
        "Measured on {} by `benchmarks/run sizing --write-docs`: {} suggestions with {:.1} events each, {:.0}/s on one \
         machine that ran everything.\n\n| for 1,000 suggestions | processor seconds | idle processors |\n|---|---|---|\n",
        figures.date, figures.suggestions, figures.events_per_suggestion, figures.suggestions_per_second
    );
    for used in &figures.used {
        let _to_memory = writeln!(text, "| {} | {:.2} | {:.3} |", used.name, used.seconds, used.idle_cores);
    }
    text += "\n| for 1,000 suggestions | bytes | what they are |\n|---|---|---|\n";
    for (stored, bytes) in &figures.stored {
        let _to_memory = writeln!(text, "| {} | {} | {} |", stored.label(), size(*bytes), stored.note());
    }
    text += "\n| developers |";
    for developers in DEVELOPERS {
        let _to_memory = write!(text, " {developers} |");
    }
    text += "\n|---|---|---|---|---|\n";
    let mut row = |name: &str, value: &dyn Fn(u64) -> String| {
        let _to_memory = write!(text, "| {name} |");
        for developers in DEVELOPERS {
            let _to_memory = write!(text, " {} |", value(developers));
        }
        text.push('\n');
    };
    row("suggestions a day", &|developers| format!("{:.0}", per_day(developers)));
    row("suggestions/s in the busiest hour", &|developers| plain(peak_per_second(developers)));
    for used in &figures.used {
        row(&format!("processors: {}", used.name), &|developers| plain(figures.cores(used, developers)));
    }
    row("disk of all brokers", &|developers| size(figures.on_brokers(developers)));
    row("disk for copies of state", &|developers| size(figures.per_day(Stored::Copies, developers)));
    row("database, a year's growth", &|developers| size(figures.per_day(Stored::Database, developers) * WORKING_DAYS));
    row("bucket, a year's growth", &|developers| size(figures.per_day(Stored::Bucket, developers) * WORKING_DAYS));
    text
}

/// The document with these figures in it.
pub(crate) fn document(text: &str, figures: &Figures) -> anyhow::Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("docs/sizing.md has a place for what was measured")?;
    let (_, after) = rest.split_once(END).context("docs/sizing.md has an end of what was measured")?;
    Ok(format!("{before}{BEGIN}\n\n{}\n{END}{after}", measured(figures)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            date: "2026-01-31".to_owned(),
            suggestions: 2_000,
            events_per_suggestion: 7.0,
            suggestions_per_second: 50.0,
            used: vec![Used { name: "ingest", seconds: 9.0, idle_cores: 0.01 }],
            stored: BTreeMap::from([
                (Stored::Raw, 2.0 * MEBIBYTE),
                (Stored::Pairs, MEBIBYTE),
                (Stored::Copies, 8.0 * MEBIBYTE),
                (Stored::Bucket, 512.0 * 1024.0),
            ]),
        }
    }

    #[test]
    fn more_developers_cost_what_the_formulas_of_the_document_say() {
        let figures = figures();
        assert_eq!((per_day(3_000), peak_per_second(3_000)), (900_000.0, 50.0));
        // 50 suggestions/s x 9 s for 1,000, at half of the processors.
        assert!((figures.cores(&figures.used[0], 3_000) - 0.91).abs() < 1e-9);
        // 900 thousands a day: 1 day of 2 MiB and 180 days of 1 MiB, three times. The copies are on no broker.
        let expected = 900.0 * (2.0 + 180.0) * 3.0 * MEBIBYTE;
        assert!((figures.on_brokers(3_000) / expected - 1.0).abs() < 1e-9);
        assert_eq!(size(figures.per_day(Stored::Bucket, 3_000) * WORKING_DAYS), "101.1 GiB");
    }

    #[test]
    fn the_document_keeps_its_words_and_gets_the_figures() {
        let page = include_str!("../../../docs/sizing.md");
        let written = document(page, &figures()).unwrap();
        for part in ["Measured on 2026-01-31", "| ingest | 9.00 | 0.010 |", "| raw telemetry | 2.0 MiB |"] {
            assert!(written.contains(part), "{part}: {written}");
        }
        assert!(written.contains("| suggestions a day | 90000 | 900000 | 9000000 | 300000000 |"), "{written}");
        let words = |text: &str| text.split_once(BEGIN).unwrap().0.to_owned();
        assert_eq!(words(&written), words(page));
        assert_eq!(document(&written, &figures()).unwrap(), written);
    }

    #[test]
    fn the_document_states_the_assumptions_that_were_used() {
        let page = include_str!("../../../docs/sizing.md");
        for assumption in [
            format!("| `r` | {PER_DEVELOPER} |"),
            format!("| `h` | {BUSIEST_HOUR} |"),
            format!("| `u` | {UTILISATION} |"),
            format!("| `k` | {COPIES} |"),
            format!("| `w` | {WORKING_DAYS} |"),
        ] {
            assert!(page.contains(&assumption), "{assumption}");
        }
    }
}
