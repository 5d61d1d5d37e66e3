//! Whether a bucket keeps its word: everything here rests on conditional writes, and there are
//! stores that accept the headers and ignore them.

use bytes::Bytes;

use super::ReplicaError;
use super::objects::{Objects, Put};

/// Prefix of scratch objects.
const PROBE: &str = "probe/";

/// Tries to violate both conditions on a scratch object.
///
/// # Errors
/// [`ReplicaError::NotEnforced`] if that succeeds, others if the bucket does not answer.
pub(super) async fn run(objects: &dyn Objects) -> Result<(), ReplicaError> {
    let key = format!("{PROBE}{}", uuid::Uuid::new_v4());
    let checked = check(objects, &key).await;
    // What an earlier answer says is worth more than that the scratch object could not go.
    let deleted = objects.delete(&key).await;
    checked?;
    Ok(deleted?)
}

async fn check(objects: &dyn Objects, key: &str) -> Result<(), ReplicaError> {
    let not_enforced = |condition| Err(ReplicaError::NotEnforced { condition });
    let content = Bytes::from_static;
    let Put::Done(first) = objects.create(key, content(b"1")).await? else {
        return not_enforced("`If-None-Match: *` lets a new object be written, but");
    };
    if let Put::Done(_) = objects.create(key, content(b"2")).await? {
        return not_enforced("`If-None-Match: *`");
    }
    let Put::Done(_) = objects.replace(key, &first, content(b"3")).await? else {
        return not_enforced("`If-Match` with the current version");
    };
    if let Put::Done(_) = objects.replace(key, &first, content(b"4")).await? {
        return not_enforced("`If-Match`");
    }
    match objects.get(key).await? {
        Some(bytes) if bytes == "3" => Ok(()),
        Some(_) | None => not_enforced("reading what was just written"),
    }
}
