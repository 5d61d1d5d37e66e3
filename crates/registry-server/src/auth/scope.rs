//! Scopes of bearer tokens (distribution token scope documentation).

use serde::{Deserialize, Serialize};

/// Scopes that one request may ask for.
const SCOPES_MAX: usize = 64;

/// What a client asks for: `<type>[(<class>)]:<name>:<action>[,<action>…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    kind: String,
    name: String,
    actions: Vec<String>,
}

/// What a token allows: an entry of the `access` claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Access {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
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
    /// cannot be read is left out: it grants nothing.
    pub(crate) fn parse_all<'a>(parameters: impl Iterator<Item = &'a str>) -> Vec<Self> {
        parameters
            .flat_map(str::split_ascii_whitespace)
            .take(SCOPES_MAX)
            .filter_map(Self::parse)
            .collect()
    }

    /// The repository's name, if the scope is about one.
    pub(crate) fn repository(&self) -> Option<&str> {
        (self.kind == "repository").then_some(self.name.as_str())
    }

    /// Whether the scope is the list of repositories.
    pub(crate) fn is_catalog(&self) -> bool {
        self.kind == "registry" && self.name == "catalog" && self.asks_for("*")
    }

    /// Whether the scope asks for the action, by name or by `*`.
    pub(crate) fn asks_for(&self, action: &str) -> bool {
        self.actions.iter().any(|asked| asked == action || asked == "*")
    }
}

impl Access {
    pub(crate) fn repository(name: &str, actions: &[&str]) -> Self {
        let actions = actions.iter().map(|action| (*action).to_owned()).collect();
        Self { kind: "repository".to_owned(), name: name.to_owned(), actions }
    }

    pub(crate) fn catalog() -> Self {
        Self {
            kind: "registry".to_owned(),
            name: "catalog".to_owned(),
            actions: vec!["*".to_owned()],
        }
    }

    pub(crate) fn is_catalog(&self) -> bool {
        *self == Self::catalog()
    }

    /// Whether this allows the action in exactly this repository.
    pub(crate) fn allows(&self, repository: &str, action: &str) -> bool {
        self.kind == "repository"
            && self.name == repository
            && self.actions.iter().any(|allowed| allowed == action)
    }

    /// The scope in text form, for the reply of the token service.
    pub(crate) fn to_scope(&self) -> String {
        format!("{}:{}:{}", self.kind, self.name, self.actions.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let all = Scope::parse_all(["repository:a:pull  x repository:b:push", "y:z:w"].into_iter());
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn access_is_for_exactly_one_name() {
        let access = Access::repository("a/b", &["pull"]);
        assert!(access.allows("a/b", "pull"));
        for (name, action) in [("a/bc", "pull"), ("A/b", "pull"), ("a", "pull"), ("a/b", "push")] {
            assert!(!access.allows(name, action), "{name} {action}");
        }
    }
}
