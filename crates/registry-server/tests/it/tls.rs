//! Certificates: new ones without a restart, and those of clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Method;
use registry_server::{
    AccessRule, Anonymous, AuthScheme, ClaimRule, ClientCertificates, Holder, RegistryOptions,
    Role, TlsFiles,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Fixture;

struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self { certificate, issuer: rcgen::Issuer::new(parameters, key) }
    }

    /// Writes `<name>.pem` and `<name>.key`.
    fn issue(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        self.issue_with(directory, name, |_| {})
    }

    fn issue_with(
        &self,
        directory: &Path,
        name: &str,
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        change(&mut parameters);
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        let (pem, key_pem) =
            (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        std::fs::write(&pem, certificate.pem()).expect("a file");
        std::fs::write(&key_pem, key.serialize_pem()).expect("a file");
        (pem, key_pem)
    }
}

/// A client that trusts an authority, with a certificate of its own perhaps.
async fn connect(
    registry: &Fixture,
    trusted: &Authority,
    own: Option<&(PathBuf, PathBuf)>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.certificate.der().clone()).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate).expect("a file");
            let key = PrivateKeyDer::from_pem_file(key).expect("a key");
            builder
                .with_client_auth_cert(chain.collect::<Result<_, _>>().expect("a chain"), key)
                .expect("a certificate")
        }
    };
    let stream = TcpStream::connect(registry.registry.address()).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The status of a request on a connection, which stays open.
async fn ask(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n").await?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n\r\nok\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        reply.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&reply[9..12]).into_owned())
}

const ANY: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

async fn serving(authority: &Authority, clients: Option<(&Authority, bool)>) -> Fixture {
    serving_with(authority, clients, |_| {}).await
}

async fn serving_with(
    authority: &Authority,
    clients: Option<(&Authority, bool)>,
    change: impl FnOnce(&mut RegistryOptions),
) -> Fixture {
    Fixture::with(|options, directory| {
        change(options);
        let (certificate, key) = authority.issue(directory, "server");
        let clients = clients.map(|(clients, required)| {
            let authorities = directory.join("clients.pem");
            std::fs::write(&authorities, clients.certificate.pem()).expect("a file");
            ClientCertificates { authorities, required }
        });
        options.tls = Some(TlsFiles { certificate, key, clients });
    })
    .await
}

/// Section 10, row 22: a certificate needs no restart.
#[tokio::test]
async fn new_certificates_count_at_once_and_old_connections_live_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let registry = serving(&old, None).await;
    let directory = registry.directory.as_ref().expect("a directory").path().to_owned();
    let mut before = connect(&registry, &old, None, &ANY).await.expect("a connection");
    assert_eq!(ask(&mut before).await.expect("an answer"), "200");
    assert!(!registry.registry.refresh_certificates().expect("nothing new"));

    new.issue(&directory, "server");
    assert!(registry.registry.refresh_certificates().expect("new files"));
    assert!(connect(&registry, &old, None, &ANY).await.is_err(), "the old one is gone");
    let mut after = connect(&registry, &new, None, &ANY).await.expect("a connection");
    assert_eq!(ask(&mut after).await.expect("an answer"), "200");
    assert_eq!(ask(&mut before).await.expect("an answer"), "200", "connections live on");

    std::fs::write(directory.join("server.pem"), "garbage").expect("a file");
    let error = registry.registry.refresh_certificates().expect_err("garbage").to_string();
    assert!(error.contains("server.pem"), "{error}");
    assert!(!registry.registry.refresh_certificates().expect("told once"));
    let mut still = connect(&registry, &new, None, &ANY).await.expect("the last good one");
    assert_eq!(ask(&mut still).await.expect("an answer"), "200");
}

