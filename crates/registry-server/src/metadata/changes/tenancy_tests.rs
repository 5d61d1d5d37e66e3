//! Namespaces at the level of changes: time comes in through stamps.

use std::collections::BTreeMap;

use oci_model::{MediaType, Tag};
use proptest::prelude::*;
use redb::ReadableTable as _;

use super::*;
use crate::metadata::tables::{POLICIES, read_json};
use crate::tenancy::{ByteSize, ImmutableTags, Namespace, RetentionRule, Span};

const DAY: u64 = 86_400_000;

/// A registry of tables only.
struct State {
    database: redb::Database,
    now: u64,
}

impl State {
    fn new(namespaces: Vec<Namespace>) -> Self {
        let memory = redb::backends::InMemoryBackend::new();
        let database = redb::Builder::new().create_with_backend(memory).expect("a database");
        let mut state = Self { database, now: 1000 * DAY };
        state.change(&Change::SetPolicies(namespaces)).expect("policies");
        state
    }

    fn change(&mut self, change: &Change) -> Result<Reply, ChangeError> {
        let stamp = Stamp { at: self.now, by: "ann".to_owned(), request: "r".to_owned() };
        let transaction = self.database.begin_write().expect("a transaction");
        let done = {
            let mut tables = Tables::open(&transaction).expect("tables");
            apply(change, &stamp, &mut tables)
        };
        transaction.commit().expect("a commit");
        done.map(|outcome| outcome.reply)
    }

    fn read<T>(&self, read: impl FnOnce(&Tables<'_>) -> T) -> T {
        let transaction = self.database.begin_write().expect("a transaction");
        let tables = Tables::open(&transaction).expect("tables");
        read(&tables)
    }

    fn link(&mut self, name: &str, blob: &[u8]) -> Digest {
        let digest = Digest::of(blob);
        let (repository, size) = (repository(name), blob.len() as u64);
        self.change(&Change::Link(StoredLink { repository, digest, size })).expect("a link");
        digest
    }

    /// Pushes an image of one layer.
    fn push(&mut self, name: &str, tag: &str, layer: &str) -> Result<Digest, ChangeError> {
        self.link(name, layer.as_bytes());
        let new = image(name, Some(tag), layer);
        let digest = new.digest;
        self.change(&Change::PutManifest(Box::new(new))).map(|_| digest)
    }

    fn tag(&self, name: &str, tag: &str) -> Option<String> {
        self.read(|tables| {
            let found = tables.tags.get((name, tag)).expect("an answer");
            found.map(|digest| digest.value().to_owned())
        })
    }

    fn holds(&self, name: &str, digest: &Digest) -> bool {
        let digest = digest.to_string();
        self.read(|tables| {
            tables.manifests.get((name, digest.as_str())).expect("an answer").is_some()
        })
    }

    fn usage(&self, prefix: &str) -> Usage {
        self.read(|tables| usage::load(prefix, tables).expect("counters"))
    }

    /// The counters, and the counters after a full count.
    fn counted(&mut self) -> [BTreeMap<String, Usage>; 2] {
        let all = |state: &Self| {
            state.read(|tables| {
                let mut usages = BTreeMap::new();
                for row in tables.usage.iter().expect("rows") {
                    let (key, row) = row.expect("a row");
                    let usage: Usage = read_json("usage", "", row.value()).expect("counters");
                    if usage != Usage::default() {
                        usages.insert(key.value().to_owned(), usage);
                    }
                }
                usages
            })
        };
        let before = all(self);
        self.change(&Change::Recount).expect("a count");
        [before, all(self)]
    }
}

fn repository(name: &str) -> Repository {
    Repository::new(name).expect("a name")
}

fn tag(name: &str) -> Tag {
    Tag::new(name).expect("a tag")
}

fn image(name: &str, tagged: Option<&str>, layer: &str) -> NewManifest {
    let layer_digest = Digest::of(layer.as_bytes());
    let bytes = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json", "digest": layer_digest,
            "size": layer.len(),
        },
        "artifactType": "a/b",
        "layers": [],
    })
    .to_string();
    NewManifest {
        repository: repository(name),
        digest: Digest::of(bytes.as_bytes()),
        media_type: MediaType::OCI_MANIFEST,
        bytes: bytes.into(),
        tags: tagged.map(tag).into_iter().collect(),
        expected: None,
        children: vec![Child::Blob(layer_digest)],
        subject: None,
        cached: false,
    }
}

