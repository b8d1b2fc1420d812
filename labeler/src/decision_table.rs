//! The label table of the design, in code: rows from top to bottom, the first that matches wins.

use events::PairReason;

/// What Tab did to the suggestion, if it was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Acceptance {
    /// No Tab.
    None,
    /// Up to a word or line.
    Partial,
    /// At least the whole first action.
    Whole,
}

/// What became of accepted text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Nothing was accepted, or it is not known.
    Unknown,
    /// It stands there, equal after lexing.
    Kept,
    /// Parts of it or later visible steps were changed, at least half of it stands.
    Modified,
    /// Undone, deleted or rewritten: less than half of it stands.
    Undone,
}

/// What the developer could see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Serving stayed silent or withheld it.
    NotServed,
    /// Served, but no sign that it was ever on the screen.
    Unseen,
    /// On the screen for less than 250 ms, or another answer of the opportunity came after it.
    Superseded,
    /// On the screen.
    Visible,
}

/// What the developer's own hand (typed text and undo) left in the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Typed {
    /// Nothing that stands.
    Nothing,
    /// The suggestion's first action.
    SameFirstAction,
    /// Something else, complete.
    SomethingElse,
    /// Something whose origin or place is not clear, or that was not completed.
    Unclear,
}

/// Everything that the table looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Evidence {
    /// See [`Acceptance`].
    pub acceptance: Acceptance,
    /// See [`Fate`].
    pub fate: Fate,
    /// See [`Visibility`].
    pub visibility: Visibility,
    /// Esc aimed at the first action that was not accepted.
    pub dismissed: bool,
    /// See [`Typed`].
    pub typed: Typed,
    /// The next visible step was dismissed, or its place was visited, after the ones before it were accepted; its place
    /// is unchanged.
    pub stopped: bool,
    /// Whether anything in the whole window was changed after the decision, by whatever origin, or nobody looked.
    pub window_changed: bool,
    /// Whether the opportunity is closed: what stands now stands at close.
    pub closed: bool,
}

impl Evidence {
    /// Whether a row may ask what was typed.
    #[must_use]
    pub fn asks_what_was_typed(&self) -> bool {
        self.acceptance != Acceptance::None || !matches!(self.visibility, Superseded | Unseen) || self.dismissed
    }

    /// Whether a row may ask what became of accepted text, what was typed being known.
    #[must_use]
    pub fn asks_for_fate(&self) -> bool {
        self.acceptance == Whole && (self.closed || self.typed == SomethingElse)
    }

    /// Whether a row may ask about STOP, what was typed being known.
    #[must_use]
    pub fn asks_whether_stopped(&self) -> bool {
        self.acceptance == Whole && self.closed && self.typed == Nothing
    }

    /// Whether a row may ask about changes of the window, what was typed being known.
    #[must_use]
    pub fn asks_for_changes(&self) -> bool {
        self.acceptance == Acceptance::None && self.visibility == NotServed && self.closed && self.typed == Nothing
    }
}

/// What a row concludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Label {
    /// Chosen = what the developer made, rejected = the suggestion.
    Correction(PairReason),
    /// The suggestion was wrong, and what would have been right is not known.
    Rejection(PairReason),
    /// The suggestion (or what of it was accepted) was right.
    Positive(PairReason),
    /// Chosen = what was typed, rejected = `NO_EDIT`.
    Missed,
    /// Calibration data of weight 0, no pair.
    SilenceConfirmed,
    /// No label, and none will come.
    NoLabel,
    /// Not decided yet: wait for the next pause, or for close.
    Wait,
}

impl Label {
    /// The reason that a pair of this label carries.
    #[must_use]
    pub fn reason(self) -> Option<PairReason> {
        match self {
            Self::Correction(reason) | Self::Rejection(reason) | Self::Positive(reason) => Some(reason),
            Self::Missed => Some(PairReason::Missed),
            Self::SilenceConfirmed => Some(PairReason::SilenceConfirmed),
            Self::NoLabel | Self::Wait => None,
        }
    }
}

/// Code of the row of what was not seen, or not for long enough.
pub const SUPERSEDED: &str = "superseded";

/// One row.
pub struct Row {
    /// Its name in metrics. No two rows share one.
    pub code: &'static str,
    /// What happened, in the words of the design.
    pub what_happened: &'static str,
    /// Whether it did.
    pub matches: fn(&Evidence) -> bool,
    /// What it teaches.
    pub label: Label,
}

use Acceptance::{Partial, Whole};
use Fate::{Kept, Modified, Undone};
use Label::{Correction, Missed, NoLabel, Positive, Rejection, SilenceConfirmed, Wait};
use PairReason as Reason;
use Typed::{Nothing, SameFirstAction, SomethingElse};
use Visibility::{NotServed, Superseded, Unseen, Visible};

