//! Python with packages from PyPI, for clients and servers that somebody else wrote.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter of an environment of that name, made once for all runs of the tests, that can
/// import `modules`.
pub(crate) fn environment(name: &str, modules: &str, packages: &[&str]) -> PathBuf {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = environment.join("bin/python");
    std::fs::create_dir_all(&environment).expect("a directory");
    // Test processes run at once: one installs, the others wait for it.
    let lock = std::fs::File::create(environment.join("lock")).expect("a file");
    lock.lock().expect("a lock");
    let import = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if import.is_ok_and(|output| output.status.success()) {
        return python;
    }
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect("python3 with venv");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "pip install {packages:?}: {text}");
    };
    let place = environment.to_str().expect("a path in UTF-8");
    run(Path::new("python3"), &["-m", "venv", place]);
    run(&python, &[&["-m", "pip", "install", "--quiet"], packages].concat());
    python
}
