use super::*;
use crate::select::select;

/// `path mode [uid:gid]`, a directory ends in `/`, a link is written `path -> target`.
fn tree(lines: &[&str]) -> IndexedTree {
    let mut tree = IndexedTree::new();
    for line in lines {
        let entry = if let Some((path, target)) = line.split_once(" -> ") {
            Entry::symlink(path, target)
        } else {
            let mut words = line.split_whitespace();
            let path = words.next().expect("a path");
            let mode = words.next().map_or(0o644, |m| u32::from_str_radix(m, 8).expect("a mode"));
            let mut entry = match path.strip_suffix('/') {
                Some(path) => Entry::directory(path, mode),
                None => Entry::file(path, mode, 0),
            };
            if let Some((uid, gid)) = words.next().and_then(|ids| ids.split_once(':')) {
                entry.uid = uid.parse().expect("a number");
                entry.gid = gid.parse().expect("a number");
            }
            entry
        };
        tree.insert(Node { entry, content: Content::Empty, link: None });
    }
    tree
}

struct Case<'a> {
    source: &'a [&'a str],
    target: &'a [&'a str],
    words: &'a [&'a str],
    destination: &'a str,
    owner: Option<Ids>,
    mode: Option<&'a str>,
    parents: bool,
    exclude: Option<&'a str>,
}

const CASE: Case<'_> = Case {
    source: &[],
    target: &[],
    words: &[],
    destination: "/",
    owner: None,
    mode: None,
    parents: false,
    exclude: None,
};

