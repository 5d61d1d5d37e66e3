//! What every verb shares: the state directory and logging.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

/// Flags of every verb.
#[derive(Args, Clone, Debug)]
pub(crate) struct Globals {
    /// Directory for everything that shipway keeps on this machine
    /// [default: /var/lib/shipway for root, else $XDG_DATA_HOME/shipway]
    #[arg(long, global = true, env = "SHIPWAY_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What to log to standard error: error, warn, info, debug, trace, or target=level pairs
    #[arg(long, global = true, env = "SHIPWAY_LOG", default_value = "warn", value_name = "FILTER")]
    log: String,
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object per line.
    Json,
}

impl Globals {
    /// Whether the user chose the state directory.
    pub(crate) fn has_state_dir(&self) -> bool {
        self.state_dir.is_some()
    }

    /// The state directory of the flag; one of the environment needs no repeating.
    pub(crate) fn state_dir_flag(&self) -> Option<&std::path::Path> {
        let of_environment = std::env::var_os("SHIPWAY_STATE_DIR").map(PathBuf::from);
        self.state_dir.as_deref().filter(|directory| Some(*directory) != of_environment.as_deref())
    }

    /// The state directory: the flag, the variable, or the default for this user.
    pub(crate) fn state_dir(&self) -> PathBuf {
        if let Some(directory) = &self.state_dir {
            return directory.clone();
        }
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/lib/shipway");
        }
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).unwrap_or_else(|| {
            home_dir().unwrap_or_else(|| PathBuf::from("/tmp")).join(".local/share")
        });
        data.join("shipway")
    }
}

/// The user's home directory, if the environment names one.
pub(crate) fn home_dir() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// Where `docker login` keeps credentials: `$DOCKER_CONFIG`, else `~/.docker`.
pub(crate) fn docker_config_dir() -> Option<PathBuf> {
    match std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()) {
        Some(directory) => Some(PathBuf::from(directory)),
        None => home_dir().map(|home| home.join(".docker")),
    }
}

/// Sends log lines to standard error, filtered by `--log`, or by `other` if that is as it comes.
pub(crate) fn start_logging(globals: &Globals, other: Option<&'static str>, format: LogFormat) {
    let given = if globals.log == "warn" { other.unwrap_or("warn") } else { &globals.log };
    let filter = EnvFilter::try_new(given).unwrap_or_else(|error| {
        crate::output::error_line(&format!(
            "warning: --log {:?}: {error}; using warn",
            globals.log
        ));
        EnvFilter::new("warn")
    });
    let filter = without_bodies(filter);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| crate::output::ErrorWriter);
    match format {
        LogFormat::Text => lines.with_ansi(crate::output::stderr_has_colour()).init(),
        LogFormat::Json => {
            // One flat object: what collects logs finds the fields without knowing us.
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
    }
}

/// The filter without lines of the Kubernetes client, whatever the user asks for: it logs the
/// whole body of an answer that it cannot parse, which may be a Secret.
fn without_bodies(filter: EnvFilter) -> EnvFilter {
    ["kube_client=off", "kube_client::client=off"]
        .into_iter()
        .filter_map(|directive| directive.parse::<Directive>().ok())
        .fold(filter, EnvFilter::add_directive)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn bodies_that_the_kubernetes_client_cannot_parse_are_not_logged() {
        for given in ["warn", "trace", "kube_client=trace", "kube_client::client=warn"] {
            let filter = without_bodies(EnvFilter::new(given));
            tracing::subscriber::with_default(tracing_subscriber::registry().with(filter), || {
                let is_on = tracing::enabled!(target: "kube_client::client", tracing::Level::WARN);
                assert!(!is_on, "{given}");
            });
        }
        let filter = without_bodies(EnvFilter::new("warn"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filter), || {
            assert!(tracing::enabled!(target: "shipway", tracing::Level::WARN));
        });
    }
}
