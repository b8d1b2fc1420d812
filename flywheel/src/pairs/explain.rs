//! `flywheel pairs explain`: why a pair exists.
//!
//! A pair names the row of the label table by its reason; where rows share one, the sides tell which of them it was, as
//! long as its text can be read. The events are read from the log, which holds them for as long as `bus.clean_days`
//! says: ids, times and numbers, which are readable there, and nothing of their text. What can not be said any more is
//! told as that.

use bus::{BusError, Positions, RecordKey, partition_for};
use events::topics::TELEMETRY_CLEAN;
use events::{ActionList, CleanEvent, EventHeader, EventKind, PairText, PreferencePair, Timestamp, avro};
use labeler::decision_table::{Label, Row, TABLE};
use labeler::lake::{OpenTextError, open_text};
use serde::Serialize;

use super::lake::Lake;
use super::list::Facts;
use crate::cli::ListArgs;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::progress::Progress;
use crate::table::{fields, print, print_json, rows_text};

/// Why a pair exists, as far as that can be said now.
#[derive(Debug, Serialize)]
struct Explained {
    pair: Facts,
    /// Several where only its text would tell them apart; none where the table has no such row any more.
    rows: Vec<Fired>,
    /// Another one than the pair's: the rows are not those by which it was labeled.
    label_policy_version_now: i32,
    text_state: &'static str,
    events: Vec<Behind>,
    /// False: the log does not hold the first of them any more.
    events_complete: bool,
}

/// A row of the label table that gives such a pair.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Fired {
    /// From 1, in this release's table.
    row: usize,
    /// Its name, as in metrics.
    code: &'static str,
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
    rows.into_iter()
        .map(|(number, row)| Fired { row: number, code: row.code, what_happened: row.what_happened })
        .collect()
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

/// What the log holds of a pair.
#[derive(Debug, Default)]
struct Held {
    headers: Vec<EventHeader>,
    /// When the oldest record was appended that the partition still holds.
    begins_at: Option<Timestamp>,
}

impl Held {
    /// Whether nothing is gone: the first event of the decision is there, or the log goes back beyond it. An event is
    /// appended after it was received, and retention deletes what was appended first.
    fn is_complete(&self, pair: &PreferencePair) -> bool {
        self.headers.iter().any(|header| header.received_at <= pair.opened_at)
            || self.begins_at.is_some_and(|begins_at| begins_at <= pair.opened_at)
    }
}

async fn events_behind(foundation: &Foundation, pair: &PreferencePair) -> Result<Held, Failure> {
    let progress = Progress::new();
    progress.begin("reading the log", None);
    let held = read_log(foundation, pair, &progress).await;
    progress.finish();
    held
}

