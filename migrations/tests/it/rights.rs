//! The list of rights is that of the tables that there are, and of the statements that all rooms have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use migrations::{
    MigrationsError, Roles, TABLE_RIGHTS, check, grants, look, migrate, migrate_and_grant, missing_rights,
};
use sqlx::{AnyPool, Executor as _};
use test_databases::{Backend, TestDatabase};

/// Rooms whose code runs in no service.
const NO_SERVICES: [&str; 3] = ["test-databases", "test-servers", "benchmarks"];

#[tokio::test]
async fn every_table_of_the_schema_has_its_rights() {
    let database = TestDatabase::of(Backend::Sqlite).await;
    let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        .fetch_all(&database.pool)
        .await
        .unwrap();
    assert_eq!(tables, TABLE_RIGHTS.map(|(table, _)| table));
}

/// Source files of services, tests left out.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// Adds what the statements of a text do with tables that are ours.
fn uses(text: &str, found: &mut BTreeMap<&'static str, BTreeSet<&'static str>>) {
    // Modules of tests come last in a file.
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let words: Vec<&str> =
        text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|word| !word.is_empty()).collect();
    let ours = |name: &str| TABLE_RIGHTS.iter().map(|(table, _)| *table).find(|table| *table == name);
    let mut inserted = None;
    for (index, word) in words.iter().enumerate() {
        let next = |distance: usize| words.get(index + distance).copied().unwrap_or_default();
        match (*word, next(1)) {
            ("INSERT", "INTO") => {
                inserted = ours(next(2));
                inserted.map(|table| found.entry(table).or_default().insert("INSERT"));
            }
            ("DO", "UPDATE") => {
                inserted.map(|table| found.entry(table).or_default().insert("UPDATE"));
            }
            ("DELETE", "FROM") => {
                ours(next(2)).map(|table| found.entry(table).or_default().insert("DELETE"));
            }
            ("UPDATE", name) if next(2) == "SET" => {
                ours(name).map(|table| found.entry(table).or_default().insert("UPDATE"));
            }
            _ => {}
        }
    }
}

#[test]
fn services_have_the_rights_that_their_statements_need_and_no_others() {
    let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for room in std::fs::read_dir(rooms).unwrap() {
        let room = room.unwrap().path();
        let is_service = !NO_SERVICES.iter().any(|name| room.ends_with(name));
        // What migrates does it as the owner of the tables.
        if is_service && room.join("src").is_dir() && !room.ends_with("migrations") {
            sources(&room.join("src"), &mut files);
        }
    }
    assert!(files.len() > 100, "the sources are not where they were: {files:?}");
    let mut found = BTreeMap::new();
    for file in files {
        uses(&std::fs::read_to_string(file).unwrap(), &mut found);
    }
    let granted: BTreeMap<&str, BTreeSet<&str>> = TABLE_RIGHTS
        .iter()
        .map(|(table, rights)| (*table, rights.iter().copied().filter(|right| *right != "SELECT").collect()))
        .filter(|(_, rights): &(_, BTreeSet<&str>)| !rights.is_empty())
        .collect();
    assert_eq!(found, granted);
}

#[tokio::test]
async fn what_a_role_lacks_is_told_and_the_grants_mend_it() {
    test_databases::on(Backend::Postgres, grants_mend()).await;
}

async fn grants_mend() {
    let database = TestDatabase::fresh().await;
    let facts = look(&database.pool).await.unwrap();
    assert!(facts.is_superuser && !facts.is_read_only && facts.version >= 150_000, "{facts:?}");
    assert!(facts.most_connections > 10 && facts.connections >= 1, "{facts:?}");
    let (difference, took) = migrations::clock_difference(&database.pool).await.unwrap();
    assert!(difference.unsigned_abs() < 1_000_000 + u64::try_from(took.as_micros()).unwrap(), "{difference} µs");

    let role = format!("serves_{}", facts.database);
    let run = async |statements: String| {
        database.pool.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statements))).await.unwrap();
    };
    run(format!("CREATE ROLE \"{role}\" LOGIN")).await;
    let url = database.url().replacen("://postgres@", &format!("://{role}@"), 1);
    let pool = migrations::connect(&url, 1).await.unwrap();
    let lacks = missing_rights(&pool).await.unwrap();
    assert_eq!(lacks, TABLE_RIGHTS.map(|(table, rights)| (table, rights.to_vec())).to_vec());

    run(grants(&facts.database, Roles { services: &role, migrating: "postgres" })).await;
    assert_eq!(missing_rights(&pool).await.unwrap(), []);
    migrations::check(&pool).await.unwrap();
    let refused = sqlx::query("DELETE FROM audit_log").execute(&pool).await.unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");
    let refused = migrate(&pool).await.map(drop);
    assert!(refused.is_err(), "the tables are not its own");
    pool.close().await;
    run(format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"")).await;
}

async fn run(pool: &AnyPool, statements: String) {
    pool.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statements))).await.unwrap();
}

