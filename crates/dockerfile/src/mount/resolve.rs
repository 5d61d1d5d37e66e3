//! From the options of a mount to a [`Mount`], with the defaults of each kind.

use super::{Access, Mount, MountKind, MountOption, MountTemplate, Sharing, csv};
use crate::error::DockerfileError;
use crate::instruction::Requirement;
use crate::paths::{base_name, clean, join_absolute};
use crate::suggest::closest;

/// Every option name, for suggestions.
const KEYS: [&str; 20] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
    "optional",
];

/// Where a mount stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MountPlace<'a> {
    /// Working directory of the step; relative targets start there.
    pub(crate) directory: &'a str,
    /// How many ssh mounts came before in the same RUN.
    pub(crate) ssh_index: usize,
}

type Expand<'a> = &'a mut dyn FnMut(&str) -> Result<String, DockerfileError>;

impl MountTemplate {
    /// Reads the value of one `--mount`.
    ///
    /// # Errors
    /// Unknown keys and types, bad values, and a variable in `from`, with BuildKit's texts.
    pub(crate) fn parse(text: &str) -> Result<Self, DockerfileError> {
        let mut options = Vec::new();
        let mut from = None;
        for field in csv::fields(text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
                None => (field.to_ascii_lowercase(), None),
            };
            if key == "from" {
                let value = value.clone().unwrap_or_default();
                if value.find('$').is_some_and(|at| at + 1 < value.len()) {
                    return Err(DockerfileError::syntax(
                        "'from' doesn't support variable expansion, define alias stage instead",
                    ));
                }
                from = Some(value).filter(|value| !value.is_empty());
            }
            options.push(MountOption { field, key, value });
        }
        let template = Self { options, from };
        let has_variable = template
            .options
            .iter()
            .any(|option| option.value.as_ref().is_some_and(|value| value.contains('$')));
        if !has_variable {
            // Nothing depends on the base image, so mistakes can be reported now.
            let place = MountPlace { directory: "/w", ssh_index: 0 };
            template.resolve(place, (), &mut |value| Ok(value.to_owned()))?;
        }
        Ok(template)
    }

    /// Decides every option; `source` is what `from` stands for.
    pub(crate) fn resolve<S>(
        &self,
        place: MountPlace<'_>,
        source: S,
        expand: Expand<'_>,
    ) -> Result<Mount<S>, DockerfileError> {
        let values = Values::read(&self.options, expand)?;
        values.check()?;
        values.into_mount(place, source, self.from.is_some())
    }
}

