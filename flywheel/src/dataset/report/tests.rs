use std::collections::BTreeMap;

use events::{EditPattern, Signal, TenantId};
use labeler::aspects::Sums;
use labeler::tally::PersonSums;
use model_registry::lineage::{FORMULA, SnapshotFilters};
use trainer_orchestrator::data_set::composition::{Composition, SetStatistics, Stage, StageCount};
use trainer_orchestrator::data_set::groups::{GroupCount, SetGroups};

use super::*;
use crate::report::Block;

fn group(name: &str, pairs: usize) -> GroupCount {
    GroupCount { name: name.to_owned(), pairs, by_reason: BTreeMap::from([("missed".to_owned(), pairs)]) }
}

fn composition() -> Composition {
    let left_out = BTreeMap::from([("merged".to_owned(), 7)]);
    let groups = SetGroups {
        reasons: vec![group("missed", 100)],
        languages: vec![group("rust", 60), group("<b>|", 40)],
        patterns: vec![group("several_places", 100)],
        chosen_characters: vec![group("0 to 1-15", 90), group("16-63", 10)],
        rejected_characters: vec![group("16-63", 80)],
    };
    let training = SetStatistics {
        pairs: 100,
        persons: 9,
        choosing_no_edit: 11,
        rejecting_no_edit: 13,
        merged: 3,
        most_support_people: 4,
        groups,
        ..SetStatistics::default()
    };
    Composition {
        read: 123,
        stages: vec![StageCount { stage: Stage::Merging, entered: 107, kept: 100, left_out }],
        training,
        ..Composition::default()
    }
}

/// Two opportunities of a day, of which one was accepted; what every other person accepted is gone at the last look.
fn cell(person: usize, day: i64) -> Cell {
    let measures = PersonSums { opportunities: 2.0, shown: 2.0, accepted: 1.0, kept_characters: 8.0, utility: 0.5 };
    let standing = [1.0, 1.0, if person.is_multiple_of(2) { 1.0 } else { 0.0 }];
    Cell {
        person: format!("secret person {person}"),
        period: Timestamp::from_seconds(day * DAY_SECONDS),
        signal: Signal::Accepted,
        language: (person != 0).then(|| "rust".to_owned()),
        pattern: Some(EditPattern::Insert),
        latency: Some(person % 2),
        sums: Sums { measures, censored: 1.0, looked_at: 1.0, standing, standing_share: [1.0, 0.75, 0.5] },
    }
}

/// A report on outcomes of so many persons, on three days.
fn facts(persons: usize, composition: Option<Composition>) -> Facts {
    let filters = SnapshotFilters {
        tenant: TenantId::default(),
        model: "edit".parse().unwrap(),
        audience: "everyone".parse().unwrap(),
        label_policy_version: 1,
        code_version: "test".to_owned(),
        maximum_pairs: 100,
        gate_opportunities: 2,
        placebo_exchange_repositories: false,
        formula: FORMULA,
        policy: serde_json::Value::Null,
    };
    let digest = events::Sha256Digest::of(b"a data set");
    let (first, last) = (Timestamp::from_seconds(10), Timestamp::from_seconds(2 * DAY_SECONDS + 10));
    let cells = (0..persons).flat_map(|person| [cell(person, 0), cell(person, 2)]).collect();
    Facts {
        summary: SnapshotSummary {
            digest,
            model: "edit".to_owned(),
            audience: "everyone".to_owned(),
            training_pairs: 100,
            gate_pairs: 0,
            first_labeled_at: first,
            last_labeled_at: last,
            created_at: last,
        },
        manifest: Manifest { digest, filters, members: Vec::new(), left_out: BTreeMap::new(), composition },
        window: window(first, last),
        cells,
    }
}

/// Every section by its title.
fn sections(facts: &Facts) -> BTreeMap<&'static str, Vec<Block>> {
    page(facts).sections.into_iter().map(|section| (section.title, section.blocks)).collect()
}

/// The rows of a section's table.
fn rows(blocks: &[Block]) -> Vec<Vec<String>> {
    let table = blocks.iter().find_map(|block| match block {
        Block::Table(table) => Some(table.rows.clone()),
        _ => None,
    });
    table.unwrap_or_else(|| panic!("no table in {blocks:?}"))
}

