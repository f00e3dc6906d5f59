//! Certificates and keys from PEM files, and the machine's trusted roots.
//!
//! Errors name the file and never show its bytes, which may be of a key.

use std::path::Path;

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// What is wrong with the file.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
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

/// The private key of a PEM file.
///
/// # Errors
/// What is wrong with the file.
pub fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file)
        .map_err(|e| format!("can't read a PEM key from `{}`: {}", file.display(), explain(&e)))
}

/// The authorities of a PEM file, and no others.
///
/// # Errors
/// What is wrong with the file.
pub fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|e| format!("`{}` holds an unusable certificate: {e}", file.display()))?;
    }
    Ok(roots)
}

/// The authorities that the machine trusts; Mozilla's where it has none.
#[must_use]
pub fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        tracing::info!("the system has no certificate authorities, using Mozilla's");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn explain(error: &pem::Error) -> String {
    if let pem::Error::Io(error) = error {
        error.to_string()
    } else {
        "it is not the PEM that was expected".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_key_is_named_and_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key.pem");
        for text in ["", "hunter2", "-----BEGIN PRIVATE KEY-----\nhunter2\n", "-----BEGIN hunter2\nx"] {
            std::fs::write(&file, text).unwrap();
            for error in [private_key(&file).unwrap_err(), certificates(&file).unwrap_err()] {
                assert!(error.contains("key.pem"), "{error}");
                assert!(!error.contains("hunter2") && !error.contains("104, 117"), "{error}");
            }
        }
        let missing = directory.path().join("absent.pem");
        assert!(authorities(&missing).unwrap_err().contains("No such file"));
    }
}
