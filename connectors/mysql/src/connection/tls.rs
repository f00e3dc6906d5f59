//! TLS as libpq's `sslmode` means it, expressed in what the client library offers.

use std::path::Path;

use mysql_async::{ClientIdentity, SslOpts};
use rowstream_api::ConnectorError;
use rowstream_tls::{Expiry, TlsConfig, TlsMode, files};

/// `mysql_async` 0.37 skips the check of the host name only for an error whose text holds this word, which rustls' own
/// text never does: it reads `certificate not valid for name "…"`. With this word as the name that is asked for, the text
/// holds it, when and only when the chain is good and nothing but the name is wrong: the chain is checked first. A version
/// with the fix (mysql_async #408) accepts the same certificates by the error's type.
const NAME_FOR_CHAIN_ONLY: &str = "NotValidForName";

/// The client library's options; `None` for `disable`. `expiry` learns when the client's certificate ends; the library does not show
/// the server's.
///
/// # Errors
/// A file that can't be read, named with its field.
pub(super) fn options(tls: &TlsConfig, expiry: &Expiry) -> Result<Option<SslOpts>, ConnectorError> {
    let options = match tls.mode {
        TlsMode::Disable => return Ok(None),
        TlsMode::Prefer | TlsMode::Require => SslOpts::default().with_danger_accept_invalid_certs(true),
        TlsMode::VerifyCa => trusting(tls)?
            .with_danger_skip_domain_validation(true)
            .with_danger_tls_hostname_override(Some(NAME_FOR_CHAIN_ONLY)),
        TlsMode::VerifyFull => trusting(tls)?,
    };
    let identity = match tls.identity()? {
        Some((cert, key)) => {
            // The library reads them again; what is wrong with them is said here, in our words.
            let chain = files::certificates(cert).map_err(|e| refused(format!("tls.cert_file: {e}")))?;
            files::private_key(key).map_err(|e| refused(format!("tls.key_file: {e}")))?;
            expiry.client_shows(&chain);
            Some(ClientIdentity::new(cert.to_owned().into(), key.to_owned().into()))
        }
        None => None,
    };
    Ok(Some(options.with_client_identity(identity)))
}

/// Trusts the given roots, or the machine's, and nothing else.
fn trusting(tls: &TlsConfig) -> Result<SslOpts, ConnectorError> {
    let roots = match &tls.ca_file {
        Some(file) => {
            files::certificates(Path::new(file)).map_err(|e| refused(format!("tls.ca_file: {e}")))?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    if roots.is_empty() {
        return Err(refused("no trusted root certificate was found; set tls.ca_file"));
    }
    let roots = roots.into_iter().map(|cert| cert.to_vec().into()).collect();
    Ok(SslOpts::default().with_root_certs(roots).with_disable_built_in_roots(true))
}

fn refused(what: impl Into<String>) -> ConnectorError {
    ConnectorError::config("TLS_CONFIG", what)
}
