//! What a base is asked while somebody types: the prompt that training shows it, for what belongs at the cursor.

use std::path::Path;

use events::EditContext;

use super::fill::Fill;
use super::neutral::{Draft, Marked};
use super::region::Region;
use super::renderer::{Form, Layout, Renderer};
use super::view::View;
use super::{Dialect, Refusal};
use crate::error::ModelError;

/// Writes prompts at a cursor in a dialect that fills in the middle, for one base.
#[derive(Debug)]
pub struct CursorPrompts {
    renderer: Renderer,
    fill: Fill,
}

impl CursorPrompts {
    /// For the base whose `tokenizer.json` lies in `directory`; a prompt has at most `maximum_tokens` tokens.
    ///
    /// # Errors
    /// As [`Renderer::load`]; [`ModelError::Tokenizer`] for a dialect that does not fill in at a cursor.
    pub fn load(dialect: Dialect, directory: &Path, maximum_tokens: usize) -> Result<Self, ModelError> {
        Self::of(dialect, Renderer::load(dialect, directory, maximum_tokens)?)
    }

    fn of(dialect: Dialect, renderer: Renderer) -> Result<Self, ModelError> {
        match renderer.form {
            Form::Region(Layout::Fill(fill)) => Ok(Self { renderer, fill }),
            _ => Err(ModelError::Tokenizer(format!(
                "the dialect {dialect} does not fill in at a cursor; expected {} or {}",
                Dialect::QwenCoderFim,
                Dialect::StarcoderFim
            ))),
        }
    }

    /// The prompt for what belongs at the cursor.
    ///
    /// # Errors
    /// [`Refusal::Unfit`] for a cursor outside of the window, [`Refusal::TooLong`] when not even the names fit.
    pub fn render(&self, context: &EditContext) -> Result<String, Refusal> {
        let cursor = context.cursor_byte.checked_sub(context.window.start_byte);
        let (before, after) = cursor
            .and_then(|cursor| context.window.text.split_at_checked(usize::try_from(cursor).ok()?))
            .ok_or(Refusal::Unfit)?;
        let [before, standing, after] = [before, "", after].map(str::to_owned);
        let region = Region { before, standing, after, cursor: None, chosen: None, rejected: None };
        let room = self.renderer.maximum_tokens;
        let bare = self.renderer.count(&self.marked(context, &region, 0)?.text)?;
        let mut budget = room.checked_sub(bare).ok_or(Refusal::TooLong)?;
        // What was counted line by line may be more in the whole.
        loop {
            let marked = self.marked(context, &region, budget)?;
            let tokens = self.renderer.base.encode(&marked.text)?;
            let over = tokens.len().saturating_sub(room);
            if over == 0 {
                self.renderer.check_marks(&marked, &tokens)?;
                return Ok(marked.text);
            }
            budget = budget.saturating_sub(over);
        }
    }

    fn marked(&self, context: &EditContext, region: &Region, budget: usize) -> Result<Marked, Refusal> {
        let view = View::at_cursor(budget, context, region, |text| self.renderer.count(text))?;
        let mut draft = Draft::new(&self.renderer.neutral);
        self.fill.write(&view, &mut draft);
        Ok(draft.finish())
    }

    /// The tokens of the dialect by their names: where a base writes one, its answer is over.
    #[must_use]
    pub fn marks(&self) -> &'static [&'static str] {
        self.fill.marks()
    }

    /// What of `written` is text: a control token ends it.
    #[must_use]
    pub fn text_of<'a>(&self, written: &'a str) -> &'a str {
        self.renderer.neutral.first(written).and_then(|end| written.get(..end)).unwrap_or(written)
    }
}

#[cfg(test)]
mod tests {
    use events::{RecentEdit, Window};
    use proptest::prelude::*;

    use super::*;
    use crate::export::tests::context;

    const QWEN: &[u8] = include_bytes!("../../tests/fixtures/qwen2.5-coder/tokenizer.json");
    const STARCODER: &[u8] = include_bytes!("../../tests/fixtures/starcoder/tokenizer.json");
    const STARCODER2: &[u8] = include_bytes!("../../tests/fixtures/starcoder2/tokenizer.json");
    const TEXT: &str = "fn one() {\n    let user = users.get(1);\n    let name = get_name(user);\n}\n";

    const PIECES: [&str; 7] = ["<|fim_middle|>", "<|fim_", "suffix|>", "let a", " = 1;\n", "é", "<|endoftext|>"];

    fn prompts(dialect: Dialect, base: &[u8], maximum_tokens: usize) -> CursorPrompts {
        let renderer = Renderer::from_bytes(dialect, base, maximum_tokens).unwrap();
        CursorPrompts::of(dialect, renderer).unwrap()
    }

    /// Tokens of the prompt.
    fn length(prompts: &CursorPrompts, prompt: &str) -> usize {
        prompts.renderer.count(prompt).unwrap()
    }

    #[test]
    fn bases_are_asked_at_the_cursor_as_they_were_trained() {
        let cursor = TEXT.find("get_name").unwrap();
        let mut context = context(TEXT, cursor);
        let code = |suffix: &str| {
            format!("fn one() {{\n    let user = users.get(1);\n    let name = {suffix}get_name(user);\n}}\n")
        };
        let edit = "<|file_sep|>src/user.rs.diff\n-fn get_name()\n+fn get_display_name()\n";
        assert_eq!(
            prompts(Dialect::QwenCoderFim, QWEN, 1024).render(&context).unwrap(),
            format!(
                "<|repo_name|>team/display\n{edit}<|file_sep|>src/name.rs\n<|fim_prefix|>{}<|fim_middle|>",
                code("<|fim_suffix|>")
            )
        );
        context.recent_edits.clear();
        let code = code("<fim_suffix>");
        assert_eq!(
            prompts(Dialect::StarcoderFim, STARCODER, 1024).render(&context).unwrap(),
            format!("<fim_prefix><reponame>team/display<filename>src/name.rs\n{code}<fim_middle>")
        );
        assert_eq!(
            prompts(Dialect::StarcoderFim, STARCODER2, 1024).render(&context).unwrap(),
            format!("<repo_name>team/display<file_sep><fim_prefix>src/name.rs\n{code}<fim_middle>")
        );
    }

