//! What counts as a secret or as personal data: a table of rules, each a pattern and a check of what it found.
//!
//! Patterns run in time linear in the text (the regex engine has no backtracking), so a rule can not be made to hang;
//! the amount of text is bounded by the caller. A rule finds too much rather than too little: a false finding costs a
//! model one odd-looking constant, a missed one costs somebody a password.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use regex::{Regex, RegexSet};

/// Memory that one scanning thread may use for the automaton of all rules together.
const DFA_BYTES: usize = 32 << 20;

/// One rule.
struct Rule {
    name: &'static str,
    /// The group `v` is what must be replaced; without one it is the whole match.
    pattern: &'static str,
    /// Looks at the value and at the byte ranges around it; false drops the finding.
    check: fn(&Context<'_>) -> bool,
    /// Whether the same text is replaced wherever else it stands in the document, found there by a rule or not.
    everywhere: bool,
}

/// A value in its text.
struct Context<'a> {
    text: &'a str,
    value: &'a str,
    range: Range<usize>,
}

impl Context<'_> {
    fn before(&self) -> Option<char> {
        self.text[..self.range.start].chars().next_back()
    }

    fn after(&self) -> Option<char> {
        self.text[self.range.end..].chars().next()
    }
}

fn always(_: &Context<'_>) -> bool {
    true
}

const fn secret(name: &'static str, pattern: &'static str) -> Rule {
    Rule { name, pattern, check: always, everywhere: true }
}