fn index(name: &str, tagged: &str, children: &[Digest]) -> NewManifest {
    let entries: Vec<_> = children
        .iter()
        .map(|digest| {
            serde_json::json!({"mediaType": MediaType::OCI_MANIFEST, "digest": digest, "size": 1})
        })
        .collect();
    let bytes = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": entries,
    })
    .to_string();
    NewManifest {
        digest: Digest::of(bytes.as_bytes()),
        media_type: MediaType::OCI_INDEX,
        bytes: bytes.into(),
        children: children.iter().map(|digest| Child::Entry(*digest)).collect(),
        ..image(name, Some(tagged), "")
    }
}

fn team(change: impl FnOnce(&mut Namespace)) -> Vec<Namespace> {
    let mut namespace = Namespace::new("team");
    change(&mut namespace);
    vec![namespace]
}

fn immutable(tags: &str) -> Vec<Namespace> {
    team(|team| team.immutable_tags = vec![ImmutableTags::new(tags.parse().expect("a pattern"))])
}

fn is_immutable(answer: Result<impl Sized, ChangeError>) -> bool {
    matches!(answer, Err(ChangeError::Immutable { .. }))
}

#[test]
fn an_immutable_tag_is_neither_moved_nor_removed_in_any_way() {
    let mut state = State::new(immutable("v*"));
    let first = state.push("team/app", "v1", "a").expect("the first");
    assert!(is_immutable(state.push("team/app", "v1", "b")), "another digest");
    assert_eq!(state.push("team/app", "v1", "a").ok(), Some(first), "the same is no change");
    state.push("team/app", "latest", "b").expect("another tag");
    let delete = |state: &mut State, digest| {
        state.change(&Change::DeleteManifest(repository("team/app"), digest))
    };
    assert!(is_immutable(state.change(&Change::DeleteTag(repository("team/app"), tag("v1")))));
    assert!(is_immutable(delete(&mut state, first)));
    assert!(is_immutable(state.change(&Change::DeleteRepository(repository("team/app")))));
    let back = Restore {
        repository: repository("team/app"),
        tag: Some(tag("v1")),
        digest: Some(image("team/app", None, "b").digest),
    };
    assert!(is_immutable(state.change(&Change::Restore(back))));
    assert_eq!(state.tag("team/app", "v1"), Some(first.to_string()));
    state.push("other/app", "v1", "a").expect("elsewhere");
    state.push("other/app", "v1", "b").expect("elsewhere tags move");
}

#[test]
fn what_an_immutable_index_needs_is_not_removed() {
    let mut state = State::new(immutable("v*"));
    let child = state.push("team/app", "arm", "a").expect("an image");
    let index = index("team/app", "v1", &[child]);
    state.change(&Change::PutManifest(Box::new(index))).expect("an index");
    assert!(is_immutable(state.change(&Change::DeleteManifest(repository("team/app"), child))));
    state.change(&Change::DeleteTag(repository("team/app"), tag("arm"))).expect("its own tag");
}

