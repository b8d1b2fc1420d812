//! Two releases on one database, and migrations that fail.

use migrations::{Backend, MigrationsError, check, close_to_releases_before, migrate, oldest_schema, schema_version};
use sqlx::AnyPool;
use test_databases::TestDatabase;

test_databases::on_both_databases! {
    a_fresh_database_is_pending_until_it_is_migrated,
    a_changed_migration_is_noticed,
    a_newer_release_says_who_may_go_on,
    the_release_before_may_use_what_it_made_and_nothing_that_it_did_not,
    a_migration_that_fails_leaves_nothing_and_holds_up_nobody,
}

async fn a_fresh_database_is_pending_until_it_is_migrated() {
    let database = TestDatabase::fresh_and_empty().await;
    let pending = check(&database.pool).await.unwrap_err();
    assert!(matches!(pending, MigrationsError::Pending { first: 1, .. }));
    assert_eq!(pending.to_string(), "the database lacks 9 migration(s), first 1: run `flywheel migrate`");
    let steps = migrate(&database.pool).await.unwrap();
    assert_eq!((steps[0].version, steps[0].description.as_str()), (1, "service"));
    check(&database.pool).await.unwrap();
    assert!(migrate(&database.pool).await.unwrap().is_empty());
}

async fn a_changed_migration_is_noticed() {
    let database = TestDatabase::fresh().await;
    let changed = sqlx::query("UPDATE _sqlx_migrations SET checksum = $1 WHERE version = 1").bind(vec![1_u8, 2, 3]);
    changed.execute(&database.pool).await.unwrap();
    assert!(matches!(check(&database.pool).await, Err(MigrationsError::Changed { version: 1 })));
    assert!(migrate(&database.pool).await.is_err());
}

/// The next release has been here, and these may still work.
async fn upgraded(pool: &AnyPool, oldest: i64) {
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 9999").execute(pool).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'newer', TRUE, $1, 1)",
    )
    .bind(vec![1_u8, 2, 3])
    .execute(pool)
    .await
    .unwrap();
    sqlx::query("UPDATE schema_compatibility SET oldest_schema = $1").bind(oldest).execute(pool).await.unwrap();
}

async fn a_newer_release_says_who_may_go_on() {
    let database = TestDatabase::fresh().await;
    upgraded(&database.pool, migrations::schema_version()).await;
    check(&database.pool).await.unwrap();
    assert!(migrate(&database.pool).await.unwrap().is_empty());
    upgraded(&database.pool, 9999).await;
    let refused = check(&database.pool).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a newer release migrated the database to schema version 9999, on which only releases that know version 9999 may work; this one knows 9: start the newer release, or restore a backup from before"
    );
    assert!(matches!(migrate(&database.pool).await, Err(MigrationsError::Newer { .. })));
    let oldest: i64 =
        sqlx::query_scalar("SELECT oldest_schema FROM schema_compatibility").fetch_one(&database.pool).await.unwrap();
    assert_eq!(oldest, 9999, "an older release opens nothing that a newer one closed");
}

/// Takes the newest migrations back, as if the release before had made the database.
async fn made_before(pool: &AnyPool) {
    for (table, column) in [
        ("opportunity_outcomes", "language"),
        ("opportunity_outcomes", "pattern"),
        ("opportunity_outcomes", "first_action_ms"),
        ("opportunity_outcomes", "standing_30_s_permille"),
        ("opportunity_outcomes", "standing_120_s_permille"),
        ("opportunity_outcomes", "standing_300_s_permille"),
        ("snapshot_left_out", "merged_into"),
    ] {
        let drop = format!("ALTER TABLE {table} DROP COLUMN {column}");
        sqlx::query(sqlx::AssertSqlSafe(drop)).execute(pool).await.unwrap();
    }
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 9").execute(pool).await.unwrap();
    sqlx::query("UPDATE schema_compatibility SET oldest_schema = 4").execute(pool).await.unwrap();
}

async fn the_release_before_may_use_what_it_made_and_nothing_that_it_did_not() {
    let database = TestDatabase::fresh().await;
    assert_eq!(oldest_schema(&database.pool).await.unwrap(), schema_version());
    made_before(&database.pool).await;
    assert!(matches!(close_to_releases_before(&database.pool).await, Err(MigrationsError::Pending { first: 9, .. })));
    assert_eq!(oldest_schema(&database.pool).await.unwrap(), 4);
    assert_eq!(migrate(&database.pool).await.unwrap().len(), 1);
    check(&database.pool).await.unwrap();
    assert_eq!(oldest_schema(&database.pool).await.unwrap(), 4, "the release before is still at work");
    close_to_releases_before(&database.pool).await.unwrap();
    assert_eq!(oldest_schema(&database.pool).await.unwrap(), schema_version());
    // What a newer release wrote down stays.
    upgraded(&database.pool, 9999).await;
    assert!(matches!(close_to_releases_before(&database.pool).await, Err(MigrationsError::Newer { .. })));
    assert_eq!(oldest_schema(&database.pool).await.unwrap(), 9999);
}

async fn a_migration_that_fails_leaves_nothing_and_holds_up_nobody() {
    let database = TestDatabase::fresh_and_empty().await;
    // The second migration makes a table of this name, after others.
    sqlx::query("CREATE TABLE label_policy (subject TEXT)").execute(&database.pool).await.unwrap();
    assert!(matches!(migrate(&database.pool).await, Err(MigrationsError::Migrate(_))));
    let lake = sqlx::query("SELECT * FROM lake_parts").fetch_optional(&database.pool).await;
    assert!(lake.is_err(), "half a migration stayed");
    sqlx::query("DROP TABLE label_policy").execute(&database.pool).await.unwrap();
    // The lock of PostgreSQL went with the connection of the run that failed.
    let other = database.connect().await;
    let migrated = tokio::time::timeout(std::time::Duration::from_secs(30), migrate(&other)).await.unwrap().unwrap();
    let expected = if database.backend == Backend::Postgres { 2 } else { 1 };
    assert_eq!(migrated[0].version, expected, "what came before the failure is a migration of its own, or all is one");
    check(&database.pool).await.unwrap();
}
