//! A URL that was understood.

use std::sync::Arc;

use hyper::{Uri, header::HeaderValue};

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// Where requests go.
#[derive(Debug, Clone)]
pub struct Target {
    /// Scheme.
    pub scheme: Scheme,
    /// Without the brackets of an IPv6 address.
    pub host: Arc<str>,
    /// Port; the scheme's own when none was typed.
    pub port: u16,
    /// Host and port as typed.
    pub host_header: HeaderValue,
    /// Path and query; may hold credentials, so it stays out of errors.
    pub path: Arc<str>,
}

impl Target {
    /// Reads a URL such as `example`. `credentials` says where a user and a password belong, which a URL must not hold.
    ///
    /// # Errors
    /// What was expected and what is wrong; never the URL's path or query.
    pub fn parse(text: &str, example: &str, credentials: &str) -> Result<Self, String> {
        let expected = format!("expected a URL such as `{example}`");
        let uri: Uri = text.trim().parse().map_err(|_| format!("{expected}; this is not a valid one"))?;
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::Http,
            Some(other) => {
                return Err(format!("{expected}; the scheme `{other}` is neither http nor https"));
            }
            None => return Err(format!("{expected}; the scheme is missing")),
        };
        let authority = uri.authority().ok_or_else(|| format!("{expected}; the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(format!("must not hold a user or password; put them into {credentials}"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("{expected}; the host is missing"));
        }
        // `Uri` reads a port that is no port as none at all.
        if authority.as_str() != authority.host() && authority.port_u16().is_none_or(|port| port == 0) {
            return Err(format!("{expected}; the port is not a number from 1 to 65535"));
        }
        let port = authority.port_u16().unwrap_or(match scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        });
        let host_header = HeaderValue::from_str(authority.as_str())
            .map_err(|_| format!("{expected}; the host holds characters that HTTP does not allow"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        Ok(Self { scheme, host: host.into(), port, host_header, path: path.into() })
    }

    /// `https://host:port`, for people.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        if self.host.contains(':') {
            format!("{scheme}://[{}]:{}", self.host, self.port)
        } else {
            format!("{scheme}://{}:{}", self.host, self.port)
        }
    }
}
