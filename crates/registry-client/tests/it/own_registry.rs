//! Our own registry as the other side: tokens, TLS, rights per repository.

use credentials::{RegistryAuth, Secret};
use registry_client::{
    Client, ClientCertificate, ClientOptions, CopyOptions, Fallback, HostTls, Mirror, Platforms,
    Progress, ProgressEvent, PushOptions, RegistryErrorKind,
};
use registry_server::{
    AccessRule, Anonymous, AuthScheme, Holder, RegistryOptions, RegistryServer, Role, Running,
    TlsFiles, add_user,
};

use crate::images::{client, image, index, reference, store};
use crate::transfer::pull_options;

struct Own {
    running: Running,
    _place: tempfile::TempDir,
}

impl Own {
    async fn start(change: impl FnOnce(&mut RegistryOptions)) -> Self {
        let (place, blobs) = store();
        let users = place.path().join("users");
        for name in ["ada", "bob"] {
            add_user(&users, name, "pw").unwrap();
        }
        let mut options = RegistryOptions::new(place.path().join("registry"), blobs);
        options.users = Some(users);
        options.anonymous = Anonymous::Nothing;
        change(&mut options);
        let running = RegistryServer::bind(options).await.unwrap();
        Self { running, _place: place }
    }

    fn address(&self) -> String {
        self.running.address().to_string()
    }
}

fn user(name: &str) -> [RegistryAuth; 1] {
    [RegistryAuth::basic(name, Secret::new("pw"))]
}

