//! When the certificates that a connection depends on end, so that somebody is told before it is refused.
//!
//! Noted are the server's chain, as shown at the newest handshake that checked it, and the client's own chain, as read for the
//! newest connection. Roots are not: a bundle holds many that this connection does not need.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use rowstream_api::Gauges;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use x509_cert::{Certificate, der::Decode};

/// Seconds since the epoch at which the chains end. Cheap to clone; clones share what they know.
#[derive(Debug, Clone, Default)]
pub struct Expiry(Arc<Chains>);

/// 0 stands for a chain that is not known.
#[derive(Debug, Default)]
struct Chains {
    server: AtomicI64,
    client: AtomicI64,
}

impl Expiry {
    /// The earliest end, in seconds since the epoch; `None` without certificates.
    #[must_use]
    pub fn earliest(&self) -> Option<i64> {
        [&self.0.server, &self.0.client]
            .map(|end| end.load(Ordering::Relaxed))
            .into_iter()
            .filter(|e| *e != 0)
            .min()
    }

    /// Sets the gauge, if there is something to say.
    pub fn publish(&self, gauges: &Gauges) {
        if let Some(seconds) = self.earliest() {
            #[expect(
                clippy::cast_precision_loss,
                reason = "seconds since the epoch fit the 53 bits of a double"
            )]
            gauges.set("tls_certificate_expiry_timestamp_seconds", seconds as f64);
        }
    }

    /// The client's chain, as it will be shown.
    pub fn client_shows(&self, chain: &[CertificateDer<'_>]) {
        self.0.client.store(end_of(chain), Ordering::Relaxed);
    }

    /// A verifier that judges as `inner` does and notes the server's chain when it passes.
    pub(crate) fn watching(&self, inner: Arc<dyn ServerCertVerifier>) -> Arc<dyn ServerCertVerifier> {
        Arc::new(Watching { inner, expiry: self.clone() })
    }
}

/// The earliest end in a chain; a certificate that can't be read says nothing.
fn end_of(chain: &[CertificateDer<'_>]) -> i64 {
    let ends = chain.iter().filter_map(|der| {
        let validity = Certificate::from_der(der).ok()?.tbs_certificate.validity;
        i64::try_from(validity.not_after.to_unix_duration().as_secs()).ok()
    });
    ends.min().unwrap_or(0)
}

#[derive(Debug)]
struct Watching {
    inner: Arc<dyn ServerCertVerifier>,
    expiry: Expiry,
}

impl ServerCertVerifier for Watching {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now)?;
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).cloned().collect();
        self.expiry.0.server.store(end_of(&chain), Ordering::Relaxed);
        Ok(verified)
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
    use rustls::{
        CertificateError, ClientConnection, ServerConfig, ServerConnection, crypto::ring,
        pki_types::PrivateKeyDer,
    };

    use super::*;
    use crate::{TlsConfig, TlsMode, client_config};

    /// 2031-02-03, in seconds since the epoch.
    const END: i64 = 1_927_843_200;

    fn certificate(year: i32) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["db.internal".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 2, 3);
        (params.self_signed(&key).unwrap(), key)
    }

    #[derive(Debug)]
    struct Says(bool);

    impl ServerCertVerifier for Says {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            if self.0 {
                Ok(ServerCertVerified::assertion())
            } else {
                Err(CertificateError::UnknownIssuer.into())
            }
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            Vec::new()
        }
    }

    fn shake(expiry: &Expiry, good: bool, chain: &[i32]) -> bool {
        let chain: Vec<_> = chain.iter().map(|year| certificate(*year).0.der().clone()).collect();
        let (leaf, rest) = chain.split_first().unwrap();
        let name = ServerName::try_from("db.internal").unwrap();
        let verifier = expiry.watching(Arc::new(Says(good)));
        verifier.verify_server_cert(leaf, rest, &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn the_newest_accepted_chain_counts_with_its_earliest_end() {
        let expiry = Expiry::default();
        assert_eq!(expiry.earliest(), None);
        assert!(shake(&expiry, true, &[2033, 2031]));
        assert_eq!(expiry.earliest(), Some(END));
        assert!(!shake(&expiry, false, &[2030]), "the verdict is the inner verifier's");
        assert_eq!(expiry.earliest(), Some(END), "a refused chain is not the server's");
        assert!(shake(&expiry.clone(), true, &[2033]));
        assert!(expiry.earliest() > Some(END), "a renewed certificate ends the alarm");
        expiry.client_shows(&[CertificateDer::from(vec![1, 2, 3])]);
        assert!(expiry.earliest() > Some(END), "what can't be read says nothing");
    }

    /// A whole handshake in memory, with a server whose certificate ends in 2031.
    fn handshake(mode: TlsMode) -> Expiry {
        let mut root = CertificateParams::new(Vec::new()).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["db.internal".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2031, 2, 3);
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();

        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, issuer.pem()).unwrap();
        let ca_file = Some(ca_file.to_str().unwrap().to_owned());
        let expiry = Expiry::default();
        let client = client_config(&TlsConfig { mode, ca_file, ..TlsConfig::default() }, &expiry);
        let name = ServerName::try_from("db.internal").unwrap();
        let mut client = ClientConnection::new(client.unwrap().unwrap(), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        expiry
    }

    #[test]
    fn a_handshake_that_checks_the_server_tells_when_its_certificate_ends() {
        assert_eq!(handshake(TlsMode::VerifyFull).earliest(), Some(END));
        assert_eq!(handshake(TlsMode::VerifyCa).earliest(), Some(END));
        assert_eq!(handshake(TlsMode::Require).earliest(), None, "nobody minds when it is not checked");
    }

    #[test]
    fn the_client_certificate_becomes_a_gauge() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = certificate(2031);
        let file = |name: &str, text: String| {
            std::fs::write(directory.path().join(name), text).unwrap();
            Some(directory.path().join(name).to_str().unwrap().to_owned())
        };
        let config = TlsConfig {
            mode: TlsMode::Require,
            ca_file: None,
            cert_file: file("cert.pem", certificate.pem()),
            key_file: file("key.pem", key.serialize_pem()),
        };
        let (expiry, gauges) = (Expiry::default(), Gauges::default());
        expiry.publish(&gauges);
        assert!(gauges.values().is_empty());
        client_config(&config, &expiry).unwrap().unwrap();
        expiry.publish(&gauges);
        #[expect(clippy::cast_precision_loss, reason = "as above")]
        let end = END as f64;
        assert_eq!(gauges.values(), [("tls_certificate_expiry_timestamp_seconds", end)]);
    }
}