#[tokio::test]
async fn clients_need_a_certificate_where_one_is_required() {
    let (server, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let directory = tempfile::tempdir().expect("a directory");
    let own = clients.issue(directory.path(), "client");
    let strange = strangers.issue(directory.path(), "stranger");
    for (required, with, expected) in [
        (true, None, false),
        (true, Some(&own), true),
        (true, Some(&strange), false),
        (false, None, true),
        (false, Some(&own), true),
        (false, Some(&strange), false),
    ] {
        let registry = serving(&server, Some((&clients, required))).await;
        for version in ANY {
            // With TLS 1.3 a client learns only after the handshake that it was refused.
            let answered = match connect(&registry, &server, with, &[version]).await {
                Ok(mut stream) => ask(&mut stream).await.is_ok(),
                Err(_) => false,
            };
            assert_eq!(answered, expected, "{required} {with:?} {version:?}");
        }
    }
}

/// Status and body of a request of its own connection; nothing if the handshake was refused.
async fn request(
    registry: &Fixture,
    trusted: &Authority,
    own: Option<&(PathBuf, PathBuf)>,
    (method, path, authorization): (&Method, &str, &str),
) -> Option<(u16, String)> {
    let mut stream = connect(registry, trusted, own, &ANY).await.ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Length: 0\r\n\
         {authorization}\r\n"
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.ok()?;
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let (head, body) = reply.split_once("\r\n\r\n")?;
    Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
}

/// The names of a client certificate.
fn named(common_name: &str, uri: Option<&str>) -> impl FnOnce(&mut rcgen::CertificateParams) {
    move |parameters| {
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        let uri = uri.map(|uri| rcgen::SanType::URI(uri.try_into().expect("ASCII")));
        parameters.subject_alt_names.extend(uri);
    }
}

/// Row 43 of the feature matrix, from the handshake to the rights.
#[tokio::test]
async fn a_client_certificate_stands_for_whom_the_configuration_says() {
    const SPIFFE: &str = "spiffe://cluster.example/ns/ci/sa/builder";
    let (server, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let node = clients.issue_with(directory, "node", named("node-1", None));
    let workload = clients.issue_with(directory, "workload", named("any", Some(SPIFFE)));
    let unknown = clients.issue_with(directory, "unknown", named("somebody", None));
    // The same name, signed by somebody else.
    let stranger = strangers.issue_with(directory, "stranger", named("node-1", Some(SPIFFE)));
    let claim_rule = |claim: &str, pattern: &str, principal: Option<&str>| ClaimRule {
        claims: [(claim.to_owned(), pattern.to_owned())].into(),
        principal: principal.map(str::to_owned),
        groups: vec!["machines".to_owned()],
        groups_claim: None,
    };
    let access_rule =
        |prefix: &str, holder, role| AccessRule { prefix: prefix.to_owned(), holder, role };
    for scheme in [AuthScheme::Basic, AuthScheme::Bearer] {
        let registry = serving_with(&server, Some((&clients, false)), |options| {
            options.scheme = scheme;
            options.anonymous = Anonymous::Nothing;
            options.identity.certificates = vec![
                claim_rule("cn", "node-*", Some("{cn}")),
                claim_rule("uri", "spiffe://cluster.example/ns/ci/sa/*", None),
            ];
            options.access = vec![
                access_rule("nodes", Holder::User("cert:node-1".to_owned()), Role::Push),
                access_rule("ci", Holder::User(format!("cert:{SPIFFE}")), Role::Push),
                access_rule("base", Holder::Group("machines".to_owned()), Role::Push),
            ];
        })
        .await;
        let begin = |own, repository: &str| {
            let path = format!("/v2/{repository}/blobs/uploads/");
            let (registry, server) = (&registry, &server);
            async move {
                let asked = (&Method::POST, path.as_str(), "");
                request(registry, server, own, asked).await.map(|(status, _)| status)
            }
        };
        for (own, nodes, ci, base) in [
            (Some(&node), Some(202), Some(403), Some(202)),
            (Some(&workload), Some(403), Some(202), Some(202)),
            (Some(&unknown), Some(401), Some(401), Some(401)),
            (None, Some(401), Some(401), Some(401)),
            (Some(&stranger), None, None, None),
        ] {
            let found = [
                begin(own, "nodes/app").await,
                begin(own, "ci/app").await,
                begin(own, "base/app").await,
            ];
            assert_eq!(found, [nodes, ci, base], "{scheme:?} {own:?}");
        }
    }
    // A token for the certificate works without it.
    let registry = serving_with(&server, Some((&clients, false)), |options| {
        options.scheme = AuthScheme::Bearer;
        options.anonymous = Anonymous::Nothing;
        options.identity.certificates = vec![claim_rule("cn", "node-*", Some("{cn}"))];
        let holder = Holder::User("cert:node-1".to_owned());
        options.access = vec![access_rule("nodes", holder, Role::Push)];
    })
    .await;
    let path = "/auth/token?service=shipway-registry&scope=repository:nodes/app:push";
    for (own, status) in [(Some(&node), 202), (None, 401)] {
        let issued = request(&registry, &server, own, (&Method::GET, path, "")).await;
        let (_, body) = issued.expect("an answer");
        let reply: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let token = reply["token"].as_str().unwrap_or_default();
        let bearer = format!("Authorization: Bearer {token}\r\n");
        let asked = (&Method::POST, "/v2/nodes/app/blobs/uploads/", bearer.as_str());
        let begun = request(&registry, &server, None, asked).await;
        assert_eq!(begun.map(|(status, _)| status), Some(status));
    }
}
