//! `flywheel pairs`: what is listed can be explained, what is shown is written down, and what is exported is what a
//! trainer reads.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifacts::{ArtifactStore, LocalArtifacts};
use events::{PreferencePair, Sha256Digest, TenantId};
use labeler::lake::LakeReader;
use model_registry::lineage::{FORMULA, MemberEntry, Purpose, SnapshotFilters, Support, snapshot_digest};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use serde_json::Value;
use sqlx::AnyPool;

use crate::audit;
use crate::harness::{Place, Said};
use crate::load::person;

/// A folder of the room with the models.
fn edit_model(folder: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../edit-model").join(folder).to_str().unwrap().to_owned()
}

/// Makes a key with this scope; the file that holds it.
fn key_file(place: &Place, name: &str, scope: &str) -> PathBuf {
    let made = place.say(&["keys", "create", "--name", name, "--scope", scope]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let file = place.path().join(format!("{name}.key"));
    std::fs::write(&file, made.stdout).unwrap();
    file
}

/// An export as its arguments say it.
struct Asked<'a> {
    place: &'a Place,
    key: &'a Path,
}

impl Asked<'_> {
    fn export(&self, file: &str, arguments: &[&str]) -> (Said, PathBuf) {
        let output = self.place.path().join(file);
        let mut all = vec!["pairs", "export", "--json", "--output", output.to_str().unwrap()];
        all.extend(["--key-file", self.key.to_str().unwrap()]);
        all.extend(arguments);
        (self.place.say(&all), output)
    }
}

/// The rows of an export in lines, as many as it says.
fn lines(said: &Said, output: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(output).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said.json()["rows"], rows.len());
    rows
}

fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap_or_else(|| panic!("{name} is no text: {row}"))
}

