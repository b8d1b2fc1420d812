//! Which fields belong to a connection and which to the message (RFC 9110, 7.6.1).

use axum::http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, TE, TRANSFER_ENCODING, UPGRADE, VIA};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// Of a connection even when `Connection` does not name them. `Proxy-Authenticate` and its like are not among them:
/// whoever sends them knows who is to read them.
const OF_A_CONNECTION: [&str; 6] =
    ["connection", "te", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection"];

/// Whether a list of tokens holds this one.
fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Takes out what belongs to the connection that the message came over.
pub(crate) fn strip(headers: &mut HeaderMap) {
    // A length beside chunks says nothing, and would be believed once the chunks are gone (RFC 9112, 6.3).
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> =
        tokens(headers, &CONNECTION).filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok()).collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_A_CONNECTION {
        headers.remove(name);
    }
}

/// What the sender wants the connection to become, if it asks for that. HTTP/2 is no other protocol: each connection
/// agrees on its own.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_asked = has_token(headers, &CONNECTION, "upgrade") && !has_token(headers, &UPGRADE, "h2c");
    headers.get(UPGRADE).filter(|_| is_asked).cloned()
}

/// Says what the next connection is to become.
pub(crate) fn set_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Makes the fields of a client's request those of ours: the message's own, that we take trailers when the client does,
/// and that we handed it on.
pub(crate) fn make_ours(headers: &mut HeaderMap, via: &HeaderValue) {
    let takes_trailers = has_token(headers, &TE, "trailers");
    strip(headers);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.append(CONNECTION, HeaderValue::from_static("te"));
    }
    headers.append(VIA, via.clone());
}

/// Puts the cookies together that HTTP/2 takes apart: HTTP/1.1 knows one such field (RFC 9113, 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// Whether the request has come through here before.
pub(crate) fn is_ours(headers: &HeaderMap, via: &HeaderValue) -> bool {
    via.to_str().is_ok_and(|via| tokens(headers, &VIA).any(|hop| hop == via))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_what_belongs_to_the_connection_goes() {
        let mut all = headers(&[
            ("connection", "keep-alive, X-Hop"),
            ("connection", "close"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("authorization", "Bearer a"),
            ("proxy-authorization", "Basic b"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-end", "2"),
            ("trailer", "x-sum"),
        ]);
        strip(&mut all);
        let expected = headers(&[
            ("authorization", "Bearer a"),
            ("proxy-authorization", "Basic b"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-end", "2"),
            ("trailer", "x-sum"),
        ]);
        assert_eq!(all, expected);
    }

    #[test]
    fn a_request_says_that_it_was_handed_on_and_takes_trailers_as_its_client_does() {
        let via = HeaderValue::from_static("1.1 flywheel-a");
        let mut asked = headers(&[("te", "gzip, Trailers"), ("via", "1.0 other")]);
        assert!(!is_ours(&asked, &via));
        make_ours(&mut asked, &via);
        assert_eq!(asked["te"], "trailers");
        assert_eq!(asked["connection"], "te");
        assert_eq!(asked.get_all("via").iter().count(), 2);
        assert!(is_ours(&asked, &via) && !is_ours(&asked, &HeaderValue::from_static("1.1 flywheel-b")));
    }

    #[test]
    fn an_upgrade_is_one_only_when_the_connection_says_so() {
        assert_eq!(upgrade(&headers(&[("upgrade", "websocket")])), None);
        assert_eq!(upgrade(&headers(&[("connection", "upgrade")])), None);
        assert_eq!(upgrade(&headers(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")])), None);
        let asked = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(upgrade(&asked), Some(HeaderValue::from_static("websocket")));
    }
}
