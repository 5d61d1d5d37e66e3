//! Records beyond this machine: in registries, layouts and images.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use container_runtime::Mode;
use image_builder::{CachePlace, CacheScope, CacheSource, CacheUse, CachedKinds};
use oci_model::Platform;

use super::registry::Registry;
use super::{Site, sink, source};
use crate::fixture::{Machine, reference};
use crate::tests;
use crate::tree::describe;

tests![
    a_clean_machine_with_a_registry_cache_fetches_no_layer_at_all,
    a_layout_is_a_cache_as_good_as_a_registry,
    records_expire_and_hits_keep_them,
    writers_at_the_same_time_lose_no_record,
    a_cache_that_is_only_read_is_not_written,
    two_platforms_share_one_cache,
    a_minimal_cache_has_the_layers_of_the_image_and_skips_the_stages_it_copied_from,
    an_image_carries_its_own_cache_and_is_rebuilt_to_the_same_digest,
    a_cache_that_cannot_be_read_or_written_warns_or_fails_as_asked,
    layers_move_between_caches,
    kinds_of_steps_that_are_not_cached_are_executed,
    a_broken_cache_is_no_cache,
];

const TWO_STAGES: &str = "\
FROM BASE AS build
WORKDIR /src
COPY src .
RUN echo built > out && chmod 4751 out
FROM BASE
RUN echo once > /once && chmod 1777 /tmp
COPY --from=build /src/out /bin/out
RUN /bin/true
";

fn two_stages(base: &str) -> String {
    TWO_STAGES.replace("BASE", base)
}

fn a_clean_machine_with_a_registry_cache_fetches_no_layer_at_all() {
    let (registry, one, two) = (Registry::start(), Site::new(), Site::new());
    let text = two_stages(&one.share_base(&registry));
    let place = CachePlace::of_repository(&reference(&registry.name("cache")));
    let first = one.with(&text, |_, request| request.cache_to.push(sink(&place, CacheScope::Max)));
    assert_eq!(first.steps_executed, 6);
    one.push(&first, &registry.name("app:1"));
    let (_, image_layers) = registry.image(&registry.name("app:1")).expect("pushed");
    let (document, cache_layers) =
        registry.image(&registry.name("cache:shipway-cache")).expect("a cache");
    assert_eq!(cache_layers.len(), 6 - 1, "RUN true made none");
    registry.fetched();
    let second = two.in_context(&one.context, &text, |_, request| {
        request.cache_from.push(source(&place));
        request.push_to.push(reference(&registry.name("app:2")));
    });
    assert_eq!((second.steps_executed, second.steps_cached), (0, 6));
    assert_eq!(second.manifest.digest(), first.manifest.digest());
    two.push(&second, &registry.name("app:2"));
    let fetched = registry.fetched();
    assert!(fetched.contains(&document));
    let layers: Vec<_> = image_layers.iter().chain(&cache_layers).collect();
    assert!(!fetched.iter().any(|blob| layers.contains(&blob)), "{fetched:?}");
    // The document, and the config of the base.
    assert_eq!(fetched.len(), 2, "{fetched:?}");
    assert_eq!(registry.image(&registry.name("app:2")).expect("pushed").1, image_layers);
}

fn a_layout_is_a_cache_as_good_as_a_registry() {
    let (registry, one, two) = (Registry::start(), Site::new(), Site::new());
    let text = two_stages(&one.share_base(&registry));
    let place = CachePlace::of_layout(one.machine.root.path().join("layout"));
    let first = one.with(&text, |_, request| request.cache_to.push(sink(&place, CacheScope::Max)));
    let second = two.in_context(&one.context, &text, |_, r| r.cache_from.push(source(&place)));
    assert_eq!(second.steps_executed, 0);
    assert_eq!(second.manifest.digest(), first.manifest.digest());
    let (first, second) = (one.machine.unpack(&first, "t"), two.machine.unpack(&second, "t"));
    assert_eq!(describe(&first), describe(&second));
    let mode = |path: &str| std::fs::metadata(second.join(path)).expect(path).mode() & 0o7777;
    assert_eq!((mode("bin/out"), mode("tmp")), (0o4751, 0o1777));
    // Debian's skopeo takes it for a layout.
    let layout = format!("oci:{}:shipway-cache", one.machine.root.path().join("layout").display());
    let inspected =
        std::process::Command::new("skopeo").args(["inspect", "--raw", &layout]).output();
    assert!(inspected.expect("Debian's skopeo").status.success());
    // Written again with other records, it has both, and no blob that nothing needs.
    let other = "FROM scratch\nCOPY a.txt /other\n";
    one.with(other, |_, request| request.cache_to.push(sink(&place, CacheScope::Max)));
    let third = Site::new();
    for text in [&text[..], other] {
        let again = third.in_context(&one.context, text, |_, r| r.cache_from.push(source(&place)));
        assert_eq!(again.steps_executed, 0, "{text}");
    }
    let blobs = std::fs::read_dir(one.machine.root.path().join("layout/blobs/sha256"));
    assert_eq!(blobs.expect("blobs").count(), 6 + 2);
}

