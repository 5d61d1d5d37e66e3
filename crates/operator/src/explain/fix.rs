//! The one thing to do, in words and as a command that can be pasted. No command holds a secret:
//! what needs one asks for it.

use std::net::IpAddr;

use credentials::{Candidate, Origin, PullSecret, keyring_of_pull_secrets};
use oci_model::Reference;

use super::gathering::{Gathered, NamedBy, SecretState};
use super::subject::{ImageUse, Role, Source, Subject};

/// The type of secrets that hold docker's config.json.
pub(super) const DOCKER_TYPE: &str = "kubernetes.io/dockerconfigjson";

/// Asks for the password without showing it; it stays in the shell, whose printf is no program.
pub(super) const ASK_PASSWORD: &str = "printf 'password: ' >&2 && { stty -echo 2>/dev/null; IFS= read -r PW; \
                            stty echo 2>/dev/null; [ -n \"$PW\" ]; }";

/// Asks for the user.
const ASK_USER: &str = "printf 'user: ' >&2 && IFS= read -r U";

/// A directory that nobody else can read and that does not stay.
pub(super) const DIRECTORY: &str = "umask 077; D=$(mktemp -d) && trap 'stty echo 2>/dev/null; rm -rf \"$D\"' \
                         EXIT && trap 'exit 1' INT TERM";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fix {
    pub(crate) text: String,
    pub(crate) command: Option<String>,
}

pub(super) fn fix(text: impl Into<String>, command: impl Into<String>) -> Fix {
    Fix { text: text.into(), command: Some(command.into()) }
}

/// A text as one word of a POSIX shell.
pub(super) fn word(text: &str) -> String {
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

/// What is done with a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// It is made; nothing happens if there is one.
    Create,
    /// Its config is written; type, labels and other data stay.
    Patch,
    /// One entry of its config is written; the others stay too.
    Merge,
}