/// Options after expansion.
#[derive(Default)]
struct Values {
    kind: Option<MountKind>,
    from: String,
    source: String,
    target: String,
    id: String,
    access: Option<Access>,
    sharing: Option<Sharing>,
    required: Option<Requirement>,
    env: Option<String>,
    size: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Values {
    fn read(options: &[MountOption], expand: Expand<'_>) -> Result<Self, DockerfileError> {
        let mut values = Self::default();
        let mut expanded = Vec::with_capacity(options.len());
        for option in options {
            let value = match &option.value {
                Some(value) if option.key != "from" => Some(expand(value)?),
                other => other.clone(),
            };
            if option.key == "type" {
                values.kind = Some(MountKind::parse(value.as_deref().unwrap_or_default())?);
            }
            expanded.push(value);
        }
        for (option, value) in options.iter().zip(expanded) {
            match value {
                Some(value) => values.set(option, value)?,
                None => values.set_bare(option)?,
            }
        }
        Ok(values)
    }

    fn kind(&self) -> MountKind {
        self.kind.unwrap_or(MountKind::Bind)
    }

    fn set_bare(&mut self, option: &MountOption) -> Result<(), DockerfileError> {
        match option.key.as_str() {
            "readonly" | "ro" => self.access = Some(Access::ReadOnly),
            "readwrite" | "rw" => self.access = Some(Access::ReadWrite),
            "required" => self.require(option, Requirement::Required)?,
            "optional" => self.require(option, Requirement::Optional)?,
            key if KEYS.contains(&key) => {
                let message = format!("invalid field '{}' must be a key=value pair", option.field);
                return Err(DockerfileError::syntax(message));
            }
            _ => return Err(unexpected(option)),
        }
        Ok(())
    }

    fn set(&mut self, option: &MountOption, value: String) -> Result<(), DockerfileError> {
        let invalid = |value: &str| {
            DockerfileError::syntax(format!("invalid value for {}: {value}", option.key))
        };
        match option.key.as_str() {
            "type" => {}
            "from" => self.from = value,
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "id" => self.id = value,
            "env" if self.kind() == MountKind::Secret => self.env = Some(value),
            "readonly" | "ro" => {
                let only = boolean(&value).ok_or_else(|| invalid(&value))?;
                self.access = Some(if only { Access::ReadOnly } else { Access::ReadWrite });
            }
            "readwrite" | "rw" => {
                let write = boolean(&value).ok_or_else(|| invalid(&value))?;
                self.access = Some(if write { Access::ReadWrite } else { Access::ReadOnly });
            }
            "required" | "optional" => {
                let set = boolean(&value).ok_or_else(|| invalid(&value))?;
                let required = set == (option.key == "required");
                let requirement =
                    if required { Requirement::Required } else { Requirement::Optional };
                self.require(option, requirement)?;
            }
            "size" if self.kind() == MountKind::Tmpfs => {
                self.size = Some(byte_size(&value).ok_or_else(|| invalid(&value))?);
            }
            "sharing" => self.sharing = Some(sharing(&value)?),
            "mode" => self.mode = Some(number(option, &value, 8)?),
            "uid" => self.uid = Some(number(option, &value, 10)?),
            "gid" => self.gid = Some(number(option, &value, 10)?),
            "size" | "env" => return Err(self.unexpected_for_kind(option)),
            _ => return Err(unexpected(option)),
        }
        Ok(())
    }

    fn require(
        &mut self,
        option: &MountOption,
        requirement: Requirement,
    ) -> Result<(), DockerfileError> {
        if !matches!(self.kind(), MountKind::Secret | MountKind::Ssh) {
            return Err(self.unexpected_for_kind(option));
        }
        self.required = Some(requirement);
        Ok(())
    }

    fn unexpected_for_kind(&self, option: &MountOption) -> DockerfileError {
        let (key, kind) = (&option.key, self.kind().name());
        DockerfileError::syntax(format!("unexpected key '{key}' for mount type '{kind}'"))
    }

    /// Options that do not fit the kind.
    fn check(&self) -> Result<(), DockerfileError> {
        let kind = self.kind();
        let fail = |message: String| Err(DockerfileError::syntax(message));
        if matches!(kind, MountKind::Bind | MountKind::Tmpfs) {
            for (key, value) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if value.is_some() {
                    return fail(format!("{key} not allowed for {:?} type mounts", kind.name()));
                }
            }
        }
        if self.sharing.is_some() && kind != MountKind::Cache {
            return fail(format!("invalid cache sharing set for {} mount", kind.name()));
        }
        if kind == MountKind::Secret {
            if !self.from.is_empty() {
                return fail("secret mount should not have a from".to_owned());
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return fail("invalid secret mount. one of source, target required".to_owned());
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return fail("both source and id can't be set".to_owned());
            }
        }
        Ok(())
    }

