//! Whose image is it? (kubelet-images.md 8 and 15.9.)

use std::os::unix::fs::PermissionsExt;

use image_policy::verification::{Allowlist, SecretCoordinates};
use jiff::Timestamp;

use super::*;
use crate::ExecProviders;
use crate::images::providers::Providers;

/// What each verification policy says to a pod without secrets about a pulled and about a
/// preloaded image. kubelet-images.md 15.9, V2, V8, V9 and V13.
#[tokio::test]
async fn each_policy_protects_what_it_says() {
    let list = |pattern: &str| {
        VerificationPolicy::NeverVerifyAllowlistedImages(
            Allowlist::new(&[pattern.to_owned()]).expect("a list"),
        )
    };
    for (policy, pulled, preloaded) in [
        (VerificationPolicy::NeverVerify, true, true),
        (VerificationPolicy::NeverVerifyPreloadedImages, false, true),
        (VerificationPolicy::AlwaysVerify, false, false),
        (list("r.example/base/*"), false, false),
        (list("r.example/*"), true, true),
    ] {
        let name = format!("{policy:?}");
        let fixture = fixture_changed(
            &[("a", "ok"), ("anonymous", "denied")],
            Knobs::default(),
            |parts, _| {
                parts.verification = policy;
            },
        );
        fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &["a"]).await.expect("the owner");
        for pull in [PullPolicy::IfNotPresent, PullPolicy::Never] {
            let other = fixture.ensure(IMAGE, pull, &[]).await;
            assert_eq!(other.is_ok(), pulled, "{name} {pull:?}");
            fixture.ensure(IMAGE, pull, &["a"]).await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        }
        let here: Reference = "r.example/built:1".parse().expect("a reference");
        let found = fixture.images.store.find(&IMAGE.parse().expect("a reference"));
        let image = found.expect("a store").expect("an image");
        // As a build does it: without a note on an arrival.
        let name = format!("images/{here}").parse().expect("a name");
        fixture.images.store.blobs.set_ref(&name, &image.digests).expect("a name");
        let other = fixture.ensure("r.example/built:1", PullPolicy::Never, &[]).await;
        assert_eq!(other.is_ok(), preloaded, "{name}, preloaded");
    }
}

/// kubelet-images.md 8.4 and 15.9, V6: the name that a mirror makes is as private as the one that
/// was asked for, also to whoever asks by digest, by an alias or while the record is not written.
#[tokio::test]
async fn image_that_came_through_a_mirror_is_private_under_both_names() {
    let answers = [("a", "ok"), ("anonymous", "denied")];
    let mirrored = || {
        fixture_changed(&answers, Knobs::default(), |parts, _| {
            let to = || "r.example/hub/".to_owned();
            parts.mirrors = vec![
                ImageMirror { from: "docker.io/*".into(), to: to() },
                ImageMirror { from: "alias.example/*".into(), to: to() },
            ];
        })
    };
    let asked = "docker.io/priv/app:1";
    for record in ["both names", "only the first name", "nothing"] {
        let fixture = mirrored();
        let image = fixture.ensure(asked, PullPolicy::IfNotPresent, &["a"]).await.expect("a");
        assert_eq!(image.id, format!("r.example/hub/priv/app@{}", image.root));
        let names = [
            asked.to_owned(),
            "r.example/hub/priv/app:1".to_owned(),
            format!("r.example/hub/priv/app@{}", image.root),
            "alias.example/priv/app:1".to_owned(),
        ];
        let root = image.root.to_string();
        if record != "both names" {
            // What nodes wrote before, and what is there until a record is written.
            let soon = Timestamp::now() + Duration::from_secs(60);
            fixture.images.records.forget_absent(|_| false, soon);
            assert!(!fixture.images.records.knows(&root));
        }
        if record == "only the first name" {
            let used = UsedCredential::Secret(SecretCoordinates {
                namespace: "ns".to_owned(),
                name: "a".to_owned(),
                uid: "uid-a".to_owned(),
                credential_hash: String::new(),
            });
            let noted = fixture.images.records.note(&root, &[asked], &used, Timestamp::now());
            noted.expect("record");
        }
        for name in &names {
            for policy in [PullPolicy::Never, PullPolicy::IfNotPresent] {
                let other = fixture.ensure_for("other", name, policy, &[]).await;
                assert!(other.is_err(), "{record}: {name} {policy:?}");
            }
        }
        if record == "both names" {
            for name in &names[..3] {
                let owner = fixture.ensure(name, PullPolicy::Never, &["a"]).await;
                assert!(owner.is_ok(), "{name}");
            }
        }
    }
}

