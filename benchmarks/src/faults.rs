//! A hundred kills of services and servers, and troubles of the connections between them, under load, and what the audit
//! says after them.
//!
//! It is the test of the product, with more faults: what is measured here is what is tested there.

use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::measurement::{Better, Measurement};

const TEST: &str = "faults::nothing_is_lost_or_there_twice_when_services_and_servers_are_killed";

/// Kills so often, at moments that `seed` gives.
pub(crate) fn measure(kills: u64, seed: u64) -> anyhow::Result<Vec<Measurement>> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("faults.json");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--release", "--quiet", "--package", "flywheel", "--features", "production", "--test", "it"]);
    command.args(["--", "--exact", TEST, "--nocapture"]);
    command.env("FAULTS_KILLS", kills.to_string()).env("FAULTS_SEED", seed.to_string()).env("FAULTS_REPORT", &file);
    let status = command.status().context("the test of faults does not start")?;
    if !status.success() {
        bail!("something was lost, or there twice, or did not go on: the lines above say what");
    }
    let report = std::fs::read(&file).context("the test of faults was left out")?;
    measurements(&serde_json::from_slice(&report)?, seed)
}

fn measurements(report: &Value, seed: u64) -> anyhow::Result<Vec<Measurement>> {
    let number = |value: &Value, field: &str| {
        value.get(field).and_then(Value::as_f64).with_context(|| format!("the report says no {field}"))
    };
    let list = |value: &Value, field: &str| {
        value.get(field).and_then(Value::as_array).cloned().with_context(|| format!("the report says no {field}"))
    };
    let mut measured = Vec::new();
    let mut all = 0.0;
    for fault in list(report, "faults")? {
        let name = fault.get("fault").and_then(Value::as_str).context("a fault without a name")?;
        let times = number(&fault, "times")?;
        all += times;
        let median = number(&fault, "median_stall_seconds")?;
        let note = format!("{times} times; median {median:.2} s until ingest acknowledged the next event");
        let longest = number(&fault, "longest_stall_seconds")?;
        measured.push(Measurement::new(format!("faults: {name}, longest stall"), longest, "s", note));
    }
    let audit = report.get("audit").context("the report says nothing of the audit")?;
    let (mut differences, mut checked, mut open) = (0.0, 0.0, 0.0);
    for check in list(audit, "checks")? {
        differences += number(&check, "differences")?;
        checked += number(&check, "checked")?;
        open += number(&check, "not_covered")?;
    }
    let note = format!(
        "after {} kills among {all} faults (seed {seed}) under load: {} events acknowledged, {} requests repeated, {} starts that ended by \
         themselves while a server was away; {checked} things checked in {:.0} s, {open} left to time",
        number(report, "kills")?,
        number(report, "acknowledged_events")?,
        number(report, "repeated_requests")?,
        number(report, "ended_by_themselves")?,
        number(report, "audit_seconds")?,
    );
    let found = Measurement::new("faults: differences found by the audit", differences, "differences", note);
    measured.push(found.aiming_at(0.0, Better::Less));
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_fault_has_a_line_and_the_audit_the_last_word() {
        let check = json!({ "differences": 0, "checked": 40, "not_covered": 2 });
        let report = json!({
            "faults": [
                { "fault": "kill ingest", "times": 3, "median_stall_seconds": 0.5, "longest_stall_seconds": 2.0 },
                { "fault": "kill the broker", "times": 2, "median_stall_seconds": 6.0, "longest_stall_seconds": 9.0 },
            ],
            "kills": 5, "acknowledged_events": 900, "repeated_requests": 12, "ended_by_themselves": 1, "audit_seconds": 3.0,
            "audit": { "checks": [check, check] },
        });
        let measured = measurements(&report, 4).unwrap();
        assert_eq!(measured.iter().map(|one| one.ours).collect::<Vec<_>>(), [2.0, 9.0, 0.0]);
        assert!(
            measured[2].met == Some(true) && measured[2].note.contains("after 5 kills among 5 faults"),
            "{}",
            measured[2].note
        );
        assert!(measurements(&json!({}), 4).is_err());
    }
}