#[test]
fn every_figure_is_there_with_the_numbers_that_were_counted() {
    let facts = facts(12, Some(composition()));
    let sections = sections(&facts);
    let titles = [
        "Duplicates and merged pairs",
        "From the lake to the sets",
        "Languages",
        "Lengths",
        "Measures by language",
        "Measures by latency",
        "Measures by pattern",
        "NO_EDIT",
        "Patterns",
        "Retention",
        "Signals over time",
        "Weights",
    ];
    assert_eq!(sections.keys().copied().collect::<Vec<_>>(), titles);
    assert_eq!(rows(&sections["From the lake to the sets"]), [["merging", "107", "100", "7 merged"]]);
    assert_eq!(rows(&sections["NO_EDIT"])[0], ["training", "100", "11", "11.0%", "13", "13.0%"]);
    assert_eq!(rows(&sections["NO_EDIT"])[1], ["adapt (benefit)", "0", "0", "-", "0", "-"]);
    // Four persons are not counted out.
    assert_eq!(rows(&sections["Duplicates and merged pairs"])[0], ["training", "100", "3", "fewer than 5"]);
    let languages = rows(&sections["Languages"]);
    assert_eq!(languages[0], ["training", "rust", "60", "60.0%", "60 missed"]);
    assert_eq!(languages[1][1], "(an unusual name)");
    assert_eq!(rows(&sections["Patterns"])[0][1], "several places");
    assert_eq!(rows(&sections["Lengths"])[0], ["training", "chosen", "0 to 1-15", "90"]);

    // On the second day nobody was asked.
    let over_time = rows(&sections["Signals over time"]);
    assert_eq!(over_time, [["1970-01-01 00:00", "24", "12"], ["1970-01-03 00:00", "24", "12"]]);
    // One person's opportunities, of no language, are not told apart.
    let languages = rows(&sections["Measures by language"]);
    let named: Vec<(&str, &str)> = languages.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(named, [("all", "48"), (labeler::crowd::MERGED, "48")]);
    let latencies = rows(&sections["Measures by latency"]);
    let named: Vec<&str> = latencies.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(named, ["all", "under 50 ms", "50-100 ms"]);
    assert_eq!(latencies[1][3], "50.0% [50.0, 50.0]");
    assert_eq!(latencies[1][4], "+0.250 [+0.250, +0.250]");
    let retention = rows(&sections["Retention"]);
    assert_eq!(retention[0], ["at least half of it stands", "100.0%", "100.0%", "50.0%"]);
    assert_eq!(retention[1], ["mean share of characters that stands", "100.0%", "75.0%", "50.0%"]);
}

#[test]
fn four_persons_are_not_shown_and_nobody_is_said_to_be_nobody() {
    for (persons, expected) in [(4, "Fewer than 5 persons: not shown."), (0, "There is none.")] {
        let sections = sections(&facts(persons, Some(composition())));
        for title in
            ["Measures by language", "Measures by latency", "Measures by pattern", "Retention", "Signals over time"]
        {
            assert_eq!(sections[title], [Block::Note(expected.to_owned())], "{title} of {persons}");
        }
    }
}

#[test]
fn a_data_set_of_an_earlier_release_says_what_was_not_counted() {
    let sections = sections(&facts(12, None));
    assert!(sections.contains_key("What it is made of") && sections.contains_key("Retention"));
    assert!(!sections.contains_key("NO_EDIT"));
    // Counted, but not told apart.
    let mut composition = composition();
    composition.training.groups = SetGroups::default();
    let sections = self::sections(&facts(12, Some(composition)));
    assert!(matches!(sections["Languages"].as_slice(), [Block::Note(note)] if note.contains("earlier release")));
}

#[test]
fn both_forms_say_the_same_of_nobody_and_fetch_nothing() {
    let page = page(&facts(12, Some(composition())));
    let (markdown, html) = (Format::Markdown.written(&page), Format::Html.written(&page));
    for section in &page.sections {
        assert!(markdown.contains(&format!("\n## {}\n", section.title.replace('_', "\\_"))), "{markdown}");
        assert!(html.contains(&format!("<h2>{}</h2>", section.title)), "{html}");
        assert!(section.source.len() > 20 && !section.blocks.is_empty(), "{}", section.title);
    }
    for text in [&markdown, &html] {
        assert!(!text.contains("secret person"), "{text}");
        assert!(["<script", "href", "src=", "http:", "https:"].iter().all(|sign| !text.contains(sign)), "{text}");
        for number in ["107", "+0.250", "75.0%", "fewer than 5"] {
            assert!(text.contains(number), "{number}: {text}");
        }
    }
    let plots = html.matches("<svg ").count();
    assert_eq!((html.matches("</svg>").count(), markdown.matches("```text").count()), (plots, plots));
    assert!(plots >= 12, "{plots}");
}

#[test]
fn time_is_cut_into_periods_that_are_not_too_many() {
    let at = |days: i64| Timestamp::from_seconds(days * DAY_SECONDS + 5);
    let period = |first, last| window(at(first), at(last)).period_seconds;
    assert_eq!(period(0, 0), HOUR_SECONDS);
    assert_eq!(period(0, 7), 6 * HOUR_SECONDS);
    assert_eq!(period(0, 8), DAY_SECONDS);
    assert_eq!(period(0, 100), 7 * DAY_SECONDS);
    assert_eq!(period(0, 10_000), 28 * DAY_SECONDS);
    let one = window(at(3), at(3));
    let day = |number: i64| Timestamp::from_seconds(number * DAY_SECONDS);
    assert_eq!((one.from, one.before), (day(3), day(4)));
    assert_eq!(moment(at(1), HOUR_SECONDS), "1970-01-02 00:00");
    assert_eq!(moment(at(1), DAY_SECONDS), "1970-01-02");
}

#[test]
fn the_name_of_the_file_says_the_form() {
    assert!(matches!(Format::of(Path::new("a/report.MD"), "--output"), Ok(Format::Markdown)));
    assert!(matches!(Format::of(Path::new("report.html"), "--output"), Ok(Format::Html)));
    for odd in ["report", "report.pdf", ".html"] {
        let Err(Failure::Refused(sentence)) = Format::of(Path::new(odd), "--output") else { panic!("{odd}") };
        assert!(sentence.contains("FILE.md or FILE.html"), "{sentence}");
    }
}