fn run(case: &Case<'_>) -> Result<String, String> {
    let (source, target) = (tree(case.source), tree(case.target));
    let mut selected = Vec::new();
    for word in case.words {
        selected.extend(select(&source, word).map_err(|error| error.to_string())?);
    }
    let mode = case.mode.map(|mode| ModeChange::parse(mode).expect("a mode of the test"));
    let look = Look { owner: case.owner, mode: mode.as_ref(), now: Timestamp::default() };
    let destination =
        Destination::find(&target, case.destination).map_err(|error| error.to_string())?;
    let mut additions = Additions::to(&target);
    let excluded =
        |path: &Path| case.exclude.is_some_and(|suffix| path.to_string_lossy().ends_with(suffix));
    let request = Copy {
        source: &source,
        selected: &selected,
        excluded: &excluded,
        keep_parents: case.parents,
    };
    copy(&mut additions, &request, &destination, &look).map_err(|error| error.to_string())?;
    let lines = additions.into_nodes().into_iter().map(|node| {
        let entry = node.entry;
        let path = entry.path.display();
        match entry.kind {
            EntryKind::Symlink { target } => format!("{path} -> {}", target.display()),
            EntryKind::Directory => format!("{path}/ {:o} {}:{}", entry.mode, entry.uid, entry.gid),
            _ => format!("{path} {:o} {}:{}", entry.mode, entry.uid, entry.gid),
        }
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn check(case: &Case<'_>, expected: &[&str]) {
    assert_eq!(run(case).expect("a copy that works"), expected.join("\n"));
}

#[test]
fn a_file_takes_the_name_of_a_destination_that_does_not_exist() {
    let case = Case { source: &["f 600"], words: &["f"], destination: "/a/g", ..CASE };
    check(&case, &["a/ 755 0:0", "a/g 600 0:0"]);
}

#[test]
fn a_file_goes_into_an_existing_directory_that_keeps_its_looks() {
    let case = Case {
        source: &["f"],
        target: &["d/ 1777 5:6"],
        words: &["f"],
        destination: "/d",
        owner: Some(Ids { uid: 7, gid: 8 }),
        ..CASE
    };
    check(&case, &["d/ 1777 5:6", "d/f 644 7:8"]);
}

#[test]
fn a_trailing_slash_makes_a_directory() {
    let case = Case { source: &["f"], words: &["f"], destination: "/d/", ..CASE };
    check(&case, &["d/ 755 0:0", "d/f 644 0:0"]);
}

#[test]
fn the_contents_of_a_directory_are_copied_not_the_directory() {
    let case = Case {
        source: &["s/ 700", "s/a 600", "s/sub/ 711", "s/sub/b 640"],
        target: &["d/sub/ 750 9:9"],
        words: &["s/"],
        destination: "/d",
        ..CASE
    };
    let lines = ["d/ 755 0:0", "d/a 600 0:0", "d/sub/ 711 0:0", "d/sub/b 640 0:0"];
    check(&case, &lines);
}

#[test]
fn several_files_need_a_directory() {
    let case = Case { source: &["a", "b"], words: &["a", "b"], destination: "/x", ..CASE };
    let error = run(&case).expect_err("no directory");
    assert!(error.starts_with("when specifying multiple sources"), "{error}");
    let case = Case { target: &["x/"], ..case };
    assert!(run(&case).is_ok());
}

#[test]
fn kinds_that_clash_are_refused() {
    let case = Case { source: &["s/a"], target: &["x"], words: &["s"], destination: "/x", ..CASE };
    assert_eq!(run(&case), Err("cannot copy to non-directory: /x".into()));
    let case =
        Case { source: &["s/a"], target: &["x/a/b"], words: &["s"], destination: "/x", ..CASE };
    assert_eq!(run(&case), Err("cannot replace to directory /x/a with file".into()));
}

#[test]
fn links_of_the_destination_are_followed_inside_the_root() {
    let case = Case {
        source: &["f", "lib/l"],
        target: &["var/run -> /run", "run/", "lib -> usr/lib", "usr/lib/ 755"],
        words: &["f"],
        destination: "/var/run/",
        ..CASE
    };
    check(&case, &["run/ 644 0:0", "run/f 644 0:0"]);
    let case = Case { words: &["."], destination: "/", ..case };
    check(&case, &["f 644 0:0", "usr/ 755 0:0", "usr/lib/ 755 0:0", "usr/lib/l 644 0:0"]);
}

#[test]
fn links_inside_a_directory_stay_links() {
    let case = Case { source: &["s/l -> nowhere"], words: &["s"], destination: "/d/", ..CASE };
    check(&case, &["d/ 755 0:0", "d/l -> nowhere"]);
}

#[test]
fn created_parents_take_owner_and_octal_mode() {
    let case = Case {
        source: &["f"],
        words: &["f"],
        destination: "/a/b/",
        owner: Some(Ids { uid: 1, gid: 2 }),
        mode: Some("711"),
        ..CASE
    };
    check(&case, &["a/ 711 1:2", "a/b/ 711 1:2", "a/b/f 711 1:2"]);
}

#[test]
fn symbolic_modes_know_directories() {
    let case = Case {
        source: &["s/x/ 700", "s/x/f 600"],
        words: &["s"],
        destination: "/d/",
        mode: Some("go=rX"),
        ..CASE
    };
    check(&case, &["d/ 755 0:0", "d/x/ 755 0:0", "d/x/f 644 0:0"]);
}

#[test]
fn parents_keep_the_path_after_the_pivot_and_its_modes() {
    let case = Case {
        source: &["x/ 755", "x/a/ 710", "x/a/f"],
        words: &["x/./a/f"],
        destination: "/d/",
        parents: true,
        ..CASE
    };
    check(&case, &["d/ 755 0:0", "d/a/ 710 0:0", "d/a/f 644 0:0"]);
    let case = Case { words: &["x/a/f"], ..case };
    check(&case, &["d/ 755 0:0", "d/x/ 755 0:0", "d/x/a/ 710 0:0", "d/x/a/f 644 0:0"]);
}

#[test]
fn excluded_paths_are_left_out() {
    let case = Case {
        source: &["s/a.tmp", "s/b", "s/t/ 755", "s/t/c.tmp"],
        words: &["s"],
        destination: "/d/",
        exclude: Some(".tmp"),
        ..CASE
    };
    check(&case, &["d/ 755 0:0", "d/b 644 0:0", "d/t/ 755 0:0"]);
}

#[test]
fn names_of_one_file_become_hard_links() {
    let nodes = ["a", "b"].map(|path| Node {
        entry: Entry::file(path, 0o644, 3),
        content: Content::Bytes(b"abc".as_slice().into()),
        link: Some(1),
    });
    let layer = to_layer(nodes.to_vec());
    let kinds: Vec<_> = layer.entries().map(|entry| entry.kind.clone()).collect();
    let link = EntryKind::Hardlink { target: "a".into() };
    assert_eq!(kinds, [EntryKind::File { size: 3 }, link]);
}

#[test]
fn an_archive_wins_over_what_is_there_and_leaves_the_root_alone() {
    let target = tree(&["d/ 700 3:3", "d/x", "d/lib -> real", "d/real/ 755"]);
    let look = Look { owner: None, mode: None, now: Timestamp::default() };
    let mut additions = Additions::to(&target);
    for entry in [
        Entry::directory("", 0o777),
        Entry::directory("x", 0o711),
        Entry::file("x/y", 0o600, 0),
        Entry::file("lib/z", 0o600, 0),
        Entry::file("../../esc", 0o600, 0),
        Entry::directory("lib", 0o750),
    ] {
        let node = Node { entry, content: Content::Empty, link: None };
        additions.put_extracted(node, Path::new("d"), &look).expect("an entry");
    }
    let paths: Vec<_> = additions
        .into_nodes()
        .into_iter()
        .map(|node| format!("{} {:o}", node.entry.path.display(), node.entry.mode))
        .collect();
    let expected = "d 700, d/lib 750, d/real 755, d/real/z 600, d/x 711, d/x/y 600, esc 600";
    assert_eq!(paths.join(", "), expected);
}