/// What the node pulls for everybody stays usable when a pod pulled the same content elsewhere,
/// and becomes private when a pod's secret opens the name itself.
#[tokio::test]
async fn image_that_the_node_pulled_is_for_every_pod() {
    let fixture = fixture(&[("a", "ok"), ("anonymous", "ok")]);
    let base: Reference = "r.example/base:1".parse().expect("a reference");
    fixture.images.pull_for_node(&base, &[], &|_| {}).await.expect("pulled");
    fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &["a"]).await.expect("a");
    fixture.ensure("r.example/base:1", PullPolicy::Never, &[]).await.expect("preloaded");
    fixture.ensure(IMAGE, PullPolicy::Never, &[]).await.expect_err("private");
    fixture.ensure("r.example/base:1", PullPolicy::Always, &["a"]).await.expect("a");
    fixture.ensure("r.example/base:1", PullPolicy::Never, &[]).await.expect_err("private now");
}

/// A part of an index has no record of its own; it is as private as the whole.
#[tokio::test]
async fn part_of_a_private_index_is_refused_by_its_digest_too() {
    let fixture = fixture(&[("anonymous", "denied")]);
    let blobs = blob_store::BlobStore::open(fixture._dir.path().join("blobs")).expect("blobs");
    let part = put_image(&blobs);
    let platform = oci_model::Platform::host();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{part}","size":{},"platform":{{"architecture":"{}","os":"{}"}}}}]}}"#,
        blobs.read(&part, 1 << 20).expect("a manifest").len(),
        platform.architecture,
        platform.os,
    );
    let root = blobs.put(index.as_bytes()).expect("an index");
    let reference: Reference = IMAGE.parse().expect("a reference");
    let image = fixture.images.store.read(&reference, root).expect("a store").expect("an image");
    fixture.images.store.remember(&reference, &image).expect("a name");
    let owner = SecretCoordinates {
        namespace: "ns".to_owned(),
        name: "a".to_owned(),
        uid: "uid-a".to_owned(),
        credential_hash: String::new(),
    };
    let used = UsedCredential::Secret(owner);
    fixture
        .images
        .records
        .note(&root.to_string(), &[IMAGE], &used, Timestamp::now())
        .expect("record");
    for digest in [root, part] {
        let by_digest = format!("r.example/app@{digest}");
        for policy in [PullPolicy::Never, PullPolicy::IfNotPresent] {
            fixture.ensure(&by_digest, policy, &[]).await.expect_err("another tenant");
            fixture.ensure(&by_digest, policy, &["a"]).await.expect("the owner");
        }
    }
}

/// Better than the kubelet: a kept credential that the registry does not take any more makes one
/// fresh run, and no more.
#[tokio::test]
async fn kept_credential_that_was_revoked_is_renewed_once() {
    for (second, opened) in [("new", true), ("old", false)] {
        let answers = [("old", "401"), ("new", "ok"), ("first", "ok")];
        let fixture = fixture_changed(&answers, Knobs::default(), |parts, dir| {
            std::fs::create_dir(dir.join("bin")).expect("directory");
            let runs = dir.join("runs");
            let answer = |user: &str| {
                format!(
                    r#"{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"1h","auth":{{"r.example":{{"username":"{user}","password":"p"}}}}}}"#
                )
            };
            let script = format!(
                "#!/bin/sh\nif test -e {0}; then echo '{1}'; else echo '{2}'; fi; echo run >> {0}\n",
                runs.display(),
                answer(second),
                answer("old"),
            );
            let program = dir.join("bin/p");
            std::fs::write(&program, script).expect("program");
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("mode");
            let config = dir.join("config.yaml");
            std::fs::write(&config, "kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders:\n- {name: p, matchImages: [r.example], defaultCacheDuration: 0s, apiVersion: credentialprovider.kubelet.k8s.io/v1}\n").expect("config");
            let options = ExecProviders { config, bin_dir: dir.join("bin") };
            let providers = Providers::open(options, Arc::clone(&parts.credentials.accounts));
            parts.credentials.providers = Some(providers.expect("providers"));
        });
        let runs = || {
            std::fs::read_to_string(fixture._dir.path().join("runs")).expect("runs").lines().count()
        };
        // The first answer is fresh: a refusal does not make another run.
        fixture.ensure(IMAGE, PullPolicy::Always, &[]).await.expect_err("refused");
        assert_eq!((runs(), fixture.calls().len()), (1, 1));
        fixture.images.forget_back_off("u", IMAGE);
        let again = fixture.ensure(IMAGE, PullPolicy::Always, &[]).await;
        assert_eq!(again.is_ok(), opened, "{second}");
        assert_eq!(runs(), 2);
        let calls = if opened { vec!["old", "new"] } else { vec!["old"] };
        let calls: Vec<String> = calls.iter().map(|user| format!("{IMAGE} {user}")).collect();
        assert_eq!(fixture.calls(), calls);
    }
}
