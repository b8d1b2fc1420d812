//! `docs/wire.md` against running doors: its commands work, and its lists of codes are those of the code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use events::wire::{EventStatus, TelemetryAnswer};
use regex::Regex;
use serde_json::Value;

use crate::fixture::{Fixture, parse_events};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/wire.md")).unwrap()
}

/// The text of every fenced block of a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect()
}

/// What `curl` is called with, as a real shell takes the command apart.
fn shell_arguments(command: &str, key: &str) -> Vec<String> {
    let script = format!("curl() {{ printf '%s\\000' \"$@\"; }}\n{command}\n");
    let output = Command::new("sh").arg("-euc").arg(script).env("KEY", key).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.strip_suffix('\0').unwrap().split('\0').map(str::to_owned).collect()
}

/// Sends what `curl` would send, to `address` instead of the documented one.
async fn run(command: &str, key: &str, address: &str) -> reqwest::Response {
    let (mut url, mut headers, mut body) = (None, Vec::new(), None);
    let mut arguments = shell_arguments(command, key).into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-H" => headers.push(arguments.next().unwrap()),
            "-d" => body = Some(arguments.next().unwrap()),
            "-N" => {}
            other if other.starts_with("http://") => url = Some(argument),
            other => panic!("curl would be called with {other}"),
        }
    }
    let url = url.unwrap();
    let path = &url["http://".len()..].split_once('/').unwrap().1;
    let mut request = reqwest::Client::new().post(format!("{address}/{path}")).body(body.unwrap());
    for header in headers {
        let (name, value) = header.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    request.send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_page_work_when_pasted() {
    let fixture = Fixture::new().await;
    let served = fixture.serve().await;
    let ingest = fixture.ingest().await;
    let commands = blocks(&page(), "sh");
    assert_eq!(commands.len(), 2, "{commands:?}");
    for command in commands {
        if command.contains("/v1/suggestions") {
            let response = run(&command, &fixture.api_key, &served.address).await;
            let (status, text) = (response.status(), response.text().await.unwrap());
            assert_eq!(status, 200, "{text}");
            assert!(parse_events(&text).end.receipt.len() > 100);
        } else {
            let response = run(&command, &fixture.api_key, &ingest).await;
            let (status, text) = (response.status(), response.text().await.unwrap());
            assert_eq!(status, 200, "{text}");
            let answer: TelemetryAnswer = serde_json::from_str(&text).unwrap();
            let statuses: Vec<_> = answer.results.iter().map(|result| result.status).collect();
            assert_eq!(statuses, [EventStatus::Admitted; 3]);
        }
    }
}

#[test]
fn the_example_answers_have_the_documented_shape() {
    let page = page();
    let answers = blocks(&page, "json");
    let answer: TelemetryAnswer = serde_json::from_str(
        &answers[1]
            .replace("5c0d...", "0190f3c0-7b5a-7c3e-9d51-000000000001")
            .replace("91ab...", "0190f3c0-7b5a-7c3e-9d51-000000000002")
            .replace("e3f7...", "0190f3c0-7b5a-7c3e-9d51-000000000003"),
    )
    .unwrap();
    assert_eq!(answer.results.len(), 3);
    let problem: Value = serde_json::from_str(&answers[0]).unwrap();
    assert_eq!(problem["type"], format!("urn:flywheel:problem:{}", problem["code"].as_str().unwrap()));
    let stream = page.split("```\nevent: action").nth(1).unwrap().split("\n```").next().unwrap();
    let answered = parse_events(&format!("event: action{stream}\n\n"));
    assert_eq!((answered.actions.len(), answered.end.actions), (1, 1));
}

/// Every code that a door can answer with, as it stands in the sources.
fn codes_in_sources() -> BTreeSet<String> {
    let patterns = [
        r#"with_code\(\s*"([a-z0-9_]+)""#,
        r#"Problem::new\(\s*StatusCode::[A-Z_]+,\s*"([a-z0-9_]+)""#,
        r#"Self::new\(\s*StatusCode::[A-Z_]+,\s*"([a-z0-9_]+)""#,
        r#"unavailable\(\s*"([a-z0-9_]+)""#,
        r#"Refusal::new\(\s*"([a-z0-9_]+)""#,
        r#"\((?:later|EventStatus::[A-Za-z]+),\s*"([a-z0-9_]+)""#,
        r#"EventStatus::Refused,\s*"([a-z0-9_]+)""#,
    ]
    .map(|pattern| Regex::new(pattern).unwrap());
    let mut codes = BTreeSet::new();
    for room in ["ingest/src", "serving/src", "serving/src/proxy", "service/src"] {
        for entry in std::fs::read_dir(root().join(room)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.ends_with(".rs") || name.ends_with("_tests.rs") || name == "testing.rs" {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for pattern in &patterns {
                codes.extend(pattern.captures_iter(text).map(|found| found[1].to_owned()));
            }
        }
    }
    codes
}

#[test]
fn every_code_is_documented() {
    // Of the admin port; of the kinds that the doors replace by a code of their own; of rejections they never meet.
    let elsewhere = [
        "not_ready",
        "bad_request",
        "forbidden",
        "not_found",
        "conflict",
        "unprocessable",
        "too_many_requests",
        "invalid_query",
        "invalid_path",
    ];
    let page = page();
    let codes = codes_in_sources();
    assert!(codes.len() > 40, "the scan finds too little: {codes:?}");
    for code in codes.iter().filter(|code| !elsewhere.contains(&code.as_str())) {
        assert!(page.contains(&format!("`{code}`")), "docs/wire.md lacks `{code}`");
    }
    // And the other way round: what the tables of codes list exists.
    let tables = page.split("Codes of refused events").nth(1).unwrap().split("## After the door").next().unwrap();
    let listed = Regex::new(r"`([a-z0-9]+(?:_[a-z0-9]+)*)`").unwrap();
    for row in tables.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        for cell in &cells[..cells.len() - 1] {
            for code in listed.captures_iter(cell) {
                assert!(codes.contains(&code[1]), "docs/wire.md lists `{}`, which no door answers", &code[1]);
            }
        }
    }
}
