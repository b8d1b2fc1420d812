//! `flywheel dataset report`: what a data set is made of, and what developers did meanwhile, with plots. Counts and
//! rates; never text, and nothing of fewer than five persons.

mod behaviour;
mod content;

use std::path::Path;

use events::Timestamp;
use labeler::aspects::{Cell, Window, cells};
use trainer_orchestrator::data_set::manifest::Manifest;
use trainer_orchestrator::data_set::stored::{self, SnapshotSummary};

use super::text::{short, spoken};
use super::{named, newest, refused};
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::report::{Format, Page, Section, check_writable, put};
use crate::table::print;
use crate::visible::visible;

const HOUR_SECONDS: i64 = 3_600;
const DAY_SECONDS: i64 = 24 * HOUR_SECONDS;

/// Periods that time is cut into, in seconds.
const PERIODS: [i64; 5] = [HOUR_SECONDS, 6 * HOUR_SECONDS, DAY_SECONDS, 7 * DAY_SECONDS, 28 * DAY_SECONDS];
/// Periods that a report shows at most, while longer ones make fewer.
const MOST_PERIODS: i64 = 32;

/// Everything that a report is made of.
struct Facts {
    summary: SnapshotSummary,
    manifest: Manifest,
    window: Window,
    cells: Vec<Cell>,
}

pub(super) async fn run(foundation: &Foundation, digits: Option<&str>, output: Option<&Path>) -> Result<(), Failure> {
    let format = output.map_or(Ok(Format::Markdown), |path| Format::of(path, "--output"))?;
    output.map_or(Ok(()), check_writable)?;
    let facts = facts(foundation, digits).await?;
    let text = format.written(&page(&facts));
    let Some(path) = output else { return print(text.trim_end()) };
    put(path, &text)?;
    let place = visible(&path.display().to_string());
    print(&format!("the report of data set {} is in {place}", short(&facts.summary.digest)))
}

async fn facts(foundation: &Foundation, digits: Option<&str>) -> Result<Facts, Failure> {
    let (pool, tenant) = (&foundation.pool, &foundation.settings.tenant);
    let digest = match digits {
        Some(digits) => named(foundation, digits).await?,
        None => {
            let newest = newest(foundation, 1).await?.into_iter().next();
            newest.ok_or_else(|| Failure::refused("no data sets; `flywheel dataset build` makes one"))?.digest
        }
    };
    let manifest = stored::manifest(pool, tenant, digest).await.map_err(refused)?;
    let summary = stored::summary(pool, tenant, digest).await.map_err(refused)?;
    let window = window(summary.first_labeled_at, summary.last_labeled_at);
    let cells = cells(pool, tenant, &manifest.filters.model, &window).await?;
    Ok(Facts { summary, manifest, window, cells })
}

/// The whole days (UTC) from that of the first label to that of the last, in periods that are not too many.
fn window(first: Timestamp, last: Timestamp) -> Window {
    let day = |time: Timestamp| time.as_micros().div_euclid(DAY_SECONDS * 1_000_000) * DAY_SECONDS;
    let (from, before) = (day(first), day(last) + DAY_SECONDS);
    let fits = |period: &i64| (before - from) / period <= MOST_PERIODS;
    let period_seconds = PERIODS.into_iter().find(fits).unwrap_or(28 * DAY_SECONDS);
    Window { from: Timestamp::from_seconds(from), before: Timestamp::from_seconds(before), period_seconds }
}

/// A time as precise as periods are.
fn moment(time: Timestamp, period_seconds: i64) -> String {
    let text = time.to_string();
    let day: String = text.chars().take("2000-01-01".len()).collect();
    if period_seconds >= DAY_SECONDS {
        return day;
    }
    format!("{day} {}", text.chars().skip("2000-01-01T".len()).take("00:00".len()).collect::<String>())
}

/// The name that an editor gives a language, if it looks like one.
fn language(name: &str) -> &str {
    let is_usual = |character: char| character.is_ascii_alphanumeric() || "+-_# ".contains(character);
    match name {
        "" => "(no language)",
        name if name.len() <= 40 && name.chars().all(is_usual) => name,
        name if name == labeler::crowd::MERGED => name,
        _ => "(an unusual name)",
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn page(facts: &Facts) -> Page {
    let (summary, filters) = (&facts.summary, &facts.manifest.filters);
    let lead = vec![
        format!(
            "Data set {} for model {} and audience {}, of label policy {}, made at {} by {}: {} pairs train, {} judge. \
             Its labels are from {} to {}.",
            summary.digest,
            filters.model,
            filters.audience,
            filters.label_policy_version,
            moment(summary.created_at, HOUR_SECONDS),
            filters.code_version,
            summary.training_pairs,
            summary.gate_pairs,
            moment(summary.first_labeled_at, HOUR_SECONDS),
            moment(summary.last_labeled_at, HOUR_SECONDS)
        ),
        format!(
            "Groups of fewer than {} persons are merged with others, or left out. Times are UTC.",
            labeler::crowd::FEWEST_PERSONS
        ),
    ];
    let mut sections: Vec<Section> = match &facts.manifest.composition {
        Some(composition) => content::sections(composition),
        None => vec![content::not_counted()],
    };
    sections.extend(behaviour::sections(facts));
    Page { title: format!("Data set {}", short(&summary.digest)), lead, sections }
}

#[cfg(test)]
mod tests;
