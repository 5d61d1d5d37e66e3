//! Query parameters.

use percent_encoding::percent_decode_str;

use crate::api::{
    Bookmarks, DeleteOptions, InitialEvents, ListOptions, Persist, Propagation, VersionMatch,
    WriteOptions,
};
use crate::error::{ApiError, FieldError, Reason};
use crate::schema::FieldValidation;
use crate::selectors::{FieldSelector, LabelSelector};
use crate::table::IncludeObject;

/// Longest field manager name (`meta/v1`), in characters.
const FIELD_MANAGER_MAX: usize = 128;

/// Decoded parameters in order; a name may repeat.
#[derive(Clone, Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let decode = |part: &str| {
            percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned()
        };
        let pairs = text
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            })
            .collect();
        Self { pairs }
    }

    /// The first value of a parameter; empty values count as missing.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Every value of a parameter.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Whether a flag is set: `true` or `1`.
    pub(super) fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1" | "True" | "TRUE" | "t" | "T"))
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Result<Option<N>, ApiError> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "unable to parse query parameter {name}: {text:?}"
                    ))
                })
            })
            .transpose()
    }

    pub(super) fn include_object(&self) -> Result<IncludeObject, ApiError> {
        match self.get("includeObject") {
            None | Some("Metadata") => Ok(IncludeObject::Metadata),
            Some("Object") => Ok(IncludeObject::Object),
            Some("None") => Ok(IncludeObject::None),
            Some(other) => {
                Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}")))
            }
        }
    }

    pub(super) fn list_options(&self) -> Result<ListOptions, ApiError> {
        let labels = self.get("labelSelector").map(LabelSelector::parse).transpose()?;
        let fields = self.get("fieldSelector").map(FieldSelector::parse).transpose()?;
        let version = self.get("resourceVersion").map(|text| {
            text.parse::<u64>().map_err(|_| {
                let message = format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
                ApiError::bad_request(message)
            })
        });
        let resource_version = version.transpose()?;
        let version_match = match self.get("resourceVersionMatch") {
            None => None,
            Some("Exact") => Some(VersionMatch::Exact),
            Some("NotOlderThan") => Some(VersionMatch::NotOlderThan),
            Some(other) => return Err(invalid_match(&format!("unsupported value {other:?}"))),
        };
        let watching = self.is_watch();
        if version_match.is_some() && resource_version.is_none() && !watching {
            return Err(invalid_match(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        if version_match == Some(VersionMatch::Exact) && resource_version == Some(0) {
            return Err(invalid_match(
                "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        let initial_events = match self.get("sendInitialEvents") {
            None => None,
            Some(_) if self.is_set("sendInitialEvents") => Some(InitialEvents::Send),
            Some(_) => Some(InitialEvents::Skip),
        };
        let bookmarks =
            if self.is_set("allowWatchBookmarks") { Bookmarks::On } else { Bookmarks::Off };
        Ok(ListOptions {
            labels: labels.unwrap_or_default(),
            fields: fields.unwrap_or_default(),
            resource_version,
            version_match,
            limit: self.number("limit")?,
            continue_token: self.get("continue").map(str::to_owned),
            bookmarks,
            initial_events,
        })
    }

    pub(super) fn is_watch(&self) -> bool {
        self.is_set("watch")
    }

    /// `timeoutSeconds`, if given and not zero.
    pub(super) fn timeout_seconds(&self) -> Result<Option<u64>, ApiError> {
        Ok(self.number("timeoutSeconds")?.filter(|seconds| *seconds != 0))
    }

    pub(super) fn persist(&self) -> Result<Persist, ApiError> {
        match self.get("dryRun") {
            None => Ok(Persist::Yes),
            Some("All") => Ok(Persist::DryRun),
            Some(other) => Err(ApiError::bad_request(format!(
                "dryRun: Unsupported value: {other:?}: supported values: \"All\""
            ))),
        }
    }

    pub(super) fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        match self.get("fieldValidation") {
            Some("Strict") => Ok(FieldValidation::Strict),
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some(other) => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \
                 \"Strict\", \"Warn\""
            ))),
        }
    }

    pub(super) fn write_options(&self) -> Result<WriteOptions, ApiError> {
        Ok(WriteOptions {
            persist: self.persist()?,
            field_validation: Some(self.field_validation()?),
        })
    }

    /// The field manager: the parameter, else the user agent up to its first slash.
    pub(super) fn field_manager(&self, user_agent: &str) -> Result<String, ApiError> {
        let Some(manager) = self.get("fieldManager") else {
            let prefix = user_agent.split('/').next().unwrap_or_default();
            let prefix: String =
                prefix.chars().filter(|c| !c.is_control()).take(FIELD_MANAGER_MAX).collect();
            return Ok(if prefix.is_empty() { "unknown".to_owned() } else { prefix });
        };
        if FIELD_MANAGER_MAX < manager.chars().count() || manager.chars().any(char::is_control) {
            let field = FieldError::too_long("fieldManager", FIELD_MANAGER_MAX);
            return Err(invalid_options("PatchOptions", &field));
        }
        Ok(manager.to_owned())
    }

    /// Delete options from the query; those of a body win over them.
    pub(super) fn delete_options(&self) -> Result<DeleteOptions, ApiError> {
        let propagation = match self.get("propagationPolicy") {
            None if self.is_set("orphanDependents") => Some(Propagation::Orphan),
            None => None,
            Some(word) => Some(propagation(word)?),
        };
        Ok(DeleteOptions {
            grace_period_seconds: self.number("gracePeriodSeconds")?,
            propagation,
            precondition_uid: None,
            precondition_resource_version: None,
            persist: self.persist()?,
        })
    }
}

