use super::*;
use crate::fixture;

fn names(text: &str) -> Vec<&'static str> {
    let mut findings = Vec::new();
    Rules::new().unwrap().find(text, &mut findings);
    findings.iter().map(|finding| Rules::name(finding.rule)).collect()
}

#[test]
fn every_kind_is_found_by_the_rules_that_should() {
    let rules = Rules::new().unwrap();
    let mut seen = String::new();
    for planted in fixture::all() {
        let mut findings = Vec::new();
        rules.find(&planted.text, &mut findings);
        let covers = |place: usize| findings.iter().any(|finding| finding.range.contains(&place));
        let start = planted.text.find(&planted.secret).unwrap();
        let secret = start..start + planted.secret.len();
        let open =
            secret.clone().filter(|place| planted.text.as_bytes()[*place].is_ascii_alphanumeric() && !covers(*place));
        assert_eq!(open.count(), 0, "{} is not covered: {:?}", planted.label, findings);
        let mut names: Vec<_> = findings.iter().map(|finding| Rules::name(finding.rule)).collect();
        names.dedup();
        seen.push_str(&format!("{}: {}\n", planted.label, names.join(", ")));
    }
    insta::assert_snapshot!(seen);
    for rule in RULES {
        let named = |line: &str| line.rsplit(": ").next().unwrap().split(", ").any(|name| name == rule.name);
        assert!(seen.lines().any(named), "no example for {}", rule.name);
    }
}

/// Source files of two teams' repositories that the simulator works on, as they were published.
fn corpus() -> Vec<(String, String)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/corpus");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                files.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn real_code_is_hardly_touched() {
    let rules = Rules::new().unwrap();
    let files = corpus();
    assert!(files.len() > 50);
    let (mut characters, mut replaced) = (0, 0);
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for (name, text) in &files {
        let mut findings = Vec::new();
        rules.find(text, &mut findings);
        for finding in &findings {
            let line = text[..finding.range.start].matches('\n').count() + 1;
            println!("{name}:{line}: {}: {}", Rules::name(finding.rule), &text[finding.range.clone()]);
            *counts.entry(Rules::name(finding.rule)).or_default() += 1;
            replaced += finding.range.len();
        }
        characters += text.len();
    }
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name}: {count}")).collect();
    insta::assert_snapshot!(counts.join("\n"));
    assert!(replaced * 2_000 < characters, "{replaced} of {characters} characters are replaced");
}

#[test]
fn ordinary_code_is_left_alone() {
    for text in [
        "fn token(&self) -> &Token { &self.token }",
        "let password = read_password(prompt)?;",
        "let secret = \"{secret}\"; let token = \"${TOKEN}\";",
        "use std::collections::hash_map::Entry; std::fmt::Display::fmt(self, f)",
        "a::b::c(dead::beef::cafe)",
        "let version = \"1.2.3\"; let listen = \"127.0.0.1:8080\"; let any = \"0.0.0.0\"; \"::1\"",
        "for i in 0..100 { sum += values[i] * 31 }",
        "https://docs.rs/serde/latest/serde/trait.Deserialize.html#required-methods",
        "test_that_the_parser_returns_an_error_when_the_input_ends_2_bytes_early()",
        "const MASK: u64 = 0x9E37_79B9_7F4A_7C15;",
        "// TODO: mend this (see the comment above)",
        "match kind { Kind::Basic => basic(understanding), _ => bearer(arms) }",
        "include/Net/Http2/Frame/Header/Codec/Hpack/Table.hpp",
        "git@github.com:rust-lang/rust.git",
        "// see Section 12.7.4.3, ISO 32000-2, 7.9.2.2.1, and version 1.2.3.4",
        "# https://github.com/a/b/blob/adae619426b6f50046b3daaa744db52989c9d6db/c.py",
        "COPYRIGHT HOLDERS AND CONTRIBUTORS BE LIABLE FOR ANY DAMAGES",
        "send(\"someone@example.com\"); reply(\"a@mail.example.org\"); host(\"x@y.invalid\")",
        "let mac = [\"00:00:00:00:00:00\", \"ff:ff:ff:ff:ff:ff\"];",
        "password = read_password\ntoken: Option<Token>\n    secret = secrets.token_urlsafe\n",
        "struct Author { name: String } // The author of a change. AuthorView Model",
        "let sk-learn = 1; risk-assessment-of-the-whole-portfolio",
        "date = \"2024-02-29\"; time = \"12:34:56\"; ratio = 3.14159265358979",
        "AbstractSingletonProxyFactoryBeanConfigurationManager2",
    ] {
        assert_eq!(names(text), Vec::<&str>::new(), "{text}");
    }
}

#[test]
fn checks_decide() {
    let card = ["4539", "1488", "0343", "6468"].concat();
    assert!(!names(&card).contains(&"payment_card"));
    let iban = ["DE88", "3704", "0044", "0532", "0130", "00"].concat();
    assert!(!names(&iban).contains(&"bank_account"));
    assert!(!names("999.1.1.1").contains(&"ipv4_address"));
}
