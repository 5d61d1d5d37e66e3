//! `shipway registry retention`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use registry_client::AdminRequest;
use registry_server::Verdict;
use serde::{Deserialize, Serialize};

use super::remote::RemoteArgs;
use crate::exit::Failure;
use crate::output::{self, OutputArgs, OutputFormat};

#[derive(Args, Debug)]
pub(super) struct RetentionArgs {
    #[command(subcommand)]
    verb: RetentionVerb,
}

#[derive(Subcommand, Debug)]
enum RetentionVerb {
    /// Say for every tag whether the rules keep it, and why
    Plan(ScopeArgs),
    /// Remove what no rule keeps (into the trash), and say the same
    Apply(ScopeArgs),
}

#[derive(Args, Debug)]
struct ScopeArgs {
    /// Namespace or repository [default: everything]
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Deserialize, Serialize)]
struct Plan {
    repositories: Vec<RepositoryPlan>,
    /// Tags and digests that went, by repository; only after `apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removed: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Deserialize, Serialize)]
struct RepositoryPlan {
    repository: String,
    tags: Vec<Verdict>,
    manifests: Vec<Verdict>,
}

/// Runs the verb.
pub(super) async fn run(args: &RetentionArgs) -> Result<ExitCode, Failure> {
    let (scope, method) = match &args.verb {
        RetentionVerb::Plan(scope) => (scope, "GET"),
        RetentionVerb::Apply(scope) => (scope, "POST"),
    };
    let query = [("prefix", scope.prefix.as_str())];
    let request = AdminRequest { method, endpoint: "retention", query: &query, document: None };
    let plan: Plan = scope.remote.send(request).await?;
    match scope.output.output {
        OutputFormat::Json => output::json(&plan)?,
        OutputFormat::Text => describe(&plan).iter().for_each(|line| output::line(line)),
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    for RepositoryPlan { repository, tags, manifests } in &plan.repositories {
        let named = tags.iter().map(|tag| (format!("{repository}:{}", tag.name), tag));
        let untagged = manifests.iter().map(|one| (format!("{repository}@{}", one.name), one));
        for (name, verdict) in named.chain(untagged) {
            let word = if verdict.keep { "keep" } else { "drop" };
            lines.push(format!("{word} {name}: {}", verdict.reason));
        }
    }
    if let Some(removed) = &plan.removed {
        let count: usize = removed.values().map(Vec::len).sum();
        lines.push(format!("removed: {count} tags and manifests"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_has_its_reason_in_a_line() {
        let plan = r#"{"repositories":[{"repository":"team/app","tags":[
            {"name":"v1","digest":"sha256:1","keep":false,"reason":"too old (rule 1)"},
            {"name":"v2","digest":"sha256:2","keep":true,"reason":"new (rule 1)"}],
            "manifests":[{"name":"sha256:1","digest":"sha256:1","keep":false,"reason":"no tag"}]}],
            "removed":{"team/app":["v1","sha256:1"]}}"#;
        let plan: Plan = serde_json::from_str(plan).expect("a plan");
        assert_eq!(
            describe(&plan),
            [
                "drop team/app:v1: too old (rule 1)",
                "keep team/app:v2: new (rule 1)",
                "drop team/app@sha256:1: no tag",
                "removed: 2 tags and manifests",
            ]
        );
    }
}
