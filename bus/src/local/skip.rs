//! Letting a partition of a step go on behind what was deleted before it was read. Retention waits for steps; a file
//! that was put together from copies of other times may still have such a gap.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};
use service::clock::real_now;

use super::Inner;
use super::liveness::Liveness;
use super::reader::partition_bounds;
use super::writer::{Refusal, WriteTransaction};
use crate::error::BusError;
use crate::interface::{Loss, LossBook};
use crate::record::Position;

/// A partition of a step, as its row says.
struct Found {
    slot: i64,
    epoch: i64,
    owner: Option<String>,
    lease_until: i64,
    partition_id: i64,
    topic: String,
}

pub(super) async fn skip_lost(
    inner: &Arc<Inner>,
    step: &str,
    partition: u32,
    book: &dyn LossBook,
) -> Result<Loss, BusError> {
    let stored = inner.config.stored_name(step);
    // Through the writer: a run of this process that has just ended gives its partitions back there.
    let look = move |transaction: &mut WriteTransaction<'_>| {
        find(transaction.connection, &stored, partition).map_err(Refusal::from)
    };
    let found = inner.writer.write(0, look).await?;
    let found = found
        .ok_or_else(|| BusError::Invalid(format!("step {step} has no partition {partition}, or it has never run")))?;
    let owned = || BusError::Owned { step: step.to_owned(), partition };
    if !is_free(inner, &found).await? {
        return Err(owned());
    }
    // Taken as a run of the step would take it: a late commit of the owner before then finds another epoch.
    let owner = inner.liveness()?.next_owner();
    let lease = i64::try_from(inner.config.lease().as_micros()).unwrap_or(i64::MAX);
    let (slot, before, epoch, holder) = (found.slot, found.epoch, found.epoch + 1, owner.clone());
    let taken = inner
        .writer
        .write(0, move |transaction: &mut WriteTransaction<'_>| {
            let until = real_now().as_micros().saturating_add(lease);
            let take = "UPDATE slots SET owner = ?3, epoch = ?4, lease_until = ?5 WHERE id = ?1 AND epoch = ?2";
            let mut take = transaction.connection.prepare_cached(take)?;
            Ok(take.execute(params![slot, before, holder, epoch, until])? == 1)
        })
        .await?;
    if !taken {
        return Err(owned());
    }
    let skipped = skip(inner, &found, (partition, step), &owner, book).await;
    inner.release(slot, &owner).await?;
    skipped
}

fn find(connection: &Connection, step: &str, partition: u32) -> rusqlite::Result<Option<Found>> {
    connection
        .prepare_cached(
            "SELECT slots.id, slots.epoch, slots.owner, slots.lease_until, partitions.id, topics.name
             FROM steps JOIN slots ON slots.step = steps.id JOIN topics ON topics.id = steps.topic
             JOIN partitions ON partitions.topic = topics.id AND partitions.partition = slots.partition
             WHERE steps.name = ?1 AND slots.partition = ?2",
        )?
        .query_row(params![step, partition], |row| {
            Ok(Found {
                slot: row.get(0)?,
                epoch: row.get(1)?,
                owner: row.get(2)?,
                lease_until: row.get(3)?,
                partition_id: row.get(4)?,
                topic: row.get(5)?,
            })
        })
        .optional()
}

async fn is_free(inner: &Arc<Inner>, found: &Found) -> Result<bool, BusError> {
    let Some(owner) = found.owner.clone() else { return Ok(true) };
    if found.lease_until < real_now().as_micros() {
        return Ok(true);
    }
    let folder = inner.liveness()?.folder().to_owned();
    let ended = tokio::task::spawn_blocking(move || Liveness::has_ended(&folder, &owner)).await;
    Ok(ended.unwrap_or_default())
}

async fn skip(
    inner: &Arc<Inner>,
    found: &Found,
    (partition, step): (u32, &str),
    owner: &str,
    book: &dyn LossBook,
) -> Result<Loss, BusError> {
    let (slot, partition_id) = (found.slot, found.partition_id);
    // What the owner before has committed up to the moment at which the partition was taken.
    let (position, (oldest, end)) = inner
        .read(move |connection| {
            let position: i64 =
                connection.query_row("SELECT position FROM slots WHERE id = ?1", [slot], |row| row.get(0))?;
            Ok((Position::from_offset(position.cast_unsigned()), partition_bounds(connection, partition_id)?))
        })
        .await?;
    let topic = inner.config.callers_name(&found.topic);
    if position > end {
        return Err(BusError::PositionAhead { topic, partition, position, end });
    }
    let loss = Loss { topic, partition, from: position, to: position.max(oldest), is_position_forgotten: false };
    if loss.is_nothing() || !book.book(&loss).await? {
        return Ok(loss);
    }
    let (owner, epoch, to) = (owner.to_owned(), found.epoch + 1, loss.to.offset());
    let fenced = BusError::Fenced { step: step.to_owned(), partition };
    inner
        .writer
        .write(0, move |transaction: &mut WriteTransaction<'_>| {
            // Attempts at records that are gone say nothing about those that come.
            let update = "UPDATE slots SET position = ?4, suspect_attempts = 0, suspect_until = 0,
                 suspect_input = NULL, suspect_input_attempts = 0 WHERE id = ?1 AND owner = ?2 AND epoch = ?3";
            let mut update = transaction.connection.prepare_cached(update)?;
            let updated = update.execute(params![slot, owner, epoch, to.cast_signed()])?;
            if updated == 1 { Ok(()) } else { Err(Refusal::Job(fenced.clone())) }
        })
        .await?;
    Ok(loss)
}
