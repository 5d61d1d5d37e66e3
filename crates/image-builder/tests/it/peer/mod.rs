//! The same Dockerfiles by us and by Debian's buildah: equal trees, equal configs, or a
//! difference whose reason stands in `docs/dockerfile-conformance.md`.

mod buildah;
mod case;
mod observe;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use container_runtime::Mode;
use dockerfile::IgnoreFile;
use image_builder::{BuildOutcome, ContextDirectory, Output, OutputTarget};
use serde_json::Value;

use self::buildah::{Buildah, Built};
use self::case::{Case, Expected};
use crate::fixture::{Machine, write_context};
use crate::tests;

tests![images_equal_those_of_buildah, every_reason_is_written_down_and_used];

/// Names of the groups; each is a file in `cases/`.
const GROUPS: &[&str] = &[
    "copy",
    "copy_names",
    "copy_links",
    "add",
    "ignore",
    "looks",
    "stages",
    "run",
    "variables",
    "config",
    "newer",
];

/// Builds only cases whose group and title contain the value of this variable.
const ONLY: &str = "SHIPWAY_TEST_CASES";
/// Stores in which buildah works at the same time.
const PEERS: usize = 2;
/// Where the reasons are listed.
const REASONS: &str = "../../docs/dockerfile-conformance.md";

/// A file of this crate. Read when the test runs, so that a new case needs no compiler.
fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn all_cases() -> Vec<Case> {
    let read = |group: &&'static str| {
        case::read(group, &file(&format!("tests/it/peer/cases/{group}.txt")))
    };
    GROUPS.iter().flat_map(read).collect()
}

fn cases() -> Vec<Case> {
    let only = std::env::var(ONLY).unwrap_or_default();
    let mut cases = all_cases();
    cases.retain(|case| format!("{}: {}", case.group, case.title).contains(&only));
    cases
}

fn images_equal_those_of_buildah() {
    let cases = cases();
    let machine = Machine::new();
    write_context(machine.root.path());
    let script = machine.root.path().join("context.sh");
    std::fs::write(&script, file("tests/it/peer/context.sh")).expect("a file");
    let status = std::process::Command::new("sh").arg("-eu").arg(&script).status();
    assert!(status.expect("a shell").success());
    set_attributes(&machine.root.path().join("context"));
    let rich = file("tests/it/peer/rich.Dockerfile");
    let rich = machine.build(Mode::Overlay, &rich, &machine.root.path().join("context"));
    let rich = rich.expect("the second base");
    machine.keep(&rich, "rich");
    let base = machine.build(Mode::None, "FROM base\n", machine.root.path()).expect("the base");
    let mut bases = BTreeMap::new();
    for (name, outcome) in [("base", base), ("rich", rich)] {
        let archive = machine.root.path().join(format!("{name}.tar"));
        machine.write(&outcome, &Output::OciArchive(OutputTarget::File(archive.clone())), name);
        bases.insert(name, archive);
    }

    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // The bases were made a moment ago: their directories count as made by the build.
    let started = i64::try_from(started.expect("after 1970").as_secs()).expect("a time") - 600;
    let context =
        |case: &Case| machine.root.path().join(case.context.as_deref().unwrap_or("context"));
    let next = AtomicUsize::new(0);
    let theirs: Mutex<BTreeMap<usize, Result<Built, String>>> = Mutex::default();
    let mut ours = BTreeMap::new();
    std::thread::scope(|scope| {
        for peer in 0..PEERS {
            let home = machine.root.path().join(format!("buildah-{peer}"));
            let (bases, next, theirs, cases, context) = (&bases, &next, &theirs, &cases, &context);
            scope.spawn(move || {
                let peer = Buildah::new(home, bases);
                while let Some(at) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < cases.len())
                {
                    let case = &cases[at];
                    let built =
                        peer.build(case, &context(case), |root| observe::observe(root, started));
                    theirs.lock().expect("results").insert(at, built);
                }
            });
        }
        for (at, case) in cases.iter().enumerate() {
            ours.insert(at, build(&machine, case, &context(case), at, started));
        }
    });
    let theirs = theirs.into_inner().expect("results");
    let mut failures = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        if let Err(text) = compare(case, &ours[&at], &theirs[&at]) {
            failures.push(format!("{}: {}\n{text}", case.group, case.title));
        }
    }
    let both = cases.iter().filter(|case| !matches!(case.outcome, Expected::Beyond { .. }));
    eprintln!("{} Dockerfiles by both, {} cases in all", both.count(), cases.len());
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures.join("\n"));
}

/// What a peer may not be able to set from a shell script.
fn set_attributes(context: &Path) {
    // cap_net_bind_service+ep, revision 2.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let flags = rustix::fs::XattrFlags::empty();
    for path in ["special/capable", "packed-special/capable"] {
        rustix::fs::setxattr(context.join(path), c"security.capability", &capability, flags)
            .expect("root may");
    }
}

