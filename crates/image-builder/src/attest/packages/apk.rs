//! Alpine packages: apk's installed database.

use std::path::Path;

use super::dpkg::person;
use super::stanza::stanzas;
use super::{Kind, Package, text};

/// Installed packages. Field names are single letters whose case matters.
pub(super) fn parse(bytes: &[u8], location: &Path) -> Vec<Package> {
    let content = String::from_utf8_lossy(bytes);
    stanzas(&content)
        .filter_map(|stanza| {
            let exact =
                |name: &str| stanza.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            let mut package = Package::new(Kind::Apk, exact("P")?, exact("V")?, location)?;
            package.architecture = text(exact("A")).unwrap_or_default();
            package.supplier = text(exact("m").map(person));
            Some(package.licensed(exact("L")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::packages::Distribution;

    #[test]
    fn letters_mean_what_their_case_says() {
        let database = "C:Q1x=\nP:busybox\nV:1.36.1-r5\nA:x86_64\nS:1\nL:GPL-2.0-only\n\
            m:Ada <ada@example.com>\np:cmd:x\nF:bin\na:0:0:755\n\nP:musl\nV:1.2\n";
        let found = parse(database.as_bytes(), Path::new("lib/apk/db/installed"));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].license.as_deref(), Some("GPL-2.0-only"));
        let distribution = Distribution { id: "alpine".into(), version: "3.19.1".into() };
        assert_eq!(
            found[0].purl(&distribution),
            "pkg:apk/alpine/busybox@1.36.1-r5?arch=x86_64&distro=alpine-3.19.1"
        );
    }
}
