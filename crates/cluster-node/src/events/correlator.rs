//! What was sent before: equal events are counted, similar ones combined
//! (mini-kubernetes.md 7.2).

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::Note;

/// Events that one lane remembers for merging.
const KNOWN_MAX: usize = 1024;
/// This many different messages of one kind become one aggregate.
const SIMILAR_MAX: usize = 10;
/// Window of that aggregation.
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_secs(600);
/// Longest message the API accepts, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

type Key = (String, String, bool, String, String);

/// What has been sent, for merging.
#[derive(Debug, Default)]
pub(crate) struct Correlator {
    known: BTreeMap<Key, Known>,
    similar: BTreeMap<(String, bool, String), (Timestamp, BTreeSet<String>)>,
    serial: u64,
}

#[derive(Clone, Debug)]
struct Known {
    name: String,
    count: i32,
    first: Timestamp,
    order: u64,
}

/// What to do with an event.
#[derive(Debug, PartialEq)]
pub(crate) enum Send {
    /// Create it under this name.
    Create { name: String, message: String },
    /// It has happened before: this often now.
    Count { name: String, count: i32, message: String, first: Timestamp },
}

impl Correlator {
    /// Decides what to do with an event.
    pub(crate) fn observe(&mut self, note: &Note) -> Send {
        let uid = note.object.uid.clone().unwrap_or_default();
        let message = self.aggregate(note, &uid);
        let field = note.object.field_path.clone().unwrap_or_default();
        let key = (uid, field, note.warning, note.reason.clone(), message.clone());
        self.serial += 1;
        if let Some(known) = self.known.get_mut(&key) {
            known.count = known.count.saturating_add(1);
            known.order = self.serial;
            return Send::Count {
                name: known.name.clone(),
                count: known.count,
                message,
                first: known.first,
            };
        }
        if self.known.len() >= KNOWN_MAX {
            let oldest =
                self.known.iter().min_by_key(|(_, known)| known.order).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        let object = note.object.name.as_deref().unwrap_or("unknown");
        let stamp = note.at.as_nanosecond().wrapping_add(i128::from(self.serial % 997));
        let name = format!("{object}.{stamp:x}");
        self.known.insert(
            key,
            Known { name: name.clone(), count: 1, first: note.at, order: self.serial },
        );
        Send::Create { name, message }
    }

    /// Forgets an event that the server no longer has.
    pub(super) fn forget(&mut self, name: &str) {
        self.known.retain(|_, known| known.name != name);
    }

    fn aggregate(&mut self, note: &Note, uid: &str) -> String {
        let message = cut(&note.message);
        self.similar.retain(|_, (first, _)| note.at.duration_since(*first) <= SIMILAR_WINDOW);
        let key = (uid.to_owned(), note.warning, note.reason.clone());
        let (_, messages) = self.similar.entry(key).or_insert_with(|| (note.at, BTreeSet::new()));
        if messages.contains(&message) {
            return message;
        }
        if messages.len() >= SIMILAR_MAX {
            return cut(&format!("(combined from similar events): {message}"));
        }
        messages.insert(message.clone());
        message
    }
}

fn cut(message: &str) -> String {
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn note(message: &str, second: i64) -> Note {
        Note {
            object: ObjectReference {
                name: Some("p".into()),
                uid: Some("u".into()),
                ..ObjectReference::default()
            },
            warning: true,
            reason: "Failed".into(),
            message: message.into(),
            at: Timestamp::from_second(1_700_000_000 + second).expect("in range"),
        }
    }

    /// mini-kubernetes.md 14, row 85.
    #[test]
    fn row_85_hundred_identical_events_are_one_with_count_100() {
        let mut correlator = Correlator::default();
        assert!(matches!(correlator.observe(&note("x", 0)), Send::Create { .. }));
        let mut last = 0;
        for second in 1..100 {
            match correlator.observe(&note("x", second)) {
                Send::Count { count, .. } => last = count,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(last, 100);
    }

    /// mini-kubernetes.md 14, row 85.
    #[test]
    fn row_85_many_differing_messages_become_an_aggregate() {
        let mut correlator = Correlator::default();
        let mut combined = 0;
        for number in 0..15 {
            let sent = correlator.observe(&note(&format!("m{number}"), number));
            let (Send::Create { message, .. } | Send::Count { message, .. }) = sent;
            combined += i32::from(message.starts_with("(combined from similar events): "));
        }
        assert_eq!(combined, 5);
    }

    #[test]
    fn names_of_events_are_unique_within_one_instant() {
        let mut correlator = Correlator::default();
        let name = |send| match send {
            Send::Create { name, .. } => name,
            other => panic!("{other:?}"),
        };
        let first = name(correlator.observe(&note("a", 0)));
        let second = name(correlator.observe(&note("b", 0)));
        assert_ne!(first, second);
        assert!(first.starts_with("p."));
    }
}
