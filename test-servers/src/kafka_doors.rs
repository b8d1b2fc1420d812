//! Apache Kafka with doors that the common broker does not have: TLS, other ways to enter.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::kafka::{JAVA_FOR_TESTS, SETTINGS, USER, java, libraries, properties, start_in, write_logging};
use crate::ports;
use crate::server::{Running, directory, on_free_port};

/// One more door of a broker.
#[derive(Debug, Clone)]
pub struct KafkaDoor {
    /// `SSL`, `SASL_SSL` or `SASL_PLAINTEXT`.
    pub protocol: &'static str,
    /// Settings of this door alone, without what Kafka has before their names.
    pub settings: Vec<(&'static str, String)>,
}

/// A broker of a test's own. It ends with this value.
#[derive(Debug)]
pub struct KafkaOfMine {
    _running: Running,
    libraries: PathBuf,
    /// Host and port where everybody may enter.
    pub bootstrap: String,
    /// Host and port of each door, in the order in which they were asked for.
    pub doors: Vec<String>,
    /// A user whom the doors may let in by SCRAM-SHA-512.
    pub user: &'static str,
    /// The password of that user.
    pub password: &'static str,
}

impl KafkaOfMine {
    /// A user has this password from now on; one that is not there is made. Blocks for some seconds.
    ///
    /// # Panics
    /// The broker does not take it.
    pub fn set_password(&self, user: &str, password: &str) {
        let mut command = java(&self.libraries, JAVA_FOR_TESTS, &[]);
        command.extend(
            ["kafka.admin.ConfigCommand", "--alter", "--entity-type", "users", "--entity-name", user]
                .map(str::to_owned),
        );
        command.extend(["--bootstrap-server".to_owned(), self.bootstrap.clone(), "--add-config".to_owned()]);
        command.push(format!("SCRAM-SHA-512=[iterations=4096,password={password}]"));
        let changed = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::null()).output();
        let changed = changed.expect("java runs, because the broker does");
        assert!(changed.status.success(), "{}", String::from_utf8_lossy(&changed.stderr));
    }
}

/// Starts a broker with these doors. `java_settings`: properties of its Java.
pub(crate) fn start(doors: &[KafkaDoor], java_settings: &[String]) -> Result<KafkaOfMine, String> {
    on_free_port(|port| start_on(port, doors, java_settings))
}

fn start_on(port: u16, doors: &[KafkaDoor], java_settings: &[String]) -> Result<KafkaOfMine, String> {
    let libraries = libraries()?;
    let (guarded, controller) = (ports::hold()?, ports::hold()?);
    let ports = doors.iter().map(|_| ports::hold()).collect::<Result<Vec<u16>, String>>()?;
    let directory = directory("Kafka")?;
    let mut text = properties(&directory.join("data"), [port, guarded, controller]);
    // Of a property that stands there twice the last one counts.
    let list = |of: &dyn Fn(usize) -> String| (0..doors.len()).map(of).collect::<Vec<String>>().join("");
    let listeners = list(&|door| format!(",DOOR{door}://127.0.0.1:{}", ports[door]));
    let protocols = list(&|door| format!(",DOOR{door}:{}", doors[door].protocol));
    let everybody = format!("PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded}");
    let _to_memory = write!(
        text,
        "listeners={everybody},CONTROLLER://127.0.0.1:{controller}{listeners}\n\
         advertised.listeners={everybody}{listeners}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,GUARDED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\n"
    );
    for (number, door) in doors.iter().enumerate() {
        for (name, value) in &door.settings {
            let _to_memory = writeln!(text, "listener.name.door{number}.{name}={value}");
        }
    }
    let file = directory.join(SETTINGS);
    if let Err(error) = std::fs::write(&file, text).and_then(|()| write_logging(&directory)) {
        let _gone = std::fs::remove_dir_all(&directory);
        return Err(format!("there is no place for the data of Kafka: {error}"));
    }
    let _running = start_in(directory, &libraries, java_settings)?;
    let doors = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let (user, password) = (USER, crate::kafka::PASSWORD);
    Ok(KafkaOfMine { _running, libraries, bootstrap: format!("127.0.0.1:{port}"), doors, user, password })
}
