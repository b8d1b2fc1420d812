use super::*;
use crate::episode::{Episode, Verdict};
use crate::story::testing::{TEXT, action, story};

/// The document goes on below the window.
const BELOW: &str = "more();\n";

/// What is learned when something of `origin` made `document` of the whole document after a suggestion was shown.
fn written_anew(origin: Origin, document: &str) -> Verdict {
    let old_text = format!("{TEXT}{BELOW}");
    let edit = EditText {
        path: "p".to_owned(),
        start: 0,
        end: u64::try_from(old_text.len()).unwrap(),
        old_text,
        new_text: document.to_owned(),
    };
    let reports = [(0, What::Shown { actions_visible: 1 }), (3_000, What::Edit { origin, text: Some(edit) })];
    let mut told = story(Decision::Shown, vec![action(8, "b", "c")], &reports);
    // None of these edits wrote the suggestion that is judged.
    told.facts[1].suggestion_id = None;
    Episode::new(&told, &LabelPolicy::default()).judge(true)
}

#[test]
fn who_writes_whole_documents_is_told_apart() {
    let writers = [
        (Origin::Suggestion, "other_suggestion"),
        (Origin::External, "external"),
        (Origin::Formatter, "formatter"),
        (Origin::Paste, "paste"),
        (Origin::Redo, "redo"),
    ];
    for (origin, reason) in writers {
        for document in ["let a = d;\nmore();\n", "fn other() {}\n", ""] {
            assert_eq!(written_anew(origin, document), Verdict::NoPair(reason), "{origin}: {document:?}");
        }
    }
}

#[test]
fn a_document_written_anew_without_the_region_changes_nothing_there() {
    for origin in [Origin::Suggestion, Origin::External, Origin::Formatter, Origin::Paste] {
        for document in [format!("{TEXT}less();\n"), format!("// new\n{TEXT}{BELOW}"), format!("{TEXT}{BELOW}")] {
            assert_eq!(written_anew(origin, &document), Verdict::NoPair("nothing_to_learn"), "{origin}: {document}");
        }
    }
}
