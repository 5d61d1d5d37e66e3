//! One request: who asks, for what, may they, and what is the answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};

use blob_store::{BlobStore, IngestError, ReadError, UploadId};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use hyper::body::Incoming;
use oci_model::{ErrorCode, Repository};

use crate::admin::AdminCall;
use crate::auth::{Authority, Principal, Role};
use crate::body::{Body, RequestBody, drain};
use crate::bytes::BlobBytes;
use crate::limits::Limits;
use crate::live::Live;
use crate::metadata::{ChangeError, Metadata, MetadataError, Stamp};
use crate::operations::Operations;
use crate::operations::exchange::Exchange;
use crate::operations::observe::admit_principal;
use crate::proxy::{self, Proxy};
use crate::refusal::Refusal;
use crate::route::{self, Query, Route, Target};
use crate::send_file::FileSpans;
use crate::tenancy::{self, Policies, Pulls};
use crate::upkeep::UpkeepCounters;
use crate::warning::Warnings;
use crate::{admin, blobs, listing, manifests, token_endpoint, uploads};

/// Everything that requests share.
pub(crate) struct Service {
    pub(crate) store: BlobStore,
    pub(crate) bytes: BlobBytes,
    pub(crate) metadata: Metadata,
    pub(crate) authority: Live<Authority>,
    /// Other registries behind this one.
    pub(crate) proxy: Arc<Proxy>,
    /// Locks of the uploads in use, so that requests for one upload queue up.
    pub(crate) upload_locks: Mutex<HashMap<UploadId, Weak<tokio::sync::Mutex<()>>>>,
    pub(crate) site: Site,
    pub(crate) limits: Limits,
    pub(crate) operations: Operations,
    pub(crate) sparse_indexes: bool,
    pub(crate) upkeep: Arc<UpkeepCounters>,
    /// Directory of the metadata.
    pub(crate) directory: std::path::PathBuf,
    /// How long unneeded blobs are kept.
    pub(crate) collection_delay: Option<std::time::Duration>,
    pub(crate) policies: Live<Policies>,
    pub(crate) pulls: Pulls,
}

/// Where clients find this registry.
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) external_url: Option<String>,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
}

/// What a handler needs to know of a request.
pub(crate) struct Call<'a> {
    pub(crate) service: &'a Service,
    pub(crate) repository: Repository,
    pub(crate) principal: Principal,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    pub(crate) realm: String,
    /// How blobs go to the socket past this program, on connections where they can.
    pub(crate) spans: Option<FileSpans>,
    pub(crate) exchange: &'a Exchange,
    /// What the answer tells people beside itself.
    pub(crate) warnings: &'a Warnings,
}

/// The answer of a handler.
pub(crate) type Answer = Result<Response<Body>, Refusal>;

impl Site {
    /// The URL without a path under which the client reaches us. A `Host` header is believed only
    /// if it names the loopback interface with our port: anything else could send credentials to
    /// a stranger.
    fn url(&self, headers: &HeaderMap) -> String {
        if let Some(url) = &self.external_url {
            return url.trim_end_matches('/').to_owned();
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let ours = host.filter(|host| {
            host.rsplit_once(':').is_some_and(|(name, port)| {
                matches!(name, "localhost" | "127.0.0.1" | "[::1]")
                    && port.parse() == Ok(self.address.port())
            })
        });
        match ours {
            Some(host) => format!("{}://{host}", self.scheme),
            None => format!("{}://{}", self.scheme, self.address),
        }
    }
}

impl Call<'_> {
    /// Checks the right to do something in the repository of the request.
    pub(crate) fn require(&self, role: Role) -> Result<(), Refusal> {
        self.service.authority.now().authorize(&self.principal, &self.repository, role, &self.realm)
    }

    /// Who asks for a change, and when.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::now(self.principal.name().to_owned(), self.exchange.id.clone())
    }

    /// Whether the caller may do something in the repository of the request.
    pub(crate) fn allows(&self, role: Role) -> bool {
        self.service.authority.now().allows(&self.principal, &self.repository, role)
    }

    /// A header as text.
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether `If-None-Match` has the entity tag (RFC 9110, section 13.1.2).
    pub(crate) fn has_already(&self, entity_tag: &str) -> bool {
        self.header(header::IF_NONE_MATCH).is_some_and(|tags| {
            tags.split(',')
                .map(str::trim)
                .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == entity_tag)
        })
    }
}

