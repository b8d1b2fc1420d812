//! `flywheel log skip`: a step or a sink goes on behind what retention deleted before it was read, and what was lost is
//! booked.

use std::process::ExitCode;

use async_trait::async_trait;
use bus::{BusError, Loss, LossBook, Position};
use events::{Timestamp, topics};
use labeler::losses::{self, LostRange, Reader};
use labeler::sink::SinkError;
use labeler::skip::{Decision, Place, SkipError, skip_lost};
use labeler::{lake, ledger, tally};
use parking_lot::Mutex;
use sqlx::AnyPool;

use crate::cli::{Common, LogCommand, SkipArgs};
use crate::failure::Failure;
use crate::foundation::{Foundation, steps};
use crate::operations::open;
use crate::sinks;
use crate::table::print;

pub(crate) async fn run(common: &Common, command: &LogCommand) -> Result<ExitCode, Failure> {
    match command {
        LogCommand::Skip(arguments) => skip(common, arguments).await,
    }
}

/// What was found, and, where somebody decided so, passed over.
struct Skipped {
    reader: Reader,
    loss: Loss,
    /// What it is to this reader that positions are lost.
    means: String,
    /// What was done beside writing the range down.
    done: String,
}

async fn skip(common: &Common, arguments: &SkipArgs) -> Result<ExitCode, Failure> {
    let SkipArgs { reader, topic, partitions, yes, by } = arguments;
    let by = by.as_deref().filter(|_| *yes);
    let (reader, topic) = match (&reader.step, &reader.sink) {
        (Some(step), _) => (Reader::Step(step.clone()), input_of(step)?),
        (None, Some(sink)) => (Reader::Sink(sink.clone()), sinks::topic_of(sink, topic.as_deref())?.to_owned()),
        (None, None) => return Err(Failure::refused("name a step or a sink")),
    };
    let foundation = open(common).await?;
    let numbers = match partitions.partition {
        Some(partition) => vec![partition],
        None => (0..foundation.bus.partitions(&topic).await.map_err(of_bus)?).collect(),
    };
    let mut is_kept = false;
    for partition in numbers {
        let skipped = match &reader {
            Reader::Step(step) => skip_of_step(&foundation, step, partition, by).await?,
            Reader::Sink(sink) => skip_of_sink(&foundation, sink, &topic, partition, by).await?,
        };
        let Skipped { loss, done, .. } = &skipped;
        if loss.is_nothing() {
            if partitions.all {
                continue;
            }
            return Err(Failure::refused(format!(
                "nothing keeps {reader} from going on in partition {partition} of {topic}: what it reads next, {}, is \
                 there",
                short(loss.from)
            )));
        }
        is_kept = true;
        print(&said(&skipped))?;
        if by.is_some() {
            // Of each partition at once: the next one may be somebody's.
            print(&match loss.positions() {
                0 => "done: the position is committed again, and nothing is lost".to_owned(),
                _ => format!("done: the range is written down, and {done}"),
            })?;
        }
    }
    if !is_kept {
        return Err(Failure::refused(format!("nothing keeps {reader} from going on in any partition of {topic}")));
    }
    if by.is_none() {
        return Err(Failure::refused("nothing was changed; `--yes --by PERSON` lets it go on there"));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a step reads.
fn input_of(step: &str) -> Result<String, Failure> {
    let steps = steps();
    let input = steps.iter().find(|known| known.name == step).map(|known| known.input.clone());
    input.ok_or_else(|| {
        let names: Vec<&str> = steps.iter().map(|known| known.name.as_str()).collect();
        Failure::refused(format!("there is no step {step}; the steps are {}", names.join(" and ")))
    })
}

/// What the bus refuses is for the caller to mend, but for what fails by itself.
fn of_bus(error: BusError) -> Failure {
    match error {
        error @ (BusError::Storage(_) | BusError::StorageFull) => error.into(),
        error => Failure::refuse(error),
    }
}

/// Writes a loss down for whoever decided to pass over it.
struct Book {
    pool: AnyPool,
    step: String,
    /// None: it is only looked at.
    by: Option<String>,
    now: Timestamp,
    /// Events that became lost.
    booked: Mutex<u64>,
}

#[async_trait]
impl LossBook for Book {
    async fn book(&self, loss: &Loss) -> Result<bool, BusError> {
        let Some(by) = &self.by else { return Ok(false) };
        if loss.positions() > 0 {
            let range = LostRange {
                reader: Reader::Step(self.step.clone()),
                topic: loss.topic.clone(),
                partition: loss.partition,
                from: loss.from,
                to: loss.to,
                skipped_at: self.now,
                skipped_by: by.clone(),
            };
            let booked = losses::write_down(&self.pool, &range).await;
            *self.booked.lock() =
                booked.map_err(|error| BusError::Invalid(format!("what is lost can not be written down: {error}")))?;
        }
        Ok(true)
    }
}

async fn skip_of_step(
    foundation: &Foundation,
    step: &str,
    partition: u32,
    by: Option<&str>,
) -> Result<Skipped, Failure> {
    let book = Book {
        pool: foundation.pool.clone(),
        step: step.to_owned(),
        by: by.map(str::to_owned),
        now: foundation.now(),
        booked: Mutex::new(0),
    };
    let loss = foundation.bus.skip_lost(step, partition, &book).await.map_err(of_bus)?;
    let booked = *book.booked.lock();
    Ok(Skipped {
        reader: Reader::Step(step.to_owned()),
        loss,
        means: "The step never sees what stood between. State and timers stay as they are: what they wait for from \
                there does not come."
            .to_owned(),
        done: format!("{booked} events that were pending are lost"),
    })
}

async fn skip_of_sink(
    foundation: &Foundation,
    sink: &str,
    topic: &str,
    partition: u32,
    by: Option<&str>,
) -> Result<Skipped, Failure> {
    let (place, holder) = (Place { sink, topic, partition }, foundation.holder("log skip"));
    let decision = by.map(|by| Decision { by, at: foundation.now() });
    let loss = skip_lost(foundation.bus.as_ref(), &foundation.pool, place, &holder, decision).await.map_err(failed)?;
    let pending = ledger::totals(&foundation.pool, &foundation.settings.tenant).await?.pending;
    let done = format!("the sink goes on at {}", short(loss.to));
    Ok(Skipped { reader: Reader::Sink(sink.to_owned()), loss, means: lost_to(sink, topic, pending), done })
}

/// What fails by itself is no fault of whoever asked.
fn failed(error: SkipError) -> Failure {
    match &error {
        SkipError::Sink(SinkError::Bus(BusError::Storage(_) | BusError::StorageFull)) => error.into(),
        SkipError::Owned { .. } | SkipError::Sink(SinkError::Bus(_) | SinkError::Overtaken { .. }) => {
            Failure::refuse(error)
        }
        _ => error.into(),
    }
}

/// What a sink does without, once it has passed over positions of a topic.
fn lost_to(sink: &str, topic: &str, pending: i64) -> String {
    match (sink, topic) {
        (lake::SINK, _) => {
            "The sink never sees what stood between: pairs from there are in no part, and nothing is trained on them."
                .to_owned()
        }
        (tally::SINK, _) => {
            "The sink never sees what stood between: outcomes from there count for no version and in no rollout."
                .to_owned()
        }
        (_, topics::TELEMETRY_RAW) => {
            "The sink never sees what stood between. Of events from there it counts those as unseen whose end it reads; \
             of the others it knows nothing."
                .to_owned()
        }
        _ => format!(
            "The sink never sees what stood between. Events whose end stood there stay pending, whatever became of \
             them; {pending} are pending now."
        ),
    }
}

/// What keeps a reader, and what it would mean to go on.
fn said(skipped: &Skipped) -> String {
    let Skipped { reader, loss, means, .. } = skipped;
    let Loss { topic, partition, from, to, .. } = loss;
    let mut said = format!("{reader}, partition {partition} of {topic}\n");
    if loss.is_position_forgotten {
        said += "the brokers no longer know its position; its changelog does\n";
    }
    match loss.positions() {
        0 => said += &format!("it goes on at {}, and nothing is lost", short(*from)),
        positions => {
            said += &format!(
                "first lost position    {}\noldest that is there   {}\npositions between      {positions}\n{means}",
                short(*from),
                short(*to)
            );
        }
    }
    said
}

/// A position without the zeros that make positions sort as text.
fn short(position: Position) -> String {
    let text = position.to_string();
    let digits = text.trim_start_matches('0');
    if digits.is_empty() { "0".to_owned() } else { digits.to_owned() }
}
