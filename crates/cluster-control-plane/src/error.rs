//! What the API answers when it refuses: reasons, codes, field errors and their exact texts.
//!
//! Every refusal leaves the process as a `Status` object (Kubernetes API conventions, "Response
//! status kind"); clients print its message and act on its reason.

use serde_json::{Map, Value, json};

use crate::resources::Resource;

/// Machine-readable reason of a `Status`; each has one HTTP code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 404: no such object.
    NotFound,
    /// 409: an object of that name exists.
    AlreadyExists,
    /// 409: the object changed under the writer, or a precondition failed.
    Conflict,
    /// 422: the object breaks validation rules.
    Invalid,
    /// 403: this user may not, or an admission rule refused.
    Forbidden,
    /// 401: no valid credential.
    Unauthorized,
    /// 400: the request cannot be understood.
    BadRequest,
    /// 405: the resource does not do that.
    MethodNotAllowed,
    /// 406: no acceptable answer format.
    NotAcceptable,
    /// 415: the body's format is unknown.
    UnsupportedMediaType,
    /// 410: the revision asked for was compacted.
    Expired,
    /// 413: the body is over the limit.
    RequestEntityTooLarge,
    /// 429: try again later.
    TooManyRequests,
    /// 500: our own failure.
    InternalError,
    /// 504: the operation took too long.
    Timeout,
    /// 503: a part this request needs is not reachable.
    ServiceUnavailable,
}

impl Reason {
    /// The HTTP status code of this reason.
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Invalid => "Invalid",
            Self::Forbidden => "Forbidden",
            Self::Unauthorized => "Unauthorized",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::Expired => "Expired",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::TooManyRequests => "TooManyRequests",
            Self::InternalError => "InternalError",
            Self::Timeout => "Timeout",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// One entry of `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Cause type, for example `FieldValueInvalid` or `FieldManagerConflict`.
    pub reason: String,
    /// Text for people.
    pub message: String,
    /// Field path, empty when the cause has none.
    pub field: String,
}

/// A refusal; becomes a `Status` on the wire. Boxed, because every call returns one or nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.message)]
pub struct ApiError(Box<Refusal>);

/// What a refusal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people; the exact upstream text where clients show or match it.
    pub message: String,
    /// Name of the object concerned, if any.
    pub name: Option<String>,
    /// API group of the object concerned.
    pub group: Option<String>,
    /// `details.kind`: the plural resource, except for `Invalid`, where it is the kind.
    pub kind: Option<String>,
    /// uid of the object concerned, if any.
    pub uid: Option<String>,
    /// Machine-readable causes.
    pub causes: Vec<Cause>,
    /// Seconds after which a retry makes sense.
    pub retry_after_seconds: Option<u32>,
}

impl std::ops::Deref for ApiError {
    type Target = Refusal;

    fn deref(&self) -> &Refusal {
        &self.0
    }
}

impl std::ops::DerefMut for ApiError {
    fn deref_mut(&mut self) -> &mut Refusal {
        &mut self.0
    }
}

impl ApiError {
    /// A refusal with a free text and no details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Refusal {
            reason,
            message: message.into(),
            name: None,
            group: None,
            kind: None,
            uid: None,
            causes: Vec::new(),
            retry_after_seconds: None,
        }))
    }

    /// Names the object in `details`, with the plural resource as its kind.
    #[must_use]
    pub fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.name = (!name.is_empty()).then(|| name.to_owned());
        self.group = (!resource.group.is_empty()).then(|| resource.group.to_owned());
        self.kind = Some(resource.plural.to_owned());
        self
    }

    /// Adds one cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        self.causes.push(Cause {
            reason: reason.to_owned(),
            message: message.to_owned(),
            field: field.to_owned(),
        });
        self
    }

    /// 404 for one object: `pods "x" not found`.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource.qualified_plural());
        Self::new(Reason::NotFound, message).about(resource, name)
    }

    /// 409 for a name in use: `secrets "x" already exists`.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource.qualified_plural());
        Self::new(Reason::AlreadyExists, message).about(resource, name)
    }

    /// 409 with the cause of the conflict: `Operation cannot be fulfilled on pods "x": <why>`.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            resource.qualified_plural()
        );
        Self::new(Reason::Conflict, message).about(resource, name)
    }

    /// 409 for a stale `resourceVersion`.
    pub fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try \
             again",
        )
    }

    /// 422 with one cause per field error: `Pod "x" is invalid: <field>: <body>`.
    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        let body = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let kind = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let mut error = Self::new(Reason::Invalid, format!("{kind} {name:?} is invalid: {body}"))
            .about(resource, name);
        error.kind = Some(resource.kind.to_owned());
        error.causes = errors
            .iter()
            .map(|field_error| Cause {
                reason: field_error.kind.reason().to_owned(),
                message: field_error.body.clone(),
                field: field_error.field.clone(),
            })
            .collect();
        error
    }

    /// 403: `pods "x" is forbidden: <why>`, or `pods is forbidden: <why>` without a name.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let plural = resource.qualified_plural();
        let message = if name.is_empty() {
            format!("{plural} is forbidden: {why}")
        } else {
            format!("{plural} {name:?} is forbidden: {why}")
        };
        Self::new(Reason::Forbidden, message).about(resource, name)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    /// 400 with a free text.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 405 for a verb the resource does not have.
    pub fn method_not_allowed() -> Self {
        Self::new(
            Reason::MethodNotAllowed,
            "the server does not allow this method on the requested resource",
        )
    }

    /// 500: `Internal error occurred: <why>`.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        Self::new(Reason::InternalError, format!("Internal error occurred: {why}")).with_cause(
            "",
            &why.to_string(),
            "",
        )
    }

    /// 410: the watch or list revision left the history window.
    pub fn too_old(asked: u64, oldest: u64) -> Self {
        Self::new(Reason::Expired, format!("too old resource version: {asked} ({oldest})"))
    }

    /// Whether a read-modify-write loop may try again with a fresh object.
    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }

    /// Whether an object of that name exists already.
    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }

    /// The `Status` object for the wire.
    pub fn to_status(&self) -> Value {
        let mut details = Map::new();
        let fields = [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ];
        for (key, value) in fields {
            if let Some(value) = value {
                details.insert(key.to_owned(), json!(value));
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self.causes.iter().map(Cause::to_json).collect();
            details.insert("causes".to_owned(), Value::Array(causes));
        }
        if let Some(seconds) = self.retry_after_seconds {
            details.insert("retryAfterSeconds".to_owned(), json!(seconds));
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason.as_str(),
            "code": self.reason.code(),
        });
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }
}

