//! Why an image will or will not pull: what the kubelet would do, step by step, for every image of
//! a pod, with the registry's own answers.
//!
//! Pure logic over inputs. What is read comes through small seams ([`Cluster`], [`Registry`]) and
//! as values ([`Documents`], [`NodeSide`]), so that it works for any cluster and without one. No
//! result holds a password or token. Start reading at [`explain`].

mod answer;
mod attempt;
mod candidates;
mod cause;
mod documents;
mod fix;
mod gathering;
mod image_name;
mod naming;
mod node_side;
mod policy;
mod prediction;
mod present;
mod report;
mod seams;
mod subject;
mod text;

use std::collections::HashMap;

use credentials::{Candidate, Origin, PullSecret};
use oci_model::{Platform, Reference};

pub use answer::{Answer, AnswerKind};
pub use documents::{Documents, DocumentsError, pull_secret};
pub use node_side::{NodeFile, NodeSide, Provider, read_providers};
pub use report::{
    AnonymousReport, AnswerReport, CandidateReport, Cause, EventReport, ImageReport, OriginReport,
    PolicyReport, Prediction, Present, ReferenceReport, Remark, Report, SCHEMA, SecretReport,
    SubjectReport, Verdict, WaitingReport,
};
pub use seams::{Cluster, Known, NoCluster, NodeImages, Question, Registry};
pub use subject::{Applied, ContainerState, ImageUse, Live, Role, Source, Subject, SubjectError};
pub use text::{Colour, text};

use self::candidates::Candidates;
use self::cause::Facts;
use self::gathering::{Gathered, SecretState};
use self::image_name::ImageName;
use self::node_side::Served;

/// Candidates that a registry is asked about for one image; the node has no such limit.
const CANDIDATES_ASKED_MAX: usize = 16;

/// Exit code when every image would be pulled.
pub const EXIT_PULLS: u8 = 0;
/// Exit code when one would not.
pub const EXIT_FAILS: u8 = 1;
/// Exit code when nothing fails, but not everything could be seen.
pub const EXIT_UNKNOWN: u8 = 7;

/// What explaining works with.
pub struct Inputs<'a, C, R> {
    /// Secrets and service accounts of files count before those of the cluster.
    pub documents: &'a Documents,
    /// Secrets of the command line.
    pub secrets: &'a [PullSecret],
    /// The cluster.
    pub cluster: &'a C,
    /// The registries; `None` asks nobody.
    pub registry: Option<&'a R>,
    /// What the node has of its own.
    pub node: &'a NodeSide,
    /// What the node runs.
    pub platform: Platform,
    /// Seconds since 1970.
    pub now: i64,
}

/// Reads a file of the command line as a pull secret: docker's config.json or the old bare map.
///
/// # Errors
/// Text for people, without anything of the file's content.
pub fn secret_of_file(path: &str, bytes: &[u8]) -> Result<PullSecret, String> {
    candidates::secret_of_file(path, bytes)
}

/// Explains every image of every subject, in order.
pub async fn explain<C: Cluster, R: Registry>(
    subjects: &[Subject],
    inputs: &Inputs<'_, C, R>,
) -> Report {
    let mut asked = Asked { known: HashMap::new() };
    let mut reports = Vec::new();
    for subject in subjects {
        reports.push(explain_subject(subject, inputs, &mut asked).await);
    }
    let images = reports.iter().flat_map(|report| &report.images);
    let verdict = images.map(|image| image.verdict).max().unwrap_or(Verdict::Pulls);
    let exit_code = match verdict {
        Verdict::Pulls => EXIT_PULLS,
        Verdict::Fails => EXIT_FAILS,
        Verdict::Unknown => EXIT_UNKNOWN,
    };
    Report { schema: SCHEMA, verdict, exit_code, subjects: reports }
}

async fn explain_subject<C: Cluster, R: Registry>(
    subject: &Subject,
    inputs: &Inputs<'_, C, R>,
    asked: &mut Asked,
) -> SubjectReport {
    let gathered =
        gathering::gather(subject, inputs.documents, inputs.secrets, inputs.cluster).await;
    let mut images = Vec::new();
    for image_use in &subject.images {
        images.push(explain_image(subject, image_use, &gathered, inputs, asked).await);
    }
    let mut remarks = gathered.remarks.clone();
    if let (NodeSide::Unknown { why }, false) = (inputs.node, subject.source == Source::CommandLine)
    {
        let text = format!("which credentials the node has of its own is unknown: {why}");
        remarks.push(Remark::new("node.unknown", text));
    }
    if let NodeSide::Known { providers_unread: Some(why), .. } = inputs.node {
        let text = format!("which credential providers the node has is unknown: {why}");
        remarks.push(Remark::new("node.providers-unread", text));
    }
    SubjectReport {
        kind: subject.kind.clone(),
        namespace: subject.namespace.clone(),
        name: subject.name.clone(),
        source: match &subject.source {
            Source::File { path } => path.clone(),
            Source::Cluster => "cluster".to_owned(),
            Source::CommandLine => "commandLine".to_owned(),
        },
        pod: subject.live.as_ref().map(|live| live.pod.clone()),
        pull_secrets: gathered.secrets.iter().map(secret_report).collect(),
        remarks,
        images,
    }
}