/// The table. Corrections are concluded when they settle, everything else at close; the rows say so by `closed`.
#[rustfmt::skip]
pub static TABLE: &[Row] = &[
    Row { code: "accepted_then_modified",
          what_happened: "Tab, later steps or parts modified",
          matches: |e| e.acceptance == Whole && e.fate == Modified && e.typed == SomethingElse,
          label: Correction(Reason::AcceptedThenModified) },
    Row { code: "accepted_then_retyped",
          what_happened: "Tab, undone or deleted or rewritten, and something else typed there",
          matches: |e| e.acceptance == Whole && e.fate == Undone && e.typed == SomethingElse,
          label: Correction(Reason::AcceptedThenUndone) },
    Row { code: "accepted_then_stopped",
          what_happened: "Tab, then Esc or work at the next visible step, whose place is unchanged at close",
          matches: |e| e.acceptance == Whole && e.stopped && e.typed == Nothing && e.closed,
          label: Correction(Reason::AcceptedThenModified) },
    Row { code: "accepted_then_undone",
          what_happened: "Tab, undone or deleted or rewritten before close",
          // Whoever else took it away says nothing about it.
          matches: |e| e.acceptance == Whole && e.fate == Undone && e.typed != Typed::Unclear && e.closed,
          label: Rejection(Reason::AcceptedThenUndone) },
    Row { code: "accepted_kept",
          what_happened: "Tab, still there at close",
          matches: |e| e.acceptance == Whole && e.fate == Kept && e.closed,
          label: Positive(Reason::AcceptedKept) },
    Row { code: "accepted_partially",
          what_happened: "partial accept, then something typed next",
          matches: |e| e.acceptance == Partial && e.typed == SomethingElse,
          label: Correction(Reason::AcceptedPartially) },
    Row { code: "acceptance_unclear",
          what_happened: "accepted in whole or part, and not known what of it stands, what was typed next or by whom",
          matches: |e| e.acceptance != Acceptance::None && e.closed,
          label: NoLabel },
    Row { code: "acceptance_open",
          what_happened: "accepted, not closed yet",
          matches: |e| e.acceptance != Acceptance::None,
          label: Wait },
    Row { code: SUPERSEDED,
          what_happened: "visible for less than 250 ms, or never seen: superseded",
          matches: |e| matches!(e.visibility, Superseded | Unseen) && !e.dismissed,
          label: NoLabel },
    Row { code: "typed_through",
          what_happened: "Esc aimed at it, or ignored, then the same first action typed by hand",
          matches: |e| e.visibility == Visible && e.typed == SameFirstAction && e.closed,
          label: Positive(Reason::TypedThrough) },
    Row { code: "typing_through",
          what_happened: "the same first action typed by hand, not closed yet",
          matches: |e| e.visibility == Visible && e.typed == SameFirstAction,
          label: Wait },
    Row { code: "dismissed_then_typed",
          what_happened: "Esc aimed at it, then something else typed there",
          matches: |e| e.dismissed && e.typed == SomethingElse,
          label: Correction(Reason::DismissedThenTyped) },
    Row { code: "typed_against",
          what_happened: "visible, then typed against it",
          matches: |e| e.visibility == Visible && e.typed == SomethingElse,
          label: Correction(Reason::TypedAgainst) },
    Row { code: "dismissed",
          what_happened: "Esc aimed at it, then nothing",
          matches: |e| e.dismissed && e.typed == Nothing && e.closed,
          label: Rejection(Reason::Dismissed) },
    Row { code: "missed",
          what_happened: "silent (or withheld), then an edit there before close",
          matches: |e| e.visibility == NotServed && matches!(e.typed, SomethingElse | SameFirstAction),
          label: Missed },
    Row { code: "silence_confirmed",
          what_happened: "silent, passed, no edit there",
          matches: |e| e.visibility == NotServed && e.typed == Nothing && !e.window_changed && e.closed,
          label: SilenceConfirmed },
    Row { code: "nothing_to_learn",
          what_happened: "visible, no edit there, no Esc; superseded; origin unclear",
          matches: |e| e.closed,
          label: NoLabel },
    Row { code: "open",
          what_happened: "not closed yet",
          matches: |_| true,
          label: Wait },
];

