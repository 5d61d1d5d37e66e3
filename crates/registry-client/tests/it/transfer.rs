//! Pulls and pushes over broken, lying and odd connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use oci_model::{Digest, Platform, Repository};
use registry_client::{
    Client, ClientOptions, Layers, Mirror, Platforms, Progress, ProgressEvent, PullOptions,
    PushOptions, RegistryErrorKind,
};

use crate::fake::{Fake, answer};
use crate::images::{client, image, index, not_found, reference, serve_manifest, store};

pub(crate) fn pull_options() -> PullOptions {
    PullOptions { platforms: Platforms::One(Platform::linux("amd64")), layers: Layers::Fetch }
}

#[tokio::test]
async fn pull_stores_everything_the_image_names() {
    let source = image(b"the layer");
    let (layer, manifest) = (source.layer, source.manifest.clone());
    let fake = Fake::start(move |request| source.serve(request)).await;
    let (_place, store) = store();
    let reference = reference(&fake.address, "a/b:1");
    let pulled =
        client().pull(&reference, &[], &store, &pull_options(), &Progress::none()).await.unwrap();
    assert_eq!(pulled.root, manifest);
    assert_eq!(pulled.digests.len(), 3);
    assert!(pulled.digests.iter().all(|digest| store.contains(digest)));
    assert_eq!(store.read(&layer, 100).unwrap(), b"the layer");
    let config = pulled.images[0].config.as_ref().unwrap();
    assert_eq!(config.parsed().rootfs.diff_ids.len(), 1);
    assert_eq!(pulled.images[0].layers().len(), 1);
}

#[tokio::test]
async fn second_pull_asks_for_the_manifest_only() {
    let source = image(b"the layer");
    let fake = Fake::start(move |request| source.serve(request)).await;
    let (_place, store) = store();
    let reference = reference(&fake.address, "a/b:1");
    for _ in 0..2 {
        client().pull(&reference, &[], &store, &pull_options(), &Progress::none()).await.unwrap();
    }
    assert_eq!(fake.lines().len(), 4);
    assert_eq!(fake.lines()[3], "GET /v2/a/b/manifests/1");
}

/// kubelet-images.md 15.1, R17.
#[tokio::test]
async fn image_with_tag_and_digest_is_pulled_by_digest_only() {
    let source = image(b"the layer");
    let digest = source.manifest.digest();
    let served = image(b"the layer");
    // The tag has moved on; whoever asks for it gets another image.
    let moved = image(b"another layer");
    let fake = Fake::start(move |request| match request.target.ends_with("/manifests/1") {
        true => moved.serve(request),
        false => served.serve(request),
    })
    .await;
    let (_place, store) = store();
    let reference = reference(&fake.address, &format!("a/b:1@{digest}"));
    let by_digest = format!("GET /v2/a/b/manifests/{digest}");
    let fetched = client().fetch_manifest(&reference, &[]).await.unwrap();
    assert_eq!(fetched.bytes(), source.manifest.bytes());
    assert_eq!(fake.lines(), [by_digest.as_str()]);
    let pulled =
        client().pull(&reference, &[], &store, &pull_options(), &Progress::none()).await.unwrap();
    assert_eq!(pulled.root, source.manifest);
    assert!(fake.lines().contains(&by_digest));
    assert!(fake.lines().iter().all(|line| !line.ends_with("/manifests/1")), "{:?}", fake.lines());
}

#[tokio::test]
async fn layers_can_be_left_for_later() {
    let source = image(b"the layer");
    let layer = source.layer;
    let fake = Fake::start(move |request| source.serve(request)).await;
    let (_place, store) = store();
    let reference = reference(&fake.address, "a/b:1");
    let options = PullOptions { layers: Layers::Leave, ..pull_options() };
    let client = client();
    let pulled = client.pull(&reference, &[], &store, &options, &Progress::none()).await.unwrap();
    assert!(!store.contains(&layer));
    let layers = pulled.images[0].layers().to_vec();
    client
        .fetch_blobs(&reference, None, &layers, &store, &pulled.lease, &Progress::none())
        .await
        .unwrap();
    assert!(store.contains(&layer));
}

