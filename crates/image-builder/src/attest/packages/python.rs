//! Python distributions: `METADATA` of wheels, `PKG-INFO` of eggs (Python core metadata).

use std::path::Path;

use super::stanza::{field, stanzas};
use super::{Kind, Package, text};

/// The distribution that the headers describe; the description after them is not read.
pub(super) fn parse(bytes: &[u8], location: &Path) -> Vec<Package> {
    let content = String::from_utf8_lossy(bytes);
    let found = stanzas(&content).next().and_then(|headers| {
        let (name, version) = (field(&headers, "Name")?, field(&headers, "Version")?);
        let mut package = Package::new(Kind::Pypi, &normalised(name), version, location)?;
        package.supplier = text(field(&headers, "Author"));
        let license = field(&headers, "License-Expression").or_else(|| field(&headers, "License"));
        Some(package.licensed(license.filter(|text| *text != "UNKNOWN")))
    });
    found.into_iter().collect()
}

/// Names that differ in case, dots and underscores are the same (PEP 503; package-url, pypi).
fn normalised(name: &str) -> String {
    let mut plain = String::new();
    for character in name.to_lowercase().chars() {
        let character = if matches!(character, '_' | '.') { '-' } else { character };
        if character != '-' || !plain.ends_with('-') {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_end_at_the_description() {
        let metadata = "Metadata-Version: 2.1\nName: Ruamel.YAML\nVersion: 0.18.6\nLicense: MIT\n\
            Classifier: x\n\nName: not this\nVersion: 0\n";
        let found = parse(metadata.as_bytes(), Path::new("x"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].version.as_str()), ("ruamel-yaml", "0.18.6"));
        assert_eq!(found[0].license.as_deref(), Some("MIT"));
    }
}
