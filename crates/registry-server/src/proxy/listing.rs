//! Lists of upstreams: always asked for, and from what is cached when there is no answer.

use http::{HeaderName, HeaderValue, header};
use oci_model::{Descriptor, Digest, ErrorCode, MANIFEST_BYTES_MAX, MediaType};

use super::Proxy;
use super::names::Named;
use crate::listing::{self as stored, listed, names_max};
use crate::metadata::Page;
use crate::refusal::Refusal;
use crate::service::{Answer, Call, header_value, json};

/// Room for what surrounds the descriptors in a list of referrers, in bytes.
const INDEX_FRAME_BYTES: usize = 1024;

/// The tags of a repository upstream.
pub(super) async fn tags(proxy: &Proxy, call: &Call<'_>, named: &Named) -> Answer {
    let behind = proxy.behind(named);
    let tags_max = names_max(&call.query)?;
    let last = call.query.get("last");
    let remote = &named.remote;
    let page = behind
        .ask_plain(|upstream, credential| upstream.tags(credential, remote, tags_max, last))
        .await;
    let page = match page {
        Ok(mut page) => {
            // Upstreams that know no pages send all of it.
            page.tags.sort_unstable();
            page.tags.retain(|tag| last.is_none_or(|last| last < tag.as_str()));
            let more = page.more || tags_max < page.tags.len();
            page.tags.truncate(tags_max);
            Page { names: page.tags, more }
        }
        Err(error) if error.allows_stale() && proxy.metadata.knows(&named.local)? => {
            behind.warn_stale(call, &error);
            proxy.metadata.tags(&named.local, last, tags_max)?
        }
        Err(error) => {
            return Err(behind.refusal(&error, || {
                Refusal::new(ErrorCode::NameUnknown, "repository name not known upstream")
                    .with_detail(serde_json::json!({ "name": named.asked.as_str() }))
            }));
        }
    };
    let body = serde_json::json!({ "name": named.asked.as_str(), "tags": page.names });
    listed(&body, &page, tags_max, &format!("/v2/{}/tags/list", named.asked))
}

/// The manifests upstream that say they are about `subject`.
pub(super) async fn referrers(
    proxy: &Proxy,
    call: &Call<'_>,
    named: &Named,
    subject: &Digest,
) -> Answer {
    let behind = proxy.behind(named);
    let remote = &named.remote;
    let found = behind
        .ask_plain(|upstream, credential| upstream.referrers(credential, remote, subject))
        .await;
    let found = match found {
        Ok(found) => found,
        Err(error) if error.allows_stale() => {
            behind.warn_stale(call, &error);
            return stored::referrers(call, subject).await;
        }
        Err(error) => return Err(behind.refusal(&error, Refusal::not_found)),
    };
    let filter = call.query.get("artifactType").filter(|filter| !filter.is_empty());
    let mut room = MANIFEST_BYTES_MAX - INDEX_FRAME_BYTES;
    let mut manifests = Vec::new();
    for value in found {
        // What is no descriptor is nothing that a client could fetch.
        let Ok(descriptor) = serde_json::from_value::<Descriptor>(value.clone()) else { continue };
        if filter.is_some_and(|filter| descriptor.artifact_type.as_deref() != Some(filter)) {
            continue;
        }
        let Some(left) = room.checked_sub(value.to_string().len() + 1) else { break };
        room = left;
        manifests.push(value);
    }
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_INDEX.as_str(),
        "manifests": manifests,
    });
    let mut response = json(index.to_string().into_bytes());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header_value(MediaType::OCI_INDEX.as_str()));
    if filter.is_some() {
        let name = HeaderName::from_static("oci-filters-applied");
        headers.insert(name, HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}
