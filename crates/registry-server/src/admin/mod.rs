//! The administration API below `/v2/_shipway/`: what needs the running registry and is no part of
//! the distribution API. Requests and answers are JSON; refusals look as everywhere.
//!
//! | endpoint | who | answer |
//! |---|---|---|
//! | `GET namespaces` | whoever administers one | the namespaces that the caller administers, with their policies |
//! | `GET storage` | whoever administers everything | space, garbage, damage and missing blobs of a store on local disk |
//! | `POST storage/snapshot` | whoever administers everything | name of a file beside the database that holds all tables, for a backup on this machine |
//! | `GET storage/blob?digest=` | whoever administers everything | why the blob stays, or when it goes |
//! | `GET usage` | the same | what each of them holds and may hold |
//! | `GET usage/proof` | admin of all | the counters beside a full count |
//! | `POST usage/recount` | admin of all | the same, after counting anew |
//! | `GET retention?prefix=` | admin of the prefix | what the retention rules say about every tag, and why |
//! | `POST retention?prefix=` | admin of the prefix | what they removed |
//! | `GET trash?prefix=` | whoever administers something | what can be restored there |
//! | `POST trash/restore?repository=&tag=&digest=` | admin of the repository | what came back |
//! | `DELETE trash?prefix=` | admin of the prefix | how much went for good |
//! | `GET history?repository=&tag=` | admin of the repository | the moves of the tag, the last one first |
//! | `DELETE repositories?repository=` | admin of the repository | how many manifests went into the trash |
//! | `GET notifications` | whoever administers everything | the receivers, how far they are, what they did not take |
//! | `POST notifications/replay?receiver=&sequence=` | whoever administers everything | nothing; what was not taken is tried again |
//!
//! Somebody administers what the role `admin` covers. What a caller does not administer is answered
//! as if it were not there, so that nobody learns what others have.

mod namespaces;
mod notifications;
mod repositories;
mod retention;
mod storage;
mod trash;
mod usage;

use http::{Method, StatusCode};
use oci_model::{ErrorCode, Repository};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::auth::Principal;
use crate::body::{RequestBody, read_whole};
use crate::metadata::Stamp;
use crate::refusal::Refusal;
use crate::route::Query;
use crate::service::{Answer, Service, json};

/// Largest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Every endpoint, as listed in `/v2/_oci/ext/discover`.
const ENDPOINTS: &[&str] = &[
    "_shipway/namespaces",
    "_shipway/notifications",
    "_shipway/notifications/replay",
    "_shipway/storage",
    "_shipway/storage/blob",
    "_shipway/storage/snapshot",
    "_shipway/usage",
    "_shipway/usage/proof",
    "_shipway/usage/recount",
    "_shipway/retention",
    "_shipway/trash",
    "_shipway/trash/restore",
    "_shipway/history",
    "_shipway/repositories",
];

/// A request to the administration API.
pub(crate) struct AdminCall<'a> {
    pub(crate) service: &'a Service,
    pub(crate) principal: Principal,
    pub(crate) method: Method,
    pub(crate) query: Query,
    pub(crate) realm: String,
}

