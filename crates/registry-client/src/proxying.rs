//! What a pull-through cache asks of a registry: one attempt each, with what the registry says
//! about its limits. When to try again, and with which credential, is the cache's decision.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use oci_model::{Descriptor, Digest, MANIFEST_BYTES_MAX, MediaType};
use reqwest::Response;

use crate::blobs::content_range;
use crate::client::Remote;
use crate::error::{RegistryError, RegistryErrorKind, with_causes};
use crate::manifests::{CONTENT_DIGEST, accept, content_type};
use crate::onward::Target;
use crate::progress::Progress;
use crate::tags::{TagList, next_page};
use crate::transport::{About, BodyError, body_up_to, refusal};

/// Largest page of a tag list, in bytes.
const TAGS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An answer, with what the registry said about its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed<T> {
    /// The answer.
    pub value: T,
    /// How much may still be asked for, if the registry says so.
    pub rate_limit: Option<RateLimit>,
}

/// What is left of a registry's allowance (Docker Hub's `ratelimit-…` headers, after the IETF
/// draft "RateLimit header fields for HTTP").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests allowed per window.
    pub limit: Option<u64>,
    /// Requests left in the window.
    pub remaining: u64,
    /// Length of the window.
    pub window: Option<Duration>,
    /// Whom the registry counts: an address or an account.
    pub source: Option<String>,
}

/// What a HEAD of a manifest tells; registries may leave out any of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// Its digest.
    pub digest: Option<Digest>,
    /// Its media type.
    pub media_type: Option<MediaType>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

/// The answer to a conditional GET of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestBody {
    /// It is the one that the caller has (304).
    Same,
    /// Another one, not verified against anything yet.
    Whole {
        /// What the registry says it is.
        media_type: Option<MediaType>,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

/// A page of a tag list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagsPage {
    /// The tags, in the registry's order.
    pub tags: Vec<String>,
    /// Whether the registry has more.
    pub more: bool,
}

/// A blob on its way in, not verified.
#[derive(Debug)]
pub struct BlobReader {
    response: Response,
    /// Offset of the first byte that comes: 0 if the registry does not resume.
    pub from: u64,
    /// Size of the whole blob in bytes, if the registry says so.
    pub size: Option<u64>,
}

impl BlobReader {
    /// The next bytes, or nothing at the end.
    ///
    /// # Errors
    /// [`RegistryErrorKind::Interrupted`] when the connection breaks or falls silent.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.response.chunk().await.map_err(|error| {
            RegistryErrorKind::Interrupted { reason: with_causes(&error.without_url()) }.into()
        })
    }
}

