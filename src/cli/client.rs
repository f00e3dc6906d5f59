//! The commands' way to a running daemon: plain HTTP to its admin address, one connection a request.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Uri, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::exit::Failure;
pub(super) use crate::schema_registry::path_segment as segment;

/// A daemon on this machine accepts at once; one behind a network needs a moment.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The daemon itself gives up after 90 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(100);
/// No answer of the API that is read whole comes near this.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Where the daemon is, and how to print.
#[derive(Debug, Clone, Args)]
pub(super) struct Remote {
    /// Admin address of the daemon
    #[arg(long, env = "ROWSTREAM_URL", default_value = "http://127.0.0.1:8083", value_name = "URL")]
    pub(super) url: String,
    /// Print the daemon's JSON instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

/// A daemon.
#[derive(Debug)]
pub(super) struct Client {
    url: String,
    host: String,
    port: u16,
    base: String,
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    body: Incoming,
    /// Drives the connection for as long as the answer is read.
    _connection: JoinSet<()>,
}

impl Client {
    /// A client of the daemon at `--url`.
    ///
    /// # Errors
    /// It is no `http://` URL.
    pub(super) fn new(remote: &Remote) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::Failed(format!("--url {}: {why}, expected e.g. http://127.0.0.1:8083", remote.url))
        };
        let uri: Uri = remote.url.parse().map_err(|_| wrong("is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only plain http is spoken"));
        }
        let host = uri.host().ok_or_else(|| wrong("has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let base = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { url: remote.url.clone(), host, port: uri.port_u16().unwrap_or(80), base })
    }

    /// GETs JSON.
    ///
    /// # Errors
    /// Nobody answers, or the daemon's refusal.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, None).await
    }

    /// Sends a request and reads the answer; `Null` when it has no body.
    ///
    /// # Errors
    /// Nobody answers, or the daemon's refusal.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let exchange = async {
            let answer = self.send(method, path, body).await?;
            let body = Limited::new(answer.body, ANSWER_BYTES_MAX).collect().await;
            let broken = |e| Failure::Failed(format!("read the answer of {}{path}: {e}", self.url));
            body.map(|body| body.to_bytes()).map_err(broken)
        };
        let bytes = timeout(ANSWER_WITHIN, exchange).await.map_err(|_| {
            Failure::Unavailable(format!("{} has not answered within {ANSWER_WITHIN:?}", self.url))
        })??;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|e| {
            Failure::Failed(format!("{}{path} did not answer with JSON, is it a Rowstream? {e}", self.url))
        })
    }

    /// Sends a request; the answer is a success, its body still to be read.
    ///
    /// # Errors
    /// Nobody answers, or the daemon's refusal.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Failure> {
        let unavailable = |why: &dyn std::fmt::Display| {
            Failure::Unavailable(format!(
                "no daemon answers at {}: {why}; is it running? (--url, ROWSTREAM_URL)",
                self.url
            ))
        };
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let stream = timeout(CONNECT_WITHIN, connect)
            .await
            .map_err(|_| unavailable(&format_args!("no connection within {CONNECT_WITHIN:?}")))?
            .map_err(|e| unavailable(&e))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| unavailable(&e))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // What goes wrong on the connection is told to whoever waits for the answer.
            drop(connection.await);
        });
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("host", format!("{host}:{}", self.port))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
            .map_err(|e| Failure::Failed(format!("{path}: {e}")))?;
        let response = sender.send_request(request).await.map_err(|e| unavailable(&e))?;
        let status = response.status();
        let mut body = response.into_body();
        if status.is_success() || status.as_u16() == 503 && path.starts_with("/readyz") {
            return Ok(Answer { body, _connection: driver });
        }
        let text = Limited::new(&mut body, ANSWER_BYTES_MAX)
            .collect()
            .await
            .map(|b| b.to_bytes())
            .unwrap_or_default();
        let message = serde_json::from_slice::<Value>(&text)
            .ok()
            .and_then(|v| v.get("message").and_then(Value::as_str).map(ToOwned::to_owned));
        Err(Failure::Failed(message.unwrap_or_else(|| format!("{}{path} answered {status}", self.url))))
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame
                .map_err(|e| Failure::Unavailable(format!("the connection to the daemon broke: {e}")))?;
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

/// A text member of an answer; empty when it is not there.
#[must_use]
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The members of a list; none when it is no list.
#[must_use]
pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Result<Client, Failure> {
        Client::new(&Remote { url: url.into(), json: false })
    }

    #[test]
    fn urls_are_read_or_explained() {
        let client = |url| super::tests::client(url).map(|c| (c.host, c.port, c.base));
        assert_eq!(client("http://db:8083/").unwrap(), ("db".into(), 8083, String::new()));
        assert_eq!(client("http://[::1]:1/rowstream/").unwrap(), ("::1".into(), 1, "/rowstream".into()));
        assert!(client("https://db").unwrap_err().to_string().contains("only plain http"));
        assert!(client("db:8083").is_err());
    }

    #[test]
    fn any_name_is_one_segment() {
        assert_eq!(segment("shop.public-1_a~"), "shop.public-1_a~");
        assert_eq!(segment("a/b?c ü"), "a%2Fb%3Fc%20%C3%BC");
    }
}
