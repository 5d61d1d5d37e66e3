//! Properties: whatever is packed unpacks to the same, and no bytes make the reader panic.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use layers::{
    ArchiveReader, Inventory, LayerWriter, Mounts, ScanOptions, Timestamps, Whiteouts, diff_trees,
};
use proptest::prelude::*;

use crate::describe::{apply, archive, tree};

#[derive(Debug, Clone)]
enum Step {
    File(String, Vec<u8>, u32),
    Directory(String, u32),
    Link(String, String),
    Twin(String, String),
    Remove(String),
    Owner(String, u32),
}

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (name(), proptest::collection::vec(any::<u8>(), 0..40), 0u32..0o7777)
            .prop_map(|(path, content, mode)| Step::File(path, content, mode)),
        2 => (name(), 0u32..0o7777).prop_map(|(path, mode)| Step::Directory(path, mode)),
        1 => (name(), "[abc/.]{1,8}").prop_map(|(path, target)| Step::Link(path, target)),
        1 => (name(), name()).prop_map(|(path, target)| Step::Twin(path, target)),
        2 => name().prop_map(Step::Remove),
        1 => (name(), 0u32..5_000_000).prop_map(|(path, owner)| Step::Owner(path, owner)),
    ]
}

/// Changes a tree; steps that make no sense in it do nothing.
fn perform(root: &Path, step: &Step) {
    let at = |path: &str| root.join(path);
    let is_real = |path: &str| {
        Path::new(path).ancestors().skip(1).all(|parent| {
            fs::symlink_metadata(root.join(parent)).is_ok_and(|metadata| metadata.is_dir())
        })
    };
    let _ = match step {
        Step::File(path, content, mode) if is_real(path) => {
            let _ = fs::remove_file(at(path));
            fs::write(at(path), content)
                .and_then(|()| fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)))
        }
        Step::Directory(path, mode) if is_real(path) => fs::create_dir(at(path))
            .and_then(|()| fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))),
        Step::Link(path, target) if is_real(path) => symlink(target, at(path)),
        Step::Twin(path, target) if is_real(path) && is_real(target) => {
            fs::hard_link(at(target), at(path))
        }
        Step::Remove(path) if is_real(path) => {
            fs::remove_file(at(path)).or_else(|_| fs::remove_dir_all(at(path)))
        }
        Step::Owner(path, owner) if is_real(path) => {
            std::os::unix::fs::lchown(at(path), Some(*owner), Some(owner / 2))
        }
        _ => Ok(()),
    };
}

/// What changed in a tree as a layer, and the inventory of the tree.
pub(crate) fn pack(before: &Inventory, root: &Path) -> (Inventory, Vec<u8>) {
    let options = ScanOptions { exclude: Vec::new(), mounts: Mounts::Skip };
    let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
    let (after, _) = diff_trees(before, root, &options, &mut writer).unwrap();
    (after, writer.finish().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_of_changes_rebuild_the_tree(
        first in proptest::collection::vec(step(), 0..25),
        second in proptest::collection::vec(step(), 0..25),
    ) {
        let (root, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        first.iter().for_each(|step| perform(root.path(), step));
        let (before, base) = pack(&Inventory::default(), root.path());
        apply(&base, copy.path(), Whiteouts::Remove);
        prop_assert_eq!(tree(copy.path()), tree(root.path()));
        second.iter().for_each(|step| perform(root.path(), step));
        let (_, change) = pack(&before, root.path());
        apply(&change, copy.path(), Whiteouts::Remove);
        prop_assert_eq!(tree(copy.path()), tree(root.path()));
    }

    #[test]
    fn reader_survives_any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let mut reader = ArchiveReader::new(&bytes[..]);
        while let Ok(Some(_)) = reader.next_entry() {}
        // The same with a valid start, so that parsing gets further.
        let mut valid = archive("dir a/ 755 0:0\nfile a/b 644 0:0 'x'");
        valid.truncate(1024);
        valid.append(&mut bytes);
        let mut reader = ArchiveReader::new(&valid[..]);
        while let Ok(Some(_)) = reader.next_entry() {}
    }

    #[test]
    fn flipped_bytes_never_leave_the_root(at in 0usize..3000, value in any::<u8>()) {
        let mut bytes = archive(
            "dir a/ 755 0:0\nlink a/l 777 0:0 ..\nfile a/b 644 0:0 'x'\nhard a/c 644 0:0 a/b",
        );
        let position = at % bytes.len();
        bytes[position] = value;
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("root")).unwrap();
        let options = layers::ApplyOptions::for_this_process(Whiteouts::Remove);
        let _ = layers::apply(&bytes[..], &place.path().join("root"), &options);
        prop_assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
