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
use test_servers::{
    S3Bucket, full_wanted, minio_bucket, s3_bucket, s3_bucket_without_listing, s3_read_only_bucket, servers_wanted,
};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::suite::{self, Damage, Harness};
use crate::wire::Wire;

pub(crate) struct Bucket {
    bucket: S3Bucket,
    store: S3Artifacts,
}

/// A configuration that gives up early: nothing here fails for a reason that passes.
pub(crate) fn config(bucket: &S3Bucket) -> S3Config {
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
    pub(crate) async fn new() -> Self {
        Self::of(s3_bucket().await).await
    }

    async fn of(bucket: S3Bucket) -> Self {
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

    pub(crate) fn place(&self) -> &S3Bucket {
        &self.bucket
    }

    /// Host and port of the gateway.
    pub(crate) fn address(&self) -> &str {
        self.bucket.endpoint.trim_start_matches("http://")
    }

    /// How many uploads have been begun, and neither finished nor given up.
    pub(crate) async fn unfinished(&self) -> usize {
        let listed = self.client().list_multipart_uploads().bucket(&self.bucket.bucket).send().await.unwrap();
        listed.uploads().len()
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
    assert_eq!(bucket.unfinished().await, 0);
}

/// What a gateway lets pass, another store may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_of_minio_behaves_as_every_store() {
    if !full_wanted() {
        return;
    }
    let bucket = Bucket::of(minio_bucket().await).await;
    bucket.store.check().await.unwrap();
    bucket.store.answers().await.unwrap();
    suite::all(&bucket).await;
    assert_eq!(bucket.unfinished().await, 0);
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
        store.check_to_read().await.unwrap_err(),
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
    let Some(bucket) = s3_read_only_bucket().await else { return };
    let text = told(config(&bucket), &bucket).await;
    insta::assert_snapshot!(
        text,
        @"bucket BUCKET at ENDPOINT can be read and not written with these credentials; allow them to put and remove objects, or use others"
    );
    let store = S3Artifacts::connect(config(&bucket)).await.unwrap();
    store.check_to_read().await.unwrap();
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

#[tokio::test]
async fn a_right_that_is_missing_is_named_at_the_start() {
    if !servers_wanted() {
        return;
    }
    let Some(bucket) = s3_bucket_without_listing().await else { return };
    let text = told(config(&bucket), &bucket).await;
    insta::assert_snapshot!(
        text,
        @"these credentials may not list objects (s3:ListBucket, which tells absent objects from forbidden ones) in bucket BUCKET at ENDPOINT; allow it, or use others"
    );
    // Whoever only reads is told the same.
    let error = S3Artifacts::connect(config(&bucket)).await.unwrap().check_to_read().await.unwrap_err();
    assert!(error.to_string().starts_with("these credentials may not list objects"), "{error}");
}

#[tokio::test]
async fn a_store_that_says_nothing_is_told_in_time_and_in_its_own_words() {
    // Nobody takes these connections, which the system opens all the same.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bucket = S3Bucket {
        endpoint: format!("http://{}", silent.local_addr().unwrap()),
        region: "us-east-1".to_owned(),
        bucket: "artifacts".to_owned(),
        access_key_id: "key".to_owned(),
        secret_access_key: "no-secret-of-ours".to_owned(),
    };
    let begun = std::time::Instant::now();
    let text = told(S3Config { attempts: 100, ..config(&bucket) }, &bucket).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    insta::assert_snapshot!(
        text,
        @"ENDPOINT can not be reached for bucket BUCKET (it does not answer in time); check the address and the network"
    );
}

/// Speaks TLS before a gateway that does not. Returns where, and the certificate.
async fn with_tls(gateway: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let tls = tls.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let tls = tls.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let (acceptor, gateway) = (TlsAcceptor::from(Arc::new(tls)), gateway.to_owned());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let (acceptor, gateway) = (acceptor.clone(), gateway.clone());
            tokio::spawn(async move {
                // A peer that does not trust us goes away here.
                let Ok(mut near) = acceptor.accept(near).await else { return };
                let mut far = TcpStream::connect(&gateway).await.unwrap();
                let _either_may_close_first = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (format!("https://localhost:{port}"), made.cert.pem())
}

#[tokio::test]
async fn a_certificate_of_a_private_authority_is_trusted_when_that_is_named() {
    if !servers_wanted() {
        return;
    }
    let bucket = Bucket::new().await;
    let (endpoint, certificate) = with_tls(bucket.address()).await;
    let behind = S3Bucket { endpoint, ..bucket.bucket.clone() };
    let text = told(config(&behind), &behind).await;
    assert!(text.contains("its certificate is not trusted") && text.contains("name its authority"), "{text}");

    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("authority.pem");
    std::fs::write(&ca_file, &certificate).unwrap();
    let named = S3Config { ca_file: Some(ca_file.clone()), ..config(&behind) };
    let store = S3Artifacts::connect(named.clone()).await.unwrap();
    store.check().await.unwrap();
    let digest = store.put("a".into()).await.unwrap().digest;
    assert_eq!(store.get(&digest).await.unwrap(), "a");

    for (text, expected) in [
        ("no certificate", "are none"),
        ("-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n", "are no certificates"),
    ] {
        std::fs::write(&ca_file, text).unwrap();
        let refused = S3Artifacts::connect(named.clone()).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
    std::fs::remove_file(&ca_file).unwrap();
    let refused = S3Artifacts::connect(named).await.unwrap_err().to_string();
    assert!(refused.contains("authority.pem cannot be read"), "{refused}");
}

#[tokio::test]
async fn whether_a_bucket_answers_is_one_question() {
    if !servers_wanted() {
        return;
    }
    let bucket = Bucket::new().await;
    let wire = Wire::to(bucket.address());
    let over = S3Config { endpoint: Some(format!("http://{}", wire.address)), ..config(&bucket.bucket) };
    let store = S3Artifacts::connect(over.clone()).await.unwrap();
    store.answers().await.unwrap();
    assert_eq!(wire.requests().len(), 1);
    let missing = S3Config { bucket: format!("{}-missing", over.bucket), ..over };
    let error = S3Artifacts::connect(missing).await.unwrap().answers().await.unwrap_err();
    assert!(matches!(error, ArtifactError::BucketMissing { .. }), "{error}");
}
