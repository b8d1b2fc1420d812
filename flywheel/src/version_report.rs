//! `flywheel models show --report`: what the gate found of a version, as JSON or as a page of tables and plots. Figures
//! only; nothing of fewer than five persons stands apart.

use std::path::Path;

use events::ModelVersion;
use labeler::statistics::Estimate;
use model_registry::Version;
use trainer::gate::{GateReport, GateVerdict, PartReport};
use trainer::job::JobResult;

use crate::failure::Failure;
use crate::report::{Block, Curves, Form, Intervals, Page, Section, Table, put};

/// Writes what the gate found of `version` to `path`.
pub(crate) fn write(version: &Version, form: Form, path: &Path) -> Result<(), Failure> {
    let result: JobResult = serde_json::from_value(version.evaluation.clone()).map_err(|_| {
        Failure::refused(format!("version {} was judged by no gate: it came from no training run", version.version))
    })?;
    put(path, &form.written(&page(version.version, &result), &version.evaluation)?)
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn difference(part: &PartReport) -> String {
    if part.low.is_finite() && part.high.is_finite() {
        format!("{:+.4} [{:+.4}, {:+.4}]", part.estimate, part.low, part.high)
    } else {
        format!("{:+.4} (nobody to resample)", part.estimate)
    }
}

fn estimate(part: &PartReport) -> Estimate {
    Estimate { value: part.estimate, low: part.low, high: part.high }
}

fn page(version: ModelVersion, result: &JobResult) -> Page {
    let gate = &result.gate;
    Page {
        title: format!("What the gate found of version {version}"),
        lead: lead(result),
        sections: vec![
            utility(gate),
            languages(gate),
            calibration(gate),
            old_skills(result),
            memorisation(gate),
            training(result),
        ],
    }
}

fn lead(result: &JobResult) -> Vec<String> {
    let gate = &result.gate;
    let verdict = match gate.verdict {
        GateVerdict::Eligible => "The version may be rolled out".to_owned(),
        GateVerdict::Held => format!("The version is held: {}", gate.reason()),
        GateVerdict::Insufficient => format!("There was too little to judge the version by: {}", gate.reason()),
    };
    vec![
        format!("{verdict}."),
        "Utility of an opportunity: +0.75 for a first action that is what the developer wanted there, -0.25 for any \
         other that is shown, 0 for silence. Differences are on the same opportunities; intervals are 95%, by person."
            .to_owned(),
    ]
}

/// The opportunities judged, beside the parent.
fn beside_parent(gate: &GateReport) -> PartReport {
    PartReport {
        opportunities: gate.opportunities,
        persons: gate.persons,
        utility_candidate: gate.utility_candidate,
        utility_parent: gate.utility_parent,
        estimate: gate.estimate,
        low: gate.low,
        high: gate.high,
    }
}

fn figures_row(name: &str, part: &PartReport) -> Vec<String> {
    vec![
        name.to_owned(),
        part.opportunities.to_string(),
        part.persons.to_string(),
        format!("{:+.4}", part.utility_candidate),
        format!("{:+.4}", part.utility_parent),
        difference(part),
    ]
}

/// A table of parts, and their differences drawn.
fn parts(first: &str, title: &str, parts: &[(String, PartReport)]) -> Vec<Block> {
    let header = [first, "opportunities", "persons", "candidate", "other", "difference in utility"];
    let rows = parts.iter().map(|(name, part)| figures_row(name, part)).collect();
    let drawn = parts.iter().map(|(name, part)| (name.clone(), estimate(part))).collect();
    vec![Block::Table(Table::new(&header, rows)), Block::Intervals(Intervals { title: title.to_owned(), rows: drawn })]
}

fn utility(gate: &GateReport) -> Section {
    let mut all = vec![("parent".to_owned(), beside_parent(gate))];
    for rival in &gate.rivals {
        let digest: String = rival.model_digest.chars().take(12).collect();
        all.push((format!("model {digest}"), rival.figures));
    }
    let rest = [
        ("parent, other repositories", gate.general),
        ("parent, known names", gate.seen_identifiers),
        ("parent, new names", gate.unseen_identifiers),
    ];
    all.extend(rest.into_iter().filter_map(|(name, part)| Some((name.to_owned(), part?))));
    Section {
        title: "Utility",
        source: "what both models do at opportunities that are held out of training, whatever came of them".to_owned(),
        blocks: parts("beside", "candidate minus the other", &all),
    }
}

fn languages(gate: &GateReport) -> Section {
    let name = |language: &str| if language.is_empty() { "others" } else { language }.to_owned();
    let all: Vec<(String, PartReport)> =
        gate.by_language.iter().map(|part| (name(&part.language), part.figures)).collect();
    let mut blocks = if all.is_empty() {
        vec![Block::Note("No language has opportunities of five persons.".to_owned())]
    } else {
        parts("language", "candidate minus parent, by language", &all)
    };
    let mut at = vec!["all".to_owned()];
    let mut candidate = vec![gate.shown_rate_candidate];
    let mut parent = vec![gate.shown_rate_parent];
    for part in &gate.by_language {
        at.push(name(&part.language));
        candidate.push(part.shown_rate_candidate);
        parent.push(part.shown_rate_parent);
    }
    let lines = vec![("candidate".to_owned(), candidate), ("parent".to_owned(), parent)];
    blocks.push(Block::Curves(Curves { title: "shown rate".to_owned(), at, lines }));
    Section {
        title: "Languages and shown rate",
        source: "the same opportunities; languages of fewer than five persons are together".to_owned(),
        blocks,
    }
}

fn calibration(gate: &GateReport) -> Section {
    let mut blocks = vec![Block::Note(gate.calibration_error.map_or_else(
        || "Too few decisions for a calibration error.".to_owned(),
        |error| format!("Calibration error: {error:.4}."),
    ))];
    if !gate.calibration.is_empty() {
        let lines = vec![
            ("wanted an edit".to_owned(), gate.calibration.iter().map(|bin| bin.right).collect()),
            ("estimated".to_owned(), gate.calibration.iter().map(|bin| bin.estimated).collect()),
        ];
        let at = gate.calibration.iter().map(|bin| format!("{:.0}%", bin.estimated * 100.0)).collect();
        blocks.push(Block::Curves(Curves {
            title: "share that wanted an edit, by the probability that the candidate gave it".to_owned(),
            at,
            lines,
        }));
    }
    Section {
        title: "Calibration",
        source: "the candidate's decisions to speak at the same opportunities, in bins of equally many".to_owned(),
        blocks,
    }
}

fn old_skills(result: &JobResult) -> Section {
    let (candidate, parent) = (&result.old_skills_candidate, &result.old_skills_parent);
    let row = |name: &str, candidate: f64, parent: f64| vec![name.to_owned(), percent(candidate), percent(parent)];
    let mut rows = vec![
        row("answered exactly", candidate.exact, parent.exact),
        row("first action right", candidate.first_matches, parent.first_matches),
        row("shown answers that break syntax", candidate.parse_errors, parent.parse_errors),
    ];
    rows.extend(result.gate.languages.iter().map(|language| {
        vec![
            format!("bits a byte, {}", language.language),
            format!("{:.3}", language.bits_per_byte_candidate),
            format!("{:.3}", language.bits_per_byte_parent),
        ]
    }));
    Section {
        title: "Old skills",
        source: format!("{} frozen tasks that nobody trained on", candidate.edits + candidate.silences),
        blocks: vec![Block::Table(Table::new(&["what", "candidate", "parent"], rows))],
    }
}

fn memorisation(gate: &GateReport) -> Section {
    let said = gate.memorisation.map_or_else(
        || "Not asked: orchestrator.gate.markers was 0.".to_owned(),
        |found| {
            format!(
                "Of {} markers in {} episodes {} were completed, of as many controls {}; chance alone does this or \
                 more with probability {:.3}.",
                found.markers, found.episodes, found.markers_completed, found.controls_completed, found.p_value
            )
        },
    );
    Section {
        title: "Memory of one person's text",
        source: "a model of the same pairs and settings with markers among them, which serves nobody".to_owned(),
        blocks: vec![Block::Note(said)],
    }
}

fn training(result: &JobResult) -> Section {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let rows = vec![
        row("method", result.method.clone()),
        row("pairs", result.training_pairs.to_string()),
        row("log p of the chosen side, before", format!("{:.3}", result.chosen_log_p_before)),
        row("log p of the chosen side, after", format!("{:.3}", result.chosen_log_p_after)),
        row("seconds of training", format!("{:.0}", result.training_seconds)),
        row("seconds of evaluation", format!("{:.0}", result.evaluation_seconds)),
        row("model", result.model_digest.clone()),
        row("anchor", result.anchor_digest.clone()),
        row("parent", result.parent_digest.clone()),
    ];
    Section {
        title: "The run",
        source: format!("the result of run {}", result.run_id),
        blocks: vec![Block::Table(Table::new(&["what", "value"], rows))],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::report::Format;

    fn part(estimate: f64) -> Value {
        json!({
            "opportunities": 120, "persons": 12, "utility_candidate": 0.2, "utility_parent": 0.2 - estimate,
            "estimate": estimate, "low": estimate - 0.02, "high": estimate + 0.02,
        })
    }

    fn language(name: &str, estimate: f64, shown: f64) -> Value {
        let mut part = part(estimate);
        let fields = json!({ "language": name, "shown_rate_candidate": shown, "shown_rate_parent": 0.5 });
        part.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        part
    }

    fn result(memorisation: &Value) -> JobResult {
        let skills = json!({
            "edits": 96, "exact": 0.7, "first_matches": 0.74, "edits_shown": 0.9, "silences": 32, "silent": 0.8,
            "parse_errors": 0.01,
        });
        let bins: Vec<Value> = (0..10_i32)
            .map(|bin| json!({ "decisions": 30, "estimated": f64::from(bin) / 10.0, "right": 0.5 }))
            .collect();
        serde_json::from_value(json!({
            "run_id": "run", "method": "sft", "model_digest": "aa", "files": {}, "anchor_digest": "bb",
            "parent_digest": "cc", "training_pairs": 4210,
            "census": {
                "preferences": 3900, "positives": 310, "negatives": 0, "shortened": 12, "without_lesson": 0,
                "without_divergence": 0, "unwritable": 0,
            },
            "chosen_log_p_before": -2.1, "chosen_log_p_after": -1.2, "last_loss": 0.4, "training_seconds": 40.1,
            "training_tokens": 122_880, "evaluation_seconds": 25.0,
            "gate": {
                "verdict": "held", "reasons": ["calibration_off"], "opportunities": 300, "persons": 58,
                "utility_candidate": 0.31, "utility_parent": 0.22, "estimate": 0.09, "low": 0.04, "high": 0.14,
                "shown_rate_candidate": 0.63, "shown_rate_parent": 0.61, "old_skills_candidate": 0.7,
                "old_skills_parent": 0.72, "general": part(-0.01), "calibration_error": 0.123, "calibration": bins,
                "by_language": [language("rust", 0.11, 0.7), language("", 0.02, 0.4)],
                "languages": [{
                    "language": "rust", "bytes": 900, "bits_per_byte_candidate": 1.25, "bits_per_byte_parent": 1.5,
                }],
                "memorisation": memorisation,
            },
            "old_skills_candidate": skills, "old_skills_parent": skills,
        }))
        .unwrap()
    }

    #[test]
    fn a_page_says_why_and_draws_differences_calibration_and_shown_rates() {
        let page = page(ModelVersion(7), &result(&Value::Null));
        let (markdown, html) = (Format::Markdown.written(&page), Format::Html.written(&page));
        for text in [&markdown, &html] {
            assert!(text.contains("version 7") && text.contains("Not asked"), "{text}");
            assert!(text.contains("other repositories") && text.contains("0.1230"), "{text}");
        }
        assert!(markdown.contains("The version is held: calibration\\_off."), "{markdown}");
        assert!(markdown.contains("+0.1100 \\[+0.0900, +0.1300\\]"), "{markdown}");
        // Utility beside all, and by language; shown rate, and calibration.
        assert_eq!(html.matches("<svg").count(), 4, "{html}");
        assert!(html.contains("candidate: 70.0%") && html.contains("wanted an edit: 50.0%"), "{html}");
        assert!(html.contains(">others<"), "{html}");
    }

    #[test]
    fn what_is_remembered_is_said_in_numbers() {
        let asked = json!({
            "markers": 50, "episodes": 120, "markers_completed": 9, "controls_completed": 1, "p_value": 0.0107,
        });
        let markdown = Format::Markdown.written(&page(ModelVersion(7), &result(&asked)));
        let said = "Of 50 markers in 120 episodes 9 were completed, of as many controls 1; chance alone does this or \
                    more with probability 0.011.";
        assert!(markdown.contains(said), "{markdown}");
    }
}
