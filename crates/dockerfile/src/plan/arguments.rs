//! Build arguments: automatic ones, the global scope, proxies, and the environment of a stage.

use std::collections::{BTreeMap, BTreeSet};

use oci_model::Platform;

use super::PlanOptions;
use crate::error::{DockerfileError, ErrorKind};
use crate::expand::{Expander, Variables};
use crate::file::Dockerfile;
use crate::instruction::Instruction;
use crate::limits::ENVIRONMENT_BYTES_MAX;

/// PATH of an image that sets none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Proxy variables that need no ARG and leave no trace, in upper case.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Arguments that steer the builder and need no ARG.
const BUILTIN: [&str; 11] = [
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SYNTAX",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
    "SOURCE_DATE_EPOCH",
];

/// Names with values; a later writer replaces an earlier one in place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Environment {
    pairs: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
    bytes: usize,
}

impl Environment {
    /// Sets `name`.
    ///
    /// # Errors
    /// If the whole would exceed [`ENVIRONMENT_BYTES_MAX`].
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), DockerfileError> {
        match self.index.get(name) {
            Some(&at) => {
                self.bytes = self.bytes - self.pairs[at].1.len() + value.len();
                value.clone_into(&mut self.pairs[at].1);
            }
            None => {
                self.bytes += name.len() + value.len();
                self.index.insert(name.to_owned(), self.pairs.len());
                self.pairs.push((name.to_owned(), value.to_owned()));
            }
        }
        if self.bytes > ENVIRONMENT_BYTES_MAX {
            let message = format!("environment is larger than {ENVIRONMENT_BYTES_MAX} bytes");
            return Err(DockerfileError::new(ErrorKind::Limit, message));
        }
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|&at| self.pairs[at].1.as_str())
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|(name, _)| name.as_str())
    }

    /// Reads `NAME=value` lines of an image config.
    pub(crate) fn from_lines(lines: &[String]) -> Result<Self, DockerfileError> {
        let mut environment = Self::default();
        for line in lines {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            environment.set(name, value)?;
        }
        Ok(environment)
    }

    pub(crate) fn to_lines(&self) -> Vec<String> {
        self.pairs.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

impl Variables for Environment {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}

/// The arguments before the first FROM, the automatic ones included.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct GlobalScope {
    /// What FROM lines see.
    pub(crate) values: BTreeMap<String, String>,
    /// The same without `--build-arg`, for the checks of defaults.
    pub(crate) defaults: BTreeMap<String, String>,
    /// Names declared in the file.
    pub(crate) declared: BTreeSet<String>,
}

impl GlobalScope {
    /// Evaluates the global ARG instructions in order.
    pub(crate) fn evaluate(
        file: &Dockerfile,
        options: &PlanOptions,
    ) -> Result<Self, DockerfileError> {
        let mut scope = Self::default();
        for (name, value) in automatic(file, options) {
            let given = options.build_args.get(&name).unwrap_or(&value);
            scope.values.insert(name.clone(), given.clone());
            scope.defaults.insert(name, value);
        }
        let expander = Expander::new(file.directives.escape);
        for statement in &file.global_args {
            let Instruction::Arg(declarations) = &statement.instruction else { continue };
            for declaration in declarations {
                let place = |error: DockerfileError| error.at(statement.span);
                scope.declared.insert(declaration.name.clone());
                if let Some(default) = &declaration.default {
                    // A default that needs an argument of the caller is no default.
                    if let Ok(expansion) = expander.expand(default, &scope.defaults) {
                        scope.defaults.insert(declaration.name.clone(), expansion.text);
                    }
                }
                let value = match (options.build_args.get(&declaration.name), &declaration.default)
                {
                    (Some(given), _) => given.clone(),
                    (None, Some(default)) => {
                        expander.expand(default, &scope.values).map_err(place)?.text
                    }
                    (None, None) => continue,
                };
                scope.values.insert(declaration.name.clone(), value);
            }
        }
        Ok(scope)
    }
}

/// BUILD* and TARGET* values.
fn automatic(file: &Dockerfile, options: &PlanOptions) -> Vec<(String, String)> {
    let mut values = Vec::new();
    for (prefix, platform) in
        [("BUILD", &options.build_platform), ("TARGET", &options.target_platform)]
    {
        let Platform { architecture, os, os_version, variant, .. } = platform;
        for (suffix, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", os.clone()),
            ("OSVERSION", os_version.clone().unwrap_or_default()),
            ("ARCH", architecture.clone()),
            ("VARIANT", variant.clone().unwrap_or_default()),
        ] {
            values.push((format!("{prefix}{suffix}"), value));
        }
    }
    let last = || file.stages.last().and_then(|stage| stage.head.name.clone());
    let stage = options.target.clone().filter(|target| !target.is_empty()).or_else(last);
    values.push(("TARGETSTAGE".to_owned(), stage.unwrap_or_else(|| "default".to_owned())));
    values
}

fn is_proxy(name: &str) -> bool {
    PROXIES.contains(&name.to_uppercase().as_str())
        && (name == name.to_uppercase() || name == name.to_lowercase())
}

/// Whether an argument means something without any ARG.
pub(crate) fn needs_no_declaration(name: &str) -> bool {
    is_proxy(name) || BUILTIN.contains(&name)
}

/// Proxy variables for a command, in both spellings, without those the stage sets itself.
pub(crate) fn proxies(
    build_args: &BTreeMap<String, String>,
    environment: &Environment,
) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for upper in PROXIES {
        let lower = upper.to_lowercase();
        let value = build_args.get(upper).or_else(|| build_args.get(&lower));
        let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
        for name in [upper.to_owned(), lower] {
            if environment.get(&name).is_none() {
                found.push((name, value.clone()));
            }
        }
    }
    found
}