async fn explain_image<C: Cluster, R: Registry>(
    subject: &Subject,
    image_use: &ImageUse,
    gathered: &Gathered,
    inputs: &Inputs<'_, C, R>,
    asked: &mut Asked,
) -> ImageReport {
    let name = image_name::read(&image_use.image);
    let (pull_policy, policy_report) = policy::read(image_use);
    let (name, served) = effective(name, inputs.node);
    let found = match &name.reference {
        Some(reference) if served != Served::Here => {
            candidates::find(&reference.name(), gathered, inputs.node)
        }
        _ => Candidates::default(),
    };
    let (answers, anonymous) = match &name.reference {
        Some(_) if served == Served::Here => (Vec::new(), Answer::opens(None)),
        Some(reference) => asked.about(reference, &found, inputs).await,
        None => (Vec::new(), Answer::not_asked()),
    };
    let (on_nodes, nodes_unknown) =
        match (&name.reference, image_policy::decide(&image_use.image, pull_policy, None)) {
            (Some(reference), image_policy::Decision::LookFor(_)) if served != Served::Here => {
                (gathered.nodes_with(reference), gathered.nodes_unknown.as_deref())
            }
            _ => (Vec::new(), None),
        };
    let present = present::read(subject, image_use, gathered, inputs.now);
    let last_failure = attempt::last_failure(subject, image_use, gathered);
    let facts = Facts {
        subject,
        image_use,
        name: &name,
        policy: pull_policy,
        gathered,
        candidates: &found,
        answers: &answers,
        anonymous: &anonymous,
        node: inputs.node,
        served_here: served == Served::Here,
        on_nodes: &on_nodes,
        nodes_unknown,
        architecture: &inputs.platform.architecture,
        present: present.as_ref(),
        last_failure: last_failure.as_ref(),
        now: inputs.now,
    };
    let (verdict, mut cause) = cause::conclude(&facts);
    if let (Some(attached), Some(again), Some(reference)) = (
        cause.as_mut().filter(|cause| cause.code == "account-attached-later"),
        gathered.made_again(),
        &name.reference,
    ) {
        let found = candidates::find(&reference.name(), &again, inputs.node);
        let (answers, anonymous) = asked.about(reference, &found, inputs).await;
        let (answers, anonymous) = (&answers, &anonymous);
        let (gathered, candidates, last_failure) = (&again, &found, None);
        let facts = Facts { gathered, candidates, answers, anonymous, last_failure, ..facts };
        cause::instead_of_making_again(attached, cause::conclude(&facts).1);
    }
    let next = prediction::predict(&facts);
    let mut remarks = name.remarks.clone();
    remarks.extend(attempt::remark(&facts, verdict));
    remarks.extend(policy::remark(pull_policy));
    remarks.extend(found.remarks.iter().cloned());
    for provider in &found.providers {
        let text = "the node asks it too, after the others; explaining does not run it";
        remarks.push(Remark::about(format!("provider {provider}"), "provider-not-run", text));
    }
    if let Some(cloud) = found.cloud {
        let text = format!("cloud {cloud} would be asked, after all others");
        remarks.push(Remark::about(format!("cloud {cloud}"), "cloud-not-asked", text));
    }
    ImageReport {
        role: image_use.role.word(),
        name: image_use.name.clone(),
        field: image_use.field.clone(),
        image: image_use.image.clone(),
        reference: name.reference.as_ref().map(|reference| ReferenceReport {
            normalised: reference.to_string(),
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_string(),
            tag: reference.tag().map(ToString::to_string),
            digest: reference.digest().map(ToString::to_string),
            asked: name.asked.clone().unwrap_or_default(),
        }),
        meant: name.meant.clone(),
        policy: policy_report,
        candidates: candidate_reports(&found.list, &answers, inputs.now),
        anonymous: AnonymousReport {
            tried: found.list.is_empty() && found.broken.is_none() && name.error.is_none(),
            answer: answer_report(&anonymous),
        },
        remarks,
        verdict,
        cause,
        next,
        present,
    }
}

/// The name under which the node asks, with a remark if it is another one.
fn effective(mut name: ImageName, node: &NodeSide) -> (ImageName, Served) {
    let Some(reference) = &name.reference else { return (name, Served::ByName) };
    let served = node.served(&reference.with_default_tag());
    let text = match &served {
        Served::ByName => return (name, served),
        Served::Here => "the node serves it itself, and asks no registry".to_owned(),
        Served::As(target) => format!("a mirror of the node serves it as {target}"),
    };
    name.remarks.push(Remark::new("node.mirror", text));
    if let Served::As(target) = &served {
        name.reference = Some(target.clone());
    }
    (name, served)
}