#[test]
fn shared_blobs_count_once_and_until_the_trash_is_empty() {
    let mut state = State::new(team(|_| {}));
    let image = state.push("team/a", "v1", "layer").expect("an image");
    let size = state.usage("team").bytes;
    state.push("team/b", "v1", "layer").expect("the same elsewhere");
    let usage = state.usage("team");
    assert_eq!((usage.bytes, usage.objects, usage.repositories), (size, 2, 2));
    for name in ["team/a", "team/b"] {
        assert_eq!(state.usage("team").bytes, size);
        state.change(&Change::DeleteManifest(repository(name), image)).expect("deleted");
    }
    let usage = state.usage("team");
    assert_eq!((usage.bytes, usage.repositories), (size, 0), "the trash counts");
    let everything = EmptyTrash { everything_below: Some("team".to_owned()) };
    assert_eq!(state.change(&Change::EmptyTrash(everything)).expect("it"), Reply::Emptied(2));
    assert_eq!(state.usage("team"), Usage::default());
}

#[test]
fn a_push_over_the_quota_leaves_no_trace_and_what_is_there_stays_usable() {
    let mut state = State::new(team(|team| team.quota = Some(ByteSize(1000))));
    let large = "x".repeat(600);
    let first = state.push("team/app", "v1", &large).expect("the first");
    let used = state.usage("team");
    let second = "y".repeat(600);
    let Err(ChangeError::Quota(over)) = state.push("team/app", "v2", &second) else {
        panic!("it does not fit");
    };
    assert_eq!((over.quota, over.used, over.reserved), (1000, used.bytes, 0));
    assert_eq!(over.asked, 600 + image("team/app", None, &second).bytes.len() as u64);
    assert_eq!((state.usage("team"), state.tag("team/app", "v2")), (used, None));
    assert_eq!(state.push("team/app", "stable", &large).ok(), Some(first), "nothing new");
    state.change(&Change::SetPolicies(team(|team| team.quota = Some(ByteSize(1))))).expect("it");
    assert_eq!(state.push("team/app", "again", &large).ok(), Some(first), "nothing new");
    state.change(&Change::DeleteTag(repository("team/app"), tag("again"))).expect("deletions pass");
}

fn reserve(holder: &str, bytes: u64, adds: bool, instead_of: Option<&str>) -> Change {
    Change::Reserve(Reservation {
        repository: repository("team/app"),
        holder: holder.to_owned(),
        bytes,
        adds,
        lasts: 1000,
        instead_of: instead_of.map(str::to_owned),
    })
}

// registry.md 4.7 row 11: each of two uploads fits, both do not.
#[test]
fn reservations_keep_parallel_pushes_within_the_quota() {
    let mut state = State::new(team(|team| team.quota = Some(ByteSize(1000))));
    state.change(&reserve("upload-1", 600, true, None)).expect("the first");
    let refused = state.change(&reserve("upload-2", 600, true, None));
    assert!(matches!(refused, Err(ChangeError::Quota(_))));
    assert_eq!(state.usage("team").reserved, 600);
    state.change(&reserve("upload-1", 100, true, None)).expect("more of the first");
    assert_eq!(state.usage("team").reserved, 700);
    // The upload ends as a blob, and a manifest needs it.
    let layer = "x".repeat(700);
    let digest = Digest::of(layer.as_bytes()).to_string();
    state.change(&reserve(&digest, 0, true, Some("upload-1"))).expect("it takes over");
    assert_eq!(state.usage("team").reserved, 700);
    state.push("team/app", "v1", &layer).expect("it fits");
    let usage = state.usage("team");
    assert_eq!(usage.reserved, 0);
    assert!(usage.bytes > 700);
    state.change(&reserve(&digest, 700, true, None)).expect("what is counted needs no room");
    assert_eq!(state.usage("team").reserved, 0);
}

#[test]
fn what_dead_uploads_reserved_comes_back_by_itself() {
    let mut state = State::new(team(|team| team.quota = Some(ByteSize(1000))));
    state.change(&reserve("dead", 900, true, None)).expect("room");
    assert!(state.change(&reserve("next", 200, true, None)).is_err());
    state.now += 1001;
    state.change(&reserve("next", 200, true, None)).expect("the dead one's room");
    assert_eq!(state.usage("team").reserved, 200);
    let give_back = |bytes| Change::Unreserve(repository("team/app"), "next".to_owned(), bytes);
    state.change(&give_back(50)).expect("a part");
    assert_eq!(state.usage("team").reserved, 150);
    state.change(&give_back(500)).expect("the rest");
    assert_eq!(state.usage("team").reserved, 0);
}

