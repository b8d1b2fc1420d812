//! Readiness follows the database, and comes back by itself.

use service::readiness::Readiness;
use test_databases::{Backend, TestDatabase};
use test_servers::{Stream, Toxic};
use tokio_util::sync::CancellationToken;

use crate::database::{database, eventually};

test_databases::on_both_databases! {
    a_database_that_can_not_be_used_takes_readiness_away_until_it_can,
    a_database_that_is_gone_takes_readiness_away,
}

async fn a_database_that_can_not_be_used_takes_readiness_away_until_it_can() {
    let database = database().await;
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let watching = tokio::spawn(service::database::watch(database.pool.clone(), readiness.clone(), stop.clone()));
    for _ in 0..2 {
        sqlx::query("ALTER TABLE _sqlx_migrations RENAME TO elsewhere").execute(&database.pool).await.unwrap();
        eventually("the end of readiness", || async { readiness.waiting_for() == [service::database::GATE] }).await;
        sqlx::query("ALTER TABLE elsewhere RENAME TO _sqlx_migrations").execute(&database.pool).await.unwrap();
        eventually("readiness", || async { readiness.is_ready() }).await;
    }
    stop.cancel();
    watching.await.unwrap();
}

async fn a_database_that_is_gone_takes_readiness_away() {
    let database = database().await;
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    database.pool.close().await;
    let watching = tokio::spawn(service::database::watch(database.pool.clone(), readiness.clone(), stop.clone()));
    eventually("the end of readiness", || async { !readiness.is_ready() }).await;
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_cut_off_or_says_nothing_takes_readiness_away_until_it_answers() {
    if !test_servers::servers_wanted() {
        return;
    }
    let Some(toxiproxy) = test_servers::toxiproxy().await else { return };
    let database = TestDatabase::of(Backend::Postgres).await;
    let (proxy, url) = toxiproxy.before_url(database.url());
    let (readiness, stop) = (Readiness::new(), CancellationToken::new());
    let pool = test_databases::pool(&url).await;
    let watching = tokio::spawn(service::database::watch(pool, readiness.clone(), stop.clone()));
    let gone = || async { readiness.waiting_for() == [service::database::GATE] };
    proxy.cut();
    eventually("the end of readiness", gone).await;
    proxy.mend();
    eventually("readiness", || async { readiness.is_ready() }).await;
    // Every connection stays open, and nothing comes.
    proxy.spoil(Stream::ToServer, Toxic::BlackHole);
    eventually("the end of readiness", gone).await;
    proxy.heal();
    eventually("readiness", || async { readiness.is_ready() }).await;
    stop.cancel();
    watching.await.unwrap();
}