/// What registries said; nobody is asked the same twice.
struct Asked {
    /// By reference, credential and kind of question.
    known: HashMap<(String, String, bool), Answer>,
}

impl Asked {
    /// The answers to each candidate and to nobody; none where the node asks nobody. Up to the first success the questions are the
    /// node's own; the others only look.
    async fn about<C, R: Registry>(
        &mut self,
        reference: &Reference,
        candidates: &Candidates,
        inputs: &Inputs<'_, C, R>,
    ) -> (Vec<Answer>, Answer) {
        let (reference, is_broken) = (&reference.with_default_tag(), candidates.broken.is_some());
        let candidates = &candidates.list;
        if is_broken {
            return (vec![Answer::not_asked(); candidates.len()], Answer::not_asked());
        }
        let mut answers: Vec<Answer> = Vec::new();
        let mut question = Question::Pull;
        for candidate in candidates {
            if CANDIDATES_ASKED_MAX <= answers.len() {
                answers.push(Answer::not_asked());
                continue;
            }
            let answer = self.ask(reference, Some(candidate), question, inputs).await;
            if answer.kind == AnswerKind::Opens {
                question = Question::Glance;
            }
            answers.push(answer);
        }
        if !candidates.is_empty() {
            question = Question::Glance;
        }
        let anonymous = self.ask(reference, None, question, inputs).await;
        (answers, anonymous)
    }

    async fn ask<C, R: Registry>(
        &mut self,
        reference: &Reference,
        candidate: Option<&Candidate>,
        question: Question,
        inputs: &Inputs<'_, C, R>,
    ) -> Answer {
        let Some(registry) = inputs.registry else { return Answer::not_asked() };
        let who = candidate.map(|candidate| candidate.auth.identity_hash()).unwrap_or_default();
        let key = (reference.to_string(), who, question == Question::Pull);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let auth = candidate.map(|candidate| &candidate.auth);
        let answer = registry.ask(reference, auth, &inputs.platform, question).await;
        self.known.insert(key, answer.clone());
        answer
    }
}

fn secret_report(secret: &gathering::NamedSecret) -> SecretReport {
    let (state, detail) = match &secret.state {
        SecretState::Found(_) => ("found", None),
        SecretState::Missing { elsewhere } if elsewhere.is_empty() => ("missing", None),
        SecretState::Missing { elsewhere } => {
            ("missing", Some(format!("it is in {}", elsewhere.join(", "))))
        }
        SecretState::Unknown { why } => ("unknown", Some(why.clone())),
    };
    SecretReport { name: secret.name.clone(), named_by: secret.named_by.word(), state, detail }
}

fn candidate_reports(
    candidates: &[Candidate],
    answers: &[Answer],
    now: i64,
) -> Vec<CandidateReport> {
    let mut opened = false;
    let mut reports = Vec::new();
    for (candidate, answer) in candidates.iter().zip(answers) {
        let end = candidate.auth.expires_at();
        reports.push(CandidateReport {
            origin: origin_report(&candidate.origin),
            key: candidate.key.clone(),
            user: candidate.auth.username().map(str::to_owned),
            expires: end
                .and_then(|end| jiff::Timestamp::from_second(end).ok())
                .map(|end| end.to_string()),
            expired: end.is_some_and(|end| end <= now),
            tried: !opened,
            answer: answer_report(answer),
        });
        opened |= answer.kind == AnswerKind::Opens;
    }
    reports
}

fn origin_report(origin: &Origin) -> OriginReport {
    let (kind, name, namespace) = match origin {
        Origin::Secret { namespace, name, .. } => {
            let namespace = Some(namespace.clone()).filter(|namespace| !namespace.is_empty());
            let kind = if namespace.is_some() { "secret" } else { "file" };
            (kind, name.clone(), namespace)
        }
        Origin::File { path } => ("file", path.clone(), None),
        Origin::Provider { name } => ("provider", name.clone(), None),
        Origin::CommandLine => ("commandLine", String::new(), None),
    };
    OriginReport { kind, name, namespace }
}

fn answer_report(answer: &Answer) -> AnswerReport {
    let retry_after_seconds = match &answer.kind {
        AnswerKind::RateLimited { retry_after } => retry_after.map(|wait| wait.as_secs()),
        _ => None,
    };
    let allowance = answer.rate_limit.as_ref().map(|limit| {
        let of = limit.limit.map_or_else(String::new, |all| format!("/{all}"));
        let window = limit.window.map_or_else(String::new, |w| format!(" per {} s", w.as_secs()));
        format!("{}{of}{window}", limit.remaining)
    });
    AnswerReport {
        kind: answer.kind.word(),
        text: answer.text.clone(),
        retry_after_seconds,
        allowance,
    }
}

#[cfg(test)]
mod tests;
