//! What developers mean at an opportunity: every row of the design's label table, and what has no row of its own.

use events::vocabulary::PairReason;

/// What a developer means to do about what serving decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// Tab through everything, and it stays.
    Keeps,
    /// Tab, and one word of it is replaced.
    ModifiesPart,
    /// Tab through the leading actions; the last one is refused and something else is written at its place.
    RewritesLaterStep,
    /// Tab on the first action, Esc at the second, and that place stays as it was.
    Stops,
    /// Tab, and all of it is written anew.
    Rewrites,
    /// Tab, then undo.
    Undoes,
    /// Accept by word, then something else follows.
    TakesPart,
    /// The first action is typed by hand, with or without Esc before.
    TypesThrough,
    /// Esc, then something else is typed there.
    EscapesAndTypes,
    /// Something else is typed while the suggestion is visible.
    TypesAgainst,
    /// Esc, and nothing else.
    Escapes,
    /// The suggestion is left alone.
    Ignores,
    /// The suggestion was gone before it could be read; something else is typed there.
    Overlooks,
    /// Esc, then something is pasted there: whose text that is, nobody knows.
    Pastes,
    /// Nothing was shown, and an edit was wanted.
    MissesHelp,
    /// Nothing was shown, and nothing was wanted.
    WantsNothing,
    /// Esc, then version control puts the file into another state, with other text there: nobody knows whose.
    ChecksOut,
}

impl Meaning {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Keeps,
        Self::ModifiesPart,
        Self::RewritesLaterStep,
        Self::Stops,
        Self::Rewrites,
        Self::Undoes,
        Self::TakesPart,
        Self::TypesThrough,
        Self::EscapesAndTypes,
        Self::TypesAgainst,
        Self::Escapes,
        Self::Ignores,
        Self::Overlooks,
        Self::Pastes,
        Self::MissesHelp,
        Self::WantsNothing,
        Self::ChecksOut,
    ];

    /// What the design's table says of it; none: there must be no label.
    #[must_use]
    pub fn label(self) -> Option<PairReason> {
        match self {
            Self::Keeps => Some(PairReason::AcceptedKept),
            Self::ModifiesPart | Self::RewritesLaterStep | Self::Stops => Some(PairReason::AcceptedThenModified),
            Self::Rewrites | Self::Undoes => Some(PairReason::AcceptedThenUndone),
            Self::TakesPart => Some(PairReason::AcceptedPartially),
            Self::TypesThrough => Some(PairReason::TypedThrough),
            Self::EscapesAndTypes => Some(PairReason::DismissedThenTyped),
            Self::TypesAgainst => Some(PairReason::TypedAgainst),
            Self::Escapes => Some(PairReason::Dismissed),
            Self::MissesHelp => Some(PairReason::Missed),
            Self::WantsNothing => Some(PairReason::SilenceConfirmed),
            Self::Ignores | Self::Overlooks | Self::Pastes | Self::ChecksOut => None,
        }
    }

    /// Whether serving says nothing at such an opportunity.
    #[must_use]
    pub fn is_of_silence(self) -> bool {
        matches!(self, Self::MissesHelp | Self::WantsNothing)
    }

    /// Fewest and most actions that serving proposes: silence still decided about one.
    pub(super) fn actions(self) -> (usize, usize) {
        match self {
            Self::Keeps | Self::ModifiesPart => (1, 3),
            Self::RewritesLaterStep | Self::Stops => (2, 3),
            _ => (1, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_meant_by_somebody() {
        for reason in PairReason::ALL {
            assert!(Meaning::ALL.iter().any(|meaning| meaning.label() == Some(*reason)), "{reason}");
        }
    }
}
