//! Our own registry as the other side: tokens, TLS, rights per repository.

use credentials::{RegistryAuth, Secret};
use registry_client::{
    CopyOptions, Platforms, Progress, ProgressEvent, PushOptions, RegistryErrorKind,
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
        let tls = TlsFiles { certificate: place.join("cert.pem"), key: place.join("key.pem") };
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
