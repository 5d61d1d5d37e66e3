//! From answers to one verdict, one cause and one thing to do: the most likely first.

use credentials::lint::Code;
use credentials::{Candidate, Origin};
use image_policy::PullPolicy;
use oci_model::Reference;

use super::answer::{Answer, AnswerKind};
use super::attempt::{self, LastFailure};
use super::candidates::Candidates;
use super::fix::{self, Fix};
use super::gathering::{ATTACHED_LATER, Gathered, SecretState};
use super::image_name::ImageName;
use super::naming;
use super::node_side::NodeSide;
use super::present;
use super::report::{Cause, Present, Verdict};
use super::subject::{ImageUse, Source, Subject};

/// Everything that is known about one image.
pub(crate) struct Facts<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) image_use: &'a ImageUse,
    pub(crate) name: &'a ImageName,
    pub(crate) policy: PullPolicy,
    pub(crate) gathered: &'a Gathered,
    pub(crate) candidates: &'a Candidates,
    /// One per candidate.
    pub(crate) answers: &'a [Answer],
    pub(crate) anonymous: &'a Answer,
    pub(crate) node: &'a NodeSide,
    /// Whether the node makes the image itself.
    pub(crate) served_here: bool,
    /// Nodes that have the image, if the policy lets them look.
    pub(crate) on_nodes: &'a [String],
    /// Why it is not known which nodes have it, if the policy lets them look.
    pub(crate) nodes_unknown: Option<&'a str>,
    /// Architecture of the node, such as `amd64`.
    pub(crate) architecture: &'a str,
    /// What the cluster says about the container now.
    pub(crate) present: Option<&'a Present>,
    /// The failed pull that it waits for to be tried again.
    pub(crate) last_failure: Option<&'a LastFailure>,
    /// Seconds since 1970.
    pub(crate) now: i64,
}

impl Facts<'_> {
    /// Whether the container runs, or has run and does not wait for its image.
    pub(crate) fn has_started(&self) -> bool {
        self.present.is_some_and(|present| present.started && present.waiting.is_none())
    }
}

fn cause(code: &str, text: impl Into<String>, fix: Fix) -> Cause {
    Cause { code: code.to_owned(), text: text.into(), fix: fix.text, command: fix.command }
}

/// The verdict, and its cause unless the image comes.
pub(crate) fn conclude(facts: &Facts<'_>) -> (Verdict, Option<Cause>) {
    let (verdict, cause) = by_answers(facts);
    // What opens from here may fail on the node all the same.
    match attempt::node_failed(facts).filter(|_| verdict == Verdict::Pulls) {
        Some(failed) => (Verdict::Unknown, Some(failed)),
        None => (verdict, cause),
    }
}

