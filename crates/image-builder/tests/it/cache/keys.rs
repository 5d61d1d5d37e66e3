//! What hits and what does not: kaniko's and BuildKit's cases of the cache.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use image_builder::{CachePlace, CacheScope};

use super::registry::Registry;
use super::{Site, sink, source};
use crate::fixture::reference;
use crate::tests;
use crate::tree::describe;

tests![
    kaniko_cases_rebuild_from_a_cache_to_the_same_image,
    only_the_content_and_mode_of_what_is_read_counts,
    commands_count_with_their_environment_and_not_with_comments_and_labels,
    heredoc_bodies_and_their_borders_count,
    directories_that_a_copy_keeps_count_by_name_and_mode,
    mounted_files_count_by_content,
    an_equal_result_of_an_earlier_stage_hits,
    a_later_step_is_found_when_the_record_of_an_earlier_one_is_lost,
    a_step_is_found_after_one_that_was_executed_again,
    equal_steps_of_several_stages_are_executed_once,
    a_base_that_moved_is_another_base,
    a_linked_copy_survives_another_base,
    caches_of_diamonds_end,
    nothing_is_held_after_a_build,
];

/// Names of kaniko's integration Dockerfiles (`Dockerfile_test_` left out) with what they are
/// about, in our words.
const KANIKO: &[(&str, &str)] = &[
    ("cache", "FROM base\nCOPY a.txt /a\nRUN cat /a > /b\n"),
    (
        "cache_install",
        "FROM base\nWORKDIR /tmp\nRUN mkdir -p /opt/x && echo 1 > /opt/x/y\nCOPY a.txt .\n",
    ),
    (
        "cache_copy",
        "FROM base AS temp\nRUN echo hey > /tmp/foo\nFROM base\nCOPY --from=temp /tmp/foo /tmp/foo2\n",
    ),
    (
        "cache_perm",
        "FROM base\nCOPY --chmod=4755 script.sh /s\nRUN touch /t && chmod 6711 /t && mkdir /d && chmod 1770 /d\n",
    ),
    ("deleted_file_cached", "FROM base\nRUN touch /d\nRUN rm /d /etc/gone\nCOPY a.txt /\n"),
    (
        "issue_704",
        "FROM base AS one\nRUN mkdir -p /x && touch /x/a /x/b\nRUN rm /x/a\nFROM one\nRUN ls /x > /l\n",
    ),
    ("issue_empty", "FROM base\nRUN true\nRUN true && true\n"),
    ("issue_workdir", "FROM base\nWORKDIR /app\nWORKDIR sub\nRUN pwd > /where\n"),
    ("issue_mz637", "FROM base\nWORKDIR /new/dir\nCOPY a.txt .\n"),
    ("issue_mz793", "FROM base\nVOLUME /vol\nWORKDIR /vol\nRUN echo x > file\n"),
    (
        "issue_3429",
        "FROM base\nRUN ln -s /tmp /link\nRUN rm /link && mkdir /link && touch /link/x\n",
    ),
    (
        "issue_mz334",
        "FROM base AS a\nRUN echo x > /x\nFROM base AS b\nRUN echo x > /x\nFROM base\nCOPY --from=a /x /a\nCOPY --from=b /x /b\n",
    ),
    (
        "issue_mz655",
        "FROM base AS a\nRUN echo x > /x\nFROM a AS b\nRUN cat /x > /y\nFROM base\nCOPY --from=b /y /y\nRUN cat /y\n",
    ),
    (
        "issue_mz896",
        "FROM base AS a\nCOPY src /src\nFROM base AS b\nCOPY --from=a /src /src\nFROM b\nRUN ls /src\n",
    ),
    (
        "issue_mz960",
        "FROM base AS a\nARG V=1\nRUN echo $V > /v\nFROM scratch\nCOPY --from=a /v /v\n",
    ),
    ("issue_mz774", "FROM base AS a\nRUN rm /etc/gone\nFROM base\nCOPY --from=a /etc /etc2\n"),
    (
        "issue_mz782",
        "FROM base AS a\nRUN echo 1 > /1\nFROM base\nRUN echo 2 > /2\nCOPY --from=a /1 /1\n",
    ),
    ("issue_mz787", "FROM base AS a\nCOPY a.txt /a\nFROM a\nCOPY --from=a /a /b\n"),
    (
        "issue_mz789",
        "FROM base AS a\nRUN mkdir /e\nFROM base\nCOPY --from=a /e /e\nRUN touch /e/f\n",
    ),
    ("issue_add", "FROM base\nADD plain.tar /t/\nADD packed.tgz /t2/\nADD a.txt /\n"),
    ("issue_mz879", "FROM base\nRUN --mount=type=bind,source=src,target=/m cp /m/main.c /c\n"),
];

