//! Connections: TLS or plain, with a limit on how long a client may refuse to read.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::head_clock::HeadClock;
use crate::send_file::{FileSpans, is_hole};

/// How long a client may take none of what is sent to it.
const WRITE_STALL_MAX: Duration = Duration::from_secs(120);

/// Bytes after which it is known whether a client speaks HTTP/1 or HTTP/2: the preface of the
/// latter (RFC 9113, section 3.4). No request is shorter.
const GREETING_BYTES: usize = 24;

/// Bytes that the kernel holds for a connection within this machine, in each direction.
const LOOPBACK_BUFFER_BYTES: usize = 256 * 1024;

/// Sets a new connection up for blobs and small replies.
///
/// # Errors
/// If the kernel refuses, such as for a connection that has ended.
pub(crate) fn tune(stream: &TcpStream, peer: SocketAddr) -> io::Result<()> {
    // Replies are small and complete: waiting for more to send would only delay them.
    stream.set_nodelay(true)?;
    if peer.ip().is_loopback() {
        // The kernel's own choice is megabytes, made for far networks. Between two processes of
        // one machine that only means that bytes have left the processor's cache before the other
        // side takes them: sending and receiving a blob costs half as much again.
        sockopt::set_socket_send_buffer_size(stream, LOOPBACK_BUFFER_BYTES)?;
        sockopt::set_socket_recv_buffer_size(stream, LOOPBACK_BUFFER_BYTES)?;
    }
    Ok(())
}

/// A plain or encrypted connection.
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

/// A connection that fails when the client stops reading.
pub(crate) struct Connection {
    transport: Transport,
    spans: FileSpans,
    stall: Pin<Box<Sleep>>,
    stalled: bool,
    greeting: Option<Greeting>,
    clock: HeadClock,
}

/// The beginning of a connection, which no other limit covers.
struct Greeting {
    missing: usize,
    end: Pin<Box<Sleep>>,
}

impl Connection {
    /// A connection that sends the promised `spans` where a body has their stand-ins, and on
    /// which the client has to begin within `greeting_max`. The clock is told of all that comes.
    pub(crate) fn new(
        transport: Transport,
        spans: FileSpans,
        greeting_max: Duration,
        clock: HeadClock,
    ) -> Self {
        let end = Box::pin(tokio::time::sleep(greeting_max));
        let greeting = Some(Greeting { missing: GREETING_BYTES, end });
        let stall = Box::pin(tokio::time::sleep(WRITE_STALL_MAX));
        Self { transport, spans, stall, stalled: false, greeting, clock }
    }

    /// Passes a result of a write on; a pending one starts or checks the clock.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = false;
            return result;
        }
        if !self.stalled {
            self.stalled = true;
            self.stall.as_mut().reset(Instant::now() + WRITE_STALL_MAX);
        }
        match self.stall.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Sends some of the first promised span as soon as the socket takes it.
fn poll_send(
    stream: &TcpStream,
    spans: &FileSpans,
    context: &mut Context<'_>,
    bytes_max: usize,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(context))?;
        match stream.try_io(Interest::WRITABLE, || spans.send(stream, bytes_max)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        let before = buffer.filled().len();
        let result = match &mut connection.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_read(context, buffer),
        };
        let came = buffer.filled().len() - before;
        if 0 < came {
            connection.clock.bytes_came();
        }
        if let Some(greeting) = &mut connection.greeting {
            greeting.missing = greeting.missing.saturating_sub(came);
            if greeting.missing == 0 {
                connection.greeting = None;
            } else if result.is_pending() && greeting.end.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        result
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let connection = self.get_mut();
        let result = match &mut connection.transport {
            Transport::Plain(stream) if is_hole(bytes) => {
                poll_send(stream, &connection.spans, context, bytes.len())
            }
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
        };
        connection.watch(context, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let connection = self.get_mut();
        let result = match &mut connection.transport {
            Transport::Plain(stream) => {
                let hole = slices.iter().position(|slice| is_hole(slice));
                let before = &slices[..hole.unwrap_or(slices.len())];
                match hole {
                    Some(hole) if before.iter().all(|slice| slice.is_empty()) => {
                        poll_send(stream, &connection.spans, context, slices[hole].len())
                    }
                    _ => Pin::new(stream).poll_write_vectored(context, before),
                }
            }
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(context, slices),
        };
        connection.watch(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        let result = match &mut connection.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_flush(context),
        };
        connection.watch(context, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        let result = match &mut connection.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(context),
        };
        connection.watch(context, result)
    }
}
