use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::fixture::{self, LETTERS_DIGITS, RULES, noise};

fn scrubber(tenant: u8) -> Scrubber {
    Scrubber::new(&TenantSecret::new([tenant; 32]), Arc::clone(&RULES))
}

fn class(character: char) -> u8 {
    match character {
        'a'..='z' => 0,
        'A'..='Z' => 1,
        '0'..='9' => 2,
        _ => 3,
    }
}

fn check(text: &str) -> Scrubbed {
    let scrubbed = scrubber(1).text(text).unwrap();
    assert_eq!(scrubbed.text.len(), text.len());
    assert_eq!(scrubbed.altered, scrubbed.text != text);
    for (before, after) in text.chars().zip(scrubbed.text.chars()) {
        assert_eq!(class(before), class(after));
    }
    assert_eq!(scrubber(1).text(&scrubbed.text).unwrap().text, scrubbed.text, "not idempotent");
    scrubbed
}

#[test]
fn no_planted_secret_survives() {
    for planted in fixture::all() {
        let scrubbed = check(&planted.text);
        assert!(!scrubbed.text.contains(&planted.secret), "{} survives", planted.label);
        assert_ne!(scrubber(2).text(&planted.text).unwrap().text, scrubbed.text, "{} is not keyed", planted.label);
    }
}

#[test]
fn a_secret_is_the_same_wherever_it_stands() {
    let secret = noise(50, LETTERS_DIGITS, 20);
    let scrubbed = check(&format!("let password = \"{secret}\";\nlogin(user, {secret});\n")).text;
    let image = scrubbed.split('"').nth(1).unwrap();
    assert!(scrubbed.contains(&format!("login(user, {image});")));
    let elsewhere = check(&format!("passwd: '{secret}'")).text;
    assert!(elsewhere.contains(image));
}

#[test]
fn ordinary_code_is_not_altered() {
    assert!(!check("fn main() {\n    let x: Vec<u32> = (0..10).collect();\n}\n").altered);
    assert_eq!(check("").text, "");
}

/// Text in which findings are likely, next to each other and overlapping.
fn risky() -> impl Strategy<Value = String> {
    let planted: Vec<String> = fixture::all().into_iter().map(|planted| planted.text).collect();
    let piece = prop_oneof![
        3 => prop::sample::select(planted),
        1 => "[ -~]{0,20}",
        1 => "[a-zA-Z0-9+/=.:@_ \"'-]{0,60}",
        1 => Just("\n".to_owned()),
        1 => "\\PC{0,8}",
        1 => Just("password = \"".to_owned()),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn is_idempotent_and_keeps_lengths_and_classes(text in risky()) {
        check(&text);
    }

    #[test]
    fn long_random_secrets_never_survive(
        seed in any::<u64>(),
        before in "[a-z =(]{0,20}",
        quote in prop::sample::select(vec!["\"", "'"]),
    ) {
        let secret = noise(seed, LETTERS_DIGITS, 32);
        prop_assume!(secret.bytes().any(|byte| byte.is_ascii_digit()));
        let text = format!("{before}api_key = {quote}{secret}{quote}");
        prop_assert!(!check(&text).text.contains(&secret));
    }
}

/// Run by hand: `cargo test -p anonymizer -- --ignored --nocapture speed`.
#[test]
#[ignore = "measures, decides nothing"]
fn speed() {
    let code = include_str!("rules.rs").replace("secret", "value");
    for (name, text) in [("ascii", code.clone()), ("with umlauts", code.replace('e', "ä"))] {
        let start = std::time::Instant::now();
        let mut bytes = 0;
        let mut findings = Vec::new();
        while start.elapsed().as_millis() < 1000 {
            for window in text.as_bytes().chunks(4000) {
                let window = String::from_utf8_lossy(window);
                findings.clear();
                RULES.find(&window, &mut findings);
                bytes += window.len();
            }
        }
        println!("{name}: {:.1} MB/s", bytes as f64 / start.elapsed().as_secs_f64() / 1e6);
    }
}
