//! The lake, read part by part: never more of it in memory than one part, and what is asked for.

use std::sync::Arc;

use events::{PairReason, PreferencePair};
use labeler::lake::{BadPart, LakeError, LakePart, LakeReader, PairFilter};

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
/// Digits of an id that a table shows. Who asks with as many is given the first pair that begins so: among 50 million
/// another one does with a chance of one in five million, and to know that none does takes reading all of them.
pub(super) const SHOWN_DIGITS: usize = 12;

/// The lake of the platform's tenant.
pub(super) struct Lake {
    reader: LakeReader,
    parts: Vec<LakePart>,
}

/// Which pairs are asked for.
pub(super) struct Filter {
    reason: Option<PairReason>,
    lake: PairFilter,
}

impl Filter {
    pub(super) fn new(arguments: &PairFilterArgs) -> Result<Self, Failure> {
        let reason = arguments.reason.as_deref().map(reason_of).transpose()?;
        if let (Some(from), Some(before)) = (arguments.labeled_from, arguments.labeled_before)
            && from >= before
        {
            return Err(Failure::refused(format!(
                "no pair is labeled at --labeled-from {from} or later and before --labeled-before {before}"
            )));
        }
        let lake = PairFilter {
            labeled_from: arguments.labeled_from,
            labeled_before: arguments.labeled_before,
            audience: arguments.audience.clone(),
            language: arguments.language.clone(),
        };
        Ok(Self { reason, lake })
    }

    pub(super) fn takes(&self, pair: &PreferencePair) -> bool {
        self.reason.is_none_or(|reason| reason == pair.reason) && self.lake.wants(pair)
    }

