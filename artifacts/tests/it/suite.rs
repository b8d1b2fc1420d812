//! One suite for all implementations of `ArtifactStore`.

use std::path::Path;
use std::sync::Arc;

use artifacts::{
    ArtifactError, ArtifactStore, DirectoryManifest, get_directory, get_manifest, manifest_of, put_directory,
    verify_directory,
};
use async_trait::async_trait;
use bytes::Bytes;
use events::Sha256Digest;

/// How an object is damaged behind the store's back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Damage {
    Truncate,
    Flip,
    Empty,
    Extend,
}

/// An implementation under test.
#[async_trait]
pub(crate) trait Harness: Send + Sync {
    fn store(&self) -> Arc<dyn ArtifactStore>;
    async fn damage(&self, digest: &Sha256Digest, damage: Damage);
}

pub(crate) fn damaged(bytes: &[u8], damage: Damage) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match damage {
        Damage::Truncate => bytes.truncate(bytes.len() / 2),
        Damage::Flip => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        Damage::Empty => bytes.clear(),
        Damage::Extend => bytes.push(0),
    }
    bytes
}

pub(crate) async fn all(harness: &dyn Harness) {
    what_is_put_comes_back(harness).await;
    damage_is_reported_and_healed(harness).await;
    large_objects_go_round(harness).await;
    many_may_put_the_same_at_once(harness).await;
    directories_go_round(harness).await;
    a_damaged_directory_is_refused(harness).await;
    manifests_are_checked(harness).await;
}