/// What the registry's answers say.
fn by_answers(facts: &Facts<'_>) -> (Verdict, Option<Cause>) {
    if let Some(found) = before_any_request(facts) {
        return found;
    }
    let Some(reference) = &facts.name.reference else { return (Verdict::Unknown, None) };
    if facts.served_here {
        return match facts.node {
            NodeSide::Known { .. } => (Verdict::Pulls, None),
            NodeSide::Unknown { .. } => {
                let text = "only a node of shipway makes it itself, and whether this is one is \
                            not known";
                let fix = fix::image(facts.subject, facts.image_use, None);
                (Verdict::Unknown, Some(cause("node-serves", text, fix)))
            }
        };
    }
    if facts.answers.iter().any(|answer| answer.kind == AnswerKind::Opens) {
        return (Verdict::Pulls, None);
    }
    let unreadable = facts.gathered.unknown.as_ref().map(|why| {
        cause(
            "secrets-unreadable",
            format!("which credentials the pod has is not known: {why}"),
            fix::look_with_more_rights(facts.subject, facts.gathered),
        )
    });
    let has_candidates = !facts.candidates.list.is_empty();
    if !has_candidates && facts.anonymous.kind == AnswerKind::Opens {
        return match unreadable {
            // A stale credential would spoil what is open to everybody.
            Some(unreadable) => (Verdict::Unknown, Some(unreadable)),
            None => (Verdict::Pulls, None),
        };
    }
    let deciding = facts.answers.first().unwrap_or(facts.anonymous);
    if deciding.kind == AnswerKind::NotAsked {
        let likely = unreadable.or_else(|| of_sources(facts, reference));
        return (Verdict::Unknown, likely);
    }
    if !deciding.kind.is_about_access() {
        let found = of_transport(facts, reference, deciding);
        return match has_started(facts).or_else(|| on_the_node(facts)) {
            Some(why) => {
                (Verdict::Unknown, Some(Cause { text: format!("{}; {why}", found.text), ..found }))
            }
            None => (Verdict::Fails, Some(found)),
        };
    }
    if let Some(unreadable) = unreadable {
        return (Verdict::Unknown, Some(unreadable));
    }
    let found = match facts.candidates.list.first() {
        Some(first) => of_refused(facts, reference, first, deciding),
        None => of_absent(facts, reference, deciding),
    };
    if let Some(provider) = facts.candidates.providers.first() {
        let said = present::provider_failed(facts.image_use, facts.gathered)
            .map_or_else(String::new, |said| format!(" (the node said of it last: {said})"));
        let text = format!(
            "the credential provider {provider} of the node decides, and explaining does not run \
             it{said}; without it: {}",
            found.text
        );
        let decided = Cause { code: "provider-decides".to_owned(), text, ..found };
        return (Verdict::Unknown, Some(decided));
    }
    if let Some(cloud) = facts.candidates.cloud {
        let text = format!(
            "cloud {cloud} would be asked for a credential by the node, with the identity of the \
             machine, and explaining does not ask it; without it: {}",
            found.text
        );
        let decided = Cause { code: "cloud-decides".to_owned(), text, ..found };
        return (Verdict::Unknown, Some(decided));
    }
    if let Some(why) = undecided(facts) {
        let text = format!("{}; {why}", found.text);
        return (Verdict::Unknown, Some(Cause { text, ..found }));
    }
    (Verdict::Fails, Some(found))
}

/// Why a refusal of what was asked does not yet mean that the pod fails.
fn undecided(facts: &Facts<'_>) -> Option<String> {
    if facts.answers.iter().any(|answer| answer.kind == AnswerKind::NotAsked) {
        return Some("not every credential was tried, and another one may open it".to_owned());
    }
    if let Some(why) = has_started(facts) {
        return Some(why);
    }
    if let Some(why) = on_the_node(facts) {
        return Some(why);
    }
    if let NodeSide::Known { providers_unread: Some(why), .. } = facts.node {
        return Some(format!("a credential provider of the node may have one for it: {why}"));
    }
    // An image of the command line has no node: what is asked is what these credentials open.
    if let (NodeSide::Unknown { why }, false) =
        (facts.node, facts.subject.source == Source::CommandLine)
    {
        return Some(format!("the node may have a credential of its own: {why}"));
    }
    None
}

/// Why a refusal matters only later: the container runs, or has run.
fn has_started(facts: &Facts<'_>) -> Option<String> {
    facts.has_started().then(|| {
        "it has started with this image already, which only a new pull would need again".to_owned()
    })
}

/// Why a registry's answer may not matter: the image is there already, or may be.
fn on_the_node(facts: &Facts<'_>) -> Option<String> {
    let Some((first, others)) = facts.on_nodes.split_first() else {
        // The node asked the registry for this very pod: at least then it had nothing that does.
        let why = facts.nodes_unknown.filter(|_| !facts.was_refused())?;
        return Some(format!("whether the node has the image already is not known: {why}"));
    };
    if facts.was_refused() {
        return Some(facts.refused_before_it_had(first));
    }
    let has = match others.len() {
        0 => format!("node {first} has the image already"),
        1 => format!("nodes {first} and {} have the image already", others[0]),
        n => format!("node {first} and {n} others have the image already"),
    };
    Some(format!(
        "{has}, and a pod starts there without the registry unless that node wants a proof that \
         this pod may use it (imagePullCredentialsVerificationPolicy)"
    ))
}

/// What to do first, where the secrets that a service account has got since do not open the image
/// either: making the pod again would not mend it.
pub(crate) fn instead_of_making_again(attached: &mut Cause, again: Option<Cause>) {
    let Some(again) = again.filter(|cause| cause.code != "secrets-unreadable") else { return };
    *attached = Cause {
        text: format!("{}; and made again it would have no luck: {}", attached.text, again.text),
        fix: format!("{}; then make the pod again", again.fix),
        ..again
    };
}

