//! `flywheel pairs export`: what may be learned from now, as text for a trainer.

use std::collections::{BTreeMap, HashMap};

use edit_model::ModelError;
use edit_model::export::{Refusal, Rendered, RenderedAnswer, Renderer, Sides};
use events::{Audience, PairId, PairText, PreferencePair, Sha256Digest};
use labeler::lake::{OpenTextError, open_text};
use model_registry::lineage::{Purpose, Support};
use serde::Serialize;
use serde_json::json;
use service::drain::stop_signal;
use trainer_orchestrator::data_set::manifest::ManifestMember;
use trainer_orchestrator::data_set::stored;

use super::lake::Lake;
use super::rights::{Reader, Rights};
use super::table::{Cell, Row, Table};
use crate::cli::{ExportArgs, ExportFormat};
use crate::dataset;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::table::{print, print_json, rows_text};

/// What TRL's trainers make of a row when nothing is said: sequences of so many tokens, of which the beginning is kept.
const TRL_MAXIMUM_TOKENS: usize = 1024;
/// The token that TRL puts behind every answer.
const TRL_END: usize = 1;

/// What an export came to.
#[derive(Debug, Default, Serialize)]
struct Report {
    rows: u64,
    pairs: u64,
    left_out: BTreeMap<&'static str, u64>,
    trl_defaults: TrlDefaults,
}

/// What TRL's defaults would do to the rows.
#[derive(Debug, Default, Serialize)]
struct TrlDefaults {
    /// Nothing of an answer would be left.
    dropped: u64,
    /// An answer would lose its end.
    cut: u64,
}

/// A data set that was named.
struct Snapshot {
    digest: Sha256Digest,
    audience: Audience,
    members: HashMap<PairId, ManifestMember>,
}

impl Snapshot {
    /// What is stored, once it was found to be what the digest names.
    async fn read(foundation: &Foundation, digest: Sha256Digest) -> Result<Self, Failure> {
        let manifest = stored::manifest(&foundation.pool, &foundation.settings.tenant, digest).await;
        let manifest = manifest.map_err(dataset::refused)?;
        let members = manifest.members.into_iter().map(|member| (member.pair_id, member)).collect();
        Ok(Self { digest, audience: manifest.filters.audience, members })
    }

    /// What stands behind a pair of this data set, or why it is not taken from it.
    fn support_of(&self, pair: &PreferencePair) -> Result<Support, &'static str> {
        match self.members.get(&pair.pair_id) {
            None => Err("not_in_the_data_set"),
            // What judges must not be learned from.
            Some(member) if member.purpose != Purpose::Training => Err("held_out"),
            Some(member) if member.content_digest != pair.content_digest => Err("not_as_in_the_data_set"),
            Some(member) => Ok(member.support),
        }
    }
}

/// An export on its way.
struct Export {
    renderer: Renderer,
    is_kto: bool,
    audience: Audience,
    snapshot: Option<Snapshot>,
    rights: Rights,
    table: Table,
    report: Report,
}

pub(super) async fn run(foundation: &Foundation, arguments: &ExportArgs) -> Result<(), Failure> {
    let reader = Reader::of(foundation, &arguments.key).await?;
    let most = usize::try_from(arguments.max_tokens).unwrap_or(usize::MAX);
    let renderer = Renderer::load(arguments.dialect, &arguments.tokenizer, most).map_err(|error| {
        Failure::refused(match error {
            error @ ModelError::Room { .. } => format!("--max-tokens {most}: {error}"),
            error => format!("--tokenizer {}: {error}", arguments.tokenizer.display()),
        })
    })?;
    let snapshot = match &arguments.snapshot {
        Some(digits) => Some(Snapshot::read(foundation, dataset::named(foundation, digits).await?).await?),
        None => None,
    };
    let audience = audience_of(arguments.audience.as_ref(), snapshot.as_ref())?;
    let table = Table::create(&arguments.output, arguments.format)?;
    let rights = Rights::now(foundation).await?;
    let is_kto = arguments.kto;
    let subject = snapshot.as_ref().map_or_else(|| "lake".to_owned(), |named| format!("snapshot {}", named.digest));
    let mut export = Export { renderer, is_kto, audience, snapshot, rights, table, report: Report::default() };
    let lake = Lake::open(foundation).await?;
    let asked = json!({
        "dialect": arguments.dialect.as_str(), "max_tokens": arguments.max_tokens, "kto": is_kto,
        "audience": export.audience,
    });
    // From here on text is on this disk, however this ends.
    reader.is_given(foundation, "pairs_export_begun", &subject, &asked).await?;
    let written = tokio::select! {
        written = lake.each("exporting pairs", async |pair| export.take(foundation, pair).await) => written,
        signal = stop_signal() => Err(Failure::refused(format!("interrupted by {}; nothing was written", signal?))),
    };
    written?;
    let Export { mut table, mut report, audience, .. } = export;
    report.rows = table.rows();
    if report.rows == 0 {
        return Err(Failure::refused(format!(
            "nothing was written: no pair that {audience} may be served fits ({})",
            reasons(&report, "the lake is empty")
        )));
    }
    table.finish()?;
    let detail = json!({
        "dialect": arguments.dialect.as_str(), "max_tokens": arguments.max_tokens, "kto": is_kto,
        "audience": audience, "pairs": report.pairs, "rows": report.rows,
    });
    reader.is_given(foundation, "pairs_exported", &subject, &detail).await?;
    table.place()?;
    if arguments.list.json {
        return print_json(&report);
    }
    print(&said(arguments, &audience, &report))
}

