//! What a first connection to a server can meet, each told in one sentence that says who can mend it and no password.

use std::io::{Read, Write};
use std::net::TcpListener;

use migrations::connect;

/// What a server that only refuses says.
#[derive(Clone, Copy)]
enum Says {
    /// Nothing at all.
    Nothing,
    /// That it has no TLS, and then an error with this code.
    Error(&'static str, &'static str),
    /// That it has TLS.
    Tls,
}

/// Plays a server that refuses. Returns its port.
fn server(says: Says) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            match says {
                Says::Nothing => {}
                Says::Tls => {
                    let mut request = [0; 8];
                    let _ = stream.read_exact(&mut request).and_then(|()| stream.write_all(b"S"));
                }
                Says::Error(code, message) => {
                    let mut request = [0; 8];
                    let _ = stream.read_exact(&mut request).and_then(|()| stream.write_all(b"N"));
                    // The start-up message: its length, which counts itself, and the rest.
                    let mut length = [0; 4];
                    if stream.read_exact(&mut length).is_ok() {
                        let mut rest = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap() - 4];
                        let _ = stream.read_exact(&mut rest);
                    }
                    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
                    let mut answer = vec![b'E'];
                    answer.extend(u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
                    answer.extend(fields.as_bytes());
                    let _ = stream.write_all(&answer);
                }
            }
            open.push(stream);
        }
    });
    port
}

async fn refusal(port: u16, rest: &str) -> String {
    let url = format!("postgres://me:hush@127.0.0.1:{port}/flywheel{rest}");
    let error = connect(&url, 2).await.unwrap_err().to_string();
    assert!(!error.contains("hush"), "{error}");
    error.replace(&port.to_string(), "PORT")
}

#[tokio::test]
async fn a_server_that_is_not_there_or_refuses_is_told_in_one_sentence() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let wrong_password = server(Says::Error("28P01", "password authentication failed for user \"me\""));
    let absent = server(Says::Error("3D000", "database \"flywheel\" does not exist"));
    let starting = server(Says::Error("57P03", "the database system is starting up"));
    let texts = [
        refusal(free, "").await,
        refusal(server(Says::Nothing), "").await,
        refusal(wrong_password, "").await,
        refusal(absent, "").await,
        refusal(starting, "").await,
        refusal(wrong_password, "?sslmode=verify-full").await,
        refusal(server(Says::Tls), "?sslmode=verify-full&sslrootcert=/no/such/file.pem").await,
    ];
    insta::assert_snapshot!(texts.join("\n"), @r#"
    database postgres://127.0.0.1:PORT/flywheel: not reachable (error communicating with database: Connection refused (os error 111)); check the address in `database.url`, and that the server runs
    database postgres://127.0.0.1:PORT/flywheel: no answer within 5 s; check the address in `database.url`
    database postgres://127.0.0.1:PORT/flywheel: the server refuses the user or the password of `database.url` (error returned from database: password authentication failed for user "me")
    database postgres://127.0.0.1:PORT/flywheel: the server has no database of that name; create it, then run `flywheel migrate`
    database postgres://127.0.0.1:PORT/flywheel: cannot be opened: error returned from database: the database system is starting up
    database postgres://127.0.0.1:PORT/flywheel: no connection as `sslmode` and `sslrootcert` of `database.url` ask for it (error occurred while attempting to establish a TLS connection: server does not support TLS)
    database postgres://127.0.0.1:PORT/flywheel: no connection as `sslmode` and `sslrootcert` of `database.url` ask for it (error communicating with database: No such file or directory (os error 2))
    "#);
}
