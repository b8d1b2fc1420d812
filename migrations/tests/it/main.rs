//! Opening and migrating databases, alone and many at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test may fail loudly"
)]

mod broken_connections;
mod refusals;
mod rights;
mod upgrades;

use std::process::{Command, Stdio};

use migrations::{
    MigrationsError, begin_read, begin_write, check, commit, connect, connect_to_read, is_conflict, migrate, retried,
    sqlite_url,
};
use sqlx::AnyPool;
use test_databases::TestDatabase;

test_databases::on_both_databases! {
    many_tasks_may_start_at_once,
    the_common_types_go_round,
    read_modify_write_loses_nothing,
    compare_and_set_has_one_winner,
    who_only_reads_can_change_nothing,
}

/// Tells a child of this test binary which database to migrate.
const CHILD_DATABASE: &str = "MIGRATIONS_TEST_CHILD_DATABASE";

async fn open(directory: &tempfile::TempDir) -> AnyPool {
    connect(&sqlite_url(&directory.path().join("deep/er/flywheel.sqlite")), 4).await.unwrap()
}

async fn applied(pool: &AnyPool) -> Vec<i64> {
    sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version").fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn a_fresh_database_is_pending_then_current() {
    let directory = tempfile::tempdir().unwrap();
    let pool = open(&directory).await;
    assert!(matches!(check(&pool).await, Err(MigrationsError::Pending { first: 1, .. })));
    migrate(&pool).await.unwrap();
    check(&pool).await.unwrap();
    migrate(&pool).await.unwrap();
    assert_eq!(applied(&pool).await[0], 1);
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&pool).await.unwrap();
    assert_eq!(mode, "wal");
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&pool).await.unwrap();
    assert_eq!(synchronous, 2);
}

async fn who_only_reads_can_change_nothing() {
    let database = TestDatabase::fresh().await;
    let insert = "INSERT INTO settings (tenant, name, value, updated_at) VALUES ('t', 'n', 'v', 1)";
    sqlx::query(insert).execute(&database.pool).await.unwrap();
    let reading = connect_to_read(database.url(), 2).await.unwrap();
    check(&reading).await.unwrap();
    let mut transaction = begin_read(&reading).await.unwrap();
    sqlx::query("UPDATE settings SET value = 'w'").execute(&database.pool).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let value = sqlx::query_scalar("SELECT value FROM settings WHERE tenant = 't'");
        seen.push(value.fetch_one(&mut *transaction).await.unwrap());
        sqlx::query("UPDATE settings SET value = 'x'").execute(&database.pool).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let [first, second]: [String; 2] = seen.try_into().unwrap();
    assert_eq!(first, second, "one state for the whole transaction");
    for statement in ["DELETE FROM settings", "UPDATE settings SET value = 'y'", "DROP TABLE settings"] {
        assert!(sqlx::query(statement).execute(&reading).await.is_err(), "{statement}");
    }
    let value: String =
        sqlx::query_scalar("SELECT value FROM settings WHERE tenant = 't'").fetch_one(&reading).await.unwrap();
    assert_eq!(value, "x");
}

#[tokio::test]
async fn a_file_that_is_absent_is_not_made_to_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flywheel.sqlite");
    assert!(connect_to_read(&sqlite_url(&path), 1).await.is_err());
    assert!(!path.exists());
}

async fn many_tasks_may_start_at_once() {
    let database = TestDatabase::fresh_and_empty().await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let pool = database.connect().await;
        tasks.push(tokio::spawn(async move {
            let steps = migrate(&pool).await.unwrap();
            check(&pool).await.unwrap();
            (steps.len(), applied(&pool).await)
        }));
    }
    let mut steps = 0;
    let mut versions = Vec::new();
    for task in futures::future::join_all(tasks).await {
        let (done, applied) = task.unwrap();
        steps += done;
        versions = applied;
        assert!(versions.is_sorted_by(|one, next| one < next) && versions.first() == Some(&1), "{versions:?}");
    }
    assert_eq!(steps, versions.len(), "each was applied by one of them");
    assert_eq!(versions.last(), Some(&migrations::schema_version()));
}

