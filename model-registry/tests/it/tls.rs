//! The gRPC door over TLS, to clients that trust its certificate and to others.

use std::path::PathBuf;

use model_registry::{ClientError, RegistryClient, Trust};
use service::http::HttpConfig;
use service::tls::TlsConfig;

use crate::fixture::{Fixture, model};

#[tokio::test]
async fn clients_that_trust_the_certificate_are_served_and_others_leave() {
    let certificates = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| -> PathBuf {
        let path = certificates.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (own, other) = (made("registry.example.com"), made("registry.example.com"));
    let certificate = write("door.pem", own.cert.pem());
    let tls = TlsConfig {
        certificate_file: Some(certificate.clone()),
        key_file: Some(write("door.key", own.signing_key.serialize_pem())),
    };
    let name = Some("registry.example.com");
    let trust = Trust { ca_file: Some(certificate.clone()), server_name: name.map(str::to_owned) };
    let fixture = Fixture::with_door(HttpConfig { tls, ..HttpConfig::at("127.0.0.1:0") }, &trust).await;
    assert_eq!(fixture.client.list_models().await.unwrap(), []);
    assert_eq!(fixture.client.get_routing(&model()).await.unwrap_err().code(), Some("unknown_model"));
    let client = |address: &str, ca_file: PathBuf, name: Option<&str>| {
        let trust = Trust { ca_file: Some(ca_file), server_name: name.map(str::to_owned) };
        RegistryClient::with_trust(address, &fixture.secret, &trust)
    };
    let unavailable = async |client: RegistryClient| match client.list_models().await {
        Err(ClientError::Unavailable(reason)) => reason,
        other => panic!("expected no answer: {other:?}"),
    };

    let stranger = unavailable(client(&fixture.address, write("other.pem", other.cert.pem()), name).unwrap()).await;
    assert!(stranger.contains("certificate"), "{stranger}");
    // The certificate is made out to a name, not to an address.
    let nameless = unavailable(client(&fixture.address, certificate.clone(), None).unwrap()).await;
    assert!(nameless.contains("certificate"), "{nameless}");
    let plain = fixture.address.replace("https://", "http://");
    unavailable(client(&plain, certificate, name).unwrap()).await;

    let refused = |ca_file: PathBuf| match client(&fixture.address, ca_file, name) {
        Err(error) => error.to_string().replace(certificates.path().to_str().unwrap(), "DIRECTORY"),
        Ok(_) => panic!("accepted"),
    };
    let sentences = [refused(certificates.path().join("gone.pem")), refused(write("empty.pem", String::new()))];
    insta::assert_snapshot!(sentences.join("\n"), @r"
    registry client: `registry.ca_file`: DIRECTORY/gone.pem cannot be read: No such file or directory (os error 2)
    registry client: `registry.ca_file`: DIRECTORY/empty.pem holds no certificate in PEM form
    ");
    fixture.shut_down().await;
}
