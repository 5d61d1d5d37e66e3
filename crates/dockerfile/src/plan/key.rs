//! Content-addressed identity of steps.
//!
//! A step's key is a hash over its definition (what it does, nothing of where it was written) and
//! one digest for each thing it reads. The executor chooses the digests: the key of the producing
//! step (chain key) or the digest of the files themselves (content key).
//!
//! Format: version byte, then for every part the length of its name (u64, little endian), the
//! name, the length of its value, the value. Lengths keep neighbours from running together.

use std::fmt;

use oci_model::{Digest, Hasher};

use super::{
    Action, FileSource, Owner, Principal, RunAction, Source, Step, TransferAction, TransferVerb,
    WorkdirAction,
};
use crate::instruction::{GitDirectory, Linking, Network, Parents, Requirement, Security, Unpack};
use crate::mount::{Access, Mount, Sharing};

/// Version of the key format; raised whenever a key would mean something else than before.
pub const STEP_KEY_VERSION: u8 = 1;

/// One named part of a definition, kept readable so that a cache miss can be explained.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DefinitionPart {
    /// What the part is, for example `argv` or `env`.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

/// What a step does, as far as its result depends on it.
///
/// Not in it: proxy variables, secret values, the host name, titles and positions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition {
    /// The parts in a fixed order.
    pub parts: Vec<DefinitionPart>,
}

/// Identity of a step's result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepKey(Digest);

impl StepKey {
    /// The key of a step over what it does and what it reads.
    ///
    /// `base` identifies the files the step starts from (`None` for nothing), `inputs` holds one
    /// digest for each of [`Step::inputs`], in that order.
    #[must_use]
    pub fn of(definition: &Definition, base: Option<&Digest>, inputs: &[Digest]) -> Self {
        let mut writer = Writer::new("step");
        writer.part("parts", &definition.parts.len().to_string());
        for part in &definition.parts {
            writer.part(part.name, &part.value);
        }
        writer.part("base", &base.map(ToString::to_string).unwrap_or_default());
        writer.part("inputs", &inputs.len().to_string());
        for input in inputs {
            writer.part("input", &input.to_string());
        }
        Self(writer.finish())
    }

    /// The key as a digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StepKey({})", self.0)
    }
}

/// Hashes framed parts.
struct Writer(Hasher);

impl Writer {
    fn new(domain: &str) -> Self {
        let mut writer = Self(Hasher::sha256());
        writer.0.update(&[STEP_KEY_VERSION]);
        writer.part("domain", domain);
        writer
    }

    fn part(&mut self, name: &str, value: &str) {
        for text in [name, value] {
            self.0.update(&(text.len() as u64).to_le_bytes());
            self.0.update(text.as_bytes());
        }
    }

    fn finish(self) -> Digest {
        self.0.finish()
    }
}

impl Step {
    /// What the step does to files; `None` when it does nothing to them.
    #[must_use]
    pub fn definition(&self) -> Option<Definition> {
        let mut parts = Parts(Vec::new());
        match &self.action {
            Action::Configure => return None,
            Action::Workdir(workdir) => parts.workdir(workdir),
            Action::Run(run) => parts.run(run),
            Action::Transfer(transfer) => parts.transfer(transfer),
        }
        Some(Definition { parts: parts.0 })
    }
}

struct Parts(Vec<DefinitionPart>);

impl Parts {
    fn add(&mut self, name: &'static str, value: impl Into<String>) {
        self.0.push(DefinitionPart { name, value: value.into() });
    }

    fn workdir(&mut self, workdir: &WorkdirAction) {
        self.add("kind", "workdir");
        self.add("path", &workdir.path);
        self.add("user", &workdir.user);
    }

    fn run(&mut self, run: &RunAction) {
        self.add("kind", "run");
        for word in &run.argv {
            self.add("argv", word);
        }
        if let Some(script) = &run.script {
            self.add("script path", &script.path);
            self.add("script", &script.content);
        }
        // A process sees a set of variables, so their order is no part of the identity.
        let mut env: Vec<&(String, String)> = run.env.iter().collect();
        env.sort();
        for (name, value) in env {
            self.add("env", format!("{name}={value}"));
        }
        self.add("directory", &run.directory);
        self.add("user", &run.user);
        self.add("platform", run.platform.to_string());
        self.add(
            "network",
            match run.network {
                Network::Default => "default",
                Network::None => "none",
                Network::Host => "host",
            },
        );
        self.add(
            "security",
            match run.security {
                Security::Sandbox => "sandbox",
                Security::Insecure => "insecure",
            },
        );
        for device in &run.devices {
            self.add("device", &device.name);
            self.add("device requirement", requirement(device.requirement));
        }
        for mount in &run.mounts {
            self.mount(mount);
        }
    }

