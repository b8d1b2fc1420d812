//! Who owns which partition of a step.
//!
//! A slot row names owner, epoch and lease. Whoever runs a step claims its fair share of the partitions that nobody
//! owns, whose owner's process has ended, or whose owner's lease has run out; each claim raises the epoch. Leases are
//! in real time and only decide when a claim is allowed: correctness rests on owner and epoch being checked in every
//! commit.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use service::clock::real_now;

use super::Inner;
use super::liveness::Liveness;
use super::topics::TopicInfo;
use super::writer::{Refusal, WriteTransaction};
use crate::error::BusError;
use crate::step::StepSpec;

/// A step as the log knows it.
#[derive(Debug, Clone)]
pub(super) struct StepInfo {
    pub(super) id: i64,
    pub(super) topic: Arc<TopicInfo>,
}

/// A partition that this run owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) partition: u32,
    pub(super) slot: i64,
    pub(super) epoch: i64,
}

/// What a claim came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Claim {
    /// All partitions owned now.
    pub(super) owned: Vec<Owned>,
    /// Partitions among them that are more than the fair share, to be released.
    pub(super) too_many: Vec<u32>,
}

impl Inner {
    /// Writes the step down with the start of every partition, when it is new.
    pub(super) async fn register_step(self: &Arc<Self>, spec: &StepSpec) -> Result<StepInfo, BusError> {
        let name = self.config.stored_name(&spec.name);
        if spec.name.is_empty() || name.len() > 249 {
            return Err(BusError::Invalid("a step's name has 1 to 249 bytes, the prefix included".into()));
        }
        let topic = self.topic(&spec.input).await?;
        for output in spec.outputs.iter().chain([&spec.dead_letters]) {
            self.topic(output).await?;
        }
        let registered = Arc::clone(&topic);
        let register =
            move |transaction: &mut WriteTransaction<'_>| register(transaction.connection, &name, registered.id);
        match self.writer.write(0, register).await? {
            Registered::Step(id) => Ok(StepInfo { id, topic }),
            Registered::OtherInput(stored) => Err(BusError::InputDiffers {
                step: spec.name.clone(),
                expected: spec.input.clone(),
                actual: self.config.callers_name(&stored),
            }),
        }
    }

    /// Renews the leases of `owner` and takes what it may take.
    pub(super) async fn claim(self: &Arc<Self>, step: i64, owner: &str) -> Result<Claim, BusError> {
        let owners = self.read(move |connection| other_owners(connection, step)).await?;
        let folder = self.liveness()?.folder().to_owned();
        let ended = tokio::task::spawn_blocking(move || {
            owners.into_iter().filter(|owner| Liveness::has_ended(&folder, owner)).collect::<HashSet<String>>()
        });
        let ended = ended.await.unwrap_or_default();
        let lease = i64::try_from(self.config.lease().as_micros()).unwrap_or(i64::MAX);
        let owner = owner.to_owned();
        let claim = move |transaction: &mut WriteTransaction<'_>| {
            let now = real_now().as_micros();
            claim(transaction.connection, step, &owner, &ended, now, now.saturating_add(lease)).map_err(Refusal::from)
        };
        self.writer.write(0, claim).await
    }

    /// Gives a partition back after its worker has stopped.
    pub(super) async fn release(self: &Arc<Self>, slot: i64, owner: &str) -> Result<(), BusError> {
        let owner = owner.to_owned();
        let release = move |transaction: &mut WriteTransaction<'_>| {
            let release = "UPDATE slots SET owner = NULL, lease_until = 0 WHERE id = ?1 AND owner = ?2";
            transaction.connection.prepare_cached(release)?.execute(params![slot, owner])?;
            Ok(())
        };
        self.writer.write(0, release).await
    }
}

/// Gives back everything of an owner. A commit of it that is still on its way then finds itself fenced.
pub(super) fn release_all(connection: &Connection, step: i64, owner: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE slots SET owner = NULL, lease_until = 0 WHERE step = ?1 AND owner = ?2")?
        .execute(params![step, owner])?;
    let leave = "DELETE FROM members WHERE step = ?1 AND owner = ?2";
    connection.prepare_cached(leave)?.execute(params![step, owner])?;
    Ok(())
}

