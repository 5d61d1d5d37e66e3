//! Changes of a tree as a layer: overlay upper directories and in-place differences.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use layers::{
    Change, ContentSource, Entry, Inventory, LayerWriteError, LayerWriter, Mounts, ScanOptions,
    Timestamps, VirtualLayer, Whiteouts, diff_trees, pack_upper,
};

use crate::describe::{apply, archive, at, lines, listing, tree, written};

fn scan_options() -> ScanOptions {
    ScanOptions { exclude: vec![PathBuf::from("proc")], mounts: Mounts::Skip }
}

/// Applies `lower`, runs `change` in the tree, and describes the layer of what changed.
fn diff(lower: &str, change: impl Fn(&Path)) -> String {
    let root = tempfile::tempdir().unwrap();
    apply(&archive(lower), root.path(), Whiteouts::Remove);
    let before = Inventory::scan(root.path(), &scan_options()).unwrap();
    change(root.path());
    let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
    let (after, _) = diff_trees(&before, root.path(), &scan_options(), &mut writer).unwrap();
    let layer = writer.finish().unwrap();
    assert_eq!(after, Inventory::scan(root.path(), &scan_options()).unwrap());
    // Applied over the lower layer, the difference must give the changed tree.
    let copy = tempfile::tempdir().unwrap();
    apply(&archive(lower), copy.path(), Whiteouts::Remove);
    apply(&layer, copy.path(), Whiteouts::Remove);
    assert_eq!(tree(copy.path()), tree(root.path()));
    listing(&layer)
}

const LOWER: &str = "
    dir etc/ 755 0:0
    file etc/hosts 644 0:0 'localhost'
    file etc/motd 644 0:0 'hello'
    dir var/ 755 0:0
    dir var/deep/ 700 5:6
    file var/deep/file 600 5:6 'deep'
    hard var/deep/link 600 5:6 var/deep/file
";

#[test]
fn unchanged_tree_gives_an_empty_layer() {
    assert_eq!(diff(LOWER, |_| {}), "");
}

#[test]
fn deleted_file_becomes_a_removal_below_its_parent() {
    assert_eq!(
        diff(LOWER, |root| fs::remove_file(root.join("etc/motd")).unwrap()),
        lines("dir etc 755 0:0\nfile etc/.wh.motd 0 0:0 ''")
    );
}

#[test]
fn deleted_directory_is_one_removal() {
    assert_eq!(
        diff(LOWER, |root| fs::remove_dir_all(root.join("var/deep")).unwrap()),
        lines("dir var 755 0:0\nfile var/.wh.deep 0 0:0 ''")
    );
}

#[test]
fn edit_of_same_size_with_old_time_is_found() {
    let layer = diff(LOWER, |root| {
        let path = root.join("etc/motd");
        let old = fs::metadata(&path).unwrap();
        fs::write(&path, "HELLO").unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(old.modified().unwrap())
            .unwrap();
    });
    assert_eq!(layer, lines("dir etc 755 0:0\nfile etc/motd 644 0:0 'HELLO'"));
}

#[test]
fn mode_change_emits_the_file_with_its_parents() {
    let layer = diff(LOWER, |root| {
        let path = root.join("etc/motd");
        fs::set_permissions(path, fs::Permissions::from_mode(0o4711)).unwrap();
    });
    assert_eq!(layer, lines("dir etc 755 0:0\nfile etc/motd 4711 0:0 'hello'"));
}

#[test]
fn new_hard_link_takes_its_old_names_along() {
    let layer = diff(LOWER, |root| {
        fs::hard_link(root.join("var/deep/file"), root.join("var/third")).unwrap();
    });
    assert_eq!(
        layer,
        lines(
            "
            dir var 755 0:0
            dir var/deep 700 5:6
            file var/deep/file 600 5:6 'deep'
            hard var/deep/link -> var/deep/file
            hard var/third -> var/deep/file
            "
        )
    );
}

#[test]
fn kinds_replace_each_other() {
    let layer = diff(LOWER, |root| {
        fs::remove_dir_all(root.join("var")).unwrap();
        fs::write(root.join("var"), "file").unwrap();
        fs::remove_file(root.join("etc/hosts")).unwrap();
        fs::create_dir(root.join("etc/hosts")).unwrap();
        symlink("motd", root.join("etc/link")).unwrap();
    });
    assert_eq!(
        layer,
        lines(
            "
            dir etc 755 0:0
            dir etc/hosts 755 0:0
            link etc/link -> motd
            file var 644 0:0 'file'
            "
        )
    );
}

