//! The lake, read part by part: never more of it in memory than one part.

use std::collections::HashSet;
use std::sync::Arc;

use events::{Audience, PairReason, PreferencePair};
use labeler::lake::{LakeError, LakePart, LakeReader};

use crate::cli::PairFilterArgs;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::progress::Progress;

/// A signal is seen, and a bar drawn, at least after so many pairs.
const BREATH: usize = 64;
/// Shorter beginnings of ids are refused: they would soon stop to be unique.
const SHORTEST_ID: usize = 8;
/// Length of a whole id.
const ID: usize = 64;

/// The lake of the platform's tenant.
pub(super) struct Lake {
    reader: LakeReader,
    parts: Vec<LakePart>,
}

/// Which pairs are asked for.
pub(super) struct Filter {
    reason: Option<PairReason>,
    language: Option<String>,
    audience: Option<Audience>,
}

impl Filter {
    pub(super) fn new(arguments: &PairFilterArgs) -> Result<Self, Failure> {
        let reason = arguments.reason.as_deref().map(reason_of).transpose()?;
        Ok(Self { reason, language: arguments.language.clone(), audience: arguments.audience.clone() })
    }

    pub(super) fn takes(&self, pair: &PreferencePair) -> bool {
        self.reason.is_none_or(|reason| reason == pair.reason)
            && self.language.as_ref().is_none_or(|language| *language == pair.language)
            && self.audience.as_ref().is_none_or(|audience| *audience == pair.audience)
    }
}

fn reason_of(text: &str) -> Result<PairReason, Failure> {
    match PairReason::from_symbol(text) {
        PairReason::Unknown => {
            let reasons: Vec<&str> = PairReason::ALL.iter().map(|reason| reason.as_str()).collect();
            Err(Failure::refused(format!("--reason: there is no reason \"{text}\"; expected {}", reasons.join(", "))))
        }
        reason => Ok(reason),
    }
}

impl Lake {
    pub(super) async fn open(foundation: &Foundation) -> Result<Self, Failure> {
        let reader = LakeReader::new(foundation.pool.clone(), Arc::clone(&foundation.artifacts));
        let parts = reader.parts(&foundation.settings.tenant).await?;
        Ok(Self { reader, parts })
    }

    /// Sees every pair once, each part in its order.
    pub(super) async fn each(
        &self,
        what: &'static str,
        see: impl AsyncFnMut(PreferencePair) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let progress = Progress::new();
        progress.begin(what, Some(self.parts.iter().map(|part| part.pairs).sum()));
        let seen = self.see(see, &progress).await;
        progress.finish();
        seen
    }

    async fn see(
        &self,
        mut see: impl AsyncFnMut(PreferencePair) -> Result<(), Failure>,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let mut seen = HashSet::new();
        for part in &self.parts {
            let pairs = self.reader.read(part).await.map_err(unreadable)?;
            for (number, pair) in pairs.into_iter().enumerate() {
                if number.is_multiple_of(BREATH) {
                    tokio::task::yield_now().await;
                }
                progress.advance(1);
                if seen.insert(pair.pair_id) {
                    see(pair).await?;
                }
            }
        }
        Ok(())
    }

    /// The pair whose id is this, or begins so.
    pub(super) async fn find(&self, id: &str) -> Result<PreferencePair, Failure> {
        let beginning = id.to_ascii_lowercase();
        let is_id = (SHORTEST_ID..=ID).contains(&beginning.len()) && beginning.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_id {
            return Err(Failure::refused(format!(
                "\"{id}\" is no id of a pair, nor the first {SHORTEST_ID} or more digits of one; `flywheel pairs list` \
                 names them"
            )));
        }
        let mut found: Vec<PreferencePair> = Vec::new();
        self.each("looking for the pair", async |pair| {
            if pair.pair_id.to_string().starts_with(&beginning) {
                found.push(pair);
            }
            Ok(())
        })
        .await?;
        if found.len() > 1 {
            let count = found.len();
            return Err(Failure::refused(format!("{count} pairs have ids that begin with {id}; give more of it")));
        }
        found.pop().ok_or_else(|| {
            Failure::refused(format!("there is no pair {id} in the lake; `flywheel pairs list` names those that are"))
        })
    }
}

/// A part that can not be read is a fault of the platform, and named; that the store does not answer is told as it is.
fn unreadable(error: LakeError) -> Failure {
    match error {
        LakeError::BadPart(_) => Failure::refused(format!(
            "{error}; restore its object (docs/lake.md); `flywheel audit` says what else is not as it was written"
        )),
        LakeError::Replaced { .. } => Failure::refused(format!("{error}; ask again")),
        error => Failure::from(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_reason_is_refused_with_those_that_there_are() {
        assert!(matches!(reason_of("typed_against"), Ok(PairReason::TypedAgainst)));
        let Err(Failure::Refused(sentence)) = reason_of("liked") else { panic!("expected a refusal") };
        assert!(sentence.contains("\"liked\"") && sentence.contains("accepted_then_modified"), "{sentence}");
    }
}
