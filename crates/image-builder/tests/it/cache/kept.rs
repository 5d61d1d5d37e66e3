//! What stays between builds: cache mounts, explanations, and how it all is made smaller.

use std::collections::BTreeMap;
use std::time::Duration;

use blob_store::{BlobStore, CollectMode, CollectOptions};
use container_runtime::Mode;
use image_builder::{
    BuildEvent, CacheDecision, CacheKind, CachePlace, CacheScope, CacheUse, KeyKind, LocalCaches,
    PruneOptions,
};

use super::registry::Registry;
use super::{Site, sink, source};
use crate::fixture::reference;
use crate::tests;

tests![
    without_cache_everything_or_a_stage_is_executed,
    without_cache_a_cache_mount_starts_empty_and_is_kept,
    cache_mounts_reach_machines_that_never_ran_the_step,
    an_unchanged_cache_mount_is_not_packed_again_and_a_large_one_not_at_all,
    every_decision_is_explained_and_no_value_is_on_record,
    pruning_takes_the_old_and_the_too_many_and_leaves_what_is_in_use,
    a_registry_cache_is_listed_and_pruned,
    a_command_may_show_a_cache_twice_and_stages_lock_several_in_any_order,
    a_failure_elsewhere_ends_the_wait_for_a_cache,
];

fn without_cache_everything_or_a_stage_is_executed() {
    let site = Site::new();
    let text = "FROM base AS stage1\nRUN echo 1 > /1\nFROM base AS Stage2\nRUN echo 2 > /2\n\
                FROM base\nCOPY --from=stage1 /1 /1\nCOPY --from=stage2 /2 /2\n";
    assert_eq!(site.executed(text), 4);
    let all = site.with(text, |_, request| request.cache = CacheUse::Ignore);
    assert_eq!(all.steps_executed, 4);
    let listed = |names: &[&str]| {
        let outcome = site.with(text, |_, request| {
            request.uncached_stages = names.iter().map(ToString::to_string).collect();
        });
        outcome.steps_executed
    };
    assert_eq!(listed(&["stage1"]), 1, "what it makes is equal");
    assert_eq!(listed(&["stage1", "stage2"]), 2);
    assert_eq!(listed(&["0"]), 1);
    assert_eq!(listed(&["none"]), 0);
}

const APPEND: &str = "RUN --mount=type=cache,target=/c,mode=0770,uid=5 echo x >> /c/log";

fn lines(site: &Site, salt: u32) -> usize {
    let text = format!(
        "FROM base\nRUN --mount=type=cache,target=/c,mode=0770,uid=5 cat /c/log; : {salt}\n"
    );
    site.build(&text);
    site.machine.printed().lines().filter(|line| *line == "x").count()
}

fn without_cache_a_cache_mount_starts_empty_and_is_kept() {
    let site = Site::new();
    for n in 0..2 {
        site.build(&format!("FROM base\n{APPEND}; : {n}\n"));
    }
    assert_eq!(lines(&site, 0), 2);
    // Two steps of one build share what it began with.
    let text = format!("FROM base\n{APPEND}\n{APPEND}; : 2\n");
    site.with(&text, |_, request| request.cache = CacheUse::Ignore);
    assert_eq!(lines(&site, 1), 2);
    let text = format!("FROM base AS named\n{APPEND}; : 3\n");
    site.with(&text, |_, request| {
        request.uncached_stages.insert("named".to_owned());
    });
    assert_eq!(lines(&site, 2), 1);
    site.with(&format!("FROM base\n{APPEND}; : 4\n"), |_, r| r.cache = CacheUse::Fresh);
    assert_eq!(lines(&site, 3), 2);
}

fn with_mounts(place: &CachePlace, bytes_max: u64) -> image_builder::CacheSink {
    let sink = sink(place, CacheScope::Max);
    image_builder::CacheSink { mounts_bytes_max: Some(bytes_max), ..sink }
}