async fn what_is_put_comes_back(harness: &dyn Harness) {
    let store = harness.store();
    let directory = tempfile::tempdir().unwrap();
    for bytes in [&b""[..], b"a", &vec![7; 1_000_003]] {
        let expected = Sha256Digest::of(bytes);
        let stored = store.put(Bytes::copy_from_slice(bytes)).await.unwrap();
        assert_eq!((stored.digest, stored.bytes), (expected, bytes.len() as u64));
        assert_eq!(store.get(&expected).await.unwrap(), bytes);
        let path = directory.path().join("out");
        assert_eq!(store.get_to_file(&expected, &path).await.unwrap(), bytes.len() as u64);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(store.put_file(&path).await.unwrap(), stored);
        assert!(store.exists(&expected).await.unwrap());
        assert!(store.remove(&expected).await.unwrap());
        assert!(!store.remove(&expected).await.unwrap());
        assert!(!store.exists(&expected).await.unwrap());
        assert!(matches!(store.get(&expected).await, Err(ArtifactError::NotFound { .. })));
        assert!(matches!(store.get_to_file(&expected, &path).await, Err(ArtifactError::NotFound { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "a failed delivery changed the file");
    }
    assert!(matches!(store.put_file(&directory.path().join("absent")).await, Err(ArtifactError::Io { .. })));
}

async fn damage_is_reported_and_healed(harness: &dyn Harness) {
    let store = harness.store();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    for damage in [Damage::Truncate, Damage::Flip, Damage::Empty, Damage::Extend] {
        let bytes = Bytes::from(vec![42; 100_000]);
        let digest = store.put(bytes.clone()).await.unwrap().digest;
        harness.damage(&digest, damage).await;
        assert!(matches!(store.get(&digest).await, Err(ArtifactError::Corrupt { .. })), "{damage:?}");
        assert!(matches!(store.get_to_file(&digest, &path).await, Err(ArtifactError::Corrupt { .. })), "{damage:?}");
        assert!(!path.exists(), "a corrupt object was delivered");
        store.put(bytes.clone()).await.unwrap();
        assert_eq!(store.get(&digest).await.unwrap(), bytes, "{damage:?} was not healed");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "something was left behind");
}

/// Larger than what a store sends or reads at once, and no multiple of it.
async fn large_objects_go_round(harness: &dyn Harness) {
    let store = harness.store();
    let directory = tempfile::tempdir().unwrap();
    let (path, out) = (directory.path().join("weights"), directory.path().join("out"));
    // No two parts are alike.
    let bytes: Bytes = (0..(20_u32 << 20) + 3).map(|place| ((place % 251) ^ (place >> 20)) as u8).collect();
    let (digest, length) = (Sha256Digest::of(&bytes), bytes.len() as u64);
    std::fs::write(&path, &bytes).unwrap();
    let stored = store.put_file(&path).await.unwrap();
    assert_eq!((stored.digest, stored.bytes), (digest, length));
    assert!(store.get(&digest).await.unwrap() == bytes);
    assert_eq!(store.put(bytes.clone()).await.unwrap(), stored, "the same again");
    for damage in [Damage::Flip, Damage::Truncate] {
        harness.damage(&digest, damage).await;
        assert!(matches!(store.get(&digest).await, Err(ArtifactError::Corrupt { .. })), "{damage:?}");
        assert!(matches!(store.get_to_file(&digest, &out).await, Err(ArtifactError::Corrupt { .. })), "{damage:?}");
        assert!(!out.exists(), "a corrupt object was delivered");
        assert_eq!(store.put_file(&path).await.unwrap(), stored);
        assert_eq!(store.get_to_file(&digest, &out).await.unwrap(), length);
        assert!(std::fs::read(&out).unwrap() == bytes, "{damage:?} was not healed");
        std::fs::remove_file(&out).unwrap();
    }
    assert!(store.remove(&digest).await.unwrap());
    assert_eq!(store.put(bytes.clone()).await.unwrap(), stored);
    assert!(store.get(&digest).await.unwrap() == bytes);
    assert!(store.remove(&digest).await.unwrap());
}

async fn many_may_put_the_same_at_once(harness: &dyn Harness) {
    let bytes = Bytes::from(vec![9; 300_000]);
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (store, bytes) = (harness.store(), bytes.clone());
            tokio::spawn(async move {
                let stored = store.put(bytes.clone()).await.unwrap();
                // Once put, it is there and whole, whoever else is still putting it.
                assert_eq!(store.get(&stored.digest).await.unwrap(), bytes);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

fn model(directory: &Path) {
    std::fs::create_dir_all(directory.join("adapter/deep")).unwrap();
    std::fs::write(directory.join("config.json"), "{}").unwrap();
    std::fs::write(directory.join("model.safetensors"), vec![1; 200_000]).unwrap();
    std::fs::write(directory.join("adapter/deep/weights.bin"), vec![1; 200_000]).unwrap();
    std::fs::write(directory.join("empty"), "").unwrap();
}

async fn directories_go_round(harness: &dyn Harness) {
    let store = harness.store();
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (directory.path().join("source"), directory.path().join("some/where/target"));
    model(&source);
    let manifest = put_directory(&*store, &source).await.unwrap();
    let digest = manifest.digest();
    assert_eq!(manifest, manifest_of(&source).await.unwrap());
    assert_eq!(manifest, put_directory(&*store, &source).await.unwrap());
    assert_eq!(manifest.total_bytes(), 400_002);
    assert_eq!(manifest.file("config.json").unwrap().bytes, 2);
    let paths: Vec<&str> = manifest.files().iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["adapter/deep/weights.bin", "config.json", "empty", "model.safetensors"]);

    assert_eq!(get_directory(&*store, &digest, &target).await.unwrap(), manifest);
    verify_directory(&target, &manifest).await.unwrap();
    assert_eq!(manifest_of(&target).await.unwrap(), manifest);
    // Already right: nothing is written, not even when the objects are gone.
    let object = manifest.file("config.json").unwrap().sha256;
    store.remove(&object).await.unwrap();
    get_directory(&*store, &digest, &target).await.unwrap();
    put_directory(&*store, &source).await.unwrap();
    // Damaged in place, or with a file too many: replaced.
    std::fs::write(target.join("config.json"), "{ }").unwrap();
    std::fs::write(target.join("extra"), "x").unwrap();
    assert!(verify_directory(&target, &manifest).await.is_err());
    get_directory(&*store, &digest, &target).await.unwrap();
    verify_directory(&target, &manifest).await.unwrap();
    let neighbours = std::fs::read_dir(target.parent().unwrap()).unwrap().count();
    assert_eq!(neighbours, 1, "staging directories were left behind");

    // Many at once into the same place.
    let elsewhere = directory.path().join("shared");
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let (store, elsewhere) = (harness.store(), elsewhere.clone());
            tokio::spawn(async move { get_directory(&*store, &digest, &elsewhere).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    verify_directory(&elsewhere, &manifest).await.unwrap();
}

async fn a_damaged_directory_is_refused(harness: &dyn Harness) {
    let store = harness.store();
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (directory.path().join("source"), directory.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("weights"), vec![3; 50_000]).unwrap();
    let manifest = put_directory(&*store, &source).await.unwrap();
    let weights = manifest.file("weights").unwrap().sha256;
    for damage in [Damage::Truncate, Damage::Flip] {
        harness.damage(&weights, damage).await;
        let error = get_directory(&*store, &manifest.digest(), &target).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Corrupt { .. }), "{error}");
        assert!(!target.exists());
        put_directory(&*store, &source).await.unwrap();
    }
    harness.damage(&manifest.digest(), Damage::Truncate).await;
    let error = get_directory(&*store, &manifest.digest(), &target).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Corrupt { .. }), "{error}");
    put_directory(&*store, &source).await.unwrap();
    // A directory that is being replaced stays when its replacement cannot be had.
    get_directory(&*store, &manifest.digest(), &target).await.unwrap();
    std::fs::write(target.join("weights"), "changed").unwrap();
    store.remove(&weights).await.unwrap();
    let error = get_directory(&*store, &manifest.digest(), &target).await.unwrap_err();
    assert!(matches!(error, ArtifactError::NotFound { .. }), "{error}");
    assert_eq!(std::fs::read(target.join("weights")).unwrap(), b"changed");
}

async fn manifests_are_checked(harness: &dyn Harness) {
    let store = harness.store();
    let digest = Sha256Digest::of(b"x");
    let file = |path: &str| format!(r#"{{"path":"{path}","bytes":1,"sha256":"{digest}"}}"#);
    let manifest = |files: &[String]| format!(r#"{{"format":"flywheel.directory.v1","files":[{}]}}"#, files.join(","));
    let mut bad: Vec<String> = ["../x", "/x", "a/../x", "a//x", "", ".", "a\\\\x", "c:x", "a/"]
        .iter()
        .map(|path| manifest(&[file(path)]))
        .collect();
    bad.push(manifest(&[file("a"), file("a")]));
    bad.push(manifest(&[file("a")]).replace(".v1", ".v2"));
    bad.push("weights".to_owned());
    for bytes in bad {
        let stored = store.put(bytes.clone().into()).await.unwrap();
        let error = get_manifest(&*store, &stored.digest).await.unwrap_err();
        assert!(matches!(error, ArtifactError::BadManifest { .. }), "{bytes}: {error}");
    }
    let good = manifest(&[file("a"), file("b/c")]);
    let parsed = DirectoryManifest::from_bytes(digest, good.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(parsed.to_bytes()).unwrap(), good, "the canonical form is stable");
}
