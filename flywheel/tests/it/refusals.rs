//! What cannot work is told in one sentence, with exit code 2, before anything is changed.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Place, command, edits, finished, say, until};

fn empty_place() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data").display().to_string();
    (directory, data)
}

fn written(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_configuration_that_cannot_be_used_names_key_and_place() {
    let (directory, data) = empty_place();
    let refused = |file: &str, expected: &str| {
        let path = written(directory.path(), "flywheel.toml", file);
        for service in ["up", "ingest", "status"] {
            let said = say(&[service, "--config", &path, "--data-dir", &data]);
            assert_eq!(said.sentence().replace(&path, "FILE"), expected);
        }
    };
    let keys = "`kind`, `prefix`, `partitions`, `raw_hours`, `clean_days`, `quarantine_days`, `pairs_days`, \
                `outcomes_days`, `local`, `kafka`";
    refused("[bus]\nspeed = 3", &format!("file FILE: unknown key `bus.speed`; the keys here are {keys}"));
    refused(
        "[ingest.limits]\nevents = \"many\"",
        "file FILE: `ingest.limits.events`: expected a whole number, at least 0, got \"many\"",
    );
    refused("[ingest\nx = 1", "file FILE, line 1: unclosed table, expected `]`");
    refused(
        "[clock]\nkind = \"backwards\"",
        "file FILE: `clock.kind`: expected one of \"real\", \"simulated\", \"scaled\", got \"backwards\"",
    );
    // What a build with the feature has, or says, is asked in parts.rs.
    #[cfg(not(feature = "production"))]
    for (section, asked, missing, offered) in [
        ("bus", "kafka", "build does not have", "local"),
        ("database", "postgresql", "build does not have", "sqlite"),
        ("artifacts", "s3", "build does not have", "local"),
        ("jobs", "kubernetes", "version does not have yet", "process"),
    ] {
        let sentence = format!(
            "\"{asked}\" needs the cargo feature `production`, which this {missing}: its embedded parts are all there \
             is; expected \"{offered}\""
        );
        refused(&format!("[{section}]\nkind = \"{asked}\""), &format!("file FILE: `{section}.kind`: {sentence}"));
    }
    refused(
        "[database]\nurl = \"postgres://me:hush@db/flywheel\"",
        "file FILE: `database.url`: expected none while `database.kind` is \"sqlite\", which is a file of the data \
         directory",
    );
    refused("[database]\nmax_connections = 0", "file FILE: `database.max_connections`: expected at least 1");
    assert!(!Path::new(&data).exists(), "a refused configuration leaves nothing behind");
}

#[test]
fn variables_and_flags_are_refused_by_their_own_name() {
    let (_directory, data) = empty_place();
    let mut with_variable = command(&["up", "--data-dir", &data]);
    with_variable.env("FLYWHEEL_SERVING__THRESHOLD", "high");
    assert_eq!(
        finished(with_variable).sentence(),
        "variable FLYWHEEL_SERVING__THRESHOLD: `serving.threshold`: expected a number, got \"high\""
    );
    let flag = say(&["up", "--data-dir", &data, "--set", "serving.thresold=0.5"]);
    assert!(
        flag.sentence().starts_with("flag for serving.thresold: unknown key `serving.thresold`; the keys here are")
    );
    let no_value = say(&["up", "--data-dir", &data, "--set", "serving.threshold"]);
    assert_eq!(no_value.sentence(), "--set serving.threshold: expected KEY=VALUE, such as serving.threshold=0.6");
    let absent = say(&["up", "--data-dir", &data, "--config", "/no/such/file.toml"]);
    assert!(absent.sentence().starts_with("cannot read the configuration file /no/such/file.toml"));
    let address = say(&["up", "--data-dir", &data, "--set", "ingest.http.listen=somewhere"]);
    assert!(address.sentence().contains("somewhere") && address.sentence().contains("ingest"), "{address:?}");
    let network = say(&["up", "--data-dir", &data, "--set", "ingest.http.listen=0.0.0.0:0"]);
    assert!(network.sentence().contains("tls_terminated"), "{network:?}");
    let test_time = say(&["up", "--data-dir", &data, "--set", "clock.kind=simulated"]);
    assert!(test_time.sentence().contains("allow_test_time"), "{test_time:?}");
}

#[test]
fn data_that_is_not_there_or_no_directory_is_refused() {
    let (directory, data) = empty_place();
    for arguments in
        [&["status"][..], &["keys", "list"], &["dead-letters", "list"], &["models", "list"], &["rollout", "list"]]
    {
        let mut all = arguments.to_vec();
        all.extend(["--data-dir", &data]);
        let said = say(&all);
        assert!(said.sentence().contains("holds no platform") && said.sentence().contains("flywheel up"), "{said:?}");
    }
    assert!(!Path::new(&data).exists(), "looking makes nothing");
    let file = written(directory.path(), "file", "");
    let said = say(&["up", "--data-dir", &file]);
    assert!(said.sentence().starts_with(&format!("data directory {file} can not be made")), "{said:?}");
}

// A build with the feature asks the machine instead.
#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_is_not_there_is_refused_where_training_can_start_and_nowhere_else() {
    let (_directory, data) = empty_place();
    for service in ["up", "orchestrator"] {
        let said = say(&[service, "--data-dir", &data, "--set", "orchestrator.device=cuda"]);
        assert!(said.sentence().starts_with("orchestrator.device: this build has no CUDA"), "{said:?}");
    }
    let looked = say(&["status", "--data-dir", &data, "--set", "orchestrator.device=cuda"]);
    assert!(looked.sentence().contains("holds no platform"), "{looked:?}");
}

