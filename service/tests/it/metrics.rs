//! `docs/metrics.md` says what the code records, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use service::metrics::install;

/// What labels may hold. Persons, sessions, repositories, paths and text are not among them, and must not be.
const LABELS: [&str; 22] = [
    "arm",
    "code",
    "decision",
    "disposition",
    "door",
    "engine",
    "kind",
    "method",
    "model",
    "outcome",
    "partition",
    "reason",
    "reconciler",
    "rule",
    "signal",
    "sink",
    "status",
    "step",
    "tenant",
    "topic",
    "trigger",
    "version",
];
/// More labels of single metrics.
const MORE_LABELS: [&str; 2] = ["test", "verdict"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Metric {
    kind: String,
    /// None when the code hands over a list that is made elsewhere.
    labels: Option<BTreeSet<String>>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The text up to the parenthesis that closes the one before it.
fn arguments(text: &str) -> &str {
    let mut depth = 1;
    for (place, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..place];
        }
    }
    text
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once('"')?;
    rest.split_once('"')
}

fn recorded() -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let mut files = Vec::new();
    for room in std::fs::read_dir(root()).unwrap() {
        let source = room.unwrap().path().join("src");
        if source.is_dir() {
            sources(&source, &mut files);
        }
    }
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for kind in ["counter", "gauge", "histogram"] {
            for call in text.split(&format!("{kind}!(")).skip(1) {
                let call = arguments(call);
                let (name, rest) = quoted(call).unwrap_or_else(|| panic!("{}: {kind}!({call})", file.display()));
                let labels = (!rest.contains('&')).then(|| {
                    let mut labels = BTreeSet::new();
                    let mut rest = rest;
                    while let Some((label, after)) = quoted(rest) {
                        if after.trim_start().starts_with("=>") {
                            labels.insert(label.to_owned());
                        }
                        rest = after;
                    }
                    labels
                });
                let metric = Metric { kind: kind.to_owned(), labels };
                let known = metrics.entry(name.to_owned()).or_insert_with(|| metric.clone());
                assert_eq!(*known, metric, "{name} is recorded in two ways, one of them in {}", file.display());
            }
        }
    }
    metrics
}

fn documented() -> BTreeMap<String, Metric> {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let metrics: Vec<(String, Metric)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            assert!(cells.len() == 4 && !cells[3].is_empty(), "{row}");
            let names = |cell: &str| -> BTreeSet<String> {
                cell.split(',')
                    .map(|name| name.trim().trim_matches('`').to_owned())
                    .filter(|name| !name.is_empty())
                    .collect()
            };
            let name = names(cells[0]).pop_first().unwrap();
            (name, Metric { kind: cells[1].to_owned(), labels: Some(names(cells[2])) })
        })
        .collect();
    let count = metrics.len();
    let metrics: BTreeMap<String, Metric> = metrics.into_iter().collect();
    assert_eq!(metrics.len(), count, "a metric stands twice in docs/metrics.md");
    metrics
}

#[test]
fn the_page_and_the_code_agree() {
    let (recorded, documented) = (recorded(), documented());
    assert!(recorded.len() > 50, "the scan finds too little: {recorded:?}");
    for (name, metric) in &recorded {
        let Some(page) = documented.get(name) else {
            panic!("docs/metrics.md lacks a row for `{name}`: {metric:?}");
        };
        assert_eq!(page.kind, metric.kind, "{name}");
        if let Some(labels) = &metric.labels {
            assert_eq!(page.labels.as_ref(), Some(labels), "{name}");
        }
    }
    for name in documented.keys() {
        assert!(recorded.contains_key(name), "docs/metrics.md has `{name}`, which nobody records");
    }
}

#[test]
fn names_tell_room_and_unit_and_labels_tell_no_person() {
    let rooms = ["anonymizer", "bus", "ingest", "labeler", "orchestrator", "registry", "service", "serving", "trainer"];
    for (name, metric) in documented() {
        let words: Vec<&str> = name.split('_').collect();
        assert!(words.len() >= 3 && words[0] == "flywheel" && rooms.contains(&words[1]), "{name}");
        assert_eq!(metric.kind == "counter", name.ends_with("_total"), "{name}: counters alone end in _total");
        for label in metric.labels.unwrap() {
            assert!(LABELS.contains(&&*label) || MORE_LABELS.contains(&&*label), "{name}: label {label}");
        }
    }
}

#[test]
fn every_histogram_has_buckets() {
    let handle = install().unwrap();
    for (name, metric) in recorded() {
        if metric.kind == "histogram" {
            metrics::histogram!(name.clone()).record(1.0);
            let text = handle.render();
            assert!(text.contains(&format!("{name}_bucket{{le=\"+Inf\"}}")), "{name} has no buckets for its unit");
        }
    }
}
