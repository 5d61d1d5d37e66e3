//! What becomes of the image: flags and `-o` as docker buildx has them.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::Args;
use image_builder::{Annotations, Family, Output, OutputTarget};
use layers::Compression;
use oci_model::{Platform, Reference};

use crate::build::platforms;
use crate::exit::Failure;

/// Flags about the result.
#[derive(Args, Debug)]
pub(crate) struct OutputFlags {
    /// Name and tag of the image; may repeat
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,
    /// Push the image to the registry of each tag
    #[arg(long)]
    push: bool,
    /// Keep the image here under its tags besides the outputs [default without outputs]
    #[arg(long)]
    load: bool,
    /// Platforms of the image, comma separated; several make an index [default: this machine's]
    #[arg(long = "platform", value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    platforms: Vec<String>,
    /// Annotation, [manifest|index|manifest-descriptor|index-descriptor[OS/ARCH]:]KEY=VALUE
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    annotations: Vec<String>,
    /// Where the result goes besides the store: a directory, - for a tar archive, or
    /// type=oci|docker|local|tar|registry,dest=PATH; may repeat. Times are never newer than
    /// SOURCE_DATE_EPOCH, with or without rewrite-timestamp
    #[arg(short, long = "output", value_name = "SPEC")]
    pub(super) outputs: Vec<String>,
    /// One layer for everything the target does
    #[arg(long)]
    squash: bool,
    /// Write the image ID to a file
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,
    /// Write facts about the image to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,
}

/// What was asked for.
#[derive(Debug, PartialEq)]
pub(super) struct Outputs {
    /// Names of the image.
    pub(super) names: Vec<Reference>,
    /// Whether it is pushed under them.
    pub(super) push: bool,
    /// Whether it is kept here under them.
    pub(super) keep: bool,
    /// Files to write.
    pub(super) files: Vec<Output>,
    pub(super) platforms: Vec<Platform>,
    pub(super) annotations: Annotations,
    pub(super) squash: bool,
    pub(super) form: Form,
}

/// What `-o` says about the image itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Form {
    pub(super) family: Option<Family>,
    pub(super) compression: Option<Compression>,
}

