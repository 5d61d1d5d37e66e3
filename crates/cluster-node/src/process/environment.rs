//! The environment of a container, in the kubelet's order (mini-kubernetes.md 8.4).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::downward::{self, DownwardError, NodeFacts};
use super::expansion::expand;

/// The secrets and config maps a container refers to, fetched beforehand; `None` = does not exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    pub(crate) secrets: BTreeMap<String, Option<BTreeMap<String, Vec<u8>>>>,
    pub(crate) config_maps: BTreeMap<String, Option<BTreeMap<String, Vec<u8>>>>,
}

/// Names of the objects that a container's environment refers to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) secrets: Vec<String>,
    pub(crate) config_maps: Vec<String>,
}

/// Collects what has to be fetched before [`environment`] can be computed.
pub(crate) fn references(container: &Container) -> References {
    let mut found = References::default();
    for source in container.env_from.iter().flatten() {
        if let Some(map) = &source.config_map_ref {
            found.config_maps.push(map.name.clone());
        }
        if let Some(secret) = &source.secret_ref {
            found.secrets.push(secret.name.clone());
        }
    }
    for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
        if let Some(key) = &source.config_map_key_ref {
            found.config_maps.push(key.name.clone());
        }
        if let Some(key) = &source.secret_key_ref {
            found.secrets.push(key.name.clone());
        }
    }
    for list in [&mut found.secrets, &mut found.config_maps] {
        list.sort();
        list.dedup();
    }
    found
}

/// Why the environment cannot be built: waiting reason `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum EnvironmentError {
    #[error("secret \"{0}\" not found")]
    SecretMissing(String),
    #[error("configmap \"{0}\" not found")]
    ConfigMapMissing(String),
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    SecretKeyMissing { namespace: String, name: String, key: String },
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    ConfigMapKeyMissing { namespace: String, name: String, key: String },
    #[error(transparent)]
    Downward(#[from] DownwardError),
}

/// A container's environment, and what was left out of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// In order of definition; a name appears once.
    pub(crate) variables: Vec<(String, String)>,
    /// Text of the `InvalidEnvironmentVariableNames` event of each source with skipped keys.
    pub(crate) skipped: Vec<String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        match self.variables.iter_mut().find(|(existing, _)| existing == name) {
            Some((_, old)) => *old = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    /// The value of a variable.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.variables.iter().find(|(existing, _)| existing == name).map(|(_, value)| value.clone())
    }
}

/// Builds the environment: service variables, `envFrom` in order, then `env` in order.
///
/// # Errors
/// A reference that is not optional has no value.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    node: &NodeFacts,
    api_server: Option<SocketAddr>,
) -> Result<Environment, EnvironmentError> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut result = Environment::default();
    if let Some(address) = api_server {
        service_variables(address, &mut result);
    }
    from_sources(container, objects, &mut result)?;
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, |name| result.get(name))),
            (_, None) => Some(String::new()),
            (_, Some(source)) => {
                if let Some(reference) = &source.field_ref {
                    Some(downward::field(pod, &reference.field_path, node)?)
                } else if let Some(selector) = &source.resource_field_ref {
                    Some(downward::resource(pod, Some(container), selector, node)?)
                } else if let Some(key) = &source.secret_key_ref {
                    let optional = key.optional == Some(true);
                    match objects.secrets.get(&key.name).and_then(Option::as_ref) {
                        None if optional => None,
                        None => return Err(EnvironmentError::SecretMissing(key.name.clone())),
                        Some(data) => match data.get(&key.key) {
                            Some(value) => Some(String::from_utf8_lossy(value).into_owned()),
                            None if optional => None,
                            None => {
                                return Err(EnvironmentError::SecretKeyMissing {
                                    namespace,
                                    name: key.name.clone(),
                                    key: key.key.clone(),
                                });
                            }
                        },
                    }
                } else if let Some(key) = &source.config_map_key_ref {
                    let optional = key.optional == Some(true);
                    match objects.config_maps.get(&key.name).and_then(Option::as_ref) {
                        None if optional => None,
                        None => return Err(EnvironmentError::ConfigMapMissing(key.name.clone())),
                        Some(data) => match data.get(&key.key) {
                            Some(value) => Some(String::from_utf8_lossy(value).into_owned()),
                            None if optional => None,
                            None => {
                                return Err(EnvironmentError::ConfigMapKeyMissing {
                                    namespace,
                                    name: key.name.clone(),
                                    key: key.key.clone(),
                                });
                            }
                        },
                    }
                } else {
                    Some(String::new())
                }
            }
        };
        if let Some(value) = value {
            result.set(&variable.name, value);
        }
    }
    Ok(result)
}

