//! A platform whose artifacts are in a bucket.

use std::path::Path;

use test_servers::{S3Bucket, s3_bucket, s3_bucket_with_reader, servers_wanted};

use crate::audit;
use crate::harness::{Place, client, finished, until};
use crate::wire::Wire;

/// Stands before the keys of a platform's objects.
pub(crate) const PREFIX: &str = "platform";

/// The section that names a bucket, with its access key in files.
pub(crate) fn section(bucket: &S3Bucket, directory: &Path) -> String {
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        path.display().to_string()
    };
    let (id, secret) = (file("key-id", &bucket.access_key_id), file("key-secret", &bucket.secret_access_key));
    let S3Bucket { endpoint, region, bucket, .. } = bucket;
    format!(
        "[artifacts]\nkind = \"s3\"\n[artifacts.s3]\nbucket = \"{bucket}\"\nendpoint = \"{endpoint}\"\n\
         region = \"{region}\"\nprefix = \"{PREFIX}\"\naccess_key_id_file = \"{id}\"\n\
         secret_access_key_file = \"{secret}\"\nattempts = 2\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn models_go_to_the_bucket_and_come_back() {
    if !servers_wanted() {
        return;
    }
    let place = Place::new("");
    let bucket = s3_bucket().await;
    place.configure(&section(&bucket, place.path()));
    let running = place.up().await;
    // What serves was stored in the bucket and fetched from there; the folder of the embedded store stays empty.
    place.ask(&place.key(), "let sum = cart.total();\n").await;
    assert_eq!(std::fs::read_dir(place.data().join("artifacts")).unwrap().count(), 0);
    assert_eq!(running.stop().await, Some(0));
    // It is all there when the platform comes again, with the store named by the environment of Amazon's tools.
    let section = section(&bucket, place.path());
    let lines = section.lines().filter(|line| !line.starts_with("endpoint") && !line.starts_with("region"));
    place.configure(&format!("{}\n", lines.collect::<Vec<_>>().join("\n")));
    let mut running = place.start_with(&["up"], &[("AWS_ENDPOINT_URL_S3", &bucket.endpoint)]);
    place.ready(&mut running).await;
    place.ask(&place.key(), "let sum = cart.total();\n").await;
    assert_eq!(running.stop().await, Some(0));
}

#[tokio::test]
async fn a_bucket_that_can_not_be_used_is_told_at_the_start() {
    if !servers_wanted() {
        return;
    }
    let (place, good) = (Place::new(""), s3_bucket().await);
    let told = |bucket: S3Bucket| {
        place.configure(&section(&bucket, place.path()));
        let said = place.say(&["up"]);
        let sentence = said.sentence().to_owned();
        assert!(!sentence.contains(&bucket.secret_access_key), "{sentence}");
        sentence.replace(&good.endpoint, "ENDPOINT").replace(&good.bucket, "BUCKET")
    };
    assert_eq!(
        told(S3Bucket { bucket: format!("{}-missing", good.bucket), ..good.clone() }),
        "bucket BUCKET-missing does not exist at ENDPOINT; create it, or name the right one"
    );
    assert_eq!(
        told(S3Bucket { secret_access_key: "no-secret-of-ours".to_owned(), ..good.clone() }),
        "ENDPOINT does not accept the credentials for bucket BUCKET (SignatureDoesNotMatch); correct or renew them"
    );
    let nowhere = told(S3Bucket { endpoint: "http://127.0.0.1:1".to_owned(), ..good.clone() });
    assert!(nowhere.starts_with("http://127.0.0.1:1 can not be reached for bucket BUCKET"), "{nowhere}");
    // One that the environment names is named too.
    place.configure(&section(&good, place.path()).replace(&format!("endpoint = \"{}\"\n", good.endpoint), ""));
    let mut command = place.command(&["up"]);
    command.env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1");
    let said = finished(command);
    assert!(said.sentence().starts_with("http://127.0.0.1:1 can not be reached for bucket"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_bucket_and_nothing_has_to_be_started_anew() {
    if !servers_wanted() {
        return;
    }
    let (place, bucket) = (Place::new(""), s3_bucket().await);
    let wire = Wire::to(bucket.endpoint.trim_start_matches("http://").to_owned());
    let behind = S3Bucket { endpoint: format!("http://127.0.0.1:{}", wire.port), ..bucket };
    place.configure(&section(&behind, place.path()));
    let running = place.up().await;
    let admin = |path: &str| format!("http://127.0.0.1:{}/{path}", place.ports.admin);
    wire.cut();
    until("the platform to be unready", || async {
        let answer = client().get(admin("readyz")).send().await.unwrap();
        (answer.status().as_u16() == 503 && answer.text().await.unwrap().contains("bucket")).then_some(())
    })
    .await;
    assert_eq!(client().get(admin("healthz")).send().await.unwrap().status().as_u16(), 200);
    // Completions outlive the bucket.
    place.ask(&place.key(), "let sum = cart.total();\n").await;
    wire.mend();
    until("the platform to be ready again", || async {
        client().get(admin("readyz")).send().await.unwrap().status().is_success().then_some(())
    })
    .await;
    assert_eq!(running.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_audits_needs_no_right_to_write_to_the_bucket() {
    if !servers_wanted() {
        return;
    }
    let Some([owner, reader]) = s3_bucket_with_reader().await else { return };
    let place = Place::new("");
    place.configure(&section(&owner, place.path()));
    let running = place.up().await;
    assert_eq!(running.stop().await, Some(0));
    place.configure(&section(&reader, place.path()));
    let said = place.say(&["up"]);
    assert!(said.sentence().contains("can be read and not written"), "{said:?}");
    let report = audit::consistent(&place);
    assert!(audit::checks(&report)["registry: artifacts"]["checked"].as_u64() > Some(0), "{report}");
}

#[test]
fn settings_of_a_bucket_are_checked_before_anything_is_made() {
    let place = Place::new("[artifacts]\nkind = \"s3\"\n");
    let said = place.say(&["up"]);
    assert!(said.sentence().ends_with("`artifacts.s3.bucket`: expected the name of a bucket"), "{said:?}");
    place.configure(
        "[artifacts]\nkind = \"s3\"\n[artifacts.s3]\nbucket = \"b\"\nsecret_access_key_file = \"/no/such/file\"\n",
    );
    let said = place.say(&["up"]);
    assert!(said.sentence().contains("cannot read the secret from /no/such/file"), "{said:?}");
    place.configure("[artifacts]\nkind = \"s3\"\n[artifacts.s3]\nbucket = \"b\"\naccess_key_id = \"id\"\n");
    let said = place.say(&["up"]);
    assert!(said.sentence().contains("both `access_key_id` and `secret_access_key`"), "{said:?}");
    let clear = "bucket = \"b\"\nendpoint = \"http://127.0.0.1:1\"\nca_file = \"ca.pem\"\n";
    place.configure(&format!("[artifacts]\nkind = \"s3\"\n[artifacts.s3]\n{clear}"));
    let said = place.say(&["up"]);
    assert!(said.sentence().contains("`artifacts.s3.ca_file`: expected none"), "{said:?}");
    assert!(!place.data().exists());
}
