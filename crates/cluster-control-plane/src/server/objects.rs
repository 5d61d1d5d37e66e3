//! Requests on objects and collections that are answered at once.

use std::sync::Arc;

use http::header::{ACCEPT, ACCEPT_ENCODING};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::accept::{self, Representation};
use super::answer::{self, Answer};
use super::body;
use super::dispatch::{self, Call};
use super::duplicates::duplicate_fields;
use super::query::{self, invalid_options};
use super::route::ResourceRoute;
use crate::api::{Caller, DeleteOptions, Deleted, ObjectList, PatchBody, Target};
use crate::auth::reviews;
use crate::error::{ApiError, FieldError, Reason};
use crate::object;
use crate::patch::{OnConflict, PatchFormat};
use crate::resources::{EPHEMERAL_CONTAINERS, PODS, Resource};
use crate::schema::{self, FieldValidation, Ingest};
use crate::table;

/// How the client wants its answer.
struct Wanted {
    representation: Representation,
    include: table::IncludeObject,
    accept_encoding: String,
}

/// Answers a request whose verb was allowed and exists.
pub(super) async fn answer(
    call: Call,
    route: &ResourceRoute,
    verb: &str,
) -> Result<Answer, ApiError> {
    let wanted = Wanted {
        representation: accept::representation(call.header(ACCEPT))?,
        include: call.query.include_object()?,
        accept_encoding: call.header(ACCEPT_ENCODING).to_owned(),
    };
    match (verb, route.subresource.as_str()) {
        ("get", "" | "status" | EPHEMERAL_CONTAINERS) => {
            let found = call.server.api.get(route.resource, &route.namespace, &route.name)?;
            Ok(wanted.object(route.resource, StatusCode::OK, &found))
        }
        ("get", "scale") => {
            let scale = call.server.api.scale(&target(route))?;
            Ok(wanted.plain(StatusCode::OK, &scale))
        }
        ("list", "") => {
            let options = call.query.list_options()?;
            let list = call.server.api.list(route.resource, &route.namespace, &options)?;
            Ok(wanted.list(route.resource, &list))
        }
        ("create", "") => create(call, route, &wanted).await,
        ("create", subresource) => create_below(call, route, subresource, &wanted).await,
        ("update", _) => update(call, route, &wanted).await,
        ("patch", _) => patch(call, route, &wanted).await,
        ("delete", "") => delete(call, route, &wanted).await,
        ("deletecollection", "") => delete_collection(call, route, &wanted).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn target(route: &ResourceRoute) -> Target<'_> {
    Target {
        resource: route.resource,
        namespace: &route.namespace,
        name: &route.name,
        subresource: &route.subresource,
    }
}

fn caller(call: &Call) -> Result<Caller, ApiError> {
    Ok(Caller { user: call.user.clone(), manager: dispatch::field_manager(call)? })
}

/// Body of a create or update, checked against its kind.
async fn typed_body(call: Call, resource: &Resource) -> Result<(Value, Vec<String>), ApiError> {
    let validation = call.query.field_validation()?;
    let media_type = body::media_type(call.request.headers());
    let bytes = body::read(call.request.into_body()).await?;
    let mut value = body::decode(&media_type, &bytes)?;
    if !value.is_object() {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): the body is not an object",
            resource.kind
        )));
    }
    let mut warnings = Vec::new();
    if validation != FieldValidation::Ignore
        && matches!(media_type.as_str(), "" | "application/json")
    {
        let texts =
            duplicate_fields(&bytes).into_iter().map(|path| format!("duplicate field {path:?}"));
        warnings.extend(texts);
    }
    if validation == FieldValidation::Strict && !warnings.is_empty() {
        let Resource { kind, version, .. } = resource;
        return Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
            warnings.join(", ")
        )));
    }
    warnings.extend(schema::decode(resource, &mut value, validation, Ingest::Body)?);
    Ok((value, warnings))
}

