//! The claim: several seeds, with and without placebo, beside a baseline that learns nothing.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde_json::Value;

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

/// Mean of differences and the 95% half width from their own intervals: seeds are independent.
fn pooled(reports: &[Value], list: &str, metric: &str) -> Option<(f64, f64)> {
    let mut sum = 0.0;
    let mut variance = 0.0;
    for report in reports {
        let entry = entry(report, list, metric)?;
        let difference = number(entry, "/difference")?;
        let half = (number(entry, "/high")? - number(entry, "/low")?) / 2.0;
        sum += difference;
        variance += (half / 1.96).powi(2);
    }
    let count = reports.len() as f64;
    Some((sum / count, 1.96 * variance.sqrt() / count))
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
    for seed in 1..=seeds {
        let (report, wall) = run(seed, false)?;
        reports.push(report);
        walls.push(wall);
        placebos.push(run(seed, true)?.0);
    }
    let mut measurements = Vec::new();
    for metric in ["utility", "acceptance", "shown_rate"] {
        let (Some((ours, half)), Some((placebo, placebo_half))) =
            (pooled(&reports, "holdback_comparison", metric), pooled(&placebos, "holdback_comparison", metric))
        else {
            bail!("a report lacks the comparison of {metric}");
        };
        let note = format!(
            "last version minus version 1, pooled over {seeds} seeds: [{:.3}, {:.3}]; baseline: placebo [{:.3}, {:.3}]",
            ours - half,
            ours + half,
            placebo - placebo_half,
            placebo + placebo_half
        );
        measurements.push(Measurement::new(format!("demo: {metric}"), ours, "difference", note).beside(placebo));
        if metric != "shown_rate" {
            let low =
                Measurement::new(format!("demo: {metric}, lower bound"), ours - half, "difference", "pooled, 95%");
            measurements.push(low.aiming_at(0.0, Better::More));
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
    let probe = |reports: &[Value], last: bool| {
        mean(reports.iter().filter_map(|report| {
            let probe = report.get("probe")?.as_array()?;
            let entry = if last { probe.last() } else { probe.first() };
            number(entry?, "/utility")
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
