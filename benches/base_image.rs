//! The bases that builds are measured on, made on the spot and pushed to Debian's docker-registry.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::stage::{self, DebianRegistry, Stage};

/// The base of DESIGN.md section 6.
pub(super) const BIG_FILES: usize = 68_000;
pub(super) const BIG_BYTES: usize = 825_000_000;
const FILES_PER_DIRECTORY: usize = 24;

/// A registry with a base of many files, and a directory for whatever is measured on it.
///
/// What scenarios leave there is removed at the end only: ext4 searches around inodes that were
/// freed in the last half minute, so a tree of 68 000 files that was just removed makes the next
/// one three times as expensive, whoever makes it.
pub(super) struct BaseImage {
    directory: tempfile::TempDir,
    pub(super) registry: DebianRegistry,
    /// `host:port/base:1`.
    pub(super) reference: String,
}

impl BaseImage {
    /// Makes a base of `files` files and pushes it as one layer above busybox.
    pub(super) fn push(stage: &Stage, files: usize, bytes: usize) -> Result<Self> {
        let directory = stage::directory()?;
        let registry = DebianRegistry::start(directory.path())?;
        let reference = format!("{}/base:1", registry.address);
        let root = directory.path().join("base");
        write_tree(stage, directory.path(), &root, files, bytes)?;
        stage::quiet(
            Command::new(&stage.shipway)
                .args(["build", "-t", &reference, "--push"])
                .arg(&root)
                .env("SHIPWAY_STATE_DIR", directory.path().join("base-state")),
        )?;
        Ok(Self { directory, registry, reference })
    }

    /// A path for something that must not exist yet.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn write_tree(
    stage: &Stage,
    directory: &Path,
    root: &Path,
    files: usize,
    bytes: usize,
) -> Result<()> {
    let context = stage.busybox_context(directory)?;
    std::fs::create_dir_all(root)?;
    std::fs::copy(Path::new(&context).join("busybox"), root.join("busybox"))?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mean = bytes / files;
    for file in 0..files {
        let path = root.join(format!("tree/{}/{}", file / 4096, file / FILES_PER_DIRECTORY));
        std::fs::create_dir_all(&path)?;
        // Most files are small and a few are large, as in a distribution.
        let size = match file % 64 {
            0 => mean * 33,
            n if n % 2 == 0 => mean / 8,
            _ => mean * 7 / 8,
        };
        std::fs::write(path.join(format!("file-{file}")), random.text(size))?;
    }
    let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY tree /usr/share/tree\n\
                      RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nENV PATH=/bin\n";
    std::fs::write(root.join("Dockerfile"), dockerfile)?;
    Ok(())
}

/// xorshift64: the same tree on every machine.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Text that compresses to about 40 %, as programs and documents do.
    pub(super) fn text(&mut self, size: usize) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "lorem ",
            "return ",
            "static ",
            "0x7f3a ",
            "kernel ",
            "the ",
            "of ",
            "license\n",
            "struct ",
            "copy ",
            "image ",
            "layer ",
            "node\t",
            "if (",
            ");\n",
            "value=",
        ];
        let mut bytes = Vec::with_capacity(size + 16);
        while bytes.len() < size {
            let random = self.next();
            if random & 7 < 5 {
                bytes.extend_from_slice(WORDS[(random >> 8) as usize % WORDS.len()].as_bytes());
            } else {
                bytes.extend_from_slice(&random.to_le_bytes());
            }
        }
        bytes.truncate(size);
        bytes
    }
}
