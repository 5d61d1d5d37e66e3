//! Images known by their headers alone.

use std::path::Path;

use layers::{EntryKind, MergedView, TarIndex};

use crate::describe::archive;

const KEEP: [&str; 1] = ["etc/passwd"];

fn index(lines: &str) -> TarIndex {
    let keep = KEEP.map(Path::new);
    let tar = archive(lines);
    let index = TarIndex::read(&tar[..], &keep).unwrap();
    assert_eq!(index.diff_id.0, oci_model::Digest::of(&tar));
    index
}

fn view(layers: &[&str]) -> MergedView {
    let layers: Vec<_> = layers.iter().map(|layer| index(layer)).collect();
    MergedView::new(&layers)
}

fn paths(view: &MergedView) -> Vec<String> {
    let all = view.below(Path::new(""));
    all.map(|located| located.entry.path.display().to_string()).collect()
}

#[test]
fn upper_layers_hide_lower_ones() {
    let view = view(&[
        "dir a/ 755 0:0\nfile a/one 644 0:0 '1'\nfile a/two 644 0:0 '2'\ndir o/ 755 0:0\nfile o/x 644 0:0",
        "dir a/ 700 1:1\nfile a/.wh.one 0 0:0\nfile a/three 644 0:0 '3'\nfile o/.wh..wh..opq 0 0:0\nfile o/y 644 0:0",
        "file a/two 600 0:0 'two'",
    ]);
    assert_eq!(paths(&view), ["a", "a/three", "a/two", "o", "o/y"]);
    assert_eq!(view.get(Path::new("a")).unwrap().entry.mode, 0o700);
    assert_eq!(view.get(Path::new("a/two")).unwrap().layer, 2);
    assert_eq!(view.get(Path::new("a/three")).unwrap().layer, 1);
}

#[test]
fn links_are_followed_within_the_tree() {
    let view = view(&["
        dir usr/ 755 0:0
        dir usr/bin/ 755 0:0
        file usr/bin/sh 755 0:0 'sh'
        link bin 777 0:0 /usr/bin
        link up 777 0:0 ../../usr
        link loop 777 0:0 loop
        link usr/bin/dash 777 0:0 sh
    "]);
    let real =
        |path: &str| view.resolve(Path::new(path)).map(|(path, _)| path.display().to_string());
    assert_eq!(real("bin/sh").as_deref(), Some("usr/bin/sh"));
    assert_eq!(real("/up/bin/dash").as_deref(), Some("usr/bin/sh"));
    assert_eq!(real("up/../../usr").as_deref(), Some("usr"));
    assert_eq!(real("").as_deref(), Some(""));
    assert_eq!(real("loop"), None);
    assert_eq!(real("bin/nothing"), None);
    assert_eq!(real("bin/sh/x"), None);
}

#[test]
fn kept_content_is_that_of_the_topmost_layer() {
    let view = view(&[
        "file etc/passwd 644 0:0 'root:x:0:0'",
        "file etc/passwd 644 0:0 'ada:x:7:7'",
        "file other 644 0:0 'x'",
    ]);
    assert_eq!(view.kept_content(Path::new("/etc/passwd")), Some(&b"ada:x:7:7"[..]));
    assert_eq!(view.kept_content(Path::new("other")), None);
}

#[test]
fn hard_links_show_the_file_they_name() {
    let view = view(&["file a 640 3:4 'text'\nhard b 644 0:0 a"]);
    let (a, b) = (view.get(Path::new("a")).unwrap(), view.get(Path::new("b")).unwrap());
    assert_eq!(b.entry.kind, EntryKind::File { size: 4 });
    assert_eq!((b.offset, b.entry.uid), (a.offset, 3));
}

#[test]
fn children_are_direct_and_sorted() {
    let view = view(&["file d/b 644 0:0\nfile d/a/deep 644 0:0\nfile dx 644 0:0"]);
    let names: Vec<_> = view
        .children(Path::new("d"))
        .map(|located| located.entry.path.display().to_string())
        .collect();
    assert_eq!(names, ["d/a", "d/b"]);
}

#[test]
fn offsets_lead_to_the_content() {
    let tar = archive("dir a/ 755 0:0\nfile a/f 644 0:0 'found'");
    let index = TarIndex::read(&tar[..], &[]).unwrap();
    let offset = index.entries()[1].offset as usize;
    assert_eq!(&tar[offset..offset + 5], b"found");
    assert_eq!(index.tar_bytes, tar.len() as u64);
}
