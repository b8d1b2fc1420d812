//! Tabby's `POST /v1/events`, and what each of them says.
//!
//! | Tabby's event | what is reported |
//! |---|---|
//! | `view` | shown |
//! | `select` | accepted, whole |
//! | `select` with a kind (by word or line; both say `line`) | accepted in part, of unknown length |
//! | `dismiss` | left the screen: *ignored*, or *superseded* when it was visible for less than 250 ms |
//!
//! A plugin sends `dismiss` whenever it asks anew, so it is never taken for a refusal: what this module can say has no
//! word for one.

use std::time::Duration;

use serde::Deserialize;

/// The body of an event. Other fields are skipped.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct TabbyEvent {
    #[serde(rename = "type")]
    kind: String,
    pub(crate) completion_id: String,
    pub(crate) choice_index: u32,
    /// Since the completion became visible, in milliseconds.
    #[serde(default)]
    elapsed: Option<u32>,
}

/// What a client says about a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// It is visible.
    Shown,
    /// Taken as it is.
    Accepted,
    /// A part of it was taken; how much, nobody says.
    AcceptedInPart,
    /// It left the screen.
    Hidden {
        /// How long it was visible.
        visible_ms: u64,
    },
}

impl Said {
    /// Whether the developer took something: the next completion is another decision.
    pub(crate) fn is_accepted(self) -> bool {
        matches!(self, Self::Accepted | Self::AcceptedInPart)
    }

    /// Its name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Accepted => "accepted",
            Self::AcceptedInPart => "accepted_in_part",
            Self::Hidden { .. } => "hidden",
        }
    }
}

/// Why an event says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsaid {
    /// It is not what Tabby documents.
    Unreadable,
    /// An event that nobody knows.
    UnknownType,
    /// It left the screen, and neither does it say when it came there nor did anybody else.
    Unmeasured,
}

impl Unsaid {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::UnknownType => "unknown_type",
            Self::Unmeasured => "unmeasured",
        }
    }
}

impl TabbyEvent {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Unsaid> {
        serde_json::from_slice(body).map_err(|_| Unsaid::Unreadable)
    }

    /// What it says. `has_kind`: whether its address names a kind of selection; `since_view`: how long ago this door
    /// saw the completion become visible.
    pub(crate) fn said(&self, has_kind: bool, since_view: Option<Duration>) -> Result<Said, Unsaid> {
        match self.kind.as_str() {
            "view" => Ok(Said::Shown),
            "select" if has_kind => Ok(Said::AcceptedInPart),
            "select" => Ok(Said::Accepted),
            "dismiss" => {
                let passed = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                let visible_ms = self.elapsed.map(u64::from).or(since_view.map(passed));
                visible_ms.map(|visible_ms| Said::Hidden { visible_ms }).ok_or(Unsaid::Unmeasured)
            }
            _ => Err(Unsaid::UnknownType),
        }
    }
}

/// Whether a query names the kind of a selection.
pub(crate) fn has_select_kind(query: &str) -> bool {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .any(|(name, kind)| name == "select_kind" && !kind.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event(kind: &str, elapsed: Option<u32>) -> TabbyEvent {
        TabbyEvent { kind: kind.to_owned(), completion_id: "cmpl-1".to_owned(), choice_index: 0, elapsed }
    }

    #[test]
    fn every_row_of_the_table() {
        let seen = Some(Duration::from_millis(700));
        let hidden = |visible_ms| Ok(Said::Hidden { visible_ms });
        let rows = [
            ("view", None, false, None, Ok(Said::Shown)),
            ("view", Some(3), true, seen, Ok(Said::Shown)),
            ("select", Some(900), false, seen, Ok(Said::Accepted)),
            ("select", None, false, None, Ok(Said::Accepted)),
            ("select", Some(900), true, seen, Ok(Said::AcceptedInPart)),
            ("dismiss", Some(249), false, seen, hidden(249)),
            ("dismiss", Some(250), true, None, hidden(250)),
            ("dismiss", Some(0), false, seen, hidden(0)),
            ("dismiss", None, false, seen, hidden(700)),
            ("dismiss", None, false, None, Err(Unsaid::Unmeasured)),
            ("Dismiss", Some(1), false, seen, Err(Unsaid::UnknownType)),
            ("", None, false, None, Err(Unsaid::UnknownType)),
        ];
        for (kind, elapsed, has_kind, since_view, expected) in rows {
            assert_eq!(event(kind, elapsed).said(has_kind, since_view), expected, "{kind} {elapsed:?} {has_kind}");
        }
    }

    #[test]
    fn the_body_is_tabbys() {
        let body = json!({ "type": "select", "completion_id": "cmpl-1", "choice_index": 0,
            "view_id": "view-1-at-2", "elapsed": 12 });
        assert_eq!(TabbyEvent::parse(body.to_string().as_bytes()), Ok(event("select", Some(12))));
        let bodies = [
            json!([]),
            json!({ "type": "view", "choice_index": 0 }),
            json!({ "type": "view", "completion_id": 1, "choice_index": 0 }),
            json!({ "type": "view", "completion_id": "a", "choice_index": -1 }),
            json!({ "type": "view", "completion_id": "a", "choice_index": 0, "elapsed": "1" }),
        ];
        for body in bodies {
            assert_eq!(TabbyEvent::parse(body.to_string().as_bytes()), Err(Unsaid::Unreadable), "{body}");
        }
        assert!(has_select_kind("a=b&select_kind=line") && has_select_kind("select_kind=word"));
        assert!(!has_select_kind("select_kind=") && !has_select_kind("") && !has_select_kind("xselect_kind=line"));
    }

    proptest! {
        /// What a word means does not depend on anything but the word, the kind and the time.
        #[test]
        fn only_a_selection_accepts_and_only_a_dismissal_hides(
            kind in prop_oneof![Just("view".to_owned()), Just("select".to_owned()), Just("dismiss".to_owned()), "[a-z]{0,8}"],
            elapsed in any::<Option<u32>>(),
            has_kind: bool,
            since_view in any::<Option<u32>>(),
        ) {
            let since_view = since_view.map(|since| Duration::from_millis(since.into()));
            let said = event(&kind, elapsed).said(has_kind, since_view);
            prop_assert_eq!(said.is_ok_and(Said::is_accepted), kind == "select");
            prop_assert_eq!(said == Ok(Said::AcceptedInPart), kind == "select" && has_kind);
            prop_assert_eq!(said == Ok(Said::Shown), kind == "view");
            let is_measured = elapsed.is_some() || since_view.is_some();
            prop_assert_eq!(matches!(said, Ok(Said::Hidden { .. })), kind == "dismiss" && is_measured);
            if let (Ok(Said::Hidden { visible_ms }), Some(elapsed)) = (said, elapsed) {
                prop_assert_eq!(visible_ms, u64::from(elapsed));
            }
        }
    }
}
