//! The key store: one key each, whoever asks; the right key file or none; nothing after an erasure.

use events::{EventId, PersonPseudonym, TenantId, Timestamp};
use service::keys::{KeyLookup, KeyStore, KeyStoreError, KeyStoreOptions};

use crate::database::database;

test_databases::on_both_databases! {
    everybody_gets_the_same_keys,
    a_key_file_that_is_not_the_right_one_is_refused,
    an_erased_key_is_gone_and_the_person_starts_anew,
    a_row_moved_to_another_person_or_tenant_does_not_open,
    a_seed_determines_secrets_and_debug_shows_none,
}

fn person(number: u8) -> PersonPseudonym {
    format!("{number:032x}").parse().unwrap()
}

async fn everybody_gets_the_same_keys() {
    let database = database().await;
    let path = database.directory.path().join("keys/master.key");
    // Four processes start at once on a fresh database, and all want the same secrets.
    let mut opening = Vec::new();
    for _ in 0..4 {
        let (pool, path) = (database.connect().await, path.clone());
        opening.push(tokio::spawn(async move {
            let store = KeyStore::open(pool, &path).await.unwrap();
            let secret = store.tenant_secret(&TenantId::default()).await.unwrap();
            let key = store.data_key(&TenantId::default(), &person(1)).await.unwrap();
            (*secret.expose_secret(), key.id(), *key.expose_secret())
        }));
    }
    let mut seen = Vec::new();
    for task in opening {
        seen.push(task.await.unwrap());
    }
    assert!(seen.iter().all(|one| *one == seen[0]));

    let store = KeyStore::open(database.pool.clone(), &path).await.unwrap();
    let key = store.data_key(&TenantId::default(), &person(1)).await.unwrap();
    assert_eq!((key.id(), key.expose_secret()), (seen[0].1, &seen[0].2));
    assert_ne!(store.data_key(&TenantId::default(), &person(2)).await.unwrap().expose_secret(), key.expose_secret());
    assert_ne!(
        store.data_key(&"acme".parse().unwrap(), &person(1)).await.unwrap().expose_secret(),
        key.expose_secret()
    );

    // What one process sealed, another opens, by the id alone.
    let event = EventId::from_uuid(uuid::Uuid::from_u128(1));
    let sealed = key.seal(event, "telemetry.raw.v1", b"fn main() {}");
    let other = KeyStore::open(database.connect().await, &path).await.unwrap();
    let cache = other.cache();
    assert!(matches!(cache.get(&sealed.key_id), KeyLookup::Missing));
    assert_eq!(other.load(&[sealed.key_id]).await.unwrap(), 0);
    let KeyLookup::Found(found) = cache.get(&sealed.key_id) else { panic!("not loaded") };
    assert_eq!(found.open(event, "telemetry.raw.v1", &sealed).unwrap(), b"fn main() {}");
    let unknown = events::KeyId::from_uuid(uuid::Uuid::from_u128(9));
    assert_eq!(other.load(&[unknown]).await.unwrap(), 1);
}

async fn a_key_file_that_is_not_the_right_one_is_refused() {
    let database = database().await;
    let path = database.directory.path().join("master.key");
    KeyStore::open(database.pool.clone(), &path).await.unwrap();
    let right = std::fs::read(&path).unwrap();
    let error =
        |error: KeyStoreError| error.to_string().replace(&database.directory.path().display().to_string(), "DIR");
    let mut texts = Vec::new();

    std::fs::write(&path, [7_u8; 32]).unwrap();
    texts.push(error(KeyStore::open(database.pool.clone(), &path).await.unwrap_err()));
    std::fs::write(&path, [7_u8; 31]).unwrap();
    texts.push(error(KeyStore::open(database.pool.clone(), &path).await.unwrap_err()));
    std::fs::remove_file(&path).unwrap();
    texts.push(error(KeyStore::open(database.pool.clone(), &path).await.unwrap_err()));
    assert!(!path.exists(), "a missing key file must not be replaced by a fresh one");
    std::fs::create_dir(&path).unwrap();
    texts.push(error(KeyStore::open(database.pool.clone(), &path).await.unwrap_err()));
    std::fs::remove_dir(&path).unwrap();
    insta::assert_snapshot!("a_key_file_that_is_not_the_right_one_is_refused", texts.join("\n"));

    std::fs::write(&path, right).unwrap();
    KeyStore::open(database.pool.clone(), &path).await.unwrap();
}

