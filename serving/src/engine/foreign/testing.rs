//! An OpenAI-compatible server that does with each question what the test says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// What becomes of a question.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    /// It is answered with these parts.
    Write(&'static [&'static str]),
    /// The same, until the limit of tokens.
    WriteToTheLimit(&'static [&'static str]),
    /// It is answered with a part every few milliseconds, until somebody leaves.
    WriteForever,
    /// It is answered with a status, and fields as they stand in a head.
    Status(u16, &'static str),
    /// It is answered with something else than a stream.
    Page,
    /// It is not answered.
    Hang,
    /// It is answered with a head, and then not.
    HangAfterHead,
    /// The connection closes.
    Close,
    /// The connection closes in the middle of the second part.
    CloseInPart,
    /// A part, and then nothing.
    HangAfterPart,
    /// A part, and then what is none.
    Garbage,
    /// A part, and then a failure of the engine.
    Report,
}

/// What a server saw.
#[derive(Debug)]
pub(super) struct Seen {
    /// Bodies of questions, but for those that want one token.
    pub(super) questions: Mutex<Vec<Value>>,
    /// Heads of all questions.
    pub(super) heads: Mutex<Vec<String>>,
    /// Whether questions that want one token are answered.
    pub(super) is_well: AtomicBool,
    /// How many of those there were.
    pub(super) probes: AtomicUsize,
    pub(super) connections: AtomicUsize,
    /// Parts that were written where nobody ends them.
    pub(super) parts: AtomicUsize,
    /// Connections that were closed in the middle of an answer.
    pub(super) left: AtomicUsize,
}

impl Seen {
    pub(super) fn asked(&self) -> usize {
        self.questions.lock().len()
    }
}

type Script = Arc<dyn Fn(usize) -> Act + Send + Sync>;

/// The server; it ends with this value.
pub(super) struct FakeEngine {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeEngine {
    /// A server that does what `script` says with its first, second, ... question.
    pub(super) async fn start(script: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            questions: Mutex::default(),
            heads: Mutex::default(),
            is_well: AtomicBool::new(true),
            probes: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            parts: AtomicUsize::new(0),
            left: AtomicUsize::new(0),
        });
        let script: Script = Arc::new(script);
        let seen_here = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            // Connections end with the task.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seen_here.connections.fetch_add(1, Ordering::AcqRel);
                connections.spawn(serve(stream, Arc::clone(&seen_here), Arc::clone(&script)));
            }
        });
        Self { address, seen, task }
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Seen>, script: Script) {
    while let Some((head, question)) = read(&mut stream).await {
        seen.heads.lock().push(head);
        let act = if question["max_tokens"] == 1 {
            seen.probes.fetch_add(1, Ordering::AcqRel);
            if seen.is_well.load(Ordering::Acquire) { Act::Write(&["a"]) } else { Act::Status(500, "") }
        } else {
            let number = {
                let mut questions = seen.questions.lock();
                questions.push(question);
                questions.len() - 1
            };
            script(number)
        };
        if !answer(&mut stream, act, &seen).await {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
    let length: usize = length.trim().parse().unwrap();
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    Some((head, serde_json::from_slice(&bytes[end..]).unwrap()))
}

/// Whether the connection stays.
async fn answer(stream: &mut TcpStream, act: Act, seen: &Seen) -> bool {
    match act {
        Act::Write(parts) => write_whole(stream, parts, "stop").await,
        Act::WriteToTheLimit(parts) => write_whole(stream, parts, "length").await,
        Act::WriteForever => {
            write(stream, STREAM).await;
            let (mut reader, mut writer) = stream.split();
            let mut nothing = [0];
            loop {
                tokio::select! {
                    read = reader.read(&mut nothing) => {
                        assert!(read.unwrap_or(0) == 0, "a client speaks out of turn");
                        break;
                    }
                    () = tokio::time::sleep(Duration::from_millis(5)) => {
                        if writer.write_all(chunk(&part("a")).as_bytes()).await.is_err() {
                            break;
                        }
                        seen.parts.fetch_add(1, Ordering::AcqRel);
                    }
                }
            }
            seen.left.fetch_add(1, Ordering::AcqRel);
            false
        }
        Act::Status(status, fields) => {
            write(stream, &format!("HTTP/1.1 {status} No\r\ncontent-length: 2\r\n{fields}\r\nno")).await;
            true
        }
        Act::Page => {
            write(stream, "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>").await;
            true
        }
        Act::Hang => wait_for_close(stream, seen).await,
        Act::HangAfterHead => {
            write(stream, STREAM).await;
            wait_for_close(stream, seen).await
        }
        Act::Close => false,
        Act::CloseInPart => {
            let second = part("b");
            write(stream, &[STREAM, &chunk(&part("a")), &format!("{:x}\r\n{}", second.len(), &second[..9])].concat())
                .await;
            false
        }
        Act::HangAfterPart => {
            write(stream, &[STREAM, &chunk(&part("a"))].concat()).await;
            wait_for_close(stream, seen).await
        }
        Act::Garbage => {
            write(stream, &[STREAM, &chunk(&part("a")), &chunk("data: {\"choices\": 3\n\n"), "0\r\n\r\n"].concat())
                .await;
            true
        }
        Act::Report => {
            let failure = format!("data: {}\n\n", json!({ "error": { "message": "out of memory" } }));
            write(stream, &[STREAM, &chunk(&part("a")), &chunk(&failure), "0\r\n\r\n"].concat()).await;
            true
        }
    }
}

async fn write_whole(stream: &mut TcpStream, parts: &[&str], finish: &str) -> bool {
    let mut answer = STREAM.to_owned();
    for text in parts {
        answer.push_str(&chunk(&part(text)));
    }
    let last = json!({ "choices": [{ "index": 0, "text": "", "finish_reason": finish }] });
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 9, "completion_tokens": parts.len() } });
    answer.push_str(&chunk(&format!("data: {last}\n\ndata: {usage}\n\ndata: [DONE]\n\n")));
    answer.push_str("0\r\n\r\n");
    write(stream, &answer).await;
    true
}

/// A part with the log-probability -0.5.
fn part(text: &str) -> String {
    let logprobs = json!({ "tokens": [text], "token_logprobs": [-0.5] });
    let part = json!({ "choices": [{ "index": 0, "text": text, "logprobs": logprobs, "finish_reason": null }] });
    format!("data: {part}\n\n")
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// A client that has left does not read.
async fn write(stream: &mut TcpStream, text: &str) {
    let _ = stream.write_all(text.as_bytes()).await;
}

async fn wait_for_close(stream: &mut TcpStream, seen: &Seen) -> bool {
    let _ = stream.read(&mut [0]).await;
    seen.left.fetch_add(1, Ordering::AcqRel);
    false
}