const fn checked(name: &'static str, pattern: &'static str, check: fn(&Context<'_>) -> bool) -> Rule {
    Rule { name, pattern, check, everywhere: true }
}

const fn personal(name: &'static str, pattern: &'static str, check: fn(&Context<'_>) -> bool) -> Rule {
    Rule { name, pattern, check, everywhere: false }
}

/// All rules. The names are labels of `flywheel_anonymizer_rule_hits_total`.
const RULES: &[Rule] = &[
    // Keys in PEM. A window may cut a block off on either side.
    secret(
        "private_key_block",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?P<v>[^-]+(?:-[^-]+){0,8}?)(?:-----END|\z)",
    ),
    secret(
        "private_key_block_end",
        r"\A(?P<v>[A-Za-z0-9+/=\s\\]{16,})-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----",
    ),
    secret("putty_key", r"Private-Lines: [0-9]{1,4}\r?\n(?P<v>[A-Za-z0-9+/=\r\n]{16,})"),
    secret("age_key", r"\bAGE-SECRET-KEY-1[A-Z0-9]{40,}"),
    // Tokens with a form of their own.
    secret("aws_access_key", r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{16}\b"),
    secret("gcp_api_key", r"\bAIza[0-9A-Za-z_-]{35}"),
    secret("gcp_oauth_token", r"\bya29\.[0-9A-Za-z_-]{20,}"),
    secret("azure_account_key", r"(?i)\b(?:AccountKey|SharedAccessKey)=(?P<v>[A-Za-z0-9+/]{40,100}={0,2})"),
    secret("azure_client_secret", r"\b[A-Za-z0-9_~.-]{3}[78]Q~[A-Za-z0-9_~.-]{31,40}"),
    secret(
        "url_signature",
        r"(?i)[?&](?:sig|signature|x-amz-signature|x-goog-signature)=(?P<v>[A-Za-z0-9%+/=_-]{16,})",
    ),
    secret("github_token", r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,})"),
    secret("gitlab_token", r"\bgl(?:pat|oas|dt|rt|cbt|ptt|ft|imt|agent|soat)-[A-Za-z0-9_-]{20,}"),
    secret("slack_token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bxapp-[A-Za-z0-9-]{10,}"),
    secret("slack_webhook", r"hooks\.slack\.com/(?:services|workflows)/(?P<v>[A-Za-z0-9/]{20,})"),
    secret("stripe_key", r"\b(?:[spr]k_(?:live|test)|whsec)_[0-9A-Za-z]{16,}"),
    secret("digitalocean_token", r"\bdo[opr]_v1_[a-f0-9]{40,}"),
    secret(
        "cloud_platform_token",
        r"\b(?:dapi[a-f0-9]{32}|pul-[a-f0-9]{40}|HRKU-[A-Za-z0-9_-]{40,}|fm[12]r?_[A-Za-z0-9+/_-]{40,})",
    ),
    secret("docker_token", r"\bdckr_[a-z]{3}_[A-Za-z0-9_-]{20,}"),
    secret("vault_token", r"\bhv[sbr]\.[A-Za-z0-9_-]{20,}"),
    secret("terraform_token", r"\b[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{40,}"),
    secret("secrets_manager_token", r"\bdp\.[a-z]{2,5}\.[A-Za-z0-9._-]{40,}|\bops_eyJ[A-Za-z0-9+/=]{40,}"),
    secret("database_token", r"\b(?:pscale_(?:tkn|oauth|pw)_[A-Za-z0-9_.=-]{32,}|sbp_[a-f0-9]{40})"),
    secret("monitoring_token", r"\b(?:glc_|glsa_|sntry[su]_|NR(?:AK|II|RA|JS)-)[A-Za-z0-9+/=_-]{20,}"),
    secret(
        "shop_token",
        r"\b(?:shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}|sq0[a-z]{3}-[A-Za-z0-9_-]{22,43}|EAAA[A-Za-z0-9_-]{50,60})",
    ),
    secret(
        "chat_webhook",
        r"(?:discord(?:app)?\.com/api/webhooks|webhook\.office\.com/webhookb2)/(?P<v>[A-Za-z0-9@/_-]{30,})",
    ),
    secret("chat_bot_token", r"\b[0-9]{8,10}:A[A-Za-z0-9_-]{34}"),
    secret(
        "office_tool_token",
        r"\b(?:lin_api_[A-Za-z0-9]{30,}|ntn_[A-Za-z0-9]{40,}|figd_[A-Za-z0-9_-]{36,}|pat[A-Za-z0-9]{14}\.[a-f0-9]{64}|ATATT3[A-Za-z0-9_=-]{40,}|PMAK-[a-f0-9]{24}-[a-f0-9]{34})",
    ),
    secret("mail_key", r"\bkey-[a-f0-9]{32}\b|\b[a-f0-9]{32}-us[0-9]{1,2}\b"),
    secret("npm_token", r"\bnpm_[A-Za-z0-9]{30,}"),
    secret("pypi_token", r"\bpypi-[A-Za-z0-9_-]{50,}"),
    secret("ruby_gems_token", r"\brubygems_[a-f0-9]{40,}"),
    secret("crates_io_token", r"\bcio[A-Za-z0-9]{32}\b"),
    secret("hugging_face_token", r"\bhf_[A-Za-z0-9]{30,}"),
    checked(
        "model_provider_key",
        r"\b(?:sk-(?:ant-|proj-|or-|svcacct-)?[A-Za-z0-9_-]{20,}|(?:gsk_|r8_|xai-|pplx-|nvapi-)[A-Za-z0-9_-]{30,})",
        has_digit,
    ),
    secret("sendgrid_key", r"\bSG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,128}"),
    checked("twilio_key", r"\b(?:SK|AC)[0-9a-f]{32}\b", has_letter_and_digit),
    secret("json_web_token", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]{4,})?"),
    checked("authorization", r"(?i)\b(?:bearer|basic|token)[ \t]+(?P<v>[A-Za-z0-9._~+/=-]{12,})", looks_random),
    secret("password_hash", r"\$(?:2[abxy]|[156y]|argon2i?d?)\$[A-Za-z0-9./$=,+-]{20,}"),
    // Secrets by where they stand.
    checked(
        "connection_string",
        r#"\b[A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s:/@'"<>{}]{0,128}:(?P<v>[^\s/@'"<>]{1,})@"#,
        is_no_placeholder,
    ),
    checked("connection_password", r#"(?i)[;&?](?:password|passwd|pwd)=(?P<v>[^;&"'`\s<>]{4,})"#, is_no_placeholder),
    checked(
        "command_line_password",
        r#"(?:\bcurl\b[^\n]{0,200}[ \t](?:-u|--user)[ \t=]{1,4}["']?[^\s:"']{1,64}:|\bmachine[ \t]+\S{1,100}[ \t]+login[ \t]+\S{1,100}[ \t]+password[ \t]+|\bsshpass[ \t]+-p[ \t]*["']?)(?P<v>[^\s"']{4,})"#,
        is_no_placeholder,
    ),
    checked("cookie", r"(?i)\bset-cookie:\s{0,4}[^=\s;]{1,60}=(?P<v>[^;\s]{12,})", looks_random),
    checked(
        "url_token",
        r#"(?i)[?&](?:token|key|secret|password|access_token|api_?key|auth)=(?P<v>[^&\s"'<>#]{8,})"#,
        is_no_placeholder,
    ),
    checked(
        "password_assignment",
        r#"(?i)(?:password|passwd|passphrase|pwd)[A-Za-z0-9_.-]{0,40}["'\]\\]{0,3}\s{0,8}(?::\s{0,4}&?[A-Za-z]{1,16}\s{0,4}=|:=|=>|==|=|:|,)\s{0,8}[bfr]{0,2}\\?["'`](?P<v>[^"'`\s]{6,})["'`]"#,
        looks_like_password,
    ),
    checked(
        "secret_assignment",
        r#"(?i)(?:secret|token|api_?key|access_?key|private_?key|signing_?key|encryption_?key|credential|authorization|auth_?key)[A-Za-z0-9_.-]{0,40}["'\]\\]{0,3}\s{0,8}(?::\s{0,4}&?[A-Za-z]{1,16}\s{0,4}=|:=|=>|==|=|:|,)\s{0,8}[bfr]{0,2}\\?["'`](?P<v>[^"'`\s]{8,})["'`]"#,
        looks_random,
    ),
    checked(
        "environment_assignment",
        r"(?m)^[ \t]*(?:export[ \t]+|set[ \t]+|-e[ \t]+)?[A-Z][A-Z0-9_]{0,60}(?:PASSWORD|PASSWD|SECRET|TOKEN|APIKEY|API_KEY|ACCESS_KEY|PRIVATE_KEY)[A-Z0-9_]{0,20}=(?P<v>[^\s$]{8,})[ \t]*$",
        looks_like_password,
    ),
    checked(
        "password_line",
        r"(?im)^[ \t]*(?:[A-Za-z0-9_.-]{0,40}(?:password|passwd|passphrase))[ \t]*[:=][ \t]*(?P<v>[^\s\x22'`$#;,.(){}\[\]<>]{6,})[ \t]*$",
        looks_like_bare_password,
    ),
    checked(
        "secret_line",
        r"(?im)^[ \t]*(?:[A-Za-z0-9_.-]{0,40}(?:secret|token|api_?key|access_?key|private_?key|credential)[A-Za-z0-9_]{0,20})[ \t]*[:=][ \t]*(?P<v>[A-Za-z0-9+/=_.~-]{16,})[ \t]*$",
        looks_like_bare_secret,
    ),
    // Secrets by their randomness.
    checked("random_hexadecimal", r"\b(?:0x)?(?P<v>[0-9a-f]{32,}|[0-9A-F]{32,})\b", is_no_commit),
    checked("random_base64", r"[A-Za-z0-9+/_-]{32,}={0,2}", looks_like_key_material),
    // Personal data.
    Rule {
        name: "email_address",
        pattern: r"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}",
        check: is_personal_address,
        everywhere: true,
    },
    personal(
        "phone_number",
        r"\+[1-9][0-9]{0,2}[ .-]?(?:\(?[0-9]{1,5}\)?[ ./-]?){1,5}[0-9]{2,5}|\(?[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}",
        is_phone_number,
    ),
    personal("ipv4_address", r"\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}\b", is_ipv4_of_somebody),
    personal("ipv6_address", r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){3,7}", is_ipv6_of_somebody),
    personal("mac_address", r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b", is_mac_of_something),
    personal("payment_card", r"\b[3-6][0-9]{3}(?:[ -]?[0-9]){9,15}\b", is_payment_card),
    personal("bank_account", r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", is_iban),
    personal("social_security_number", r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b", always),
    personal(
        "home_directory",
        r"(?:/home/|/Users/|(?i:[a-z]:(?:\\{1,2}|/)users(?:\\{1,2}|/)))(?P<v>[A-Za-z0-9][A-Za-z0-9._-]{0,63})",
        is_own_home,
    ),
    personal(
        "author_in_comment",
        r"\b(?:TODO|FIXME|XXX|HACK|NOTE|BUG|REVIEW)\(@?(?P<v>[A-Za-z][A-Za-z0-9_.@-]{1,63})\)",
        always,
    ),
    personal(
        "author_line",
        r#"(?:@author|(?i:\b_{0,2}(?:authors?|maintainers?|contributors?|signed-off-by|co-authored-by|reviewed-by|(?:created|written|modified) by|copyright[^\n\p{L}]{0,24})_{0,2}))(?:["']?[ \t]{0,4}[:=][ \t]{0,4}\[?["']?|[ \t]{1,4})(?P<v>\p{Lu}[\p{L}.'-]{1,30}(?: \p{Lu}[\p{L}.'-]{0,30}){1,3})"#,
        is_no_shouting,
    ),
    personal("author_handle", r"(?m)(?:@author|\bAuthor:)[ \t]{1,4}@?(?P<v>[a-z][a-z0-9._-]{2,30})[ \t]*$", always),
    personal("key_comment", r"\bssh-(?:rsa|dss|ed25519) [A-Za-z0-9+/=]{40,} (?P<v>[A-Za-z0-9._@-]{3,64})", always),
];

/// A finding: what must be replaced, and by which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Bytes of the text.
    pub(crate) range: Range<usize>,
    /// Index into the table, for [`Rules::name`].
    pub(crate) rule: usize,
}

/// The compiled table.
pub struct Rules {
    any: RegexSet,
    patterns: Vec<Regex>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Rules({})", self.patterns.len())
    }
}

impl Rules {
    /// Compiles the table.
    ///
    /// # Errors
    /// When a pattern does not compile.
    pub fn new() -> Result<Self, regex::Error> {
        // An ASCII word boundary keeps text in other scripts on the engine's fast path.
        let patterns: Vec<String> = RULES.iter().map(|rule| rule.pattern.replace(r"\b", r"(?-u:\b)")).collect();
        let any = regex::RegexSetBuilder::new(&patterns).size_limit(256 << 20).dfa_size_limit(DFA_BYTES).build()?;
        let compiled = patterns.iter().map(|pattern| regex::RegexBuilder::new(pattern).size_limit(64 << 20).build());
        Ok(Self { any, patterns: compiled.collect::<Result<_, _>>()? })
    }

    /// The rule's name.
    pub(crate) fn name(rule: usize) -> &'static str {
        RULES.get(rule).map_or("substitution_map", |rule| rule.name)
    }

    /// Whether what the rule found is replaced wherever else it stands.
    pub(crate) fn everywhere(rule: usize) -> bool {
        RULES.get(rule).is_some_and(|rule| rule.everywhere)
    }

    /// Appends everything that is found in `text`; findings may overlap.
    pub(crate) fn find(&self, text: &str, findings: &mut Vec<Finding>) {
        for index in self.any.matches(text) {
            let (Some(rule), Some(pattern)) = (RULES.get(index), self.patterns.get(index)) else { continue };
            for captures in pattern.captures_iter(text) {
                let Some(found) = captures.name("v").or_else(|| captures.get(0)) else { continue };
                let range = found.range();
                if (rule.check)(&Context { text, value: found.as_str(), range: range.clone() }) {
                    findings.push(Finding { range, rule: index });
                }
            }
        }
    }
}

fn classes(value: &str) -> usize {
    let kinds: [fn(u8) -> bool; 4] = [
        |byte| byte.is_ascii_lowercase(),
        |byte| byte.is_ascii_uppercase(),
        |byte| byte.is_ascii_digit(),
        |byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'_' | b'-' | b'.' | b'/' | b':'),
    ];
    kinds.iter().filter(|kind| value.bytes().any(**kind)).count()
}

