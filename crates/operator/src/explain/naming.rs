//! Who must name a secret that is made: the pod, its template, or its service account.

use super::fix::{
    DIRECTORY, DOCKER_TYPE, Fix, Write, create_from_file, fix, read_config, word, write,
};
use super::gathering::{Gathered, NamedBy};
use super::subject::{Source, Subject};

/// Name of the secret that is suggested where there is none.
const FIRST_SECRET: &str = "regcred";

/// Names as a list of pull secrets.
fn list_of(names: Vec<String>) -> serde_json::Value {
    let names: Vec<_> = names.iter().map(|name| serde_json::json!({"name": name})).collect();
    serde_json::json!({"imagePullSecrets": names})
}

/// Whether admission copied the account's list into a pod that named none.
fn is_copied(subject: &Subject, gathered: &Gathered) -> bool {
    subject.kind == "Pod"
        && subject.source == Source::Cluster
        && gathered.account_secrets.as_ref().is_some_and(|list| *list == subject.pull_secrets)
}

/// Writes the account's list, which is replaced as a whole (kubelet-images.md 15.8, S11).
fn patch_account(subject: &Subject, names: Vec<String>) -> String {
    format!(
        "kubectl patch serviceaccount {} -n {} --type=merge -p {}",
        word(&subject.service_account),
        word(&subject.namespace),
        word(&list_of(names).to_string())
    )
}

/// A second secret with the type that counts: types never change, and the first one may serve
/// something else. `found` says which data it has.
pub(crate) fn retype_secret(
    subject: &Subject,
    gathered: &Gathered,
    name: &str,
    registry: &str,
    found: &str,
) -> Fix {
    let second = format!("{name}-registry");
    let made = if found.contains(".dockerconfigjson") {
        let (name, namespace) = (word(name), word(&subject.namespace));
        let created = create_from_file(&word(&second), &namespace);
        format!("({DIRECTORY} && {} && {created})", read_config(&name, &namespace))
    } else {
        write(Write::Create, &subject.namespace, &second, registry, None)
    };
    let is_named = |named_by| {
        let mut secrets = gathered.secrets.iter();
        secrets.any(|secret| secret.name == name && secret.named_by == named_by)
    };
    let text = format!("make secret {second} of the type {DOCKER_TYPE}");
    let of_account = gathered.account_secrets.as_ref().filter(|list| {
        list.iter().any(|listed| listed == name)
            && (is_named(NamedBy::ServiceAccount) || is_copied(subject, gathered))
    });
    let Some(list) = of_account else {
        let text = format!(
            "{text}, and name it instead of {name} (a pod that exists must be made again for that)"
        );
        return fix(text, made);
    };
    let replaced = |listed: &String| if listed == name { second.clone() } else { listed.clone() };
    let patch = patch_account(subject, list.iter().map(replaced).collect());
    let text = format!(
        "{text}, and let the service account {} hand it to new pods instead of {name}; pods that \
         exist must be made again",
        subject.service_account
    );
    fix(text, format!("{made} && {patch}"))
}

/// Makes a secret, and says who must name it.
pub(crate) fn first_secret(subject: &Subject, gathered: &Gathered, registry: &str) -> Fix {
    if subject.kind == "Image" {
        // What a login writes counts only where it is named.
        return fix(
            format!(
                "log in to {registry} and explain with the file that this writes, or with the \
                 pod's secret (--secret FILE)"
            ),
            format!(
                "shipway login --keep-password {} && shipway explain --image {} --secret \
                 \"${{DOCKER_CONFIG:-$HOME/.docker}}/config.json\"",
                word(registry),
                word(&subject.name)
            ),
        );
    }
    let (namespace, account) = (&subject.namespace, &subject.service_account);
    let of_account = gathered.account_secrets.as_ref();
    let is_taken = |name: &String| {
        subject.pull_secrets.contains(name) || of_account.is_some_and(|list| list.contains(name))
    };
    let numbered = (2..).map(|n| format!("{FIRST_SECRET}-{n}"));
    let name = std::iter::once(FIRST_SECRET.to_owned())
        .chain(numbered)
        .find(|name| !is_taken(name))
        .unwrap_or_else(|| FIRST_SECRET.to_owned());
    let made = write(Write::Create, namespace, &name, registry, None);
    let with_it = |list: &[String]| list.iter().chain(std::iter::once(&name)).cloned().collect();
    if subject.pull_secrets.is_empty() || is_copied(subject, gathered) {
        let text = format!(
            "make a secret, and let the service account {account} hand it to new pods; pods that \
             exist must be made again"
        );
        return match of_account {
            Some(list) => fix(text, format!("{made} && {}", patch_account(subject, with_it(list)))),
            None => fix(text, made),
        };
    }
    let text =
        format!("make a secret, and add {name} to the imagePullSecrets that name the others");
    if subject.source != Source::Cluster || subject.kind == "PodTemplate" {
        return fix(text, made);
    }
    if matches!(subject.kind.as_str(), "Pod" | "Job") {
        let kind = subject.kind.to_lowercase();
        return fix(format!("{text}; a {kind} that exists must be deleted and made again"), made);
    }
    let list = list_of(with_it(&subject.pull_secrets));
    let mut patch = serde_json::json!({"spec": {"template": {"spec": list}}});
    if subject.kind == "CronJob" {
        patch = serde_json::json!({"spec": {"jobTemplate": patch}});
    }
    fix(
        text,
        format!(
            "{made} && kubectl patch {} {} -n {} --type=merge -p {}",
            subject.kind.to_lowercase(),
            word(&subject.name),
            word(namespace),
            word(&patch.to_string())
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_the_wrong_type_stays_as_it_is() {
        let subject = Subject::of_image("x", "ns");
        for found in ["its data are password", "its type is Opaque, with .dockerconfigjson"] {
            let gathered = Gathered::default();
            let fix = retype_secret(&subject, &gathered, "db-password", "r:5000", found);
            let command = fix.command.expect("a command");
            assert!(command.contains("kubectl create secret generic db-password-registry "));
            assert!(!command.contains("replace") && !command.contains("patch"), "{command}");
        }
    }
}
