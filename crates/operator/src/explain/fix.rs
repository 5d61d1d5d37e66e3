//! The one thing to do, in words and as a command that can be pasted. No command holds a secret:
//! what needs one asks for it.

use credentials::{Candidate, Origin};
use oci_model::Reference;

use super::subject::{ImageUse, Role, Source, Subject};

/// Name of the secret that is suggested where there is none.
const FIRST_SECRET: &str = "regcred";

/// Asks for the password; the variable stays in the shell.
const ASK_PASSWORD: &str = "read -rsp 'password: ' PW";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fix {
    pub(crate) text: String,
    pub(crate) command: Option<String>,
}

fn fix(text: impl Into<String>, command: impl Into<String>) -> Fix {
    Fix { text: text.into(), command: Some(command.into()) }
}

/// A text as one word of a POSIX shell.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=,+%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The server that becomes the key of an entry.
fn server_of(registry: &str) -> &str {
    match registry {
        "docker.io" | "" => "https://index.docker.io/v1/",
        other => other,
    }
}

/// The command line that makes a secret, without what becomes of its output.
fn create(namespace: &str, name: &str, registry: &str, user: Option<&str>) -> String {
    let (ask_user, user) = match user {
        Some(user) => (String::new(), word(user)),
        None => ("read -rp 'user: ' U && ".to_owned(), "\"$U\"".to_owned()),
    };
    format!(
        "{ask_user}{ASK_PASSWORD} && kubectl create secret docker-registry {} -n {} \
         --docker-server={} --docker-username={user} --docker-password=\"$PW\"",
        word(name),
        word(namespace),
        word(server_of(registry)),
    )
}

/// Writes a secret anew, whatever is there.
pub(crate) fn renew_secret(namespace: &str, name: &str, registry: &str, user: Option<&str>) -> Fix {
    let command = format!(
        "{} --dry-run=client -o yaml | kubectl replace --force -f -",
        create(namespace, name, registry, user)
    );
    fix(format!("write secret {name} anew, with a credential for {registry}"), command)
}

/// Writes the place anew that a candidate comes from.
pub(crate) fn renew(
    namespace: &str,
    candidate: &Candidate,
    registry: &str,
    user: Option<&str>,
) -> Fix {
    match &candidate.origin {
        Origin::Secret { name, .. } => renew_secret(namespace, name, registry, user),
        Origin::File { path } => {
            let directory = path.rsplit_once('/').map_or(".", |(directory, _)| directory);
            let user = user.map_or_else(String::new, |user| format!(" -u {}", word(user)));
            fix(
                format!("log in again, into {path} of the node"),
                format!("DOCKER_CONFIG={} shipway login {}{user}", word(directory), word(registry)),
            )
        }
        Origin::Provider { name } => Fix {
            text: format!("see why the provider {name} hands out a credential that is refused"),
            command: None,
        },
        Origin::CommandLine => fix("log in again", format!("shipway login {}", word(registry))),
    }
}

/// Brings a secret to the pod's namespace.
pub(crate) fn copy_secret(name: &str, from: &str, namespace: &str) -> Fix {
    let (name, from, namespace) = (word(name), word(from), word(namespace));
    fix(
        format!("copy it to namespace {namespace}; shipway secret sync keeps copies alike"),
        format!(
            "kubectl get secret {name} -n {from} -o jsonpath='{{.data.\\.dockerconfigjson}}' | \
             base64 -d | kubectl create secret generic {name} -n {namespace} \
             --type=kubernetes.io/dockerconfigjson --from-file=.dockerconfigjson=/dev/stdin"
        ),
    )
}