    fn mount(&mut self, mount: &Mount<Source>) {
        match mount {
            Mount::Bind { source: _, source_path, target, access } => {
                self.add("mount", "bind");
                self.add("mount source", source_path);
                self.add("mount target", target);
                self.add("mount access", self::access(*access));
            }
            Mount::Cache { id, target, sharing, access, seed, source_path, mode, uid, gid } => {
                self.add("mount", "cache");
                self.add("mount id", id);
                self.add("mount target", target);
                self.add(
                    "mount sharing",
                    match sharing {
                        Sharing::Shared => "shared",
                        Sharing::Private => "private",
                        Sharing::Locked => "locked",
                    },
                );
                self.add("mount access", self::access(*access));
                self.add("mount seed", if seed.is_some() { "seeded" } else { "empty" });
                self.add("mount source", source_path);
                self.add("mount owner", format!("{mode:o} {uid} {gid}"));
            }
            Mount::Tmpfs { target, bytes_max } => {
                self.add("mount", "tmpfs");
                self.add("mount target", target);
                let size = bytes_max.map(|bytes| bytes.to_string());
                self.add("mount size", size.unwrap_or_default());
            }
            Mount::Secret { id, target, env, requirement, mode, uid, gid } => {
                self.add("mount", "secret");
                self.add("mount id", id);
                self.add("mount target", target.clone().unwrap_or_default());
                self.add("mount env", env.clone().unwrap_or_default());
                self.add("mount requirement", self::requirement(*requirement));
                self.add("mount owner", format!("{mode:o} {uid} {gid}"));
            }
            Mount::Ssh { id, target, requirement, mode, uid, gid } => {
                self.add("mount", "ssh");
                self.add("mount id", id);
                self.add("mount target", target);
                self.add("mount requirement", self::requirement(*requirement));
                self.add("mount owner", format!("{mode:o} {uid} {gid}"));
            }
        }
    }

    fn transfer(&mut self, transfer: &TransferAction) {
        self.add(
            "kind",
            match transfer.verb {
                TransferVerb::Copy => "copy",
                TransferVerb::Add => "add",
            },
        );
        for file in &transfer.files {
            match file {
                FileSource::Path(path) => self.add("path", path),
                FileSource::Inline { name, content } => {
                    self.add("inline name", name);
                    self.add("inline content", content);
                }
                FileSource::Url(url) => self.add("url", url),
                FileSource::Git(reference) => self.add("git", reference),
            }
        }
        self.add("destination", &transfer.destination);
        if let Some(Owner { user, group }) = &transfer.owner {
            self.principal("user", user);
            if let Some(group) = group {
                self.principal("group", group);
            }
        }
        if let Some(mode) = &transfer.mode {
            self.add("mode", mode.to_string());
        }
        self.add(
            "link",
            match transfer.link {
                Linking::Merged => "merged",
                Linking::Independent => "independent",
            },
        );
        self.add(
            "parents",
            match transfer.parents {
                Parents::Drop => "drop",
                Parents::Keep => "keep",
            },
        );
        for exclude in &transfer.excludes {
            self.add("exclude", exclude);
        }
        if let Some(checksum) = &transfer.checksum {
            self.add("checksum", checksum);
        }
        self.add(
            "git directory",
            match transfer.git_directory {
                GitDirectory::Drop => "drop",
                GitDirectory::Keep => "keep",
            },
        );
        self.add(
            "unpack",
            match transfer.unpack {
                Unpack::Automatic => "automatic",
                Unpack::Never => "never",
                Unpack::Always => "always",
            },
        );
    }

    fn principal(&mut self, name: &'static str, principal: &Principal) {
        match principal {
            Principal::Id(id) => self.add(name, format!("id {id}")),
            Principal::Name(text) => self.add(name, format!("name {text}")),
        }
    }
}

fn access(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "read only",
        Access::ReadWrite => "read write",
    }
}

fn requirement(requirement: Requirement) -> &'static str {
    match requirement {
        Requirement::Optional => "optional",
        Requirement::Required => "required",
    }
}
