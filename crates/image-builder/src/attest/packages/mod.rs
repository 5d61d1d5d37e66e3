//! Packages in a file tree, from the records that their managers leave.
//!
//! Each format has a pure parser from bytes to packages. The files come from images that nobody
//! vouches for: what is not understood is left out, and everything is bounded.

mod apk;
mod cargo;
mod dpkg;
mod gem;
pub(super) mod go;
mod node;
mod python;
mod stanza;

use std::path::{Path, PathBuf};

use super::purl::purl;

/// Most packages listed; more are cut off and the document says so.
pub(super) const PACKAGES_MAX: usize = 100_000;
/// Longest name, version or other text kept of a package, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// Who manages a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Apk,
    Cargo,
    Deb,
    Gem,
    Golang,
    Npm,
    Pypi,
}

impl Kind {
    /// The type of its package URLs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Apk => "apk",
            Self::Cargo => "cargo",
            Self::Deb => "deb",
            Self::Gem => "gem",
            Self::Golang => "golang",
            Self::Npm => "npm",
            Self::Pypi => "pypi",
        }
    }
}

/// A package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) architecture: String,
    pub(super) license: Option<String>,
    pub(super) supplier: Option<String>,
    /// The file that says so.
    pub(super) location: PathBuf,
}

impl Package {
    fn new(kind: Kind, name: &str, version: &str, location: &Path) -> Option<Self> {
        let fits = |text: &str| {
            !text.is_empty() && text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)
        };
        (fits(name) && fits(version)).then(|| Self {
            kind,
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: String::new(),
            license: None,
            supplier: None,
            location: location.to_owned(),
        })
    }

    fn licensed(mut self, license: Option<&str>) -> Self {
        self.license = text(license);
        self
    }

    /// Its package URL (package-url specification, types).
    pub(super) fn purl(&self, distribution: &Distribution) -> String {
        let Distribution { id, version } = distribution;
        let distro = if version.is_empty() { id.clone() } else { format!("{id}-{version}") };
        let name = self.name.as_str();
        let (namespace, name, qualifiers): (&str, &str, Vec<(&str, &str)>) = match self.kind {
            Kind::Deb => {
                let vendor = if id.is_empty() { "debian" } else { id };
                (vendor, name, vec![("arch", &*self.architecture), ("distro", &distro)])
            }
            Kind::Apk => {
                let vendor = if id.is_empty() { "alpine" } else { id };
                (vendor, name, vec![("arch", &*self.architecture), ("distro", &distro)])
            }
            Kind::Npm | Kind::Golang => match name.rsplit_once('/') {
                Some((namespace, name)) => (namespace, name, Vec::new()),
                None => ("", name, Vec::new()),
            },
            Kind::Gem => ("", name, vec![("platform", &*self.architecture)]),
            Kind::Cargo | Kind::Pypi => ("", name, Vec::new()),
        };
        purl(self.kind.name(), namespace, name, &self.version, &qualifiers)
    }
}

/// A text worth keeping.
fn text(value: Option<&str>) -> Option<String> {
    let value = value?.trim();
    let fits =
        !value.is_empty() && value.len() <= TEXT_BYTES_MAX && !value.chars().any(char::is_control);
    fits.then(|| value.to_owned())
}

/// Which distribution the files are of (os-release(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Distribution {
    pub(super) id: String,
    pub(super) version: String,
}

