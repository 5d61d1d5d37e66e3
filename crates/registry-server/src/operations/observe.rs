//! Around every request: admission before, counting and telling after the last byte.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{io, mem};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use oci_model::ErrorCode;

use super::audit::{AuditRecord, AuditSender};
use super::exchange::{Exchange, Peer};
use super::metrics::{Finished, route_label};
use super::rates::{Access, Place, Wait};
use crate::body::Body;
use crate::refusal::Refusal;
use crate::route::{self, ManifestReference, Route, Target};
use crate::send_file::FileSpans;
use crate::service::{self, Service};
use crate::token_endpoint::Issued;

/// Target of the lines in the log that tell of requests.
const ACCESS_LOG: &str = "registry_access";

/// Answers a request and sees it through.
pub(crate) async fn observe(
    service: Arc<Service>,
    peer: Peer,
    request: Request<Incoming>,
    spans: Option<FileSpans>,
) -> Response<Observed> {
    let peer = service.authority.now().located(request.headers(), peer);
    let exchange = Exchange::new(request.headers(), peer);
    let mut end = End::begin(&service, &exchange, &request);
    let mut response = match end.admit() {
        Err(refusal) => refusal.into_response(),
        Ok(()) => match service.operations.health.answer(&end.path, &service.metadata).await {
            Some(response) => response,
            None => service::answer(service, Arc::clone(&exchange), request, spans).await,
        },
    };
    end.answered(&response);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&exchange.id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    if exchange.trace.parent.is_some()
        && let Ok(trace) = HeaderValue::from_str(&exchange.trace.header())
    {
        headers.insert(HeaderName::from_static("traceparent"), trace);
    }
    response.map(|body| Observed { body, end })
}

/// Answers on the address for operators.
pub(crate) async fn answer_operator(
    service: Arc<Service>,
    request: Request<Incoming>,
) -> Response<Body> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = request.uri().path();
    let mut response = match path {
        _ if !is_read => Refusal::method().into_response(),
        "/metrics" => service.operations.metrics.answer(),
        path => match service.operations.health.answer(path, &service.metadata).await {
            Some(response) => response,
            None => Refusal::not_found().into_response(),
        },
    };
    if *request.method() == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

/// Lets a request of somebody who is known by now pass.
///
/// # Errors
/// 429 with `Retry-After`.
pub(crate) fn admit_principal(
    service: &Service,
    principal: &str,
    method: &Method,
) -> Result<(), Refusal> {
    let admitted = service.operations.admission.principal(principal, access(method));
    admitted.map_err(|wait| {
        service.operations.metrics.refused("principal_rate");
        too_many(wait, "too many requests of this user")
    })
}

fn access(method: &Method) -> Access {
    match *method {
        Method::GET | Method::HEAD => Access::Read,
        _ => Access::Write,
    }
}

