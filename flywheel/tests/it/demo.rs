//! The demo as a function of its seed: the same tasks, judgements, arms, snapshots and decisions, twice.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Said, command, finished};

fn demo(directory: &Path, name: &str, arguments: &[&str]) -> (Said, Value) {
    let report = directory.join(name);
    let mut command = command(&["demo", "--turns", "1"]);
    command.args(arguments).arg("--report").arg(&report);
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
                let is_measured = |name: &String| {
                    (name.ends_with("_seconds") && name != "simulated_wait_seconds")
                        || ["compute_budget", "first_action_milliseconds"].contains(&name.as_str())
                };
                fields.retain(|name, _| !is_measured(name));
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

/// Names of all fields, wherever they are. Not those inside of `evidence`, which is what `rollout show` prints, nor
/// those of `right` and `stage_seconds`, which are kinds of tasks and stages.
fn field_names(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                names.push(name.clone());
                if !["evidence", "right", "stage_seconds"].contains(&name.as_str()) {
                    field_names(value, names);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| field_names(item, names)),
        _ => {}
    }
}

#[test]
fn a_demo_is_a_function_of_its_seed_to_the_verdict_of_the_rollout() {
    let directory = tempfile::tempdir().unwrap();
    // Enough persons in both arms for a verdict, and enough opportunities for the gate.
    let sizes = ["--developers", "40", "--blocks", "2", "--steps", "24", "--seed", "2"];
    let (_, first) = demo(directory.path(), "first.json", &sizes);
    let (_, second) = demo(directory.path(), "second.json", &sizes);
    assert_eq!(timeless(&first), timeless(&second));
    let text = |pointer: &str| first.pointer(pointer).cloned().unwrap_or_default();
    assert!(text("/outcomes_digest").as_str().is_some_and(|digest| digest.len() == 64));
    assert!(text("/turns/0/snapshot_digest").as_str().is_some_and(|digest| digest.len() == 64));
    assert_eq!(text("/turns/0/version"), 2, "{}", text("/turns/0"));
    assert_eq!(text("/turns/0/gate/opportunities"), 300, "{}", text("/turns/0"));
    assert!(!text("/turns/0/evidence").is_null(), "no rollout took place: {}", text("/turns/0"));
    assert_eq!((text("/ledger/balanced"), text("/ledger/pending")), (true.into(), 0.into()), "{}", text("/ledger"));

    let documented = include_str!("../../../docs/report.md");
    let mut names = Vec::new();
    field_names(&first, &mut names);
    names.sort();
    names.dedup();
    let is_named =
        |name: &&String| [format!("`{name}`"), format!("`{name}[]`")].iter().any(|form| documented.contains(form));
    let missing: Vec<&String> = names.iter().filter(|name| !is_named(name)).collect();
    assert!(names.len() > 50 && missing.is_empty(), "docs/report.md does not name {missing:?}");
}

#[test]
fn a_demo_that_is_too_small_for_the_gate_says_so_and_a_placebo_is_rolled_out_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let small = |name: &str, more: &[&str]| {
        let mut arguments = vec!["--developers", "12", "--blocks", "1", "--steps", "2"];
        arguments.extend(more);
        demo(directory.path(), name, &arguments)
    };
    // A report goes where a link leads, and the link stays.
    #[cfg(unix)]
    std::os::unix::fs::symlink("elsewhere.json", directory.path().join("held.json")).unwrap();
    let (said, held) = small("held.json", &["--seed", "3"]);
    #[cfg(unix)]
    assert!(directory.path().join("held.json").is_symlink() && directory.path().join("elsewhere.json").is_file());
    let text = |report: &Value, pointer: &str| report.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(text(&held, "/turns/0/outcome"), "not_eligible", "{}", text(&held, "/turns"));
    assert!(
        said.stdout.contains("insufficient_opportunities") && said.stdout.contains("more --developers"),
        "{said:?}"
    );
    assert_eq!((text(&held, "/compared_version"), text(&held, "/claim_met")), (Value::Null, false.into()));

    let (said, placebo) = small("placebo.json", &["--seed", "4", "--placebo"]);
    assert!(said.stdout.contains("This was the placebo"), "the screen says what was run: {}", said.stdout);
    assert_eq!(text(&placebo, "/turns/0/version"), 2, "{}", text(&placebo, "/turns/0"));
    assert_eq!((text(&placebo, "/placebo"), text(&placebo, "/claim_met")), (true.into(), false.into()));
    // Another seed is another demo.
    assert_ne!(text(&held, "/turns/0/snapshot_digest"), text(&placebo, "/turns/0/snapshot_digest"));
    assert_ne!(text(&held, "/outcomes_digest"), text(&placebo, "/outcomes_digest"));
}