/// Shannon entropy in bits a byte.
fn entropy(value: &str) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in value.bytes() {
        counts[usize::from(byte)] += 1;
    }
    let length = value.len() as f64;
    counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / length).map(|p| -p * p.log2()).sum()
}

/// A commit in an address of a code host is public knowledge.
fn is_no_commit(context: &Context<'_>) -> bool {
    let before = &context.text[..context.range.start];
    has_letter_and_digit(context) && !["/blob/", "/commit/", "/tree/", "/raw/"].iter().any(|way| before.ends_with(way))
}

fn is_no_placeholder(context: &Context<'_>) -> bool {
    let value = context.value;
    let stands_for_another = value.starts_with(['$', '{', '<', '%', '#'])
        || value.contains("${")
        || value.contains("{{")
        || value.starts_with('{') && value.ends_with('}');
    !stands_for_another && value.bytes().any(|byte| byte.is_ascii_alphanumeric())
}

fn looks_like_password(context: &Context<'_>) -> bool {
    is_no_placeholder(context) && classes(context.value) >= 2 && entropy(context.value) >= 2.3
}

/// Without quotes a name of something is more likely than a secret; a digit tells.
fn looks_like_bare_password(context: &Context<'_>) -> bool {
    has_digit(context) && looks_like_password(context)
}

