//! The demo as a function of its seed: the same tasks, judgements, arms, snapshots and decisions, twice.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Said, command, finished};

/// A small demo; as a placebo, so that the rollout takes place whatever the gate says.
fn demo(directory: &Path, name: &str, seed: &str) -> (Said, Value) {
    let report = directory.join(name);
    let mut command = command(&["demo", "--placebo", "--developers", "12", "--turns", "1", "--blocks", "1"]);
    command.args(["--steps", "2", "--seed", seed, "--set", "orchestrator.gate_opportunities=40", "--report"]);
    command.arg(&report);
    let said = finished(command);
    assert_eq!(said.code, Some(0), "{said:?}");
    let text = std::fs::read(&report).unwrap();
    (said, serde_json::from_slice(&text).unwrap())
}

/// Everything of a report that may not depend on how fast the machine is.
fn timeless(report: &Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, _| !name.ends_with("_seconds") && name != "compute_budget");
                fields.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = report.clone();
    strip(&mut value);
    value
}

#[test]
fn a_demo_is_a_function_of_its_seed() {
    let directory = tempfile::tempdir().unwrap();
    let (said, first) = demo(directory.path(), "first.json", "3");
    let (_, second) = demo(directory.path(), "second.json", "3");
    assert_eq!(timeless(&first), timeless(&second));
    let text = |pointer: &str| first.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(text("/ledger/balanced"), Value::Bool(true), "{}", text("/ledger"));
    assert_eq!(text("/ledger/pending"), 0, "{}", text("/ledger"));
    assert_eq!(text("/turns/0/version"), 2, "a placebo is rolled out whatever the gate says: {}", text("/turns/0"));
    assert!(text("/turns/0/snapshot_digest").as_str().is_some_and(|digest| digest.len() == 64));
    assert_eq!(text("/claim_met"), Value::Bool(false));
    assert!(said.stdout.contains("placebo"), "the screen says what was run: {}", said.stdout);
    let (_, other) = demo(directory.path(), "other.json", "4");
    assert_ne!(text("/turns/0/snapshot_digest"), *other.pointer("/turns/0/snapshot_digest").unwrap());
}