    fn into_mount<S>(
        self,
        place: MountPlace<'_>,
        source: S,
        has_from: bool,
    ) -> Result<Mount<S>, DockerfileError> {
        let kind = self.kind();
        let requirement = self.required.unwrap_or(Requirement::Optional);
        let (uid, gid) = (self.uid.unwrap_or(0), self.gid.unwrap_or(0));
        let source_path = join_absolute("/", &self.source);
        match kind {
            MountKind::Secret => Ok(self.secret(place)),
            MountKind::Ssh => {
                let target = if self.target.is_empty() {
                    format!("/run/buildkit/ssh_agent.{}", place.ssh_index)
                } else {
                    join_absolute(place.directory, &self.target)
                };
                let id = if self.id.is_empty() { "default".to_owned() } else { self.id };
                let mode = self.mode.unwrap_or(0o600);
                Ok(Mount::Ssh { id, target, requirement, mode, uid, gid })
            }
            MountKind::Bind => Ok(Mount::Bind {
                source,
                source_path,
                target: self.checked_target(place)?,
                access: self.access.unwrap_or(Access::ReadOnly),
            }),
            MountKind::Tmpfs => {
                Ok(Mount::Tmpfs { target: self.checked_target(place)?, bytes_max: self.size })
            }
            MountKind::Cache => {
                let target = self.checked_target(place)?;
                let id = if self.id.is_empty() { clean(&self.target) } else { self.id };
                Ok(Mount::Cache {
                    id,
                    target,
                    sharing: self.sharing.unwrap_or(Sharing::Shared),
                    access: self.access.unwrap_or(Access::ReadWrite),
                    seed: has_from.then_some(source),
                    source_path,
                    mode: self.mode.unwrap_or(0o755),
                    uid,
                    gid,
                })
            }
        }
    }

    fn secret<S>(self, place: MountPlace<'_>) -> Mount<S> {
        let id = if !self.source.is_empty() {
            self.source
        } else if !self.id.is_empty() {
            self.id
        } else {
            base_name(&self.target).to_owned()
        };
        let target = if !self.target.is_empty() {
            Some(join_absolute(place.directory, &self.target))
        } else if self.env.is_none() {
            Some(format!("/run/secrets/{id}"))
        } else {
            None
        };
        Mount::Secret {
            id,
            target,
            env: self.env,
            requirement: self.required.unwrap_or(Requirement::Optional),
            mode: self.mode.unwrap_or(0o400),
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
        }
    }

    fn checked_target(&self, place: MountPlace<'_>) -> Result<String, DockerfileError> {
        let target = join_absolute(place.directory, &self.target);
        if target == "/" {
            return Err(DockerfileError::plan(format!("invalid mount target {target:?}")));
        }
        Ok(target)
    }
}

fn unexpected(option: &MountOption) -> DockerfileError {
    let message = format!("unexpected key '{}' in '{}'", option.key, option.field);
    DockerfileError::syntax(message).suggesting(closest(&option.key, KEYS.iter().copied()))
}

fn sharing(value: &str) -> Result<Sharing, DockerfileError> {
    const NAMES: [&str; 3] = ["shared", "private", "locked"];
    Ok(match value.to_ascii_lowercase().as_str() {
        "shared" => Sharing::Shared,
        "private" => Sharing::Private,
        "locked" => Sharing::Locked,
        unknown => {
            let message = format!("unsupported sharing value {value:?}");
            return Err(DockerfileError::syntax(message).suggesting(closest(unknown, NAMES)));
        }
    })
}

fn number(option: &MountOption, value: &str, radix: u32) -> Result<u32, DockerfileError> {
    u32::from_str_radix(value, radix)
        .map_err(|_| DockerfileError::syntax(format!("invalid value {value} for {}", option.key)))
}

/// The spellings Go's `strconv.ParseBool` knows.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A number of bytes with an optional binary unit: `64m`, `1.5GiB`, `100`.
fn byte_size(text: &str) -> Option<u64> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: u64 = whole.parse().ok()?;
    let mut bytes = whole.checked_mul(1 << shift)?;
    if !fraction.is_empty() {
        let digits: u64 = fraction.get(..fraction.len().min(9))?.parse().ok()?;
        let scale = 10_u64.pow(u32::try_from(fraction.len().min(9)).ok()?);
        let part = u128::from(digits) * (1_u128 << shift) / u128::from(scale);
        bytes = bytes.checked_add(u64::try_from(part).ok()?)?;
    }
    Some(bytes)
}