/// What fails, or cannot be told, without asking a registry.
fn before_any_request(facts: &Facts<'_>) -> Option<(Verdict, Option<Cause>)> {
    let (subject, image_use) = (facts.subject, facts.image_use);
    if let Some(error) = &facts.name.error {
        let why = facts.name.remarks.first().map(|remark| remark.text.as_str());
        let text = format!("the image does not parse: {}", why.unwrap_or(&error.to_string()));
        let fix = fix::image(subject, image_use, facts.name.meant.as_deref());
        return Some((Verdict::Fails, Some(cause("invalid-image-name", text, fix))));
    }
    if let Some(missing) = facts.gathered.remarks.iter().find(|r| r.code == "account.missing") {
        let fix = fix::service_account(subject);
        let found = cause("service-account-missing", missing.text.clone(), fix);
        return Some((Verdict::Fails, Some(found)));
    }
    if let Some(broken) = &facts.candidates.broken {
        let text = format!(
            "secret {} cannot be read, and that fails every pull of the pod, whatever the image: {}",
            broken.secret, broken.why
        );
        let server = facts.name.reference.as_ref().map_or("", |reference| reference.registry());
        let fix =
            fix::renew_secret(facts.gathered, &subject.namespace, &broken.secret, server, None);
        return Some((Verdict::Fails, Some(cause("pull-secret-malformed", text, fix))));
    }
    if facts.policy == PullPolicy::Never && !facts.served_here {
        let text = "the policy is Never: it starts only where the image is on the node already, \
                    and where the pod may use it";
        let text = match has_started(facts).or_else(|| on_the_node(facts)) {
            Some(why) => format!("{text}; {why}"),
            None => text.to_owned(),
        };
        let fix = fix::policy(subject, image_use, facts.anonymous.kind.is_about_access());
        return Some((Verdict::Unknown, Some(cause("never-pull", text, fix))));
    }
    None
}

/// No candidate, and the registry does not open the image to everybody.
fn of_absent(facts: &Facts<'_>, reference: &Reference, answer: &Answer) -> Cause {
    if let Some(found) = of_sources(facts, reference) {
        return found;
    }
    if let Some(found) = of_name(facts) {
        return found;
    }
    let registry = reference.registry();
    if answer.kind == AnswerKind::NotFound {
        let text = format!(
            "{registry} does not have it, or hides it from those without a credential: {}",
            answer.text
        );
        return cause("not-found", text, fix::tags(reference));
    }
    let known = match facts.node {
        NodeSide::Known { .. } => "neither the pod nor the node has one for it",
        NodeSide::Unknown { .. } => {
            "the pod has none for it (whether the node has one is not known here)"
        }
    };
    let text = format!("{registry} wants a credential, and {known}");
    cause("no-credential", text, naming::first_secret(facts.subject, facts.gathered, registry))
}

/// A name that means something else than it looks like.
fn of_name(facts: &Facts<'_>) -> Option<Cause> {
    let meant = facts.name.meant.as_deref()?;
    let remark = facts.name.remarks.first()?;
    let fix = fix::image(facts.subject, facts.image_use, Some(meant));
    Some(cause("name-means-something-else", remark.text.clone(), fix))
}

/// Why the secrets that are named bring no candidate; the first one that should have.
fn of_sources(facts: &Facts<'_>, reference: &Reference) -> Option<Cause> {
    if !facts.candidates.list.is_empty() {
        return None;
    }
    let (namespace, server) = (&facts.subject.namespace, reference.registry());
    for named in &facts.gathered.secrets {
        let name = &named.name;
        match &named.state {
            SecretState::Unknown { .. } => {}
            SecretState::Missing { elsewhere } => {
                return Some(match elsewhere.first() {
                    Some(other) => cause(
                        "secret-in-other-namespace",
                        format!(
                            "secret {name} is in namespace {other}, and the pod in {namespace}"
                        ),
                        fix::copy_secret(name, other, namespace),
                    ),
                    None => cause(
                        "secret-missing",
                        format!("there is no secret {name} in namespace {namespace}"),
                        fix::renew_secret(facts.gathered, namespace, name, server, None),
                    ),
                });
            }
            SecretState::Found(_) => {
                if let Some(found) = of_found_secret(facts, name, server) {
                    return Some(found);
                }
            }
        }
    }
    let of_account = facts.gathered.remarks.iter();
    of_account
        .filter(|remark| remark.code == ATTACHED_LATER)
        .map(|remark| {
            let fix = fix::make_pod_again();
            cause("account-attached-later", remark.text.clone(), fix)
        })
        .next()
}

