//! A database whose disk is full: what finds no room is refused with the reason, and nothing that was committed is
//! lost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use events::Timestamp;
use service::ids::SeededIds;
use service::outbox::{OutboxMessage, OutboxRelay, append};
use service::reconciler::{Next, Reconciler};
use sqlx::AnyPool;
use uuid::Uuid;

use crate::outbox::Log;

const FOLDER: &str = "SERVICE_TEST_FOLDER";

/// The line by which the process under the limit says how many messages it committed.
const MARK: &str = "@@";

async fn open(folder: &Path, connections: u32) -> AnyPool {
    migrations::connect(&migrations::sqlite_url(&folder.join("flywheel.sqlite")), connections).await.unwrap()
}

fn message(ids: &SeededIds, second: i64, bytes: usize) -> OutboxMessage {
    OutboxMessage::record(ids, Timestamp::from_seconds(second), "flywheel.events.v1", [7; 16], vec![1; bytes])
}

async fn put(pool: &AnyPool, message: &OutboxMessage) -> Result<(), sqlx::Error> {
    let mut transaction = migrations::begin_write(pool).await?;
    append(&mut transaction, message).await?;
    transaction.commit().await
}

async fn published(pool: &AnyPool) -> Vec<Uuid> {
    let log = Arc::new(Log::default());
    assert!(matches!(OutboxRelay::new(pool.clone(), log.clone(), None).activate().await, Ok(Next::Period)));
    log.records.lock().iter().map(|record| record.id).collect()
}

/// SQLite's own limit stands for a disk without room: the answer is the same.
#[tokio::test]
async fn what_finds_no_room_is_taken_by_the_same_pool_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    // One connection: its limit is the pool's.
    let pool = open(directory.path(), 1).await;
    migrations::migrate(&pool).await.unwrap();
    let limit = async |pages: i64| {
        let pragma = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        sqlx::raw_sql(pragma).execute(&pool).await.unwrap();
    };
    let ids = SeededIds::new(1, Timestamp::from_seconds(1_700_000_000));
    let (small, large) = (message(&ids, 1, 10), message(&ids, 2, 1 << 20));
    put(&pool, &small).await.unwrap();
    limit(sqlx::query_scalar("PRAGMA page_count").fetch_one(&pool).await.unwrap()).await;
    let refused = put(&pool, &large).await.unwrap_err().to_string();
    assert!(refused.contains("database or disk is full"), "{refused}");
    limit(i64::from(u32::MAX) - 1).await;
    put(&pool, &large).await.unwrap();
    assert_eq!(published(&pool).await, [small.id, large.id]);
}

/// What the process under the limit does. As a test of its own it does nothing.
#[tokio::test]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let pool = open(&folder, 2).await;
    let ids = SeededIds::new(1, Timestamp::from_seconds(1_700_000_000));
    let (mut committed, mut refusals) = (0, 0);
    while refusals < 5 {
        match put(&pool, &message(&ids, committed, 20_000)).await {
            Ok(()) => committed += 1,
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("disk I/O error") || text.contains("database or disk is full"), "{text}");
                refusals += 1;
            }
        }
        assert!(committed < 1_000, "nothing is refused");
    }
    // Reading goes on, and shows all that was committed and nothing else.
    let relay = OutboxRelay::new(pool.clone(), Arc::new(Log::default()), None);
    assert_eq!(relay.waiting().await.unwrap(), committed);
    println!("{MARK}{committed}");
}

/// No file of the other process, which is this test binary again, may grow beyond a limit; the system tells it so as it
/// tells of a full disk.
#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    let pool = open(directory.path(), 1).await;
    migrations::migrate(&pool).await.unwrap();
    pool.close().await;
    // Without the trap the system would end the process instead of refusing the write.
    let limited = Command::new("sh")
        .args(["-c", "trap '' XFSZ && ulimit -f 2000 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["full_disk::child", "--exact", "--nocapture"])
        .env(FOLDER, directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&limited.stdout) + String::from_utf8_lossy(&limited.stderr);
    assert!(limited.status.success() && said.contains("1 passed"), "{said}");
    let committed: usize = said.lines().find_map(|line| line.split(MARK).nth(1)?.parse().ok()).unwrap();
    assert!(committed > 5, "{said}");

    let pool = open(directory.path(), 2).await;
    let sound: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&pool).await.unwrap();
    assert_eq!(sound, "ok");
    let ids = SeededIds::new(2, Timestamp::from_seconds(1_800_000_000));
    let last = message(&ids, 1_000_000, 20_000);
    put(&pool, &last).await.unwrap();
    let published = published(&pool).await;
    assert_eq!((published.len(), published.last()), (committed + 1, Some(&last.id)));
}
