//! Simulated developers at a platform's doors.

use std::sync::Arc;

use events::Timestamp;
use events::wire::ClientEvent;
use simulator::driver::{ClientSession, Doors};
use simulator::{DemoPlan, Developer, PlanSettings};
use tokio::task::JoinSet;

use crate::labeling::scenes::corpus;

/// Persons; sessions are dealt to them in turn.
const PERSONS: usize = 40;
/// Sessions that ask at the same time.
const AT_ONCE: usize = 8;

/// What a developer calls himself.
pub(crate) fn person(number: usize) -> String {
    format!("developer-{}", number % PERSONS)
}

/// All of them.
pub(crate) fn persons() -> impl Iterator<Item = String> {
    (0..PERSONS).map(person)
}

/// A session, and what is to be reported of each of its opportunities, in order.
pub(crate) struct Played {
    pub(crate) session: ClientSession,
    pub(crate) opportunities: Vec<Vec<ClientEvent>>,
}

/// Tasks of the demo for so many sessions of so many opportunities.
pub(crate) fn plan(sessions: usize, opportunities: usize) -> anyhow::Result<Arc<DemoPlan>> {
    let corpus = corpus()?;
    // Names that occur in no other task are few; here nobody learns from them.
    let settings = PlanSettings { developers: sessions, opportunities, unseen_share: 0.0, probe: 0, gate: 0 };
    Ok(Arc::new(DemoPlan::new(11, Arc::new(corpus), settings)?))
}

/// What is done with an opportunity as soon as it was played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// Reported, and the end of the session after the last.
    AtOnce,
    /// Kept: somebody else reports it.
    Later,
}

/// Plays sessions, a few at the same time. `first`: the number of the first, of which another one makes new ids.
pub(crate) async fn play(
    doors: &Doors,
    plan: &Arc<DemoPlan>,
    sessions: std::ops::Range<usize>,
    opportunities: usize,
    started: Timestamp,
    report: Report,
) -> anyhow::Result<Vec<Played>> {
    let (mut waiting, mut playing, mut played) = (sessions, JoinSet::new(), Vec::new());
    loop {
        while playing.len() < AT_ONCE
            && let Some(number) = waiting.next()
        {
            let (doors, plan) = (doors.clone(), Arc::clone(plan));
            playing.spawn(async move { one(&doors, &plan, number, opportunities, started, report).await });
        }
        match playing.join_next().await {
            Some(one) => played.push(one??),
            None => return Ok(played),
        }
    }
}

async fn one(
    doors: &Doors,
    plan: &DemoPlan,
    number: usize,
    opportunities: usize,
    started: Timestamp,
    report: Report,
) -> anyhow::Result<Played> {
    let mut session = ClientSession::new(plan.seed(), number as u64, person(number), 0, started);
    let habits = Developer::default();
    let mut reports = Vec::with_capacity(opportunities);
    for opportunity in 0..opportunities {
        let task = plan.task(number, opportunity)?.task;
        let played = session.play(doors, &habits, &task).await?;
        let events = played.episode.events().to_vec();
        if report == Report::AtOnce {
            session.send(doors, &events).await?;
        }
        reports.push(events);
    }
    if report == Report::AtOnce {
        let end = session.end();
        session.send(doors, &[end]).await?;
    }
    Ok(Played { session, opportunities: reports })
}
