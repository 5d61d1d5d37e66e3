//! `shipway registry import` and `export`.

use std::path::PathBuf;
use std::process::ExitCode;

use blob_store::AdoptMode;
use clap::Args;
use registry_server::{ImportOptions, Offline, TransferError, TransferReport};

use super::open_store;
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// Root directory of a CNCF distribution registry (docker-registry, registry:2), or an OCI
    /// image layout
    #[arg(value_name = "DIR")]
    source: PathBuf,
    /// Of a distribution registry, only this repository (repeatable); of a layout, where its
    /// images go
    #[arg(long, value_name = "NAME")]
    repository: Vec<String>,
    /// Copy blobs instead of sharing their files with the source
    #[arg(long)]
    copy: bool,
    /// Leave out manifests that no tag reaches
    #[arg(long)]
    tagged_only: bool,
    /// Only tell what would be imported and what is wrong
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// The repository
    repository: String,
    /// Directory of the OCI image layout; created, or added to
    #[arg(value_name = "DIR")]
    target: PathBuf,
    /// Only this tag (repeatable)
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Only tell what would be exported and what is wrong
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn import(args: ImportArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let offline = offline(globals)?;
    let options = ImportOptions {
        mode: if args.copy { AdoptMode::Copy } else { AdoptMode::Link },
        dry_run: args.dry_run,
        tagged_only: args.tagged_only,
    };
    let report = if args.source.join("oci-layout").exists() {
        let [repository] = &args.repository[..] else {
            return Err(Failure::usage("an OCI image layout is imported into one --repository"));
        };
        offline.import_layout(&args.source, repository, options).await
    } else {
        offline.import_distribution(&args.source, args.repository, options).await
    };
    let verb = if args.dry_run { "would import" } else { "imported" };
    print(verb, &report.map_err(explain)?, args.output)
}

pub(super) async fn export(args: ExportArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let offline = offline(globals)?;
    let report =
        offline.export_layout(&args.repository, args.tag, &args.target, args.dry_run).await;
    let verb = if args.dry_run { "would export" } else { "exported" };
    print(verb, &report.map_err(explain)?, args.output)
}

pub(super) fn offline(globals: &Globals) -> Result<Offline, Failure> {
    let state = globals.state_dir();
    Ok(Offline { directory: state.join("registry"), store: open_store(&state)? })
}

pub(super) fn explain(error: TransferError) -> Failure {
    match &error {
        TransferError::InUse { .. } => Failure::new(Kind::Environment, error)
            .hint("stop the registry for this, or use `shipway copy` with oci:DIR while it serves"),
        TransferError::NotEmpty { .. } => {
            Failure::new(Kind::Usage, error).hint("--replace forgets what the registry holds now")
        }
        TransferError::Incomplete { .. } => Failure::new(Kind::Failed, error)
            .hint("an older --snapshot may be complete; --with-missing restores the rest"),
        TransferError::NotA { .. } | TransferError::NoRepository { .. } => {
            Failure::new(Kind::Usage, error)
        }
        TransferError::State { .. } | TransferError::File { .. } | TransferError::NoSpace => {
            Failure::new(Kind::Environment, error)
        }
    }
}

pub(super) fn print(
    verb: &str,
    report: &TransferReport,
    output: OutputArgs,
) -> Result<ExitCode, Failure> {
    match output.output {
        OutputFormat::Json => output::json(report)?,
        OutputFormat::Text => {
            for problem in &report.problems {
                output::line(&format!("left out: {}: {}", problem.object, problem.reason));
            }
            output::line(&format!(
                "{verb}: {} repositories, {} manifests, {} tags, {} blobs, {} bytes \
                 ({} blobs were there, {} share their file)",
                report.repositories,
                report.manifests,
                report.tags,
                report.blobs,
                report.bytes,
                report.present,
                report.linked
            ));
        }
    }
    match report.problems.len() {
        0 => Ok(ExitCode::SUCCESS),
        count => {
            let text = format!("{count} things were left out");
            Err(Failure::new(Kind::Failed, anyhow::anyhow!("{text}"))
                .hint("the rest is done; mend the source and run it again"))
        }
    }
}
