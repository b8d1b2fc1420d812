//! The developers of a demo: who they are, and what a round of theirs does to the two doors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use events::wire::ClientEvent;
use events::{Decision, OpportunityId, PersonPseudonym, TenantSecret, Timestamp};
use model_registry::routing::RoutingTable;
use parking_lot::Mutex;
use simulator::driver::{ClientSession, Doors, Played};
use simulator::{BehaviourKind, BehaviourRates, DemoPlan, Developer};

use super::progress::Progress;

/// Every fifth developer of a repository is held back; in each repository from another one on, so that small
/// repositories together still hold back a fifth.
const HOLDBACK_EVERY: usize = 5;
/// Names that are tried until one falls on the wished side of the hold-back.
const NAMES_TRIED: u64 = 10_000;
/// How far apart the ids of a developer's sessions are dated: fixed, so that ids do not depend on how long a barrier
/// took.
const SESSION_EVERY: std::time::Duration = std::time::Duration::from_secs(86_400);
/// Developers who work at the same time.
const AT_ONCE: usize = 6;

/// One simulated developer.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// What the editor calls the person.
    pub(crate) name: String,
    /// What everybody behind the door calls the person.
    pub(crate) pseudonym: PersonPseudonym,
}

/// What is known of an opportunity before anybody judged it.
#[derive(Debug, Clone)]
pub(crate) struct PlayedTask {
    pub(crate) round: u32,
    pub(crate) is_unseen: bool,
}

/// Counts what happened at the doors, and keeps the first of each for the screen.
#[derive(Debug, Default)]
pub(crate) struct Diary {
    pub(crate) tasks: BTreeMap<OpportunityId, PlayedTask>,
    pub(crate) first_served: BTreeMap<i64, Instant>,
    pub(crate) first_action_milliseconds: Vec<f64>,
}

/// All developers.
pub(crate) struct Crowd {
    plan: Arc<DemoPlan>,
    doors: Vec<Doors>,
    members: Vec<Member>,
    seed: u64,
    /// What dates the ids of the first sessions: another telling on the same platform has others.
    first_session: Timestamp,
    /// Whether developers report what they did at once, and not at the end of the session: where time goes on
    /// meanwhile, their silence would be taken for an answer.
    reports_at_once: bool,
    pub(crate) diary: Mutex<Diary>,
}

/// Chooses names so that every fifth developer of each repository is held back.
pub(crate) fn members(
    plan: &DemoPlan,
    developers: usize,
    secret: &TenantSecret,
    table: &RoutingTable,
) -> anyhow::Result<Vec<Member>> {
    let mut rank_in_repository: BTreeMap<usize, usize> = BTreeMap::new();
    (0..developers)
        .map(|developer| {
            let repository = plan.repository_index(developer);
            let rank = rank_in_repository.entry(repository).or_default();
            let held_back = (*rank + repository) % HOLDBACK_EVERY == HOLDBACK_EVERY - 1;
            *rank += 1;
            (0..NAMES_TRIED)
                .map(|attempt| {
                    let name = format!("developer-{}-{developer}-{attempt}", plan.seed());
                    let pseudonym = secret.person_pseudonym(&name);
                    Member { name, pseudonym }
                })
                .find(|member| table.is_held_back(&member.pseudonym) == held_back)
                .context("no name falls on the wished side of the hold-back; is its share 0 or 1?")
        })
        .collect()
}

impl Crowd {
    /// Developers who are spread over `doors`.
    pub(crate) fn new(
        plan: Arc<DemoPlan>,
        doors: Vec<Doors>,
        members: Vec<Member>,
        first_session: Timestamp,
        reports_at_once: bool,
    ) -> Self {
        let seed = plan.seed();
        Self { plan, doors, members, seed, first_session, reports_at_once, diary: Mutex::default() }
    }

    /// Every opportunity so far.
    pub(crate) fn played(&self) -> BTreeSet<OpportunityId> {
        self.diary.lock().tasks.keys().copied().collect()
    }

