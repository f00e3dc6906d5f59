//! TLS to databases as libpq's `sslmode` means it, for every connector: `disable`, `prefer` and `require` (encrypted, whoever
//! answers), `verify-ca` (the certificate chains to a trusted root), `verify-full` (and names the host).
//!
//! In reading order: [`TlsConfig`] is the `tls` block of a connection, [`client_config`] makes rustls' settings of it, [`Expiry`]
//! knows when the certificates end, [`files`] reads them.

pub mod expiry;
pub mod files;
mod verify;

use std::{path::Path, sync::Arc};

use rowstream_api::ConnectorError;
use rustls::{
    ClientConfig, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
};
use serde::Deserialize;

pub use expiry::Expiry;
use verify::{AnyName, Unchecked};

/// How far the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS when the server offers it, unchecked; libpq's default.
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

/// Builds the rustls configuration; `None` for `disable`. `expiry` learns when the certificates end.
///
/// # Errors
/// A file that can't be read or holds no PEM, named with its field.
pub fn client_config(tls: &TlsConfig, expiry: &Expiry) -> Result<Option<Arc<ClientConfig>>, ConnectorError> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match tls.mode {
        TlsMode::Disable => return Ok(None),
        TlsMode::Prefer | TlsMode::Require => Arc::new(Unchecked { provider: Arc::clone(&provider) }),
        TlsMode::VerifyCa => expiry.watching(Arc::new(AnyName { inner: web_pki(tls, &provider)? })),
        TlsMode::VerifyFull => expiry.watching(web_pki(tls, &provider)?),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| refused("TLS versions").because(e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match tls.identity()? {
        Some((cert, key)) => {
            let chain = files::certificates(cert).map_err(|e| refused(format!("tls.cert_file: {e}")))?;
            let key = files::private_key(key).map_err(|e| refused(format!("tls.key_file: {e}")))?;
            expiry.client_shows(&chain);
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| refused("tls.cert_file and tls.key_file").because(e))?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Some(Arc::new(config)))
}

impl TlsConfig {
    /// The files of the client's certificate chain and key.
    ///
    /// # Errors
    /// One is given without the other.
    pub fn identity(&self) -> Result<Option<(&Path, &Path)>, ConnectorError> {
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => Ok(Some((Path::new(cert), Path::new(key)))),
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => {
                Err(refused("tls.cert_file and tls.key_file belong together: give both or neither"))
            }
        }
    }

    /// The roots that `verify-ca` and `verify-full` trust.
    ///
    /// # Errors
    /// What is wrong with `ca_file`.
    pub fn roots(&self) -> Result<RootCertStore, ConnectorError> {
        match &self.ca_file {
            Some(file) => {
                files::authorities(Path::new(file)).map_err(|e| refused(format!("tls.ca_file: {e}")))
            }
            None => Ok(files::system_roots()),
        }
    }
}

fn web_pki(
    tls: &TlsConfig,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, ConnectorError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(tls.roots()?), Arc::clone(provider))
        .build()
        .map_err(|e| refused("no trusted root certificate was found; set tls.ca_file").because(e))
}

fn refused(what: impl Into<String>) -> ConnectorError {
    ConnectorError::config("TLS_CONFIG", what)
}
