//! Ports that no two runs of tests share.
//!
//! A port that the system gives away (port 0) is free only at that moment: another run may be given it before the server
//! has taken it, and from then on each takes the other's server for its own. So whoever draws a port here holds it until
//! its process ends: by the UDP port of the same number, which the system gives to one process at a time and takes back
//! from a dead one, and which no server here uses.

use std::net::{TcpListener, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which systems take the ports of outgoing connections: a port must still be free when its server
/// has been killed and starts again.
const FIRST: u16 = 18_000;
const COUNT: u16 = 13_000;

/// A loopback port that nothing listens at, and that is given to nobody else while this process lives.
pub(crate) fn hold() -> Result<u16, String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static HELD: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    // Processes that start together look in different places first.
    let spread = u16::try_from(std::process::id() % 650).unwrap_or_default() * 20;
    for _ in 0..COUNT {
        let port = FIRST + (spread + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if let Ok(held) = UdpSocket::bind(("127.0.0.1", port))
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(held);
            return Ok(port);
        }
    }
    Err(format!("there is no free port from {FIRST} to {}", FIRST + COUNT - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_stays_free_for_its_server() {
        let (one, other) = (hold().unwrap(), hold().unwrap());
        assert_ne!(one, other);
        // A process that another thread starts in the moment of the look has the look's socket until it runs its program.
        let given = std::time::Instant::now();
        let _server = loop {
            match TcpListener::bind(("127.0.0.1", one)) {
                Ok(server) => break server,
                Err(_) if given.elapsed() < std::time::Duration::from_secs(10) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        // What another process would find.
        assert!(UdpSocket::bind(("127.0.0.1", one)).is_err());
    }
}