fn cache_mounts_reach_machines_that_never_ran_the_step() {
    let (registry, one) = (Registry::start(), Site::new());
    let registry_place = CachePlace::of_repository(&reference(&registry.name("cache")));
    let layout_place = CachePlace::of_layout(one.machine.root.path().join("layout"));
    let fill = "FROM base\nRUN --mount=type=cache,target=/c,mode=1770,uid=5,gid=6 \
                mkdir /c/d && echo text > /c/d/f && chown 7:8 /c/d/f && chmod 4711 /c/d/f && \
                ln -s d/f /c/link && ln /c/d/f /c/hard\n";
    one.with(fill, |_, request| {
        request.cache_to.push(with_mounts(&registry_place, 1 << 20));
        request.cache_to.push(with_mounts(&layout_place, 1 << 20));
    });
    let look = "FROM base\nRUN --mount=type=cache,target=/c,mode=1770,uid=5,gid=6 \
                stat -c '%a %u %g %h' /c /c/d/f && cat /c/link\n";
    for place in [registry_place, layout_place] {
        let two = Site::new();
        two.with(look, |_, request| request.cache_from.push(source(&place)));
        assert_eq!(two.machine.printed(), "1770 5 6 3\n4711 7 8 2\ntext\n", "{place}");
        // What this machine has by now counts from here on.
        let add = "FROM base\nRUN --mount=type=cache,target=/c echo more > /c/more\n";
        two.with(add, |_, request| request.cache_from.push(source(&place)));
        let list = "FROM base\nRUN --mount=type=cache,target=/c ls /c\n";
        two.with(list, |_, request| request.cache_from.push(source(&place)));
        assert_eq!(two.machine.printed(), "d\nhard\nlink\nmore\n");
        // A build without cache takes nothing from there.
        let three = Site::new();
        three.with(list, |_, request| {
            request.cache_from.push(source(&place));
            request.cache = CacheUse::Ignore;
        });
        assert_eq!(three.machine.printed(), "");
    }
}

fn an_unchanged_cache_mount_is_not_packed_again_and_a_large_one_not_at_all() {
    let (registry, one, two) = (Registry::start(), Site::new(), Site::new());
    let place = CachePlace::of_repository(&reference(&registry.name("cache")));
    let name = registry.name("cache:shipway-cache");
    let mounts = || -> BTreeMap<String, serde_json::Value> {
        let document: serde_json::Value =
            serde_json::from_str(&registry.document(&name)).expect("JSON");
        serde_json::from_value(document["mounts"].clone()).unwrap_or_default()
    };
    let text = |n: u32, size: u32| {
        format!(
            "FROM base\nRUN --mount=type=cache,target=/c head -c {size} /dev/zero > /c/f; : {n}\n"
        )
    };
    let build = |site: &Site, text: &str, bytes_max| {
        site.with(text, |_, request| {
            request.cache_from.push(source(&place));
            request.cache_to.push(with_mounts(&place, bytes_max));
        });
    };
    build(&one, &text(1, 1000), 2000);
    let first = mounts();
    assert_eq!(first.len(), 1);
    // Another machine only reads it; what it writes back is what was there.
    build(&two, "FROM base\nRUN --mount=type=cache,target=/c cat /c/f > /dev/null\n", 2000);
    let layer = |mounts: &BTreeMap<String, serde_json::Value>| {
        mounts.values().next().expect("a mount")["layer"].clone()
    };
    assert_eq!(layer(&first), layer(&mounts()));
    build(&one, &text(2, 3000), 2000);
    assert_eq!(layer(&first), layer(&mounts()), "the old one stays");
    let events = one.machine.events.lock().expect("events").clone();
    let text =
        "cache mount /c is not exported: it has 3000 bytes and 2000 are left for cache mounts";
    assert!(events.contains(&BuildEvent::Warning(text.to_owned())), "{events:?}");
    build(&one, "FROM base\nRUN --mount=type=cache,target=/c rm /c/f && echo > /c/g\n", 2000);
    assert_ne!(layer(&first), layer(&mounts()));
}

fn decisions(site: &Site) -> Vec<CacheDecision> {
    let events = site.machine.events.lock().expect("events");
    let decision = |event: &BuildEvent| match event {
        BuildEvent::Cache { decision, .. } => Some(decision.clone()),
        _ => None,
    };
    events.iter().filter_map(decision).collect()
}

