//! The typed instructions, exactly as written: nothing in here is expanded yet.

use std::time::Duration;

use crate::mount::MountTemplate;
use crate::position::Span;

/// One instruction with everything that is known about where and how it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// What it does.
    pub instruction: Instruction,
    /// The keyword as written, for the casing rules.
    pub keyword: String,
    /// The whole instruction with continuation lines joined and comments removed.
    pub original: String,
    /// Lines it covers, heredoc bodies included.
    pub span: Span,
    /// Text of the comment lines directly above it, `#` and surrounding blanks removed.
    pub comments: Vec<String>,
}

/// Every instruction of the stable Dockerfile syntax.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// Adds files from the context, archives, URLs or git.
    Add(Transfer),
    /// Declares build arguments.
    Arg(Vec<ArgDeclaration>),
    /// Sets the default command.
    Cmd(CommandLine),
    /// Copies files from the context, a stage or an image.
    Copy(Transfer),
    /// Sets the entry point.
    Entrypoint(CommandLine),
    /// Sets environment variables.
    Env(KeyValues),
    /// Declares ports.
    Expose(Vec<String>),
    /// Begins a stage.
    From(FromClause),
    /// Declares the health check.
    Healthcheck(Healthcheck),
    /// Sets labels.
    Label(KeyValues),
    /// Sets the author (deprecated).
    Maintainer(String),
    /// Stores a trigger for child builds.
    OnBuild(OnBuild),
    /// Runs a command.
    Run(Run),
    /// Sets the shell of the shell forms.
    Shell(Vec<String>),
    /// Sets the signal that stops the container.
    StopSignal(String),
    /// Sets the user.
    User(String),
    /// Declares volumes.
    Volume(Vec<String>),
    /// Sets, and creates, the working directory.
    Workdir(String),
}

impl Instruction {
    /// The keyword in upper case.
    #[must_use]
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::From(_) => "FROM",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::OnBuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// `FROM [--platform=P] base [AS name]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FromClause {
    /// The base as written: an image, an earlier stage or `scratch`; may hold global ARGs.
    pub base: String,
    /// Name given with AS, as written (lookup ignores case).
    pub name: Option<String>,
    /// The AS keyword as written, for the casing rule.
    pub as_keyword: Option<String>,
    /// Value of `--platform`; may hold global ARGs.
    pub platform: Option<String>,
}

/// Shell form or exec form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandLine {
    /// One string for the SHELL.
    Shell(String),
    /// An argument vector from a JSON array.
    Exec(Vec<String>),
}

/// A here-document with its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heredoc {
    /// The delimiter without quotes; also the name of the file in COPY and ADD.
    pub name: String,
    /// The body, every line with its line ending; tabs not yet stripped.
    pub body: String,
    /// File descriptor in front of `<<`; 0 when none was written.
    pub descriptor: u32,
    /// What happens to `$` in the body (COPY and ADD).
    pub expansion: HeredocExpansion,
    /// What happens to leading tabs.
    pub indent: HeredocIndent,
}

impl Heredoc {
    /// The body with leading tabs removed if `<<-` asked for it.
    #[must_use]
    pub fn content(&self) -> String {
        match self.indent {
            HeredocIndent::Keep => self.body.clone(),
            HeredocIndent::StripTabs => {
                self.body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
            }
        }
    }
}

/// Whether variables in a heredoc body are expanded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeredocExpansion {
    /// The delimiter was bare: `$name` is replaced.
    Expand,
    /// The delimiter had quotes: the body is literal.
    Literal,
}

/// Whether leading tabs of a heredoc body are removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeredocIndent {
    /// `<<`.
    Keep,
    /// `<<-`.
    StripTabs,
}

/// `RUN` with its flags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The command; for a lone heredoc this is `<<NAME`.
    pub command: CommandLine,
    /// Bodies, in the order of their `<<` words.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<MountTemplate>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// `--device`.
    pub devices: Vec<Device>,
}

/// `RUN --network`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Network {
    /// The network of the build.
    Default,
    /// Only loopback.
    None,
    /// The network of the host.
    Host,
}

/// `RUN --security`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Security {
    /// The default capabilities.
    Sandbox,
    /// Every capability and no seccomp filter.
    Insecure,
}

/// `RUN --device=name[,required]` (CDI).
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Device {
    /// CDI name, for example `vendor.com/class=name`.
    pub name: String,
    /// Whether a missing device fails the build.
    pub requirement: Requirement,
}

/// Whether something missing is an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Requirement {
    /// Go on without it.
    Optional,
    /// Fail.
    Required,
}

/// `COPY` or `ADD` with every flag of both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Source paths, URLs or git references as written, heredocs excluded.
    pub sources: Vec<String>,
    /// Inline files.
    pub heredocs: Vec<Heredoc>,
    /// Destination as written.
    pub destination: String,
    /// `--from`: stage name, stage index, named context or image; never expanded.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<String>,
    /// `--link`.
    pub link: Linking,
    /// `--parents`.
    pub parents: Parents,
    /// `--exclude`, in order; never expanded.
    pub excludes: Vec<String>,
    /// `--checksum` (ADD).
    pub checksum: Option<String>,
    /// `--keep-git-dir` (ADD); `None` leaves the choice to the reference and build args.
    pub keep_git_dir: Option<GitDirectory>,
    /// `--unpack` (ADD).
    pub unpack: Unpack,
}

/// `COPY --link`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Linking {
    /// Copy onto the files of the earlier steps.
    Merged,
    /// Copy onto an empty tree and stack the result as a layer of its own.
    Independent,
}

/// `COPY --parents`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Parents {
    /// Only the last component of a source lands in the destination.
    Drop,
    /// The directories of the source path are kept below the destination.
    Keep,
}

/// `ADD --keep-git-dir`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum GitDirectory {
    /// Remove `.git`.
    Drop,
    /// Keep `.git`.
    Keep,
}

/// `ADD --unpack`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Unpack {
    /// Local archives are unpacked, remote ones are not.
    Automatic,
    /// Nothing is unpacked.
    Never,
    /// Remote archives are unpacked too.
    Always,
}

/// Pairs of ENV or LABEL and the form they were written in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValues {
    /// Pairs in order; quotes and escapes are still in them.
    pub pairs: Vec<(String, String)>,
    /// Which form.
    pub form: KeyValueForm,
}

/// The two ways to write ENV and LABEL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyValueForm {
    /// `KEY=value …`.
    Equals,
    /// `KEY value`, one pair, the rest of the line is the value.
    Legacy,
}

/// One name of ARG.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArgDeclaration {
    /// Its name.
    pub name: String,
    /// Its default as written, quotes included.
    pub default: Option<String>,
}

/// `HEALTHCHECK`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`.
    Disabled,
    /// `HEALTHCHECK [options] CMD …`.
    Command {
        /// What to run.
        command: CommandLine,
        /// The options.
        timing: HealthcheckTiming,
    },
}

/// Options of HEALTHCHECK; zero means "inherit the default of the runtime".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HealthcheckTiming {
    /// Time between two checks.
    pub interval: Duration,
    /// Time after which one check has failed.
    pub timeout: Duration,
    /// Time during which failures do not count.
    pub start_period: Duration,
    /// Time between two checks during the start period.
    pub start_interval: Duration,
    /// Failures in a row that make the container unhealthy.
    pub retries: u32,
}

/// `ONBUILD`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OnBuild {
    /// The trigger as it is stored in the image, heredoc bodies included.
    pub trigger: String,
    /// The trigger parsed, so that mistakes show in the build that writes it.
    pub instruction: Box<Instruction>,
}
