//! A real schema registry that is not ours, and what stands in front of one in a company's network: TLS, a login, a bad day.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{postgres::port_of, runtime};

/// The path of Confluent's API on the server of the tests.
pub const PATH: &str = "/apis/ccompat/v7";

fn script(name: &str, what: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/registry.sh");
    let out = Command::new("sh").arg(script).args([name, what]).output().unwrap();
    assert!(out.status.success(), "registry.sh {name} {what}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// The base address of the registry that tests share.
pub fn shared() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| script("shared", "up"))
}

/// A registry that belongs to one test, which may stop it; its schemas and its port stay.
pub struct Private {
    name: String,
    pub url: String,
}

impl Private {
    pub fn up(purpose: &str) -> Self {
        let name = format!("{purpose}-{}", std::process::id());
        let url = script(&name, "up");
        Self { name, url }
    }

    pub fn again(&self) {
        assert_eq!(script(&self.name, "up"), self.url, "it came back elsewhere");
    }

    /// SIGKILL.
    pub fn kill(&self) {
        script(&self.name, "kill");
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        script(&self.name, "wipe");
    }
}

/// An authority, and the certificates that it signed, as files.
pub struct Authority {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        let authority = Self { directory, issuer };
        authority.sign("localhost", ExtendedKeyUsagePurpose::ServerAuth);
        authority.sign("client", ExtendedKeyUsagePurpose::ClientAuth);
        authority
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let issuer: &Issuer<'_, KeyPair> = &self.issuer;
        let certificate = params.signed_by(&key, issuer).unwrap();
        std::fs::write(self.file(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
        std::fs::write(self.file(&format!("{name}.der")), certificate.der()).unwrap();
        std::fs::write(self.file(&format!("{name}.key.der")), key.serialize_der()).unwrap();
    }

    fn acceptor(&self, clients: Clients) -> TlsAcceptor {
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let read = |name: &str| std::fs::read(self.file(name)).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(read("localhost.key.der")));
        let verifier: Arc<dyn ClientCertVerifier> = match clients {
            Clients::Anybody => WebPkiClientVerifier::no_client_auth(),
            Clients::WithCertificate => {
                let mut roots = RootCertStore::empty();
                roots.add(self.issuer.der().clone()).unwrap();
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&ring))
                    .build()
                    .unwrap()
            }
        };
        let config = ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![read("localhost.der").into()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Whom a gate lets shake hands.
#[derive(Clone, Copy)]
pub enum Clients {
    Anybody,
    WithCertificate,
}

/// What a gate asks of a request.
#[derive(Clone)]
pub struct Rules {
    /// The `authorization` header.
    pub authorization: Option<&'static str>,
    /// How many requests are still answered 503, as a load balancer does while nobody is behind it.
    pub unavailable: Arc<AtomicU32>,
}

impl Rules {
    pub fn none() -> Self {
        Self { authorization: None, unavailable: Arc::default() }
    }
    pub fn login(authorization: &'static str) -> Self {
        Self { authorization: Some(authorization), ..Self::none() }
    }
}

/// Stands before the shared registry and passes on what its rules allow.
pub struct Gate {
    pub port: u16,
    _tasks: JoinSet<()>,
}

impl Gate {
    pub fn open(tls: Option<(&Authority, Clients)>, rules: Rules) -> Self {
        let upstream = port_of(shared());
        let acceptor = tls.map(|(authority, clients)| authority.acceptor(clients));
        runtime().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                let mut connections = JoinSet::new();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (acceptor, rules) = (acceptor.clone(), rules.clone());
                    connections.spawn(async move {
                        match acceptor {
                            None => pass(stream, upstream, &rules).await,
                            // A client that does not believe us, or that we do not believe, is not served.
                            Some(acceptor) => match acceptor.accept(stream).await {
                                Ok(stream) => pass(stream, upstream, &rules).await,
                                Err(_) => None,
                            },
                        }
                    });
                }
            });
            Self { port, _tasks: tasks }
        })
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}{PATH}", self.port)
    }
}

/// Judges the first request of a connection, and passes on all of it or answers and closes.
async fn pass(mut client: impl AsyncRead + AsyncWrite + Unpin, upstream: u16, rules: &Rules) -> Option<()> {
    let mut read = Vec::new();
    while !read.windows(4).any(|w| w == b"\r\n\r\n") {
        if client.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8_lossy(&read).to_lowercase();
    let wanted = rules.authorization.map(|a| format!("\r\nauthorization: {}\r\n", a.to_lowercase()));
    let down =
        rules.unavailable.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
    let refusal = if down {
        Some(("503 Service Unavailable", ""))
    } else if wanted.is_some_and(|wanted| !head.contains(&wanted)) {
        Some(("401 Unauthorized", r#"{"error_code":401,"message":"User is not known"}"#))
    } else {
        None
    };
    if let Some((status, body)) = refusal {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        client.write_all(answer.as_bytes()).await.ok()?;
        return client.shutdown().await.ok();
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream)).await.ok()?;
    server.write_all(&read).await.ok()?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok().map(|_| ())
}
