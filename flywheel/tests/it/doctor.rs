//! `flywheel doctor` and `flywheel config show` on embedded parts: what they say is so, and nothing is changed.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Place, Said, command, finished};

/// How it stands with each check, in the order in which they are told. How much room there is depends on the machine.
pub(crate) fn verdicts(said: &Said) -> Vec<(String, String)> {
    let report: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let text = |check: &Value, field: &str| check[field].as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    let checks = checks.map(|check| (text(check, "check"), text(check, "verdict")));
    checks.filter(|(check, _)| !check.starts_with("disk.")).collect()
}

/// What is said of a check, and what to do.
pub(crate) fn told(said: &Said, check: &str) -> (String, String) {
    let report: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let found = report["checks"].as_array().unwrap().iter().find(|found| found["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no {check}: {said:?}"));
    (found["says"].as_str().unwrap().to_owned(), found["advice"].as_str().unwrap_or_default().to_owned())
}

/// What is said, without what another machine has otherwise.
fn redacted(place: &Place, said: &Said) -> String {
    let ports = place.ports;
    let mut text = said.stdout.replace(place.path().to_str().unwrap(), "PLACE");
    for (port, name) in
        [(ports.serving, "SERVING"), (ports.ingest, "INGEST"), (ports.registry, "REGISTRY"), (ports.admin, "ADMIN")]
    {
        text = text.replace(&format!(":{port}"), &format!(":{name}"));
    }
    if let Some((before, version)) = text.split_once("SQLite ") {
        let after = version.split_once('\n').map_or("", |(_, after)| after);
        text = format!("{before}SQLite VERSION\n{after}");
    }
    let is_everywhere = |line: &&str| !line.contains("disk.") && !line.contains("-> make room");
    let lines: Vec<&str> = text.lines().filter(is_everywhere).collect();
    // The last line counts the disks.
    lines[..lines.len() - 1].join("\n")
}

