//! Leases: one winner, fenced losers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use service::clock::real_now;
use service::lease::{Fence, LeaseError, LeaseStore, keep};
use service::reconciler::{Next, ReconcileError, Reconciler, RequestError, Schedule, drive};
use tokio_util::sync::CancellationToken;

use crate::database::{database, eventually};

test_databases::on_both_databases! {
    of_many_that_try_one_wins_each_epoch,
    a_holder_that_lost_its_lease_cannot_write,
    writes_under_a_fence_never_go_back_in_epoch,
    a_kept_lease_is_renewed_and_given_back,
    a_stolen_lease_is_noticed,
    what_time_it_is_the_database_says,
    of_two_drivers_only_the_leaders_reconciler_acts_and_the_other_takes_over,
}

const LONG: Duration = Duration::from_secs(3600);

async fn of_many_that_try_one_wins_each_epoch() {
    let database = database().await;
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(LeaseStore::new(database.connect().await));
    }
    for round in 1..=3 {
        let barrier = Arc::new(tokio::sync::Barrier::new(16));
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let (store, barrier) = (stores[task % 4].clone(), barrier.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    store.acquire("leader", &format!("task {round}.{task}"), LONG).await.unwrap()
                })
            })
            .collect();
        let mut won = Vec::new();
        for task in tasks {
            won.extend(task.await.unwrap());
        }
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(won[0].epoch(), round);
        stores[0].release(&won[0]).await.unwrap();
    }
}

async fn a_holder_that_lost_its_lease_cannot_write() {
    let database = database().await;
    let store = LeaseStore::new(database.pool.clone());
    let old = store.acquire("leader", "a", Duration::ZERO).await.unwrap().unwrap();
    // Expired, but nobody has taken it: the holder may still act.
    let mut transaction = migrations::begin_write(&database.pool).await.unwrap();
    old.check(&mut transaction).await.unwrap();
    transaction.commit().await.unwrap();

    let new = store.acquire("leader", "b", LONG).await.unwrap().unwrap();
    assert_eq!((old.epoch(), new.epoch()), (1, 2));
    assert!(store.acquire("leader", "a", LONG).await.unwrap().is_none());
    let mut transaction = migrations::begin_write(&database.pool).await.unwrap();
    let error = old.check(&mut transaction).await.unwrap_err();
    assert!(matches!(error, LeaseError::Lost { .. }));
    insta::assert_snapshot!("a_holder_that_lost_its_lease_cannot_write", error.to_string());
    drop(transaction);
    assert!(matches!(store.renew(&old, LONG).await, Err(LeaseError::Lost { .. })));
    // What the former holder gives back is not the new holder's.
    store.release(&old).await.unwrap();
    let mut transaction = migrations::begin_write(&database.pool).await.unwrap();
    new.check(&mut transaction).await.unwrap();
}

