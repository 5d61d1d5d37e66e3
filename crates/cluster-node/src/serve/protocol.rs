//! The channel protocols of exec and attach over WebSocket: pure encoding and decoding.
//!
//! The first byte of a message names its channel. `v5` adds a message that closes a channel.

use bytes::Bytes;
use container_runtime::{Exit, WindowSize};

/// Protocols served, best first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// Channel of stdout.
pub(super) const STDOUT: u8 = 1;
/// Channel of stderr.
pub(super) const STDERR: u8 = 2;
/// Channel of the final status.
const STATUS: u8 = 3;

/// The best protocol that a client offers in `Sec-WebSocket-Protocol`.
pub(super) fn choose(offered: &str) -> Option<&'static str> {
    let offered: Vec<&str> = offered.split(',').map(str::trim).collect();
    PROTOCOLS.into_iter().find(|protocol| offered.contains(protocol))
}

/// What a client sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromClient {
    Stdin(Bytes),
    CloseStdin,
    Resize(WindowSize),
    /// Anything else is ignored, as the kubelet does.
    Ignored,
}

/// Reads a message of a client.
pub(super) fn decode(message: &Bytes) -> FromClient {
    match message.first() {
        Some(0) => FromClient::Stdin(message.slice(1..)),
        Some(4) => match resize(&message[1..]) {
            Some(size) => FromClient::Resize(size),
            None => FromClient::Ignored,
        },
        Some(255) if message.get(1) == Some(&0) => FromClient::CloseStdin,
        _ => FromClient::Ignored,
    }
}

fn resize(json: &[u8]) -> Option<WindowSize> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let field =
        |name: &str| value.get(name)?.as_u64().and_then(|number| u16::try_from(number).ok());
    Some(WindowSize { rows: field("Height")?, columns: field("Width")? })
}

/// A message of output.
pub(super) fn encode(channel: u8, bytes: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    Bytes::from(message)
}

/// How a process ended, as a `Status` on its channel.
pub(super) fn status(code: i32) -> Bytes {
    let status = if code == 0 {
        serde_json::json!({"metadata": {}, "status": "Success"})
    } else {
        serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        })
    };
    encode(STATUS, status.to_string().as_bytes())
}

/// A failure before the process ran, as a `Status` on its channel.
pub(super) fn failure(message: &str) -> Bytes {
    let status = serde_json::json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": format!("error executing command in container: {message}"),
    });
    encode(STATUS, status.to_string().as_bytes())
}

/// The exit code to report.
pub(super) fn code(exit: Option<Exit>) -> i32 {
    exit.map_or(0, Exit::code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_protocol_wins_whatever_the_order() {
        assert_eq!(choose("v4.channel.k8s.io, v5.channel.k8s.io"), Some("v5.channel.k8s.io"));
        assert_eq!(choose("v4.channel.k8s.io,channel.k8s.io"), Some("v4.channel.k8s.io"));
        assert_eq!(choose("SPDY/3.1+portforward.k8s.io"), None);
        assert_eq!(choose(""), None);
    }

    /// mini-kubernetes.md 14, row 81.
    #[test]
    fn row_81_messages_of_clients() {
        let decode = |bytes: &[u8]| decode(&Bytes::copy_from_slice(bytes));
        assert_eq!(decode(b"\0hi"), FromClient::Stdin(Bytes::from_static(b"hi")));
        assert_eq!(decode(b"\0"), FromClient::Stdin(Bytes::new()));
        assert_eq!(decode(&[255, 0]), FromClient::CloseStdin);
        assert_eq!(decode(&[255, 1]), FromClient::Ignored);
        assert_eq!(
            decode(b"\x04{\"Width\":100,\"Height\":40}"),
            FromClient::Resize(WindowSize { rows: 40, columns: 100 })
        );
        assert_eq!(decode(b"\x04nonsense"), FromClient::Ignored);
        assert_eq!(decode(b""), FromClient::Ignored);
    }

    /// mini-kubernetes.md 14, row 81.
    #[test]
    fn row_81_exit_code_travels_in_the_status() {
        assert_eq!(&status(0)[..], b"\x03{\"metadata\":{},\"status\":\"Success\"}");
        let text = String::from_utf8(status(3)[1..].to_vec()).expect("text");
        assert!(text.contains("\"reason\":\"NonZeroExitCode\""), "{text}");
        assert!(text.contains("exit status 3"), "{text}");
    }
}