fn looks_like_bare_secret(context: &Context<'_>) -> bool {
    let value = context.value;
    has_digit(context)
        && value.bytes().any(|byte| byte.is_ascii_lowercase())
        && value.bytes().any(|byte| byte.is_ascii_uppercase())
        && longest_word(value) <= 5
        && entropy(value) >= 3.3
}

fn has_digit(context: &Context<'_>) -> bool {
    context.value.bytes().any(|byte| byte.is_ascii_digit())
}

fn looks_random(context: &Context<'_>) -> bool {
    let value = context.value;
    is_no_placeholder(context)
        && classes(value) >= 2
        && (value.bytes().any(|byte| byte.is_ascii_digit()) || value.len() >= 12 && longest_word(value) <= 5)
        && entropy(value) >= 2.8
}

/// Length of the longest run of lower-case letters: what is made of words has long ones.
fn longest_word(value: &str) -> usize {
    value.split(|character: char| !character.is_ascii_lowercase()).map(str::len).max().unwrap_or_default()
}

fn looks_like_key_material(context: &Context<'_>) -> bool {
    let value = context.value;
    // Paths, module names and long identifiers are made of words.
    value.bytes().any(|byte| byte.is_ascii_digit())
        && value.bytes().any(|byte| byte.is_ascii_lowercase())
        && value.bytes().any(|byte| byte.is_ascii_uppercase())
        && longest_word(value) <= 7
        && value.split(|character: char| !character.is_ascii_alphanumeric()).any(|part| part.len() >= 12)
        && entropy(value) >= 4.0
}

