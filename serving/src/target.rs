//! Where a server is that others run, and what an address becomes there.

use axum::http::Uri;
use axum::http::uri::{Authority, PathAndQuery, Scheme};

/// Where a server is.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    scheme: Scheme,
    authority: Authority,
    /// Stands before every path; without a slash at its end.
    base: String,
}

impl Target {
    /// Reads an address; none when it is not one of a server.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let parts = url.parse::<Uri>().ok()?.into_parts();
        let scheme = parts.scheme.filter(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)?;
        let authority = parts.authority.filter(|authority| !has_user(authority) && !authority.host().is_empty())?;
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.query().is_some() {
            return None;
        }
        Some(Self { scheme, authority, base: path.path().trim_end_matches('/').to_owned() })
    }

    /// Whether it speaks TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The address of what a client asked for, its path and query byte for byte; none when it asked for no path.
    pub(crate) fn uri(&self, asked: &Uri) -> Option<Uri> {
        let asked = asked.path_and_query()?;
        let path = if self.base.is_empty() || asked.as_str() == "*" {
            asked.clone()
        } else {
            format!("{}{asked}", self.base).parse().ok()?
        };
        Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(path).build().ok()
    }
}

/// Whether an address holds credentials.
pub(crate) fn has_user(authority: &Authority) -> bool {
    authority.as_str().contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_stay_as_they_were_written() {
        let uri = |target: &str, asked: &str| {
            Target::parse(target).unwrap().uri(&asked.parse().unwrap()).map(|uri| uri.to_string())
        };
        let asked = "/a%2Fb//c/../d%20e?x=%00&y=1;z&&=";
        assert_eq!(uri("http://up:8080", asked), Some(format!("http://up:8080{asked}")));
        assert_eq!(uri("http://up:8080/", asked), Some(format!("http://up:8080{asked}")));
        assert_eq!(uri("http://up/base/", asked), Some(format!("http://up/base{asked}")));
        assert_eq!(uri("http://up", "http://elsewhere/x?y"), Some("http://up/x?y".to_owned()));
        assert_eq!(uri("http://up", "elsewhere:443"), None);
        assert!(Target::parse("http://up").unwrap().uri(&Uri::from_static("*")).is_some());
    }
}