/// What in-cluster clients look for, although there is no Service behind it.
fn service_variables(address: SocketAddr, result: &mut Environment) {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let url_host = if address.is_ipv6() { format!("[{host}]") } else { host.clone() };
    result.set("KUBERNETES_SERVICE_HOST", host.clone());
    result.set("KUBERNETES_SERVICE_PORT", port.clone());
    result.set("KUBERNETES_SERVICE_PORT_HTTPS", port.clone());
    result.set("KUBERNETES_PORT", format!("tcp://{url_host}:{port}"));
    result.set(&format!("KUBERNETES_PORT_{port}_TCP"), format!("tcp://{url_host}:{port}"));
    result.set(&format!("KUBERNETES_PORT_{port}_TCP_PROTO"), "tcp".to_owned());
    result.set(&format!("KUBERNETES_PORT_{port}_TCP_PORT"), port.clone());
    result.set(&format!("KUBERNETES_PORT_{port}_TCP_ADDR"), host);
}

fn from_sources(
    container: &Container,
    objects: &Objects,
    result: &mut Environment,
) -> Result<(), EnvironmentError> {
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (kind, name, data) = if let Some(map) = &source.config_map_ref {
            match objects.config_maps.get(&map.name).and_then(Option::as_ref) {
                Some(data) => ("ConfigMap", &map.name, data),
                None if map.optional == Some(true) => continue,
                None => return Err(EnvironmentError::ConfigMapMissing(map.name.clone())),
            }
        } else if let Some(secret) = &source.secret_ref {
            match objects.secrets.get(&secret.name).and_then(Option::as_ref) {
                Some(data) => ("Secret", &secret.name, data),
                None if secret.optional == Some(true) => continue,
                None => return Err(EnvironmentError::SecretMissing(secret.name.clone())),
            }
        } else {
            continue;
        };
        let mut skipped = Vec::new();
        for (key, value) in data {
            let full = format!("{prefix}{key}");
            if is_variable_name(&full) {
                result.set(&full, String::from_utf8_lossy(value).into_owned());
            } else {
                skipped.push(full);
            }
        }
        if !skipped.is_empty() {
            let namespace_kind = if kind == "Secret" { "Secret" } else { "ConfigMap" };
            result.skipped.push(format!(
                "Keys [{}] from the EnvFrom {namespace_kind} {name} were skipped since they are considered invalid environment variable names.",
                skipped.join(", ")
            ));
        }
    }
    Ok(())
}

/// Printable ASCII without `=`, as the relaxed rule of the API has it.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=')
}

/// Command and arguments of a container: the spec's, the image's otherwise.
///
/// A command in the spec hides the image's arguments as well.
pub(crate) fn command_line(
    container: &Container,
    entrypoint: &[String],
    cmd: &[String],
    environment: &Environment,
) -> Vec<String> {
    let expanded = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(list.iter().map(|text| expand(text, |name| environment.get(name))).collect())
    };
    match (expanded(&container.command), expanded(&container.args)) {
        (Some(command), args) => command.into_iter().chain(args.unwrap_or_default()).collect(),
        (None, Some(args)) => entrypoint.iter().cloned().chain(args).collect(),
        (None, None) => entrypoint.iter().chain(cmd).cloned().collect(),
    }
}

#[cfg(test)]
mod tests;
