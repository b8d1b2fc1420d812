use service::api_keys::Scope;
use service::clock::Clock;

use super::*;
use crate::testing::{World, eventually, plain_config};

fn open(world: &World, config: &ServingConfig) -> Arc<Door> {
    Door::new(world.database.clone(), config, &world.data_dir(), world.key_file())
}

async fn knock(door: &Arc<Door>, key: &str) -> Result<TenantId, &'static str> {
    let header = format!("Bearer {key}");
    door.authenticate(Some(header.as_bytes())).await.map(|tenant| tenant.id.clone()).map_err(|problem| problem.code())
}

fn set_down(world: &World, is_down: bool) {
    world.database.is_down.store(is_down, Ordering::Release);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_living_key_with_the_scope_opens() {
    let world = World::new().await;
    let door = open(&world, &plain_config());
    assert_eq!(knock(&door, &world.api_key).await, Ok(TenantId::default()));
    assert_eq!(knock(&door, "fw_0000").await, Err("unauthorized"));
    assert_eq!(knock(&door, &format!("{}0", world.api_key)).await, Err("unauthorized"));
    let other = world.create_key(&[Scope::Telemetry]).await;
    assert_eq!(knock(&door, &other).await, Err("missing_scope"));
    let admin = world.create_key(&[Scope::Admin]).await;
    assert_eq!(knock(&door, &admin).await, Ok(TenantId::default()));
    for header in [None, Some(&b"Basic abc"[..]), Some(&b"Bearer "[..]), Some(&b"\xff"[..]), Some(&[b'a'; 4000][..])] {
        assert_eq!(door.authenticate(header).await.map(|_| ()).map_err(|problem| problem.code()), Err("unauthorized"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_key_outlives_the_database_and_a_restart_but_not_for_ever() {
    let world = World::new().await;
    let config = plain_config();
    let door = open(&world, &config);
    knock(&door, &world.api_key).await.unwrap();
    set_down(&world, true);
    assert_eq!(knock(&door, &world.api_key).await, Ok(TenantId::default()));
    assert_eq!(knock(&door, "fw_never_seen").await, Err("keys_unavailable"));

    let restarted = open(&world, &config);
    assert_eq!(knock(&restarted, &world.api_key).await, Ok(TenantId::default()));
    let secret = world.secret().await;
    let tenant = restarted.known.lock().tenants[&TenantId::default()].clone();
    assert_eq!(tenant.secret.expose_secret(), secret.expose_secret());

    // Verified longer ago than the bound.
    let digest = Sha256Digest::of(world.api_key.as_bytes());
    let age = |door: &Door, age: Duration| {
        let mut known = door.known.lock();
        let mut key = known.keys.get(&digest).unwrap();
        key.verified_at = service::clock::RealClock.now() - age;
        known.keys.insert(digest, key);
    };
    age(&restarted, restarted.staleness + Duration::from_secs(1));
    assert_eq!(knock(&restarted, &world.api_key).await, Err("keys_unavailable"));
    age(&restarted, restarted.refresh + Duration::from_secs(1));
    assert_eq!(knock(&restarted, &world.api_key).await, Ok(TenantId::default()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_forgotten_behind_the_requests_back_and_on_disk() {
    let world = World::new().await;
    let config = plain_config();
    let door = open(&world, &config);
    knock(&door, &world.api_key).await.unwrap();
    let key = world.api_keys().list(&TenantId::default()).await.unwrap().remove(0);
    assert!(world.api_keys().revoke(&TenantId::default(), &key.id).await.unwrap());
    let digest = Sha256Digest::of(world.api_key.as_bytes());
    {
        let mut known = door.known.lock();
        let mut key = known.keys.get(&digest).unwrap();
        key.verified_at = real_now() - door.refresh - Duration::from_secs(1);
        known.keys.insert(digest, key);
    }
    // This request is the one that starts the look; it still passes.
    assert_eq!(knock(&door, &world.api_key).await, Ok(TenantId::default()));
    eventually("the key is forgotten", || {
        let known = door.known.lock().keys.get(&digest).is_some();
        if known { Err("still known".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(knock(&door, &world.api_key).await, Err("unauthorized"));
    eventually("the file forgets it", || {
        let text = std::fs::read_to_string(world.data_dir().join("door.json")).unwrap();
        if text.contains(&digest.to_string()) { Err("still there".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_holds_neither_keys_nor_secrets() {
    let world = World::new().await;
    let door = open(&world, &plain_config());
    knock(&door, &world.api_key).await.unwrap();
    let text = std::fs::read_to_string(world.data_dir().join("door.json")).unwrap();
    assert!(!text.contains(&world.api_key));
    assert!(!text.contains(&hex::encode(world.secret().await.expose_secret())));
}
