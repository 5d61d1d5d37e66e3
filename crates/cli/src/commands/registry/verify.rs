//! `shipway registry verify`.

use std::process::ExitCode;

use blob_store::{BlobStore, ReadError, Verdict};
use clap::Args;
use serde::Serialize;

use super::open_store;
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};

#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// What `registry verify` prints.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct VerifiedReport {
    blobs: u64,
    bytes: u64,
    damaged: Vec<oci_model::Digest>,
}

pub(super) async fn run(args: &VerifyArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let store = open_store(&globals.state_dir())?;
    let report = tokio::task::spawn_blocking(move || verify_all(&store)).await??;
    let VerifiedReport { blobs, bytes, damaged } = &report;
    match args.output.output {
        OutputFormat::Json => output::json(&report)?,
        OutputFormat::Text => output::line(&format!("verified: {blobs} blobs, {bytes} bytes")),
    }
    match damaged.len() {
        0 => Ok(ExitCode::SUCCESS),
        count => {
            let names: Vec<String> = damaged.iter().map(ToString::to_string).collect();
            let text = format!("{count} blobs were damaged on disk: {}", names.join(", "));
            Err(Failure::new(Kind::Failed, anyhow::anyhow!("{text}")).hint(
                "push the images that had them again; the bytes are kept in blobs/quarantine",
            ))
        }
    }
}

fn verify_all(store: &BlobStore) -> Result<VerifiedReport, ReadError> {
    let mut report = VerifiedReport::default();
    store.for_each_blob(|digest, size| {
        match store.verify(&digest) {
            Ok(Verdict::Intact) => {}
            Ok(Verdict::Quarantined) => report.damaged.push(digest),
            // Collected meanwhile.
            Err(ReadError::Missing { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        report.blobs += 1;
        report.bytes += size;
        Ok(())
    })?;
    Ok(report)
}
