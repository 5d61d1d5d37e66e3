//! Ruby gems: installed specifications, which RubyGems writes itself, one assignment per line.

use std::path::Path;

use super::{Kind, Package, text};

/// The gem that the file describes.
pub(super) fn parse(bytes: &[u8], location: &Path) -> Vec<Package> {
    let content = String::from_utf8_lossy(bytes);
    let value = |key: &str| {
        content.lines().find_map(|line| {
            let rest = line.trim().strip_prefix("s.")?.strip_prefix(key)?.trim_start();
            let rest = rest.strip_prefix('=')?.trim_start().trim_start_matches('[');
            rest.strip_prefix('"')?.split('"').next()
        })
    };
    let found = value("name").zip(value("version")).and_then(|(name, version)| {
        let mut package = Package::new(Kind::Gem, name, version, location)?;
        package.architecture =
            text(value("platform")).filter(|platform| platform != "ruby").unwrap_or_default();
        Some(package.licensed(value("licenses")))
    });
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_and_code_is_not_run() {
        let spec = "# -*- encoding: utf-8 -*-\nGem::Specification.new do |s|\n  \
            s.name = \"rake\".freeze\n  s.version = \"13.0.6\"\n\n  \
            s.licenses = [\"MIT\".freeze]\n  s.platform = \"java\".freeze\nend\n";
        let found = parse(spec.as_bytes(), Path::new("x"));
        let gem = &found[0];
        assert_eq!((gem.name.as_str(), gem.version.as_str()), ("rake", "13.0.6"));
        assert_eq!((gem.license.as_deref(), gem.architecture.as_str()), (Some("MIT"), "java"));
    }
}
