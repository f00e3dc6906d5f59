//! TLS as libpq's `sslmode` means it, expressed in what the client library offers.

use mysql_async::{ClientIdentity, SslOpts};
use rowstream_api::ConnectorError;
use serde::Deserialize;

/// How far the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS when the server offers it, unchecked.
    #[default]
    Prefer,
    /// TLS, certificate unchecked.
    Require,
    /// TLS, certificate must chain to a trusted root.
    VerifyCa,
    /// TLS, certificate must also name the host.
    VerifyFull,
}

/// The `tls` block of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct TlsConfig {
    /// Mode.
    #[serde(default)]
    pub mode: TlsMode,
    /// PEM file of trusted roots; the machine's roots when absent.
    pub ca_file: Option<String>,
    /// PEM file of the client's certificate chain.
    pub cert_file: Option<String>,
    /// PEM file of the client's key.
    pub key_file: Option<String>,
}

/// `mysql_async` 0.37 skips the check of the host name only for an error whose text holds this word, which rustls' own
/// text never does: it reads `certificate not valid for name "…"`. With this word as the name that is asked for, the text
/// holds it, when and only when the chain is good and nothing but the name is wrong: the chain is checked first. A version
/// with the fix (mysql_async #408) accepts the same certificates by the error's type.
const NAME_FOR_CHAIN_ONLY: &str = "NotValidForName";

/// The client library's options; `None` for `disable`.
///
/// # Errors
/// A file that can't be read, named with its field.
pub(super) fn options(tls: &TlsConfig) -> Result<Option<SslOpts>, ConnectorError> {
    let options = match tls.mode {
        TlsMode::Disable => return Ok(None),
        TlsMode::Prefer | TlsMode::Require => SslOpts::default().with_danger_accept_invalid_certs(true),
        TlsMode::VerifyCa => trusting(tls)?
            .with_danger_skip_domain_validation(true)
            .with_danger_tls_hostname_override(Some(NAME_FOR_CHAIN_ONLY)),
        TlsMode::VerifyFull => trusting(tls)?,
    };
    let identity = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => {
            Some(ClientIdentity::new(read("tls.cert_file", cert)?.into(), read("tls.key_file", key)?.into()))
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(ConnectorError::config(
                "TLS_CONFIG",
                "tls.cert_file and tls.key_file belong together: give both or neither",
            ));
        }
    };
    Ok(Some(options.with_client_identity(identity)))
}

/// Trusts the given roots, or the machine's, and nothing else.
fn trusting(tls: &TlsConfig) -> Result<SslOpts, ConnectorError> {
    let roots = match &tls.ca_file {
        Some(file) => vec![read("tls.ca_file", file)?.into()],
        None => {
            let certs = rustls_native_certs::load_native_certs().certs;
            certs.into_iter().map(|cert| cert.to_vec().into()).collect()
        }
    };
    if roots.is_empty() {
        return Err(ConnectorError::config(
            "TLS_CONFIG",
            "no trusted root certificate was found; set tls.ca_file",
        ));
    }
    Ok(SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true))
}

fn read(field: &str, file: &str) -> Result<Vec<u8>, ConnectorError> {
    let text = std::fs::read(file).map_err(|error| {
        ConnectorError::config("TLS_CONFIG", format!("{field}: can't read `{file}`")).because(error)
    })?;
    if text.windows(11).any(|window| window == b"-----BEGIN ") {
        return Ok(text);
    }
    Err(ConnectorError::config("TLS_CONFIG", format!("{field}: `{file}` holds nothing in PEM form")))
}