impl Remote {
    /// Asks what a tag or digest names: one HEAD, which costs nothing of a pull allowance.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn head_manifest(&self, key: &str) -> Result<Observed<ManifestHead>, RegistryError> {
        let response = self.ask("HEAD", &format!("manifests/{key}"), Some(accept()), &[]).await?;
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let value = ManifestHead {
            digest: text(CONTENT_DIGEST).and_then(|text| text.parse().ok()),
            media_type: content_type(&response),
            size: text("content-length").and_then(|text| text.parse().ok()),
        };
        Ok(Observed { value, rate_limit: rate_limit(headers) })
    }

    /// Fetches a manifest unless it is `known`. The bytes are not verified.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`]; over 4 MiB it is [`RegistryErrorKind::Malformed`].
    pub async fn get_manifest(
        &self,
        key: &str,
        known: Option<&Digest>,
    ) -> Result<Observed<ManifestBody>, RegistryError> {
        let condition = known.map(|digest| (header::IF_NONE_MATCH, format!("\"{digest}\"")));
        let condition: Vec<_> = condition.into_iter().collect();
        let response =
            self.ask("GET", &format!("manifests/{key}"), Some(accept()), &condition).await?;
        let rate_limit = rate_limit(response.headers());
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Observed { value: ManifestBody::Same, rate_limit });
        }
        let media_type = content_type(&response);
        let bytes = self.small_body(response, MANIFEST_BYTES_MAX, "manifest").await?;
        Ok(Observed { value: ManifestBody::Whole { media_type, bytes }, rate_limit })
    }

    /// Asks for the size of a blob: one HEAD. Nothing if the registry does not say.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn head_blob(&self, digest: &Digest) -> Result<Option<u64>, RegistryError> {
        let response = self.ask("HEAD", &format!("blobs/{digest}"), None, &[]).await?;
        let size = response.headers().get(header::CONTENT_LENGTH);
        Ok(size.and_then(|size| size.to_str().ok()?.parse().ok()))
    }

    /// Begins to read a blob at an offset. The bytes are not verified.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn open_blob(&self, digest: &Digest, from: u64) -> Result<BlobReader, RegistryError> {
        let range = (from > 0).then(|| (header::RANGE, format!("bytes={from}-")));
        let range: Vec<_> = range.into_iter().collect();
        let response = self.ask("GET", &format!("blobs/{digest}"), None, &range).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            let size = response.content_length();
            return Ok(BlobReader { response, from: 0, size });
        }
        match content_range(&response) {
            Some((start, size)) if start == from => Ok(BlobReader { response, from, size }),
            _ => {
                let reason = format!("blob {digest}: another part came than was asked for");
                Err(RegistryErrorKind::Malformed { reason }.into())
            }
        }
    }

    /// A page of the tags, strictly after `last`. Links are not followed.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn tags_page(
        &self,
        tags_max: usize,
        last: Option<&str>,
    ) -> Result<TagsPage, RegistryError> {
        // In a block: the serialiser must not be held while others wait for the answer.
        let target = {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("n", &tags_max.to_string());
            query.extend_pairs(last.map(|last| ("last", last)));
            format!("tags/list?{}", query.finish())
        };
        let response = self.ask("GET", &target, None, &[]).await?;
        let link = response.headers().get(header::LINK).and_then(|value| value.to_str().ok());
        let more = link.is_some_and(|link| next_page(link).is_some());
        let bytes = self.small_body(response, TAGS_BYTES_MAX, "tag list").await?;
        let list: TagList = serde_json::from_slice(&bytes).map_err(|_| {
            let reason = format!("tag list of {} makes no sense", self.reference.name());
            RegistryErrorKind::Malformed { reason }
        })?;
        Ok(TagsPage { tags: list.tags.unwrap_or_default(), more })
    }

    /// What refers to a manifest, from the API or from the tag that stands for it.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn referrers_of(&self, subject: &Digest) -> Result<Vec<Descriptor>, RegistryError> {
        self.referrers(subject).await
    }

    /// One request, successful or "not modified".
    async fn ask(
        &self,
        method: &'static str,
        rest: &str,
        accept: Option<String>,
        headers: &[(header::HeaderName, String)],
    ) -> Result<Response, RegistryError> {
        let progress = Progress::none();
        let target = format!("{}/{rest}", self.repository_path());
        let about = About {
            method,
            target: Target::Path(&target),
            scopes: self.scopes("pull"),
            what: format!("{rest} of {}", self.reference.name()),
            progress: &progress,
        };
        let response = self
            .send_authorized(&about, &|mut request| {
                if let Some(accept) = &accept {
                    request = request.header(header::ACCEPT, accept);
                }
                headers.iter().fold(request, |request, (name, value)| request.header(name, value))
            })
            .await?;
        if response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        Err(refusal(response, &about).await.into())
    }

    async fn small_body(
        &self,
        response: Response,
        bytes_max: usize,
        what: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        body_up_to(response, bytes_max).await.map_err(|error| {
            match error {
                BodyError::TooLarge => RegistryErrorKind::Malformed {
                    reason: format!(
                        "{what} of {} is larger than {bytes_max} bytes",
                        self.reference.name()
                    ),
                },
                BodyError::Broken(reason) => RegistryErrorKind::Interrupted { reason },
            }
            .into()
        })
    }
}

/// Reads `ratelimit-remaining: 76;w=21600` and its companions.
pub(crate) fn rate_limit(headers: &HeaderMap) -> Option<RateLimit> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let amount = |text: &str| -> Option<(u64, Option<Duration>)> {
        let mut parts = text.split(';').map(str::trim);
        let amount = parts.next()?.parse().ok()?;
        let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
        Some((amount, window.map(Duration::from_secs)))
    };
    let (remaining, window) = amount(text("ratelimit-remaining")?)?;
    let limit = text("ratelimit-limit").and_then(amount);
    Some(RateLimit {
        limit: limit.map(|(limit, _)| limit),
        remaining,
        window: window.or(limit.and_then(|(_, window)| window)),
        source: text("docker-ratelimit-source").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_hubs_allowance_is_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(rate_limit(&headers), None);
        headers.insert("ratelimit-remaining", HeaderValue::from_static("76;w=21600"));
        headers.insert("ratelimit-limit", HeaderValue::from_static("100;w=21600"));
        headers.insert("docker-ratelimit-source", HeaderValue::from_static("192.0.2.7"));
        let expected = RateLimit {
            limit: Some(100),
            remaining: 76,
            window: Some(Duration::from_secs(21600)),
            source: Some("192.0.2.7".to_owned()),
        };
        assert_eq!(rate_limit(&headers), Some(expected));
        headers.insert("ratelimit-remaining", HeaderValue::from_static("lots"));
        assert_eq!(rate_limit(&headers), None);
    }
}