/// Why a secret that exists holds nothing for the image.
fn of_found_secret(facts: &Facts<'_>, name: &str, server: &str) -> Option<Cause> {
    let namespace = &facts.subject.namespace;
    let of_it: Vec<_> = facts
        .candidates
        .remarks
        .iter()
        .filter(|remark| remark.object.as_ref().is_some_and(|o| o.rsplit('/').next() == Some(name)))
        .collect();
    let first = of_it.first()?;
    let text = format!("secret {name} does not count: {}", first.text);
    let code = first.code.as_str();
    let is = |codes: &[Code]| codes.iter().any(|known| known.name() == code);
    if is(&[Code::WrongSecretType]) {
        let fix = naming::retype_secret(facts.subject, facts.gathered, name, server, &first.text);
        return Some(cause("secret-wrong-type", text, fix));
    }
    let renewed = fix::renew_secret(facts.gathered, namespace, name, server, None);
    if is(&[Code::HelpersOnly]) {
        return Some(cause("helpers-only", text, renewed));
    }
    // Of findings about one entry the one that compares it with the image says most.
    let telling = of_it.iter().find(|remark| {
        [Code::PortDiffers, Code::PathDiffers, Code::WildcardLabels]
            .iter()
            .any(|known| known.name() == remark.code)
    });
    if let Some(unmatched) = of_it.iter().find(|remark| remark.code == "key-does-not-match") {
        let why = telling.map(|remark| remark.text.as_str());
        let spelling = of_it
            .iter()
            .find(|remark| remark.code.starts_with("key-") && remark.code != "key-does-not-match");
        let detail = spelling.map(|remark| remark.text.as_str()).or(why);
        let text = match detail {
            Some(detail) => format!("secret {name} does not count: {}; {detail}", unmatched.text),
            None => format!("secret {name} does not count: {}", unmatched.text),
        };
        return Some(cause("key-does-not-match", text, renewed));
    }
    Some(cause("secret-unusable", text, renewed))
}

/// The registry refuses every candidate.
fn of_refused(
    facts: &Facts<'_>,
    reference: &Reference,
    first: &Candidate,
    answer: &Answer,
) -> Cause {
    let registry = reference.registry();
    let who = who(first);
    let renew = |user: Option<&str>| {
        fix::renew(facts.gathered, &facts.subject.namespace, first, registry, user)
    };
    let user = first.auth.username().filter(|user| !user.is_empty());
    let has = |code: Code| facts.candidates.of_candidates.iter().any(|f| f.code == code);
    let expired = facts
        .candidates
        .list
        .iter()
        .find(|candidate| candidate.auth.expires_at().is_some_and(|end| end <= facts.now));
    if facts.anonymous.kind == AnswerKind::Opens {
        let text = format!(
            "the image is open to everybody, but a node with a credential never asks without it, \
             and {registry} refuses {who}"
        );
        return cause("stale-credential", text, renew(user));
    }
    let is_empty = user.is_none() && first.auth.username().is_some();
    if is_empty && (has(Code::HelpersIgnored) || has(Code::EmptyEntry)) {
        let text = format!(
            "{who} is empty: the file was copied from a machine whose credentials are with a \
             helper (credsStore), and the kubelet tries it as it is"
        );
        return cause("helpers-only", text, renew(None));
    }
    if has(Code::IdentityTokenIgnored) || has(Code::RegistryTokenIgnored) {
        let text = format!(
            "{who} has its secret in a token field, which the kubelet does not read; what it \
             sends instead is refused"
        );
        return cause("token-ignored", text, renew(None));
    }
    if let Some(expired) = expired {
        let text = format!("the token of {} has expired", self::who(expired));
        return cause("credential-expired", text, renew(user));
    }
    match answer.kind {
        AnswerKind::Denied => {
            let text = format!("{registry} knows {who}, which has no right to this repository");
            cause("no-right", text, renew(None))
        }
        AnswerKind::NotFound => of_name(facts).unwrap_or_else(|| {
            let text =
                format!("{registry} does not have it, or hides it from {who}: {}", answer.text);
            cause("not-found", text, fix::tags(reference))
        }),
        _ => {
            let others = facts.candidates.list.len() - 1;
            let others = match others {
                0 => String::new(),
                1 => " (and the other one)".to_owned(),
                n => format!(" (and the {n} others)"),
            };
            let text = format!(
                "{registry} refuses {who}{others}: the password or token is wrong, expired or \
                 withdrawn"
            );
            cause("wrong-credential", text, renew(user))
        }
    }
}

