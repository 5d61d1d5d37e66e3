//! A node against a real control plane, with real containers from a busybox root.
//!
//! The harness is our own, because the helpers of the container runtime are this very binary:
//! `main` has to begin with `container_runtime::reexec`. Run with a part of a name to select, or
//! `--list`. Needs root and Debian's busybox-static.

mod config;
mod crash;
mod ephemeral;
mod fixture;
mod image_volumes;
mod images;
mod lifecycle;
mod private_registry;
mod restart;
mod streams;
mod tenants;

use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

pub(crate) type Outcome = Result<(), Box<dyn Error>>;
type Work = Pin<Box<dyn Future<Output = Outcome>>>;

/// A test by its name, which is a claim.
pub(crate) type Test = (&'static str, fn() -> Work);

/// Lists async functions as tests under their own names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] =
            &[$((stringify!($name), || Box::pin($name()))),*];
    };
}
pub(crate) use tests;

/// A test that takes longer hangs.
const TEST_TIME_MAX: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    container_runtime::reexec();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = crash::child(&args) {
        return code;
    }
    let modules = [
        ("lifecycle", lifecycle::TESTS),
        ("config", config::TESTS),
        ("streams", streams::TESTS),
        ("ephemeral", ephemeral::TESTS),
        ("images", images::TESTS),
        ("tenants", tenants::TESTS),
        ("image_volumes", image_volumes::TESTS),
        ("restart", restart::TESTS),
        ("crash", crash::TESTS),
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
                show(&format!("{name}: test"));
                continue;
            }
            let began = Instant::now();
            match run(*test) {
                Ok(()) => {
                    passed += 1;
                    show(&format!("test {name} ... ok ({} ms)", began.elapsed().as_millis()));
                }
                Err(error) => {
                    show(&format!("test {name} ... FAILED: {error}"));
                    failed.push(name);
                }
            }
        }
    }
    show(&format!("test result: {passed} passed; {} failed", failed.len()));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(test: fn() -> Work) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let result = runtime.block_on(async {
        let caught = AssertUnwindSafe(test()).catch_unwind();
        match tokio::time::timeout(TEST_TIME_MAX, caught).await {
            Ok(Ok(outcome)) => outcome.map_err(|error| error.to_string()),
            Ok(Err(_)) => Err("panicked".to_owned()),
            Err(_) => Err("took too long".to_owned()),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    result
}

#[expect(clippy::print_stdout, reason = "this is the test harness")]
fn show(line: &str) {
    println!("{line}");
}
