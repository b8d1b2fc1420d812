//! Kafka brokers of a test's own, which it may cut off, kill and start again.

use std::fmt::Write as _;
use std::path::Path;

use crate::kafka::{SETTINGS, libraries, properties, says_started, start_in, write_logging};
use crate::own::OwnServer;
use crate::server::directory;
use crate::toxiproxy::{Proxy, Toxiproxy};
use crate::{KafkaServer, blocking, ports};

/// A cluster that ends with this value.
#[derive(Debug)]
pub struct KafkaBrokers {
    brokers: Vec<Broker>,
}

#[derive(Debug)]
struct Broker {
    node: Node,
    server: OwnServer,
}

/// One broker of a cluster: its number, and its ports.
#[derive(Debug, Clone)]
struct Node {
    id: usize,
    /// Where everybody may enter.
    open: u16,
    /// Where one user may.
    guarded: u16,
    /// Where brokers speak to each other and to themselves, which no proxy stands in between.
    internal: u16,
    controller: u16,
    /// Where clients are told to enter.
    advertised: String,
}

impl KafkaBrokers {
    /// Three brokers, of which one may be missing: what is asked to be kept three times is.
    ///
    /// # Panics
    /// They can not be started: the sentence says what to do.
    pub async fn three() -> Self {
        blocking(|| {
            let nodes: Result<Vec<Node>, String> = (1..=3).map(|id| Node::on(id, ports::hold()?)).collect();
            Self::start(&nodes?)
        })
        .await
    }

    /// One broker that clients reach through the proxy alone.
    ///
    /// # Panics
    /// It can not be started: the sentence says what to do.
    pub async fn behind(toxiproxy: &Toxiproxy) -> (Self, Proxy) {
        let toxiproxy = toxiproxy.clone();
        blocking(move || {
            let node = Node::on(1, ports::hold()?)?;
            let proxy = toxiproxy.before(&node.advertised);
            let advertised = proxy.address().to_owned();
            Ok((Self::start(&[Node { advertised, ..node }])?, proxy))
        })
        .await
    }

    fn start(nodes: &[Node]) -> Result<Self, String> {
        // Together: none of three is ready before another one is.
        let started: Vec<Result<Broker, String>> = std::thread::scope(|scope| {
            let starting: Vec<_> = nodes.iter().map(|node| scope.spawn(move || node.start(nodes))).collect();
            starting.into_iter().map(|node| node.join().expect("starting a broker does not panic")).collect()
        });
        Ok(Self { brokers: started.into_iter().collect::<Result<_, _>>()? })
    }

    /// Where clients enter: all of them.
    #[must_use]
    pub fn server(&self) -> KafkaServer {
        let addresses: Vec<&str> = self.brokers.iter().map(|broker| &*broker.node.advertised).collect();
        KafkaServer { bootstrap: addresses.join(","), guarded: None }
    }

    /// Kills the broker of this number, counted from 1 as in the metadata of the cluster, and waits until it is gone.
    ///
    /// # Panics
    /// There is no such broker, or it does not run.
    pub fn kill(&self, broker: i32) {
        self.brokers[index(broker)].server.kill();
    }

    /// Starts one again that was killed, on the data that it has.
    ///
    /// # Panics
    /// It can not be started.
    pub async fn start_again(&mut self, broker: i32) {
        self.brokers[index(broker)].server.start_again().await;
    }
}

fn index(broker: i32) -> usize {
    usize::try_from(broker - 1).expect("brokers are counted from 1")
}

impl Node {
    fn on(id: usize, open: u16) -> Result<Self, String> {
        let (guarded, internal, controller) = (ports::hold()?, ports::hold()?, ports::hold()?);
        Ok(Self { id, open, guarded, internal, controller, advertised: format!("127.0.0.1:{open}") })
    }

    fn start(&self, all: &[Self]) -> Result<Broker, String> {
        let (home, libraries) = (directory("Kafka")?, libraries()?);
        let text = self.properties(&home, all);
        if let Err(error) = std::fs::write(home.join(SETTINGS), text).and_then(|()| write_logging(&home)) {
            let _gone = std::fs::remove_dir_all(&home);
            return Err(format!("there is no place for the data of Kafka: {error}"));
        }
        let running = start_in(home, &libraries, &[])?;
        Ok(Broker { node: self.clone(), server: OwnServer::of((running, Box::new(says_started))) })
    }

    fn properties(&self, home: &Path, all: &[Self]) -> String {
        let Self { id, open, guarded, internal, controller, advertised } = self;
        let mut text = properties(&home.join("data"), [*open, *guarded, *controller]);
        let voters: Vec<String> = all.iter().map(|node| format!("{}@127.0.0.1:{}", node.id, node.controller)).collect();
        // What a cluster needs to live on without one of three.
        let (copies, least) = if all.len() < 3 { (1, 1) } else { (3, 2) };
        let own = format!("GUARDED://127.0.0.1:{guarded},INTERNAL://127.0.0.1:{internal}");
        // Of a property that stands there twice the last one counts. Three on a busy machine need more patience.
        let _to_memory = write!(
            text,
            "node.id={id}\n\
             controller.quorum.voters={}\n\
             listeners=PLAINTEXT://127.0.0.1:{open},{own},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://{advertised},{own}\n\
             inter.broker.listener.name=INTERNAL\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,GUARDED:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,\
             CONTROLLER:PLAINTEXT\n\
             offsets.topic.replication.factor={copies}\n\
             transaction.state.log.replication.factor={copies}\n\
             transaction.state.log.min.isr={least}\n\
             share.coordinator.state.topic.replication.factor={copies}\n\
             share.coordinator.state.topic.min.isr={least}\n\
             broker.heartbeat.interval.ms=500\n\
             broker.session.timeout.ms=4000\n\
             controller.quorum.election.timeout.ms=1000\n",
            voters.join(",")
        );
        text
    }
}
