//! What opportunities of a model were like, and what became of them: when, with which signal, and, where outcomes say
//! so ([`VersionedPolicy::tells_details`](crate::policy_record::VersionedPolicy::tells_details)), of which language and
//! pattern, how long their first action took, and how much of accepted text stood at each look.

use std::collections::{BTreeMap, BTreeSet};

use events::{EditPattern, ModelName, Signal, TenantId, Timestamp};
use sqlx::any::AnyRow;
use sqlx::{AnyPool, Row};

use crate::crowd::{Crowd, FEWEST_PERSONS};
use crate::policy::LOOKS_S;
use crate::statistics::{Cluster, Estimate, clustered_ratio};
use crate::tally::{PersonSums, real};

/// Where buckets of the time to the first action begin, after the first one, in milliseconds.
const LATENCIES_MS: [i64; 6] = [50, 100, 200, 400, 800, 1600];

/// Which opportunities are looked at.
#[derive(Debug, Clone)]
pub struct Window {
    /// Served then or later.
    pub from: Timestamp,
    /// Served before then.
    pub before: Timestamp,
    /// How much time is one period, in seconds; periods begin with the epoch.
    pub period_seconds: i64,
}

/// Sums over opportunities of one person that have everything in common that is told apart here.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The pseudonym; must not be shown.
    pub person: String,
    /// When the period began in which serving answered.
    pub period: Timestamp,
    /// What the developer did.
    pub signal: Signal,
    /// The language, if it was said.
    pub language: Option<String>,
    /// What was proposed, if it was said, and if something was.
    pub pattern: Option<EditPattern>,
    /// Number of the bucket of the time to the first action, from 0, if it was said, and if something was shown.
    pub latency: Option<usize>,
    /// The sums.
    pub sums: Sums,
}

/// What is added up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sums {
    /// As the tally has them; censored opportunities are in none of them.
    pub measures: PersonSums,
    /// Censored opportunities.
    pub censored: f64,
    /// Accepted ones, of which it is said how much stood at all looks.
    pub looked_at: f64,
    /// Of them those of which at least half stood, by look.
    pub standing: [f64; LOOKS_S.len()],
    /// Sums of the shares of accepted characters that stood, by look.
    pub standing_share: [f64; LOOKS_S.len()],
}

impl Sums {
    fn add(&mut self, other: &Self) {
        let PersonSums { opportunities, shown, accepted, kept_characters, utility } = other.measures;
        self.measures.opportunities += opportunities;
        self.measures.shown += shown;
        self.measures.accepted += accepted;
        self.measures.kept_characters += kept_characters;
        self.measures.utility += utility;
        self.censored += other.censored;
        self.looked_at += other.looked_at;
        for look in 0..LOOKS_S.len() {
            self.standing[look] += other.standing[look];
            self.standing_share[look] += other.standing_share[look];
        }
    }
}

/// Persons with their sums.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Persons(BTreeMap<String, Sums>);

impl Persons {
    /// Everybody in `cells`.
    pub fn of<'a>(cells: impl IntoIterator<Item = &'a Cell>) -> Self {
        let mut persons = Self::default();
        for cell in cells {
            persons.add(cell);
        }
        persons
    }

    fn add(&mut self, cell: &Cell) {
        match self.0.get_mut(&cell.person) {
            Some(sums) => sums.add(&cell.sums),
            None => {
                self.0.insert(cell.person.clone(), cell.sums);
            }
        }
    }

    /// Over all of them.
    #[must_use]
    pub fn total(&self) -> Sums {
        let mut total = Sums::default();
        self.0.values().for_each(|sums| total.add(sums));
        total
    }

    /// A ratio with its 95% interval, clustered by person; none when too few persons have a denominator to tell it.
    #[must_use]
    pub fn ratio(&self, numerator: impl Fn(&Sums) -> f64, denominator: impl Fn(&Sums) -> f64) -> Option<Estimate> {
        let clusters: Vec<Cluster> = self
            .0
            .values()
            .map(|sums| Cluster { numerator: numerator(sums), denominator: denominator(sums) })
            .filter(|cluster| cluster.denominator > 0.0)
            .collect();
        if clusters.len() < FEWEST_PERSONS { None } else { clustered_ratio(&clusters) }
    }
}

