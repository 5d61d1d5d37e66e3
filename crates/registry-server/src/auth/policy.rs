//! Rights: which role whom in which repositories. They add up; nothing takes a right away.

use std::collections::BTreeMap;

use super::identity::{Identity, IdentityKind};

/// What somebody may do in a repository; each role includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read manifests, tags, referrers and blobs.
    Pull,
    /// Upload blobs and manifests and make new tags, but move none (CVE-2026-31801).
    Create,
    /// Move tags too.
    Push,
    /// Delete tags, manifests and blobs.
    Delete,
    /// Administer: retention, trash, quotas, the audit log. Without a prefix: the whole registry.
    Admin,
}

impl Role {
    /// All of them, weakest first.
    pub(crate) const ALL: [Self; 5] =
        [Self::Pull, Self::Create, Self::Push, Self::Delete, Self::Admin];

    /// Its action in a scope (distribution token specification; `create` and `admin` are ours).
    pub(crate) const fn action(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Create => "create",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }
}

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Somebody by full name: a user, `robot+<name>` or `<issuer>:<name>`.
    User(String),
    /// Members of a group, by configuration or because an issuer says so.
    Group(String),
    /// Every user of the user file; no robot and nobody of an issuer.
    AnyUser,
    /// Everybody, with or without credentials.
    Everybody,
}

/// A right. Rules add up; what no rule allows is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// The repositories: this one and those below it (`team` covers `team` and `team/app`, not
    /// `teams`). Empty for all.
    pub prefix: String,
    /// Who.
    pub holder: Holder,
    /// What they may do.
    pub role: Role,
}

/// Rules, and who is in which group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) rules: Vec<AccessRule>,
    /// Members by group, by full name.
    pub(crate) groups: BTreeMap<String, Vec<String>>,
}

impl Policy {
    /// The strongest role that the rules give somebody in a repository.
    pub(crate) fn role(&self, identity: &Identity, repository: &str) -> Option<Role> {
        self.rules
            .iter()
            .filter(|rule| covers(&rule.prefix, repository) && self.holds(&rule.holder, identity))
            .map(|rule| rule.role)
            .max()
    }

    /// Whether a rule for all repositories gives somebody the role.
    pub(crate) fn everywhere(&self, identity: &Identity, role: Role) -> bool {
        self.rules.iter().any(|rule| {
            rule.prefix.trim_end_matches('/').is_empty()
                && role <= rule.role
                && self.holds(&rule.holder, identity)
        })
    }

    /// Whether any rule gives somebody the role, wherever.
    pub(crate) fn somewhere(&self, identity: &Identity, role: Role) -> bool {
        self.rules.iter().any(|rule| role <= rule.role && self.holds(&rule.holder, identity))
    }

    /// Whether some rule is for everybody.
    pub(crate) fn admits_anonymous(&self) -> bool {
        self.rules.iter().any(|rule| rule.holder == Holder::Everybody)
    }

    fn holds(&self, holder: &Holder, identity: &Identity) -> bool {
        match holder {
            Holder::User(name) => !name.is_empty() && *name == identity.name,
            Holder::Group(group) => self.is_member(identity, group),
            Holder::AnyUser => identity.kind() == IdentityKind::User,
            Holder::Everybody => true,
        }
    }

    fn is_member(&self, identity: &Identity, group: &str) -> bool {
        identity.groups.iter().any(|member_of| member_of == group)
            || self.groups.get(group).is_some_and(|members| {
                !identity.name.is_empty() && members.contains(&identity.name)
            })
    }
}

/// Whether a prefix is the repository or one of its parents.
pub(crate) fn covers(prefix: &str, repository: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    prefix.is_empty()
        || repository
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_path_components() {
        for (prefix, repository, expected) in [
            ("", "anything", true),
            ("team", "team", true),
            ("team", "team/app", true),
            ("team/", "team/app", true),
            ("team", "teams", false),
            ("team", "team-b/app", false),
            ("team/app", "team", false),
            ("*", "team", false),
            ("team*", "teams", false),
            ("Team", "team", false),
        ] {
            assert_eq!(covers(prefix, repository), expected, "{prefix:?} {repository:?}");
        }
    }

    #[test]
    fn rules_add_up_and_the_rest_is_refused() {
        let rule =
            |prefix: &str, holder, role| AccessRule { prefix: prefix.to_owned(), holder, role };
        let named = |name: &str| Holder::User(name.to_owned());
        let policy = Policy {
            rules: vec![
                rule("team", named("alice"), Role::Push),
                rule("", Holder::AnyUser, Role::Pull),
                rule("public", Holder::Everybody, Role::Pull),
                rule("team", named("robot+ci"), Role::Create),
                rule("shared", Holder::Group("builders".to_owned()), Role::Push),
                rule("", named("root"), Role::Admin),
                rule("", named(""), Role::Admin),
            ],
            groups: [("builders".to_owned(), vec!["bob".to_owned(), "ci:x".to_owned()])].into(),
        };
        for (name, repository, expected) in [
            ("alice", "team/app", Some(Role::Push)),
            ("alice", "other", Some(Role::Pull)),
            ("bob", "team/app", Some(Role::Pull)),
            ("bob", "shared/x", Some(Role::Push)),
            ("ci:x", "shared/x", Some(Role::Push)),
            ("ci:x", "other", None),
            ("robot+ci", "team/app", Some(Role::Create)),
            ("robot+ci", "other", None),
            ("root", "anything", Some(Role::Admin)),
            ("", "team/app", None),
            ("", "public/app", Some(Role::Pull)),
        ] {
            assert_eq!(policy.role(&Identity::named(name), repository), expected, "{name}");
        }
        let vouched = Identity { name: "gitlab:7".to_owned(), groups: vec!["builders".to_owned()] };
        assert_eq!(policy.role(&vouched, "shared/x"), Some(Role::Push));
        assert!(policy.everywhere(&Identity::named("root"), Role::Admin));
        assert!(!policy.everywhere(&Identity::named("alice"), Role::Push));
    }
}