#[test]
fn excluded_paths_and_sockets_stay_out() {
    let root = tempfile::tempdir().unwrap();
    let before = Inventory::scan(root.path(), &scan_options()).unwrap();
    fs::create_dir(root.path().join("proc")).unwrap();
    fs::write(root.path().join("proc/x"), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
    let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
    diff_trees(&before, root.path(), &scan_options(), &mut writer).unwrap();
    assert_eq!(listing(&writer.finish().unwrap()), "");
}

#[test]
fn names_that_mean_removals_are_refused() {
    let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
    let error = writer.add(&Entry::file("a/.wh.b", 0o644, 0)).unwrap_err();
    assert!(matches!(error, LayerWriteError::ReservedName { .. }));
}

#[test]
fn times_are_cut_to_seconds_and_clamped() {
    let mtime = |timestamps: Timestamps| {
        let mut file = Entry::file("f", 0o644, 0);
        file.mtime = layers::Timestamp { seconds: 2_000, nanoseconds: 5 };
        let mut writer = LayerWriter::new(Vec::new(), timestamps);
        writer.add(&file).unwrap();
        let layer = writer.finish().unwrap();
        let entry = layers::ArchiveReader::new(&layer[..]).next_entry().unwrap().unwrap();
        entry.mtime
    };
    assert_eq!(mtime(Timestamps::Keep), at(2_000));
    assert_eq!(mtime(Timestamps::Clamp(1_500)), at(1_500));
    assert_eq!(mtime(Timestamps::Clamp(2_500)), at(2_000));
    assert_eq!(mtime(Timestamps::Set(7)), at(7));
}

#[test]
fn virtual_layer_is_sorted_whatever_the_order_of_insertion() {
    let entries = [
        (Entry::directory("b", 0o755), ""),
        (Entry::file("b/x", 0o644, 1), "x"),
        (Entry::file("b.txt", 0o644, 1), "t"),
        (Entry::directory("a", 0o700), ""),
    ];
    let write = |order: &[usize]| {
        let mut layer = VirtualLayer::new();
        for at in order {
            let (entry, content) = entries[*at].clone();
            layer.insert(entry, ContentSource::Bytes(content.as_bytes().to_vec()));
        }
        let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
        layer.write(&mut writer).unwrap();
        writer.finish().unwrap()
    };
    let layer = write(&[0, 1, 2, 3]);
    assert_eq!(layer, write(&[3, 2, 1, 0]));
    assert_eq!(
        listing(&layer),
        lines("dir a 700 0:0\ndir b 755 0:0\nfile b/x 644 0:0 'x'\nfile b.txt 644 0:0 't'")
    );
}

/// Mounts an overlay of the lower layers, runs `change`, packs the upper directory, and checks
/// that the layer over the lower ones gives the tree that the mount showed.
fn overlay(lowers: &[&str], change: impl Fn(&Path)) -> (String, Vec<Change>) {
    let place = tempfile::tempdir().unwrap();
    let mut stack = Vec::new();
    for (at, lower) in lowers.iter().enumerate() {
        let path = place.path().join(format!("l{at}"));
        fs::create_dir(&path).unwrap();
        apply(&archive(lower), &path, Whiteouts::OverlayTrusted);
        stack.insert(0, path);
    }
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| {
        let path = place.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    });
    let joined: Vec<_> = stack.iter().map(|path| path.to_str().unwrap()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        joined.join(":"),
        upper.display(),
        work.display()
    );
    let options = std::ffi::CString::new(options).unwrap();
    let mounted = rustix::mount::mount(
        "overlay",
        &merged,
        "overlay",
        rustix::mount::MountFlags::empty(),
        options.as_c_str(),
    );
    mounted.expect("these tests run as root with CAP_SYS_ADMIN");
    change(&merged);
    let shown = tree(&merged);
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::empty()).unwrap();
    let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
    let changes = pack_upper(&upper, &stack, &mut writer).unwrap();
    let layer = writer.finish().unwrap();
    let copy = tempfile::tempdir().unwrap();
    for lower in lowers {
        apply(&archive(lower), copy.path(), Whiteouts::Remove);
    }
    apply(&layer, copy.path(), Whiteouts::Remove);
    assert_eq!(tree(copy.path()), shown);
    (listing(&layer), changes)
}

