use std::sync::Arc;

use events::{ByteRange, TenantSecret, Window, apply_actions};
use proptest::prelude::*;

use super::*;
use crate::fixture::{self, LETTERS_DIGITS, RULES, noise};

const LIMITS: SceneLimits = SceneLimits {
    event_bytes: 1 << 20,
    scanned_characters: 1 << 24,
    remembered_characters: 1 << 16,
    remembered_pairs: 64,
};

fn tools() -> (Scrubber, Shape) {
    let secret = TenantSecret::new([1; 32]);
    (Scrubber::new(&secret, Arc::clone(&RULES)), Shape::new(&secret))
}

fn edit(start: usize, old: &str, new: &str) -> EventText {
    EventText::Edit {
        path: "src/a.rs".to_owned(),
        start: start as u64,
        end: (start + old.len()) as u64,
        old_text: old.to_owned(),
        new_text: new.to_owned(),
    }
}

fn look(text: &str) -> EventText {
    EventText::Look { path: "src/a.rs".to_owned(), text: text.to_owned() }
}

fn exposure(window: &str, actions: &[(usize, &str, &str)]) -> EventText {
    EventText::Exposure {
        context: EditContext {
            repository: "acme".to_owned(),
            path: "src/a.rs".to_owned(),
            language: "rust".to_owned(),
            recent_edits: vec![],
            window: Window { start_byte: 0, first_line: 0, text: window.to_owned() },
            cursor_byte: 0,
        },
        actions: actions
            .iter()
            .map(|(start, old, new)| EditAction {
                path: "src/a.rs".to_owned(),
                range: ByteRange::new(*start as u64, (start + old.len()) as u64),
                old_text: (*old).to_owned(),
                new_text: (*new).to_owned(),
            })
            .collect(),
        window_start_offset: 0,
        altered: false,
        first_action_ms: None,
    }
}

/// Scrubs groups of texts one after the other, each with the memory of those before.
fn scrub(groups: Vec<Vec<EventText>>) -> Vec<EventText> {
    let (scrubber, shape) = tools();
    let mut memory = Memory::default();
    let mut scrubbed = Vec::new();
    for group in groups {
        // What is remembered is stored as JSON.
        memory = serde_json::from_slice(&serde_json::to_vec(&memory).unwrap()).unwrap();
        let mut scene = Scene::new(&scrubber, &shape, LIMITS, memory).unwrap();
        let placed: Vec<_> = group.into_iter().map(|text| scene.place(text, OffsetEncoding::Utf8).unwrap()).collect();
        scene.settle(&mut |_| ()).unwrap();
        scrubbed.extend(placed.iter().map(|placed| scene.rendered(placed).0));
        memory = scene.remember();
    }
    scrubbed
}

fn all_text(texts: &[EventText]) -> String {
    texts.iter().flat_map(|text| strings(text).cloned().collect::<Vec<_>>()).collect::<Vec<_>>().join("\u{1}")
}

/// Applies scrubbed edits to a scrubbed document: every range must still hold what the edit says.
fn replay(document: &str, edits: &[EventText]) -> String {
    edits.iter().fold(document.to_owned(), |document, text| match text {
        EventText::Edit { start, end, old_text, new_text, .. } => {
            let (start, end) = (*start as usize, *end as usize);
            assert_eq!(&document[start..end], old_text);
            format!("{}{new_text}{}", &document[..start], &document[end..])
        }
        _ => document,
    })
}

fn typed(at: usize, text: &str) -> Vec<EventText> {
    text.char_indices().map(|(offset, character)| edit(at + offset, "", &character.to_string())).collect()
}

#[test]
fn a_secret_typed_letter_by_letter_goes_everywhere() {
    let window = "let password = \"\";\nlogin();\n";
    let secret = noise(60, LETTERS_DIGITS, 18);
    let mut texts = vec![exposure(window, &[])];
    texts.extend(typed(16, &secret));
    let after = window.replace("\"\"", &format!("\"{secret}\""));
    texts.push(look(&after));
    // Half of it is deleted again, which no rule would find by itself.
    texts.push(edit(16, &secret[..9], ""));
    let scrubbed = scrub(vec![texts]);
    let letters: String = scrubbed[1..19]
        .iter()
        .map(|text| match text {
            EventText::Edit { new_text, .. } => new_text.clone(),
            _ => String::new(),
        })
        .collect();
    assert_ne!(letters, secret);
    let EventText::Look { text, .. } = &scrubbed[19] else { panic!() };
    assert_eq!(text, &window.replace("\"\"", &format!("\"{letters}\"")));
    let EventText::Edit { old_text, .. } = &scrubbed[20] else { panic!() };
    assert_eq!(old_text, &letters[..9]);
    assert_eq!(replay(window, &scrubbed[1..]).len(), after.len() - 9);
    // The same secret, found by a rule in one piece, has the same image.
    assert_eq!(scrub(vec![vec![look(&after)]]), vec![scrubbed[19].clone()]);
}

