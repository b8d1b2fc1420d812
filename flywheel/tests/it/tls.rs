//! A platform whose doors speak TLS themselves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use service::clock::real_now;
use simulator::Developer;
use simulator::driver::{ClientSession, DoorSettings, Doors, DriverError};

use crate::harness::Place;
use crate::load;

/// The name in the certificates, which no machine has.
const NAME: &str = "flywheel.example.com";

/// Makes a certificate in `directory`; its door's section.
fn section(directory: &Path, door: &str) -> String {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (directory.join(format!("{door}.pem")), directory.join(format!("{door}.key")));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.display(), key.display());
    format!("[{door}.http.tls]\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn services_reach_a_registry_that_speaks_tls_and_addresses_say_so() {
    let certificates = tempfile::tempdir().unwrap();
    let doors = ["ingest", "serving", "registry"].map(|door| section(certificates.path(), door)).concat();
    let authority = certificates.path().join("registry.pem");
    let registry = format!("[registry]\naddress = \"https://{NAME}:7803\"\nca_file = \"{}\"\n", authority.display());
    let place = Place::new(&format!("{doors}{registry}"));
    let running = place.up().await;
    let said = running.stdout();
    for port in [place.ports.serving, place.ports.ingest, place.ports.registry] {
        assert!(said.contains(&format!("https://127.0.0.1:{port}")), "{said}");
    }
    assert!(said.contains(&format!("http://127.0.0.1:{}/readyz", place.ports.admin)), "{said}");
    let status = place.say(&["status"]);
    assert!(status.stdout.contains(&format!("registry https://127.0.0.1:{}", place.ports.registry)), "{status:?}");
    assert_eq!(running.stop().await, Some(0));

    std::fs::remove_file(certificates.path().join("ingest.key")).unwrap();
    let refused = place.say(&["up"]);
    assert!(refused.sentence().contains("ingest: `tls.key_file`: cannot read"), "{refused:?}");
    place.configure(&doors);
    let refused = place.say(&["up"]);
    assert!(refused.sentence().contains("`registry.address`: expected an address such as https://"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_editors_speak_tls_with_doors_that_they_trust() {
    let certificates = tempfile::tempdir().unwrap();
    let place = Place::new(&["ingest", "serving"].map(|door| section(certificates.path(), door)).concat());
    let running = place.up().await;
    let file = |name: &str| certificates.path().join(name);
    let both = [file("ingest.pem"), file("serving.pem")].map(|path| std::fs::read(path).unwrap()).concat();
    std::fs::write(file("both.pem"), both).unwrap();
    let doors = |authorities: PathBuf| {
        let url = |port: u16| format!("https://127.0.0.1:{port}");
        let settings = DoorSettings::new(url(place.ports.serving), url(place.ports.ingest), place.key());
        Doors::new(DoorSettings { ca_file: Some(authorities), timeout: Duration::from_secs(60), ..settings }).unwrap()
    };
    let trusting = doors(file("both.pem"));
    trusting.knock().await.unwrap();
    let mut session = ClientSession::new(1, 0, load::person(0), 0, real_now());
    let planned = load::plan(1).task(0, 0).unwrap();
    let played = session.play(&trusting, &Developer::default(), &planned.task).await.unwrap();
    assert_eq!(played.answer.end.model_version.0, 1);
    session.send(&trusting, played.episode.events()).await.unwrap();

    // Serving's own certificate says nothing of ingest.
    let error = doors(file("serving.pem")).knock().await.unwrap_err();
    let DriverError::Transport { door, source } = error else { panic!("{error}") };
    assert!(door == "ingest" && source.to_string().contains("certificate"), "{door}: {source}");
    assert_eq!(running.stop().await, Some(0));
}
