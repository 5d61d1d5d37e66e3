//! `/v2/_shipway/usage`: what namespaces hold.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{AdminCall, reply};
use crate::metadata::{Change, Usage};
use crate::refusal::Refusal;
use crate::service::Answer;

/// What each namespace that the caller administers holds and may hold.
pub(crate) fn list(call: &AdminCall<'_>) -> Answer {
    let metadata = &call.service.metadata;
    let policies = metadata.policies()?.unwrap_or_default();
    let mut namespaces = Vec::new();
    for namespace in policies.all().iter().filter(|found| call.administers(&found.prefix)) {
        let Usage { bytes, objects, repositories, reserved } = metadata.usage(&namespace.prefix)?;
        namespaces.push(json!({
            "prefix": namespace.prefix,
            "bytes": bytes,
            "objects": objects,
            "repositories": repositories,
            "reserved": reserved,
            "quota": namespace.quota.map(|quota| quota.0),
            "repositories-max": namespace.repositories_max,
        }));
    }
    reply(&json!({ "namespaces": namespaces }))
}

/// The counters beside a full count.
pub(crate) fn prove(call: &AdminCall<'_>) -> Answer {
    call.require_everything()?;
    reply(&proof(call)?)
}

/// Counts anew, and says what was wrong before.
pub(crate) async fn recount(call: &AdminCall<'_>) -> Answer {
    call.require_everything()?;
    let before = proof(call)?;
    call.service.metadata.submit(Change::Recount, call.stamp()).await?;
    reply(&before)
}

fn proof(call: &AdminCall<'_>) -> Result<Value, Refusal> {
    let metadata = &call.service.metadata;
    let policies = metadata.policies()?.unwrap_or_default();
    let proof = metadata.prove_usage(&policies)?;
    let write = |usages: &BTreeMap<String, Usage>| -> Value {
        usages.iter().map(|(prefix, usage)| (prefix.clone(), json!(usage))).collect()
    };
    Ok(json!({
        "exact": proof.differences.is_empty(),
        "counters": write(&proof.usage),
        "counted": write(&proof.differences),
    }))
}