fn has_letter_and_digit(context: &Context<'_>) -> bool {
    context.value.bytes().any(|byte| byte.is_ascii_digit())
        && context.value.bytes().any(|byte| byte.is_ascii_alphabetic())
        && entropy(context.value) >= 2.5
}

fn is_personal_address(context: &Context<'_>) -> bool {
    let (local, domain) = context.value.rsplit_once('@').unwrap_or_default();
    // `git@host` is everybody's; nobody lives at the domains of RFC 2606.
    let reserved = ["example.com", "example.org", "example.net"].iter().any(|reserved| {
        domain.eq_ignore_ascii_case(reserved) || domain.to_ascii_lowercase().ends_with(&format!(".{reserved}"))
    });
    let top = domain.rsplit('.').next().unwrap_or_default();
    local != "git" && !reserved && !["example", "test", "invalid", "localhost"].contains(&top)
}

fn is_mac_of_something(context: &Context<'_>) -> bool {
    let digits: Vec<char> = context.value.chars().filter(char::is_ascii_hexdigit).collect();
    let separator = context.value.as_bytes().get(2).copied().map(char::from);
    stands_alone(context)
        && context.before() != separator
        && context.after() != separator
        && digits.iter().any(|digit| *digit != digits[0])
}

fn digits(value: &str) -> Vec<u32> {
    value.chars().filter_map(|character| character.to_digit(10)).collect()
}

