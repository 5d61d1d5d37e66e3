//! Scopes of bearer tokens (distribution token scope documentation).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::compact::CompactGrants;
use super::policy::Role;

/// Scopes that one request may ask for; what comes after them is not looked at.
const SCOPES_MAX: usize = 64;

/// What a client asks for: `<type>[(<class>)]:<name>:<action>[,<action>…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    kind: String,
    name: String,
    actions: Vec<String>,
}

/// An entry of the `access` claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) actions: Vec<String>,
}

/// What a token allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) grants: Vec<Grant>,
    /// Repositories of a token with many of them.
    pub(crate) compact: CompactGrants,
}

impl Scope {
    /// Reads one scope. A name may have a port, so the type ends at the first colon and the
    /// actions begin after the last.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        // The class, as in `repository(plugin)`, means nothing any more.
        let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
        if kind.is_empty() || name.is_empty() {
            return None;
        }
        let actions = actions.split(',').filter(|action| !action.is_empty());
        Some(Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions.map(str::to_owned).collect(),
        })
    }

    /// Reads scope parameters, each of which may hold several scopes separated by spaces. What
    /// cannot be read is left out: it grants nothing. Scopes of one name become one.
    pub(crate) fn parse_all<'a>(parameters: impl Iterator<Item = &'a str>) -> Vec<Self> {
        let mut merged: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        let mut order = Vec::new();
        let scopes = parameters.flat_map(str::split_ascii_whitespace).filter_map(Self::parse);
        for scope in scopes.take(SCOPES_MAX) {
            let key = (scope.kind, scope.name);
            if !merged.contains_key(&key) {
                order.push(key.clone());
            }
            let actions = merged.entry(key).or_default();
            for action in scope.actions {
                if !actions.contains(&action) {
                    actions.push(action);
                }
            }
        }
        let scope = |key: (String, String)| {
            let actions = merged.remove(&key).unwrap_or_default();
            Self { kind: key.0, name: key.1, actions }
        };
        order.into_iter().map(scope).collect()
    }

    /// The repository's name, if the scope is about one.
    pub(crate) fn repository(&self) -> Option<&str> {
        (self.kind == "repository").then_some(self.name.as_str())
    }

    /// Whether the scope is the list of repositories.
    pub(crate) fn is_catalog(&self) -> bool {
        self.kind == "registry" && self.name == "catalog" && self.asks_for("*")
    }

    /// Whether the scope is the administration of the registry.
    pub(crate) fn is_administration(&self) -> bool {
        self.kind == "registry" && self.name == "admin" && self.asks_for("*")
    }

    /// Whether the scope asks for the action, by name or by `*`.
    pub(crate) fn asks_for(&self, action: &str) -> bool {
        self.actions.iter().any(|asked| asked == action || asked == "*")
    }

    /// The actions of a role that the scope asks for. Who may only create gets that where others
    /// get `push`: clients know no better word to ask for.
    pub(crate) fn granted(&self, role: Role) -> Vec<String> {
        let asked = |action: Role| {
            self.asks_for(action.action())
                || (action == Role::Create && role == Role::Create && self.asks_for("push"))
        };
        // Who may push may create: saying both would only make the token longer.
        let said = |action: &Role| {
            *action != Role::Create || role == Role::Create || !self.asks_for("push")
        };
        Role::ALL
            .into_iter()
            .filter(|action| *action <= role && asked(*action))
            .filter(said)
            .map(|action| action.action().to_owned())
            .collect()
    }
}

impl Grant {
    pub(crate) fn repository(name: &str, actions: Vec<String>) -> Self {
        Self { kind: "repository".to_owned(), name: name.to_owned(), actions }
    }

    fn of_registry(name: &str) -> Self {
        let actions = vec!["*".to_owned()];
        Self { kind: "registry".to_owned(), name: name.to_owned(), actions }
    }

    /// The list of repositories.
    pub(crate) fn catalog() -> Self {
        Self::of_registry("catalog")
    }

    /// The administration of the registry.
    pub(crate) fn administration() -> Self {
        Self::of_registry("admin")
    }

    /// Whether this allows the role in exactly this repository. `*` stands for every action on
    /// images, as token services of others grant it, but never for part of a name.
    pub(crate) fn allows(&self, repository: &str, role: Role) -> bool {
        let has = |action: &str| self.actions.iter().any(|allowed| allowed == action);
        self.kind == "repository"
            && self.name == repository
            && (has(role.action())
                || (role == Role::Create && has("push"))
                || (role < Role::Admin && has("*")))
    }
}

impl Access {
    /// Whether this allows the role in exactly this repository.
    pub(crate) fn allows(&self, repository: &str, role: Role) -> bool {
        self.grants.iter().any(|grant| grant.allows(repository, role))
            || self.compact.allows(repository, role)
    }

    /// Whether this allows asking for the list of repositories.
    pub(crate) fn has_catalog(&self) -> bool {
        self.grants.contains(&Grant::catalog())
    }