/// SQLite rolls back by itself when its disk is full. The connection must not count that transaction for ever.
#[tokio::test]
async fn a_transaction_that_the_database_ended_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let pool = connect(&sqlite_url(&directory.path().join("flywheel.sqlite")), 1).await.unwrap();
    sqlx::raw_sql("CREATE TABLE things (bytes BLOB); PRAGMA max_page_count = 10;").execute(&pool).await.unwrap();
    let mut transaction = begin_write(&pool).await.unwrap();
    let insert = "INSERT INTO things VALUES (ZEROBLOB(1000000))";
    let refused = sqlx::query(insert).execute(&mut *transaction).await.unwrap_err().to_string();
    assert!(refused.contains("database or disk is full"), "{refused}");
    drop(transaction);
    // The only connection of the pool, or another one in its place.
    let mut transaction = begin_write(&pool).await.unwrap();
    sqlx::query("INSERT INTO things VALUES (ZEROBLOB(10))").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let things: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM things").fetch_one(&pool).await.unwrap();
    assert_eq!(things, 1);
}

/// Not a test of its own: the body of the processes of the next one.
#[tokio::test]
async fn child_process() {
    if let Ok(url) = std::env::var(CHILD_DATABASE) {
        let pool = connect(&url, 2).await.unwrap();
        migrate(&pool).await.unwrap();
        check(&pool).await.unwrap();
    }
}

fn child(url: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["child_process", "--exact", "--nocapture"]).env(CHILD_DATABASE, url);
    child.stdout(Stdio::piped()).stderr(Stdio::piped());
    child
}

#[test]
fn several_processes_may_start_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let url = sqlite_url(&directory.path().join("flywheel.sqlite"));
    let children: Vec<_> = (0..4).map(|_| child(&url).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }
}

/// Processes that start together, and some of which end at any moment, leave a database that is whole.
#[test]
fn a_process_that_is_killed_while_it_migrates_leaves_nothing_half_done() {
    for round in 0..12_u64 {
        let directory = tempfile::tempdir().unwrap();
        let url = sqlite_url(&directory.path().join("flywheel.sqlite"));
        let mut children: Vec<_> = (0..3).map(|_| child(&url).spawn().unwrap()).collect();
        // Wherever the blow falls, what follows must hold.
        std::thread::sleep(std::time::Duration::from_millis(round * 4));
        for child in &mut children[..2] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let output = children.remove(2).wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pool = connect(&url, 1).await.unwrap();
            check(&pool).await.unwrap();
            let sound: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&pool).await.unwrap();
            assert_eq!(sound, "ok");
        });
    }
}

/// One schema for two databases: only types that mean the same on both, and no time, boolean or JSON type.
#[test]
fn every_column_has_a_type_that_both_databases_share() {
    let shared = ["TEXT", "BIGINT", "DOUBLE PRECISION", "BYTEA", "SMALLINT"];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let mut columns = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut in_table = false;
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let line = line.split("--").next().unwrap_or_default().trim();
            let first = line.split_whitespace().next().unwrap_or_default();
            in_table = in_table && !line.starts_with(')');
            let is_column = in_table && first.starts_with(|letter: char| letter.is_ascii_lowercase());
            if is_column {
                let rest = line[first.len()..].trim_start();
                assert!(shared.iter().any(|name| rest.starts_with(name)), "{}: {line}", path.display());
                columns += 1;
            }
            in_table = in_table || line.starts_with("CREATE TABLE");
        }
    }
    assert!(columns > 100, "{columns} columns were read");
}

