//! Bodies of responses, and of requests on their way into an upload.

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future as _;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use oci_model::ErrorCode;
use rustix::fs::Advice;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::limits::Limits;
use crate::operations::exchange::Exchange;
use crate::refusal::Refusal;
use crate::send_file::{FileSpans, SPAN_BYTES_MAX};
use crate::tenancy::Meter;

/// Bytes of a blob read and sent at once. Two such pieces are in memory per download.
const PIECE_BYTES: u64 = 512 * 1024;

/// Bytes of a blob that the kernel is asked to have ready before they are sent.
const READ_AHEAD_BYTES: u64 = 4 * 1024 * 1024;

/// How much of a refused body is read so that the client sees the refusal, in bytes.
const DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long that may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// The body of a response.
pub(crate) enum Body {
    /// All of it, or nothing if it was taken.
    Whole(Option<Bytes>),
    /// A part of a file, read here.
    File(FileBody),
    /// A part of a file that the connection sends by itself.
    Sent(SentBody),
    /// One after the other, texts and parts of a file.
    Parts(PartsBody),
    /// What a task hands out piece by piece.
    Stream(StreamBody),
    /// What a bucket sends.
    Remote(RemoteBody),
}

/// What a bucket sends, as many bytes as were announced.
pub(crate) struct RemoteBody {
    stream: BoxStream<'static, io::Result<Bytes>>,
    unsent: u64,
}

/// Texts and parts of a file in turn.
pub(crate) struct PartsBody {
    file: Arc<File>,
    waiting: VecDeque<Part>,
    current: Option<Box<Body>>,
    unsent: u64,
    spans: Option<FileSpans>,
}

/// Pieces of a body whose maker is at work still.
pub(crate) struct StreamBody {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// Bytes not yet sent, if the whole is known.
    unsent: Option<u64>,
}

impl StreamBody {
    /// The body that `pieces` make, `size` bytes if that is known.
    pub(crate) const fn new(pieces: mpsc::Receiver<io::Result<Bytes>>, size: Option<u64>) -> Self {
        Self { pieces, unsent: size }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Poll::Ready(piece) = self.pieces.poll_recv(context) else { return Poll::Pending };
        let size = piece.as_ref().map_or(0, |piece| piece.as_ref().map_or(0, Bytes::len)) as u64;
        match (&piece, self.unsent) {
            // Less than was promised must not look like the end.
            (None, Some(1..)) => {
                self.unsent = None;
                return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
            }
            (_, Some(unsent)) => self.unsent = Some(unsent.saturating_sub(size)),
            (_, None) => {}
        }
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }
}

/// A piece of a [`PartsBody`].
pub(crate) enum Part {
    /// What stands between the parts of the file.
    Text(Bytes),
    /// Bytes of the file.
    File {
        /// The first byte.
        first: u64,
        /// How many.
        size: u64,
    },
}

/// A part of a file, read ahead by one piece on the blocking threads.
pub(crate) struct FileBody {
    file: Arc<File>,
    /// Where the next piece to read begins.
    offset: u64,
    /// Bytes not yet asked for.
    unread: u64,
    /// Bytes not yet sent.
    unsent: u64,
    next: Option<JoinHandle<io::Result<Bytes>>>,
}

/// A part of a file that goes to the socket without passing through here.
pub(crate) struct SentBody {
    file: Arc<File>,
    offset: u64,
    unsent: u64,
    spans: FileSpans,
}

impl Body {
    pub(crate) const fn empty() -> Self {
        Self::Whole(None)
    }

    /// The bytes `first..first + size` of a file; through `spans` if the connection has them.
    pub(crate) fn file(file: File, first: u64, size: u64, spans: Option<FileSpans>) -> Self {
        Self::span(Arc::new(file), first, size, spans)
    }

    /// The parts in their order.
    pub(crate) fn parts(file: File, parts: Vec<Part>, spans: Option<FileSpans>) -> Self {
        let size = |part: &Part| match part {
            Part::Text(text) => text.len() as u64,
            Part::File { size, .. } => *size,
        };
        Self::Parts(PartsBody {
            file: Arc::new(file),
            unsent: parts.iter().map(size).sum(),
            waiting: parts.into(),
            current: None,
            spans,
        })
    }