fn kaniko_cases_rebuild_from_a_cache_to_the_same_image() {
    let registry = Registry::start();
    let (one, two, three) = (Site::new(), Site::new(), Site::new());
    // All machines have the same base: those that they make themselves differ in times.
    let base = format!("FROM {}", one.share_base(&registry));
    let remote = CachePlace::of_repository(&reference(&registry.name("cache")));
    let layout = CachePlace::of_layout(one.machine.root.path().join("layout"));
    for (name, text) in KANIKO {
        let text = &text.replace("FROM base", &base);
        let first = one.with(text, |_, request| {
            request.cache_to.push(sink(&remote, CacheScope::Max));
            request.cache_to.push(sink(&layout, CacheScope::Max));
        });
        assert_ne!(first.steps_executed, 0, "{name}");
        let twice = one.build(text);
        assert_eq!(twice.steps_executed, 0, "{name} on the same machine");
        assert_eq!(twice.manifest.digest(), first.manifest.digest(), "{name}");
        let files = describe(&one.machine.unpack(&first, name));
        for (site, place) in [(&two, &remote), (&three, &layout)] {
            let other = site.in_context(&one.context, text, |_, r| {
                r.cache_from.push(source(place));
            });
            assert_eq!(other.steps_executed, 0, "{name} on another machine from {place}");
            assert_eq!(other.manifest.digest(), first.manifest.digest(), "{name}");
            assert_eq!(describe(&site.machine.unpack(&other, name)), files, "{name}");
        }
    }
}

