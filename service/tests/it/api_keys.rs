//! API keys: shown once, scoped, revocable, and good for a while without a database.

use std::sync::Arc;

use events::{TenantId, Timestamp};
use service::api_keys::{ApiKeyError, ApiKeys, Scope};
use service::clock::{RealClock, SimulatedClock};
use service::ids::{SeededIds, SystemIds};
use service::problem::Problem;

use crate::database::{Database, database};

test_databases::on_both_databases! {
    a_key_works_for_its_scopes_until_it_is_revoked,
    headers_are_read_as_clients_write_them,
    known_keys_work_while_the_database_is_away,
    useless_keys_are_not_made,
    keys_made_at_once_are_all_there,
    a_shared_key_has_one_row_whoever_asks_first,
}

fn keys(database: &Database) -> ApiKeys {
    let start = Timestamp::from_seconds(1_700_000_000);
    ApiKeys::new(database.pool.clone(), SimulatedClock::new(start).shared(), Arc::new(SeededIds::new(1, start)))
}

async fn a_key_works_for_its_scopes_until_it_is_revoked() {
    let database = database().await;
    let keys = keys(&database);
    let tenant: TenantId = "acme".parse().unwrap();
    let (made, secret) = keys.create(&tenant, "editors", &[Scope::Suggest, Scope::Telemetry]).await.unwrap();
    let key = secret.expose_secret();
    assert!(key.starts_with("fw_") && key.len() == 67);

    assert_eq!(keys.verify(key, Scope::Telemetry).await.unwrap(), made);
    assert!(matches!(keys.verify(key, Scope::Admin).await, Err(ApiKeyError::MissingScope { .. })));
    assert!(matches!(keys.verify(&format!("{key}0"), Scope::Suggest).await, Err(ApiKeyError::Unknown)));
    assert!(matches!(keys.verify("", Scope::Suggest).await, Err(ApiKeyError::Absent)));
    let (_, all) = keys.create(&tenant, "operator", &[Scope::Admin]).await.unwrap();
    for scope in Scope::ALL {
        keys.verify(all.expose_secret(), scope).await.unwrap();
    }

    assert_eq!(keys.list(&tenant).await.unwrap().len(), 2);
    assert!(keys.list(&TenantId::default()).await.unwrap().is_empty());
    assert!(!keys.revoke(&TenantId::default(), &made.id).await.unwrap(), "another tenant's key");
    assert!(keys.revoke(&tenant, &made.id).await.unwrap());
    assert!(!keys.revoke(&tenant, &made.id).await.unwrap());
    assert!(matches!(keys.verify(key, Scope::Suggest).await, Err(ApiKeyError::Unknown)));
    assert!(keys.list(&tenant).await.unwrap()[0].revoked_at.is_some());
}

async fn a_shared_key_has_one_row_whoever_asks_first() {
    let database = database().await;
    let tenant = TenantId::default();
    let ask = async |bytes: [u8; 32]| {
        // Each asks as a process of its own, with other ids and nothing remembered.
        let keys =
            ApiKeys::new(database.pool.clone(), RealClock::shared(), Arc::new(SystemIds::new(RealClock::shared())));
        keys.shared(&tenant, "internal", &[Scope::Registry], &bytes).await.unwrap()
    };
    let (one, other) = tokio::join!(ask([7; 32]), ask([7; 32]));
    let key = one.unwrap();
    assert_eq!(other.unwrap(), key);
    let keys = keys(&database);
    keys.verify(key.expose_secret(), Scope::Registry).await.unwrap();
    let listed = keys.list(&tenant).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(keys.revoke(&tenant, &listed[0].id).await.unwrap());
    assert!(ask([7; 32]).await.is_none(), "what was revoked stays so");
    assert_ne!(ask([8; 32]).await.unwrap(), key);
}

