//! `shipway registry`: serve, users, garbage. One file per group of verbs.

mod audit;
mod backup;
mod check_config;
mod config;
mod gc;
mod identity;
mod namespace;
mod notifications;
mod operations;
mod reload;
mod remote;
mod retention;
mod robot;
mod serve;
mod storage;
mod transfer;
mod trash;
mod upkeep;
mod upstreams;
mod user;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use blob_store::BlobStore;
use clap::{Args, Subcommand};

use crate::exit::{Failure, Kind};
use crate::globals::{Globals, LogFormat};

/// A private registry on this machine.
#[derive(Args, Debug)]
pub(crate) struct RegistryArgs {
    #[command(subcommand)]
    verb: RegistryVerb,
}

impl RegistryArgs {
    /// How lines of the log are written.
    pub(crate) fn log_format(&self) -> LogFormat {
        match &self.verb {
            RegistryVerb::Serve(args) => args.log_format,
            _ => LogFormat::default(),
        }
    }
}

#[derive(Subcommand, Debug)]
enum RegistryVerb {
    /// Serve the registry until stopped
    Serve(Box<serve::ServeArgs>),
    /// Manage who may log in
    User(user::UserArgs),
    /// Manage robots: accounts for machines
    Robot(robot::RobotArgs),
    /// Show the policies of the namespaces that you administer
    Namespaces(namespace::NamespacesArgs),
    /// Show what namespaces hold and may hold
    Usage(namespace::UsageArgs),
    /// Show or remove what the retention rules keep no more
    Retention(retention::RetentionArgs),
    /// List, restore or remove what was deleted
    Trash(trash::TrashArgs),
    /// Show what a tag named, since when and by whom
    History(trash::HistoryArgs),
    /// Delete a repository; its images go to the trash
    Delete(trash::DeleteArgs),
    /// Remove blobs that no image needs any more
    Gc(gc::GcArgs),
    /// Take in a CNCF distribution registry's directory or an OCI image layout
    Import(transfer::ImportArgs),
    /// Write the metadata and every blob that it needs to a directory, while the registry serves
    Backup(backup::BackupArgs),
    /// Make the registry hold what a backup says
    Restore(backup::RestoreArgs),
    /// Write a repository as an OCI image layout
    Export(transfer::ExportArgs),
    /// Check and read the audit log
    Audit(audit::AuditArgs),
    /// Check a configuration file and name everything that is wrong with it
    CheckConfig(Box<check_config::CheckConfigArgs>),
    /// Print the JSON Schema of the configuration file
    ConfigSchema(check_config::ConfigSchemaArgs),
    /// Read every blob again and put damaged ones away
    Verify(verify::VerifyArgs),
}

/// Runs the verb.
pub(crate) async fn run(args: RegistryArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    match args.verb {
        RegistryVerb::Serve(args) => serve::run(*args, globals).await,
        RegistryVerb::User(args) => user::run(&args, globals),
        RegistryVerb::Robot(args) => robot::run(&args, globals),
        RegistryVerb::Namespaces(args) => namespace::list(&args).await,
        RegistryVerb::Usage(args) => namespace::usage(&args).await,
        RegistryVerb::Retention(args) => retention::run(&args).await,
        RegistryVerb::Trash(args) => trash::run(&args).await,
        RegistryVerb::History(args) => trash::history(&args).await,
        RegistryVerb::Delete(args) => trash::delete(&args).await,
        RegistryVerb::Gc(args) => gc::run(&args, globals).await,
        RegistryVerb::Import(args) => transfer::import(args, globals).await,
        RegistryVerb::Backup(args) => backup::backup(args, globals).await,
        RegistryVerb::Restore(args) => backup::restore(args, globals).await,
        RegistryVerb::Export(args) => transfer::export(args, globals).await,
        RegistryVerb::Audit(args) => audit::run(&args, globals),
        RegistryVerb::CheckConfig(args) => check_config::check(&args, globals),
        RegistryVerb::ConfigSchema(args) => check_config::schema(&args),
        RegistryVerb::Verify(args) => verify::run(&args, globals).await,
    }
}

fn open_store(state: &Path) -> Result<BlobStore, Failure> {
    BlobStore::open(state.join("blobs")).map_err(|error| Failure::new(Kind::Environment, error))
}

/// The robots file that `registry robot add` writes and `registry serve` finds.
fn default_robots(state: &Path) -> PathBuf {
    state.join("registry/robots.json")
}

/// The user file that `registry user add` writes and `registry serve` finds.
fn default_users(state: &Path) -> PathBuf {
    state.join("registry/htpasswd")
}

/// The registries behind ours that a configuration file names.
pub(crate) fn proxied_registries(path: &Path) -> Result<registry_server::ProxyOptions, Failure> {
    let settings = config::Effective::gather(Some(path), &config::KeyFlags::default())
        .map_err(|error| Failure::new(Kind::Usage, error))?;
    upstreams::proxy_options(settings.config.proxy, &settings.config.cache)
}
