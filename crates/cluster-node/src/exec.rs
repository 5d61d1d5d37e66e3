//! Processes in running containers, asynchronously: exec and attach as streams of bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use container_runtime::{
    AttachOptions, Attachment, Container as Runner, ContainerError, ExecSession, ExecSpec, Exit,
    Failure, Signal, WindowSize,
};
use rustix::fs::FileType;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Bytes read at once.
const PIECE_BYTES: usize = 32 * 1024;
/// Pieces that wait between a blocking thread and its reader.
const PIECES_MAX: usize = 8;

/// Output of a process.
pub(crate) enum Source {
    Pipe(pipe::Receiver),
    /// A terminal, read by a thread.
    Thread(mpsc::Receiver<Bytes>),
}

impl Source {
    fn new(file: File) -> io::Result<Self> {
        if is_pipe(&file)? {
            return Ok(Source::Pipe(pipe::Receiver::from_owned_fd(OwnedFd::from(file))?));
        }
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let mut file = file;
        tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; PIECE_BYTES];
            // A terminal whose other side is closed answers with EIO, which is its end of file.
            while let Ok(read @ 1..) = file.read(&mut buffer) {
                if sender.blocking_send(Bytes::copy_from_slice(&buffer[..read])).is_err() {
                    return;
                }
            }
        });
        Ok(Source::Thread(receiver))
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        match self {
            Source::Pipe(pipe) => {
                let mut buffer = vec![0; PIECE_BYTES];
                match pipe.read(&mut buffer).await {
                    Ok(read @ 1..) => {
                        buffer.truncate(read);
                        Some(Bytes::from(buffer))
                    }
                    _ => None,
                }
            }
            Source::Thread(receiver) => receiver.recv().await,
        }
    }
}

/// Input of a process; dropping it is end of file.
pub(crate) enum Sink {
    Pipe(pipe::Sender),
    /// A terminal, written by a thread.
    Thread(mpsc::Sender<Bytes>),
}

impl Sink {
    fn new(file: File) -> io::Result<Self> {
        if is_pipe(&file)? {
            return Ok(Sink::Pipe(pipe::Sender::from_owned_fd(OwnedFd::from(file))?));
        }
        let (sender, mut receiver) = mpsc::channel::<Bytes>(PIECES_MAX);
        let mut file = file;
        tokio::task::spawn_blocking(move || {
            while let Some(bytes) = receiver.blocking_recv() {
                if file.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        Ok(Sink::Thread(sender))
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// The process no longer reads.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        match self {
            Sink::Pipe(pipe) => pipe.write_all(&bytes).await,
            Sink::Thread(sender) => {
                sender.send(bytes).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
            }
        }
    }
}

fn is_pipe(file: &File) -> io::Result<bool> {
    let stat = rustix::fs::fstat(file)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

/// What a stream is connected to.
enum Process {
    Exec(ExecSession),
    Attach(Attachment),
}

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ExecError {
    message: String,
    /// What a shell would exit with, if the program is the reason: 126 or 127.
    pub(crate) code: Option<u8>,
}

impl ExecError {
    fn other(error: &dyn std::error::Error) -> Self {
        ExecError { message: crate::images::store::chain(error), code: None }
    }
}

impl From<ContainerError> for ExecError {
    fn from(error: ContainerError) -> Self {
        let code = match &error {
            ContainerError::Refused(Failure::Program { code, .. }) => Some(*code),
            _ => None,
        };
        ExecError { code, ..ExecError::other(&error) }
    }
}

/// The streams of one process.
pub(crate) struct Streams {
    pub(crate) stdin: Option<Sink>,
    pub(crate) stdout: Option<Source>,
    pub(crate) stderr: Option<Source>,
    process: Process,
    end: Option<AsyncFd<OwnedFd>>,
}

impl Streams {
    /// Starts another process in a container.
    ///
    /// # Errors
    /// The runtime refuses; its error names the program.
    pub(crate) async fn exec(runner: Runner, spec: ExecSpec) -> Result<Self, ExecError> {
        let started = tokio::task::spawn_blocking(move || runner.exec(&spec));
        let mut session = started.await.map_err(|error| ExecError::other(&error))??;
        let (stdin, stdout, stderr) =
            (session.stdin.take(), session.stdout.take(), session.stderr.take());
        let make = || -> io::Result<Self> {
            Ok(Streams {
                stdin: stdin.map(Sink::new).transpose()?,
                stdout: stdout.map(Source::new).transpose()?,
                stderr: stderr.map(Source::new).transpose()?,
                end: Some(crate::descriptors::watch(session.as_fd().try_clone_to_owned()?)?),
                process: Process::Exec(session),
            })
        };
        make().map_err(|error| ExecError::other(&error))
    }

    /// Connects to the first process of a container.
    ///
    /// # Errors
    /// The runtime refuses.
    pub(crate) async fn attach(runner: Runner, options: AttachOptions) -> Result<Self, String> {
        let started = tokio::task::spawn_blocking(move || {
            let attached =
                runner.attach(&options).map_err(|error| crate::images::store::chain(&error))?;
            let end = runner.end_watch().map_err(|error| error.to_string())?;
            Ok::<_, String>((attached, end))
        });
        let (mut attached, end) = started.await.map_err(|error| error.to_string())??;
        let (stdin, stdout, stderr) =
            (attached.stdin.take(), attached.stdout.take(), attached.stderr.take());
        let make = || -> io::Result<Self> {
            Ok(Streams {
                stdin: stdin.map(Sink::new).transpose()?,
                stdout: stdout.map(Source::new).transpose()?,
                stderr: stderr.map(Source::new).transpose()?,
                end: end.map(crate::descriptors::watch).transpose()?,
                process: Process::Attach(attached),
            })
        };
        make().map_err(|error| error.to_string())
    }

    /// Waits for the end; `None` for an attachment, whose container reports for itself.
    pub(crate) async fn wait(&mut self) -> Option<Exit> {
        if let Some(end) = &self.end {
            let _ = end.readable().await;
        }
        match &mut self.process {
            // The descriptor is readable: this does not block.
            Process::Exec(session) => session.wait().ok().or(Some(Exit::Signal(9))),
            Process::Attach(_) => None,
        }
    }

    /// Changes the size of the terminal, if there is one.
    pub(crate) fn resize(&self, size: WindowSize) {
        let resized = match &self.process {
            Process::Exec(session) => session.resize(size),
            Process::Attach(attachment) => attachment.resize(size),
        };
        if let Err(error) = resized {
            tracing::debug!(%error, "terminal not resized");
        }
    }

    /// Ends the process of an exec; an attached container is left alone.
    pub(crate) fn kill(&self) {
        if let Process::Exec(session) = &self.process
            && let Err(error) = session.signal(Signal::KILL)
        {
            tracing::debug!(%error, "exec not killed");
        }
    }
}
