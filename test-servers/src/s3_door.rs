//! Where an S3 server is, and the few requests that prepare it: not worth an SDK.

use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::http::{self, Answer};
use crate::{S3Bucket, unique_name};

/// The region that servers sign for unless they are told otherwise.
pub(crate) const REGION: &str = "us-east-1";
/// How long an answer may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to the question whether the server has started.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// A gateway and its root user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Door {
    /// Host and port.
    pub(crate) address: String,
    pub(crate) key: String,
    pub(crate) secret: String,
}

impl fmt::Display for Door {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, key, secret } = self;
        write!(formatter, "http://{key}:{secret}@{address}")
    }
}

impl Door {
    pub(crate) fn parse(variable: &str, text: &str) -> Result<Self, String> {
        let parts = || {
            let (user, address) = text.strip_prefix("http://")?.trim_end_matches('/').rsplit_once('@')?;
            let (key, secret) = user.split_once(':')?;
            Some(Self { address: address.to_owned(), key: key.to_owned(), secret: secret.to_owned() })
        };
        parts().ok_or_else(|| format!("{variable}: expected http://KEY:SECRET@HOST:PORT"))
    }

    /// How a test finds the bucket.
    pub(crate) fn place(&self, bucket: String) -> S3Bucket {
        S3Bucket {
            endpoint: format!("http://{}", self.address),
            region: REGION.to_owned(),
            bucket,
            access_key_id: self.key.clone(),
            secret_access_key: self.secret.clone(),
        }
    }

    /// Makes a bucket that nobody else uses.
    pub(crate) fn fresh_bucket(&self) -> Result<S3Bucket, String> {
        let name = unique_name('-');
        let answer = self.ask(Request { method: "PUT", path: &format!("/{name}"), query: "", body: "" }, LIMIT);
        match answer.map_err(|error| format!("the S3 server at {} does not answer: {error}", self.address))? {
            Answer { status: 200, .. } => Ok(self.place(name)),
            answer => Err(format!("no bucket can be made at {}: {}", self.address, answer.line())),
        }
    }

    /// Whether whoever answers there knows this door's secret.
    pub(crate) fn answers(&self) -> bool {
        let list = Request { method: "GET", path: "/", query: "", body: "" };
        self.ask(list, LOOK_LIMIT).is_ok_and(|answer| answer.status == 200)
    }

    /// One signed request.
    pub(crate) fn ask(&self, request: Request<'_>, limit: Duration) -> io::Result<Answer> {
        let (headers, Request { method, path, query, body }) = (signed(self, request, SystemTime::now()), request);
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        http::ask(&self.address, method, &target, &headers, body, limit)
    }
}

/// A small request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// `name=value`, or nothing.
    pub(crate) query: &'a str,
    pub(crate) body: &'a str,
}

/// The headers that sign a request (Amazon's signature, version 4): a few small ones do not need their SDK.
fn signed(door: &Door, request: Request<'_>, now: SystemTime) -> String {
    let (Door { address, key, secret }, Request { method, path, query, body }) = (door, request);
    let (date, time) = date_and_time(now);
    let stamp = format!("{date}T{time}Z");
    let content = hex::encode(Sha256::digest(body.as_bytes()));
    let names = "host;x-amz-content-sha256;x-amz-date";
    let request = format!(
        "{method}\n{path}\n{query}\nhost:{address}\nx-amz-content-sha256:{content}\nx-amz-date:{stamp}\n\n{names}\n\
         {content}"
    );
    let scope = format!("{date}/{REGION}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex::encode(Sha256::digest(request.as_bytes())));
    let mut signing = format!("AWS4{secret}").into_bytes();
    for part in [date.as_str(), REGION, "s3", "aws4_request"] {
        signing = mac(&signing, part);
    }
    let signature = hex::encode(mac(&signing, &text));
    let mut headers = String::new();
    let _to_memory = write!(
        headers,
        "x-amz-content-sha256: {content}\r\nx-amz-date: {stamp}\r\nauthorization: AWS4-HMAC-SHA256 \
         Credential={key}/{scope}, SignedHeaders={names}, Signature={signature}\r\n"
    );
    headers
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// A time as `20260131` and `235959`, in UTC.
fn date_and_time(now: SystemTime) -> (String, String) {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let date = format!("{year:04}{month:02}{:02}", days + 1);
    (date, format!("{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_are_read_as_they_are_written() {
        let door = Door { address: "127.0.0.1:7000".to_owned(), key: "k".to_owned(), secret: "s:@/".to_owned() };
        assert_eq!(Door::parse("X", &door.to_string()), Ok(door));
        assert!(Door::parse("X", "127.0.0.1:7000").unwrap_err().contains("http://KEY:SECRET@HOST:PORT"));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds: u64| date_and_time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let expected = |date: &str, time: &str| (date.to_owned(), time.to_owned());
        assert_eq!(at(0), expected("19700101", "000000"));
        assert_eq!(at(951_782_399), expected("20000228", "235959"));
        assert_eq!(at(951_868_799), expected("20000229", "235959"));
        assert_eq!(at(1_798_761_599), expected("20261231", "235959"));
    }
}
