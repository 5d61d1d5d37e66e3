//! The rights that a sync needs in a cluster, and no others.

use std::fmt::Write as _;

use super::SECRET_TYPE;
use super::plan::{Accounts, Desired, Elsewhere};

/// A manifest with a service account in `home` and the rights that the sync needs: it sees
/// namespaces, accounts, and the secrets of its own name; it writes those secrets, and the accounts
/// that it is for. Where namespaces are named, it may create in those only, and unless the sync
/// prunes, write in those only. A policy keeps it from making a secret of another name or type,
/// such as the token of an account, which roles cannot.
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
    text.push_str(&policy(&name, secret, home));
    let scope = &desired.scope;
    let named_only = scope.is_by_name_only();
    // Nobody can be allowed to create only one name: it is not known when the rule is checked.
    let mut writing = "- apiGroups: [\"\"]\n  resources: [secrets]\n  verbs: [create]\n".to_owned();
    let changing = changing(desired);
    // What is pruned may be anywhere.
    if named_only && desired.elsewhere == Elsewhere::Remove {
        seeing.push_str(&changing);
    } else {
        writing.push_str(&changing);
    }
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

/// Limits the sync's account to secrets of one name and type: who may create any secret may ask
/// for the token of any account.
fn policy(name: &str, secret: &str, home: &str) -> String {
    let api = "apiVersion: admissionregistration.k8s.io/v1";
    format!(
        "---
{api}
kind: ValidatingAdmissionPolicy
metadata:
  name: {name}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - apiGroups: [\"\"]
      apiVersions: [\"*\"]
      operations: [CREATE, UPDATE]
      resources: [secrets]
  matchConditions:
  - name: by-this-sync
    expression: request.userInfo.username == 'system:serviceaccount:{home}:{name}'
  validations:
  - expression: object.type == '{SECRET_TYPE}' && object.metadata.name == '{secret}'
    message: this account writes secrets called {secret} of type {SECRET_TYPE} only
---
{api}
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {name}
spec:
  policyName: {name}
  validationActions: [Deny]
"
    )
}

fn changing(desired: &Desired) -> String {
    let secret = &desired.name;
    let mut rules = format!(
        "- apiGroups: [\"\"]\n  resources: [secrets]\n  resourceNames: [{secret}]\n  verbs: [patch, \
         delete]\n"
    );
    match &desired.accounts {
        // Those that the sync was for before may have any name.
        _ if desired.elsewhere == Elsewhere::Remove => rules
            .push_str("- apiGroups: [\"\"]\n  resources: [serviceaccounts]\n  verbs: [patch]\n"),
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
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: shipway-secret-sync-regcred
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - apiGroups: [\"\"]
      apiVersions: [\"*\"]
      operations: [CREATE, UPDATE]
      resources: [secrets]
  matchConditions:
  - name: by-this-sync
    expression: request.userInfo.username == \
'system:serviceaccount:tools:shipway-secret-sync-regcred'
  validations:
  - expression: object.type == 'kubernetes.io/dockerconfigjson' && object.metadata.name == 'regcred'
    message: this account writes secrets called regcred of type kubernetes.io/dockerconfigjson only
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: shipway-secret-sync-regcred
spec:
  policyName: shipway-secret-sync-regcred
  validationActions: [Deny]
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

    #[test]
    fn pruning_may_change_its_own_anywhere_and_create_only_where_it_was_sent() {
        let desired = Desired {
            name: "regcred".to_owned(),
            scope: Scope { named: names(&["a"]), ..Scope::default() },
            elsewhere: Elsewhere::Remove,
            ..Desired::default()
        };
        let text = permissions(&desired, "tools");
        let rules_of = |kind: &str| {
            let start = format!("kind: {kind}\nmetadata");
            let found = text.split("---\n").find(|one| one.contains(&start)).expect("a role");
            (found.contains("create"), found.contains("[patch, delete]"))
        };
        assert_eq!((rules_of("ClusterRole"), rules_of("Role")), ((false, true), (true, false)));
    }
}
