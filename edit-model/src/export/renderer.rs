//! Renders pairs, and checks what every dialect promises with the base's own tokenizer.

use std::path::Path;

use super::base::BaseTokenizer;
use super::fill::Fill;
use super::neutral::{Draft, Marked, Neutralizer};
use super::region::{Extent, Region, region_of};
use super::view::View;
use super::{AnswerDivergence, Dialect, Refusal, Rendered, RenderedAnswer, Sides, own, rewrite};
use crate::dialect::MAX_SEQUENCE_TOKENS;
use crate::error::ModelError;
use crate::tokenizer::CodeTokenizer;

/// Name of the tokenizer's file in a model's directory.
const TOKENIZER_FILE: &str = "tokenizer.json";

/// What a dialect writes.
#[derive(Debug)]
pub(super) enum Form {
    Own(Box<CodeTokenizer>),
    Region(Layout),
}

/// How a region and what is around it are laid out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layout {
    Fill(Fill),
    Rewrite,
}

impl Layout {
    fn extent(self) -> Extent {
        match self {
            Self::Fill(_) => Extent::Change,
            Self::Rewrite => Extent::Lines,
        }
    }

    fn write(self, view: &View<'_>, draft: &mut Draft<'_>) {
        match self {
            Self::Fill(fill) => fill.write(view, draft),
            Self::Rewrite => rewrite::write(view, draft),
        }
    }

    fn write_answer(self, text: &str, draft: &mut Draft<'_>) {
        match self {
            Self::Fill(_) => draft.push(text),
            Self::Rewrite => rewrite::write_answer(text, draft),
        }
    }
}

/// Texts that are written and not yet checked.
pub(super) struct Drafted {
    pub(super) prompt: Marked,
    pub(super) chosen: Option<Marked>,
    pub(super) rejected: Option<Marked>,
}

/// Writes pairs in one dialect for one base.
#[derive(Debug)]
pub struct Renderer {
    pub(super) form: Form,
    pub(super) base: BaseTokenizer,
    pub(super) neutral: Neutralizer,
    pub(super) maximum_tokens: usize,
}

impl Renderer {
    /// For the base whose `tokenizer.json` lies in `directory`; prompt and answer together have at most `maximum_tokens`
    /// tokens.
    ///
    /// # Errors
    /// [`ModelError::File`], or as [`Renderer::from_bytes`].
    pub fn load(dialect: Dialect, directory: &Path, maximum_tokens: usize) -> Result<Self, ModelError> {
        let path = directory.join(TOKENIZER_FILE);
        let bytes = std::fs::read(&path).map_err(|source| ModelError::File { path, source })?;
        Self::from_bytes(dialect, &bytes, maximum_tokens)
    }

    /// The same from the content of the file.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when it is malformed, lacks a token of the dialect, or has added tokens that text can
    /// not be told from; [`ModelError::Room`] for less than our own model takes.
    pub fn from_bytes(dialect: Dialect, tokenizer: &[u8], maximum_tokens: usize) -> Result<Self, ModelError> {
        if dialect == Dialect::Flywheel && maximum_tokens < MAX_SEQUENCE_TOKENS {
            return Err(ModelError::Room { needed: MAX_SEQUENCE_TOKENS });
        }
        let (base, form) = if dialect == Dialect::Flywheel {
            let own = CodeTokenizer::from_bytes(tokenizer)?;
            // With the tokens of habits, which an older file may lack.
            (BaseTokenizer::from_bytes(own.to_json()?.as_bytes())?, Form::Own(Box::new(own)))
        } else {
            let base = BaseTokenizer::from_bytes(tokenizer)?;
            let layout = match dialect {
                Dialect::QwenCoderFim => Layout::Fill(Fill::QwenCoder),
                Dialect::StarcoderFim => Layout::Fill(Fill::of_starcoder(&base)),
                Dialect::Flywheel | Dialect::RegionRewrite => Layout::Rewrite,
            };
            (base, Form::Region(layout))
        };
        if let Form::Region(Layout::Fill(fill)) = &form {
            let is_missing = |mark: &&str| base.control_token(mark).is_none();
            let missing: Vec<&str> = fill.marks().iter().copied().filter(is_missing).collect();
            if !missing.is_empty() {
                let missing = missing.join(", ");
                return Err(ModelError::Tokenizer(format!(
                    "the dialect {dialect} needs {missing}, which this base does not have; region-rewrite suits any"
                )));
            }
        }
        let mut names: Vec<String> = base.control_tokens().map(str::to_owned).collect();
        if matches!(form, Form::Region(Layout::Rewrite)) {
            names.extend(rewrite::MARKS.into_iter().filter(|m| base.control_token(m).is_none()).map(str::to_owned));
        }
        let neutral = Neutralizer::new(names)?;
        Ok(Self { form, base, neutral, maximum_tokens })
    }