/// One audience an export: the asked one, that of the data set, or everyone.
fn audience_of(asked: Option<&Audience>, snapshot: Option<&Snapshot>) -> Result<Audience, Failure> {
    match (asked, snapshot) {
        (Some(asked), Some(snapshot)) if *asked != snapshot.audience => Err(Failure::refused(format!(
            "--audience {asked}: the data set is for {}; leave the option out",
            snapshot.audience
        ))),
        (_, Some(snapshot)) => Ok(snapshot.audience.clone()),
        (Some(asked), None) => Ok(asked.clone()),
        (None, None) => Ok("everyone".parse()?),
    }
}

impl Export {
    fn leave_out(&mut self, reason: &'static str) {
        *self.report.left_out.entry(reason).or_default() += 1;
    }

    async fn take(&mut self, foundation: &Foundation, pair: PreferencePair) -> Result<(), Failure> {
        let support = match &self.snapshot {
            Some(snapshot) => snapshot.support_of(&pair),
            None => Ok(Support::default()),
        };
        let support = match support {
            Ok(support) => support,
            Err(reason) => {
                self.leave_out(reason);
                return Ok(());
            }
        };
        if weight(&pair, &support) <= 0.0 {
            self.leave_out("calibration_only");
            return Ok(());
        }
        if let Some(reason) = self.rights.forbid(&pair, &self.audience) {
            self.leave_out(reason.as_str());
            return Ok(());
        }
        let text = match open_text(&pair, &foundation.keys).await {
            Ok(text) => text,
            Err(error @ OpenTextError::Keys(_)) => return Err(error.into()),
            Err(error) => {
                self.leave_out(match error {
                    OpenTextError::Erased => "erased",
                    OpenTextError::NoText => "without_text",
                    _ => "text_damaged",
                });
                return Ok(());
            }
        };
        let about = about(&pair, &support);
        let rows = if self.is_kto { self.single_answers(about, &text) } else { self.pair(about, &text) };
        match rows {
            Ok(rows) => {
                self.report.pairs += 1;
                for row in rows {
                    self.table.add(row)?;
                }
            }
            Err(reason) => self.leave_out(reason),
        }
        Ok(())
    }

