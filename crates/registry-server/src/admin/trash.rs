//! `/v2/_shipway/trash` and `/v2/_shipway/history`: what was deleted, and what tags named before.

use oci_model::ErrorCode;
use serde_json::{Value, json};

use super::{AdminCall, absent, reply};
use crate::auth::covers;
use crate::metadata::{Change, ChangeError, EmptyTrash, Reply, Restore};
use crate::refusal::Refusal;
use crate::route;
use crate::service::Answer;

/// What can be restored of what the caller administers.
pub(crate) fn list(call: &AdminCall<'_>) -> Answer {
    let prefix = call.query.get("prefix").unwrap_or_default();
    let mut items = Vec::new();
    call.service.metadata.trash(|name, id, buried| {
        if covers(prefix, name) && call.administers(name) {
            let tag = if id.contains(':') { Value::Null } else { json!(id) };
            items.push(json!({
                "repository": name,
                "tag": tag,
                "digest": buried.digest,
                "tags": buried.tags,
                "deleted": time(buried.at),
                "by": buried.by,
                "how": buried.how,
                "until": time(buried.until),
            }));
        }
    })?;
    reply(&json!({ "trash": items }))
}

/// Sets a tag back, or brings a manifest back with its tags.
pub(crate) async fn restore(call: &AdminCall<'_>) -> Answer {
    let repository = call.repository()?;
    let tag = call.query.get("tag").map(route::tag).transpose()?;
    let digest = call.query.get("digest").map(route::digest).transpose()?;
    if tag.is_none() && digest.is_none() {
        return Err(Refusal::new(ErrorCode::TagInvalid, "say which tag or digest to restore"));
    }
    let name = repository.to_string();
    let change = Change::Restore(Restore { repository, tag, digest });
    match call.service.metadata.submit(change, call.stamp()).await {
        Ok(Reply::Restored { manifests, tags }) => {
            reply(&json!({ "repository": name, "manifests": manifests, "tags": tags }))
        }
        Ok(_) => reply(&json!({ "repository": name })),
        Err(ChangeError::Unknown) => Err(Refusal::new(
            ErrorCode::ManifestUnknown,
            format!("nothing in the trash of {name} and no former manifest has this name"),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Removes everything in the trash below a prefix for good.
pub(crate) async fn empty(call: &AdminCall<'_>) -> Answer {
    let everything_below = Some(call.prefix()?.to_owned());
    let change = Change::EmptyTrash(EmptyTrash { everything_below });
    let reply_of_change = call.service.metadata.submit(change, call.stamp()).await?;
    let removed = if let Reply::Emptied(count) = reply_of_change { count } else { 0 };
    reply(&json!({ "removed": removed }))
}

/// The moves of a tag.
pub(crate) fn history(call: &AdminCall<'_>) -> Answer {
    let repository = call.repository()?;
    let tag = route::tag(call.query.get("tag").unwrap_or_default())?;
    let moves = call.service.metadata.history(&repository, tag.as_str())?;
    if moves.is_empty() {
        return Err(absent(&format!("{repository}:{tag}")));
    }
    let moves: Vec<Value> = moves
        .into_iter()
        .map(|moved| {
            json!({
                "at": time(moved.at),
                "by": moved.by,
                "request": moved.request,
                "old": moved.old,
                "new": moved.new,
                "how": moved.how,
            })
        })
        .collect();
    reply(&json!({ "repository": repository.as_str(), "tag": tag.as_str(), "moves": moves }))
}

/// A time for people and programs (RFC 3339).
fn time(milliseconds: u64) -> Value {
    let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(milliseconds)
        .map_or(Value::Null, |time| json!(time.to_string()))
}
