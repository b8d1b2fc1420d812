//! Letting a sink go on behind what retention deleted before it was read.
//!
//! The sink is leased meanwhile as a process that runs it would lease it, so nobody works on it. Its position moves in
//! the transaction that writes the range down ([`crate::losses`]), by compare-and-set as always: an interrupted command
//! has done both or neither.

use bus::{Bus, BusError, Loss, Position, Positions};
use events::Timestamp;
use service::lease::{Fence, LeaseError, LeaseStore, keep};
use sqlx::AnyPool;
use tokio_util::sync::CancellationToken;

use crate::losses::{self, LostRange, Reader};
use crate::sink::{LEASE, SinkError, lease_name, move_positions, stored_positions};

/// Why a sink was not let go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SkipError {
    /// Somebody runs the sink, so nothing keeps it from going on, or its lease has not run out yet.
    #[error(
        "sink {sink} is run by a process; stop every process that runs the labeler, wait until its lease has run out, \
         and try again"
    )]
    Owned {
        /// The sink.
        sink: String,
    },
    /// The bus or the database failed, or something else keeps the sink.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The lease was lost, or the database failed.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The database failed.
    #[error("sink: {0}")]
    Database(#[from] sqlx::Error),
}

/// A partition as a sink reads it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The sink.
    pub sink: &'a str,
    /// What it reads.
    pub topic: &'a str,
    /// The partition of that.
    pub partition: u32,
}

/// Somebody's word that the sink is to pass over what is lost.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// Whose.
    pub by: &'a str,
    /// When it was given.
    pub at: Timestamp,
}

/// Finds what keeps a sink from going on in a partition, and, decided so, lets it go on behind that. `holder` names this
/// process among all that share the database.
///
/// # Errors
/// A process that runs the sink, anything but a loss that would stop it, or a database or log that fails; nothing is
/// changed then.
pub async fn skip_lost(
    bus: &dyn Bus,
    pool: &AnyPool,
    place: Place<'_>,
    holder: &str,
    decision: Option<Decision<'_>>,
) -> Result<Loss, SkipError> {
    let owned = || SkipError::Owned { sink: place.sink.to_owned() };
    let (leases, name) = (LeaseStore::new(pool.clone()), lease_name(place.sink));
    if leases.acquire(&name, holder, LEASE).await?.is_none() {
        return Err(owned());
    }
    // It is ours; from here on it is renewed, however long the log takes to answer.
    let stop = CancellationToken::new();
    let (mut lease, keeping) = keep(leases, &name, holder, LEASE, stop.clone());
    let working = async {
        let skipped = match tokio::time::timeout(LEASE, lease.wait()).await {
            Ok(Some(fence)) => skip(bus, pool, place, &fence, decision).await,
            Ok(None) | Err(_) => Err(owned()),
        };
        stop.cancel();
        skipped
    };
    let ((), skipped) = tokio::join!(keeping, working);
    skipped
}

async fn skip(
    bus: &dyn Bus,
    pool: &AnyPool,
    place: Place<'_>,
    fence: &Fence,
    decision: Option<Decision<'_>>,
) -> Result<Loss, SkipError> {
    let loss = find(bus, pool, place).await?;
    let Some(Decision { by, at }) = decision.filter(|_| !loss.is_nothing()) else { return Ok(loss) };
    let range = LostRange {
        reader: Reader::Sink(place.sink.to_owned()),
        topic: loss.topic.clone(),
        partition: loss.partition,
        from: loss.from,
        to: loss.to,
        skipped_at: at,
        skipped_by: by.to_owned(),
    };
    migrations::retried(|| go_on(pool, place, fence, &range)).await?;
    Ok(loss)
}

/// Where the sink stands, beside what is there: the question that its tail asks when it is opened.
async fn find(bus: &dyn Bus, pool: &AnyPool, place: Place<'_>) -> Result<Loss, SinkError> {
    let Place { sink, topic, partition } = place;
    let partitions = bus.partitions(topic).await?;
    if partition >= partitions {
        let last = partitions.saturating_sub(1);
        return Err(BusError::Invalid(format!("{topic} has partitions 0 to {last}")).into());
    }
    let of_partition = |positions: &Positions| positions.get(partition).unwrap_or(Position::START);
    let oldest = of_partition(&bus.oldest_positions(topic).await?);
    let end = of_partition(&bus.end_positions(topic).await?);
    // A sink that has read nothing of it begins with the oldest record, whichever that is.
    let position = stored_positions(pool, sink, topic).await?.get(partition).unwrap_or(oldest);
    if position > end.max(oldest) {
        return Err(BusError::PositionAhead { topic: topic.to_owned(), partition, position, end }.into());
    }
    let (topic, to) = (topic.to_owned(), position.max(oldest));
    Ok(Loss { topic, partition, from: position, to, is_position_forgotten: false })
}

async fn go_on(pool: &AnyPool, place: Place<'_>, fence: &Fence, range: &LostRange) -> Result<(), SkipError> {
    let only = |position: Position| -> Positions { [(range.partition, position)].into_iter().collect() };
    let mut transaction = migrations::begin_write(pool).await?;
    fence.check(&mut transaction).await?;
    move_positions(&mut transaction, place.sink, place.topic, &only(range.from), &only(range.to)).await?;
    losses::insert(&mut transaction, range).await?;
    migrations::commit(transaction).await?;
    Ok(())
}