    /// Every developer meets `opportunities` tasks, from number `first` on, in one session of the editor.
    pub(crate) async fn round(
        self: &Arc<Self>,
        round: u32,
        first: usize,
        opportunities: usize,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let limit = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let mut work = tokio::task::JoinSet::new();
        for developer in 0..self.members.len() {
            let (crowd, limit, progress) = (Arc::clone(self), Arc::clone(&limit), progress.clone());
            work.spawn(async move {
                let _permit = limit.acquire_owned().await?;
                crowd.session(developer, round, first, opportunities, &progress).await
            });
        }
        while let Some(result) = work.join_next().await {
            result??;
        }
        Ok(())
    }

    async fn session(
        &self,
        developer: usize,
        round: u32,
        first: usize,
        opportunities: usize,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let member = self.members.get(developer).context("no such developer")?;
        let doors = self.doors.iter().cycle().nth(developer).context("no doors")?;
        let started = self.first_session + SESSION_EVERY * round;
        let mut session =
            ClientSession::new(self.seed, developer as u64, member.name.clone(), u64::from(round), started);
        let behaviour = Developer::new(BehaviourRates::default());
        let mut events = Vec::new();
        for number in first..first + opportunities {
            let planned = self.plan.task(developer, number)?;
            let played = session.play(doors, &behaviour, &planned.task).await?;
            let task = PlayedTask { round, is_unseen: planned.is_unseen };
            self.note(&played, task);
            progress.opportunity(&planned.task, &played);
            events.extend_from_slice(played.episode.events());
            if self.reports_at_once {
                report(&session, doors, &mut events, progress).await?;
            }
        }
        events.push(session.end());
        report(&session, doors, &mut events, progress).await
    }

    fn note(&self, played: &Played, task: PlayedTask) {
        let mut diary = self.diary.lock();
        let end = &played.answer.end;
        diary.tasks.insert(end.opportunity_id, task);
        if end.decision == Decision::Shown {
            diary.first_served.entry(end.model_version.0).or_insert_with(Instant::now);
        }
        if let Some(first_action) = played.answer.first_action {
            diary.first_action_milliseconds.push(first_action.as_secs_f64() * 1000.0);
        }
    }
}

/// Reports what was not reported yet.
async fn report(
    session: &ClientSession,
    doors: &Doors,
    events: &mut Vec<ClientEvent>,
    progress: &Progress,
) -> anyhow::Result<()> {
    session.send(doors, events).await?;
    progress.sent(events.len() as u64);
    events.clear();
    Ok(())
}

/// What a developer did, in a word for the screen.
pub(crate) fn verb(played: &Played) -> &'static str {
    if played.answer.end.decision != Decision::Shown {
        return "silence";
    }
    match played.behaviour.kind {
        BehaviourKind::Accepted => "Tab",
        BehaviourKind::Mended => "Tab, then edited",
        BehaviourKind::Regretted => "Tab, then undone",
        BehaviourKind::EscapedThenTyped => "Esc, typed instead",
        BehaviourKind::TypedAgainst => "typed on",
        _ => "Esc or passed",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use events::{Sha256Digest, TenantId};
    use model_registry::routing::ServedVersion;
    use simulator::{Corpus, PlanSettings};

    use super::*;

    #[test]
    fn a_fifth_of_each_repository_is_held_back() {
        let corpus = Corpus::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/corpus")).unwrap();
        let plan = DemoPlan::new(5, Arc::new(corpus), PlanSettings::default()).unwrap();
        let first = ServedVersion {
            version: events::ModelVersion(1),
            artifact_digest: Sha256Digest::of(b"first"),
            audience: None,
        };
        let table = RoutingTable {
            tenant: TenantId::default(),
            model: "completion".parse().unwrap(),
            revision: 1,
            current: first.clone(),
            reference: Some(first),
            holdback_share: 0.2,
            promoted: Vec::new(),
            rollout: None,
        };
        let members = members(&plan, 60, &TenantSecret::new([7; 32]), &table).unwrap();
        let mut held_back: BTreeMap<usize, usize> = BTreeMap::new();
        for (developer, member) in members.iter().enumerate() {
            if table.is_held_back(&member.pseudonym) {
                *held_back.entry(plan.repository_index(developer)).or_default() += 1;
            }
        }
        assert_eq!(held_back, BTreeMap::from([(0, 6), (1, 6)]));
    }
}