fn only_the_content_and_mode_of_what_is_read_counts() {
    let site = Site::new();
    let text = "FROM base\nCOPY *.txt src /t/\nRUN echo x > /y\n";
    let executed = |change: &dyn Fn(&Path)| {
        change(&site.context);
        site.executed(text)
    };
    let mode = |path: &str, mode: u32| {
        let path = site.context.join(path);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    assert_eq!(executed(&|_| {}), 2);
    let touch = |c: &Path| {
        let file = std::fs::File::options().append(true).open(c.join("a.txt")).expect("ours");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("ours");
    };
    assert_eq!(executed(&touch), 0, "another time");
    let owner = |c: &Path| std::os::unix::fs::chown(c.join("a.txt"), Some(7), Some(7));
    assert_eq!(executed(&|c| owner(c).expect("root")), 0, "another owner in the context");
    assert_eq!(executed(&|c| std::fs::write(c.join("new.md"), "x").expect("ours")), 0, "not read");
    assert_eq!(executed(&|_| mode("a.txt", 0o600)), 2, "another mode");
    assert_eq!(executed(&|c| std::fs::write(c.join("src/deep/x.h"), "y").expect("ours")), 2);
    let rename = |c: &Path| std::fs::rename(c.join("a.txt"), c.join("d.txt")).expect("ours");
    assert_eq!(executed(&rename), 2, "another name");
    assert_eq!(executed(&|c| std::fs::remove_file(c.join("d.txt")).expect("ours")), 2, "one less");
}

fn commands_count_with_their_environment_and_not_with_comments_and_labels() {
    let site = Site::new();
    let executed = |text: &str| site.executed(text);
    assert_eq!(executed("FROM base\nARG A=1\nENV E=1\nLABEL l=1\nRUN echo > /x\n"), 1);
    let hits = [
        "FROM base\n# a comment\nARG A=1\n\nENV   E=1\nLABEL l=1\nRUN   echo > /x\n",
        "FROM base\nLABEL l=2 m=3\nENV E=1\nARG A=1\nRUN echo > /x\nEXPOSE 80\n",
    ];
    for text in hits {
        assert_eq!(executed(text), 0, "{text}");
    }
    let misses = [
        "FROM base\nARG A=2\nENV E=1\nRUN echo > /x\n",
        "FROM base\nARG A=1\nENV E=2\nRUN echo > /x\n",
        "FROM base\nARG A=1\nARG B=1\nENV E=1\nRUN echo > /x\n",
        "FROM base\nARG A=1\nENV E=1\nUSER app\nRUN echo > /tmp/../home/app/x || true\n",
        "FROM base\nARG A=1\nENV E=1\nRUN echo  > /x\n",
    ];
    for text in misses {
        assert_eq!(executed(text), 1, "{text}");
    }
}

fn directories_that_a_copy_keeps_count_by_name_and_mode() {
    let site = Site::new();
    let text = "FROM base\nCOPY --parents packages/*/package.json /app/\n";
    let at = |name: &str| site.context.join("packages").join(name);
    std::fs::create_dir_all(at("pkg-a")).expect("a directory");
    std::fs::write(at("pkg-a/package.json"), "{}").expect("a file");
    assert_eq!(site.executed(text), 1);
    assert_eq!(site.executed(text), 0);
    std::fs::rename(at("pkg-a"), at("pkg-b")).expect("ours");
    let renamed = site.build(text);
    assert_eq!(renamed.steps_executed, 1);
    let files = site.machine.unpack(&renamed, "renamed");
    assert!(files.join("app/packages/pkg-b/package.json").exists());
    assert!(!files.join("app/packages/pkg-a").exists());
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(at("pkg-b"), mode).expect("ours");
    assert_eq!(site.executed(text), 1);
}

fn heredoc_bodies_and_their_borders_count() {
    let site = Site::new();
    let file = |body: &str| format!("FROM base\nCOPY <<EOF /x\n{body}\nEOF\n");
    assert_eq!(site.executed(&file("one")), 1);
    assert_eq!(site.executed(&file("two")), 1);
    assert_eq!(site.executed(&file("one")), 0);
    let run = |body: &str| format!("FROM base\nRUN <<EOF\necho {body} > /x\nEOF\n");
    assert_eq!((site.executed(&run("one")), site.executed(&run("two"))), (1, 1));
    // What moves from one file to the next is another pair of files.
    let pair = |a: &str, b: &str| format!("FROM base\nCOPY <<A <<B /d/\n{a}\nA\n{b}\nB\n");
    let (one, two) = (site.build(&pair("x\ny", "z")), site.build(&pair("x", "y\nz")));
    assert_eq!((one.steps_executed, two.steps_executed), (1, 1));
    assert_ne!(one.image.rootfs, two.image.rootfs);
}

fn mounted_files_count_by_content() {
    let site = Site::new();
    let text = "FROM base\nRUN --mount=type=bind,source=src,target=/m cat /m/main.c > /c\n";
    assert_eq!(site.executed(text), 1);
    let path = site.context.join("src/main.c");
    let bytes = std::fs::read(&path).expect("a file");
    std::fs::write(&path, &bytes).expect("ours");
    assert_eq!(site.executed(text), 0, "another time");
    std::fs::write(&path, "int y;").expect("ours");
    assert_eq!(site.executed(text), 1);
    // Of a stage that was built again with the same files.
    let text = |n: u32| {
        format!(
            "FROM base AS one\nRUN echo {n} > /n && mkdir /d && echo same > /d/s\n\
             FROM base\nRUN --mount=type=bind,from=one,source=/d,target=/m,rw cat /m/s > /t\n"
        )
    };
    assert_eq!((site.executed(&text(1)), site.executed(&text(2))), (2, 1));
}

fn an_equal_result_of_an_earlier_stage_hits() {
    let site = Site::new();
    let text = |n: u32, mode: &str| {
        format!(
            "FROM base AS one\nRUN echo {n} > /n && echo same > /same && chmod {mode} /same\n\
             FROM base\nCOPY --from=one /same /s\nRUN cat /s > /t\n"
        )
    };
    assert_eq!(site.executed(&text(1, "644")), 3);
    assert_eq!(site.executed(&text(2, "644")), 1);
    assert_eq!(site.executed(&text(2, "600")), 3, "a mode in a stage counts");
}

fn a_later_step_is_found_when_the_record_of_an_earlier_one_is_lost() {
    let site = Site::new();
    let steps = site.machine.root.path().join("state/build/cache/steps");
    let files = || -> Vec<_> {
        let list = |path: &Path| -> Vec<_> {
            let items = std::fs::read_dir(path).into_iter().flatten();
            items.map(|item| item.expect("an item").path()).collect()
        };
        list(&steps).iter().flat_map(|path| list(path)).collect()
    };
    let before = files();
    let first = site.build("FROM base\nRUN echo 1 > /1\n");
    let of_first: Vec<_> = files().into_iter().filter(|file| !before.contains(file)).collect();
    assert!(!of_first.is_empty());
    let text = "FROM base\nRUN echo 1 > /1\nRUN echo 2 > /2\n";
    let whole = site.build(text);
    assert_eq!((first.steps_executed, whole.steps_executed), (1, 1));
    for file in of_first {
        std::fs::remove_file(file).expect("ours");
    }
    let again = site.build(text);
    assert_eq!(again.steps_executed, 0);
    assert_eq!(again.manifest.digest(), whole.manifest.digest());
}

fn a_step_is_found_after_one_that_was_executed_again() {
    let site = Site::new();
    // The first command differs and changes nothing, so the second starts from the same files.
    let text = |n: u32| format!("FROM base\nRUN test {n}\nRUN echo x > /x\nCOPY a.txt /\n");
    assert_eq!(site.executed(&text(1)), 3);
    assert_eq!(site.executed(&text(2)), 1);
    assert_eq!(site.executed(&text(2)), 0);
}

fn equal_steps_of_several_stages_are_executed_once() {
    let site = Site::new();
    let text = "FROM base AS a\nRUN echo x > /x\nFROM base AS b\nRUN echo x > /x\n\
                FROM base\nCOPY --from=a /x /a\nCOPY --from=b /x /b\n";
    let outcome = site.build(text);
    assert_eq!((outcome.steps_executed, outcome.steps_cached), (3, 1));
}

fn a_base_that_moved_is_another_base() {
    let site = Site::new();
    let text = "FROM moving\nRUN echo x > /x\n";
    let keep = |n: u32| {
        let outcome = site.build(&format!("FROM base\nCOPY <<EOF /n\n{n}\nEOF\n"));
        site.machine.keep(&outcome, "moving");
    };
    keep(1);
    assert_eq!((site.executed(text), site.executed(text)), (1, 0));
    keep(2);
    assert_eq!(site.executed(text), 1);
    keep(1);
    assert_eq!(site.executed(text), 0);
}

fn a_linked_copy_survives_another_base() {
    let site = Site::new();
    let text = |n: u32| format!("FROM base\nRUN echo {n} > /n\nCOPY --link a.txt /a\n");
    assert_eq!(site.executed(&text(1)), 2);
    assert_eq!(site.executed(&text(2)), 1);
}

fn caches_of_diamonds_end() {
    let site = Site::new();
    let place = CachePlace::of_layout(site.machine.root.path().join("layout"));
    let text = "FROM base AS top\nRUN echo 1 > /1\nFROM top AS left\nRUN echo 2 > /2\n\
                FROM top AS right\nRUN echo 3 > /3\nFROM left\nCOPY --from=right /3 /3\n\
                COPY --from=top /1 /4\n";
    let first = site.with(text, |_, r| r.cache_to.push(sink(&place, CacheScope::Max)));
    assert_eq!(first.steps_executed, 5);
    let second = site.with(text, |_, r| r.cache_from.push(source(&place)));
    assert_eq!((second.steps_executed, second.steps_cached), (0, 5));
    assert_eq!(first.manifest.digest(), second.manifest.digest());
}

fn nothing_is_held_after_a_build() {
    let site = Site::new();
    let outcome = site.build("FROM base\nRUN echo x > /x\n");
    drop(outcome);
    let count = |path: &str| {
        let path = site.machine.root.path().join("state").join(path);
        std::fs::read_dir(path).map_or(0, Iterator::count)
    };
    assert_eq!((count("blobs/leases"), count("blobs/staging"), count("build/work")), (0, 0, 0));
}