/// Makes all records of a layout cache as old as `seconds`.
fn age(layout: &Path, seconds: i64) {
    let read = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
    };
    let blob = |digest: &serde_json::Value| {
        layout.join("blobs").join(digest.as_str().expect("a digest").replace(':', "/"))
    };
    let put = |value: &serde_json::Value| {
        let bytes = serde_json::to_vec(value).expect("JSON");
        let digest = oci_model::Digest::of(&bytes);
        std::fs::write(blob(&serde_json::json!(digest.to_string())), &bytes).expect("ours");
        (serde_json::json!(digest.to_string()), bytes.len())
    };
    let mut index = read(&layout.join("index.json"));
    let mut manifest = read(&blob(&index["manifests"][0]["digest"]));
    let mut document = read(&blob(&manifest["config"]["digest"]));
    for (_, record) in document["records"].as_object_mut().expect("records") {
        record["used"] = serde_json::json!(record["used"].as_i64().expect("a time") - seconds);
    }
    let (digest, size) = put(&document);
    (manifest["config"]["digest"], manifest["config"]["size"]) = (digest, size.into());
    let (digest, size) = put(&manifest);
    let entry = &mut index["manifests"][0];
    (entry["digest"], entry["size"]) = (digest, size.into());
    std::fs::write(layout.join("index.json"), index.to_string()).expect("ours");
}

fn records_expire_and_hits_keep_them() {
    let one = Site::new();
    let layout = one.machine.root.path().join("layout");
    let place = CachePlace::of_layout(layout.clone());
    let text = "FROM scratch\nCOPY a.txt /a\nCOPY b.txt /b\n";
    let hour = Some(Duration::from_secs(3600));
    let on_another = |writes: bool| {
        let site = Site::new();
        let outcome = site.in_context(&one.context, text, |_, request| {
            request.cache_from.push(CacheSource { place: place.clone(), ttl: hour });
            if writes {
                request.cache_to.push(sink(&place, CacheScope::Max));
            }
        });
        outcome.steps_executed
    };
    one.with(text, |_, request| request.cache_to.push(sink(&place, CacheScope::Max)));
    age(&layout, 3000);
    assert_eq!(on_another(true), 0, "younger than an hour; the hit makes it young again");
    age(&layout, 3000);
    assert_eq!(on_another(false), 0);
    age(&layout, 3000);
    assert_eq!(on_another(true), 2, "nobody noted the use");
    assert_eq!(on_another(false), 0, "it was written again");
}

fn writers_at_the_same_time_lose_no_record() {
    let registry = Registry::start();
    let place = CachePlace::of_repository(&reference(&registry.name("cache")));
    let text = |n: usize| format!("FROM scratch\nCOPY <<EOF /file\nby {n}\nEOF\n");
    let sites: Vec<Site> = (0..4).map(|_| Site::new()).collect();
    std::thread::scope(|scope| {
        for (n, site) in sites.iter().enumerate() {
            let (text, place) = (text(n), &place);
            scope.spawn(move || {
                let change = |r: &mut image_builder::BuildRequest| {
                    r.cache_to.push(sink(place, CacheScope::Max));
                };
                let context = &site.context;
                let built = site.machine.build_with(Mode::None, &text, context, |_, r| change(r));
                built.expect("a build");
            });
        }
    });
    let reader = Site::new();
    for n in 0..sites.len() {
        let outcome = reader.with(&text(n), |_, r| r.cache_from.push(source(&place)));
        assert_eq!(outcome.steps_executed, 0, "writer {n}");
    }
}

