//! The review kinds: questions about identity and permission, answered and never stored.

use serde_json::{Value, json};

use super::authorize::{self, Attributes, RULES};
use super::tokens::{ISSUER, Tokens};
use crate::api::Api;
use crate::error::ApiError;
use crate::identity::{AUTHENTICATED, User};
use crate::object;
use crate::resources::Resource;

/// Answers one review.
///
/// # Errors
/// 400 for a review without its question.
pub(crate) fn answer(
    api: &Api,
    tokens: &Tokens,
    user: &User,
    resource: &Resource,
    namespace: &str,
    mut review: Value,
) -> Result<Value, ApiError> {
    let status = match resource.kind {
        "SelfSubjectAccessReview" => access(user, &review)?,
        "SubjectAccessReview" | "LocalSubjectAccessReview" => access(&subject(&review), &review)?,
        "SelfSubjectRulesReview" => rules(user, namespace),
        "SelfSubjectReview" => json!({"userInfo": user_info(user)}),
        "TokenReview" => token(api, tokens, &review),
        _ => return Err(ApiError::method_not_allowed()),
    };
    object::set(&mut review, &["apiVersion"], resource.api_version());
    object::set(&mut review, &["kind"], resource.kind);
    object::set_default(&mut review, &["metadata"], json!({"creationTimestamp": null}));
    object::set(&mut review, &["status"], status);
    Ok(review)
}

/// `authentication/v1 UserInfo`.
pub(crate) fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn subject(review: &Value) -> User {
    let groups: Vec<&str> =
        object::list(review, &["spec", "groups"]).iter().filter_map(Value::as_str).collect();
    let mut user = User::authenticated(object::text(review, &["spec", "user"]), &groups);
    // Only what the question says: it may ask about an unauthenticated subject.
    if !groups.contains(&AUTHENTICATED) {
        user.groups.pop();
    }
    user
}

fn access(user: &User, review: &Value) -> Result<Value, ApiError> {
    let wanted = if let Some(resource) = object::at(review, &["spec", "resourceAttributes"]) {
        let text = |key: &str| object::text(resource, &[key]).to_owned();
        Attributes {
            verb: text("verb"),
            group: text("group"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
            path: String::new(),
        }
    } else if let Some(path) = object::at(review, &["spec", "nonResourceAttributes"]) {
        Attributes {
            verb: object::text(path, &["verb"]).to_owned(),
            path: object::text(path, &["path"]).to_owned(),
            ..Attributes::default()
        }
    } else {
        return Err(ApiError::bad_request(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    };
    Ok(json!({"allowed": authorize::is_allowed(user, &wanted)}))
}

fn rules(user: &User, _namespace: &str) -> Value {
    let own = || RULES.iter().filter(|rule| user.is_in(rule.group));
    let resource_rules: Vec<Value> = own()
        .filter(|rule| !rule.resources.is_empty())
        .map(|rule| {
            json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources})
        })
        .collect();
    let path_rules: Vec<Value> = own()
        .filter(|rule| !rule.paths.is_empty())
        .map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}))
        .collect();
    json!({"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": false})
}

fn token(api: &Api, tokens: &Tokens, review: &Value) -> Value {
    let mut audiences: Vec<&str> =
        object::list(review, &["spec", "audiences"]).iter().filter_map(Value::as_str).collect();
    if audiences.is_empty() {
        audiences.push(ISSUER);
    }
    match tokens.verify(api, object::text(review, &["spec", "token"]), &audiences) {
        Some((user, accepted)) => json!({
            "authenticated": true, "user": user_info(&user), "audiences": accepted,
        }),
        None => json!({"authenticated": false, "user": {}, "error": "the token is not valid"}),
    }
}
