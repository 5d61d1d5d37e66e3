//! Group "Extraction/snapshot": what of a base reaches commands, and what of a command the image.

use layers::{Entry, EntryKind};

use super::dockerfile;
use super::spec::archive;
use crate::tests;

tests![
    files_of_every_kind_reach_commands_and_the_image,
    layers_replace_and_fill_what_lower_ones_have,
    hard_links_made_by_a_command_are_one_file,
    replacing_one_name_of_a_file_leaves_the_others,
    links_can_be_replaced_by_anything_and_anything_by_links,
    a_link_that_was_removed_and_made_again_is_there,
    what_an_installer_leaves_is_kept_and_what_it_removes_is_not,
    the_mode_of_the_root_is_kept,
    everything_that_is_not_ignored_is_copied,
    a_link_to_a_device_is_a_link,
    names_after_a_linked_directory_are_kept,
    a_path_that_existed_before_the_build_is_not_taken_for_the_images,
    equal_layers_stay_apart,
    a_volume_is_config_and_its_files_are_kept,
    files_that_are_made_and_removed_leave_nothing,
];

fn files_of_every_kind_reach_commands_and_the_image() {
    let mut null = Entry::new("odd/null", EntryKind::CharDevice { major: 1, minor: 3 }, 0o666);
    null.gid = 5;
    let tree = archive(&[
        (Entry::directory("odd", 0o1777), ""),
        (Entry::file("odd/setuid", 0o6755, 1), "s"),
        (Entry::new("odd/fifo", EntryKind::Fifo, 0o620), ""),
        (null, ""),
        (Entry::symlink("odd/link", "../etc/keep"), ""),
        (Entry::new("odd/hard", EntryKind::Hardlink { target: "odd/setuid".into() }, 0o6755), ""),
        (Entry::file("odd/näme with blank", 0o600, 1), "n"),
    ]);
    dockerfile("FROM base\nADD tree.tar /\n").file("tree.tar", tree).keep("odd");
    dockerfile(
        "FROM odd
RUN cd /odd && test -p fifo && test -c null && test -u setuid && test -g setuid && \
    test -k . && cat link && test hard -ef setuid && cat 'näme with blank'
",
    )
    .build()
    .prints("keep\nn")
    .own_layers(1)
    .is("/odd", "dir 1777 0:0")
    .is("/odd/setuid", "file 6755 0:0")
    .is("/odd/fifo", "fifo 620 0:0")
    .is("/odd/null", "device 666 0:5")
    .one_file(&["/odd/setuid", "/odd/hard"]);
}

fn layers_replace_and_fill_what_lower_ones_have() {
    dockerfile(
        "FROM base
RUN mkdir /a && touch /a/one && mkdir /b && touch /b/one && touch /c
RUN touch /a/two && rm -r /b && touch /b && rm /c && mkdir /c && touch /c/one
RUN rm /a/one && rm /b && mkdir -m 700 /b && touch /b/new && rm -r /c && ln -s a /c
",
    )
    .keep("changing");
    dockerfile("FROM changing\nCOPY a.txt /a/\nRUN ls /a /b /c\n")
        .build()
        .prints("/a:\na.txt\ntwo\n\n/b:\nnew\n\n/c:\na.txt\ntwo\n")
        .directory("/a", &["a.txt", "two"])
        .directory("/b", &["new"])
        .is("/b", "dir 700 0:0")
        .links("/c", "a");
}

fn hard_links_made_by_a_command_are_one_file() {
    dockerfile(
        "FROM base
RUN echo x > /one && ln /one /two && mkdir /d && ln /two /d/three
RUN ln /etc/keep /etc/kept
",
    )
    .build()
    .one_file(&["/one", "/two", "/d/three"])
    .one_file(&["/etc/keep", "/etc/kept"])
    .holds("/etc/kept", "keep\n");
}

fn replacing_one_name_of_a_file_leaves_the_others() {
    dockerfile("FROM base\nRUN mkdir /h && echo old > /h/a && ln /h/a /h/b && ln /h/a /h/c\n")
        .keep("names");
    dockerfile("FROM names\nRUN rm /h/b && echo new > /h/b\n")
        .build()
        .holds("/h/a", "old\n")
        .holds("/h/b", "new\n")
        .holds("/h/c", "old\n");
    dockerfile("FROM names\nRUN rm /h/a && ln -s c /h/a\n")
        .build()
        .links("/h/a", "c")
        .holds("/h/b", "old\n")
        .holds("/h/c", "old\n");
    dockerfile("FROM names\nRUN echo more >> /h/b\nRUN cat /h/b\n")
        .build()
        .holds("/h/b", "old\nmore\n");
}

fn links_can_be_replaced_by_anything_and_anything_by_links() {
    dockerfile(
        "FROM base
RUN mkdir /t && touch /t/x && ln -s t /to-file && ln -s t /to-dir && ln -s t /to-link && echo f > /f && mkdir /d && touch /d/y
RUN rm /to-file && echo file > /to-file && rm /to-dir && mkdir /to-dir && touch /to-dir/own && \
    ln -sfn /etc /to-link && rm /f && ln -s t /f && rm -r /d && ln -s t /d
",
    )
    .build()
    .holds("/to-file", "file\n")
    .directory("/to-dir", &["own"])
    .links("/to-link", "/etc")
    .links("/f", "t")
    .links("/d", "t")
    .directory("/t", &["x"]);
}

