//! Whom we believe, and as whom we speak: authorities and our own certificate.

use std::{path::Path, sync::Arc};

use rowstream_api::ConfigErrors;
use rowstream_tls::files;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde::Deserialize;

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No certificate can name this host.
    #[error("`{0}` is not a host name that a certificate can hold")]
    HostName(Arc<str>),
    /// What rustls says.
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The `tls` block of who speaks HTTPS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TrustConfig {
    /// PEM file of trusted authorities; the system's when absent.
    pub ca_file: Option<String>,
    /// PEM file of our certificate chain.
    pub cert_file: Option<String>,
    /// PEM file of its key.
    pub key_file: Option<String>,
}

impl TrustConfig {
    /// Reads the files. `block` is where the settings stand, such as `tls`; problems are named with it.
    pub fn read(&self, block: &str, errors: &mut ConfigErrors) -> Trust {
        let mut trust = Trust::default();
        if let Some(file) = &self.ca_file {
            trust.roots = errors.take(&format!("{block}.ca_file"), files::authorities(Path::new(file)));
        }
        match (&self.cert_file, &self.key_file) {
            (Some(chain), Some(key)) => {
                let chain = errors.take(&format!("{block}.cert_file"), files::certificates(Path::new(chain)));
                let key = errors.take(&format!("{block}.key_file"), files::private_key(Path::new(key)));
                trust.identity = chain.zip(key);
            }
            (None, None) => {}
            (Some(_), None) => errors.push(format!("{block}.key_file"), "is required with `cert_file`"),
            (None, Some(_)) => errors.push(format!("{block}.cert_file"), "is required with `key_file`"),
        }
        trust
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whom to believe, and as whom to speak. The default believes the system's authorities and has no certificate.
#[derive(Debug, Default)]
pub struct Trust {
    roots: Option<RootCertStore>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Trust {
    /// These authorities only.
    #[must_use]
    pub fn only(roots: RootCertStore) -> Self {
        Self { roots: Some(roots), identity: None }
    }

    /// The client's side of TLS, for HTTP/1.1.
    pub(crate) fn client(&self) -> Result<ClientConfig, SetupError> {
        let roots = self.roots.clone().unwrap_or_else(files::system_roots);
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}
