//! What to try next after a failed step: known causes by what the command printed.

use image_builder::{ContextDirectory, StepError};

/// Advice for a failed step, from its error and the last lines that it printed.
pub(crate) fn advice(error: &StepError, lines: &[&str]) -> Option<String> {
    let StepError::Exit { command, code } = error else {
        return error.hint().map(|hint| hint.to_string());
    };
    let has = |pattern: &str| lines.iter().any(|line| line.contains(pattern));
    if let Some(host) = lines.iter().find_map(|line| unresolved_host(line)) {
        let host = if host.is_empty() { "a host".to_owned() } else { host };
        return Some(format!(
            "the command cannot find {host}: RUN uses the resolver of this machine \
             (/etc/resolv.conf), and --network=none has none; where only a proxy has names, add \
             --build-arg HTTP_PROXY --build-arg HTTPS_PROXY"
        ));
    }
    if has("Exec format error") || has("exec format error") {
        return Some(
            "the program is made for another processor: check --platform and the platform of the \
             base, or register qemu with binfmt_misc"
                .to_owned(),
        );
    }
    if *code == 127 || has(": not found") && *code != 0 {
        if let Some(program) = lines.iter().rev().find_map(|line| missing_program(line)) {
            return Some(format!(
                "{program} is not in the image: install it in a step before this one, or check \
                 PATH and the spelling"
            ));
        }
        if *code == 127 {
            return Some(
                "exit code 127 means that a program was not found: is it in the base image?"
                    .to_owned(),
            );
        }
    }
    if has("Unable to locate package") || has("has no installation candidate") {
        return Some(
            "package lists are missing or old: run apt-get update in the same RUN as apt-get \
             install"
                .to_owned(),
        );
    }
    if has("No space left on device") {
        return Some(
            "the disk of the state directory is full: `shipway node prune` or another --state-dir"
                .to_owned(),
        );
    }
    match code {
        126 => Some(format!(
            "exit code 126 means that a file could not be executed: check its mode (COPY \
             --chmod=0755) and the interpreter in its first line: {command}"
        )),
        137 => Some(
            "the command was killed (SIGKILL), most often for want of memory: raise the limit of \
             the pod or run less at once"
                .to_owned(),
        ),
        _ => None,
    }
}

/// Advice for a source that is in the context but left out by its ignore file.
pub(crate) fn ignored(error: &StepError, context: &ContextDirectory) -> Option<String> {
    let StepError::Source(text) = error else { return None };
    let path = text.split('"').nth(1)?.trim_start_matches('/');
    let pattern = context.ignore.ignoring_pattern(path)?;
    context.root.join(path).symlink_metadata().ok()?;
    Some(format!(
        "{path} is in the context, but the pattern {pattern} of .dockerignore leaves it out: add \
         !{path} to that file"
    ))
}

/// The program of `sh: 1: foo: not found` and the like of other shells.
fn missing_program(line: &str) -> Option<String> {
    let line = line.trim_end();
    let before = line
        .strip_suffix(": not found")
        .or_else(|| line.strip_suffix(": command not found"))
        .or_else(|| line.strip_suffix(": No such file or directory"))?;
    let name = before.rsplit(": ").next()?.trim_matches(['"', '\'', '‘', '’']);
    let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
    is_name.then(|| name.to_owned())
}

/// The host of a failed look-up, empty if the line says only that one failed.
fn unresolved_host(line: &str) -> Option<String> {
    let word_after = |marker: &str| {
        let (_, rest) = line.split_once(marker)?;
        let word = rest.split_whitespace().next().unwrap_or("");
        Some(word.trim_matches(['"', '\'', '‘', '’', ';', ',', ':', '.']).to_owned())
    };
    // apt, curl, wget (GNU and busybox), git, npm, cargo.
    for marker in [
        "Temporary failure resolving ",
        "Could not resolve host: ",
        "Could not resolve '",
        "Couldn't resolve host '",
        "unable to resolve host address ",
        "wget: bad address ",
        "getaddrinfo ENOTFOUND ",
        "getaddrinfo EAI_AGAIN ",
    ] {
        if let Some(host) = word_after(marker) {
            return Some(host);
        }
    }
    // python and everything that prints the C library's words.
    ["Temporary failure in name resolution", "Name or service not known", "nodename nor servname"]
        .iter()
        .any(|marker| line.contains(marker))
        .then(String::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice_for(code: i32, line: &str) -> Option<String> {
        let error = StepError::Exit { command: "/bin/sh -c x".to_owned(), code };
        advice(&error, &["something before", line])
    }

    #[test]
    fn known_causes_are_named() {
        for (code, line, expected) in [
            (127, "/bin/sh: 1: make: not found", "make is not in the image"),
            (127, "/bin/sh: make: not found", "make is not in the image"),
            (127, "bash: line 1: gcc: command not found", "gcc is not in the image"),
            (127, "exec: \"node\": No such file or directory", "node is not in the image"),
            (127, "odd words", "exit code 127"),
            (2, "/bin/sh: 1: make: not found", "make is not in the image"),
            (126, "x", "--chmod=0755"),
            (137, "x", "want of memory"),
            (100, "E: Unable to locate package gcc", "apt-get update"),
            (100, "  Temporary failure resolving 'deb.example.org'", "find deb.example.org:"),
            (6, "curl: (6) Could not resolve host: nope.invalid", "find nope.invalid:"),
            (1, "wget: bad address 'nope.invalid'", "find nope.invalid:"),
            (4, "wget: unable to resolve host address ‘a.invalid’", "find a.invalid:"),
            (1, "npm error getaddrinfo ENOTFOUND npm.invalid", "find npm.invalid:"),
            (1, "[Errno -3] Temporary failure in name resolution", "cannot find a host"),
            (1, "/bin/sh: 1: /app: Exec format error", "another processor"),
            (1, "tar: x: No space left on device", "disk of the state directory"),
        ] {
            let found = advice_for(code, line).unwrap_or_default();
            assert!(found.contains(expected), "{code} {line:?}: {found:?}");
        }
    }

    #[test]
    fn an_ordinary_failure_gets_no_advice() {
        for line in ["make: *** [all] Error 2", "error: 2 tests failed", ""] {
            assert_eq!(advice_for(2, line), None, "{line:?}");
        }
    }
}
