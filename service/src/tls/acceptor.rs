//! Handshakes of one door, and the eye on its files.
//!
//! A handshake costs a place among the connections and little more, until the peer has said enough; so their number is
//! bounded apart, and those who only wait for their peer must not hold up the others. While there is room a peer has
//! [`HANDSHAKE`] for all of it. When there is none, whoever is not done after [`PATIENCE`] makes room: an honest peer
//! needs milliseconds of ours and two round trips, and a crowd of honest peers is served in its order.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::certificate::{self, Certificate};
use super::{Files, TlsError};

/// How long a peer may take, with its wait for a place.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long it may take while others wait for a place.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a handshake that has used up its patience looks whether others wait.
const PATIENCE_LOOK: Duration = Duration::from_millis(100);
/// Handshakes at once.
const PLACES: usize = 128;
/// How often the files are looked at. Real time.
const FILES_LOOK: Duration = Duration::from_secs(2);

/// Modification time and size of a file; none while it cannot be looked at.
type Look = Option<(SystemTime, u64)>;

/// Speaks TLS with the peers of a door. Clones are the same acceptor.
#[derive(Clone)]
pub(crate) struct Acceptor(Arc<Inner>);

struct Inner {
    door: String,
    files: Files,
    /// How the files looked before they were first read.
    first_look: [Look; 2],
    served: RwLock<TlsAcceptor>,
    places: Semaphore,
}

/// Why a handshake came to nothing.
enum Failed {
    /// What the peer said was no TLS, or none that we speak; or the peer left.
    Refused(std::io::Error),
    /// It made room for others.
    Crowded,
    /// The door is gone.
    Closed,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Acceptor").field("door", &self.0.door).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Reads the certificate of `door`, which has at most `max_connections`.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub(crate) async fn open(door: &str, files: Files, max_connections: usize) -> Result<Self, TlsError> {
        // Before they are read: what changes meanwhile is a change.
        let first_look = look(&files).await;
        let certificate = certificate::load(&files).await?;
        tell_expiry(door, &certificate);
        // A handshake has a place among the connections already; only fewer places than those can run out.
        let places = PLACES.min(max_connections.div_ceil(2)).max(1);
        let (door, served, places) = (door.to_owned(), RwLock::new(certificate.acceptor), Semaphore::new(places));
        Ok(Self(Arc::new(Inner { door, files, first_look, served, places })))
    }

    /// Shakes hands; none when that came to nothing, which harms nobody but the peer.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let reason = match tokio::time::timeout(HANDSHAKE, self.shake_hands(stream)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(Failed::Closed)) => return None,
            // Whoever only looks whether the port is open is no failure.
            Ok(Err(Failed::Refused(error))) if has_left(&error) => return None,
            Ok(Err(Failed::Refused(error))) => {
                tracing::debug!(door = %self.0.door, %error, "a peer speaks no TLS, or none that we speak");
                "refused"
            }
            Ok(Err(Failed::Crowded)) => "crowded",
            Err(_) => "timeout",
        };
        let door = self.0.door.clone();
        metrics::counter!("flywheel_service_tls_handshake_failures_total", "door" => door, "reason" => reason)
            .increment(1);
        None
    }

    async fn shake_hands(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failed> {
        let _place = self.0.places.acquire().await.map_err(|_| Failed::Closed)?;
        let served = self.0.served.read().clone();
        tokio::select! {
            accepted = served.accept(stream) => accepted.map_err(Failed::Refused),
            () = self.out_of_patience() => Err(Failed::Crowded),
        }
    }

    async fn out_of_patience(&self) {
        tokio::time::sleep(PATIENCE).await;
        while self.0.places.available_permits() > 0 {
            tokio::time::sleep(PATIENCE_LOOK).await;
        }
    }

    /// Takes over changed files until `stop`. Files that cannot be used are told once for each change, and tried again
    /// at every look: one of two may still be on its way, or a right be missing.
    pub(crate) async fn follow_files(&self, stop: CancellationToken) {
        let Inner { door, files, first_look, .. } = &*self.0;
        let (mut served, mut told) = (*first_look, None);
        while stop.run_until_cancelled(tokio::time::sleep(FILES_LOOK)).await.is_some() {
            let now = look(files).await;
            if now == served {
                told = None;
                continue;
            }
            match certificate::load(files).await {
                Ok(certificate) => {
                    tell_expiry(door, &certificate);
                    *self.0.served.write() = certificate.acceptor;
                    (served, told) = (now, None);
                    tracing::info!(%door, certificate = %files.certificate.display(), "a new certificate is served");
                }
                Err(error) if told != Some(now) => {
                    let label = door.clone();
                    metrics::counter!("flywheel_service_tls_reload_failures_total", "door" => label).increment(1);
                    tracing::error!(%door, %error, "the new certificate cannot be used; the one before is served on");
                    told = Some(now);
                }
                Err(_) => {}
            }
        }
    }
}

async fn look(files: &Files) -> [Look; 2] {
    let mut looks = [None, None];
    for (look, path) in looks.iter_mut().zip([&files.certificate, &files.key]) {
        *look = match tokio::fs::metadata(path).await {
            Ok(metadata) => metadata.modified().ok().map(|modified| (modified, metadata.len())),
            Err(_) => None,
        };
    }
    looks
}

fn has_left(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn tell_expiry(door: &str, certificate: &Certificate) {
    let Some(expires) = certificate.expires else { return };
    let label = door.to_owned();
    metrics::gauge!("flywheel_service_tls_certificate_expiry_timestamp_seconds", "door" => label).set(expires as f64);
    if crate::clock::real_now().as_micros() / 1_000_000 >= expires {
        tracing::warn!(%door, "the certificate of this door has expired: clients will refuse it");
    }
}