#[test]
fn a_place_where_nothing_is_yet_is_well_and_stays_so() {
    let place = Place::new("");
    let said = place.say(&["doctor"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    insta::assert_snapshot!("nothing_yet", redacted(&place, &said));
    assert!(said.stdout.trim_end().ends_with(" 0 failed"), "{said:?}");
    assert!(!place.data().exists(), "doctor makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_is_well_while_it_runs_and_when_it_stopped() {
    let place = Place::new("");
    let running = place.up().await;
    let said = place.say(&["doctor"]);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    insta::assert_snapshot!("running", redacted(&place, &said));
    // As serving and the orchestrator on other machines find the registry.
    let address = format!("http://127.0.0.1:{}", place.ports.registry);
    let elsewhere = || place.say(&["doctor", "--json", "--set", &format!("registry.address={address}")]);
    let found = elsewhere();
    assert_eq!(found.code, Some(0), "{found:?}");
    assert_eq!(told(&found, "registry.address").0, format!("the registry at {address} lets this platform in"));
    let key = place.data().join("keys/internal.key");
    let kept = std::fs::read(&key).unwrap();
    std::fs::write(&key, "fw_nobody").unwrap();
    let refused = elsewhere();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(told(&refused, "registry.address").0.contains("does not let this platform in"), "{refused:?}");
    std::fs::write(&key, kept).unwrap();
    std::fs::rename(&key, key.with_extension("away")).unwrap();
    let answers = elsewhere();
    assert!(told(&answers, "registry.address").0.contains("there is no key here yet"), "{answers:?}");
    std::fs::rename(key.with_extension("away"), &key).unwrap();
    assert_eq!(running.stop().await, Some(0));
    let away = elsewhere();
    assert_eq!(away.code, Some(0), "{away:?}");
    let (says, advice) = told(&away, "registry.address");
    assert!(says.contains("the registry cannot be reached"), "{says}");
    assert_eq!(advice, "start `flywheel registry`, or correct `registry.address` and `registry.ca_file`");
    let stopped = place.say(&["doctor", "--json"]);
    assert!(verdicts(&stopped).iter().all(|(_, verdict)| verdict == "ok"), "{stopped:?}");
    assert!(told(&stopped, "data.directory").0.ends_with("nothing runs on it"), "{stopped:?}");
    assert!(told(&stopped, "doors.serving").0.ends_with("is free"), "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_is_told_at_once() {
    let place = Place::new("");
    assert_eq!(place.up().await.stop().await, Some(0));
    let data = place.data();
    // Somebody else's door, another key, a log of another release, other partitions.
    let _door = std::net::TcpListener::bind(("127.0.0.1", place.ports.ingest)).unwrap();
    let master = data.join("keys/master.key");
    let key = std::fs::read(&master).unwrap();
    std::fs::write(&master, [7; 32]).unwrap();
    std::fs::set_permissions(&master, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = place.say(&["doctor", "--json", "--set", "bus.partitions=9", "--set", "clock.kind=real"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    let wrong: Vec<(String, String)> = verdicts(&said).into_iter().filter(|(_, verdict)| verdict != "ok").collect();
    let expected =
        [("keys.master", "failed"), ("keys.mode", "warning"), ("log.file", "failed"), ("doors.ingest", "failed")]
            .map(|(check, verdict)| (check.to_owned(), verdict.to_owned()));
    assert_eq!(wrong, expected, "{said:?}");
    assert!(told(&said, "keys.master").1.starts_with("restore it from its backup"), "{said:?}");
    assert_eq!(told(&said, "keys.mode").1, format!("chmod 600 {}", master.canonicalize().unwrap().display()));
    assert_eq!(told(&said, "log.file").1, "set `bus.partitions` = 4: it is fixed with the log");
    assert!(told(&said, "doors.ingest").0.starts_with("another program listens on"), "{said:?}");

    std::fs::remove_file(&master).unwrap();
    let said = place.say(&["doctor", "--json"]);
    assert!(told(&said, "keys.master").0.contains("is missing, and the database holds keys"), "{said:?}");
    assert!(!master.exists(), "doctor makes no key");
    std::fs::write(&master, key).unwrap();
    std::fs::write(data.join("bus.sqlite"), "no log at all").unwrap();
    // What a slow end left beside it would be read in its place.
    for beside in ["bus.sqlite-wal", "bus.sqlite-shm"] {
        let _ = std::fs::remove_file(data.join(beside));
    }
    let said = place.say(&["doctor", "--json"]);
    assert!(told(&said, "log.file").0.contains("can not be read"), "{said:?}");
}

#[test]
fn a_file_where_the_data_should_be_is_told() {
    let place = Place::new("");
    std::fs::write(place.data(), "a file").unwrap();
    let said = place.say(&["doctor", "--json"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(told(&said, "data.directory").0.ends_with("is no directory"), "{said:?}");
}

#[test]
fn embedded_parts_need_no_rights() {
    let place = Place::new("");
    let said = place.say(&["doctor", "--print-acls"]);
    assert!(said.code == Some(0) && said.stdout.starts_with("# This platform runs on embedded parts"), "{said:?}");
    let said = place.say(&["doctor", "--print-acls=kafka"]);
    assert_eq!(said.sentence(), "kafka is no part of the configured platform");
    assert!(place.say(&["doctor", "--role", "a"]).stderr.contains("--print-acls"));
}

fn shown(file: &Path) -> Said {
    let mut showing = command(&["config", "show", "--config", file.to_str().unwrap(), "--set", "bus.partitions=8"]);
    showing.env("FLYWHEEL_SERVING__THRESHOLD", "0.6");
    showing.env("FLYWHEEL_ARTIFACTS__S3__SECRET_ACCESS_KEY", "hush-secret");
    showing.env("FLYWHEEL_BUS__KAFKA__SASL__PASSWORD", "hush-word");
    finished(showing)
}

#[test]
fn the_configuration_in_force_is_shown_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let (file, key) = (directory.path().join("flywheel.toml"), directory.path().join("key"));
    std::fs::write(&key, "hush-id\n").unwrap();
    let text = format!(
        "tenant = \"acme\"\n[artifacts.s3]\naccess_key_id_file = \"{}\"\n[bus.kafka.sasl]\nmechanism = \"SCRAM-SHA-512\"\nusername = \"flywheel\"\npassword = \"hush\"\n",
        key.display()
    );
    std::fs::write(&file, text).unwrap();
    let said = shown(&file);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!said.stdout.contains("hush"), "{said:?}");
    let (place, name) = (directory.path().display().to_string(), file.display().to_string());
    for line in [
        format!("tenant = \"acme\"  # file {name}"),
        "partitions = 8  # flag for bus.partitions".to_owned(),
        "threshold = 0.6  # variable FLYWHEEL_SERVING__THRESHOLD".to_owned(),
        format!("access_key_id_file = \"{place}/key\"  # file {name}"),
        "# secret_access_key is set, and a secret  # variable FLYWHEEL_ARTIFACTS__S3__SECRET_ACCESS_KEY".to_owned(),
        "[serving.http]".to_owned(),
        "raw_hours = 24".to_owned(),
    ] {
        assert!(said.stdout.lines().any(|shown| shown == line), "no line `{line}`: {}", said.stdout);
    }
    // What is shown can be read again, and says the same.
    let again = directory.path().join("again.toml");
    std::fs::write(&again, &said.stdout).unwrap();
    let without_places =
        |said: &Said| said.stdout.lines().map(|line| line.split("  # ").next().unwrap().to_owned()).collect::<Vec<_>>();
    let reread = shown(&again);
    let settings = |lines: Vec<String>| lines.into_iter().filter(|line| !line.starts_with('#')).collect::<Vec<_>>();
    assert_eq!(settings(without_places(&reread)), settings(without_places(&said)));

    let mut json = command(&["config", "show", "--json", "--config", file.to_str().unwrap()]);
    json.env("FLYWHEEL_SERVING__THRESHOLD", "0.6");
    json.env("FLYWHEEL_ARTIFACTS__S3__SECRET_ACCESS_KEY", "hush-secret");
    let json = finished(json).json();
    assert_eq!(json["settings"]["serving"]["threshold"], 0.6);
    assert_eq!(json["given"]["serving.threshold"], "variable FLYWHEEL_SERVING__THRESHOLD");
    assert_eq!(json["secrets"]["bus.kafka.sasl.password"]["shown"], Value::Null);
    assert!(!json.to_string().contains("hush"));
}