    /// The row of a pair that has two sides.
    fn pair(&mut self, about: Row, text: &PairText) -> Result<Vec<Row>, &'static str> {
        if text.chosen.is_none() || text.rejected.is_none() {
            return Err("one_sided");
        }
        let Rendered { prompt, prompt_tokens, chosen, rejected, divergence } =
            self.renderer.render(&sides(text)).map_err(Refusal::code)?;
        let (Some(chosen), Some(rejected)) = (chosen, rejected) else { return Err("one_sided") };
        self.compare_with_trl(prompt_tokens, chosen.tokens.max(rejected.tokens));
        // Both answers are the same up to there.
        let (byte, token) = divergence.map_or((0, 0), |point| (integer(point.byte), integer(point.token)));
        let mut row = vec![
            ("prompt", Cell::Text(prompt)),
            ("chosen", Cell::Text(chosen.text)),
            ("rejected", Cell::Text(rejected.text)),
            ("chosen_bdp_byte", Cell::Integer(byte)),
            ("rejected_bdp_byte", Cell::Integer(byte)),
            ("bdp_token", Cell::Integer(token)),
        ];
        row.extend(about);
        row.push(("prompt_tokens", Cell::Integer(integer(prompt_tokens))));
        row.push(("chosen_tokens", Cell::Integer(integer(chosen.tokens))));
        row.push(("rejected_tokens", Cell::Integer(integer(rejected.tokens))));
        Ok(vec![row])
    }

    /// A row for each side. A side that has no text leaves the other one alone.
    fn single_answers(&mut self, about: Row, text: &PairText) -> Result<Vec<Row>, &'static str> {
        let whole = sides(text);
        let rendered = match self.renderer.render(&whole) {
            Ok(rendered) => vec![rendered],
            Err(Refusal::EmptyAnswer) if whole.chosen.is_some() && whole.rejected.is_some() => {
                let chosen = self.renderer.render(&Sides { rejected: None, ..whole });
                let rejected = self.renderer.render(&Sides { chosen: None, ..whole });
                chosen.into_iter().chain(rejected).collect()
            }
            Err(refusal) => return Err(refusal.code()),
        };
        let mut rows = Vec::new();
        for Rendered { prompt, prompt_tokens, chosen, rejected, divergence } in rendered {
            let (byte, token) = divergence.map_or((0, 0), |point| (integer(point.byte), integer(point.token)));
            for (answer, label) in [(chosen, true), (rejected, false)] {
                let Some(RenderedAnswer { text, tokens }) = answer else { continue };
                self.compare_with_trl(prompt_tokens, tokens);
                let mut row = vec![
                    ("prompt", Cell::Text(prompt.clone())),
                    ("completion", Cell::Text(text)),
                    ("label", Cell::Flag(label)),
                    ("bdp_byte", Cell::Integer(byte)),
                    ("bdp_token", Cell::Integer(token)),
                ];
                row.extend(about.iter().cloned());
                row.push(("prompt_tokens", Cell::Integer(integer(prompt_tokens))));
                row.push(("completion_tokens", Cell::Integer(integer(tokens))));
                rows.push(row);
            }
        }
        if rows.is_empty() { Err(Refusal::EmptyAnswer.code()) } else { Ok(rows) }
    }

    fn compare_with_trl(&mut self, prompt: usize, answer: usize) {
        if prompt >= TRL_MAXIMUM_TOKENS {
            self.report.trl_defaults.dropped += 1;
        } else if prompt + answer + TRL_END > TRL_MAXIMUM_TOKENS {
            self.report.trl_defaults.cut += 1;
        }
    }
}

fn sides(text: &PairText) -> Sides<'_> {
    Sides {
        context: &text.context,
        shared: &text.shared,
        chosen: text.chosen.as_ref(),
        rejected: text.rejected.as_ref(),
    }
}

