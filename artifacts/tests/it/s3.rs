//! A bucket of a real gateway.

use std::sync::Arc;
use std::time::Duration;

use artifacts::{ArtifactError, ArtifactStore, S3Artifacts, S3Config, S3Credentials};
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use events::Sha256Digest;
use test_servers::{S3Bucket, s3_bucket, s3_read_only_bucket, servers_wanted};

use crate::suite::{self, Damage, Harness};

struct Bucket {
    bucket: S3Bucket,
    store: S3Artifacts,
}

/// A configuration that gives up early: nothing here fails for a reason that passes.
fn config(bucket: &S3Bucket) -> S3Config {
    S3Config {
        endpoint: Some(bucket.endpoint.clone()),
        region: Some(bucket.region.clone()),
        credentials: Some(S3Credentials::new(&bucket.access_key_id, &bucket.secret_access_key)),
        prefix: "some/where".to_owned(),
        attempts: 2,
        connect_timeout: Duration::from_secs(5),
        ..S3Config::new(&bucket.bucket)
    }
}

impl Bucket {
    async fn new() -> Self {
        let bucket = s3_bucket().await;
        let store = S3Artifacts::connect(config(&bucket)).await.unwrap();
        Self { bucket, store }
    }

    /// The SDK alone, behind the store's back.
    fn client(&self) -> Client {
        let S3Bucket { endpoint, region, access_key_id, secret_access_key, .. } = &self.bucket;
        let context = TlsContext::builder().with_trust_store(TrustStore::empty()).build().unwrap();
        let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
        let http = http.tls_context(context).build_https();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .endpoint_url(endpoint)
            .region(Region::new(region.clone()))
            .credentials_provider(Credentials::new(access_key_id, secret_access_key, None, None, "test"))
            .force_path_style(true);
        Client::from_conf(config.build())
    }

    /// What the bucket holds.
    async fn keys(&self) -> Vec<String> {
        let listed = self.client().list_objects_v2().bucket(&self.bucket.bucket).send().await.unwrap();
        listed.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
    }
}

fn key(digest: &Sha256Digest) -> String {
    let name = digest.to_string();
    format!("some/where/objects/{}/{name}", &name[..2])
}

#[async_trait]
impl Harness for Bucket {
    fn store(&self) -> Arc<dyn ArtifactStore> {
        Arc::new(self.store.clone())
    }

