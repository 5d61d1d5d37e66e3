//! Lists: tags, repositories, referrers (distribution-spec end-8, end-12, and the catalog of the
//! Docker registry API).

use http::{HeaderName, HeaderValue, header};
use oci_model::{Digest, ErrorCode, MANIFEST_BYTES_MAX, MediaType};

use crate::auth::Principal;
use crate::fallback;
use crate::metadata::Page;
use crate::refusal::Refusal;
use crate::route::Query;
use crate::service::{Answer, Call, Service, blocking, header_value, json};

/// Names in one reply. Many clients do not follow links, so it is large.
const NAMES_MAX: usize = 10_000;

/// Room for what surrounds the descriptors in a list of referrers, in bytes.
const INDEX_FRAME_BYTES: usize = 1024;

/// The tags of a repository.
pub(crate) fn tags(call: &Call<'_>) -> Answer {
    let metadata = &call.service.metadata;
    let names_max = names_max(&call.query)?;
    let page = metadata.tags(&call.repository, call.query.get("last"), names_max)?;
    if page.names.is_empty()
        && !metadata.knows(&call.repository)?
        && !metadata.remembers(&call.repository)?
    {
        return Err(Refusal::new(ErrorCode::NameUnknown, "repository name not known to registry")
            .with_detail(serde_json::json!({ "name": call.repository.as_str() })));
    }
    let body = serde_json::json!({ "name": call.repository.as_str(), "tags": page.names });
    listed(&body, &page, names_max, &format!("/v2/{}/tags/list", call.repository))
}

/// The repositories that the caller may read.
pub(crate) fn catalog(service: &Service, principal: &Principal, query: &Query) -> Answer {
    let names_max = names_max(query)?;
    let authority = service.authority.now();
    let visible = |name: &str| authority.may_see(principal, name);
    let page = service.metadata.repositories(query.get("last"), names_max, visible)?;
    let body = serde_json::json!({ "repositories": page.names });
    listed(&body, &page, names_max, "/v2/_catalog")
}

/// The manifests that say they are about `subject`. Unknown subjects and repositories have none.
pub(crate) async fn referrers(call: &Call<'_>, subject: &Digest) -> Answer {
    let filter = call.query.get("artifactType").filter(|filter| !filter.is_empty());
    let last = call.query.get("last").unwrap_or_default();
    let body =
        format!("{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"manifests\":[", MediaType::OCI_INDEX)
            .into_bytes();
    let mut page = ReferrerPage { body, filter, last: None, more: false };
    // What clients listed themselves joins in the order of digests.
    let metadata = &call.service.metadata;
    let fallback::Listed { referrers, cut } = {
        let (metadata, repository) = (metadata.clone(), call.repository.clone());
        let (subject, last) = (*subject, last.to_owned());
        blocking(move || fallback::listed(&metadata, &repository, &subject, &last)).await??
    };
    let mut fallback = referrers.into_iter().peekable();
    let visit = |digest: &str, descriptor: &[u8]| {
        if cut.as_deref().is_some_and(|cut| digest > cut) {
            return false;
        }
        while let Some((own, text)) = fallback.next_if(|(own, _)| own.as_str() <= digest) {
            if own != digest && !page.add(&own, &text) {
                return false;
            }
        }
        page.add(digest, descriptor)
    };
    metadata.referrers(&call.repository, subject, last, visit)?;
    for (digest, descriptor) in fallback {
        if page.more || !page.add(&digest, &descriptor) {
            break;
        }
    }
    if let (false, Some(cut)) = (page.more, cut) {
        page.more = true;
        page.last = Some(cut);
    }
    let ReferrerPage { mut body, last: listed_last, more, .. } = page;
    body.extend_from_slice(b"]}");
    let mut response = json(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header_value(MediaType::OCI_INDEX.as_str()));
    if filter.is_some() {
        let name = HeaderName::from_static("oci-filters-applied");
        headers.insert(name, HeaderValue::from_static("artifactType"));
    }
    if let (true, Some(last)) = (more, listed_last) {
        let mut target = format!("/v2/{}/referrers/{subject}?last={last}", call.repository);
        if let Some(filter) = filter {
            target.push_str(&format!("&artifactType={}", encode(filter)));
        }
        headers.insert(header::LINK, header_value(&format!("<{target}>; rel=\"next\"")));
    }
    Ok(response)
}

/// A page of referrers in the making.
struct ReferrerPage<'a> {
    body: Vec<u8>,
    filter: Option<&'a str>,
    /// The digest of the last descriptor in the body.
    last: Option<String>,
    /// Whether the page is full and there is more.
    more: bool,
}

impl ReferrerPage<'_> {
    /// Adds a descriptor if the filter lets it; says whether the page takes more.
    fn add(&mut self, digest: &str, descriptor: &[u8]) -> bool {
        if let Some(filter) = self.filter {
            let parsed: Option<oci_model::Descriptor> = serde_json::from_slice(descriptor).ok();
            if parsed.and_then(|parsed| parsed.artifact_type).as_deref() != Some(filter) {
                return true;
            }
        }
        // Clients do not read more than a manifest's worth.
        if self.body.len() + descriptor.len() + INDEX_FRAME_BYTES > MANIFEST_BYTES_MAX
            && self.last.is_some()
        {
            self.more = true;
            return false;
        }
        if self.last.is_some() {
            self.body.push(b',');
        }
        self.body.extend_from_slice(descriptor);
        self.last = Some(digest.to_owned());
        true
    }
}

pub(crate) fn listed(
    body: &serde_json::Value,
    page: &Page,
    names_max: usize,
    path: &str,
) -> Answer {
    let mut response = json(body.to_string().into_bytes());
    if let (true, Some(last)) = (page.more, page.names.last()) {
        let link = format!("<{path}?n={names_max}&last={}>; rel=\"next\"", encode(last));
        response.headers_mut().insert(header::LINK, header_value(&link));
    }
    Ok(response)
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// How many names the client wants, clamped to what it gets at most.
pub(crate) fn names_max(query: &Query) -> Result<usize, Refusal> {
    let Some(text) = query.get("n") else { return Ok(NAMES_MAX) };
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::new(
            ErrorCode::PaginationNumberInvalid,
            format!("{text:?} is not a number of results"),
        ));
    }
    // More digits than fit is still a number, and too many results.
    Ok(text.parse().unwrap_or(NAMES_MAX).min(NAMES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_results_is_a_number_within_bounds() {
        let read = |query: &str| names_max(&Query::parse(Some(query))).map_err(|_| ());
        for (query, expected) in [
            ("", Ok(10_000)),
            ("n=0", Ok(0)),
            ("n=7", Ok(7)),
            ("n=2147483648", Ok(10_000)),
            ("n=99999999999999999999999999", Ok(10_000)),
            ("n=-1", Err(())),
            ("n=ten", Err(())),
            ("n=", Err(())),
        ] {
            assert_eq!(read(query), expected, "{query}");
        }
    }
}
