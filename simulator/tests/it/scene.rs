use super::corpus;
use events::apply_actions;
use events::vocabulary::{Decision, Origin};
use simulator::random::Dice;
use simulator::scene::Reported;
use simulator::{ClientActionKind, Disturbances, Language, Meaning, Scene, SceneMaker, SceneSettings};

const SCENES: u64 = 12;

fn scenes(disturbances: Disturbances) -> Vec<Scene> {
    let corpus = corpus();
    let settings = SceneSettings { disturbances, ..SceneSettings::default() };
    let maker = SceneMaker::new(&corpus, 0, settings).unwrap();
    let drawn = Meaning::ALL.iter().flat_map(|meaning| {
        (0..SCENES).map(|number| maker.scene(*meaning, &mut Dice::new(3, "scene", &[*meaning as u64, number])))
    });
    drawn.map(Option::unwrap).collect()
}

/// What of a text that begins at `start` is not as it was.
fn changed(start: usize, old_text: &str, new_text: &str) -> std::ops::Range<usize> {
    let is_equal = |pair: &(u8, u8)| pair.0 == pair.1;
    let head = old_text.bytes().zip(new_text.bytes()).take_while(is_equal).count();
    let rest = old_text.len().min(new_text.len()) - head;
    let tail = old_text.bytes().rev().zip(new_text.bytes().rev()).take(rest).take_while(is_equal).count();
    start + head..start + old_text.len() - tail
}

/// Replays what is reported on the document. Every look shows the window as it is then; where it begins and ends, the
/// edits alone tell.
fn replay(scene: &Scene) {
    let mut text = scene.document.clone();
    let start = scene.context.window.start_byte as usize;
    let mut window = start..start + scene.context.window.text.len();
    let mut last = 0;
    for reported in &scene.reported {
        assert!(reported.action.at_ms >= last, "time goes forward");
        last = reported.action.at_ms;
        match &reported.action.kind {
            ClientActionKind::Edited { range, old_text, new_text, .. } => {
                let range = range.start as usize..range.end as usize;
                assert_eq!(text.get(range.clone()), Some(old_text.as_str()));
                let moved = |place: usize| place + new_text.len() - old_text.len();
                // A report of more than the window says of most of it that it stays.
                let is_wide = range.start < window.start && range.end > window.start || range.end > window.end;
                let changed = if is_wide { changed(range.start, old_text, new_text) } else { range.clone() };
                if window.start <= changed.start && changed.end <= window.end {
                    window.end = moved(window.end);
                } else if changed.end <= window.start {
                    window = moved(window.start)..moved(window.end);
                } else {
                    assert!(window.end <= changed.start, "no change crosses the border of the window");
                }
                text.replace_range(range, new_text);
            }
            ClientActionKind::Look { text: look, .. } => assert_eq!(text.get(window.clone()), Some(look.as_str())),
            _ => {}
        }
    }
}

/// The window in the end, as the last look shows it.
fn last_look(scene: &Scene) -> &str {
    let mut looks = scene.reported.iter().rev().filter_map(|reported| match &reported.action.kind {
        ClientActionKind::Look { text, .. } => Some(text.as_str()),
        _ => None,
    });
    looks.next().unwrap()
}

#[test]
fn what_is_reported_is_what_was_done() {
    for disturbances in [Disturbances::default(), Disturbances::busy()] {
        for scene in scenes(disturbances) {
            let window = &scene.context.window;
            let start = window.start_byte as usize;
            assert_eq!(scene.document.get(start..start + window.text.len()), Some(window.text.as_str()));
            assert!(apply_actions(window.start_byte, &window.text, &scene.proposed).is_some());
            replay(&scene);
        }
    }
}

