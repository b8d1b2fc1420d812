//! `flywheel pairs list`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use events::{PairId, PreferencePair, Probabilities, Timestamp};
use labeler::lake::LakePart;
use serde::Serialize;

use super::lake::{Filter, Lake, Look, SHOWN_DIGITS};
use crate::cli::PairsListArgs;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::table::{print, print_json, rows_text};

/// What is said of a pair: nothing of its text, and nobody's name.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    pair_id: String,
    reason: &'static str,
    language: String,
    repository: String,
    audience: String,
    weight: f64,
    model: String,
    model_version: i64,
    label_policy_version: i32,
    opportunity_id: String,
    suggestion_id: Option<String>,
    /// -1 when nothing was served.
    action_index: i32,
    has_two_sides: bool,
    divergence_action_index: Option<u32>,
    divergence_byte: Option<u32>,
    altered: bool,
    off_policy: bool,
    probabilities: Probabilities,
    opened_at: i64,
    labeled_at: i64,
    last_signal_at: i64,
}

impl Facts {
    pub(super) fn of(pair: &PreferencePair) -> Self {
        Self {
            pair_id: pair.pair_id.to_string(),
            reason: pair.reason.as_str(),
            language: pair.language.clone(),
            repository: pair.repository.clone(),
            audience: pair.audience.to_string(),
            weight: pair.weight,
            model: pair.model.to_string(),
            model_version: pair.model_version.0,
            label_policy_version: pair.label_policy_version,
            opportunity_id: pair.opportunity_id.to_string(),
            suggestion_id: pair.suggestion_id.map(|id| id.to_string()),
            action_index: pair.action_index,
            has_two_sides: pair.divergence.is_some(),
            divergence_action_index: pair.divergence.map(|point| point.action_index),
            divergence_byte: pair.divergence.map(|point| point.byte),
            altered: pair.altered,
            off_policy: pair.off_policy,
            probabilities: pair.probabilities,
            opened_at: pair.opened_at.as_micros(),
            labeled_at: pair.labeled_at.as_micros(),
            last_signal_at: pair.last_signal_at.as_micros(),
        }
    }
}

/// Where a pair stands in the list: the newest label first, of equals the lowest id. Pairs do not change, so a place
/// stays one while others come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    labeled_at: Reverse<Timestamp>,
    pair_id: PairId,
}

impl Place {
    fn of(pair: &PreferencePair) -> Self {
        Self { labeled_at: Reverse(pair.labeled_at), pair_id: pair.pair_id }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.labeled_at.0.as_micros(), self.pair_id)
    }
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let parsed = text.split_once(':').and_then(|(labeled_at, pair_id)| {
            let labeled_at = Reverse(Timestamp::from_micros(labeled_at.parse().ok()?));
            Some(Self { labeled_at, pair_id: pair_id.parse().ok()? })
        });
        parsed.ok_or("expected LABELED_AT:PAIR_ID of the last pair before, with all digits of its id")
    }
}

/// The first pairs of the list behind a place: no more in memory than are asked for.
struct Page {
    filter: Filter,
    after: Option<Place>,
    limit: usize,
    pairs: BTreeMap<Place, PreferencePair>,
}

impl Page {
    /// The last of a full page.
    fn last(&self) -> Option<&Place> {
        self.pairs.last_key_value().map(|(place, _)| place).filter(|_| self.pairs.len() >= self.limit)
    }
}

impl Look for Page {
    const NEEDS_TEXT: bool = false;

    fn needs(&self, part: &LakePart) -> bool {
        self.filter.may_hold(part)
            && self.after.is_none_or(|after| part.min_labeled_at <= after.labeled_at.0)
            && self.last().is_none_or(|last| part.max_labeled_at >= last.labeled_at.0)
    }

    fn see(&mut self, pair: PreferencePair) {
        let place = Place::of(&pair);
        let is_behind = self.after.is_none_or(|after| after < place);
        if !is_behind || self.last().is_some_and(|last| *last < place) || !self.filter.takes(&pair) {
            return;
        }
        self.pairs.insert(place, PreferencePair { sealed: None, ..pair });
        if self.pairs.len() > self.limit {
            self.pairs.pop_last();
        }
    }
}

pub(super) async fn run(foundation: &Foundation, arguments: &PairsListArgs) -> Result<(), Failure> {
    let mut page = Page {
        filter: Filter::new(&arguments.filter)?,
        after: arguments.after,
        limit: usize::try_from(arguments.limit).unwrap_or(usize::MAX),
        pairs: BTreeMap::new(),
    };
    let unread = Lake::open(foundation).await?.look("reading pairs", &mut page).await?;
    if arguments.list.json {
        let facts: Vec<Facts> = page.pairs.values().map(Facts::of).collect();
        print_json(&facts)?;
    } else {
        print(&text(&page))?;
    }
    unread.told()
}

