//! `shipway registry verify`.

use std::process::ExitCode;

use blob_store::{BlobStore, CollectError, ReadError, Verdict};
use clap::Args;
use registry_server::MissingBlob;
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
    missing: Vec<MissingBlob>,
}

pub(super) async fn run(args: &VerifyArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let store = open_store(&globals.state_dir())?;
    let report = tokio::task::spawn_blocking(move || verify_all(&store)).await??;
    let VerifiedReport { blobs, bytes, damaged, missing } = &report;
    match args.output.output {
        OutputFormat::Json => output::json(&report)?,
        OutputFormat::Text => {
            for blob in missing {
                output::line(&format!("missing: {}, needed by {}", blob.digest, blob.needed_by));
            }
            output::line(&format!("verified: {blobs} blobs, {bytes} bytes"));
        }
    }
    if damaged.is_empty() && !missing.is_empty() {
        let text = format!("{} blobs are missing", missing.len());
        return Err(Failure::new(Kind::Failed, anyhow::anyhow!("{text}"))
            .hint("push the images that had them again"));
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

fn verify_all(store: &BlobStore) -> anyhow::Result<VerifiedReport> {
    let mut report = VerifiedReport::default();
    store.for_each_blob(|digest, size| -> Result<(), ReadError> {
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
    let damaged = &report.damaged;
    let missing = &mut report.missing;
    let found = store.for_each_missing(|name, digest| {
        if !damaged.contains(digest) {
            missing.push(MissingBlob { digest: *digest, needed_by: name.to_owned() });
        }
    });
    match found {
        // After a restart of the machine it is not known yet what must be there.
        Ok(_) | Err(CollectError::OwnerNotReconciled { .. }) => Ok(report),
        Err(error) => Err(error.into()),
    }
}
