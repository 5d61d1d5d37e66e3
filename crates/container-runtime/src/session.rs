//! The caller's side of exec and attach.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::termios::Winsize;

use crate::Signal;
use crate::channel::Channel;
use crate::process_id::ProcessId;
use crate::wire::message::Reply;
use crate::wire::{Exit, Process, Terminal, WindowSize};

/// Another process for a running container.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    /// What to run; usually the container's own [`Process`] with other arguments.
    pub process: Process,
    /// Whether it has a terminal.
    pub terminal: Terminal,
    /// Whether stdin is a pipe to the caller, or `/dev/null`. A terminal always has one.
    pub stdin: ExecStdin,
}

/// What stdin of an exec is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecStdin {
    /// `/dev/null`.
    #[default]
    Null,
    /// A pipe; dropping [`ExecSession::stdin`] ends it.
    Pipe,
}

/// A running exec.
///
/// Dropping it leaves the process alone, apart from what closed pipes and terminals do to it.
#[derive(Debug)]
pub struct ExecSession {
    /// Write side of stdin; drop it for end of file. With a terminal, its master side.
    pub stdin: Option<File>,
    /// Read side of stdout. With a terminal, its master side, which fails with EIO at the end.
    pub stdout: Option<File>,
    /// Read side of stderr; absent with a terminal.
    pub stderr: Option<File>,
    terminal: Option<OwnedFd>,
    shim: Channel,
    process: Option<ProcessId>,
    exit: Option<Exit>,
}

/// The caller's ends of the pipes of an exec.
pub(crate) struct Ends {
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
}

/// Makes the pipes of an exec: the caller's ends, and what the shim gets in order of number.
pub(crate) fn pipes(spec: &ExecSpec) -> io::Result<(Ends, Vec<OwnedFd>)> {
    if let Terminal::Size(_) = spec.terminal {
        return Ok((Ends { stdin: None, stdout: None, stderr: None }, Vec::new()));
    }
    let (stdin, their_stdin) = match spec.stdin {
        ExecStdin::Null => (None, File::open("/dev/null")?.into()),
        ExecStdin::Pipe => {
            let (reader, writer) = io::pipe()?;
            (Some(File::from(OwnedFd::from(writer))), OwnedFd::from(reader))
        }
    };
    let (stdout, their_stdout) = io::pipe()?;
    let (stderr, their_stderr) = io::pipe()?;
    let ours = Ends {
        stdin,
        stdout: Some(File::from(OwnedFd::from(stdout))),
        stderr: Some(File::from(OwnedFd::from(stderr))),
    };
    Ok((ours, vec![their_stdin, their_stdout.into(), their_stderr.into()]))
}

impl ExecSession {
    pub(crate) fn new(shim: Channel, pid: u32, ends: Ends, terminal: Option<OwnedFd>) -> Self {
        let side = |terminal: &OwnedFd| terminal.try_clone().map(File::from).ok();
        let (stdin, stdout) = match &terminal {
            Some(terminal) => (side(terminal), side(terminal)),
            None => (ends.stdin, ends.stdout),
        };
        Self {
            stdin,
            stdout,
            stderr: ends.stderr,
            terminal,
            shim,
            process: ProcessId::of(pid).ok(),
            exit: None,
        }
    }

    /// Sends a signal to the process; does nothing once it has ended.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match &self.process {
            Some(process) => process.signal(signal).map(drop),
            None => Ok(()),
        }
    }

    /// Changes the size of the terminal; does nothing without one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        self.terminal.as_ref().map_or(Ok(()), |terminal| resize(terminal, size))
    }

    /// Waits until the process has ended; one whose container was killed was killed with it.
    ///
    /// Read stdout and stderr first or at the same time: a full pipe holds the process up.
    ///
    /// # Errors
    /// The shim cannot be reached.
    pub fn wait(&mut self) -> io::Result<Exit> {
        if let Some(exit) = self.exit {
            return Ok(exit);
        }
        let exit = match self.shim.receive::<Reply>() {
            Ok((Reply::Exited(exit), _)) => exit,
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Exit::Signal(9),
            Err(error) => return Err(error),
        };
        self.exit = Some(exit);
        Ok(exit)
    }
}

impl AsFd for ExecSession {
    /// Readable when [`ExecSession::wait`] would not wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shim.as_fd()
    }
}

/// What an attachment connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachOptions {
    /// Whether to write to stdin, if the container has it open.
    pub stdin: bool,
    /// Whether to receive stdout.
    pub stdout: bool,
    /// Whether to receive stderr; a terminal has none.
    pub stderr: bool,
}

/// A connection to the first process of a container; ends when dropped.
///
/// A reader that falls behind by more than the pipe holds (1 MiB) loses its connection, so that
/// it cannot hold the container up.
#[derive(Debug)]
pub struct Attachment {
    /// Write side of stdin, or the terminal; absent if the container has no stdin.
    pub stdin: Option<File>,
    /// What the container writes to stdout from now on.
    pub stdout: Option<File>,
    /// What it writes to stderr from now on.
    pub stderr: Option<File>,
    terminal: Option<OwnedFd>,
}

/// Makes the pipes of an attachment; the shim gets the write sides asked for, stdout first.
pub(crate) fn attach_pipes(options: &AttachOptions) -> io::Result<(Ends, Vec<OwnedFd>)> {
    let mut theirs = Vec::new();
    let mut end = |wanted: bool| -> io::Result<Option<File>> {
        if !wanted {
            return Ok(None);
        }
        let (reader, writer) = io::pipe()?;
        // Refused only above the limit of an unprivileged user; the default of 64 KiB then holds.
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, crate::shim::ATTACH_PIPE_BYTES);
        theirs.push(OwnedFd::from(writer));
        Ok(Some(File::from(OwnedFd::from(reader))))
    };
    let stdout = end(options.stdout)?;
    let stderr = end(options.stderr)?;
    Ok((Ends { stdin: None, stdout, stderr }, theirs))
}

impl Attachment {
    pub(crate) fn new(ends: Ends, is_terminal: bool, stdin: Option<OwnedFd>) -> Self {
        let terminal = stdin.as_ref().filter(|_| is_terminal).and_then(|fd| fd.try_clone().ok());
        Self { stdin: stdin.map(File::from), stdout: ends.stdout, stderr: ends.stderr, terminal }
    }

    /// Changes the size of the terminal; does nothing without one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        self.terminal.as_ref().map_or(Ok(()), |terminal| resize(terminal, size))
    }
}

pub(crate) fn resize(terminal: &OwnedFd, size: WindowSize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