    #[test]
    fn dialects_that_do_not_fill_in_are_refused() {
        let renderer = Renderer::from_bytes(Dialect::RegionRewrite, QWEN, 1024).unwrap();
        let refused = CursorPrompts::of(Dialect::RegionRewrite, renderer).unwrap_err().to_string();
        assert!(refused.contains("region-rewrite") && refused.contains("qwen2.5-coder-fim"), "{refused}");
    }

    #[test]
    fn a_control_token_ends_what_is_text() {
        let prompts = prompts(Dialect::QwenCoderFim, QWEN, 1024);
        assert_eq!(prompts.text_of("a <| b<|file_sep|>src/other.rs\n"), "a <| b");
        assert_eq!(prompts.text_of("a < b"), "a < b");
    }

    /// What serving shows of a document when the cursor is at its end: 24 whole lines above the cursor's.
    fn typed_at_the_end(document: &str) -> EditContext {
        let line = document.matches('\n').count();
        let first_line = line.saturating_sub(24);
        let start_byte = document.split_inclusive('\n').take(first_line).map(str::len).sum::<usize>();
        EditContext {
            window: Window {
                start_byte: start_byte as u64,
                first_line: first_line as u64,
                text: format!("{}\n}}\n", &document[start_byte..]),
            },
            cursor_byte: document.len() as u64,
            ..context("", 0)
        }
    }

    #[test]
    fn from_key_to_key_prompts_begin_alike_as_far_as_the_cursor() {
        let mut document = String::new();
        for number in 0..30 {
            document.push_str(&format!("let first_{number} = users.get({number});\n"));
        }
        let keys: String = (0..40).map(|number| format!("    call(name_{number});\n")).collect();
        // With room for the whole window, and with room for a part of it.
        for maximum_tokens in [8192, 700] {
            let prompts = prompts(Dialect::QwenCoderFim, QWEN, maximum_tokens);
            let mut document = document.clone();
            let (mut before, mut moved) = (None::<String>, 0);
            for key in keys.chars() {
                document.push(key);
                let prompt = prompts.render(&typed_at_the_end(&document)).unwrap();
                assert!(length(&prompts, &prompt) <= maximum_tokens);
                let (as_far_as_the_cursor, _) = prompt.split_once("<|fim_suffix|>").unwrap();
                if let Some(before) = before {
                    moved += usize::from(!as_far_as_the_cursor.starts_with(&before));
                }
                before = Some(as_far_as_the_cursor.to_owned());
            }
            // Once in eight of forty lines, and where lines of another length come into view.
            assert!((1..=8).contains(&moved), "{moved} of {} keys with {maximum_tokens} tokens", keys.len());
        }
    }

    #[test]
    fn an_edit_that_is_being_made_is_not_shown() {
        let edit = |path: &str, new_text: &str| RecentEdit {
            path: path.to_owned(),
            old_text: "was_there".to_owned(),
            new_text: new_text.to_owned(),
        };
        let recent_edits =
            vec![edit("src/name.rs", "users.get"), edit("src/name.rs", "get_na"), edit("a.rs", "get_na")];
        let cursor = TEXT.find("me(user)").unwrap();
        let context = EditContext { recent_edits, ..context(TEXT, cursor) };
        let prompt = prompts(Dialect::QwenCoderFim, QWEN, 1024).render(&context).unwrap();
        let differences: Vec<&str> =
            prompt.lines().filter(|line| line.contains(".diff") || line.starts_with('+')).collect();
        let shown = ["<|file_sep|>src/name.rs.diff", "+users.get", "<|file_sep|>a.rs.diff", "+get_na"];
        assert!(differences.iter().zip(shown).all(|(line, shown)| line.ends_with(shown)), "{differences:?}");
        assert_eq!(differences.len(), shown.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, fork: false, ..ProptestConfig::default() })]

        #[test]
        fn the_room_is_kept_and_no_other_control_token_is_in_it(
            pieces in prop::collection::vec(
                prop::sample::select(PIECES.to_vec()),
                0..60,
            ),
            place in any::<prop::sample::Index>(),
            maximum_tokens in 80_usize..400,
        ) {
            let text = pieces.concat();
            let cursors: Vec<usize> = (0..=text.len()).filter(|place| text.is_char_boundary(*place)).collect();
            let mut context = context(&text, cursors[place.index(cursors.len())]);
            let prompts = prompts(Dialect::QwenCoderFim, QWEN, maximum_tokens);
            let prompt = prompts.render(&context).unwrap();
            prop_assert!(length(&prompts, &prompt) <= maximum_tokens);
            for mark in ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>"] {
                prop_assert_eq!(prompt.matches(mark).count(), 1);
            }
            prop_assert!(prompt.ends_with("<|fim_middle|>") && !prompt.contains("<|endoftext|>"));
            context.cursor_byte = 0;
            prop_assert_eq!(prompts.render(&context), Err(Refusal::Unfit));
        }
    }
}
