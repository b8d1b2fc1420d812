//! What developers did in the days of a data set's labels, as outcomes tell it now.

use std::collections::BTreeMap;

use events::{EditPattern, Signal};
use labeler::aspects::{Persons, SignalCounts, Sums, grouped, latency_name};
use labeler::crowd::{Crowd as _, FEWEST_PERSONS, Told, along, apart};
use labeler::policy::LOOKS_S;
use labeler::statistics::Estimate;

use super::{Facts, language, moment, percent, spoken};
use crate::report::{Bars, Block, Curves, Intervals, Section, Table, Tone};

/// What outcomes must say for most of this part.
const DESCRIBED: &str = "outcomes say it where no earlier release may read them";

/// Opportunities of which something is not known are a group as well: what is left of all of them could be told from
/// the others.
const NOT_SAID: &str = "(not said)";
const NOT_PROPOSED: &str = "(nothing proposed, or not said)";
const NOT_SHOWN: &str = "(nothing shown, or not said)";

pub(super) fn sections(facts: &Facts) -> Vec<Section> {
    let source = source(facts);
    let cells = &facts.cells;
    let languages = apart(grouped(cells, |cell| cell.language.as_deref().map_or(NOT_SAID, language).to_owned()));
    let pattern = |pattern: EditPattern| spoken(pattern.as_str());
    let patterns = apart(grouped(cells, |cell| cell.pattern.map_or_else(|| NOT_PROPOSED.to_owned(), pattern)));
    // What has no time comes last.
    let latencies = grouped(cells, |cell| (cell.latency.is_none(), cell.latency));
    let latencies = along(
        latencies
            .into_iter()
            .map(|((_, bucket), persons)| (bucket.map_or_else(|| NOT_SHOWN.to_owned(), latency_name), persons)),
    );
    let everybody = Persons::of(cells);
    vec![
        signals(facts, &source),
        measures(
            "Measures by language",
            format!("{source}, by the language of the file; {DESCRIBED}"),
            &everybody,
            languages.iter().map(|told| (told.name().to_owned(), &told.crowd)).collect(),
        ),
        measures(
            "Measures by pattern",
            format!("{source}, by what the proposed actions would do to the text; {DESCRIBED}"),
            &everybody,
            patterns.iter().map(|told| (told.name().to_owned(), &told.crowd)).collect(),
        ),
        measures(
            "Measures by latency",
            format!(
                "{source}, by the time from the question to the first action on its way, as serving measured it; \
                 {DESCRIBED}"
            ),
            &everybody,
            latencies.iter().map(|told| (told.span(), &told.crowd)).collect(),
        ),
        retention(&everybody, &languages, &source),
    ]
}

/// Which opportunities are spoken of.
fn source(facts: &Facts) -> String {
    let last_day = facts.window.before - std::time::Duration::from_secs(1);
    let day = |time| moment(time, super::DAY_SECONDS);
    format!(
        "the closed opportunities that serving answered with model {} (every version and audience) from {} to {}, the \
         days of the data set's labels; censored ones are in no rate",
        facts.manifest.filters.model,
        day(facts.window.from),
        day(last_day)
    )
}

/// What stands where nothing may be shown, or nothing `is_there`.
fn nothing(is_there: bool) -> Block {
    Block::Note(if is_there {
        format!("Fewer than {FEWEST_PERSONS} persons: not shown.")
    } else {
        "There is none.".to_owned()
    })
}

/// What a developer said of a suggestion by what became of it.
fn tone(signal: Signal) -> Tone {
    match signal {
        Signal::Accepted => Tone::For,
        Signal::PartiallyEdited => Tone::PartlyFor,
        Signal::Rejected => Tone::Against,
        Signal::Ignored => Tone::WeaklyAgainst,
        Signal::Superseded => Tone::Neither,
        Signal::NotShown => Tone::Absent,
        Signal::Unknown => Tone::Unknown,
    }
}

fn signals(facts: &Facts, source: &str) -> Section {
    let mut periods: BTreeMap<_, SignalCounts> = BTreeMap::new();
    for cell in &facts.cells {
        periods.entry(cell.period).or_default().add(cell);
    }
    let name = |time| moment(time, facts.window.period_seconds);
    let told = along(periods.into_iter().map(|(period, signals)| (name(period), signals)));
    let title = "Signals over time";
    let source = format!("{source}; a signal is what the developer did with the first action");
    if told.is_empty() {
        return Section { title, source, blocks: vec![nothing(!facts.cells.is_empty())] };
    }
    let count = |told: &Told<SignalCounts>, signal: Signal| told.crowd.counts.get(&signal).copied().unwrap_or(0.0);
    let all = Signal::ALL.iter().copied().chain([Signal::Unknown]);
    let present: Vec<Signal> = all.filter(|signal| told.iter().any(|told| count(told, *signal) > 0.0)).collect();
    let parts: Vec<(String, Tone)> = present.iter().map(|signal| (spoken(signal.as_str()), tone(*signal))).collect();
    let bars = told.iter().map(|told| {
        let counts: Vec<f64> = present.iter().map(|signal| count(told, *signal)).collect();
        (told.span(), counts)
    });
    let rows = told.iter().map(|told| -> Vec<String> {
        let counts = present.iter().map(|signal| format!("{:.0}", count(told, *signal)));
        std::iter::once(told.span()).chain(counts).chain([format!("{:.0}", told.crowd.censored)]).collect()
    });
    let names = parts.iter().map(|(name, _)| name.clone());
    let header: Vec<String> = std::iter::once("from".to_owned()).chain(names).chain(["censored".to_owned()]).collect();
    let table = Table { header, rows: rows.collect() };
    let bars = Bars { title: "opportunities by signal".to_owned(), parts, rows: bars.collect() };
    Section { title, source, blocks: vec![Block::Table(table), Block::Bars(bars)] }
}

