//! A disk that is full: no file may grow beyond a limit, which the system tells whoever writes as it tells of a full
//! disk.
//!
//! The process under the limit is this test binary again, running [`child`] alone with its folder in a variable.

use std::path::{Path, PathBuf};
use std::process::Command;

use artifacts::{ArtifactError, ArtifactStore, LocalArtifacts, get_directory, manifest_of, put_directory};
use bytes::Bytes;
use events::Sha256Digest;

const FOLDER: &str = "ARTIFACTS_TEST_FOLDER";

/// More than the limit, whether a shell counts it in blocks of 512 or of 1024 bytes.
fn large() -> Bytes {
    Bytes::from(vec![5; 1 << 20])
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// What the process under the limit does. As a test of its own it does nothing.
#[tokio::test]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let store = LocalArtifacts::open(folder.join("full")).unwrap();
    let neighbour = store.put("small".into()).await.unwrap().digest;
    let before = files_below(store.root());

    let digest = Sha256Digest::of(&large());
    for error in [
        store.put(large()).await.unwrap_err(),
        store.put_file(&folder.join("source/weights")).await.unwrap_err(),
        put_directory(&store, &folder.join("source")).await.unwrap_err(),
    ] {
        is_told(&error, &store.root().join("incoming"));
    }
    assert!(!store.exists(&digest).await.unwrap());
    assert_eq!(files_below(store.root()), before, "something half was left behind");
    assert_eq!(store.get(&neighbour).await.unwrap(), "small");

    // What is stored elsewhere can not be delivered here.
    let elsewhere = LocalArtifacts::open(folder.join("elsewhere")).unwrap();
    let (out, manifest) = (folder.join("out"), manifest_of(&folder.join("source")).await.unwrap().digest());
    is_told(&elsewhere.get_to_file(&digest, &out.join("weights")).await.unwrap_err(), &out);
    is_told(&get_directory(&elsewhere, &manifest, &out.join("model")).await.unwrap_err(), &out);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "something half was delivered");
}

/// The error says where there is no room, and what to do.
fn is_told(error: &ArtifactError, place: &Path) {
    let text = error.to_string();
    assert!(matches!(error, ArtifactError::NoSpace { path, .. } if path.starts_with(place)), "{text}");
    assert!(text.contains(&place.display().to_string()) && text.ends_with("; make room and try again"), "{text}");
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_nothing_half() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    for name in ["source", "out"] {
        std::fs::create_dir(folder.join(name)).unwrap();
    }
    std::fs::write(folder.join("source/weights"), large()).unwrap();
    let elsewhere = LocalArtifacts::open(folder.join("elsewhere")).unwrap();
    let manifest = put_directory(&elsewhere, &folder.join("source")).await.unwrap();

    // Without the trap the system would end the process instead of refusing the write.
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ && ulimit -f 100 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["full_disk::child", "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&limited.stdout) + String::from_utf8_lossy(&limited.stderr);
    assert!(limited.status.success() && said.contains("1 passed"), "{said}");

    // With room again the same calls succeed.
    let store = LocalArtifacts::open(folder.join("full")).unwrap();
    let digest = store.put(large()).await.unwrap().digest;
    assert_eq!(store.get(&digest).await.unwrap(), large());
    get_directory(&elsewhere, &manifest.digest(), &folder.join("out/model")).await.unwrap();
    assert_eq!(elsewhere.get_to_file(&digest, &folder.join("out/weights")).await.unwrap(), large().len() as u64);
}
