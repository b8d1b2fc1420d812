//! A connection that a test can cut and mend.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Stands between a platform and a server, and can be cut.
pub(crate) struct Wire {
    pub(crate) port: u16,
    is_cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    pub(crate) fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            is_cut: Arc::new(AtomicBool::new(false)),
            open: Arc::new(Mutex::new(Vec::new())),
        };
        let (is_cut, open) = (Arc::clone(&wire.is_cut), Arc::clone(&wire.open));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { return };
                // A cut comes before or after, never in between.
                let mut open = open.lock();
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let far = TcpStream::connect(&server).unwrap();
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let mut bytes = [0; 16_384];
                        while let Ok(count) = from.read(&mut bytes) {
                            if count == 0 || to.write_all(&bytes[..count]).is_err() {
                                break;
                            }
                        }
                        let _already = to.shutdown(Shutdown::Both);
                    });
                }
                open.extend([near, far]);
            }
        });
        wire
    }

    pub(crate) fn cut(&self) {
        let mut open = self.open.lock();
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in open.drain(..) {
            let _already = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}
