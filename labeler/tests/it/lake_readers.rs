//! DuckDB, Polars and `datasets` read a part that our writer made: the same rows, and the types that `docs/lake.md` says.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use events::topics::PREFERENCE_PAIRS;
use events::{DivergencePoint, PreferencePair};
use labeler::lake::{PairPlace, PartGroup, PartMetadata, PlacedPair, RowGroupLimits, SCHEMA, write_part};
use serde_json::{Map, Value, json};

use crate::kit::{START, World};
use crate::sinks::labeled;

/// Name and type of each column.
fn columns() -> Vec<(String, &'static str)> {
    let lines = SCHEMA.lines().filter_map(|line| line.trim().strip_suffix(';'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let kind = match (words[1], words.get(3).copied()) {
                ("binary", Some(_)) => "text",
                ("binary", None) => "bytes",
                ("int64", Some(_)) => "timestamp",
                ("int64", None) => "integer",
                ("double", _) => "number",
                ("boolean", _) => "boolean",
                other => panic!("{other:?}"),
            };
            (words[2].to_owned(), kind)
        })
        .collect()
}

/// How a reader calls the types.
fn types(reader: &str) -> BTreeMap<&'static str, &'static str> {
    let names = ["text", "bytes", "timestamp", "integer", "number", "boolean"];
    let theirs = match reader {
        "duckdb" => ["VARCHAR", "BLOB", "TIMESTAMP WITH TIME ZONE", "BIGINT", "DOUBLE", "BOOLEAN"],
        "polars" => ["String", "Binary", "Datetime(time_unit='us', time_zone='UTC')", "Int64", "Float64", "Boolean"],
        _ => ["string", "binary", "timestamp[us, tz=UTC]", "int64", "float64", "bool"],
    };
    names.into_iter().zip(theirs).collect()
}

/// What every reader must see of a pair, as the script prints it.
fn row((place, pair): &PlacedPair) -> Map<String, Value> {
    let bits = |value: f64| json!(value.to_bits().to_string());
    let probabilities = &pair.probabilities;
    let sealed = pair.sealed.as_ref();
    let cells = [
        ("position", json!(place.position)),
        ("partition", json!(place.partition)),
        ("pair_id", json!(pair.pair_id.to_string())),
        ("tenant", json!(pair.tenant.to_string())),
        ("person", json!(pair.person.to_string())),
        ("session_id", json!(pair.session_id.to_string())),
        ("opportunity_id", json!(pair.opportunity_id.to_string())),
        ("suggestion_id", json!(pair.suggestion_id.map(|id| id.to_string()))),
        ("action_index", json!(pair.action_index)),
        ("reason", json!(pair.reason.as_str())),
        ("label_policy_version", json!(pair.label_policy_version)),
        ("weight", bits(pair.weight)),
        ("divergence_action_index", json!(pair.divergence.map(|point| point.action_index))),
        ("divergence_byte", json!(pair.divergence.map(|point| point.byte))),
        ("audience", json!(pair.audience.to_string())),
        ("repository", json!(pair.repository)),
        ("language", json!(pair.language)),
        ("model", json!(pair.model.to_string())),
        ("model_version", json!(pair.model_version.0)),
        ("arm_probability", bits(probabilities.arm_probability)),
        ("p_show", bits(probabilities.p_show)),
        ("log_p_text", bits(probabilities.log_p_text)),
        ("gate_score", bits(probabilities.gate_score)),
        ("threshold", bits(probabilities.threshold)),
        ("explored", json!(probabilities.explored)),
        ("altered", json!(pair.altered)),
        ("off_policy", json!(pair.off_policy)),
        ("opened_at", json!(pair.opened_at.as_micros())),
        ("labeled_at", json!(pair.labeled_at.as_micros())),
        ("last_signal_at", json!(pair.last_signal_at.as_micros())),
        ("event_id", json!(pair.event_id.to_string())),
        ("content_digest", json!(pair.content_digest.to_string())),
        ("key_id", json!(sealed.map(|sealed| sealed.key_id.to_string()))),
        ("ciphertext", json!(sealed.map(|sealed| hex::encode(&sealed.ciphertext)))),
    ];
    cells.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Real pairs, and among them what a column may hold at its edges.
async fn pairs() -> Vec<PlacedPair> {
    let world = World::new().await;
    let (pairs, _) = labeled(&world, 6).await;
    let placed = (0..60_usize).map(|number| {
        let mut pair: PreferencePair = pairs[number % pairs.len()].clone();
        pair.labeled_at = START + Duration::from_micros(number as u64);
        pair.repository = ["ripo-ä/😀", "", "a\"b'c"][number % 3].to_owned();
        pair.weight = [0.1, f64::MIN_POSITIVE, 1.0][number % 3];
        pair.probabilities.log_p_text = -(number as f64) / 7.0;
        pair.divergence = (number % 2 > 0).then_some(DivergencePoint { action_index: 1, byte: u32::MAX });
        pair.suggestion_id = pair.suggestion_id.filter(|_| number % 4 > 0);
        pair.sealed = pair.sealed.filter(|_| number % 5 > 0);
        (PairPlace { partition: (number % 2) as u32, position: format!("{number:020}") }, pair)
    });
    placed.collect()
}

#[tokio::test]
async fn duckdb_polars_and_datasets_read_a_part() {
    if !test_servers::full_wanted() {
        return;
    }
    let pairs = pairs().await;
    let group = Some(PartGroup::of(&pairs[0].1));
    let metadata = PartMetadata::of(PREFERENCE_PAIRS, group, 1, &pairs).unwrap();
    let bytes: Bytes = write_part(&metadata, &pairs, RowGroupLimits { pairs: 25, bytes: 1 << 20 }).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("part.parquet");
    std::fs::write(&path, bytes).unwrap();

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/lake_readers.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(&path).env("PYTHONPATH", test_servers::lake_readers()).env("HOME", directory.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let seen: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(seen.as_object().unwrap().len(), 3);
    for (reader, seen) in seen.as_object().unwrap() {
        let theirs = types(reader);
        let expected: BTreeMap<String, &str> = columns().into_iter().map(|(name, kind)| (name, theirs[kind])).collect();
        let found = seen["types"].as_object().unwrap().iter();
        let found: BTreeMap<String, &str> = found.map(|(name, kind)| (name.clone(), kind.as_str().unwrap())).collect();
        assert_eq!(found, expected, "{reader}");
        let rows = seen["rows"].as_array().unwrap();
        assert_eq!(rows.len(), pairs.len(), "{reader}");
        for (found, pair) in rows.iter().zip(&pairs) {
            for (name, expected) in row(pair) {
                assert_eq!(found[&name], expected, "{reader}: {name} of {}", pair.0.position);
            }
        }
    }
}
