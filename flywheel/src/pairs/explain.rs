//! `flywheel pairs explain`: why a pair exists.
//!
//! A pair names the row of the label table by its reason; where rows share one, the sides tell which of them it was. The
//! events are read from the log, which holds them for as long as `bus.clean_days` says: ids, times and numbers, which are
//! readable there, and nothing of their text.

use bus::{BusError, Positions, RecordKey, partition_for};
use events::topics::TELEMETRY_CLEAN;
use events::{ActionList, CleanEvent, EventHeader, EventKind, PairText, PreferencePair, avro};
use labeler::decision_table::{Label, Row, TABLE};
use labeler::lake::open_text;
use serde::Serialize;
use serde_json::json;

use super::lake::Lake;
use super::list::Facts;
use crate::cli::ListArgs;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::table::{fields, print, print_json, rows_text};

/// A row of the label table that gives such a pair.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Fired {
    /// From 1.
    row: usize,
    what_happened: &'static str,
}

/// What is said of an event.
#[derive(Debug, Serialize)]
struct Behind {
    event_id: String,
    /// 0 for an exposure, which is outside the sequence.
    sequence: i64,
    kind: &'static str,
    received_at: i64,
    /// Since the first event of these that the client stamped.
    client_ms: Option<i64>,
    origin: Option<&'static str>,
    action_index: Option<i32>,
    accepted_length: Option<i64>,
    visible_ms: Option<i64>,
    look_delay_s: Option<i32>,
    receipt: &'static str,
}

