//! Blobs from the page cache to the socket without a copy through this program.
//!
//! HTTP/1 writes a body as a sequence of buffers. For a blob on a plain connection the body hands
//! out a stretch of one static array, the hole, as a stand-in, and promises a span of a file for
//! it. The connection knows the hole by its address and sends the span in its place. The order of
//! promises is the order of buffers, since HTTP/1 sends one response after the other.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Largest stretch sent at once, in bytes.
pub(crate) const SPAN_BYTES_MAX: usize = 1024 * 1024;

/// Bytes copied at once where the file system cannot send by itself.
const COPY_BYTES: usize = 64 * 1024;

/// Never sent: only its address means something. It costs no memory, as it is never written.
static HOLE: [u8; SPAN_BYTES_MAX] = [0; SPAN_BYTES_MAX];

/// The spans promised on one connection and not yet sent, in order.
#[derive(Clone, Default)]
pub(crate) struct FileSpans(Arc<Mutex<VecDeque<Span>>>);

struct Span {
    file: Arc<File>,
    offset: u64,
    size: usize,
}

/// Whether a buffer stands for a span of a file.
pub(crate) fn is_hole(buffer: &[u8]) -> bool {
    !buffer.is_empty() && HOLE.as_ptr_range().contains(&buffer.as_ptr())
}

impl FileSpans {
    /// Promises a span, of at most [`SPAN_BYTES_MAX`] bytes; returns the stand-in for it.
    pub(crate) fn promise(&self, file: Arc<File>, offset: u64, size: usize) -> Bytes {
        let size = size.min(SPAN_BYTES_MAX);
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.push_back(Span { file, offset, size });
        Bytes::from_static(&HOLE[..size])
    }

    /// Sends some of the first span, at most `bytes_max`, to a socket that does not block.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the socket takes nothing now;
    /// [`io::ErrorKind::UnexpectedEof`] if the file is shorter than promised.
    pub(crate) fn send(&self, socket: impl AsFd, bytes_max: usize) -> io::Result<usize> {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(span) = spans.front_mut() else {
            return Err(io::Error::other("nothing was promised for this part of the body"));
        };
        let size = span.size.min(bytes_max);
        let mut offset = span.offset;
        let sent = match rustix::fs::sendfile(&socket, &span.file, Some(&mut offset), size) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                copy(&socket, span, size.min(COPY_BYTES))?
            }
            result => result?,
        };
        if sent == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        span.offset += sent as u64;
        span.size -= sent;
        if span.size == 0 {
            spans.pop_front();
        }
        Ok(sent)
    }
}

fn copy(socket: impl AsFd, span: &Span, size: usize) -> io::Result<usize> {
    let mut buffer = vec![0; size];
    let count = span.file.read_at(&mut buffer, span.offset)?;
    if count == 0 {
        return Ok(0);
    }
    Ok(rustix::io::write(socket, &buffer[..count])?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn file(content: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(content).expect("a write");
        Arc::new(file)
    }

    #[test]
    fn spans_go_out_in_order_and_in_parts() {
        let (mut reader, writer) = UnixStream::pair().expect("sockets");
        let spans = FileSpans::default();
        let hole = spans.promise(file(b"0123456789"), 2, 6);
        assert!(is_hole(&hole) && hole.len() == 6);
        assert!(is_hole(&hole[4..]) && !is_hole(&hole[6..]) && !is_hole(b"other"));
        spans.promise(file(b"abc"), 0, 3);
        assert_eq!(spans.send(&writer, 4).expect("a part"), 4);
        assert_eq!(spans.send(&writer, 100).expect("the rest of the first"), 2);
        assert_eq!(spans.send(&writer, 100).expect("the second"), 3);
        assert!(spans.send(&writer, 100).is_err(), "nothing is left");
        let mut received = [0; 9];
        reader.read_exact(&mut received).expect("bytes");
        assert_eq!(&received, b"234567abc");
    }

    #[test]
    fn a_file_shorter_than_promised_is_an_error() {
        let (_reader, writer) = UnixStream::pair().expect("sockets");
        let spans = FileSpans::default();
        spans.promise(file(b"ab"), 0, 5);
        assert_eq!(spans.send(&writer, 100).expect("what there is"), 2);
        let error = spans.send(&writer, 100).expect_err("too short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
