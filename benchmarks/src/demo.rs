//! The claim: several seeds, with and without placebo, beside a baseline that learns nothing.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::labeling::interval::{Mean, mean_of_units};
use crate::measurement::{Better, Measurement};

/// Seeds whose own interval must be above zero.
const SINGLE_SEEDS: f64 = 4.0;

/// The release binary that `benchmarks/run` has built.
pub(crate) fn binary() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("FLYWHEEL_BINARY").map(PathBuf::from);
    path.filter(|path| path.exists()).context("FLYWHEEL_BINARY names no binary; start this with benchmarks/run")
}

fn run(seed: u64, placebo: bool) -> anyhow::Result<(Value, f64)> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report.json");
    let mut command = Command::new(binary()?);
    command.args(["demo", "--seed", &seed.to_string(), "--report"]).arg(&file);
    if placebo {
        command.arg("--placebo");
    }
    let started = Instant::now();
    let output = command.output().context("the demo does not start")?;
    if !output.status.success() {
        bail!(
            "demo --seed {seed} failed: {}",
            String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default()
        );
    }
    Ok((serde_json::from_slice(&std::fs::read(&file)?)?, started.elapsed().as_secs_f64()))
}

fn number(report: &Value, pointer: &str) -> Option<f64> {
    report.pointer(pointer).and_then(Value::as_f64)
}

fn entry<'a>(report: &'a Value, list: &str, metric: &str) -> Option<&'a Value> {
    report.get(list)?.as_array()?.iter().find(|entry| entry.get("metric").and_then(Value::as_str) == Some(metric))
}

/// The difference of one seed. One in which no version came to developers has changed nothing: 0.
fn difference(report: &Value, metric: &str) -> f64 {
    entry(report, "holdback_comparison", metric).and_then(|entry| number(entry, "/difference")).unwrap_or(0.0)
}

/// Mean over seeds and half of its 95% interval. Seeds are the units (conventions and persons are drawn anew for each),
/// so what differs between them is in the interval.
fn pooled(reports: &[Value], metric: &str) -> (f64, f64) {
    let values: Vec<f64> = reports.iter().map(|report| difference(report, metric)).collect();
    let Mean { value, half } = mean_of_units(&values);
    (value, half)
}

/// One line a seed: what a reader of the pooled figures would ask for.
fn single(seed: u64, placebo: bool, report: &Value) -> Measurement {
    let figure = |metric: &str| match entry(report, "holdback_comparison", metric) {
        Some(entry) => {
            let bound = |name: &str| number(entry, name).map_or("-".to_owned(), |value| format!("{value:+.3}"));
            format!("{metric} {} [{}, {}]", bound("/difference"), bound("/low"), bound("/high"))
        }
        None => format!("{metric} -"),
    };
    let turns = report.get("turns").and_then(Value::as_array).into_iter().flatten();
    let turns: Vec<String> = turns
        .map(|turn| {
            let text = |name: &str| turn.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("{} ({})", text("outcome"), text("reason"))
        })
        .collect();
    let relative = entry(report, "holdback_comparison", "shown_rate").and_then(|entry| number(entry, "/relative"));
    let met = f64::from(u8::from(report.get("claim_met") == Some(&Value::Bool(true))));
    let note = format!(
        "{}; {}; shown rate {}; turns: {}; probe: version 1 {}, compared version {}; first action P50 {} ms; {:.0} s",
        figure("utility"),
        figure("acceptance"),
        relative.map_or("-".to_owned(), |relative| format!("{:+.1}%", relative * 100.0)),
        turns.join(", "),
        probe_in_words(report, 1),
        number(report, "/compared_version").map_or("-".to_owned(), |version| probe_in_words(report, version as i64)),
        number(report, "/first_action_milliseconds/p50").map_or("-".to_owned(), |p50| format!("{p50:.0}")),
        number(report, "/wall_seconds").unwrap_or_default()
    );
    let kind = if placebo { "placebo of seed" } else { "seed" };
    Measurement::new(format!("demo: {kind} {seed} meets the claim"), met, "yes = 1", note)
}

/// What a version answered right of the probe set: conventions, plain edits, silences.
fn probe_in_words(report: &Value, version: i64) -> String {
    let mut probe = report.get("probe").and_then(Value::as_array).into_iter().flatten();
    let Some(entry) = probe.find(|entry| entry.get("version").and_then(Value::as_i64) == Some(version)) else {
        return "-".to_owned();
    };
    let right = |kind: &str| number(entry, &format!("/right/{kind}")).map_or(0.0, |share| share * 100.0);
    format!(
        "{:+.3} (conventions {:.0}%, plain {:.0}%, silence {:.0}%)",
        number(entry, "/utility").unwrap_or_default(),
        right("convention"),
        right("plain"),
        right("no_edit")
    )
}

