//! The last steps of every process of ours: identity, terminal, working directory, program.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::Signal as KernelSignal;
use rustix::pty::OpenptFlags;

use super::user::Accounts;
use super::{StdioFds, credentials, devices, program};
use crate::channel::Channel;
use crate::session::resize;
use crate::syscall;
use crate::wire::message::InitEvent;
use crate::wire::{Failure, Process, ResolvedUser, Terminal};

/// What is left to do once a process is where it belongs.
pub(crate) struct Program<'a> {
    pub(crate) process: &'a Process,
    pub(crate) terminal: Terminal,
    /// `None` with a terminal.
    pub(crate) stdio: Option<StdioFds>,
    /// Whether supplementary groups can be set (not in a user namespace of one user).
    pub(crate) may_set_groups: bool,
    /// Reported with readiness.
    pub(crate) stubs: Vec<PathBuf>,
}

/// Reports readiness, waits for the word, and becomes the program; returns only on failure.
pub(crate) fn become_program(program: Program<'_>, parent: &mut Channel) -> Failure {
    match try_become(program, parent) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

fn try_become(
    program: Program<'_>,
    parent: &mut Channel,
) -> Result<std::convert::Infallible, Failure> {
    let process = program.process;
    let accounts = Accounts::read();
    let user = accounts.resolve(&process.user)?;
    let mut degraded = set_limits(process)?;
    // A session of its own: signals of the caller's terminal are not the container's.
    // Fails only if this process leads one already.
    let _ = rustix::process::setsid();
    let terminal = match (program.terminal, program.stdio) {
        (Terminal::Size(size), _) => {
            let terminal = open_terminal(&user).map_err(|e| Failure::setup("terminal", e))?;
            resize(&terminal, size).map_err(|e| Failure::setup("terminal size", e))?;
            Some(terminal)
        }
        (Terminal::None, stdio) => {
            if let Some(stdio) = stdio {
                take_stdio(stdio, &user).map_err(|e| Failure::setup("standard streams", e))?;
            }
            None
        }
    };
    create_cwd(&process.cwd);
    // Some directories are open to root only, others (NFS) to the user only: either may do.
    let entered = rustix::process::chdir(&process.cwd);
    credentials::apply(process, &user, program.may_set_groups)?;
    if entered.is_err() {
        rustix::process::chdir(&process.cwd).map_err(|error| {
            Failure::setup(format!("change to working directory {}", process.cwd.display()), error)
        })?;
    }
    rustix::process::umask(Mode::from_raw_mode(process.umask & 0o777));
    let env = environment(process, accounts.home(user.uid));
    let Some(name) = process.args.first() else {
        return Err(Failure::Program { message: "no command specified".to_owned(), code: 127 });
    };
    let path = program::find(name, &env)?;
    let c_path = c_string(&path)?;
    let c_args = process.args.iter().map(|arg| c_string(arg)).collect::<Result<Vec<_>, _>>()?;
    let c_env = env
        .iter()
        .map(|(key, value)| c_string(&format!("{key}={value}")))
        .collect::<Result<Vec<_>, _>>()?;

    // After the change of user, which clears it: nothing outlives the shim.
    rustix::process::set_parent_process_death_signal(Some(KernelSignal::KILL))
        .map_err(|error| Failure::setup("bind to the shim's life", error))?;
    degraded.sort();
    let ready = InitEvent::Ready { user, stubs: program.stubs, degraded };
    let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    let reported = parent.send(&ready, &fds);
    // A dead parent shows here, so the signal above cannot have come too late.
    let started = reported.and_then(|()| parent.receive::<()>());
    if started.is_err() {
        syscall::exit_now(1);
    }
    drop(terminal);
    syscall::reset_signals();
    syscall::close_on_exec_from(3);
    match syscall::execve(&c_path, &c_args, &c_env) {
        Ok(never) => Ok(never),
        Err(error) => Err(program::not_started(&path, &error)),
    }
}

/// Later values win; the place of the first is kept. `HOME` is filled in.
fn environment(process: &Process, home: &str) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::with_capacity(process.env.len() + 1);
    let mut places = std::collections::HashMap::new();
    for (key, value) in &process.env {
        match places.get(key) {
            Some(place) => {
                let entry: &mut (String, String) = &mut env[*place];
                entry.1.clone_from(value);
            }
            None => {
                places.insert(key, env.len());
                env.push((key.clone(), value.clone()));
            }
        }
    }
    if !env.iter().any(|(key, value)| key == "HOME" && !value.is_empty()) {
        env.retain(|(key, _)| key != "HOME");
        env.push(("HOME".to_owned(), home.to_owned()));
    }
    env
}

fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text)
        .map_err(|_| Failure::Program { message: format!("{text:?} holds a null byte"), code: 126 })
}

fn set_limits(process: &Process) -> Result<Vec<String>, Failure> {
    let mut degraded = Vec::new();
    for limit in &process.limits {
        let number = limit.resource;
        let soft = limit.soft.unwrap_or(libc::RLIM_INFINITY);
        let hard = limit.hard.unwrap_or(libc::RLIM_INFINITY);
        let failed = |error| Failure::setup(format!("resource limit {number}"), error);
        match syscall::set_limit(number, soft, hard) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                let (_, highest) = syscall::limit(number).map_err(failed)?;
                let (soft, hard) = (soft.min(highest), hard.min(highest));
                syscall::set_limit(number, soft, hard).map_err(failed)?;
                degraded.push(format!(
                    "resource limit {number} stays at {highest}: raising it needs CAP_SYS_RESOURCE"
                ));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(degraded)
}

/// Makes the descriptors stdin, stdout and stderr, owned by the user, so that opening
/// `/dev/stdout` works for one that is not root.
fn take_stdio(stdio: StdioFds, user: &ResolvedUser) -> rustix::io::Result<()> {
    // Numbers 0 to 2 are open in every helper, so none of the sources is one of them.
    rustix::stdio::dup2_stdin(&stdio.stdin)?;
    rustix::stdio::dup2_stdout(&stdio.stdout)?;
    rustix::stdio::dup2_stderr(&stdio.stderr)?;
    for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr] {
        let stat = rustix::fs::fstat(fd)?;
        let is_pipe =
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo;
        if is_pipe && stat.st_uid != user.uid {
            // Refused where the owner is not mapped; programs that write to 1 still work.
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(user.uid)), None);
        }
    }
    Ok(())
}

/// Opens a terminal of this root's `/dev/pts`, makes it the controlling one and the three
/// standard streams; returns its master side.
fn open_terminal(user: &ResolvedUser) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(CWD, "/dev/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
    // Both fail only in a user namespace that does not map the user or the mount.
    let _ = rustix::fs::fchown(&slave, Some(Uid::from_raw(user.uid)), None::<Gid>);
    let _ = devices::mount_console(path);
    syscall::take_terminal(&slave)?;
    rustix::stdio::dup2_stdin(&slave)?;
    rustix::stdio::dup2_stdout(&slave)?;
    rustix::stdio::dup2_stderr(&slave)?;
    Ok(master)
}

/// Creates the working directory as every OCI runtime does; what goes wrong shows when it is
/// entered.
fn create_cwd(cwd: &Path) {
    let mut path = PathBuf::new();
    for component in cwd.components() {
        path.push(component);
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_value_of_a_variable_wins() {
        let mut process = Process::new(["true"]);
        process.env = [("A", "1"), ("B", "2"), ("A", "3")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec();
        let env = environment(&process, "/root");
        let shown: Vec<_> = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(shown, ["A=3", "B=2", "HOME=/root"]);
    }

    #[test]
    fn home_of_the_spec_is_kept() {
        let mut process = Process::new(["true"]);
        process.env = vec![("HOME".to_owned(), "/x".to_owned())];
        assert_eq!(environment(&process, "/root"), process.env);
    }
}
