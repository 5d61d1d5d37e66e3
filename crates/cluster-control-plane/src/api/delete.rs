//! delete and deletecollection: preconditions, grace, finalizers, propagation.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    Api, Caller, DeleteOptions, Deleted, ListOptions, Persist, Propagation, Raced,
    WRITE_ATTEMPTS_MAX, event_form, refused,
};
use crate::admission;
use crate::error::ApiError;
use crate::object;
use crate::resources::{Generation, NAMESPACES, PODS, Resource};
use crate::storage::{Expected, Key, Operation, Write};

/// Finalizer that makes the collector remove dependants first.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer that makes the collector release dependants.
const ORPHAN: &str = "orphan";

/// Grace of a pod that names none, in seconds.
const POD_GRACE_SECONDS: i64 = 30;

/// What a delete does to the stored object.
enum Plan {
    /// Remove it.
    Remove,
    /// Store this marked state.
    Mark(Value),
    /// It is already marked; change nothing.
    Wait,
}

impl Api {
    /// Deletes an object, or marks it when grace or finalizers ask for time.
    ///
    /// # Errors
    /// 404 when it does not exist, 409 when a precondition fails, 403 when admission refuses.
    pub async fn delete(
        &self,
        _caller: &Caller,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let current = self.stored(resource, namespace, name)?;
            check_preconditions(resource, &current, options)?;
            admission::admit_delete(resource, &current)?;
            match self.delete_once(resource, &current, options).await {
                Ok(Deleted::Gone(object)) => {
                    return Ok(Deleted::Gone(event_form::served(resource, object)));
                }
                Ok(Deleted::Pending(object)) => {
                    return Ok(Deleted::Pending(event_form::served(resource, object)));
                }
                Err(Raced::Refused(error)) => return Err(error),
                Err(Raced::Retry) => {}
            }
        }
        Err(ApiError::modified(resource, name))
    }

    async fn delete_once(
        &self,
        resource: &'static Resource,
        current: &Arc<Value>,
        options: &DeleteOptions,
    ) -> Result<Deleted, Raced> {
        let plan = plan(resource, current, options, Timestamp::now());
        let key = Key::new(object::namespace(current), object::name(current));
        let expected = Expected::Revision(object::resource_version(current));
        let dry = options.persist == Persist::DryRun;
        let write = |operation| Write { storage: resource.storage, key, expected, operation };
        match plan {
            Plan::Wait => Ok(Deleted::Pending(Arc::clone(current))),
            Plan::Remove if dry => Ok(Deleted::Gone(Arc::clone(current))),
            Plan::Mark(new) if dry => Ok(Deleted::Pending(Arc::new(new))),
            Plan::Remove => {
                let removed = self.store.write(write(Operation::Delete)).await.map_err(refused)?;
                Ok(Deleted::Gone(removed))
            }
            Plan::Mark(new) => {
                let marked = self.store.write(write(Operation::Put(new))).await.map_err(refused)?;
                Ok(Deleted::Pending(marked))
            }
        }
    }

    /// Deletes every object a list selects and returns them.
    ///
    /// # Errors
    /// As for list; then the first refusal other than 404 and 409.
    pub async fn delete_collection(
        &self,
        caller: &Caller,
        resource: &'static Resource,
        namespace: &str,
        selection: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<super::ObjectList, ApiError> {
        let list = self.list(resource, namespace, selection)?;
        for item in &list.items {
            let (namespace, name) = (object::namespace(item), object::name(item));
            let options = DeleteOptions {
                precondition_uid: Some(object::uid(item).to_owned()),
                ..options.clone()
            };
            match self.delete(caller, resource, namespace, name, &options).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(list)
    }
}

fn check_preconditions(
    resource: &Resource,
    current: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let uid = object::uid(current);
    if let Some(wanted) = options.precondition_uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
        );
        return Err(ApiError::conflict(resource, object::name(current), &why));
    }
    let version = object::text(current, &["metadata", "resourceVersion"]);
    let wanted = options.precondition_resource_version.as_deref();
    if let Some(wanted) = wanted.filter(|wanted| *wanted != version) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object \
             meta: {version}"
        );
        return Err(ApiError::conflict(resource, object::name(current), &why));
    }
    Ok(())
}