/// A candidate, as people call it.
fn who(candidate: &Candidate) -> String {
    let origin = match &candidate.origin {
        Origin::Secret { name, .. } => format!("secret {name}"),
        Origin::File { path } => format!("file {path}"),
        Origin::Provider { name } => format!("provider {name}"),
        Origin::CommandLine => "the command line".to_owned(),
    };
    match candidate.auth.username() {
        Some("") => format!("the credential without a user of {origin}"),
        Some(user) => format!("user {user} of {origin}"),
        None => format!("the token of {origin}"),
    }
}

/// The request failed before anybody looked at a credential, or the image is not for this node.
fn of_transport(facts: &Facts<'_>, reference: &Reference, answer: &Answer) -> Cause {
    let registry = reference.registry();
    let text = answer.text.clone();
    match &answer.kind {
        AnswerKind::RateLimited { retry_after } => {
            let when = retry_after.map_or_else(String::new, |wait| {
                format!("; it may be asked again in {} s", wait.as_secs())
            });
            let mut text = format!("{registry} limits how often it may be asked{when}");
            let Some(refused) = present::refused_before(facts.image_use, facts.gathered) else {
                let fix = naming::first_secret(facts.subject, facts.gathered, registry);
                return cause("rate-limited", text, fix);
            };
            // Registries answer so too when a password was wrong too often.
            text.push_str("; before that it refused the credential: ");
            text.push_str(&refused);
            let fix = match facts.candidates.list.first() {
                Some(first) => {
                    let user = first.auth.username().filter(|user| !user.is_empty());
                    let namespace = &facts.subject.namespace;
                    fix::renew(facts.gathered, namespace, first, registry, user)
                }
                None => naming::first_secret(facts.subject, facts.gathered, registry),
            };
            cause("rate-limited", text, fix)
        }
        AnswerKind::HostUnknown => of_name(facts).unwrap_or_else(|| {
            let text = format!("the host of {registry} has no address, as seen from here");
            cause("host-unknown", text, fix::look_up(registry))
        }),
        AnswerKind::ConnectionRefused => {
            let text = format!("nothing listens at {registry}, as seen from here");
            cause("connection-refused", text, fix::connect(registry))
        }
        AnswerKind::Unreachable => cause("unreachable", text, fix::connect(registry)),
        AnswerKind::Tls => cause("tls", text, fix::certificate(registry)),
        AnswerKind::PlainHttp => {
            let text = format!("{registry} speaks plain HTTP, and the node wants HTTPS");
            cause("plain-http", text, fix::plain_http(registry))
        }
        AnswerKind::PlatformMissing { offered } => {
            let text = format!(
                "there is no image for linux/{} in it, only for {}",
                facts.architecture,
                if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") }
            );
            cause("platform-missing", text, fix::platform(reference, facts.architecture))
        }
        AnswerKind::NotAnImage { media_type } => {
            let text = format!("it is there and no image: {media_type}");
            cause("not-an-image", text, fix::tags(reference))
        }
        AnswerKind::Opens
        | AnswerKind::NotAsked
        | AnswerKind::Unauthorized
        | AnswerKind::Denied
        | AnswerKind::NotFound
        | AnswerKind::Refused => cause("registry-error", text, fix::connect(registry)),
    }
}
