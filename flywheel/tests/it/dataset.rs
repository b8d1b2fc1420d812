//! `flywheel dataset`: what is built can be shown and reported, and a report says what the counts and outcomes say.

use serde_json::Value;
use sqlx::AnyPool;

use crate::audit;

/// As many as a group needs that is told apart, and one more.
const DEVELOPERS: usize = 6;
const DAY_MICROS: i64 = 86_400_000_000;

/// Opportunities by signal that closed in the whole days of a data set's labels, the censored left out.
async fn signals(pool: &AnyPool, summary: &Value) -> Vec<(String, i64)> {
    let day = |name: &str| summary[name].as_i64().unwrap().div_euclid(DAY_MICROS) * DAY_MICROS;
    sqlx::query_as(
        "SELECT signal, COUNT(*) FROM opportunity_outcomes WHERE censored = 0 AND exposed_at >= $1 AND exposed_at < $2 \
         GROUP BY signal ORDER BY signal",
    )
    .bind(day("first_labeled_at"))
    .bind(day("last_labeled_at") + DAY_MICROS)
    .fetch_all(pool)
    .await
    .unwrap()
}

/// The cells of every row of a section's first table, with the header.
fn table(report: &str, section: &str) -> Vec<Vec<String>> {
    let section = report.split(&format!("\n## {section}\n")).nth(1).unwrap_or_else(|| panic!("{section}: {report}"));
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.filter(|line| !line.starts_with("|-")).map(cells).collect()
}

/// The row of that name.
fn row<'a>(table: &'a [Vec<String>], name: &str) -> &'a [String] {
    table.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name}: {table:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_is_made_shown_and_reported() {
    let place = audit::worked_by(DEVELOPERS).await;
    let pool = place.database().await;
    assert!(place.say(&["dataset", "report"]).sentence().contains("flywheel dataset build"));
    let built = place.say(&["dataset", "build", "--json"]).json();
    let digest = built["digest"].as_str().unwrap();
    let listed = place.say(&["dataset", "show", "--json"]).json();
    let [summary] = listed.as_array().unwrap().as_slice() else { panic!("{listed}") };
    let shown = place.say(&["dataset", "show", digest, "--json"]).json();
    let composition = &shown["composition"];
    assert_eq!(composition["training"], built["composition"]["training"]);

    let said = place.say(&["dataset", "report", &digest[..12]]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    let report = &said.stdout;
    assert!(report.starts_with(&format!("# Data set {}\n", &digest[..12])) && report.contains(digest), "{report}");
    assert_eq!(&place.say(&["dataset", "report"]).stdout, report, "the newest is the only one");

    // What was counted when it was made.
    let stages = table(report, "From the lake to the sets");
    for stage in composition["stages"].as_array().unwrap() {
        let name = stage["stage"].as_str().unwrap().replace('_', " ");
        let numbers = [stage["entered"].to_string(), stage["kept"].to_string()];
        assert_eq!(row(&stages, &name)[1..3], numbers, "{name}");
    }
    let silence = table(report, "NO\\_EDIT");
    let training = &composition["training"];
    let row_of_training = row(&silence, "training");
    assert_eq!(row_of_training[1], training["pairs"].to_string());
    assert_eq!(row_of_training[2], training["choosing_no_edit"].to_string());
    assert_eq!(row_of_training[4], training["rejecting_no_edit"].to_string());
    let merged = table(report, "Duplicates and merged pairs");
    assert_eq!(row(&merged, "training")[2], training["merged"].to_string());

    // What outcomes say now.
    let signals = signals(&pool, summary).await;
    let over_time = table(report, "Signals over time");
    let (header, periods) = over_time.split_first().unwrap();
    for (signal, count) in &signals {
        let column = header.iter().position(|name| *name == signal.replace('_', " ")).unwrap();
        let told: i64 = periods.iter().map(|period| period[column].parse::<i64>().unwrap()).sum();
        assert_eq!(told, *count, "{signal}: {over_time:?}");
    }
    let total: i64 = signals.iter().map(|(_, count)| count).sum();
    for section in ["Measures by language", "Measures by pattern", "Measures by latency"] {
        let measures = table(report, section);
        assert_eq!(row(&measures, "all")[1], total.to_string(), "{section}");
        let groups: i64 = measures[2..].iter().map(|group| group[1].parse::<i64>().unwrap()).sum();
        assert_eq!(groups, total, "{section}: {measures:?}");
    }
    assert!(report.contains("\n## Retention\n") && report.contains("\n## Lengths\n"), "{report}");
    // A new platform tells details from the beginning, without a setting.
    let detailed = "SELECT COUNT(language) FROM opportunity_outcomes";
    assert!(sqlx::query_scalar::<_, i64>(detailed).fetch_one(&pool).await.unwrap() > 0);

    // The same as a page that needs nothing else.
    let file = place.path().join("report.html");
    let written = place.say(&["dataset", "report", digest, "--output", file.to_str().unwrap()]);
    assert!(written.code == Some(0) && written.stdout.contains("report.html"), "{written:?}");
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg ") && page.contains(digest));
    let fetches = ["<script", "href=", "src=", "http://", "https://", "url(", "@import"];
    assert!(fetches.iter().all(|sign| !page.contains(sign)), "{page}");
    for heading in report.lines().filter_map(|line| line.strip_prefix("## ")) {
        assert!(page.contains(&format!("<h2>{}</h2>", heading.replace('\\', ""))), "{heading}");
    }
    let odd = place.say(&["dataset", "report", digest, "--output", place.path().join("report.pdf").to_str().unwrap()]);
    assert!(odd.sentence().contains("expected FILE.md or FILE.html"), "{odd:?}");

    // Nobody is in it.
    let persons: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT person FROM opportunity_outcomes").fetch_all(&pool).await.unwrap();
    assert_eq!(persons.len(), DEVELOPERS);
    assert!(persons.iter().all(|person| !report.contains(person.as_str()) && !page.contains(person.as_str())));

    // Of very many none is out of reach, and a list that ends early says so.
    let many = "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 1001) \
         INSERT INTO snapshots SELECT printf('%064x', n), tenant, model, audience, label_policy_version, \
         code_version, filters, training_pairs, gate_pairs, first_labeled_at, last_labeled_at, last_signal_at, \
         created_at + n FROM number, snapshots WHERE snapshot_digest = $1";
    sqlx::query(many).bind(digest).execute(&pool).await.unwrap();
    let shown = place.say(&["dataset", "show", &digest[..12], "--json"]).json();
    assert_eq!(shown["digest"], digest);
    let listed = place.say(&["dataset", "show"]);
    assert!(listed.stdout.trim_end().ends_with("there are older ones; --limit lists more than 50"), "{listed:?}");
    let all = place.say(&["dataset", "show", "--limit", "1002", "--json"]).json();
    assert_eq!(all.as_array().unwrap().last().unwrap()["digest"], digest);
    let whole = place.say(&["dataset", "show", "--limit", "1002"]).stdout;
    assert!(whole.contains(&digest[..12]) && !whole.contains("--limit"), "{whole}");
}
