//! Debian packages: dpkg's status file, and the files of `status.d` in images without dpkg.

use std::path::Path;

use super::stanza::{field, stanzas};
use super::{Kind, Package, text};

/// Installed packages; removed ones whose settings remain are none.
pub(super) fn parse(bytes: &[u8], location: &Path) -> Vec<Package> {
    let content = String::from_utf8_lossy(bytes);
    stanzas(&content)
        .filter_map(|stanza| {
            let is_installed = field(&stanza, "Status")
                .is_none_or(|status| status.split_whitespace().nth(2) == Some("installed"));
            if !is_installed {
                return None;
            }
            let (name, version) = (field(&stanza, "Package")?, field(&stanza, "Version")?);
            let mut package = Package::new(Kind::Deb, name, version, location)?;
            package.architecture = text(field(&stanza, "Architecture")).unwrap_or_default();
            package.supplier = text(field(&stanza, "Maintainer").map(person));
            Some(package)
        })
        .collect()
}

/// `Name <address>` as `Name`.
pub(super) fn person(text: &str) -> &str {
    text.split('<').next().unwrap_or(text).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_packages_are_no_packages() {
        let status = "Package: a\nStatus: install ok installed\nArchitecture: amd64\n\
            Maintainer: Ada Lovelace <ada@example.com>\nVersion: 1:2.0-1\nDescription: x\n  \
            Package: not\n\nPackage: b\nStatus: deinstall ok config-files\nVersion: 1\n\n\n\
            Package: c\nVersion: 3\n";
        let found = parse(status.as_bytes(), Path::new("var/lib/dpkg/status"));
        let names: Vec<_> = found.iter().map(|p| (p.name.as_str(), p.version.as_str())).collect();
        assert_eq!(names, [("a", "1:2.0-1"), ("c", "3")]);
        assert_eq!(found[0].architecture, "amd64");
        assert_eq!(found[0].supplier.as_deref(), Some("Ada Lovelace"));
    }
}
