//! Fresh databases for tests, and one suite for both kinds: the same functions run on SQLite and on PostgreSQL.
//!
//! A test asks for [`TestDatabase::fresh`] and does not say of which kind; [`on_both_databases`] runs it once on each.
//! A test that is in no such list runs on SQLite.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::future::Future;

use sqlx::AnyPool;
use tempfile::TempDir;

pub use migrations::Backend;

tokio::task_local! {
    static BACKEND: Backend;
}

/// Runs a test on databases of one kind. Without servers (`./test --embedded`) one that needs them is left out, which
/// [`test_servers::servers_wanted`] says.
pub async fn on(backend: Backend, test: impl Future<Output = ()>) {
    if backend == Backend::Sqlite || test_servers::servers_wanted() {
        BACKEND.scope(backend, test).await;
    }
}

/// Makes two tests of each function: one on SQLite, one on PostgreSQL.
#[macro_export]
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    $crate::on($crate::Backend::Sqlite, super::$name()).await;
                }
            )+
        }

        mod postgresql {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    $crate::on($crate::Backend::Postgres, super::$name()).await;
                }
            )+
        }
    };
}

/// A database of its own, and a directory beside it.
#[derive(Debug)]
pub struct TestDatabase {
    /// Gone with this.
    pub directory: TempDir,
    /// A few connections.
    pub pool: AnyPool,
    /// Its kind.
    pub backend: Backend,
    url: String,
}

impl TestDatabase {
    /// A migrated database of the kind that the test runs on.
    pub async fn fresh() -> Self {
        Self::of(BACKEND.try_with(|backend| *backend).unwrap_or(Backend::Sqlite)).await
    }

    /// A migrated database of this kind.
    pub async fn of(backend: Backend) -> Self {
        let database = Self::empty(backend).await;
        migrations::migrate(&database.pool).await.unwrap();
        database
    }

    /// One without any table, of the kind that the test runs on.
    pub async fn fresh_and_empty() -> Self {
        Self::empty(BACKEND.try_with(|backend| *backend).unwrap_or(Backend::Sqlite)).await
    }

    async fn empty(backend: Backend) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = match backend {
            Backend::Sqlite => migrations::sqlite_url(&directory.path().join("flywheel.sqlite")),
            Backend::Postgres => test_servers::postgresql_database().await,
        };
        let pool = migrations::connect(&url, 8).await.unwrap();
        Self { directory, pool, backend, url }
    }

    /// Another pool on the same database, as another process would have.
    pub async fn connect(&self) -> AnyPool {
        migrations::connect(&self.url, 4).await.unwrap()
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// A pool on the database at `url`, for a test's other process.
pub async fn pool(url: &str) -> AnyPool {
    migrations::connect(url, 4).await.unwrap()
}
