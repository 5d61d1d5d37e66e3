//! Runs credential helpers: bounded in time and output, and killed with all that they started.

use std::time::Duration;

use credentials::cloud::{ProgramOutput, RunError};
use credentials::{HELPER_TIMEOUT, HelperRequest};

use crate::cloud::program::run_with_input;

/// Runs a helper. Its standard error goes to ours; by the protocol there are no secrets in it.
pub(crate) fn run(request: &HelperRequest) -> Result<ProgramOutput, RunError> {
    run_within(request, HELPER_TIMEOUT)
}

fn run_within(request: &HelperRequest, timeout: Duration) -> Result<ProgramOutput, RunError> {
    run_with_input(&request.program, request.action.argument(), &request.stdin, timeout)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    use credentials::HelperError;

    use super::*;

    /// A helper that is a shell script; it may use `$0.note`.
    fn helper(place: &tempfile::TempDir, script: &str) -> HelperRequest {
        let path = place.path().join("docker-credential-fake");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("an executable script");
        let mut request = HelperRequest::get("fake", "r.example").expect("a request");
        request.program = path.display().to_string();
        request
    }

    /// cloud-credentials.md 14.2, row 60, with processes.
    #[test]
    fn helper_answers_fails_hangs_or_floods() {
        let place = tempfile::tempdir().expect("a directory");
        let ask = |script: &str| {
            let request = helper(&place, script);
            request.read_credential(&run_within(&request, Duration::from_secs(10)))
        };
        let answer = r#"read -r server; test "$1 $server" = "get r.example" || exit 3
            printf '{"Username":"u","Secret":"p"}'"#;
        assert_eq!(
            ask(answer).map(|auth| format!("{:?}", auth.username())),
            Ok("Some(\"u\")".into())
        );
        let unknown = "echo credentials not found in native keychain; exit 1";
        assert_eq!(ask(unknown).map(|_| ()), Err(HelperError::NotFound));
        let flood = "head -c 2097152 /dev/zero; sleep 600";
        let error = ask(flood).map(|_| ()).map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.ends_with("printed more than 1 MiB")));
        let mut absent = helper(&place, "");
        absent.program = "docker-credential-absent".to_owned();
        assert!(matches!(run(&absent), Err(RunError::Start(_))));
    }

    /// cloud-credentials.md 14.2, row 60: the whole group ends.
    #[test]
    fn hanging_helper_is_killed_with_its_children() {
        let place = tempfile::tempdir().expect("a directory");
        let request = helper(&place, r#"sleep 600 & echo $! > "$0.note"; wait"#);
        // On a busy machine the first limits may be over before the shell has written.
        let limits = (0..7).map(|doublings| Duration::from_millis(500 << doublings));
        let mut notes = limits.map(|limit| {
            let ended = run_within(&request, limit);
            assert!(matches!(ended, Err(RunError::Timeout(time)) if time == limit));
            std::fs::read_to_string(format!("{}.note", request.program)).unwrap_or_default()
        });
        let note = notes.find(|note| note.ends_with('\n')).expect("a note");
        // It may need a moment to die, and then waits to be reaped by whoever inherited it.
        let is_dead = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", note.trim()));
            stat.is_err() || stat.is_ok_and(|text| text.contains(") Z "))
        };
        let patience = Instant::now() + Duration::from_secs(30);
        while !is_dead() && Instant::now() < patience {
            std::thread::yield_now();
        }
        assert!(is_dead());
    }
}
