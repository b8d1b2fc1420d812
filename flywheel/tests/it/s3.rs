//! A platform whose artifacts are in a bucket.

use std::path::Path;

use test_servers::{S3Bucket, s3_bucket, servers_wanted};

use crate::harness::Place;

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
         region = \"{region}\"\nprefix = \"platform\"\naccess_key_id_file = \"{id}\"\n\
         secret_access_key_file = \"{secret}\"\nattempts = 2\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn models_go_to_the_bucket_and_come_back() {
    if !servers_wanted() {
        return;
    }
    let place = Place::new("");
    place.configure(&section(&s3_bucket().await, place.path()));
    let running = place.up().await;
    // What serves was stored in the bucket and fetched from there; the folder of the embedded store stays empty.
    place.ask(&place.key(), "let sum = cart.total();\n").await;
    assert_eq!(std::fs::read_dir(place.data().join("artifacts")).unwrap().count(), 0);
    assert_eq!(running.stop().await, Some(0));
    // It is all there when the platform comes again.
    let running = place.up().await;
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
    assert!(!place.data().exists());
}
