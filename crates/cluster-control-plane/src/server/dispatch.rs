//! One request: who is it, may it, what does it want.

use std::sync::Arc;

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::answer::{self, Answer};
use super::query::Query;
use super::route::{ResourceRoute, Route, route};
use super::{Server, accept, node_proxy, objects};
use crate::auth::authorize::{self, Attributes};
use crate::auth::tokens::ISSUER;
use crate::error::{ApiError, Reason};
use crate::identity::{AUTHENTICATED, MASTERS, User};
use crate::{discovery, openapi};

/// A request on its way, with everything decoded but its body.
pub(super) struct Call {
    pub(super) server: Arc<Server>,
    pub(super) user: User,
    pub(super) query: Query,
    pub(super) request: Request<Incoming>,
}

impl Call {
    /// A header's text; empty when missing or not text.
    pub(super) fn header(&self, name: impl http::header::AsHeaderName) -> &str {
        header(self.request.headers(), name)
    }
}

fn header(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Answers one request; never fails.
pub(super) async fn handle(
    server: Arc<Server>,
    certificate_user: Option<Arc<User>>,
    request: Request<Incoming>,
) -> Answer {
    let started = std::time::Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let outcome = authenticate(&server, certificate_user.as_deref(), request.headers());
    let (name, mut response) = match outcome {
        Ok(user) => {
            let name = user.name.clone();
            let response = answer(server, user, request).await;
            (name, response.unwrap_or_else(|error| answer::error(&error)))
        }
        Err(error) => (String::new(), answer::error(&error)),
    };
    let id = uuid::Uuid::new_v4().to_string();
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("audit-id", id);
    }
    tracing::debug!(
        %method, path, user = name, status = response.status().as_u16(),
        micros = started.elapsed().as_micros(), "request"
    );
    response
}

/// Certificate first, then bearer token; neither means anonymous, a bad token is refused.
fn authenticate(
    server: &Server,
    certificate_user: Option<&User>,
    headers: &HeaderMap,
) -> Result<User, ApiError> {
    let user = match certificate_user {
        Some(user) => user.clone(),
        None => {
            let credential = header(headers, AUTHORIZATION);
            match credential.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                    let verified = server.tokens.verify(&server.api, token.trim(), &[ISSUER]);
                    verified.map(|(user, _)| user).ok_or_else(ApiError::unauthorized)?
                }
                _ if credential.is_empty() => User::anonymous(),
                _ => return Err(ApiError::unauthorized()),
            }
        }
    };
    impersonate(user, headers)
}

/// `Impersonate-*` headers; only those who may do everything may use them.
fn impersonate(user: User, headers: &HeaderMap) -> Result<User, ApiError> {
    let name = header(headers, "impersonate-user");
    if name.is_empty() {
        return Ok(user);
    }
    if !user.is_in(MASTERS) {
        let message = format!(
            "users {name:?} is forbidden: User {:?} cannot impersonate resource \"users\" in API group \
             \"\" at the cluster scope",
            user.name
        );
        return Err(ApiError::new(Reason::Forbidden, message));
    }
    let groups: Vec<&str> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let mut other = User::authenticated(name, &groups);
    if groups.is_empty()
        && let Some(account) = name.strip_prefix("system:serviceaccount:")
        && let Some((namespace, _)) = account.split_once(':')
    {
        let group = format!("system:serviceaccounts:{namespace}");
        other.groups = vec!["system:serviceaccounts".to_owned(), group, AUTHENTICATED.to_owned()];
    }
    other.uid = header(headers, "impersonate-uid").to_owned();
    Ok(other)
}

async fn answer(
    server: Arc<Server>,
    user: User,
    request: Request<Incoming>,
) -> Result<Answer, ApiError> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let incoming = Call { server, user, query, request };
    match route(&path) {
        Route::Resource(route) => resource(incoming, route).await,
        Route::Unknown => {
            // Tell strangers nothing about which paths exist.
            allow(&incoming.user, &path_attributes(&incoming, &path))?;
            Ok(answer::text(StatusCode::NOT_FOUND, "404 page not found\n"))
        }
        other => {
            allow(&incoming.user, &path_attributes(&incoming, &path))?;
            if !matches!(*incoming.request.method(), Method::GET | Method::HEAD) {
                return Err(ApiError::method_not_allowed());
            }
            document(&incoming, other)
        }
    }
}

fn path_attributes(incoming: &Call, path: &str) -> Attributes {
    let verb = match *incoming.request.method() {
        Method::GET | Method::HEAD => "get".to_owned(),
        ref other => other.as_str().to_lowercase(),
    };
    Attributes { verb, path: path.to_owned(), ..Attributes::default() }
}

fn allow(user: &User, wanted: &Attributes) -> Result<(), ApiError> {
    if authorize::is_allowed(user, wanted) {
        return Ok(());
    }
    let why = authorize::refusal(user, wanted);
    let message = format!("forbidden: {why}");
    let mut error = ApiError::new(Reason::Forbidden, message);
    error.causes.clear();
    Err(error)
}

