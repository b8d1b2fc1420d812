//! A version on trial beside everything else that happens to a fleet, so that there is a rollout, with evidence that an
//! audit can hold against what developers did.

use events::RolloutId;
use model_registry::RolloutPolicy;
use model_registry::client::RegistryClient;
use service::config::Secret;
use sqlx::AnyPool;

use crate::fleet::{Fleet, Servers};
use crate::harness::{Place, until};
use crate::versions::like_the_base;

/// A rollout that runs until somebody ends it.
pub(crate) struct Trial {
    rollout: RolloutId,
}

/// The platform's clock is fast: its first block is judged nine minutes after it began, and then one every two minutes.
fn policy() -> RolloutPolicy {
    RolloutPolicy {
        canary_share: 0.4,
        block_seconds: 120,
        settle_seconds: 120,
        max_blocks: 1000,
        observe_only: true,
        ..RolloutPolicy::default()
    }
}

impl Trial {
    /// Registers a copy of the base, and rolls it out as soon as the base serves.
    pub(crate) async fn begin(place: &Place, servers: &Servers, fleet: &Fleet<'_>) -> Self {
        let key = std::fs::read_to_string(place.data().join("keys/internal.key")).unwrap();
        let address = format!("http://127.0.0.1:{}", place.ports.registry);
        let registry = RegistryClient::new(&address, &Secret::new(key)).unwrap();
        let base = fleet.machine("orchestrator").join("base");
        let candidate = like_the_base(&base, &servers.artifacts().await, "on trial").await;
        let model = candidate.model.clone();
        until("the base to serve", || async { registry.get_routing(&model).await.ok() }).await;
        let candidate = registry.register_version(&candidate).await.unwrap();
        let rollout = registry.start_rollout(&model, candidate.version, Some(&policy())).await.unwrap();
        Self { rollout: rollout.rollout_id }
    }

    /// Waits until the evidence of a block is there.
    pub(crate) async fn judged(&self, fleet: &mut Fleet<'_>, pool: &AnyPool) {
        fleet
            .until("a block of the rollout to be judged", || async {
                let tallies = "SELECT COUNT(*) FROM rollout_tallies WHERE rollout_id = $1";
                let tallies = sqlx::query_scalar::<_, i64>(tallies).bind(self.rollout.to_string());
                tallies.fetch_one(pool).await.is_ok_and(|tallies| tallies > 0)
            })
            .await;
    }

    /// Ends it, as an operator does who has seen enough.
    pub(crate) fn end(self, place: &Place) {
        let said = place.say(&["rollout", "abort", &self.rollout.to_string(), "--by", "test", "--json"]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
}
