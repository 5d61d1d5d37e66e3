//! `shipway status`: whether a machine runs on the state directory, and where it listens.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::up::record::{Lock, Record};
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};

/// Flags of `shipway status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// The JSON of a running machine.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    #[serde(flatten)]
    record: &'a Record,
    /// Resident memory of the daemon, in bytes.
    resident_bytes: Option<u64>,
}

/// Prints the status; exit code 4 when nothing runs.
pub(crate) fn run(args: &StatusArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let state_dir = globals.state_dir();
    let not_running = || {
        Failure::new(Kind::NotFound, anyhow::anyhow!("no machine runs on {}", state_dir.display()))
            .hint("shipway up")
    };
    if !state_dir.join("up.lock").exists() {
        return Err(not_running());
    }
    if Lock::take(&state_dir).context("cannot look at the lock")?.is_some() {
        return Err(not_running());
    }
    let record = Record::read(&state_dir).context("cannot read the record of the machine")?;
    let record = record.ok_or_else(not_running)?;
    let resident_bytes = resident_bytes(record.pid);
    match args.output.output {
        OutputFormat::Json => output::json(&Status { record: &record, resident_bytes })?,
        OutputFormat::Text => {
            let memory = resident_bytes
                .map_or_else(String::new, |bytes| format!(", {} MiB resident", bytes >> 20));
            output::line(&format!(
                "running     process {}{memory}\nKubernetes  https://{}  (node {})\nregistry    {}\nkubeconfig  {}",
                record.pid,
                record.api_address,
                record.node_name,
                record.registry_address,
                record.kubeconfig.display()
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Resident memory from /proc/PID/status, which gives it in KiB.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}
