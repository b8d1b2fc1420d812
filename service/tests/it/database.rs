//! A migrated database of a test.

use std::future::Future;
use std::time::Duration;

pub(crate) use test_databases::TestDatabase as Database;

pub(crate) async fn database() -> Database {
    Database::fresh().await
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