fn too_many(Wait(wait): Wait, message: &str) -> Refusal {
    // Whole seconds, rounded up (RFC 9110, section 10.2.3).
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Refusal::new(ErrorCode::TooManyRequests, message)
        .with_header(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
}

/// What has to be said when a request is over, however it ends.
struct End {
    service: Arc<Service>,
    exchange: Arc<Exchange>,
    method: Method,
    path: String,
    route: &'static str,
    is_upload: bool,
    place: Option<Place>,
    status: StatusCode,
    error: Option<ErrorCode>,
    digest: Option<HeaderValue>,
    bytes_out: u64,
    has_credentials: bool,
    issued: Option<Issued>,
}

impl End {
    fn begin(
        service: &Arc<Service>,
        exchange: &Arc<Exchange>,
        request: &Request<Incoming>,
    ) -> Self {
        let path = request.uri().path().to_owned();
        let (method, route) = (request.method().clone(), route_label(&path));
        let is_upload = route == "upload" && access(&method) == Access::Write;
        service.operations.metrics.began(is_upload);
        Self {
            service: Arc::clone(service),
            exchange: Arc::clone(exchange),
            method,
            path,
            route,
            is_upload,
            place: None,
            // What a client that left before the answer is told; nginx calls it so.
            status: StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            error: None,
            digest: None,
            bytes_out: 0,
            has_credentials: request.headers().contains_key(header::AUTHORIZATION),
            issued: None,
        }
    }

    /// Checks what holds for the address, before anything is known of the client.
    fn admit(&mut self) -> Result<(), Refusal> {
        // Probes must not be starved by those who share their address.
        if self.route == "health" {
            return Ok(());
        }
        let operations = &self.service.operations;
        let address = self.exchange.peer.address;
        operations.admission.address(address, access(&self.method)).map_err(|wait| {
            operations.metrics.refused("address_rate");
            too_many(wait, "too many requests from this address")
        })?;
        self.place = operations.admission.request(address);
        if self.place.is_none() {
            operations.metrics.refused("address_requests");
            let wait = Wait(std::time::Duration::from_secs(1));
            return Err(too_many(wait, "too many requests under way from this address"));
        }
        Ok(())
    }

    fn answered(&mut self, response: &Response<Body>) {
        self.status = response.status();
        self.error = response.extensions().get().copied();
        self.issued = response.extensions().get().cloned();
        self.digest = response.headers().get(crate::manifests::DIGEST_HEADER).cloned();
    }

    /// What the audit log says of the request beside the changes that it made.
    fn audit(&self, audit: &AuditSender) {
        let is_read = access(&self.method) == Access::Read;
        let mut detail = None;
        let action = match (self.status.as_u16(), self.route) {
            (401, _) if self.has_credentials => "login_failed",
            (403, _) => "denied",
            (200, "token") if self.issued.is_some() => {
                detail = self
                    .issued
                    .as_ref()
                    .map(|issued| format!("token {} for {}", issued.id, issued.scope));
                "token_issued"
            }
            (200, "base") if !self.exchange.principal().is_empty() => "login",
            (200, "manifest") if self.method == Method::GET && audit.wants_pull() => "pull",
            (200..300, "extension") if !is_read => "administration",
            _ => return,
        };
        let (repository, reference) = self.subject();
        let (tag, digest) = match reference {
            Some(reference) if reference.contains(':') => (None, Some(reference)),
            tag => (
                tag,
                self.digest.as_ref().and_then(|digest| digest.to_str().ok()).map(str::to_owned),
            ),
        };
        let actor = match &self.issued {
            Some(issued) => issued.principal.clone(),
            None => self.exchange.principal().to_owned(),
        };
        if matches!(action, "denied" | "administration") {
            detail = Some(format!("{} {}", self.method, self.path));
        }
        audit.note(AuditRecord {
            action: action.to_owned(),
            actor,
            client: Some(self.exchange.peer.address.to_string()),
            request: self.exchange.id.clone(),
            repository,
            tag,
            digest,
            detail,
            ..AuditRecord::default()
        });
    }

    /// Repository and reference, as far as the path has them.
    fn subject(&self) -> (Option<String>, Option<String>) {
        match route::parse(&self.path) {
            Ok(Route::In(repository, target)) => {
                let reference = match target {
                    Target::Manifest(ManifestReference::Tag(tag)) => Some(tag.to_string()),
                    Target::Manifest(ManifestReference::Digest(digest))
                    | Target::Blob(digest)
                    | Target::Referrers(digest) => Some(digest.to_string()),
                    _ => None,
                };
                (Some(repository.to_string()), reference)
            }
            _ => (None, None),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        drop(self.place.take());
        let operations = &self.service.operations;
        let duration = self.exchange.began.elapsed();
        let logs = tracing::enabled!(target: ACCESS_LOG, tracing::Level::INFO);
        let counts = operations.metrics.wants_repositories() && self.status.is_success();
        let (repository, reference) = if logs || counts { self.subject() } else { (None, None) };
        let finished = Finished {
            method: &self.method,
            route: self.route,
            status: self.status,
            bytes_in: self.exchange.bytes_in(),
            bytes_out: self.bytes_out,
            duration,
            repository: repository.as_deref().filter(|_| self.status.is_success()),
        };
        operations.metrics.finished(&finished, self.is_upload);
        if let Some(audit) = &operations.audit {
            self.audit(audit);
        }
        if logs {
            let digest = self.digest.as_ref().and_then(|digest| digest.to_str().ok());
            tracing::info!(
                target: ACCESS_LOG,
                request_id = self.exchange.id,
                trace_id = self.exchange.trace.trace,
                client = %self.exchange.peer.address,
                principal = self.exchange.principal(),
                method = %self.method,
                // The path has no credentials; the query may.
                path = self.path,
                repository,
                reference,
                digest,
                bytes_in = finished.bytes_in,
                bytes_out = finished.bytes_out,
                status = self.status.as_u16(),
                duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
                error = self.error.map(|code| code.as_str()),
                "request"
            );
        }
    }
}

/// A body that is counted; when it goes the request is over.
pub(crate) struct Observed {
    body: Body,
    end: End,
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let observed = self.get_mut();
        let frame = Pin::new(&mut observed.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            observed.end.bytes_out += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl From<Observed> for Body {
    fn from(mut observed: Observed) -> Self {
        mem::replace(&mut observed.body, Self::empty())
    }
}
