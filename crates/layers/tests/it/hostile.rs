//! Archives made to break out, to confuse or to exhaust.

use std::fs;
use std::path::Path;

use layers::{ApplyError, ApplyOptions, ArchiveError, Whiteouts};

use crate::describe::{archive, options, tar_builder, tree};

/// Applies to `<temp>/root` and asserts that nothing beside it changed.
fn attack(bytes: &[u8]) -> (Result<layers::Applied, ApplyError>, String) {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("root")).unwrap();
    fs::write(place.path().join("victim"), "safe").unwrap();
    let result = layers::apply(bytes, &place.path().join("root"), &options(Whiteouts::Remove));
    let names: Vec<_> =
        fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(fs::read_to_string(place.path().join("victim")).unwrap(), "safe");
    (result, tree(&place.path().join("root")))
}

fn refused(lines: &str) -> String {
    let (result, _) = attack(&archive(lines));
    result.unwrap_err().to_string()
}

#[test]
fn refuses_names_that_climb_out() {
    assert!(refused("file ../victim 644 0:0 'x'").contains("leaves the root"));
    assert!(refused("file a/../../victim 644 0:0 'x'").contains("leaves the root"));
    assert!(refused("hard x 644 0:0 ../victim").contains("leaves the root"));
}

#[test]
fn absolute_names_land_below_the_root() {
    let (result, tree) = attack(&archive("file /victim 644 0:0 'x'"));
    result.unwrap();
    assert_eq!(tree, "file victim 644 0:0 'x'\n");
}

#[test]
fn symlink_sleds_stay_below_the_root() {
    for target in ["..", "/", "../..", "/../../.."] {
        let (result, tree) =
            attack(&archive(&format!("link sled 777 0:0 {target}\nfile sled/victim 644 0:0 'x'")));
        result.unwrap();
        assert_eq!(tree, format!("link sled -> {target}\nfile victim 644 0:0 'x'\n"));
    }
}

#[test]
fn symlink_chain_to_nowhere_is_refused() {
    assert!(refused("link a 777 0:0 ../../../tmp/gone\nfile a/x 644 0:0 'x'").contains("nowhere"));
    assert!(
        refused("link a 777 0:0 b\nlink b 777 0:0 a\nfile a/x 644 0:0 'x'").contains("too many")
    );
}

#[test]
fn files_are_not_written_through_links() {
    let (result, tree) = attack(&archive("link f 777 0:0 ../victim\nfile f 644 0:0 'x'"));
    result.unwrap();
    assert_eq!(tree, "file f 644 0:0 'x'\n");
}

#[test]
fn hard_links_through_links_stay_below_the_root() {
    let message = refused("link up 777 0:0 ..\nhard x 644 0:0 up/victim");
    assert!(message.contains("not in the layer"), "{message}");
}

#[test]
fn hard_link_to_a_link_links_the_link() {
    let (result, tree) = attack(&archive("link s 777 0:0 ../victim\nhard h 644 0:0 s"));
    result.unwrap();
    assert_eq!(tree, "link h -> ../victim\nlink s -> ../victim\n");
}

#[test]
fn removals_that_name_no_child_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..."] {
        let message = refused(&format!("file {name} 0 0:0"));
        assert!(message.contains("names no child"), "{name}: {message}");
    }
}

#[test]
fn removals_through_links_stay_below_the_root() {
    let (result, _) = attack(&archive("link up 777 0:0 ..\nfile up/.wh.victim 0 0:0"));
    result.unwrap();
    let (result, _) = attack(&archive("link up 777 0:0 ..\nfile up/.wh..wh..opq 0 0:0"));
    result.unwrap();
}

#[test]
fn parent_that_is_a_file_is_refused() {
    assert!(refused("file a 644 0:0 'x'\nfile a/b 644 0:0 'y'").contains("not a directory"));
}

#[test]
fn hard_link_to_a_directory_or_to_nothing_is_refused() {
    assert!(refused("dir d/ 755 0:0\nhard x 644 0:0 d").contains("directory"));
    assert!(refused("hard x 644 0:0 nothing").contains("not in the layer"));
}

#[test]
fn entries_over_the_limit_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let options = ApplyOptions { entries_max: 2, ..options(Whiteouts::Remove) };
    let tar = archive("dir a/ 755 0:0\ndir b/ 755 0:0\ndir c/ 755 0:0");
    let error = layers::apply(&tar[..], place.path(), &options).unwrap_err();
    assert_eq!(error.to_string(), "the layer has more than 2 entries");
}