/// Makes a secret again with the type that counts; `found` says which data it has.
pub(crate) fn retype_secret(namespace: &str, name: &str, found: &str) -> Fix {
    let (plain, name, namespace) = (name.to_owned(), word(name), word(namespace));
    if !found.contains(".dockerconfigjson") {
        let text = format!("make secret {plain} again as a registry credential");
        let command = format!(
            "read -rp 'server: ' S && read -rp 'user: ' U && {ASK_PASSWORD} && kubectl create \
             secret docker-registry {name} -n {namespace} --docker-server=\"$S\" \
             --docker-username=\"$U\" --docker-password=\"$PW\" --dry-run=client -o yaml | \
             kubectl replace --force -f -"
        );
        return fix(text, command);
    }
    fix(
        format!("make secret {plain} again with the type kubernetes.io/dockerconfigjson"),
        format!(
            "kubectl get secret {name} -n {namespace} -o jsonpath='{{.data.\\.dockerconfigjson}}' \
             | base64 -d | kubectl create secret generic {name} -n {namespace} \
             --type=kubernetes.io/dockerconfigjson --from-file=.dockerconfigjson=/dev/stdin \
             --dry-run=client -o yaml | kubectl replace --force -f -"
        ),
    )
}

/// Makes a secret and lets the pods of the subject name it.
pub(crate) fn first_secret(subject: &Subject, registry: &str) -> Fix {
    let namespace = &subject.namespace;
    let made = create(namespace, FIRST_SECRET, registry, None);
    let in_cluster = subject.source == Source::Cluster;
    let patch = format!(r#"{{"imagePullSecrets":[{{"name":"{FIRST_SECRET}"}}]}}"#);
    match (subject.kind.as_str(), in_cluster) {
        ("Image", _) => fix(
            format!("bring a credential for {registry}"),
            format!("shipway login {}", word(registry)),
        ),
        ("Pod" | "CronJob" | "PodTemplate", _) | (_, false) => fix(
            format!(
                "make a secret, and let the service account {} hand it to new pods; pods that \
                 exist must be made again",
                subject.service_account
            ),
            format!(
                "{made} && kubectl patch serviceaccount {} -n {} -p '{patch}'",
                word(&subject.service_account),
                word(namespace)
            ),
        ),
        (kind, true) => fix(
            "make a secret, and name it in the template",
            format!(
                "{made} && kubectl patch {} {} -n {} -p '{{\"spec\":{{\"template\":{{\"spec\":{patch}}}}}}}'",
                kind.to_lowercase(),
                word(&subject.name),
                word(namespace)
            ),
        ),
    }
}

/// Writes another image.
pub(crate) fn image(subject: &Subject, image_use: &ImageUse, meant: Option<&str>) -> Fix {
    let Some(meant) = meant else {
        return Fix {
            text: format!("write [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST] in {}", image_use.field),
            command: None,
        };
    };
    let text = format!("write {meant} in {}", image_use.field);
    if meant.contains("REPOSITORY") {
        return Fix { text, command: None };
    }
    let is_container = matches!(image_use.role, Role::Container | Role::InitContainer);
    match &subject.source {
        Source::Cluster if is_container => fix(
            text,
            format!(
                "kubectl set image {}/{} -n {} {}={}",
                subject.kind.to_lowercase(),
                word(&subject.name),
                word(&subject.namespace),
                word(&image_use.name),
                word(meant)
            ),
        ),
        Source::File { path } if path != "-" && !image_use.image.is_empty() => {
            let plain = |text: &str| {
                text.chars().fold(String::new(), |mut escaped, c| {
                    if r"\.*[]^$#&/".contains(c) {
                        escaped.push('\\');
                    }
                    escaped.push(c);
                    escaped
                })
            };
            let script = format!("s/{}/{}/", plain(&image_use.image), plain(meant));
            fix(text, format!("sed -i {} {}", word(&script), word(path)))
        }
        Source::CommandLine => fix(text, format!("shipway explain --image {}", word(meant))),
        Source::Cluster | Source::File { .. } => Fix { text, command: None },
    }
}

/// Lets the node pull.
pub(crate) fn policy(subject: &Subject, image_use: &ImageUse) -> Fix {
    let text = "write IfNotPresent, or bring the image to each node";
    let is_workload = !matches!(subject.kind.as_str(), "Pod" | "CronJob" | "Image" | "PodTemplate");
    if is_workload && subject.source == Source::Cluster && image_use.role == Role::Container {
        let container = serde_json::json!({
            "name": image_use.name, "imagePullPolicy": "IfNotPresent",
        });
        let patch = serde_json::json!({
            "spec": {"template": {"spec": {"containers": [container]}}},
        });
        return fix(
            text,
            format!(
                "kubectl patch {} {} -n {} -p {}",
                subject.kind.to_lowercase(),
                word(&subject.name),
                word(&subject.namespace),
                word(&patch.to_string())
            ),
        );
    }
    fix(text, format!("shipway node pull {}", word(&image_use.image)))
}

/// Makes the service account.
pub(crate) fn service_account(subject: &Subject) -> Fix {
    fix(
        "make the service account",
        format!(
            "kubectl create serviceaccount {} -n {}",
            word(&subject.service_account),
            word(&subject.namespace)
        ),
    )
}

/// Makes a pod again, so that admission copies the account's secrets.
pub(crate) fn make_pod_again(subject: &Subject) -> Fix {
    let (name, namespace) = (word(&subject.name), word(&subject.namespace));
    fix(
        "make the pod again",
        format!("kubectl get pod {name} -n {namespace} -o yaml | kubectl replace --force -f -"),
    )
}

/// Looks with the rights that are missing.
pub(crate) fn look_with_more_rights(subject: &Subject) -> Fix {
    fix(
        "explain with an account that may read the pod's secrets",
        format!("kubectl auth can-i get secrets -n {}", word(&subject.namespace)),
    )
}

/// Lists what there is.
pub(crate) fn tags(reference: &Reference) -> Fix {
    let name = reference.name();
    fix(
        "check repository and tag: this lists what there is",
        format!("shipway tags {}", word(&name)),
    )
}

/// Looks a host up.
pub(crate) fn look_up(registry: &str) -> Fix {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    fix(
        "check the spelling of the host, and the name servers",
        format!("getent hosts {}", word(host)),
    )
}

/// Connects by hand.
pub(crate) fn connect(registry: &str) -> Fix {
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    fix(
        "check that the registry runs, its port, and firewalls",
        format!("curl -sSv -o /dev/null {}", word(&format!("https://{host}/v2/"))),
    )
}

/// Shows the certificate.
pub(crate) fn certificate(registry: &str) -> Fix {
    let address =
        if registry.contains(':') { registry.to_owned() } else { format!("{registry}:443") };
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    fix(
        "let the nodes trust the registry's authority, or renew its certificate; this shows it",
        format!(
            "openssl s_client -connect {} -servername {} </dev/null | openssl x509 -noout \
             -issuer -dates -ext subjectAltName",
            word(&address),
            word(host)
        ),
    )
}

/// Allows plain HTTP.
pub(crate) fn plain_http(registry: &str) -> Fix {
    fix(
        "give the registry TLS, or allow plain HTTP for it on the node (containerd: hosts.toml)",
        format!("shipway up --insecure-registry {}", word(registry)),
    )
}

/// Builds for the node's platform.
pub(crate) fn platform(reference: &Reference, architecture: &str) -> Fix {
    fix(
        "build it for the node's platform too",
        format!(
            "shipway build --platform linux/{} -t {} --push .",
            word(architecture),
            word(&reference.to_string())
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_command_cannot_break_out() {
        assert_eq!(word("team/app:v1"), "team/app:v1");
        assert_eq!(word(""), "''");
        assert_eq!(word("a b; rm -rf $HOME"), "'a b; rm -rf $HOME'");
        assert_eq!(word("it's"), r"'it'\''s'");
    }

    #[test]
    fn commands_ask_for_the_password() {
        let made = renew_secret("ns", "regcred", "docker.io", Some("janedoe"));
        assert_eq!(
            made.command.as_deref(),
            Some(
                "read -rsp 'password: ' PW && kubectl create secret docker-registry regcred -n ns \
                 --docker-server=https://index.docker.io/v1/ --docker-username=janedoe \
                 --docker-password=\"$PW\" --dry-run=client -o yaml | kubectl replace --force -f -"
            )
        );
    }
}