impl OutputFlags {
    /// The flags as values.
    pub(super) fn read(&self) -> Result<Outputs, Failure> {
        let mut names = self
            .tags
            .iter()
            .map(|text| super::reference(text))
            .collect::<Result<Vec<Reference>, Failure>>()?;
        let mut push = self.push;
        let (mut files, mut form, mut kept) = (Vec::new(), Form::default(), self.load);
        for argument in &self.outputs {
            let parsed = Spec::parse(argument)?;
            form = parsed.form.with(form, argument)?;
            for name in &parsed.names {
                let name = super::reference(name)?;
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            push |= parsed.push;
            match parsed.output {
                Some(output) => files.push(output),
                None => kept |= !parsed.push,
            }
        }
        if push && names.is_empty() {
            return Err(Failure::usage("--push needs a name").hint("add -t REGISTRY/NAME:TAG"));
        }
        let stdout = |output: &&Output| {
            matches!(
                output,
                Output::OciArchive(OutputTarget::Stdout)
                    | Output::DockerArchive(OutputTarget::Stdout)
                    | Output::FilesArchive(OutputTarget::Stdout)
            )
        };
        if 1 < files.iter().filter(stdout).count() {
            return Err(Failure::usage("-o: only one output can go to standard output"));
        }
        let mut annotations = Annotations::default();
        for text in &self.annotations {
            annotations
                .add(text)
                .map_err(|error| Failure::usage(format!("--annotation: {error}")))?;
        }
        let keep = kept || (!push && files.is_empty());
        let platforms = platforms("--platform", &self.platforms)?;
        let squash = self.squash;
        Ok(Outputs { names, push, keep, files, platforms, annotations, squash, form })
    }
}

impl Form {
    /// Both, if they agree: one build makes one image.
    fn with(self, other: Self, argument: &str) -> Result<Self, Failure> {
        fn one<T: PartialEq + Copy>(a: Option<T>, b: Option<T>) -> Result<Option<T>, ()> {
            match (a, b) {
                (Some(a), Some(b)) if a != b => Err(()),
                (a, b) => Ok(a.or(b)),
            }
        }
        let differ = |()| {
            Failure::usage(format!("-o {argument:?}: another output asks for another image"))
                .hint("media types and compression are those of the image, not of one output")
        };
        Ok(Self {
            family: one(self.family, other.family).map_err(differ)?,
            compression: one(self.compression, other.compression).map_err(differ)?,
        })
    }
}

/// One `-o`.
#[derive(Debug)]
struct Spec {
    /// `None` for the store and registries.
    output: Option<Output>,
    names: Vec<String>,
    push: bool,
    form: Form,
}

impl Spec {
    fn parse(argument: &str) -> Result<Self, Failure> {
        let alone = |output| Self {
            output: Some(output),
            names: Vec::new(),
            push: false,
            form: Form::default(),
        };
        if argument == "-" {
            return Ok(alone(Output::FilesArchive(to_stdout(argument)?)));
        }
        if !argument.contains('=') {
            return Ok(alone(Output::Files(argument.into())));
        }
        let bad = |reason: String| Failure::usage(format!("-o {argument:?}: {reason}"));
        let (mut kind, mut path, mut as_archive) = (None, None, true);
        let (mut names, mut push, mut form) = (Vec::new(), false, Form::default());
        let (mut algorithm, mut level) = (None, None);
        for field in fields(argument) {
            let Some((key, value)) = field.split_once('=') else {
                return Err(bad("want type=…,dest=…".to_owned()));
            };
            let flag = || match value {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(bad(format!("{key} is true or false, not {value:?}"))),
            };
            match key {
                "type" => kind = Some(value.to_owned()),
                "dest" => path = Some(value.to_owned()),
                "tar" => as_archive = flag()?,
                "name" => names.extend(value.split(',').map(str::to_owned)),
                "push" => push = flag()?,
                "oci-mediatypes" => {
                    form.family = Some(if flag()? { Family::Oci } else { Family::Docker });
                }
                "compression" => algorithm = Some(value.to_owned()),
                "compression-level" => {
                    let number = value.parse::<i32>();
                    level = Some(number.map_err(|_| bad(format!("{value:?} is no level")))?);
                }
                // Files that are newer than SOURCE_DATE_EPOCH get its time in any case. What the
                // base has is never compressed anew, and nothing is unpacked unless it must be.
                "rewrite-timestamp" | "force-compression" | "unpack" | "store" => {
                    flag()?;
                }
                _ => return Err(bad(format!("unexpected key {key:?}"))),
            }
        }
        form.compression = match (algorithm.as_deref(), level) {
            (None, None) => None,
            (Some("gzip"), None) => Some(Compression::GZIP_DEFAULT),
            (None | Some("gzip"), Some(level)) => Some(Compression::Gzip(level.clamp(1, 12))),
            (Some("zstd"), None) => Some(Compression::ZSTD_DEFAULT),
            (Some("zstd"), Some(level)) => Some(Compression::Zstd(level.clamp(1, 22))),
            (Some("uncompressed"), _) => Some(Compression::None),
            (Some(other), _) => {
                return Err(bad(format!("compression {other:?}: gzip, zstd or uncompressed")));
            }
        };
        let target = || match path.as_deref() {
            None | Some("-") => to_stdout(argument),
            Some(path) => Ok(OutputTarget::File(path.into())),
        };
        let directory =
            || path.as_deref().map(PathBuf::from).ok_or_else(|| bad("dest is missing".to_owned()));
        let output = match kind.as_deref() {
            Some("oci") if !as_archive => Some(Output::OciDirectory(directory()?)),
            Some("oci") => Some(Output::OciArchive(target()?)),
            Some("docker") if path.is_none() && std::io::stdout().is_terminal() => None,
            Some("docker") => Some(Output::DockerArchive(target()?)),
            Some("tar") => Some(Output::FilesArchive(target()?)),
            Some("local") => Some(Output::Files(directory()?)),
            Some("image") => None,
            Some("registry") => {
                push = true;
                None
            }
            Some(other) => {
                return Err(bad(format!(
                    "unknown type {other:?}: oci, docker, local, tar, image or registry"
                )));
            }
            None => return Err(bad("type is missing".to_owned())),
        };
        Ok(Self { output, names, push, form })
    }
}

/// Fields of a CSV line: commas inside of quotes do not separate.
pub(super) fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    for character in line.chars() {
        match (character, fields.last_mut()) {
            ('"', _) => is_quoted = !is_quoted,
            (',', _) if !is_quoted => fields.push(String::new()),
            (other, Some(last)) => last.push(other),
            (_, None) => {}
        }
    }
    fields
}

