//! Node packages: the `package.json` of each directory in `node_modules`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Kind, Package};

#[derive(Deserialize)]
struct Manifest {
    name: String,
    version: String,
    #[serde(default)]
    license: Value,
}

/// Whether a directory is that of an installed package: `node_modules/NAME` or
/// `node_modules/@SCOPE/NAME`.
pub(super) fn is_installed(directory: &Path) -> bool {
    let name = |path: &Path| path.file_name().and_then(|n| n.to_str()).unwrap_or("").to_owned();
    let Some(parent) = directory.parent() else { return false };
    if name(directory).starts_with(['@', '.']) {
        return false;
    }
    name(parent) == "node_modules"
        || (name(parent).starts_with('@')
            && parent.parent().is_some_and(|above| name(above) == "node_modules"))
}

/// The package that the file describes.
pub(super) fn parse(bytes: &[u8], location: &Path) -> Vec<Package> {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) else { return Vec::new() };
    // Old packages write `{"type": "MIT"}`.
    let license = manifest.license.as_str().or_else(|| manifest.license["type"].as_str());
    let package = Package::new(Kind::Npm, &manifest.name, &manifest.version, location);
    package.map(|package| package.licensed(license)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_have_two_forms() {
        let license = |text: &str| {
            let text = format!(r#"{{"name":"@s/a","version":"1.0.0","license":{text}}}"#);
            parse(text.as_bytes(), Path::new("x")).remove(0).license
        };
        assert_eq!(license(r#""MIT""#).as_deref(), Some("MIT"));
        assert_eq!(license(r#"{"type":"ISC"}"#).as_deref(), Some("ISC"));
        assert_eq!(license("null"), None);
        assert!(parse(b"{\"name\":\"private\"}", Path::new("x")).is_empty());
    }
}
