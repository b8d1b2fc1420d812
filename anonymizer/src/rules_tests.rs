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
