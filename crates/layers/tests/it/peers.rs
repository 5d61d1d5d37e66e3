//! Other programs read what we write, and we read what they write.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use layers::{Inventory, LayerWriter, Mounts, ScanOptions, Timestamps, Whiteouts, diff_trees};

use crate::describe::{apply, tree};

/// A tree with a bit of everything, times in whole seconds.
fn sample(root: &Path) {
    let long = ["a-directory-name-of-forty-characters-xxx"; 8].join("/");
    fs::create_dir_all(root.join(&long)).unwrap();
    fs::write(root.join(&long).join("file"), "deep").unwrap();
    fs::write(root.join("ümläut"), "u").unwrap();
    fs::write(root.join("n".repeat(150)), "long").unwrap();
    fs::write(root.join("setuid"), "s").unwrap();
    std::os::unix::fs::chown(root.join("setuid"), Some(2_500_000), Some(12)).unwrap();
    fs::set_permissions(root.join("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("t".repeat(180), root.join("long-link")).unwrap();
    fs::hard_link(root.join("setuid"), root.join("twin")).unwrap();
    fs::write(root.join("big"), vec![7; 700_000]).unwrap();
    fs::write(root.join("empty"), "").unwrap();
}

fn pack(root: &Path) -> Vec<u8> {
    let options = ScanOptions { exclude: Vec::new(), mounts: Mounts::Skip };
    let mut writer = LayerWriter::new(Vec::new(), Timestamps::Keep);
    diff_trees(&Inventory::default(), root, &options, &mut writer).unwrap();
    writer.finish().unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn gnu_tar_and_busybox_unpack_our_archives() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    sample(&source);
    let archive = place.path().join("layer.tar");
    fs::write(&archive, pack(&source)).unwrap();
    for (name, program, first) in [("gnu", "tar", None), ("busybox", "busybox", Some("tar"))] {
        let target = place.path().join(name);
        fs::create_dir(&target).unwrap();
        let mut arguments: Vec<&str> = first.into_iter().collect();
        let (archive, target) = (archive.to_str().unwrap(), target.to_str().unwrap());
        arguments.extend(["-xpf", archive, "-C", target]);
        run(program, &arguments);
        let (ours, theirs) = (tree(&source), tree(Path::new(target)));
        if name == "busybox" {
            // busybox does not read PAX owners beyond octal's range.
            let owner = |text: String| text.replace("2500000:12", "0:12");
            assert_eq!(owner(theirs), owner(ours));
        } else {
            assert_eq!(theirs, ours);
        }
    }
}

#[test]
fn archives_of_gnu_tar_in_every_format_unpack_to_the_same_tree() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    sample(&source);
    for format in ["gnu", "pax"] {
        let archive = place.path().join(format);
        let target = place.path().join(format!("{format}-tree"));
        fs::create_dir(&target).unwrap();
        let arguments = ["--format", format, "-C", source.to_str().unwrap(), "-cf"];
        run("tar", &[&arguments[..], &[archive.to_str().unwrap(), "."]].concat());
        apply(&fs::read(&archive).unwrap(), &target, Whiteouts::Remove);
        assert_eq!(tree(&target), tree(&source), "{format}");
        let mtime = |root: &Path| {
            let metadata = fs::metadata(root.join("big")).unwrap();
            (metadata.mtime(), if format == "pax" { metadata.mtime_nsec() } else { 0 })
        };
        assert_eq!(mtime(&target), mtime(&source), "{format}");
    }
}

#[test]
fn archives_of_busybox_unpack_to_the_same_tree() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    sample(&source);
    // busybox writes no owner beyond octal's range.
    std::os::unix::fs::chown(source.join("setuid"), Some(25), Some(12)).unwrap();
    fs::set_permissions(source.join("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    let archive = place.path().join("archive");
    let target = place.path().join("tree");
    fs::create_dir(&target).unwrap();
    let (from, to) = (source.to_str().unwrap(), archive.to_str().unwrap());
    run("busybox", &["tar", "-C", from, "-cf", to, "."]);
    apply(&fs::read(&archive).unwrap(), &target, Whiteouts::Remove);
    assert_eq!(tree(&target), tree(&source));
}