    /// Whether a part may hold a pair that it takes.
    pub(super) fn may_hold(&self, part: &LakePart) -> bool {
        self.lake.may_hold(part)
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

/// Somebody who looks at the lake.
pub(super) trait Look {
    /// Whether it needs pairs with their sealed texts, which are most of a part.
    const NEEDS_TEXT: bool;

    /// Whether it needs a part, after what it has seen. No object is read that nobody needs.
    fn needs(&self, part: &LakePart) -> bool;

    /// Sees a pair.
    fn see(&mut self, pair: PreferencePair);
}

/// Parts that could not be read by whoever looked.
#[derive(Debug, Default)]
pub(super) struct Unread {
    parts: usize,
    pairs: u64,
    first: Option<String>,
}

impl Unread {
    fn add(&mut self, bad: &BadPart) {
        self.parts += 1;
        self.pairs += bad.pairs;
        self.first.get_or_insert_with(|| bad.to_string());
    }

    fn sentence(&self) -> Option<String> {
        let Self { parts, pairs, first } = self;
        first.as_ref().map(|first| {
            format!(
                "{parts} parts of the lake, with {pairs} pairs, can not be read; the first: {first}; restore its object \
                 (docs/lake.md); `flywheel audit` says what else is not as it was written"
            )
        })
    }

    /// What was printed is true and not everything: the command fails after it.
    pub(super) fn told(&self) -> Result<(), Failure> {
        self.sentence().map_or(Ok(()), |sentence| Err(Failure::Broke(anyhow::Error::msg(sentence))))
    }
}

impl Lake {
    pub(super) async fn open(foundation: &Foundation) -> Result<Self, Failure> {
        let reader = LakeReader::new(foundation.pool.clone(), Arc::clone(&foundation.artifacts));
        let parts = reader.parts(&foundation.settings.tenant).await?;
        Ok(Self { reader, parts })
    }

    /// Sees every pair, each part in its order. A pair lies in exactly one part. For whoever builds on all of them: a
    /// part that can not be read ends it.
    pub(super) async fn each(
        &self,
        what: &'static str,
        see: impl AsyncFnMut(PreferencePair) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let progress = self.progress(what);
        let seen = self.see(see, &progress).await;
        progress.finish();
        seen
    }

    async fn see(
        &self,
        mut see: impl AsyncFnMut(PreferencePair) -> Result<(), Failure>,
        progress: &Progress,
    ) -> Result<(), Failure> {
        for part in &self.parts {
            let pairs = self.reader.read(part).await.map_err(unreadable)?;
            for (number, pair) in pairs.into_iter().enumerate() {
                if number.is_multiple_of(BREATH) {
                    tokio::task::yield_now().await;
                }
                progress.advance(1);
                see(pair).await?;
            }
        }
        Ok(())
    }

    /// Shows `look` what it needs, parts with the newest labels first. For whoever wants to know: a part that can not be
    /// read harms no other.
    pub(super) async fn look<L: Look>(&self, what: &'static str, look: &mut L) -> Result<Unread, Failure> {
        let progress = self.progress(what);
        let seen = self.look_at(look, &progress).await;
        progress.finish();
        seen
    }

    async fn look_at<L: Look>(&self, look: &mut L, progress: &Progress) -> Result<Unread, Failure> {
        let mut newest_first: Vec<&LakePart> = self.parts.iter().collect();
        newest_first.sort_by(|one, other| {
            other.max_labeled_at.cmp(&one.max_labeled_at).then_with(|| one.part_id.cmp(&other.part_id))
        });
        let mut unread = Unread::default();
        for part in newest_first {
            if look.needs(part) {
                let pairs = if L::NEEDS_TEXT { self.reader.read(part).await } else { self.reader.facts(part).await };
                match pairs {
                    Ok(pairs) => pairs.into_iter().for_each(|pair| look.see(pair)),
                    Err(LakeError::BadPart(bad)) => unread.add(&bad),
                    Err(error) => return Err(unreadable(error)),
                }
            }
            progress.advance(part.pairs);
        }
        Ok(unread)
    }

    fn progress(&self, what: &'static str) -> Progress {
        let progress = Progress::new();
        progress.begin(what, Some(self.parts.iter().map(|part| part.pairs).sum()));
        progress
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
        let mut sought = Sought { beginning, found: None, others: 0 };
        let unread = self.look("looking for the pair", &mut sought).await?;
        match (sought.found, sought.others) {
            (Some(found), 0) => Ok(found),
            (Some(_), others) => {
                let count = others + 1;
                Err(Failure::refused(format!("{count} pairs have ids that begin with {id}; give more of it")))
            }
            (None, _) => Err(Failure::refused(match unread.sentence() {
                Some(sentence) => format!("pair {id} is in no part of the lake that can be read: {sentence}"),
                None => format!(
                    "there is no pair {id} in the lake; `flywheel pairs list` names those that are, and those of erased \
                     people leave it"
                ),
            })),
        }
    }
}

/// A pair that is looked for by the beginning of its id.
struct Sought {
    beginning: String,
    found: Option<PreferencePair>,
    others: u64,
}

impl Look for Sought {
    const NEEDS_TEXT: bool = true;

    fn needs(&self, _: &LakePart) -> bool {
        self.found.is_none() || self.beginning.len() < SHOWN_DIGITS
    }

    fn see(&mut self, pair: PreferencePair) {
        if !pair.pair_id.to_string().starts_with(&self.beginning) {
            return;
        }
        match &self.found {
            None => self.found = Some(pair),
            Some(found) if found.pair_id == pair.pair_id => {}
            Some(_) => self.others += 1,
        }
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
    use events::Timestamp;
    use labeler::lake::PartFault;

    use super::*;
    use crate::pairs::fixture::{pair, part};

    #[test]
    fn an_unknown_reason_is_refused_with_those_that_there_are() {
        assert!(matches!(reason_of("typed_against"), Ok(PairReason::TypedAgainst)));
        let Err(Failure::Refused(sentence)) = reason_of("liked") else { panic!("expected a refusal") };
        assert!(sentence.contains("\"liked\"") && sentence.contains("accepted_then_modified"), "{sentence}");
    }

    #[test]
    fn parts_without_what_is_asked_for_are_not_read() {
        let arguments = |language: Option<&str>, from: Option<i64>| PairFilterArgs {
            reason: None,
            language: language.map(str::to_owned),
            audience: None,
            labeled_from: from.map(Timestamp::from_seconds),
            labeled_before: None,
        };
        let may_hold = |arguments: PairFilterArgs| Filter::new(&arguments).unwrap().may_hold(&part(100, 200));
        assert!(may_hold(arguments(None, None)) && may_hold(arguments(Some("rust"), Some(200))));
        assert!(!may_hold(arguments(Some("go"), None)) && !may_hold(arguments(None, Some(201))));
    }

    #[test]
    fn a_time_that_ends_before_it_begins_is_refused() {
        let filter = |from, before| {
            Filter::new(&PairFilterArgs {
                reason: None,
                language: None,
                audience: None,
                labeled_from: Some(Timestamp::from_seconds(from)),
                labeled_before: Some(Timestamp::from_seconds(before)),
            })
        };
        assert!(filter(100, 101).is_ok());
        for before in [100, 99] {
            let Err(Failure::Refused(sentence)) = filter(100, before) else { panic!("expected a refusal") };
            assert!(sentence.contains("--labeled-from 1970-01-01T00:01:40"), "{sentence}");
        }
    }

    #[test]
    fn an_id_as_listed_is_looked_for_until_it_is_found() {
        let sought = pair(PairReason::Missed, None);
        let id = sought.pair_id.to_string();
        let look = |beginning: &str| {
            let mut look = Sought { beginning: beginning.to_owned(), found: None, others: 0 };
            assert!(look.needs(&part(100, 200)));
            // A lake that holds a pair twice is the audit's matter.
            for pair in [pair(PairReason::Dismissed, None), sought.clone(), sought.clone()] {
                look.see(pair);
            }
            assert_eq!(look.found.as_ref().map(|pair| pair.pair_id), Some(sought.pair_id));
            (look.others, look.needs(&part(100, 200)))
        };
        assert_eq!(look(&id), (0, false));
        assert_eq!(look(&id[..SHOWN_DIGITS]), (0, false), "as it was listed");
        assert_eq!(look(&id[..SHOWN_DIGITS - 1]), (0, true), "another one may begin so");
    }

    #[test]
    fn parts_that_can_not_be_read_are_told_after_what_could_be() {
        assert!(Unread::default().told().is_ok());
        let mut unread = Unread::default();
        for part_id in ["one", "two"] {
            unread.add(&BadPart { part_id: part_id.to_owned(), pairs: 7, fault: PartFault::ObjectMissing });
        }
        let Err(Failure::Broke(error)) = unread.told() else { panic!("expected a failure") };
        let sentence = error.to_string();
        assert!(sentence.starts_with("2 parts of the lake, with 14 pairs, can not be read; the first: lake part one"));
    }
}