/// Answers a request.
pub(crate) async fn answer(
    service: Arc<Service>,
    exchange: Arc<Exchange>,
    request: Request<Incoming>,
    spans: Option<FileSpans>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut body = RequestBody::new(body, &service.limits, Arc::clone(&exchange));
    let warnings = Warnings::default();
    // HTTP/2 sends responses interleaved.
    let spans = spans.filter(|_| parts.version <= Version::HTTP_11);
    let method = parts.method.clone();
    let mut response = match dispatch(&service, &exchange, parts, &mut body, spans, &warnings).await
    {
        Ok(response) => response,
        Err(refusal) => {
            // A client in the middle of a body may not see a reply that comes before its end.
            drain(&mut body).await;
            refusal.into_response()
        }
    };
    response.headers_mut().insert(
        HeaderName::from_static("docker-distribution-api-version"),
        HeaderValue::from_static("registry/2.0"),
    );
    warnings.write(response.headers_mut());
    if method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

async fn dispatch(
    service: &Service,
    exchange: &Exchange,
    parts: http::request::Parts,
    body: &mut RequestBody,
    spans: Option<FileSpans>,
    warnings: &Warnings,
) -> Answer {
    let query = parts.uri.query();
    if parts.uri.path().len() + query.map_or(0, str::len) > route::TARGET_BYTES_MAX {
        return Err(Refusal::uri_too_long());
    }
    // Name, value, colon, space, end of line (RFC 9112, section 5).
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    if parts.headers.iter().map(line).sum::<usize>() > service.limits.head_bytes_max {
        return Err(Refusal::head_too_large());
    }
    let realm = service.site.url(&parts.headers);
    let route = route::parse(parts.uri.path());
    let is_read = matches!(parts.method, Method::GET | Method::HEAD);
    match route {
        Ok(Route::Token) => {
            return token_endpoint::answer(service, exchange, &parts, body).await;
        }
        Ok(Route::TokenKeys) if is_read => return token_endpoint::keys(service),
        _ => {}
    }
    let method = parts.method;
    let authority = service.authority.now();
    let principal = authority.authenticate(&parts.headers, &exchange.peer, &realm).await?;
    exchange.identified(principal.name());
    admit_principal(service, principal.name(), &method)?;
    let (repository, target) = match route {
        Ok(Route::In(repository, target)) => (repository, target),
        Ok(Route::Base) if is_read => {
            authority.authorize_base(&principal, &realm)?;
            return Ok(json(b"{}".to_vec()));
        }
        Ok(Route::Catalog) if is_read => {
            authority.authorize_catalog(&principal, &realm)?;
            service.metadata.current().await?;
            return listing::catalog(service, &principal, &Query::parse(query));
        }
        Ok(Route::Extensions) if is_read => {
            authority.authorize_base(&principal, &realm)?;
            return admin::discover();
        }
        Ok(Route::Admin(endpoint)) => {
            service.metadata.current().await?;
            let query = Query::parse(query);
            let call = AdminCall { service, principal, method, query, realm };
            return admin::answer(&call, &endpoint, body).await;
        }
        Ok(_) => return Err(Refusal::method()),
        // Strangers learn nothing from a path that does not parse.
        Err(refusal) => {
            authority.authorize_base(&principal, &realm)?;
            return Err(refusal);
        }
    };
    let query = Query::parse(query);
    let proxied = match service.proxy.find(&repository, query.get("ns"), &realm) {
        Ok(proxied) => proxied,
        Err(refusal) => {
            authority.authorize_base(&principal, &realm)?;
            return Err(refusal);
        }
    };
    // Rights go by the one name that a repository of another registry has here.
    let repository = proxied.as_ref().map_or(repository, |named| named.local.clone());
    let headers = parts.headers;
    let call = Call {
        service,
        repository,
        principal,
        method: method.clone(),
        headers,
        query,
        realm,
        spans,
        exchange,
        warnings,
    };
    let role = match (&method, &target) {
        (&Method::GET | &Method::HEAD, Target::Upload(_)) => Role::Create,
        (&Method::GET | &Method::HEAD, _) => Role::Pull,
        // Cancelling one's own upload is part of pushing.
        (&Method::DELETE, Target::Manifest(_) | Target::Blob(_)) => Role::Delete,
        // Moving a tag needs more, see `manifests::put`.
        _ => Role::Create,
    };
    call.require(role).map_err(|refusal| match uploads::mount_source(&call.query) {
        // A token for both repositories, or the mount would be an upload.
        Some(source) if target == Target::Uploads => {
            refusal.asking_also(&format!("repository:{source}:pull"))
        }
        _ => refusal,
    })?;
    service.metadata.current().await?;
    if let Some(named) = proxied {
        return proxy::answer(&call, &method, target, &named).await;
    }
    tenancy::enter(&call, &target, body).await?;
    let answer = serve(&call, &method, &target, body).await;
    tenancy::leave(&call, &target, body, answer).await
}

async fn serve(
    call: &Call<'_>,
    method: &Method,
    target: &Target,
    body: &mut RequestBody,
) -> Answer {
    match (method, target) {
        (&Method::GET | &Method::HEAD, Target::Manifest(reference)) => {
            manifests::get(call, reference)
        }
        (&Method::PUT, Target::Manifest(reference)) => {
            manifests::put(call, reference.clone(), body).await
        }
        (&Method::DELETE, Target::Manifest(reference)) => {
            manifests::delete(call, reference.clone()).await
        }
        (&Method::GET | &Method::HEAD, Target::Blob(digest)) => blobs::get(call, digest).await,
        (&Method::DELETE, Target::Blob(digest)) => blobs::delete(call, *digest).await,
        (&Method::POST, Target::Uploads) => uploads::begin(call, body).await,
        (&Method::GET | &Method::HEAD, Target::Upload(id)) => uploads::status(call, id).await,
        (&Method::PATCH, Target::Upload(id)) => uploads::append(call, id, body).await,
        (&Method::PUT, Target::Upload(id)) => uploads::finish(call, id, body).await,
        (&Method::DELETE, Target::Upload(id)) => uploads::cancel(call, id).await,
        (&Method::GET | &Method::HEAD, Target::Tags) => listing::tags(call),
        (&Method::GET | &Method::HEAD, Target::Referrers(digest)) => {
            listing::referrers(call, digest).await
        }
        _ => Err(Refusal::method()),
    }
}

/// A 200 with JSON.
pub(crate) fn json(body: Vec<u8>) -> Response<Body> {
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, length);
    response
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// A header value made of things that were parsed, so that no character can be wrong in it.
pub(crate) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Runs something that may wait for the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Refusal::internal(&error))
}