fn a_cache_that_is_only_read_is_not_written() {
    let (registry, site) = (Registry::start(), Site::new());
    let place = CachePlace::of_repository(&reference(&registry.name("cache")));
    site.with("FROM scratch\nCOPY a.txt /\n", |_, r| r.cache_from.push(source(&place)));
    assert_eq!(registry.image(&registry.name("cache:shipway-cache")), None);
}

fn two_platforms_share_one_cache() {
    let (registry, one, two) = (Registry::start(), Site::new(), Site::new());
    let place = CachePlace::Registry(reference(&registry.name("cache:both")));
    let text = "FROM scratch\nARG TARGETARCH\nCOPY <<EOF /arch\n$TARGETARCH\nEOF\nWORKDIR /w\n";
    let build = |site: &Site, platform: &str, writes: bool| {
        let platform: Platform = platform.parse().expect("a platform");
        let outcome = site.in_context(&one.context, text, |options, request| {
            *options = dockerfile::PlanOptions::for_platform(platform);
            request.cache_from.push(source(&place));
            if writes {
                request.cache_to.push(sink(&place, CacheScope::Max));
            }
        });
        (outcome.steps_executed, *outcome.manifest.digest())
    };
    let (amd, arm) = (build(&one, "linux/amd64", true), build(&one, "linux/arm64", true));
    assert_eq!((amd.0, arm.0), (2, 2));
    assert_ne!(amd.1, arm.1);
    assert_eq!(build(&two, "linux/amd64", false), (0, amd.1));
    assert_eq!(build(&two, "linux/arm64", false), (0, arm.1));
}

fn a_minimal_cache_has_the_layers_of_the_image_and_skips_the_stages_it_copied_from() {
    let (registry, one, two) = (Registry::start(), Site::new(), Site::new());
    let text = two_stages(&one.share_base(&registry));
    let place = CachePlace::Registry(reference(&registry.name("cache:min")));
    let first = one.with(&text, |_, request| request.cache_to.push(sink(&place, CacheScope::Min)));
    let (_, layers) = registry.image(&registry.name("cache:min")).expect("a cache");
    assert_eq!(layers.len(), 2, "RUN and COPY of the last stage");
    let build =
        |text: &str| two.in_context(&one.context, text, |_, r| r.cache_from.push(source(&place)));
    let second = build(&text);
    assert_eq!((second.steps_executed, second.steps_cached), (0, 6));
    assert_eq!(second.manifest.digest(), first.manifest.digest());
    // Where the image differs, what it needs is built.
    let changed = build(&text.replace("/bin/out", "/bin/other"));
    assert_eq!(changed.steps_executed, 3 + 2);
}

fn an_image_carries_its_own_cache_and_is_rebuilt_to_the_same_digest() {
    let (registry, one, two) = (Registry::start(), Site::new(), Site::new());
    let text = two_stages(&one.share_base(&registry));
    let name = registry.name("app:1");
    let first = one.with(&text, |_, request| request.inline_cache = true);
    one.push(&first, &name);
    let place = CachePlace::Registry(reference(&name));
    registry.fetched();
    let second = two.in_context(&one.context, &text, |_, request| {
        request.cache_from.push(source(&place));
        request.inline_cache = true;
    });
    assert_eq!((second.steps_executed, second.steps_cached), (0, 6));
    assert_eq!(second.manifest.digest(), first.manifest.digest());
    let (_, layers) = registry.image(&name).expect("pushed");
    assert!(!registry.fetched().iter().any(|blob| layers.contains(blob)));
    // A change after the first step of the image hits before it.
    let changed = text.replace("RUN /bin/true", "RUN echo > /t");
    let third = two.in_context(&one.context, &changed, |_, r| r.cache_from.push(source(&place)));
    assert_eq!(third.steps_executed, 1);
    // Other tools read the image as ever.
    let inspected = std::process::Command::new("skopeo")
        .args(["inspect", "--config", "--tls-verify=false", &format!("docker://{name}")])
        .output();
    assert!(inspected.expect("Debian's skopeo").status.success());
}

