//! Rust crates: `Cargo.lock` files that lie in the image.
//!
//! The file is machine written, one `key = "value"` per line; nothing else of TOML occurs in the
//! fields that are read.

use std::path::Path;

use super::{Kind, Package};

/// The crates of registries; those of the workspace itself have no source.
pub(super) fn parse(bytes: &[u8], location: &Path) -> Vec<Package> {
    let content = String::from_utf8_lossy(bytes);
    let mut packages = Vec::new();
    for block in content.split("[[package]]").skip(1) {
        let value = |key: &str| {
            block.lines().take_while(|line| !line.starts_with('[')).find_map(|line| {
                let rest = line.strip_prefix(key)?.trim_start().strip_prefix('=')?;
                rest.trim().strip_prefix('"')?.strip_suffix('"')
            })
        };
        let (Some(name), Some(version), Some(_)) =
            (value("name"), value("version"), value("source"))
        else {
            continue;
        };
        packages.extend(Package::new(Kind::Cargo, name, version, location));
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_of_the_workspace_are_left_out() {
        let lock = "version = 4\n\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n\n\
            [[package]]\nname = \"serde\"\nversion = \"1.0.200\"\n\
            source = \"registry+https://example.com/index\"\nchecksum = \"ab\"\n";
        let found = parse(lock.as_bytes(), Path::new("Cargo.lock"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].version.as_str()), ("serde", "1.0.200"));
    }
}