fn every_decision_is_explained_and_no_value_is_on_record() {
    let (registry, site) = (Registry::start(), Site::new());
    let place = CachePlace::of_repository(&reference(&registry.name("cache")));
    let explain = |text: &str| -> Vec<String> {
        site.with(text, |options, request| {
            options.build_args.insert("TOKEN".to_owned(), "hunter2".to_owned());
            request.explain_cache = true;
            request.cache_to.push(sink(&place, CacheScope::Max));
            let value = image_builder::SecretBytes::new("hunter3");
            let secret = image_builder::SecretSource::Value(value);
            request.secrets.insert("s".to_owned(), secret);
        });
        decisions(&site).iter().map(ToString::to_string).collect()
    };
    let text = "FROM base\nARG TOKEN\nCOPY src /src\nENV E=1\n\
                RUN --mount=type=secret,id=s cat /run/secrets/s > /dev/null; echo one > /x\n\
                RUN ls\n";
    explain(text);
    let document = registry.document(&registry.name("cache:shipway-cache"));
    assert!(document.contains("env TOKEN") && document.contains("file src/main.c"));
    assert!(!document.contains("hunter"));
    let hits = explain(text);
    assert_eq!(hits, vec!["cache hit from this machine, by chain key"; 3]);
    // The copied file, and with it everything that starts from it.
    std::fs::write(site.context.join("src/main.c"), "int z;").expect("ours");
    std::fs::write(site.context.join("src/added.c"), "int a;").expect("ours");
    std::fs::remove_file(site.context.join("src/deep/y.tmp")).expect("ours");
    let found = explain(text);
    assert_eq!(
        found[0],
        "cache miss: file src/added.c added; file src/main.c changed; file src/deep/y.tmp removed \
         (nearest: COPY src /src)"
    );
    assert!(found[1].starts_with(
        "cache miss: the files below differ: parent step \"COPY src /src\" (nearest: RUN "
    ));
    let found = explain(&text.replace("ENV E=1", "ENV E=2"));
    assert_eq!(found[0], "cache hit from this machine, by chain key");
    assert!(found[1].starts_with("cache miss: env E changed (nearest: RUN "), "{found:?}");
    let found = explain(&text.replace("RUN ls", "RUN ls /"));
    assert_eq!(found[2], "cache miss: command changed from \"RUN ls\" (nearest: RUN ls)");
    // Content that is found, and a cache that is not used.
    let equal = "FROM base\nRUN true\nCOPY src /src\n";
    explain(equal);
    let found = explain(&equal.replace("true", "true 1"));
    assert_eq!(found[1], "cache hit from this machine, by content key");
    site.with(equal, |_, request| {
        request.explain_cache = true;
        request.cache = CacheUse::Ignore;
    });
    assert!(decisions(&site).iter().all(|one| matches!(one, CacheDecision::Miss { .. })));
    // On a clean machine the record comes from the registry.
    let two = Site::new();
    let scratch = "FROM scratch\nCOPY a.txt /\n";
    explain(scratch);
    two.in_context(&site.context, scratch, |_, request| {
        request.explain_cache = true;
        request.cache_from.push(source(&place));
    });
    let from = registry.name("cache:shipway-cache");
    assert_eq!(decisions(&two), [CacheDecision::Hit { from, by: KeyKind::Chain }]);
}

fn pruning_takes_the_old_and_the_too_many_and_leaves_what_is_in_use() {
    let site = Site::new();
    let state = site.machine.root.path().join("state");
    let store = BlobStore::open(state.join("blobs")).expect("a store");
    let caches = LocalCaches::new(state.join("build"), store.clone());
    let text = "FROM scratch\nCOPY a.txt /\nCOPY b.txt /\n";
    let outcome = site.build(text);
    site.build(&format!("FROM base\n{APPEND}\n"));
    let titles = |kind| -> Vec<String> {
        let entries = caches.list().expect("a list");
        entries.into_iter().filter(|e| e.kind == kind).map(|entry| entry.title).collect()
    };
    assert!(titles(CacheKind::Step).contains(&"COPY a.txt /".to_owned()));
    assert_eq!(titles(CacheKind::Mount), ["/c"]);
    let options = PruneOptions { older_than: None, keep_bytes: None, mode: CollectMode::Apply };
    let day = Some(Duration::from_secs(24 * 3600));
    let pruned = caches.prune(&PruneOptions { older_than: day, ..options }).expect("pruned");
    assert!(pruned.removed.is_empty(), "all of it is young");
    let plan = PruneOptions { mode: CollectMode::Plan, ..options };
    let planned = caches.prune(&plan).expect("a plan").removed.len();
    assert_eq!(planned, caches.list().expect("a list").len());
    // A build that uses the mount keeps it.
    let home = std::fs::read_dir(state.join("build/cache-mounts")).expect("mounts");
    let home = home.map(|item| item.expect("a mount").path()).next().expect("one");
    let lock = std::fs::File::options().write(true).open(home.join("0.lock")).expect("a lock");
    lock.lock_shared().expect("free");
    let pruned = caches.prune(&options).expect("pruned");
    assert_eq!(pruned.busy, ["/c"]);
    drop(lock);
    assert!(titles(CacheKind::Step).is_empty());
    // The outcome still holds its layers; afterwards they go.
    let collect = || {
        let options = CollectOptions {
            now: std::time::SystemTime::now() + Duration::from_secs(1),
            delay: Duration::ZERO,
            upload_idle_max: Duration::from_secs(3600),
            mode: CollectMode::Apply,
        };
        store.collect(&options, |_, _| {}).expect("collected").blobs
    };
    collect();
    site.machine.unpack(&outcome, "still there");
    drop(outcome);
    assert_ne!(collect(), 0);
    assert_eq!(caches.prune(&options).expect("pruned").removed.len(), 1);
    assert!(caches.list().expect("a list").is_empty());
    assert_eq!(site.executed(text), 2);
    assert_eq!(lines(&site, 0), 0);
}

