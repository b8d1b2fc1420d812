//! What the first lines of a file say of its licence. The rule of a repository stands for the licence of what is the
//! repository's own; a file that came from elsewhere says so itself.
//!
//! Only what a pair shows is known: nothing is said where the window begins further down in the file.

use events::{Licence, Window};

/// How comments begin and end.
const BLOCKS: [(&str, &str); 6] =
    [("/*", "*/"), ("<!--", "-->"), ("\"\"\"", "\"\"\""), ("'''", "'''"), ("{-", "-}"), ("(*", "*)")];
/// How lines begin that are comments, or say what a file is to those who run it.
const LINES: [&str; 6] = ["//", "#", "--", ";", "%", "<?"];

/// Words of the notices of licences that are not allowed by default, and the licences that they may stand for.
const NOTICES: [(&str, &[&str]); 11] = [
    (
        "gnu general public license",
        &["GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later", "GPL-1.0-or-later"],
    ),
    ("gnu library general public license", &["LGPL-2.0-only", "LGPL-2.0-or-later"]),
    (
        "gnu lesser general public license",
        &["LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later"],
    ),
    ("gnu affero general public license", &["AGPL-3.0-only", "AGPL-3.0-or-later"]),
    ("mozilla public license", &["MPL-2.0", "MPL-1.1"]),
    ("eclipse public license", &["EPL-2.0", "EPL-1.0"]),
    ("common development and distribution license", &["CDDL-1.0", "CDDL-1.1"]),
    ("european union public licence", &["EUPL-1.2", "EUPL-1.1"]),
    ("server side public license", &["SSPL-1.0"]),
    ("business source license", &["BUSL-1.1"]),
    ("elastic license", &["Elastic-2.0"]),
];

/// What a file says of its licence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// `SPDX-License-Identifier`; none when what it names is no licence.
    Named(Option<Licence>),
    /// Notices of known licences; for each the licences that it may stand for.
    Notices(Vec<&'static [&'static str]>),
}

impl Header {
    /// What the file says whose window this is; none when it says nothing, or its first lines are not shown.
    #[must_use]
    pub fn of(window: &Window) -> Option<Self> {
        if window.start_byte > 0 {
            return None;
        }
        let head = head(&window.text);
        if let Some(named) = Licence::named_in(head) {
            return Some(Self::Named(named.ok()));
        }
        let words: Vec<String> = head
            .split(|character: char| !character.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        let words = words.join(" ");
        let found: Vec<_> =
            NOTICES.iter().filter(|(notice, _)| words.contains(notice)).map(|(_, licences)| *licences).collect();
        (!found.is_empty()).then_some(Self::Notices(found))
    }

    /// Whether text under this licence may be used where `allowed` are the licences that may be.
    #[must_use]
    pub fn is_allowed(&self, allowed: &[String]) -> bool {
        let is_listed = |id: &&str| allowed.iter().any(|one| one.eq_ignore_ascii_case(id));
        match self {
            Self::Named(licence) => licence.as_ref().is_some_and(|licence| licence.is_allowed(allowed)),
            Self::Notices(found) => found.iter().all(|licences| licences.iter().any(is_listed)),
        }
    }
}

/// The comments with which a text begins.
fn head(text: &str) -> &str {
    let text = text.trim_start_matches('\u{feff}');
    let mut end = 0;
    loop {
        let rest = text[end..].trim_start();
        let start = text.len() - rest.len();
        let length = match BLOCKS.iter().find(|(open, _)| rest.starts_with(open)) {
            Some((open, close)) => {
                rest[open.len()..].find(close).map_or(rest.len(), |at| open.len() + at + close.len())
            }
            None if LINES.iter().any(|mark| rest.starts_with(mark)) => rest.find('\n').unwrap_or(rest.len()),
            None => return &text[..end],
        };
        end = start + length;
    }
}

#[cfg(test)]
mod tests {
    use events::licence::ALLOWED;
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Option<Header> {
        Header::of(&Window { start_byte: 0, first_line: 0, text: text.to_owned() })
    }

    fn allowed() -> Vec<String> {
        ALLOWED.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn a_file_says_its_licence_in_its_first_comments_alone() {
        for (text, expected) in [
            ("// SPDX-License-Identifier: MIT\nfn f() {}\n", Some(true)),
            ("\u{feff}#!/bin/sh\n\n# SPDX-License-Identifier: GPL-2.0-only\nls\n", Some(false)),
            ("/* SPDX-License-Identifier: MIT OR GPL-2.0-only */\nint a;\n", Some(true)),
            ("(* SPDX-License-Identifier: MIT *)\nlet a = 1\n", Some(true)),
            ("{- SPDX-License-Identifier: (ISC OR MPL-2.0) -}\nmodule A where\n", Some(true)),
            ("(* SPDX-License-Identifier: GPL-2.0-only *)\n", Some(false)),
            ("<!-- SPDX-License-Identifier: ours, and nobody else's -->\n", Some(false)),
            ("// Copyright somebody.\n//\n// Licensed under the Apache License, Version 2.0\n", None),
            ("/*\n   This is under the GNU Lesser\n   General Public License.\n*/\n", Some(false)),
            ("# under the terms of the GNU\n#  Affero General Public License\n", Some(false)),
            // What a program says is not what its file says.
            ("let mark = \"SPDX-License-Identifier:\";\n", None),
            ("fn f() {}\n// GNU General Public License\n", None),
            ("", None),
        ] {
            assert_eq!(of(text).map(|header| header.is_allowed(&allowed())), expected, "{text}");
        }
        let text = "// SPDX-License-Identifier: GPL-2.0-only\n".to_owned();
        assert_eq!(Header::of(&Window { start_byte: 90, first_line: 3, text }), None);
    }

    #[test]
    fn a_notice_is_allowed_with_one_of_its_licences_and_each_must_be() {
        let both = of("// Mozilla Public License, v. 2.0, or the Eclipse Public License\n").unwrap();
        let also = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).chain(allowed()).collect::<Vec<_>>();
        assert!(!both.is_allowed(&also(&["mpl-2.0"])));
        assert!(both.is_allowed(&also(&["mpl-2.0", "EPL-1.0"])));
    }

    proptest! {
        #[test]
        fn a_head_is_where_a_text_begins(text in "(//|#|/\\*|\\*/|'''|\n| |é|a){0,20}") {
            prop_assert!(text.starts_with(head(&text)));
        }
    }
}
