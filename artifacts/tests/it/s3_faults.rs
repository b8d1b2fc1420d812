//! What a bucket does when the connection breaks at a bad moment, or nobody waits any more.

use std::io::Write as _;
use std::time::{Duration, Instant};

use artifacts::{ArtifactError, ArtifactStore, S3Artifacts, S3Config};
use bytes::Bytes;
use events::Sha256Digest;
use test_servers::{Stream, Toxic, servers_wanted};

use crate::s3::{Bucket, config};
use crate::wire::{Fault, Wire};

const LIMIT: Duration = Duration::from_secs(60);

/// A bucket, and a store that reaches it over a wire.
struct Faulty {
    bucket: Bucket,
    wire: Wire,
    config: S3Config,
}

impl Faulty {
    async fn new() -> Self {
        let bucket = Bucket::new().await;
        let wire = Wire::to(bucket.address());
        let config = S3Config { endpoint: Some(format!("http://{}", wire.address)), ..config(bucket.place()) };
        Self { bucket, wire, config }
    }

    /// A store that tries every request so often.
    async fn store(&self, attempts: u32) -> S3Artifacts {
        S3Artifacts::connect(S3Config { attempts, ..self.config.clone() }).await.unwrap()
    }
}

/// Of three parts, no two alike.
fn large() -> Bytes {
    (0..(20_u32 << 20) + 3).map(|place| ((place % 241) ^ (place >> 20)) as u8).collect()
}

fn completes(line: &str) -> bool {
    line.starts_with("POST ") && line.contains("uploadId=")
}

fn puts_a_part(line: &str) -> bool {
    line.starts_with("PUT ") && line.contains("partNumber=2")
}