impl Distribution {
    /// Reads `ID` and `VERSION_ID`.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let content = String::from_utf8_lossy(bytes);
        let value = |key: &str| {
            let line = content.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            let value = line.unwrap_or_default().trim().trim_matches(['"', '\'']);
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if value.len() <= 64 && value.chars().all(plain) {
                value.to_owned()
            } else {
                String::new()
            }
        };
        Self { id: value("ID"), version: value("VERSION_ID") }
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Bill {
    pub(super) packages: Vec<Package>,
    pub(super) distribution: Distribution,
    /// What the reader of the list should know.
    pub(super) notes: Vec<String>,
}

type Parser = fn(&[u8], &Path) -> Vec<Package>;

/// Largest record read, in bytes (64 MiB: a dpkg status of 60 000 packages).
pub(super) const RECORD_BYTES_MAX: u64 = 64 << 20;

/// How a file of the tree is read, by its path; `None` for files that are no records.
pub(super) fn parser(path: &Path) -> Option<Parser> {
    let name = path.file_name()?.to_str()?;
    let parent = path.parent()?;
    match name {
        "status" if parent == Path::new("var/lib/dpkg") => return Some(dpkg::parse),
        "installed" if parent.ends_with("lib/apk/db") => return Some(apk::parse),
        "METADATA" if has_extension(parent, "dist-info") => return Some(python::parse),
        "PKG-INFO" if has_extension(parent, "egg-info") => return Some(python::parse),
        "package.json" if node::is_installed(parent) => return Some(node::parse),
        "Cargo.lock" => return Some(cargo::parse),
        _ => {}
    }
    if parent == Path::new("var/lib/dpkg/status.d") && !name.ends_with(".md5sums") {
        return Some(dpkg::parse);
    }
    if name.ends_with(".egg-info") {
        return Some(python::parse);
    }
    if name.ends_with(".gemspec") && parent.file_name().is_some_and(|n| n == "specifications") {
        return Some(gem::parse);
    }
    None
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purl_of(kind: Kind, name: &str, version: &str, architecture: &str) -> String {
        let mut package = Package::new(kind, name, version, Path::new("x")).expect("a package");
        package.architecture = architecture.to_owned();
        let distribution = Distribution { id: "debian".into(), version: "12".into() };
        package.purl(&distribution)
    }

    #[test]
    fn package_urls_are_those_of_each_ecosystem() {
        for (found, expected) in [
            (
                purl_of(Kind::Deb, "libc6", "2.36-9+deb12u4", "amd64"),
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12",
            ),
            (purl_of(Kind::Npm, "@types/node", "20.1.0", ""), "pkg:npm/%40types/node@20.1.0"),
            (purl_of(Kind::Pypi, "ruamel-yaml", "0.18", ""), "pkg:pypi/ruamel-yaml@0.18"),
            (purl_of(Kind::Gem, "nokogiri", "1.16", "java"), "pkg:gem/nokogiri@1.16?platform=java"),
            (
                purl_of(Kind::Golang, "github.com/spf13/cobra", "v1.8.0", ""),
                "pkg:golang/github.com/spf13/cobra@v1.8.0",
            ),
            (purl_of(Kind::Cargo, "serde", "1.0.1", ""), "pkg:cargo/serde@1.0.1"),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn records_are_known_by_their_place() {
        for path in [
            "var/lib/dpkg/status",
            "var/lib/dpkg/status.d/base-files",
            "lib/apk/db/installed",
            "usr/lib/apk/db/installed",
            "usr/lib/python3/dist-packages/six-1.16.0.egg-info/PKG-INFO",
            "usr/lib/python3/dist-packages/six.egg-info",
            "venv/lib/python3.12/site-packages/pip-24.0.dist-info/METADATA",
            "app/node_modules/a/package.json",
            "app/node_modules/@s/a/package.json",
            "app/node_modules/a/node_modules/b/package.json",
            "src/Cargo.lock",
            "usr/share/gems/specifications/rake-13.gemspec",
        ] {
            assert!(parser(Path::new(path)).is_some(), "{path}");
        }
        for path in [
            "var/lib/dpkg/status-old",
            "var/lib/dpkg/status.d/base-files.md5sums",
            "app/package.json",
            "app/node_modules/a/lib/package.json",
            "app/node_modules/package.json",
            "gems/rake/rake.gemspec",
        ] {
            assert!(parser(Path::new(path)).is_none(), "{path}");
        }
    }

    #[test]
    fn distributions_say_who_they_are() {
        let parsed = Distribution::parse(b"NAME=\"Debian\"\nVERSION_ID=\"12\"\nID=debian\n");
        assert_eq!(parsed, Distribution { id: "debian".into(), version: "12".into() });
        assert_eq!(Distribution::parse(b"ID=\"a/b\"\n\xff"), Distribution::default());
    }

    #[test]
    fn no_parser_stumbles_over_rubbish() {
        let mut state = 7_u32;
        for round in 0..2000_u32 {
            let mut bytes: Vec<u8> = (0..round % 97)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            if round % 3 == 0 {
                bytes.splice(0..0, b"Package: a\nVersion: ".iter().copied());
            }
            let parsers: [Parser; 6] =
                [apk::parse, cargo::parse, dpkg::parse, gem::parse, node::parse, python::parse];
            for parse in parsers {
                parse(&bytes, Path::new("x"));
            }
        }
    }
}