async fn pool_of(database: &TestDatabase, role: &str) -> AnyPool {
    let url = database.url().replacen("://postgres@", &format!("://{role}@"), 1);
    migrations::connect(&url, 2).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_migrates_gives_the_services_their_rights() {
    test_databases::on(Backend::Postgres, rights_are_given()).await;
}

/// Two roles that own nothing and may do nothing else, on a database that not everybody may enter.
async fn rights_are_given() {
    let database = TestDatabase::fresh_and_empty().await;
    let owner = &database.pool;
    let name = look(owner).await.unwrap().database;
    let (migrates, serves) = (format!("migrates_{name}"), format!("serves_{name}"));
    run(
        owner,
        format!(
            "REVOKE CONNECT ON DATABASE \"{name}\" FROM PUBLIC; CREATE ROLE \"{migrates}\" LOGIN; \
             GRANT CONNECT ON DATABASE \"{name}\" TO \"{migrates}\"; \
             GRANT USAGE, CREATE ON SCHEMA public TO \"{migrates}\""
        ),
    )
    .await;
    let migrating = pool_of(&database, &migrates).await;
    let unknown = migrate_and_grant(&migrating, &serves).await.unwrap_err();
    assert!(matches!(unknown, MigrationsError::UnknownRole { .. }), "{unknown}");
    assert!(matches!(check(&migrating).await, Err(MigrationsError::Pending { first: 1, .. })), "nothing was changed");

    // What is not its own it may not give, and says so; the rest is done.
    run(owner, format!("CREATE ROLE \"{serves}\" LOGIN")).await;
    let lacks = migrate_and_grant(&migrating, &serves).await.unwrap_err();
    assert!(matches!(lacks, MigrationsError::NotGranted { .. }), "{lacks}");
    assert!(lacks.to_string().contains(&format!("the role {serves} lacks CONNECT on the database: let")), "{lacks}");
    check(&migrating).await.unwrap();
    run(owner, format!("GRANT CONNECT ON DATABASE \"{name}\" TO \"{serves}\"")).await;
    assert!(migrate_and_grant(&migrating, &serves).await.unwrap().is_empty());
    let serving = pool_of(&database, &serves).await;
    works(&serving, 1).await;

    // The newest migration comes once more, and makes its table anew.
    run(
        &migrating,
        "DROP TABLE lost_ranges; ALTER TABLE ledger_events DROP COLUMN raw_partition, DROP COLUMN raw_first, \
         DROP COLUMN raw_last; DELETE FROM _sqlx_migrations WHERE version = 6"
            .to_owned(),
    )
    .await;
    assert!(matches!(check(&serving).await, Err(MigrationsError::Pending { first: 6, .. })));
    assert_eq!(migrate(&migrating).await.unwrap().len(), 1);
    let missing = missing_rights(&serving).await.unwrap();
    assert_eq!(missing, [("lost_ranges", vec!["SELECT", "INSERT", "UPDATE"])], "a migration alone gives nothing");
    // Any number of runs at once.
    let runs = (0..4).map(|_| migrate_and_grant(&migrating, &serves));
    for granted in futures::future::join_all(runs).await {
        assert!(granted.unwrap().is_empty());
    }
    works(&serving, 2).await;

    // A role that may not even look is told what to do.
    run(owner, format!("REVOKE SELECT ON _sqlx_migrations FROM \"{serves}\"")).await;
    let unseen = check(&serving).await.unwrap_err();
    assert!(unseen.to_string().contains("permission denied for table _sqlx_migrations"), "{unseen}");
    assert!(unseen.to_string().contains("`flywheel migrate --grant-to`"), "{unseen}");
    migrating.close().await;
    serving.close().await;
    for role in [serves, migrates] {
        run(owner, format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"")).await;
    }
}

/// What services do first, and what they may never do.
async fn works(serving: &AnyPool, number: i64) {
    check(serving).await.unwrap();
    assert_eq!(missing_rights(serving).await.unwrap(), []);
    let insert = "INSERT INTO lost_ranges (step, topic, partition_index, first_position, next_position, skipped_at, \
                  skipped_by) VALUES ('s', 't', $1, 'a', 'b', 1, 'ada')";
    sqlx::query(insert).bind(number).execute(serving).await.unwrap();
    sqlx::query("UPDATE lost_ranges SET skipped_by = 'eve'").execute(serving).await.unwrap();
    for forbidden in ["DELETE FROM lost_ranges", "DELETE FROM audit_log", "DROP TABLE lost_ranges"] {
        let refused = sqlx::query(forbidden).execute(serving).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied") || refused.contains("must be owner"), "{forbidden}: {refused}");
    }
}

#[tokio::test]
async fn a_file_knows_no_roles() {
    let database = TestDatabase::of(Backend::Sqlite).await;
    assert!(matches!(migrate_and_grant(&database.pool, "serves").await, Err(MigrationsError::NoRoles)));
}