impl Crowd for Persons {
    fn persons(&self) -> usize {
        self.0.len()
    }

    fn merge(&mut self, others: Self) {
        for (person, sums) in others.0 {
            self.0.entry(person).or_default().add(&sums);
        }
    }
}

/// Opportunities of some time by signal, and whose they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SignalCounts {
    persons: BTreeSet<String>,
    /// Opportunities, the censored left out.
    pub counts: BTreeMap<Signal, f64>,
    /// Censored ones.
    pub censored: f64,
}

impl SignalCounts {
    /// Takes in a cell.
    pub fn add(&mut self, cell: &Cell) {
        if !self.persons.contains(&cell.person) {
            self.persons.insert(cell.person.clone());
        }
        *self.counts.entry(cell.signal).or_default() += cell.sums.measures.opportunities;
        self.censored += cell.sums.censored;
    }
}

impl Crowd for SignalCounts {
    fn persons(&self) -> usize {
        self.persons.len()
    }

    fn merge(&mut self, others: Self) {
        self.persons.extend(others.persons);
        self.censored += others.censored;
        for (signal, count) in others.counts {
            *self.counts.entry(signal).or_default() += count;
        }
    }
}

/// Groups of cells that have the same key.
pub fn grouped<'a, K: Ord>(
    cells: impl IntoIterator<Item = &'a Cell>,
    key: impl Fn(&'a Cell) -> K,
) -> BTreeMap<K, Persons> {
    let mut groups: BTreeMap<K, Persons> = BTreeMap::new();
    for cell in cells {
        groups.entry(key(cell)).or_default().add(cell);
    }
    groups
}

/// What a bucket of the time to the first action is called.
#[must_use]
pub fn latency_name(bucket: usize) -> String {
    let begins = bucket.checked_sub(1).and_then(|before| LATENCIES_MS.get(before));
    match (begins, LATENCIES_MS.get(bucket)) {
        (None, Some(end)) => format!("under {end} ms"),
        (Some(begin), Some(end)) => format!("{begin}-{end} ms"),
        (_, None) => format!("{} ms and more", LATENCIES_MS[LATENCIES_MS.len() - 1]),
    }
}

/// The number of a time's bucket, as SQL.
fn latency_bucket() -> String {
    let mut cases = String::from("CASE WHEN first_action_ms IS NULL THEN NULL");
    for (bucket, end) in LATENCIES_MS.iter().enumerate() {
        cases.push_str(&format!(" WHEN first_action_ms < {end} THEN {bucket}"));
    }
    format!("CAST({cases} ELSE {} END AS BIGINT)", LATENCIES_MS.len())
}