fn a_link_that_was_removed_and_made_again_is_there() {
    dockerfile(
        "FROM base AS one
RUN echo 1 > /lib/bsd.so.1 && ln -s bsd.so.1 /lib/bsd.so
RUN rm /lib/bsd.so /lib/bsd.so.1
RUN echo 1 > /lib/bsd.so.1 && ln -s bsd.so.1 /lib/bsd.so
FROM one
RUN cat /lib/bsd.so
",
    )
    .build()
    .prints("1\n")
    .links("/usr/lib/bsd.so", "bsd.so.1");
}

fn what_an_installer_leaves_is_kept_and_what_it_removes_is_not() {
    let built = dockerfile(
        "FROM base
RUN mkdir -p /var/lib/lists /var/cache/archives && touch /var/lib/lists/a /var/cache/archives/b && \
    mkdir -p /usr/share/doc/tool && echo doc > /usr/share/doc/tool/copyright && \
    cp /bin/busybox /usr/bin/agent && chown root:extra /usr/bin/agent && chmod 2755 /usr/bin/agent && \
    ln -s agent /usr/bin/alias && rm -rf /var/lib/lists/* /var/cache/archives
",
    )
    .build();
    built
        .is("/usr/bin/agent", "file 2755 0:50")
        .links("/usr/bin/alias", "agent")
        .holds("/usr/share/doc/tool/copyright", "doc\n")
        .directory("/var/lib/lists", &[])
        .directory("/var/cache", &[]);
    assert!(built.layer(0).iter().all(|entry| !entry.contains(".wh.")), "{:?}", built.layer(0));
}

fn the_mode_of_the_root_is_kept() {
    let tree = archive(&[(Entry::directory("", 0o700), ""), (Entry::file("x", 0o644, 1), "x")]);
    // The entry for the root of an added archive says nothing about the destination.
    dockerfile("FROM base\nADD tree.tar /\nRUN touch /y\n")
        .file("tree.tar", tree)
        .build()
        .is("/", "dir 755 0:0")
        .top_layer(&["y"]);
}

fn everything_that_is_not_ignored_is_copied() {
    dockerfile("FROM base\nWORKDIR /w\nCOPY . .\nRUN ls -A && rm a\n")
        .file(".dockerignore", "b\n")
        .file("a", "")
        .file("b", "")
        .file("c/b", "")
        .build()
        .prints(".dockerignore\na\nc\n")
        .directory("/w", &[".dockerignore", "c"])
        .directory("/w/c", &["b"]);
}

fn a_link_to_a_device_is_a_link() {
    dockerfile("FROM base\nRUN ln -s /dev/null /silent && ln -s /proc/self/fd /fds\n")
        .build()
        .top_layer(&["fds -> /proc/self/fd", "silent -> /dev/null"])
        .links("/silent", "/dev/null");
}

fn names_after_a_linked_directory_are_kept() {
    dockerfile(
        "FROM base AS one
RUN rm /var/run && mkdir -p /run && ln -s /run /var/run && touch /var/run/x
RUN mkdir -p /var/www /var/zzz
FROM one
RUN test -d /var/www && test -d /var/zzz && test -e /run/x
",
    )
    .build()
    .is("/var/www", "dir 755 0:0")
    .links("/var/run", "/run")
    .directory("/run", &["x"]);
}

fn a_path_that_existed_before_the_build_is_not_taken_for_the_images() {
    // In place the root of the executor has an /etc of its own before the base is unpacked, and
    // the build before this one left its files in it.
    dockerfile("FROM base\nRUN mkdir -p /etc/apk && touch -a /etc/apk/world\n").build();
    dockerfile("FROM base\nRUN mkdir -p /etc/apk && touch -a /etc/apk/world /etc/apk/other\n")
        .build()
        .directory("/etc/apk", &["other", "world"])
        .top_layer(&["etc/", "etc/apk/", "etc/apk/other", "etc/apk/world"]);
}

fn equal_layers_stay_apart() {
    let built = dockerfile("FROM base\nCOPY a.txt /x\nCOPY b.txt /x\nCOPY a.txt /x\nRUN cat /x\n")
        .with(|_, request| request.epoch = Some(1))
        .build();
    let oci_model::Manifest::Image(image) = built.outcome.manifest.parsed() else {
        panic!("an index")
    };
    let digests: Vec<_> = image.layers.iter().rev().map(|layer| layer.digest).take(3).collect();
    assert_eq!(digests[0], digests[2]);
    assert_ne!(digests[0], digests[1]);
    built.own_layers(3).prints("a").holds("/x", "a");
}

fn a_volume_is_config_and_its_files_are_kept() {
    dockerfile(
        "FROM base
RUN mkdir /before && echo b > /before/b
VOLUME /before /after
VOLUME [\"/blank here\"]
RUN echo more > /before/more && mkdir /after && echo a > /after/a
COPY a.txt /after/
RUN cat /before/more /after/a && rm /before/b
",
    )
    .keep("volumes");
    dockerfile("FROM volumes\nRUN ls /before /after && echo c > /after/c\nCOPY b.txt /before/\n")
        .build()
        .prints("/after:\na\na.txt\n\n/before:\nmore\n")
        .directory("/before", &["b.txt", "more"])
        .directory("/after", &["a", "a.txt", "c"])
        .lacks("/blank here")
        .config(
            "/config/Volumes",
            &serde_json::json!({"/before": {}, "/after": {}, "/blank here": {}}),
        );
}

fn files_that_are_made_and_removed_leave_nothing() {
    dockerfile("FROM base\nRUN touch /tmp/x /etc/y && mkdir /z && rm -r /tmp/x /etc/y /z\n")
        .build()
        .lacks("/tmp/x")
        .lacks("/z");
}
