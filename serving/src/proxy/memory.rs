//! What this door remembers of its clients: sessions and their numbers, places that were asked about, and completions
//! whose signals are awaited. Ids, digests and times; no text. All of it is bounded, and gone with the process.
//!
//! Times are those at which this door saw something, on its own monotonic clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use events::{IdSource, OpportunityId, Receipt, SessionId, Sha256Digest};

use crate::bounded::BoundedMap;

/// After so much quiet a client's next completion begins another session.
const SESSION_IDLE: Duration = Duration::from_secs(30 * 60);
/// No session is longer.
const SESSION_LENGTH: Duration = Duration::from_secs(24 * 3600);
/// Asking again at the same place within this time is the same decision.
const REPEATED: Duration = Duration::from_secs(10);
/// How long signals about a completion are awaited.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Clients at once.
const CALLERS: usize = 16_384;
/// Sessions whose events are numbered: more than clients, for the last signals of those that have ended.
const SESSIONS: usize = 2 * CALLERS;
/// Places at once.
const PLACES: usize = 65_536;

/// Who asks: the digest of the credential, or nobody in particular.
pub(crate) type Caller = Option<Sha256Digest>;

/// A session as it runs.
#[derive(Debug, Clone, Copy)]
struct Session {
    id: SessionId,
    began: Instant,
    seen: Instant,
}

/// A completion whose signals are awaited.
#[derive(Debug, Clone)]
pub(crate) struct Remembered {
    /// What was signed about it. It names session, opportunity and suggestion.
    pub(crate) receipt: Arc<Receipt>,
    /// Who asked: nobody else may tell what became of it.
    pub(crate) caller: Caller,
    /// Where; none when that is not known.
    pub(crate) place: Option<Sha256Digest>,
    /// When it came.
    pub(crate) answered: Instant,
    /// When it first became visible.
    pub(crate) viewed: Option<Instant>,
}

/// The memory of one door.
pub(crate) struct Memory {
    sessions: BoundedMap<Caller, Session>,
    /// The next number of a session.
    numbers: BoundedMap<SessionId, u64>,
    places: BoundedMap<Sha256Digest, (OpportunityId, Instant)>,
    completions: BoundedMap<String, Remembered>,
}

impl Memory {
    pub(crate) fn new(completions: usize) -> Self {
        Self {
            sessions: BoundedMap::new(CALLERS),
            numbers: BoundedMap::new(SESSIONS),
            places: BoundedMap::new(PLACES),
            completions: BoundedMap::new(completions),
        }
    }

    /// The session of a client that asks now.
    pub(crate) fn session(&mut self, caller: Caller, now: Instant, ids: &dyn IdSource) -> SessionId {
        let goes_on = |session: &Session| {
            now.saturating_duration_since(session.seen) < SESSION_IDLE
                && now.saturating_duration_since(session.began) < SESSION_LENGTH
        };
        let session = match self.sessions.get(&caller).filter(goes_on) {
            Some(session) => Session { seen: session.seen.max(now), ..session },
            None => Session { id: SessionId::new(ids), began: now, seen: now },
        };
        self.sessions.insert(caller, session);
        if self.numbers.get(&session.id).is_none() {
            self.numbers.insert(session.id, 1);
        }
        session.id
    }

    /// The decision that a client asks for now.
    pub(crate) fn opportunity(
        &mut self,
        place: Option<Sha256Digest>,
        now: Instant,
        ids: &dyn IdSource,
    ) -> OpportunityId {
        let Some(place) = place else { return OpportunityId::new(ids) };
        let known = self.places.get(&place).filter(|(_, asked)| now.saturating_duration_since(*asked) < REPEATED);
        let opportunity = known.map_or_else(|| OpportunityId::new(ids), |(opportunity, _)| opportunity);
        self.places.insert(place, (opportunity, now));
        opportunity
    }

    /// Something was taken there: whoever asks there again asks for another decision.
    pub(crate) fn decided(&mut self, place: &Sha256Digest) {
        self.places.remove(place);
    }

    /// Awaits signals about a completion.
    pub(crate) fn remember(&mut self, id: String, completion: Remembered) {
        self.completions.insert(id, completion);
    }

    /// The completion that a signal of `caller` is about, while signals about it are awaited.
    pub(crate) fn recall(&mut self, id: &str, caller: &Caller, now: Instant) -> Option<Remembered> {
        let completion = self.completions.get(id)?;
        if now.saturating_duration_since(completion.answered) >= REMEMBERED {
            self.completions.remove(id);
            return None;
        }
        if completion.caller != *caller {
            return None;
        }
        if let Some(session) = self.sessions.get(caller).filter(|session| session.id == completion.receipt.session_id) {
            self.sessions.insert(*caller, Session { seen: session.seen.max(now), ..session });
        }
        Some(completion)
    }

    /// Notes when a completion first became visible.
    pub(crate) fn viewed(&mut self, id: &str, now: Instant) {
        if let Some(completion) = self.completions.get(id)
            && completion.viewed.is_none()
        {
            self.completions.insert(id.to_owned(), Remembered { viewed: Some(now), ..completion });
        }
    }

    /// The number that the session's next event has; none when the session was forgotten. It is used up only by
    /// [`Memory::count`], so that an event that goes no further leaves no gap.
    pub(crate) fn number(&mut self, session: SessionId) -> Option<u64> {
        self.numbers.get(&session)
    }

    /// Uses a number up.
    pub(crate) fn count(&mut self, session: SessionId) {
        if let Some(number) = self.numbers.get(&session) {
            self.numbers.insert(session, number + 1);
        }
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
