//! A migrated database of a test.

use std::future::Future;
use std::time::Duration;

use sqlx::AnyPool;

pub(crate) struct Database {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) pool: AnyPool,
}

pub(crate) async fn database() -> Database {
    let directory = tempfile::tempdir().unwrap();
    let pool = open(&directory).await;
    migrations::migrate(&pool).await.unwrap();
    Database { directory, pool }
}

/// Another pool on the same file, as another process would have.
pub(crate) async fn open(directory: &tempfile::TempDir) -> AnyPool {
    migrations::connect(&migrations::sqlite_url(&directory.path().join("flywheel.sqlite")), 4).await.unwrap()
}

/// Waits until `condition` holds, and says what was awaited when it does not.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..3000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 30 s: {what}");
}
