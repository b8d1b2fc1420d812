//! Doing a transaction again that met another one, or whose connection broke.
//!
//! PostgreSQL lets transactions run side by side and refuses one of two that can not both be right; SQLite makes the
//! second one wait. So whoever writes in a transaction of [`crate::begin_write`] does it through [`retried`], or asks
//! [`Retries`] after an error, and ends it with [`commit`]. What is repeated must do the whole work again from its
//! first read on.

use std::error::Error as StdError;
use std::future::Future;
use std::time::{Duration, Instant};

use rand::RngExt;
use sqlx::{Any, Transaction};

/// How often a transaction that meets others is done again, and for how long at most.
const CONFLICTS: u32 = 40;
const LONGEST: Duration = Duration::from_secs(30);
/// How often one whose connection broke, or that met a row of another one, is. A restart of the server breaks each
/// connection once; an outage is longer than whoever asks should wait.
const OTHERS: u32 = 2;
/// First and longest mean pause. It is drawn between nothing and twice this, so that those who met part.
const PAUSES: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(250));

/// Why doing the same again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It met another transaction.
    Conflict,
    /// The connection broke before anything was committed.
    Lost,
    /// A row that is there already. A serializable transaction of PostgreSQL that has looked for it and found none can
    /// be told so of one that another transaction has just made; done again, it finds it.
    Duplicate,
}

/// A connection that broke while a transaction was being committed.
#[derive(Debug, thiserror::Error)]
#[error("the connection broke during a commit, and whether the change was made is not known: {0}")]
struct CommitUnknown(#[source] sqlx::Error);

/// Commits. When the connection breaks meanwhile, the error says that the outcome is unknown, and [`trouble`] does not
/// take it for one after which everything may be done again.
///
/// # Errors
/// A conflict (nothing of the transaction stays), or a connection that broke.
pub async fn commit(transaction: Transaction<'_, Any>) -> Result<(), sqlx::Error> {
    transaction.commit().await.map_err(|error| match trouble_of(&error) {
        Some(Trouble::Lost) => sqlx::Error::Io(std::io::Error::other(CommitUnknown(error))),
        _ => error,
    })
}

/// Whether the same transaction may succeed when tried again: a serialization failure or deadlock on PostgreSQL, a
/// busy or locked database on SQLite.
#[must_use]
pub fn is_conflict(error: &sqlx::Error) -> bool {
    trouble_of(error) == Some(Trouble::Conflict)
}

/// Whether doing the same again may help after `error`, whatever it is wrapped in.
#[must_use]
pub fn trouble(error: &(dyn StdError + 'static)) -> Option<Trouble> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<sqlx::Error>() {
            return trouble_of(found);
        }
        cause = error.source();
    }
    None
}

fn trouble_of(error: &sqlx::Error) -> Option<Trouble> {
    match error {
        sqlx::Error::Database(error) => match error.code().as_deref()? {
            "40001" | "40P01" => Some(Trouble::Conflict),
            "23505" => Some(Trouble::Duplicate),
            // Connections that the server closes: shut down, crashed, starting, idle for too long; and class 08.
            "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => Some(Trouble::Lost),
            code if code.len() == 5 && code.starts_with("08") => Some(Trouble::Lost),
            // SQLite's extended codes: the low byte is the primary code, 5 = SQLITE_BUSY, 6 = SQLITE_LOCKED. An
            // SQLSTATE has five characters, an extended code of SQLite at most four.
            code if code.len() < 5 => {
                code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6)).then_some(Trouble::Conflict)
            }
            _ => None,
        },
        sqlx::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<CommitUnknown>()) => None,
        sqlx::Error::Io(_) | sqlx::Error::BeginFailed => Some(Trouble::Lost),
        _ => None,
    }
}

/// How often something was done again, and whether it may be once more.
#[derive(Debug)]
pub struct Retries {
    begun: Instant,
    conflicts: u32,
    others: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self::new()
    }
}

impl Retries {
    /// None so far.
    #[must_use]
    pub fn new() -> Self {
        Self { begun: Instant::now(), conflicts: 0, others: 0 }
    }

    /// After an attempt that failed: waits a moment and says yes, or says at once that it was the last one.
    pub fn again(&mut self, trouble: Option<Trouble>) -> impl Future<Output = bool> + Send + use<> {
        let pause = match trouble {
            Some(Trouble::Conflict) if self.conflicts < CONFLICTS && self.begun.elapsed() < LONGEST => {
                self.conflicts += 1;
                Some(pause(self.conflicts))
            }
            Some(Trouble::Lost | Trouble::Duplicate) if self.others < OTHERS => {
                self.others += 1;
                Some(pause(self.others))
            }
            _ => None,
        };
        async move {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return false,
            }
            true
        }
    }
}

fn pause(attempt: u32) -> Duration {
    let (first, longest) = PAUSES;
    let mean = first.saturating_mul(1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX)).min(longest);
    mean.mul_f64(rand::rng().random_range(0.0..2.0))
}

/// Does `attempt` again while [`trouble`] says that it may help; a bounded number of times.
///
/// # Errors
/// The last attempt's.
pub async fn retried<T, E, F>(attempt: impl FnMut() -> F) -> Result<T, E>
where
    E: StdError + 'static,
    F: Future<Output = Result<T, E>>,
{
    retried_if(attempt, |error| trouble(error)).await
}

/// [`retried`] for errors that know more about themselves.
///
/// # Errors
/// The last attempt's.
pub async fn retried_if<T, E, F>(
    mut attempt: impl FnMut() -> F,
    trouble: impl Fn(&E) -> Option<Trouble>,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut retries = Retries::new();
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if !retries.again(trouble(&error)).await {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("wrapped: {0}")]
    struct Wrapped(#[from] sqlx::Error);

    fn lost() -> sqlx::Error {
        sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())
    }

    #[test]
    fn trouble_is_found_in_what_wraps_it() {
        assert_eq!(trouble(&Wrapped(lost())), Some(Trouble::Lost));
        assert_eq!(trouble(&Wrapped(sqlx::Error::RowNotFound)), None);
        assert_eq!(trouble(&Wrapped(sqlx::Error::PoolTimedOut)), None, "it has waited already");
        assert_eq!(trouble(&std::fmt::Error), None);
        let unknown = sqlx::Error::Io(std::io::Error::other(CommitUnknown(lost())));
        assert_eq!(trouble(&Wrapped(unknown)), None, "it may have been committed");
    }

    #[tokio::test]
    async fn what_helps_is_done_again_and_no_longer_than_that() {
        let count = Cell::new(0);
        let attempts = async |ends_with: u32| {
            count.set(0);
            retried(|| async {
                count.set(count.get() + 1);
                if count.get() == ends_with { Ok(()) } else { Err(Wrapped(lost())) }
            })
            .await
        };
        attempts(1 + OTHERS).await.unwrap();
        assert!(attempts(2 + OTHERS).await.is_err());
        assert_eq!(count.get(), 1 + OTHERS);
        let refused: Result<(), Wrapped> = retried(|| async {
            count.set(count.get() + 1);
            Err(Wrapped(sqlx::Error::RowNotFound))
        })
        .await;
        assert!(refused.is_err());
        assert_eq!(count.get(), 2 + OTHERS);
    }

    #[test]
    fn pauses_are_bounded() {
        assert!((1..100).all(|attempt| pause(attempt) <= PAUSES.1 * 2));
    }
}