/// What closed in `window`, of every version of a model.
///
/// # Errors
/// A database that fails.
pub async fn cells(
    pool: &AnyPool,
    tenant: &TenantId,
    model: &ModelName,
    window: &Window,
) -> Result<Vec<Cell>, sqlx::Error> {
    let period = window.period_seconds.max(1).saturating_mul(1_000_000);
    let looks = LOOKS_S.map(|look| format!("standing_{look}_s_permille"));
    let known: Vec<String> = looks.iter().map(|look| format!("{look} IS NOT NULL")).collect();
    let looked_at = format!("accepted = 1 AND censored = 0 AND {}", known.join(" AND "));
    let sum = |value: &str| format!("CAST(SUM({value}) AS BIGINT)");
    let when = |condition: &str, value: &str| sum(&format!("CASE WHEN {condition} THEN {value} ELSE 0 END"));
    let mut columns = vec![
        sum("1 - censored"),
        sum("(1 - censored) * shown"),
        sum("(1 - censored) * accepted"),
        sum("(1 - censored) * kept_characters"),
        "CAST(SUM((1 - censored) * utility) AS DOUBLE PRECISION)".to_owned(),
        sum("censored"),
        when(&looked_at, "1"),
    ];
    for look in &looks {
        columns.push(when(&format!("{looked_at} AND {look} >= 500"), "1"));
        columns.push(when(&looked_at, look));
    }
    let statement = format!(
        "SELECT person, CAST(exposed_at / {period} AS BIGINT), signal, language, pattern, {}, {} \
         FROM opportunity_outcomes WHERE tenant = $1 AND model = $2 AND exposed_at >= $3 AND exposed_at < $4 \
         GROUP BY 1, 2, 3, 4, 5, 6",
        latency_bucket(),
        columns.join(", ")
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(tenant.as_str())
        .bind(model.as_str())
        .bind(window.from.as_micros())
        .bind(window.before.as_micros())
        .fetch_all(pool)
        .await?;
    let mut cells = rows.iter().map(|row| cell(row, period)).collect::<Result<Vec<_>, sqlx::Error>>()?;
    // Sums depend on their order, and the database's order of texts is a setting.
    cells.sort_by(|left, right| {
        let key = |cell: &Cell| (cell.period, cell.signal, cell.pattern, cell.latency);
        (&left.person, key(left), &left.language).cmp(&(&right.person, key(right), &right.language))
    });
    Ok(cells)
}

fn cell(row: &AnyRow, period: i64) -> Result<Cell, sqlx::Error> {
    let number = |index: usize| row.try_get::<i64, _>(index).map(real);
    let latency = row.try_get::<Option<i64>, _>(5)?;
    let mut sums = Sums {
        measures: PersonSums {
            opportunities: number(6)?,
            shown: number(7)?,
            accepted: number(8)?,
            kept_characters: number(9)?,
            utility: row.try_get(10)?,
        },
        censored: number(11)?,
        looked_at: number(12)?,
        ..Sums::default()
    };
    for look in 0..LOOKS_S.len() {
        sums.standing[look] = number(13 + 2 * look)?;
        sums.standing_share[look] = number(14 + 2 * look)? / 1000.0;
    }
    Ok(Cell {
        person: row.try_get(0)?,
        period: Timestamp::from_micros(row.try_get::<i64, _>(1)?.saturating_mul(period)),
        signal: Signal::from_symbol(&row.try_get::<String, _>(2)?),
        language: row.try_get(3)?,
        pattern: row.try_get::<Option<String>, _>(4)?.map(|symbol| EditPattern::from_symbol(&symbol)),
        latency: latency.and_then(|bucket| usize::try_from(bucket).ok()),
        sums,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_names() {
        let names: Vec<String> = (0..=LATENCIES_MS.len()).map(latency_name).collect();
        assert_eq!(names[..2], ["under 50 ms", "50-100 ms"]);
        assert_eq!(names[LATENCIES_MS.len()], "1600 ms and more");
    }

    fn cell(person: u8, shown: f64, utility: f64) -> Cell {
        let measures = PersonSums { opportunities: 2.0, shown, utility, ..PersonSums::default() };
        Cell {
            person: format!("person {person}"),
            period: Timestamp::EPOCH,
            signal: Signal::Ignored,
            language: None,
            pattern: None,
            latency: None,
            sums: Sums { measures, ..Sums::default() },
        }
    }

    #[test]
    fn a_ratio_of_few_persons_is_not_told() {
        let mut cells: Vec<Cell> = (0..5).map(|person| cell(person, 1.0, 0.5)).collect();
        let utility = |cells: &[Cell]| Persons::of(cells).ratio(|s| s.measures.utility, |s| s.measures.opportunities);
        assert!((utility(&cells).unwrap().value - 0.25).abs() < 1e-12);
        assert_eq!(utility(&cells[..4]), None);
        // Nothing was shown to one of the five: of the others alone it is not told.
        cells[4].sums.measures.shown = 0.0;
        assert_eq!(Persons::of(&cells).ratio(|s| s.measures.accepted, |s| s.measures.shown), None);
        let total = Persons::of(&cells).total();
        assert_eq!((total.measures.opportunities, total.measures.shown), (10.0, 4.0));
    }
}
