//! Commands that list, show and change: what they print is what is.

use bus::{Affected, CommittedRecord, DeadLetter, DeadLetterKind, Position, Record};
use events::avro;
use events::{EventId, RawEvent, Timestamp, topics};
use serde_json::{Value, json};

use crate::harness::{Place, SESSION, say, until};
use crate::{audit, replay};

#[test]
fn every_help_text_reads_well() {
    fn texts(path: &[&str], all: &mut String) {
        let mut arguments = path.to_vec();
        arguments.push("--help");
        let said = say(&arguments);
        assert_eq!(said.code, Some(0), "{said:?}");
        all.push_str(&format!("$ flywheel {}\n{}\n", arguments.join(" "), said.stdout));
        let commands = said.stdout.split("Commands:\n").nth(1).unwrap_or_default();
        let names = commands.lines().take_while(|line| !line.is_empty()).filter_map(|line| {
            // Descriptions that go over to the next line are indented further.
            line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')).and_then(|rest| rest.split(' ').next())
        });
        for name in names.filter(|name| *name != "help") {
            let mut path = path.to_vec();
            path.push(name);
            texts(&path, all);
        }
    }
    let mut all = String::new();
    texts(&[], &mut all);
    insta::assert_snapshot!("help", all);
}

#[test]
fn the_man_in_a_hurry_is_told_what_to_type() {
    let nothing = say(&[]);
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.stderr.contains("Usage: flywheel") && nothing.stderr.contains("demo"), "{nothing:?}");
    let mistyped = say(&["statsu"]);
    assert_eq!(mistyped.code, Some(2));
    assert!(mistyped.stderr.contains("status"), "{mistyped:?}");
}

