//! gRPC over HTTP/2: as much of it as calls with one request and listed answers need.
//!
//! The framing is five bytes before each message and the status in trailers. A gRPC library would
//! bring code for clients, balancing and TLS that a unix socket has no use for.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt, LengthLimitError, Limited, StreamBody};
use hyper::body::Frame;

/// Largest message in either direction, as the kubelet sets it.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// One byte for compression, four for the length.
const PREFIX_BYTES: usize = 5;

/// The codes that we answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Status {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Status { code, message: message.into() }
    }
}

/// Answers a call: reads its one message, waits for `call` no longer than the caller does.
///
/// The future ends with the caller: whoever cancels a call cancels the work.
pub(super) async fn answer<Q, A, C, F>(request: Request, call: C) -> Response
where
    Q: prost::Message + Default,
    A: prost::Message,
    C: FnOnce(Q) -> F,
    F: Future<Output = Result<Vec<A>, Status>>,
{
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/grpc"));
    if !is_grpc {
        let mut response = Response::new(Body::from("this socket speaks gRPC (CRI v1)\n"));
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return response;
    }
    let patience = patience(request.headers());
    let work = async { call(read(request.into_body()).await?).await };
    let result = match patience {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Status::new(Code::DeadlineExceeded, "context deadline exceeded"))
        }),
    };
    match result {
        Ok(answers) => messages(answers),
        Err(status) => refusal(&status),
    }
}

/// How long the caller waits (`grpc-timeout`); an unreadable header counts as none.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

async fn read<Q: prost::Message + Default>(body: Body) -> Result<Q, Status> {
    let limited = Limited::new(body, MESSAGE_BYTES_MAX + PREFIX_BYTES);
    let bytes = limited.collect().await.map_err(|error| {
        if error.downcast_ref::<LengthLimitError>().is_some() {
            let text = format!("grpc: received message larger than max ({MESSAGE_BYTES_MAX})");
            return Status::new(Code::ResourceExhausted, text);
        }
        Status::new(Code::Internal, format!("the request was not read: {error}"))
    })?;
    let message = unframe(bytes.to_bytes())?;
    // The decoder's text names fields and never repeats their content.
    Q::decode(message).map_err(|error| Status::new(Code::Internal, error.to_string()))
}

/// The one message of a request.
fn unframe(bytes: Bytes) -> Result<Bytes, Status> {
    let [compressed, a, b, c, d, ..] = bytes[..] else {
        return Err(Status::new(Code::Internal, "the request holds no message"));
    };
    if compressed != 0 {
        return Err(Status::new(
            Code::Unimplemented,
            "grpc: compressed messages are not supported",
        ));
    }
    let message = bytes.slice(PREFIX_BYTES..);
    if u64::from(u32::from_be_bytes([a, b, c, d])) != message.len() as u64 {
        return Err(Status::new(Code::Internal, "the request is not exactly one message"));
    }
    Ok(message)
}

fn frame(message: &impl prost::Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let Some(prefix) = u32::try_from(length).ok().filter(|_| length <= MESSAGE_BYTES_MAX) else {
        let text = format!(
            "grpc: trying to send message larger than max ({length} vs. {MESSAGE_BYTES_MAX})"
        );
        return Err(Status::new(Code::ResourceExhausted, text));
    };
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(prefix);
    message.encode(&mut bytes).map_err(|error| Status::new(Code::Internal, error.to_string()))?;
    Ok(bytes.freeze())
}

fn messages<A: prost::Message>(answers: Vec<A>) -> Response {
    let mut frames = Vec::with_capacity(answers.len() + 1);
    for answer in &answers {
        match frame(answer) {
            Ok(bytes) => frames.push(Ok::<_, Infallible>(Frame::data(bytes))),
            Err(status) => return refusal(&status),
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    frames.push(Ok(Frame::trailers(trailers)));
    let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
    response.headers_mut().insert(header::CONTENT_TYPE, grpc_type());
    response
}

fn grpc_type() -> HeaderValue {
    HeaderValue::from_static("application/grpc")
}

/// An answer without a message: all of it is in the headers.
pub(super) fn refusal(status: &Status) -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, grpc_type());
    headers.insert("grpc-status", HeaderValue::from(status.code as u32));
    if let Ok(text) = HeaderValue::from_str(&percent_encoded(&status.message)) {
        headers.insert("grpc-message", text);
    }
    response
}

/// The text of a status as a header: printable ASCII except `%` stays.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => encoded.push_str("%25"),
            b' '..=b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::message::{ImageSpec, Int64Value};

    #[test]
    fn message_survives_its_frame() {
        let spec = ImageSpec { image: "nginx:1".to_owned(), ..ImageSpec::default() };
        let bytes = frame(&spec).expect("a frame");
        assert_eq!(bytes[..6], [0, 0, 0, 0, 9, 0x0a]);
        let message = unframe(bytes).expect("a message");
        assert_eq!(<ImageSpec as prost::Message>::decode(message).expect("decoded"), spec);
    }

    #[test]
    fn only_one_whole_plain_message_is_a_request() {
        let rows: [(&[u8], Code); 5] = [
            (&[], Code::Internal),
            (&[0, 0, 0, 0], Code::Internal),
            (&[1, 0, 0, 0, 0], Code::Unimplemented),
            (&[0, 0, 0, 0, 2, 1], Code::Internal),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Code::Internal),
        ];
        for (bytes, expected) in rows {
            let error = unframe(Bytes::copy_from_slice(bytes)).expect_err("refused");
            assert_eq!(error.code, expected, "{bytes:?}");
        }
    }

    #[test]
    fn callers_patience_is_read_in_all_units() {
        let rows = [
            ("2S", Some(Duration::from_secs(2))),
            ("1999900u", Some(Duration::from_micros(1_999_900))),
            ("1H", Some(Duration::from_secs(3600))),
            ("3M", Some(Duration::from_secs(180))),
            ("4m", Some(Duration::from_millis(4))),
            ("5n", Some(Duration::from_nanos(5))),
            ("5", None),
            ("", None),
            ("xS", None),
        ];
        for (text, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_static(text));
            assert_eq!(patience(&headers), expected, "{text}");
        }
    }

    #[test]
    fn text_of_a_refusal_fits_into_a_header() {
        assert_eq!(percent_encoded("100 % of\n\"ü\""), "100 %25 of%0A\"%C3%BC\"");
        let response = refusal(&Status::new(Code::NotFound, "x: not found\n"));
        assert_eq!(response.headers()["grpc-status"], "5");
        assert_eq!(response.headers()["grpc-message"], "x: not found%0A");
    }

    #[tokio::test]
    async fn caller_that_waits_no_longer_is_told_so() {
        let body = frame(&Int64Value { value: 1 }).expect("a frame");
        let request = Request::post("/x")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", "1m")
            .body(Body::from(body))
            .expect("a request");
        let response = answer(request, |_: Int64Value| {
            std::future::pending::<Result<Vec<Int64Value>, Status>>()
        })
        .await;
        assert_eq!(response.headers()["grpc-status"], "4");
    }

    #[tokio::test]
    async fn other_content_is_not_taken_for_grpc() {
        let request = Request::post("/x").body(Body::empty()).expect("a request");
        let work = |_: Int64Value| async { Ok(Vec::<Int64Value>::new()) };
        assert_eq!(answer(request, work).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
}
