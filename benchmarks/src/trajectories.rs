//! Making trajectories of source code, beside parsing the same files and nothing else.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use simulator::trajectory::language::Parsers;
use simulator::trajectory::{BuildSettings, CodeCorpus, CorpusSettings, TrajectoryReport, TrajectoryWriter, build};

use crate::measurement::{Better, Measurement, median};

/// Rounds measured; the median is reported.
const ROUNDS: usize = 5;
/// Source that a core has to get through in a second.
const MEGABYTES: f64 = 5.0;

/// Seconds to read every usable file and parse it once; its bytes.
fn parse(corpus: &CodeCorpus) -> anyhow::Result<(f64, u64)> {
    let started = Instant::now();
    let (mut parsers, mut bytes) = (Parsers::default(), 0);
    for number in 0..corpus.len() {
        if let Ok((file, text)) = corpus.read(number)? {
            parsers.parse(file.language, &text, None)?;
            bytes += file.bytes;
        }
    }
    Ok((started.elapsed().as_secs_f64(), bytes))
}

/// Seconds to make all trajectories on one thread and write them.
fn make(corpus: &CodeCorpus, output: &Path) -> anyhow::Result<(f64, TrajectoryReport)> {
    let settings = BuildSettings { threads: 1, ..BuildSettings::default() };
    let started = Instant::now();
    let mut writer = TrajectoryWriter::create(output)?;
    let report = build(corpus, &settings, &|_| (), &mut |built| writer.add(&built))?;
    writer.finish("benchmark", &[], &settings, &report)?;
    Ok((started.elapsed().as_secs_f64(), report))
}

/// Bytes a second of one core, reading and writing included. Without `corpus`, the demo's.
pub(crate) fn measure(corpus: Option<&Path>) -> anyhow::Result<Vec<Measurement>> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/corpus");
    let folder = corpus.unwrap_or(&own);
    let corpus = CodeCorpus::open(folder, CorpusSettings::default())?;
    let output = tempfile::tempdir()?;
    let (mut parsed, mut made, mut last) = (Vec::new(), Vec::new(), None);
    for round in 0..ROUNDS {
        let (seconds, bytes) = parse(&corpus)?;
        parsed.push(bytes as f64 / 1e6 / seconds);
        let (seconds, report) = make(&corpus, &output.path().join(round.to_string()))?;
        made.push(report.bytes as f64 / 1e6 / seconds);
        last = Some(report);
    }
    let report = last.context("no round was measured")?;
    let steps: u64 = report.patterns.iter().map(|count| count.steps).sum();
    let rate = Measurement::new(
        "trajectories: source",
        median(made),
        "MB/s/core",
        format!(
            "{} trajectories, {steps} steps, of {:.1} MB in {} files; one thread, read, verified and written; baseline: \
             reading and parsing each file once; median of {ROUNDS} rounds",
            report.trajectories(),
            report.bytes as f64 / 1e6,
            report.files
        ),
    );
    Ok(vec![rate.beside(median(parsed)).aiming_at(MEGABYTES, Better::More)])
}
