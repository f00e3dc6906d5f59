//! Whom we believe, and as whom we speak: authorities and our own certificate.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

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

    /// The authorities of a PEM file only.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn authorities(&mut self, file: &Path) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(file)? {
            roots
                .add(certificate)
                .map_err(|e| format!("`{}` holds an unusable certificate: {e}", file.display()))?;
        }
        self.roots = Some(roots);
        Ok(())
    }

    /// Speaks as the owner of a certificate; both are PEM files.
    ///
    /// # Errors
    /// What is wrong with the chain, or with the key.
    pub fn identity(&mut self, chain: &Path, key: &Path) -> Result<(), String> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_file(key)
            .map_err(|e| format!("can't read a PEM key from `{}`: {}", key.display(), explain(&e)))?;
        self.identity = Some((chain, key));
        Ok(())
    }

    /// The client's side of TLS, for HTTP/1.1.
    pub(crate) fn client(&self) -> Result<ClientConfig, SetupError> {
        let roots = self.roots.clone().unwrap_or_else(system_roots);
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

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable =
        |e: pem::Error| format!("can't read certificates from `{}`: {}", file.display(), explain(&e));
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if found.is_empty() {
        return Err(format!("`{}` holds no PEM certificate", file.display()));
    }
    Ok(found)
}

/// What is wrong, without the bytes that `Display` of some variants shows: they may be of a key.
fn explain(error: &pem::Error) -> String {
    if let pem::Error::Io(error) = error {
        error.to_string()
    } else {
        "it is not the PEM that was expected".to_owned()
    }
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::info!("the system has no certificate authorities, using Mozilla's");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