#[test]
fn decompression_bomb_ends_at_the_limit() {
    let place = tempfile::tempdir().unwrap();
    let mut tar = tar_builder();
    tar.header(b'0', b"zeros", b"", 0o644, (0, 0), 64 << 20);
    tar.content(&vec![0; 64 << 20]);
    let mut sink = layers::LayerSink::new(Vec::new(), layers::Compression::GZIP_DEFAULT);
    std::io::Write::write_all(&mut sink, &tar.finish()).unwrap();
    let (_, bomb) = sink.finish().unwrap();
    assert!(bomb.len() < 200_000, "{}", bomb.len());
    let options = ApplyOptions { tar_bytes_max: 1 << 20, ..options(Whiteouts::Remove) };
    let error = layers::apply(&bomb[..], place.path(), &options).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let Some(source) = source else { panic!("{error}") };
    assert_eq!(source, "the layer is larger than 1048576 bytes uncompressed");
}

#[test]
fn truncated_and_garbled_archives_are_errors() {
    let whole = archive("file a 644 0:0 'hello'\ndir b/ 755 0:0");
    for cut in [1, 511, 513, 516, 1025] {
        let (result, _) = attack(&whole[..cut]);
        assert!(matches!(result, Err(ApplyError::Archive(ArchiveError::Read { .. }))), "{cut}");
    }
    let mut flipped = whole.clone();
    flipped[0] ^= 1;
    let (result, _) = attack(&flipped);
    assert!(matches!(result, Err(ApplyError::Archive(ArchiveError::Malformed { .. }))));
    let (result, _) =
        attack(b"this is not a tar archive at all, just some text".repeat(20).as_slice());
    assert!(result.unwrap_err().to_string().contains("no tar archive"));
}

/// As umoci's insert writes it: what is missing is of no entry.
#[test]
fn an_archive_may_end_before_the_padding_of_its_last_entry() {
    let whole = archive("file a 644 0:0 'hello'\ndir b/ 755 0:0");
    for end in [517, 700, 1023, 1024] {
        let (result, tree) = attack(&whole[..end]);
        result.unwrap();
        assert_eq!(tree, "file a 644 0:0 'hello'\n", "{end}");
    }
}

#[test]
fn cut_compressed_streams_are_errors() {
    for compression in [layers::Compression::Gzip(4), layers::Compression::Zstd(3)] {
        let mut sink = layers::LayerSink::new(Vec::new(), compression);
        std::io::Write::write_all(&mut sink, &archive("file a 644 0:0 'hello'")).unwrap();
        let (_, blob) = sink.finish().unwrap();
        let (result, _) = attack(&blob[..blob.len() - 3]);
        assert!(result.is_err(), "{compression:?}");
    }
}

#[test]
fn huge_declared_sizes_do_not_allocate() {
    let mut tar = tar_builder();
    tar.header(b'x', b"pax", b"", 0o644, (0, 0), 8 << 30);
    let (result, _) = attack(&tar.finish());
    assert!(result.unwrap_err().to_string().contains("is over"));
    let mut tar = tar_builder();
    tar.header(b'L', b"long", b"", 0o644, (0, 0), 1 << 30);
    let (result, _) = attack(&tar.finish());
    assert!(result.unwrap_err().to_string().contains("is over"));
}

#[test]
fn garbled_pax_records_are_errors() {
    for record in [
        "9999 path=x\n",
        "5 p=x",
        "0 path=x\n",
        "-1 a=b\n",
        "10 size=-1\n",
        "99999999999999999999 a=b\n",
    ] {
        let mut tar = tar_builder();
        tar.header(b'x', b"pax", b"", 0o644, (0, 0), record.len() as u64);
        tar.content(record.as_bytes());
        tar.header(b'0', b"f", b"", 0o644, (0, 0), 0);
        let (result, _) = attack(&tar.finish());
        assert!(
            matches!(result, Err(ApplyError::Archive(ArchiveError::Malformed { .. }))),
            "{record}"
        );
    }
}

#[test]
fn sparse_files_are_refused_by_name() {
    let mut tar = tar_builder();
    tar.header(b'S', b"holes", b"", 0o644, (0, 0), 0);
    let (result, _) = attack(&tar.finish());
    let message = result.unwrap_err().to_string();
    assert!(message.contains("holes") && message.contains("sparse"), "{message}");
}

#[test]
fn aufs_bookkeeping_is_passed_over() {
    let (result, tree) = attack(&archive(
        "file .wh..wh.aufs 444 0:0\ndir .wh..wh.plnk/ 700 0:0\nfile .wh..wh.plnk/1.2 600 0:0 'x'\nfile a 644 0:0 'a'",
    ));
    result.unwrap();
    assert_eq!(tree, "file a 644 0:0 'a'\n");
}

#[test]
fn missing_root_is_named() {
    let error = layers::apply(&[][..], Path::new("/nonexistent/root"), &options(Whiteouts::Remove));
    assert!(error.unwrap_err().to_string().contains("/nonexistent/root"));
}
