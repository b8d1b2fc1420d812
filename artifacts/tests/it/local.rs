//! The local directory.

use std::path::PathBuf;
use std::sync::Arc;

use artifacts::{ArtifactError, ArtifactStore, LocalArtifacts, manifest_of, put_directory};
use async_trait::async_trait;
use events::Sha256Digest;
use proptest::prelude::*;

use crate::suite::{self, Damage, Harness};

struct Local {
    directory: tempfile::TempDir,
    store: LocalArtifacts,
}

impl Local {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalArtifacts::open(directory.path().join("artifacts")).unwrap();
        Self { directory, store }
    }

    fn path_of(&self, digest: &Sha256Digest) -> PathBuf {
        let name = digest.to_string();
        self.store.root().join("objects").join(&name[..2]).join(&name)
    }
}

#[async_trait]
impl Harness for Local {
    fn store(&self) -> Arc<dyn ArtifactStore> {
        Arc::new(self.store.clone())
    }

    async fn damage(&self, digest: &Sha256Digest, damage: Damage) {
        let path = self.path_of(digest);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, suite::damaged(&bytes, damage)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_directory_behaves_as_every_store() {
    suite::all(&Local::new()).await;
}

#[tokio::test]
async fn who_only_reads_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("artifacts");
    assert!(LocalArtifacts::open_to_read(&root).is_err() && !root.exists());
    let stored = LocalArtifacts::open(&root).unwrap().put(b"object".to_vec().into()).await.unwrap();
    let reading = LocalArtifacts::open_to_read(&root).unwrap();
    assert_eq!(reading.get(&stored.digest).await.unwrap()[..], b"object"[..]);
}

#[tokio::test]
async fn nothing_half_written_is_ever_visible() {
    let local = Local::new();
    local.store.put("a".into()).await.unwrap();
    assert_eq!(std::fs::read_dir(local.store.root().join("incoming")).unwrap().count(), 0);
    // A store that cannot write says so and leaves nothing.
    let incoming = local.store.root().join("incoming");
    std::fs::remove_dir(&incoming).unwrap();
    let error = local.store.put("b".into()).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Io { .. }), "{error}");
    assert!(!local.store.exists(&Sha256Digest::of(b"b")).await.unwrap());
}

#[cfg(unix)]
#[tokio::test]
async fn links_and_empty_directories_are_refused() {
    let local = Local::new();
    let source = local.directory.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let empty = put_directory(&local.store, &source).await.unwrap_err();
    std::os::unix::fs::symlink("/etc/hostname", source.join("link")).unwrap();
    let link = put_directory(&local.store, &source).await.unwrap_err();
    let shown = format!("{empty}\n{link}").replace(&local.directory.path().display().to_string(), "DIR");
    insta::assert_snapshot!(shown);
    assert!(manifest_of(&local.directory.path().join("absent")).await.is_err());
}

#[test]
fn errors_read_as_sentences() {
    let (digest, found) = (Sha256Digest::of(b"a"), Sha256Digest::of(b"b"));
    let errors = [
        ArtifactError::NotFound { digest },
        ArtifactError::Corrupt { digest, found, bytes: 1 },
        ArtifactError::CorruptFile { digest, path: "model.safetensors".to_owned() },
        ArtifactError::NoSpace {
            path: "artifacts/incoming".into(),
            source: std::io::Error::other("No space left on device"),
        },
    ];
    insta::assert_snapshot!(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever single byte changes, and wherever an object is cut, it is never delivered.
    #[test]
    fn no_damage_goes_unnoticed(
        bytes in proptest::collection::vec(any::<u8>(), 1..5000),
        place in any::<prop::sample::Index>(),
        change in 1..=255_u8,
        cut in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let local = Local::new();
            let digest = local.store.put(bytes.clone().into()).await.unwrap().digest;
            let place = place.index(bytes.len());
            let mut damaged = bytes.clone();
            if cut { damaged.truncate(place) } else { damaged[place] ^= change }
            std::fs::write(local.path_of(&digest), damaged).unwrap();
            let corrupt = matches!(local.store.get(&digest).await, Err(ArtifactError::Corrupt { .. }));
            prop_assert!(corrupt);
            Ok(())
        })?;
    }
}
