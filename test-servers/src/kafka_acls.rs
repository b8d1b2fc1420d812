//! Rights at a broker: two requests of Kafka's protocol, which no library at hand can make.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
/// CreateAcls and DeleteAcls, in the last versions that have no compact texts.
const CREATE_ACLS: (i16, i16) = (30, 1);
const DELETE_ACLS: (i16, i16) = (31, 1);
const ALLOW: i8 = 3;

/// What is allowed to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaRight {
    /// As `User:name`.
    pub principal: String,
    /// `topic`, `group`, `cluster` or `transactional-id`.
    pub resource: String,
    /// Its name.
    pub name: String,
    /// Whether everything is meant whose name begins so.
    pub is_prefix: bool,
    /// As Kafka's tools write it: `Read`, `AlterConfigs`, ...
    pub operation: String,
}

impl KafkaRight {
    fn write(&self, to: &mut Vec<u8>) -> Result<(), String> {
        let resource = match self.resource.as_str() {
            "topic" => 2,
            "group" => 3,
            "cluster" => 4,
            "transactional-id" => 5,
            other => return Err(format!("\"{other}\" is no kind of thing that Kafka has rights to")),
        };
        let operation = match self.operation.as_str() {
            "Read" => 3,
            "Write" => 4,
            "Create" => 5,
            "Describe" => 8,
            "DescribeConfigs" => 10,
            "AlterConfigs" => 11,
            "IdempotentWrite" => 12,
            other => return Err(format!("\"{other}\" is nothing that Kafka has rights to")),
        };
        to.extend(i8::to_be_bytes(resource));
        write_text(&self.name, to);
        to.extend(i8::to_be_bytes(if self.is_prefix { 4 } else { 3 }));
        write_text(&self.principal, to);
        write_text("*", to);
        to.extend(i8::to_be_bytes(operation));
        to.extend(i8::to_be_bytes(ALLOW));
        Ok(())
    }
}

fn write_text(text: &str, to: &mut Vec<u8>) {
    to.extend(i16::try_from(text.len()).unwrap_or(i16::MAX).to_be_bytes());
    to.extend(text.as_bytes());
}

/// A request about rights, which both kinds write alike.
fn request((key, version): (i16, i16), rights: &[KafkaRight]) -> Result<Vec<u8>, String> {
    let mut request = Vec::new();
    request.extend(key.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    write_text("test", &mut request);
    request.extend(i32::try_from(rights.len()).unwrap_or(i32::MAX).to_be_bytes());
    for right in rights {
        right.write(&mut request)?;
    }
    Ok(request)
}

/// A code, the message beside it, and what follows.
fn result(rest: &[u8]) -> Option<(i16, String, &[u8])> {
    let (code, rest) = rest.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (message, rest) = rest.split_at_checked(usize::try_from(i16::from_be_bytes(*length)).unwrap_or(0))?;
    Some((i16::from_be_bytes(*code), String::from_utf8_lossy(message).into_owned(), rest))
}

/// Gives rights at a broker, as whoever may enter there without a name.
pub(crate) fn allow(bootstrap: &str, rights: &[KafkaRight]) -> Result<(), String> {
    let answer = ask(bootstrap, &request(CREATE_ACLS, rights)?);
    let answer = answer.map_err(|error| format!("the broker at {bootstrap}: {error}"))?;
    // Number of the request, time to wait, and how many results follow.
    let mut rest = answer.get(12..).unwrap_or_default();
    for right in rights {
        let Some((code, message, after)) = result(rest) else {
            return Err(format!("the broker at {bootstrap} does not say what became of {right:?}"));
        };
        if code != 0 {
            return Err(format!("the broker at {bootstrap} does not take {right:?}: error {code}, {message}"));
        }
        rest = after;
    }
    Ok(())
}

/// Takes rights at a broker that were given there.
pub(crate) fn forbid(bootstrap: &str, rights: &[KafkaRight]) -> Result<(), String> {
    for right in rights {
        let answer = ask(bootstrap, &request(DELETE_ACLS, std::slice::from_ref(right))?);
        let answer = answer.map_err(|error| format!("the broker at {bootstrap}: {error}"))?;
        let Some((code, message, rest)) = result(answer.get(12..).unwrap_or_default()) else {
            return Err(format!("the broker at {bootstrap} does not say what became of {right:?}"));
        };
        let taken = rest.split_first_chunk::<4>().map_or(0, |(count, _)| i32::from_be_bytes(*count));
        if code != 0 || taken != 1 {
            return Err(format!("the broker at {bootstrap} took {taken} of {right:?}: error {code}, {message}"));
        }
    }
    Ok(())
}

fn ask(bootstrap: &str, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(bootstrap)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(&i32::try_from(request.len()).unwrap_or(i32::MAX).to_be_bytes())?;
    stream.write_all(request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap_or(0)];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
