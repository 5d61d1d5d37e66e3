//! Events as others expect them. No I/O.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::metadata::{Action, Event};
use crate::operations::audit::timestamp;

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventFormat {
    /// The envelope of CNCF distribution.
    Distribution,
    /// CloudEvents 1.0, structured JSON.
    CloudEvents,
}

impl EventFormat {
    /// The type of the body.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Distribution => "application/vnd.docker.distribution.events.v2+json",
            Self::CloudEvents => "application/cloudevents+json; charset=utf-8",
        }
    }
}

/// Where events come from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// URL by which clients reach the registry.
    pub(super) url: String,
    /// Name of this process.
    pub(super) instance: String,
}

/// The body for an event. Its id is the same whenever and by whomever it is sent.
pub(super) fn body(format: EventFormat, sequence: u64, event: &Event, source: &Source) -> Value {
    match format {
        EventFormat::Distribution => distribution(sequence, event, source),
        EventFormat::CloudEvents => cloud_event(sequence, event, source),
    }
}

fn time(event: &Event) -> String {
    timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(event.at))
}

fn distribution(sequence: u64, event: &Event, source: &Source) -> Value {
    let action = match event.action {
        Action::Push => "push",
        Action::Delete | Action::DeleteBlob | Action::DeleteRepository => "delete",
        Action::Mount => "mount",
        // To whoever was told of the deletion it is as if somebody had pushed it.
        Action::Restore => "push",
        // Not a second deletion: the tag may have come again.
        Action::Purge => "purge",
    };
    let mut target = json!({ "repository": event.repository });
    let kind = match event.action {
        Action::Push
        | Action::Delete
        | Action::Restore
        | Action::Purge
        | Action::DeleteRepository => "manifests",
        Action::DeleteBlob | Action::Mount => "blobs",
    };
    for (key, value) in [
        ("mediaType", event.media_type.clone().map(Value::from)),
        ("size", event.size.map(Value::from)),
        ("length", event.size.map(Value::from)),
        ("digest", event.digest.clone().map(Value::from)),
        ("tag", event.tag.clone().map(Value::from)),
        (
            "url",
            event.digest.as_ref().map(|digest| {
                Value::from(format!("{}/v2/{}/{kind}/{digest}", source.url, event.repository))
            }),
        ),
    ] {
        if let Some(value) = value {
            target[key] = value;
        }
    }
    json!({ "events": [{
        "id": sequence.to_string(),
        "timestamp": time(event),
        "action": action,
        "target": target,
        "request": { "id": event.request },
        "actor": { "name": event.by },
        "source": { "addr": source.url, "instanceID": source.instance },
    }] })
}

fn cloud_event(sequence: u64, event: &Event, source: &Source) -> Value {
    let kind = match (event.action, &event.tag) {
        (Action::Push, _) => "manifest.pushed",
        (Action::Delete, Some(_)) => "tag.deleted",
        (Action::Delete, None) => "manifest.deleted",
        (Action::DeleteBlob, _) => "blob.deleted",
        (Action::Mount, _) => "blob.mounted",
        (Action::Restore, Some(_)) => "tag.restored",
        (Action::Restore, None) => "manifest.restored",
        (Action::Purge, Some(_)) => "tag.purged",
        (Action::Purge, None) => "manifest.purged",
        (Action::DeleteRepository, _) => "repository.deleted",
    };
    let mut data = serde_json::to_value(event).unwrap_or_default();
    if let Some(data) = data.as_object_mut() {
        data.remove("at");
    }
    let subject = match (&event.tag, &event.digest) {
        (Some(tag), _) => format!("{}:{tag}", event.repository),
        (None, Some(digest)) => format!("{}@{digest}", event.repository),
        (None, None) => event.repository.clone(),
    };
    json!({
        "specversion": "1.0",
        "id": sequence.to_string(),
        "source": source.url,
        "type": format!("dev.shipway.registry.{kind}"),
        "subject": subject,
        "time": time(event),
        "datacontenttype": "application/json",
        "data": data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            at: 1_000_000_000_123,
            by: "alice".to_owned(),
            request: "r-1".to_owned(),
            action: Action::Push,
            repository: "team/app".to_owned(),
            tag: Some("v1".to_owned()),
            digest: Some("sha256:new".to_owned()),
            old_digest: Some("sha256:old".to_owned()),
            media_type: Some("m/t".to_owned()),
            size: Some(7),
            how: None,
            more: None,
        }
    }

    fn source() -> Source {
        Source { url: "https://r".to_owned(), instance: "i".to_owned() }
    }

    #[test]
    fn what_went_and_came_back_has_names_of_its_own() {
        let types = [
            (Action::Restore, "tag.restored", "push"),
            (Action::Purge, "tag.purged", "purge"),
            (Action::DeleteRepository, "repository.deleted", "delete"),
        ];
        for (action, kind, of_distribution) in types {
            let event = Event { action, ..event() };
            let told = body(EventFormat::CloudEvents, 5, &event, &source());
            assert_eq!(told["type"], format!("dev.shipway.registry.{kind}"));
            let told = body(EventFormat::Distribution, 5, &event, &source());
            assert_eq!(told["events"][0]["action"], of_distribution);
        }
    }

    #[test]
    fn the_envelope_is_that_of_distribution() {
        assert_eq!(
            body(EventFormat::Distribution, 5, &event(), &source()),
            json!({ "events": [{
                "id": "5",
                "timestamp": "2001-09-09T01:46:40.123Z",
                "action": "push",
                "target": {
                    "mediaType": "m/t", "size": 7, "length": 7, "digest": "sha256:new",
                    "repository": "team/app", "tag": "v1",
                    "url": "https://r/v2/team/app/manifests/sha256:new",
                },
                "request": { "id": "r-1" },
                "actor": { "name": "alice" },
                "source": { "addr": "https://r", "instanceID": "i" },
            }] })
        );
    }

    #[test]
    fn the_cloud_event_says_what_the_tag_named_before() {
        assert_eq!(
            body(EventFormat::CloudEvents, 5, &event(), &source()),
            json!({
                "specversion": "1.0",
                "id": "5",
                "source": "https://r",
                "type": "dev.shipway.registry.manifest.pushed",
                "subject": "team/app:v1",
                "time": "2001-09-09T01:46:40.123Z",
                "datacontenttype": "application/json",
                "data": {
                    "by": "alice", "request": "r-1", "action": "push", "repository": "team/app",
                    "tag": "v1", "digest": "sha256:new", "old_digest": "sha256:old",
                    "media_type": "m/t", "size": 7,
                },
            })
        );
    }
}
