//! Requests of the exchanges that turn a cloud's identity into a credential
//! ([`credentials::cloud`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use credentials::Secret;
use credentials::cloud::{Method, Reach, Request, Response, SendError};
use rustls::ClientConfig;
use tokio::runtime::Handle;
use url::{Host, Url};

use crate::error::with_causes;
use crate::options::{ClientOptions, ClientOptionsError, HostTls, proxied};
use crate::realm::is_forbidden;
use crate::tls;

/// Largest answer, in bytes: no answer with a token is larger.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long a connection to a metadata service may take: it is on this machine or next to it.
const METADATA_CONNECT_MAX: Duration = Duration::from_secs(1);

/// The name of Google's metadata server, which files with credentials use.
const GOOGLE_METADATA: &str = "metadata.google.internal";

/// Sends requests where they may go, and nowhere else. No redirect is followed.
#[derive(Clone, Debug)]
pub struct CloudHttp {
    options: Arc<ClientOptions>,
    runtime: Handle,
}

impl CloudHttp {
    /// Uses certificates, proxy and timeouts of `options`; waits on `runtime`.
    pub fn new(options: ClientOptions, runtime: Handle) -> Self {
        Self { options: Arc::new(options), runtime }
    }

    /// Sends a request and waits for its answer. Must not be called on a thread of the runtime
    /// that drives tasks.
    ///
    /// # Errors
    /// [`SendError`]
    pub fn send(&self, request: &Request) -> Result<Response, SendError> {
        let url = Url::parse(&request.url).map_err(|_| refused("it is no URL"))?;
        check_reach(&url, &request.reach)?;
        let client = self.client(request).map_err(|error| refused(&error.to_string()))?;
        self.runtime.block_on(async {
            let answer = exchange(&client, url, request);
            match tokio::time::timeout(request.timeout, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(SendError::Timeout),
            }
        })
    }

    fn client(&self, request: &Request) -> Result<reqwest::Client, ClientOptionsError> {
        let mut roots = self.options.extra_roots_pem.clone();
        roots.extend(request.authorities.iter().map(|pem| pem.clone().into_bytes()));
        let config: ClientConfig = match &request.reach {
            Reach::Pinned { sha1 } => tls::pinned(sha1),
            Reach::Cluster => tls::of_authorities(request.authorities.as_deref().unwrap_or(""))?,
            Reach::Cloud | Reach::Metadata => tls::verified(&roots, &HostTls::default())?,
        };
        let connect = match request.reach {
            Reach::Metadata => METADATA_CONNECT_MAX,
            Reach::Cloud | Reach::Cluster | Reach::Pinned { .. } => self.options.connect_timeout,
        };
        // In plain HTTP a secret stays on this machine: no proxy is to see it.
        let in_clear = request.url.get(..5).is_some_and(|s| s.eq_ignore_ascii_case("http:"));
        let mut builder = reqwest::Client::builder()
            .user_agent(&self.options.user_agent)
            .connect_timeout(connect)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(config);
        if request.reach == Reach::Cloud
            && !in_clear
            && let Some(proxy) = &self.options.proxy
        {
            builder = proxied(builder, proxy)?;
        }
        builder.build().map_err(ClientOptionsError::Http)
    }
}

fn refused(reason: &str) -> SendError {
    SendError::Refused(reason.to_owned())
}

/// A URL may come from a file or a variable of anybody: a secret goes over TLS or stays here.
fn check_reach(url: &Url, reach: &Reach) -> Result<(), SendError> {
    let is_local = |address: IpAddr| match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => {
            // fd00:ec2::/32 and fd20:ce::/32 are the metadata services of AWS and Google.
            let [first, second, ..] = address.segments();
            address.is_loopback()
                || address.is_unicast_link_local()
                || matches!((first, second), (0xfd00, 0x0ec2) | (0xfd20, 0x00ce))
        }
    };
    let of_address =
        |address: IpAddr| (is_local(address), address.is_loopback(), is_forbidden(address));
    // An address in another's clothes is never "here", for it may be routed elsewhere, and is
    // forbidden by what it stands for.
    let (is_here, is_loopback, is_forbidden) = match url.host() {
        Some(Host::Ipv4(address)) => of_address(address.into()),
        Some(Host::Ipv6(address)) => of_address(address.into()),
        Some(Host::Domain("localhost")) => (true, true, true),
        // A name may end with the dot of the root.
        Some(Host::Domain(name)) if name.trim_end_matches('.') == GOOGLE_METADATA => {
            (true, false, true)
        }
        Some(Host::Domain(_)) | None => (false, false, false),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("the URL holds a user"));
    }
    match (reach, url.scheme()) {
        (Reach::Metadata, "http" | "https") if is_here => Ok(()),
        (Reach::Metadata, _) => Err(refused("it is no address of a metadata service")),
        (Reach::Cloud | Reach::Cluster, "https") if is_forbidden && !is_loopback => {
            Err(refused("it is an address of a metadata service"))
        }
        (Reach::Cloud | Reach::Cluster | Reach::Pinned { .. }, "https") => Ok(()),
        (Reach::Cloud, "http") if is_loopback => Ok(()),
        _ => Err(refused("secrets go only over HTTPS")),
    }
}