/// Our tree and config, or our error with its causes.
fn build(
    machine: &Machine,
    case: &Case,
    context: &Path,
    at: usize,
    started: i64,
) -> Result<Built, String> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        machine.build_with(Mode::Overlay, &case.dockerfile, context, |options, request| {
            options.build_args =
                case.arguments.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
            options.target.clone_from(&case.target);
            if let Some(ignore) = &case.ignore {
                let ignore = IgnoreFile::parse(ignore).expect("an ignore file of the test");
                let context = ContextDirectory { root: context.to_owned(), ignore };
                *request = image_builder::BuildRequest::new(Some(context));
            }
        })
    }));
    let outcome: BuildOutcome = match outcome {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text.push_str(&format!(": {error}"));
                cause = error.source();
            }
            return Err(format!("{text}\n{}", machine.printed()));
        }
        // The fixture expects that a plan can be made.
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            return Err(text);
        }
    };
    let tree = machine.unpack(&outcome, &format!("tree-{at}"));
    let lines = observe::observe(&tree, started);
    std::fs::remove_dir_all(&tree).expect("ours");
    let config = serde_json::to_value(&outcome.image).expect("json");
    Ok(Built { lines, config })
}

fn compare(
    case: &Case,
    ours: &Result<Built, String>,
    theirs: &Result<Built, String>,
) -> Result<(), String> {
    let refused = |text: &str| match ours {
        Ok(_) => Err("  we build it".to_owned()),
        Err(error) if error.contains(text) => Ok(()),
        Err(error) => Err(format!("  we say: {error}")),
    };
    match &case.outcome {
        Expected::BothFail(text) => {
            refused(text)?;
            theirs.as_ref().err().map(|_| ()).ok_or_else(|| "  buildah builds it".to_owned())
        }
        Expected::WeRefuse { text, .. } => {
            refused(text)?;
            theirs.as_ref().map(|_| ()).map_err(|error| format!("  buildah refuses too: {error}"))
        }
        Expected::Same | Expected::Beyond { .. } => {
            let ours = ours.as_ref().map_err(|error| format!("  we fail: {error}"))?;
            let mut wrong = String::new();
            for text in &case.has {
                if !ours.lines.iter().any(|line| line.contains(text)) {
                    wrong.push_str(&format!("  no line of ours has: {text}\n"));
                }
            }
            for text in &case.has_not {
                for line in ours.lines.iter().filter(|line| line.contains(text)) {
                    wrong.push_str(&format!("  ours has: {line}\n"));
                }
            }
            if matches!(case.outcome, Expected::Same) {
                match theirs {
                    Ok(theirs) => wrong.push_str(&differences(case, ours, theirs)),
                    Err(error) => wrong.push_str(&format!("  buildah fails: {error}\n")),
                }
            } else if theirs.is_ok() && case.has.is_empty() && case.has_not.is_empty() {
                wrong.push_str("  buildah builds it too\n");
            }
            if !wrong.is_empty() && (!case.has.is_empty() || !case.has_not.is_empty()) {
                let lines = ours.lines.iter().filter(|line| !line.starts_with("/bin/"));
                lines.for_each(|line| wrong.push_str(&format!("    {line}\n")));
            }
            if wrong.is_empty() { Ok(()) } else { Err(wrong) }
        }
    }
}

fn differences(case: &Case, ours: &Built, theirs: &Built) -> String {
    let mut wrong = String::new();
    let mut note = |who: &str, these: &Built, those: &Built| {
        for line in &these.lines {
            if !those.lines.contains(line) && !case.is_known(line) && !is_runtime_path(line) {
                wrong.push_str(&format!("  only {who}: {line}\n"));
            }
        }
    };
    note("ours", ours, theirs);
    note("theirs", theirs, ours);
    for field in [
        "Env",
        "Cmd",
        "Entrypoint",
        "User",
        "WorkingDir",
        "Labels",
        "ExposedPorts",
        "Volumes",
        "StopSignal",
    ] {
        let (ours, theirs) =
            (setting(&ours.config["config"], field), setting(&theirs.config["config"], field));
        if ours != theirs && !case.fields.iter().any(|(known, _)| known == field) {
            wrong.push_str(&format!("  {field}: ours {ours}, theirs {theirs}\n"));
        }
    }
    for field in ["architecture", "os", "author"] {
        let (ours, theirs) = (&ours.config[field], &theirs.config[field]);
        if ours != theirs && !case.fields.iter().any(|(known, _)| known == field) {
            wrong.push_str(&format!("  {field}: ours {ours}, theirs {theirs}\n"));
        }
    }
    wrong
}

/// A field of a config in one spelling: absent, empty and default are the same.
fn setting(config: &Value, field: &str) -> Value {
    match config.get(field) {
        None | Some(Value::Null) => Value::Null,
        Some(Value::Object(map)) if map.is_empty() => Value::Null,
        Some(Value::Array(items)) if items.is_empty() => Value::Null,
        Some(Value::String(text)) if text.is_empty() || text == "/" => Value::Null,
        Some(Value::Array(items)) if field == "Env" => {
            let mut items = items.clone();
            items.sort_by_key(ToString::to_string);
            Value::Array(items)
        }
        Some(value) => value.clone(),
    }
}

/// What a container runtime mounts on; buildah leaves empty ones in its layers.
fn is_runtime_path(line: &str) -> bool {
    [
        "/proc ",
        "/sys ",
        "/dev ",
        "/dev/",
        "/etc/hosts ",
        "/etc/resolv.conf ",
        "/etc/hostname ",
        "/run/.containerenv ",
        "/run/secrets ",
    ]
    .iter()
    .any(|path| line.starts_with(path))
}

fn every_reason_is_written_down_and_used() {
    let used: BTreeSet<String> = all_cases()
        .iter()
        .flat_map(|case| case.reasons().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let written: BTreeSet<String> = file(REASONS)
        .split("## Where buildah differs")
        .nth(1)
        .expect("the table")
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key.to_owned())
        .collect();
    assert_eq!(used, written);
}
