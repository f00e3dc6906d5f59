//! TLS of the binlog connection, as `connection.tls.mode` means it: `disable`, `require` (encrypted, whoever answers), `verify-ca` (the certificate
//! chains to a trusted root), `verify-full` (and names the host).

use std::{path::Path, sync::Arc};

use rowstream_api::ConnectorError;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use crate::connection::{TlsConfig, TlsMode};

/// Builds the rustls configuration; `None` for `disable`.
///
/// # Errors
/// A file that can't be read or holds no PEM, named with its field.
pub fn client_config(tls: &TlsConfig) -> Result<Option<Arc<ClientConfig>>, ConnectorError> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match tls.mode {
        TlsMode::Disable => return Ok(None),
        TlsMode::Prefer | TlsMode::Require => Arc::new(Unchecked { provider: Arc::clone(&provider) }),
        TlsMode::VerifyCa => Arc::new(AnyName { inner: web_pki(tls, &provider)? }),
        TlsMode::VerifyFull => web_pki(tls, &provider)?,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ConnectorError::config("TLS_CONFIG", "TLS versions").because(e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates("tls.cert_file", cert)?, private_key("tls.key_file", key)?)
            .map_err(|e| ConnectorError::config("TLS_CONFIG", "tls.cert_file and tls.key_file").because(e))?,
        (None, None) => builder.with_no_client_auth(),
        (Some(_), None) | (None, Some(_)) => {
            return Err(ConnectorError::config(
                "TLS_CONFIG",
                "tls.cert_file and tls.key_file belong together: give both or neither",
            ));
        }
    };
    Ok(Some(Arc::new(config)))
}

fn web_pki(
    tls: &TlsConfig,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, ConnectorError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &tls.ca_file {
        for cert in certificates("tls.ca_file", file)? {
            roots.add(cert).map_err(|e| {
                ConnectorError::config(
                    "TLS_CONFIG",
                    format!("tls.ca_file: `{file}` holds an unusable certificate"),
                )
                .because(e)
            })?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build().map_err(|e| {
        ConnectorError::config("TLS_CONFIG", "no trusted root certificate was found; set tls.ca_file")
            .because(e)
    })
}

fn certificates(field: &str, file: &str) -> Result<Vec<CertificateDer<'static>>, ConnectorError> {
    let unreadable = |e| {
        ConnectorError::config("TLS_CONFIG", format!("{field}: can't read certificates from `{file}`"))
            .because(e)
    };
    let certs: Vec<_> = CertificateDer::pem_file_iter(Path::new(file))
        .map_err(|e| unreadable(format!("{e:?}")))?
        .collect::<Result<_, _>>()
        .map_err(|e| unreadable(format!("{e:?}")))?;
    if certs.is_empty() {
        return Err(ConnectorError::config(
            "TLS_CONFIG",
            format!("{field}: `{file}` holds no PEM certificate"),
        ));
    }
    Ok(certs)
}

fn private_key(field: &str, file: &str) -> Result<PrivateKeyDer<'static>, ConnectorError> {
    PrivateKeyDer::from_pem_file(Path::new(file)).map_err(|e| {
        ConnectorError::config("TLS_CONFIG", format!("{field}: can't read a PEM key from `{file}`"))
            .because(format!("{e:?}"))
    })
}

/// `require`: any certificate will do, but the handshake must be genuine.
#[derive(Debug)]
struct Unchecked {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `verify-ca`: everything that `verify-full` checks, but a certificate for another host is accepted.
#[derive(Debug)]
struct AnyName {
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // webpki checks the chain before the name, so a name error proves that the chain is good.
        match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::NotValidForName
                | rustls::CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
