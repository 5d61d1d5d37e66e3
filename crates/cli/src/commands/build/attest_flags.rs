//! Statements about the image: `--provenance`, `--sbom` and `--attest` as docker buildx has them.

use clap::{Args, ValueEnum};
use image_builder::{AttestationForm, Attestations, ProvenanceMode};

use super::output_flags::fields;
use crate::exit::Failure;

/// Flags about attestations.
#[derive(Args, Debug)]
pub(crate) struct AttestFlags {
    /// Attach a SLSA provenance: true, false, mode=min or mode=max [default: false]
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    provenance: Option<String>,
    /// Attach an SPDX list of the packages: true or false [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    sbom: Option<String>,
    /// Attach type=provenance[,mode=min|max] or type=sbom; may repeat
    #[arg(long = "attest", value_name = "SPEC")]
    attests: Vec<String>,
    /// How attestations are attached: as referrers of the image, or in an index around it as
    /// BuildKit does
    #[arg(long, default_value = "referrers", value_name = "FORM")]
    attest_form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Referrers,
    Index,
}

impl AttestFlags {
    /// The flags as values; the short flags are stronger.
    pub(super) fn read(&self) -> Result<Attestations, Failure> {
        let form = match self.attest_form {
            Form::Referrers => AttestationForm::Referrers,
            Form::Index => AttestationForm::Index,
        };
        let mut wanted = Attestations { form, ..Attestations::default() };
        for text in &self.attests {
            let flag = format!("--attest {text:?}");
            add(&mut wanted, &flag, None, text)?;
        }
        for (kind, text) in [("provenance", &self.provenance), ("sbom", &self.sbom)] {
            if let Some(text) = text {
                add(&mut wanted, &format!("--{kind} {text:?}"), Some(kind), text)?;
            }
        }
        Ok(wanted)
    }
}

fn add(
    wanted: &mut Attestations,
    flag: &str,
    kind: Option<&str>,
    text: &str,
) -> Result<(), Failure> {
    let bad = |reason: String| Failure::usage(format!("{flag}: {reason}"));
    let (mut kind, mut mode, mut is_on) = (kind.map(str::to_owned), ProvenanceMode::Min, true);
    for field in fields(text) {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        match (key, value) {
            ("true", "") => is_on = true,
            ("false", "") => is_on = false,
            ("type", value) => kind = Some(value.to_owned()),
            ("mode", "min") => mode = ProvenanceMode::Min,
            ("mode", "max") => mode = ProvenanceMode::Max,
            ("mode", other) => return Err(bad(format!("mode {other:?}: min or max"))),
            ("disabled", "true") => is_on = false,
            ("disabled", "false") => is_on = true,
            ("builder-id", id) => wanted.builder_id = id.to_owned(),
            ("version", "v1") => {}
            ("version", other) => {
                return Err(bad(format!("version {other:?}: only v1 is written")));
            }
            ("generator", _) => {
                return Err(bad("a generator image is not run".to_owned())
                    .hint("the packages are read by shipway itself; leave generator out"));
            }
            (key, _) => return Err(bad(format!("unexpected key {key:?}"))),
        }
    }
    match kind.as_deref() {
        Some("provenance") => wanted.provenance = is_on.then_some(mode),
        Some("sbom") => wanted.sbom = is_on,
        Some(other) => return Err(bad(format!("unknown type {other:?}: provenance or sbom"))),
        None => return Err(bad("type is missing".to_owned())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: AttestFlags,
    }

    fn read(line: &str) -> Result<(Option<ProvenanceMode>, bool), String> {
        let words = std::iter::once("build").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let wanted = line.flags.read().map_err(|failure| failure.text())?;
        Ok((wanted.provenance, wanted.sbom))
    }

    #[test]
    fn spellings_of_buildx_mean_what_they_mean_there() {
        let (min, max) = (Some(ProvenanceMode::Min), Some(ProvenanceMode::Max));
        for (line, expected) in [
            ("", (None, false)),
            ("--provenance=true", (min, false)),
            ("--provenance", (min, false)),
            ("--provenance=mode=max --sbom=true", (max, true)),
            ("--attest type=provenance,mode=max --attest type=sbom", (max, true)),
            ("--attest type=provenance,mode=max --provenance=false", (None, false)),
            ("--attest type=provenance,disabled=true", (None, false)),
            ("--attest-form index --sbom", (None, true)),
        ] {
            assert_eq!(read(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn mistakes_name_the_argument() {
        for (line, text) in [
            ("--attest mode=max", "type is missing"),
            ("--attest type=what", "unknown type \"what\""),
            ("--provenance=mode=mid", "min or max"),
            ("--sbom=generator=x", "a generator image is not run"),
        ] {
            let error = read(line).expect_err(line);
            assert!(error.contains(text), "{line}: {error}");
        }
    }
}
