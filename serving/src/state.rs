//! What every request shares.

use events::{IdSource, OpportunityId, PersonPseudonym, Sha256Digest, SuggestionId, TenantId, Timestamp, uuid_v7};
use parking_lot::Mutex;
use service::clock::SharedClock;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;

use crate::bounded::BoundedMap;
use crate::cache::ResultCache;
use crate::config::ServingConfig;
use crate::decision::DecisionPolicy;
use crate::door::Door;
use crate::engine::Asking;
use crate::exposure::ExposureQueue;
use crate::models::Models;
use crate::pool::DecodePool;
use crate::proxy::Proxy;

/// Opportunities whose repetitions are counted.
const REPETITIONS: usize = 16_384;

/// The parts of the service.
pub(crate) struct State {
    pub(crate) config: ServingConfig,
    pub(crate) policy: DecisionPolicy,
    pub(crate) clock: SharedClock,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) door: Arc<Door>,
    pub(crate) models: Arc<Models>,
    pub(crate) pool: DecodePool<Asking>,
    pub(crate) cache: ResultCache,
    pub(crate) exposures: ExposureQueue,
    pub(crate) answers: TaskTracker,
    pub(crate) repetitions: Repetitions,
    /// The door in front of another server, when there is one.
    pub(crate) proxy: Option<Proxy>,
}

/// How often an opportunity was asked for.
pub(crate) struct Repetitions(Mutex<BoundedMap<(TenantId, PersonPseudonym, OpportunityId), u64>>);

impl Repetitions {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(BoundedMap::new(REPETITIONS)))
    }

    fn next(&self, tenant: &TenantId, person: &PersonPseudonym, opportunity: OpportunityId) -> u64 {
        let key = (tenant.clone(), person.clone(), opportunity);
        let mut counts = self.0.lock();
        let count = counts.get(&key).unwrap_or(0);
        counts.insert(key, count + 1);
        count
    }
}

impl State {
    /// The id of the suggestion that answers this asking. It is a function of who asks, about what, and how often
    /// before, so that a seeded run makes the same ids whatever the schedule; the time in it is the one in the
    /// opportunity's id, beside which it sorts.
    pub(crate) fn suggestion_id(
        &self,
        tenant: &TenantId,
        person: &PersonPseudonym,
        opportunity: OpportunityId,
        context: &Sha256Digest,
    ) -> SuggestionId {
        let count = self.repetitions.next(tenant, person, opportunity);
        let digest = Sha256Digest::of_parts(
            "flywheel suggestion",
            &[
                tenant.as_str().as_bytes(),
                person.as_str().as_bytes(),
                opportunity.as_bytes(),
                context.as_bytes(),
                &count.to_be_bytes(),
            ],
        );
        let mut random = [0_u8; 10];
        random.copy_from_slice(&digest.as_bytes()[..10]);
        let mut milliseconds = [0_u8; 8];
        milliseconds[2..].copy_from_slice(&opportunity.as_bytes()[..6]);
        let time = Timestamp::EPOCH + Duration::from_millis(u64::from_be_bytes(milliseconds));
        SuggestionId::from_uuid(uuid_v7(time, random))
    }
}
