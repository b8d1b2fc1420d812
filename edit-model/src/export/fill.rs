//! Fill in the middle: the answer is what belongs between the text before a region and the text after it.
//!
//! The text that the region holds is not shown: it is what the answer takes the place of.
//!
//! The marks and where they stand are published. Ours is that an edit is a file beside the others, called `P.diff`; and of
//! the first `StarCoder`, which was trained on one file at a time, that there are several, and no `<gh_stars>` behind their
//! names.

use super::base::BaseTokenizer;
use super::neutral::Draft;
use super::view::{View, push_edit};

/// What an edit is called, behind the name of its file.
const DIFFERENCE: &str = ".diff";

/// Which of the published forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// `<|repo_name|>R` line break, files as `<|file_sep|>P` line break, then
    /// `<|fim_prefix|>..<|fim_suffix|>..<|fim_middle|>`.
    QwenCoder,
    /// `<fim_prefix><reponame>R`, files as `<filename>P` line break, then `..<fim_suffix>..<fim_middle>`: the model saw
    /// metadata as part of the file that is filled.
    Starcoder,
    /// `<repo_name>R`, files as `<file_sep>P` line break, then
    /// `<file_sep><fim_prefix>P` line break `..<fim_suffix>..<fim_middle>`.
    Starcoder2,
}

impl Fill {
    /// The form of the `StarCoder` that a tokenizer belongs to.
    pub(super) fn of_starcoder(base: &BaseTokenizer) -> Self {
        if base.control_token("<file_sep>").is_some() { Self::Starcoder2 } else { Self::Starcoder }
    }

    /// The tokens that it needs.
    pub(super) fn marks(self) -> &'static [&'static str] {
        match self {
            Self::QwenCoder => &["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"],
            Self::Starcoder => &["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<reponame>", "<filename>"],
            Self::Starcoder2 => &["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<repo_name>", "<file_sep>"],
        }
    }

    /// Writes the prompt.
    pub(super) fn write(self, view: &View<'_>, draft: &mut Draft<'_>) {
        let context = view.context;
        match self {
            Self::QwenCoder => {
                draft.mark("<|repo_name|>");
                draft.push(&context.repository);
                draft.push("\n");
                for edit in &view.edits {
                    draft.mark("<|file_sep|>");
                    push_edit(draft, edit, DIFFERENCE);
                }
                draft.mark("<|file_sep|>");
                draft.push(&context.path);
                draft.push("\n");
                draft.mark("<|fim_prefix|>");
            }
            Self::Starcoder => {
                draft.mark("<fim_prefix>");
                draft.mark("<reponame>");
                draft.push(&context.repository);
                for edit in &view.edits {
                    draft.mark("<filename>");
                    push_edit(draft, edit, DIFFERENCE);
                }
                draft.mark("<filename>");
                draft.push(&context.path);
                draft.push("\n");
            }
            Self::Starcoder2 => {
                draft.mark("<repo_name>");
                draft.push(&context.repository);
                for edit in &view.edits {
                    draft.mark("<file_sep>");
                    push_edit(draft, edit, DIFFERENCE);
                }
                draft.mark("<file_sep>");
                draft.mark("<fim_prefix>");
                draft.push(&context.path);
                draft.push("\n");
            }
        }
        let (suffix, middle) = match self {
            Self::QwenCoder => ("<|fim_suffix|>", "<|fim_middle|>"),
            Self::Starcoder | Self::Starcoder2 => ("<fim_suffix>", "<fim_middle>"),
        };
        draft.push(view.before);
        draft.mark(suffix);
        draft.push(view.after);
        draft.mark(middle);
    }
}
