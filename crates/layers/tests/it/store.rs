//! The store of unpacked layers: single flight, verification, crashes, patches.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use layers::{UnpackError, UnpackedLayers};
use oci_model::{DiffId, Digest};

use crate::describe::{archive, tree};

fn diff_id(tar: &[u8]) -> DiffId {
    DiffId(Digest::of(tar))
}

fn ensure(store: &UnpackedLayers, tar: &[u8]) -> layers::UnpackedLayer {
    store.ensure(&diff_id(tar), || Ok(io::Cursor::new(tar.to_vec()))).unwrap()
}

fn staging(root: &Path) -> usize {
    fs::read_dir(root.join("staging")).unwrap().count()
}

#[test]
fn layer_is_unpacked_once_and_found_again() {
    let place = tempfile::tempdir().unwrap();
    let tar = archive("dir d/ 755 0:0\nfile d/f 644 0:0 'x'");
    let store = UnpackedLayers::open(place.path()).unwrap();
    assert_eq!(store.get(&diff_id(&tar)).unwrap(), None);
    let layer = ensure(&store, &tar);
    assert_eq!(tree(&layer.path), "dir d 755 0:0\nfile d/f 644 0:0 'x'\n");
    let again = store.ensure(&diff_id(&tar), || -> io::Result<&[u8]> { panic!("unpacked twice") });
    assert_eq!(again.unwrap(), layer);
    let other = UnpackedLayers::open(place.path()).unwrap();
    assert_eq!(other.list().unwrap(), [layer]);
    assert_eq!(staging(place.path()), 0);
}

#[test]
fn of_many_callers_one_unpacks() {
    let place = tempfile::tempdir().unwrap();
    let tar = archive(&(0..300).map(|at| format!("file f{at} 644 0:0 'x'\n")).collect::<String>());
    let opened = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // A value of its own, as another process would have.
                let store = UnpackedLayers::open(place.path()).unwrap();
                let open = || {
                    opened.fetch_add(1, Ordering::SeqCst);
                    Ok(&tar[..])
                };
                store.ensure(&diff_id(&tar), open).unwrap();
            });
        }
    });
    assert_eq!(opened.into_inner(), 1);
}

#[test]
fn wrong_bytes_leave_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let store = UnpackedLayers::open(place.path()).unwrap();
    let (right, wrong) = (archive("file a 644 0:0"), archive("file b 644 0:0"));
    let error = store.ensure(&diff_id(&right), || Ok(&wrong[..])).unwrap_err();
    assert!(matches!(error, UnpackError::DiffIdMismatch { .. }), "{error}");
    let error = store.ensure(&diff_id(&right), || Ok(&right[..700])).unwrap_err();
    assert!(matches!(error, UnpackError::Apply { .. }), "{error}");
    assert_eq!(store.get(&diff_id(&right)).unwrap(), None);
    assert_eq!(staging(place.path()), 0);
    ensure(&store, &right);
}

#[test]
fn dead_staging_is_removed_at_the_next_start() {
    let place = tempfile::tempdir().unwrap();
    UnpackedLayers::open(place.path()).unwrap();
    let dead = place.path().join("staging/12-0");
    fs::create_dir_all(dead.join("fs/deep")).unwrap();
    fs::write(dead.join("fs/deep/file"), "x").unwrap();
    fs::set_permissions(dead.join("fs/deep"), fs::Permissions::from_mode(0o0)).unwrap();
    UnpackedLayers::open(place.path()).unwrap();
    assert_eq!(staging(place.path()), 0);
}

#[test]
fn layer_of_an_earlier_boot_counts_only_if_it_was_synced() {
    for synced in [false, true] {
        let place = tempfile::tempdir().unwrap();
        let store = UnpackedLayers::open(place.path()).unwrap();
        let tar = archive("file a 644 0:0");
        let layer = ensure(&store, &tar);
        if synced {
            store.make_durable().unwrap();
        }
        let record = layer.path.with_file_name("record.json");
        let text = fs::read_to_string(&record).unwrap();
        let (head, tail) = text.split_once("\"boot\":\"").unwrap();
        fs::write(&record, format!("{head}\"boot\":\"another-{tail}")).unwrap();
        assert_eq!(store.get(&diff_id(&tar)).unwrap().is_some(), synced);
        ensure(&store, &tar);
    }
}

#[test]
fn torn_record_means_unpacking_again() {
    let place = tempfile::tempdir().unwrap();
    let store = UnpackedLayers::open(place.path()).unwrap();
    let tar = archive("file a 644 0:0");
    let layer = ensure(&store, &tar);
    fs::write(layer.path.with_file_name("record.json"), "{\"ver").unwrap();
    assert_eq!(store.get(&diff_id(&tar)).unwrap(), None);
    assert_eq!(ensure(&store, &tar), layer);
}

#[test]
fn adopted_tree_is_the_layer() {
    let place = tempfile::tempdir().unwrap();
    let store = UnpackedLayers::open(&place.path().join("layers")).unwrap();
    let tar = archive("file a 644 0:0 'x'");
    for _ in 0..2 {
        let upper = place.path().join("upper");
        fs::create_dir(&upper).unwrap();
        fs::write(upper.join("a"), "x").unwrap();
        let layer = store.adopt(&upper, &diff_id(&tar), 2048, 1).unwrap();
        assert_eq!(fs::read_to_string(layer.path.join("a")).unwrap(), "x");
        assert!(!upper.exists());
    }
    let layer = [diff_id(&tar)];
    assert_eq!(store.remove_unheld(&layer, |_| false).unwrap().diff_ids, layer);
    assert_eq!(store.get(&layer[0]).unwrap(), None);
    assert_eq!(store.remove_unheld(&layer, |_| false).unwrap().diff_ids, []);
    assert_eq!(staging(&place.path().join("layers")), 0);
}