#[test]
fn upper_directory_becomes_a_layer_of_the_changes() {
    let (layer, changes) = overlay(&[LOWER], |root| {
        fs::remove_file(root.join("etc/motd")).unwrap();
        fs::write(root.join("etc/new"), "new").unwrap();
    });
    assert_eq!(
        layer,
        lines("dir etc 755 0:0\nfile etc/.wh.motd 0 0:0 ''\nfile etc/new 644 0:0 'new'")
    );
    assert_eq!(
        changes,
        [
            Change::Modified("etc".into()),
            Change::Removed("etc/motd".into()),
            Change::Added("etc/new".into())
        ]
    );
}

#[test]
fn copies_that_nobody_changed_stay_out() {
    let (layer, _) = overlay(&[LOWER], |root| {
        // Opening for writing copies the file up; changing nothing leaves it equal.
        let path = root.join("etc/motd");
        let times = fs::metadata(&path).unwrap();
        fs::File::options().write(true).open(&path).unwrap();
        fs::write(&path, "HELLO").unwrap();
        fs::write(&path, "hello").unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(times.modified().unwrap()).unwrap();
    });
    assert_eq!(layer, "");
}

#[test]
fn recreated_directory_removes_each_lower_name() {
    let (layer, _) = overlay(
        &[LOWER, "dir var/ 755 0:0\ndir var/deep/ 700 5:6\nfile var/deep/second 600 5:6 's'"],
        |root| {
            fs::remove_dir_all(root.join("var/deep")).unwrap();
            fs::create_dir(root.join("var/deep")).unwrap();
            fs::write(root.join("var/deep/file"), "fresh").unwrap();
        },
    );
    assert_eq!(
        layer,
        lines(
            "
            dir var 755 0:0
            dir var/deep 755 0:0
            file var/deep/file 644 0:0 'fresh'
            file var/deep/.wh.link 0 0:0 ''
            file var/deep/.wh.second 0 0:0 ''
            "
        )
    );
}

#[test]
fn removal_of_what_was_made_in_the_same_step_leaves_no_trace() {
    let (layer, _) = overlay(&["dir tmp/ 1777 0:0", LOWER], |root| {
        fs::write(root.join("etc/gone"), "x").unwrap();
        fs::remove_file(root.join("etc/gone")).unwrap();
    });
    // The directory's time changed, nothing else.
    assert_eq!(layer, "dir etc 755 0:0\n");
}

#[test]
fn names_removed_by_a_middle_layer_are_new_when_they_come_back() {
    let (layer, changes) = overlay(&[LOWER, "dir etc/ 755 0:0\nfile etc/.wh.motd 0 0:0"], |root| {
        fs::write(root.join("etc/motd"), "again").unwrap()
    });
    assert_eq!(layer, lines("dir etc 755 0:0\nfile etc/motd 644 0:0 'again'"));
    assert!(changes.contains(&Change::Added("etc/motd".into())));
}

#[test]
fn hard_links_of_a_changed_file_stay_together() {
    let (layer, _) = overlay(&["dir d/ 755 0:0"], |root| {
        fs::write(root.join("d/a"), "a").unwrap();
        fs::hard_link(root.join("d/a"), root.join("d/b")).unwrap();
    });
    assert_eq!(layer, lines("dir d 755 0:0\nfile d/a 644 0:0 'a'\nhard d/b -> d/a"));
}

#[test]
fn scans_see_what_stat_sees() {
    let root = tempfile::tempdir().unwrap();
    apply(&archive(LOWER), root.path(), Whiteouts::Remove);
    let inventory = Inventory::scan(root.path(), &scan_options()).unwrap();
    assert_eq!(inventory.len(), 8);
    for (path, stamp) in inventory.iter() {
        let metadata = fs::symlink_metadata(root.path().join(path)).unwrap();
        assert_eq!((stamp.ino, stamp.size), (metadata.ino(), metadata.size()), "{path:?}");
        assert_eq!(inventory.get(path), Some(stamp));
    }
    assert_eq!(inventory.get(Path::new("nothing")), None);
}

#[test]
fn file_that_shrinks_while_it_is_packed_is_an_error() {
    let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
    let error = writer.add_with(&Entry::file("f", 0o644, 10), &b"short"[..]).unwrap_err();
    assert!(matches!(error, LayerWriteError::Shrunk { missing: 5, .. }));
}

#[test]
fn equal_entries_give_equal_bytes() {
    let one = written(&[(Entry::file("f", 0o644, 1), b"x")]);
    assert_eq!(one, written(&[(Entry::file("f", 0o644, 1), b"x")]));
    assert_eq!(one.len(), 4 * 512);
}