#[tokio::test]
async fn platform_is_chosen_from_an_index() {
    let (amd, arm) = (image(b"amd"), image(b"arm"));
    let list = index(&[("linux/arm64", &arm), ("linux/amd64", &amd)]);
    let amd_layer = amd.layer;
    let fake = Fake::start(move |request| {
        serve_manifest(&list, request).unwrap_or_else(|| {
            let from_arm = request.target.contains(&arm.manifest.digest().to_string())
                || arm.blobs.keys().any(|digest| request.target.contains(&digest.to_string()));
            if from_arm { arm.serve(request) } else { amd.serve(request) }
        })
    })
    .await;
    let (_place, store) = store();
    let reference = reference(&fake.address, "a/b:1");
    let pull = |platforms: Platforms| {
        let options = PullOptions { platforms, layers: Layers::Fetch };
        let (reference, store) = (reference.clone(), store.clone());
        async move { client().pull(&reference, &[], &store, &options, &Progress::none()).await }
    };
    let one = pull(Platforms::One(Platform::linux("amd64"))).await.unwrap();
    assert_eq!((one.images.len(), one.digests.len()), (1, 4));
    assert!(one.digests.contains(&amd_layer));
    let all = pull(Platforms::All).await.unwrap();
    assert_eq!((all.images.len(), all.digests.len()), (2, 7));
    let error = pull(Platforms::One(Platform::linux("s390x"))).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("no match for platform in manifest: wanted linux/s390x, found linux/arm64"),
        "{text}"
    );
}