impl Cause {
    fn to_json(&self) -> Value {
        let mut cause = Map::new();
        for (key, text) in
            [("reason", &self.reason), ("message", &self.message), ("field", &self.field)]
        {
            if !text.is_empty() {
                cause.insert(key.to_owned(), json!(text));
            }
        }
        Value::Object(cause)
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// `FieldValueRequired`.
    Required,
    /// `FieldValueInvalid`.
    Invalid,
    /// `FieldValueNotSupported`.
    NotSupported,
    /// `FieldValueDuplicate`.
    Duplicate,
    /// `FieldValueForbidden`.
    Forbidden,
    /// `FieldValueTooLong`.
    TooLong,
    /// `FieldValueTooMany`.
    TooMany,
    /// `FieldValueNotFound`.
    NotFound,
    /// `FieldValueTypeInvalid`.
    TypeInvalid,
}

impl FieldErrorKind {
    fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One broken rule: a field path and the body of the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {body}")]
pub struct FieldError {
    /// Path such as `spec.containers[0].image`.
    pub field: String,
    /// What is wrong with it.
    pub kind: FieldErrorKind,
    /// Text after the path.
    pub body: String,
}

impl FieldError {
    fn new(field: impl Into<String>, kind: FieldErrorKind, body: String) -> Self {
        Self { field: field.into(), kind, body }
    }

    /// `Required value[: detail]`.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new(field, FieldErrorKind::Required, with_detail("Required value", detail))
    }

    /// `Invalid value: <value>: <detail>`.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let body = with_detail(&format!("Invalid value: {}", go_quote(value)), detail);
        Self::new(field, FieldErrorKind::Invalid, body)
    }

    /// `Unsupported value: "x": supported values: "a", "b"`.
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|word| format!("{word:?}")).collect();
        let body = format!(
            "Unsupported value: {}: supported values: {}",
            go_quote(value),
            list.join(", ")
        );
        Self::new(field, FieldErrorKind::NotSupported, body)
    }

    /// `Duplicate value: "x"`.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        let body = format!("Duplicate value: {}", go_quote(value));
        Self::new(field, FieldErrorKind::Duplicate, body)
    }

    /// `Forbidden: <detail>`.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new(field, FieldErrorKind::Forbidden, with_detail("Forbidden", detail))
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(field: impl Into<String>, bytes_max: usize) -> Self {
        let body = format!("Too long: may not be more than {bytes_max} bytes");
        Self::new(field, FieldErrorKind::TooLong, body)
    }

    /// `Too many: N: must have at most M items`.
    pub fn too_many(field: impl Into<String>, items: usize, items_max: usize) -> Self {
        let body = format!("Too many: {items}: must have at most {items_max} items");
        Self::new(field, FieldErrorKind::TooMany, body)
    }

    /// `Not found: <value>`.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self::new(field, FieldErrorKind::NotFound, format!("Not found: {}", go_quote(value)))
    }

    /// `Invalid value: "<type>": <detail>` with the reason for a wrong type.
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let body = with_detail(&format!("Invalid value: {}", go_quote(value)), detail);
        Self::new(field, FieldErrorKind::TypeInvalid, body)
    }
}

fn with_detail(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}

/// Writes a value the way upstream's field errors do: strings quoted, the rest as JSON.
pub fn go_quote(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;

    #[test]
    fn not_found_names_plural_and_group() {
        assert_eq!(ApiError::not_found(&resources::PODS, "x").message, "pods \"x\" not found");
        assert_eq!(
            ApiError::not_found(&resources::JOBS, "x").message,
            "jobs.batch \"x\" not found"
        );
    }

    #[test]
    fn one_field_error_stands_alone_and_several_share_brackets() {
        let required = FieldError::required("spec.a", "");
        let invalid = FieldError::invalid("spec.b", &json!("y"), "must not be y");
        let one = ApiError::invalid(&resources::PODS, "p", std::slice::from_ref(&required));
        assert_eq!(one.message, "Pod \"p\" is invalid: spec.a: Required value");
        let two = ApiError::invalid(&resources::JOBS, "j", &[required, invalid]);
        assert_eq!(
            two.message,
            "Job.batch \"j\" is invalid: [spec.a: Required value, spec.b: Invalid value: \"y\": must \
             not be y]"
        );
        assert_eq!(two.to_status()["details"]["causes"][1]["field"], "spec.b");
    }
}