#[test]
fn a_corpus_without_usable_code_is_refused() {
    let (directory, data) = empty_place();
    let corpus = directory.path().join("corpus");
    std::fs::create_dir_all(corpus.join("notes")).unwrap();
    std::fs::write(corpus.join("notes/readme.txt"), "no code").unwrap();
    for (corpus, expected) in [(corpus.to_str().unwrap(), "has no usable code"), ("/no/such/corpus", "/no/such/corpus")]
    {
        let said = say(&["demo", "--data-dir", &data, "--corpus", corpus]);
        // The demo tells what it does as it goes; the last line is why it ends.
        let last = said.stderr.lines().last().unwrap_or_default();
        assert!(said.code == Some(2) && last.starts_with("flywheel: ") && last.contains(expected), "{said:?}");
    }
}

#[test]
fn a_broken_base_model_is_refused() {
    let place = Place::new("");
    let base = place.path().join("base");
    std::fs::create_dir(&base).unwrap();
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model/base");
    for entry in std::fs::read_dir(original).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), base.join(entry.file_name())).unwrap();
    }
    let model = base.join("model.safetensors");
    let whole = std::fs::read(&model).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (what, bytes) in [("cut off", whole[..whole.len() / 2].to_vec()), ("bit-flipped", flipped)] {
        std::fs::write(&model, bytes).unwrap();
        let said = place.say(&["up", "--base", base.to_str().unwrap()]);
        let sentence = said.sentence();
        assert!(sentence.contains("the base model") && sentence.contains("can not be used"), "{what}: {sentence}");
    }
    let absent = place.say(&["up", "--base", "/no/such/model"]);
    assert!(absent.sentence().contains("/no/such/model"), "{absent:?}");
}

/// A disk that is full from the first byte on, and one that fills up while the platform runs: no file may grow beyond a
/// limit, which the system reports as it reports a full disk.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_loses_nothing() {
    let limited = |blocks: u32, arguments: &str, place: &Place| {
        let binary = env!("CARGO_BIN_EXE_flywheel");
        let mut shell = std::process::Command::new("sh");
        // Blocks of 512 bytes, in some shells of 1024: too few for a start either way.
        shell.args(["-c", &format!("ulimit -f {blocks} && exec \"$0\" {arguments} --config \"$1\" --data-dir \"$2\"")]);
        shell.arg(binary).arg(place.configuration()).arg(place.data()).env("FLYWHEEL_LOG", "error");
        shell
    };
    let place = Place::new("");
    let said = finished(limited(100, "up", &place));
    assert!(said.sentence().contains("its disk is full or failing"), "{said:?}");

    // Room for a start, and for some telemetry; then the log cannot grow.
    let running = place.up().await;
    let key = place.key();
    assert_eq!(running.stop().await, Some(0));
    let size = std::fs::metadata(place.data().join("bus.sqlite")).unwrap().len();
    place.configure(&format!("[bus.local]\nfile_bytes = {}\n", size + (256 << 10)));
    let running = place.up().await;
    let (mut admitted, mut refused) = (0_i64, None);
    for batch in 0..500_u64 {
        let batch = edits((1..=100).map(|event| batch * 100 + event));
        let answer: Value = place.report(&key, &batch).await.json().await.unwrap();
        let results = answer["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
        admitted += i64::try_from(results.iter().filter(|result| result["status"] == "admitted").count()).unwrap();
        refused = results.iter().find(|result| result["status"] != "admitted").cloned();
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("the log fills up");
    assert_eq!((&refused["status"], &refused["code"]), (&"unavailable".into(), &"log_full".into()), "{refused}");
    assert!(admitted > 0);
    // Completions go on.
    place.ask(&key, "let sum = cart.total();\n").await;
    running.kill();

    // With room again, everything that was acknowledged is there.
    place.configure("");
    let running = place.up().await;
    let status = until("the ledger", || async {
        let status = place.say(&["status", "--json"]).json();
        (status["ledger"]["admitted"].as_i64()? >= admitted).then_some(status)
    })
    .await;
    assert_eq!((&status["ledger"]["admitted"], &status["ledger"]["balanced"]), (&admitted.into(), &true.into()));
    assert_eq!(running.stop().await, Some(0));
}