impl From<MetadataError> for Refusal {
    fn from(error: MetadataError) -> Self {
        if error.is_no_space() { Self::no_space() } else { Self::internal(&error) }
    }
}

impl From<IngestError> for Refusal {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::DigestMismatch { .. } => {
                Self::new(ErrorCode::DigestInvalid, error.to_string())
            }
            IngestError::NoSpace { .. } => Self::no_space(),
            IngestError::Disk(error) => Self::internal(&error),
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Missing { digest } => blobs::unknown(&digest),
            ReadError::TooLarge { .. } | ReadError::Corrupt { .. } | ReadError::Disk(_) => {
                Self::internal(&error)
            }
        }
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Missing(digest) => Self::new(
                ErrorCode::ManifestBlobUnknown,
                format!("{digest} is not in the repository"),
            )
            .with_detail(serde_json::json!({ "digest": digest })),
            ChangeError::Unknown => Self::new(ErrorCode::ManifestUnknown, "manifest unknown"),
            ChangeError::NotAsExpected(_) => Self::new(ErrorCode::Denied, error.to_string())
                .with_status(StatusCode::PRECONDITION_FAILED),
            ChangeError::InUse(manifest) => {
                Self::new(ErrorCode::Denied, format!("manifest {manifest} needs this blob"))
                    .with_status(StatusCode::CONFLICT)
            }
            ChangeError::Taken => {
                Self::new(ErrorCode::Denied, error.to_string()).with_status(StatusCode::CONFLICT)
            }
            ChangeError::Immutable { .. } => {
                Self::new(ErrorCode::Denied, error.to_string()).with_status(StatusCode::CONFLICT)
            }
            ChangeError::Quota(over) => tenancy::over_quota(&over),
            ChangeError::Repositories { .. } => Self::new(ErrorCode::Denied, error.to_string()),
            ChangeError::NoSpace => Self::no_space(),
            ChangeError::Failed => Self::new(ErrorCode::Unknown, "the registry failed"),
            ChangeError::Unavailable => Self::unavailable("the bucket does not answer"),
            ChangeError::Busy => Self::unavailable("too many changes are waiting"),
        }
    }
}
