//! `shipway registry trash`, `history` and `delete`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use oci_model::{Digest, Repository, Tag};
use registry_client::AdminRequest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::remote::RemoteArgs;
use crate::exit::Failure;
use crate::output::{self, OutputArgs, OutputFormat};

#[derive(Args, Debug)]
pub(super) struct TrashArgs {
    #[command(subcommand)]
    verb: TrashVerb,
}

#[derive(Subcommand, Debug)]
enum TrashVerb {
    /// List what was deleted and can be restored
    List(ListArgs),
    /// Bring a deleted manifest back, or set a tag back to what it named before
    Restore(RestoreArgs),
    /// Remove what is in the trash for good
    Empty(EmptyArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Namespace or repository [default: everything that you administer]
    #[arg(value_name = "PREFIX", default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct RestoreArgs {
    /// Repository with a tag or a digest: REPO:TAG, REPO@DIGEST or REPO:TAG@DIGEST
    #[arg(value_name = "REPO:TAG")]
    name: String,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct EmptyArgs {
    /// Namespace or repository
    #[arg(value_name = "PREFIX", required_unless_present = "all")]
    prefix: Option<String>,
    /// The trash of the whole registry
    #[arg(long, conflicts_with = "prefix")]
    all: bool,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
pub(super) struct HistoryArgs {
    /// Repository with a tag
    #[arg(value_name = "REPO:TAG")]
    name: String,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
pub(super) struct DeleteArgs {
    /// Repository
    #[arg(value_name = "REPO")]
    repository: String,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Deserialize, Serialize)]
struct Trash {
    trash: Vec<Item>,
}

#[derive(Deserialize, Serialize)]
struct Item {
    repository: String,
    tag: Option<String>,
    digest: String,
    tags: Vec<String>,
    deleted: String,
    by: String,
    how: String,
    until: String,
}

#[derive(Deserialize, Serialize)]
struct History {
    repository: String,
    tag: String,
    moves: Vec<Move>,
}

#[derive(Deserialize, Serialize)]
struct Move {
    at: String,
    by: String,
    request: String,
    old: Option<String>,
    new: Option<String>,
    how: String,
}

/// `REPO:TAG`, `REPO@DIGEST` or both, without a host: that is `--registry`.
struct Name {
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Name {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong =
            || Failure::usage(format!("{text:?} is not of the form REPO:TAG or REPO@DIGEST"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                digest.parse::<Digest>().map_err(|_| wrong())?;
                (rest, Some(digest.to_owned()))
            }
            None => (text, None),
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => {
                Tag::new(tag).map_err(|_| wrong())?;
                (repository, Some(tag.to_owned()))
            }
            None => (rest, None),
        };
        Repository::new(repository).map_err(|_| wrong())?;
        if tag.is_none() && digest.is_none() {
            return Err(wrong());
        }
        Ok(Self { repository: repository.to_owned(), tag, digest })
    }

    fn query(&self) -> Vec<(&str, &str)> {
        let mut query = vec![("repository", self.repository.as_str())];
        query.extend(self.tag.as_deref().map(|tag| ("tag", tag)));
        query.extend(self.digest.as_deref().map(|digest| ("digest", digest)));
        query
    }
}

/// Runs a verb of the trash.
pub(super) async fn run(args: &TrashArgs) -> Result<ExitCode, Failure> {
    match &args.verb {
        TrashVerb::List(args) => list(args).await,
        TrashVerb::Restore(args) => restore(args).await,
        TrashVerb::Empty(args) => empty(args).await,
    }
}

async fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let query = [("prefix", args.prefix.as_str())];
    let answer: Trash = args.remote.get("trash", &query).await?;
    match args.output.output {
        OutputFormat::Json => output::json(&answer)?,
        OutputFormat::Text => answer.trash.iter().for_each(|item| output::line(&describe(item))),
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(item: &Item) -> String {
    let Item { repository, tag, digest, tags, deleted, by, how, until } = item;
    let name = match tag {
        Some(tag) => format!("{repository}:{tag} ({digest})"),
        None if tags.is_empty() => format!("{repository}@{digest}"),
        None => format!("{repository}@{digest} ({})", tags.join(", ")),
    };
    let by = if by.is_empty() { "nobody in particular" } else { by };
    format!("{name}: deleted {deleted} by {by} ({how}), kept until {until}")
}

async fn restore(args: &RestoreArgs) -> Result<ExitCode, Failure> {
    let name = Name::parse(&args.name)?;
    let endpoint = "trash/restore";
    let query = name.query();
    let request = AdminRequest { method: "POST", endpoint, query: &query, document: None };
    let answer: Value = args.remote.send(request).await?;
    let list = |key: &str| -> Vec<String> {
        let items = answer[key].as_array().into_iter().flatten();
        items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    tell(&args.output, &answer, || {
        format!(
            "restored {}: {} manifests, tags: {}",
            name.repository,
            list("manifests").len(),
            list("tags").join(", ")
        )
    })
}

async fn empty(args: &EmptyArgs) -> Result<ExitCode, Failure> {
    let query = [("prefix", args.prefix.as_deref().unwrap_or_default())];
    let request =
        AdminRequest { method: "DELETE", endpoint: "trash", query: &query, document: None };
    let answer: Value = args.remote.send(request).await?;
    tell(&args.output, &answer, || format!("removed for good: {}", answer["removed"]))
}

/// Shows the moves of a tag, the last one first.
pub(super) async fn history(args: &HistoryArgs) -> Result<ExitCode, Failure> {
    let name = Name::parse(&args.name)?;
    let answer: History = args.remote.get("history", &name.query()).await?;
    match args.output.output {
        OutputFormat::Json => output::json(&answer)?,
        OutputFormat::Text => {
            for Move { at, by, old, new, how, .. } in &answer.moves {
                let side = |digest: &Option<String>| digest.clone().unwrap_or("nothing".to_owned());
                output::line(&format!("{at} {how} by {by}: {} -> {}", side(old), side(new)));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Deletes a repository, images into the trash.
pub(super) async fn delete(args: &DeleteArgs) -> Result<ExitCode, Failure> {
    let query = [("repository", args.repository.as_str())];
    let request =
        AdminRequest { method: "DELETE", endpoint: "repositories", query: &query, document: None };
    let answer: Value = args.remote.send(request).await?;
    tell(&args.output, &answer, || {
        format!("deleted {}: {} manifests", args.repository, answer["manifests"])
    })
}

fn tell(
    output: &OutputArgs,
    answer: &Value,
    text: impl FnOnce() -> String,
) -> Result<ExitCode, Failure> {
    match output.output {
        OutputFormat::Json => output::json(answer)?,
        OutputFormat::Text => output::line(&text()),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_tag_or_a_digest_and_no_host() {
        let digest = Digest::of(b"").to_string();
        let read = |text: &str| {
            Name::parse(text).ok().map(|name| (name.repository, name.tag, name.digest))
        };
        let expected = |tag: Option<&str>, digest: Option<&str>| {
            Some(("team/app".to_owned(), tag.map(str::to_owned), digest.map(str::to_owned)))
        };
        assert_eq!(read("team/app:v1"), expected(Some("v1"), None));
        assert_eq!(read(&format!("team/app@{digest}")), expected(None, Some(&digest)));
        assert_eq!(read(&format!("team/app:v1@{digest}")), expected(Some("v1"), Some(&digest)));
        for wrong in ["team/app", "host:5000/app:v1", "Team:v1", "app@sha256:1", ":v1", ""] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
