//! Programs that hand out credentials: started, bounded in time and output, and never left behind.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use credentials::Secret;
use credentials::cloud::{ProgramOutput, RunError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use zeroize::Zeroizing;

/// Most that a program may print, in bytes.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// Runs a program in a process group of its own, which ends with it.
pub(crate) fn run(
    program: &str,
    arguments: &[String],
    timeout: Duration,
) -> Result<ProgramOutput, RunError> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| RunError::Start(error.to_string()))?;
    Running { child }.output(timeout)
}

/// Runs a program that reads `input` and may complain to the user, as helpers do.
pub(crate) fn run_with_input(
    program: &str,
    argument: &str,
    input: &Secret,
    timeout: Duration,
) -> Result<ProgramOutput, RunError> {
    let mut child = Command::new(program)
        .arg(argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .process_group(0)
        .spawn()
        .map_err(|error| RunError::Start(error.to_string()))?;
    let input = input.clone();
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read must not block us; it says so in its own words.
        std::thread::spawn(move || {
            let _ = stdin.write_all(input.expose().as_bytes());
        });
    }
    Running { child }.output(timeout)
}

/// A program under way; its whole process group ends when this is dropped.
struct Running {
    child: Child,
}

impl Running {
    fn output(mut self, timeout: Duration) -> Result<ProgramOutput, RunError> {
        let failed = |error: &dyn std::fmt::Display| RunError::Start(error.to_string());
        let end = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())
            .map_err(|error| failed(&error))?;
        let (mut end, mut stdout) = (Some(end), self.child.stdout.take());
        let mut said = Zeroizing::new(Vec::new());
        let deadline = Instant::now() + timeout;
        while end.is_some() || stdout.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(|error| failed(&error))?;
            let of_end = end.iter().map(|end| PollFd::new(end, PollFlags::IN));
            let of_stdout = stdout.iter().map(|stdout| PollFd::new(stdout, PollFlags::IN));
            let mut waited: Vec<PollFd<'_>> = of_stdout.chain(of_end).collect();
            match poll(&mut waited, Some(&left)) {
                Ok(0) => return Err(RunError::Timeout(timeout)),
                Err(rustix::io::Errno::INTR) => continue,
                result => result.map_err(|error| failed(&error))?,
            };
            let mut ready = waited.iter().map(|one| !one.revents().is_empty());
            let has_output = stdout.is_some() && ready.next() == Some(true);
            let has_ended = end.is_some() && ready.next() == Some(true);
            if has_ended {
                // What it started and left behind would keep its output open.
                self.kill_group();
                end = None;
            }
            if let Some(open) = stdout.as_mut().filter(|_| has_output)
                && !read_some(open, &mut said).map_err(|error| failed(&error))?
            {
                stdout = None;
            }
            if said.len() > OUTPUT_BYTES_MAX {
                return Err(RunError::Output);
            }
        }
        let status = self.child.wait().map_err(|error| failed(&error))?;
        // What is no text is no answer either.
        let text = std::str::from_utf8(&said).unwrap_or_default();
        Ok(ProgramOutput { succeeded: status.success(), stdout: Secret::new(text) })
    }

    fn kill_group(&self) {
        // The group has the number of its first process, which nobody else has until it is waited
        // for. It may have ended by itself.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
    }
}

/// Reads what is there; says whether there may be more.
fn read_some(stdout: &mut ChildStdout, said: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut buffer = Zeroizing::new([0; 8192]);
    let count = stdout.read(&mut *buffer)?;
    said.extend_from_slice(&buffer[..count]);
    Ok(count > 0)
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill_group();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Result<(bool, String), RunError> {
        let arguments = ["-c".to_owned(), script.to_owned()];
        let output = run("/bin/sh", &arguments, timeout)?;
        Ok((output.succeeded, output.stdout.expose().to_owned()))
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_says_what_it_prints_and_whether_it_succeeded() {
        assert_eq!(shell("printf said; echo no >&2", LONG), Ok((true, "said".to_owned())));
        assert_eq!(shell("printf said; exit 3", LONG), Ok((false, "said".to_owned())));
        assert!(matches!(run("/no/such/program", &[], LONG), Err(RunError::Start(_))));
    }

    #[test]
    fn a_program_that_does_not_end_is_ended_with_all_that_it_started() {
        let short = Duration::from_millis(200);
        assert_eq!(shell("sleep 600 & sleep 600", short), Err(RunError::Timeout(short)));
        // It closed its output and goes on.
        assert_eq!(shell("exec >&-; sleep 600", short), Err(RunError::Timeout(short)));
    }

    #[test]
    fn what_a_program_leaves_behind_does_not_hold_its_answer_back() {
        assert_eq!(shell("printf said; sleep 600 &", LONG), Ok((true, "said".to_owned())));
    }

    #[test]
    fn a_program_that_prints_without_end_is_ended() {
        assert_eq!(shell("yes", LONG), Err(RunError::Output));
    }
}