/// The first row that matches.
#[must_use]
pub fn decide(evidence: &Evidence) -> &'static Row {
    // The last row matches everything.
    TABLE.iter().find(|row| (row.matches)(evidence)).unwrap_or(&TABLE[TABLE.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_evidence() -> Vec<Evidence> {
        let mut all = Vec::new();
        for acceptance in [Acceptance::None, Partial, Whole] {
            for fate in [Fate::Unknown, Kept, Modified, Undone] {
                for visibility in [NotServed, Unseen, Superseded, Visible] {
                    for typed in [Nothing, SameFirstAction, SomethingElse, Typed::Unclear] {
                        for bits in 0..16_u8 {
                            let bit = |index: u8| bits & (1 << index) != 0;
                            all.push(Evidence {
                                acceptance,
                                fate,
                                visibility,
                                dismissed: bit(0),
                                typed,
                                window_changed: bit(1),
                                closed: bit(2),
                                stopped: bit(3),
                            });
                        }
                    }
                }
            }
        }
        all
    }

    #[test]
    fn every_row_can_match() {
        for (index, row) in TABLE.iter().enumerate() {
            let reached = every_evidence().iter().any(|evidence| std::ptr::eq(decide(evidence), &TABLE[index]));
            assert!(reached, "no evidence reaches: {}", row.what_happened);
            assert!(TABLE[..index].iter().all(|other| other.code != row.code), "{} twice", row.code);
        }
    }

    /// Whoever makes evidence leaves out what is not asked for.
    #[test]
    fn what_is_not_asked_for_decides_nothing() {
        for evidence in every_evidence() {
            let mut others = vec![evidence];
            if !evidence.asks_what_was_typed() {
                let all = [Nothing, SameFirstAction, SomethingElse, Typed::Unclear];
                others.extend(all.map(|typed| Evidence { typed, ..evidence }));
            }
            if !evidence.asks_for_fate() {
                others.extend([Fate::Unknown, Kept, Modified, Undone].map(|fate| Evidence { fate, ..evidence }));
            }
            if !evidence.asks_whether_stopped() {
                others.push(Evidence { stopped: !evidence.stopped, ..evidence });
            }
            if !evidence.asks_for_changes() {
                others.push(Evidence { window_changed: !evidence.window_changed, ..evidence });
            }
            for other in others {
                assert_eq!(decide(&evidence).code, decide(&other).code, "{evidence:?} {other:?}");
            }
        }
    }

    #[test]
    fn nothing_waits_at_close() {
        for evidence in every_evidence().iter().filter(|evidence| evidence.closed) {
            assert_ne!(decide(evidence).label, Wait, "{evidence:?}");
        }
    }

    #[test]
    fn what_was_concluded_before_close_does_not_depend_on_close() {
        for evidence in every_evidence().iter().filter(|evidence| !evidence.closed) {
            let early = decide(evidence).label;
            if matches!(early, Correction(_) | Missed) {
                assert_eq!(decide(&Evidence { closed: true, ..*evidence }).label, early, "{evidence:?}");
            }
        }
    }

    #[test]
    fn unclear_origin_never_makes_chosen_text_and_never_speaks_against_a_suggestion() {
        for evidence in every_evidence().iter().filter(|evidence| evidence.typed == Typed::Unclear) {
            assert!(!matches!(decide(evidence).label, Correction(_) | Rejection(_) | Missed), "{evidence:?}");
        }
    }

    /// The table of the design, row by row.
    #[test]
    fn reads_like_the_design() {
        let visible = Evidence {
            acceptance: Acceptance::None,
            fate: Fate::Unknown,
            visibility: Visible,
            dismissed: false,
            typed: Nothing,
            stopped: false,
            window_changed: false,
            closed: true,
        };
        let accepted = Evidence { acceptance: Whole, fate: Kept, window_changed: true, ..visible };
        let silent = Evidence { visibility: NotServed, ..visible };
        let cases = [
            (Evidence { fate: Modified, typed: SomethingElse, ..accepted }, Correction(Reason::AcceptedThenModified)),
            (Evidence { fate: Undone, typed: SomethingElse, ..accepted }, Correction(Reason::AcceptedThenUndone)),
            (Evidence { fate: Undone, ..accepted }, Rejection(Reason::AcceptedThenUndone)),
            (Evidence { fate: Undone, typed: Typed::Unclear, ..accepted }, NoLabel),
            (Evidence { fate: Modified, typed: Typed::Unclear, ..accepted }, NoLabel),
            (accepted, Positive(Reason::AcceptedKept)),
            (Evidence { stopped: true, ..accepted }, Correction(Reason::AcceptedThenModified)),
            (Evidence { stopped: true, fate: Undone, ..accepted }, Correction(Reason::AcceptedThenModified)),
            (Evidence { acceptance: Partial, typed: SomethingElse, ..accepted }, Correction(Reason::AcceptedPartially)),
            (Evidence { dismissed: true, typed: SameFirstAction, ..visible }, Positive(Reason::TypedThrough)),
            (Evidence { typed: SameFirstAction, ..visible }, Positive(Reason::TypedThrough)),
            (Evidence { dismissed: true, typed: SomethingElse, ..visible }, Correction(Reason::DismissedThenTyped)),
            (Evidence { typed: SomethingElse, ..visible }, Correction(Reason::TypedAgainst)),
            (Evidence { dismissed: true, ..visible }, Rejection(Reason::Dismissed)),
            (Evidence { typed: SomethingElse, ..silent }, Missed),
            (silent, SilenceConfirmed),
            (visible, NoLabel),
            (Evidence { visibility: Superseded, typed: SomethingElse, ..visible }, NoLabel),
            (Evidence { typed: Typed::Unclear, dismissed: true, ..visible }, NoLabel),
            (Evidence { typed: Typed::Unclear, ..silent }, NoLabel),
        ];
        for (evidence, label) in cases {
            assert_eq!(decide(&evidence).label, label, "{evidence:?}");
        }
    }
}
