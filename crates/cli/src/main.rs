//! The `shipway` binary: flags become values, crates are wired, output is written, exit codes are
//! chosen. It holds no logic worth a unit test; start reading at [`commands`].

#![forbid(unsafe_code)]
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "doc comments of flags are help texts, in which brackets mean optional"
)]

mod auth_files;
mod build;
mod cloud;
mod clusters;
mod commands;
mod exit;
mod globals;
mod helper_process;
mod issuer_keys;
mod local_images;
mod output;
mod password;
mod registries;
mod transfer_view;

use std::process::ExitCode;

use crate::commands::Cli;
use crate::exit::Failure;

fn main() -> ExitCode {
    // Before anything else: a container's own processes are this same binary, started again.
    container_runtime::reexec();
    // One TLS provider for the whole process; a second call can only be our own mistake.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return Failure::bug("the TLS provider was installed twice").report();
    }
    let arguments = commands::arguments_by_program_name(std::env::args_os());
    let is_executor = arguments.get(1).is_some_and(|verb| verb == "executor" || verb == "warmer");
    let cli = match Cli::try_parse_as_called(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let code = exit::report_usage(&error);
            // kaniko knows one code for everything but a failed command.
            return if is_executor && error.use_stderr() { ExitCode::FAILURE } else { code };
        }
    };
    globals::start_logging(&cli.globals, cli.log_filter(), cli.log_format());
    if let Some(directory) = cli.globals.state_dir_flag() {
        exit::note_state_dir(directory);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(anyhow::Error::from(error)).report(),
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(code) => code,
        Err(failure) => {
            let code = failure.report();
            if failure.is_interruption() {
                // Who pressed Ctrl-C does not wait for what is on its way.
                runtime.shutdown_background();
            }
            code
        }
    }
}
