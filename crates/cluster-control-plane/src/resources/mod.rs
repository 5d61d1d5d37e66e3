//! The resource table: every kind served, as data.
//!
//! One generic handler set serves all kinds; what differs between kinds is in this table or behind
//! the functions of [`crate::schema`], [`crate::table`] and [`crate::admission`], which take a
//! `&Resource` and decide by its kind.

mod kinds;

pub use kinds::*;

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Below `namespaces/<ns>/`.
    Namespaced,
    /// Once per cluster.
    Cluster,
}

/// Whether the server keeps `metadata.generation` for a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// 1 at creation, +1 whenever something outside metadata and status changes.
    Tracked,
    /// Never present.
    Absent,
}

/// What may be written to a `status` part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusPart {
    /// `status` is written only through the `status` subresource.
    Subresource,
    /// The kind has no such subresource.
    Absent,
}

/// A further path below an object, as discovery lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Last path segment, for example `status`.
    pub name: &'static str,
    /// Group of the kind it answers with.
    pub group: &'static str,
    /// Version of the kind it answers with.
    pub version: &'static str,
    /// Kind it answers with.
    pub kind: &'static str,
    /// Verbs, sorted.
    pub verbs: &'static [&'static str],
}

/// One kind in one group and version.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for core.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// Kind, CamelCase.
    pub kind: &'static str,
    /// Path segment.
    pub plural: &'static str,
    /// Lower-case singular.
    pub singular: &'static str,
    /// Abbreviations for kubectl.
    pub short_names: &'static [&'static str],
    /// Groups of kinds such as `all`.
    pub categories: &'static [&'static str],
    /// Namespaced or not.
    pub scope: Scope,
    /// Verbs, sorted; empty of `get` for review kinds.
    pub verbs: &'static [&'static str],
    /// Whether `status` is a subresource.
    pub status: StatusPart,
    /// Whether `metadata.generation` is kept.
    pub generation: Generation,
    /// Every subresource, sorted by name.
    pub subresources: &'static [Subresource],
    /// Field labels besides `metadata.name` and `metadata.namespace` that selectors may use.
    pub field_labels: &'static [&'static str],
    /// Where objects are stored: two resources with one value show the same objects.
    pub storage: &'static str,
}

impl Resource {
    /// `v1` or `batch/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `jobs.batch`, the form in messages.
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `PodList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// Whether objects live in a namespace.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether the resource has a verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether objects of this kind are stored at all; review kinds are only answered.
    pub fn is_stored(&self) -> bool {
        !self.storage.is_empty()
    }

    /// The subresource of a name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }
}

/// The resource at `group/version/plural`.
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    ALL.iter().copied().find(|resource| {
        resource.group == group && resource.version == version && resource.plural == plural
    })
}

/// The resource of an object's `apiVersion` and `kind`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ALL.iter().copied().find(|resource| {
        resource.group == group && resource.version == version && resource.kind == kind
    })
}
