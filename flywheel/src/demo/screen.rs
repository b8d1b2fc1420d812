//! The report for people.

use std::collections::BTreeMap;

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::report::{Comparison, Report};
use super::statistics::Rate;
use crate::failure::Failure;
use crate::shell::{program, quoted};
use crate::table::print as print_line;

fn percent(rate: &Rate) -> String {
    match (rate.low, rate.high) {
        (Some(low), Some(high)) => {
            format!("{:.1}% [{:.1}, {:.1}]", rate.value * 100.0, low * 100.0, high * 100.0)
        }
        _ => format!("{:.1}%", rate.value * 100.0),
    }
}

fn plain(rate: &Rate) -> String {
    match (rate.low, rate.high) {
        (Some(low), Some(high)) => format!("{:+.3} [{low:+.3}, {high:+.3}]", rate.value),
        _ => format!("{:+.3}", rate.value),
    }
}

fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

fn stages(seconds: &BTreeMap<String, f64>) -> String {
    seconds.iter().map(|(stage, seconds)| format!("{stage} {seconds:.1}")).collect::<Vec<_>>().join(", ")
}

fn comparison_rows(name: &str, entries: &[Comparison]) -> Vec<Vec<String>> {
    entries
        .iter()
        .map(|entry| {
            let interval = match (entry.low, entry.high) {
                (Some(low), Some(high)) => format!("[{low:+.3}, {high:+.3}]"),
                _ => "too few persons".to_owned(),
            };
            let relative =
                entry.relative.map_or(String::new(), |relative| format!("{:+.1}% relative", relative * 100.0));
            vec![
                name.to_owned(),
                entry.metric.to_owned(),
                format!("{:+.3}", entry.difference),
                interval,
                relative,
                format!("{} / {}", entry.opportunities_treated, entry.opportunities_control),
            ]
        })
        .collect()
}