#[test]
fn the_version_names_the_sources() {
    let said = say(&["--version"]);
    let (release, digest) = said.stdout.trim().split_once('+').unwrap();
    assert_eq!(release, format!("flywheel {}", env!("CARGO_PKG_VERSION")));
    assert!(digest.len() == 12 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_used_and_revoked() {
    let place = Place::new("");
    let running = place.up().await;
    let made = place.say(&["keys", "create", "--name", "bench", "--scope", "suggest", "--json"]).json();
    let (id, key) = (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned());
    assert_eq!(made["scopes"], json!(["suggest"]));
    let asked = || async {
        let answer: Value = place.report(&key, &json!({})).await.json().await.unwrap();
        answer["code"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(asked().await, "missing_scope", "the key is known and has its scope only");
    let listed = place.say(&["keys", "list"]);
    assert!(listed.stdout.contains(&id) && !listed.stdout.contains(&key), "{listed:?}");
    assert_eq!(place.say(&["keys", "revoke", &id]).code, Some(0));
    until("the door to forget the key", || async { (asked().await == "unauthorized").then_some(()) }).await;
    assert!(place.say(&["keys", "revoke", &id]).sentence().contains("flywheel keys list"));
    assert!(place.say(&["keys", "create", "--scope", "everything"]).sentence().contains("unknown scope"));
    let plain = place.say(&["keys", "create"]);
    assert!(plain.stdout.trim().starts_with("fw_") && plain.stdout.lines().count() == 1, "{plain:?}");

    // A revoked editors' key is replaced by the next start.
    let old = place.key();
    let editors = place.say(&["keys", "list", "--json"]).json();
    let editors = editors.as_array().unwrap().iter().find(|key| key["name"] == "editors").unwrap().clone();
    assert_eq!(place.say(&["keys", "revoke", editors["id"].as_str().unwrap()]).code, Some(0));
    assert_eq!(running.stop().await, Some(0));
    let running = place.up().await;
    assert!(place.key() != old && running.stdout().contains("made now"));
    assert_eq!(running.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_listed_can_be_shown_and_both_as_json() {
    let place = Place::new("");
    let running = place.up().await;
    assert_eq!(running.stop().await, Some(0));
    // Also of a platform that does not run.
    for command in ["keys", "repositories", "dead-letters", "models", "rollout"] {
        let json = place.say(&[command, "list", "--json"]).json();
        assert!(json.is_array(), "{command}: {json}");
        let text = place.say(&[command, "list"]);
        assert_eq!((text.code, text.stderr.as_str()), (Some(0), ""), "{command}: {text:?}");
    }
    let version = place.say(&["models", "show", "1", "--json"]).json();
    assert_eq!((&version["version"], &version["method"]), (&Value::from(1), &Value::from("pretrain")));
    let lineage = version["lineage"].as_array().unwrap();
    assert_eq!((lineage.len(), &lineage[0]["evaluation_digest"]), (1, &version["evaluation_digest"]));
    let shown = place.say(&["models", "show", "1"]).stdout;
    assert!(shown.contains("pretrain") && shown.contains("as registered") && shown.contains("weights"), "{shown}");
    assert!(shown.contains("file config.json") && shown.lines().all(|line| line.len() < 120), "{shown}");
    assert!(place.say(&["models", "show", "7"]).sentence().contains('7'));
    let report = place.path().join("report.html");
    let report = report.to_str().unwrap();
    let refused = place.say(&["models", "show", "1", "--report", report]);
    assert!(refused.sentence().contains("was judged by no gate"), "{refused:?}");
    let refused = place.say(&["models", "show", "1", "--report", "/nowhere/report.pdf"]);
    assert!(refused.sentence().contains("expected FILE.md, FILE.html or FILE.json"), "{refused:?}");
    assert!(place.say(&["rollout", "show", "7"]).code == Some(2));
    let nobody = "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d";
    for decision in ["approve", "abort", "rollback"] {
        let refused = place.say(&["rollout", decision, nobody, "--by", "ada"]);
        assert!(refused.sentence().contains(nobody), "{refused:?}");
    }
    assert!(place.say(&["dead-letters", "show", "0:1"]).sentence().contains("flywheel dead-letters list"));
    assert_eq!(place.say(&["dead-letters", "redrive", "all"]).stdout.trim(), "sent through again: 0");
    assert!(place.say(&["consent", "set", "ada", "everything"]).sentence().contains("expected none, usage or code"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_about_repositories_are_those_that_training_honours() {
    let place = Place::new("");
    let running = place.up().await;
    // Nobody relays after this, so that what the log will be told can be seen.
    assert_eq!(running.stop().await, Some(0));
    for impossible in ["ac*", "*/site", "**"] {
        for verb in ["allow", "deny"] {
            let refused = place.say(&["repositories", verb, impossible]);
            assert!(refused.sentence().contains("such as `acme/*`"), "{refused:?}");
        }
    }
    let allowed = place.say(&["repositories", "allow", "acme/*", "--audience", "acme"]);
    assert_eq!(allowed.code, Some(0), "{allowed:?}");
    let denied = place.say(&["repositories", "deny", "acme/vault"]);
    assert!(denied.code == Some(0) && denied.stdout.contains("acme/vault may not be trained on"), "{denied:?}");
    let rules = place.say(&["repositories", "list", "--json"]).json();
    let rules: Vec<_> = rules
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| (rule["repository"].as_str().unwrap(), rule["audience"].as_str().unwrap(), &rule["trainable"]))
        .collect();
    // Whose a denied repository is stays.
    assert_eq!(rules, [("acme/*", "acme", &Value::from(true)), ("acme/vault", "acme", &Value::from(false))]);

    let pool = place.database().await;
    let told: Vec<(String, Vec<u8>)> = sqlx::query_as(
        "SELECT control_subject, value FROM outbox WHERE control_kind = 'audience' ORDER BY created_at, id",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let values: Vec<&[u8]> = told.iter().map(|(_, value)| value.as_slice()).collect();
    assert_eq!(values, [b"acme".as_slice(), b"not trained on"]);
    // The log knows repositories as models see them.
    let (pattern, name) = (&told[0].0, &told[1].0);
    assert!(pattern.starts_with("default/") && pattern.ends_with("/*") && !pattern.contains("acme"), "{pattern}");
    assert!(name.starts_with(pattern.trim_end_matches('*')) && !name.contains("vault"), "{name}");
}

/// A letter that names no event and kept nothing.
fn letter(raw: &CommittedRecord, failed_at: Timestamp) -> DeadLetter {
    DeadLetter {
        step: "anonymizer".to_owned(),
        topic: topics::TELEMETRY_RAW.to_owned(),
        partition: raw.partition,
        position: raw.position,
        key: raw.key,
        kind: DeadLetterKind::Record,
        timer_name: None,
        due_at: None,
        reason: "key_poisoned".to_owned(),
        key_poisoned: false,
        partition_time: failed_at,
        payload: None,
        affected: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_and_sent_through_again() {
    let place = Place::new("");
    let running = place.up().await;
    let end = json!({ "sequence": 1, "monotonic_ms": 1, "kind": "session_ended" });
    let batch = json!({ "person": "ada", "session_id": SESSION, "events": [end] });
    assert!(place.report(&place.key(), &batch).await.status().is_success());

    // Beside the running platform: bytes that are no event, and a letter with an event that can go again.
    let bus = replay::open(&place.data());
    let raw = replay::records(bus.as_ref(), topics::TELEMETRY_RAW).await;
    let rubbish = Record { key: raw[0].key, value: "no event".into() };
    for published in bus.publish(topics::TELEMETRY_RAW, vec![rubbish]).await {
        published.unwrap();
    }
    let mut event: RawEvent = avro::decode(&raw[0].value).unwrap();
    let session = "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3e".parse().unwrap();
    event.header.session_id = session;
    event.header.event_id = EventId::of_client_event(session, 1);
    let payload = Some(avro::encode(&event).unwrap().into());
    let letter = DeadLetter { payload, ..letter(&raw[0], event.header.received_at) };
    let letter = Record { key: raw[0].key, value: letter.encode().unwrap() };
    for published in bus.publish(topics::DEAD_LETTERS, vec![letter]).await {
        published.unwrap();
    }
    let listed = until("both dead letters", || async {
        let listed = place.say(&["dead-letters", "list", "--json"]).json();
        (listed.as_array()?.len() == 2).then_some(listed)
    })
    .await;
    let by_reason = |reason: &str| {
        listed
            .as_array()
            .unwrap()
            .iter()
            .find(|letter| letter["reason"] == reason)
            .unwrap_or_else(|| panic!("{listed}"))
    };
    let (rubbish, held) = (by_reason("undecodable_record"), by_reason("key_poisoned"));
    assert_eq!((&rubbish["can_be_redriven"], &held["can_be_redriven"]), (&false.into(), &true.into()));
    let id = held["id"].as_str().unwrap();
    let shown = place.say(&["dead-letters", "show", id]);
    assert!(shown.stdout.contains("key_poisoned") && shown.stdout.contains("telemetry.raw.v1"), "{shown:?}");
    assert_eq!(place.say(&["dead-letters", "show", id, "--json"]).json(), *held);
    let status = place.say(&["status", "--json"]).json();
    assert_eq!(status["dead_letters"], 2, "{status}");

    assert_eq!(place.say(&["dead-letters", "redrive", id]).stdout.trim(), "sent through again: 1");
    let status = until("the event to enter", || async {
        let status = place.say(&["status", "--json"]).json();
        (status["ledger"]["admitted"] == 2).then_some(status)
    })
    .await;
    assert_eq!(status["ledger"]["balanced"], true, "{status}");
    let stuck = place.say(&["dead-letters", "redrive", rubbish["id"].as_str().unwrap()]);
    assert!(stuck.sentence().contains("kept no content"), "{stuck:?}");
    assert_eq!(running.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_is_no_error() {
    let place = Place::new("");
    let running = place.up().await;
    assert_eq!(running.stop().await, Some(0));
    for arguments in [&["keys", "list"][..], &["keys", "list", "--json"], &["status"]] {
        let mut listing = place.command(arguments);
        // Whoever would have read has gone before the first byte comes.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = listing.stdout(writer).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_let_go_on_only_where_something_is_lost() {
    let place = Place::new("");
    let running = place.up().await;
    let skip = |step: &'static str| place.say(&["log", "skip", "--step", step, "--partition", "0"]);
    until("the running step to be let be", || async {
        skip("anonymizer").sentence().contains("owned by a process that runs").then_some(())
    })
    .await;
    assert_eq!(running.stop().await, Some(0));
    let nothing = skip("anonymizer");
    assert!(nothing.sentence().contains("nothing keeps step anonymizer from going on"), "{nothing:?}");
    assert!(skip("scrubber").sentence().contains("the steps are anonymizer and labeler"));
    let nobody = place.say(&["log", "skip", "--step", "labeler", "--partition", "0", "--yes"]);
    assert_eq!(nobody.code, Some(2), "{nobody:?}");

    // Somebody put back a log whose beginning is missing.
    let log = rusqlite::Connection::open(place.data().join("bus.sqlite")).unwrap();
    let raw = "topic = (SELECT id FROM topics WHERE name = ?1) AND partition = 0";
    let beyond = format!("UPDATE partitions SET oldest = next + 3, next = next + 3 WHERE {raw}");
    assert_eq!(log.execute(&beyond, [topics::TELEMETRY_RAW]).unwrap(), 1);
    drop(log);
    let shown = skip("anonymizer");
    assert_eq!(shown.code, Some(2), "{shown:?}");
    assert!(shown.stdout.contains("first lost position") && shown.stderr.contains("nothing was changed"), "{shown:?}");
    let told = ["log", "skip", "--step", "anonymizer", "--partition", "0", "--yes", "--by", "ada"];
    let done = place.say(&told);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("the range is written down"), "{done:?}");
    assert!(place.say(&told).sentence().contains("nothing keeps"));
    let ranges = place.say(&["status", "--json"]).json()["lost_ranges"].clone();
    let [range] = ranges.as_array().unwrap().as_slice() else { panic!("{ranges}") };
    assert_eq!((&range["step"], &range["skipped_by"]), (&json!("anonymizer"), &json!("ada")));
    assert!(place.say(&["status"]).stdout.contains("anonymizer passed over"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_let_go_on_in_all_partitions_where_something_is_lost_at_once() {
    let place = Place::new("");
    let running = place.up().await;
    let all = ["log", "skip", "--step", "anonymizer", "--all"];
    let told = [&all[..], &["--yes", "--by", "ada"]].concat();
    until("the running step to be let be", || async {
        place.say(&all).sentence().contains("owned by a process that runs").then_some(())
    })
    .await;
    assert_eq!(running.stop().await, Some(0));
    for arguments in [&all[..], &told[..]] {
        let nothing = place.say(arguments);
        let sentence = nothing.sentence();
        assert!(sentence.contains("nothing keeps step anonymizer from going on in any partition"), "{nothing:?}");
    }
    assert_eq!(place.say(&[&all[..], &["--partition", "0"]].concat()).code, Some(2));
    assert_eq!(place.say(&["log", "skip", "--step", "anonymizer"]).code, Some(2), "a partition must be named");

    let log = rusqlite::Connection::open(place.data().join("bus.sqlite")).unwrap();
    let raw = "topic = (SELECT id FROM topics WHERE name = ?1) AND partition IN (0, 2)";
    let beyond = format!("UPDATE partitions SET oldest = next + 3, next = next + 3 WHERE {raw}");
    assert_eq!(log.execute(&beyond, [topics::TELEMETRY_RAW]).unwrap(), 2);
    drop(log);
    let shown = place.say(&all);
    assert_eq!(shown.code, Some(2), "{shown:?}");
    assert!(shown.stderr.contains("nothing was changed"), "{shown:?}");
    assert_eq!(shown.stdout.matches("first lost position").count(), 2, "{shown:?}");
    assert!(shown.stdout.contains("partition 0 of") && shown.stdout.contains("partition 2 of"), "{shown:?}");
    let done = place.say(&told);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.stdout.matches("done: the range is written down").count(), 2, "{done:?}");
    assert!(place.say(&told).sentence().contains("in any partition"));
    let ranges = place.say(&["status", "--json"]).json()["lost_ranges"].clone();
    let ranges = ranges.as_array().unwrap();
    let mut booked: Vec<i64> = ranges.iter().map(|range| range["partition"].as_i64().unwrap()).collect();
    booked.sort_unstable();
    assert_eq!(booked, [0, 2], "{ranges:?}");
}

/// The ledger is put back to before the only raw record, which the log does not hold any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_is_let_go_on_only_where_something_is_lost() {
    let place = Place::new("");
    let running = place.up().await;
    let end = json!({ "sequence": 1, "monotonic_ms": 1, "kind": "session_ended" });
    let batch = json!({ "person": "ada", "session_id": SESSION, "events": [end] });
    assert!(place.report(&place.key(), &batch).await.status().is_success());
    until("the event to be read by the anonymizer and the ledger", || async {
        let status = place.say(&["status", "--json"]).json();
        let is_read = |stage: &Value| stage["stage"] == "anonymizer" && stage["records_behind"] == 0;
        (status["ledger"]["admitted"] == 1 && status["backlog"].as_array()?.iter().any(is_read)).then_some(())
    })
    .await;
    let pool = place.database().await;
    let stored = "SELECT partition_index FROM sink_positions WHERE sink = 'ledger' AND topic = $1";
    let partition: i64 = sqlx::query_scalar(stored).bind(topics::TELEMETRY_RAW).fetch_one(&pool).await.unwrap();
    let number = partition.to_string();
    let skip = |more: &[&str]| {
        let mut arguments = vec!["log", "skip", "--sink", "ledger", "--partition", number.as_str()];
        arguments.extend(more);
        place.say(&arguments)
    };
    let raw = ["--topic", topics::TELEMETRY_RAW];
    until("the running sink to be let be", || async {
        skip(&raw).sentence().contains("stop every process that runs the labeler").then_some(())
    })
    .await;
    assert_eq!(running.stop().await, Some(0));

    let nothing = skip(&raw);
    assert!(nothing.sentence().contains("nothing keeps sink ledger from going on"), "{nothing:?}");
    assert!(skip(&[]).sentence().contains("name one with --topic"));
    assert!(skip(&["--topic", topics::PREFERENCE_PAIRS]).sentence().contains("does not read"));
    let unknown = place.say(&["log", "skip", "--sink", "lakes", "--partition", "0"]);
    assert!(unknown.sentence().contains("the sinks are lake, ledger, tally"), "{unknown:?}");
    let beyond = place.say(&["log", "skip", "--sink", "lake", "--partition", "1000"]);
    assert!(beyond.sentence().contains("has partitions 0 to"), "{beyond:?}");
    for impossible in
        [&["--step", "labeler", "--topic", topics::TELEMETRY_RAW][..], &["--step", "labeler", "--sink", "lake"], &[]]
    {
        let both = [&["log", "skip", "--partition", "0"][..], impossible].concat();
        assert_eq!(place.say(&both).code, Some(2), "{impossible:?}");
    }

    let bus = replay::open(&place.data());
    let records = replay::records(bus.as_ref(), topics::TELEMETRY_RAW).await;
    let received_at = avro::decode::<RawEvent>(&records[0].value).unwrap().header.received_at;
    // What became of an event whose raw record stood there, too.
    let event_id = EventId::of_client_event("0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3e".parse().unwrap(), 1).to_string();
    let letter = DeadLetter { affected: vec![Affected { event_id, received_at }], ..letter(&records[0], received_at) };
    let letter = Record { key: records[0].key, value: letter.encode().unwrap() };
    for published in bus.publish(topics::DEAD_LETTERS, vec![letter]).await {
        published.unwrap();
    }
    drop(bus);
    sqlx::query("UPDATE sink_positions SET next_position = $1 WHERE sink = 'ledger' AND topic = $2")
        .bind(Position::START.to_string())
        .bind(topics::TELEMETRY_RAW)
        .execute(&pool)
        .await
        .unwrap();
    let log = rusqlite::Connection::open(place.data().join("bus.sqlite")).unwrap();
    let of_raw = "topic = (SELECT id FROM topics WHERE name = ?1) AND partition = ?2";
    let emptied = format!("UPDATE partitions SET oldest = next WHERE {of_raw}");
    assert_eq!(log.execute(&emptied, rusqlite::params![topics::TELEMETRY_RAW, partition]).unwrap(), 1);
    let delete = format!("DELETE FROM records WHERE id >> 40 = (SELECT id FROM partitions WHERE {of_raw})");
    assert!(log.execute(&delete, rusqlite::params![topics::TELEMETRY_RAW, partition]).unwrap() > 0);
    drop(log);

    let shown = skip(&raw);
    assert_eq!(shown.code, Some(2), "{shown:?}");
    assert!(shown.stdout.contains("first lost position    0\n") && shown.stdout.contains("unseen"), "{shown:?}");
    assert!(shown.stderr.contains("nothing was changed"), "{shown:?}");
    let told = [&raw[..], &["--yes", "--by", "ada"]].concat();
    let done = skip(&told);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("the range is written down, and the sink goes on at "), "{done:?}");
    assert!(skip(&told).sentence().contains("nothing keeps"));
    let ranges = place.say(&["status", "--json"]).json()["lost_ranges"].clone();
    let [range] = ranges.as_array().unwrap().as_slice() else { panic!("{ranges}") };
    assert_eq!((&range["sink"], &range["step"], &range["skipped_by"]), (&json!("ledger"), &Value::Null, &json!("ada")));

    let running = place.up().await;
    let status = until("the ledger to go on", || async {
        let status = place.say(&["status", "--json"]).json();
        (status["ledger"]["unseen"] == 1).then_some(status)
    })
    .await;
    assert_eq!((&status["ledger"]["balanced"], &status["ledger"]["admitted"]), (&json!(true), &json!(1)), "{status}");
    let text = place.say(&["status"]).stdout;
    assert!(text.contains("sink ledger passed over telemetry.raw.v1/") && text.contains(" + 1 unseen = "), "{text}");
    assert_eq!(running.stop().await, Some(0));
    // What somebody let pass is no difference.
    let report = audit::consistent(&place);
    assert_eq!(audit::checks(&report)["ledger: its equation"]["reasons"]["passed_over_unread"], 1, "{report}");
}