#[test]
fn pasted_halves_of_a_secret_are_found_together() {
    let secret = format!("{}{}", ["AK", "IA"].concat(), noise(61, fixture::UPPER_DIGITS, 16));
    let (head, tail) = secret.split_at(10);
    let texts = vec![edit(100, "", head), edit(110, "", tail), look(&format!("x = {secret}"))];
    for groups in [vec![texts.clone()], texts.iter().map(|text| vec![text.clone()]).collect()] {
        let several = groups.len() > 1;
        let scrubbed = scrub(groups);
        let all = all_text(&scrubbed);
        assert!(!all.contains(&secret) && !all.contains(tail), "{all}");
        // What was concluded before the rest was typed is out already.
        assert_eq!(all.contains(head), several);
    }
}

#[test]
fn the_memory_serves_later_looks() {
    let secret = noise(62, LETTERS_DIGITS, 16);
    let window = format!("fn f() {{\n    let token = \"{secret}\";\n}}\n");
    let later = format!("send({secret});\n");
    let scrubbed = scrub(vec![vec![exposure(&window, &[])], vec![look(&window)], vec![look(&later)]]);
    assert!(!all_text(&scrubbed).contains(&secret));
    let EventText::Exposure { context, altered, .. } = &scrubbed[0] else { panic!() };
    assert!(altered);
    assert_eq!(
        &look(&context.window.text).clone(),
        &match &scrubbed[1] {
            EventText::Look { text, .. } => look(text),
            other => other.clone(),
        }
    );
}

#[test]
fn names_of_an_exposure_that_serving_rendered_match_those_of_edits() {
    let (scrubber, shape) = tools();
    let mut scene = Scene::new(&scrubber, &shape, LIMITS, Memory::default()).unwrap();
    let mut rendered = exposure("a\n", &[]);
    if let EventText::Exposure { context, .. } = &mut rendered {
        context.path = shape.path("src/ledger.rs");
    }
    let of_edit = EventText::Edit {
        path: "src/ledger.rs".into(),
        start: 0,
        end: 0,
        old_text: String::new(),
        new_text: "b".into(),
    };
    let placed = [rendered, of_edit].map(|text| scene.place(text, OffsetEncoding::Utf8).unwrap());
    let paths = placed.map(|placed| match placed.text {
        EventText::Exposure { context, .. } => context.path,
        EventText::Edit { path, .. } | EventText::Look { path, .. } => path,
    });
    assert_eq!(paths[0], paths[1]);
    assert!(!paths[0].contains("ledger"));
}

#[test]
fn offsets_in_utf16_find_their_place() {
    let (scrubber, shape) = tools();
    let secret = noise(63, LETTERS_DIGITS, 16);
    let mut scene = Scene::new(&scrubber, &shape, LIMITS, Memory::default()).unwrap();
    let window = "// 🦀 ä\nlet token = \"\";\n";
    let at = window.find("\"\"").unwrap() + 1;
    let units = window[..at].encode_utf16().count() as u64;
    let mut placed = vec![scene.place(exposure(window, &[]), OffsetEncoding::Utf16).unwrap()];
    for (start, piece) in [(units, &secret[..5]), (units + 5, &secret[5..])] {
        let text = EventText::Edit {
            path: "src/a.rs".into(),
            start,
            end: start,
            old_text: String::new(),
            new_text: piece.into(),
        };
        placed.push(scene.place(text, OffsetEncoding::Utf16).unwrap());
    }
    scene.settle(&mut |_| ()).unwrap();
    let all = all_text(&placed.iter().map(|placed| scene.rendered(placed).0).collect::<Vec<_>>());
    assert!(!all.contains(&secret[..5]) && !all.contains(&secret[5..]), "{all}");
}

#[test]
fn what_is_too_large_is_refused() {
    let (scrubber, shape) = tools();
    let limits = SceneLimits { event_bytes: 10, scanned_characters: 20, ..LIMITS };
    let mut scene = Scene::new(&scrubber, &shape, limits, Memory::default()).unwrap();
    assert_eq!(scene.place(look("12345678901"), OffsetEncoding::Utf8).err(), Some(ScrubError::TooLarge));
    for number in 0..5 {
        scene.place(look(&format!("123456{number}")), OffsetEncoding::Utf8).unwrap();
    }
    assert_eq!(scene.settle(&mut |_| ()).err(), Some(ScrubError::TooLarge));
}