fn a_cache_that_cannot_be_read_or_written_warns_or_fails_as_asked() {
    let site = Site::new();
    // Nobody listens on port 1.
    let place = CachePlace::Registry(reference("127.0.0.1:1/cache:x"));
    let build = |on_error| {
        site.machine.build_with(
            Mode::None,
            "FROM scratch\nCOPY a.txt /\n",
            &site.context,
            |_, r| {
                r.cache_from.push(source(&place));
                r.cache_to
                    .push(image_builder::CacheSink { on_error, ..sink(&place, CacheScope::Max) });
            },
        )
    };
    build(image_builder::CacheError::Warns).expect("a build");
    let events = site.machine.events.lock().expect("events").clone();
    let warnings = events.iter().filter(
        |event| matches!(event, image_builder::BuildEvent::Warning(text) if text.contains("cache")),
    );
    assert_eq!(warnings.count(), 2, "{events:?}");
    let error = build(image_builder::CacheError::Fails).expect_err("nobody listens");
    assert_eq!(error.to_string(), "cannot use the cache 127.0.0.1:1/cache:x");
}

fn layers_move_between_caches() {
    let (registry, elsewhere) = (Registry::start(), Registry::start());
    let (one, two, three) = (Site::new(), Site::new(), Site::new());
    let text = two_stages(&one.share_base(&registry));
    let from = CachePlace::of_repository(&reference(&registry.name("cache")));
    one.with(&text, |_, request| request.cache_to.push(sink(&from, CacheScope::Max)));
    // To another repository, another registry, and a layout, out of the first cache alone.
    let layout = two.machine.root.path().join("layout");
    let places = [
        CachePlace::of_repository(&reference(&registry.name("mirror"))),
        CachePlace::of_repository(&reference(&elsewhere.name("cache"))),
        CachePlace::of_layout(layout),
    ];
    let moved = two.in_context(&one.context, &text, |_, request| {
        request.cache_from.push(source(&from));
        request.cache_to.extend(places.iter().map(|place| sink(place, CacheScope::Min)));
    });
    assert_eq!(moved.steps_executed, 0);
    for place in &places {
        let machine = Machine::new();
        let site = Site { machine, context: one.context.clone() };
        let outcome = site.with(&text, |_, request| request.cache_from.push(source(place)));
        assert_eq!(outcome.steps_executed, 0, "{place}");
        site.machine.unpack(&outcome, "files");
    }
    drop(three);
}

fn kinds_of_steps_that_are_not_cached_are_executed() {
    let site = Site::new();
    let text = "FROM base\nCOPY a.txt /\nRUN echo 1 > /1\nRUN echo 2 > /2\n";
    let executed = |run, copy| {
        let kinds = CachedKinds { run, copy };
        site.with(text, |_, request| request.cached_kinds = kinds).steps_executed
    };
    assert_eq!(executed(false, true), 3);
    assert_eq!(executed(false, true), 2, "COPY was kept, RUN was not");
    assert_eq!(executed(true, true), 2);
    assert_eq!(executed(true, true), 0);
    assert_eq!(executed(true, false), 1);
    let fresh = site.with(text, |_, request| request.cache = CacheUse::Fresh);
    assert_eq!(fresh.steps_executed, 3);
}

fn a_broken_cache_is_no_cache() {
    let one = Site::new();
    let layout = one.machine.root.path().join("layout");
    let place = CachePlace::of_layout(layout.clone());
    let text = "FROM scratch\nCOPY a.txt /\nCOPY b.txt /\n";
    let first = one.with(text, |_, r| r.cache_to.push(sink(&place, CacheScope::Max)));
    // Every blob that is no document is damaged.
    for item in std::fs::read_dir(layout.join("blobs/sha256")).expect("blobs") {
        let path = item.expect("a blob").path();
        if !std::fs::read(&path).expect("a blob").starts_with(b"{") {
            std::fs::write(&path, "damaged").expect("ours");
        }
    }
    let two = Site::new();
    let build = || two.in_context(&one.context, text, |_, r| r.cache_from.push(source(&place)));
    let again = build();
    assert_eq!(again.steps_executed, 2);
    assert_eq!(again.image.rootfs, first.image.rootfs);
    std::fs::write(layout.join("index.json"), "{").expect("ours");
    assert_eq!(
        Site::new()
            .in_context(&one.context, text, |_, r| {
                r.cache_from.push(source(&place));
            })
            .steps_executed,
        2
    );
}
