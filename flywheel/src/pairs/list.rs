//! `flywheel pairs list`.

use std::cmp::Reverse;

use events::PreferencePair;
use serde::Serialize;

use super::lake::{Filter, Lake};
use crate::cli::PairsListArgs;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::table::{print_json, print_rows};

/// Digits of an id that a table shows: enough to ask with.
const SHOWN_DIGITS: usize = 12;

/// What is said of a pair: nothing of its text, and nobody's name.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    pair_id: String,
    reason: &'static str,
    language: String,
    repository: String,
    audience: String,
    weight: f64,
    model: String,
    model_version: i64,
    label_policy_version: i32,
    has_two_sides: bool,
    divergence_action_index: Option<u32>,
    divergence_byte: Option<u32>,
    altered: bool,
    opened_at: i64,
    labeled_at: i64,
    last_signal_at: i64,
}

impl Facts {
    pub(super) fn of(pair: &PreferencePair) -> Self {
        Self {
            pair_id: pair.pair_id.to_string(),
            reason: pair.reason.as_str(),
            language: pair.language.clone(),
            repository: pair.repository.clone(),
            audience: pair.audience.to_string(),
            weight: pair.weight,
            model: pair.model.to_string(),
            model_version: pair.model_version.0,
            label_policy_version: pair.label_policy_version,
            has_two_sides: pair.divergence.is_some(),
            divergence_action_index: pair.divergence.map(|point| point.action_index),
            divergence_byte: pair.divergence.map(|point| point.byte),
            altered: pair.altered,
            opened_at: pair.opened_at.as_micros(),
            labeled_at: pair.labeled_at.as_micros(),
            last_signal_at: pair.last_signal_at.as_micros(),
        }
    }
}

pub(super) async fn run(foundation: &Foundation, arguments: &PairsListArgs) -> Result<(), Failure> {
    let filter = Filter::new(&arguments.filter)?;
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let mut newest: Vec<PreferencePair> = Vec::new();
    let sort = |pairs: &mut Vec<PreferencePair>| {
        pairs.sort_by_key(|pair| (Reverse(pair.labeled_at), pair.pair_id));
        pairs.truncate(limit);
    };
    let lake = Lake::open(foundation).await?;
    lake.each("reading pairs", async |pair| {
        if filter.takes(&pair) {
            newest.push(PreferencePair { sealed: None, ..pair });
        }
        if newest.len() > limit.saturating_mul(2) {
            sort(&mut newest);
        }
        Ok(())
    })
    .await?;
    sort(&mut newest);
    if arguments.list.json {
        let facts: Vec<Facts> = newest.iter().map(Facts::of).collect();
        return print_json(&facts);
    }
    let rows = newest
        .iter()
        .map(|pair| {
            let sides = if pair.divergence.is_some() { "two" } else { "one" };
            vec![
                pair.pair_id.to_string().chars().take(SHOWN_DIGITS).collect(),
                pair.labeled_at.to_string(),
                pair.reason.to_string(),
                sides.to_owned(),
                pair.weight.to_string(),
                pair.language.clone(),
                pair.repository.clone(),
            ]
        })
        .collect();
    print_rows(&["pair", "labeled", "reason", "sides", "weight", "language", "repository"], rows, "no such pairs")
}