fn a_registry_cache_is_listed_and_pruned() {
    let (registry, site) = (Registry::start(), Site::new());
    let place = CachePlace::of_repository(&reference(&registry.name("cache")));
    let name = registry.name("cache:shipway-cache");
    let text = "FROM scratch\nCOPY a.txt /\nCOPY b.txt /\n";
    site.with(text, |_, request| request.cache_to.push(sink(&place, CacheScope::Max)));
    let builder = site.machine.builder(Mode::None);
    let block = |options: PruneOptions| {
        let pruned = builder.prune_cache(&place, &options);
        site.machine.runtime.block_on(pruned).expect("pruned").removed.len()
    };
    let listed = || {
        let listed = site.machine.runtime.block_on(builder.list_cache(&place));
        listed.expect("a list").map(|entries| entries.len())
    };
    assert_eq!(listed(), Some(2));
    let options = PruneOptions { older_than: None, keep_bytes: None, mode: CollectMode::Plan };
    assert_eq!(block(options), 2);
    let before = registry.image(&name).expect("a cache");
    assert_eq!(before.1.len(), 2);
    let apply = PruneOptions { mode: CollectMode::Apply, ..options };
    let largest = {
        let entries = site.machine.runtime.block_on(builder.list_cache(&place));
        entries.expect("a list").expect("a cache").iter().map(|entry| entry.bytes).max()
    };
    assert_eq!(block(PruneOptions { keep_bytes: largest, ..apply }), 1);
    assert_eq!((listed(), registry.image(&name).expect("a cache").1.len()), (Some(1), 1));
    assert_eq!(block(apply), 1);
    assert_eq!(listed(), Some(0));
    let other = CachePlace::of_repository(&reference(&registry.name("none")));
    let none = site.machine.runtime.block_on(builder.list_cache(&other)).expect("no error");
    assert_eq!(none, None);
}

fn a_command_may_show_a_cache_twice_and_stages_lock_several_in_any_order() {
    let site = Site::new();
    let twice = "RUN --mount=type=cache,id=one,target=/a,sharing=locked \
                 --mount=type=cache,id=one,target=/b,sharing=shared \
                 echo twice > /a/f && cat /b/f";
    site.build(&format!("FROM base\n{twice}\n"));
    assert!(site.machine.printed().contains("twice"), "{}", site.machine.printed());
    let stage = |name: &str, first: &str, second: &str| {
        format!(
            "FROM base AS {name}\nRUN --mount=type=cache,id={first},target=/1,sharing=locked \
             --mount=type=cache,id={second},target=/2,sharing=locked echo {name} > /{name}\n"
        )
    };
    let text = format!(
        "{}{}FROM base\nCOPY --from=s /s /\nCOPY --from=t /t /\n",
        stage("s", "x", "y"),
        stage("t", "y", "x")
    );
    assert_eq!(site.executed(&text), 4);
}

fn a_failure_elsewhere_ends_the_wait_for_a_cache() {
    let site = Site::new();
    // The holder ends only when it is killed, so the waiter must not keep the build. Who comes
    // first is left to chance; both orders must end with the failure.
    let text = "FROM base AS holder
RUN --mount=type=cache,id=c,target=/c,sharing=locked echo > /c/held && while true; do sleep 1; done
FROM base AS waiter
RUN --mount=type=cache,id=c,target=/c,sharing=shared true
FROM base AS failing
RUN --mount=type=cache,id=d,target=/d false
FROM base
COPY --from=holder / /h
COPY --from=waiter / /w
COPY --from=failing / /f
";
    let built = site.machine.build(Mode::Overlay, text, &site.context);
    assert!(built.expect_err("a step fails").to_string().contains("false"));
}