#[test]
fn cached_manifests_count_to_no_quota() {
    let mut state = State::new(team(|team| team.quota = Some(ByteSize(10))));
    let layer = "x".repeat(600);
    state.link("team/cache", layer.as_bytes());
    let new = NewManifest { cached: true, ..image("team/cache", Some("v1"), &layer) };
    let digest = new.digest;
    state.change(&Change::PutManifest(Box::new(new))).expect("a cached image");
    assert_eq!(state.usage("team").bytes, 0);
    let [counters, counted] = state.counted();
    assert_eq!(counters, counted);
    state.change(&Change::DeleteManifest(repository("team/cache"), digest)).expect("deleted");
    assert_eq!(state.usage("team"), Usage::default());
}

#[test]
fn repositories_have_a_limit_and_empty_ones_do_not_count() {
    let mut state = State::new(team(|team| team.repositories_max = Some(2)));
    let image = state.push("team/a", "v1", "a").expect("one");
    state.push("team/b", "v1", "a").expect("two");
    state.push("team/b", "v2", "b").expect("in one that is there");
    let refused = state.push("team/c", "v1", "a");
    assert!(matches!(refused, Err(ChangeError::Repositories { most: 2, .. })));
    state.push("elsewhere", "v1", "a").expect("another namespace");
    state.change(&Change::DeleteManifest(repository("team/a"), image)).expect("deleted");
    state.push("team/c", "v1", "a").expect("there is room again");
    let back = Restore { repository: repository("team/a"), tag: None, digest: Some(image) };
    let refused = state.change(&Change::Restore(back));
    assert!(matches!(refused, Err(ChangeError::Repositories { .. })));
}

#[test]
fn what_was_deleted_comes_back_with_its_tags_until_its_time_is_over() {
    let mut state = State::new(team(|team| team.trash = Span(86_400)));
    let image = state.push("team/app", "v1", "a").expect("an image");
    state.push("team/app", "latest", "a").expect("a second tag");
    let delete = Change::DeleteManifest(repository("team/app"), image);
    let back = Change::Restore(Restore {
        repository: repository("team/app"),
        tag: None,
        digest: Some(image),
    });
    state.change(&delete).expect("deleted");
    assert_eq!((state.holds("team/app", &image), state.tag("team/app", "v1")), (false, None));
    state.change(&Change::Tidy(vec![(repository("team/app"), Digest::of(b"a"))])).expect("it");
    state.now += DAY - 1;
    state.change(&Change::EmptyTrash(EmptyTrash::default())).expect("nothing is old");
    let tags = vec!["latest".to_owned(), "v1".to_owned()];
    let expected = Reply::Restored { manifests: vec![image.to_string()], tags };
    assert_eq!(state.change(&back).expect("it"), expected);
    assert_eq!(state.tag("team/app", "v1"), Some(image.to_string()));
    let links = state.read(|tables| {
        let digest = Digest::of(b"a").to_string();
        tables.links.get(("team/app", digest.as_str())).expect("a link").map(|size| size.value())
    });
    assert_eq!(links, Some(1), "its blobs can be read again");
    state.change(&delete).expect("deleted again");
    state.now += DAY;
    assert_eq!(
        state.change(&Change::EmptyTrash(EmptyTrash::default())).expect("it"),
        Reply::Emptied(1)
    );
    assert!(matches!(state.change(&back), Err(ChangeError::Unknown)));
    assert_eq!(state.usage("team"), Usage::default());
}

