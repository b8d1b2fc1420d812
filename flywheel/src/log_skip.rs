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
use crate::foundation::steps;
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
    let SkipArgs { reader, topic, partition, yes, by } = arguments;
    let by = by.as_deref().filter(|_| *yes);
    let skipped = match (&reader.step, &reader.sink) {
        (Some(step), _) => skip_of_step(common, step, *partition, by).await?,
        (None, Some(sink)) => skip_of_sink(common, sink, topic.as_deref(), *partition, by).await?,
        (None, None) => return Err(Failure::refused("name a step or a sink")),
    };
    let Skipped { reader, loss, done, .. } = &skipped;
    if loss.is_nothing() {
        return Err(Failure::refused(format!(
            "nothing keeps {reader} from going on in partition {} of {}: what it reads next, {}, is there",
            loss.partition,
            loss.topic,
            short(loss.from)
        )));
    }
    print(&said(&skipped))?;
    if by.is_none() {
        return Err(Failure::refused("nothing was changed; `--yes --by PERSON` lets it go on there"));
    }
    print(&match loss.positions() {
        0 => "done: the position is committed again, and nothing is lost".to_owned(),
        _ => format!("done: the range is written down, and {done}"),
    })?;
    Ok(ExitCode::SUCCESS)
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

async fn skip_of_step(common: &Common, step: &str, partition: u32, by: Option<&str>) -> Result<Skipped, Failure> {
    let steps = steps();
    if !steps.iter().any(|known| known.name == step) {
        let names: Vec<&str> = steps.iter().map(|known| known.name.as_str()).collect();
        return Err(Failure::refused(format!("there is no step {step}; the steps are {}", names.join(" and "))));
    }
    let foundation = open(common).await?;
    let book = Book {
        pool: foundation.pool.clone(),
        step: step.to_owned(),
        by: by.map(str::to_owned),
        now: foundation.now(),
        booked: Mutex::new(0),
    };
    let loss = match foundation.bus.skip_lost(step, partition, &book).await {
        Ok(loss) => loss,
        Err(error @ (BusError::Storage(_) | BusError::StorageFull)) => return Err(error.into()),
        Err(error) => return Err(Failure::refuse(error)),
    };
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
    common: &Common,
    sink: &str,
    topic: Option<&str>,
    partition: u32,
    by: Option<&str>,
) -> Result<Skipped, Failure> {
    let topic = sinks::topic_of(sink, topic)?;
    let foundation = open(common).await?;
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
