//! What each user may do.
//!
//! The policy is built in; there are no Role objects yet:
//! - `system:masters` may do everything.
//! - `system:nodes` may do what a node agent needs: read the objects pods refer to, write status of
//!   nodes, pods, volumes and claims, delete pods, create events, leases and pod tokens.
//! - every authenticated user may read discovery, and ask about itself (`selfsubject…reviews`).
//! - a service account has no further rights, as on a cluster without role bindings.
//! - an anonymous user may read health and version only.

use crate::identity::{AUTHENTICATED, MASTERS, NODES, User};

/// What a request wants to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Verb: `get`, `list`, `create`, …
    pub verb: String,
    /// API group of the resource.
    pub group: String,
    /// Plural resource; empty for a path that is no resource.
    pub resource: String,
    /// Subresource, if any.
    pub subresource: String,
    /// Namespace, if any.
    pub namespace: String,
    /// Object name, if any.
    pub name: String,
    /// Path of a request that is about no resource.
    pub path: String,
}

/// Verbs on resources, or on paths, granted to one group.
pub struct Rule {
    /// Who has it.
    pub group: &'static str,
    /// Verbs; `*` for any.
    pub verbs: &'static [&'static str],
    /// API groups; `*` for any.
    pub api_groups: &'static [&'static str],
    /// `resource` or `resource/subresource`; `*` for any.
    pub resources: &'static [&'static str],
    /// Paths that are no resources; a trailing `*` matches the rest.
    pub paths: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];

/// Every grant there is.
pub static RULES: &[Rule] = &[
    Rule { group: MASTERS, verbs: &["*"], api_groups: &["*"], resources: &["*"], paths: &["*"] },
    Rule {
        group: AUTHENTICATED,
        verbs: &["get"],
        api_groups: &[],
        resources: &[],
        paths: &[
            "/api",
            "/api/*",
            "/apis",
            "/apis/*",
            "/healthz",
            "/healthz/*",
            "/livez",
            "/livez/*",
            "/readyz",
            "/readyz/*",
            "/version",
            "/version/",
            "/openapi",
            "/openapi/*",
            "/.well-known/openid-configuration",
            "/openid/v1/jwks",
        ],
    },
    Rule {
        group: AUTHENTICATED,
        verbs: &["create"],
        api_groups: &["authorization.k8s.io"],
        resources: &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        paths: &[],
    },
    Rule {
        group: AUTHENTICATED,
        verbs: &["create"],
        api_groups: &["authentication.k8s.io"],
        resources: &["selfsubjectreviews"],
        paths: &[],
    },
    Rule {
        group: NODES,
        verbs: READ,
        api_groups: &["", "storage.k8s.io"],
        resources: &[
            "nodes",
            "pods",
            "secrets",
            "configmaps",
            "serviceaccounts",
            "namespaces",
            "persistentvolumes",
            "persistentvolumeclaims",
            "storageclasses",
        ],
        paths: &[],
    },
    Rule {
        group: NODES,
        verbs: &["create", "update", "patch"],
        api_groups: &["", "events.k8s.io"],
        resources: &["nodes", "events"],
        paths: &[],
    },
    Rule {
        group: NODES,
        verbs: &["get", "update", "patch"],
        api_groups: &[""],
        resources: &[
            "nodes/status",
            "pods/status",
            "persistentvolumes/status",
            "persistentvolumeclaims/status",
        ],
        paths: &[],
    },
    Rule {
        group: NODES,
        verbs: &["delete"],
        api_groups: &[""],
        // The node is the provisioner of local-path volumes and deletes what it has reclaimed.
        resources: &["pods", "persistentvolumes"],
        paths: &[],
    },
    Rule {
        group: NODES,
        verbs: &["create"],
        api_groups: &["", "authentication.k8s.io", "authorization.k8s.io"],
        resources: &["serviceaccounts/token", "tokenreviews", "subjectaccessreviews"],
        paths: &[],
    },
    Rule {
        group: NODES,
        verbs: &["create", "get", "list", "watch", "update", "patch", "delete"],
        api_groups: &["coordination.k8s.io"],
        resources: &["leases"],
        paths: &[],
    },
];