fn plan(
    resource: &'static Resource,
    current: &Value,
    options: &DeleteOptions,
    now: Timestamp,
) -> Plan {
    let finalizers = finalizers_after(current, options.propagation);
    let grace = grace_seconds(resource, current, options);
    let namespace_held = std::ptr::eq(resource, &NAMESPACES)
        && !object::list(current, &["spec", "finalizers"]).is_empty();
    if grace == 0 && finalizers.is_empty() && !namespace_held {
        return Plan::Remove;
    }
    let mut new = current.clone();
    if finalizers.is_empty() {
        object::remove(&mut new, &["metadata", "finalizers"]);
    } else {
        object::set(&mut new, &["metadata", "finalizers"], json!(finalizers));
    }
    let already = object::integer(current, &["metadata", "deletionGracePeriodSeconds"]);
    let started = object::time(current, &["metadata", "deletionTimestamp"]);
    match (started, already) {
        (Some(deadline), Some(previous)) if grace < previous => {
            // A later delete may only shorten the grace, counted from the first one.
            let shorter = deadline - SignedDuration::from_secs(previous - grace);
            object::set(&mut new, &["metadata", "deletionTimestamp"], object::format_time(shorter));
            object::set(&mut new, &["metadata", "deletionGracePeriodSeconds"], grace);
        }
        (Some(_), _) => {}
        (None, _) => {
            let deadline = now + SignedDuration::from_secs(grace);
            object::set(
                &mut new,
                &["metadata", "deletionTimestamp"],
                object::format_time(deadline),
            );
            object::set(&mut new, &["metadata", "deletionGracePeriodSeconds"], grace);
            if resource.generation == Generation::Tracked {
                let generation = object::generation(current) + 1;
                object::set(&mut new, &["metadata", "generation"], generation);
            }
            if namespace_held {
                object::set(&mut new, &["status", "phase"], "Terminating");
            }
        }
    }
    if new == *current { Plan::Wait } else { Plan::Mark(new) }
}

/// Seconds the object may take to end; only pods have any.
fn grace_seconds(resource: &Resource, current: &Value, options: &DeleteOptions) -> i64 {
    if !std::ptr::eq(resource, &PODS) {
        return 0;
    }
    let unscheduled = object::text(current, &["spec", "nodeName"]).is_empty();
    let finished = matches!(object::text(current, &["status", "phase"]), "Succeeded" | "Failed");
    if unscheduled || finished {
        return 0;
    }
    let own = object::integer(current, &["spec", "terminationGracePeriodSeconds"]);
    let wanted = options.grace_period_seconds.or(own).unwrap_or(POD_GRACE_SECONDS);
    if wanted < 0 { 1 } else { wanted }
}

fn finalizers_after(current: &Value, propagation: Option<Propagation>) -> Vec<&str> {
    let mut finalizers = object::finalizers(current);
    let Some(propagation) = propagation else {
        return finalizers;
    };
    finalizers.retain(|name| *name != FOREGROUND && *name != ORPHAN);
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => finalizers.push(FOREGROUND),
        Propagation::Orphan => finalizers.push(ORPHAN),
    }
    finalizers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str) -> Value {
        json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u", "generation": 1},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
            "status": {"phase": phase},
        })
    }

    fn marked(plan: Plan) -> Value {
        match plan {
            Plan::Mark(object) => object,
            Plan::Remove | Plan::Wait => panic!("expected a mark"),
        }
    }

    #[test]
    fn running_pod_gets_a_deadline_in_the_future() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
        let object = marked(plan(&PODS, &pod("Running"), &DeleteOptions::default(), now));
        assert_eq!(object["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
        assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(object["metadata"]["generation"], 2);

        let shorter = DeleteOptions { grace_period_seconds: Some(1), ..DeleteOptions::default() };
        let object = marked(plan(&PODS, &object, &shorter, now));
        assert_eq!(object["metadata"]["deletionTimestamp"], "2026-01-01T00:00:01Z");
        assert!(matches!(plan(&PODS, &object, &DeleteOptions::default(), now), Plan::Wait));
    }

    #[test]
    fn finished_pod_and_zero_grace_go_at_once() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(matches!(
            plan(&PODS, &pod("Failed"), &DeleteOptions::default(), now),
            Plan::Remove
        ));
        let zero = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        assert!(matches!(plan(&PODS, &pod("Running"), &zero, now), Plan::Remove));
    }

    #[test]
    fn propagation_sets_the_collector_finalizer() {
        let options = DeleteOptions {
            propagation: Some(Propagation::Foreground),
            ..DeleteOptions::default()
        };
        let job = json!({"metadata": {"name": "j", "generation": 1}});
        let object = marked(plan(&crate::resources::JOBS, &job, &options, Timestamp::UNIX_EPOCH));
        assert_eq!(object["metadata"]["finalizers"], json!([FOREGROUND]));
        let options = DeleteOptions {
            propagation: Some(Propagation::Background),
            ..DeleteOptions::default()
        };
        let again = plan(&crate::resources::JOBS, &object, &options, Timestamp::UNIX_EPOCH);
        assert!(matches!(again, Plan::Remove));
    }
}