/// A change of a document as fractions of its length, and what is inserted.
type Step = (f64, f64, String);

fn inserted() -> impl Strategy<Value = String> {
    let planted: Vec<String> = fixture::all().into_iter().map(|planted| planted.text).collect();
    prop_oneof![
        2 => prop::sample::select(planted),
        2 => "[a-z (){}=;\n]{0,20}",
        1 => Just("let password = \"\";".to_owned()),
        1 => "[A-Za-z0-9]{1,6}",
        1 => "ä🦀ß[a-z]{0,3}",
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0.0..1.0_f64, 0.0..0.3_f64, inserted()), 1..12)
}

fn boundary(text: &str, fraction: f64) -> usize {
    let mut place = (text.len() as f64 * fraction) as usize;
    while !text.is_char_boundary(place) {
        place -= 1;
    }
    place
}

/// The edits that the steps make, and the document after them.
fn play(document: &str, steps: &[Step]) -> (Vec<EventText>, String) {
    let mut document = document.to_owned();
    let mut edits = Vec::new();
    for (place, length, new) in steps {
        let start = boundary(&document, *place);
        let end = boundary(&document, (place + length).min(1.0)).max(start);
        edits.push(edit(start, &document[start..end], new));
        document.replace_range(start..end, new);
    }
    (edits, document)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn ranges_still_hold_after_scrubbing(window in inserted(), steps in steps()) {
        let (edits, after) = play(&window, &steps);
        let mut texts = vec![exposure(&window, &[])];
        texts.extend(edits);
        texts.push(look(&after));
        let scrubbed = scrub(vec![texts.clone()]);
        for (before, after) in texts.iter().zip(&scrubbed) {
            let lengths = |text: &EventText| strings(text).map(String::len).collect::<Vec<_>>();
            prop_assert_eq!(lengths(before), lengths(after));
        }
        let EventText::Exposure { context, .. } = &scrubbed[0] else { panic!() };
        let EventText::Look { text, .. } = &scrubbed[scrubbed.len() - 1] else { panic!() };
        prop_assert_eq!(&replay(&context.window.text, &scrubbed[1..]), text);
    }

    #[test]
    fn applying_scrubbed_actions_gives_the_scrubbed_result(window in inserted(), steps in steps()) {
        let (place, length, new) = &steps[0];
        let start = boundary(&window, *place);
        let end = boundary(&window, (place + length).min(1.0)).max(start);
        let actions = [(start, &window[start..end], new.as_str())];
        let exposed = exposure(&window, &actions);
        let EventText::Exposure { context: raw, actions: raw_actions, .. } = &exposed else { panic!() };
        let applied = apply_actions(0, &raw.window.text, raw_actions).unwrap();
        let scrubbed = scrub(vec![vec![exposed, edit(start, &window[start..end], new), look(&applied)]]);
        let EventText::Exposure { context, actions, .. } = &scrubbed[0] else { panic!() };
        let EventText::Look { text, .. } = &scrubbed[2] else { panic!() };
        let result = apply_actions(0, &context.window.text, actions);
        prop_assert_eq!(result.as_ref(), Some(text));
        // The developer's own edit to the same effect scrubs to the same text as the suggestion.
        prop_assert_eq!(&replay(&context.window.text, &scrubbed[1..2]), text);
    }

    #[test]
    fn no_secret_survives_any_way_of_typing_it(
        seed in any::<u64>(),
        cuts in prop::collection::vec(1_usize..8, 1..12),
        window in "[a-z ;\n]{0,30}",
    ) {
        let secret = noise(seed, LETTERS_DIGITS, 32);
        prop_assume!(secret.bytes().filter(u8::is_ascii_digit).count() > 1);
        let line = format!("\nlet api_token = \"{secret}\";\n");
        let mut texts = vec![exposure(&window, &[])];
        let (mut at, mut rest) = (window.len(), line.as_str());
        for cut in cuts.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, left) = rest.split_at(cut.min(rest.len()));
            texts.push(edit(at, "", piece));
            (at, rest) = (at + piece.len(), left);
        }
        texts.push(look(&format!("{window}{line}")));
        texts.push(look(&line));
        texts.push(edit(window.len() + 19, &secret, ""));
        let scrubbed = scrub(vec![texts]);
        let typed: String = scrubbed.iter().map(|text| match text {
            EventText::Edit { new_text, .. } => new_text.clone(),
            _ => String::new(),
        }).collect();
        prop_assert!(!typed.contains(&secret));
        prop_assert!(!all_text(&scrubbed).contains(&secret));
        prop_assert!(all_text(&scrubbed).contains(&typed));
    }
}
