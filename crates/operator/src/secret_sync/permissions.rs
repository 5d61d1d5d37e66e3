//! The rights that a sync needs in a cluster, and no others.

use std::fmt::Write as _;

use super::plan::{Accounts, Desired};

/// A manifest with a service account in `home` and the rights that the sync needs: it sees
/// namespaces, accounts, and the secrets of its own name; it writes those secrets, and the accounts
/// that it is for. Where namespaces are named, it may write in those only.
pub fn permissions(desired: &Desired, home: &str) -> String {
    let name = format!("shipway-secret-sync-{}", desired.name);
    let secret = &desired.name;
    let mut text = format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n  namespace: {home}\n"
    );
    let mut seeing = format!(
        "- apiGroups: [\"\"]\n  resources: [namespaces, serviceaccounts]\n  verbs: [list, watch]\n\
         - apiGroups: [\"\"]\n  resources: [secrets]\n  resourceNames: [{secret}]\n  verbs: [list, \
         watch]\n"
    );
    let scope = &desired.scope;
    let named_only = !scope.named.is_empty() && scope.selector.is_none() && !scope.all;
    let writing = writing(desired);
    if !named_only {
        seeing.push_str(&writing);
    }
    grant(&mut text, "ClusterRole", &name, None, home, &seeing);
    if named_only {
        for namespace in scope.named.difference(&scope.excluded) {
            grant(&mut text, "Role", &name, Some(namespace), home, &writing);
        }
    }
    if let Some((namespace, source)) = &desired.source {
        let rules = format!(
            "- apiGroups: [\"\"]\n  resources: [secrets]\n  resourceNames: [{source}]\n  verbs: \
             [get, list, watch]\n"
        );
        grant(&mut text, "Role", &format!("{name}-source"), Some(namespace), home, &rules);
    }
    text
}

fn writing(desired: &Desired) -> String {
    let secret = &desired.name;
    // Nobody can be allowed to create only one name: it is not known when the rule is checked.
    let mut rules = format!(
        "- apiGroups: [\"\"]\n  resources: [secrets]\n  verbs: [create]\n\
         - apiGroups: [\"\"]\n  resources: [secrets]\n  resourceNames: [{secret}]\n  verbs: [patch, \
         delete]\n"
    );
    match &desired.accounts {
        Accounts::None => {}
        Accounts::Named(names) => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let _ = writeln!(
                rules,
                "- apiGroups: [\"\"]\n  resources: [serviceaccounts]\n  resourceNames: [{}]\n  \
                 verbs: [patch]",
                names.join(", ")
            );
        }
        Accounts::All => rules
            .push_str("- apiGroups: [\"\"]\n  resources: [serviceaccounts]\n  verbs: [patch]\n"),
    }
    rules
}

/// A role with its binding to the sync's account.
fn grant(
    text: &mut String,
    kind: &str,
    name: &str,
    namespace: Option<&str>,
    home: &str,
    rules: &str,
) {
    let place = namespace.map(|one| format!("  namespace: {one}\n")).unwrap_or_default();
    let account = name.strip_suffix("-source").unwrap_or(name);
    let _ = write!(
        text,
        "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: \
         {name}\n{place}rules:\n{rules}---\napiVersion: rbac.authorization.k8s.io/v1\nkind: \
         {kind}Binding\nmetadata:\n  name: {name}\n{place}roleRef:\n  apiGroup: \
         rbac.authorization.k8s.io\n  kind: {kind}\n  name: {name}\nsubjects:\n- kind: \
         ServiceAccount\n  name: {account}\n  namespace: {home}\n"
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::secret_sync::Scope;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn everywhere_needs_a_cluster_role_with_the_secrets_own_name() {
        let desired = Desired {
            name: "regcred".to_owned(),
            scope: Scope { all: true, ..Scope::default() },
            accounts: Accounts::Named(names(&["default"])),
            source: Some(("vault".to_owned(), "master".to_owned())),
            ..Desired::default()
        };
        assert_eq!(
            permissions(&desired, "tools"),
            "\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: shipway-secret-sync-regcred
  namespace: tools
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: shipway-secret-sync-regcred
rules:
- apiGroups: [\"\"]
  resources: [namespaces, serviceaccounts]
  verbs: [list, watch]
- apiGroups: [\"\"]
  resources: [secrets]
  resourceNames: [regcred]
  verbs: [list, watch]
- apiGroups: [\"\"]
  resources: [secrets]
  verbs: [create]
- apiGroups: [\"\"]
  resources: [secrets]
  resourceNames: [regcred]
  verbs: [patch, delete]
- apiGroups: [\"\"]
  resources: [serviceaccounts]
  resourceNames: [default]
  verbs: [patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: shipway-secret-sync-regcred
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: shipway-secret-sync-regcred
subjects:
- kind: ServiceAccount
  name: shipway-secret-sync-regcred
  namespace: tools
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: shipway-secret-sync-regcred-source
  namespace: vault
rules:
- apiGroups: [\"\"]
  resources: [secrets]
  resourceNames: [master]
  verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: shipway-secret-sync-regcred-source
  namespace: vault
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: shipway-secret-sync-regcred-source
subjects:
- kind: ServiceAccount
  name: shipway-secret-sync-regcred
  namespace: tools
"
        );
    }

    #[test]
    fn named_namespaces_are_the_only_ones_that_may_be_written() {
        let desired = Desired {
            name: "regcred".to_owned(),
            scope: Scope { named: names(&["a", "b"]), ..Scope::default() },
            ..Desired::default()
        };
        let text = permissions(&desired, "tools");
        let documents: Vec<&str> = text.split("---\n").collect();
        let cluster = documents.iter().find(|one| one.contains("kind: ClusterRole\nmetadata"));
        assert!(cluster.is_some_and(|role| !role.contains("create") && !role.contains("patch")));
        let roles = |namespace: &str| {
            let place = format!(
                "kind: Role\nmetadata:\n  name: shipway-secret-sync-regcred\n  namespace: {namespace}\n"
            );
            documents.iter().filter(|one| one.contains(&place) && one.contains("create")).count()
        };
        assert_eq!((roles("a"), roles("b")), (1, 1));
    }
}
