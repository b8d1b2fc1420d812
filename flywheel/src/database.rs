//! Opening the database that is configured, and `flywheel migrate`.
//!
//! The file of the data directory is brought to this release's schema by whoever opens it. A PostgreSQL server is
//! shared, so there it is a job of its own, and services only check that it was done.

use std::process::ExitCode;

use migrations::MigrationsError;
use serde_json::json;
use service::config::Secret;
use sqlx::AnyPool;

use crate::cli::{Common, MigrateArgs};
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::parts::DatabaseKind;
use crate::settings::{DatabaseSettings, Settings};
use crate::table::{print, print_json};

impl DatabaseKind {
    /// Whether it is shared by processes on any machine, and may go away while they stay.
    pub(crate) fn is_server(self) -> bool {
        self != Self::Sqlite
    }
}

/// Where the database is. It may contain a password.
pub(crate) fn url(settings: &DatabaseSettings, data: &DataDir) -> Secret {
    match &settings.url {
        Some(url) if settings.kind.is_server() => url.clone(),
        _ => Secret::new(migrations::sqlite_url(&data.database())),
    }
}

/// Opens the database for services and commands: with the schema of this release, or not at all.
pub(crate) async fn open(settings: &DatabaseSettings, data: &DataDir) -> Result<AnyPool, Failure> {
    let url = url(settings, data);
    let pool =
        migrations::connect(url.expose_secret(), settings.max_connections.max(1)).await.map_err(Failure::refuse)?;
    let fits = if settings.kind.is_server() {
        migrations::check(&pool).await
    } else {
        migrations::migrate(&pool).await.map(|_| ())
    };
    fits.map_err(Failure::refuse)?;
    Ok(pool)
}

/// Opens the database to read it: nothing of it can be changed.
pub(crate) async fn open_to_read(settings: &DatabaseSettings, data: &DataDir) -> Result<AnyPool, Failure> {
    let url = url(settings, data);
    let connections = settings.max_connections.max(2);
    let pool = migrations::connect_to_read(url.expose_secret(), connections).await.map_err(Failure::refuse)?;
    migrations::check(&pool).await.map_err(Failure::refuse)?;
    Ok(pool)
}

/// `flywheel migrate`.
pub(crate) async fn migrate(common: &Common, arguments: &MigrateArgs) -> Result<ExitCode, Failure> {
    let settings = Settings::load(common, &[])?;
    if arguments.grant_to.is_some() && !settings.database.kind.is_server() {
        return Err(Failure::refuse(MigrationsError::NoRoles));
    }
    let url = match settings.database.url {
        // The job needs nothing else of the platform, its directory least of all.
        Some(url) if settings.database.kind.is_server() => url,
        _ => {
            if arguments.check && !settings.data_dir.join("flywheel.sqlite").exists() {
                let place = settings.data_dir.display();
                return Err(Failure::refused(format!("{place} holds no database; run `flywheel migrate`")));
            }
            Secret::new(migrations::sqlite_url(&DataDir::open(&settings.data_dir)?.database()))
        }
    };
    let pool = migrations::connect(url.expose_secret(), 1).await.map_err(Failure::refuse)?;
    let applied = if arguments.check {
        migrations::check(&pool).await.map_err(Failure::refuse)?;
        Vec::new()
    } else if let Some(role) = &arguments.grant_to {
        migrations::migrate_and_grant(&pool, role).await.map_err(Failure::refuse)?
    } else {
        migrations::migrate(&pool).await.map_err(Failure::refuse)?
    };
    if arguments.only_this_release {
        migrations::close_to_releases_before(&pool).await.map_err(Failure::refuse)?;
    }
    let oldest = migrations::oldest_schema(&pool).await.map_err(Failure::refuse)?;
    pool.close().await;
    let version = migrations::schema_version();
    if arguments.list.json {
        let applied: Vec<_> =
            applied.iter().map(|step| json!({ "version": step.version, "description": step.description })).collect();
        print_json(&json!({
            "applied": applied, "schema_version": version, "oldest_schema": oldest, "granted_to": arguments.grant_to,
        }))?;
    } else {
        for step in &applied {
            print(&format!("applied {}: {}", step.version, step.description))?;
        }
        print(&format!("the database is at schema version {version}"))?;
        if let Some(role) = &arguments.grant_to {
            print(&format!("the role {role} may do what services do"))?;
        }
        if arguments.only_this_release {
            print("releases before this one may not use the database any more")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
