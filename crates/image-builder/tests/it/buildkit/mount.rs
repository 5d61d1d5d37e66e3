//! [mount]: what RUN --mount shows, keeps and forgets.

use container_runtime::Mode;

use super::case;
use crate::tests;

tests![
    a_mount_shows_the_context,
    what_is_written_to_a_tmpfs_is_forgotten,
    misspelt_options_get_a_suggestion,
    an_equal_source_keeps_a_writable_mount_cached,
    caches_have_owner_and_mode,
    caches_are_named_by_their_targets,
    options_take_variables_of_every_scope,
    a_source_takes_no_variable,
    nested_caches_work_in_parallel_stages,
    a_link_in_a_cache_cannot_lead_out_of_it,
    a_link_in_a_bound_stage_cannot_lead_out_of_it,
    a_tmpfs_has_a_size,
    the_same_target_can_be_mounted_twice,
    a_part_of_a_cache_can_be_mounted,
    a_cache_starts_empty_without_cache_and_is_kept,
];

/// BuildKit MountContext.
fn a_mount_shows_the_context() {
    let text = "FROM base\nRUN --mount=target=/context [ \"cat\", \"/context/testfile\" ]\n\
                RUN --mount=target=/f,source=testfile cat /f && ! touch /f\n\
                RUN --mount=target=/context sh -c '! touch /context/new 2>/dev/null'\n";
    let built = case(text).files(&["testfile"]);
    assert!(built.printed().starts_with("testfiletestfile"));
    assert!(built.tree_below("context").is_empty() && built.tree_below("f ").is_empty());
}

/// BuildKit MountTmpfs.
fn what_is_written_to_a_tmpfs_is_forgotten() {
    let text = "FROM base\nRUN --mount=target=/mytmp,type=tmpfs touch /mytmp/foo\n\
                RUN [ ! -f /mytmp/foo ]\nRUN [ ! -d /mytmp ]\n";
    case(text).printed();
}

/// BuildKit MountInvalid.
fn misspelt_options_get_a_suggestion() {
    for (flag, expected) in [
        ("--mont=target=/mytmp,type=tmpfs", "unknown flag: --mont (did you mean mount?)"),
        ("--mount=typ=tmpfs,target=/m", "unexpected key 'typ'"),
        ("--mount=type=tmp,target=/m", "unsupported mount type \"tmp\" (did you mean tmpfs?)"),
        ("--mount=type=tmpfs,target=/", "invalid mount target \"/\""),
        ("--mount=type=secret,id=x,from=base", "secret mount should not have a from"),
    ] {
        let error = case(&format!("FROM base\nRUN {flag} true\n")).error();
        assert!(error.contains(expected), "{flag}: {error}");
    }
}

/// BuildKit MountRWCache.
fn an_equal_source_keeps_a_writable_mount_cached() {
    let text = |n: u32| {
        format!(
            "FROM base AS build\nRUN echo {n} >/dev/null; mkdir /out; echo same > /out/f; touch -d @{n} /out/f\n\
             FROM base\nRUN --mount=type=bind,from=build,source=/out,target=/in,rw \
             echo x > /in/own; cat /in/f > /copy\n"
        )
    };
    assert_eq!(case(&text(1)).cached().executed(), 2);
    assert_eq!(case(&text(1)).cached().executed(), 0);
    assert_eq!(
        case(&text(2)).cached().executed(),
        1,
        "the source ran, what is read of it is equal"
    );
}

/// BuildKit CacheMountUser.
fn caches_have_owner_and_mode() {
    let text = "FROM base\nRUN --mount=type=cache,target=/mycache,uid=1001,gid=1002,mode=0751 \
                stat -c %u:%g:%a /mycache\nRUN [ ! -d /mycache ]\n";
    assert_eq!(case(text).printed(), "1001:1002:751\n");
}

/// BuildKit CacheMountDefaultID.
fn caches_are_named_by_their_targets() {
    let text = "FROM base\nRUN --mount=type=cache,target=/by-target echo one > /by-target/f\n\
                RUN --mount=type=cache,target=/other,id=/by-target cat /other/f\n\
                RUN --mount=type=cache,target=/by-target/ cat /by-target/f\n\
                RUN --mount=type=cache,target=/by-other ls /by-other\n";
    assert_eq!(case(text).cached().printed(), "one\none\n");
}

/// BuildKit MountEnvVar, MountArg, MountEnvAcrossStages, MountMetaArg.
fn options_take_variables_of_every_scope() {
    for (before, after) in [
        ("", "ENV SOME_PATH=/mypath"),
        ("", "ARG SOME_PATH=/mypath"),
        ("ARG SOME_PATH=/mypath\n", "ARG SOME_PATH"),
        ("FROM base AS stage1\nENV SOME_PATH=/mypath\n", ""),
    ] {
        let from = if before.starts_with("FROM") { "stage1" } else { "base" };
        let text = format!(
            "{before}FROM {from}\n{after}\nENV SOME_ID=cache\n\
             RUN --mount=type=cache,id=${{SOME_ID}}1,target=${{SOME_PATH}} touch /mypath/foo\n\
             RUN --mount=type=cache,id=cache1,target=/tmp/x [ -f /tmp/x/foo ]\n\
             RUN --mount=type=tmpfs,target=$SOME_PATH/deep [ -d /mypath/deep ]\n"
        );
        case(&text).cached().printed();
    }
}