/// Prints the report.
pub(crate) fn print(report: &Report) -> Result<(), Failure> {
    let mut text = String::from("\nVersions (95% intervals, clustered by person)\n");
    let rows = report
        .versions
        .iter()
        .map(|version| {
            vec![
                version.version.to_string(),
                version.opportunities.to_string(),
                version.shown.to_string(),
                percent(&version.shown_rate),
                percent(&version.acceptance),
                percent(&version.yielded),
                plain(&version.utility),
                plain(&version.kept_chars_per_opportunity),
            ]
        })
        .collect();
    let header =
        ["version", "opportunities", "shown", "shown rate", "acceptance", "yield", "utility", "kept characters"];
    text += &table(&header, rows);

    match report.compared_version {
        Some(version) => {
            let reference = report.reference_version;
            text +=
                &format!("\n\nVersion {version} minus version {reference}: hold-back, same task stream, same period\n");
            let mut rows = comparison_rows("all tasks", &report.holdback_comparison);
            rows.extend(comparison_rows("identifiers seen", &report.seen_identifiers));
            rows.extend(comparison_rows("identifiers never seen", &report.unseen_identifiers));
            text += &table(&["tasks", "measure", "difference", "95% interval", "", "opportunities"], rows);
        }
        None => {
            text += &format!(
                "\n\nNo version came to developers beside version {}: there is nothing to compare.",
                report.reference_version
            );
        }
    }
    text += &format!(
        "\n\nClaim (utility and acceptance above zero at 95%, still speaking): {}\n",
        if report.claim_met { "MET" } else { "NOT MET" }
    );
    if report.placebo {
        text += "This was the placebo: exchanged repository names. It must not meet the claim.\n";
    }

    text += "\nProbe set (drawn before the start, never trained on)\n";
    let rows = report
        .probe
        .iter()
        .chain(&report.baselines)
        .map(|probe| {
            let kind =
                |name: &str| probe.right.get(name).map_or("-".to_owned(), |right| format!("{:.0}%", right * 100.0));
            vec![
                probe.name.clone(),
                format!("{:+.3}", probe.utility),
                kind("convention"),
                kind("plain"),
                kind("no_edit"),
                format!("{:.0}%", probe.shown_rate * 100.0),
            ]
        })
        .collect();
    text += &table(&["who", "utility", "convention", "plain", "no edit", "shown"], rows);

    if !report.corrections.is_empty() {
        text += &format!(
            "\n\nThe first probe tasks that version {} got wrong, and what became of them\n",
            report.reference_version
        );
        for correction in &report.corrections {
            text += &format!(
                "  {}: `{}`\n    wanted {}\n    before {}, after {}\n",
                correction.repository, correction.line, correction.wanted, correction.before, correction.after
            );
        }
    }

    text += "\nTurns\n";
    let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1} s"));
    let rows = report
        .turns
        .iter()
        .map(|turn| {
            vec![
                turn.version.map_or("-".to_owned(), |version| version.to_string()),
                turn.outcome.clone(),
                turn.training_pairs.to_string(),
                seconds(turn.turn_seconds),
                seconds(turn.promoted_seconds),
                format!("{:.1} h", turn.simulated_wait_seconds / 3600.0),
                turn.reason.clone(),
            ]
        })
        .collect();
    let is_simulated = report.played_on.clock_factor.is_none();
    let waiting = if is_simulated { "simulated waiting" } else { "waiting, its time" };
    let header = ["version", "outcome", "pairs", "signal to served", "to promoted", waiting, "why"];
    text += &table(&header, rows);

    for (number, turn) in report.turns.iter().enumerate().filter(|(_, turn)| !turn.stage_seconds.is_empty()) {
        text += &format!("\nStages of turn {}, wall seconds: {}", number + 1, stages(&turn.stage_seconds));
    }

    let ledger = &report.ledger;
    let verdict = if ledger.balanced { "balanced" } else { "NOT BALANCED" };
    text += &format!("\n\nLedger: {} ({verdict})\n", ledger.equation());
    let time = if is_simulated { "simulated" } else { "the deployment's time" };
    text += &format!("Freshness: {:.0} s ({time})\n", report.freshness_seconds);

    text += "\nCompute, seconds\n";
    let rows = report
        .compute_budget
        .iter()
        .map(|line| {
            let planned = line.planned_seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.0}"));
            vec![line.purpose.to_owned(), planned, format!("{:.1}", line.actual_seconds)]
        })
        .collect();
    text += &table(&["purpose", "planned", "actual"], rows);
    text += &format!("\nStages, wall seconds: {}\n", stages(&report.stage_seconds));
    let milliseconds = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0} ms"));
    let latency = &report.first_action_milliseconds;
    text += &format!(
        "First action: P50 {}, P90 {}, P99 {}\n",
        milliseconds(latency.p50),
        milliseconds(latency.p90),
        milliseconds(latency.p99)
    );
    text += "\nWhere this rollout differs from production's defaults (in a block, a person meets 6 opportunities)\n";
    let rows = report
        .margins
        .iter()
        .map(|margin| vec![margin.setting.to_owned(), margin.demo.clone(), margin.production.clone()])
        .collect();
    text += &table(&["setting", "demo", "production"], rows);
    text += "\n";
    if report.corpus_split_by_hash {
        text += "The corpus held fewer than two repositories; its files were split in two by path hash.\n";
    }
    if report.played_on.deployment {
        let played_on = &report.played_on;
        text += &format!(
            "Played on a deployment: log {}, database {}, artifacts {}; what its machines were planned to do is not \
             known here.\n",
            played_on.bus, played_on.database, played_on.artifacts
        );
    }
    text += &format!("\nDone in {:.0} s with seed {}.\n", report.wall_seconds, report.seed);
    let program = quoted(program());
    text += &format!("Next, on your own code:        {program} demo --corpus YOUR_REPOSITORIES\n");
    text += &format!("A platform that keeps running: {program} up\n");
    print_line(&text)
}