/// The documents that are about no resource.
fn document(incoming: &Call, route: Route) -> Result<Answer, ApiError> {
    let accepted = incoming.header(ACCEPT);
    let encoding = incoming.header(ACCEPT_ENCODING);
    let missing =
        || ApiError::new(Reason::NotFound, "the server could not find the requested resource");
    let aggregated = |value: &serde_json::Value, form: discovery::Aggregated| {
        let content_type = match form {
            discovery::Aggregated::V2 => {
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            }
            discovery::Aggregated::V2Beta1 => {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            }
        };
        answer::of_type(StatusCode::OK, content_type, answer::full(value.to_string()))
    };
    let form = accept::aggregated(accepted);
    let value = match route {
        Route::Health => return Ok(answer::text(StatusCode::OK, "ok")),
        Route::Version => discovery::version(),
        Route::Core => match form {
            Some(form) => return Ok(aggregated(&discovery::aggregated_core(form), form)),
            None => discovery::core_versions(&incoming.server.advertised),
        },
        Route::Groups => match form {
            Some(form) => return Ok(aggregated(&discovery::aggregated_groups(form), form)),
            None => discovery::group_list(),
        },
        Route::Group(group) => discovery::group(&group).ok_or_else(missing)?,
        Route::GroupVersion { group, version } => {
            discovery::resource_list(&group, &version).ok_or_else(missing)?
        }
        Route::OpenApiV2 => {
            let body = answer::full(openapi::v2_document());
            return Ok(answer::of_type(StatusCode::OK, openapi::V2_PROTOBUF, body));
        }
        Route::OpenApiV3 => openapi::v3_index(),
        Route::OpenApiV3Document { group, version } => {
            openapi::v3_document(&group, &version).ok_or_else(missing)?
        }
        Route::IdentityConfiguration => json!({
            "issuer": ISSUER,
            "jwks_uri": format!("https://{}/openid/v1/jwks", incoming.server.advertised),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }),
        Route::IdentityKeys => incoming.server.tokens.key_set(),
        Route::Resource(_) | Route::Unknown => return Err(missing()),
    };
    Ok(answer::json_for(encoding, StatusCode::OK, &value))
}

/// The verb of a request on a resource, as authorization and discovery name it.
fn verb(method: &Method, route: &ResourceRoute, query: &Query) -> Option<&'static str> {
    let collection = route.name.is_empty();
    Some(match *method {
        Method::GET | Method::HEAD if collection && query.is_watch() => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT if !collection => "update",
        Method::PATCH if !collection => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => return None,
    })
}

async fn resource(incoming: Call, route: ResourceRoute) -> Result<Answer, ApiError> {
    let method = incoming.request.method().clone();
    let verb = verb(&method, &route, &incoming.query).ok_or_else(ApiError::method_not_allowed)?;
    let wanted = Attributes {
        verb: verb.to_owned(),
        group: route.resource.group.to_owned(),
        resource: route.resource.plural.to_owned(),
        subresource: route.subresource.clone(),
        namespace: route.namespace.clone(),
        name: route.name.clone(),
        path: String::new(),
    };
    if !authorize::is_allowed(&incoming.user, &wanted) {
        if incoming.user.name == "system:anonymous" {
            return Err(ApiError::unauthorized());
        }
        let why = authorize::refusal(&incoming.user, &wanted);
        return Err(ApiError::forbidden(route.resource, &route.name, &why));
    }
    if route.subresource == "portforward" {
        return Err(ApiError::bad_request(
            "port-forward is not served here and not needed: pods share the network of this machine, \
             so a pod's port is a port of this machine",
        ));
    }
    if !route.subresource.is_empty() {
        let known = route.resource.subresource(&route.subresource);
        let Some(known) = known else {
            return Ok(answer::text(StatusCode::NOT_FOUND, "404 page not found\n"));
        };
        if !known.verbs.contains(&verb) {
            return Err(ApiError::method_not_allowed());
        }
    } else if !route.resource.has_verb(verb) {
        return Err(ApiError::method_not_allowed());
    }
    let streaming =
        verb == "watch" || matches!(route.subresource.as_str(), "log" | "exec" | "attach");
    let server = Arc::clone(&incoming.server);
    if streaming {
        let place = Arc::clone(&server.streams).try_acquire_owned().map_err(|_| too_many())?;
        return match route.subresource.as_str() {
            "log" => node_proxy::log(incoming, &route, place).await,
            "exec" | "attach" => node_proxy::stream(incoming, &route, place).await,
            _ => super::watch::answer(&incoming, &route, place),
        };
    }
    let _place = server.requests.try_acquire().map_err(|_| too_many())?;
    objects::answer(incoming, &route, verb).await
}

fn too_many() -> ApiError {
    let mut error =
        ApiError::new(Reason::TooManyRequests, "too many requests, please try again later");
    error.retry_after_seconds = Some(1);
    error
}

/// The user agent up to its first slash, or the `fieldManager` parameter.
pub(super) fn field_manager(incoming: &Call) -> Result<String, ApiError> {
    incoming.query.field_manager(incoming.header(USER_AGENT))
}