/// Paths anyone may read, with or without a credential.
const PUBLIC_PATHS: [&str; 5] = ["/healthz", "/livez", "/readyz", "/version", "/version/"];

/// Whether a path is open to everyone.
pub fn is_public(path: &str) -> bool {
    PUBLIC_PATHS.contains(&path)
}

/// Whether the built-in policy allows a request.
pub fn is_allowed(user: &User, wanted: &Attributes) -> bool {
    if wanted.resource.is_empty() && wanted.verb == "get" && is_public(&wanted.path) {
        return true;
    }
    RULES.iter().any(|rule| user.is_in(rule.group) && grants(rule, wanted))
}

fn grants(rule: &Rule, wanted: &Attributes) -> bool {
    if !contains(rule.verbs, &wanted.verb) {
        return false;
    }
    if wanted.resource.is_empty() {
        return rule.paths.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => wanted.path.starts_with(prefix),
            None => *pattern == wanted.path,
        });
    }
    let resource = if wanted.subresource.is_empty() {
        wanted.resource.clone()
    } else {
        format!("{}/{}", wanted.resource, wanted.subresource)
    };
    contains(rule.api_groups, &wanted.group) && contains(rule.resources, &resource)
}

fn contains(list: &[&str], wanted: &str) -> bool {
    list.iter().any(|one| *one == "*" || *one == wanted)
}

/// Why a request is refused, in the words of upstream's RBAC.
pub fn refusal(user: &User, wanted: &Attributes) -> String {
    let Attributes { verb, group, resource, subresource, namespace, path, .. } = wanted;
    if resource.is_empty() {
        return format!("User {:?} cannot {verb} path {path:?}", user.name);
    }
    let resource =
        if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
    let place = if namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {namespace:?}")
    };
    format!(
        "User {:?} cannot {verb} resource {resource:?} in API group {group:?} {place}",
        user.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SERVICE_ACCOUNTS;

    fn wants(verb: &str, group: &str, resource: &str, subresource: &str) -> Attributes {
        Attributes {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: "default".to_owned(),
            ..Attributes::default()
        }
    }

    #[test]
    fn masters_may_do_everything_and_nodes_what_they_need() {
        let admin = User::authenticated("a", &[MASTERS]);
        let node = User::authenticated("system:node:n", &[NODES]);
        let rows = [
            (&admin, wants("delete", "", "secrets", ""), true),
            (&node, wants("get", "", "secrets", ""), true),
            (&node, wants("create", "", "secrets", ""), false),
            (&node, wants("patch", "", "pods", "status"), true),
            (&node, wants("patch", "", "pods", ""), false),
            (&node, wants("delete", "", "pods", ""), true),
            (&node, wants("create", "", "serviceaccounts", "token"), true),
            (&node, wants("update", "coordination.k8s.io", "leases", ""), true),
        ];
        for (user, wanted, expected) in rows {
            assert_eq!(is_allowed(user, &wanted), expected, "{} {wanted:?}", user.name);
        }
    }

    #[test]
    fn service_accounts_may_only_ask_about_themselves() {
        let account = User::authenticated("system:serviceaccount:default:x", &[SERVICE_ACCOUNTS]);
        let secrets = wants("get", "", "secrets", "");
        assert!(!is_allowed(&account, &secrets));
        assert!(is_allowed(
            &account,
            &wants("create", "authorization.k8s.io", "selfsubjectaccessreviews", "")
        ));
        assert_eq!(
            refusal(&account, &secrets),
            "User \"system:serviceaccount:default:x\" cannot get resource \"secrets\" in API group \"\" \
             in the namespace \"default\""
        );
    }

    #[test]
    fn anonymous_reads_health_and_version_only() {
        let nobody = User::anonymous();
        let path = |path: &str| Attributes {
            verb: "get".to_owned(),
            path: path.to_owned(),
            ..Attributes::default()
        };
        assert!(is_allowed(&nobody, &path("/version")));
        assert!(is_allowed(&nobody, &path("/healthz")));
        assert!(!is_allowed(&nobody, &path("/api")));
        assert!(!is_allowed(&nobody, &wants("list", "", "pods", "")));
    }
}
