use credentials::{ConfigEntry, RegistryAuth, Secret};

use super::*;
use crate::secret_sync::parse_selector;

const NAME: &str = "regcred";

fn content(password: &str) -> Content {
    let auth = RegistryAuth::basic("u", Secret::new(password));
    let entry = ConfigEntry { key: "r.example".to_owned(), auth };
    Content::new(&[entry], &[]).expect("a content").0
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn version(resource_version: &str) -> Version {
    Version { uid: "u".to_owned(), resource_version: resource_version.to_owned() }
}

fn desired(scope: Scope, accounts: &[&str]) -> Desired {
    Desired {
        name: NAME.to_owned(),
        content: Some(content("one")),
        scope,
        accounts: Accounts::Named(names(accounts)),
        ..Desired::default()
    }
}

fn named(namespaces: &[&str]) -> Scope {
    Scope { named: names(namespaces), ..Scope::default() }
}

fn namespaces(observed: &mut Observed, names: &[&str]) {
    for name in names {
        observed.namespaces.insert((*name).to_owned(), NamespaceState::default());
    }
}

fn made(content: &Content) -> SecretState {
    SecretState {
        owner: Some(NAME.to_owned()),
        kind: SECRET_TYPE.to_owned(),
        immutable: false,
        content: Some(content.fingerprint()),
        mark: Some(content.mark().to_owned()),
        version: version("7"),
    }
}

fn account(observed: &mut Observed, namespace: &str, name: &str, list: &[&str], added: bool) {
    let pull_secrets = list.iter().map(|name| (*name).to_owned()).collect();
    let state = AccountState { pull_secrets, added, version: version("3") };
    observed.accounts.insert((namespace.to_owned(), name.to_owned()), state);
}

/// The steps as short lines.
fn lines(plan: &Plan) -> Vec<String> {
    plan.steps
        .iter()
        .map(|step| {
            let what = match &step.kind {
                StepKind::CreateSecret => "create".to_owned(),
                StepKind::UpdateSecret { .. } => "update".to_owned(),
                StepKind::DeleteSecret { .. } => "delete".to_owned(),
                StepKind::AddToAccount { account, pull_secrets, .. } => {
                    format!("add {account} [{}]", pull_secrets.join(" "))
                }
                StepKind::RemoveFromAccount { account, pull_secrets, .. } => {
                    format!("remove {account} [{}]", pull_secrets.join(" "))
                }
            };
            format!("{}: {what}", step.namespace)
        })
        .collect()
}

fn problems(plan: &Plan) -> Vec<String> {
    plan.problems.iter().map(Problem::to_string).collect()
}

#[test]
fn scope_is_by_name_by_label_or_everything_but_the_system() {
    let labelled = |text: &str| Scope {
        selector: Some(parse_selector(text).expect("a selector")),
        ..Scope::default()
    };
    let all = Scope { all: true, ..Scope::default() };
    let but = Scope { excluded: names(&["a"]), ..all.clone() };
    let rows = [
        (named(&["a", "b"]), vec!["a", "b"]),
        (named(&["kube-system"]), vec!["kube-system"]),
        (labelled("pull=yes"), vec!["b"]),
        (labelled("!pull"), vec!["a", "c"]),
        (all.clone(), vec!["a", "b", "c"]),
        (Scope { named: names(&["kube-public"]), ..all }, vec!["a", "b", "c", "kube-public"]),
        (but, vec!["b", "c"]),
        (Scope { excluded: names(&["a"]), ..named(&["a", "b"]) }, vec!["b"]),
    ];
    for (scope, expected) in rows {
        let mut observed = Observed::default();
        namespaces(&mut observed, &["a", "b", "c", "kube-public", "kube-system"]);
        let b = observed.namespaces.get_mut("b").expect("just made");
        b.labels.insert("pull".to_owned(), "yes".to_owned());
        let plan = plan(&desired(scope, &[]), &observed);
        let expected: Vec<String> = expected.iter().map(|name| format!("{name}: create")).collect();
        assert_eq!(lines(&plan), expected);
    }
}

#[test]
fn secrets_come_before_the_accounts_and_keep_the_lists_of_others() {
    let mut observed = Observed::default();
    namespaces(&mut observed, &["a"]);
    account(&mut observed, "a", "builder", &[], false);
    account(&mut observed, "a", "default", &["z", "other", "z"], false);
    account(&mut observed, "b", "default", &[], false);
    let wanted = desired(named(&["a"]), &["default"]);
    let first = plan(&wanted, &observed);
    assert_eq!(lines(&first), ["a: create", "a: add default [z other z regcred]"]);
    let everyone = Desired { accounts: Accounts::All, ..wanted };
    assert_eq!(
        lines(&plan(&everyone, &observed)),
        ["a: create", "a: add builder [regcred]", "a: add default [z other z regcred]"]
    );
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let wanted = desired(named(&["a"]), &["default"]);
    let content = content("one");
    let mut observed = Observed::default();
    namespaces(&mut observed, &["a", "other"]);
    observed.secrets.insert("a".to_owned(), made(&content));
    account(&mut observed, "a", "default", &[NAME], true);
    assert_eq!(plan(&wanted, &observed), Plan::default());
    // The entry may have been there before.
    account(&mut observed, "a", "default", &[NAME], false);
    assert_eq!(plan(&wanted, &observed), Plan::default());
}

#[test]
fn rotation_and_drift_are_updates_of_the_state_that_was_seen() {
    let wanted = desired(named(&["a"]), &[]);
    let (now, before) = (content("one"), content("two"));
    let without_key = SecretState { content: None, ..made(&now) };
    let without_mark = SecretState { mark: None, ..made(&now) };
    for secret in [made(&before), without_key, without_mark] {
        let mut observed = Observed::default();
        namespaces(&mut observed, &["a"]);
        observed.secrets.insert("a".to_owned(), secret);
        let kind = StepKind::UpdateSecret { version: version("7") };
        let steps = vec![Step { namespace: "a".to_owned(), kind }];
        assert_eq!(plan(&wanted, &observed), Plan { steps, problems: Vec::new() });
    }
}

#[test]
fn what_others_made_is_named_and_neither_written_nor_referenced() {
    let content = content("one");
    let wanted = desired(named(&["a"]), &["default"]);
    let nobodys = SecretState { owner: None, ..made(&content) };
    let anothers = SecretState { owner: Some("other".to_owned()), ..made(&content) };
    let of_another_type = SecretState { kind: "Opaque".to_owned(), ..made(&content) };
    for secret in [nobodys.clone(), anothers, of_another_type] {
        let mut observed = Observed::default();
        namespaces(&mut observed, &["a"]);
        observed.secrets.insert("a".to_owned(), secret);
        account(&mut observed, "a", "default", &[], false);
        let plan = plan(&wanted, &observed);
        assert!(plan.steps.is_empty());
        assert_eq!(
            problems(&plan),
            ["secret a/regcred was not made by this sync and is left alone; sync under another \
              name, or remove it"]
        );
    }
    let mut observed = Observed::default();
    namespaces(&mut observed, &["a"]);
    observed.secrets.insert("a".to_owned(), nobodys);
    let removal = Desired { content: None, ..wanted };
    assert_eq!(plan(&removal, &observed), Plan::default());
}

#[test]
fn frozen_secrets_are_named() {
    let frozen = |content: &Content| SecretState { immutable: true, ..made(content) };
    let mut observed = Observed::default();
    namespaces(&mut observed, &["a"]);
    observed.secrets.insert("a".to_owned(), frozen(&content("two")));
    let wanted = desired(named(&["a"]), &[]);
    assert_eq!(
        problems(&plan(&wanted, &observed)),
        ["secret a/regcred is immutable and has another content; remove it"]
    );
    observed.secrets.insert("a".to_owned(), frozen(&content("one")));
    assert_eq!(plan(&wanted, &observed), Plan::default());
}

#[test]
fn source_is_read_and_never_written_or_removed() {
    let mut observed = Observed::default();
    namespaces(&mut observed, &["a", "b"]);
    observed.secrets.insert("a".to_owned(), SecretState { owner: None, ..made(&content("x")) });
    account(&mut observed, "a", "default", &[], false);
    let wanted = Desired {
        source: Some(("a".to_owned(), NAME.to_owned())),
        accounts: Accounts::All,
        ..desired(Scope { all: true, ..Scope::default() }, &[])
    };
    assert_eq!(lines(&plan(&wanted, &observed)), ["a: add default [regcred]", "b: create"]);
    let labelled = SecretState { owner: Some(NAME.to_owned()), ..made(&content("x")) };
    observed.secrets.insert("a".to_owned(), labelled);
    let removal = Desired { content: None, ..wanted };
    assert!(plan(&removal, &observed).steps.is_empty());
}

#[test]
fn removal_takes_exactly_what_was_made_whatever_people_did_around_it() {
    let mut observed = Observed::default();
    namespaces(&mut observed, &["a", "b", "c"]);
    observed.secrets.insert("a".to_owned(), made(&content("edited by hand")));
    account(&mut observed, "a", "added", &["x", NAME, "y"], true);
    account(&mut observed, "a", "twice", &[NAME, NAME], true);
    account(&mut observed, "a", "gone", &["x"], true);
    account(&mut observed, "a", "by-hand", &[NAME], false);
    observed.secrets.insert("b".to_owned(), made(&content("one")));
    let all = Scope { all: true, ..Scope::default() };
    let everywhere = Desired { name: NAME.to_owned(), scope: all, ..Desired::default() };
    assert_eq!(
        lines(&plan(&everywhere, &observed)),
        [
            "a: remove added [x y]",
            "a: remove gone [x]",
            "a: remove twice [regcred]",
            "a: delete",
            "b: delete",
        ]
    );
    let only_b = Desired { scope: named(&["b", "nowhere"]), ..everywhere };
    assert_eq!(lines(&plan(&only_b, &observed)), ["b: delete"]);
    assert_eq!(problems(&plan(&only_b, &observed)), ["namespace nowhere does not exist"]);
}

#[test]
fn namespaces_and_accounts_that_left_the_scope_are_cleared_only_when_asked() {
    let mut observed = Observed::default();
    namespaces(&mut observed, &["in", "out"]);
    for namespace in ["in", "out"] {
        observed.secrets.insert(namespace.to_owned(), made(&content("one")));
        account(&mut observed, namespace, "default", &[NAME], true);
        account(&mut observed, namespace, "former", &[NAME], true);
    }
    let keep = desired(named(&["in"]), &["default"]);
    assert_eq!(plan(&keep, &observed), Plan::default());
    let remove = Desired { elsewhere: Elsewhere::Remove, ..keep };
    assert_eq!(
        lines(&plan(&remove, &observed)),
        ["in: remove former []", "out: remove default []", "out: remove former []", "out: delete"]
    );
}

#[test]
fn what_is_missing_is_named_and_what_ends_is_left_to_its_end() {
    let mut observed = Observed::default();
    namespaces(&mut observed, &["a", "ending"]);
    observed.namespaces.get_mut("ending").expect("just made").terminating = true;
    let wanted = desired(named(&["a", "ending", "nowhere"]), &["builder"]);
    let plan = plan(&wanted, &observed);
    assert_eq!(lines(&plan), ["a: create"]);
    assert_eq!(
        problems(&plan),
        ["namespace nowhere does not exist", "service account a/builder does not exist"]
    );
}

#[test]
fn removal_takes_nothing_from_where_it_was_not_sent() {
    let mut observed = Observed::default();
    for name in ["a", "kube-system", "prod"] {
        namespaces(&mut observed, &[name]);
        observed.secrets.insert(name.to_owned(), made(&content("one")));
    }
    let but = |scope: Scope| Scope { excluded: names(&["prod"]), ..scope };
    let all = || Scope { all: true, ..Scope::default() };
    for (scope, expected) in [
        (Scope::default(), vec![]),
        (but(Scope::default()), vec![]),
        (named(&[""]), vec![]),
        (but(named(&["a", "prod"])), vec!["a: delete"]),
        (but(all()), vec!["a: delete", "kube-system: delete"]),
        (all(), vec!["a: delete", "kube-system: delete", "prod: delete"]),
    ] {
        let removal = Desired { name: NAME.to_owned(), scope, ..Desired::default() };
        assert_eq!(lines(&plan(&removal, &observed)), expected, "{:?}", removal.scope);
    }
    let pruned = Desired { elsewhere: Elsewhere::Remove, ..desired(but(named(&["a"])), &[]) };
    assert_eq!(lines(&plan(&pruned, &observed)), ["kube-system: delete"]);
}

#[test]
fn neither_nothing_nor_an_empty_name_is_a_choice_of_namespaces() {
    let excluding = |names: BTreeSet<String>| Scope { excluded: names, ..Scope::default() };
    let all = |scope: Scope| Scope { all: true, ..scope };
    for (scope, expected) in [
        (Scope::default(), Err(BadScope::Nothing)),
        (excluding(names(&["prod"])), Err(BadScope::Nothing)),
        (named(&[""]), Err(BadScope::EmptyName)),
        (named(&["a", ""]), Err(BadScope::EmptyName)),
        (all(excluding(names(&[""]))), Err(BadScope::EmptyName)),
        (all(excluding(names(&["prod"]))), Ok(())),
        (named(&["a"]), Ok(())),
    ] {
        assert_eq!(scope.check(), expected, "{scope:?}");
    }
}