#[tokio::test]
async fn databases_that_cannot_be_used_say_why() {
    let mut texts = Vec::new();
    for url in ["mysql://me:secret@db/x", "flywheel.db", "postgres://me:secret@db/x?sslmod=verify-full"] {
        let error = match connect(url, 1).await {
            Err(error) => error.to_string(),
            Ok(_) => continue,
        };
        assert!(!error.contains("secret"), "{error}");
        texts.push(error);
    }
    assert!(texts[0].contains("unknown kind of database"), "{texts:?}");
    assert!(texts[1].contains("unknown kind of database"), "{texts:?}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "no database".repeat(1000)).unwrap();
    assert!(matches!(connect(&sqlite_url(&file.join("x.sqlite")), 1).await, Err(MigrationsError::Directory { .. })));
    let started = std::time::Instant::now();
    assert!(matches!(connect(&sqlite_url(&file), 1).await, Err(MigrationsError::Connect { .. })));
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "a wrong file is tried again and again");
}

/// The types that mean the same on both databases, through `Any`.
async fn the_common_types_go_round() {
    let TestDatabase { directory: _directory, pool, .. } = TestDatabase::fresh_and_empty().await;
    sqlx::query(
        "CREATE TABLE round (a TEXT NOT NULL, b BIGINT NOT NULL, c DOUBLE PRECISION NOT NULL, d BYTEA NOT NULL, \
         e SMALLINT NOT NULL, f BYTEA)",
    )
    .execute(&pool)
    .await
    .unwrap();
    sqlx::query("INSERT INTO round VALUES ($1, $2, $3, $4, $5, $6)")
        .bind("ä")
        .bind(i64::MAX)
        .bind(0.1_f64)
        .bind(vec![0_u8, 255])
        .bind(1_i16)
        .bind(None::<Vec<u8>>)
        .execute(&pool)
        .await
        .unwrap();
    let row: (String, i64, f64, Vec<u8>, i16, Option<Vec<u8>>) =
        sqlx::query_as("SELECT a, b, c, d, e, f FROM round").fetch_one(&pool).await.unwrap();
    assert_eq!(row, ("ä".to_owned(), i64::MAX, 0.1, vec![0, 255], 1, None));
}

/// A counter that everybody reads before it is written.
async fn counter() -> TestDatabase {
    let database = TestDatabase::fresh_and_empty().await;
    sqlx::query("CREATE TABLE counter (value BIGINT NOT NULL)").execute(&database.pool).await.unwrap();
    sqlx::query("INSERT INTO counter VALUES (0)").execute(&database.pool).await.unwrap();
    database
}

async fn value(database: &TestDatabase) -> i64 {
    sqlx::query_scalar("SELECT value FROM counter").fetch_one(&database.pool).await.unwrap()
}

async fn read_modify_write_loses_nothing() {
    let database = counter().await;
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let pool = database.pool.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    let counted = retried(|| async {
                        let mut transaction = begin_write(&pool).await?;
                        let value: i64 =
                            sqlx::query_scalar("SELECT value FROM counter").fetch_one(&mut *transaction).await?;
                        sqlx::query("UPDATE counter SET value = $1").bind(value + 1).execute(&mut *transaction).await?;
                        commit(transaction).await
                    });
                    counted.await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(value(&database).await, 100);
    assert!(!is_conflict(&sqlx::Error::RowNotFound));
}

async fn compare_and_set_has_one_winner() {
    let database = counter().await;
    for round in 0..10_i64 {
        let racing: Vec<_> = (0..8)
            .map(|_| {
                let pool = database.pool.clone();
                tokio::spawn(async move {
                    let update = sqlx::query("UPDATE counter SET value = $1 WHERE value = $2");
                    update.bind(round + 1).bind(round).execute(&pool).await.unwrap().rows_affected()
                })
            })
            .collect();
        let mut won = 0;
        for one in racing {
            won += one.await.unwrap();
        }
        assert_eq!(won, 1);
    }
    assert_eq!(value(&database).await, 10);
}
