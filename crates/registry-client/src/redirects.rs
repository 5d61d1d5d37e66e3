//! Follows redirects by hand, so that what is ours goes to the registry and nowhere else: not to
//! where a redirect leads, nor back to the registry from there (CVE-2025-4673).

use http::{StatusCode, header};
use reqwest::Response;
use url::Url;

use crate::guard::{REDIRECTS_MAX, is_same_place};
use crate::options::ClientOptions;
use crate::realm;
use crate::transport::authority;

/// The addresses of one request so far.
pub(crate) struct Chain {
    urls: Vec<Url>,
    /// Whether every address was the registry's own.
    at_home: bool,
    /// Whether the registry runs on this machine, whatever its name is.
    is_local: bool,
}

impl Chain {
    pub(crate) fn new(first: Url) -> Self {
        let is_local = crate::endpoint::is_loopback(&authority(&first));
        Self { urls: vec![first], at_home: true, is_local }
    }

    /// The chain of a request that an answer wants elsewhere, as if by a redirect from `home`.
    /// Whoever said so on this machine may have said so of this machine.
    ///
    /// # Errors
    /// Why it must not be gone to.
    pub(crate) fn onward(
        home: Url,
        next: Url,
        is_told_here: bool,
        options: &ClientOptions,
    ) -> Result<Self, String> {
        let mut chain = Self::new(home);
        chain.is_local |= is_told_here;
        chain.lead(next, options)?;
        Ok(chain)
    }

    /// Where to send the request now.
    pub(crate) fn url(&self) -> &Url {
        &self.urls[self.urls.len() - 1]
    }

    /// Whether the request never left the place where it began.
    pub(crate) const fn is_at_home(&self) -> bool {
        self.at_home
    }

    /// Whether the request is at a host that only the registry named, and that need not be this
    /// machine because the registry is.
    pub(crate) fn is_elsewhere(&self) -> bool {
        !self.is_local && self.urls[0].host() != self.url().host()
    }

    /// Goes where an answer leads, if it is a redirect for this method.
    ///
    /// # Errors
    /// Why it must not be followed.
    pub(crate) fn follow(
        &mut self,
        response: &Response,
        method: &http::Method,
        options: &ClientOptions,
    ) -> Result<bool, String> {
        if !leads_on(response.status(), method) {
            return Ok(false);
        }
        let Some(location) = response.headers().get(header::LOCATION) else { return Ok(false) };
        let next = location.to_str().ok().and_then(|text| response.url().join(text).ok());
        let Some(mut next) = next.filter(|next| matches!(next.scheme(), "http" | "https")) else {
            return Err("redirected to no address".to_owned());
        };
        // A user in an address would become a credential of its own.
        if !next.username().is_empty() || next.password().is_some() {
            return Err("redirected to an address that holds a user".to_owned());
        }
        next.set_fragment(None);
        self.is_local |= self.at_home && came_from_here(response, options);
        self.lead(next, options)?;
        Ok(true)
    }

    /// Goes to where a registry leads.
    ///
    /// # Errors
    /// Why it must not be gone to.
    fn lead(&mut self, next: Url, options: &ClientOptions) -> Result<(), String> {
        match &options.guard {
            Some(guard) => guard.check_redirect(&self.urls, &next)?,
            None => self.check(&next)?,
        }
        self.at_home &= is_same_place(&self.urls[0], &next);
        self.urls.push(next);
        Ok(())
    }

    fn check(&self, next: &Url) -> Result<(), String> {
        if REDIRECTS_MAX <= self.urls.len() {
            return Err("too many redirects".to_owned());
        }
        if self.urls.iter().any(|url| url.scheme() == "https") && next.scheme() != "https" {
            return Err(format!("redirected from HTTPS to {}", next.scheme()));
        }
        if self.urls[0].host() == next.host() {
            return Ok(());
        }
        realm::check_place(next, self.is_local)
            .map_err(|reason| format!("redirected to where it must not: {reason}"))
    }
}

/// Whether an answer came from this machine, by the connection it came over: what a name resolves
/// to is its owner's word. Behind a proxy it is the proxy that we are connected to.
pub(crate) fn came_from_here(response: &Response, options: &ClientOptions) -> bool {
    let peer = response.remote_addr().filter(|_| options.proxy.is_none());
    peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
}

/// What is read may be read elsewhere; what is written is written again only where the answer
/// says that it is the same request.
fn leads_on(status: StatusCode, method: &http::Method) -> bool {
    let reads = matches!(*method, http::Method::GET | http::Method::HEAD);
    match status.as_u16() {
        307 | 308 => true,
        301..=303 => reads,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(registry: &str, next: &str, expected: Result<(), &str>) {
        let url = |text: &str| Url::parse(text).expect("a URL");
        let actual = Chain::new(url(registry)).check(&url(next));
        assert_eq!(actual.as_ref().map_err(String::as_str).copied(), expected, "{registry} {next}");
    }

    /// cloud-credentials.md 14.2, row 70, for redirects: such names are resolved with a check.
    #[test]
    fn names_that_only_a_registry_gave_are_elsewhere() {
        for (registry, next, expected) in [
            ("https://registry.example/v2/", "https://cdn.example/x", true),
            ("https://registry.example/v2/", "https://registry.example:8443/x", false),
            ("http://127.0.0.1:5000/v2/", "http://storage.lan/x", false),
        ] {
            let url = |text: &str| Url::parse(text).expect("a URL");
            let mut chain = Chain::new(url(registry));
            assert!(!chain.is_elsewhere(), "{registry}");
            chain.urls.push(url(next));
            assert_eq!(chain.is_elsewhere(), expected, "{registry} {next}");
        }
    }

    /// cloud-credentials.md 12.3.
    #[test]
    fn nobody_is_redirected_to_this_machine_or_its_metadata_service_from_elsewhere() {
        const HUB: &str = "https://registry-1.docker.io/v2/";
        for next in ["https://127.0.0.1/x", "https://[::1]/x", "https://localhost/x"] {
            check(HUB, next, Err("redirected to where it must not: it is this machine"));
            check("https://127.0.0.2:5000/v2/", next, Ok(()));
            check("https://localhost:5000/v2/", next, Ok(()));
        }
        let refused = "redirected to where it must not: a registry must not lead to this address";
        for next in [
            "https://169.254.169.254/latest/meta-data",
            "https://[::ffff:169.254.169.254]/x",
            "https://2852039166/x",
            "https://0/x",
            "https://100.100.100.200/x",
            "https://[fd00:ec2::254]/x",
            "https://[fe80::1]/x",
        ] {
            check(HUB, next, Err(refused));
            check("https://127.0.0.1:5000/v2/", next, Err(refused));
        }
        check("http://registry.example/v2/", "http://169.254.169.254/x", Err(refused));
        check("http://169.254.0.7:5000/v2/", "http://169.254.0.7:9000/x", Ok(()));
        for next in ["https://cdn.example/x", "https://10.0.0.1/x", "https://8.8.8.8/x"] {
            check(HUB, next, Ok(()));
        }
    }
}
