//! Small facts that a tenant's services must agree on and that change at run time: named texts in the database.

use events::{TenantId, Timestamp};
use sqlx::AnyPool;

/// The settings of a database.
#[derive(Debug, Clone)]
pub struct Settings {
    pool: AnyPool,
}

impl Settings {
    /// Settings in `pool`'s database.
    #[must_use]
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// The value, if it was ever set.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn get(&self, tenant: &TenantId, name: &str) -> Result<Option<String>, sqlx::Error> {
        sqlx::query_scalar("SELECT value FROM settings WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .fetch_optional(&self.pool)
            .await
    }

    /// Sets a value.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn set(&self, tenant: &TenantId, name: &str, value: &str, now: Timestamp) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO settings (tenant, name, value, updated_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant, name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
        )
        .bind(tenant.as_str())
        .bind(name)
        .bind(value)
        .bind(now.as_micros())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Sets a value unless there is one, and returns the one that counts: of many that try, all get the same.
    ///
    /// # Errors
    /// A database that fails.
    pub async fn get_or_set(
        &self,
        tenant: &TenantId,
        name: &str,
        value: &str,
        now: Timestamp,
    ) -> Result<String, sqlx::Error> {
        sqlx::query(
            "INSERT INTO settings (tenant, name, value, updated_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (tenant, name) DO NOTHING",
        )
        .bind(tenant.as_str())
        .bind(name)
        .bind(value)
        .bind(now.as_micros())
        .execute(&self.pool)
        .await?;
        Ok(self.get(tenant, name).await?.unwrap_or_else(|| value.to_owned()))
    }
}
