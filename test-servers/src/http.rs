//! Requests to servers of our own, small enough to need no client.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Head and body.
    pub(crate) text: String,
}

impl Answer {
    /// All of it in one line, for sentences.
    pub(crate) fn line(&self) -> String {
        self.text.replace("\r\n", "; ").trim().to_owned()
    }
}

/// One request, on a connection of its own; every line of `headers` ends with `\r\n`.
pub(crate) fn ask(
    address: &str,
    method: &str,
    target: &str,
    headers: &str,
    body: &str,
    limit: Duration,
) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let bytes = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {bytes}\r\n");
    stream.write_all(format!("{head}connection: close\r\n{headers}\r\n{body}").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("it does not speak HTTP"))?;
    Ok(Answer { status, text })
}
