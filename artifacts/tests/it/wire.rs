//! A wire between a store and its gateway that breaks at a chosen request.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What happens to the first request of which the line is meant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It does not arrive: the connection is closed instead.
    LoseRequest,
    /// It arrives and is done; the connection is closed instead of the answer.
    LoseAnswer,
    /// It does not arrive, and the connection stays open until the other side has enough.
    Swallow,
    /// The connection is closed after so many bytes of the answer.
    CutAnswer(usize),
    /// In the beginning of the answer one text stands for another of the same length.
    Alter(&'static str, &'static str),
}

/// Which request is meant, by its first line, and what happens to it.
type Rule = (fn(&str) -> bool, Fault);

#[derive(Debug)]
pub(crate) struct Wire {
    /// Where the gateway seems to be.
    pub(crate) address: String,
    rules: Arc<Mutex<Vec<Rule>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Wire {
    /// A whole wire to `server`.
    pub(crate) fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let wire = Self { address, rules: Arc::default(), requests: Arc::default() };
        let (rules, requests, server) = (Arc::clone(&wire.rules), Arc::clone(&wire.requests), server.to_owned());
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(&server).unwrap());
                let fault = Arc::new(Mutex::new(None));
                let ends = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let (rules, requests, coming) = (Arc::clone(&rules), Arc::clone(&requests), Arc::clone(&fault));
                std::thread::spawn(move || {
                    carry_requests(ends, &rules, &requests, &coming);
                });
                std::thread::spawn(move || carry_answers((far, near), &fault));
            }
        });
        wire
    }

    /// Breaks at the next request that is meant.
    pub(crate) fn breaks_at(&self, is_meant: fn(&str) -> bool, fault: Fault) {
        self.rules.lock().unwrap().push((is_meant, fault));
    }

    /// The first lines of all requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }

    /// Whether every fault has happened.
    pub(crate) fn is_over(&self) -> bool {
        self.rules.lock().unwrap().is_empty()
    }
}

/// The line of a request that begins here. Its head comes in one piece: the client writes it in one.
fn line_of(bytes: &[u8]) -> Option<String> {
    let line = bytes.get(..bytes.len().min(2000))?.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.ends_with(" HTTP/1.1").then(|| line.to_owned())
}

fn carry_requests(
    (mut near, mut far): (TcpStream, TcpStream),
    rules: &Mutex<Vec<Rule>>,
    requests: &Mutex<Vec<String>>,
    coming: &Mutex<Option<Fault>>,
) {
    let mut bytes = vec![0; 65_536];
    let mut is_swallowed = false;
    while let Ok(count @ 1..) = near.read(&mut bytes) {
        if let Some(line) = line_of(&bytes[..count]) {
            let mut rules = rules.lock().unwrap();
            let rule = rules.iter().position(|(is_meant, _)| is_meant(&line)).map(|place| rules.remove(place).1);
            requests.lock().unwrap().push(line);
            match rule {
                Some(Fault::LoseRequest) => break,
                Some(Fault::Swallow) => is_swallowed = true,
                rule => *coming.lock().unwrap() = rule,
            }
        }
        if !is_swallowed && far.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _already = (near.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
}

fn carry_answers((mut far, mut near): (TcpStream, TcpStream), coming: &Mutex<Option<Fault>>) {
    let mut bytes = vec![0; 65_536];
    while let Ok(count @ 1..) = far.read(&mut bytes) {
        let mut part = bytes[..count].to_vec();
        let mut coming = coming.lock().unwrap();
        match *coming {
            Some(Fault::LoseAnswer) => break,
            Some(Fault::CutAnswer(left)) if left <= count => {
                let _it_may_have_enough = near.write_all(&part[..left]);
                break;
            }
            Some(Fault::CutAnswer(left)) => *coming = Some(Fault::CutAnswer(left - count)),
            Some(Fault::Alter(from, to)) => {
                let place = part.windows(from.len()).position(|window| window == from.as_bytes());
                let place = place.expect("the text that is altered is in the beginning of the answer");
                part[place..place + from.len()].copy_from_slice(to.as_bytes());
                *coming = None;
            }
            _ => {}
        }
        if near.write_all(&part).is_err() {
            break;
        }
    }
    let _already = (near.shutdown(Shutdown::Both), far.shutdown(Shutdown::Both));
}