async fn exchange(
    client: &reqwest::Client,
    url: Url,
    request: &Request,
) -> Result<Response, SendError> {
    let method = match request.method {
        Method::Get => reqwest::Method::GET,
        Method::Post => reqwest::Method::POST,
        Method::Put => reqwest::Method::PUT,
    };
    let mut builder = client.request(method, url);
    for (name, value) in &request.headers {
        let mut value = http::HeaderValue::from_str(value.expose())
            .map_err(|_| refused(&format!("header {name} cannot be sent")))?;
        value.set_sensitive(true);
        builder = builder.header(name.as_ref(), value);
    }
    let is_read = request.method == Method::Get;
    if !is_read || !request.body.is_empty() {
        builder = builder.body(request.body.expose().to_owned());
    }
    let failed = |error: reqwest::Error| {
        if error.is_timeout() {
            SendError::Timeout
        } else {
            // Without the URL: its query may be a secret.
            SendError::Connect(with_causes(&error.without_url()))
        }
    };
    let mut answer = builder.send().await.map_err(failed)?;
    let status = answer.status().as_u16();
    let headers = answer
        .headers()
        .iter()
        .filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        })
        .collect();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(refused("the answer is larger than 64 KiB"));
        }
        body.extend_from_slice(&piece);
    }
    let body = String::from_utf8(body).map_err(|_| refused("the answer is no text"))?;
    Ok(Response { status, headers, body: Secret::new(body) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, reach: &Reach, expected: Option<&str>) {
        let result = check_reach(&Url::parse(url).expect(url), reach);
        let refusal = result.err().map(|error| error.to_string());
        assert_eq!(refusal.as_deref(), expected, "{url}");
    }

    #[test]
    fn metadata_is_asked_for_only_on_this_machine() {
        for url in [
            "http://169.254.169.254/latest",
            "http://169.254.170.23/v1",
            "http://[fd00:ec2::254]/latest",
            "http://127.0.0.1:40342/x",
            "http://localhost:1/x",
            "http://metadata.google.internal/x",
            "http://metadata.google.internal./x",
        ] {
            check(url, &Reach::Metadata, None);
        }
        for url in [
            "http://10.0.0.1/",
            "http://169.254.169.254.evil.com/",
            "http://evil.com/",
            "http://[fd00:ec3::254]/",
            "http://[::ffff:10.0.0.1]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://100.100.100.200/",
            "ftp://127.0.0.1/",
        ] {
            check(url, &Reach::Metadata, Some("it is no address of a metadata service"));
        }
    }

    /// cloud-credentials.md 14.2, row 37.
    #[test]
    fn secrets_leave_the_machine_over_https_or_not_at_all() {
        check("https://sts.amazonaws.com/", &Reach::Cloud, None);
        check("http://127.0.0.1:1/", &Reach::Cloud, None);
        check("http://sts.amazonaws.com/", &Reach::Cloud, Some("secrets go only over HTTPS"));
        check("http://10.0.0.1/", &Reach::Cloud, Some("secrets go only over HTTPS"));
        for url in [
            "https://169.254.169.254/",
            "https://2852039166/",
            "https://[fd00:ec2::254]/",
            "https://[fd20:ce::254]/",
            "https://metadata.google.internal/",
            "https://metadata.google.internal./",
            "https://METADATA.google.internal./",
            // Alibaba's, Azure's, Oracle's.
            "https://100.100.100.200/",
            "https://168.63.129.16/",
            "https://192.0.0.192/",
            // The same mapped, by NAT64 and by 6to4.
            "https://[::ffff:169.254.169.254]/",
            "https://[::ffff:100.100.100.200]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[2002:a9fe:a9fe::]/",
            "https://[2002:c000:c0::1]/",
            "https://0.0.0.0/",
        ] {
            for reach in [Reach::Cloud, Reach::Cluster] {
                check(url, &reach, Some("it is an address of a metadata service"));
            }
        }
        check("https://u:p@sts.amazonaws.com/", &Reach::Cloud, Some("the URL holds a user"));
        check("https://10.96.0.1:12250/x", &Reach::Cluster, None);
        check("http://127.0.0.1:1/x", &Reach::Cluster, Some("secrets go only over HTTPS"));
        let pinned = Reach::Pinned { sha1: "ab".to_owned() };
        check("https://10.0.0.1:2377/x", &pinned, None);
        check("http://10.0.0.1:2377/x", &pinned, Some("secrets go only over HTTPS"));
    }
}