#[test]
fn without_a_trash_what_is_deleted_is_gone() {
    let mut state = State::new(team(|team| team.trash = Span(0)));
    let image = state.push("team/app", "v1", "a").expect("an image");
    state.change(&Change::DeleteManifest(repository("team/app"), image)).expect("deleted");
    let back = Restore { repository: repository("team/app"), tag: None, digest: Some(image) };
    assert!(matches!(state.change(&Change::Restore(back)), Err(ChangeError::Unknown)));
    assert_eq!(state.usage("team"), Usage::default());
}

#[test]
fn an_index_comes_back_with_its_entries() {
    let mut state = State::new(team(|_| {}));
    let child = state.push("team/app", "arm", "a").expect("an image");
    let new = index("team/app", "v1", &[child]);
    let digest = new.digest;
    state.change(&Change::PutManifest(Box::new(new))).expect("an index");
    state.change(&Change::DeleteRepository(repository("team/app"))).expect("deleted");
    assert!(!state.holds("team/app", &child));
    let back = Restore { repository: repository("team/app"), tag: Some(tag("v1")), digest: None };
    state.change(&Change::Restore(Restore { digest: Some(digest), ..back })).expect("it");
    assert!(state.holds("team/app", &child) && state.holds("team/app", &digest));
    assert_eq!(state.tag("team/app", "v1"), Some(digest.to_string()));
    let [counters, counted] = state.counted();
    assert_eq!(counters, counted);
}

#[test]
fn a_tag_is_set_back_to_what_it_named_before() {
    let mut state = State::new(team(|_| {}));
    let old = state.push("team/app", "latest", "a").expect("old");
    let new = state.push("team/app", "latest", "b").expect("new");
    let back = Change::Restore(Restore {
        repository: repository("team/app"),
        tag: Some(tag("latest")),
        digest: None,
    });
    state.change(&back).expect("back");
    assert_eq!(state.tag("team/app", "latest"), Some(old.to_string()));
    state.change(&Change::DeleteTag(repository("team/app"), tag("latest"))).expect("deleted");
    state.change(&Change::DeleteManifest(repository("team/app"), old)).expect("deleted");
    state.change(&back).expect("from the trash, with its manifest");
    assert_eq!(state.tag("team/app", "latest"), Some(old.to_string()));
    let moves: Vec<_> = state.read(|tables| {
        let rows = tables.tag_history.range(("team/app", "latest", 0)..).expect("rows");
        rows.map(|row| {
            let moved: TagMove =
                read_json("tag_history", "", row.expect("a row").1.value()).expect("a move");
            (moved.old, moved.new)
        })
        .collect()
    });
    let (old, new) = (Some(old.to_string()), Some(new.to_string()));
    let expected = [
        (None, old.clone()),
        (old.clone(), new.clone()),
        (new, old.clone()),
        (old.clone(), None),
        (None, old),
    ];
    assert_eq!(moves, expected);
}

#[test]
fn the_history_of_a_tag_has_a_length() {
    let mut state = State::new(Vec::new());
    for round in 0..130 {
        state.push("app", "latest", if round % 2 == 0 { "a" } else { "b" }).expect("a push");
    }
    let kept = state.read(|tables| tables.tag_history.iter().expect("rows").count());
    assert_eq!(kept, 100);
}

// registry.md 4.7 row 15.
#[test]
fn a_push_under_way_does_not_survive_the_deletion_of_its_repository_in_part() {
    let mut state = State::new(team(|_| {}));
    state.push("team/app", "v1", "a").expect("an image");
    state.link("team/app", b"b");
    state.change(&Change::DeleteRepository(repository("team/app"))).expect("deleted");
    let late = Change::PutManifest(Box::new(image("team/app", Some("v2"), "b")));
    assert!(matches!(state.change(&late), Err(ChangeError::Missing(_))));
    let known = state.read(|tables| tables.repositories.get("team/app").expect("it").is_some());
    assert!(!known);
    state.link("team/app", b"b");
    state.change(&late).expect("a push that begins again");
    let again = Change::DeleteRepository(repository("team/none"));
    assert!(matches!(state.change(&again), Err(ChangeError::Unknown)));
}

