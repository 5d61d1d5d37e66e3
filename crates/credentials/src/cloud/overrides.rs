//! Endpoints that the environment puts in place of a cloud's own (cloud-credentials.md 12.3).
//!
//! Whoever can set a variable must not be able to have a key sent elsewhere: such an endpoint is on
//! this machine, as in tests, or the cloud's own, or the user has allowed any by a flag.

use std::net::IpAddr;

use super::{CloudError, Performer};

/// The endpoint that a variable names, without a slash at its end.
///
/// `own` are domains of the cloud below which an endpoint may lie.
///
/// # Errors
/// [`CloudError`] if it may not be used.
pub(crate) fn endpoint(
    performer: &dyn Performer,
    provider: &'static str,
    name: &str,
    own: &[&str],
) -> Result<Option<String>, CloudError> {
    let Some(url) = performer.variable(name) else { return Ok(None) };
    let is_own = host_of(&url, "https://").is_some_and(|host| {
        own.iter().any(|domain| {
            host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    });
    let is_allowed = performer.allows_endpoints() && host_of(&url, "https://").is_some();
    if is_own || is_allowed || is_loopback(&url) {
        return Ok(Some(url.trim_end_matches('/').to_owned()));
    }
    Err(CloudError::new(
        provider,
        "read environment",
        name,
        "it names no endpoint of the cloud or of this machine; nothing was sent there",
    )
    .hint("--allow-endpoint-overrides, if it is yours"))
}

/// Whether a URL stays on this machine, as in tests.
pub(crate) fn is_loopback(url: &str) -> bool {
    let host = host_of(url, "http://").or_else(|| host_of(url, "https://"));
    host.is_some_and(|host| {
        host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    })
}

/// Whether a URL names the metadata service of a machine, in plain HTTP.
pub(crate) fn is_metadata(url: &str) -> bool {
    let is_one = |address: IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        // fd00:ec2::/32 and fd20:ce::/32 are those of AWS and Google.
        IpAddr::V6(address) => {
            let [first, second, ..] = address.segments();
            address.is_unicast_link_local()
                || matches!((first, second), (0xfd00, 0x0ec2) | (0xfd20, 0x00ce))
        }
    };
    host_of(url, "http://")
        .is_some_and(|host| host == "metadata.google.internal" || host.parse().is_ok_and(is_one))
}

/// The host of a URL without a user, in lower case and without brackets.
pub(crate) fn host_of(url: &str, scheme: &str) -> Option<String> {
    let rest = url.strip_prefix(scheme)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    let is_plain = !host.is_empty()
        && !authority.contains('@')
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte));
    is_plain.then(|| host.to_ascii_lowercase())
}

/// A URL as an error may show it: a user before the host, the query and the fragment may be
/// secret. Where a password may hold what ends a host in a URL, nothing behind the scheme is shown.
pub(crate) fn without_secrets(url: &str) -> String {
    let is_scheme = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let (scheme, rest) = match url.find("://") {
        Some(at) if is_scheme(&url[..at]) => url.split_at(at + 3),
        _ => ("", url),
    };
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let outside = match authority.strip_prefix('[') {
        Some(address) => address.split_once(']').map_or(address, |(_, rest)| rest),
        None => authority,
    };
    // `user:/password@host` and `user:80/password@host` look like a host with or without a port.
    let may_go_on = outside.contains([':', '@']) && after.contains('@');
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let after_address = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    let port = after_address.split_once(':').map_or("", |(_, port)| port);
    if may_go_on || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return format!("{scheme}…");
    }
    let path = after.split(['?', '#']).next().unwrap_or(after);
    format!("{scheme}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;

    const OWN: &[&str] = &["login.example.com", "cloud.example.com"];

    fn of(world: &World) -> Result<Option<String>, CloudError> {
        endpoint(world, "ecr", "ENDPOINT", OWN)
    }

    #[test]
    fn an_endpoint_is_on_this_machine_or_the_clouds() {
        assert_eq!(of(&World::new()), Ok(None));
        for url in [
            "http://127.0.0.1:4566",
            "http://localhost:1",
            "http://[::1]:1",
            "https://127.0.0.1:4566",
            "https://login.example.com",
            "https://a.cloud.example.com:8443/x",
        ] {
            let world = World::new().variable("ENDPOINT", &format!("{url}/"));
            assert_eq!(of(&world), Ok(Some(url.to_owned())));
        }
    }

    #[test]
    fn metadata_services_are_known_by_their_addresses() {
        for url in [
            "http://169.254.169.254/x",
            "http://[fd00:ec2::254]/x",
            "http://[fd20:ce::254]:80/x",
            "http://[fe80::1]/x",
            "http://metadata.google.internal/x",
        ] {
            assert!(is_metadata(url), "{url}");
        }
        for url in [
            "https://169.254.169.254/x",
            "http://10.0.0.1/x",
            "http://169.254.169.254.evil.com/x",
            "http://u@169.254.169.254/x",
            "http://[fd00:ec3::254]/x",
            "http://metadata.google.internal.evil.com/x",
        ] {
            assert!(!is_metadata(url), "{url}");
        }
    }

    #[test]
    fn a_url_is_shown_without_user_and_query() {
        for (url, shown) in [
            ("https://a.example/x?token=s3cret#s3cret", "https://a.example/x"),
            ("http://u:s3cret@a.example:1/x", "http://a.example:1/x"),
            ("http://u:s3/cret@a.example/x", "http://…"),
            ("http://u:/s3cret@h/x", "http://…"),
            ("http://u:12/s3cret@h/x", "http://…"),
            ("http://u:12?s3cret@h/x", "http://…"),
            ("http://u:12#s3cret@h/x", "http://…"),
            ("http://u:p@x/s3cret@h", "http://…"),
            ("u:12/s3cret@h", "…"),
            ("u:s3cret://s3cret@h", "…"),
            ("http://a.example:8443/x?s3cret", "http://a.example:8443/x"),
            ("http://[fd00:ec2::254]/of/a@b", "http://[fd00:ec2::254]/of/a@b"),
            ("http://[fd00:ec2::254]:80/s3cret@h", "http://…"),
            ("https://a.example/of/a@b.example:act", "https://a.example/of/a@b.example:act"),
            ("http://u:s3cret@[fd00:ec2::254]:80/x", "http://[fd00:ec2::254]:80/x"),
            ("u:s3cret@a.example", "a.example"),
            ("s3cret@", ""),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn an_endpoint_elsewhere_needs_a_flag_and_tls() {
        for url in [
            "https://evil.com",
            "https://login.example.com.evil.com",
            "https://evillogin.example.com",
            "https://login.example.com@evil.com",
            "http://login.example.com",
            "http://127.0.0.1:1@evil.com",
            "http://127.0.0.1.evil.com",
            "ftp://127.0.0.1",
            "https://",
            "127.0.0.1",
        ] {
            let world = World::new().variable("ENDPOINT", url);
            let error = of(&world).expect_err(url);
            assert!(error.to_string().contains("nothing was sent there"), "{error}");
            let allowed = of(&world.allow_endpoints());
            let is_tls = url.starts_with("https://") && !url.contains('@') && url.len() > 8;
            assert_eq!(allowed.is_ok(), is_tls, "{url}");
        }
    }
}