#[tokio::test]
async fn broken_download_goes_on_where_it_broke() {
    let content: Vec<u8> = (0..100_000u32).map(|at| (at % 253) as u8).collect();
    let source = image(&content);
    let layer = source.layer;
    let fake = Fake::start(move |request| {
        if !request.target.contains(&source.layer.to_string()) {
            return source.serve(request);
        }
        let total = content.len();
        match request.header("range") {
            None => answer(200).body(content.clone()).cut(40_000),
            Some("bytes=40000-") => answer(206)
                .header("Content-Range", format!("bytes 40000-{}/{total}", total - 1))
                .body(&content[40_000..])
                .cut(30_000),
            Some("bytes=70000-") => answer(206)
                .header("Content-Range", format!("bytes 70000-{}/{total}", total - 1))
                .body(&content[70_000..]),
            Some(other) => panic!("{other}"),
        }
    })
    .await;
    let (_place, store) = store();
    let reference = reference(&fake.address, "a/b:1");
    let retries = Arc::new(AtomicUsize::new(0));
    let count = retries.clone();
    let progress = Progress::new(move |event| {
        if matches!(event, ProgressEvent::Retrying { .. }) {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    client().pull(&reference, &[], &store, &pull_options(), &progress).await.unwrap();
    assert!(store.contains(&layer));
    assert_eq!(retries.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn registry_without_ranges_is_asked_from_the_start() {
    let content = vec![7; 50_000];
    let source = image(&content);
    let layer = source.layer;
    let first = AtomicUsize::new(0);
    let fake = Fake::start(move |request| {
        let whole = source.serve(request);
        if request.target.contains(&source.layer.to_string())
            && first.fetch_add(1, Ordering::SeqCst) == 0
        {
            return whole.cut(20_000);
        }
        whole
    })
    .await;
    let (_place, store) = store();
    let reference = reference(&fake.address, "a/b:1");
    client().pull(&reference, &[], &store, &pull_options(), &Progress::none()).await.unwrap();
    assert_eq!(store.read(&layer, 100_000).unwrap(), vec![7; 50_000]);
}

#[tokio::test]
async fn wrong_bytes_are_asked_for_once_more_and_never_stored() {
    let source = image(b"right");
    let layer = source.layer;
    let fake = Fake::start(move |request| {
        if request.target.contains(&source.layer.to_string()) {
            return answer(200).body("wrong");
        }
        source.serve(request)
    })
    .await;
    let (_place, store) = store();
    let reference = reference(&fake.address, "a/b:1");
    let error = client()
        .pull(&reference, &[], &store, &pull_options(), &Progress::none())
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::DigestMismatch { .. }), "{error}");
    assert!(!store.contains(&layer) && !store.contains(&Digest::of(b"wrong")));
    let asked = fake.lines().iter().filter(|line| line.contains(&layer.to_string())).count();
    assert_eq!(asked, 2);
}

#[tokio::test]
async fn blob_larger_than_promised_is_refused() {
    let source = image(b"right");
    let fake = Fake::start(move |request| {
        if request.target.contains(&source.layer.to_string()) {
            return answer(200).body("right and then much more");
        }
        source.serve(request)
    })
    .await;
    let (_place, store) = store();
    let reference = reference(&fake.address, "a/b:1");
    let error = client()
        .pull(&reference, &[], &store, &pull_options(), &Progress::none())
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), RegistryErrorKind::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn mirror_is_asked_first_and_the_registry_for_the_rest() {
    let source = Arc::new(image(b"the layer"));
    let for_upstream = source.clone();
    let upstream = Fake::start(move |request| for_upstream.serve(request)).await;
    let for_mirror = source.clone();
    let mirror = Fake::start(move |request| {
        if request.target.contains("/blobs/") { not_found() } else { for_mirror.serve(request) }
    })
    .await;
    let mut options = ClientOptions::default();
    let entry = Mirror {
        url: format!("http://{}", mirror.address),
        repository_prefix: "proxy/".to_owned(),
        auth: None,
    };
    options.mirrors.insert(upstream.address.clone(), vec![entry]);
    let client = Client::new(options).unwrap();
    let (_place, store) = store();
    let reference = reference(&upstream.address, "a/b:1");
    client.pull(&reference, &[], &store, &pull_options(), &Progress::none()).await.unwrap();
    let expected =
        format!("GET /v2/proxy/a/b/manifests/1?ns={}", upstream.address.replace(':', "%3A"));
    assert_eq!(mirror.lines()[0], expected);
    assert!(upstream.lines().iter().all(|line| line.contains("/blobs/")), "{:?}", upstream.lines());
    assert!(store.contains(&source.layer));
}

#[tokio::test]
async fn push_sends_what_is_missing_and_the_tag_last() {
    let source = image(b"the layer");
    let (_place, store) = store();
    source.put(&store);
    let layer = source.layer;
    let fake = Fake::start(move |request| match request.method.as_str() {
        // The layer is there already.
        "HEAD" if request.target.contains(&layer.to_string()) => answer(200),
        "HEAD" => not_found(),
        "POST" => answer(202).header("Location", "/upload/1?state=x"),
        "PUT" => answer(201),
        other => panic!("{other}"),
    })
    .await;
    let reference = reference(&fake.address, "a/b:1");
    let pushed = client()
        .push(&reference, &source.manifest, &[], &store, &PushOptions::default(), &Progress::none())
        .await
        .unwrap();
    assert_eq!(pushed.descriptor.digest, *source.manifest.digest());
    let lines = fake.lines();
    assert_eq!(lines.last().unwrap(), "PUT /v2/a/b/manifests/1");
    let puts: Vec<_> = lines.iter().filter(|line| line.starts_with("PUT")).collect();
    assert_eq!(puts.len(), 2);
    assert!(puts[0].starts_with("PUT /upload/1?state=x&digest=sha256:"), "{puts:?}");
}

#[tokio::test]
async fn blobs_are_mounted_and_a_refused_mount_is_an_upload() {
    for mountable in [true, false] {
        let source = image(b"the layer");
        let (_place, store) = store();
        source.put(&store);
        let fake = Fake::start(move |request| match request.method.as_str() {
            "HEAD" => not_found(),
            "POST" if mountable && request.target.contains("mount=") => answer(201),
            "POST" => answer(202).header("Location", "/upload/1"),
            _ => answer(201),
        })
        .await;
        let reference = reference(&fake.address, "a/b:1");
        let options = PushOptions { mount_from: vec![Repository::new("c/d").unwrap()] };
        client()
            .push(&reference, &source.manifest, &[], &store, &options, &Progress::none())
            .await
            .unwrap();
        let lines = fake.lines();
        assert!(lines.iter().any(|line| line.contains("&from=c/d")), "{lines:?}");
        let uploads = lines.iter().filter(|line| line.starts_with("PUT /upload/1")).count();
        assert_eq!(uploads, if mountable { 0 } else { 2 });
        // The 202 of a refused mount is used, not thrown away.
        assert_eq!(lines.iter().filter(|line| line.starts_with("POST")).count(), 2);
    }
}

#[tokio::test]
async fn broken_upload_goes_on_where_it_broke() {
    let content: Vec<u8> = (0..50_000u32).map(|at| (at % 241) as u8).collect();
    let source = image(&content);
    let (_place, store) = store();
    source.put(&store);
    let received = Arc::new(Mutex::new(Vec::new()));
    let sink = received.clone();
    let expected = content.clone();
    let fake = Fake::start(move |request| {
        let big = request.body.len() > 10_000;
        match request.method.as_str() {
            "HEAD" => not_found(),
            "POST" => answer(202).header("Location", "/upload/1"),
            "GET" => answer(204).header("Location", "/upload/2").header("Range", "0-19999"),
            "PUT" if request.target.starts_with("/upload/1") && big => {
                sink.lock().unwrap().extend_from_slice(&request.body[..20_000]);
                answer(503)
            }
            "PUT" if request.target.starts_with("/upload/2") => {
                assert_eq!(request.header("content-range"), Some("20000-49999"));
                sink.lock().unwrap().extend_from_slice(&request.body);
                answer(201)
            }
            _ => answer(201),
        }
    })
    .await;
    let reference = reference(&fake.address, "a/b:1");
    client()
        .push(&reference, &source.manifest, &[], &store, &PushOptions::default(), &Progress::none())
        .await
        .unwrap();
    assert!(*received.lock().unwrap() == expected);
}

#[tokio::test]
async fn streamed_upload_sends_chunks_and_repeats_lost_ones() {
    let failures = AtomicUsize::new(0);
    let received = Arc::new(Mutex::new(Vec::new()));
    let sink = received.clone();
    let fake = Fake::start(move |request| {
        let mut sink = sink.lock().unwrap();
        let range = |bytes: usize| format!("0-{}", bytes.saturating_sub(1));
        match request.method.as_str() {
            "POST" => answer(202).header("Location", "/upload/0"),
            "PATCH" if failures.fetch_add(1, Ordering::SeqCst) == 1 => {
                sink.extend_from_slice(&request.body[..1_000_000]);
                answer(500)
            }
            "PATCH" => {
                assert!(
                    request
                        .header("content-range")
                        .unwrap()
                        .starts_with(&format!("{}-", sink.len()))
                );
                sink.extend_from_slice(&request.body);
                answer(202)
                    .header("Location", format!("/upload/{}", sink.len()))
                    .header("Range", range(sink.len()))
            }
            "GET" => answer(204).header("Range", range(sink.len())),
            _ => answer(201),
        }
    })
    .await;
    let remote = client().remote(&reference(&fake.address, "a/b:1"), None);
    let content: Vec<u8> = (0..20_000_000u32).map(|at| (at % 239) as u8).collect();
    let mut upload = remote.begin_upload(&Progress::none()).await.unwrap();
    for part in content.chunks(123_457) {
        upload.write(part).await.unwrap();
    }
    let digest = Digest::of(&content);
    upload.finish(&digest).await.unwrap();
    assert!(*received.lock().unwrap() == content);
    let last = fake.lines().pop().unwrap();
    assert_eq!(last, format!("PUT /upload/20000000?digest={digest}"));
}

#[tokio::test]
async fn tags_are_collected_over_all_pages() {
    let fake = Fake::start(|request| match request.target.as_str() {
        "/v2/a/b/tags/list" => answer(200)
            .header("Link", "</v2/a/b/tags/list?n=2&last=b>; rel=\"next\"")
            .body(r#"{"name":"a/b","tags":["a","b"]}"#),
        "/v2/a/b/tags/list?n=2&last=b" => answer(200).body(r#"{"name":"a/b","tags":["c"]}"#),
        _ => answer(200).body(r#"{"name":"none","tags":null}"#),
    })
    .await;
    let tags = client().tags(&reference(&fake.address, "a/b"), &[]).await.unwrap();
    assert_eq!(tags, ["a", "b", "c"]);
    let none = client().tags(&reference(&fake.address, "none"), &[]).await.unwrap();
    assert!(none.is_empty());
}