fn to_stdout(argument: &str) -> Result<OutputTarget, Failure> {
    if std::io::stdout().is_terminal() {
        let text = format!("-o {argument:?}: refusing to write an archive to a terminal");
        return Err(Failure::usage(text));
    }
    Ok(OutputTarget::Stdout)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: OutputFlags,
    }

    fn read(line: &str) -> Result<Outputs, String> {
        let words = std::iter::once("build").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.flags.read().map_err(|failure| failure.text())
    }

    fn file(path: &str) -> OutputTarget {
        OutputTarget::File(path.into())
    }

    #[test]
    fn outputs_repeat_and_mix() {
        let outputs = read(
            "-t a/b:1 -t c --push -o type=oci,dest=o.tar -o out -o type=oci,tar=false,dest=d \
             -o type=docker,dest=d.tar -o type=tar,dest=t.tar",
        );
        let outputs = outputs.expect("flags");
        assert_eq!(
            outputs.files,
            [
                Output::OciArchive(file("o.tar")),
                Output::Files("out".into()),
                Output::OciDirectory("d".into()),
                Output::DockerArchive(file("d.tar")),
                Output::FilesArchive(file("t.tar")),
            ]
        );
        assert!(outputs.push && !outputs.keep);
        assert_eq!(outputs.names.len(), 2);
    }

    #[test]
    fn without_an_output_the_image_is_kept_here() {
        assert!(read("-t a").expect("flags").keep);
        assert!(!read("-t a -o out").expect("flags").keep);
        assert!(read("-t a -o out --load").expect("flags").keep);
        assert!(read("-o type=image,name=a,push=false").expect("flags").keep);
        let pushed = read("-o type=registry,name=a:1").expect("flags");
        assert!(pushed.push && !pushed.keep);
    }

    #[test]
    fn the_form_of_the_image_is_one() {
        let form = read("-o type=oci,dest=a,compression=zstd,compression-level=9").expect("flags");
        assert_eq!(form.form.compression, Some(Compression::Zstd(9)));
        let docker = read("-o type=docker,dest=a,oci-mediatypes=false").expect("flags").form;
        assert_eq!(docker.family, Some(Family::Docker));
        let differ = "-o type=oci,dest=a,compression=zstd -o type=oci,dest=b,compression=gzip";
        assert!(read(differ).expect_err("two images").contains("another image"));
        assert!(read("-o type=oci,dest=a,rewrite-timestamp=true").is_ok());
    }

    #[test]
    fn mistakes_name_the_argument() {
        for (line, text) in [
            ("--push", "--push needs a name"),
            ("-o type=what,dest=a", "unknown type \"what\""),
            ("-o dest=a", "type is missing"),
            ("-o type=local", "dest is missing"),
            ("-o type=oci,dest=a,x=y", "unexpected key \"x\""),
            ("-o type=oci,dest=a,tar=maybe", "tar is true or false"),
            ("-o type=oci,dest=a,compression=xz", "gzip, zstd or uncompressed"),
            ("--annotation what:a=b", "unknown annotation type \"what\""),
            ("--platform nonsense", "invalid platform"),
        ] {
            let error = read(line).expect_err(line);
            assert!(error.contains(text), "{line}: {error}");
        }
    }

    #[test]
    fn platforms_are_named_once() {
        let names = |line| -> Vec<String> {
            read(line).expect("flags").platforms.iter().map(ToString::to_string).collect()
        };
        assert_eq!(names("--platform linux/arm64,linux/amd64"), ["linux/arm64", "linux/amd64"]);
        assert_eq!(names("--platform linux/arm64,linux/arm64/v8"), ["linux/arm64"]);
        assert_eq!(names(""), [Platform::host().to_string()]);
    }
}