    /// Whether this allows administering the registry.
    pub(crate) fn has_administration(&self) -> bool {
        self.grants.contains(&Grant::administration())
    }

    /// Whether it allows only to look.
    pub(crate) fn is_read_only(&self) -> bool {
        let reads = |grant: &Grant| {
            *grant == Grant::catalog() || grant.actions.iter().all(|action| action == "pull")
        };
        self.grants.iter().all(reads)
    }

    /// Whether it allows something in which the bearer's groups decide again.
    pub(crate) fn needs_groups(&self) -> bool {
        self.has_catalog() || self.has_administration()
    }

    /// The scopes in text form, for the reply of the token service.
    pub(crate) fn to_scopes(&self) -> String {
        let scope =
            |grant: &Grant| format!("{}:{}:{}", grant.kind, grant.name, grant.actions.join(","));
        self.grants.iter().map(scope).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_scopes_are_bounded_and_read_back(
            text in "([a-z/:,()*]{0,12}|repository:[a-z/]{1,6}:(pull|push|[*])|\\PC{0,20}| ){0,90}",
        ) {
            let scopes = Scope::parse_all([text.as_str()].into_iter());
            prop_assert!(scopes.len() <= SCOPES_MAX);
            for scope in scopes.iter().filter(|scope| !scope.kind.contains('(')) {
                let written = format!("{}:{}:{}", scope.kind, scope.name, scope.actions.join(","));
                prop_assert_eq!(Scope::parse(&written), Some(scope.clone()));
            }
        }
    }

    #[test]
    fn scopes_follow_the_grammar() {
        let scope = |kind: &str, name: &str, actions: &[&str]| {
            Some(Scope {
                kind: kind.to_owned(),
                name: name.to_owned(),
                actions: actions.iter().map(|action| (*action).to_owned()).collect(),
            })
        };
        for (text, expected) in [
            ("repository:a/b:pull", scope("repository", "a/b", &["pull"])),
            ("repository:a/b:pull,push", scope("repository", "a/b", &["pull", "push"])),
            ("repository:host:5000/a:pull", scope("repository", "host:5000/a", &["pull"])),
            ("repository(plugin):a:*", scope("repository", "a", &["*"])),
            ("repository:a:", scope("repository", "a", &[])),
            ("repository:a", None),
            ("::", None),
            ("", None),
        ] {
            assert_eq!(Scope::parse(text), expected, "{text}");
        }
        let all = Scope::parse_all(
            ["repository:a:pull  x repository:b:push", "y:z:w repository:a:push,pull"].into_iter(),
        );
        let expected = [
            scope("repository", "a", &["pull", "push"]),
            scope("repository", "b", &["push"]),
            scope("y", "z", &["w"]),
        ];
        assert_eq!(all.into_iter().map(Some).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_so_many_scopes_count() {
        let many: Vec<String> = (0..1000).map(|n| format!("repository:a{n}:pull")).collect();
        let all = Scope::parse_all(many.iter().map(String::as_str));
        assert_eq!(all.len(), SCOPES_MAX);
    }

    #[test]
    fn a_role_grants_what_is_asked_for() {
        for (asked, role, expected) in [
            ("pull,push", Role::Push, "pull,push"),
            ("pull,push", Role::Create, "pull,create"),
            ("pull,push", Role::Pull, "pull"),
            ("create", Role::Push, "create"),
            ("pull,create", Role::Push, "pull,create"),
            ("*", Role::Delete, "pull,push,delete"),
            ("*", Role::Admin, "pull,push,delete,admin"),
            ("pull,delete", Role::Push, "pull"),
            ("admin", Role::Admin, "admin"),
            ("admin", Role::Delete, ""),
        ] {
            let scope = Scope::parse(&format!("repository:a:{asked}")).expect("a scope");
            assert_eq!(scope.granted(role).join(","), expected, "{asked} {role:?}");
        }
    }

    // registry.md 8.2, token confusion: a scope is for one name; `*` is an action and no pattern.
    #[test]
    fn access_is_for_exactly_one_name() {
        let grant = |name: &str, actions: &[&str]| {
            Grant::repository(name, actions.iter().map(|action| (*action).to_owned()).collect())
        };
        let access = |grants| Access { grants, ..Access::default() };
        let exact = access(vec![grant("a/b", &["pull"]), grant("c", &["create"])]);
        assert!(exact.allows("a/b", Role::Pull));
        for (name, role) in [
            ("a/bc", Role::Pull),
            ("A/b", Role::Pull),
            ("a", Role::Pull),
            ("a/b/c", Role::Pull),
            ("a/b", Role::Push),
            ("c", Role::Push),
        ] {
            assert!(!exact.allows(name, role), "{name} {role:?}");
        }
        let wild = access(vec![grant("*", &["pull"]), grant("a*", &["p*"]), grant("x", &["*"])]);
        assert!(!wild.allows("a", Role::Pull) && !wild.allows("ab", Role::Pull));
        assert!(wild.allows("x", Role::Delete) && !wild.allows("x", Role::Admin));
    }
}