fn rate(estimate: Option<Estimate>) -> String {
    match estimate {
        Some(Estimate { value, low, high }) if low.is_finite() && high.is_finite() => {
            format!("{:.1}% [{:.1}, {:.1}]", value * 100.0, low * 100.0, high * 100.0)
        }
        Some(Estimate { value, .. }) => percent(value),
        None => "-".to_owned(),
    }
}

fn amount(estimate: Option<Estimate>) -> String {
    match estimate {
        Some(Estimate { value, low, high }) if low.is_finite() && high.is_finite() => {
            format!("{value:+.3} [{low:+.3}, {high:+.3}]")
        }
        Some(Estimate { value, .. }) => format!("{value:+.3}"),
        None => "-".to_owned(),
    }
}

fn opportunities(sums: &Sums) -> f64 {
    sums.measures.opportunities
}

fn shown(sums: &Sums) -> f64 {
    sums.measures.shown
}

fn utility(persons: &Persons) -> Option<Estimate> {
    persons.ratio(|sums| sums.measures.utility, opportunities)
}

fn measures(title: &'static str, source: String, everybody: &Persons, groups: Vec<(String, &Persons)>) -> Section {
    if everybody.persons() < FEWEST_PERSONS {
        return Section { title, source, blocks: vec![nothing(everybody.persons() > 0)] };
    }
    let rows: Vec<(String, &Persons)> = std::iter::once(("all".to_owned(), everybody)).chain(groups).collect();
    let table = rows.iter().map(|(name, persons)| {
        let total = persons.total();
        vec![
            name.clone(),
            format!("{:.0}", opportunities(&total)),
            rate(persons.ratio(shown, opportunities)),
            rate(persons.ratio(|sums| sums.measures.accepted, shown)),
            amount(utility(persons)),
            amount(persons.ratio(|sums| sums.measures.kept_characters, opportunities)),
        ]
    });
    let header = [
        "group",
        "opportunities",
        "shown",
        "acceptance of what was shown",
        "utility per opportunity",
        "kept characters per opportunity",
    ];
    let table = Block::Table(Table::new(&header, table.collect()));
    let intervals = rows.iter().filter_map(|(name, persons)| Some((name.clone(), utility(persons)?))).collect();
    let plot = Intervals { title: "utility per opportunity, with 95% intervals by person".to_owned(), rows: intervals };
    Section { title, source, blocks: vec![table, Block::Intervals(plot)] }
}

/// A share at each look; none when it may not be told.
fn curve(persons: &Persons, share: impl Fn(&Sums, usize) -> f64) -> Option<Vec<f64>> {
    let value = |look: usize| persons.ratio(|sums| share(sums, look), |sums| sums.looked_at);
    (0..LOOKS_S.len()).map(|look| value(look).map(|estimate| estimate.value)).collect()
}

fn retention(everybody: &Persons, languages: &[Told<Persons>], source: &str) -> Section {
    let title = "Retention";
    let source = format!(
        "{source}; of them the accepted ones that were looked at after all of {} s, so that every point of a curve is \
         about the same suggestions, and of these how much of the first action stood; {DESCRIBED}",
        LOOKS_S.map(|look| look.to_string()).join(", ")
    );
    let total = everybody.total();
    let at: Vec<String> = LOOKS_S.iter().map(|look| format!("{look} s")).collect();
    let Some(half) = curve(everybody, |sums, look| sums.standing[look]) else {
        return Section { title, source, blocks: vec![nothing(total.looked_at > 0.0)] };
    };
    let mut lines = vec![("at least half of it stands".to_owned(), half)];
    lines.extend(
        curve(everybody, |sums, look| sums.standing_share[look])
            .map(|share| ("mean share of characters that stands".to_owned(), share)),
    );
    let by_language: Vec<(String, Vec<f64>)> = languages
        .iter()
        .filter_map(|told| {
            let half = curve(&told.crowd, |sums, look| sums.standing[look])?;
            Some((told.name().to_owned(), half))
        })
        .collect();
    let header: Vec<String> = std::iter::once("accepted suggestions".to_owned()).chain(at.clone()).collect();
    let named = by_language.iter().map(|(name, values)| (format!("at least half stands: {name}"), values.clone()));
    let rows = lines.iter().cloned().chain(named).map(|(name, values)| -> Vec<String> {
        std::iter::once(name).chain(values.iter().map(|value| percent(*value))).collect()
    });
    let table = Block::Table(Table { header, rows: rows.collect() });
    let note = Block::Note(format!(
        "{:.0} accepted suggestions were looked at every time; {:.0} were not (their session ended before, or looks \
         were lost, or it was not said) and are in no curve.",
        total.looked_at,
        total.measures.accepted - total.looked_at
    ));
    let mut blocks = vec![
        note,
        table,
        Block::Curves(Curves { title: "accepted suggestions that stand".to_owned(), at: at.clone(), lines }),
    ];
    if !by_language.is_empty() {
        let title = "of which at least half stands, by language".to_owned();
        blocks.push(Block::Curves(Curves { title, at, lines: by_language }));
    }
    Section { title, source, blocks }
}