async fn an_erased_key_is_gone_and_the_person_starts_anew() {
    let database = database().await;
    let path = database.directory.path().join("master.key");
    let store = KeyStore::open(database.pool.clone(), &path).await.unwrap();
    let tenant = TenantId::default();
    let before = store.data_key(&tenant, &person(1)).await.unwrap();
    let neighbour = store.data_key(&tenant, &person(2)).await.unwrap();

    let mut transaction = migrations::begin_write(&database.pool).await.unwrap();
    let erased = store.erase(&mut transaction, &tenant, &person(1), Timestamp::from_seconds(5)).await.unwrap();
    transaction.commit().await.unwrap();
    store.forget(&erased);

    assert_eq!(erased, [before.id()]);
    assert_eq!(store.erased_keys(&tenant).await.unwrap(), erased);
    assert_eq!(store.erased_keys(&"acme".parse().unwrap()).await.unwrap(), []);
    assert!(matches!(store.get(before.id()).await.unwrap(), KeyLookup::Erased));
    assert!(matches!(store.cache().get(&before.id()), KeyLookup::Erased));
    assert!(matches!(store.get(neighbour.id()).await.unwrap(), KeyLookup::Found(_)));
    let after = store.data_key(&tenant, &person(1)).await.unwrap();
    assert_ne!(after.id(), before.id());
    let fresh = KeyStore::open(database.connect().await, &path).await.unwrap();
    assert!(matches!(fresh.get(before.id()).await.unwrap(), KeyLookup::Erased));
    let left: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM person_keys WHERE key_id = $1 AND wrapped_key IS NOT NULL")
            .bind(before.id().to_string())
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert_eq!(left, 0);
}

async fn a_row_moved_to_another_person_or_tenant_does_not_open() {
    let database = database().await;
    let path = database.directory.path().join("master.key");
    let store = KeyStore::open(database.pool.clone(), &path).await.unwrap();
    let key = store.data_key(&TenantId::default(), &person(1)).await.unwrap();
    sqlx::query("UPDATE person_keys SET tenant = 'acme'").execute(&database.pool).await.unwrap();
    let fresh = KeyStore::open(database.pool.clone(), &path).await.unwrap();
    assert!(matches!(fresh.get(key.id()).await, Err(KeyStoreError::Wrapped(_))));
}

async fn a_seed_determines_secrets_and_debug_shows_none() {
    let mut secrets = Vec::new();
    for seed in [1, 1, 2] {
        let database = database().await;
        let options = KeyStoreOptions { seed: Some(seed), ..KeyStoreOptions::default() };
        let path = database.directory.path().join("master.key");
        let store = KeyStore::open_with(database.pool.clone(), &path, options).await.unwrap();
        let secret = store.tenant_secret(&TenantId::default()).await.unwrap();
        let key = store.data_key(&TenantId::default(), &person(1)).await.unwrap();
        let shown = format!("{store:?} {secret:?} {key:?} {:?}", store.cache());
        for bytes in [&secret.expose_secret()[..], &key.expose_secret()[..], &std::fs::read(&path).unwrap()] {
            let listed: Vec<String> = bytes[..4].iter().map(u8::to_string).collect();
            assert!(!shown.contains(&hex::encode(&bytes[..4])) && !shown.contains(&listed.join(", ")));
        }
        secrets.push(*secret.expose_secret());
    }
    assert_eq!(secrets[0], secrets[1]);
    assert_ne!(secrets[0], secrets[2]);
}