fn stands_alone(context: &Context<'_>) -> bool {
    let joins =
        |character: Option<char>| character.is_some_and(|character| character.is_alphanumeric() || character == '_');
    !joins(context.before()) && !joins(context.after())
}

fn is_phone_number(context: &Context<'_>) -> bool {
    let count = digits(context.value).len();
    stands_alone(context) && (if context.value.starts_with('+') { (9..=15).contains(&count) } else { count == 10 })
}

fn is_ipv4_of_somebody(context: &Context<'_>) -> bool {
    let Ok(address) = context.value.parse::<Ipv4Addr>() else { return false };
    let mut after = context.text[context.range.end..].chars();
    let goes_on = after.next() == Some('.') && after.next().is_some_and(|character| character.is_ascii_digit());
    // Numbers of sections and versions look the same.
    let before = context.text[..context.range.start].trim_end();
    let word =
        before.rsplit(|character: char| !character.is_alphabetic() && character != '§').next().unwrap_or_default();
    let numbered = ["section", "reference", "table", "chapter", "clause", "version", "§"];
    context.before() != Some('.')
        && !goes_on
        && !numbered.iter().any(|known| word.eq_ignore_ascii_case(known))
        && !address.is_loopback()
        && !address.is_unspecified()
        && !address.is_broadcast()
        && !address.is_documentation()
}

fn is_ipv6_of_somebody(context: &Context<'_>) -> bool {
    let joins = |character: Option<char>| {
        character.is_some_and(|character| character.is_alphanumeric() || character == ':' || character == '_')
    };
    let Ok(address) = context.value.parse::<Ipv6Addr>() else { return false };
    // `dead::beef::cafe`-like paths of a program have no digits.
    context.value.bytes().any(|byte| byte.is_ascii_digit())
        && !joins(context.before())
        && !joins(context.after())
        && !address.is_loopback()
        && !address.is_unspecified()
        && address.segments()[..2] != [0x2001, 0x0db8]
}

/// Luhn's check (ISO/IEC 7812-1).
fn is_payment_card(context: &Context<'_>) -> bool {
    let digits = digits(context.value);
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, digit * 2) {
            (0, _) => *digit,
            (_, double) if double > 9 => double - 9,
            (_, double) => double,
        })
        .sum();
    (13..=19).contains(&digits.len())
        && sum.is_multiple_of(10)
        && stands_alone(context)
        && context.before() != Some('.')
}

/// The remainder of ISO 13616.
fn is_iban(context: &Context<'_>) -> bool {
    let compact: Vec<char> = context.value.chars().filter(|character| *character != ' ').collect();
    if !(15..=34).contains(&compact.len()) {
        return false;
    }
    let remainder = compact[4..].iter().chain(&compact[..4]).try_fold(0_u32, |remainder, character| {
        let value = character.to_digit(36)?;
        Some((remainder * if value > 9 { 100 } else { 10 } + value) % 97)
    });
    remainder == Some(1)
}

/// `COPYRIGHT HOLDERS AND CONTRIBUTORS` is nobody.
fn is_no_shouting(context: &Context<'_>) -> bool {
    context.value.chars().any(char::is_lowercase)
}

fn is_own_home(context: &Context<'_>) -> bool {
    !matches!(context.value, "Public" | "Shared" | "Default" | "All" | "runner" | "root" | "user" | "ubuntu" | "vscode")
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
