//! Invented secrets and persons for tests. Put together at run time, so that no scanner takes this file for a leak.

use std::sync::{Arc, LazyLock};

use crate::rules::Rules;

/// The rules; compiled once.
pub(crate) static RULES: LazyLock<Arc<Rules>> = LazyLock::new(|| Arc::new(Rules::new().unwrap()));

/// A text with something that must go.
pub(crate) struct Planted {
    /// What it is.
    pub(crate) label: &'static str,
    /// The text around it.
    pub(crate) text: String,
    /// What must not survive.
    pub(crate) secret: String,
}

/// `count` characters out of `alphabet`, always the same for the same seed.
pub(crate) fn noise(seed: u64, alphabet: &str, count: usize) -> String {
    let characters: Vec<char> = alphabet.chars().collect();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count).map(|_| characters[usize::try_from(next() % characters.len() as u64).unwrap()]).collect()
}

pub(crate) const LETTERS_DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
pub(crate) const UPPER_DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const LOWER_HEX: &str = "0123456789abcdef";
const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn planted(label: &'static str, before: &str, secret: String, after: &str) -> Planted {
    Planted { label, text: format!("{before}{secret}{after}"), secret }
}

/// One of every kind.
pub(crate) fn all() -> Vec<Planted> {
    let key_body = format!("\n{}\n{}\n", noise(1, BASE64, 64), noise(2, BASE64, 64));
    let dashes = "-".repeat(5);
    let jwt = format!(
        "ey{}.ey{}.{}",
        noise(3, "J", 1) + &noise(4, LETTERS_DIGITS, 20),
        noise(5, "J", 1) + &noise(6, LETTERS_DIGITS, 30),
        noise(7, LETTERS_DIGITS, 40)
    );
    vec![
        planted(
            "private key",
            &format!("let pem = \"{dashes}BEGIN RSA PRIVATE KEY{dashes}"),
            key_body.clone(),
            &format!("{dashes}END RSA PRIVATE KEY{dashes}\";"),
        ),
        planted("private key, cut off", &format!("{dashes}BEGIN PRIVATE KEY{dashes}"), key_body.clone(), ""),
        planted("private key, begin cut off", "", key_body, &format!("{dashes}END PRIVATE KEY{dashes}\n")),
        planted(
            "aws access key",
            "aws_id = ",
            format!("{}{}", ["AK", "IA"].concat(), noise(8, UPPER_DIGITS, 16)),
            " # prod",
        ),
        planted("aws secret key", "AWS_SECRET_ACCESS_KEY = \"", noise(9, BASE64, 40), "\""),
        planted("gcp key", "let k = '", format!("{}{}", ["AI", "za"].concat(), noise(10, LETTERS_DIGITS, 35)), "'"),
        planted("gcp oauth", "t=", format!("ya29{}{}", ".", noise(11, LETTERS_DIGITS, 60)), ""),
        planted(
            "azure storage",
            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=",
            noise(12, BASE64, 86),
            "==;",
        ),
        planted("github", "token: ", format!("{}_{}", ["gh", "p"].concat(), noise(13, LETTERS_DIGITS, 36)), "\n"),
        planted(
            "github fine-grained",
            "x(\"",
            format!("{}_{}", ["github", "_pat"].concat(), noise(14, LETTERS_DIGITS, 50)),
            "\")",
        ),
        planted("gitlab", "x(\"", format!("{}-{}", ["gl", "pat"].concat(), noise(15, LETTERS_DIGITS, 20)), "\")"),
        planted(
            "slack",
            "x(\"",
            format!("{}-{}-{}", ["xo", "xb"].concat(), noise(16, "0123456789", 12), noise(17, LETTERS_DIGITS, 24)),
            "\")",
        ),
        planted(
            "slack webhook",
            &format!("https://{}/services/", ["hooks", "slack", "com"].join(".")),
            format!(
                "T{}/B{}/{}",
                noise(18, UPPER_DIGITS, 8),
                noise(19, UPPER_DIGITS, 8),
                noise(20, LETTERS_DIGITS, 24)
            ),
            " ",
        ),
        planted("stripe", "x(\"", format!("{}_{}", ["sk", "live"].join("_"), noise(21, LETTERS_DIGITS, 24)), "\")"),
        planted(
            "npm",
            "//registry/:_authToken=",
            format!("{}_{}", ["np", "m"].concat(), noise(22, LETTERS_DIGITS, 36)),
            "\n",
        ),
        planted("pypi", "password = ", format!("{}-{}", ["py", "pi"].concat(), noise(23, LETTERS_DIGITS, 90)), "\n"),
        planted("hugging face", "login('", format!("{}_{}", ["h", "f"].concat(), noise(24, LETTERS_DIGITS, 34)), "')"),
        planted("jwt", "cookie: ", jwt, "; path=/"),
        planted("bearer", "-H 'Authorization: Bearer ", noise(25, LETTERS_DIGITS, 32), "'"),
        planted("connection string", "db = \"postgres://app:", noise(26, LETTERS_DIGITS, 14), "@db.internal:5432/x\""),
        planted("url token", "curl https://x.example/a?access_token=", noise(27, LETTERS_DIGITS, 20), "&b=1"),
        planted("password", "let db_password = \"", noise(28, LETTERS_DIGITS, 12), "\";"),
        planted("typed password", "const DB_PASSWORD: &str = \"", noise(29, LETTERS_DIGITS, 12), "\";"),
        planted("json password", "{ \"password\": \"", noise(30, LETTERS_DIGITS, 12), "\" }"),
        planted("secret", "client_secret: '", noise(31, LETTERS_DIGITS, 24), "',"),
        planted("api key argument", "Client(api_key=\"", noise(32, LETTERS_DIGITS, 24), "\")"),
        planted("environment", "export GITHUB_TOKEN=", noise(33, LETTERS_DIGITS, 20), "\n"),
        planted("hexadecimal", "seed = \"", noise(34, LOWER_HEX, 64), "\""),
        planted("base64", "blob(\"", noise(35, BASE64, 64), "\")"),
        planted("email", "// ask ", ["jane.doe", "corp-mail.com"].join("@"), " about this"),
        planted("phone", "// call ", ["+49", "30", "1234", "5678"].join(" "), "."),
        planted("phone, north american", "# ", ["415", "555", "0198"].join("-"), ""),
        planted("ipv4", "host = \"", ["10", "23", "45", "67"].join("."), "\""),
        planted("ipv6", "host = \"", ["fe80", "", "1ff:fe23", "4567", "890a"].join(":"), "\""),
        planted("card", "card = \"", ["4539", "1488", "0343", "6467"].join(" "), "\""),
        planted("iban", "iban = \"", ["DE89", "3704", "0044", "0532", "0130", "00"].join(" "), "\""),
        planted("social security number", "ssn = \"", ["536", "22", "1458"].join("-"), "\""),
        planted("putty key", "Private-Lines: 2\n", noise(36, BASE64, 64), "\nPrivate-MAC: x"),
        planted(
            "age key",
            "",
            format!("{}-1{}", ["AGE", "SECRET", "KEY"].join("-"), noise(37, UPPER_DIGITS, 58)),
            "\n",
        ),
        planted(
            "azure client secret",
            "secret is ",
            noise(38, LETTERS_DIGITS, 3) + "8Q~" + &noise(39, LETTERS_DIGITS, 34),
            " ",
        ),
        planted("url signature", "https://x.example/a?sv=1&sig=", noise(40, LETTERS_DIGITS, 40), "&b=1"),
        planted("digitalocean", "x(\"", format!("{}_v1_{}", ["do", "p"].concat(), noise(41, LOWER_HEX, 64)), "\")"),
        planted("databricks", "x(\"", ["da", "pi"].concat() + &noise(42, LOWER_HEX, 32), "\")"),
        planted("docker", "x(\"", format!("{}_pat_{}", ["dc", "kr"].concat(), noise(43, LETTERS_DIGITS, 27)), "\")"),
        planted("vault", "x(\"", format!("{}.{}", ["hv", "s"].concat(), noise(44, LETTERS_DIGITS, 24)), "\")"),
        planted(
            "terraform",
            "x(\"",
            format!("{}.atlas{}.{}", noise(45, LETTERS_DIGITS, 14), "v1", noise(46, LETTERS_DIGITS, 60)),
            "\")",
        ),
        planted("doppler", "x(\"", format!("dp.{}.{}", "pt", noise(47, LETTERS_DIGITS, 43)), "\")"),
        planted("planetscale", "x(\"", format!("{}_tkn_{}", "pscale", noise(48, LETTERS_DIGITS, 43)), "\")"),
        planted("grafana", "x(\"", format!("{}_{}", ["gl", "sa"].concat(), noise(49, LETTERS_DIGITS, 32)), "\")"),
        planted("shopify", "x(\"", format!("{}_{}", ["shp", "at"].concat(), noise(50, LOWER_HEX, 32)), "\")"),
        planted(
            "discord webhook",
            "https://discord.com/api/webhooks/",
            format!("{}/{}", noise(51, "0123456789", 18), noise(52, LETTERS_DIGITS, 60)),
            "\n",
        ),
        planted(
            "telegram",
            "bot(\"",
            format!("{}:A{}", noise(53, "123456789", 9), noise(54, LETTERS_DIGITS, 34)),
            "\")",
        ),
        planted("linear", "x(\"", format!("{}_{}", ["lin", "api"].join("_"), noise(55, LETTERS_DIGITS, 40)), "\")"),
        planted("mailgun", "x(\"", format!("{}-{}", "key", noise(56, LOWER_HEX, 32)), "\")"),
        planted("ruby gems", ":k: ", format!("{}_{}", "rubygems", noise(57, LOWER_HEX, 48)), "\n"),
        planted("crates.io", "token ", ["ci", "o"].concat() + &noise(58, LETTERS_DIGITS, 32), "\n"),
        planted("model provider", "x(\"", format!("{}-ant-{}", "sk", noise(59, LETTERS_DIGITS, 40)), "\")"),
        planted(
            "sendgrid",
            "x(\"",
            format!("S{}.{}.{}", "G", noise(60, LETTERS_DIGITS, 22), noise(61, LETTERS_DIGITS, 43)),
            "\")",
        ),
        planted("twilio", "x(\"", ["S", "K"].concat() + &noise(62, LOWER_HEX, 32), "\")"),
        planted("password hash", "jane:", format!("$2{}$10${}", "b", noise(63, LETTERS_DIGITS, 53)), ":"),
        planted("jdbc", "jdbc:x://h:1433;user=sa;password=", noise(64, LETTERS_DIGITS, 9), ";encrypt=true"),
        planted("curl", "curl -sS -u jane:", noise(65, LETTERS_DIGITS, 12), " https://x.example/"),
        planted("netrc", "machine x.example login jane password ", noise(66, LETTERS_DIGITS, 10), "\n"),
        planted("cookie", "Set-Cookie: sid=", noise(67, LETTERS_DIGITS, 26), "; Path=/"),
        planted("escaped json", "body = \"{\\\"password\\\": \\\"", noise(68, LETTERS_DIGITS, 12), "\\\"}\""),
        planted("yaml password", "db:\n  password: ", noise(69, LETTERS_DIGITS, 8) + "7", "\n  port: 1\n"),
        planted("ini secret", "[default]\naws_secret_access_key = ", "a1B2".to_owned() + &noise(70, BASE64, 36), "\n"),
        planted("mac address", "mac = \"", ["3c", "22", "fb", "9a", "01", "7e"].join(":"), "\""),
        planted("author in python", "__author__ = \"", ["Jane", "Quimby"].join(" "), "\"\n"),
        planted("author in a manifest", "authors = [\"", ["Jane", "Quimby"].join(" "), " <x>\"]\n"),
        planted("author handle", " * @author ", "jquimby".to_owned(), "\n"),
        planted("key comment", &format!("ssh-rsa {} ", noise(71, BASE64, 60)), "jane@laptop7".to_owned(), "\n"),
        planted("home directory", "open(\"/home/", "jdoe42".to_owned(), "/work/a.txt\")"),
        planted("home directory, windows", "C:\\\\Users\\\\", "JaneDoe7".to_owned(), "\\\\Desktop"),
        planted("author of a comment", "// TODO(", "jdoe1234".to_owned(), "): later"),
        planted("author line", "# Author: ", ["Jane", "Quimby", "Doe"].join(" "), "\n"),
    ]
}
