//! `flywheel up`: what it prints works when it is pasted, and nothing that it keeps is lost.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Place, client, edits, until};

/// What a shell makes of a line: its words.
fn words_of(line: &str) -> Vec<String> {
    let rest = line.strip_prefix("curl ").unwrap();
    let script = format!("printf '%s\\0' {rest}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "the shell does not take: {line}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// Pastes a line into a shell; where there is no curl, the shell takes the line apart and we do what curl does.
async fn pasted(line: &str) -> String {
    if Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success()) {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        return String::from_utf8(output.stdout).unwrap();
    }
    let words = words_of(line);
    let after = |flag: &str| words.iter().skip_while(|word| *word != flag).nth(1).cloned();
    let url = words.iter().find(|word| word.starts_with("http://")).unwrap();
    let body = after("-d");
    let mut request = if body.is_some() { client().post(url) } else { client().get(url) };
    for pair in words.windows(2).filter(|pair| pair[0] == "-H") {
        let (name, value) = pair[1].split_once(": ").unwrap();
        request = request.header(name, value);
    }
    request.body(body.unwrap_or_default()).send().await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_that_up_prints_works_when_pasted() {
    let place = Place::new("");
    let running = place.up().await;
    let text = running.stdout();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(lines.len(), 4, "a line for each door: {text}");
    let doors = [place.ports.serving, place.ports.ingest, place.ports.registry, place.ports.admin];
    for (line, port) in lines.iter().zip(doors) {
        assert!(line.contains(&format!("http://127.0.0.1:{port}/")), "{line}");
    }
    let suggested = pasted(lines[0]).await;
    assert!(suggested.contains("event: end\ndata: {") && suggested.contains("\"receipt\""), "{suggested}");
    let reported: Value = serde_json::from_str(&pasted(lines[1]).await).unwrap();
    assert_eq!(reported["results"][0]["status"], "admitted", "{reported}");
    let versions: Value = serde_json::from_str(&pasted(lines[2]).await).unwrap();
    assert_eq!((versions.as_array().unwrap().len(), &versions[0]["version"]), (1, &Value::from(1)));
    let ready: Value = serde_json::from_str(&pasted(lines[3]).await).unwrap();
    assert_eq!(ready["status"], "ready", "{ready}");
    // The commands name the binary that is running, so that they work for whoever has none on the search path.
    let binary = env!("CARGO_BIN_EXE_flywheel");
    let commands: Vec<&str> = text
        .lines()
        .filter_map(|line| line.find(binary).map(|start| &line[start..]))
        .filter(|line| line.contains("--data-dir"))
        .collect();
    assert_eq!(commands.len(), 4, "{text}");
    for line in commands {
        let output = Command::new("sh").args(["-c", line]).env("FLYWHEEL_LOG", "error").output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let rules = place.say(&["repositories", "list", "--json"]).json();
    assert_eq!((&rules[0]["repository"], &rules[0]["trainable"]), (&Value::from("shop"), &Value::from(true)));
    assert_eq!(running.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_platform_starts_again_with_everything_it_had() {
    let place = Place::new("");
    let running = place.up().await;
    assert!(running.stdout().contains("made now"));
    let key = place.key();
    let made = place.say(&["keys", "create", "--name", "second", "--json"]).json();
    assert!(made["key"].as_str().unwrap().starts_with("fw_"));
    let report = async |sequence: u64| {
        let answer: Value = place.report(&key, &edits([sequence])).await.json().await.unwrap();
        assert_eq!(answer["results"][0]["status"], "admitted", "{answer}");
    };
    for sequence in 1..=5 {
        report(sequence).await;
    }
    running.kill();
    let status = place.say(&["status", "--json"]).json();
    assert_eq!((&status["running"], status["doors"].as_object().unwrap().len()), (&Value::from(false), 0), "{status}");

    let running = place.up().await;
    assert!(!running.stdout().contains("made now"));
    assert_eq!(place.key(), key);
    // The same events again: they were kept, and are known.
    for sequence in 1..=6 {
        report(sequence).await;
    }
    let status = until("the ledger to have all six", || async {
        let status = place.say(&["status", "--json"]).json();
        (status["ledger"]["admitted"] == 6).then_some(status)
    })
    .await;
    assert_eq!(status["running"], true);
    for door in ["serving", "ingest", "registry", "admin"] {
        assert!(status["doors"][door].is_string(), "{door}: {status}");
    }
    assert_eq!(
        (&status["versions"][0]["version"], &status["versions"][0]["serves"]),
        (&Value::from(1), &Value::from("current 95%, hold-back 5%"))
    );
    let stages: Vec<&str> =
        status["backlog"].as_array().unwrap().iter().map(|line| line["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["anonymizer", "labeler", "lake", "ledger", "tally"]);
    assert_eq!(status["ledger"]["balanced"], true);
    let names: Vec<Value> = place
        .say(&["keys", "list", "--json"])
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["name"].clone())
        .collect();
    assert_eq!(names, ["internal", "editors", "second"]);
    // What only a look at the whole wheel tells is among the metrics.
    let metrics = until("the ledger among the metrics", || async {
        let answer = client().get(format!("http://127.0.0.1:{}/metrics", place.ports.admin)).send().await.unwrap();
        let text = answer.text().await.unwrap();
        text.contains("flywheel_orchestrator_freshness_seconds ").then_some(text)
    })
    .await;
    for metric in ["flywheel_labeler_ledger_unexplained_events 0", "flywheel_service_resident_bytes "] {
        assert!(metrics.contains(metric), "{metric}: {metrics}");
    }
    let text = place.say(&["status"]);
    assert!(text.stdout.starts_with("running: ") && text.stdout.contains("(balanced)"), "{text:?}");
    assert_eq!(running.stop().await, Some(0));
    assert!(place.say(&["status"]).stdout.starts_with("not running"));
    assert_eq!(std::fs::read_dir(place.data().join("doors")).unwrap().count(), 0, "a stopped platform has no doors");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_is_refused_in_one_sentence() {
    let place = Place::new("");
    let running = place.up().await;
    let second = place.say(&["up"]);
    assert!(second.sentence().contains("is in use by another flywheel") && second.sentence().contains("--data-dir"));
    let alone = place.say(&["ingest"]);
    assert!(alone.sentence().contains("is in use by `flywheel up`"), "{alone:?}");
    // Other data, the same doors.
    let other = Place::new("");
    for (door, port) in [
        ("serving", place.ports.serving),
        ("admin", place.ports.admin),
        ("ingest", place.ports.ingest),
        ("registry", place.ports.registry),
    ] {
        let key = if door == "admin" { "admin.listen".to_owned() } else { format!("{door}.http.listen") };
        let refused = other.say(&["up", "--set", &format!("{key}=127.0.0.1:{port}")]);
        let expected = format!("{door}: cannot listen on 127.0.0.1:{port}: the port is already in use");
        assert_eq!(refused.sentence(), expected);
    }
    // The neighbour is unharmed.
    let ready = client().get(format!("http://127.0.0.1:{}/readyz", place.ports.admin)).send().await.unwrap();
    assert!(ready.status().is_success());
    assert_eq!(running.stop().await, Some(0));
}
