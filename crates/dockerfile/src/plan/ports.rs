//! EXPOSE: ports, ranges and protocols.

use crate::error::{DockerfileError, ErrorKind};
use crate::limits::EXPOSED_PORTS_MAX;

/// One port specification after expansion.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct PortSpec {
    /// `80/tcp`, one for each port of a range.
    pub(super) ports: Vec<String>,
    /// The protocol as written, if it was not lower case.
    pub(super) odd_protocol: Option<String>,
    /// Whether an address or a host port was written too (and ignored).
    pub(super) mapping: Mapping,
}

/// Whether a port was written with an address or a host port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mapping {
    Absent,
    Ignored,
}

/// Parses `[[ip:]host:]container[-end][/protocol]`.
pub(super) fn parse(spec: &str) -> Result<PortSpec, DockerfileError> {
    let (rest, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
    let lower = protocol.to_lowercase();
    if !matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
        return Err(DockerfileError::plan(format!("invalid proto: {protocol}")));
    }
    let (mapping, container) = match rest.rsplit_once(':') {
        Some((_, container)) => (Mapping::Ignored, container),
        None => (Mapping::Absent, rest),
    };
    if container.is_empty() {
        return Err(DockerfileError::plan(format!("no port specified: {spec}<empty>")));
    }
    let invalid = || DockerfileError::plan(format!("invalid containerPort: {container}"));
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    let (first, last) = match container.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(container)?, number(container)?),
    };
    if last < first {
        return Err(invalid());
    }
    if usize::from(last - first) >= EXPOSED_PORTS_MAX {
        return Err(DockerfileError::new(ErrorKind::Limit, "port range is too long"));
    }
    Ok(PortSpec {
        ports: (first..=last).map(|port| format!("{port}/{lower}")).collect(),
        odd_protocol: (lower != protocol).then(|| protocol.to_owned()),
        mapping,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(spec: &str) -> Vec<String> {
        parse(spec).expect(spec).ports
    }

    /// BuildKit ParsePorts.
    #[test]
    fn ports_ranges_and_protocols_are_read() {
        assert_eq!(ports("80"), ["80/tcp"]);
        assert_eq!(ports("80/UDP"), ["80/udp"]);
        assert_eq!(ports("8000-8002/sctp"), ["8000/sctp", "8001/sctp", "8002/sctp"]);
        assert_eq!(ports("127.0.0.1:80:8080"), ["8080/tcp"]);
        assert_eq!(ports("[::1]:80:8080"), ["8080/tcp"]);
        assert_eq!(parse("80:8080").expect("a mapping").mapping, Mapping::Ignored);
        assert_eq!(parse("80/Tcp").expect("odd").odd_protocol.as_deref(), Some("Tcp"));
    }

    /// BuildKit ParsePorts.
    #[test]
    fn bad_ports_are_named() {
        for (spec, message) in [
            ("80/foo", "invalid proto: foo"),
            ("x", "invalid containerPort: x"),
            ("70000", "invalid containerPort: 70000"),
            ("9-8", "invalid containerPort: 9-8"),
            ("80:", "no port specified: 80:<empty>"),
            ("80/", "invalid proto: "),
        ] {
            assert_eq!(parse(spec).expect_err(spec).message(), message);
        }
    }
}