impl State {
    /// What happened since the last call: action, tag or digest, what a tag named before.
    fn told(&mut self) -> Vec<(Action, String, Option<String>)> {
        let transaction = self.database.begin_write().expect("a transaction");
        let mut told = Vec::new();
        {
            let mut tables = Tables::open(&transaction).expect("tables");
            let mut sequences = Vec::new();
            for row in tables.events.iter().expect("rows") {
                let (sequence, row) = row.expect("a row");
                sequences.push(sequence.value());
                let event: Event = read_json("events", "", row.value()).expect("an event");
                let id = event.tag.or(event.digest).unwrap_or_default();
                told.push((event.action, id, event.old_digest));
            }
            for sequence in sequences {
                tables.events.remove(sequence).expect("an answer");
            }
        }
        transaction.commit().expect("a commit");
        told
    }
}

#[test]
fn what_a_change_removes_without_naming_it_is_told_one_by_one() {
    let rule = RetentionRule { keep_last: Some(0), ..RetentionRule::new() };
    let mut state = State::new(team(|_| {}));
    let first = state.push("team/app", "v1", "a").expect("an image");
    let second = state.push("team/app", "v2", "b").expect("an image");
    state.told();
    let (first, second) = (first.to_string(), second.to_string());
    let of_tag = |action, tag: &str, old: &str| (action, tag.to_owned(), Some(old.to_owned()));
    let of_manifest = |action, digest: &str| (action, digest.to_owned(), None);

    state.change(&Change::SetPolicies(team(|team| team.retention = vec![rule]))).expect("it");
    let planned = vec!["v2".to_owned(), "v1".to_owned()];
    let retain = Retain { repository: repository("team/app"), planned };
    state.change(&Change::Retain(retain.clone())).expect("it");
    let mut told = state.told();
    told.sort_by(|one, other| one.1.cmp(&other.1));
    assert_eq!(told, [of_tag(Action::Delete, "v1", &first), of_tag(Action::Delete, "v2", &second)]);
    state.change(&Change::Retain(retain)).expect("nothing is left");
    assert_eq!(state.told(), []);

    let back = |tag_or: &str| Restore {
        repository: repository("team/app"),
        tag: Some(tag(tag_or)),
        digest: None,
    };
    state.change(&Change::Restore(back("v1"))).expect("it");
    assert_eq!(state.told(), [(Action::Restore, "v1".to_owned(), None)]);

    state.change(&Change::DeleteRepository(repository("team/app"))).expect("it");
    let told = state.told();
    assert_eq!(told[0], of_tag(Action::Delete, "v1", &first));
    let mut manifests = [first.as_str(), second.as_str()];
    manifests.sort_unstable();
    assert_eq!(told[1..3], manifests.map(|digest| of_manifest(Action::Delete, digest)));
    assert_eq!(told[3..], [(Action::DeleteRepository, String::new(), None)]);

    let image = first.parse::<Digest>().expect("a digest");
    let back = Restore { repository: repository("team/app"), tag: None, digest: Some(image) };
    state.change(&Change::Restore(back)).expect("it");
    assert_eq!(
        state.told(),
        [of_manifest(Action::Restore, &first), (Action::Restore, "v1".to_owned(), None)]
    );

    let everything = EmptyTrash { everything_below: Some("team".to_owned()) };
    state.change(&Change::EmptyTrash(everything)).expect("it");
    let told = state.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.contains(&of_manifest(Action::Purge, &second)), "{told:?}");
    assert!(told.contains(&of_tag(Action::Purge, "v2", &second)), "{told:?}");
}

#[test]
fn a_change_tells_of_so_many_things_and_counts_the_others() {
    let mut removed = outbox::Removed::default();
    for number in 0..outbox::TOLD_MAX + 3 {
        removed.add("a", &number.to_string(), None);
    }
    assert_eq!((removed.objects.len(), removed.more), (outbox::TOLD_MAX, 3));
}

