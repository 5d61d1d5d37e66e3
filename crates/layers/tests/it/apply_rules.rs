//! Rules of the image specification for applying layers, one claim per test.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use layers::{Entry, EntryKind, RootEntry, Whiteouts};

use crate::describe::{apply, archive, at, lines, options, tree, written};

fn check(layers: &[&str], expected: &str) {
    let root = tempfile::tempdir().unwrap();
    for layer in layers {
        apply(&archive(layer), root.path(), Whiteouts::Remove);
    }
    assert_eq!(tree(root.path()), lines(expected));
}

#[test]
fn makes_every_kind_of_entry() {
    check(
        &["
        dir a/ 750 1:2
        file a/plain 640 3:4 'text'
        file a/setuid 4755 5:6 'run'
        dir tmp/ 1777 0:0
        link a/soft 777 0:0 /etc/passwd
        hard a/hard 640 3:4 a/plain
        fifo a/pipe 600 0:0
        char a/null 666 0:0
        "],
        "
        dir a 750 1:2
        file a/hard 640 3:4 'text'
        char a/null 666 0:0 259
        fifo a/pipe 600 0:0
        file a/plain 640 3:4 'text'
        file a/setuid 4755 5:6 'run'
        link a/soft -> /etc/passwd
        dir tmp 1777 0:0
        ",
    );
}

#[test]
fn removal_deletes_lower_names_and_spares_the_layers_own() {
    for order in [
        "dir d/ 755 0:0\nfile d/.wh.gone 0 0:0\nfile d/kept 644 0:0 'new'\nfile d/.wh.kept 0 0:0",
        "dir d/ 755 0:0\nfile d/.wh.kept 0 0:0\nfile d/kept 644 0:0 'new'\nfile d/.wh.gone 0 0:0",
    ] {
        check(
            &["dir d/ 755 0:0\nfile d/gone 644 0:0 'x'\nfile d/kept 644 0:0 'old'", order],
            "dir d 755 0:0\nfile d/kept 644 0:0 'new'",
        );
    }
}

#[test]
fn opaque_marker_hides_lower_children_wherever_it_stands() {
    let lower = "
        dir d/ 755 0:0
        file d/old 644 0:0 'x'
        dir d/sub/ 755 0:0
        file d/sub/old 644 0:0 'x'
    ";
    let marker = "file d/.wh..wh..opq 0 0:0\n";
    let new = "file d/new 644 0:0 'n'\ndir d/sub/ 700 0:0\nfile d/sub/new 644 0:0 'n'\n";
    for upper in
        [format!("dir d/ 755 0:0\n{marker}{new}"), format!("dir d/ 755 0:0\n{new}{marker}")]
    {
        check(
            &[lower, &upper],
            "
            dir d 755 0:0
            file d/new 644 0:0 'n'
            dir d/sub 700 0:0
            file d/sub/new 644 0:0 'n'
            ",
        );
    }
}

#[test]
fn removal_of_what_is_not_there_is_no_error() {
    check(&["file no/where/.wh.x 0 0:0\nfile .wh.y 0 0:0"], "");
}

#[test]
fn entries_replace_what_is_of_another_kind() {
    check(
        &[
            "dir a/ 755 0:0\nfile a/x 644 0:0 '1'\nfile b 644 0:0 '2'\nlink c 777 0:0 a",
            "file a 644 0:0 'file'\ndir b/ 755 0:0\nfile b/y 644 0:0 'y'\ndir c/ 755 0:0",
        ],
        "file a 644 0:0 'file'\ndir b 755 0:0\nfile b/y 644 0:0 'y'\ndir c 755 0:0",
    );
}

#[test]
fn existing_directory_takes_new_metadata_and_keeps_children() {
    check(
        &["dir a/ 755 0:0\nfile a/x 644 0:0 '1'", "dir a/ 700 7:8"],
        "dir a 700 7:8\nfile a/x 644 0:0 '1'",
    );
}

#[test]
fn last_of_two_entries_for_one_path_wins() {
    check(
        &["file x 644 0:0 'one'\nfile x 600 0:0 'two'\nlink y 777 0:0 x\nfile y 644 0:0 'file'"],
        "file x 600 0:0 'two'\nfile y 644 0:0 'file'",
    );
}

#[test]
fn parents_that_nobody_described_are_plain_directories() {
    let root = tempfile::tempdir().unwrap();
    let applied = apply(&archive("file a/b/c 644 0:0 'x'"), root.path(), Whiteouts::Remove);
    assert_eq!(tree(root.path()), "dir a 755 0:0\ndir a/b 755 0:0\nfile a/b/c 644 0:0 'x'\n");
    assert_eq!(applied.implied_directories, [Path::new("a"), Path::new("a/b")]);
}

#[test]
fn entries_go_through_links_of_lower_layers_within_the_root() {
    check(
        &[
            "dir usr/ 755 0:0\ndir usr/bin/ 755 0:0\nlink bin 777 0:0 /usr/bin",
            "file bin/sh 755 0:0 'sh'",
        ],
        "link bin -> /usr/bin\ndir usr 755 0:0\ndir usr/bin 755 0:0\nfile usr/bin/sh 755 0:0 'sh'",
    );
}

#[test]
fn times_are_set_on_directories_after_their_children() {
    let root = tempfile::tempdir().unwrap();
    let mut directory = Entry::directory("d", 0o755);
    directory.mtime = at(1_000);
    let mut file = Entry::file("d/f", 0o644, 1);
    file.mtime = at(2_000);
    let mut link = Entry::symlink("d/l", "f");
    link.mtime = at(3_000);
    let mut top = Entry::directory("", 0o711);
    top.mtime = at(4_000);
    let tar = written(&[(top, b""), (directory, b""), (file, b"x"), (link, b"")]);
    apply(&tar, root.path(), Whiteouts::Remove);
    let mtime = |path: &str| fs::symlink_metadata(root.path().join(path)).unwrap().mtime();
    assert_eq!([mtime("d"), mtime("d/f"), mtime("d/l"), mtime("")], [1_000, 2_000, 3_000, 4_000]);
    assert_eq!(fs::metadata(root.path()).unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn root_entry_can_be_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let before = fs::metadata(root.path()).unwrap();
    let tar = written(&[(Entry::directory("", 0o777), b"")]);
    let options =
        layers::ApplyOptions { root_entry: RootEntry::Ignore, ..options(Whiteouts::Literal) };
    layers::apply(&tar[..], root.path(), &options).unwrap();
    assert_eq!(fs::metadata(root.path()).unwrap().mode(), before.mode());
}

#[test]
fn capabilities_survive_the_change_of_owner() {
    let root = tempfile::tempdir().unwrap();
    let mut file = Entry::file("ping", 0o755, 3);
    file.uid = 12;
    let value = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.xattrs.insert("security.capability".into(), value.to_vec());
    file.xattrs.insert("user.note".into(), b"a\nb=c\0d".to_vec());
    let tar = written(&[(file, b"elf")]);
    let applied = apply(&tar, root.path(), Whiteouts::Remove);
    assert_eq!(applied.skipped, []);
    let get = |key: &str| {
        let mut bytes = [0; 64];
        let length = rustix::fs::getxattr(root.path().join("ping"), key, &mut bytes[..]).unwrap();
        bytes[..length].to_vec()
    };
    assert_eq!(get("security.capability"), value);
    assert_eq!(get("user.note"), b"a\nb=c\0d");
}

#[test]
fn attributes_of_overlayfs_are_never_taken_from_an_archive() {
    let root = tempfile::tempdir().unwrap();
    let mut directory = Entry::directory("d", 0o755);
    for key in ["trusted.overlay.opaque", "user.overlay.opaque", "trusted.overlay.redirect"] {
        directory.xattrs.insert(key.into(), b"y".to_vec());
    }
    let tar = written(&[(directory, b"")]);
    let applied = apply(&tar, root.path(), Whiteouts::OverlayBoth);
    assert_eq!(applied.skipped.len(), 3);
    let mut list = [0; 256];
    let length = rustix::fs::listxattr(root.path().join("d"), &mut list[..]).unwrap();
    assert_eq!(&list[..length], b"");
}

#[test]
fn overlay_forms_mark_removed_names_and_opaque_directories() {
    let root = tempfile::tempdir().unwrap();
    let layer = "
        dir d/ 755 0:0
        file d/.wh.gone 0 0:0
        dir o/ 755 0:0
        file o/new 644 0:0 'n'
        file o/.wh..wh..opq 0 0:0
        file .wh.swapped 0 0:0
        dir swapped/ 700 0:0
        file .wh.file 0 0:0
        file file 644 0:0 'f'
        dir late/ 755 0:0
        file .wh.late 0 0:0
    ";
    apply(&archive(layer), root.path(), Whiteouts::OverlayBoth);
    assert_eq!(
        tree(root.path()),
        lines(
            "
            dir d 755 0:0
            char d/gone 600 0:0 0
            file file 644 0:0 'f'
            dir late 755 0:0
            dir o 755 0:0
            file o/new 644 0:0 'n'
            dir swapped 700 0:0
            "
        )
    );
    let opaque = |path: &str| {
        ["trusted.overlay.opaque", "user.overlay.opaque"]
            .map(|key| rustix::fs::getxattr(root.path().join(path), key, &mut [0; 8][..]).is_ok())
    };
    for path in ["o", "swapped", "late"] {
        assert_eq!(opaque(path), [true, true], "{path}");
    }
    assert_eq!(opaque("d"), [false, false]);
}

#[test]
fn literal_archives_keep_marker_names() {
    let root = tempfile::tempdir().unwrap();
    apply(&archive("file .wh.x 644 0:0 'x'"), root.path(), Whiteouts::Literal);
    assert_eq!(tree(root.path()), "file .wh.x 644 0:0 'x'\n");
}

#[test]
fn hard_links_share_one_inode_whatever_thread_made_it() {
    let root = tempfile::tempdir().unwrap();
    let mut layer = String::new();
    for at in 0..200 {
        layer.push_str(&format!("file d{at}/f 644 0:0 'c{at}'\nhard e{at}/g 644 0:0 d{at}/f\n"));
    }
    apply(&archive(&layer), root.path(), Whiteouts::Remove);
    for at in 0..200 {
        let inode = |path: String| fs::metadata(root.path().join(path)).unwrap().ino();
        assert_eq!(inode(format!("d{at}/f")), inode(format!("e{at}/g")));
    }
}

#[test]
fn large_files_arrive_whole() {
    let root = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..3_000_001u32).map(|at| (at % 251) as u8).collect();
    let tar = written(&[(Entry::file("big", 0o644, content.len() as u64), &content)]);
    apply(&tar, root.path(), Whiteouts::Remove);
    assert!(fs::read(root.path().join("big")).unwrap() == content);
}

#[test]
fn long_and_foreign_names_survive() {
    let root = tempfile::tempdir().unwrap();
    let deep = vec!["component-of-thirty-characters"; 20].join("/");
    let mut file = Entry::file(format!("{deep}/ünïcödé"), 0o644, 1);
    file.uid = 3_000_000;
    let target = "t".repeat(300);
    let link = Entry::symlink("link", target.as_str());
    let hard = Entry::new("hard", EntryKind::Hardlink { target: file.path.clone() }, 0o644);
    let tar = written(&[(file, b"x"), (link, b""), (hard, b"")]);
    apply(&tar, root.path(), Whiteouts::Remove);
    assert_eq!(fs::metadata(root.path().join("hard")).unwrap().uid(), 3_000_000);
    assert_eq!(fs::read_link(root.path().join("link")).unwrap(), Path::new(&target));
}
