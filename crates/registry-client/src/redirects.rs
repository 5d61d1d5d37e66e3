//! Follows redirects by hand, so that what is ours goes to the registry and nowhere else: not to
//! where a redirect leads, nor back to the registry from there (CVE-2025-4673).

use http::{StatusCode, header};
use reqwest::Response;
use url::Url;

use crate::guard::{REDIRECTS_MAX, is_same_place};
use crate::options::ClientOptions;

/// The addresses of one request so far.
pub(crate) struct Chain {
    urls: Vec<Url>,
    /// Whether every address was the registry's own.
    at_home: bool,
}

impl Chain {
    pub(crate) fn new(first: Url) -> Self {
        Self { urls: vec![first], at_home: true }
    }

    /// Where to send the request now.
    pub(crate) fn url(&self) -> &Url {
        &self.urls[self.urls.len() - 1]
    }

    /// Whether the request never left the place where it began.
    pub(crate) const fn is_at_home(&self) -> bool {
        self.at_home
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
        match &options.guard {
            Some(guard) => guard.check_redirect(&self.urls, &next)?,
            None => self.check(&next)?,
        }
        self.at_home &= is_same_place(&self.urls[0], &next);
        self.urls.push(next);
        Ok(true)
    }

    fn check(&self, next: &Url) -> Result<(), String> {
        if REDIRECTS_MAX <= self.urls.len() {
            return Err("too many redirects".to_owned());
        }
        if self.urls.iter().any(|url| url.scheme() == "https") && next.scheme() != "https" {
            return Err(format!("redirected from HTTPS to {}", next.scheme()));
        }
        Ok(())
    }
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
