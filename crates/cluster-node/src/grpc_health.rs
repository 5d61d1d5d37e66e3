//! The gRPC health check of a probe (`grpc.health.v1.Health/Check`), without a gRPC library: one
//! request with one string field, one answer with one number.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::GRPCAction;

use crate::prober::dial;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// Asks for the health of a service.
///
/// # Errors
/// The text for the event.
pub(crate) async fn check(address: IpAddr, action: &GRPCAction) -> Result<String, String> {
    let port = u16::try_from(action.port).map_err(|_| format!("invalid port: {}", action.port))?;
    let stream = dial(&address.to_string(), port).await?;
    let text = |error: hyper::Error| format!("error: health rpc failed: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(text)?;
    let message = request(action.service.as_deref().unwrap_or_default());
    let request =
        http::Request::post(format!("http://{address}:{port}/grpc.health.v1.Health/Check"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "kube-probe/1.35")
            .body(Full::new(Bytes::from(message)))
            .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let early = grpc_status(response.headers());
        let body = response.into_body().collect().await.map_err(text)?;
        let late = body.trailers().and_then(grpc_status);
        match early.or(late) {
            Some(0) | None => {}
            Some(12) => return Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()),
            Some(code) => return Err(format!("error: health rpc failed: code {code}")),
        }
        match status(&body.to_bytes()) {
            Some(SERVING) => Ok("service healthy".to_owned()),
            other => Err(format!("service unhealthy (responded with {})", other.unwrap_or(0))),
        }
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        result = &mut exchange => return result,
        ended = connection => ended.map_err(text)?,
    }
    exchange.await
}

fn grpc_status(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// A length-prefixed `HealthCheckRequest { service = 1 }`.
fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length as u8 & 0x7f) | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

/// The status in a length-prefixed `HealthCheckResponse { status = 1 }`.
fn status(framed: &[u8]) -> Option<u64> {
    let message = framed.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, value, ..] if *value < 0x80 => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_and_answer_are_framed() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(request(&"x".repeat(200))[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[0, 0, 0]), None);
    }
}
