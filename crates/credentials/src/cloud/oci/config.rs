//! `~/.oci/config`: profiles of API keys and sessions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::{CloudError, Performer};
use super::principal::Signer;
use super::{OciOptions, PROVIDER};
use crate::Secret;

const STEP: &str = "read config";
pub(super) const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Who signs by the config file; `None` if there is no such file and nobody named one.
pub(super) fn signer(
    performer: &dyn Performer,
    options: &OciOptions,
) -> Result<Option<(Signer, String)>, CloudError> {
    let variable = |name: &str| performer.variable(name);
    let named = options.config_file.clone().or_else(|| {
        variable("OCI_CONFIG_FILE").or_else(|| variable("OCI_CLI_CONFIG_FILE")).map(PathBuf::from)
    });
    let path = match named.clone().or_else(|| Some(home(performer)?.join(".oci/config"))) {
        Some(path) => path,
        None => return Ok(None),
    };
    let place = path.display().to_string();
    let failed = |reason: String| CloudError::new(PROVIDER, STEP, &*place, reason);
    let text = match performer.read_file(&path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    let name = options
        .profile
        .clone()
        .or_else(|| variable("OCI_CLI_PROFILE"))
        .unwrap_or_else(|| "DEFAULT".to_owned());
    let profile =
        profile(text.expose(), &name).ok_or_else(|| failed(format!("it has no profile {name}")))?;
    let field = |key: &str, of_environment: &str| {
        variable(of_environment).or_else(|| profile.get(key).cloned())
    };
    let needed = |key: &str, of_environment: &str| {
        field(key, of_environment).ok_or_else(|| failed(format!("profile {name} has no {key}")))
    };
    if field("pass_phrase", "OCI_CLI_PASSPHRASE").is_some() {
        return Err(failed(format!("the key of profile {name} has a pass phrase"))
            .hint("openssl rsa -in KEY -out PLAIN makes a key without one"));
    }
    let key = read(performer, &expanded(performer, &needed("key_file", "OCI_CLI_KEY_FILE")?))?;
    let session = field("security_token_file", "OCI_CLI_SECURITY_TOKEN_FILE");
    let key_id = match session {
        Some(file) => {
            let token = read(performer, &expanded(performer, &file))?;
            Secret::new(format!("ST${}", token.expose().trim()))
        }
        None => Secret::new(format!(
            "{}/{}/{}",
            needed("tenancy", "OCI_CLI_TENANCY")?,
            needed("user", "OCI_CLI_USER")?,
            needed("fingerprint", "OCI_CLI_FINGERPRINT")?
        )),
    };
    let signer = Signer { key_id, key, signs_host: true, place: place.clone() };
    Ok(Some((signer, format!("profile {name} of {place}"))))
}

fn home(performer: &dyn Performer) -> Option<PathBuf> {
    performer.variable("HOME").map(PathBuf::from)
}

fn expanded(performer: &dyn Performer, path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), home(performer)) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

pub(super) fn read(performer: &dyn Performer, path: &Path) -> Result<Secret, CloudError> {
    performer.read_file(path, FILE_BYTES_MAX).map_err(|error| {
        CloudError::new(PROVIDER, STEP, path.display().to_string(), error.to_string())
    })
}

/// Keys and values of a profile; those of `DEFAULT` stand in for what it lacks.
fn profile(text: &str, wanted: &str) -> Option<BTreeMap<String, String>> {
    let mut found = None;
    let mut defaults = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = title.to_owned();
            if section == wanted {
                found.get_or_insert_with(BTreeMap::new);
            }
        } else if let Some((key, value)) = line.split_once('=')
            && !line.starts_with(['#', ';'])
        {
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            if section == "DEFAULT" {
                defaults.insert(key.clone(), value.clone());
            }
            if section == wanted {
                found.get_or_insert_with(BTreeMap::new).insert(key, value);
            }
        }
    }
    let found = found?;
    defaults.extend(found);
    Some(defaults)
}