/// Reads a `propagationPolicy`.
pub(super) fn propagation(word: &str) -> Result<Propagation, ApiError> {
    match word {
        "Orphan" => Ok(Propagation::Orphan),
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        other => {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            let field = FieldError::not_supported("propagationPolicy", &other.into(), &supported);
            Err(invalid_options("DeleteOptions", &field))
        }
    }
}

/// 422 about request options instead of an object.
pub(super) fn invalid_options(kind: &str, problem: &FieldError) -> ApiError {
    let message = format!("{kind}.meta.k8s.io \"\" is invalid: {problem}");
    let mut error = ApiError::new(Reason::Invalid, message);
    error.kind = Some(kind.to_owned());
    error.group = Some("meta.k8s.io".to_owned());
    error.with_cause("FieldValueInvalid", &problem.body, &problem.field)
}

fn invalid_match(why: &str) -> ApiError {
    invalid_options("ListOptions", &FieldError::forbidden("resourceVersionMatch", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_may_repeat() {
        let query = Query::parse("command=sh&command=-c&command=a+b%26c&x=&watch=1");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "a b&c"]);
        assert_eq!(query.get("x"), None);
        assert!(query.is_watch());
    }

    #[test]
    fn exact_match_needs_a_revision() {
        for text in ["resourceVersionMatch=Exact", "resourceVersionMatch=Exact&resourceVersion=0"] {
            let error = Query::parse(text).list_options().expect_err(text);
            assert_eq!(error.reason, Reason::Invalid, "{text}");
        }
    }

    #[test]
    fn field_manager_falls_back_to_the_user_agent() {
        let manager = |text: &str, agent: &str| Query::parse(text).field_manager(agent);
        assert_eq!(manager("fieldManager=me", "kubectl/v1").expect("ok"), "me");
        assert_eq!(manager("", "kubectl/v1.32 (linux)").expect("ok"), "kubectl");
        assert_eq!(manager("", "").expect("ok"), "unknown");
        let long = format!("fieldManager={}", "m".repeat(129));
        assert!(manager(&long, "").is_err());
    }
}