    /// Writes a pair.
    ///
    /// # Errors
    /// Why it can not be written so that everything holds that this module promises.
    pub fn render(&self, sides: &Sides<'_>) -> Result<Rendered, Refusal> {
        let drafted = match &self.form {
            Form::Own(tokenizer) => own::draft(tokenizer, &self.base, &self.neutral, sides)?,
            Form::Region(layout) => self.draft(sides, *layout)?,
        };
        self.checked(drafted)
    }

    pub(super) fn count(&self, text: &str) -> Result<usize, Refusal> {
        Ok(self.base.encode(text)?.len())
    }

    /// Writes a region, with as much around it as there is room for.
    fn draft(&self, sides: &Sides<'_>, layout: Layout) -> Result<Drafted, Refusal> {
        let region = region_of(sides, layout.extent())?;
        let answer = |text: &String| {
            let mut draft = Draft::new(&self.neutral);
            layout.write_answer(text, &mut draft);
            draft.finish()
        };
        let (chosen, rejected) = (region.chosen.as_ref().map(answer), region.rejected.as_ref().map(answer));
        let mut longest = 0;
        for side in chosen.iter().chain(&rejected) {
            longest = longest.max(self.count(&side.text)?);
        }
        let room = self.maximum_tokens.checked_sub(longest).ok_or(Refusal::TooLong)?;
        let bare = self.count(&self.prompt(sides, layout, &region, 0)?.text)?;
        let mut budget = room.checked_sub(bare).ok_or(Refusal::TooLong)?;
        // What was counted line by line may be more in the whole.
        let prompt = loop {
            let prompt = self.prompt(sides, layout, &region, budget)?;
            let over = self.count(&prompt.text)?.saturating_sub(room);
            if over == 0 {
                break prompt;
            }
            budget = budget.saturating_sub(over);
        };
        Ok(Drafted { prompt, chosen, rejected })
    }

    fn prompt(&self, sides: &Sides<'_>, layout: Layout, region: &Region, budget: usize) -> Result<Marked, Refusal> {
        let view = View::within(budget, sides.context, region, |text| self.count(text))?;
        let mut draft = Draft::new(&self.neutral);
        layout.write(&view, &mut draft);
        Ok(draft.finish())
    }

    /// Holds the texts against what is promised of them.
    fn checked(&self, drafted: Drafted) -> Result<Rendered, Refusal> {
        let Drafted { prompt, chosen, rejected } = drafted;
        let prompt_tokens = self.base.encode(&prompt.text)?;
        self.check_marks(&prompt, &prompt_tokens)?;
        let answer = |answer: Marked| {
            if answer.text.is_empty() {
                return Err(Refusal::EmptyAnswer);
            }
            let tokens = self.base.encode(&answer.text)?;
            self.check_marks(&answer, &tokens)?;
            let whole = self.base.encode(&[prompt.text.as_str(), &answer.text].concat())?;
            if whole.strip_prefix(prompt_tokens.as_slice()) != Some(tokens.as_slice()) {
                return Err(Refusal::BoundaryMerges);
            }
            if whole.len() > self.maximum_tokens {
                return Err(Refusal::TooLong);
            }
            Ok((RenderedAnswer { text: answer.text, tokens: tokens.len() }, tokens))
        };
        let (chosen, rejected) = (chosen.map(&answer).transpose()?, rejected.map(&answer).transpose()?);
        let divergence = match (&chosen, &rejected) {
            (Some((chosen, _)), Some((rejected, _))) if chosen.text == rejected.text => {
                return Err(Refusal::SameAnswer);
            }
            (Some((chosen, left)), Some((rejected, right))) => Some(AnswerDivergence {
                byte: first_difference(&chosen.text, &rejected.text),
                token: left.iter().zip(right).take_while(|(left, right)| left == right).count(),
            }),
            (None, None) => return Err(Refusal::NothingChanges),
            _ => None,
        };
        let text = |answer: Option<(RenderedAnswer, Vec<u32>)>| answer.map(|(answer, _)| answer);
        Ok(Rendered {
            prompt_tokens: prompt_tokens.len(),
            prompt: prompt.text,
            chosen: text(chosen),
            rejected: text(rejected),
            divergence,
        })
    }

    /// The control tokens and marks of a text are those that were put there.
    pub(super) fn check_marks(&self, marked: &Marked, tokens: &[u32]) -> Result<(), Refusal> {
        let found = tokens.iter().copied().filter(|token| self.base.is_control(*token));
        let written = marked.marks.iter().filter_map(|mark| self.base.control_token(mark));
        let is_as_written = found.eq(written) && self.neutral.found(&marked.text) == marked.marks;
        if is_as_written { Ok(()) } else { Err(Refusal::ControlTokens) }
    }
}

/// First byte at which two texts differ, moved back to where a character starts in both.
fn first_difference(left: &str, right: &str) -> usize {
    let common = left.bytes().zip(right.bytes()).take_while(|(a, b)| a == b).count();
    (0..=common).rev().find(|place| left.is_char_boundary(*place) && right.is_char_boundary(*place)).unwrap_or(0)
}
