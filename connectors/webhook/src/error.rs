//! Codes and texts of what goes wrong. None repeats a response's body, a header, or the URL's path and query.

use hyper::StatusCode;
use rowstream_api::{ConnectorError, RecordError, Stage};
use rowstream_http::{ConnectFailure, SetupError, Target};

/// A 4xx that no further attempt would change.
pub(crate) fn refused(status: StatusCode) -> RecordError {
    let hint = match status.as_u16() {
        401 | 403 => "; check `headers.authorization` and `signing.secrets`",
        404 | 405 => "; check the path in `url`",
        410 => "; the receiver no longer wants these events",
        413 => "; the record is larger than the receiver allows",
        _ => "",
    };
    RecordError::new(Stage::TaskPut, "HTTP_4XX", format!("the endpoint answered {}{hint}", name(status)))
}

/// A 3xx.
pub(crate) fn redirected(status: StatusCode) -> RecordError {
    RecordError::new(
        Stage::TaskPut,
        "HTTP_3XX",
        format!(
            "the endpoint answered {}; redirects are not followed, put the final address into `url`",
            name(status)
        ),
    )
}

/// A status outside HTTP's classes.
pub(crate) fn not_http(status: StatusCode) -> RecordError {
    RecordError::new(
        Stage::TaskPut,
        "HTTP_STATUS",
        format!("the endpoint answered {}, expected 2xx", status.as_u16()),
    )
}

/// The last allowed attempt failed.
pub(crate) fn retries_exhausted(attempts: u32, last: &str) -> RecordError {
    RecordError::new(
        Stage::TaskPut,
        "HTTP_RETRIES_EXHAUSTED",
        format!("{attempts} attempts failed, the last one: {last}"),
    )
}

/// A header that HTTP can't carry; the plan was checked, so only a bug gets here.
pub(crate) fn unsendable() -> RecordError {
    RecordError::new(Stage::TaskPut, "HTTP_REQUEST", "the request could not be built")
}

/// What preflight says when the endpoint can't be reached.
pub(crate) fn unreachable(target: &Target, failure: ConnectFailure) -> ConnectorError {
    let remedy = match &failure {
        ConnectFailure::Name { .. } => "check the host in `url`, and name resolution on this machine",
        ConnectFailure::Tcp { .. } | ConnectFailure::TimedOut { .. } => {
            "check that the receiver runs, the port in `url`, and firewalls in between"
        }
        ConnectFailure::Tls { .. } => {
            "check the certificate of the host; an authority of your own goes into the system's store, or into \
             the file that SSL_CERT_FILE names"
        }
    };
    ConnectorError::transient("WEBHOOK_UNREACHABLE", format!("connect to {}", target.origin()))
        .remedy(remedy)
        .because(failure)
}

/// What is said when no connection could even be tried.
pub(crate) fn setup(error: SetupError) -> ConnectorError {
    match error {
        SetupError::HostName(_) => ConnectorError::config("WEBHOOK_URL", format!("`url`: {error}")),
        SetupError::Tls(error) => ConnectorError::fatal("WEBHOOK_TLS", "set up TLS").because(error),
    }
}

/// `503 Service Unavailable`: the number and the standard's words, not the receiver's.
pub(crate) fn name(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}