async fn create(call: Call, route: &ResourceRoute, wanted: &Wanted) -> Result<Answer, ApiError> {
    let resource = route.resource;
    let server = Arc::clone(&call.server);
    if !resource.is_stored() {
        let user = call.user.clone();
        let (review, _) = typed_body(call, resource).await?;
        let answered = reviews::answer(
            &server.api,
            &server.tokens,
            &user,
            resource,
            &route.namespace,
            review,
        )?;
        return Ok(wanted.plain(StatusCode::CREATED, &answered));
    }
    if resource.is_namespaced() && route.namespace.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    let (options, caller) = (call.query.write_options()?, caller(&call)?);
    let (value, mut warnings) = typed_body(call, resource).await?;
    let stored = server.api.create(&caller, resource, &route.namespace, value, &options).await?;
    warnings.extend(server.api.warnings(resource, &stored));
    let mut response = wanted.object(resource, StatusCode::CREATED, &stored);
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// POST to a subresource: a token, a binding, an eviction.
async fn create_below(
    call: Call,
    route: &ResourceRoute,
    subresource: &str,
    wanted: &Wanted,
) -> Result<Answer, ApiError> {
    let server = Arc::clone(&call.server);
    let (options, caller) = (call.query.write_options()?, caller(&call)?);
    let defaults = call.query.delete_options()?;
    let media_type = body::media_type(call.request.headers());
    let bytes = body::read(call.request.into_body()).await?;
    let value = body::decode(&media_type, &bytes)?;
    let (namespace, name) = (route.namespace.as_str(), route.name.as_str());
    match subresource {
        "token" => {
            let issued =
                server.tokens.issue(&server.api, namespace, name, value, Timestamp::now())?;
            Ok(wanted.plain(StatusCode::CREATED, &issued))
        }
        "binding" => {
            server.api.bind(namespace, name, &value, &options).await?;
            Ok(wanted.plain(StatusCode::CREATED, &success()))
        }
        "eviction" => {
            let embedded = object::at(&value, &["deleteOptions"]).cloned();
            let options = delete_options(embedded.as_ref(), defaults)?;
            server.api.evict(&caller, namespace, name, &options).await?;
            Ok(wanted.plain(StatusCode::CREATED, &success()))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn update(call: Call, route: &ResourceRoute, wanted: &Wanted) -> Result<Answer, ApiError> {
    let server = Arc::clone(&call.server);
    let (options, caller) = (call.query.write_options()?, caller(&call)?);
    let (value, mut warnings) = if route.subresource == "scale" {
        let media_type = body::media_type(call.request.headers());
        let bytes = body::read(call.request.into_body()).await?;
        (body::decode(&media_type, &bytes)?, Vec::new())
    } else {
        typed_body(call, route.resource).await?
    };
    let stored = server.api.update(&caller, &target(route), value, &options).await?;
    if warns_on_change(route) {
        warnings.extend(server.api.warnings(route.resource, &stored));
    }
    let mut response = wanted.object(route.resource, StatusCode::OK, &stored);
    answer::warn(&mut response, &warnings);
    Ok(response)
}

async fn patch(call: Call, route: &ResourceRoute, wanted: &Wanted) -> Result<Answer, ApiError> {
    let server = Arc::clone(&call.server);
    let (options, caller) = (call.query.write_options()?, caller(&call)?);
    let named_manager = call.query.get("fieldManager").is_some();
    let force = call.query.is_set("force");
    let media_type = body::media_type(call.request.headers());
    let bytes = body::read(call.request.into_body()).await?;
    let patch = match media_type.as_str() {
        "application/json-patch+json" => plain_patch(PatchFormat::Json, &bytes)?,
        "application/merge-patch+json" => plain_patch(PatchFormat::Merge, &bytes)?,
        "application/strategic-merge-patch+json" => {
            plain_patch(PatchFormat::StrategicMerge, &bytes)?
        }
        "application/apply-patch+yaml" | "application/apply-patch+json" => {
            if !named_manager {
                let problem = FieldError::required("fieldManager", "is required for apply patch");
                return Err(invalid_options("PatchOptions", &problem));
            }
            let on_conflict = if force { OnConflict::Force } else { OnConflict::Refuse };
            PatchBody::Apply { body: body::yaml(&bytes)?, on_conflict }
        }
        _ => {
            return Err(ApiError::new(
                Reason::UnsupportedMediaType,
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, \
                 application/apply-patch+yaml, application/strategic-merge-patch+json",
            ));
        }
    };
    let patched = server.api.patch(&caller, &target(route), patch, &options).await?;
    let status = if patched.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut warnings = patched.warnings;
    if patched.created || warns_on_change(route) {
        warnings.extend(server.api.warnings(route.resource, &patched.object));
    }
    let mut response = wanted.object(route.resource, status, &patched.object);
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// Whether a change may bring new warnings: a pod's pull secrets stay as they were made, those of a
/// template may be another each time.
fn warns_on_change(route: &ResourceRoute) -> bool {
    route.subresource.is_empty() && !std::ptr::eq(route.resource, &PODS)
}

fn plain_patch(format: PatchFormat, bytes: &[u8]) -> Result<PatchBody, ApiError> {
    Ok(PatchBody::Patch { format, body: body::yaml(bytes)? })
}

async fn delete(call: Call, route: &ResourceRoute, wanted: &Wanted) -> Result<Answer, ApiError> {
    let server = Arc::clone(&call.server);
    let caller = caller(&call)?;
    let options = read_delete_options(call).await?;
    let resource = route.resource;
    let deleted =
        server.api.delete(&caller, resource, &route.namespace, &route.name, &options).await?;
    match deleted {
        Deleted::Pending(object) => Ok(wanted.object(resource, StatusCode::OK, &object)),
        Deleted::Gone(last) => {
            let mut status = success();
            let mut details = json!({
                "name": object::name(&last), "kind": resource.plural, "uid": object::uid(&last),
            });
            if !resource.group.is_empty() {
                details["group"] = json!(resource.group);
            }
            status["details"] = details;
            Ok(wanted.plain(StatusCode::OK, &status))
        }
    }
}

async fn delete_collection(
    call: Call,
    route: &ResourceRoute,
    wanted: &Wanted,
) -> Result<Answer, ApiError> {
    let server = Arc::clone(&call.server);
    let caller = caller(&call)?;
    let selection = call.query.list_options()?;
    let options = read_delete_options(call).await?;
    let list = server
        .api
        .delete_collection(&caller, route.resource, &route.namespace, &selection, &options)
        .await?;
    Ok(wanted.list(route.resource, &list))
}

async fn read_delete_options(call: Call) -> Result<DeleteOptions, ApiError> {
    let defaults = call.query.delete_options()?;
    let media_type = body::media_type(call.request.headers());
    let bytes = body::read(call.request.into_body()).await?;
    if bytes.is_empty() {
        return Ok(defaults);
    }
    let value = body::decode(&media_type, &bytes)?;
    delete_options(Some(&value), defaults)
}

/// A `DeleteOptions` object over those of the query.
fn delete_options(
    body: Option<&Value>,
    mut options: DeleteOptions,
) -> Result<DeleteOptions, ApiError> {
    let Some(body) = body else { return Ok(options) };
    if let Some(seconds) = object::integer(body, &["gracePeriodSeconds"]) {
        options.grace_period_seconds = Some(seconds);
    }
    match object::text(body, &["propagationPolicy"]) {
        "" => {}
        word => options.propagation = Some(query::propagation(word)?),
    }
    if object::at(body, &["orphanDependents"]) == Some(&Value::Bool(true)) {
        options.propagation = Some(crate::api::Propagation::Orphan);
    }
    let text = |path: &[&str]| {
        let text = object::text(body, path);
        (!text.is_empty()).then(|| text.to_owned())
    };
    options.precondition_uid = text(&["preconditions", "uid"]);
    options.precondition_resource_version = text(&["preconditions", "resourceVersion"]);
    match object::list(body, &["dryRun"]) {
        [] => {}
        [one] if one == "All" => options.persist = crate::api::Persist::DryRun,
        _ => {
            return Err(ApiError::bad_request(
                "dryRun: Unsupported value: supported values: \"All\"",
            ));
        }
    }
    Ok(options)
}

/// A list as JSON text; the objects are written straight from the cache, not copied first.
fn list_text(resource: &Resource, metadata: &Value, list: &ObjectList) -> String {
    let items: Vec<String> = list.items.iter().map(|item| item.to_string()).collect();
    format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[{}]}}",
        Value::from(resource.list_kind()),
        Value::from(resource.api_version()),
        items.join(","),
    )
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

impl Wanted {
    fn plain(&self, status: StatusCode, value: &Value) -> Response<answer::AnswerBody> {
        answer::json_for(&self.accept_encoding, status, value)
    }

    fn object(&self, resource: &Resource, status: StatusCode, value: &Value) -> Answer {
        match self.representation {
            Representation::Json => self.plain(status, value),
            Representation::Metadata => self.plain(status, &table::partial_metadata(value)),
            Representation::Table => {
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let row = table::row(resource, value, self.include, Timestamp::now());
                let table = table::table(table::definitions(resource), metadata, vec![row]);
                self.plain(status, &table)
            }
        }
    }

    fn list(&self, resource: &Resource, list: &ObjectList) -> Answer {
        let mut metadata = json!({"resourceVersion": list.resource_version.to_string()});
        if let Some(token) = &list.continue_token {
            metadata["continue"] = json!(token);
        }
        if let Some(remaining) = list.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        let now = Timestamp::now();
        let value = match self.representation {
            Representation::Json => {
                let text = list_text(resource, &metadata, list);
                return answer::json_text_for(&self.accept_encoding, StatusCode::OK, text);
            }
            Representation::Metadata => {
                let items: Vec<Value> =
                    list.items.iter().map(|item| table::partial_metadata(item)).collect();
                json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": items,
                })
            }
            Representation::Table => {
                let rows = list
                    .items
                    .iter()
                    .map(|item| table::row(resource, item, self.include, now))
                    .collect();
                table::table(table::definitions(resource), metadata, rows)
            }
        };
        self.plain(StatusCode::OK, &value)
    }
}
