//! The two faces of an Event: stored as core/v1, also served as events.k8s.io/v1.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::resources::{EVENTS_V1, Resource};

/// core/v1 name and events.k8s.io/v1 name of every field that differs.
const RENAMED: [(&str, &str); 8] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingInstance", "reportingInstance"),
];

fn is_new_form(resource: &Resource) -> bool {
    std::ptr::eq(resource, &EVENTS_V1)
}

/// A stored object as this resource serves it.
pub(super) fn served(resource: &Resource, object: Arc<Value>) -> Arc<Value> {
    if !is_new_form(resource) {
        return object;
    }
    Arc::new(rename(&object, "events.k8s.io/v1", |name| {
        RENAMED.iter().find(|(old, _)| *old == name).map(|(_, new)| *new)
    }))
}

/// An object a client sent to this resource, in the form it is stored.
pub(super) fn stored(resource: &Resource, object: Value) -> Value {
    if !is_new_form(resource) {
        return object;
    }
    rename(&object, "v1", |name| RENAMED.iter().find(|(_, new)| *new == name).map(|(old, _)| *old))
}

fn rename(
    object: &Value,
    api_version: &str,
    new_name: impl Fn(&str) -> Option<&'static str>,
) -> Value {
    let mut renamed = Map::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let name = new_name(name).unwrap_or(name);
        renamed.insert(name.to_owned(), value.clone());
    }
    renamed.insert("apiVersion".to_owned(), Value::from(api_version));
    Value::Object(renamed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resources::EVENTS;

    #[test]
    fn both_forms_hold_the_same_event() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
            "involvedObject": {"kind": "Pod"}, "message": "m", "count": 2, "reason": "r"
        });
        let new = served(&EVENTS_V1, Arc::new(core.clone()));
        assert_eq!(new["regarding"]["kind"], "Pod");
        assert_eq!(new["note"], "m");
        assert_eq!(new["deprecatedCount"], 2);
        assert_eq!(stored(&EVENTS_V1, (*new).clone()), core);
        assert_eq!(stored(&EVENTS, core.clone()), core);
    }
}