fn text(page: &Page) -> String {
    let rows = page.pairs.values().map(|pair| {
        let sides = if pair.divergence.is_some() { "two" } else { "one" };
        vec![
            pair.pair_id.to_string().chars().take(SHOWN_DIGITS).collect(),
            pair.labeled_at.to_string(),
            pair.reason.to_string(),
            sides.to_owned(),
            pair.weight.to_string(),
            pair.language.clone(),
            pair.repository.clone(),
            format!("{} {}", pair.model, pair.model_version.0),
            pair.label_policy_version.to_string(),
        ]
    });
    let header = ["pair", "labeled", "reason", "sides", "weight", "language", "repository", "model", "policy"];
    let mut text = rows_text(&header, rows.collect(), "no such pairs");
    if let Some(last) = page.last() {
        text.push_str(&format!("\n\nthere may be more: --after {last}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use events::PairReason;

    use super::*;
    use crate::cli::PairFilterArgs;
    use crate::pairs::fixture::{pair, part};

    fn page(limit: usize, after: Option<Place>) -> Page {
        let arguments = PairFilterArgs {
            reason: None,
            language: Some("rust".to_owned()),
            audience: None,
            labeled_from: None,
            labeled_before: None,
        };
        Page { filter: Filter::new(&arguments).unwrap(), after, limit, pairs: BTreeMap::new() }
    }

    /// Two pairs of each second.
    fn pairs() -> Vec<PreferencePair> {
        let of = |second: i64, reason: PairReason| PreferencePair {
            labeled_at: Timestamp::from_seconds(second),
            pair_id: PairId::derive(
                &events::TenantId::default(),
                pair(reason, None).opportunity_id,
                None,
                -1,
                reason.as_str(),
                i32::try_from(second).unwrap(),
            ),
            ..pair(reason, None)
        };
        (0..10).flat_map(|second| [of(second, PairReason::Missed), of(second, PairReason::Dismissed)]).collect()
    }

    #[test]
    fn pages_follow_each_other_whatever_the_order_of_the_lake() {
        let mut expected: Vec<Place> = pairs().iter().map(Place::of).collect();
        expected.sort();
        assert_eq!(expected[0].labeled_at.0, Timestamp::from_seconds(9), "the newest first");
        for is_backwards in [false, true] {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let mut page = page(3, after);
                let mut lake = pairs();
                if is_backwards {
                    lake.reverse();
                }
                lake.into_iter().for_each(|pair| page.see(pair));
                assert!(page.pairs.values().all(|pair| pair.sealed.is_none()));
                listed.extend(page.pairs.keys().copied());
                // As it is printed and given again.
                let Some(last) = page.last() else { break };
                after = Some(last.to_string().parse().unwrap());
            }
            assert_eq!(listed, expected);
        }
    }

    #[test]
    fn parts_before_and_behind_a_page_are_not_read() {
        let mut page = page(2, None);
        assert!(page.needs(&part(0, 1)));
        for pair in pairs() {
            page.see(pair);
        }
        assert!(!page.needs(&part(0, 8)), "the page is full of what was labeled at 9");
        assert!(page.needs(&part(0, 9)), "of equals the lowest id comes first");
        page.after = page.last().copied();
        page.pairs.clear();
        assert!(!page.needs(&part(10, 11)) && page.needs(&part(9, 11)));
    }

    #[test]
    fn a_place_is_read_whole_or_not_at_all() {
        let place = Place::of(&pair(PairReason::Missed, None));
        assert_eq!(place.to_string().parse::<Place>(), Ok(place));
        for wrong in ["", "1", "1:", "1:5f2c9e0a1b7d", "noon:5f2c"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    /// What docs/pairs.md promises to programs.
    #[test]
    fn facts_in_json() {
        let pair = pair(PairReason::TypedAgainst, Some(4));
        let expected = serde_json::json!({
            "pair_id": pair.pair_id.to_string(),
            "reason": "typed_against",
            "language": "rust",
            "repository": "acme/shop",
            "audience": "everyone",
            "weight": 0.5,
            "model": "edit",
            "model_version": 1,
            "label_policy_version": 1,
            "opportunity_id": "0190f3c0-7b5a-7c3e-9d51-6f2f4a1b2c3d",
            "suggestion_id": null,
            "action_index": -1,
            "has_two_sides": true,
            "divergence_action_index": 0,
            "divergence_byte": 4,
            "altered": false,
            "off_policy": false,
            "probabilities": {
                "arm_probability": 1.0, "p_show": 1.0, "log_p_text": 0.0, "gate_score": 0.5, "threshold": 0.5,
                "explored": false,
            },
            "opened_at": 1_800_000_000_000_000_i64,
            "labeled_at": 1_800_000_300_000_000_i64,
            "last_signal_at": 1_800_000_100_000_000_i64,
        });
        assert_eq!(serde_json::to_value(Facts::of(&pair)).unwrap(), expected);
    }

    #[test]
    fn a_list_says_by_which_model_and_policy() {
        let mut page = page(1, None);
        page.see(pair(PairReason::TypedAgainst, Some(4)));
        let shown = text(&page);
        let (header, row) = (shown.lines().next().unwrap(), shown.lines().nth(1).unwrap());
        assert_eq!(header.split_whitespace().skip(6).collect::<Vec<_>>(), ["repository", "model", "policy"]);
        assert_eq!(row.split_whitespace().skip(6).collect::<Vec<_>>(), ["acme/shop", "edit", "1", "1"]);
        assert!(shown.contains(&format!("--after {}", page.last().unwrap())), "{shown}");
    }
}