// registry.md 4.7 row 10.
#[test]
fn what_changed_after_the_plan_is_judged_again() {
    let rule = RetentionRule { keep_pushed_within: Some(Span(7 * 86_400)), ..RetentionRule::new() };
    let mut state = State::new(team(|team| team.retention = vec![rule]));
    let retagged = state.push("team/app", "retagged", "a").expect("an image");
    let pulled = state.push("team/app", "old", "b").expect("an image");
    state.now += 30 * DAY;
    state.push("team/app", "unplanned", "c").expect("an image");
    state.now += 30 * DAY;
    let planned = vec!["retagged".to_owned(), retagged.to_string(), "old".to_owned()];
    // Between plan and application the tag moves.
    let newer = state.push("team/app", "retagged", "d").expect("a new image");
    let retain = Retain { repository: repository("team/app"), planned };
    let done = state.change(&Change::Retain(retain)).expect("it");
    let expected = Reply::Retained { tags: vec!["old".to_owned()], manifests: Vec::new() };
    assert_eq!(done, expected);
    assert_eq!(state.tag("team/app", "retagged"), Some(newer.to_string()));
    assert!(state.tag("team/app", "unplanned").is_some(), "it was in no plan");
    assert!(state.holds("team/app", &pulled), "its digest was in no plan");
}

#[test]
fn what_older_versions_stored_is_counted_and_is_not_old() {
    let mut state = State::new(Vec::new());
    state.push("team/app", "v1", "a").expect("an image");
    // As a version without namespaces left it.
    let transaction = state.database.begin_write().expect("a transaction");
    for (table, _) in [("usage", ()), ("tag_times", ()), ("manifest_times", ())] {
        let tables = transaction.list_tables().expect("tables").collect::<Vec<_>>();
        let handle = tables.into_iter().find(|handle| {
            use redb::TableHandle as _;
            handle.name() == table
        });
        transaction.delete_table(handle.expect("a table")).expect("deleted");
    }
    transaction.delete_table(POLICIES).expect("deleted");
    transaction.commit().expect("a commit");
    state.now += 500 * DAY;
    let rule = RetentionRule { keep_pushed_within: Some(Span(60)), ..RetentionRule::new() };
    state.change(&Change::SetPolicies(team(|team| team.retention = vec![rule]))).expect("it");
    assert_eq!(state.usage("team").objects, 2);
    let retain = Retain { repository: repository("team/app"), planned: vec!["v1".to_owned()] };
    let done = state.change(&Change::Retain(retain)).expect("it");
    assert_eq!(done, Reply::Retained { tags: Vec::new(), manifests: Vec::new() });
}

/// One step of somebody.
#[derive(Clone, Debug)]
enum Step {
    Push { repository: usize, tag: usize, layer: usize },
    Index { repository: usize, layers: [usize; 2] },
    DeleteTag { repository: usize, tag: usize },
    DeleteManifest { repository: usize, layer: usize },
    DeleteRepository(usize),
    Restore { repository: usize, layer: usize },
    Reserve { repository: usize, layer: usize },
    Empty(bool),
    Policies(usize),
}

const REPOSITORIES: [&str; 4] = ["team/a", "team/b", "team/sub/c", "other"];

