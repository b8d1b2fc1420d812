//! A server that is cut off, resets, or says nothing any more: real faults on a real connection.

use std::time::{Duration, Instant};

use migrations::{begin_write, commit, connect, trouble};
use sqlx::AnyPool;
use test_databases::{Backend, TestDatabase};
use test_servers::{Proxy, Stream, Toxic};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// A database, and a pool that reaches it through a proxy; none when this run has no servers.
async fn through_a_proxy() -> Option<(TestDatabase, Proxy, AnyPool)> {
    if !test_servers::servers_wanted() {
        return None;
    }
    let toxiproxy = test_servers::toxiproxy().await?;
    let database = TestDatabase::of(Backend::Postgres).await;
    let (proxy, url) = toxiproxy.before_url(database.url());
    let pool = connect(&url, 3).await.unwrap();
    sqlx::query("CREATE TABLE done (id BIGINT NOT NULL)").execute(&pool).await.unwrap();
    Some((database, proxy, pool))
}

async fn answers(pool: &AnyPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT COUNT(*) FROM done").fetch_one(pool).await
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Uses all connections at once, so that none is left that nobody has looked at.
async fn all_answer(pool: &AnyPool) {
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { answers(&pool).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_is_whole_again_when_its_server_is_back() {
    let Some((_database, proxy, pool)) = through_a_proxy().await else { return };
    all_answer(&pool).await;
    for _ in 0..3 {
        proxy.cut();
        let begun = Instant::now();
        answers(&pool).await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        proxy.mend();
        until("it answers again", async || answers(&pool).await.is_ok()).await;
        all_answer(&pool).await;
    }
    // Resets come in the middle of an answer.
    proxy.spoil(Stream::ToClient, Toxic::Reset(Duration::ZERO));
    answers(&pool).await.unwrap_err();
    proxy.heal();
    until("it answers again", async || answers(&pool).await.is_ok()).await;
    all_answer(&pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_went_silent_do_not_stay_in_the_pool() {
    let Some((_database, proxy, pool)) = through_a_proxy().await else { return };
    all_answer(&pool).await;
    proxy.spoil(Stream::ToServer, Toxic::BlackHole);
    // Whoever asks gives up, and the pool finds out that the connection is dead.
    let before = pool.size();
    tokio::time::timeout(Duration::from_secs(1), answers(&pool)).await.unwrap_err();
    until("the silent connection is given up", async || pool.size() < before).await;
    proxy.heal();
    until("it answers again", async || answers(&pool).await.is_ok()).await;
    all_answer(&pool).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_was_lost_is_done_and_not_done_again() {
    let Some((database, proxy, pool)) = through_a_proxy().await else { return };
    let mut transaction = begin_write(&pool).await.unwrap();
    sqlx::query("INSERT INTO done (id) VALUES (1)").execute(&mut *transaction).await.unwrap();
    proxy.spoil(Stream::ToClient, Toxic::BlackHole);
    let committing = tokio::spawn(commit(transaction));
    until("the server has committed", async || answers(&database.pool).await.unwrap() == 1).await;
    assert!(!committing.is_finished(), "nothing of it has come through");
    proxy.heal();
    let error = tokio::time::timeout(LIMIT, committing).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("whether the change was made is not known"), "{error}");
    assert_eq!(trouble(&error), None, "who repeats it would do it twice");
    until("it answers again", async || answers(&pool).await.is_ok()).await;
    assert_eq!(answers(&pool).await.unwrap(), 1);
}