/// Everybody steals from everybody, and all write afterwards: in each round the last thief alone succeeds.
async fn writes_under_a_fence_never_go_back_in_epoch() {
    const TASKS: usize = 6;
    const ROUNDS: usize = 10;
    let database = database().await;
    sqlx::query("CREATE TABLE writes (number BIGINT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL)")
        .execute(&database.pool)
        .await
        .unwrap();
    let barrier = Arc::new(tokio::sync::Barrier::new(TASKS));
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (pool, barrier) = (database.pool.clone(), barrier.clone());
            tokio::spawn(async move {
                let store = LeaseStore::new(pool.clone());
                for _ in 0..ROUNDS {
                    // Expires at once. `None` when another's clock was read a moment later: stolen from all the same.
                    let fence = store.acquire("leader", &format!("{task}"), Duration::ZERO).await.unwrap();
                    barrier.wait().await;
                    if let Some(fence) = fence {
                        write(&pool, &fence).await;
                    }
                    barrier.wait().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let epochs: Vec<i64> =
        sqlx::query_scalar("SELECT epoch FROM writes ORDER BY number").fetch_all(&database.pool).await.unwrap();
    assert_eq!(epochs.len(), ROUNDS, "{epochs:?}");
    assert!(epochs.is_sorted_by(|one, next| one < next), "{epochs:?}");
}

async fn write(pool: &sqlx::AnyPool, fence: &Fence) {
    let written = migrations::retried(|| async {
        let mut transaction = migrations::begin_write(pool).await?;
        fence.check(&mut transaction).await?;
        sqlx::query("INSERT INTO writes SELECT COALESCE(MAX(number), 0) + 1, $1 FROM writes")
            .bind(fence.epoch())
            .execute(&mut *transaction)
            .await?;
        migrations::commit(transaction).await?;
        Ok::<(), LeaseError>(())
    });
    if let Err(error) = written.await {
        assert!(matches!(error, LeaseError::Lost { .. }), "{error}");
    }
}

async fn a_kept_lease_is_renewed_and_given_back() {
    let database = database().await;
    let store = LeaseStore::new(database.pool.clone());
    let stop = CancellationToken::new();
    let (mut handle, task) = keep(store.clone(), "leader", "a", Duration::from_secs(2), stop.clone());
    let task = tokio::spawn(task);
    let first = handle.wait().await.unwrap();
    let renewed = || async {
        handle.fence().is_some_and(|fence| fence.epoch() == first.epoch() && fence.expires_at() > first.expires_at())
    };
    eventually("a renewal", renewed).await;
    stop.cancel();
    task.await.unwrap();
    assert!(handle.fence().is_none());
    assert_eq!(store.acquire("leader", "b", LONG).await.unwrap().unwrap().epoch(), 2);
}

async fn a_stolen_lease_is_noticed() {
    let database = database().await;
    let store = LeaseStore::new(database.pool.clone());
    let stop = CancellationToken::new();
    let (mut handle, task) = keep(store.clone(), "leader", "a", Duration::from_millis(300), stop.clone());
    let task = tokio::spawn(task);
    handle.wait().await.unwrap();
    sqlx::query("UPDATE leases SET holder = 'b', epoch = epoch + 1, expires_at = $1")
        .bind(i64::MAX)
        .execute(&database.pool)
        .await
        .unwrap();
    eventually("the loss", || async { handle.fence().is_none() }).await;
    stop.cancel();
    task.await.unwrap();
}

/// Machines whose clocks differ must not find different leases to have run out. The server's clock is another one here,
/// which is found before its own.
async fn what_time_it_is_the_database_says() {
    const AHEAD: Duration = Duration::from_secs(86_400);
    let database = database().await;
    if database.backend == migrations::Backend::Sqlite {
        // A file has no clock but that of its machine.
        return;
    }
    let before = LeaseStore::new(database.pool.clone());
    let lease = before.acquire("leader", "a", AHEAD / 2).await.unwrap().unwrap();
    assert_eq!(before.acquire("leader", "b", LONG).await.unwrap(), None);
    let skew = "CREATE SCHEMA skewed; \
                CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz LANGUAGE sql \
                AS $$ SELECT pg_catalog.clock_timestamp() + interval '1 day' $$; \
                DO $$ BEGIN EXECUTE format( \
                'ALTER DATABASE %I SET search_path = skewed, pg_catalog, public', current_database()); END $$;";
    sqlx::raw_sql(skew).execute(&database.pool).await.unwrap();
    let later = LeaseStore::new(database.connect().await);
    assert!(later.held("leader").await.unwrap().is_empty(), "half a day is over there");
    let renewed = later.renew(&lease, LONG).await.unwrap();
    assert!(renewed.expires_at().since(real_now()) > AHEAD, "{renewed:?}");
    let left = later.held("leader").await.unwrap().remove(0).left;
    assert!(left > LONG / 2 && left <= LONG, "{left:?}");
    later.release(&renewed).await.unwrap();
    let taken = later.acquire("leader", "b", LONG).await.unwrap().unwrap();
    assert!(taken.expires_at().since(real_now()) > AHEAD, "{taken:?}");
}

/// Notes who was activated.
struct Noting {
    name: &'static str,
    activated: Arc<Mutex<Vec<&'static str>>>,
}

#[async_trait]
impl Reconciler for Noting {
    fn name(&self) -> &'static str {
        "noting"
    }

    async fn activate(&self) -> Result<Next, ReconcileError> {
        self.activated.lock().push(self.name);
        Ok(Next::Period)
    }
}

async fn of_two_drivers_only_the_leaders_reconciler_acts_and_the_other_takes_over() {
    let database = database().await;
    let activated = Arc::new(Mutex::new(Vec::new()));
    let start = |name: &'static str, pool| {
        let stop = CancellationToken::new();
        let (lease, keeping) = keep(LeaseStore::new(pool), "noting", name, Duration::from_secs(9), stop.clone());
        let reconciler = Arc::new(Noting { name, activated: activated.clone() });
        let schedule = Schedule::every(Duration::from_millis(5));
        let (handle, driving) = drive(reconciler, schedule, Some(lease.clone()), stop.clone());
        (handle, lease, stop, tokio::spawn(async move { tokio::join!(keeping, driving) }))
    };
    let count = |name| activated.lock().iter().filter(|activated| **activated == name).count();

    let (_first, mut lease, stop_first, first) = start("first", database.pool.clone());
    lease.wait().await.unwrap();
    eventually("the first acts", || async { count("first") > 3 }).await;
    let (second, _, stop_second, other) = start("second", database.connect().await);
    assert_eq!(second.request().await, Err(RequestError::NotLeader { reconciler: "noting" }));
    let seen = count("first");
    eventually("the first goes on", || async { count("first") > seen + 20 }).await;
    assert_eq!(count("second"), 0);

    // It gives its lease back, so that the other need not wait for its end.
    stop_first.cancel();
    first.await.unwrap();
    let seen = count("first");
    eventually("the second acts", || async { count("second") > 3 }).await;
    second.request().await.unwrap();
    assert_eq!(count("first"), seen);
    stop_second.cancel();
    other.await.unwrap();
}
