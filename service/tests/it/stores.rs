//! Consent, the allow-list and settings in a database.

use std::sync::Arc;

use async_trait::async_trait;
use events::{ConsentTier, PersonPseudonym, TenantId, Timestamp};
use parking_lot::Mutex;
use service::consent::{ConsentDecision, ConsentError, ConsentStore, ceiling_subject, control_subject, narrower};
use service::ids::SeededIds;
use service::keys::KeyStore;
use service::outbox::{OutboxKind, OutboxMessage, OutboxPublisher, OutboxRelay, PublishError};
use service::reconciler::Reconciler;
use service::repositories::RepositoryStore;
use service::settings::Settings;

use crate::database::database;

test_databases::on_both_databases! {
    consent_is_the_narrower_of_choice_and_ceiling_and_enters_the_log,
    rules_are_kept_per_tenant_and_deny_by_default,
    settings_are_set_once_or_replaced,
    of_choices_made_at_once_the_newest_stands_and_enters_the_log,
    of_settings_made_at_once_all_get_the_same,
}

#[derive(Default)]
struct Log(Mutex<Vec<OutboxMessage>>);

#[async_trait]
impl OutboxPublisher for Log {
    async fn publish(&self, message: &OutboxMessage) -> Result<(), PublishError> {
        self.0.lock().push(message.clone());
        Ok(())
    }
}

async fn consent_is_the_narrower_of_choice_and_ceiling_and_enters_the_log() {
    let database = database().await;
    let tenant = TenantId::default();
    let person: PersonPseudonym = "0".repeat(32).parse().unwrap();
    let store = ConsentStore::new(database.pool.clone());
    let ids = SeededIds::new(1, Timestamp::from_seconds(1));
    assert_eq!(store.effective(&tenant, &person).await.unwrap(), ConsentTier::Usage);
    let missing = store.set_ceiling(&ids, &tenant, ConsentTier::Code, Timestamp::from_seconds(5)).await;
    assert!(matches!(missing, Err(ConsentError::NoTenant { .. })));
    let keys = KeyStore::open(database.pool.clone(), &database.directory.path().join("k")).await.unwrap();
    keys.tenant_secret(&tenant).await.unwrap();

    let decide =
        async |tier, second| store.decide(&ids, &tenant, &person, tier, Timestamp::from_seconds(second)).await.unwrap();
    let allow = async |tier, second| {
        store.set_ceiling(&ids, &tenant, tier, Timestamp::from_seconds(second)).await.unwrap();
        store.effective(&tenant, &person).await.unwrap()
    };
    assert_eq!(decide(ConsentTier::Code, 10).await, ConsentTier::Usage, "the ceiling is usage");
    assert_eq!(allow(ConsentTier::Code, 12).await, ConsentTier::Code, "raised after the person agreed");
    let sharing = async || store.sharing_code(&tenant).await.unwrap().into_iter().collect::<Vec<_>>();
    assert_eq!(sharing().await, std::slice::from_ref(&person));
    assert_eq!(allow(ConsentTier::Usage, 11).await, ConsentTier::Code, "an older ceiling changes nothing");
    assert_eq!(allow(ConsentTier::Usage, 14).await, ConsentTier::Usage, "lowered");
    assert!(sharing().await.is_empty());
    assert_eq!(decide(ConsentTier::None, 20).await, ConsentTier::None);
    assert_eq!(decide(ConsentTier::Code, 15).await, ConsentTier::None, "an older choice changes nothing");

    let log = Arc::new(Log::default());
    OutboxRelay::new(database.pool.clone(), log.clone(), None).activate().await.unwrap();
    let messages = log.0.lock();
    let decisions: Vec<_> =
        messages.iter().map(|message| ConsentDecision::from_value(&message.value).unwrap()).collect();
    let expected = |tier, second| ConsentDecision { tier, decided_at: Timestamp::from_seconds(second) };
    // Choices and ceilings as they were decided, not what followed from both.
    assert_eq!(
        decisions,
        [
            expected(ConsentTier::Code, 10),
            expected(ConsentTier::Code, 12),
            expected(ConsentTier::Usage, 14),
            expected(ConsentTier::None, 20)
        ]
    );
    let (chosen, ceiling) = (control_subject(&tenant, &person), ceiling_subject(&tenant));
    for (message, subject) in messages.iter().zip([&chosen, &ceiling, &ceiling, &chosen]) {
        let kind = OutboxKind::Control { kind: "consent".to_owned(), subject: subject.clone() };
        assert_eq!((&message.kind, message.topic.as_str()), (&kind, "telemetry.raw.v1"));
    }
}