    /// The `size` bytes of a stream; an error if it ends before.
    pub(crate) fn remote(stream: BoxStream<'static, io::Result<Bytes>>, size: u64) -> Self {
        Self::Remote(RemoteBody { stream, unsent: size })
    }

    fn span(file: Arc<File>, first: u64, size: u64, spans: Option<FileSpans>) -> Self {
        if let Some(spans) = spans {
            return Self::Sent(SentBody { file, offset: first, unsent: size, spans });
        }
        let mut body = FileBody { file, offset: first, unread: size, unsent: size, next: None };
        body.read_ahead();
        Self::File(body)
    }
}

impl PartsBody {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if let Some(current) = &mut self.current {
                match http_body::Body::poll_frame(Pin::new(&mut **current), context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => self.current = None,
                    Poll::Ready(Some(frame)) => {
                        let size = frame.as_ref().ok().and_then(Frame::data_ref).map(Bytes::len);
                        self.unsent -= size.unwrap_or_default() as u64;
                        return Poll::Ready(Some(frame));
                    }
                }
            }
            match self.waiting.pop_front() {
                None => return Poll::Ready(None),
                Some(Part::Text(text)) => self.current = Some(Box::new(text.into())),
                Some(Part::File { first, size }) => {
                    let body = Body::span(Arc::clone(&self.file), first, size, self.spans.clone());
                    self.current = Some(Box::new(body));
                }
            }
        }
    }
}

impl RemoteBody {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.unsent == 0 {
            return Poll::Ready(None);
        }
        match self.stream.poll_next_unpin(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Some(Ok(bytes))) => match self.unsent.checked_sub(bytes.len() as u64) {
                Some(unsent) => {
                    self.unsent = unsent;
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                None => Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into()))),
            },
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Whole(Some(bytes.into()))
    }
}

impl FileBody {
    fn read_ahead(&mut self) {
        if self.unread == 0 {
            return;
        }
        let size = self.unread.min(PIECE_BYTES);
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        self.offset += size;
        self.unread -= size;
        self.next = Some(tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; usize::try_from(size).unwrap_or(0)];
            file.read_exact_at(&mut piece, offset)?;
            Ok(piece.into())
        }));
    }
}

impl SentBody {
    fn next(&mut self) -> Option<Bytes> {
        let size = usize::try_from(self.unsent).unwrap_or(SPAN_BYTES_MAX).min(SPAN_BYTES_MAX);
        if size == 0 {
            return None;
        }
        // Sending must not wait for the disk: what comes next is read while this is sent.
        if let Some(ahead) = NonZeroU64::new(self.unsent.min(READ_AHEAD_BYTES)) {
            // Advice only: without it the bytes come later.
            let _ = rustix::fs::fadvise(&self.file, self.offset, Some(ahead), Advice::WillNeed);
        }
        let hole = self.spans.promise(Arc::clone(&self.file), self.offset, size);
        self.offset += size as u64;
        self.unsent -= size as u64;
        Some(hole)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Sent(body) => Poll::Ready(body.next().map(|hole| Ok(Frame::data(hole)))),
            Self::Parts(body) => body.poll_next(context),
            Self::Stream(body) => body.poll_next(context),
            Self::Remote(body) => body.poll_next(context),
            Self::File(body) => {
                let Some(next) = &mut body.next else { return Poll::Ready(None) };
                let piece = match Pin::new(next).poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(piece) => piece.map_err(io::Error::other).flatten(),
                };
                body.next = None;
                body.read_ahead();
                if let Ok(piece) = &piece {
                    body.unsent -= piece.len() as u64;
                }
                Poll::Ready(Some(piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::File(body) => body.next.is_none(),
            Self::Sent(body) => body.unsent == 0,
            Self::Parts(body) => body.unsent == 0,
            Self::Stream(body) => body.unsent == Some(0),
            Self::Remote(body) => body.unsent == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::File(body) => SizeHint::with_exact(body.unsent),
            Self::Sent(body) => SizeHint::with_exact(body.unsent),
            Self::Parts(body) => SizeHint::with_exact(body.unsent),
            Self::Stream(body) => body.unsent.map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Remote(body) => SizeHint::with_exact(body.unsent),
        }
    }
}

/// The body of a request, from a client that has to keep it coming.
pub(crate) struct RequestBody {
    incoming: Incoming,
    idle_max: Duration,
    rate_min: u64,
    /// Time spent waiting for the client since the last look at its speed.
    waited: Duration,
    /// Bytes that came in that time.
    came: u64,
    /// Who is told of every byte.
    exchange: Arc<Exchange>,
    /// Room in the namespace, if that is limited.
    meter: Option<Box<Meter>>,
}

impl RequestBody {
    pub(crate) const fn new(incoming: Incoming, limits: &Limits, exchange: Arc<Exchange>) -> Self {
        Self {
            incoming,
            idle_max: limits.body_idle_max,
            rate_min: limits.body_rate_min,
            waited: Duration::ZERO,
            came: 0,
            exchange,
            meter: None,
        }
    }

