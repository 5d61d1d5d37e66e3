//! Real containers from a busybox root.
//!
//! The harness is our own, because helpers are this very binary: `main` has to begin with
//! `container_runtime::reexec`. Run with a part of a name to select, or `--list`.

mod crash;
mod exec;
mod fixture;
mod hardened;
mod lifecycle;
mod logs;
mod mounts;
mod peer;
mod process;
mod security;
mod soak;
mod steps;

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// A test by its name, which is a claim.
pub(crate) type Test = (&'static str, fn() -> Outcome);

/// Lists functions as tests under their own names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] = &[$((stringify!($name), $name)),*];
    };
}
pub(crate) use tests;

fn main() -> ExitCode {
    container_runtime::reexec();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = hardened::inner(&args).or_else(|| crash::inner(&args)) {
        return code;
    }
    let modules = [
        ("lifecycle", lifecycle::TESTS),
        ("process", process::TESTS),
        ("mounts", mounts::TESTS),
        ("security", security::TESTS),
        ("logs", logs::TESTS),
        ("exec", exec::TESTS),
        ("steps", steps::TESTS),
        ("hardened", hardened::TESTS),
        ("peer", peer::TESTS),
        ("crash", crash::TESTS),
        ("soak", soak::TESTS),
    ];
    let selected: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let (mut passed, mut failed) = (0, Vec::new());
    for (module, tests) in modules {
        for (name, test) in tests {
            let name = format!("{module}::{name}");
            if !selected.is_empty() && !selected.iter().any(|part| name.contains(part.as_str())) {
                continue;
            }
            if args.iter().any(|arg| arg == "--list") {
                say(&format!("{name}: test"));
                continue;
            }
            let problem = match catch_unwind(AssertUnwindSafe(test)) {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("panicked".to_owned()),
            };
            match problem {
                None => {
                    passed += 1;
                    say(&format!("test {name} ... ok"));
                }
                Some(problem) => {
                    say(&format!("test {name} ... FAILED: {problem}"));
                    failed.push(name);
                }
            }
        }
    }
    say(&format!("\ntest result: {passed} passed; {} failed", failed.len()));
    for name in &failed {
        say(&format!("    {name}"));
    }
    ExitCode::from(u8::from(!failed.is_empty()))
}

#[expect(clippy::print_stdout, reason = "a test harness talks")]
fn say(line: &str) {
    println!("{line}");
}
