//! A platform whose doors speak TLS themselves.

use std::path::Path;

use crate::harness::Place;

/// The name in the certificates, which no machine has.
const NAME: &str = "flywheel.example.com";

/// Makes a certificate in `directory`; its door's section.
fn section(directory: &Path, door: &str) -> String {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
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