/// Answers a request; `path` is what follows `/v2/_shipway/`.
pub(crate) async fn answer(call: &AdminCall<'_>, path: &str, _body: &mut RequestBody) -> Answer {
    // Strangers do not learn what there is.
    call.service.authority.now().authorize_some_administration(&call.principal, &call.realm)?;
    match (&call.method, path) {
        (&Method::GET | &Method::HEAD, "namespaces") => namespaces::list(call),
        (&Method::GET | &Method::HEAD, "notifications") => notifications::list(call),
        (&Method::POST, "notifications/replay") => notifications::replay(call).await,
        (&Method::GET | &Method::HEAD, "storage") => storage::status(call).await,
        (&Method::POST, "storage/snapshot") => storage::snapshot(call).await,
        (&Method::GET | &Method::HEAD, "storage/blob") => storage::explain(call).await,
        (&Method::GET | &Method::HEAD, "usage") => usage::list(call),
        (&Method::GET | &Method::HEAD, "usage/proof") => usage::prove(call),
        (&Method::POST, "usage/recount") => usage::recount(call).await,
        (&Method::GET | &Method::HEAD, "retention") => retention::plan(call).await,
        (&Method::POST, "retention") => retention::apply(call).await,
        (&Method::GET | &Method::HEAD, "trash") => trash::list(call),
        (&Method::DELETE, "trash") => trash::empty(call).await,
        (&Method::POST, "trash/restore") => trash::restore(call).await,
        (&Method::GET | &Method::HEAD, "history") => trash::history(call),
        (&Method::DELETE, "repositories") => repositories::delete(call).await,
        _ if ENDPOINTS.iter().any(|endpoint| endpoint.strip_prefix("_shipway/") == Some(path)) => {
            Err(Refusal::method())
        }
        _ => Err(Refusal::not_found()),
    }
}

/// The list of extensions (distribution-spec, extensions, `_oci/ext/discover`).
pub(crate) fn discover() -> Answer {
    reply(&serde_json::json!({
        "extensions": [{
            "name": "_shipway",
            "description": "administration of namespaces and of what the registry holds",
            "url": "docs/registry-policies.md",
            "endpoints": ENDPOINTS,
        }]
    }))
}

/// A 200 with a document.
pub(crate) fn reply(document: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(document).map_err(|error| Refusal::internal(&error))?;
    Ok(json(body))
}

impl AdminCall<'_> {
    /// Whether the caller administers the repository or namespace of this name; the empty name is
    /// the whole registry.
    pub(crate) fn administers(&self, name: &str) -> bool {
        self.service.authority.now().administers(&self.principal, name)
    }

    /// Lets only those pass who administer the whole registry.
    ///
    /// # Errors
    /// 401 or 403 for everybody else.
    pub(crate) fn require_everything(&self) -> Result<(), Refusal> {
        self.service.authority.now().authorize_administration(&self.principal, &self.realm)
    }

    /// Who asks for a change, and when.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::now(self.principal.name().to_owned(), uuid::Uuid::new_v4().to_string())
    }

    /// The prefix in the query, empty for the whole registry, if the caller administers all of it.
    ///
    /// # Errors
    /// 404 for one that the caller does not administer.
    pub(crate) fn prefix(&self) -> Result<&str, Refusal> {
        let prefix = self.query.get("prefix").unwrap_or_default();
        if self.administers(prefix) { Ok(prefix) } else { Err(absent(prefix)) }
    }

    /// The repository in the query, if the caller administers it.
    ///
    /// # Errors
    /// 400 for a missing or malformed name, 404 for a repository that the caller does not
    /// administer, as for one that is not there.
    pub(crate) fn repository(&self) -> Result<Repository, Refusal> {
        let name = self.query.get("repository").unwrap_or_default();
        let repository = crate::route::repository(name)?;
        if self.administers(repository.as_str()) { Ok(repository) } else { Err(absent(name)) }
    }
}

/// There is no such repository or namespace, or the caller has no business with it.
pub(crate) fn absent(name: &str) -> Refusal {
    Refusal::new(ErrorCode::NameUnknown, format!("{name:?} is not known to the registry"))
}

/// The JSON document of a request; unknown keys are refused by its type.
///
/// # Errors
/// 400 if it is not one, 413 if it is too large.
#[expect(dead_code, reason = "for endpoints that take documents")]
pub(crate) async fn document<T: DeserializeOwned>(body: &mut RequestBody) -> Result<T, Refusal> {
    let bytes = read_whole(body, BODY_BYTES_MAX).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::new(ErrorCode::Unsupported, format!("the request makes no sense: {error}"))
            .with_status(StatusCode::BAD_REQUEST)
    })
}