/// What became of a registration.
pub(super) enum Registered {
    /// The step's id.
    Step(i64),
    /// The step reads this topic.
    OtherInput(String),
}

/// Writes a step down with the start of every partition, unless it is known.
pub(super) fn register(connection: &Connection, name: &str, topic: i64) -> Result<Registered, Refusal> {
    let mut query = connection.prepare_cached(
        "SELECT steps.id, steps.topic, topics.name FROM steps JOIN topics ON topics.id = steps.topic
         WHERE steps.name = ?1",
    )?;
    let found: Option<(i64, i64, String)> =
        query.query_row([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    if let Some((id, input, actual)) = found {
        return Ok(if input == topic { Registered::Step(id) } else { Registered::OtherInput(actual) });
    }
    connection.execute("INSERT INTO steps (name, topic) VALUES (?1, ?2)", params![name, topic])?;
    let step = connection.last_insert_rowid();
    connection.execute(
        "INSERT INTO slots (step, partition, position, epoch, lease_until)
         SELECT ?1, partition, oldest, 0, 0 FROM partitions WHERE topic = ?2",
        params![step, topic],
    )?;
    Ok(Registered::Step(step))
}

fn other_owners(connection: &Connection, step: i64) -> rusqlite::Result<Vec<String>> {
    let mut query = connection.prepare_cached(
        "SELECT owner FROM members WHERE step = ?1 UNION SELECT owner FROM slots WHERE step = ?1 AND owner IS NOT NULL",
    )?;
    query.query_map([step], |row| row.get(0))?.collect()
}

fn claim(
    connection: &Connection,
    step: i64,
    owner: &str,
    ended: &HashSet<String>,
    now: i64,
    until: i64,
) -> rusqlite::Result<Claim> {
    let mut members = 0;
    let mut leave = connection.prepare_cached("DELETE FROM members WHERE step = ?1 AND owner = ?2")?;
    let mut query = connection.prepare_cached("SELECT owner, lease_until FROM members WHERE step = ?1")?;
    let known: Vec<(String, i64)> =
        query.query_map([step], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (member, lease_until) in known {
        if member != owner && (lease_until < now || ended.contains(&member)) {
            leave.execute(params![step, member])?;
        } else if member != owner {
            members += 1;
        }
    }
    connection
        .prepare_cached(
            "INSERT INTO members (step, owner, lease_until) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET lease_until = excluded.lease_until",
        )?
        .execute(params![step, owner, until])?;
    let mut query = connection.prepare_cached(
        "SELECT id, partition, owner, epoch, lease_until FROM slots WHERE step = ?1 ORDER BY partition",
    )?;
    let mut rows = query.query([step])?;
    let (mut owned, mut free) = (Vec::new(), Vec::new());
    let mut partitions: usize = 0;
    while let Some(row) = rows.next()? {
        partitions += 1;
        let slot = Owned { slot: row.get(0)?, partition: row.get(1)?, epoch: row.get(3)? };
        let holder: Option<String> = row.get(2)?;
        let lease_until: i64 = row.get(4)?;
        match holder {
            Some(holder) if holder == owner => owned.push(slot),
            Some(holder) if lease_until >= now && !ended.contains(&holder) => {}
            _ => free.push(slot),
        }
    }
    let fair = partitions.div_ceil(members + 1);
    let mut renew = connection.prepare_cached("UPDATE slots SET lease_until = ?2 WHERE id = ?1")?;
    for slot in &owned {
        renew.execute([slot.slot, until])?;
    }
    let mut take =
        connection.prepare_cached("UPDATE slots SET owner = ?2, epoch = ?3, lease_until = ?4 WHERE id = ?1")?;
    for slot in free.into_iter().take(fair.saturating_sub(owned.len())) {
        let epoch = slot.epoch + 1;
        take.execute(params![slot.slot, owner, epoch, until])?;
        owned.push(Owned { epoch, ..slot });
    }
    let too_many = owned.iter().skip(fair).map(|slot| slot.partition).collect();
    Ok(Claim { owned, too_many })
}
