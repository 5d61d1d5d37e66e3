//! What a sync says, as lines for people and as objects for programs. Nothing in it is secret.

use serde_json::{Value, json};

use super::plan::{Step, StepKind};
use super::reconcile::Told;

/// A step in kubectl's manner: `secret/regcred created in team-a`.
pub fn step_line(step: &Step, name: &str) -> String {
    let namespace = &step.namespace;
    match &step.kind {
        StepKind::CreateSecret => format!("secret/{name} created in {namespace}"),
        StepKind::UpdateSecret { .. } => format!("secret/{name} updated in {namespace}"),
        StepKind::DeleteSecret { .. } => format!("secret/{name} deleted in {namespace}"),
        StepKind::AddToAccount { account, .. } => {
            format!("serviceaccount/{account} in {namespace} uses {name}")
        }
        StepKind::RemoveFromAccount { account, .. } => {
            format!("serviceaccount/{account} in {namespace} uses {name} no more")
        }
    }
}

/// A step as an object: `action`, `namespace`, `secret`, and `serviceAccount` where it is about one.
pub fn step_object(step: &Step, name: &str) -> Value {
    let (action, account) = match &step.kind {
        StepKind::CreateSecret => ("create", None),
        StepKind::UpdateSecret { .. } => ("update", None),
        StepKind::DeleteSecret { .. } => ("delete", None),
        StepKind::AddToAccount { account, .. } => ("add", Some(account)),
        StepKind::RemoveFromAccount { account, .. } => ("remove", Some(account)),
    };
    let mut object = json!({"action": action, "namespace": step.namespace, "secret": name});
    if let Some(account) = account {
        object["serviceAccount"] = json!(account);
    }
    object
}

impl Told {
    /// Whether something went wrong.
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::NoSource(_) | Self::Failed { .. } | Self::Problem(_) | Self::Trouble(_) => true,
            Self::Source(_) | Self::Done(_) | Self::Settled => false,
        }
    }

    /// One line for people; several where the source holds what nodes cannot use.
    pub fn lines(&self, name: &str) -> Vec<String> {
        match self {
            Self::Source(sourced) => {
                let servers = sourced.content.servers().join(", ");
                let first = format!("source has credentials for {servers}");
                let skipped = sourced.skipped.iter();
                let skipped =
                    skipped.map(|one| format!("source: {} left out: {}", one.key, one.why));
                std::iter::once(first).chain(skipped).collect()
            }
            Self::NoSource(error) => vec![format!("{error}; what was made before stays")],
            Self::Done(step) => vec![step_line(step, name)],
            Self::Failed { step, error } => {
                vec![format!("failed: {}: {error}", step_line(step, name))]
            }
            Self::Problem(problem) => vec![problem.to_string()],
            Self::Trouble(text) => vec![text.clone()],
            Self::Settled => vec!["in sync; watching".to_owned()],
        }
    }

    /// One object for programs, with `event` as its kind.
    pub fn object(&self, name: &str) -> Value {
        match self {
            Self::Source(sourced) => json!({
                "event": "source",
                "servers": sourced.content.servers(),
                "content": sourced.content.mark(),
                "leftOut": sourced.skipped.iter().map(|one| &one.key).collect::<Vec<_>>(),
            }),
            Self::NoSource(error) => json!({"event": "noSource", "error": error.to_string()}),
            Self::Done(step) => with_event("done", step_object(step, name)),
            Self::Failed { step, error } => {
                let mut object = with_event("failed", step_object(step, name));
                object["error"] = json!(error);
                object
            }
            Self::Problem(problem) => json!({"event": "problem", "error": problem.to_string()}),
            Self::Trouble(text) => json!({"event": "trouble", "error": text}),
            Self::Settled => json!({"event": "settled"}),
        }
    }
}

fn with_event(event: &str, mut object: Value) -> Value {
    object["event"] = json!(event);
    object
}

#[cfg(test)]
mod tests {
    use credentials::{ConfigEntry, RegistryAuth, Secret};

    use super::*;
    use crate::secret_sync::{Sourced, Version};

    #[test]
    fn steps_read_as_kubectl_writes_and_programs_parse() {
        let step = |kind| Step { namespace: "a".to_owned(), kind };
        let version = Version::default;
        let add = StepKind::AddToAccount {
            account: "default".to_owned(),
            pull_secrets: vec!["x".to_owned(), "regcred".to_owned()],
            version: version(),
        };
        for (kind, line, object) in [
            (
                StepKind::CreateSecret,
                "secret/regcred created in a",
                json!({"action": "create", "namespace": "a", "secret": "regcred"}),
            ),
            (
                StepKind::DeleteSecret { version: version() },
                "secret/regcred deleted in a",
                json!({"action": "delete", "namespace": "a", "secret": "regcred"}),
            ),
            (
                add,
                "serviceaccount/default in a uses regcred",
                json!({
                    "action": "add", "namespace": "a", "secret": "regcred",
                    "serviceAccount": "default",
                }),
            ),
        ] {
            let step = step(kind);
            assert_eq!(step_line(&step, "regcred"), line);
            assert_eq!(step_object(&step, "regcred"), object);
        }
    }

    #[test]
    fn nothing_that_is_told_holds_a_password() {
        let entry = |key: &str, auth| ConfigEntry { key: key.to_owned(), auth };
        let entries = [
            entry("r.example", RegistryAuth::basic("user", Secret::new("hunter2"))),
            entry("t.example", RegistryAuth::IdentityToken { token: Secret::new("hunter2") }),
        ];
        let told = Told::Source(Sourced::new(&entries, &[]).expect("a content"));
        assert_eq!(
            told.lines("regcred"),
            [
                "source has credentials for r.example",
                "source: t.example left out: it is a token that nodes do not read; they want user \
                 and password",
            ]
        );
        let everything = format!("{told:?} {}", told.object("regcred"));
        assert!(!everything.contains("hunter2") && !everything.contains("aHVudGVyMg"));
        assert_eq!(told.object("regcred")["leftOut"], json!(["t.example"]));
    }
}