    async fn damage(&self, digest: &Sha256Digest, damage: Damage) {
        let (client, key) = (self.client(), key(digest));
        let object = client.get_object().bucket(&self.bucket.bucket).key(&key).send().await.unwrap();
        let bytes = object.body.collect().await.unwrap().to_vec();
        let body = ByteStream::from(suite::damaged(&bytes, damage));
        client.put_object().bucket(&self.bucket.bucket).key(&key).body(body).send().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_behaves_as_every_store() {
    if !servers_wanted() {
        return;
    }
    let bucket = Bucket::new().await;
    suite::all(&bucket).await;
    let unfinished = bucket.client().list_multipart_uploads().bucket(&bucket.bucket.bucket).send().await.unwrap();
    assert!(unfinished.uploads().is_empty(), "{unfinished:?}");
}

#[tokio::test]
async fn objects_lie_where_the_local_directory_has_them() {
    if !servers_wanted() {
        return;
    }
    let bucket = Bucket::new().await;
    bucket.store.check().await.unwrap();
    assert_eq!(bucket.keys().await, Vec::<String>::new(), "the check left something behind");
    let digest = bucket.store.put("a".into()).await.unwrap().digest;
    assert_eq!(bucket.keys().await, [key(&digest)]);
    // A platform with another prefix has other objects.
    let other = S3Config { prefix: String::new(), ..config(&bucket.bucket) };
    let other = S3Artifacts::connect(other).await.unwrap();
    assert!(!other.exists(&digest).await.unwrap());
    other.put("a".into()).await.unwrap();
    assert!(bucket.store.remove(&digest).await.unwrap());
    assert_eq!(other.get(&digest).await.unwrap(), "a");
}

/// What a person is told when it starts, without what differs from run to run.
async fn told(config: S3Config, bucket: &S3Bucket) -> String {
    let error = S3Artifacts::connect(config).await.unwrap().check().await.unwrap_err();
    let text = error.to_string();
    assert!(!text.contains(&bucket.secret_access_key) && text.lines().count() == 1, "{text}");
    text.replace(&bucket.endpoint, "ENDPOINT").replace(&bucket.bucket, "BUCKET")
}

#[tokio::test]
async fn a_missing_bucket_is_told_at_the_start_and_later() {
    if !servers_wanted() {
        return;
    }
    let bucket = s3_bucket().await;
    let missing = S3Config { bucket: format!("{}-missing", bucket.bucket), ..config(&bucket) };
    let text = told(missing.clone(), &bucket).await;
    insta::assert_snapshot!(
        text,
        @"bucket BUCKET-missing does not exist at ENDPOINT; create it, or name the right one"
    );
    let store = S3Artifacts::connect(missing).await.unwrap();
    let digest = Sha256Digest::of(b"a");
    let large = vec![1; 17 << 20].into();
    for error in [
        store.put("a".into()).await.unwrap_err(),
        store.put(large).await.unwrap_err(),
        store.get(&digest).await.unwrap_err(),
        store.exists(&digest).await.unwrap_err(),
        store.remove(&digest).await.unwrap_err(),
    ] {
        assert!(matches!(error, ArtifactError::BucketMissing { .. }), "{error}");
    }
}

#[tokio::test]
async fn credentials_that_do_not_fit_are_told() {
    if !servers_wanted() {
        return;
    }
    let bucket = s3_bucket().await;
    let wrong_secret = S3Credentials::new(&bucket.access_key_id, "no-secret-of-ours");
    let text = told(S3Config { credentials: Some(wrong_secret), ..config(&bucket) }, &bucket).await;
    insta::assert_snapshot!(
        text,
        @"ENDPOINT does not accept the credentials for bucket BUCKET (SignatureDoesNotMatch); correct or renew them"
    );
    let nobody = S3Credentials::new("nobody", &bucket.secret_access_key);
    let text = told(S3Config { credentials: Some(nobody), ..config(&bucket) }, &bucket).await;
    insta::assert_snapshot!(
        text,
        @"ENDPOINT does not accept the credentials for bucket BUCKET (XAdminUserNotFound); correct or renew them"
    );
}

#[tokio::test]
async fn an_address_where_nobody_answers_is_told() {
    let nowhere = S3Bucket {
        endpoint: "http://127.0.0.1:1".to_owned(),
        region: "us-east-1".to_owned(),
        bucket: "artifacts".to_owned(),
        access_key_id: "key".to_owned(),
        secret_access_key: "no-secret-of-ours".to_owned(),
    };
    let text = told(config(&nowhere), &nowhere).await;
    insta::assert_snapshot!(
        text,
        @"ENDPOINT can not be reached for bucket BUCKET (Connection refused (os error 111)); check the address and the network"
    );
    let store = S3Artifacts::connect(config(&nowhere)).await.unwrap();
    let error = store.get(&Sha256Digest::of(b"a")).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_read_only_bucket_is_told() {
    if !servers_wanted() {
        return;
    }
    let bucket = s3_read_only_bucket().await;
    let text = told(config(&bucket), &bucket).await;
    insta::assert_snapshot!(
        text,
        @"bucket BUCKET at ENDPOINT can be read and not written with these credentials; allow them to put and remove objects, or use others"
    );
    let store = S3Artifacts::connect(config(&bucket)).await.unwrap();
    for error in [store.put("a".into()).await.unwrap_err(), store.put(vec![1; 17 << 20].into()).await.unwrap_err()] {
        assert!(matches!(error, ArtifactError::Denied { .. }), "{error}");
    }
    assert!(!store.exists(&Sha256Digest::of(b"a")).await.unwrap());
}

#[tokio::test]
async fn settings_that_make_no_store_are_refused() {
    let bucket = S3Config {
        endpoint: Some("http://key:secret@127.0.0.1:1".to_owned()),
        credentials: Some(S3Credentials::new("key", "secret")),
        ..S3Config::new("artifacts")
    };
    let error = S3Artifacts::connect(bucket).await.unwrap_err().to_string();
    insta::assert_snapshot!(
        error,
        @"the object store can not be used: its endpoint must be an address without credentials"
    );
    assert!(S3Artifacts::connect(S3Config::new("")).await.is_err());
}
