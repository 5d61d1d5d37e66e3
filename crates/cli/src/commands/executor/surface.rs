//! docs/kaniko.md against the program: every flag, its default, its class, its test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser as _};

use crate::commands::Cli;
use crate::commands::executor::ExecutorArgs;

struct Row {
    short: Option<char>,
    default: String,
    class: String,
    test: String,
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kaniko.md");
    std::fs::read_to_string(path).expect("the document")
}

/// The table of flags by long name.
fn rows() -> BTreeMap<String, Row> {
    let text = document();
    let table = text.split("## Flags of the executor").nth(1).expect("the section");
    let lines = table.lines().skip_while(|line| !line.starts_with("| `--"));
    let mut rows = BTreeMap::new();
    for line in lines.take_while(|line| line.starts_with('|')) {
        let line = line.replace("\\|", "/");
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [flags, default, class, _, test] = cells[..] else { panic!("{line}") };
        let mut names = flags.split(", ").map(|name| name.trim_matches('`'));
        let long = names.next().and_then(|name| name.strip_prefix("--")).expect("a long name");
        let short = names.next().and_then(|name| name.chars().nth(1));
        let plain = |text: &str| text.trim_matches('`').to_owned();
        let row =
            Row { short, default: plain(default), class: class.to_owned(), test: plain(test) };
        assert!(rows.insert(long.to_owned(), row).is_none(), "{long} twice");
    }
    rows
}

/// The flags of the program by long name, with short names and defaults.
fn flags() -> BTreeMap<String, (Option<char>, String, Option<String>)> {
    let command = Cli::command();
    let executor = command.find_subcommand("executor").expect("the verb");
    let arguments = executor.get_arguments().filter(|argument| !argument.is_global_set());
    arguments
        .filter_map(|argument| {
            let long = argument.get_long()?.to_owned();
            let values = argument.get_default_values().iter();
            let default: Vec<String> =
                values.map(|value| value.to_string_lossy().into_owned()).collect();
            let example = match argument.get_num_args() {
                Some(range) if range.max_values() == 0 => None,
                _ => Some(example(&long).to_owned()),
            };
            Some((long, (argument.get_short(), default.join(","), example)))
        })
        .collect()
}

/// A value that a flag takes.
fn example(flag: &str) -> &'static str {
    match flag {
        "compression" => "gzip",
        "compression-level" | "push-retry" | "image-download-retry" | "image-fs-extract-retry" => {
            "3"
        }
        "image-format" => "oci",
        "snapshot-mode" => "redo",
        "cache-ttl" => "1h",
        "custom-platform" => "linux/amd64",
        "git" => "depth=1",
        "credential-helpers" => "env",
        "verbosity" => "debug",
        "log-format" => "json",
        "isolation" => "auto",
        "label" | "annotation" | "build-arg" => "key=value",
        "destination" | "cache-repo" => "registry.example.com/name",
        "context"
        | "dockerfile"
        | "context-sub-path"
        | "bucket"
        | "target"
        | "secret"
        | "tar-path"
        | "oci-layout-path"
        | "digest-file"
        | "image-name-with-digest-file"
        | "image-name-tag-with-digest-file"
        | "cache-dir"
        | "kaniko-dir"
        | "ignore-path"
        | "insecure-registry"
        | "skip-tls-verify-registry"
        | "registry-certificate"
        | "registry-client-cert"
        | "registry-mirror"
        | "registry-map"
        | "azure-container-registry-config" => "x",
        _ => "true",
    }
}

fn parsed(arguments: &[String]) -> ExecutorArgs {
    #[derive(clap::Parser)]
    struct Alone {
        #[command(flatten)]
        executor: ExecutorArgs,
    }
    let all = std::iter::once("executor".to_owned()).chain(arguments.iter().cloned());
    Alone::try_parse_from(all).unwrap_or_else(|error| panic!("{error}")).executor
}

#[test]
fn the_document_and_the_program_have_the_same_flags() {
    let (documented, real) = (rows(), flags());
    for (name, (short, default, _)) in &real {
        let row = documented.get(name).unwrap_or_else(|| panic!("--{name} is not documented"));
        assert_eq!(&row.short, short, "--{name}");
        assert_eq!(&row.default, default, "--{name}");
    }
    for name in documented.keys() {
        assert!(real.contains_key(name), "--{name} is documented and does not exist");
    }
}

#[test]
fn flags_are_accepted_and_warn_as_their_class_says() {
    let documented = rows();
    for (name, (_, _, example)) in flags() {
        let row = &documented[&name];
        let given = match example {
            Some(value) => format!("--{name}={value}"),
            None => format!("--{name}"),
        };
        let warnings = parsed(std::slice::from_ref(&given)).warnings();
        match row.class.as_str() {
            "W" => {
                assert_eq!(warnings.len(), 1, "{given}: {warnings:?}");
                assert!(warnings[0].contains(&name), "{given}: {warnings:?}");
            }
            "M" | "M ↑" | "own" => assert!(warnings.is_empty(), "{given}: {warnings:?}"),
            other => panic!("--{name} has class {other:?}"),
        }
    }
    assert!(parsed(&[]).warnings().is_empty(), "defaults warn of nothing");
}

#[test]
fn booleans_are_read_as_go_reads_them() {
    let no_push = |text: &str| parsed(&[text.to_owned()]).no_push();
    assert!(no_push("--no-push") && no_push("--no-push=true") && no_push("--no-push=1"));
    assert!(no_push("--no-push=t") && !no_push("--no-push=false") && !no_push("--no-push=0"));
}

#[test]
fn tests_of_the_document_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    let mut waiting: Vec<PathBuf> = vec![root.join("cli"), root.join("image-builder")];
    while let Some(directory) = waiting.pop() {
        for item in std::fs::read_dir(directory).expect("a directory").flatten() {
            let path = item.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&std::fs::read_to_string(path).expect("a source file"));
            }
        }
    }
    let text = document();
    let verbs_and_variables = text.split("## Verbs").nth(1).expect("the section");
    let last_cells = verbs_and_variables
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.trim_end_matches(['|', ' ']).rsplit_once("| `"))
        .map(|(_, test)| test.trim_end_matches('`').to_owned())
        .filter(|test| !test.contains(' '));
    for tests in rows().into_values().map(|row| row.test).chain(last_cells) {
        for test in tests.split("`, `") {
            assert!(sources.contains(&format!("fn {test}()")), "there is no test {test}");
        }
    }
}