fn gets(line: &str) -> bool {
    line.starts_with("GET ")
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_whose_last_answer_was_lost_is_there() {
    if !servers_wanted() {
        return;
    }
    let faulty = Faulty::new().await;
    let bytes = large();
    let digest = Sha256Digest::of(&bytes);
    // Once nobody asks again, once the store answers that it knows of no such upload any more.
    for attempts in [1, 3] {
        let store = faulty.store(attempts).await;
        faulty.wire.breaks_at(completes, Fault::LoseAnswer);
        assert_eq!(store.put(bytes.clone()).await.unwrap().digest, digest, "{attempts} attempts");
        assert!(faulty.wire.is_over());
        assert!(store.get(&digest).await.unwrap() == bytes);
        assert_eq!(faulty.bucket.unfinished().await, 0);
        assert!(store.remove(&digest).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_fails_gives_its_parts_back() {
    if !servers_wanted() {
        return;
    }
    let faulty = Faulty::new().await;
    let (store, bytes) = (faulty.store(1).await, large());
    for is_meant in [puts_a_part, completes] {
        faulty.wire.breaks_at(is_meant, Fault::LoseRequest);
        let error = store.put(bytes.clone()).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Unreachable { .. }), "{error}");
        assert!(faulty.wire.is_over());
        assert_eq!(faulty.bucket.unfinished().await, 0);
        assert!(!store.exists(&Sha256Digest::of(&bytes)).await.unwrap());
    }
    // With patience it goes through the same faults.
    faulty.wire.breaks_at(puts_a_part, Fault::LoseRequest);
    faulty.wire.breaks_at(completes, Fault::LoseRequest);
    let stored = faulty.store(3).await.put(bytes.clone()).await.unwrap();
    assert!(faulty.wire.is_over());
    assert!(store.get(&stored.digest).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_while_it_is_put_leaves_nothing() {
    if !servers_wanted() {
        return;
    }
    let faulty = Faulty::new().await;
    let store = faulty.store(2).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights");
    std::fs::write(&path, large()).unwrap();
    // The second part waits for ever, so that there is time to change what follows.
    faulty.wire.breaks_at(puts_a_part, Fault::Swallow);
    let slow = S3Config { parallel_parts: 1, read_timeout: Duration::from_secs(3), ..faulty.config.clone() };
    let slow = S3Artifacts::connect(slow).await.unwrap();
    let putting = tokio::spawn({
        let path = path.clone();
        async move { slow.put_file(&path).await }
    });
    until("the second part is on its way", async || faulty.wire.is_over()).await;
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20 << 20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = putting.await.unwrap().unwrap_err();
    assert!(matches!(error, ArtifactError::Changed { .. }), "{error}");
    assert_eq!(faulty.bucket.unfinished().await, 0);
    assert!(!store.exists(&Sha256Digest::of(&large())).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_nobody_waits_for_gives_its_parts_back() {
    if !servers_wanted() {
        return;
    }
    let faulty = Faulty::new().await;
    let (store, bytes) = (faulty.store(2).await, large());
    faulty.wire.breaks_at(puts_a_part, Fault::Swallow);
    let putting = tokio::spawn({
        let (store, bytes) = (store.clone(), bytes.clone());
        async move { store.put(bytes).await }
    });
    until("a part is on its way", async || faulty.wire.is_over()).await;
    assert_eq!(faulty.bucket.unfinished().await, 1);
    putting.abort();
    until("the parts are given back", async || faulty.bucket.unfinished().await == 0).await;
    assert!(!store.exists(&Sha256Digest::of(&bytes)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_vouches_for_is_not_sent_again() {
    if !servers_wanted() {
        return;
    }
    let faulty = Faulty::new().await;
    let (store, bytes) = (faulty.store(2).await, large());
    let stored = store.put(bytes.clone()).await.unwrap();
    faulty.wire.requests();
    assert_eq!(store.put(bytes.clone()).await.unwrap(), stored);
    let requests = faulty.wire.requests();
    assert!(requests.len() == 1 && requests[0].starts_with("HEAD "), "{requests:?}");
    // The same bytes in other parts: it can not know that they are the same.
    let other = S3Config { part_bytes: 6 << 20, ..faulty.config.clone() };
    assert_eq!(S3Artifacts::connect(other).await.unwrap().put(bytes.clone()).await.unwrap(), stored);
    let requests = faulty.wire.requests();
    assert_eq!(requests.iter().filter(|line| line.starts_with("PUT ")).count(), 4, "{requests:?}");
    assert!(store.get(&stored.digest).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_goes_on_where_it_broke() {
    if !servers_wanted() {
        return;
    }
    let faulty = Faulty::new().await;
    let (store, bytes) = (faulty.store(3).await, large());
    let digest = store.put(bytes.clone()).await.unwrap().digest;
    faulty.wire.requests();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights");
    for after in [0, 100, 9 << 20] {
        faulty.wire.breaks_at(gets, Fault::CutAnswer(after));
        faulty.wire.breaks_at(gets, Fault::CutAnswer(after + 5));
        store.get_to_file(&digest, &path).await.unwrap();
        assert!(faulty.wire.is_over());
        assert!(std::fs::read(&path).unwrap() == bytes);
        assert_eq!(faulty.wire.requests().len(), 3);
    }
    // A store that starts at another byte than it was asked for is not taken at its word.
    let short = Bytes::from(vec![7; 3_000_000]);
    let digest = store.put(short).await.unwrap().digest;
    faulty.wire.breaks_at(gets, Fault::CutAnswer(1_000_000));
    faulty.wire.breaks_at(gets, Fault::Alter("Content-Range: bytes 99", "Content-Range: bytes 98"));
    let error = store.get(&digest).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("it was asked for the bytes from 99") && text.contains("(bytes 98"), "{text}");
    assert!(faulty.wire.is_over());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_store_is_waited_for_and_one_that_resets_or_says_nothing_is_told() {
    if !servers_wanted() {
        return;
    }
    let Some(toxiproxy) = test_servers::toxiproxy().await else { return };
    let bucket = Bucket::new().await;
    let proxy = toxiproxy.before(bucket.address());
    let endpoint = Some(format!("http://{}", proxy.address()));
    let behind = S3Config { endpoint, read_timeout: Duration::from_secs(20), ..config(bucket.place()) };
    let store = S3Artifacts::connect(behind.clone()).await.unwrap();
    let bytes = large();

    // As over a long way: some MiB a second.
    for stream in [Stream::ToServer, Stream::ToClient] {
        proxy.spoil(stream, Toxic::Latency(Duration::from_millis(100)));
        proxy.spoil(stream, Toxic::Bandwidth(8 << 10));
    }
    let digest = store.put(bytes.clone()).await.unwrap().digest;
    assert!(store.get(&digest).await.unwrap() == bytes);
    proxy.heal();

    let impatient = S3Config { read_timeout: Duration::from_secs(1), ..behind };
    let impatient = S3Artifacts::connect(impatient).await.unwrap();
    for (stream, toxic) in [(Stream::ToClient, Toxic::Reset(Duration::ZERO)), (Stream::ToServer, Toxic::BlackHole)] {
        proxy.spoil(stream, toxic);
        for error in [impatient.put("a".into()).await.unwrap_err(), impatient.get(&digest).await.unwrap_err()] {
            assert!(matches!(error, ArtifactError::Unreachable { .. }), "{toxic:?}: {error}");
        }
        proxy.heal();
        assert!(store.get(&digest).await.unwrap() == bytes, "{toxic:?} is over");
    }
    // Every connection breaks after some of the object, and each answer brings some more.
    proxy.spoil(Stream::ToClient, Toxic::CutAfter(9 << 20));
    let patient = S3Config { attempts: 4, ..config(bucket.place()) };
    let endpoint = Some(format!("http://{}", proxy.address()));
    let patient = S3Artifacts::connect(S3Config { endpoint, ..patient }).await.unwrap();
    assert!(patient.get(&digest).await.unwrap() == bytes);
}