/// BuildKit MountFromError.
fn a_source_takes_no_variable() {
    let text = "FROM base AS test\nFROM base\nENV ttt=test\n\
                RUN --mount=from=$ttt,type=cache,target=/tmp/ touch /tmp/x\n";
    let expected = "'from' doesn't support variable expansion, define alias stage instead";
    assert!(case(text).error().contains(expected));
}

/// BuildKit CacheMountParallel.
fn nested_caches_work_in_parallel_stages() {
    let text = "FROM base AS b1\n\
                RUN --mount=type=cache,target=/foo/bar --mount=type=cache,target=/foo/bar/baz echo 1 > /foo/bar/baz/1\n\
                FROM base AS b2\n\
                RUN --mount=type=cache,target=/foo/bar --mount=type=cache,target=/foo/bar/baz echo 2 > /foo/bar/baz/2\n\
                FROM scratch\nCOPY --from=b1 /etc/keep p1\nCOPY --from=b2 /etc/keep p2\n";
    assert_eq!(case(text).cached().tree(), ["p1 644 0:0 keep", "p2 644 0:0 keep"]);
}

/// BuildKit CacheMountSourceEscape.
fn a_link_in_a_cache_cannot_lead_out_of_it() {
    let text = "FROM base\nRUN --mount=type=cache,id=escape,target=/c ln -s / /c/link; ln -s ../../.. /c/up\n";
    case(text).cached().printed();
    for source in ["link", "/link/etc", "up", "up/../../etc"] {
        let text = format!(
            "FROM base\nRUN --mount=type=cache,id=escape,source={source},target=/m ls -a /m; [ ! -e /m/passwd ] && [ ! -e /m/proc ]\n"
        );
        // Refused, or something inside of the cache; never the machine's own files.
        if let Err(error) = case(&text).cached().outcome() {
            assert!(!error.contains("exit code"), "{source}: {error}");
        }
    }
}

/// buildah CVE-2024-1753.
fn a_link_in_a_bound_stage_cannot_lead_out_of_it() {
    for target in ["/", "../../../..", "/proc/1/root"] {
        let text = format!(
            "FROM base AS src\nRUN ln -s {target} /out\nFROM base\n\
             RUN --mount=type=bind,from=src,source=/out,target=/m,rw \
             [ ! -e /m/proc/1/status ] && [ ! -e /m/sys/kernel ]\n"
        );
        // Refused, or something of the stage; never the machine's own files.
        if let Err(error) = case(&text).outcome() {
            assert!(!error.contains("exit code"), "{target}: {error}");
        }
    }
}

/// BuildKit MountTmpfsSize.
fn a_tmpfs_has_a_size() {
    let text = "FROM base\nRUN --mount=type=tmpfs,target=/m,size=128m grep ' /m ' /proc/mounts\n";
    assert!(case(text).printed().contains("size=131072k"));
    let text = "FROM base\nRUN --mount=type=tmpfs,target=/m,size=1m \
                head -c 2000000 /dev/zero > /m/big 2>/dev/null || wc -c < /m/big\n";
    assert_eq!(case(text).printed(), "1048576\n");
}

/// BuildKit MountDuplicate.
fn the_same_target_can_be_mounted_twice() {
    let text = |n: u32| {
        format!(
            "FROM base AS src\nCOPY f{n} /dir/f\nFROM base\n\
             RUN --mount=from=src,source=/dir,target=/a --mount=from=src,source=/dir,target=/a/../b \
             --mount=type=tmpfs,target=/b2 cat /a/f /b/f > /both && cat /both\n"
        )
    };
    let built = case(&text(1)).cached().files(&["f1", "f2"]);
    assert_eq!(built.printed(), "f1f1");
    // Only what is mounted counts: other bytes are another step.
    assert_eq!(built.text(&text(2)).printed(), "f2f2");
}

/// A cache with `source` (builder reference 1.6).
fn a_part_of_a_cache_can_be_mounted() {
    for mode in [Mode::Overlay, Mode::Chroot] {
        let text = format!(
            "FROM base AS seed\nRUN mkdir -p /s/sub && echo deep > /s/sub/f && echo top > /s/g\nFROM base\n\
             RUN --mount=type=cache,id={mode:?},from=seed,source=/s/sub,target=/m cat /m/f && echo n > /m/new\n\
             RUN --mount=type=cache,id={mode:?},target=/m ls /m/s && cat /m/s/sub/new\n\
             RUN --mount=type=cache,id={mode:?},from=seed,source=s,target=/m cat /m/sub/new\n\
             RUN --mount=type=cache,id={mode:?},source=other/deep,target=/m touch /m/x\n\
             RUN --mount=type=cache,id={mode:?},target=/m ls /m /m/other/deep\n"
        );
        let printed = case(&text).in_mode(mode).cached().printed();
        assert_eq!(printed, "deep\nsub\nn\nn\n/m:\nother\ns\n\n/m/other/deep:\nx\n", "{mode:?}");
    }
}

/// BuildKit CacheMountModeNoCache.
fn a_cache_starts_empty_without_cache_and_is_kept() {
    let text = |command: &str| {
        format!("FROM base\nRUN --mount=type=cache,id=nocache,mode=0777,target=/c {command}\n")
    };
    case(&text("echo one > /c/foo")).cached().printed();
    // Without cache it begins empty, whatever its mode says.
    let printed = case(&text("ls /c; stat -c %a /c; echo two > /c/bar")).printed();
    assert_eq!(printed, "777\n");
    assert_eq!(case(&text("ls /c")).cached().printed(), "bar\n");
}