    /// Lets the bytes count against a quota from now on, or no more; returns what they counted
    /// against.
    pub(crate) fn set_meter(&mut self, meter: Option<Box<Meter>>) -> Option<Box<Meter>> {
        std::mem::replace(&mut self.meter, meter)
    }

    /// The least number of bytes that it may have.
    pub(crate) fn size_min(&self) -> u64 {
        http_body::Body::size_hint(&self.incoming).lower()
    }

    /// The next bytes, or `None` at the end.
    ///
    /// # Errors
    /// 400 if the client broke off, 408 if it fell silent or sends too slowly, 403 if its
    /// namespace has no room for more.
    pub(crate) async fn next_piece(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let started = Instant::now();
            let left = self.idle_max.saturating_sub(self.waited);
            let frame = tokio::time::timeout(left, self.incoming.frame()).await;
            // Only the client's time counts: the disk may be slow as well.
            self.waited += started.elapsed();
            match frame {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.came += data.len() as u64;
                        self.exchange.received(data.len());
                        self.judge()?;
                        if let Some(meter) = &mut self.meter {
                            meter.take(data.len() as u64).await?;
                        }
                        return Ok(Some(data));
                    }
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    return Err(Refusal::new(ErrorCode::SizeInvalid, format!("body: {error}")));
                }
                Err(_) => self.judge()?,
            }
        }
    }

    /// Fails if the client was waited for long enough and sent too little.
    fn judge(&mut self) -> Result<(), Refusal> {
        if self.waited < self.idle_max {
            return Ok(());
        }
        let least = u128::from(self.rate_min) * self.idle_max.as_millis() / 1000;
        if self.came == 0 || u128::from(self.came) < least {
            return Err(Refusal::new(ErrorCode::SizeInvalid, "the body comes too slowly")
                .with_status(http::StatusCode::REQUEST_TIMEOUT));
        }
        self.waited = Duration::ZERO;
        self.came = 0;
        Ok(())
    }
}

/// Reads and forgets the rest of a body, within limits.
pub(crate) async fn drain(body: &mut RequestBody) {
    let rest = async {
        let mut drained = 0;
        while let Ok(Some(piece)) = body.next_piece().await {
            drained += piece.len();
            if drained > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    // Whoever sends more has its connection closed.
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, rest).await;
}

/// A whole body of at most `bytes_max` bytes.
///
/// # Errors
/// 413 as soon as it is known to be larger.
pub(crate) async fn read_whole(body: &mut RequestBody, bytes_max: usize) -> Result<Bytes, Refusal> {
    let too_large = || {
        Refusal::new(ErrorCode::SizeInvalid, format!("the body is larger than {bytes_max} bytes"))
            .with_status(http::StatusCode::PAYLOAD_TOO_LARGE)
    };
    let announced = body.size_min();
    if announced > bytes_max as u64 {
        return Err(too_large());
    }
    let mut whole = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
    while let Some(piece) = body.next_piece().await? {
        if whole.len() + piece.len() > bytes_max {
            return Err(too_large());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}
