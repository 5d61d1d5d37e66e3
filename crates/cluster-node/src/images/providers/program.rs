//! One run of a provider's program.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use credentials::Secret;
use credentials::provider::Provider;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// Longest answer, in bytes.
const STDOUT_BYTES_MAX: usize = 1 << 20;
/// The last bytes of standard error that are kept.
const STDERR_BYTES_MAX: usize = 4096;

/// How often, and how soon, a program is tried again that somebody writes to (ETXTBSY).
const BUSY_RETRIES_MAX: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(25);

/// Why a run gave no answer.
#[derive(Debug)]
pub(super) struct RunError {
    /// In the words of Go's `os/exec`.
    pub(super) reason: String,
    /// The end of what it wrote to standard error.
    pub(super) stderr: Vec<u8>,
}

/// A program in a process group of its own, all of which ends with this value.
struct Group {
    child: Child,
    /// Set until the program was waited for, so that no other group can have this id.
    id: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // It may be gone already.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

/// Runs a program with `request` on standard input for at most `limit`; its environment is this
/// process' own with the provider's entries, which win. Returns standard output.
pub(super) async fn run(
    program: &Path,
    provider: &Provider,
    request: &Secret,
    limit: Duration,
) -> Result<Vec<u8>, RunError> {
    let mut command = Command::new(program);
    command
        .args(&provider.args)
        .envs(provider.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let plain = |reason: String| RunError { reason, stderr: Vec::new() };
    let child = spawn(&mut command)
        .await
        .map_err(|error| plain(format!("fork/exec {}: {}", program.display(), go_text(&error))))?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut group = Group { child, id };
    let mut stderr = Vec::new();
    let talk = talk(&mut group, request, &mut stderr);
    match tokio::time::timeout(limit, talk).await {
        Ok(Ok((status, stdout))) if status.success() => Ok(stdout),
        Ok(Ok((status, _))) => Err(RunError { reason: status_text(status), stderr }),
        Ok(Err(error)) => Err(RunError { reason: error.to_string(), stderr }),
        Err(_) => Err(RunError { reason: "context deadline exceeded".to_owned(), stderr }),
    }
}

/// Starts a program; one that is being replaced just now is tried again.
async fn spawn(command: &mut Command) -> io::Result<Child> {
    for _ in 0..BUSY_RETRIES_MAX {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            other => return other,
        }
    }
    command.spawn()
}

async fn talk(
    group: &mut Group,
    request: &Secret,
    stderr: &mut Vec<u8>,
) -> io::Result<(ExitStatus, Vec<u8>)> {
    let (stdin, out, err) =
        (group.child.stdin.take(), group.child.stdout.take(), group.child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input may still answer.
            let _ = stdin.write_all(request.expose().as_bytes()).await;
        }
        Ok(())
    };
    let read = async {
        let mut stdout = Vec::new();
        if let Some(out) = out {
            out.take(STDOUT_BYTES_MAX as u64 + 1).read_to_end(&mut stdout).await?;
        }
        if stdout.len() > STDOUT_BYTES_MAX {
            return Err(io::Error::other(format!(
                "standard output is longer than {STDOUT_BYTES_MAX} bytes"
            )));
        }
        Ok(stdout)
    };
    let ((), stdout, ()) = tokio::try_join!(write, read, keep_end(err, stderr))?;
    // Only now: until it is waited for, its process group cannot be another's.
    let status = group.child.wait().await?;
    group.id = None;
    Ok((status, stdout))
}

/// Reads to the end and keeps the last bytes.
async fn keep_end(from: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = [0; 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > STDERR_BYTES_MAX {
            kept.drain(..kept.len() - STDERR_BYTES_MAX);
        }
    }
}

fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(9)) => "signal: killed".to_owned(),
        (None, Some(15)) => "signal: terminated".to_owned(),
        (None, Some(signal)) => format!("signal: {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The text without Rust's `(os error 2)`, as Go has it.
fn go_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