#[test]
fn what_is_unknown_allows_nothing() {
    assert_eq!(narrower(ConsentTier::Unknown, ConsentTier::Code), ConsentTier::None);
    assert_eq!(narrower(ConsentTier::Code, ConsentTier::Unknown), ConsentTier::None);
    assert_eq!(narrower(ConsentTier::Code, ConsentTier::Usage), ConsentTier::Usage);
    assert_eq!(ConsentDecision::from_value(b"{"), None);
}

async fn rules_are_kept_per_tenant_and_deny_by_default() {
    let database = database().await;
    let store = RepositoryStore::new(database.pool.clone());
    let tenant = TenantId::default();
    let now = Timestamp::from_seconds(1);
    assert_eq!(store.rules(&tenant).await.unwrap().trainable_audience("acme/app"), None);
    store.allow(&tenant, "acme/*", &"acme".parse().unwrap(), now).await.unwrap();
    let mut connection = database.pool.acquire().await.unwrap();
    let audience = "board".parse().unwrap();
    RepositoryStore::set(&mut connection, &tenant, "acme/closed", &audience, false, now).await.unwrap();
    drop(connection);
    let rules = store.rules(&tenant).await.unwrap();
    assert_eq!(rules.trainable_audience("acme/app").unwrap().as_str(), "acme");
    assert_eq!(rules.trainable_audience("acme/closed"), None);
    assert_eq!(store.rules(&"other".parse().unwrap()).await.unwrap().trainable_audience("acme/app"), None);
    assert!(store.remove(&tenant, "acme/*").await.unwrap());
    assert!(!store.remove(&tenant, "acme/*").await.unwrap());
    assert_eq!(store.rules(&tenant).await.unwrap().trainable_audience("acme/app"), None);
    assert!(store.allow(&tenant, "a\u{0}b", &"acme".parse().unwrap(), now).await.is_err());
    let refused = store.allow(&tenant, "ac*", &"acme".parse().unwrap(), now).await.unwrap_err().to_string();
    assert!(refused.starts_with("\"ac*\" is no rule") && refused.ends_with("such as `acme/*`"), "{refused}");
}

async fn settings_are_set_once_or_replaced() {
    let database = database().await;
    let settings = Settings::new(database.pool.clone());
    let (tenant, now) = (TenantId::default(), Timestamp::from_seconds(1));
    assert_eq!(settings.get(&tenant, "partitions").await.unwrap(), None);
    assert_eq!(settings.get_or_set(&tenant, "partitions", "4", now).await.unwrap(), "4");
    assert_eq!(settings.get_or_set(&tenant, "partitions", "8", now).await.unwrap(), "4");
    settings.set(&tenant, "partitions", "16", now).await.unwrap();
    assert_eq!(settings.get(&tenant, "partitions").await.unwrap().as_deref(), Some("16"));
}

async fn of_choices_made_at_once_the_newest_stands_and_enters_the_log() {
    const CHOICES: i64 = 24;
    let database = database().await;
    let tenant = TenantId::default();
    let person: PersonPseudonym = "0".repeat(32).parse().unwrap();
    let ids = Arc::new(SeededIds::new(1, Timestamp::from_seconds(1)));
    let mut deciding = Vec::new();
    for second in 1..=CHOICES {
        let store = ConsentStore::new(if second % 2 == 0 { database.connect().await } else { database.pool.clone() });
        let (ids, tenant, person) = (ids.clone(), tenant.clone(), person.clone());
        let tier = if second == CHOICES { ConsentTier::None } else { ConsentTier::Usage };
        deciding.push(tokio::spawn(async move {
            store.decide(&*ids, &tenant, &person, tier, Timestamp::from_seconds(second)).await.unwrap();
        }));
    }
    for task in deciding {
        task.await.unwrap();
    }
    let store = ConsentStore::new(database.pool.clone());
    assert_eq!(store.effective(&tenant, &person).await.unwrap(), ConsentTier::None);
    let log = Arc::new(Log::default());
    OutboxRelay::new(database.pool.clone(), log.clone(), None).activate().await.unwrap();
    let mut told: Vec<i64> = log
        .0
        .lock()
        .iter()
        .map(|message| ConsentDecision::from_value(&message.value).unwrap().decided_at.as_micros())
        .collect();
    let count = told.len();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), count, "a choice entered the log twice");
    assert_eq!(told.last(), Some(&Timestamp::from_seconds(CHOICES).as_micros()));
}

async fn of_settings_made_at_once_all_get_the_same() {
    let database = database().await;
    let mut setting = Vec::new();
    for number in 0..12 {
        let settings = Settings::new(database.pool.clone());
        setting.push(tokio::spawn(async move {
            let now = Timestamp::from_seconds(1);
            settings.get_or_set(&TenantId::default(), "partitions", &number.to_string(), now).await.unwrap()
        }));
    }
    let mut found = Vec::new();
    for task in setting {
        found.push(task.await.unwrap());
    }
    assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
}