fn integer(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// How much a pair counts: what the data set says, or its label where no data set does.
fn weight(pair: &PreferencePair, support: &Support) -> f64 {
    support.weight_millionths.map_or(pair.weight, |millionths| millionths as f64 / 1e6)
}

/// What every row says of its pair. Nothing of the person: whoever trains elsewhere has no need to know.
fn about(pair: &PreferencePair, support: &Support) -> Row {
    vec![
        ("weight", Cell::Real(weight(pair, support))),
        ("support_people", Cell::Integer(i64::from(support.people))),
        ("support_repositories", Cell::Integer(i64::from(support.repositories))),
        ("pair_id", Cell::Text(pair.pair_id.to_string())),
        ("opportunity_id", Cell::Text(pair.opportunity_id.to_string())),
        ("suggestion_id", Cell::Text(pair.suggestion_id.map(|id| id.to_string()).unwrap_or_default())),
        ("reason", Cell::Text(pair.reason.to_string())),
        ("language", Cell::Text(pair.language.clone())),
        ("repository", Cell::Text(pair.repository.clone())),
    ]
}

/// Reasons with their counts, or `none`.
fn reasons(report: &Report, none: &str) -> String {
    let counts: Vec<String> = report.left_out.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if counts.is_empty() { none.to_owned() } else { counts.join(", ") }
}

fn said(arguments: &ExportArgs, audience: &Audience, report: &Report) -> String {
    let Report { rows, pairs, left_out, trl_defaults } = report;
    let format = match arguments.format {
        ExportFormat::Parquet => "Parquet",
        ExportFormat::Jsonl => "JSON lines",
    };
    let mut text = format!(
        "wrote {rows} rows of {pairs} pairs for {audience} to {} ({format}, {})",
        arguments.output.display(),
        arguments.dialect
    );
    let left_out = left_out.iter().map(|(reason, count)| vec![(*reason).to_owned(), count.to_string()]).collect();
    text.push_str(&format!("\n\n{}\n\n", rows_text(&["left out because", "pairs"], left_out, "nothing was left out")));
    let TrlDefaults { dropped, cut } = trl_defaults;
    text.push_str(&if dropped + cut == 0 {
        format!("TRL's defaults (max_length={TRL_MAXIMUM_TOKENS}, the beginning kept) would keep every row whole")
    } else {
        format!(
            "TRL's defaults (max_length={TRL_MAXIMUM_TOKENS}, the beginning kept) would drop {dropped} rows without a \
             word, and cut the answers of {cut}: train with max_length={} or export with fewer --max-tokens",
            arguments.max_tokens.saturating_add(1)
        )
    });
    text
}

#[cfg(test)]
mod tests {
    use events::PairReason;

    use super::*;
    use crate::pairs::fixture::pair;

    /// What three persons did in two repositories.
    const MERGED: Support = Support { people: 3, repositories: 2, weight_millionths: Some(1_000_001) };

    fn snapshot(members: &[(&PreferencePair, Purpose)]) -> Snapshot {
        let member = |(pair, purpose): &(&PreferencePair, Purpose)| {
            let (pair_id, content_digest) = (pair.pair_id, pair.content_digest);
            (pair_id, ManifestMember { pair_id, content_digest, purpose: *purpose, support: MERGED })
        };
        Snapshot {
            digest: Sha256Digest::of(b"a data set"),
            audience: "acme".parse().unwrap(),
            members: members.iter().map(member).collect(),
        }
    }

    #[test]
    fn a_data_set_gives_what_trains_and_is_as_it_was() {
        let (training, gate) = (pair(PairReason::Missed, Some(0)), pair(PairReason::TypedAgainst, Some(0)));
        let snapshot = snapshot(&[(&training, Purpose::Training), (&gate, Purpose::Gate)]);
        assert_eq!(snapshot.support_of(&training), Ok(MERGED));
        assert_eq!(snapshot.support_of(&gate), Err("held_out"));
        assert_eq!(snapshot.support_of(&pair(PairReason::Dismissed, None)), Err("not_in_the_data_set"));
        let changed = PreferencePair { content_digest: Sha256Digest::of(b"other"), ..training };
        assert_eq!(snapshot.support_of(&changed), Err("not_as_in_the_data_set"));
    }

    #[test]
    fn a_data_set_says_how_much_a_pair_counts() {
        let pair = pair(PairReason::Missed, Some(0));
        assert_eq!(weight(&pair, &MERGED), 1.000_001);
        assert_eq!(weight(&pair, &Support::default()), pair.weight);
    }

    #[test]
    fn an_export_has_one_audience() {
        let of_acme = snapshot(&[]);
        let (acme, other): (Audience, Audience) = ("acme".parse().unwrap(), "other".parse().unwrap());
        assert_eq!(audience_of(None, None).unwrap().as_str(), "everyone");
        assert_eq!(audience_of(Some(&other), None).unwrap(), other);
        assert_eq!(audience_of(None, Some(&of_acme)).unwrap(), acme);
        assert_eq!(audience_of(Some(&acme), Some(&of_acme)).unwrap(), acme);
        assert!(matches!(audience_of(Some(&other), Some(&of_acme)), Err(Failure::Refused(_))));
    }

    #[test]
    fn no_column_has_a_name_that_trainers_reserve() {
        let row = about(&pair(PairReason::Missed, None), &MERGED);
        let names: Vec<&str> = row.iter().map(|(name, _)| *name).collect();
        for reserved in ["images", "image", "tools", "chat_template_kwargs", "messages"] {
            assert!(!names.contains(&reserved), "{reserved}");
        }
        assert!(names.contains(&"pair_id") && !names.contains(&"person"));
    }
}
