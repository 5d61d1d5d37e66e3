//! What a request is sent to: a path of the registry, or where an answer said that an upload or a
//! list goes on.

use oci_model::Digest;
use reqwest::Response;
use url::Url;

use crate::options::ClientOptions;
use crate::redirects::came_from_here;

/// What a request is sent to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// Path and query below `/v2/`.
    Path(&'a str),
    /// Where an answer said.
    Onward(&'a Onward),
}

impl Target<'_> {
    /// Whether somebody on this machine said it.
    pub(crate) const fn is_told_here(self) -> bool {
        match self {
            Self::Path(_) => false,
            Self::Onward(onward) => onward.told_here,
        }
    }
}

/// The address in a `Location` or a `Link`.
#[derive(Debug, Clone)]
pub(crate) struct Onward {
    pub(crate) url: Url,
    /// Whether who said it is on this machine. That is kept from the answer's own connection: to
    /// look the name up again would be to ask who wrote the address.
    told_here: bool,
}

impl Onward {
    /// The address `text` of an answer, absolute or as seen from where the answer came from.
    pub(crate) fn of(response: &Response, text: &str, options: &ClientOptions) -> Option<Self> {
        let url = response.url().join(text).ok()?;
        Some(Self { url, told_here: came_from_here(response, options) })
    }

    /// The same address asked to make an upload visible. It may have a query of its own.
    pub(crate) fn with_digest(&self, digest: &Digest) -> Self {
        let mut url = self.url.clone();
        let query = match url.query() {
            Some(query) => format!("{query}&digest={digest}"),
            None => format!("digest={digest}"),
        };
        url.set_query(Some(&query));
        Self { url, told_here: self.told_here }
    }
}
