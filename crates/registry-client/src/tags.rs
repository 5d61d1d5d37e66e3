//! Tags of a repository.

use credentials::RegistryAuth;
use http::header;
use oci_model::Reference;
use serde::Deserialize;

use crate::client::{Client, Remote};
use crate::error::{RegistryError, RegistryErrorKind};
use crate::onward::{Onward, Target};
use crate::progress::Progress;
use crate::transport::{About, body_up_to};

/// Largest page of a tag list, in bytes (16 MiB, about 100 000 of the longest tags).
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most pages that are followed.
const PAGES_MAX: usize = 10_000;

#[derive(Deserialize)]
pub(crate) struct TagList {
    /// `null` in some registries when there are none.
    #[serde(default)]
    pub(crate) tags: Option<Vec<String>>,
}

impl Client {
    /// All tags of the reference's repository, in the registry's order.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn tags(
        &self,
        reference: &Reference,
        auths: &[RegistryAuth],
    ) -> Result<Vec<String>, RegistryError> {
        let list = |auth: Option<RegistryAuth>| async move {
            self.remote(reference, auth.as_ref()).tags().await
        };
        let (tags, _) = self.with_credentials(auths, list).await?;
        Ok(tags)
    }

    /// Deletes a tag or, when the reference has a digest, a manifest with all its tags.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn delete(
        &self,
        reference: &Reference,
        auths: &[RegistryAuth],
    ) -> Result<(), RegistryError> {
        let delete = |auth: Option<RegistryAuth>| async move {
            let remote = self.remote(reference, auth.as_ref());
            remote.delete_manifest(&reference.manifest_key()).await
        };
        self.with_credentials(auths, delete).await.map(|_| ())
    }

    /// Checks a credential against a registry, as `docker login` does: `GET /v2/`.
    ///
    /// # Errors
    /// [`RegistryErrorKind::Unauthorized`] for a refused credential.
    pub async fn ping(
        &self,
        registry: &str,
        auth: Option<&RegistryAuth>,
    ) -> Result<(), RegistryError> {
        let name = format!("{registry}/ping");
        let reference: Reference = name.parse().map_err(|_| RegistryErrorKind::Malformed {
            reason: format!("{registry:?} is not the name of a registry"),
        })?;
        self.remote(&reference, auth).ping().await
    }
}

impl Remote {
    async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let progress = Progress::none();
        let mut tags = Vec::new();
        let first = format!("{}/tags/list", self.repository_path());
        let mut onward: Option<Onward> = None;
        for _ in 0..PAGES_MAX {
            let about = About {
                method: "GET",
                target: onward.as_ref().map_or(Target::Path(&first), Target::Onward),
                scopes: self.scopes("pull"),
                what: self.reference.name(),
                progress: &progress,
            };
            let response = self.send(&about, |request| request).await?;
            let next = response
                .headers()
                .get(header::LINK)
                .and_then(|value| value.to_str().ok())
                .and_then(next_page)
                .and_then(|link| Onward::of(&response, link, self.client.options()));
            let page = body_up_to(response, PAGE_BYTES_MAX).await.ok();
            let page = page.and_then(|bytes| serde_json::from_slice::<TagList>(&bytes).ok());
            let Some(page) = page else {
                let reason = format!("tag list of {} makes no sense", self.reference.name());
                return Err(RegistryErrorKind::Malformed { reason }.into());
            };
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) => onward = Some(next),
                None => break,
            }
        }
        Ok(tags)
    }
}

/// The address in `<…>; rel="next"` (RFC 8288).
pub(crate) fn next_page(link: &str) -> Option<&str> {
    link.split(',').find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters
            .split(';')
            .any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
        next.then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::next_page;

    #[test]
    fn finds_the_next_page_among_links() {
        assert_eq!(
            next_page(r#"</v2/a/tags/list?n=2&last=b>; rel="next""#),
            Some("/v2/a/tags/list?n=2&last=b")
        );
        assert_eq!(next_page(r#"<x>; rel="prev", <y>; rel="next""#), Some("y"));
        assert_eq!(next_page("nonsense"), None);
    }
}