#[tokio::test]
async fn the_key_itself_is_stored_nowhere() {
    let database = database().await;
    let (made, secret) = keys(&database).create(&TenantId::default(), "editors", &[Scope::Suggest]).await.unwrap();
    database.pool.close().await;
    let random_part = secret.expose_secret().strip_prefix("fw_").unwrap();
    let raw = hex::decode(random_part).unwrap();
    for entry in std::fs::read_dir(database.directory.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(random_part.len()).any(|window| window == random_part.as_bytes()));
        assert!(!bytes.windows(32).any(|window| window == raw));
    }
    assert!(!format!("{secret:?} {made:?}").contains(random_part));
}

async fn headers_are_read_as_clients_write_them() {
    let database = database().await;
    let keys = keys(&database);
    let (_, secret) = keys.create(&TenantId::default(), "editors", &[Scope::Suggest]).await.unwrap();
    let verify = |value: Option<String>| {
        let mut headers = axum::http::HeaderMap::new();
        if let Some(value) = value {
            headers.insert("authorization", value.parse().unwrap());
        }
        let keys = keys.clone();
        async move { keys.verify_headers(&headers, Scope::Suggest).await }
    };
    verify(Some(format!("Bearer {}", secret.expose_secret()))).await.unwrap();
    verify(Some(format!("bearer  {}", secret.expose_secret()))).await.unwrap();
    for (value, code) in [(None, 401), (Some("Basic eDp5".to_owned()), 401), (Some("Bearer fw_x".to_owned()), 401)] {
        assert_eq!(Problem::from(verify(value).await.unwrap_err()).status().as_u16(), code);
    }
}

async fn known_keys_work_while_the_database_is_away() {
    let database = database().await;
    let keys = keys(&database);
    let (_, secret) = keys.create(&TenantId::default(), "editors", &[Scope::Suggest]).await.unwrap();
    let (_, unseen) = keys.create(&TenantId::default(), "others", &[Scope::Suggest]).await.unwrap();
    keys.verify(secret.expose_secret(), Scope::Suggest).await.unwrap();
    let exported = serde_json::to_string(&keys.export()).unwrap();
    assert!(!exported.contains(secret.expose_secret()));

    // A process that starts when the database is away: its pool answers with errors.
    let away = database.connect().await;
    away.close().await;
    let start = Timestamp::from_seconds(1_700_000_000);
    let restarted = ApiKeys::new(away, SimulatedClock::new(start).shared(), Arc::new(SeededIds::new(1, start)));
    restarted.import(serde_json::from_str(&exported).unwrap());
    restarted.verify(secret.expose_secret(), Scope::Suggest).await.unwrap();
    let error = restarted.verify(unseen.expose_secret(), Scope::Suggest).await.unwrap_err();
    assert_eq!(Problem::from(error).status().as_u16(), 503);
}

async fn useless_keys_are_not_made() {
    let database = database().await;
    let keys = keys(&database);
    let tenant = TenantId::default();
    let mut texts = Vec::new();
    for (name, scopes) in [("", &[Scope::Admin][..]), ("a\nb", &[Scope::Admin][..]), ("editors", &[][..])] {
        texts.push(keys.create(&tenant, name, scopes).await.unwrap_err().to_string());
    }
    texts.push("telemetri".parse::<Scope>().unwrap_err().to_string());
    insta::assert_snapshot!("useless_keys_are_not_made", texts.join("\n"));
}

async fn keys_made_at_once_are_all_there() {
    let database = database().await;
    let tenant: TenantId = "acme".parse().unwrap();
    let clock = RealClock::shared();
    let mut making = Vec::new();
    for number in 0..16 {
        let ids = Arc::new(SystemIds::new(clock.clone()));
        let keys = ApiKeys::new(database.pool.clone(), clock.clone(), ids);
        let tenant = tenant.clone();
        making.push(tokio::spawn(async move {
            let (made, secret) = keys.create(&tenant, &format!("key {number}"), &[Scope::Suggest]).await.unwrap();
            assert_eq!(keys.verify(secret.expose_secret(), Scope::Suggest).await.unwrap(), made);
            made.id
        }));
    }
    let mut made = Vec::new();
    for task in making {
        made.push(task.await.unwrap());
    }
    made.sort();
    let mut listed: Vec<String> = keys(&database).list(&tenant).await.unwrap().into_iter().map(|key| key.id).collect();
    listed.sort();
    assert_eq!(listed, made);
}
