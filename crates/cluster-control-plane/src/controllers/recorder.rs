//! Events of the control plane's own controllers, repeats counted on one object.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::debug;

use crate::client::Client;
use crate::error::ApiError;
use crate::object;
use crate::patch::PatchFormat;
use crate::resources::{EVENTS, Resource};

/// Most distinct events remembered for counting (client-go correlator cache).
const REMEMBERED_MAX: usize = 4096;

/// Severity of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Severity {
    /// As it should be.
    Normal,
    /// Somebody may want to look.
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    uid: String,
    severity: Severity,
    reason: String,
    message: String,
}

struct Recorded {
    name: String,
    count: u64,
}

/// Writes events under one component name.
pub(super) struct Recorder {
    client: Client,
    component: &'static str,
    recorded: HashMap<Identity, Recorded>,
}

impl Recorder {
    /// A recorder for a component such as `job-controller`.
    pub(super) fn new(client: &Client, component: &'static str) -> Self {
        Self { client: client.clone(), component, recorded: HashMap::new() }
    }

    /// Records that something happened to an object. An event that cannot be written is only
    /// logged: it must never hold up the work it reports.
    pub(super) async fn event(
        &mut self,
        resource: &Resource,
        about: &Value,
        severity: Severity,
        reason: &str,
        message: &str,
    ) {
        let identity = Identity {
            uid: object::uid(about).to_owned(),
            severity,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        if let Err(error) = self.write(resource, about, identity).await {
            debug!(component = self.component, reason, message, %error, "event lost");
        }
    }

    async fn write(
        &mut self,
        resource: &Resource,
        about: &Value,
        identity: Identity,
    ) -> Result<(), ApiError> {
        let now = Timestamp::now();
        let namespace = match object::namespace(about) {
            "" => "default",
            namespace => namespace,
        };
        if let Some(known) = self.recorded.get_mut(&identity) {
            let count = known.count + 1;
            let body = json!({"count": count, "lastTimestamp": object::format_time(now)});
            let patch = crate::api::PatchBody::Patch { format: PatchFormat::Merge, body };
            match self.client.patch(&EVENTS, namespace, &known.name, "", patch).await {
                Ok(_) => {
                    known.count = count;
                    return Ok(());
                }
                // It expired; begin a new one.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let name = format!("{}.{:x}", object::name(about), now.as_nanosecond());
        let event = event(resource, about, &identity, self.component, &name, namespace, now);
        self.client.create(&EVENTS, event).await?;
        if REMEMBERED_MAX <= self.recorded.len() {
            self.recorded.clear();
        }
        self.recorded.insert(identity, Recorded { name, count: 1 });
        Ok(())
    }
}

fn event(
    resource: &Resource,
    about: &Value,
    identity: &Identity,
    component: &str,
    name: &str,
    namespace: &str,
    now: Timestamp,
) -> Value {
    let kind = match identity.severity {
        Severity::Normal => "Normal",
        Severity::Warning => "Warning",
    };
    let mut involved = json!({
        "apiVersion": resource.api_version(),
        "kind": resource.kind,
        "name": object::name(about),
        "uid": object::uid(about),
        "resourceVersion": object::text(about, &["metadata", "resourceVersion"]),
    });
    if resource.is_namespaced() {
        object::set(&mut involved, &["namespace"], object::namespace(about));
    }
    json!({
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": involved,
        "reason": identity.reason,
        "message": identity.message,
        "type": kind,
        "count": 1,
        "firstTimestamp": object::format_time(now),
        "lastTimestamp": object::format_time(now),
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": "",
    })
}