async fn read_log(foundation: &Foundation, pair: &PreferencePair, progress: &Progress) -> Result<Held, Failure> {
    let bus = foundation.bus.as_ref();
    let key = RecordKey(foundation.secret.record_key(pair.session_id));
    let partition = partition_for(&key, bus.partitions(TELEMETRY_CLEAN).await?);
    let ends = bus.end_positions(TELEMETRY_CLEAN).await?;
    let until: Positions = ends.iter().filter(|(number, _)| *number == partition).collect();
    let mut history = bus.history(TELEMETRY_CLEAN, Positions::oldest(), until).await?;
    let mut held = Held::default();
    loop {
        let entries = match history.next().await {
            Ok(entries) => entries,
            Err(error @ BusError::PositionGone { .. }) => {
                return Err(Failure::refused(format!("{error}; retention deleted it meanwhile, so ask again")));
            }
            Err(error) => return Err(error.into()),
        };
        let Some(first) = entries.first() else { break };
        held.begins_at.get_or_insert(first.appended_at);
        for entry in entries.iter().filter(|entry| !entry.is_control && entry.key == key) {
            // What a newer release wrote is left out, as everything that the log does not hold.
            let Ok(event) = avro::decode::<CleanEvent>(&entry.value) else { continue };
            if is_behind(&event.header, pair) {
                held.headers.push(event.header);
            }
        }
        progress.advance(u64::try_from(entries.len()).unwrap_or(u64::MAX));
    }
    held.headers.sort_by_key(|header| (header.sequence, header.received_at, header.event_id));
    held.headers.dedup_by_key(|header| header.event_id);
    Ok(held)
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

/// The text of a pair if it can be read, and what is with it. Read for one bit of it, which tells rows apart; nothing of
/// it is shown.
async fn text_now(foundation: &Foundation, pair: &PreferencePair) -> Result<(Option<PairText>, &'static str), Failure> {
    match open_text(pair, &foundation.keys).await {
        Ok(text) => Ok((Some(text), "readable")),
        Err(OpenTextError::Erased) => Ok((None, "erased")),
        Err(OpenTextError::NoText) => Ok((None, "absent")),
        Err(error @ OpenTextError::Keys(_)) => Err(error.into()),
        Err(_) => Ok((None, "damaged")),
    }
}

pub(super) async fn run(foundation: &Foundation, id: &str, list: &ListArgs) -> Result<(), Failure> {
    let pair = Lake::open(foundation).await?.find(id).await?;
    let (text, text_state) = text_now(foundation, &pair).await?;
    let held = events_behind(foundation, &pair).await?;
    let explained = Explained {
        rows: rows_of(&pair, text.as_ref()),
        label_policy_version_now: foundation.settings.labeler.policy.version(),
        text_state,
        events: behind(&held.headers),
        events_complete: held.is_complete(&pair),
        pair: Facts::of(&pair),
    };
    if list.json { print_json(&explained) } else { print(&said(&explained, &pair)?) }
}

fn said(explained: &Explained, pair: &PreferencePair) -> Result<String, Failure> {
    let facts = rows_text(&["field", "value"], fields(&serde_json::to_value(&explained.pair)?), "");
    let parts = [facts, said_of_rows(explained, pair), said_of_events(explained)];
    Ok(parts.join("\n\n"))
}

fn said_of_rows(explained: &Explained, pair: &PreferencePair) -> String {
    let rows: Vec<String> =
        explained.rows.iter().map(|row| format!("row {}: {}", row.row, row.what_happened)).collect();
    let mut said = match rows.as_slice() {
        [] => format!("no row of this release's label table gives `{}`", pair.reason),
        [one] => format!("the label table's {one}"),
        several => {
            let why = match explained.text_state {
                "erased" => "whose person was erased",
                _ => "which can not be read",
            };
            format!("one of the label table's {}; its text, {why}, would tell which", several.join("; "))
        }
    };
    let (then, now) = (pair.label_policy_version, explained.label_policy_version_now);
    if then != now {
        said.push_str(&format!(
            "\nlabeled by policy {then}; now it is {now}, by which such a pair may have another row or none"
        ));
    }
    said
}

fn said_of_events(explained: &Explained) -> String {
    let dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let rows = explained.events.iter().map(|event| {
        vec![
            if event.sequence > 0 { event.sequence.to_string() } else { "-".to_owned() },
            dash(event.client_ms.map(|ms| format!("+{:.1} s", ms as f64 / 1000.0))),
            event.kind.to_owned(),
            details(event),
            Timestamp::from_micros(event.received_at).to_string(),
        ]
    });
    let none = if explained.events_complete {
        "the log holds none of its events, although it goes back beyond them"
    } else {
        "the log does not hold its events any more (bus.clean_days)"
    };
    let mut said = rows_text(&["number", "client", "event", "what it says", "received"], rows.collect(), none);
    if !explained.events.is_empty() && !explained.events_complete {
        said.push_str("\n\nthe log does not hold the first of its events any more (bus.clean_days)");
    }
    said
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
    use events::{
        ByteRange, ConsentTier, EditAction, EditContext, EventId, OffsetEncoding, Origin, PairReason, ReceiptState,
        Window,
    };
    use serde_json::json;

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

    /// An event of the fixture's decision, so many seconds after it.
    fn header(kind: EventKind, sequence: i64, seconds: i64) -> EventHeader {
        let pair = pair(PairReason::TypedAgainst, Some(4));
        EventHeader {
            event_id: EventId::of_client_event(pair.session_id, sequence.unsigned_abs()),
            tenant: pair.tenant.clone(),
            person: pair.person.clone(),
            session_id: pair.session_id,
            sequence,
            kind,
            consent: ConsentTier::Code,
            received_at: pair.opened_at + std::time::Duration::from_secs(seconds.unsigned_abs()),
            monotonic_ms: 1000 * seconds,
            opportunity_id: Some(pair.opportunity_id),
            suggestion_id: None,
            action_index: None,
            actions_visible: None,
            accepted_length: None,
            visible_ms: None,
            look_delay_s: None,
            origin: (kind == EventKind::DocumentEdited).then_some(Origin::Typed),
            offset_encoding: OffsetEncoding::Utf8,
            receipt_state: ReceiptState::Valid,
            receipt: None,
            content_digest: "0".repeat(32),
        }
    }

    fn explained(pair: &PreferencePair, held: &Held, text_state: &'static str, now: i32) -> Explained {
        Explained {
            pair: Facts::of(pair),
            rows: rows_of(pair, None),
            label_policy_version_now: now,
            text_state,
            events: behind(&held.headers),
            events_complete: held.is_complete(pair),
        }
    }

    /// What docs/pairs.md promises to programs.
    #[test]
    fn an_explanation_in_json() {
        let pair = pair(PairReason::TypedAgainst, Some(4));
        let edited = header(EventKind::DocumentEdited, 7, 2);
        let event_id = edited.event_id.to_string();
        let held = Held { headers: vec![edited], begins_at: Some(pair.opened_at) };
        let explained = explained(&pair, &held, "readable", 1);
        let row = explained.rows[0].row;
        let expected = json!({
            "pair": serde_json::to_value(Facts::of(&pair)).unwrap(),
            "rows": [{ "row": row, "code": "typed_against", "what_happened": "visible, then typed against it" }],
            "label_policy_version_now": 1,
            "text_state": "readable",
            "events": [{
                "event_id": event_id, "sequence": 7, "kind": "document_edited", "received_at": 1_800_000_002_000_000_i64,
                "client_ms": 0, "origin": "typed", "action_index": null, "accepted_length": null, "visible_ms": null,
                "look_delay_s": null, "receipt": "valid",
            }],
            "events_complete": true,
        });
        assert_eq!(serde_json::to_value(&explained).unwrap(), expected);
    }

    #[test]
    fn what_retention_deleted_is_told() {
        let pair = pair(PairReason::TypedAgainst, Some(4));
        let said = |headers: Vec<EventHeader>, begins_after_s: Option<i64>| {
            let begins_at =
                begins_after_s.map(|seconds| Timestamp::from_micros(pair.opened_at.as_micros() + seconds * 1_000_000));
            said_of_events(&explained(&pair, &Held { headers, begins_at }, "readable", 1))
        };
        let (exposure, edited) = (header(EventKind::Exposure, 0, 0), header(EventKind::DocumentEdited, 7, 2));
        // The first event ever is appended after it was received: the log of a young platform is whole.
        let whole = said(vec![exposure, edited.clone()], Some(1));
        assert!(whole.contains("document_edited") && !whole.contains("bus.clean_days"), "{whole}");
        let rest = said(vec![edited.clone()], Some(2));
        assert!(rest.contains("document_edited") && rest.contains("the first of its events"), "{rest}");
        assert!(!said(vec![edited], Some(-1)).contains("bus.clean_days"), "whose exposure was lost has the others");
        for gone in [said(Vec::new(), Some(900)), said(Vec::new(), None)] {
            assert!(gone.contains("does not hold its events any more"), "{gone}");
        }
        assert!(said(Vec::new(), Some(-1)).contains("goes back beyond them"));
    }

    #[test]
    fn what_only_the_text_would_tell_is_told() {
        let pair = pair(PairReason::AcceptedThenUndone, Some(0));
        let said = |state, now| said_of_rows(&explained(&pair, &Held::default(), state, now), &pair);
        assert!(said("erased", 1).contains("one of the label table's row") && said("erased", 1).contains("was erased"));
        assert!(said("damaged", 1).contains("can not be read") && !said("damaged", 1).contains("policy"));
        assert!(said("damaged", 2).contains("labeled by policy 1; now it is 2"));
    }
}