#[tokio::test(flavor = "multi_thread")]
async fn image_goes_there_and_back_with_either_scheme() {
    for scheme in [AuthScheme::Basic, AuthScheme::Bearer] {
        let own = Own::start(|options| options.scheme = scheme).await;
        let content: Vec<u8> = (0..2_000_000u32).map(|at| (at % 251) as u8).collect();
        let source = image(&content);
        let (_from, from) = store();
        source.put(&from);
        let (client, none) = (client(), Progress::none());
        let name = reference(&own.address(), "team/app:1");
        client.ping(&own.address(), Some(&user("ada")[0])).await.unwrap();
        let options = PushOptions::default();
        client.push(&name, &source.manifest, &user("ada"), &from, &options, &none).await.unwrap();
        let (_into, into) = store();
        client.pull(&name, &user("ada"), &into, &pull_options(), &none).await.unwrap();
        assert!(into.read(&source.layer, 1 << 30).unwrap() == content);
        let wrong = [RegistryAuth::basic("ada", Secret::new("wrong"))];
        for auths in [&wrong[..], &[]] {
            let error = client.fetch_manifest(&name, auths).await.unwrap_err();
            assert!(matches!(error.kind(), RegistryErrorKind::Unauthorized { .. }), "{error}");
        }
        // Anonymous tokens open `/v2/` itself; a wrong password does not.
        let error = client.ping(&own.address(), Some(&wrong[0])).await.unwrap_err();
        assert!(matches!(error.kind(), RegistryErrorKind::Unauthorized { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_of_a_loopback_registry_is_not_checked() {
    let own = Own::start(|options| {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["somewhere.example".to_owned()]);
        let certificate = parameters.unwrap().self_signed(&key).unwrap();
        let place = options.directory.parent().unwrap().to_owned();
        let tls = TlsFiles {
            certificate: place.join("cert.pem"),
            key: place.join("key.pem"),
            clients: None,
        };
        std::fs::write(&tls.certificate, certificate.pem()).unwrap();
        std::fs::write(&tls.key, key.serialize_pem()).unwrap();
        options.tls = Some(tls);
    })
    .await;
    let source = image(b"layer");
    let (_from, from) = store();
    source.put(&from);
    let name = reference(&own.address(), "a/b:1");
    let (options, none) = (PushOptions::default(), Progress::none());
    client().push(&name, &source.manifest, &user("ada"), &from, &options, &none).await.unwrap();
    client().fetch_manifest(&name, &user("ada")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credential_that_may_is_found_among_several() {
    let own = Own::start(|options| {
        options.scheme = AuthScheme::Bearer;
        let right = |role| AccessRule {
            prefix: "ada".to_owned(),
            holder: Holder::User("ada".to_owned()),
            role,
        };
        options.access = vec![right(Role::Pull), right(Role::Push)];
    })
    .await;
    let source = image(b"layer");
    let (_from, from) = store();
    source.put(&from);
    let (client, none) = (client(), Progress::none());
    let name = reference(&own.address(), "ada/app:1");
    let options = PushOptions::default();
    client.push(&name, &source.manifest, &user("ada"), &from, &options, &none).await.unwrap();
    let error = client.fetch_manifest(&name, &user("bob")).await.unwrap_err();
    assert!(error.is_access_failure(), "{error}");
    let both = [user("bob"), user("ada")].concat();
    let (_into, into) = store();
    let pulled = client.pull(&name, &both, &into, &pull_options(), &none).await.unwrap();
    assert_eq!(pulled.credential, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_inside_one_registry_mounts_every_blob() {
    let own = Own::start(|options| options.scheme = AuthScheme::Bearer).await;
    let (amd, arm) = (image(b"amd"), image(b"arm"));
    let list = index(&[("linux/amd64", &amd), ("linux/arm64", &arm)]);
    let (_from, from) = store();
    amd.put(&from);
    arm.put(&from);
    from.put(list.bytes()).unwrap();
    let (client, none) = (client(), Progress::none());
    let one = reference(&own.address(), "one/list:1");
    let two = reference(&own.address(), "two/list:1");
    let options = PushOptions::default();
    client.push(&one, &list, &user("ada"), &from, &options, &none).await.unwrap();
    let sent = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = sent.clone();
    let progress = Progress::new(move |event| {
        if let ProgressEvent::Advanced { digest, .. } = event {
            log.lock().unwrap().push(digest);
        }
    });
    // Everything is in the local store already, so that only uploads could send bytes.
    let options = CopyOptions { platforms: Platforms::All };
    client.copy(&one, &user("ada"), &two, &user("ada"), &from, &options, &progress).await.unwrap();
    assert_eq!(*sent.lock().unwrap(), []);
    let copied = client.fetch_manifest(&two, &user("ada")).await.unwrap();
    assert_eq!(copied.bytes(), list.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_upload_is_whole() {
    let own = Own::start(|_| {}).await;
    let name = reference(&own.address(), "a/b:1");
    let remote = client().remote(&name, Some(&user("ada")[0]));
    let content: Vec<u8> = (0..19_000_000u32).map(|at| (at % 247) as u8).collect();
    let digest = oci_model::Digest::of(&content);
    let mut upload = remote.begin_upload(&Progress::none()).await.unwrap();
    for part in content.chunks(777_777) {
        upload.write(part).await.unwrap();
    }
    upload.finish(&digest).await.unwrap();
    assert!(remote.has_blob(&digest, &Progress::none()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_local_blob_is_named_and_put_aside() {
    let own = Own::start(|_| {}).await;
    let source = image(b"the layer");
    let (_from, from) = store();
    source.put(&from);
    let path = from.path(&source.layer);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"the lay3r").unwrap();
    let name = reference(&own.address(), "a/b:1");
    let (options, none) = (PushOptions::default(), Progress::none());
    let error = client()
        .push(&name, &source.manifest, &user("ada"), &from, &options, &none)
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Store { .. }), "{error}");
    assert!(error.to_string().contains(&format!("{} was damaged", source.layer)), "{error}");
    assert!(!from.contains(&source.layer));
}

/// Answers every request at `/v2/` to those who show a certificate of this authority.
async fn registry_that_wants_certificates()
-> (String, rcgen::CertifiedIssuer<'static, rcgen::KeyPair>) {
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        roots.into(),
        std::sync::Arc::clone(&provider),
    );
    let key = rustls_pki_types::PrivateKeyDer::try_from(authority.key().serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![authority.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((connection, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(connection).await else { continue };
            let mut request = [0; 4096];
            // Clients that were refused close the connection.
            if stream.read(&mut request).await.is_ok_and(|bytes| bytes != 0) {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    (address, authority)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_is_shown_to_the_registry_it_is_for() {
    let (address, authority) = registry_that_wants_certificates().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["builder".to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, &authority).unwrap();
    let own = ClientCertificate {
        chain_pem: certificate.pem().into_bytes(),
        key_pem: Secret::new(key.serialize_pem()),
    };
    assert!(!format!("{own:?}").contains("PRIVATE"));
    let with = |host: &str, own: &ClientCertificate| {
        let tls = HostTls { roots_pem: Vec::new(), client: Some(own.clone()) };
        Client::new(ClientOptions {
            hosts: [(host.to_owned(), tls)].into(),
            retries_max: 0,
            ..ClientOptions::default()
        })
    };
    with(&address, &own).unwrap().ping(&address, None).await.unwrap();
    let stranger = with("other.example", &own).unwrap().ping(&address, None).await;
    assert!(stranger.is_err(), "the certificate is for another registry");
    let broken = ClientCertificate { chain_pem: b"nothing".to_vec(), ..own };
    assert!(with(&address, &broken).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_is_asked_after_its_mirrors_unless_that_is_forbidden() {
    let (mirror, origin) = (Own::start(open).await, Own::start(open).await);
    let source = image(b"layer");
    let (_from, from) = store();
    source.put(&from);
    let name = reference(&origin.address(), "team/app:1");
    let (options, none) = (PushOptions::default(), Progress::none());
    client().push(&name, &source.manifest, &user("ada"), &from, &options, &none).await.unwrap();
    let with = |fallback| {
        let url = format!("http://{}", mirror.address());
        let mirror = Mirror { url, repository_prefix: String::new(), auth: None };
        Client::new(ClientOptions {
            mirrors: [(origin.address(), vec![mirror])].into(),
            fallback,
            ..ClientOptions::default()
        })
        .unwrap()
    };
    with(Fallback::Registry).fetch_manifest(&name, &[]).await.unwrap();
    let missing = with(Fallback::Nothing).fetch_manifest(&name, &[]).await;
    assert!(matches!(missing.unwrap_err().kind(), RegistryErrorKind::NotFound { .. }));
}

fn open(options: &mut RegistryOptions) {
    options.anonymous = Anonymous::Push;
}
