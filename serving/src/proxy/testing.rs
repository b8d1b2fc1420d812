//! A served world in front of an upstream that the test plays.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use events::{RawEvent, TenantId};
use service::http::{HttpConfig, bind};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::Serving;
use crate::proxy::{Upstream, UpstreamConfig};
use crate::running::Sources;
use crate::testing::{WAIT, World, plain_config};

/// A door in front of an upstream.
pub(crate) struct Front {
    pub(crate) world: World,
    pub(crate) serving: Arc<Serving>,
    pub(crate) address: SocketAddr,
    pub(crate) client: reqwest::Client,
    stop: CancellationToken,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Front {
    pub(crate) async fn of(upstream: SocketAddr) -> Self {
        Self::with(upstream, |_| {}).await
    }

    pub(crate) async fn with(upstream: SocketAddr, adjust: impl FnOnce(&mut UpstreamConfig)) -> Self {
        let world = World::new().await;
        let sources = world.sources();
        Self::standing(world, sources, upstream, adjust).await
    }

    pub(crate) async fn standing(
        world: World,
        sources: Sources,
        upstream: SocketAddr,
        adjust: impl FnOnce(&mut UpstreamConfig),
    ) -> Self {
        let mut config = UpstreamConfig { url: Some(format!("http://{upstream}")), ..UpstreamConfig::default() };
        adjust(&mut config);
        let sources = Sources { upstream: Upstream::configured(&config, &TenantId::default()), ..sources };
        let serving = Arc::new(Serving::start_with(plain_config(), sources).await.unwrap());
        let stop = CancellationToken::new();
        let address = serve(serving.router(), stop.clone()).await;
        Self { world, serving, address, client: client(), stop }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What is on the bus, once it is at least so much.
    pub(crate) async fn events(&self, count: usize) -> Vec<RawEvent> {
        let enough = async {
            loop {
                self.serving.settled().await;
                let events = self.world.exposures().await;
                if events.len() >= count {
                    return events;
                }
            }
        };
        tokio::time::timeout(WAIT, enough).await.expect("events do not reach the bus")
    }
}

pub(crate) fn client() -> reqwest::Client {
    let none = reqwest::redirect::Policy::none();
    reqwest::Client::builder().timeout(WAIT).redirect(none).build().unwrap()
}

/// A server of these routes, until it is told to stop.
pub(crate) async fn serve(router: Router, stop: CancellationToken) -> SocketAddr {
    let listener = bind("test", &HttpConfig::default()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = HttpConfig { drain_ms: 100, ..HttpConfig::default() };
    tokio::spawn(async move { service::http::serve(listener, router, &config, stop).await });
    address
}

/// A server that does with each connection what the test says.
pub(crate) async fn raw<F, Done>(script: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Done + Send + 'static,
    Done: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(script(stream));
        }
    });
    address
}

/// Reads up to the end of a head, and what came with it.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8(read).unwrap()
}

/// Waits until the other side has closed.
pub(crate) async fn read_to_close(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect("never closed");
}
