//! Region rewrite: the prompt shows whole lines between two marks, the answer is the same lines as they should be.
//!
//! For bases that were not trained to fill in the middle, or to teach edits that replace text. The marks are named as
//! those of edit models such as Zeta; they are plain text, so any vocabulary that can write code has their tokens. The
//! answer repeats the first mark: a word or a line break would merge with what stands before it in many vocabularies, and
//! `<|` behind a line break does in none of those that split text as GPT-2 or Qwen do.

use super::neutral::Draft;
use super::view::{View, push_edit};

const START: &str = "<|editable_region_start|>";
const END: &str = "<|editable_region_end|>";
const CURSOR: &str = "<|user_cursor_is_here|>";

/// What no text of a developer may hold.
pub(super) const MARKS: [&str; 3] = [START, END, CURSOR];

/// Writes the prompt.
pub(super) fn write(view: &View<'_>, draft: &mut Draft<'_>) {
    let (context, standing) = (view.context, view.region.standing.as_str());
    draft.push("### Recent edits\n");
    for edit in &view.edits {
        push_edit(draft, edit, "");
    }
    draft.push("\n### File\n");
    draft.push(&context.repository);
    draft.push(" ");
    draft.push(&context.path);
    draft.push("\n\n");
    draft.push(view.before);
    draft.mark(START);
    draft.push("\n");
    match view.region.cursor.and_then(|cursor| standing.split_at_checked(cursor)) {
        Some((left, right)) => {
            draft.push(left);
            draft.mark(CURSOR);
            draft.push(right);
        }
        None => draft.push(standing),
    }
    end_line(standing, draft);
    draft.mark(END);
    draft.push("\n");
    draft.push(view.after);
    end_line(view.after, draft);
    draft.push("\n### Region as it should be\n");
}

/// Writes an answer.
pub(super) fn write_answer(lines: &str, draft: &mut Draft<'_>) {
    draft.mark(START);
    draft.push("\n");
    draft.push(lines);
    end_line(lines, draft);
    draft.mark(END);
}

fn end_line(lines: &str, draft: &mut Draft<'_>) {
    if !lines.is_empty() && !lines.ends_with('\n') {
        draft.push("\n");
    }
}
