//! `shipway tags`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::cloud::{Access, Wants};
use crate::exit::Failure;
use crate::output::{self, OutputArgs, OutputFormat};
use crate::registries::{RegistryArgs, client, reference};

/// Flags of `tags`.
#[derive(Args, Debug)]
pub(crate) struct TagsArgs {
    /// Repository whose tags are listed
    #[arg(value_name = "REPOSITORY")]
    repository: String,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Lists the tags of a repository.
pub(crate) async fn run(args: TagsArgs) -> Result<ExitCode, Failure> {
    let name = reference(&args.repository)?;
    let client = client(&args.registry)?;
    let mut access = Access::to(&name, Wants::Pull).await?;
    let tags = access.attempt(async |auths| client.tags(&name, auths).await).await?;
    match args.output.output {
        OutputFormat::Json => output::json(&json!({ "repository": name.name(), "tags": tags }))?,
        OutputFormat::Text => tags.iter().for_each(|tag| output::line(tag)),
    }
    Ok(ExitCode::SUCCESS)
}