fn step() -> impl Strategy<Value = Step> {
    let (repository, tag, layer) = (0..4_usize, 0..3_usize, 0..4_usize);
    prop_oneof![
        6 => (repository.clone(), tag.clone(), layer.clone())
            .prop_map(|(repository, tag, layer)| Step::Push { repository, tag, layer }),
        2 => (repository.clone(), layer.clone(), layer.clone())
            .prop_map(|(repository, a, b)| Step::Index { repository, layers: [a, b] }),
        2 => (repository.clone(), tag)
            .prop_map(|(repository, tag)| Step::DeleteTag { repository, tag }),
        3 => (repository.clone(), layer.clone())
            .prop_map(|(repository, layer)| Step::DeleteManifest { repository, layer }),
        1 => repository.clone().prop_map(Step::DeleteRepository),
        3 => (repository.clone(), layer.clone())
            .prop_map(|(repository, layer)| Step::Restore { repository, layer }),
        2 => (repository, layer)
            .prop_map(|(repository, layer)| Step::Reserve { repository, layer }),
        1 => any::<bool>().prop_map(Step::Empty),
        1 => (0..3_usize).prop_map(Step::Policies),
    ]
}

fn layouts() -> [Vec<Namespace>; 3] {
    let limited = |prefix: &str| {
        let mut namespace = Namespace::new(prefix);
        namespace.quota = Some(ByteSize(1500));
        namespace
    };
    let mut without_trash = limited("team/sub");
    without_trash.trash = Span(0);
    [Vec::new(), vec![limited("team")], vec![limited("team"), without_trash, limited("")]]
}

fn take(state: &mut State, step: &Step) {
    let layer = |layer: usize| "x".repeat(100 * (layer + 1));
    // A refusal is an answer like any other.
    let _ = match step {
        Step::Push { repository, tag, layer: number } => state
            .push(REPOSITORIES[*repository], &format!("t{tag}"), &layer(*number))
            .map(|_| Reply::Done),
        Step::Index { repository, layers } => {
            let name = REPOSITORIES[*repository];
            let mut children = layers.map(|number| image(name, None, &layer(number)).digest);
            children.sort();
            let new = index(name, "index", &children);
            state.change(&Change::PutManifest(Box::new(new)))
        }
        Step::DeleteTag { repository: name, tag: number } => {
            let tag = tag(&format!("t{number}"));
            state.change(&Change::DeleteTag(repository(REPOSITORIES[*name]), tag))
        }
        Step::DeleteManifest { repository: at, layer: number } => {
            let name = REPOSITORIES[*at];
            let digest = image(name, None, &layer(*number)).digest;
            state.change(&Change::DeleteManifest(repository(name), digest))
        }
        Step::DeleteRepository(at) => {
            state.change(&Change::DeleteRepository(repository(REPOSITORIES[*at])))
        }
        Step::Restore { repository: at, layer: number } => {
            let name = REPOSITORIES[*at];
            let digest = Some(image(name, None, &layer(*number)).digest);
            let repository = repository(name);
            state.change(&Change::Restore(Restore { repository, tag: None, digest }))
        }
        Step::Reserve { repository: at, layer: number } => {
            let holder = Digest::of(layer(*number).as_bytes()).to_string();
            state.change(&Change::Reserve(Reservation {
                repository: repository(REPOSITORIES[*at]),
                holder,
                bytes: layer(*number).len() as u64,
                adds: false,
                lasts: 5,
                instead_of: None,
            }))
        }
        Step::Empty(all) => {
            let everything_below = all.then(|| "team".to_owned());
            state.change(&Change::EmptyTrash(EmptyTrash { everything_below }))
        }
        Step::Policies(layout) => state.change(&Change::SetPolicies(layouts()[*layout].clone())),
    };
    state.now += 1;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever happens, the counters are what a full count finds, and no quota is overrun.
    #[test]
    fn counters_are_exact(steps in prop::collection::vec(step(), 1..60)) {
        let mut state = State::new(layouts()[1].clone());
        let mut has_shrunk = false;
        for step in &steps {
            has_shrunk |= matches!(step, Step::Policies(_));
            take(&mut state, step);
            if !has_shrunk {
                let usage = state.usage("team");
                prop_assert!(usage.bytes + usage.reserved <= 1500, "{:?} after {:?}", usage, step);
            }
        }
        let [counters, counted] = state.counted();
        prop_assert_eq!(counters, counted);
    }
}
