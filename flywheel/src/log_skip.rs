//! `flywheel log skip`: a step goes on behind what retention deleted before it was read, and what was lost is booked.

use std::process::ExitCode;

use async_trait::async_trait;
use bus::{BusError, Loss, LossBook, Position};
use events::Timestamp;
use labeler::losses::{self, LostRange};
use parking_lot::Mutex;
use sqlx::AnyPool;

use crate::cli::{Common, LogCommand, SkipArgs};
use crate::failure::Failure;
use crate::foundation::steps;
use crate::operations::open;
use crate::table::print;

pub(crate) async fn run(common: &Common, command: &LogCommand) -> Result<ExitCode, Failure> {
    match command {
        LogCommand::Skip(arguments) => skip(common, arguments).await,
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
                step: self.step.clone(),
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

async fn skip(common: &Common, arguments: &SkipArgs) -> Result<ExitCode, Failure> {
    let SkipArgs { step, partition, yes, by } = arguments;
    let steps = steps();
    if !steps.iter().any(|known| known.name == *step) {
        let names: Vec<&str> = steps.iter().map(|known| known.name.as_str()).collect();
        return Err(Failure::refused(format!("there is no step {step}; the steps are {}", names.join(" and "))));
    }
    let foundation = open(common).await?;
    let book = Book {
        pool: foundation.pool.clone(),
        step: step.clone(),
        by: if *yes { by.clone() } else { None },
        now: foundation.now(),
        booked: Mutex::new(0),
    };
    let loss = match foundation.bus.skip_lost(step, *partition, &book).await {
        Ok(loss) => loss,
        Err(error @ (BusError::Storage(_) | BusError::StorageFull)) => return Err(error.into()),
        Err(error) => return Err(Failure::refuse(error)),
    };
    if loss.is_nothing() {
        return Err(Failure::refused(format!(
            "nothing keeps step {step} from going on in partition {partition} of {}: what it reads next, {}, is there",
            loss.topic,
            short(loss.from)
        )));
    }
    print(&said(step, &loss))?;
    if !yes {
        return Err(Failure::refused("nothing was changed; `--yes --by PERSON` lets the step go on there".to_owned()));
    }
    let booked = *book.booked.lock();
    print(&match (loss.positions(), booked) {
        (0, _) => "done: the position is committed again, and nothing is lost".to_owned(),
        (_, events) => format!("done: the range is written down, and {events} events that were pending are lost"),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What keeps the step, and what it would mean to go on.
fn said(step: &str, loss: &Loss) -> String {
    let Loss { topic, partition, from, to, .. } = loss;
    let mut said = format!("step {step}, partition {partition} of {topic}\n");
    if loss.is_position_forgotten {
        said += "the brokers no longer know its position; its changelog does\n";
    }
    match loss.positions() {
        0 => said += &format!("it goes on at {}, and nothing is lost", short(*from)),
        positions => {
            said += &format!(
                "first lost position    {}\noldest that is there   {}\npositions between      {positions}\n\
                 The step never sees what stood between. State and timers stay as they are: what they wait for from \
                 there does not come.",
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
