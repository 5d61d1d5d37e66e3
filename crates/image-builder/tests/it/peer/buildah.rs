//! Debian's buildah with a store of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::case::Case;

/// A store; builds in one wait for each other, builds in two do not.
pub(crate) struct Buildah {
    home: PathBuf,
}

/// What buildah made of a case.
pub(crate) struct Built {
    pub(crate) lines: Vec<String>,
    pub(crate) config: Value,
}

impl Buildah {
    /// A new store below `home` that knows `bases` by their names.
    pub(crate) fn new(home: PathBuf, bases: &BTreeMap<&str, PathBuf>) -> Self {
        std::fs::create_dir_all(home.join("merged")).expect("a directory");
        let peer = Self { home };
        for (name, archive) in bases {
            let archive = format!("oci-archive:{}", archive.display());
            let pulled = peer.run(&["pull", "-q", &archive]).expect("pulled");
            peer.run(&["tag", pulled.trim(), &format!("localhost/{name}:latest")]).expect("named");
        }
        peer
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("buildah")
            .args(["--storage-driver", "overlay", "--root"])
            .arg(self.home.join("root"))
            .arg("--runroot")
            .arg(self.home.join("run"))
            .args(arguments)
            .env("TMPDIR", &self.home)
            .output()
            .expect("Debian's buildah");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Builds a case.
    pub(crate) fn build(
        &self,
        case: &Case,
        context: &Path,
        observe: impl Fn(&Path) -> Vec<String>,
    ) -> Result<Built, String> {
        let file = self.home.join("Dockerfile");
        std::fs::write(&file, &case.dockerfile).expect("a file");
        let mut arguments: Vec<String> =
            ["build", "-q", "--pull=never", "--isolation=chroot", "--identity-label=false"]
                .map(str::to_owned)
                .into();
        arguments.push("--layers=false".into());
        if let Some(ignore) = &case.ignore {
            let file = self.home.join("ignore");
            std::fs::write(&file, ignore).expect("a file");
            arguments.push(format!("--ignorefile={}", file.display()));
        }
        for (name, value) in &case.arguments {
            arguments.push(format!("--build-arg={name}={value}"));
        }
        arguments.extend(case.target.iter().map(|target| format!("--target={target}")));
        arguments.push(format!("--file={}", file.display()));
        arguments.push(context.display().to_string());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let id = self.run(&arguments)?;
        let id = id.trim();
        let lines = self.with_tree(id, observe);
        Ok(Built { lines, config: self.config(id) })
    }

    /// Shows the files of an image to `look`.
    fn with_tree<T>(&self, id: &str, look: impl Fn(&Path) -> T) -> T {
        let overlay = self.home.join("root/overlay");
        let images = std::fs::read(self.home.join("root/overlay-images/images.json"));
        let images: Value = serde_json::from_slice(&images.expect("readable")).expect("json");
        let image = images.as_array().expect("a list").iter().find(|image| image["id"] == *id);
        let Some(layer) = image.expect("the image")["layer"].as_str() else {
            let empty = self.home.join("empty");
            std::fs::create_dir_all(&empty).expect("a directory");
            return look(&empty);
        };
        let diff = overlay.join(layer).join("diff");
        let Ok(lower) = std::fs::read_to_string(overlay.join(layer).join("lower")) else {
            return look(&diff);
        };
        let mut directories = vec![diff.display().to_string()];
        directories.extend(lower.split(':').map(|part| overlay.join(part).display().to_string()));
        let options = std::ffi::CString::new(format!("lowerdir={}", directories.join(":")));
        let merged = self.home.join("merged");
        rustix::mount::mount(
            "overlay",
            &merged,
            "overlay",
            rustix::mount::MountFlags::RDONLY,
            options.expect("no zero").as_c_str(),
        )
        .expect("mounted");
        let seen = look(&merged);
        // A child that our side forks just now may hold a descriptor of it until it executes.
        rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
        seen
    }

    fn config(&self, id: &str) -> Value {
        let directory = self.home.join("root/overlay-images").join(id);
        // Names of what belongs to an image are in base 64; this is "sha256:".
        let found = std::fs::read_dir(&directory).expect("readable").find_map(|item| {
            let path = item.expect("readable").path();
            let is_config = path.file_name()?.to_str()?.starts_with("=c2hhMjU2O");
            is_config.then_some(path)
        });
        let bytes = std::fs::read(found.expect("a config")).expect("readable");
        serde_json::from_slice(&bytes).expect("json")
    }
}
