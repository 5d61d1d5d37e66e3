//! Dockerfiles, contexts and archives that were made to break a builder.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use container_runtime::Mode;
use dockerfile::{Dockerfile, IgnoreFile};

use crate::fixture::Machine;
use crate::tests;
use crate::tree::describe;

tests![
    strange_files_of_a_context_are_copied_or_left_out,
    links_of_a_context_never_leave_it,
    archives_of_add_never_leave_the_image,
    a_promise_of_gigabytes_in_add_is_an_error,
    a_cut_archive_in_add_is_an_error,
    a_dockerfile_of_ten_megabytes_is_refused_by_a_limit,
    lines_at_the_limit_are_built_and_longer_ones_refused,
    deep_nesting_of_variables_is_an_error,
    a_hundred_thousand_ignore_patterns_are_over_a_limit,
    twenty_thousand_files_arrive,
];

fn context(machine: &Machine) -> PathBuf {
    let context = machine.root.path().join("hostile");
    std::fs::create_dir_all(context.join("d")).expect("a directory");
    context
}

fn strange_files_of_a_context_are_copied_or_left_out() {
    let machine = Machine::new();
    let context = context(&machine);
    let socket = std::os::unix::net::UnixListener::bind(context.join("d/socket")).expect("bound");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        context.join("d/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .expect("a fifo");
    let long = "n".repeat(255);
    let names: [&[u8]; 4] = [b"new\nline", b"not-utf8-\xff\xfe", long.as_bytes(), b" blank "];
    for name in names {
        std::fs::write(context.join("d").join(OsStr::from_bytes(name)), name).expect("a file");
    }
    let outcome = machine.build(Mode::None, "FROM base\nCOPY d /d\n", &context).expect("built");
    drop(socket);
    let tree = machine.unpack(&outcome, "strange");
    for name in names {
        let path = tree.join("d").join(OsStr::from_bytes(name));
        assert_eq!(std::fs::read(path).expect("copied"), name);
    }
    let lines = describe(&tree);
    assert!(lines.iter().any(|line| line == "/d/fifo 640 0:0 fifo"), "{lines:?}");
    // A socket of the context is an empty file (BuildKit), never a socket.
    let found = lines.iter().find(|line| line.starts_with("/d/socket "));
    assert!(found.is_none_or(|line| line.contains(" file ")), "{found:?}");
}

fn links_of_a_context_never_leave_it() {
    let machine = Machine::new();
    let context = context(&machine);
    let outside = machine.root.path().join("outside");
    std::fs::create_dir_all(&outside).expect("a directory");
    std::fs::write(outside.join("secret"), "not for images").expect("a file");
    symlink(&outside, context.join("absolute")).expect("a link");
    symlink("../outside", context.join("climbing")).expect("a link");
    symlink("../outside/secret", context.join("file")).expect("a link");
    symlink("loop", context.join("loop")).expect("a link");
    symlink(".", context.join("here")).expect("a link");
    for source in ["absolute/secret", "climbing/secret", "file", "loop", "../outside/secret"] {
        let text = format!("FROM base\nCOPY {source} /x\n");
        assert!(machine.build(Mode::None, &text, &context).is_err(), "{source}");
    }
    // As part of a directory they are what they are.
    let outcome = machine.build(Mode::None, "FROM base\nCOPY . /c/\n", &context).expect("built");
    let tree = machine.unpack(&outcome, "links");
    assert!(std::fs::symlink_metadata(tree.join("c/absolute")).expect("a link").is_symlink());
    assert!(!tree.join("c/here/c").exists());
}

/// A tar archive of one entry, and an end.
fn archive(kind: u8, name: &[u8], link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut block = [0u8; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(b"0000644");
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut bytes = block.to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archives_of_add_never_leave_the_image() {
    let machine = Machine::new();
    let context = context(&machine);
    let end = [0; 1024];
    let sled = |target: &[u8]| {
        let link = archive(b'2', b"sled", target, b"");
        [&link[..], &archive(b'0', b"sled/victim", b"", b"x"), &end].concat()
    };
    let attacks = [
        ("climb", [&archive(b'0', b"../../victim", b"", b"x")[..], &end].concat()),
        ("absolute", [&archive(b'0', b"/victim", b"", b"x")[..], &end].concat()),
        ("sled", sled(b"../../../../..")),
        ("sled-root", sled(b"/")),
        ("hard", [&archive(b'1', b"h", b"../../etc/shadow", b"")[..], &end].concat()),
        ("hard-absolute", [&archive(b'1', b"h", b"/etc/hostname", b"")[..], &end].concat()),
    ];
    for (name, bytes) in attacks {
        std::fs::write(context.join(name), bytes).expect("a file");
        let text = format!("FROM base\nADD {name} /un/\n");
        // Refused or kept inside: both are safe.
        if let Ok(outcome) = machine.build(Mode::None, &text, &context) {
            let tree = machine.unpack(&outcome, name);
            assert!(!tree.join("un/h").exists(), "{name}");
        }
        for place in [machine.root.path(), Path::new("/")] {
            assert!(!place.join("victim").exists(), "{name}");
        }
    }
}

fn a_promise_of_gigabytes_in_add_is_an_error() {
    let machine = Machine::new();
    let context = context(&machine);
    // A header that promises eight gigabytes, which never come.
    let mut bytes = archive(b'0', b"zeros", b"", b"");
    bytes[124..135].copy_from_slice(b"77777777777");
    bytes[148..156].fill(b' ');
    let sum: u64 = bytes[..512].iter().map(|byte| u64::from(*byte)).sum();
    bytes[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    bytes.extend_from_slice(&[0; 4096]);
    std::fs::write(context.join("bomb"), bytes).expect("a file");
    let error = machine.build(Mode::None, "FROM base\nADD bomb /un/\n", &context);
    assert!(error.is_err(), "the archive ends before its entry does");
}

fn a_cut_archive_in_add_is_an_error() {
    let machine = Machine::new();
    let context = context(&machine);
    let whole = archive(b'0', b"f", b"", &[7; 2000]);
    std::fs::write(context.join("cut"), &whole[..1500]).expect("a file");
    let error = machine.build(Mode::None, "FROM base\nADD cut /un/\n", &context);
    assert!(error.is_err());
}

fn a_dockerfile_of_ten_megabytes_is_refused_by_a_limit() {
    let mut text = b"FROM scratch\n".to_vec();
    while text.len() < 10 << 20 {
        text.extend_from_slice(b"LABEL a=b\n");
    }
    match Dockerfile::parse("Dockerfile", &text) {
        Ok(_) => panic!("10 MB of instructions are no Dockerfile"),
        Err(error) => {
            assert!(error.to_string().contains("more than 20000 instructions"), "{error}")
        }
    }
}

fn lines_at_the_limit_are_built_and_longer_ones_refused() {
    let machine = Machine::new();
    let context = context(&machine);
    let line =
        |bytes: usize| format!("FROM base\nLABEL a={}\n", "x".repeat(bytes - "LABEL a=".len()));
    let outcome = machine.build(Mode::None, &line(65_534), &context).expect("built");
    assert_eq!(outcome.image.config.labels["a"].len(), 65_526);
    let error = Dockerfile::parse("Dockerfile", line(65_537).as_bytes());
    let Err(error) = error else { panic!("a line of 65537 bytes") };
    assert!(error.to_string().contains("65535"), "{error}");
}

fn deep_nesting_of_variables_is_an_error() {
    for depth in [10, 100, 10_000] {
        let nested = format!("{}x{}", "${A:-".repeat(depth), "}".repeat(depth));
        let text = format!("FROM scratch\nENV B={nested}\n");
        let file =
            Dockerfile::parse("Dockerfile", text.as_bytes()).expect("words are not read yet");
        let options = dockerfile::PlanOptions::for_platform(oci_model::Platform::host());
        let plan = dockerfile::Draft::new(&file, options).and_then(dockerfile::Draft::finish);
        // `dockerfile::limits` allows 64.
        assert_eq!(plan.is_ok(), depth == 10, "{depth}");
    }
}

fn a_hundred_thousand_ignore_patterns_are_over_a_limit() {
    let mut ignore = String::new();
    for number in 0..100_000 {
        ignore.push_str(&format!("ignored-{number}/**/*.x\n"));
    }
    ignore.push_str("d/gone\n");
    let Err(error) = IgnoreFile::parse(&ignore) else { panic!("over the limit") };
    assert!(error.to_string().contains("patterns"), "{error}");
    // The most that is allowed still works.
    let lines: Vec<&str> = ignore.lines().rev().take(10_000).collect();
    let ignore = IgnoreFile::parse(&lines.join("\n")).expect("within the limit");
    assert!(ignore.ignores("d/gone") && !ignore.ignores("d/kept"));
    assert!(ignore.ignores("ignored-99999/a/b/c.x"));
}

fn twenty_thousand_files_arrive() {
    let machine = Machine::new();
    let context = context(&machine);
    for directory in 0..100 {
        let directory = context.join(format!("many/{directory}"));
        std::fs::create_dir_all(&directory).expect("a directory");
        for number in 0..200 {
            let mut file =
                std::fs::File::create(directory.join(number.to_string())).expect("a file");
            file.write_all(b"x").expect("written");
        }
    }
    let outcome =
        machine.build(Mode::None, "FROM scratch\nCOPY many /many\n", &context).expect("built");
    let tree = machine.unpack(&outcome, "many");
    assert_eq!(std::fs::read_dir(tree.join("many")).expect("copied").count(), 100);
    assert_eq!(std::fs::read_dir(tree.join("many/99")).expect("copied").count(), 200);
}