#[test]
fn held_and_wanted_layers_are_not_removed() {
    let place = tempfile::tempdir().unwrap();
    let store = UnpackedLayers::open(place.path()).unwrap();
    let tars = [archive("file a 644 0:0"), archive("file b 644 0:0"), archive("file c 644 0:0")];
    let stack: Vec<DiffId> = tars.iter().map(|tar| ensure(&store, tar).diff_id).collect();
    // As another process sees it.
    let other = UnpackedLayers::open(place.path()).unwrap();
    let hold = other.hold(&stack[..1]).unwrap();
    let removed = store.remove_unheld(&stack, |diff_id| *diff_id == stack[1]).unwrap();
    assert_eq!(removed.diff_ids, &stack[2..]);
    assert_eq!(removed.bytes, tars[2].len() as u64);
    assert!(store.get(&stack[0]).unwrap().is_some() && store.get(&stack[1]).unwrap().is_some());
    drop(hold);
    let removed = store.remove_unheld(&stack, |_| false).unwrap();
    assert_eq!(removed.diff_ids, &stack[..2]);
    assert_eq!(staging(place.path()), 0);
}

#[test]
fn want_written_down_under_a_hold_is_heard_by_the_remover() {
    let place = tempfile::tempdir().unwrap();
    let store = UnpackedLayers::open(place.path()).unwrap();
    let tar = archive("file a 644 0:0");
    let layer = [diff_id(&tar)];
    let wanted = std::sync::Mutex::new(false);
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            for _ in 0..200 {
                let hold = store.hold(&layer).unwrap();
                *wanted.lock().unwrap() = false;
                let found = ensure(&store, &tar);
                *wanted.lock().unwrap() = true;
                drop(hold);
                assert!(found.path.join("a").exists(), "removed although wanted");
            }
        });
        while !user.is_finished() {
            store.remove_unheld(&layer, |_| *wanted.lock().unwrap()).unwrap();
        }
        user.join().unwrap();
    });
}

#[test]
fn lower_directories_come_topmost_first_and_all_or_none() {
    let place = tempfile::tempdir().unwrap();
    let store = UnpackedLayers::open(place.path()).unwrap();
    let (one, two) = (archive("file a 644 0:0"), archive("file b 644 0:0"));
    let ids = [diff_id(&one), diff_id(&two)];
    let bottom = ensure(&store, &one);
    assert_eq!(store.lower_directories(&ids).unwrap(), None);
    let top = ensure(&store, &two);
    assert_eq!(store.lower_directories(&ids).unwrap(), Some(vec![top.path, bottom.path]));
}

#[test]
fn directories_that_a_layer_forgot_keep_the_metadata_of_lower_layers() {
    let place = tempfile::tempdir().unwrap();
    let store = UnpackedLayers::open(place.path()).unwrap();
    let base = archive("dir tmp/ 1777 0:0\ndir home/ 755 0:0\ndir home/ada/ 700 7:7");
    let top =
        archive("file home/ada/note 600 7:7 'n'\nfile tmp/x 644 0:0 'x'\nfile new/y 644 0:0 'y'");
    ensure(&store, &base);
    ensure(&store, &top);
    let ids = [diff_id(&base), diff_id(&top)];
    let trees = store.lower_directories(&ids).unwrap().unwrap();
    assert_eq!(trees.len(), 3);
    assert_eq!(tree(&trees[0]), "dir home 755 0:0\ndir home/ada 700 7:7\ndir tmp 1777 0:0\n");
    assert_eq!(store.lower_directories(&ids).unwrap().unwrap(), trees);
    let shown = fs::metadata(trees[0].join("home/ada")).unwrap();
    assert_eq!(shown.mtime(), 1_000_000_000);
}

#[test]
fn directory_of_the_store_is_private() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("layers");
    UnpackedLayers::open(&root).unwrap();
    assert_eq!(fs::metadata(root).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn adopted_opaque_directories_hide_lower_layers_in_both_kinds_of_mount() {
    for (given, missing) in [
        ("trusted.overlay.opaque", "user.overlay.opaque"),
        ("user.overlay.opaque", "trusted.overlay.opaque"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let store = UnpackedLayers::open(&place.path().join("layers")).unwrap();
        let tar = archive("dir a/ 755 0:0");
        let upper = place.path().join("upper");
        fs::create_dir_all(upper.join("a/b")).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(upper.join("a/b"), given, b"y", flags).unwrap();
        let layer = store.adopt(&upper, &diff_id(&tar), 1536, 1).unwrap();
        let mut value = [0; 8];
        let set = |path: &str, value: &mut [u8]| {
            rustix::fs::getxattr(layer.path.join(path), missing, value).is_ok()
        };
        assert!(set("a/b", &mut value) && !set("a", &mut value));
    }
}

/// overlayfs refuses a directory twice (ELOOP); COPY of one file twice makes such an image.
#[test]
fn a_layer_that_occurs_twice_is_mounted_once_at_its_topmost_place() {
    let place = tempfile::tempdir().unwrap();
    let store = UnpackedLayers::open(place.path()).unwrap();
    let (one, two) = (archive("file a 644 0:0 '1'"), archive("file a 644 0:0 '2'"));
    let first = ensure(&store, &one).path;
    let second = ensure(&store, &two).path;
    let ids = [diff_id(&one), diff_id(&two), diff_id(&one)];
    assert_eq!(store.lower_directories(&ids).unwrap(), Some(vec![first, second]));
}