fn claims(reports: &[Value]) -> f64 {
    reports.iter().filter(|report| report.get("claim_met") == Some(&Value::Bool(true))).count() as f64
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / (values.len().max(1) as f64)
}

/// Runs `seeds` demos with and without placebo.
pub(crate) fn measure(seeds: u64) -> anyhow::Result<Vec<Measurement>> {
    let mut reports = Vec::new();
    let mut placebos = Vec::new();
    let mut walls = Vec::new();
    let mut measurements = Vec::new();
    for seed in 1..=seeds {
        let (report, wall) = run(seed, false)?;
        measurements.push(single(seed, false, &report));
        reports.push(report);
        walls.push(wall);
        let (placebo, _) = run(seed, true)?;
        measurements.push(single(seed, true, &placebo));
        placebos.push(placebo);
    }
    for metric in ["utility", "acceptance", "shown_rate"] {
        let ((ours, half), (placebo, placebo_half)) = (pooled(&reports, metric), pooled(&placebos, metric));
        let note = format!(
            "last version minus version 1, mean of {seeds} seeds: [{:.3}, {:.3}]; baseline: placebo [{:.3}, {:.3}]",
            ours - half,
            ours + half,
            placebo - placebo_half,
            placebo + placebo_half
        );
        measurements.push(Measurement::new(format!("demo: {metric}"), ours, "difference", note).beside(placebo));
        if metric != "shown_rate" {
            let low = Measurement::new(
                format!("demo: {metric}, lower bound"),
                ours - half,
                "difference",
                "95%, seeds are the units",
            );
            measurements.push(low.aiming_at(0.0, Better::Above));
        }
    }
    let single = SINGLE_SEEDS.min(seeds as f64);
    measurements.push(
        Measurement::new("demo: seeds that meet the claim", claims(&reports), "seeds", format!("of {seeds}"))
            .aiming_at(single, Better::More),
    );
    measurements.push(
        Measurement::new("demo: placebos that meet the claim", claims(&placebos), "seeds", format!("of {seeds}"))
            .aiming_at(1.0, Better::Less),
    );
    let probe = |reports: &[Value], compared: bool| {
        mean(reports.iter().filter_map(|report| {
            let last = report.get("compared_version").and_then(Value::as_i64).unwrap_or(1);
            let wanted = if compared { last } else { 1 };
            let mut probe = report.get("probe")?.as_array()?.iter();
            number(probe.find(|entry| number(entry, "/version") == Some(wanted as f64))?, "/utility")
        }))
    };
    let learning_free = mean(reports.iter().filter_map(|report| number(report, "/baselines/0/utility")));
    measurements.push(
        Measurement::new(
            "demo: probe utility of the last version",
            probe(&reports, true),
            "utility",
            "baseline: repeat the last substitution",
        )
        .beside(learning_free),
    );
    measurements.push(Measurement::new(
        "demo: probe utility of version 1",
        probe(&reports, false),
        "utility",
        "the base",
    ));
    measurements.push(
        Measurement::new("demo: wall time", mean(walls.iter().copied()), "s", "mean over seeds")
            .aiming_at(300.0, Better::Less),
    );
    let turns = reports.iter().filter_map(|report| report.get("turns")?.as_array()).flatten();
    let seconds: Vec<f64> = turns.filter_map(|turn| number(turn, "/turn_seconds")).collect();
    measurements.push(Measurement::new(
        "demo: turn time, last signal to first served",
        mean(seconds.into_iter()),
        "s",
        "mean over turns that were served",
    ));
    for stage in ["collect", "scrub_and_label", "train_and_evaluate", "canary", "final_period", "probe"] {
        let seconds = mean(reports.iter().filter_map(|report| number(report, &format!("/stage_seconds/{stage}"))));
        measurements.push(Measurement::new(format!("demo: stage {stage}"), seconds, "s", "mean over seeds"));
    }
    Ok(measurements)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(difference: f64) -> Value {
        serde_json::json!({ "holdback_comparison": [{ "metric": "utility", "difference": difference }] })
    }

    #[test]
    fn seeds_are_the_units_and_one_without_a_version_counts_as_no_change() {
        let reports = [report(0.1), report(0.3), serde_json::json!({ "holdback_comparison": [] })];
        let (mean, half) = pooled(&reports, "utility");
        // Mean of 0.1, 0.3, 0; t(2) = 4.302653, standard deviation sqrt(0.07 / 3).
        assert!((mean - 0.4 / 3.0).abs() < 1e-12);
        let deviation = (0.07_f64 / 3.0).sqrt();
        assert!((half - 4.302_653 * deviation / 3.0_f64.sqrt()).abs() < 1e-5, "{half}");
        assert_eq!(pooled(&reports[..1], "utility").1, f64::INFINITY);
    }
}