/// What the audit log says of readings: who, what and of what.
async fn readings(pool: &AnyPool) -> Vec<(String, String, String)> {
    sqlx::query_as(
        "SELECT actor, action, subject FROM audit_log \
         WHERE action IN ('pair_text_shown', 'pairs_export_begun', 'pairs_exported') ORDER BY revision",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

/// Every pair of the lake.
async fn lake(place: &Place, pool: &AnyPool) -> Vec<PreferencePair> {
    let artifacts = LocalArtifacts::open(place.data().join("artifacts")).unwrap();
    let reader = LakeReader::new(pool.clone(), Arc::new(artifacts));
    let mut pairs = Vec::new();
    for part in reader.parts(&TenantId::default()).await.unwrap() {
        pairs.extend(reader.read(&part).await.unwrap());
    }
    pairs
}

/// What stands behind every pair of the data set: two persons in two repositories.
const SUPPORT: Support = Support { people: 2, repositories: 2, weight_millionths: Some(1_584_963) };

/// A data set in which half of the pairs train.
async fn snapshot(pool: &AnyPool, pairs: &[PreferencePair]) -> Sha256Digest {
    let filters = SnapshotFilters {
        tenant: TenantId::default(),
        model: pairs[0].model.clone(),
        audience: "everyone".parse().unwrap(),
        label_policy_version: 1,
        code_version: "test".to_owned(),
        maximum_pairs: 1000,
        gate_opportunities: 1,
        placebo_exchange_repositories: false,
        formula: FORMULA,
        policy: Value::Null,
    };
    let entry = |(number, pair): (usize, &PreferencePair)| MemberEntry {
        pair_id: pair.pair_id,
        content_digest: pair.content_digest,
        purpose: if number.is_multiple_of(2) { Purpose::Training } else { Purpose::Gate },
        support: SUPPORT,
    };
    let entries: Vec<MemberEntry> = pairs.iter().enumerate().map(entry).collect();
    let digest = snapshot_digest(&filters, &entries).unwrap();
    let half = i64::try_from(pairs.len() / 2).unwrap();
    sqlx::query(
        "INSERT INTO snapshots (snapshot_digest, tenant, model, audience, label_policy_version, code_version, filters, \
         training_pairs, gate_pairs, first_labeled_at, last_labeled_at, last_signal_at, created_at) \
         VALUES ($1, 'default', $2, 'everyone', 1, 'test', $3, $4, $4, 0, 0, 0, 0)",
    )
    .bind(digest.to_string())
    .bind(pairs[0].model.as_str())
    .bind(serde_json::to_string(&filters).unwrap())
    .bind(half)
    .execute(pool)
    .await
    .unwrap();
    for (entry, pair) in entries.iter().zip(pairs) {
        sqlx::query(
            "INSERT INTO snapshot_pairs (snapshot_digest, pair_id, content_digest, person, purpose, support_people, \
             support_repositories, weight_millionths) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(digest.to_string())
        .bind(pair.pair_id.to_string())
        .bind(pair.content_digest.to_string())
        .bind(pair.person.as_str())
        .bind(entry.purpose.as_str())
        .bind(i64::from(SUPPORT.people))
        .bind(i64::from(SUPPORT.repositories))
        .bind(SUPPORT.weight_millionths)
        .execute(pool)
        .await
        .unwrap();
    }
    digest
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_are_listed_explained_shown_and_exported() {
    let place = audit::worked().await;
    let pool = place.database().await;

    // What a pair is about is for whoever administers the platform, and names nobody.
    let listed = place.say(&["pairs", "list", "--limit", "1000", "--json"]).json();
    let listed = listed.as_array().unwrap();
    assert!(listed.len() >= 10, "{listed:?}");
    assert!(listed.iter().all(|pair| pair.get("person").is_none() && pair["weight"].as_f64().is_some()));
    let two_sided = listed.iter().find(|pair| pair["has_two_sides"] == true).unwrap();
    let (id, reason) = (text(two_sided, "pair_id"), text(two_sided, "reason"));
    let of_reason = place.say(&["pairs", "list", "--reason", reason, "--limit", "1", "--json"]).json();
    assert_eq!((of_reason.as_array().unwrap().len(), text(&of_reason[0], "reason")), (1, reason));
    let table = place.say(&["pairs", "list", "--limit", "1000"]);
    assert!(table.stdout.contains(&id[..12]) && table.stdout.contains(reason), "{table:?}");
    assert!(place.say(&["pairs", "list", "--reason", "liked"]).sentence().contains("typed_against"));

    in_pages(&place, listed);

    let counted = place.say(&["pairs", "stats", "--json"]).json();
    // Two people are too few to be counted out.
    assert!(counted["pairs"].is_null(), "{counted}");
    for groups in ["by_reason", "by_language", "by_repository", "by_audience"] {
        assert_eq!(counted[groups], serde_json::json!([]), "{groups}");
    }
    let counted = place.say(&["pairs", "stats", "--reason", reason]);
    assert_eq!((counted.code, counted.stdout.contains("fewer than 5 people")), (Some(0), true), "{counted:?}");

    // Every pair has its row and its events.
    for pair in listed {
        let explained = place.say(&["pairs", "explain", text(pair, "pair_id"), "--json"]).json();
        assert_eq!(explained["rows"].as_array().unwrap().len(), 1, "{explained}");
        let events = explained["events"].as_array().unwrap();
        assert!(events.iter().any(|event| event["kind"] == "exposure"), "{explained}");
        assert!(explained["events_complete"] == true && explained["text_state"] == "readable", "{explained}");
    }
    let explained = place.say(&["pairs", "explain", &id[..10]]);
    assert!(explained.stdout.contains("the label table's row "), "{explained:?}");
    assert!(explained.stdout.contains("exposure"), "{explained:?}");
    assert!(place.say(&["pairs", "explain", "00000000"]).sentence().contains("flywheel pairs list"));
    assert!(place.say(&["pairs", "explain", "some pair"]).sentence().contains("no id of a pair"));

    // Text takes a key with the scope, and is written down.
    assert!(place.say(&["pairs", "show", id]).sentence().contains("--scope pairs:read"));
    let suggest = key_file(&place, "editor", "suggest");
    let refused = place.say(&["pairs", "show", id, "--key-file", suggest.to_str().unwrap()]);
    assert!(refused.sentence().contains("lacks the scope `pairs:read`"), "{refused:?}");
    assert!(readings(&pool).await.is_empty());
    let key = key_file(&place, "ada", "pairs:read");
    let shown = place.say(&["pairs", "show", id, "--key-file", key.to_str().unwrap()]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.stdout.contains("+ what the developer wanted"), "{shown:?}");
    assert!(shown.stdout.contains("^ here they part"), "{shown:?}");
    assert!(!shown.stdout.contains('\u{1b}'), "no colours where nobody looks");
    let json = place.say(&["pairs", "show", id, "--json", "--key-file", key.to_str().unwrap()]).json();
    assert!(!text(&json["text"]["context"]["window"], "text").is_empty() && text(&json["pair"], "pair_id") == id);
    let by_ada = ("key ada".to_owned(), "pair_text_shown".to_owned(), id.to_owned());
    assert_eq!(readings(&pool).await, [by_ada.clone(), by_ada]);

    exports(&place, &pool, &key).await;
    what_people_say_now_counts(&place, &pool, &key, id).await;
    a_part_that_is_gone_harms_no_other(&place, &pool, listed).await;
}

/// Page by page, everything is listed once, in the same order; the times of labels bound it.
fn in_pages(place: &Place, listed: &[Value]) {
    let mut paged: Vec<Value> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut arguments = vec!["pairs", "list", "--json", "--limit", "4"];
        arguments.extend(after.as_deref().map(|after| ["--after", after]).into_iter().flatten());
        let page = place.say(&arguments).json();
        let Some(last) = page.as_array().unwrap().last() else { break };
        after = Some(format!("{}:{}", last["labeled_at"], text(last, "pair_id")));
        paged.extend(page.as_array().unwrap().iter().cloned());
    }
    assert_eq!(paged, listed);
    let whole = place.say(&["pairs", "list", "--limit", "4"]);
    assert!(whole.stdout.contains("there may be more: --after "), "{whole:?}");
    let malformed = place.say(&["pairs", "list", "--after", "yesterday"]);
    assert!(malformed.code == Some(2) && malformed.stderr.contains("LABELED_AT:PAIR_ID"), "{malformed:?}");

    assert_eq!(place.say(&["pairs", "list", "--labeled-before", "2020-01-01", "--json"]).json(), serde_json::json!([]));
    let since = place.say(&["pairs", "list", "--labeled-from", "2020-01-01", "--limit", "1000", "--json"]).json();
    assert_eq!(since.as_array().unwrap(), listed);
}

/// Whoever wants to know is told what can be read, and then that it is not everything.
async fn a_part_that_is_gone_harms_no_other(place: &Place, pool: &AnyPool, listed: &[Value]) {
    let artifacts: Arc<dyn ArtifactStore> = Arc::new(LocalArtifacts::open(place.data().join("artifacts")).unwrap());
    let reader = LakeReader::new(pool.clone(), Arc::clone(&artifacts));
    let parts = reader.parts(&TenantId::default()).await.unwrap();
    let (gone, other) = (&parts[0], &parts[1]);
    let lost = reader.read(gone).await.unwrap()[0].pair_id.to_string();
    let kept = reader.read(other).await.unwrap()[0].pair_id.to_string();
    assert!(artifacts.remove(&gone.digest).await.unwrap());

    let said = place.say(&["pairs", "list", "--json"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("1 parts of the lake") && said.stderr.contains(&gone.part_id), "{said:?}");
    let still: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(still.len(), listed.len() - usize::try_from(gone.pairs).unwrap());
    assert_eq!(place.say(&["pairs", "stats"]).code, Some(1));
    assert_eq!(place.say(&["pairs", "explain", &kept]).code, Some(0));
    let sought = place.say(&["pairs", "explain", &lost]);
    assert!(sought.sentence().contains("in no part of the lake that can be read"), "{sought:?}");
}

/// Each dialect with a base that it suits, in both formats and both forms.
async fn exports(place: &Place, pool: &AnyPool, key: &Path) {
    let asked = Asked { place, key };
    let qwen = edit_model("tests/fixtures/qwen2.5-coder");
    let starcoder = edit_model("tests/fixtures/starcoder2");
    let own = edit_model("base");
    for (dialect, tokenizer, ends) in [
        ("flywheel", &own, "<answer>"),
        ("qwen2.5-coder-fim", &qwen, "<|fim_middle|>"),
        ("starcoder-fim", &starcoder, "<fim_middle>"),
        ("region-rewrite", &starcoder, "\n"),
    ] {
        let arguments = ["--dialect", dialect, "--tokenizer", tokenizer, "--format", "jsonl"];
        let (said, output) = asked.export(&format!("{dialect}.jsonl"), &arguments);
        let rows = lines(&said, &output);
        for row in &rows {
            let (chosen, rejected) = (text(row, "chosen"), text(row, "rejected"));
            assert!(text(row, "prompt").ends_with(ends) && !chosen.is_empty() && !rejected.is_empty(), "{row}");
            let byte = |name: &str| usize::try_from(row[name].as_u64().unwrap()).unwrap();
            let (left, right) = (byte("chosen_bdp_byte"), byte("rejected_bdp_byte"));
            assert!(chosen[..left] == rejected[..right] && chosen[left..] != rejected[right..], "{row}");
            assert!(row["weight"].as_f64().unwrap() > 0.0 && row.get("person").is_none(), "{row}");
            assert!(row["support_people"] == 1 && row["support_repositories"] == 1, "{row}");
        }
        let singles = [&arguments[..], &["--kto"]].concat();
        let (said, output) = asked.export(&format!("{dialect}-kto.jsonl"), &singles);
        let answers = lines(&said, &output);
        assert!(answers.len() >= 2 * rows.len(), "each pair gives both its answers");
        assert!(answers.iter().all(|row| row["label"].is_boolean() && !text(row, "completion").is_empty()));
    }

    let arguments = ["--dialect", "qwen2.5-coder-fim", "--tokenizer", &qwen];
    let (said, output) = asked.export("pairs.parquet", &arguments);
    let reader = SerializedFileReader::new(File::open(&output).unwrap()).unwrap();
    let metadata = reader.metadata().file_metadata();
    assert_eq!(said.json()["rows"], metadata.num_rows());
    let columns: BTreeMap<&str, i16> =
        metadata.schema_descr().columns().iter().map(|column| (column.name(), column.max_def_level())).collect();
    assert!(["prompt", "chosen", "rejected"].iter().all(|name| columns.get(name) == Some(&0)), "{columns:?}");
    assert!(columns.values().all(|level| *level == 0), "no column may be null: {columns:?}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().filter(is_temporary).count(), 0);
    let by_ada = |action: &str| ("key ada".to_owned(), action.to_owned(), "lake".to_owned());
    let told = readings(pool).await;
    assert!(told.ends_with(&[by_ada("pairs_export_begun"), by_ada("pairs_exported")]), "{told:?}");
    // What was written down of readings leaves no hole in what is written down of changes.
    audit::consistent(place);

    let digest = snapshot(pool, &lake(place, pool).await).await.to_string();
    // As `flywheel dataset show` lists it.
    let of_data_set = [&arguments[..], &["--format", "jsonl", "--snapshot", &digest[..12]]].concat();
    let (said, output) = asked.export("snapshot.jsonl", &of_data_set);
    assert!(said.json()["left_out"]["held_out"].as_u64().unwrap() > 0, "{said:?}");
    for row in lines(&said, &output) {
        assert!(row["weight"] == 1.584_963 && row["support_people"] == 2 && row["support_repositories"] == 2, "{row}");
    }
    let for_others = [&arguments[..], &["--snapshot", &digest, "--audience", "acme"]].concat();
    let (said, _) = asked.export("other.parquet", &for_others);
    assert!(said.sentence().contains("the data set is for everyone"), "{said:?}");
    let unknown = Sha256Digest::of(b"none").to_string();
    let (said, _) = asked.export("other.parquet", &[&arguments[..], &["--snapshot", &unknown]].concat());
    assert!(said.sentence().contains("not known here"), "{said:?}");
    let alter = "UPDATE snapshot_pairs SET weight_millionths = 9000000 WHERE snapshot_digest = $1";
    sqlx::query(alter).bind(digest.as_str()).execute(pool).await.unwrap();
    let (said, output) = asked.export("altered.jsonl", &of_data_set);
    assert!(said.sentence().contains("its rows are not what the digest names") && !output.exists(), "{said:?}");

    let (said, output) = asked.export("tight.parquet", &[&arguments[..], &["--max-tokens", "16"]].concat());
    assert!(said.sentence().contains("too_long") && !output.exists(), "{said:?}");
    // It has opened text, and failed.
    let told = readings(pool).await;
    assert_eq!(told.last(), Some(&by_ada("pairs_export_begun")), "{told:?}");
    let narrow = ["--dialect", "flywheel", "--tokenizer", &own, "--max-tokens", "191"];
    let (said, output) = asked.export("narrow.parquet", &narrow);
    let sentence = said.sentence();
    assert!(sentence.contains("--max-tokens 191") && sentence.contains("192 together") && !output.exists(), "{said:?}");
    let wrong = ["--dialect", "starcoder-fim", "--tokenizer", &qwen];
    let (said, output) = asked.export("wrong.parquet", &wrong);
    assert!(said.sentence().contains("<fim_prefix>") && !output.exists(), "{said:?}");
    let (said, _) = asked.export("wrong.parquet", &["--dialect", "gpt", "--tokenizer", &qwen]);
    assert!(said.code == Some(2) && said.stderr.contains("region-rewrite"), "{said:?}");
}

fn is_temporary(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
    entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp")
}

/// Consent, rules and erasures count as they are when somebody exports.
async fn what_people_say_now_counts(place: &Place, pool: &AnyPool, key: &Path, id: &str) {
    let asked = Asked { place, key };
    let qwen = edit_model("tests/fixtures/qwen2.5-coder");
    let export = |file: &str| asked.export(file, &["--dialect", "qwen2.5-coder-fim", "--tokenizer", &qwen, "--kto"]);
    let all = export("all.parquet").0.json()["pairs"].as_u64().unwrap();
    assert_eq!(place.say(&["consent", "set", &person(0), "usage"]).code, Some(0));
    let said = export("agreed.parquet").0.json();
    assert!(said["left_out"]["without_consent"].as_u64().unwrap() > 0, "{said}");
    assert!(said["pairs"].as_u64().unwrap() < all, "{said}");
    assert_eq!(place.say(&["consent", "set", &person(0), "code"]).code, Some(0));

    let show = || place.say(&["pairs", "show", id, "--key-file", key.to_str().unwrap()]);
    let given = readings(pool).await.len();
    assert_eq!(place.say(&["repositories", "deny", "*"]).code, Some(0));
    assert!(show().sentence().contains("no rule allows the repository"), "{:?}", show());
    assert_eq!(readings(pool).await.len(), given, "what is not given is not written down");
    let (said, output) = export("denied.parquet");
    assert!(said.sentence().contains("repository_without_rule") && !output.exists(), "{said:?}");
    assert_eq!(place.say(&["repositories", "allow", "*", "--audience", "acme"]).code, Some(0));
    assert!(export("moved.parquet").0.sentence().contains("another_audience"));
    assert!(show().sentence().contains("for another audience now"), "{:?}", show());
    assert_eq!(place.say(&["repositories", "allow", "*"]).code, Some(0));

    sqlx::query("UPDATE person_keys SET wrapped_key = NULL, erased_at = 1").execute(pool).await.unwrap();
    assert!(export("erased.parquet").0.sentence().contains("erased"));
    let shown = show();
    assert!(shown.sentence().contains("was erased"), "{shown:?}");
    let explained = place.say(&["pairs", "explain", id]);
    assert!(explained.code == Some(0) && explained.stdout.contains("row "), "{explained:?}");
    assert_eq!(place.say(&["pairs", "explain", id, "--json"]).json()["text_state"], "erased");
}

#[test]
fn pairs_of_no_platform_are_refused() {
    let place = Place::new("");
    assert!(place.say(&["pairs", "list"]).sentence().contains("holds no platform"));
    assert!(!place.data().exists());
}
