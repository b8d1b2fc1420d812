//! The enumerations that events, tables and metrics share. Each carries `unknown`, the Avro default for symbols that a
//! newer writer knows and this reader does not.

use serde::{Deserialize, Serialize};

macro_rules! symbols {
    ($(#[$doc:meta])* $name:ident { $($(#[$symbol_doc:meta])* $symbol:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$symbol_doc])* #[serde(rename = $text)] $symbol,)+
            /// Written by a newer release.
            #[serde(rename = "unknown", other)]
            Unknown,
        }

        impl $name {
            /// All symbols but `unknown`.
            pub const ALL: &'static [Self] = &[$(Self::$symbol,)+];

            /// The symbol as Avro, SQL and metrics write it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$symbol => $text,)+
                    Self::Unknown => "unknown",
                }
            }

            /// The symbol that `text` names; `unknown` for any other text.
            #[must_use]
            pub fn from_symbol(text: &str) -> Self {
                match text {
                    $($text => Self::$symbol,)+
                    _ => Self::Unknown,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    };
}

symbols!(
    /// What an event reports.
    EventKind {
        /// Serving delivered a decision (recorded by serving alone).
        Exposure = "exposure",
        /// The editor showed a suggestion.
        SuggestionShown = "suggestion_shown",
        /// The suggestion left the screen without Tab or Esc.
        SuggestionHidden = "suggestion_hidden",
        /// Tab, in whole or up to a cumulative length.
        SuggestionAccepted = "suggestion_accepted",
        /// Esc aimed at the suggestion.
        SuggestionDismissed = "suggestion_dismissed",
        /// The document changed.
        DocumentEdited = "document_edited",
        /// What stands in the region 30, 120 or 300 s later.
        RegionLook = "region_look",
        /// The session ended.
        SessionEnded = "session_ended",
    }
);

symbols!(
    /// Where a change of a document came from. Only `typed` and `undo` can become chosen text.
    Origin {
        /// Keystrokes.
        Typed = "typed",
        /// A suggestion, ours or another tool's, or an agent that writes in the editor.
        Suggestion = "suggestion",
        /// The clipboard.
        Paste = "paste",
        /// Undo.
        Undo = "undo",
        /// Redo.
        Redo = "redo",
        /// A formatter.
        Formatter = "formatter",
        /// Another program changed the file, such as version control.
        External = "external",
    }
);

symbols!(
    /// What a person agreed to.
    ConsentTier {
        /// Nothing: a content-free stub is published and filtered at the door.
        None = "none",
        /// Numbers only: code fields are removed.
        Usage = "usage",
        /// The whole event.
        Code = "code",
    }
);

symbols!(
    /// What serving decided at an opportunity.
    Decision {
        /// At least the first action was flushed.
        Shown = "shown",
        /// The gate stayed closed, or there was nothing to say.
        Silent = "silent",
        /// Showable, and held back by exploration.
        Withheld = "withheld",
    }
);

symbols!(
    /// Which side of a rollout answered.
    Arm {
        /// The promoted version.
        Current = "current",
        /// The candidate.
        Canary = "canary",
        /// The pinned reference version, for persons of the hold-back.
        Holdback = "holdback",
    }
);

symbols!(
    /// What the developer did with the first action of a shown suggestion.
    Signal {
        /// Tab.
        Accepted = "accepted",
        /// Accepted, then parts or later steps changed.
        PartiallyEdited = "partially_edited",
        /// Esc aimed at it.
        Rejected = "rejected",
        /// Everything else.
        Ignored = "ignored",
        /// Visible for less than 250 ms.
        Superseded = "superseded",
        /// Silent or withheld: nothing was shown.
        NotShown = "not_shown",
    }
);

symbols!(
    /// What became of an event after the door.
    Disposition {
        /// Scrubbed and published.
        Clean = "clean",
        /// Left out on purpose, with the reason.
        Filtered = "filtered",
        /// Scrubbing refused it.
        Quarantined = "quarantined",
        /// A step could not process it.
        DeadLettered = "dead_lettered",
        /// Removed with its person.
        Erased = "erased",
        /// The log lost it before it was read.
        Lost = "lost",
    }
);

symbols!(
    /// Whether the receipt of a signal holds.
    ReceiptState {
        /// Signed by this tenant's key, for this session's opportunity.
        Valid = "valid",
        /// None was sent.
        Absent = "absent",
        /// Forged, foreign or unreadable.
        Invalid = "invalid",
    }
);

symbols!(
    /// Why a preference pair exists: the row of the label table that matched.
    PairReason {
        /// Tab, later steps or parts modified.
        AcceptedThenModified = "accepted_then_modified",
        /// Tab, then undone, deleted or rewritten before close.
        AcceptedThenUndone = "accepted_then_undone",
        /// Tab, still there at close.
        AcceptedKept = "accepted_kept",
        /// Accepted up to a word or line.
        AcceptedPartially = "accepted_partially",
        /// Esc or ignored, then the same first action typed by hand.
        TypedThrough = "typed_through",
        /// Esc, then something else typed there.
        DismissedThenTyped = "dismissed_then_typed",
        /// Visible, then typed against it.
        TypedAgainst = "typed_against",
        /// Esc, then nothing.
        Dismissed = "dismissed",
        /// Silent or withheld, then an edit there before close.
        Missed = "missed",
        /// Silent, passed, no edit there: calibration data of weight 0, in no training batch, only in evaluations.
        SilenceConfirmed = "silence_confirmed",
    }
);

symbols!(
    /// What a list of edit actions does to the text.
    EditPattern {
        /// It adds text in one place.
        Insert = "insert",
        /// It removes text in one place.
        Delete = "delete",
        /// It puts other text in one place.
        Replace = "replace",
        /// It changes several places.
        SeveralPlaces = "several_places",
    }
);
