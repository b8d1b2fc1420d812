//! Simulated developers who do not give up: a door that is down is asked again until it answers, as an editor does; and
//! where there are others of it, they are asked next.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use events::wire::{ClientEvent, ClientEventBody};
use events::{EventId, OpportunityId, Timestamp};
use parking_lot::Mutex;
use simulator::driver::{ClientSession, DoorSettings, Doors, DriverError};
use simulator::{Corpus, DemoPlan, Developer, PlanSettings};
use tokio_util::sync::CancellationToken;

use crate::harness::LIMIT;

/// Tasks of the plan for each developer, who then begins with the first again.
const TASKS: usize = 120;
/// Opportunities of a session.
pub(crate) const OPPORTUNITIES: usize = 3;
/// Events that are reported at once.
const BATCH: usize = 4;

/// The demo's tasks on the demo's corpus.
pub(crate) fn plan(developers: usize) -> DemoPlan {
    static CORPUS: OnceLock<Arc<Corpus>> = OnceLock::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/corpus");
    let corpus = CORPUS.get_or_init(|| Arc::new(Corpus::load(&folder).unwrap())).clone();
    let settings = PlanSettings { developers, opportunities: TASKS, probe: 0, gate: 0, ..PlanSettings::default() };
    DemoPlan::new(7, corpus, settings).unwrap()
}

/// What a developer calls himself.
pub(crate) fn person(developer: usize) -> String {
    format!("developer-{developer}")
}

/// What the doors promised.
#[derive(Debug, Default)]
pub(crate) struct Promised {
    /// Events that ingest acknowledged.
    pub(crate) events: BTreeSet<EventId>,
    /// Decisions that serving delivered to their end.
    pub(crate) opportunities: BTreeSet<OpportunityId>,
    /// Those of them about which ingest acknowledged a signal. Exposures are best effort: a decision whose exposure
    /// went with the process, and about which nobody said anything, need not close. These must.
    pub(crate) signalled: BTreeSet<OpportunityId>,
    /// Requests that came to nothing and were made again.
    pub(crate) repeated: u64,
}

/// Clients of the doors at these ports.
pub(crate) fn doors(serving: u16, ingest: u16, key: &str) -> Doors {
    let address = |port: u16| format!("http://127.0.0.1:{port}");
    Doors::new(DoorSettings {
        timeout: Duration::from_secs(10),
        attempts: 1,
        ..DoorSettings::new(address(serving), address(ingest), key)
    })
    .unwrap()
}

/// Whether asking again can help.
fn passes(error: &DriverError) -> bool {
    match error {
        DriverError::Transport { .. } | DriverError::Malformed { .. } => true,
        DriverError::Refused { status, .. } => status.is_server_error() || status.is_success(),
        DriverError::EventRefused { .. } | DriverError::Settings(_) => false,
    }
}

/// The doors that a developer knows, and at which of them he knocks.
struct Knocking {
    doors: Vec<Doors>,
    at: usize,
}

impl Knocking {
    fn here(&self) -> &Doors {
        &self.doors[self.at % self.doors.len()]
    }

    /// Waits before asking again, at the next doors, as long as that makes sense.
    async fn again(&mut self, error: &DriverError, begun: Instant, promised: &Mutex<Promised>) {
        assert!(passes(error), "{error}");
        assert!(begun.elapsed() < LIMIT, "the doors stay closed: {error}");
        promised.lock().repeated += 1;
        self.at += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn send(session: &ClientSession, knocking: &mut Knocking, events: &[ClientEvent], promised: &Mutex<Promised>) {
    for batch in events.chunks(BATCH) {
        let begun = Instant::now();
        while let Err(error) = session.send(knocking.here(), batch).await {
            knocking.again(&error, begun, promised).await;
        }
        let ids = batch.iter().map(|event| EventId::of_client_event(session.session_id(), event.sequence));
        promised.lock().events.extend(ids);
    }
}

/// Whether an event returns a receipt.
fn is_signal(event: &ClientEvent) -> bool {
    match &event.body {
        ClientEventBody::SuggestionShown { suggestion, .. }
        | ClientEventBody::SuggestionHidden { suggestion, .. }
        | ClientEventBody::SuggestionAccepted { suggestion, .. }
        | ClientEventBody::SuggestionDismissed { suggestion, .. }
        | ClientEventBody::RegionLook { suggestion, .. } => suggestion.receipt.is_some(),
        _ => false,
    }
}

/// One session after the other, until told to stop; the last one is played to its end.
pub(crate) async fn work(
    developer: usize,
    doors: Doors,
    plan: Arc<DemoPlan>,
    started: Timestamp,
    promised: Arc<Mutex<Promised>>,
    enough: CancellationToken,
) {
    work_at(developer, vec![doors], plan, started, promised, enough).await;
}

/// The same at several doors, over which developers are spread.
pub(crate) async fn work_at(
    developer: usize,
    doors: Vec<Doors>,
    plan: Arc<DemoPlan>,
    started: Timestamp,
    promised: Arc<Mutex<Promised>>,
    enough: CancellationToken,
) {
    let mut knocking = Knocking { doors, at: developer };
    let habits = Developer::default();
    for number in 0_u64.. {
        let mut session = ClientSession::new(plan.seed(), developer as u64, person(developer), number, started);
        for opportunity in 0..OPPORTUNITIES {
            let task = (usize::try_from(number).unwrap() * OPPORTUNITIES + opportunity) % TASKS;
            let planned = plan.task(developer, task).unwrap();
            let begun = Instant::now();
            let played = loop {
                match session.play(knocking.here(), &habits, &planned.task).await {
                    Ok(played) => break played,
                    Err(error) => knocking.again(&error, begun, &promised).await,
                }
            };
            let opportunity = played.episode.opportunity_id;
            promised.lock().opportunities.insert(opportunity);
            send(&session, &mut knocking, played.episode.events(), &promised).await;
            if played.episode.events().iter().any(is_signal) {
                promised.lock().signalled.insert(opportunity);
            }
        }
        let end = session.end();
        assert_eq!(end.body, ClientEventBody::SessionEnded {});
        send(&session, &mut knocking, &[end], &promised).await;
        if enough.is_cancelled() {
            return;
        }
    }
}
