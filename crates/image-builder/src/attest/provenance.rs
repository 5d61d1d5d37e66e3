//! SLSA provenance 1.0: how an image came to be.

use std::collections::BTreeMap;

use dockerfile::{Action, Mount, Network, Requirement, Stage, Target};
use oci_model::Platform;
use serde_json::{Map, Value, json};

use super::materials::stages;
use super::{Material, ProvenanceMode};
use crate::session::Session;

/// What the fields of `externalParameters` mean; the names are those of BuildKit's provenance.
const BUILD_TYPE: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
/// Who built, unless the caller says otherwise.
const BUILDER: &str = "urn:shipway:image-builder";

/// Unix seconds of begin and end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) begin: i64,
    pub(crate) end: i64,
}

/// The predicate about the image of a target.
pub(super) fn predicate(
    session: &Session,
    target: &Target,
    materials: Vec<Material>,
    mode: ProvenanceMode,
    times: Times,
) -> Value {
    let stages = stages(session, target);
    let invocation = &session.request.invocation;
    let mut source = json!({ "path": invocation.dockerfile });
    if let Some(context) = &invocation.context {
        source["uri"] = json!(context.uri);
        source["digest"] = json!(context.digest);
    }
    let mut internal = json!({ "builderPlatform": Platform::host().to_string() });
    if mode == ProvenanceMode::Max {
        internal["buildConfig"] = json!({ "steps": steps(&stages) });
    }
    let local = session.request.context.is_some() && invocation.context.is_none();
    let id = &session.request.attest.builder_id;
    let dependencies: Vec<Value> = materials
        .into_iter()
        .map(|material| json!({ "uri": material.uri, "digest": material.digest }))
        .collect();
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "configSource": source,
                "request": request(session, &stages, mode),
            },
            "internalParameters": internal,
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {
                "id": if id.is_empty() { BUILDER } else { id },
                "version": { "shipway": env!("CARGO_PKG_VERSION") },
            },
            "metadata": {
                "startedOn": time(times.begin),
                "finishedOn": time(times.end),
                "buildkit_completeness": {
                    "request": mode == ProvenanceMode::Max,
                    "resolvedDependencies": !local,
                },
                "buildkit_hermetic": is_hermetic(&stages),
            },
        },
    })
}

fn time(seconds: i64) -> Value {
    jiff::Timestamp::from_second(seconds).map_or(Value::Null, |time| json!(time.to_string()))
}

/// What the caller asked for; arguments and labels may be confidential and are told only in full
/// mode.
fn request(session: &Session, stages: &[&Stage], mode: ProvenanceMode) -> Value {
    let invocation = &session.request.invocation;
    let mut arguments: BTreeMap<String, &str> = BTreeMap::new();
    if let Some(target) = &invocation.target {
        arguments.insert("target".to_owned(), target);
    }
    if mode == ProvenanceMode::Max {
        for (name, value) in &invocation.build_args {
            arguments.insert(format!("build-arg:{name}"), value);
        }
        for (name, value) in &invocation.labels {
            arguments.insert(format!("label:{name}"), value);
        }
    }
    let mut request = Map::new();
    request.insert("frontend".to_owned(), json!("dockerfile.v0"));
    if !arguments.is_empty() {
        request.insert("args".to_owned(), json!(arguments));
    }
    if session.request.context.is_some() && invocation.context.is_none() {
        request.insert("locals".to_owned(), json!([{ "name": "context" }]));
    }
    // An id that one mount needs is needed.
    let (mut secrets, mut agents) = (BTreeMap::new(), BTreeMap::new());
    for mount in runs(stages).flat_map(|run| &run.mounts) {
        let (list, id, requirement) = match mount {
            Mount::Secret { id, requirement, .. } => (&mut secrets, id, requirement),
            Mount::Ssh { id, requirement, .. } => (&mut agents, id, requirement),
            Mount::Bind { .. } | Mount::Cache { .. } | Mount::Tmpfs { .. } => continue,
        };
        *list.entry(id.clone()).or_insert(true) &= *requirement == Requirement::Optional;
    }
    for (key, list) in [("secrets", secrets), ("ssh", agents)] {
        let list: Vec<Value> =
            list.into_iter()
                .map(|(id, optional)| {
                    if optional {
                        json!({ "id": id, "optional": true })
                    } else {
                        json!({ "id": id })
                    }
                })
                .collect();
        if !list.is_empty() {
            request.insert(key.to_owned(), json!(list));
        }
    }
    Value::Object(request)
}

fn runs<'a>(stages: &'a [&Stage]) -> impl Iterator<Item = &'a dockerfile::RunAction> {
    stages.iter().flat_map(|stage| &stage.steps).filter_map(|step| match &step.action {
        Action::Run(run) => Some(run),
        Action::Transfer(_) | Action::Workdir(_) | Action::Configure => None,
    })
}

/// Whether no command could reach the network.
fn is_hermetic(stages: &[&Stage]) -> bool {
    runs(stages).all(|run| run.network == Network::None)
}

/// Every step with its lines, so that a reader finds its instruction.
fn steps(stages: &[&Stage]) -> Vec<Value> {
    let mut steps = Vec::new();
    for stage in stages {
        for (number, step) in stage.steps.iter().enumerate() {
            steps.push(json!({
                "id": format!("step{}-{number}", stage.id.index()),
                "title": step.title,
                "createdBy": step.created_by,
                "platform": stage.platform.to_string(),
                "lines": [step.span.line, step.span.line_end],
            }));
        }
    }
    steps
}