/// The commands that ask for a credential and write it into a secret. The password is never in
/// an argument of a program, and what fails leaves the secret as it was.
pub(super) fn write(
    how: Write,
    namespace: &str,
    name: &str,
    registry: &str,
    user: Option<&str>,
) -> String {
    let (ask_user, user) = match user {
        Some(user) => (String::new(), word(user)),
        None => (format!("{ASK_USER} && "), "\"$U\"".to_owned()),
    };
    let (name, namespace, server) = (word(name), word(namespace), server_of(registry));
    let asked = format!("{DIRECTORY} && {ask_user}{ASK_PASSWORD}");
    let entry = format!(
        "printf {} \"$(printf '%s:%s' {user} \"$PW\" | base64 | tr -d '\\n')\" > \"$D/config.json\"",
        word(&format!(r#"{{"auths":{{"{}":{{"auth":"%s"}}}}}}"#, server.replace('%', "%%"))),
    );
    let patch = format!(
        "printf '{{\"data\":{{\".dockerconfigjson\":\"%s\"}}}}' \"$(base64 < \"$D/config.json\" | \
         tr -d '\\n')\" > \"$D/patch\" && kubectl patch secret {name} -n {namespace} --type=merge \
         --patch-file=\"$D/patch\""
    );
    match how {
        Write::Create => {
            let created = create_from_file(&name, &namespace);
            format!("({asked} && {entry} && {created})")
        }
        Write::Patch => format!("({asked} && {entry} && {patch})"),
        // A registry that refuses the credential ends it here.
        Write::Merge => format!(
            "({asked} && {} && printf '%s' \"$PW\" | DOCKER_CONFIG=\"$D\" shipway login \
             --keep-password {} --username {user} --password-stdin && {patch})",
            read_config(&name, &namespace),
            word(registry),
        ),
    }
}

/// Makes a secret of the file that was written, name and namespace being words.
pub(super) fn create_from_file(name: &str, namespace: &str) -> String {
    format!(
        "kubectl create secret generic {name} -n {namespace} --type={DOCKER_TYPE} \
         --from-file=.dockerconfigjson=\"$D/config.json\""
    )
}

/// Reads a secret's config into the file, name and namespace being words.
pub(super) fn read_config(name: &str, namespace: &str) -> String {
    format!(
        "kubectl get secret {name} -n {namespace} -o jsonpath='{{.data.\\.dockerconfigjson}}' > \
         \"$D/base64\" && base64 -d < \"$D/base64\" > \"$D/config.json\""
    )
}

/// How a credential comes into a secret that is there; `None` if no command is safe.
fn how_to_renew(secret: &PullSecret, registry: &str) -> Option<Write> {
    if secret.kind != DOCKER_TYPE {
        return None;
    }
    let bytes = secret.data.get(".dockerconfigjson")?;
    let config: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let holds = |value: &serde_json::Value| match value {
        serde_json::Value::Null => false,
        serde_json::Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    let entries = config["auths"].as_object();
    let has_others = entries.is_some_and(|entries| {
        entries.iter().any(|(key, value)| key != server_of(registry) && holds(value))
    });
    if !has_others {
        return config.is_object().then_some(Write::Patch);
    }
    // The login would go to the helper; and one entry that cannot be read spoils all others.
    let is_whole = keyring_of_pull_secrets(std::slice::from_ref(secret)).is_ok();
    let has_helpers = holds(&config["credsStore"]) || holds(&config["credHelpers"]);
    (is_whole && !has_helpers).then_some(Write::Merge)
}

/// Brings a credential into a secret; what else it holds stays.
pub(crate) fn renew_secret(
    gathered: &Gathered,
    namespace: &str,
    name: &str,
    registry: &str,
    user: Option<&str>,
) -> Fix {
    let words = |text: String| Fix { text, command: None };
    let Some(named) = gathered.secrets.iter().find(|named| named.name == name) else {
        return words(format!("write a credential for {registry} into secret {name}"));
    };
    if named.named_by == NamedBy::CommandLine {
        return words(format!("write a credential for {registry} into {name}"));
    }
    match &named.state {
        SecretState::Missing { .. } => fix(
            format!("make secret {name}, with a credential for {registry}"),
            write(Write::Create, namespace, name, registry, user),
        ),
        SecretState::Found(secret) => match how_to_renew(secret, registry) {
            Some(how) => fix(
                format!(
                    "write a credential for {registry} into secret {name} (or into its source, \
                     if shipway secret sync keeps it)"
                ),
                write(how, namespace, name, registry, user),
            ),
            None => words(format!(
                "mend the entries of secret {name} by hand, with a credential for {registry}: it \
                 holds more than that one, which must stay"
            )),
        },
        SecretState::Unknown { .. } => {
            words(format!("write a credential for {registry} into secret {name}"))
        }
    }
}

/// Writes the place anew that a candidate comes from.
pub(crate) fn renew(
    gathered: &Gathered,
    namespace: &str,
    candidate: &Candidate,
    registry: &str,
    user: Option<&str>,
) -> Fix {
    match &candidate.origin {
        Origin::Secret { name, .. } => renew_secret(gathered, namespace, name, registry, user),
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
        // The template of a job never changes.
        Source::Cluster if subject.kind == "Job" => Fix {
            text: format!("{text}; the job must be deleted and made again for that"),
            command: None,
        },
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
        Source::CommandLine => fix(text, format!("shipway explain --image {}", word(meant))),
        Source::Cluster | Source::File { .. } => Fix { text, command: None },
    }
}

/// Lets the node pull.
pub(crate) fn policy(subject: &Subject, image_use: &ImageUse, is_private: bool) -> Fix {
    let text = "write IfNotPresent, or bring the image to each node";
    let is_workload =
        !matches!(subject.kind.as_str(), "Pod" | "Job" | "CronJob" | "Image" | "PodTemplate");
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
    let pull = format!("shipway node pull {}", word(&image_use.image));
    if is_private {
        return fix(
            format!("{text} (with a credential: --creds-file FILE, or as here)"),
            format!(
                "(trap 'stty echo 2>/dev/null' EXIT && trap 'exit 1' INT TERM && {ASK_USER} && \
                 {ASK_PASSWORD} && printf '%s' \"$PW\" | {pull} --username \"$U\" \
                 --password-stdin)"
            ),
        );
    }
    fix(text, pull)
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

/// Makes a pod again, so that admission copies the account's secrets. No command reads a pod and
/// makes it again in safety: the second half may be refused when the first one has deleted it.
pub(crate) fn make_pod_again() -> Fix {
    Fix {
        text: "make the pod again: delete it, and let its owner or its own manifest make it"
            .to_owned(),
        command: None,
    }
}

/// Looks with the rights that are missing, or at a cluster at all.
pub(crate) fn look_with_more_rights(subject: &Subject, gathered: &Gathered) -> Fix {
    if gathered.no_cluster {
        return Fix {
            text: "explain with a cluster (without --no-cluster), or bring the secret: --secret \
                   FILE, a manifest or docker's config.json"
                .to_owned(),
            command: None,
        };
    }
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
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_here = name == "localhost" || address.is_ok_and(|address| address.is_loopback());
    let scheme = if is_here { "http" } else { "https" };
    fix(
        "check that the registry runs, its port, and firewalls",
        format!("curl -sSv -o /dev/null {}", word(&format!("{scheme}://{host}/v2/"))),
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

    fn gathered(kind: &str, config: Option<&str>) -> Gathered {
        let state = match config {
            None => SecretState::Missing { elsewhere: Vec::new() },
            Some(config) => SecretState::Found(PullSecret {
                namespace: "ns".to_owned(),
                name: "s".to_owned(),
                uid: String::new(),
                kind: kind.to_owned(),
                data: [(".dockerconfigjson".to_owned(), config.as_bytes().to_vec())].into(),
            }),
        };
        let name = "s".to_owned();
        let named = super::super::gathering::NamedSecret { name, named_by: NamedBy::Pod, state };
        Gathered { secrets: vec![named], ..Gathered::default() }
    }

    /// What a secret holds, and what is done about it.
    #[test]
    fn secrets_are_never_deleted_and_other_entries_stay() {
        let auth = r#"{"auth":"YTpi"}"#;
        let both = format!(r#"{{"auths":{{"r:5000":{auth},"other.example":{auth}}}}}"#);
        let own = format!(r#"{{"auths":{{"r:5000":{auth}}}}}"#);
        let store = format!(r#"{{"auths":{{"other.example":{auth}}},"credsStore":"desktop"}}"#);
        let broken = format!(r#"{{"auths":{{"o.example":{{"auth":"pants"}},"r:5000":{auth}}}}}"#);
        for (kind, config, expected) in [
            (DOCKER_TYPE, None, Some("kubectl create secret generic s")),
            (DOCKER_TYPE, Some(both.as_str()), Some("shipway login --keep-password r:5000")),
            (DOCKER_TYPE, Some(own.as_str()), Some("kubectl patch secret s")),
            (DOCKER_TYPE, Some(r#"{"credsStore":"x"}"#), Some("kubectl patch secret s")),
            (DOCKER_TYPE, Some(store.as_str()), None),
            (DOCKER_TYPE, Some(broken.as_str()), None),
            (DOCKER_TYPE, Some("no json"), None),
            ("Opaque", Some(own.as_str()), None),
        ] {
            let command = renew_secret(&gathered(kind, config), "ns", "s", "r:5000", None).command;
            let text = command.as_deref().unwrap_or_default();
            assert!(expected.is_none_or(|part| text.contains(part)), "{config:?}: {command:?}");
            assert_eq!(command.is_some(), expected.is_some(), "{config:?}: {command:?}");
            for part in ["--force", "replace", "--docker-password", "read -rs"] {
                assert!(!text.contains(part), "{part} in {text}");
            }
        }
    }

    /// Runs a command with a kubectl that keeps what it is given; what it kept.
    fn run(command: &str, input: &str, kubectl: &str) -> (bool, String) {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let bin = tempfile::tempdir().expect("a directory");
        let program = bin.path().join("kubectl");
        std::fs::write(&program, format!("#!/bin/sh\n{kubectl}\n")).expect("a file");
        Command::new("chmod").arg("+x").arg(&program).status().expect("chmod");
        let path = std::env::var("PATH").expect("a PATH");
        let mut child = Command::new("sh")
            .args(["-c", command])
            .env("PATH", format!("{}:{path}", bin.path().display()))
            .env("TMPDIR", bin.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("a reader");
        let output = child.wait_with_output().expect("its end");
        let left = std::fs::read_dir(bin.path()).expect("a directory").count();
        assert_eq!(left, 1, "nothing stays but the kubectl");
        (output.status.success(), String::from_utf8(output.stdout).expect("UTF-8"))
    }

    #[test]
    fn commands_run_in_any_shell_and_keep_the_password_out_of_arguments() {
        let password = r#"it's "100%" \n $HOME"#;
        let made = write(Write::Create, "ns", "s", "r:5000", Some("o'neil"));
        let show =
            r#"echo "$@"; for a; do case $a in --from-file=*) cat "${a#*json=}";; esac; done"#;
        let (success, shown) = run(&made, &format!("{password}\n"), show);
        assert!(success, "{shown}");
        let (arguments, config) = shown.split_once('\n').expect("two lines");
        assert!(!arguments.contains("it's"), "{arguments}");
        let entries = credentials::parse_config_json(config.as_bytes()).expect("a config");
        assert_eq!(entries[0].key, "r:5000");
        let expected =
            credentials::RegistryAuth::basic("o'neil", credentials::Secret::new(password));
        assert_eq!(entries[0].auth.identity_hash(), expected.identity_hash());

        let patched = write(Write::Patch, "ns", "s", "r:5000", None);
        let show = r#"for a; do case $a in --patch-file=*) cat "${a#*=}";; esac; done"#;
        let (success, shown) = run(&patched, "jane\npw\n", show);
        assert!(success && shown.contains(r#"{"data":{".dockerconfigjson":"eyJ"#), "{shown}");
        // Nobody's password, and a secret that cannot be read: nothing is written.
        assert!(!run(&patched, "jane\n\n", "echo written").0);
        let merged = write(Write::Merge, "ns", "s", "r:5000", Some("jane"));
        let refuse = r#"[ "$1" = get ] && exit 1; echo written"#;
        assert_eq!(run(&merged, "pw\n", refuse), (false, String::new()));
    }
}