/// The rows that give such a pair; one, but where its text can not be read any more.
fn rows_of(pair: &PreferencePair, text: Option<&PairText>) -> Vec<Fired> {
    let gives_reason = |(_, row): &(usize, &'static Row)| row.label.reason() == Some(pair.reason);
    let candidates: Vec<(usize, &'static Row)> = (1..).zip(TABLE).filter(gives_reason).collect();
    // A policy may give a rejection a second side: to change nothing. What corrects types something or keeps something.
    let changes_nothing =
        |text: &PairText| text.shared.is_empty() && text.chosen.as_ref().is_some_and(ActionList::is_no_edit);
    let may_reject = pair.divergence.is_none() || text.is_none_or(changes_nothing);
    let may_correct = pair.divergence.is_some() && !text.is_some_and(changes_nothing);
    let fits = |row: &Row| match row.label {
        Label::Correction(_) | Label::Missed => may_correct,
        Label::Rejection(_) => may_reject,
        _ => true,
    };
    let mut rows: Vec<(usize, &'static Row)> = candidates.iter().filter(|(_, row)| fits(row)).copied().collect();
    if rows.is_empty() {
        // A row of an older table may have had other sides.
        rows = candidates;
    }
    // Rows that correct alike differ in what is chosen: what was typed, and then, further down, to stop.
    let stops = text.and_then(|text| text.chosen.as_ref()).map(|chosen| chosen.closed && chosen.actions.is_empty());
    let rows = match stops {
        Some(true) => rows.split_off(rows.len().saturating_sub(1)),
        Some(false) => {
            rows.truncate(1);
            rows
        }
        None => rows,
    };
    rows.into_iter().map(|(number, row)| Fired { row: number, what_happened: row.what_happened }).collect()
}

/// Whether an event is behind a pair: it is about the decision, or a change of a document while that was open.
fn is_behind(header: &EventHeader, pair: &PreferencePair) -> bool {
    let opportunity = header.receipt.as_ref().map(|receipt| receipt.opportunity_id).or(header.opportunity_id);
    let is_of_suggestion = header.suggestion_id.is_some() && header.suggestion_id == pair.suggestion_id;
    let is_about = opportunity == Some(pair.opportunity_id) || is_of_suggestion;
    let is_meanwhile = header.kind == EventKind::DocumentEdited
        && (pair.opened_at..=pair.last_signal_at).contains(&header.received_at);
    header.session_id == pair.session_id && (is_about || is_meanwhile)
}

async fn events_behind(foundation: &Foundation, pair: &PreferencePair) -> Result<Vec<EventHeader>, Failure> {
    let bus = foundation.bus.as_ref();
    let key = RecordKey(foundation.secret.record_key(pair.session_id));
    let partition = partition_for(&key, bus.partitions(TELEMETRY_CLEAN).await?);
    let ends = bus.end_positions(TELEMETRY_CLEAN).await?;
    let until: Positions = ends.iter().filter(|(number, _)| *number == partition).collect();
    let mut history = bus.history(TELEMETRY_CLEAN, Positions::oldest(), until).await?;
    let mut headers = Vec::new();
    loop {
        let entries = match history.next().await {
            Ok(entries) => entries,
            Err(error @ BusError::PositionGone { .. }) => {
                return Err(Failure::refused(format!("{error}; retention deleted it meanwhile, so ask again")));
            }
            Err(error) => return Err(error.into()),
        };
        if entries.is_empty() {
            break;
        }
        for entry in entries.iter().filter(|entry| !entry.is_control && entry.key == key) {
            // What a newer release wrote is left out, as everything that the log does not hold.
            let Ok(event) = avro::decode::<CleanEvent>(&entry.value) else { continue };
            if is_behind(&event.header, pair) {
                headers.push(event.header);
            }
        }
    }
    headers.sort_by_key(|header| (header.sequence, header.received_at));
    headers.dedup_by_key(|header| header.event_id);
    Ok(headers)
}

fn behind(headers: &[EventHeader]) -> Vec<Behind> {
    let begun = headers.iter().find(|header| header.sequence > 0).map(|header| header.monotonic_ms);
    let of = |header: &EventHeader| Behind {
        event_id: header.event_id.to_string(),
        sequence: header.sequence,
        kind: header.kind.as_str(),
        received_at: header.received_at.as_micros(),
        client_ms: begun.filter(|_| header.sequence > 0).map(|begun| header.monotonic_ms - begun),
        origin: header.origin.map(|origin| origin.as_str()),
        action_index: header.action_index,
        accepted_length: header.accepted_length,
        visible_ms: header.visible_ms,
        look_delay_s: header.look_delay_s,
        receipt: header.receipt_state.as_str(),
    };
    headers.iter().map(of).collect()
}

pub(super) async fn run(foundation: &Foundation, id: &str, list: &ListArgs) -> Result<(), Failure> {
    let pair = Lake::open(foundation).await?.find(id).await?;
    // Read for one bit of it, which tells rows apart; nothing of it is shown.
    let text = open_text(&pair, &foundation.keys).await.ok();
    let rows = rows_of(&pair, text.as_ref());
    let headers = events_behind(foundation, &pair).await?;
    let behind = behind(&headers);
    if list.json {
        return print_json(&json!({ "pair": Facts::of(&pair), "rows": rows, "events": behind }));
    }
    let facts = rows_text(&["field", "value"], fields(&serde_json::to_value(Facts::of(&pair))?), "");
    let fired: Vec<String> = rows.iter().map(|row| format!("row {}: {}", row.row, row.what_happened)).collect();
    let fired = match fired.as_slice() {
        [] => format!("no row of this release's label table gives `{}`", pair.reason),
        [one] => format!("the label table's {one}"),
        several => format!("one of the label table's {}", several.join("; ")),
    };
    let dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let table = behind
        .iter()
        .zip(&headers)
        .map(|(event, header)| {
            vec![
                if event.sequence > 0 { event.sequence.to_string() } else { "-".to_owned() },
                dash(event.client_ms.map(|ms| format!("+{:.1} s", ms as f64 / 1000.0))),
                event.kind.to_owned(),
                details(event),
                header.received_at.to_string(),
            ]
        })
        .collect();
    let none = "the log does not hold its events any more (bus.clean_days)";
    let table = rows_text(&["number", "client", "event", "what it says", "received"], table, none);
    print(&format!("{facts}\n\n{fired}\n\n{table}"))
}

/// What an event says beside its kind.
fn details(event: &Behind) -> String {
    let mut said = Vec::new();
    said.extend(event.origin.map(|origin| format!("origin {origin}")));
    said.extend(event.action_index.map(|index| format!("action {index}")));
    said.extend(event.accepted_length.map(|length| format!("accepted up to {length}")));
    said.extend(event.visible_ms.map(|visible| format!("visible {visible} ms")));
    said.extend(event.look_delay_s.map(|delay| format!("after {delay} s")));
    if event.receipt != "valid" {
        said.push(format!("receipt {}", event.receipt));
    }
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use events::{ByteRange, EditAction, EditContext, PairReason, Window};

    use super::*;
    use crate::pairs::fixture::pair;

    fn text(chosen: ActionList) -> PairText {
        let window = Window { start_byte: 0, first_line: 0, text: String::new() };
        let context = EditContext {
            repository: String::new(),
            path: String::new(),
            language: String::new(),
            recent_edits: Vec::new(),
            window,
            cursor_byte: 0,
        };
        PairText { context, shared: Vec::new(), chosen: Some(chosen), rejected: None }
    }

    #[test]
    fn every_reason_has_a_row_for_each_number_of_sides() {
        for reason in PairReason::ALL {
            for byte in [None, Some(0)] {
                let rows = rows_of(&pair(*reason, byte), None);
                assert!(!rows.is_empty(), "{reason}");
                let is_told = rows_of(&pair(*reason, byte), Some(&text(ActionList::default()))).len() == 1;
                assert!(is_told, "{reason}: the text tells one row from the others");
            }
        }
    }

    #[test]
    fn sides_tell_rows_with_one_reason_apart() {
        let undone = pair(PairReason::AcceptedThenUndone, Some(0));
        let action = EditAction {
            path: "src/a.rs".to_owned(),
            range: ByteRange::new(0, 0),
            old_text: String::new(),
            new_text: "load".to_owned(),
        };
        let retyped = ActionList { actions: vec![action.clone()], closed: false };
        let kept_in_part = PairText { shared: vec![action], ..text(ActionList::no_edit()) };
        for corrected in [text(retyped), kept_in_part] {
            let rows = rows_of(&undone, Some(&corrected));
            assert!(rows.len() == 1 && rows[0].what_happened.contains("typed there"), "{rows:?}");
        }
        let unpaired = pair(PairReason::AcceptedThenUndone, None);
        let taken_back = text(ActionList::no_edit());
        for rejected in [rows_of(&undone, Some(&taken_back)), rows_of(&unpaired, None)] {
            assert!(rejected.len() == 1 && rejected[0].what_happened.contains("before close"), "{rejected:?}");
        }
        assert_eq!(rows_of(&undone, None).len(), 2, "only the text tells");
        let modified = pair(PairReason::AcceptedThenModified, Some(0));
        let typed = rows_of(&modified, Some(&text(ActionList::default())));
        let stopped = rows_of(&modified, Some(&text(ActionList::no_edit())));
        assert!(typed[0].what_happened.contains("modified"), "{typed:?}");
        assert!(stopped[0].what_happened.contains("unchanged at close"), "{stopped:?}");
    }
}
