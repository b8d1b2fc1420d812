//! The fields of every kind of event, and what they must hold together.

use events::OffsetEncoding;
use events::wire::{ClientEvent, ClientEventBody};

use crate::batch::{LARGEST_NUMBER, Refusal};

/// What a field holds.
pub(crate) enum Kind {
    /// From 0 to `most`.
    Number {
        most: u64,
    },
    Uuid,
    Origin,
    Path,
    Text,
    /// Any text: what is no receipt is an invalid one.
    Receipt,
}

/// A field.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
}

const fn required(name: &'static str, kind: Kind) -> Spec {
    Spec { name, kind, required: true }
}

const fn optional(name: &'static str, kind: Kind) -> Spec {
    Spec { name, kind, required: false }
}

const LARGE: Kind = Kind::Number { most: LARGEST_NUMBER };
const SMALL: Kind = Kind::Number { most: 10_000 };

const OPPORTUNITY: Spec = required("opportunity_id", Kind::Uuid);
const SUGGESTION: Spec = optional("suggestion_id", Kind::Uuid);
const RECEIPT: Spec = optional("receipt", Kind::Receipt);
const ACTION: Spec = required("action_index", SMALL);

/// Fields of every event. (`kind` is looked at first.)
pub(crate) const COMMON: &[Spec] = &[required("sequence", LARGE), required("monotonic_ms", LARGE)];

/// The other fields of an event of this kind; none for a kind that clients do not report.
pub(crate) fn of_kind(kind: &str) -> Option<&'static [Spec]> {
    Some(match kind {
        "suggestion_shown" => const { &[OPPORTUNITY, SUGGESTION, RECEIPT, required("actions_visible", SMALL)] },
        "suggestion_hidden" => const { &[OPPORTUNITY, SUGGESTION, RECEIPT, required("visible_ms", LARGE)] },
        "suggestion_accepted" => {
            const { &[OPPORTUNITY, SUGGESTION, RECEIPT, ACTION, optional("accepted_length", LARGE)] }
        }
        "suggestion_dismissed" => const { &[OPPORTUNITY, SUGGESTION, RECEIPT, ACTION] },
        "document_edited" => {
            const {
                &[
                    required("path", Kind::Path),
                    required("start", LARGE),
                    required("end", LARGE),
                    required("old_text", Kind::Text),
                    required("new_text", Kind::Text),
                    required("origin", Kind::Origin),
                    SUGGESTION,
                ]
            }
        }
        "region_look" => {
            const {
                &[
                    OPPORTUNITY,
                    SUGGESTION,
                    RECEIPT,
                    required("look_delay_s", SMALL),
                    required("path", Kind::Path),
                    required("text", Kind::Text),
                ]
            }
        }
        "session_ended" => &[],
        _ => return None,
    })
}

/// What single fields can not tell.
pub(crate) fn check_together(event: &ClientEvent, encoding: OffsetEncoding) -> Result<(), Refusal> {
    if event.sequence == 0 {
        return Err(Refusal::new("bad_sequence", "`sequence` counts from 1"));
    }
    match &event.body {
        ClientEventBody::DocumentEdited { start, end, old_text, .. } => {
            if end < start {
                return Err(Refusal::new("bad_range", "`end` is before `start`"));
            }
            let units: usize = match encoding {
                OffsetEncoding::Utf8 => old_text.len(),
                OffsetEncoding::Utf16 => old_text.chars().map(char::len_utf16).sum(),
                OffsetEncoding::Unknown => {
                    return Err(Refusal::new("unknown_symbol", "`offset_encoding`: expected \"utf8\" or \"utf16\""));
                }
            };
            if end - start != units as u64 {
                let detail = "`old_text` does not have the length of `start` to `end` in `offset_encoding`";
                return Err(Refusal::new("range_mismatch", detail));
            }
        }
        ClientEventBody::RegionLook { look_delay_s, .. } if !matches!(look_delay_s, 30 | 120 | 300) => {
            return Err(Refusal::new("unknown_symbol", "`look_delay_s`: expected 30, 120 or 300"));
        }
        _ => {}
    }
    Ok(())
}
