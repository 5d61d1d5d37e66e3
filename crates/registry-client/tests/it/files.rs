//! Images in files: OCI layouts and docker archives, and skopeo as their other reader and writer.

use std::path::Path;
use std::process::Command;

use oci_model::{Manifest, Reference};
use registry_client::{
    ImageFileError, read_docker_archive, read_oci_layout, write_docker_archive, write_oci_layout,
};

use crate::images::{Image, image, index, store};

/// A layer that other programs accept: an empty tar archive of a given length.
fn tar_image(blocks: usize) -> Image {
    image(&vec![0; 1024 * blocks])
}

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").args(["--insecure-policy"]).args(arguments).output();
    let output = output.expect("skopeo is needed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn layout_holds_several_images_by_name() {
    let place = tempfile::tempdir().unwrap();
    let layout = place.path().join("layout");
    let (_from, from) = store();
    let (one, two) = (tar_image(2), tar_image(4));
    one.put(&from);
    two.put(&from);
    write_oci_layout(&from, &one.manifest, &layout, Some("1")).unwrap();
    write_oci_layout(&from, &two.manifest, &layout, Some("2")).unwrap();
    write_oci_layout(&from, &two.manifest, &layout, Some("2")).unwrap();
    let (_into, into) = store();
    let lease = into.lease().unwrap();
    let read = read_oci_layout(&layout, Some("2"), &into, &lease).unwrap();
    assert_eq!(read, two.manifest);
    assert!(into.contains(&two.layer) && !into.contains(&one.layer));
    let error = read_oci_layout(&layout, Some("3"), &into, &lease).unwrap_err();
    let ImageFileError::NotFound { offered, .. } = error else { panic!("{error}") };
    assert_eq!(offered, ["1", "2"]);
    assert!(read_oci_layout(&layout, None, &into, &lease).is_err());
}

#[test]
fn index_travels_through_a_layout_with_all_children() {
    let place = tempfile::tempdir().unwrap();
    let (_from, from) = store();
    let (amd, arm) = (tar_image(2), tar_image(4));
    let list = index(&[("linux/amd64", &amd), ("linux/arm64", &arm)]);
    amd.put(&from);
    arm.put(&from);
    from.put(list.bytes()).unwrap();
    write_oci_layout(&from, &list, place.path(), None).unwrap();
    let (_into, into) = store();
    let lease = into.lease().unwrap();
    assert_eq!(read_oci_layout(place.path(), None, &into, &lease).unwrap(), list);
    assert!(into.contains(&amd.layer) && into.contains(&arm.layer));
}

#[test]
fn damaged_layout_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let (_from, from) = store();
    let one = tar_image(2);
    one.put(&from);
    write_oci_layout(&from, &one.manifest, place.path(), None).unwrap();
    let blob = place.path().join("blobs/sha256").join(one.layer.encoded());
    std::fs::write(blob, "damaged").unwrap();
    let (_into, into) = store();
    let lease = into.lease().unwrap();
    let error = read_oci_layout(place.path(), None, &into, &lease).unwrap_err();
    assert!(error.to_string().contains("content has digest"), "{error}");
    assert!(!into.contains(&one.layer));
}

#[test]
fn skopeo_reads_and_writes_the_same_layouts() {
    let place = tempfile::tempdir().unwrap();
    let (ours, theirs) = (place.path().join("ours"), place.path().join("theirs"));
    let (_from, from) = store();
    let one = tar_image(2);
    one.put(&from);
    write_oci_layout(&from, &one.manifest, &ours, Some("1")).unwrap();
    let (source, target) =
        (format!("oci:{}:1", ours.display()), format!("oci:{}:1", theirs.display()));
    skopeo(&["copy", &source, &target]);
    let (_into, into) = store();
    let lease = into.lease().unwrap();
    let read = read_oci_layout(&theirs, Some("1"), &into, &lease).unwrap();
    assert!(matches!(read.parsed(), Manifest::Image(image) if image.layers.len() == 1));
}

#[test]
fn docker_archives_go_through_skopeo_and_back() {
    let place = tempfile::tempdir().unwrap();
    let archive = place.path().join("image.tar");
    let (_from, from) = store();
    let one = tar_image(2);
    one.put(&from);
    let name: Reference = "registry.example.com/team/app:1".parse().unwrap();
    let file = std::fs::File::create(&archive).unwrap();
    write_docker_archive(&from, &one.manifest, std::slice::from_ref(&name), file).unwrap();

    let read = |path: &Path, name: Option<&Reference>| {
        let (_into, into) = store();
        let lease = into.lease().unwrap();
        let image = read_docker_archive(path, name, &into, &lease)?;
        assert!(into.contains(&one.layer));
        Ok::<_, ImageFileError>(image)
    };
    let Manifest::Image(image) = read(&archive, Some(&name)).unwrap().parsed().clone() else {
        panic!()
    };
    assert_eq!(image.layers[0].digest, one.layer);
    let other: Reference = "other:1".parse().unwrap();
    let error = read(&archive, Some(&other)).unwrap_err();
    assert!(error.to_string().contains("registry.example.com/team/app:1"), "{error}");

    let second = place.path().join("second.tar");
    let source = format!("docker-archive:{}", archive.display());
    skopeo(&["copy", &source, &format!("docker-archive:{}:{name}", second.display())]);
    read(&second, Some(&name)).unwrap();
}