#[test]
fn without_disturbances_the_window_ends_as_it_is_meant() {
    for scene in scenes(Disturbances::default()) {
        let base = &scene.context.window.text;
        let language = Language::of_id(&scene.context.language).unwrap();
        let is_same = |left: &str, right: &str| simulator::judge::same(language, left, right);
        match &scene.wanted {
            Some(wanted) => {
                assert!(is_same(last_look(&scene), wanted), "{:?}", scene.meaning);
                assert!(!is_same(base, wanted), "{:?}", scene.meaning);
            }
            None if matches!(scene.meaning, Meaning::Overlooks | Meaning::Pastes | Meaning::ChecksOut) => {
                assert!(!is_same(last_look(&scene), base), "{:?}", scene.meaning);
            }
            None => assert!(is_same(last_look(&scene), base), "{:?}", scene.meaning),
        }
    }
}

#[test]
fn silence_shows_nothing_and_everything_else_is_shown() {
    for scene in scenes(Disturbances::busy()) {
        let kinds = || scene.reported.iter().map(|reported| &reported.action.kind);
        let shown = kinds().any(|kind| matches!(kind, ClientActionKind::Shown { .. }));
        assert_eq!(shown, !scene.meaning.is_of_silence());
        assert_eq!(scene.decision == Decision::Shown, shown);
        assert_eq!(scene.proposed.is_empty(), scene.decision == Decision::Silent);
    }
}

#[test]
fn disturbances_happen_and_keep_away_from_what_is_meant() {
    let (calm, busy) = (scenes(Disturbances::default()), scenes(Disturbances::busy()));
    let origins = |scenes: &[Scene], origin: Origin| {
        let is_of = |reported: &&Reported| match &reported.action.kind {
            ClientActionKind::Edited { origin: found, .. } => *found == origin,
            _ => false,
        };
        scenes.iter().flat_map(|scene| &scene.reported).filter(is_of).count()
    };
    for origin in [Origin::Formatter, Origin::Paste, Origin::Undo, Origin::Suggestion, Origin::Typed, Origin::External]
    {
        assert!(origins(&busy, origin) > origins(&calm, origin), "{origin}");
    }
    for scene in &busy {
        let Some(wanted) = &scene.wanted else { continue };
        // Every line that is meant stands there in the end, whatever else came between them.
        let look = last_look(scene);
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines = |text: &str| text.lines().map(words).collect::<Vec<_>>();
        let stands = lines(look);
        assert!(lines(wanted).iter().all(|line| stands.contains(line)), "{:?}", scene.meaning);
    }
    assert!(busy.iter().any(|scene| scene.reported.iter().any(|reported| reported.by_another_tool)));
    // Some clients report whole documents, and always do.
    let is_whole = |reported: &Reported| match &reported.action.kind {
        ClientActionKind::Edited { range, old_text, .. } => range.start == 0 && old_text.ends_with('\n'),
        _ => false,
    };
    let typed_whole = |scene: &&Scene| {
        let is_typed = |reported: &Reported| {
            matches!(reported.action.kind, ClientActionKind::Edited { origin: Origin::Typed, .. })
        };
        scene.reported.iter().any(|reported| is_typed(reported) && is_whole(reported))
    };
    assert!(busy.iter().filter(typed_whole).count() > 0);
    assert_eq!(calm.iter().filter(typed_whole).count(), 0);
}

#[test]
fn a_formatter_changes_nothing_that_means_something() {
    let is_in_place = |scene: &Scene| {
        let mut text = scene.document.clone();
        let mut found = false;
        for reported in &scene.reported {
            let ClientActionKind::Edited { range, new_text, origin, .. } = &reported.action.kind else { continue };
            let before = text.clone();
            text.replace_range(range.start as usize..range.end as usize, new_text);
            if *origin == Origin::Formatter {
                let language = Language::of_id(&scene.context.language).unwrap();
                assert!(simulator::judge::same(language, &before, &text), "{:?}", scene.meaning);
                found |= !text[range.start as usize..].trim_start_matches(' ').starts_with('\n');
            }
        }
        found
    };
    let disturbances = Disturbances { formatter: 1.0, ..Disturbances::default() };
    assert!(scenes(disturbances).iter().filter(|scene| is_in_place(scene)).count() > 0, "also inside of a line");
}

#[test]
fn a_scene_is_a_function_of_the_dice() {
    assert_eq!(scenes(Disturbances::busy()), scenes(Disturbances::busy()));
}
